"""Lossless compression of raw streams, read back from disk and compared before it gets its name.

Two formats:

* ``mtscomp``: .cbin and .ch files of mtscomp 1.0 (https://github.com/int-brain-lab/mtscomp), which IBL's and
  SpikeInterface's readers open. The bytes are standard zlib streams made by zlib-ng.
* ``zarr``: a folder in SpikeInterface's layout (``spikeinterface.load``), smaller, with codecs that every
  zarr installation has. ``benchmarks/compress.py`` measures both and all codecs that were considered.

Work is shared out to threads chunk by chunk (the compressors release Python's lock), so memory does not grow
with duration.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from powerpixels.documents import Document, RawFile, Stream, StreamDocument
from powerpixels.rawdata import (
    BYTES_PER_SAMPLE,
    CbinFile,
    ChunkedFile,
    RowFile,
    ZarrFile,
    open_data_file,
    stem,
)
from powerpixels.stage import DataError, TemporaryError

if TYPE_CHECKING:
    from numcodecs.abc import Codec

log = logging.getLogger("powerpixels")

R = TypeVar("R")
Method = Literal["mtscomp", "zarr"]

SUFFIX = {"mtscomp": ".cbin", "zarr": ".zarr"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# zlib-ng's level 6 makes smaller streams than zlib's default, in half the time. Noise has few long
# repetitions, so there is little use in searching far back: with a window of 4 kB smooth data (LF) take a
# third of zlib's time and are still 2 % smaller; AP data need 16 kB to be 3 to 4 % smaller, in the same time.
# The narrow one is taken unless the wide one makes a file smaller by more than WIDE_GAIN.
ZLIB_LEVEL, ZLIB_MEMORY_LEVEL = 6, 9
ZLIB_NARROW_BITS, ZLIB_WIDE_BITS, WIDE_GAIN = 12, 14, 1.015
STRIP_ROWS = 256
PROBED_BYTES = 4 * 2**20
# Bounds of a zarr chunk's size before compression. Each is a file: narrow streams would make thousands
# of small ones an hour, wide ones need several times their size in memory on each thread.
ZARR_CHUNK_BYTES = 4 * 2**20, 32 * 2**20
# How much smaller bzip2 must make a file to be worth that it is 20 times as slow.
BZ2_GAIN = 1.15


class CompressedFile(Document):
    """One data file. raw: its ``RawFile.path``; compressed: path of the copy below the output folder, None
    where the stream was in the wanted format already and no copy was made (sha256_raw is None then too).

    codec: how the bytes were made. bytes_raw, sha256_raw: of the uncompressed samples, which is the raw file.
    ratio: bytes_raw / bytes_compressed.
    """

    raw: str
    compressed: str | None
    codec: str | None
    bytes_raw: int
    bytes_compressed: int
    ratio: float
    sha256_raw: str | None


class CompressDocument(Document):
    """<stream>.compress.json: the compressed copy of one stream."""

    stream: str
    method: Method
    files: list[CompressedFile]


class _Task(NamedTuple):
    """One data file to compress: its rows, and bounds, the first row of each chunk and the end."""

    stream: Stream
    source: RowFile
    bounds: list[int]
    jobs: int

    def chunk(self, k: int) -> np.ndarray:
        """Chunk k of the raw file, (n rows, n_columns) int16; ``DataError`` where the file became shorter."""
        start, stop = self.bounds[k], self.bounds[k + 1]
        rows = self.source.read(start, stop)
        if len(rows) != stop - start:
            raise DataError(
                f"{self.source.path}: expected {self.bounds[-1]} rows, found its end at row "
                f"{start + len(rows)} while it was read; run again once nothing changes the raw data any more"
            )
        return rows

    def first_rows(self) -> np.ndarray:
        """The first PROBED_BYTES of chunk 0, on which the compressors' settings are chosen."""
        return self.chunk(0)[: max(1, PROBED_BYTES // (BYTES_PER_SAMPLE * self.stream.n_columns))]


def compress_stream(
    document: StreamDocument, places: dict[str, Path], out: Path, method: Method, jobs: int, folder: str = ""
) -> CompressDocument:
    """Compress each data file of a stream into ``out`` and copy the small files that readers need there.

    places: path of each of the stream's files (``rawdata.locate``). method: "mtscomp" writes X.cbin and X.ch,
    "zarr" a folder X.zarr, for a raw file X.bin (or .dat). jobs: threads. SpikeGLX files go into
    ``out``/``folder``, Open Ephys files below ``out`` at their own relative paths, so that the copies of a
    session's streams in one ``out`` are a recording that INSPECT reads. A stream in the wanted format already
    is left alone; one in the other format is converted.

    Raises ``DataError`` where a raw file is missing, damaged, no whole number of rows or not of the size
    that it had when it was inspected; ``TemporaryError`` where the disk is full; ``RuntimeError`` where what
    was read back differs from the raw file. In each case no copy of that file has its final name.
    """
    stream, out = document.stream, Path(out)
    out.mkdir(parents=True, exist_ok=True)
    data = [file for file in stream.files if file.role == "data"]
    if all(Path(file.path).suffix == SUFFIX[method] for file in data):
        log.info("%s: is in the format of %s already, nothing to do", stream.name, method)
        files = [_already(stream, file, places) for file in data]
        return CompressDocument(stream=stream.name, method=method, files=files)
    targets = _targets(document, data, folder, SUFFIX[method])
    for file in stream.files:
        if file.role not in ("data", "index"):
            _copy(places[file.path], out / _target(document, file.path, folder))
    files = []
    for file in data:
        headers = _headers(stream, file, places)
        done = compress_file(stream, file, places, out / targets[file.path], method, jobs, headers)
        files.append(done.model_copy(update={"compressed": targets[file.path].as_posix()}))
    return CompressDocument(stream=stream.name, method=method, files=files)


def compress_file(
    stream: Stream,
    file: RawFile,
    places: dict[str, Path],
    target: Path,
    method: Method,
    jobs: int,
    headers: dict[str, str],
) -> CompressedFile:
    """Compress one data file of a stream into ``target`` (.cbin or .zarr), all rows and all columns.

    headers: text of the recording's headers by name, kept in a zarr copy. Errors as ``compress_stream``.
    """
    source = _open(stream, file, places)
    rows = round(stream.sampling_rate_hz)
    if method == "zarr":
        low, high = (size // (BYTES_PER_SAMPLE * stream.n_columns) for size in ZARR_CHUNK_BYTES)
        rows = min(max(rows, low), high, source.n_rows)
    task = _Task(stream, source, [*range(0, source.n_rows, rows), source.n_rows], jobs)
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with _room_for(target, target.with_suffix(".ch")):
        if method == "mtscomp":
            codec, size, sha256 = _write_mtscomp(task, target)
        else:
            codec, size, sha256 = _write_zarr(task, target, Path(file.path).name, headers)
    bytes_raw = source.n_rows * stream.n_columns * BYTES_PER_SAMPLE
    log.info(
        "%s: %.3f GB to %.3f GB (%.2f : 1, %s) and compared, %.0f MB/s",
        file.path,
        bytes_raw / 1e9,
        size / 1e9,
        bytes_raw / size,
        codec,
        bytes_raw / 1e6 / max(time.monotonic() - begun, 1e-9),
    )
    return CompressedFile(
        raw=file.path,
        compressed=target.name,
        codec=codec,
        bytes_raw=bytes_raw,
        bytes_compressed=size,
        ratio=round(bytes_raw / size, 4),
        sha256_raw=sha256,
    )


def document_name(stream: Stream) -> str:
    """File name of a stream's CompressDocument: its own, for the streams of a probe share a folder."""
    return stream.name.replace("/", "_") + ".compress.json"


def _target(document: StreamDocument, path: str, folder: str) -> Path:
    """Where a file's copy lies below the output folder."""
    if document.session.acquisition == "spikeglx":
        return Path(folder, Path(path).name)
    return Path(path)


def _targets(document: StreamDocument, files: list[RawFile], folder: str, suffix: str) -> dict[str, Path]:
    """Where the copy of each data file lies; ``DataError`` where two would have one name."""
    targets = {file.path: _target(document, file.path, folder).with_suffix(suffix) for file in files}
    name, number = Counter(targets.values()).most_common(1)[0] if targets else (None, 1)
    if number > 1:
        same = ", ".join(path for path, target in targets.items() if target == name)
        raise DataError(
            f"{same}: expected data files of different names in one stream, found {name} {number} times; "
            "rename them or leave one out"
        )
    return targets


def _open(stream: Stream, file: RawFile, places: dict[str, Path]) -> RowFile:
    """Open a data file of a stream; ``DataError`` where it is not what was inspected."""
    path = places[file.path]
    source = open_data_file(stream, places, file.path)
    if path.is_file():
        size, row = path.stat().st_size, BYTES_PER_SAMPLE * stream.n_columns
        if size != file.size_bytes:
            raise DataError(
                f"{path}: expected {file.size_bytes} bytes as when it was inspected, found {size}; is it "
                "still being written or copied? Run again once it is complete"
            )
        if path.suffix != ".cbin" and size % row:
            raise DataError(
                f"{path}: expected rows of {stream.n_columns} int16 values ({row} bytes), found {size} "
                f"bytes, {size % row} more than whole rows; the file was cut short or is still being "
                "written: copy it again, or see whether its metadata tell the right number of channels"
            )
    if source.n_rows == 0:
        raise DataError(f"{path}: expected samples, found none; remove the file or copy it again")
    return source


def _already(stream: Stream, file: RawFile, places: dict[str, Path]) -> CompressedFile:
    """Entry of a file in the wanted format already."""
    bytes_raw = _open(stream, file, places).n_rows * stream.n_columns * BYTES_PER_SAMPLE
    return CompressedFile(
        raw=file.path,
        compressed=None,
        codec=None,
        bytes_raw=bytes_raw,
        bytes_compressed=file.size_bytes,
        ratio=round(bytes_raw / file.size_bytes, 4),
        sha256_raw=None,
    )


def _headers(stream: Stream, file: RawFile, places: dict[str, Path]) -> dict[str, str]:
    """Text of the headers that describe a data file, by name.

    A SpikeGLX header has its data file's name; where none has, all text files of the stream are meant.
    """
    texts = [other for other in stream.files if other.role == "meta" and not other.path.endswith(".npy")]
    own = [other for other in texts if stem(other.path) == stem(file.path)]
    found = {}
    for other in own or texts:
        content = places[other.path].read_bytes()
        try:
            found[other.path] = content.decode("utf-8")
        except UnicodeDecodeError:
            found[other.path] = content.decode("latin-1")
    return found


def _ordered(task: _Task, done_to: str, function: Callable[[int], R]) -> Iterator[R]:
    """``function(k)`` for each chunk k on ``jobs`` threads, in order, only a few ahead of their use.

    Progress is logged for each tenth, as "… % <done_to>".
    """
    n_chunks, ahead, tenth = len(task.bounds) - 1, deque(), 0
    pool = ThreadPoolExecutor(task.jobs)
    try:
        for k in range(n_chunks + task.jobs):
            if k < n_chunks:
                ahead.append(pool.submit(function, k))
            if k >= task.jobs:
                yield ahead.popleft().result()
                done = k - task.jobs + 1
                if done * 10 // n_chunks > tenth:
                    tenth = done * 10 // n_chunks
                    log.info("%s: %d %% %s", task.source.path.name, 10 * tenth, done_to)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _room_for(*targets: Path) -> Iterator[None]:
    """Remove what is left of an interrupted copy, before and after; say so where the disk is full."""
    partial, target = [_partial(path) for path in targets], targets[0]
    for path in partial:
        _remove(path)
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise TemporaryError(
            f"{target}: expected room for the copy, found none ({error.strerror}); free space in "
            f"{target.parent} or in your quota there and run again"
        ) from error
    finally:
        for path in partial:
            _remove(path)


def _partial(path: Path) -> Path:
    """Name of an unfinished file."""
    return path.with_name(path.name + ".partial")


def _remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a small file; its name appears when it is whole."""
    if not source.exists():
        raise DataError(f"{source}: the file is missing; put it back and run again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _room_for(target):
        shutil.copyfile(source, _partial(target))
        _partial(target).replace(target)


def _out_of_memory(path: Path) -> None:
    """Have the system write a file to disk and forget its pages, so that it is read from there."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _compare(task: _Task, copy: ChunkedFile) -> None:
    """Raise ``RuntimeError`` unless ``copy`` has the raw file's rows, bit for bit; both are read again."""

    def differs(k: int) -> str | None:
        expected = task.chunk(k)
        try:
            found = copy.decompress(k)
        except DataError as error:
            return str(error)
        if found.shape != expected.shape:
            return f"{found.shape} values in chunk {k}, {expected.shape} in the raw file"
        if not np.array_equal(found, expected):
            return f"other values in rows {task.bounds[k]} to {task.bounds[k + 1]} (chunk {k})"
        return None

    if copy.bounds != task.bounds:
        raise RuntimeError(f"{copy.path}: read back, its chunks begin at other rows than were written")
    for fault in _ordered(task, "compared", differs):
        if fault is not None:
            raise RuntimeError(
                f"the compressed copy of {task.source.path} was read back and differs from it: {fault}. It "
                "was not kept; the raw file is as it was. Run again; where it happens again, have the disk "
                "and the memory of the machine tested"
            )


# ---------------------------------------------------------------------------------------------------------
# mtscomp
# ---------------------------------------------------------------------------------------------------------


def time_differences(rows: np.ndarray) -> np.ndarray:
    """Differences of consecutive rows, (n_columns, n rows) int16 that wraps around; the first row as it is.

    Computed and transposed in strips that fit the processor's cache, in one pass over memory.
    """
    differences = np.empty(rows.shape[::-1], dtype=np.int16)
    differences[:, 0] = rows[0]
    for start in range(1, len(rows), STRIP_ROWS):
        stop = min(start + STRIP_ROWS, len(rows))
        np.subtract(rows[start:stop], rows[start - 1 : stop - 1], out=differences[:, start:stop].T)
    return differences


def deflate(values: np.ndarray, window_bits: int) -> bytes:
    """A C-contiguous array as one zlib stream whose repetitions reach 2 ** window_bits bytes back."""
    from zlib_ng import zlib_ng

    stream = zlib_ng.compressobj(ZLIB_LEVEL, zlib_ng.DEFLATED, window_bits, ZLIB_MEMORY_LEVEL)
    return stream.compress(values) + stream.flush()


def _write_mtscomp(task: _Task, target: Path) -> tuple[str, int, str]:
    """Write and check X.cbin and X.ch; returns (codec, bytes of both, sha256 of the raw samples)."""
    index = target.with_suffix(".ch")
    probed = time_differences(task.first_rows())
    narrow, wide = (len(deflate(probed, bits)) for bits in (ZLIB_NARROW_BITS, ZLIB_WIDE_BITS))
    window_bits = ZLIB_WIDE_BITS if narrow > WIDE_GAIN * wide else ZLIB_NARROW_BITS

    def compressed(k: int) -> tuple[np.ndarray, bytes]:
        rows = task.chunk(k)
        return rows, deflate(time_differences(rows), window_bits)

    sha256, sha1, sha1_compressed = hashlib.sha256(), hashlib.sha1(), hashlib.sha1()
    offsets = [0]
    with open(_partial(target), "wb") as file:
        for rows, stream in _ordered(task, "compressed", compressed):
            file.write(stream)
            offsets.append(offsets[-1] + len(stream))
            sha1_compressed.update(stream)
            sha1.update(rows)
            sha256.update(rows)
    header = {
        "version": "1.0",
        "algorithm": "zlib",
        "comp_level": ZLIB_LEVEL,
        "do_time_diff": True,
        "do_spatial_diff": False,
        "dtype": "int16",
        "n_channels": task.stream.n_columns,
        "sample_rate": task.stream.sampling_rate_hz,
        "chunk_bounds": task.bounds,
        "chunk_offsets": offsets,
        "chunk_order": "F",
        "sha1_compressed": sha1_compressed.hexdigest(),
        "sha1_uncompressed": sha1.hexdigest(),
        "shape": [task.bounds[-1], task.stream.n_columns],
    }
    _partial(index).write_text(json.dumps(header, indent=2, sort_keys=True), encoding="utf-8")

    for path in (target, index):
        _out_of_memory(_partial(path))
    _compare(task, CbinFile(_partial(target), _partial(index), task.stream.n_columns))
    size = offsets[-1] + _partial(index).stat().st_size
    # The index first: without data it is no recording, data without index would be a broken one.
    for path in (index, target):
        _partial(path).replace(path)
    codec = f"delta, zlib-ng {ZLIB_LEVEL}, window {2**window_bits}"
    return codec, size, sha256.hexdigest()


# ---------------------------------------------------------------------------------------------------------
# zarr
# ---------------------------------------------------------------------------------------------------------


def zarr_candidates() -> dict[str, tuple[list, Codec]]:
    """{description: (filters, compressor)} of the codecs for zarr copies: the fast one and the small one.

    The differences of consecutive samples of a channel are small numbers about 0. In int16 their high byte
    is only the sign, yet costs a bit for each sample; 128 is added, so that it is 0 for nearly all, and the
    bytes are sorted by significance: what is left to zstd is the low bytes' Huffman code, its fastest
    level does it. (In int32 on the way, where neither a difference nor the sum can overflow.) Data whose
    counts have holes, as programs that scale them to µV write, have no such low byte: bzip2, which
    sorts by context, makes them much smaller. Both formats have checksums of their own.
    """
    from numcodecs import BZ2, Delta, FixedScaleOffset, Shuffle, Zstd

    offset = FixedScaleOffset(offset=-128, scale=1, dtype="<i4", astype="<i4")
    return {
        "delta, offset, shuffle, zstd 1": (
            [Delta("<i2", "<i4"), offset, Shuffle(4)],
            Zstd(level=1, checksum=True),
        ),
        "delta, bzip2 9": ([Delta("<i2")], BZ2(level=9)),
    }


def zarr_codecs(rows: np.ndarray) -> tuple[str, list, Codec]:
    """(description, filters, compressor) that suit a file that begins with ``rows`` (n, n_columns) int16.

    The fast one of ``zarr_candidates`` unless the small one makes these rows BZ2_GAIN times smaller.
    """
    candidates = zarr_candidates()
    sizes = {}
    for name, (filters, compressor) in candidates.items():
        values = np.asfortranarray(rows)
        for codec in filters:
            values = codec.encode(values)
        sizes[name] = len(compressor.encode(values))
    fast, small = candidates
    name = small if sizes[fast] > BZ2_GAIN * sizes[small] else fast
    return name, *candidates[name]


def _write_zarr(task: _Task, target: Path, name: str, headers: dict[str, str]) -> tuple[str, int, str]:
    """Write and check X.zarr; returns (codec, bytes of all its files, sha256 of the raw samples)."""
    import zarr

    stream, unfinished = task.stream, _partial(target)
    codec, filters, compressor = zarr_codecs(task.first_rows())
    root = zarr.open_group(str(unfinished), mode="w")
    traces = root.create_dataset(
        "traces_seg0",
        shape=(task.bounds[-1], stream.n_columns),
        chunks=(task.bounds[1], stream.n_columns),
        dtype="<i2",
        order="F",
        filters=filters,
        compressor=compressor,
        write_empty_chunks=True,
        fill_value=0,
    )

    def written(k: int) -> np.ndarray:
        rows = task.chunk(k)
        traces[task.bounds[k] : task.bounds[k + 1]] = rows
        return rows

    sha256 = hashlib.sha256()
    for rows in _ordered(task, "compressed", written):
        sha256.update(rows)

    names, gains = _columns(stream)
    root.create_dataset("channel_ids", data=np.array(names), compressor=None)
    properties = root.create_group("properties")
    properties.create_dataset("gain_to_uV", data=np.array(gains), compressor=None)
    properties.create_dataset("offset_to_uV", data=np.zeros(len(gains)), compressor=None)
    root.attrs.put(
        {
            "sampling_frequency": stream.sampling_rate_hz,
            "num_segments": 1,
            "provenance": None,
            "powerpixels": {
                "file": name,
                "size_bytes": task.bounds[-1] * stream.n_columns * BYTES_PER_SAMPLE,
                "sha256": sha256.hexdigest(),
                "sampling_rate_hz": stream.sampling_rate_hz,
                "headers": headers,
            },
        }
    )
    zarr.consolidate_metadata(root.store)

    files = [path for path in unfinished.rglob("*") if path.is_file()]
    for path in files:
        _out_of_memory(path)
    _compare(task, ZarrFile(unfinished, stream.n_columns))
    _remove(target)
    unfinished.replace(target)
    return (
        codec,
        sum((target / path.relative_to(unfinished)).stat().st_size for path in files),
        sha256.hexdigest(),
    )


def _columns(stream: Stream) -> tuple[list[str], list[float]]:
    """Name and µV per count of each column; words of digital lines have no gain (NaN)."""
    named = {channel.raw_column: (channel.channel_id, channel.gain_uv) for channel in stream.channels}
    named |= {line.raw_column: (line.name, line.gain_v * 1e6) for line in stream.analog}
    columns = [named.get(k, (f"word{k}", float("nan"))) for k in range(stream.n_columns)]
    return [name for name, _ in columns], [gain for _, gain in columns]
