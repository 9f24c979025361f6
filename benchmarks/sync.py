"""How well and how fast streams are synchronised: random sessions, other tools, three hours, reading.

Run: ``python benchmarks/sync.py [cases per kind of wave and fault] [MB of the AP file]``; needs the tests'
simulation beside it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from clock_streams import Drifting, cases, largest_error, pulses_of, sinusoid, warming_up, wave
from powerpixels import clock
from powerpixels.documents import Piece, RawFile, Stream
from powerpixels.edges import extract_edges, word_edges
from powerpixels.stage import DataError


@dataclass
class Row:
    """Largest error (µs) of three methods in a session with a fault; None: refused."""

    fault: str
    ours_us: float | None
    ibllib_us: float | None
    tprime_us: float | None


def ibllib_map(probe_edges, reference_edges):
    """What ibllib's ``sync_probes.version3B`` does with a probe's and the NIDQ's edges: a map of seconds.

    Pairs by order, refused where the numbers differ by more than a tenth; "smooth" where all intervals of the
    probe's wave are alike, else "exact" (all edges).
    """
    from ibllib.ephys.sync_probes import _check_diff_3b, sync_probe_front_times
    from iblutil.util import Bunch
    from scipy.interpolate import interp1d

    own, reference = (
        Bunch(times=e.of(e.lines[0])[0] / e.sampling_rate_hz, polarities=e.of(e.lines[0])[1])
        for e in (probe_edges, reference_edges)
    )
    if not np.isclose(len(reference.times), len(own.times), rtol=0.1):
        raise DataError("numbers of pulses differ")
    n = min(len(reference.times), len(own.times))
    kind = "smooth" if _check_diff_3b(own) else "exact"
    points, _ = sync_probe_front_times(
        own.times[:n], reference.times[:n], probe_edges.sampling_rate_hz, type=kind, tol=2.5
    )
    return interp1d(*points.T, fill_value="extrapolate")


def tprime_map(probe_edges, reference_edges):
    """A plain interpolation as TPrime's: each rise of the probe's wave is the reference's nearest one.

    Nearest by the counters, which are taken to have started together; linear between, and beyond them.
    """
    from scipy.interpolate import interp1d

    times = []
    for e in (probe_edges, reference_edges):
        sample, polarity = e.of(e.lines[0])
        times.append((e.first_sample + sample[polarity > 0]) / e.sampling_rate_hz)
    own, reference = times
    right = np.clip(np.searchsorted(reference, own), 1, len(reference) - 1)
    nearest = np.where(own - reference[right - 1] < reference[right] - own, right - 1, right)
    starts = [e.first_sample / e.sampling_rate_hz for e in (probe_edges, reference_edges)]
    return interp1d(own - starts[0], reference[nearest] - starts[1], fill_value="extrapolate")


def _streams(duration_s, before_s=100.0, ppm=(12.3, -31.0), hz=30003.0003, drift=None):
    drift = drift or sinusoid(0.2, 1800, 1.0)
    probe = Drifting(
        "imec0.ap", 30000.0, ppm[0], 0.004, int(30000 * before_s) + 123, int(30000 * duration_s), drift=drift
    )
    first, n = int(hz * (before_s - 0.1)), int(hz * (duration_s + 0.3))
    return probe, Drifting("nidq", hz, ppm[1], 0.0, first, n, "P0.0")


def oracle_table() -> list[Row]:
    """Sessions with one fault each, mapped by this pipeline, ibllib and a TPrime-like interpolation."""
    logging.getLogger("ibllib").setLevel(logging.CRITICAL)
    rows = []

    def add(fault, probe, reference, probe_edges, reference_edges):
        errors = []
        for method in (None, ibllib_map, tprime_map):
            try:
                if method is None:
                    fit = clock.fit_clock(probe_edges, reference_edges, probe="p", reference_line="P0.0")
                    errors.append(largest_error(fit, probe, reference) * 1e6)
                    continue
                mapped = method(probe_edges, reference_edges)
            except (DataError, ValueError):
                errors.append(None)
                continue
            samples = np.linspace(0, probe.n_samples - 1, 2001).round()
            truth = reference.own_seconds(probe.true_time(samples))
            errors.append(float(np.abs(mapped(samples / 30000.0) - truth).max()) * 1e6)
        rows.append(Row(fault, *errors))

    probe, reference = _streams(600)
    pulses = wave(705, 0.37)
    toggles = pulses.ravel()
    p, r = probe.record(toggles), reference.record(toggles)
    add("none", probe, reference, p, r)
    n_before = int(np.sum(pulses[:, 0] < probe.true_time(0)))
    lost = np.delete(pulses, n_before, axis=0).ravel()
    add("first pulse lost", probe, reference, probe.record(lost), r)
    lost = np.delete(pulses, n_before + 300, axis=0).ravel()
    add("pulse lost in the middle", probe, reference, probe.record(lost), r)
    lost = np.delete(pulses, n_before + 300, axis=0).ravel()
    add("pulse lost on the reference", probe, reference, p, reference.record(lost))
    glitch = np.sort(np.concatenate([toggles, [400.6, 400.601]]))
    add("glitch", probe, reference, probe.record(glitch), r)
    burst = np.sort(np.concatenate([toggles, 400.4 + np.arange(12) * 0.01]))
    add("burst of 6 extra pulses", probe, reference, probe.record(burst), r)
    quiet = pulses[(pulses[:, 0] < 300) | (pulses[:, 0] > 340)].ravel()
    add("pause of 40 s on the reference", probe, reference, p, reference.record(quiet))
    late = replace(reference, first_sample=int(30003.0003 * 40.3), n_samples=int(30003.0003 * 670))
    add("reference starts a minute before", probe, late, p, late.record(wave(720, 0.37).ravel()))
    warm_probe, warm_reference = _streams(1800, drift=warming_up(2.0, 600, 100))
    toggles = wave(1910, 0.37).ravel()
    add(
        "warming up by 2 ppm",
        warm_probe,
        warm_reference,
        warm_probe.record(toggles),
        warm_reference.record(toggles),
    )
    long_probe, long_reference = _streams(10800, 3600, (97.3, -98.8))
    toggles = wave(14420, 0.123).ravel()
    add(
        "3 hours, an hour after the counters' start",
        long_probe,
        long_reference,
        long_probe.record(toggles),
        long_reference.record(toggles),
    )
    toggles = pulses_of(np.random.default_rng(3), "random", 50, 720).ravel()
    moved = probe.record(toggles)
    moved = replace(moved, first_sample=moved.first_sample + 120 * 30000)
    add("irregular wave, counters 2 minutes apart", probe, reference, moved, reference.record(toggles))
    return rows


def match_long_session(hours: float, n_probes: int) -> tuple[float, float]:
    """Seconds, and peak of memory (MB), for the fits of a session's probes to its NIDQ."""
    toggles = wave(100 + 3600 * hours + 20, 0.3).ravel()
    reference = _streams(3600 * hours)[1]
    sessions = []
    for k in range(n_probes):
        drift = sinusoid(0.4, 2000 + 300 * k, k)
        sessions.append(_streams(3600 * hours, ppm=(20.0 * k - 30, -31.0), drift=drift)[0].record(toggles))
    recorded = reference.record(toggles)
    tracemalloc.start()
    begun = time.monotonic()
    for edges in sessions:
        clock.fit_clock(edges, recorded, probe="probe", reference_line="P0.0")
    seconds = time.monotonic() - begun
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak


@dataclass
class Reading:
    """MB per second of an AP file: its edges found, and the file just read; cold and from the cache."""

    edges_cold: float
    read_cold: float
    edges_cached: float
    read_cached: float


def extraction_speed(megabytes: int) -> Reading:
    """How fast the edges of a probe's AP file are found, beside how fast it can be read at all.

    Cold: after the file's pages were dropped from the cache (``posix_fadvise``). The sync word is 2 of 770
    bytes, but every page of the file holds some of them, so all of it is read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.ap.bin"
        n = megabytes * 10**6 // 770
        block = np.random.default_rng(0).integers(-50, 50, (30000, 385)).astype("<i2")
        block[:, 384] = 0
        block[:15000, 384] = 64
        with open(path, "wb") as file:
            for first in range(0, n, len(block)):
                block[: n - first].tofile(file)
        stream = Stream(
            name="imec0.ap",
            kind="ap",
            files=[RawFile(path=path.name, role="data", size_bytes=path.stat().st_size)],
            sampling_rate_hz=30000.0,
            n_columns=385,
            n_samples=n,
            first_sample=0,
            pieces=[Piece(path=path.name, first_row=0, n_samples=n, first_sample=0)],
            sync_column=384,
            sync_bit=6,
        )

        def read() -> None:
            buffer = bytearray(2**25)
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

        def drop() -> None:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        speeds = []
        for cold in (True, False):
            for task in (lambda: extract_edges(stream, Path(folder)), read):
                if cold:
                    drop()
                begun = time.monotonic()
                task()
                speeds.append(megabytes / (time.monotonic() - begun))
        return Reading(*speeds)


def words_speed(samples: int) -> tuple[float, float]:
    """Seconds in which the edges of so many sync words in memory are found, and peak of memory (MB)."""
    words = np.where(np.arange(2**24) // 15000 % 2, 64, 0).astype(np.uint16)
    before = None
    tracemalloc.start()
    begun = time.monotonic()
    for first in range(0, samples, len(words)):
        some = words[: samples - first]
        word_edges(some, before)
        before = some[-1]
    seconds = time.monotonic() - begun
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak


def refusals(n_each: int, seed: int) -> dict[tuple[str, str], tuple[int, int, float]]:
    """(sessions, refused, largest error in µs) by wave and fault."""
    found = defaultdict(lambda: (0, 0, 0.0))
    for case in cases(n_each, seed):
        n, refused, worst = found[case.kind, case.fault]
        try:
            worst = max(worst, case.error_s(case.fit()) * 1e6)
        except DataError:
            refused += 1
        found[case.kind, case.fault] = n + 1, refused, worst
    return dict(found)


def main() -> None:
    """Print all of it."""
    logging.disable(logging.WARNING)
    print("Largest error in µs against truth (refused: -)")
    print(f"{'fault':45s}{'ours':>12s}{'ibllib':>12s}{'TPrime-like':>14s}")
    for row in oracle_table():
        cells = ["-" if us is None else f"{us:.1f}" for us in (row.ours_us, row.ibllib_us, row.tprime_us)]
        print(f"{row.fault:45s}{cells[0]:>12s}{cells[1]:>12s}{cells[2]:>14s}")
    seconds, peak = match_long_session(3, 4)
    print(f"\n3 hours, 4 probes and a NIDQ: matched in {seconds:.1f} s, at most {peak:.0f} MB")
    seconds, peak = words_speed(5 * 3 * 3600 * 30000)
    print(f"3 hours of 5 streams' sync words in memory: edges in {seconds:.1f} s, at most {peak:.0f} MB")
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    speed = extraction_speed(megabytes)
    cold = f"edges {speed.edges_cold:.0f}, mere reading {speed.read_cold:.0f}"
    cached = f"edges {speed.edges_cached:.0f}, mere reading {speed.read_cached:.0f}"
    print(f"AP file of {megabytes} MB, MB/s: cold {cold}; from the page cache {cached}")
    n_each = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"\n{'wave':10s}{'fault':32s}{'sessions':>9s}{'refused':>9s}{'max error µs':>14s}")
    for (kind, fault), (n, refused, worst) in refusals(n_each, seed=1).items():
        print(f"{kind:10s}{fault:32s}{n:9d}{refused:9d}{worst:14.1f}")


if __name__ == "__main__":
    main()
