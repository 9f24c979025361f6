"""Access to the samples of a raw stream, however its files are named, split or compressed.

A stream is read as one array of rows (samples) by columns, its pieces one after the other: a file that
was compressed is decompressed in memory, a chunk at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from powerpixels.documents import Stream
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

BYTES_PER_SAMPLE = 2
CHUNK_BYTES = 32 * 2**20


def locate(streams: Sequence[Stream], raw_dir: Path) -> list[dict[str, Path]]:
    """Where the files of each stream lie: for each stream the path of every ``RawFile.path``.

    A file lies either at its own path below ``raw_dir``, or where a task stages it: in
    ``raw_dir/raw<k>/`` under its own name, k counting the files of all streams in order, from 1. Files that
    are in neither place are given at their own path; whether they exist is not checked.
    """
    raw_dir = Path(raw_dir)
    found, k = [], 0
    for stream in streams:
        places = {}
        for file in stream.files:
            k += 1
            own = raw_dir / file.path
            staged = raw_dir / f"raw{k}" / Path(file.path).name
            places[file.path] = staged if staged.exists() and not own.exists() else own
        found.append(places)
    return found


class RowFile(Protocol):
    """A data file: rows of int16 samples, one column for each channel."""

    n_rows: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, (stop - start, n_columns) int16."""
        ...


class PlainFile:
    """Little-endian int16, sample-major, nothing else in the file (SpikeGLX .bin, Open Ephys .dat)."""

    def __init__(self, path: Path, n_columns: int) -> None:
        self.path = Path(path)
        self.n_columns = n_columns
        self.n_rows = self.path.stat().st_size // (BYTES_PER_SAMPLE * n_columns)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop; fewer where the file ends before."""
        with open(self.path, "rb") as file:
            file.seek(start * self.n_columns * BYTES_PER_SAMPLE)
            values = np.fromfile(file, dtype="<i2", count=(stop - start) * self.n_columns)
        return values[: values.size // self.n_columns * self.n_columns].reshape(-1, self.n_columns)


def open_rows(path: Path, index: Path | None, n_columns: int) -> RowFile:
    """Open one data file, by its suffix. ``index``: the .ch file of a .cbin.

    Raises ``DataError`` where the file is missing or is not what its suffix says.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: the data file is missing; put it back and run again")
    return PlainFile(path, n_columns)


class StreamReader:
    """The samples of one stream. May be sent to other processes: each opens the files for itself.

    stream: its document. places: path of each of its files, as ``locate`` gives it. Raises ``DataError``
    where a data file is missing or shorter than the stream's pieces say.
    """

    def __init__(self, stream: Stream, places: dict[str, Path]) -> None:
        self.stream = stream
        self.places = places
        self._files: dict[str, RowFile] = {}
        self._starts = np.cumsum([0] + [piece.n_samples for piece in stream.pieces])
        for piece in stream.pieces:
            file, expected = self._open(piece.path), piece.first_row + piece.n_samples
            if file.n_rows < expected:
                raise DataError(
                    f"{places[piece.path]}: expected {expected} samples of {stream.n_columns} int16 columns, found "
                    f"{file.n_rows}; the file was cut short after it was inspected: copy it again"
                )

    def __getstate__(self) -> dict:
        """Open files stay behind."""
        return {**self.__dict__, "_files": {}}

    def _open(self, path: str) -> RowFile:
        if path not in self._files:
            index = next(
                (
                    self.places[file.path]
                    for file in self.stream.files
                    if file.role == "index" and Path(file.path).with_suffix("") == Path(path).with_suffix("")
                ),
                None,
            )
            self._files[path] = open_rows(self.places[path], index, self.stream.n_columns)
        return self._files[path]

    def read(self, start: int, stop: int, columns: Sequence[int] | None = None) -> np.ndarray:
        """Samples start to stop of the stream, int16 (stop - start, n columns); columns None: all.

        Samples are numbered as in ``Stream``: without the time in gaps. Raises ``DataError`` where a file
        ends before, ``ValueError`` where the range is not one of the stream.
        """
        if not 0 <= start <= stop <= self.stream.n_samples:
            raise ValueError(f"samples {start} to {stop} of a stream of {self.stream.n_samples}")
        wanted = slice(None) if columns is None else list(columns)
        parts = []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for piece, begin in zip(self.stream.pieces[first:], self._starts[first:], strict=False):
            if begin >= stop:
                break
            lo, hi = max(start - begin, 0), min(stop - begin, piece.n_samples)
            rows = self._open(piece.path).read(int(piece.first_row + lo), int(piece.first_row + hi))
            if len(rows) < hi - lo:
                raise DataError(
                    f"{self.places[piece.path]}: ended at sample {piece.first_row + lo + len(rows)} while it was "
                    "read; copy the file again"
                )
            parts.append(rows[:, wanted])
        if len(parts) == 1:
            return parts[0]
        width = self.stream.n_columns if columns is None else len(columns)
        return np.concatenate([np.empty((0, width), dtype=np.int16), *parts])

    def chunks(self, columns: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, (n, columns) int16) for consecutive stretches of at most CHUNK_BYTES.

        Memory does not grow with the stream. Progress is logged for each tenth of it.
        """
        rows = max(1, CHUNK_BYTES // (BYTES_PER_SAMPLE * self.stream.n_columns))
        n_samples, tenth = self.stream.n_samples, 0
        for start in range(0, n_samples, rows):
            stop = min(start + rows, n_samples)
            yield start, self.read(start, stop, columns)
            if stop * 10 // n_samples > tenth:
                tenth = stop * 10 // n_samples
                log.info("%s: %d %% of %d samples read", self.stream.name, 10 * tenth, n_samples)
