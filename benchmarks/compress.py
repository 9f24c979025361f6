#!/usr/bin/env python3
"""Compression of raw streams: COMPRESS beside mtscomp's own command line, and the codecs for zarr copies.

    .venv/bin/python benchmarks/compress.py [FOLDER] [--seconds 10] [--jobs 2] [--rounds 3]

First the same files on the same cores, both compressing and comparing what they wrote with the raw file, in
turns: wall-clock and processor time of the whole processes, sizes. Then every codec that was tried for zarr
copies on one chunk (1 s) of each stream, on one core: ratio, speed of compressing and of reading back.
FOLDER: recordings of one's own, SpikeGLX (.bin with .meta) or Open Ephys (.dat with structure.oebin); without
it AP, LF and NIDQ are simulated.

Measured on 2 cores of an AMD EPYC shared with other work (6 s simulated, the LF stream 12 times over; medians
of 3 rounds by the clock; by processor time 2.9, 2.5 and 2.3, and 4.3, 4.2 and 4.1 times as fast):

    stream   raw MB   mtscomp    COMPRESS mtscomp                COMPRESS zarr
    AP 1.0   139      2.79 : 1   2.88 : 1, 2.7 times as fast     3.57 : 1, 3.7 times as fast
    AP 2.0   139      3.03 : 1   3.15 : 1, 2.4                   3.85 : 1, 3.2
    LF       139      4.88 : 1   4.98 : 1, 2.2                   5.78 : 1, 3.5
    NIDQ     0.3      37.5 : 1   38.7 : 1, 0.6 (Python's start)  28.3 : 1, 0.4 (and zarr's headers)

Ratios on one chunk; the last three columns are real samples of 33 to 40 ms: two 1.0 probes of SpikeGLX from
neuroconv's test data, one of Open Ephys from spikewrap's:

    codec                           AP 1.0  AP 2.0  LF    real  real  real, Open Ephys
    delta, offset, shuffle, zstd 1  3.58    3.85    5.78  3.89  6.41  1.66
    delta, bzip2 9                  3.43    3.67    5.70  3.53  6.54  2.39
    C, blosc zstd 9 bitshuffle      3.75    3.38    5.61  2.29  3.22  1.74
    C, blosc zstd 5 bitshuffle      3.24    3.13    4.84  2.06  2.17  1.68
    delta, zstd 9                   2.94    3.15    4.77  3.05  5.43  2.01
    delta, LZMA for 16 bit          2.92    3.12    4.74  3.06  5.41  2.14
    delta, zlib 6                   2.79    3.03    4.88  2.96  5.59  1.92
    FLAC 5                          3.91    4.13    6.07  3.83  7.11  1.75

So the best of those that any zarr installation opens is delta, offset, shuffle, zstd 1: compressed and read
at 70 to 300 MB/s on a core, where bzip2 has 12 to 19 and 15 to 40 and blosc zstd 9 has 4 to 8 (its lead on
the simulated 1.0 probe is that of noise that channels share more than real ones do). Open Ephys scales the
counts of 1.0 probes to 0.195 µV; there bzip2 is far ahead and COMPRESS takes it, file by file.

FLAC and wavpack need packages that neither zarr nor SpikeInterface installs, without which a copy can't be
opened. wavpack-numcodecs could not be measured: it has no build for the C library of the machine at hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from numcodecs import LZMA, Blosc, Delta, Shuffle, Zlib, Zstd
from powerpixels import compress
from powerpixels.documents import Piece, RawFile, Session, Stream, StreamDocument
from powerpixels.simulate import SimulationConfig, simulate_session

# A few seconds of LF are compressed while Python starts: they are taken this many times.
LF_REPEATS = 12
ROOT = Path(__file__).resolve().parent.parent
DELTA = Delta("<i2")


def raw_lzma(**options) -> LZMA:
    """LZMA2 without a container."""
    return LZMA(format=lzma.FORMAT_RAW, check=-1, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, **options}])


# Name: order of the chunk's values (C: by rows, F: by columns), filters, compressor.
CODECS = {
    "C, blosc lz4 bitshuffle": ("C", [], Blosc("lz4", 5, Blosc.BITSHUFFLE)),
    "C, blosc zstd 5 bitshuffle (SpikeInterface)": ("C", [], Blosc("zstd", 5, Blosc.BITSHUFFLE)),
    "C, blosc zstd 9 bitshuffle": ("C", [], Blosc("zstd", 9, Blosc.BITSHUFFLE)),
    "C, blosc zstd 5 shuffle": ("C", [], Blosc("zstd", 5, Blosc.SHUFFLE)),
    "F, delta, blosc zstd 1 shuffle": ("F", [DELTA], Blosc("zstd", 1, Blosc.SHUFFLE)),
    "F, delta, blosc zstd 5 bitshuffle": ("F", [DELTA], Blosc("zstd", 5, Blosc.BITSHUFFLE)),
    "F, delta, shuffle, zstd 1": ("F", [DELTA, Shuffle(2)], Zstd(1, checksum=True)),
    "F, delta, zstd 3": ("F", [DELTA], Zstd(3, checksum=True)),
    "F, delta, zstd 9": ("F", [DELTA], Zstd(9, checksum=True)),
    "F, delta, zlib 6 (mtscomp's bytes)": ("F", [DELTA], Zlib(6)),
    "F, delta, LZMA 0": ("F", [DELTA], raw_lzma()),
    "F, delta, LZMA 0 for 16 bit": ("F", [DELTA], raw_lzma(lp=1, lc=3, pb=1)),
}


def header_of(data: Path) -> tuple[int, float]:
    """(columns, samples per second) of a SpikeGLX .bin or an Open Ephys .dat."""
    if data.suffix == ".dat":
        structure = json.loads((data.parents[2] / "structure.oebin").read_text(encoding="utf-8"))
        (own,) = (
            entry for entry in structure["continuous"] if entry["folder_name"].strip("/") == data.parent.name
        )
        return int(own["num_channels"]), float(own["sample_rate"])
    lines = data.with_suffix(".meta").read_text(encoding="latin-1").splitlines()
    header = dict(line.split("=", 1) for line in lines)
    rate = header.get("imSampRate") or header.get("niSampRate") or header["obSampRate"]
    return int(header["nSavedChans"]), float(rate)


def describe(data: Path) -> StreamDocument:
    """A data file as the stream that COMPRESS takes."""
    (n_columns, rate), size = header_of(data), data.stat().st_size
    n_samples = size // (2 * n_columns)
    return StreamDocument(
        session=Session(
            subject="benchmark",
            session="2026-03-01_001",
            acquisition="spikeglx",
            acquisition_version=None,
            start_time=None,
        ),
        stream=Stream(
            name=data.stem,
            kind="ap",
            files=[RawFile(path=data.name, role="data", size_bytes=size)],
            sampling_rate_hz=rate,
            n_columns=n_columns,
            n_samples=n_samples,
            first_sample=0,
            pieces=[Piece(path=data.name, first_row=0, n_samples=n_samples, first_sample=0)],
        ),
    )


def timed(command: list[str]) -> tuple[float, float]:
    """(wall-clock, processor) seconds of a process and its children; RuntimeError where it fails."""
    before, start = os.times(), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{ended.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def side_by_side(data: Path, jobs: int, rounds: int, work: Path) -> None:
    """mtscomp's command line and pp_compress.py on one file in turns; print the medians."""
    document = describe(data)
    stream = document.stream
    document.save(work / "stream.json")
    theirs, out = work / "theirs.cbin", work / "out"
    commands = {
        "mtscomp": [
            str(Path(sys.executable).parent / "mtscomp"),
            *(str(data), str(theirs), str(theirs.with_suffix(".ch"))),
            *(
                "-d",
                "int16",
                "-n",
                str(stream.n_columns),
                "-s",
                str(stream.sampling_rate_hz),
                "-p",
                str(jobs),
            ),
        ]
    }
    for method in ("mtscomp", "zarr"):
        commands[f"COMPRESS {method}"] = [
            *(sys.executable, str(ROOT / "bin" / "pp_compress.py"), "--stream", str(work / "stream.json")),
            *("--raw-dir", str(data.parent), "--out", str(out), "--method", method, "--jobs", str(jobs)),
        ]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    sizes = {}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            times[name].append(timed(command))
            files = [theirs, theirs.with_suffix(".ch")] if name == "mtscomp" else out.rglob("*")
            sizes[name] = sum(
                path.stat().st_size for path in files if path.is_file() and path.suffix != ".json"
            )
    size = data.stat().st_size
    reference = np.median(times["mtscomp"], axis=0)
    print(f"\n{data.name}: {size / 1e6:.1f} MB, {jobs} threads, {rounds} rounds")
    for name, seconds in times.items():
        wall, used = np.median(seconds, axis=0)
        print(
            f"  {name:20} {size / sizes[name]:6.2f} : 1  {wall:7.2f} s ({reference[0] / wall:4.1f} x)  "
            f"{used:7.2f} s of processor ({reference[1] / used:4.1f} x)"
        )


def codec_row(name: str, rows: np.ndarray, encode, decode) -> None:
    """Measure and print one codec on one chunk; what it gives back must be what it got."""
    start = time.process_time()
    encoded = encode(rows)
    middle = time.process_time()
    decoded = decode(encoded)
    end = time.process_time()
    if decoded is not None and not np.array_equal(decoded, rows):
        raise RuntimeError(f"{name} lost data")
    read = f"{rows.nbytes / 1e6 / max(end - middle, 1e-6):7.0f}" if decoded is not None else "      -"
    compressed = rows.nbytes / 1e6 / max(middle - start, 1e-6)
    print(f"  {name:46} {rows.nbytes / len(encoded):6.2f} : 1  {compressed:7.1f} MB/s  {read} MB/s")


def codecs(data: Path) -> None:
    """Print the ratio and the speeds of every codec on the first second of a file."""
    stream = describe(data).stream
    rows = np.fromfile(data, "<i2", count=round(stream.sampling_rate_hz) * stream.n_columns)
    rows = rows.reshape(-1, stream.n_columns)
    chosen, *_ = compress.zarr_codecs(rows)
    ours = {
        f"F, {name}" + (" *" if name == chosen else ""): ("F", filters, compressor)
        for name, (filters, compressor) in compress.zarr_candidates().items()
    }
    print(
        f"\n{data.name}: {rows.shape[0]} x {rows.shape[1]}; compressing and reading on one core; * is taken"
    )
    for name, (order, filters, compressor) in (CODECS | ours).items():

        def encode(rows, order=order, filters=filters, compressor=compressor):
            values = np.array(rows, order=order)
            for codec in filters:
                values = codec.encode(values)
            return compressor.encode(values)

        def decode(encoded, order=order, filters=filters, compressor=compressor):
            values = compressor.decode(encoded)
            for codec in filters[::-1]:
                values = codec.decode(values)
            values = np.frombuffer(values, dtype="<i2").reshape(rows.shape, order=order)
            return np.ascontiguousarray(values)

        codec_row(name, rows, encode, decode)
    if importlib.util.find_spec("pyflac"):
        codec_row("F, FLAC 5 (pyflac)", rows, flac, lambda encoded: None)
    else:
        print("  FLAC: not measured, the package pyflac is not installed")


def flac(rows: np.ndarray) -> bytes:
    """The channels one after the other as one FLAC stream."""
    import pyflac

    parts: list[bytes] = []
    encoder = pyflac.StreamEncoder(48000, lambda part, *_: parts.append(bytes(part)), compression_level=5)
    encoder.process(np.ascontiguousarray(rows.T.reshape(-1, 1)))
    encoder.finish()
    return b"".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder of SpikeGLX recordings")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of the simulated session")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.folder
        if folder is None:
            folder = Path(work) / "session"
            simulate_session(folder, SimulationConfig.full(arguments.seconds))
            (lf,) = folder.rglob("*.lf.bin")
            lf.write_bytes(lf.read_bytes() * LF_REPEATS)
        files = sorted(path for path in folder.rglob("*.bin") if path.with_suffix(".meta").exists())
        files += sorted(
            path for path in folder.rglob("*.dat") if (path.parents[2] / "structure.oebin").exists()
        )
        if not files:
            parser.error(
                f"{folder}: no SpikeGLX .bin with .meta and no Open Ephys .dat with structure.oebin in it"
            )
        print(f"zlib {zlib.ZLIB_RUNTIME_VERSION}, {arguments.jobs} threads")
        for data in files:
            side_by_side(data, arguments.jobs, arguments.rounds, Path(work))
        for data in files:
            codecs(data)


if __name__ == "__main__":
    main()
