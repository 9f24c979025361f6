"""What the files of an Open Ephys stream hold: how many samples, with which numbers, and where they jump.

Only sizes and a few thousand of the sample numbers of a file are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from powerpixels.documents import Piece, RawFile
from powerpixels.openephys_headers import OEBIN, Source, read_sync_messages
from powerpixels.rawdata import BYTES_PER_SAMPLE, open_rows
from powerpixels.stage import DataError

# Rows of the sample numbers that are looked at in any case, evenly spread over a file.
N_MARKS = 1025

# A stream with more gaps than this is not a recording that can be sorted.
MAX_GAPS = 1000

# Samples of the acquisition before may be left in the buffers when one starts
# (https://github.com/open-ephys/plugin-GUI/issues/623), and a data file may end with padding
# (https://github.com/open-ephys/plugin-GUI/issues/349): both far shorter than this.
MAX_STRAY_SECONDS = 1.0


@dataclass(frozen=True)
class Problem:
    """Something wrong with a stream; severity None: it cannot be used."""

    code: str
    message: str
    severity: str | None = None


@dataclass
class Segment:
    """What the files of a stream hold in one recording.

    files: data file, its index and the sample numbers. n_rows: of the data file. empty: nothing was recorded.
    """

    source: Source
    files: list[RawFile] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    n_rows: int = 0
    empty: bool = False

    @property
    def n_samples(self) -> int:
        """Samples in all pieces."""
        return sum(piece.n_samples for piece in self.pieces)

    @property
    def extent(self) -> list[tuple]:
        """Equal for two copies of the same samples."""
        return [(self.n_rows, p.first_row, p.n_samples, p.first_sample) for p in self.pieces]

    def problem(self, code: str, message: str, severity: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(code, message, severity))


def open_npy(path: Path) -> tuple[np.ndarray, bool]:
    """All values of a one-dimensional .npy file as a memory map, and whether its header has their number.

    Open Ephys writes the number into the header from time to time and at the end: a crash leaves it short.
    Raises ``ValueError`` where the file is not a .npy file.
    """
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of .npy than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    n = (path.stat().st_size - offset) // dtype.itemsize
    if n == 0:
        return np.empty(0, dtype), shape[:1] == (0,)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=(n,)), shape == (n,)


def stretches(numbers: np.ndarray) -> list[tuple[int, int, int]]:
    """Stretches of numbers that go up by one: (first row, rows, first number) of each.

    numbers: integers (n,), n above 0. N_MARKS evenly spread rows are looked at, and between two of them
    whose numbers are not as far apart as they are, by halving, those around each jump: a jump is
    missed only if another one takes it back before the next mark.
    Raises ``ValueError`` at more than MAX_GAPS jumps.
    """
    n = len(numbers)
    marks = np.unique(np.linspace(0, n - 1, min(n, N_MARKS)).astype(np.int64))
    values = np.asarray(numbers[marks], dtype=np.int64)
    starts = [(0, int(values[0]))]
    broken = np.flatnonzero(np.diff(values) != np.diff(marks))
    stack = [(int(marks[k]), int(marks[k + 1]), int(values[k]), int(values[k + 1])) for k in broken[::-1]]
    while stack:
        low, high, value_low, value_high = stack.pop()
        if high - low == 1:
            starts.append((high, value_high))
            if len(starts) > MAX_GAPS + 1:
                raise ValueError(f"more than {MAX_GAPS} jumps")
            continue
        middle = (low + high) // 2
        value = int(numbers[middle])
        if value_high - value != high - middle:
            stack.append((middle, high, value, value_high))
        if value - value_low != middle - low:
            stack.append((low, middle, value_low, value))
    ends = [row for row, _ in starts[1:]] + [n]
    return [(row, end - row, first) for (row, first), end in zip(starts, ends, strict=True)]


def measure(source: Source) -> Segment:
    """What the files of a stream hold in one recording; what is wrong becomes problems of the segment."""
    segment = Segment(source)
    numbers, numbers_name, finished = _sample_numbers(segment)
    data = _open_data(segment, nothing_numbered=finished and numbers is not None and len(numbers) == 0)
    if data is None or any(problem.severity is None for problem in segment.problems):
        return segment
    rows, rest = data
    segment.n_rows = rows
    path, row_bytes = segment.files[0].path, BYTES_PER_SAMPLE * int(source.entry["num_channels"])
    n = rows if numbers is None else len(numbers)
    if rest and finished and rows >= n:
        segment.problem(
            "PARTIAL_SAMPLE",
            f"{path}: a multiple of {row_bytes} bytes was expected (2 bytes for each of "
            f"{source.entry['num_channels']} channels), found {rest} more. Copy it again from the "
            f"acquisition PC; check that {OEBIN} belongs to it.",
        )
    if numbers is None or n == 0:
        first, _ = read_sync_messages(source)
        segment.problem(
            "SAMPLE_NUMBERS_MISSING",
            f"{numbers_name}: the number of each sample was expected, there are none. The samples are taken "
            "as without gaps, from "
            + ("an unknown number on." if first is None else f"number {first} on (sync_messages.txt)."),
            "warns",
        )
        segment.pieces = [Piece(path=path, first_row=0, n_samples=rows, first_sample=first)]
        return segment
    if not finished:
        segment.problem(
            "META_UNFINISHED",
            f"{numbers_name}: its header says otherwise than its size ({n} sample numbers): Open Ephys did "
            f"not close the files. The {min(n, rows)} samples that have a number are used.",
            "warns",
        )
    elif rows < n:
        segment.problem(
            "TRUNCATED",
            f"{path}: {n} samples were expected ({numbers_name}), found {rows}: the end is missing. Copy it "
            "again from the acquisition PC.",
        )
    elif rows > n and int(numbers[-1]) - int(numbers[0]) + 1 == rows:
        segment.problem(
            "PADDED_SAMPLES",
            f"{path}: {rows - n} of its samples have no number in {numbers_name}, where the numbers leave "
            "them out: the acquisition lost them and wrote zeros in their place. Spike times keep; no "
            "spikes are there.",
            "warns",
        )
        segment.pieces = [Piece(path=path, first_row=0, n_samples=rows, first_sample=int(numbers[0]))]
        return segment
    elif rows > n:
        stray = rows - n <= MAX_STRAY_SECONDS * source.rate
        segment.problem(
            "SIZE_MISMATCH",
            f"{path}: {n} samples were expected ({numbers_name}), found {rows}. "
            + (
                f"The last {rows - n}, which have no number, are left out."
                if stray
                else "They are not of one recording. Copy all again from the acquisition PC."
            ),
            "warns" if stray else None,
        )
    segment.pieces = _pieces(segment, numbers[: min(n, rows)], numbers_name)
    return segment


def _sample_numbers(segment: Segment) -> tuple[np.ndarray | None, str, bool]:
    """Numbers of the samples (None: there are none), how messages call their file, if it was finished.

    The file becomes one of the segment's: copies of the data cannot be understood without.
    """
    source = segment.source
    name = source.recording.name("continuous", source.folder, "sample_numbers.npy")
    # From 0.6 on timestamps.npy has seconds, of no use here; before, it had the sample numbers.
    for candidate in ("sample_numbers.npy", "timestamps.npy"):
        path = source.recording.path / "continuous" / source.folder / candidate
        if not path.is_file():
            continue
        own_name = source.recording.name("continuous", source.folder, candidate)
        try:
            values, finished = open_npy(path)
        except (ValueError, EOFError) as error:
            segment.problem(
                "META_UNREADABLE",
                f"{own_name}: sample numbers in a .npy file were expected, found otherwise ({error}). Copy "
                "it again from the acquisition PC.",
            )
            return None, own_name, False
        if values.dtype.kind in "iu":
            segment.files.append(_raw_file(path, own_name, "meta"))
            return values, own_name, finished
    return None, name, True


def _open_data(segment: Segment, nothing_numbered: bool) -> tuple[int, int] | None:
    """Rows of the data file and bytes beyond the last one; None where it cannot be used.

    The file goes first among the segment's files.
    """
    source = segment.source
    folder = source.recording.path / "continuous" / source.folder
    name = source.recording.name("continuous", source.folder)
    present = [
        path for suffix in (".dat", ".cbin", ".zarr") if (path := folder / f"continuous{suffix}").exists()
    ]
    if not present:
        segment.problem(
            "BIN_MISSING",
            f"{name}/continuous.dat: the data file was expected, as {source.recording.name(OEBIN)} lists it, "
            "there is none. Copy it from the acquisition PC.",
        )
        return None
    path = present[0]
    if len(present) > 1:
        segment.problem(
            "DUPLICATE_DATA",
            f"{name}: one data file was expected, found {', '.join(p.name for p in present)}; {path.name} is "
            "used.",
            "warns",
        )
    data = _raw_file(path, f"{name}/{path.name}", "data")
    row = BYTES_PER_SAMPLE * int(source.entry["num_channels"])
    if data.size_bytes == 0:
        segment.empty = nothing_numbered
        segment.problem(
            "EMPTY_FILE",
            f"{data.path}: samples were expected, it is empty. "
            + (
                "Nothing was recorded; take the recording out of the raw folder."
                if nothing_numbered
                else "Copy it again from the acquisition PC."
            ),
        )
        return None
    files, index = [data], None
    if path.suffix == ".cbin":
        index = path.with_suffix(".ch")
        if not index.is_file():
            segment.problem(
                "INDEX_MISSING",
                f"{data.path}: its index {index.name} was expected beside it, there is none. Copy it from "
                "where the file was compressed.",
            )
            return None
        files.append(_raw_file(index, f"{name}/{index.name}", "index"))
    segment.files = files + segment.files
    if path.suffix == ".dat":
        return divmod(data.size_bytes, row)
    try:
        return open_rows(path, index, int(source.entry["num_channels"])).n_rows, 0
    except DataError as error:
        segment.problem("DATA_UNREADABLE", str(error).replace(str(folder), name))
        return None


def _raw_file(path: Path, name: str, role: str) -> RawFile:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return RawFile(path=name, role=role, size_bytes=size)


def _pieces(segment: Segment, numbers: np.ndarray, name: str) -> list[Piece]:
    """Pieces of the data file by its samples' numbers; numbers that go back become a problem."""
    path = segment.files[0].path
    try:
        found = stretches(numbers)
    except ValueError as error:
        segment.problem(
            "TIMESTAMPS_BROKEN",
            f"{name}: numbers that go up by one were expected, found {error}: the acquisition lost data "
            "throughout, or this is no file of sample numbers. The recording cannot be used.",
        )
        return [Piece(path=path, first_row=0, n_samples=len(numbers), first_sample=int(numbers[0]))]
    back = [k for k in range(1, len(found)) if found[k][2] < found[k - 1][2] + found[k - 1][1]]
    if back:
        row, _, first = found[back[0]]
        where = f"{name}: at row {row} the numbers go from {int(numbers[row - 1])} back to {first}"
        if len(back) == 1 and row <= MAX_STRAY_SECONDS * segment.source.rate:
            segment.problem(
                "STALE_SAMPLES",
                f"{where}: the samples before were left in the buffers by an earlier acquisition. They are "
                "left out.",
                "warns",
            )
            found = found[back[0] :]
        else:
            segment.problem(
                "TIMESTAMPS_BACK",
                f"{where}, where numbers that go up were expected: the order of the samples in time is not "
                "known. Copy the recording again; if that is how it was recorded it cannot be used.",
            )
    return [Piece(path=path, first_row=row, n_samples=n, first_sample=first) for row, n, first in found]


def sequence_problems(segments: list[Segment]) -> list[Problem]:
    """What is wrong between the pieces of one stream: gaps, recordings that go back or have no numbers."""
    problems: list[Problem] = []
    gaps: list[tuple[int, str]] = []
    rate = segments[0].source.rate
    last: tuple[Segment, Piece] | None = None
    for segment in segments:
        codes = {problem.code for problem in segment.problems}
        for piece in segment.pieces:
            if last is None or codes & {"TIMESTAMPS_BACK", "TIMESTAMPS_BROKEN"}:
                last = (segment, piece)
                continue
            before, last = last, (segment, piece)
            if piece.first_sample is None or before[1].first_sample is None:
                problems.append(
                    Problem(
                        "ORDER_UNKNOWN",
                        f"{before[1].path}, {piece.path}: sample numbers of both were expected, one has "
                        "none: how far apart they are is not known. Restore sample_numbers.npy, or take one "
                        "folder out.",
                    )
                )
                continue
            end = before[1].first_sample + before[1].n_samples
            gap = piece.first_sample - end
            if gap < 0:
                problems.append(
                    Problem(
                        "TIMESTAMPS_BACK",
                        f"{piece.path}: samples after number {end - 1}, the last of {before[1].path}, were "
                        f"expected, its first is {piece.first_sample}: one is a copy of the other, or they "
                        "are not of one acquisition. Take one folder out, or give each a samplesheet row of "
                        "its own.",
                    )
                )
            elif gap > 0:
                where = f"in {piece.path} at row {piece.first_row}"
                if before[0] is not segment:
                    where = f"between {before[1].path} and {piece.path}"
                gaps.append((gap, f"{where}: {gap} samples ({gap / rate:.6g} s)"))
    if gaps:
        total = sum(gap for gap, _ in gaps)
        shortest_shown = sorted(gap for gap, _ in gaps)[-3:][0]
        longest = [text for gap, text in gaps if gap >= shortest_shown][:3]
        problems.append(
            Problem(
                "GAP",
                f"samples without a gap were expected, found {len(gaps)} gap{'s' * (len(gaps) > 1)} of "
                f"{total} samples ({total / rate:.6g} s) in all{', the longest' * (len(gaps) > 3)}: "
                f"{'; '.join(longest)}. Spike times keep; nothing was recorded there.",
                "warns",
            )
        )
    return problems


def difference_problems(segments: list[Segment]) -> list[Problem]:
    """A problem for each recording whose channels, gains or sampling rate are not those of the first."""

    def identity(source: Source) -> tuple:
        channels = [(c["channel_name"], float(c["bit_volts"])) for c in source.entry["channels"]]
        return source.rate, channels, source.electrodes()

    first = segments[0].source
    return [
        Problem(
            "SEGMENTS_DIFFER",
            f"{segment.source.recording.name(OEBIN)}: {first.folder} with the channels, gains and sampling "
            f"rate of {first.recording.name(OEBIN)} was expected, they differ. Give each recording a "
            "samplesheet row of its own.",
        )
        for segment in segments[1:]
        if identity(segment.source) != identity(first)
    ]
