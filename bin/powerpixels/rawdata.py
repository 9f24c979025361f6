"""Access to the samples of a raw stream, however its files are named, split or compressed.

A stream is read as one array of rows (samples) by columns, its pieces one after the other: a file that
was compressed is decompressed in memory, a chunk at a time.
"""

from __future__ import annotations

import logging
import re
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from powerpixels.documents import Stream
from powerpixels.stage import DataError, read_json

log = logging.getLogger("powerpixels")

BYTES_PER_SAMPLE = 2
CHUNK_BYTES = 32 * 2**20
UUID = re.compile(r"\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)
CACHE_BYTES = 96 * 2**20  # four 1 s chunks of a probe's AP stream


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

    path: Path
    n_rows: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, (stop - start, n_columns) int16."""
        ...


class PlainFile:
    """Little-endian int16, sample-major, nothing else in the file (SpikeGLX .bin, Open Ephys .dat)."""

    def __init__(self, path: Path, n_columns: int) -> None:
        """Take the number of whole rows from the file's size."""
        self.path = Path(path)
        self.n_columns = n_columns
        self.n_rows = self.path.stat().st_size // (BYTES_PER_SAMPLE * n_columns)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop; fewer where the file ends before."""
        with open(self.path, "rb") as file:
            file.seek(start * self.n_columns * BYTES_PER_SAMPLE)
            values = np.fromfile(file, dtype="<i2", count=(stop - start) * self.n_columns)
        return values[: values.size // self.n_columns * self.n_columns].reshape(-1, self.n_columns)


class ChunkedFile(ABC):
    """A compressed file: chunks of consecutive rows, each decompressed as a whole.

    Only the chunks that hold wanted rows are decompressed. The last ones, up to CACHE_BYTES and at least one,
    are kept, so that a file read from front to back is decompressed once. Threads may read at the same time.

    bounds: first row of each chunk, and at the end the number of rows.
    """

    def __init__(self, path: Path, n_columns: int, bounds: Sequence[int]) -> None:
        """Keep nothing yet."""
        self.path = path
        self.n_columns = n_columns
        self.bounds = list(bounds)
        self.n_rows = self.bounds[-1]
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    @abstractmethod
    def decompress(self, k: int) -> np.ndarray:
        """Chunk k, (n rows, n_columns) int16; raises ``DataError`` where its bytes are damaged."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop; fewer where the file ends before."""
        first, stop = start, min(stop, self.n_rows)
        rows = np.empty((max(stop - start, 0), self.n_columns), dtype=np.int16)
        k = bisect_right(self.bounds, start) - 1
        while start < stop:
            lo, hi = self.bounds[k], self.bounds[k + 1]
            end = min(stop, hi)
            rows[start - first : end - first] = self._chunk(k)[start - lo : end - lo]
            start, k = end, k + 1
        return rows

    def _chunk(self, k: int) -> np.ndarray:
        """Chunk k, from memory where it is still there."""
        with self._lock:
            if k in self._kept:
                self._kept.move_to_end(k)
                return self._kept[k]
        chunk = self.decompress(k)
        with self._lock:
            self._kept[k] = chunk
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        return chunk

    def _damaged(self, k: int, what: str) -> DataError:
        return DataError(
            f"{self.path}: expected rows {self.bounds[k]} to {self.bounds[k + 1]} in its chunk {k}, found "
            f"{what}; the file is damaged: copy it again from where it was compressed"
        )


class CbinFile(ChunkedFile):
    """A file that mtscomp compressed (.cbin): zlib streams one after the other; its .ch file tells where.

    The format is that of mtscomp 1.0 (https://github.com/int-brain-lab/mtscomp): a chunk is the difference of
    consecutive rows (``do_time_diff``) and/or columns (``do_spatial_diff``), the first ones as they are, in
    int16 that wraps around, laid out by columns (``chunk_order`` F) or rows (C).
    """

    def __init__(self, path: Path, index: Path, n_columns: int) -> None:
        """Read the index; ``DataError`` where it and the file don't fit."""
        header = _read_index(path, index, n_columns)
        super().__init__(path, n_columns, header["chunk_bounds"])
        self.offsets = header["chunk_offsets"]
        self._order = header["chunk_order"]
        self._time_diff = header["do_time_diff"]
        self._spatial_diff = header["do_spatial_diff"]

    def decompress(self, k: int) -> np.ndarray:
        """Chunk k, (n rows, n_columns) int16."""
        from zlib_ng import zlib_ng

        first, end = self.offsets[k], self.offsets[k + 1]
        with open(self.path, "rb") as file:
            file.seek(first)
            compressed = file.read(end - first)
        shape = (self.bounds[k + 1] - self.bounds[k], self.n_columns)
        size = shape[0] * shape[1] * BYTES_PER_SAMPLE
        try:
            values = zlib_ng.decompress(compressed, bufsize=size)
        except (zlib.error, zlib_ng.error) as error:
            raise self._damaged(k, str(error)) from None
        if len(values) != size:
            raise self._damaged(k, f"{len(values)} bytes where {size} belong")
        chunk = np.frombuffer(values, dtype="<i2").reshape(shape, order=self._order)
        if self._spatial_diff:
            chunk = np.cumsum(chunk, axis=1, dtype=np.int16)
        if self._time_diff:
            # Along the memory where the chunk is laid out by columns.
            chunk = np.cumsum(chunk.T, axis=1, dtype=np.int16).T
        return np.ascontiguousarray(chunk)


def _read_index(path: Path, index: Path, n_columns: int) -> dict:
    """The .ch file of a .cbin, checked against what both files must agree on."""
    index = Path(index)
    if not index.exists():
        raise DataError(
            f"{index}: the index of {path.name} is missing, without which it can't be decompressed; copy it "
            "from where the recording was compressed"
        )
    header = read_json(index)
    again = "copy it again from where the recording was compressed"

    def wrong(what: str, expected: object, found: object, do: str = again) -> DataError:
        return DataError(f"{index} (index of {path.name}): expected {what} {expected}, found {found}; {do}")

    if not isinstance(header, dict):
        raise wrong("a JSON object, a", type(header).__name__, "no index of mtscomp")
    for key in ("chunk_bounds", "chunk_offsets", "chunk_order", "n_channels", "dtype", "algorithm"):
        if key not in header:
            raise wrong("the key", key, "none")
    header = {"do_time_diff": True, "do_spatial_diff": False, **header}
    if header["algorithm"] != "zlib" or header["dtype"] not in ("int16", "<i2"):
        raise wrong(
            "int16 compressed with",
            "zlib",
            f"{header['dtype']} with {header['algorithm']}",
            "decompress it with the program that wrote it",
        )
    if header["chunk_order"] not in ("C", "F"):
        raise wrong("chunk_order", "C or F", header["chunk_order"])
    if header["n_channels"] != n_columns:
        raise wrong(
            "n_channels",
            f"{n_columns}, as the recording's metadata say",
            header["n_channels"],
            "the data, index and metadata are not of the same recording: put the right ones together",
        )
    bounds, offsets = header["chunk_bounds"], header["chunk_offsets"]
    for key, values in (("chunk_bounds", bounds), ("chunk_offsets", offsets)):
        sound = isinstance(values, list) and all(isinstance(value, int) for value in values)
        if not sound or len(values) < 2 or values[0] != 0 or any(np.diff(values) <= 0):
            raise wrong(key, "ascending whole numbers from 0", str(values)[:60])
    if len(bounds) != len(offsets):
        raise wrong("as many chunk_offsets as chunk_bounds,", len(bounds), len(offsets))
    size = path.stat().st_size
    if size != offsets[-1]:
        raise DataError(
            f"{path}: expected {offsets[-1]} bytes as {index.name} says, found {size}; the file was cut "
            "short, or the index is another file's: copy both again"
        )
    return header


class ZarrFile(ChunkedFile):
    """A zarr folder (format 2), rows in its array ``traces_seg0`` as SpikeInterface and COMPRESS write."""

    def __init__(self, path: Path, n_columns: int) -> None:
        """Read the array's header; ``DataError`` where it has other columns."""
        import zarr

        try:
            self._array = zarr.open_group(str(path), mode="r")["traces_seg0"]
            shape, dtype = self._array.shape, self._array.dtype
        except (KeyError, ValueError, OSError, zarr.errors.MetadataError) as error:
            raise DataError(
                f"{path}: expected a zarr folder with an array traces_seg0, found otherwise ({error}); copy "
                "the whole folder again"
            ) from None
        if len(shape) != 2 or shape[1] != n_columns or dtype != np.int16:
            raise DataError(
                f"{path}: expected {n_columns} columns of int16 as the recording's metadata say, found shape "
                f"{shape} of {dtype}; data and metadata are not of the same recording: put the right ones "
                "together"
            )
        rows = self._array.chunks[0]
        super().__init__(path, n_columns, [*range(0, shape[0], rows), shape[0]])

    def decompress(self, k: int) -> np.ndarray:
        """Chunk k, (n rows, n_columns) int16."""
        store, path = self._array.chunk_store, self._array.path
        keys = [f"{path}/{k}.{column}" for column in range(self._array.cdata_shape[1])]
        for key in keys:
            # zarr reads zeros where a chunk's file is not there.
            if key not in store:
                raise self._damaged(k, f"no file {key}")
        try:
            values = self._array[self.bounds[k] : self.bounds[k + 1]]
        except Exception as error:  # each codec has exceptions of its own
            raise self._damaged(k, f"{type(error).__name__}: {error}") from None
        return np.ascontiguousarray(values)


def open_rows(path: Path, index: Path | None, n_columns: int) -> RowFile:
    """Open one data file, by its suffix. ``index``: the .ch file of a .cbin, None: the one of the same name.

    A .cbin's number of rows is known from its index, a .zarr's from its header: nothing is decompressed.
    Raises ``DataError`` where the file is missing or is not what its suffix says.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: the data file is missing; put it back and run again")
    if path.suffix == ".cbin":
        return CbinFile(path, path.with_suffix(".ch") if index is None else index, n_columns)
    if path.suffix == ".zarr":
        return ZarrFile(path, n_columns)
    return PlainFile(path, n_columns)


def stem(path: str) -> str:
    """A file's path without its suffix, and without the UUID that IBL's database puts before it."""
    return UUID.sub("", Path(path).with_suffix("").as_posix())


def open_data_file(stream: Stream, places: dict[str, Path], path: str) -> RowFile:
    """Open a data file of a stream by its ``RawFile.path``; places: see ``locate``; errors: ``open_rows``."""
    index = [file.path for file in stream.files if file.role == "index" and stem(file.path) == stem(path)]
    return open_rows(places[path], places[index[0]] if index else None, stream.n_columns)


class StreamReader:
    """The samples of one stream. May be sent to other processes: each opens the files for itself.

    stream: its document. places: path of each of its files, as ``locate`` gives it. Raises ``DataError``
    where a data file is missing or shorter than the stream's pieces say.
    """

    def __init__(self, stream: Stream, places: dict[str, Path]) -> None:
        """Open the files of all pieces."""
        self.stream = stream
        self.places = places
        self._files: dict[str, RowFile] = {}
        self._starts = np.cumsum([0] + [piece.n_samples for piece in stream.pieces])
        for piece in stream.pieces:
            file, expected = self._open(piece.path), piece.first_row + piece.n_samples
            if file.n_rows < expected:
                raise DataError(
                    f"{places[piece.path]}: expected {expected} samples of {stream.n_columns} int16 columns, "
                    f"found {file.n_rows}; the file was cut short after it was inspected: copy it again"
                )

    def __getstate__(self) -> dict:
        """Open files stay behind."""
        return {**self.__dict__, "_files": {}}

    def _open(self, path: str) -> RowFile:
        if path not in self._files:
            self._files[path] = open_data_file(self.stream, self.places, path)
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
                    f"{self.places[piece.path]}: ended at sample {piece.first_row + lo + len(rows)} while it "
                    "was read; copy the file again"
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
