#!/usr/bin/env python3
"""How much faster the kernels preprocess than SpikeInterface's chain, side by side on the same cores.

    .venv/bin/python benchmarks/kernels.py [CORES] [ROUNDS]

One second of 384 channels of a 1.0 probe per core, in memory, raw int16 to int16 counts: SpikeInterface in
CORES processes, one chunk of a second each, the kernels in CORES threads. The two take turns; times are the
median of the rounds (the shortest in brackets), in seconds of wall clock per second of recording. Below
them what the machine itself can do: the transforms alone, and copying the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import fft

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from powerpixels import kernels, medians
from probe_geometries import geometry

RATE = 30_000
N_CHANNELS = 384
RAW_GAIN, OUT_GAIN = 2.34375, 0.29296875
PROBE = geometry("NP1000", N_CHANNELS)
ORDER = np.lexsort((PROBE.locations_um[:, 0], PROBE.locations_um[:, 1]))
RMS_UV = np.full(N_CHANNELS, 10.0)
# Seconds of data before and after what is measured, so that no chunk lies at an end.
SPARE = 1
REFERENCES = ("local", "global", "destripe")
CHAINS: dict = {}


def simulated(n_seconds: int) -> np.ndarray:
    """(samples, channels) int16: noise of 10 µV and slow waves."""
    rng = np.random.default_rng(1)
    n_samples = n_seconds * RATE
    wave = 300 * np.sin(2 * np.pi * 8 * np.arange(n_samples, dtype=np.float32) / RATE)[:, None]
    noise = rng.standard_normal((n_samples, N_CHANNELS), dtype=np.float32) * 10
    return np.rint((wave + noise) / RAW_GAIN).astype(np.int16)


def build_chains(raw: np.ndarray) -> None:
    """SpikeInterface's chain for each reference, in CHAINS."""
    from spikeinterface import preprocessing as spre
    from spikeinterface.core import NumpyRecording

    recording = NumpyRecording([raw], RATE)
    recording.set_dummy_probe_from_locations(PROBE.locations_um)
    recording.set_channel_gains(RAW_GAIN)
    recording.set_channel_offsets(0.0)
    scaled = spre.scale(recording, gain=recording.get_channel_gains(), dtype="float32")
    scaled.set_channel_gains(1.0)
    filtered = spre.phase_shift(
        spre.highpass_filter(scaled, freq_min=300.0), margin_ms=40.0, inter_sample_shift=PROBE.shifts
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CHAINS["local"] = spre.common_reference(filtered, reference="local", local_radius=(40.0, 200.0))
    CHAINS["global"] = spre.common_reference(filtered, reference="global")
    CHAINS["destripe"] = spre.highpass_spatial_filter(filtered, n_channel_pad=60, rms_values=RMS_UV)


def spikeinterface_chunk(task: tuple[str, int]) -> np.ndarray | None:
    """One second by SpikeInterface, as counts; worker processes keep them to themselves."""
    reference, start = task
    traces_uv = CHAINS[reference].get_traces(start_frame=start, end_frame=start + RATE)
    counts = np.clip(np.rint(traces_uv / np.float32(OUT_GAIN)), -32767, 32767).astype(np.int16)
    return counts if multiprocessing.parent_process() is None else None


class Kernels:
    """The same by the kernels, with memory that is used again for each chunk."""

    def __init__(self, raw: np.ndarray, pool: ThreadPoolExecutor):
        """raw: as from ``simulated``."""
        self.raw, self.pool = raw, pool
        self.plan = kernels.filter_plan(
            RATE, 300.0, np.arange(N_CHANNELS), np.full(N_CHANNELS, RAW_GAIN), PROBE.shifts
        )
        start = time.perf_counter()
        self.programs = {
            "local": medians.median_program(medians.local_neighbours(PROBE.locations_um)),
            "global": medians.median_program(np.ones((N_CHANNELS, N_CHANNELS), dtype=bool)),
        }
        self.planning_s = time.perf_counter() - start
        self.margin = kernels.destripe_margin(RATE)
        self.traces = np.empty((N_CHANNELS, RATE), dtype=np.float32)
        self.wide = np.empty((N_CHANNELS, RATE + 2 * self.margin), dtype=np.float32)
        self.counts = np.empty((RATE, N_CHANNELS), dtype=np.int16)

    def chunk(self, reference: str, start: int) -> np.ndarray:
        """One second, as counts."""
        plan, pool = self.plan, self.pool
        more = self.margin if reference == "destripe" else 0
        reach = more + plan.margin
        traces = kernels.filter_chunk(
            self.raw[start - reach : start + RATE + reach],
            plan.margin,
            plan.margin,
            plan,
            pool,
            self.wide if more else self.traces,
        )
        if reference == "destripe":
            traces = kernels.destripe(traces, more, more, RATE, ORDER, RMS_UV, 60, pool, self.traces)
        else:
            medians.subtract_medians(traces, self.programs[reference], pool)
        kernels.quantise(traces, OUT_GAIN, self.counts, 0, pool)
        return self.counts

    def transforms(self) -> None:
        """Forward and back, as many and as long as one chunk needs; nothing else."""

        def task(_: int) -> None:
            values = kernels._scratch(kernels.FFT_SAMPLES)
            values[:] = 1
            fft.ifft(
                fft.fft(values, axis=1, overwrite_x=True, workers=1), axis=1, overwrite_x=True, workers=1
            )

        list(self.pool.map(task, range(-(-N_CHANNELS // 2 // kernels.PAIRS))))

    def copy(self) -> None:
        """The chunk's raw samples into its counts: the bytes that must be read and written."""
        rows = [slice(k, k + 2_000) for k in range(0, RATE, 2_000)]
        raw = self.raw[SPARE * RATE : (SPARE + 1) * RATE]
        list(self.pool.map(lambda part: np.copyto(self.counts[part], raw[part]), rows))


def seconds(function, *arguments) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def shown(times: list[float], n_seconds: int) -> str:
    """Median (shortest) seconds per second of recording, and times real time by the median."""
    per_second = [value / n_seconds for value in times]
    median = statistics.median(per_second)
    return f"{median:8.4f} ({min(per_second):.4f}) s   {1 / median:6.2f} x real time"


def main() -> None:
    """Measure and print."""
    n_cores = int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))
    n_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    raw = simulated(n_cores + 2 * SPARE)
    build_chains(raw)
    starts = [(SPARE + k) * RATE for k in range(n_cores)]
    # Forked before there are threads, so that all share the samples.
    with multiprocessing.get_context("fork").Pool(n_cores) as processes, ThreadPoolExecutor(n_cores) as pool:
        ours = Kernels(raw, pool)

        def by_spikeinterface(reference: str) -> None:
            for _ in processes.imap(spikeinterface_chunk, [(reference, start) for start in starts]):
                pass

        def by_kernels(reference: str) -> None:
            for start in starts:
                ours.chunk(reference, start)

        print(f"{n_cores} cores, {N_CHANNELS} channels, {n_rounds} rounds; ", end="")
        print(f"planning of the medians {ours.planning_s:.1f} s, once")
        processes.map(spikeinterface_chunk, [("global", start) for start in starts])
        for reference in REFERENCES:
            by_kernels(reference)  # compiles
            pairs = [
                (seconds(by_spikeinterface, reference), seconds(by_kernels, reference))
                for _ in range(n_rounds)
            ]
            stock, fast = (list(times) for times in zip(*pairs, strict=True))
            print(f"{reference:9s} SpikeInterface {shown(stock, n_cores)}")
            print(f"{'':9s} kernels        {shown(fast, n_cores)}")
            ratios = [one / other for one, other in pairs]
            expected = spikeinterface_chunk((reference, starts[0])).astype(int)
            difference = np.abs(ours.chunk(reference, starts[0]) - expected)
            print(
                f"{'':9s} ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}); "
                f"counts differ in {100 * np.mean(difference > 0):.2f} %, by at most {difference.max()}",
                flush=True,
            )
        for name, function in (("transforms alone", ours.transforms), ("copy alone", ours.copy)):
            function()
            print(f"{name:24s} {shown([seconds(function) for _ in range(5)], 1)}")


if __name__ == "__main__":
    main()
