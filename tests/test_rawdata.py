"""Raw samples as the stages see them, whatever the files: compared with the arrays that were written."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mtscomp
import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Zstd
from powerpixels import rawdata
from powerpixels.documents import Piece, RawFile, Stream
from powerpixels.stage import DataError

N_COLUMNS = 5
RATE = 100.0


def noise(n_rows: int, n_columns: int = N_COLUMNS, seed: int = 0) -> np.ndarray:
    """Rows that use all of int16, the extremes side by side in the first columns."""
    rows = np.random.default_rng(seed).integers(-(2**15), 2**15, (n_rows, n_columns)).astype(np.int16)
    rows[::2, 0] = -(2**15)
    rows[1::2, 0] = 2**15 - 1
    return rows


def write_cbin(path: Path, rows: np.ndarray, **options) -> Path:
    """Compress rows with mtscomp itself."""
    raw = path.with_suffix(".bin")
    rows.tofile(raw)
    options = {"n_threads": 1, "quiet": True, "check_after_compress": False, **options}
    mtscomp.compress(
        raw,
        path,
        path.with_suffix(".ch"),
        sample_rate=RATE,
        n_channels=rows.shape[1],
        dtype="int16",
        **options,
    )
    raw.unlink()
    return path


def write_zarr(path: Path, rows: np.ndarray, **options) -> Path:
    """A zarr folder as SpikeInterface writes it."""
    root = zarr.open_group(str(path), mode="w")
    options = {"chunks": (100, rows.shape[1]), "compressor": Blosc("zstd", 5, Blosc.BITSHUFFLE), **options}
    root.create_dataset("traces_seg0", data=rows, **options)
    return path


def stream_of(
    rows_of: dict[str, int], pieces: list[tuple[str, int, int, int]]
) -> tuple[Stream, list[RawFile]]:
    """A stream of data files (name: rows) with pieces (name, first row, samples, first sample)."""
    files = []
    for name in rows_of:
        files.append(RawFile(path=name, role="data", size_bytes=0))
        if name.endswith(".cbin"):
            files.append(RawFile(path=name[:-5] + ".ch", role="index", size_bytes=0))
    found = [Piece(path=p, first_row=r, n_samples=n, first_sample=f) for p, r, n, f in pieces]
    return Stream(
        name="imec0.ap",
        kind="ap",
        files=files,
        sampling_rate_hz=RATE,
        n_columns=N_COLUMNS,
        n_samples=sum(piece.n_samples for piece in found),
        first_sample=found[0].first_sample,
        pieces=found,
    )


@pytest.mark.parametrize(
    "options", [{}, {"chunk_order": "C"}, {"do_spatial_diff": True}, {"do_time_diff": False}]
)
def test_cbin_of_mtscomp(tmp_path, options):
    rows = noise(1037)
    path = write_cbin(tmp_path / "a.ap.cbin", rows, **options)
    file = rawdata.open_rows(path, None, N_COLUMNS)
    assert file.n_rows == 1037
    assert file.read(0, 1037).dtype == np.int16
    np.testing.assert_array_equal(file.read(0, 1037), rows)


@pytest.fixture(params=["bin", "cbin", "zarr", "zarr by columns"])
def opened(request, tmp_path):
    """(file, its rows) in each format; chunks of 100 rows, the last of 37."""
    rows = noise(1037)
    if request.param == "bin":
        rows.tofile(tmp_path / "a.bin")
        path = tmp_path / "a.bin"
    elif request.param == "cbin":
        path = write_cbin(tmp_path / "a.cbin", rows)
    elif request.param == "zarr":
        path = write_zarr(tmp_path / "a.zarr", rows)
    else:
        path = write_zarr(tmp_path / "a.zarr", rows, chunks=(100, 2))
    return rawdata.open_rows(path, None, N_COLUMNS), rows


def test_reads_at_chunk_borders(opened):
    file, rows = opened
    assert file.n_rows == len(rows)
    edges = [0, 1, 50, 99, 100, 101, 199, 200, 550, 999, 1000, 1001, 1036, 1037]
    for start in edges:
        for stop in edges:
            if start <= stop:
                np.testing.assert_array_equal(file.read(start, stop), rows[start:stop])


def test_reads_beyond_the_end_are_short(opened):
    file, rows = opened
    np.testing.assert_array_equal(file.read(1000, 2000), rows[1000:])
    assert file.read(1037, 2000).shape == (0, N_COLUMNS)


def test_what_was_read_may_be_changed(opened):
    file, rows = opened
    file.read(0, 150)[:] = 0
    np.testing.assert_array_equal(file.read(0, 150), rows[:150])


def test_threads_read_at_the_same_time(opened):
    file, rows = opened
    starts = np.random.default_rng(1).integers(0, 900, 200)
    with ThreadPoolExecutor(4) as pool:
        for start, found in zip(starts, pool.map(lambda s: file.read(s, s + 130), starts), strict=True):
            np.testing.assert_array_equal(found, rows[start : start + 130])


def test_only_touched_chunks_are_decompressed_once(tmp_path, monkeypatch):
    rows = noise(1000)
    file = rawdata.open_rows(write_cbin(tmp_path / "a.cbin", rows), None, N_COLUMNS)
    decompressed = []
    original = file.decompress
    monkeypatch.setattr(file, "decompress", lambda k: decompressed.append(k) or original(k))
    for start in range(250, 450, 20):
        file.read(start, start + 20)
    assert decompressed == [2, 3, 4]


def test_kept_chunks_are_bounded(tmp_path, monkeypatch):
    rows = noise(1000)
    file = rawdata.open_rows(write_cbin(tmp_path / "a.cbin", rows), None, N_COLUMNS)
    monkeypatch.setattr(rawdata, "CACHE_BYTES", 2 * 100 * N_COLUMNS * 2)
    np.testing.assert_array_equal(file.read(0, 1000), rows)
    assert list(file._kept) == [8, 9]
    monkeypatch.setattr(rawdata, "CACHE_BYTES", 1)
    np.testing.assert_array_equal(file.read(0, 1000), rows)
    assert len(file._kept) == 1


def test_opening_reads_no_data(tmp_path):
    path = write_cbin(tmp_path / "a.cbin", noise(1000))
    path.write_bytes(bytes(path.stat().st_size))
    assert rawdata.open_rows(path, None, N_COLUMNS).n_rows == 1000
    folder = write_zarr(tmp_path / "a.zarr", noise(1000))
    for chunk in (folder / "traces_seg0").glob("[0-9]*"):
        chunk.write_bytes(b"")
    assert rawdata.open_rows(folder, None, N_COLUMNS).n_rows == 1000


def test_stream_of_pieces_in_different_formats(tmp_path):
    """Overlap, gap and jump between a .bin, a .cbin and a .zarr; also after a trip to another process."""
    first, second, third = noise(300, seed=1), noise(250, seed=2), noise(120, seed=3)
    first.tofile(tmp_path / "t0.bin")
    write_cbin(tmp_path / "t1.cbin", second)
    write_zarr(tmp_path / "t2.zarr", third)
    stream = stream_of(
        {"t0.bin": 300, "t1.cbin": 250, "t2.zarr": 120},
        [("t0.bin", 0, 300, 1000), ("t1.cbin", 30, 220, 1300), ("t2.zarr", 0, 120, 9000)],
    )
    expected = np.concatenate([first, second[30:], third])
    (places,) = rawdata.locate([stream], tmp_path)
    opened = rawdata.StreamReader(stream, places)
    for reader in (opened, pickle.loads(pickle.dumps(opened))):
        for start, stop in [(0, 640), (290, 310), (299, 301), (519, 521), (100, 640), (640, 640), (0, 0)]:
            np.testing.assert_array_equal(reader.read(start, stop), expected[start:stop])
            np.testing.assert_array_equal(reader.read(start, stop, [4, 1]), expected[start:stop][:, [4, 1]])
    assert [len(block) for _, block in opened.chunks()] == [640]


def test_chunks_make_up_the_stream(tmp_path, monkeypatch):
    rows = noise(1000)
    write_cbin(tmp_path / "t0.cbin", rows)
    stream = stream_of({"t0.cbin": 1000}, [("t0.cbin", 0, 1000, 0)])
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 170 * N_COLUMNS * 2)
    chunks = list(rawdata.StreamReader(stream, rawdata.locate([stream], tmp_path)[0]).chunks([2]))
    assert [start for start, _ in chunks] == list(range(0, 1000, 170))
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in chunks]), rows[:, [2]])


def test_staged_files_are_found(tmp_path):
    rows = noise(200)
    for k in (1, 2, 3):
        (tmp_path / f"raw{k}").mkdir()
    write_cbin(tmp_path / "raw2" / "t0.cbin", rows)
    (tmp_path / "raw2" / "t0.ch").rename(tmp_path / "raw3" / "t0.ch")
    noise(10).tofile(tmp_path / "raw1" / "other.bin")
    other = stream_of({"run/other.bin": 10}, [("run/other.bin", 0, 10, 0)])
    stream = stream_of({"run/t0.cbin": 200}, [("run/t0.cbin", 0, 200, 0)])
    places = rawdata.locate([other, stream], tmp_path)[1]
    assert places["run/t0.ch"] == tmp_path / "raw3" / "t0.ch"
    np.testing.assert_array_equal(rawdata.StreamReader(stream, places).read(90, 110), rows[90:110])


def test_shorter_file_than_inspected_is_refused(tmp_path):
    noise(199).tofile(tmp_path / "t0.bin")
    stream = stream_of({"t0.bin": 200}, [("t0.bin", 0, 200, 0)])
    with pytest.raises(DataError, match=r"t0\.bin: expected 200 samples .* found 199"):
        rawdata.StreamReader(stream, rawdata.locate([stream], tmp_path)[0])


def test_missing_data_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.bin: the data file is missing"):
        rawdata.open_rows(tmp_path / "a.bin", None, N_COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("chunk_offsets"), "expected the key chunk_offsets, found none"),
        (lambda header: header.update(n_channels=4), "expected n_channels 5, as .* found 4"),
        (lambda header: header.update(dtype="float32"), "found float32"),
        (lambda header: header.update(algorithm="lzma"), "zlib, found int16 with lzma"),
        (lambda header: header.update(chunk_order="A"), "chunk_order C or F, found A"),
        (lambda header: header["chunk_bounds"].pop(), "as many chunk_offsets as chunk_bounds"),
        (lambda header: header.update(chunk_bounds=[0, 5, 5]), "ascending whole numbers"),
        (lambda header: header.update(chunk_bounds="text"), "ascending whole numbers"),
    ],
)
def test_wrong_index_is_refused(tmp_path, change, message):
    path = write_cbin(tmp_path / "a.cbin", noise(250))
    header = json.loads(path.with_suffix(".ch").read_text())
    change(header)
    path.with_suffix(".ch").write_text(json.dumps(header))
    with pytest.raises(DataError, match=rf"a\.ch \(index of a\.cbin\): .*{message}"):
        rawdata.open_rows(path, None, N_COLUMNS)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\x01"])
def test_index_that_is_none_is_refused(tmp_path, text):
    path = write_cbin(tmp_path / "a.cbin", noise(250))
    path.with_suffix(".ch").write_text(text)
    with pytest.raises(DataError, match=r"a\.ch"):
        rawdata.open_rows(path, None, N_COLUMNS)


def test_missing_index_is_refused(tmp_path):
    path = write_cbin(tmp_path / "a.cbin", noise(250))
    path.with_suffix(".ch").unlink()
    with pytest.raises(DataError, match=r"a\.ch: the index of a\.cbin is missing"):
        rawdata.open_rows(path, None, N_COLUMNS)


@pytest.mark.parametrize("grow", [-1, 1])
def test_cbin_of_other_size_than_its_index_says_is_refused(tmp_path, grow):
    path = write_cbin(tmp_path / "a.cbin", noise(250))
    content = path.read_bytes()
    path.write_bytes(content[:-1] if grow < 0 else content + b"\0")
    with pytest.raises(
        DataError, match=rf"a\.cbin: expected {len(content)} bytes .* found {len(content) + grow}"
    ):
        rawdata.open_rows(path, None, N_COLUMNS)


@pytest.mark.parametrize("at", [0, 0.4, 0.999])
def test_flipped_bit_in_a_cbin_is_refused(tmp_path, at):
    """In the stream's head, its middle and its checksum; other chunks stay readable."""
    rows = noise(300)
    path = write_cbin(tmp_path / "a.cbin", rows)
    first, end = json.loads(path.with_suffix(".ch").read_text())["chunk_offsets"][1:3]
    content = bytearray(path.read_bytes())
    content[first + int(at * (end - first))] ^= 16
    path.write_bytes(content)
    file = rawdata.open_rows(path, None, N_COLUMNS)
    np.testing.assert_array_equal(file.read(0, 100), rows[:100])
    np.testing.assert_array_equal(file.read(200, 300), rows[200:])
    with pytest.raises(DataError, match=r"a\.cbin: expected rows 100 to 200 in its chunk 1, found .*damaged"):
        file.read(90, 110)


def test_chunk_of_other_length_is_refused(tmp_path):
    path = write_cbin(tmp_path / "a.cbin", noise(300))
    header = json.loads(path.with_suffix(".ch").read_text())
    header["chunk_bounds"] = [0, 100, 201, 300]
    path.with_suffix(".ch").write_text(json.dumps(header))
    with pytest.raises(DataError, match="found 1000 bytes where 1010 belong"):
        rawdata.open_rows(path, None, N_COLUMNS).read(150, 160)


def test_damaged_zarr_is_refused(tmp_path):
    rows = noise(300)
    path = write_zarr(tmp_path / "a.zarr", rows, compressor=Zstd(1, checksum=True))
    chunks = path / "traces_seg0"
    content = bytearray((chunks / "1.0").read_bytes())
    content[len(content) // 2] ^= 16
    (chunks / "1.0").write_bytes(content)
    (chunks / "2.0").unlink()
    file = rawdata.open_rows(path, None, N_COLUMNS)
    np.testing.assert_array_equal(file.read(0, 100), rows[:100])
    with pytest.raises(DataError, match=r"a\.zarr: expected rows 100 to 200 in its chunk 1, found .*damaged"):
        file.read(100, 101)
    with pytest.raises(DataError, match=r"a\.zarr: .* chunk 2, found no file traces_seg0/2\.0"):
        file.read(250, 260)


def test_zarr_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DataError, match=r"a\.zarr: expected a zarr folder with an array traces_seg0"):
        rawdata.open_rows(tmp_path / "a.zarr", None, N_COLUMNS)
    path = write_zarr(tmp_path / "b.zarr", noise(30))
    (path / "traces_seg0" / ".zarray").write_text("{}")
    with pytest.raises(DataError, match=r"b\.zarr: expected a zarr folder"):
        rawdata.open_rows(path, None, N_COLUMNS)


@pytest.mark.parametrize("rows", [noise(30, 4), noise(30).astype(np.float32), noise(30)[:, 0]])
def test_zarr_of_another_recording_is_refused(tmp_path, rows):
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    root.create_dataset("traces_seg0", data=rows)
    with pytest.raises(DataError, match=r"a\.zarr: expected 5 columns of int16 .* found shape"):
        rawdata.open_rows(tmp_path / "a.zarr", None, N_COLUMNS)


def test_index_of_a_real_recording(real_data, tmp_path):
    """Shape and chunk of IBL's .ch fixture; its .cbin is not public: one of zeros stands in for it."""
    index = real_data / "ibl-neuropixel/fixtures/np2split/_spikeglx_ephysData_g0_t0.imec0.ap.ch"
    path = tmp_path / "_spikeglx_ephysData_g0_t0.imec0.ap.cbin"
    with path.open("wb") as file:
        file.truncate(12028183)
    file = rawdata.open_rows(path, index, 385)
    assert (file.n_rows, file.offsets) == (30000, [0, 12028183])
    with pytest.raises(DataError, match="chunk 0"):
        file.read(0, 10)
