#!/usr/bin/env python3
"""How long PREPROCESS takes with each engine, file to file, and how much memory, side by side.

    .venv/bin/python benchmarks/preprocess.py [SECONDS] [ROUNDS] [MINUTES]

Generated recordings of SECONDS of a 1.0 probe, and of a 2.0 probe of four shanks (384 channels each), with a
tone that a notch takes out, and with muting on, go through both engines with all cores, in turns, each run in
a process of its own; how many values of the traces differ is counted. Times are
wall clock, the median of the rounds: of the pass from raw file to traces.bin, and of finding bad channels and
the tone before it, which takes as long for any long recording; in
brackets seconds of all cores, which tell more where others use the machine too. A pass holds what is done
once (the fast one's plan of the medians, code that is loaded): 2 s of one core. Beside them the machine's
limits: copying the file, and the transforms alone. Then the fast engine on 1 minute and on MINUTES (0: on
neither): speed, and the peak of memory, which must not grow. Files lie in TMPDIR and are removed.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

RATE = 30_000
N_CHANNELS = 384
GAIN_UV = 2.34375
TONE_HZ = 8_900
# Probes and references that are measured.
ROWS = (
    ("NP1000", "local"),
    ("NP1000", "global"),
    ("NP1000", "destripe"),
    ("NP1000", "none"),
    ("NP2013", "local"),
)
ENGINES = ("spikeinterface", "fast")


def write_recording(folder: Path, n_seconds: int, part_number: str = "NP1000") -> None:
    """A raw file and its document: waves, noise that channels share, and noise of their own.

    part_number: NP1000 has one shank, NP2013 four.
    """
    from powerpixels.documents import (
        Channel,
        JoinedProbe,
        Piece,
        Probe,
        ProbeDocument,
        RawFile,
        Session,
        Stream,
    )
    from probe_geometries import geometry
    from scipy.signal import butter, sosfilt

    probe = geometry(part_number, N_CHANNELS)
    rng = np.random.default_rng(1)
    n_written = 0
    sos = butter(2, 8_000, fs=RATE, output="sos")
    with open(folder / "t0.bin", "wb") as file:
        n_distinct = min(n_seconds, 10)
        n = n_distinct * RATE
        counts = np.zeros((n, N_CHANNELS + 1), dtype=np.int16)
        shared = 300 * np.sin(2 * np.pi * 8 * np.arange(n) / RATE) + 8 * rng.standard_normal(n)
        for first in range(0, n, RATE):
            own = 10 * rng.standard_normal((RATE, N_CHANNELS), dtype=np.float32)
            uv = sosfilt(sos, own + shared[first : first + RATE, None], axis=0)
            uv += 5 * np.sin(2 * np.pi * TONE_HZ * np.arange(RATE) / RATE)[:, None]
            counts[first : first + RATE, :-1] = np.rint(uv / GAIN_UV)
        while n_written < n_seconds * RATE:
            part = counts[: n_seconds * RATE - n_written]
            part.tofile(file)
            n_written += len(part)
    channels = [
        Channel(
            raw_column=k,
            channel_id=f"AP{k}",
            contact_id=f"e{k}",
            shank=int(probe.shank[k]),
            x_um=float(probe.locations_um[k, 0]),
            y_um=float(probe.locations_um[k, 1]),
            inter_sample_shift=float(probe.shifts[k]),
            gain_uv=GAIN_UV,
        )
        for k in range(N_CHANNELS)
    ]
    stream = Stream(
        name="imec0.ap",
        kind="ap",
        files=[RawFile(path="t0.bin", role="data", size_bytes=(folder / "t0.bin").stat().st_size)],
        sampling_rate_hz=float(RATE),
        n_columns=N_CHANNELS + 1,
        n_samples=n_written,
        first_sample=0,
        pieces=[Piece(path="t0.bin", first_row=0, n_samples=n_written, first_sample=0)],
        limit_counts=512,
        channels=channels,
    )
    session = Session(
        subject="s", session="1", acquisition="spikeglx", acquisition_version=None, start_time=None
    )
    described = Probe(
        name="probe00",
        part_number=part_number,
        serial_number=None,
        model=None,
        shanks=np.unique(probe.shank).tolist(),
        ap=stream,
        lf=None,
    )
    joined = JoinedProbe(recordings=[ProbeDocument(session=session, probe=described)])
    joined.save(folder / "probe.json")


def measure(folder: Path, out: Path, engine: str, reference: str, jobs: int) -> None:
    """One run, in this process; prints its times and the peak of its memory as JSON."""
    from powerpixels.documents import JoinedProbe
    from powerpixels.preprocess import Settings, preprocess_probe

    moments = {}

    def now() -> np.ndarray:
        """Wall clock, and seconds of all cores by this process and its children that have ended."""
        return np.array([time.perf_counter(), sum(os.times()[:4])])

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("bad channels:"):
                moments["found"] = now()

    log = logging.getLogger("powerpixels")
    log.addHandler(Listener())
    log.setLevel(logging.INFO)
    joined = JoinedProbe.load(folder / "probe.json")
    start = now()
    preprocess_probe(joined, folder, out, Settings(engine=engine, reference=reference), jobs)
    end = now()
    # Of processes, the largest child's times as many as there are: what they share is counted twice.
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if engine == "spikeinterface":
        peak_kb += jobs * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    detection, writing = moments["found"] - start, end - moments["found"]
    found = {
        "detection": detection[0],
        "detection_cores": detection[1],
        "pass": writing[0],
        "pass_cores": writing[1],
        "peak_mb": peak_kb / 1024,
    }
    print(json.dumps(found))


def run(folder: Path, engine: str, reference: str, jobs: int) -> dict:
    """One run in a process of its own, into out_<engine>."""
    out = folder / f"out_{engine}"
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, __file__, "measure", folder, out, engine, reference, str(jobs)],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def differing(folder: Path) -> str:
    """How the traces that the engines' last runs wrote differ: values, and the largest difference."""
    n_values = n_other = largest = 0
    for path in sorted((folder / "out_fast").glob("*/traces.bin")):
        files = [folder / f"out_{engine}" / path.parent.name / path.name for engine in ENGINES]
        one, other = (np.memmap(file, "<i2", "r") for file in files)
        for first in range(0, one.size, 2**24):
            difference = np.abs(one[first : first + 2**24].astype(np.int32) - other[first : first + 2**24])
            n_values += difference.size
            n_other += np.count_nonzero(difference)
            largest = max(largest, int(difference.max()))
    return f"{n_other} of {n_values} values differ ({n_other / n_values:.3%}), by {largest} at most"


def limits(folder: Path, jobs: int, n_seconds: int) -> dict[str, tuple[float, float]]:
    """What copying the raw file through memory takes, and the pass's transforms alone, in all threads.

    Seconds by the clock, and of all cores.
    """
    from powerpixels.kernels import FFT_SAMPLES, PAIRS
    from scipy import fft

    def now() -> np.ndarray:
        return np.array([time.perf_counter(), sum(os.times()[:2])])

    start = now()
    with open(folder / "t0.bin", "rb") as raw, open(folder / "copy.bin", "wb") as copy:
        while block := raw.read(2**25):
            copy.write(block)
    copying = now() - start
    (folder / "copy.bin").unlink()

    def transform(_: int) -> None:
        values = np.ones((PAIRS, FFT_SAMPLES), dtype=np.complex64)
        for _ in range(N_CHANNELS // 2 // PAIRS):
            values = fft.fft(values, axis=1, overwrite_x=True, workers=1)
            values = fft.ifft(values, axis=1, overwrite_x=True, workers=1)

    start = now()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(transform, range(n_seconds)))
    return {"copying the file": tuple(copying), "the transforms alone": tuple(now() - start)}


def shown(seconds: float, n_seconds: int) -> str:
    """Seconds and times real time."""
    return f"{seconds:7.2f} s {n_seconds / seconds:7.2f} x real time"


def described(found: dict, n_seconds: int) -> str:
    """What ``measure`` found, on a line."""
    return (
        f"pass {shown(found['pass'], n_seconds)} ({found['pass_cores']:.1f} s), detection "
        f"{found['detection']:6.2f} s ({found['detection_cores']:.1f} s), peak {found['peak_mb']:5.0f} MB"
    )


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["measure"]:
        folder, out, engine, reference, jobs = sys.argv[2:]
        measure(Path(folder), Path(out), engine, reference, int(jobs))
        return
    n_seconds, n_rounds, n_minutes = (
        int(sys.argv[k]) if len(sys.argv) > k else default for k, default in ((1, 10), (2, 3), (3, 5))
    )
    jobs = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{jobs} cores, {N_CHANNELS} channels, {n_seconds} s, {n_rounds} rounds", flush=True)
        written = None
        for part_number, reference in ROWS:
            if part_number != written:
                write_recording(folder, n_seconds, part_number)
                written = part_number
            rounds = [
                {engine: run(folder, engine, reference, jobs) for engine in ENGINES} for _ in range(n_rounds)
            ]
            for engine in ENGINES:
                median = {
                    key: statistics.median(one[engine][key] for one in rounds) for key in rounds[0][engine]
                }
                print(f"{part_number} {reference:9s} {engine:15s} {described(median, n_seconds)}")
            for key, what in (("pass", "wall clock"), ("pass_cores", "seconds of all cores")):
                ratios = [one["spikeinterface"][key] / one["fast"][key] for one in rounds]
                print(
                    f"{'':16s} ratio of the pass, {what}: {statistics.median(ratios):.1f} "
                    f"({min(ratios):.1f} to {max(ratios):.1f})",
                    flush=True,
                )
            print(f"{'':16s} {differing(folder)}", flush=True)
        for what, (seconds, cores) in limits(folder, jobs, n_seconds).items():
            print(f"{what:22s} {shown(seconds, n_seconds)} ({cores:.1f} s)", flush=True)
        for minutes in (1, n_minutes) if n_minutes else ():
            write_recording(folder, 60 * minutes)
            for reference in ("local", "destripe"):
                found = run(folder, "fast", reference, jobs)
                print(f"{minutes:3d} min {reference:9s} {described(found, 60 * minutes)}", flush=True)


if __name__ == "__main__":
    main()
