"""Edges of the digital lines of a raw stream, read in one pass.

A digital word is one int16 column of the raw file; its bits are the lines. SpikeGLX's imec streams carry
the sync wave as bit 6 of the SY word (SpikeGLX metadata guide, "SY"); NIDQ streams carry one word for each
16 digital inputs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from powerpixels.documents import Stream
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

SYNC_LINE = "sync"
CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Edges:
    """All changes of the digital lines of one stream.

    stream: name of the stream. sampling_rate_hz: nominal (Hz). n_samples: length of the stream's file.
    first_sample: samples from the start of the acquisition to the file's first one, None if unknown.
    lines: names of the lines that the stream has, with or without edges. sample: (n_edges,) int64, first
    sample with the new level, 0-based in the file, ascending. line: (n_edges,) int16, index into lines.
    polarity: (n_edges,) int8, +1 rising, -1 falling.
    """

    stream: str
    sampling_rate_hz: float
    n_samples: int
    first_sample: int | None
    lines: tuple[str, ...]
    sample: np.ndarray
    line: np.ndarray
    polarity: np.ndarray

    def of(self, line: str) -> tuple[np.ndarray, np.ndarray]:
        """Samples (int64) and polarities (int8) of the edges of one line, ascending in time.

        A line that the stream lacks raises ``KeyError``.
        """
        if line not in self.lines:
            raise KeyError(line)
        mine = self.line == self.lines.index(line)
        return self.sample[mine], self.polarity[mine]

    def save(self, path: Path) -> None:
        """Write the edges as a compressed npz of plain arrays (first_sample -1 stands for unknown)."""
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
            )


def open_raw(stream: Stream, raw_dir: Path) -> Path:
    """Path of the stream's data file, after a check that it is there and as long as the document says.

    Raises ``DataError`` where it is missing or shorter than n_samples samples of n_columns int16.
    """
    path = stream.data_file(raw_dir)
    expected = stream.n_samples * stream.n_columns * 2
    if not path.is_file():
        raise DataError(
            f"{path}: the data file of stream {stream.name} is missing; put it back and run again"
        )
    found = path.stat().st_size
    if found < expected:
        raise DataError(
            f"{path}: expected {expected} bytes ({stream.n_samples} samples of {stream.n_columns} int16"
            f" columns), found {found}; the file was cut short after it was inspected: copy it again"
        )
    return path


def read_columns(path: Path, stream: Stream, columns: list[int]):
    """Yield (first sample, (n, len(columns)) int16) for consecutive pieces of the file, CHUNK_BYTES each.

    Memory does not grow with the file. Progress is logged for each tenth of the file.
    """
    rows = max(1, CHUNK_BYTES // (2 * stream.n_columns))
    tenth = 0
    with open(path, "rb") as file:
        for start in range(0, stream.n_samples, rows):
            count = min(rows, stream.n_samples - start)
            piece = np.fromfile(file, dtype="<i2", count=count * stream.n_columns)
            if piece.size < count * stream.n_columns:
                raise DataError(
                    f"{path}: ended at sample {start + piece.size // stream.n_columns} of"
                    f" {stream.n_samples} while it was read; copy the file again"
                )
            yield start, piece.reshape(count, stream.n_columns)[:, columns]
            if (start + count) * 10 // stream.n_samples > tenth:
                tenth = (start + count) * 10 // stream.n_samples
                log.info("%s: %d %% of %d samples read", stream.name, 10 * tenth, stream.n_samples)


def digital_bits(stream: Stream) -> list[tuple[int, int, str]]:
    """(raw column, bit, line name) of every digital line of the stream.

    NIDQ: the document's digital lines by name. Others: all 16 bits of the sync column, the sync bit named
    "sync" and the rest "bit0" to "bit15".
    """
    if stream.kind == "nidq":
        return [(line.raw_column, line.bit, line.name) for line in stream.digital]
    if stream.sync_column is None:
        return []
    names = [SYNC_LINE if bit == stream.sync_bit else f"bit{bit}" for bit in range(16)]
    return [(stream.sync_column, bit, name) for bit, name in enumerate(names)]


def word_edges(words: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bit changes in consecutive digital words.

    words: (n,) uint16. before: the word before the first one, None at the start of the file (whose level
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


def extract_edges(stream: Stream, raw_dir: Path) -> Edges:
    """All rising and falling edges of every digital line of a stream.

    One pass over the file in pieces. A stream without digital lines gives no edges and no lines. Raises
    ``DataError`` where the data file is missing or shorter than the document says.
    """
    path = open_raw(stream, raw_dir)
    table = digital_bits(stream)
    lines = tuple(name for _, _, name in table)
    if len(set(lines)) != len(lines):
        raise DataError(f"stream {stream.name}: two digital lines have one name in {sorted(lines)}")
    if not table:
        log.warning("%s has no digital lines, so no edges", stream.name)
    columns = sorted({column for column, _, _ in table})
    # Line index by (position of the column, bit); -1 for bits that are no line of this stream.
    index = np.full((len(columns), 16), -1, dtype=np.int16)
    for position, (column, bit, _) in enumerate(table):
        index[columns.index(column), bit] = position

    samples, line_ids, polarities = [], [], []
    before: list[np.ndarray | None] = [None] * len(columns)
    for start, piece in read_columns(path, stream, columns) if columns else ():
        found = []
        for c in range(len(columns)):
            # int16 read as uint16: bit 15 is a line, not a sign.
            words = np.ascontiguousarray(piece[:, c]).view(np.uint16)
            where, bit, polarity = word_edges(words, before[c])
            line = index[c, bit]
            known = line >= 0
            found.append((where[known] + start, line[known], polarity[known]))
            before[c] = words[-1]
        where, line, polarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((line, where))
        samples.append(where[order])
        line_ids.append(line[order])
        polarities.append(polarity[order])

    edges = Edges(
        stream=stream.name,
        sampling_rate_hz=stream.sampling_rate_hz,
        n_samples=stream.n_samples,
        first_sample=stream.first_sample,
        lines=lines,
        sample=np.concatenate([np.empty(0, np.int64), *samples]),
        line=np.concatenate([np.empty(0, np.int16), *line_ids]),
        polarity=np.concatenate([np.empty(0, np.int8), *polarities]),
    )
    counts = np.bincount(edges.line, minlength=len(lines))
    active = ", ".join(f"{name} {count}" for name, count in zip(lines, counts, strict=True) if count)
    log.info("%s: edges on %s", stream.name, active or "no line")
    return edges
