"""Compressed copies: every reader must find the samples that were written, and a bad copy must never stay."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mtscomp
import numpy as np
import pytest
import spikeglx
import zarr
from powerpixels import compress
from powerpixels.documents import AnalogLine, Channel, Piece, RawFile, Session, Stream, StreamDocument
from powerpixels.rawdata import StreamReader, locate, open_rows
from powerpixels.stage import DataError, TemporaryError
from spikeinterface import load
from spikeinterface.extractors import read_cbin_ibl

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("mtscomp", "zarr")


def noise(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Rows of noise with steps over all of int16, where differences wrap around, and a constant column."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 6, (n_rows, n_columns)).round().astype(np.int16)
    rows[::7] = rng.integers(-(2**15), 2**15, rows[::7].shape)
    rows[1::7, 0], rows[2::7, 0] = -(2**15), 2**15 - 1
    rows[:, -1] = 64
    return rows


def document_of(
    raw: Path, rows_of: dict[str, np.ndarray], rate: float, acquisition: str = "spikeglx", extra=(), **fields
) -> StreamDocument:
    """Write data files (path below raw: rows) and describe them as a stream; extra: (path, role, content)."""
    files, pieces, n_samples = [], [], 0
    for path, rows in rows_of.items():
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        rows.tofile(raw / path)
        files.append(RawFile(path=path, role="data", size_bytes=rows.nbytes))
        pieces.append(Piece(path=path, first_row=0, n_samples=len(rows), first_sample=n_samples))
        n_samples += len(rows)
    for path, role, content in extra:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(content)
        files.append(RawFile(path=path, role=role, size_bytes=len(content)))
    return StreamDocument(
        session=Session(
            subject="mouse",
            session="2026-03-01_001",
            acquisition=acquisition,
            acquisition_version=None,
            start_time=None,
        ),
        stream=Stream(
            **{
                "name": "imec0.ap",
                "kind": "ap",
                "files": files,
                "sampling_rate_hz": rate,
                "n_columns": next(iter(rows_of.values())).shape[1],
                "n_samples": n_samples,
                "first_sample": 0,
                "pieces": pieces,
                **fields,
            }
        ),
    )


def run(document: StreamDocument, raw: Path, out: Path, method: str, **options) -> compress.CompressDocument:
    """Compress a stream whose files lie at their own paths."""
    (places,) = locate([document.stream], raw)
    return compress.compress_stream(document, places, out, method, **{"jobs": 2, **options})


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names_below(folder: Path) -> list[str]:
    """Paths of the files below a folder, zarr folders as one."""
    return sorted({path.split(".zarr/")[0] for path in bytes_below(folder)})


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "rate"),
    [
        (2531, 385, 1000.0),  # last chunk is short
        (3000, 9, 1000.0),  # it is whole
        (2001, 4, 1000.3),  # it has a single row; the rate is no whole number
        (700, 1, 1000.0),  # one column, less than one chunk
        (1, 3, 30000.0),  # one row
        (700, 1540, 250.0),  # a quad-base probe: 1,536 channels and 4 words
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_round_trip(tmp_path, monkeypatch, method, n_rows, n_columns, rate):
    monkeypatch.setattr(compress, "ZARR_CHUNK_BYTES", (1, 2**20))
    rows = noise(n_rows, n_columns)
    document = document_of(
        tmp_path / "raw", {"a.ap.bin": rows}, rate, extra=[("a.ap.meta", "meta", b"nSavedChans=1\r\n")]
    )
    done = run(document, tmp_path / "raw", tmp_path / "out", method)

    copy = tmp_path / "out" / done.files[0].compressed
    file = open_rows(copy, None, n_columns)
    assert file.n_rows == n_rows
    np.testing.assert_array_equal(file.read(0, n_rows), rows)
    if method == "mtscomp":
        reader = mtscomp.decompress(copy, copy.with_suffix(".ch"), quiet=True)
        np.testing.assert_array_equal(reader[:], rows)
        assert names_below(tmp_path / "out") == ["a.ap.cbin", "a.ap.ch", "a.ap.meta"]
        size = copy.stat().st_size + copy.with_suffix(".ch").stat().st_size
    else:
        np.testing.assert_array_equal(zarr.open_consolidated(str(copy))["traces_seg0"][:], rows)
        assert names_below(tmp_path / "out") == ["a.ap", "a.ap.meta"]
        size = sum(len(content) for content in bytes_below(copy).values())
    assert (tmp_path / "out" / "a.ap.meta").read_bytes() == b"nSavedChans=1\r\n"
    assert done.files[0].model_dump() | {"codec": ""} == {
        "raw": "a.ap.bin",
        "compressed": copy.name,
        "codec": "",
        "bytes_raw": rows.nbytes,
        "bytes_compressed": size,
        "ratio": round(rows.nbytes / size, 4),
        "sha256_raw": hashlib.sha256(rows.tobytes()).hexdigest(),
    }


def test_index_is_mtscomps_own(tmp_path):
    """The .ch file equals that of mtscomp but for the bytes' lengths and hash and the level."""
    rows = noise(2531, 40)
    document = document_of(tmp_path / "raw", {"a.bin": rows}, 1000.0)
    run(document, tmp_path / "raw", tmp_path / "out", "mtscomp")
    theirs = tmp_path / "theirs.cbin"
    mtscomp.compress(
        tmp_path / "raw" / "a.bin",
        theirs,
        tmp_path / "theirs.ch",
        sample_rate=1000.0,
        n_channels=40,
        dtype="int16",
        quiet=True,
    )
    found, expected = (
        json.loads(path.read_text()) for path in (tmp_path / "out/a.ch", tmp_path / "theirs.ch")
    )
    offsets, sha1 = found.pop("chunk_offsets"), found.pop("sha1_compressed")
    assert list(found) == [key for key in expected if key not in ("chunk_offsets", "sha1_compressed")]
    for key in found:
        assert key == "comp_level" or found[key] == expected[key], key
    content = (tmp_path / "out/a.cbin").read_bytes()
    assert (offsets[-1], sha1) == (len(content), hashlib.sha1(content).hexdigest())


def stream_of_header(meta: Path, raw: Path, kind: str) -> StreamDocument:
    """A SpikeGLX file as one stream, from the few header lines that compression needs."""
    header = dict(line.split("=", 1) for line in meta.read_text().splitlines())
    n_columns, data = int(header["nSavedChans"]), meta.with_suffix(".bin")
    path, n_rows = data.relative_to(raw).as_posix(), data.stat().st_size // (2 * n_columns)
    files = [
        RawFile(path=path, role="data", size_bytes=data.stat().st_size),
        RawFile(path=path[:-4] + ".meta", role="meta", size_bytes=meta.stat().st_size),
    ]
    rate = float(header.get("imSampRate") or header["niSampRate"])
    session = Session(
        subject="sim",
        session="2026-03-01_001",
        acquisition="spikeglx",
        acquisition_version=None,
        start_time=None,
    )
    stream = Stream(
        name=meta.stem.split(".", 1)[1],
        kind=kind,
        files=files,
        sampling_rate_hz=rate,
        n_columns=n_columns,
        n_samples=n_rows,
        first_sample=0,
        pieces=[Piece(path=path, first_row=0, n_samples=n_rows, first_sample=0)],
    )
    return StreamDocument(session=session, stream=stream)


@pytest.fixture(scope="module")
def simulated(session_small, tmp_path_factory):
    """AP, LF and NIDQ of the simulated session: {kind: (raw samples, cbin, zarr)}."""
    out, found = tmp_path_factory.mktemp("copies"), {}
    for kind, pattern in {"ap": "*imec0.ap.meta", "lf": "*imec0.lf.meta", "nidq": "*.nidq.meta"}.items():
        (meta,) = (session_small / "raw").rglob(pattern)
        document = stream_of_header(meta, session_small / "raw", kind)
        copies = [
            out / method / run(document, session_small / "raw", out / method, method).files[0].compressed
            for method in METHODS
        ]
        rows = np.fromfile(meta.with_suffix(".bin"), dtype="<i2").reshape(-1, document.stream.n_columns)
        found[kind] = (rows, *copies)
    return found


@pytest.mark.parametrize("kind", ["ap", "lf", "nidq"])
def test_ibl_reads_the_copy(simulated, kind):
    rows, cbin, _ = simulated[kind]
    reader = spikeglx.Reader(cbin, sort=False)
    assert (reader.ns, reader.nc) == rows.shape
    n = min(len(rows), 70_000)
    np.testing.assert_array_equal(reader._raw[0:n], rows[:n])
    with spikeglx.Reader(cbin, sort=False) as again:
        assert again.verify_hash()


def test_spikeinterface_reads_the_cbin(simulated):
    rows, cbin, _ = simulated["ap"]
    recording = read_cbin_ibl(cbin_file_path=cbin, load_sync_channel=True)
    np.testing.assert_array_equal(
        recording.get_traces(start_frame=29_000, end_frame=61_000), rows[29_000:61_000]
    )


@pytest.mark.parametrize("kind", ["ap", "lf", "nidq"])
def test_spikeinterface_loads_the_zarr(simulated, kind):
    rows, _, folder = simulated[kind]
    recording = load(folder)
    rate = {"ap": 30000.0, "lf": 2500.0}.get(kind)
    assert recording.get_num_samples() == len(rows)
    assert recording.dtype == np.int16
    assert rate is None or recording.sampling_frequency == rate
    np.testing.assert_array_equal(recording.get_traces(), rows)


def test_copy_is_not_larger_than_mtscomps_own(simulated, session_small, tmp_path):
    for kind, (rows, cbin, folder) in simulated.items():
        rows.tofile(tmp_path / "a.bin")
        mtscomp.compress(
            tmp_path / "a.bin",
            tmp_path / "a.cbin",
            tmp_path / "a.ch",
            sample_rate=json.loads(cbin.with_suffix(".ch").read_text())["sample_rate"],
            n_channels=rows.shape[1],
            dtype="int16",
            quiet=True,
            check_after_compress=False,
        )
        theirs = (tmp_path / "a.cbin").stat().st_size
        assert cbin.stat().st_size <= theirs, kind
        if kind != "nidq":  # a few kB: the zarr folder's headers outweigh them
            assert sum(len(content) for content in bytes_below(folder).values()) < 0.92 * theirs, kind


def test_zarr_tells_channels_gains_and_origin(tmp_path):
    rows = noise(500, 4)
    channel = Channel(
        raw_column=1,
        channel_id="AP7",
        contact_id="e7",
        shank=0,
        x_um=0.0,
        y_um=0.0,
        inter_sample_shift=0.0,
        gain_uv=2.34375,
    )
    document = document_of(
        tmp_path / "raw",
        {"run/a.ap.bin": rows},
        1000.0,
        extra=[("run/a.ap.meta", "meta", b"userNotes=caf\xe9\r\n"), ("run/b.ap.meta", "meta", b"other")],
        channels=[channel],
        analog=[AnalogLine(raw_column=0, name="XA0", gain_v=0.5)],
        sync_column=3,
        sync_bit=6,
    )
    run(document, tmp_path / "raw", tmp_path / "out", "zarr")
    recording = load(tmp_path / "out" / "a.ap.zarr")
    assert recording.channel_ids.tolist() == ["XA0", "AP7", "word2", "word3"]
    np.testing.assert_array_equal(recording.get_channel_gains(), [0.5e6, 2.34375, np.nan, np.nan])
    np.testing.assert_array_equal(recording.get_channel_offsets(), np.zeros(4))
    assert zarr.open(str(tmp_path / "out" / "a.ap.zarr")).attrs["powerpixels"] == {
        "file": "a.ap.bin",
        "size_bytes": rows.nbytes,
        "sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
        "sampling_rate_hz": 1000.0,
        "headers": {"run/a.ap.meta": "userNotes=caf\xe9\r\n"},
    }


def test_codec_follows_the_data():
    """Counts with holes, as of a program that scales 2.34 µV steps to 0.195 µV, go to bzip2."""
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 4, (4000, 20)).round()
    assert compress.zarr_codecs(steps.astype(np.int16))[0] == "delta, offset, shuffle, zstd 1"
    assert compress.zarr_codecs((steps * 12.02).round().astype(np.int16))[0] == "delta, bzip2 9"


@pytest.mark.parametrize("method", METHODS)
def test_same_bytes_whatever_the_number_of_threads(tmp_path, method):
    rows = noise(5210, 30)
    document = document_of(tmp_path / "raw", {"a.bin": rows}, 1000.0)
    outputs = []
    for jobs in (1, 3, 3):
        out = tmp_path / f"out{len(outputs)}"
        done = run(document, tmp_path / "raw", out, method, jobs=jobs)
        outputs.append((done, bytes_below(out)))
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("method", METHODS)
def test_copies_are_a_stream_again(tmp_path, method):
    """Files of two gates: each on its own, in the probe's folder, read as the same stream."""
    first, second = noise(2100, 6, seed=1), noise(900, 6, seed=2)
    document = document_of(tmp_path / "raw", {"g0/a_g0_t0.bin": first, "g1/a_g1_t0.bin": second}, 1000.0)
    done = run(document, tmp_path / "raw", tmp_path / "out", method, folder="probe00")
    paths = [file.compressed for file in done.files]
    assert [str(Path(path).with_suffix("")) for path in paths] == ["probe00/a_g0_t0", "probe00/a_g1_t0"]
    files = [RawFile(path=path, role="data", size_bytes=0) for path in paths]
    if method == "mtscomp":
        files += [RawFile(path=path[:-5] + ".ch", role="index", size_bytes=0) for path in paths]
    pieces = [
        piece.model_copy(update={"path": path})
        for piece, path in zip(document.stream.pieces, paths, strict=True)
    ]
    copy = document.stream.model_copy(update={"files": files, "pieces": pieces})
    reader = StreamReader(copy, locate([copy], tmp_path / "out")[0])
    np.testing.assert_array_equal(reader.read(0, 3000), np.concatenate([first, second]))


def test_open_ephys_keeps_its_folders(tmp_path):
    rows = noise(1200, 8)
    folder = "Record Node 104/experiment1/recording1"
    data = f"{folder}/continuous/Neuropix-PXI-100.ProbeA-AP"
    small = [
        (f"{folder}/structure.oebin", "meta", b"{}"),
        (f"{data}/sample_numbers.npy", "meta", b"\x93NUMPY\xff"),
        (f"{folder}/events/TTL/states.npy", "states", b"\x93NUMPY\xfe"),
    ]
    document = document_of(
        tmp_path / "raw",
        {f"{data}/continuous.dat": rows},
        1000.0,
        "openephys",
        small,
        name="Record Node 104#AP",
    )
    run(document, tmp_path / "raw", tmp_path / "a", "mtscomp", folder="ProbeA")
    expected = [path for path, _, _ in small] + [f"{data}/continuous.cbin", f"{data}/continuous.ch"]
    assert names_below(tmp_path / "a") == sorted(expected)
    for path, _, content in small:
        assert (tmp_path / "a" / path).read_bytes() == content
    done = run(document, tmp_path / "raw", tmp_path / "b", "zarr", folder="ProbeA")
    assert done.files[0].compressed == f"{data}/continuous.zarr"
    attributes = zarr.open(str(tmp_path / "b" / done.files[0].compressed)).attrs["powerpixels"]
    assert attributes["headers"] == {f"{folder}/structure.oebin": "{}"}


@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", METHODS)
def test_compressed_input(tmp_path, first, second):
    """The same format is left alone, the other is converted without loss."""
    rows = noise(2100, 6)
    document = document_of(
        tmp_path / "raw", {"a.ap.bin": rows}, 1000.0, extra=[("a.ap.meta", "meta", b"x=1\n")]
    )
    run(document, tmp_path / "raw", tmp_path / "one", first)
    copy = tmp_path / "one" / f"a.ap{compress.SUFFIX[first]}"
    files = [RawFile(path=copy.name, role="data", size_bytes=sum(map(len, bytes_below(copy).values())))]
    if first == "mtscomp":
        files = [
            RawFile(path=copy.name, role="data", size_bytes=copy.stat().st_size),
            RawFile(path="a.ap.ch", role="index", size_bytes=1),
        ]
    files.append(RawFile(path="a.ap.meta", role="meta", size_bytes=4))
    pieces = [document.stream.pieces[0].model_copy(update={"path": copy.name})]
    stream = document.stream.model_copy(update={"files": files, "pieces": pieces})
    again = document.model_copy(update={"stream": stream})
    before = bytes_below(tmp_path / "one")
    done = run(again, tmp_path / "one", tmp_path / "two", second)
    assert bytes_below(tmp_path / "one") == before
    if first == second:
        assert names_below(tmp_path / "two") == []
        assert done.files[0].model_dump() == {
            "raw": copy.name,
            "compressed": None,
            "codec": None,
            "bytes_raw": rows.nbytes,
            "bytes_compressed": files[0].size_bytes,
            "ratio": round(rows.nbytes / files[0].size_bytes, 4),
            "sha256_raw": None,
        }
    else:
        file = open_rows(tmp_path / "two" / done.files[0].compressed, None, 6)
        np.testing.assert_array_equal(file.read(0, 2100), rows)
        assert done.files[0].sha256_raw == hashlib.sha256(rows.tobytes()).hexdigest()


def test_ibl_names_with_identifiers(tmp_path):
    """Data, index and header of IBL's database have identifiers that differ."""
    rows, names = noise(2100, 6), {}
    document = document_of(tmp_path / "raw", {"a.ap.bin": rows}, 1000.0)
    run(document, tmp_path / "raw", tmp_path / "one", "mtscomp")
    for suffix, number in ((".cbin", "1"), (".ch", "2")):
        names[suffix] = f"a.ap.{number * 8}-0a3b-4c1d-9e8f-0123456789ab{suffix}"
        (tmp_path / "one" / f"a.ap{suffix}").rename(tmp_path / "one" / names[suffix])
    size = (tmp_path / "one" / names[".cbin"]).stat().st_size
    files = [
        RawFile(path=names[".cbin"], role="data", size_bytes=size),
        RawFile(path=names[".ch"], role="index", size_bytes=1),
    ]
    pieces = [document.stream.pieces[0].model_copy(update={"path": names[".cbin"]})]
    stream = document.stream.model_copy(update={"files": files, "pieces": pieces})
    np.testing.assert_array_equal(
        StreamReader(stream, locate([stream], tmp_path / "one")[0]).read(0, 2100), rows
    )


# ---------------------------------------------------------------------------------------------------------
# What goes wrong
# ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """(document, raw folder, output folder) of 5,210 rows of 30 columns."""
    document = document_of(
        tmp_path / "raw", {"a.bin": noise(5210, 30)}, 1000.0, extra=[("a.meta", "meta", b"x=1\n")]
    )
    return document, tmp_path / "raw", tmp_path / "out"


@pytest.mark.parametrize("method", METHODS)
def test_flipped_bit_on_the_disk_is_found(small, monkeypatch, method):
    """A bit of what was written changes on its way to the disk or there."""
    document, raw, out = small
    original = compress._out_of_memory

    def flip(path):
        content = bytearray(path.read_bytes())
        if path.name in ("a.cbin.partial", "2.0"):
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        original(path)

    monkeypatch.setattr(compress, "_out_of_memory", flip)
    monkeypatch.setattr(compress, "ZARR_CHUNK_BYTES", (1, 2**20))
    with pytest.raises(RuntimeError, match=r"a\.bin was read back and differs from it"):
        run(document, raw, out, method)
    assert names_below(out) == ["a.meta"]


@pytest.mark.parametrize("method", METHODS)
def test_wrong_values_under_a_right_checksum_are_found(small, monkeypatch, method):
    """One count wrong in what was handed to the compressor, as a memory fault would make it."""
    document, raw, out = small
    original, flipped = compress._Task.chunk, []

    def chunk(task, k):
        rows = original(task, k)
        if k == 3 and not flipped:
            flipped.append(k)
            rows = rows.copy()
            rows[5, 7] ^= 1
        return rows

    monkeypatch.setattr(compress._Task, "chunk", chunk)
    monkeypatch.setattr(compress, "ZARR_CHUNK_BYTES", (1, 2**20))
    with pytest.raises(RuntimeError, match=r"differs from it: other values in rows 3000 to 4000 \(chunk 3\)"):
        run(document, raw, out, method)
    assert flipped and names_below(out) == ["a.meta"]


@pytest.mark.parametrize("method", METHODS)
def test_raw_file_with_part_of_a_row_is_refused(small, method):
    document, raw, out = small
    with (raw / "a.bin").open("ab") as file:
        file.write(b"\1\2")
    files = [document.stream.files[0].model_copy(update={"size_bytes": 5210 * 60 + 2})]
    document = document.model_copy(update={"stream": document.stream.model_copy(update={"files": files})})
    with pytest.raises(
        DataError, match=r"a\.bin: expected rows of 30 int16 values \(60 bytes\), found 312602"
    ):
        run(document, raw, out, method)
    assert names_below(out) == []


def test_raw_file_that_changed_since_it_was_inspected_is_refused(small):
    document, raw, out = small
    with (raw / "a.bin").open("ab") as file:
        file.write(bytes(60))
    with pytest.raises(
        DataError, match=r"a\.bin: expected 312600 bytes as when it was inspected, found 312660"
    ):
        run(document, raw, out, "mtscomp")


def test_raw_file_that_shrinks_meanwhile_is_refused(small, monkeypatch):
    document, raw, out = small
    original = compress.time_differences

    def shrink(rows):
        os.truncate(raw / "a.bin", 60 * 2500)
        return original(rows)

    monkeypatch.setattr(compress, "time_differences", shrink)
    with pytest.raises(DataError, match=r"a\.bin: expected 5210 rows, found its end at row 2500"):
        run(document, raw, out, "mtscomp", jobs=1)
    assert names_below(out) == ["a.meta"]


def test_missing_header_is_refused(small):
    document, raw, out = small
    (raw / "a.meta").unlink()
    with pytest.raises(DataError, match=r"a\.meta: the file is missing"):
        run(document, raw, out, "mtscomp")


def test_two_files_of_one_name_are_refused(tmp_path):
    rows = noise(20, 3)
    document = document_of(tmp_path / "raw", {"g0/a.bin": rows, "g1/a.bin": rows}, 1000.0)
    with pytest.raises(DataError, match=r"g0/a\.bin, g1/a\.bin: expected data files of different names"):
        run(document, tmp_path / "raw", tmp_path / "out", "mtscomp")


def test_leftovers_of_a_killed_attempt_are_replaced(small):
    document, raw, out = small
    (out / "a.zarr.partial").mkdir(parents=True)
    (out / "a.zarr.partial" / "old").write_text("old")
    (out / "a.zarr").mkdir()
    (out / "a.zarr" / "old").write_text("old")
    run(document, raw, out, "zarr")
    assert names_below(out) == ["a", "a.meta"]
    assert "old" not in bytes_below(out / "a.zarr")


def executable(document: StreamDocument, raw: Path, out: Path, method: str, shell: str = "") -> list[str]:
    """Command line of pp_compress.py, after ``shell`` in the same shell."""
    document.save(out.parent / "stream.json")
    command = (
        f"{shell} exec '{sys.executable}' '{ROOT}/bin/pp_compress.py' --stream stream.json --raw-dir '{raw}' "
        f"--out '{out}' --folder probe00 --method {method} --jobs 2"
    )
    return ["bash", "-c", command]


@pytest.mark.parametrize("method", METHODS)
def test_executable(small, method):
    document, raw, out = small
    subprocess.run(executable(document, raw, out, method), cwd=out.parent, check=True, timeout=120)
    done = compress.CompressDocument.load(out / "probe00" / "imec0.ap.compress.json")
    assert done == run(document, raw, out.parent / "again", method, folder="probe00")
    packages = {"mtscomp": {"zlib-ng"}, "zarr": {"zarr", "numcodecs"}}[method]
    versions = json.loads((out.parent / "versions.json").read_text())
    assert set(versions) == {"powerpixels", "python", "numpy", "pydantic"} | packages


@pytest.mark.parametrize("method", METHODS)
def test_full_disk(small, method):
    """A limit on the size of files, the full disk that needs no rights: exit 75, one line, nothing final."""
    document, raw, out = small
    command = executable(document, raw, out, method, shell="ulimit -f 60; trap '' XFSZ;")
    ended = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, timeout=120)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 75, ended.stderr
    assert last.startswith("ERROR: ") and "expected room for the copy, found none" in last
    assert f"free space in {out / 'probe00'}" in last
    assert names_below(out) == ["probe00/a.meta"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("method", METHODS)
def test_full_disk_at_the_last_moment(small, monkeypatch, method, number):
    document, raw, out = small

    def full(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(compress, "_out_of_memory", full)
    with pytest.raises(TemporaryError, match=rf"a\{compress.SUFFIX[method]}: .*free space"):
        run(document, raw, out, method)
    assert names_below(out) == ["a.meta"]


@pytest.mark.parametrize("method", METHODS)
def test_killed_process_leaves_nothing_that_looks_whole(tmp_path, method):
    raw, out = tmp_path / "raw", tmp_path / "out"
    document = document_of(raw, {"a.bin": noise(120_000, 100)}, 1000.0)
    process = subprocess.Popen(
        executable(document, raw, out, method),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.rglob("*.partial*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    left = {path.relative_to(out).parts[1] for path in out.rglob("*") if len(path.relative_to(out).parts) > 1}
    assert left == {f"a{compress.SUFFIX[method]}.partial"}
