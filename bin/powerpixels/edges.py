"""Edges of the digital lines of a raw stream: bits of its words, levels of a column, and TTL events.

A digital word is one int16 column of the raw data; its bits are the lines. SpikeGLX's imec and OneBox
streams carry the sync wave as a bit of the SY word (SpikeGLX metadata guide, "SY"); NIDQ streams carry one
word for each 16 digital inputs. Open Ephys writes the edges themselves, as events: their sample numbers and
their signed line numbers (+3: line 3 rises, -3: it falls). Where the sync wave has a column of its own that
is no word (an analog input), and where the wiring file has an analog input among the digital lines, its level
is the line. A first pass over the column finds its low and its high level; half way between them the line
changes, once it goes on to within 40 % of the levels' distance of the other one (hysteresis).

All edges are counted on the acquisition's clock, from the stream's first sample, time in gaps included. The
level at a stretch's first sample is no edge: neither at the recording's start nor after a gap, during which
it changed at a time that nobody knows. Open Ephys reports that level as events of the first sample: these
are left out too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from powerpixels.documents import Stream
from powerpixels.rawdata import StreamReader, locate
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

SYNC_LINE = "sync"
# The levels of an analog line: what all but this part of its samples lies above or below, so that artifacts,
# but not a wave that is high for a thousandth of the time, stay out of account.
LEVEL_QUANTILE = 1e-4
HYSTERESIS = 0.1
# A line that spends more of its time than this in the middle half between its levels has none.
MAX_BETWEEN = 0.5
BITS = 16


def _no_gaps() -> np.ndarray:
    return np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Edges:
    """All changes of the digital lines of one stream.

    stream: name of the stream. sampling_rate_hz: nominal (Hz). n_samples: samples from the stream's first to
    its last one, time in gaps included. first_sample: samples from the start of the acquisition to the
    stream's first one, None if unknown. lines: names of the lines that the stream has, with or without edges.
    sample: (n_edges,) int64, first sample with the new level, counted from the stream's first sample on the
    acquisition's clock, ascending. line: (n_edges,) int16, index into lines. polarity: (n_edges,) int8,
    +1 rising, -1 falling. sync: the line that carries the sync wave by the recording's own metadata, None
    where they do not tell. gaps: (n_gaps, 2) int64, the first sample of each gap and the first one after it,
    counted as ``sample``.
    """

    stream: str
    sampling_rate_hz: float
    n_samples: int
    first_sample: int | None
    lines: tuple[str, ...]
    sample: np.ndarray
    line: np.ndarray
    polarity: np.ndarray
    sync: str | None = None
    gaps: np.ndarray = field(default_factory=_no_gaps)

    def of(self, line: str) -> tuple[np.ndarray, np.ndarray]:
        """Samples (int64) and polarities (int8) of the edges of one line, ascending in time.

        A line that the stream lacks raises ``KeyError``.
        """
        if line not in self.lines:
            raise KeyError(line)
        mine = self.line == self.lines.index(line)
        return self.sample[mine], self.polarity[mine]

    def save(self, path: Path) -> None:
        """Write the edges as a compressed npz of plain arrays (first_sample -1, sync "": unknown)."""
        with open(path, "wb") as file:
            np.savez_compressed(
                file,
                stream=np.array(self.stream),
                sampling_rate_hz=np.float64(self.sampling_rate_hz),
                n_samples=np.int64(self.n_samples),
                first_sample=np.int64(-1 if self.first_sample is None else self.first_sample),
                lines=np.array(self.lines, dtype=np.str_),
                sample=self.sample,
                line=self.line,
                polarity=self.polarity,
                sync=np.array(self.sync or ""),
                gaps=self.gaps,
            )

    @classmethod
    def load(cls, path: Path) -> Edges:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as data:
            first_sample = int(data["first_sample"])
            return cls(
                stream=str(data["stream"]),
                sampling_rate_hz=float(data["sampling_rate_hz"]),
                n_samples=int(data["n_samples"]),
                first_sample=None if first_sample < 0 else first_sample,
                lines=tuple(str(name) for name in data["lines"]),
                sample=data["sample"],
                line=data["line"],
                polarity=data["polarity"],
                sync=str(data["sync"]) or None,
                gaps=data["gaps"],
            )


def sync_line(stream: Stream) -> str | None:
    """Name of the line that carries the sync wave by the stream's document, None where it does not tell."""
    if stream.sync_line is not None:
        return stream.sync_line
    if stream.sync_column is None:
        return None
    named = [d.name for d in stream.digital if (d.raw_column, d.bit) == (stream.sync_column, stream.sync_bit)]
    if stream.sync_bit is None:
        named = [line.name for line in stream.analog if line.raw_column == stream.sync_column]
    return named[0] if named else SYNC_LINE


def level_columns(stream: Stream, levels: Collection[str] = ()) -> list[tuple[int, str]]:
    """(raw column, line name) of every line of the stream that is the level of a column.

    The sync wave's, where the stream's document has it in a column that is no word; and the analog inputs of
    the given names.
    """
    columns = {line.raw_column: line.name for line in stream.analog if line.name in levels}
    if stream.sync_bit is None and stream.sync_line is None and stream.sync_column is not None:
        columns[stream.sync_column] = sync_line(stream)
    return sorted(columns.items())


def digital_bits(stream: Stream) -> list[tuple[int, int, str]]:
    """(raw column, bit, line name) of every line of the stream that is a bit of a word.

    The document's digital lines by name, and all other bits of the sync column's word, the sync bit named
    "sync" and the rest "bit0" to "bit15" (NIDQ streams: only the named ones). No sync column where the wave
    came as events (sync_line).
    """
    table = [(line.raw_column, line.bit, line.name) for line in stream.digital]
    if stream.kind == "nidq" or stream.sync_line is not None or stream.sync_bit is None:
        return table
    taken = {(column, bit) for column, bit, _ in table}
    return table + [
        (stream.sync_column, bit, SYNC_LINE if bit == stream.sync_bit else f"bit{bit}")
        for bit in range(16)
        if stream.sync_column is not None and (stream.sync_column, bit) not in taken
    ]


def word_edges(words: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bit changes in consecutive digital words.

    words: (n,) uint16. before: the word before the first one, None at the start of a stretch (whose level
    is no edge). Returns index (int64, into words), bit (int16) and polarity (int8) of every change, ordered
    by index, then bit.
    """
    if before is None:
        previous, current, offset = words[:-1], words[1:], 1
    else:
        previous, current, offset = np.concatenate(([before], words[:-1])), words, 0
    changed = np.flatnonzero(previous != current)
    bits = np.arange(16, dtype=np.uint16)
    toggled = ((previous[changed] ^ current[changed])[:, None] >> bits) & 1
    row, bit = np.nonzero(toggled)
    level = (current[changed][row] >> bit.astype(np.uint16)) & 1
    polarity = np.where(level == 1, 1, -1).astype(np.int8)
    return (changed[row] + offset).astype(np.int64), bit.astype(np.int16), polarity


def extract_edges(stream: Stream, raw_dir: Path, levels: Collection[str] = ()) -> Edges:
    """All rising and falling edges of every digital line of a stream.

    levels: names of analog inputs that are read as digital lines (``Inputs.levels`` of the wiring; names of
    other lines among them mean nothing). One pass over the data (two more where there are levels), a chunk at
    a time; none where all lines are events. A stream without digital lines gives no edges and no lines.
    Raises ``DataError`` where a data file is missing or shorter than the document says, and where files of
    events are broken.
    """
    places = locate([stream], raw_dir)[0]
    reader = StreamReader(stream, places)
    bits = digital_bits(stream)
    columns = level_columns(stream, levels)
    lines = (*(name for *_, name in bits), *(name for _, name in columns), *(t.name for t in stream.ttl))
    if len(set(lines)) != len(lines):
        raise DataError(f"stream {stream.name}: two digital lines have one name in {sorted(lines)}")
    if not lines:
        log.warning("%s has no digital lines, so no edges", stream.name)
    found = []
    if bits:
        found.append(_bit_edges(reader, bits))
    if columns:
        found.append(_level_edges(reader, columns, len(bits)))
    if stream.ttl:
        found.append(_ttl_edges(stream, places, lines))

    empty = np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int8)
    sample, line, polarity = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    order = np.lexsort((line, sample))
    blocks = stream.blocks()
    edges = Edges(
        stream=stream.name,
        sampling_rate_hz=stream.sampling_rate_hz,
        n_samples=stream.n_acquired,
        first_sample=stream.first_sample,
        lines=lines,
        sample=sample[order],
        line=line[order],
        polarity=polarity[order],
        sync=sync_line(stream),
        gaps=np.array(
            [(a.offset + a.n_samples, b.offset) for a, b in zip(blocks, blocks[1:], strict=False)], np.int64
        ).reshape(-1, 2),
    )
    counts = np.bincount(edges.line, minlength=len(lines))
    active = ", ".join(f"{name} {count}" for name, count in zip(lines, counts, strict=True) if count)
    log.info("%s: edges on %s", stream.name, active or "no line")
    return edges


def write_ibl_sync(stream: Stream, edges: Edges, folder: Path, part: str = "") -> list[Path]:
    """Write the edges as ibllib's ``extract_sync`` does; returns the files.

    ``_spikeglx_sync.times[.part].npy`` (s), ``.channels`` and ``.polarities`` (+1, -1), all (n_edges,)
    float64, ascending in time. Seconds are on the stream's own clock: the sample's number, time in gaps
    included, over the nominal rate. Channels are bits counted through the stream's digital words, then its
    analog inputs in order (``spikeglx.Reader.read_sync``); of lines that came as events, their number less 1.
    part: the probe's name, "" for a DAQ stream.
    """
    words = sorted({column for column, _, _ in digital_bits(stream)})
    numbers = {name: BITS * words.index(column) + bit for column, bit, name in digital_bits(stream)}
    analog = [line.raw_column for line in stream.analog]
    # Every stream's name for each of its levels, whether or not it is among the edges.
    for column, name in level_columns(stream, [line.name for line in stream.analog]):
        numbers[name] = BITS * max(1, len(words)) + (analog.index(column) if column in analog else 0)
    numbers |= {ttl.name: ttl.line - 1 for ttl in stream.ttl}
    channel_of = np.array([numbers[name] for name in edges.lines], dtype=np.float64)
    arrays = {
        "times": edges.sample / edges.sampling_rate_hz,
        "channels": channel_of[edges.line] if edges.lines else np.empty(0),
        "polarities": edges.polarity.astype(np.float64),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for attribute, values in arrays.items():
        written.append(folder / f"_spikeglx_sync.{attribute}{f'.{part}' if part else ''}.npy")
        np.save(written[-1], values)
    return written


def _stretches(reader: StreamReader, columns: list[int]):
    """Yield (first sample, its count on the acquisition's clock, follows on, (n, columns) int16).

    Consecutive stretches of the stream within its blocks; "follows on": the sample before was recorded too.
    """
    stream = reader.stream
    starts = np.array([block.start for block in stream.blocks()])
    for first, chunk in reader.chunks(columns):
        inside = starts[(starts > first) & (starts < first + len(chunk))]
        bounds = [first, *inside.tolist(), first + len(chunk)]
        acquired = stream.acquired(np.array(bounds[:-1]))
        for start, stop, count in zip(bounds, bounds[1:], acquired.tolist(), strict=False):
            yield start, count, start not in starts, chunk[start - first : stop - first]


def _bit_edges(
    reader: StreamReader, bits: list[tuple[int, int, str]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples (int64), lines (int16, position in bits) and polarities (int8) of the words' edges."""
    columns = sorted({column for column, _, _ in bits})
    # Line index by (position of the column, bit); -1 for bits that are no line of this stream.
    index = np.full((len(columns), 16), -1, dtype=np.int16)
    for position, (column, bit, _) in enumerate(bits):
        index[columns.index(column), bit] = position
    found = []
    before = np.zeros(len(columns), dtype=np.uint16)
    for _, count, follows, values in _stretches(reader, columns):
        for c in range(len(columns)):
            # int16 read as uint16: bit 15 is a line, not a sign.
            words = np.ascontiguousarray(values[:, c]).view(np.uint16)
            where, bit, polarity = word_edges(words, before[c] if follows else None)
            line = index[c, bit]
            known = line >= 0
            found.append((where[known] + count, line[known], polarity[known]))
            before[c] = words[-1]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _level_edges(
    reader: StreamReader, columns: list[tuple[int, str]], first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_bit_edges``, of columns whose level is the line; their numbers as lines count from first on."""
    numbers = [column for column, _ in columns]
    counts = column_counts(reader, numbers)
    empty = np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int8)
    found, levels = [empty], {}
    for k, (_, name) in enumerate(columns):
        low, high = level_pair(counts[k])
        between = _between(counts[k], low, high)
        if between > MAX_BETWEEN:
            log.warning(
                "%s: line %s has no two levels (%.0f %% of its samples lie between), so no edges",
                reader.stream.name,
                name,
                100 * between,
            )
        elif high > low:
            levels[k] = Level(low, high)
    for _, count, follows, values in _stretches(reader, numbers):
        for k, level in levels.items():
            where, polarity = level.edges(values[:, k], count, follows)
            found.append((where, np.full(len(where), first + k, np.int16), polarity))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def column_counts(reader: StreamReader, columns: list[int]) -> np.ndarray:
    """(n columns, 65536) int64: how many samples of each column have each value, from -32768 on."""
    counts = np.zeros((len(columns), 2**BITS), dtype=np.int64)
    for _, values in reader.chunks(columns):
        for k in range(len(columns)):
            counts[k] += np.bincount(values[:, k].astype(np.int32) + 2 ** (BITS - 1), minlength=2**BITS)
    return counts


def level_pair(counts: np.ndarray, quantile: float = LEVEL_QUANTILE) -> tuple[int, int]:
    """The values that the given part of a column's samples lies below, and above; counts: of its values."""
    total = np.cumsum(counts)
    low = np.searchsorted(total, quantile * total[-1], side="right")
    high = np.searchsorted(total, (1 - quantile) * total[-1], side="left")
    return int(low) - 2 ** (BITS - 1), int(high) - 2 ** (BITS - 1)


def _between(counts: np.ndarray, low: int, high: int) -> float:
    """The part of a column's samples in the middle half between two values."""
    inner = np.array([3 * low + high, low + 3 * high]) / 4 + 2 ** (BITS - 1)
    first, last = int(np.ceil(inner[0])), int(np.floor(inner[1]))
    return float(counts[first : last + 1].sum() / counts.sum()) if high > low else 0.0


class Level:
    """Edges of an analog line, found stretch by stretch.

    low, high: its levels (counts). It has risen once it is above the middle by HYSTERESIS of their distance,
    and its edge is the first sample after the last one that was not above the middle; falling likewise.
    """

    def __init__(self, low: int, high: int) -> None:
        """Begin with an unknown level."""
        self.middle, self.margin = (low + high) / 2, HYSTERESIS * (high - low)
        self._state = 0
        self._crossed = np.zeros(2, dtype=np.int64)

    def edges(self, values: np.ndarray, count: int, follows: bool) -> tuple[np.ndarray, np.ndarray]:
        """Samples (int64) and polarities (int8) of the edges in the next values ((n,) int16).

        count: the number of the first of them; follows: whether it follows the last one of the call before.
        A line that changed where none was recorded has no edge there.
        """
        if not follows:
            self._state = 0
            self._crossed[:] = count
        off = values - self.middle
        number = np.arange(count, count + len(values))
        state = np.where(off > self.margin, 1, np.where(off < -self.margin, -1, 0)).astype(np.int8)
        last = np.maximum.accumulate(np.where(state != 0, np.arange(len(state)), -1))
        state = np.where(last >= 0, state[np.maximum(last, 0)], self._state)
        before = np.concatenate([[self._state], state[:-1]])
        changed = np.flatnonzero((state != before) & (before != 0))
        # The first sample beyond the middle: the one after the last on the side it came from.
        crossed = [
            np.maximum.accumulate(np.where(side, number + 1, self._crossed[k]))
            for k, side in enumerate((off <= 0, off >= 0))
        ]
        polarity = state[changed].astype(np.int8)
        where = np.where(polarity > 0, crossed[0][changed], crossed[1][changed])
        self._state = int(state[-1])
        self._crossed[:] = crossed[0][-1], crossed[1][-1]
        return where.astype(np.int64), polarity


def _ttl_edges(
    stream: Stream, places: dict[str, Path], lines: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_bit_edges``, of the lines whose edges the acquisition program wrote as events."""
    if stream.first_sample is None:
        raise DataError(
            f"stream {stream.name}: its events are numbered from the acquisition's start, but the number of"
            " its own first sample is unknown; restore sample_numbers.npy (timestamps.npy) from the recording"
        )
    index = np.full(1 + max(ttl.line for ttl in stream.ttl), -1, dtype=np.int16)
    for ttl in stream.ttl:
        index[ttl.line] = lines.index(ttl.name)
    # The levels with which each stretch began, which Open Ephys writes as events of its first sample.
    begins = np.array([block.offset for block in stream.blocks()])
    found = []
    numbers, states = ([f.path for f in stream.files if f.role == role] for role in ("samples", "states"))
    for number, state in zip(numbers, states, strict=True):
        sample, signed = _read_events(places[number], places[state])
        sample = sample - stream.first_sample
        unsigned = np.abs(signed)
        line = np.where(unsigned < len(index), index[np.minimum(unsigned, len(index) - 1)], -1)
        inside = (sample >= 0) & (sample < stream.n_acquired)
        kept = (line >= 0) & inside & ~np.isin(sample, begins)
        for left_out, why in ((line < 0, "of unlisted lines"), (~inside, "before or after the data")):
            if left_out.any():
                log.info("%s: %d events %s left out", number, left_out.sum(), why)
        found.append((sample[kept], line[kept].astype(np.int16), np.sign(signed[kept]).astype(np.int8)))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int8)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _read_events(numbers: Path, states: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sample numbers and signed lines (both (n,) int64) of one recording's events.

    Open Ephys states the length in an npy file's header when it closes it: after a crash the header tells of
    fewer events than the file holds, and the two files may hold different numbers. What both hold is taken.
    """
    (sample, stated_samples), (signed, stated_states) = (_read_npy(path) for path in (numbers, states))
    n = min(len(sample), len(signed))
    if stated_samples < len(sample) or stated_states < len(signed):
        log.warning("%s was not closed, as after a crash: the %d events in it are used", numbers, n)
    elif len(sample) != len(signed):
        raise DataError(
            f"{numbers}: {len(sample)} sample numbers of events, but {len(signed)} states in {states};"
            " expected as many; copy both again from the recording"
        )
    return sample[:n], signed[:n]


def _read_npy(path: Path) -> tuple[np.ndarray, int]:
    """The whole numbers (int64) that an npy file of one dimension holds, and how many its header tells of."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            values = np.fromfile(file, dtype=dtype) if dtype.kind in "iu" else None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: expected an npy file of events, found otherwise ({error}); copy it again from the"
            " recording"
        ) from None
    if values is None or len(shape) != 1:
        raise DataError(
            f"{path}: expected a list of whole numbers, found {dtype} of shape {shape}; copy it again from"
            " the recording"
        )
    if len(values) < shape[0]:
        raise DataError(
            f"{path}: expected {shape[0]} events as its header tells, found {len(values)}; the file was cut"
            " short: copy it again from the recording"
        )
    return values.astype(np.int64), shape[0]
