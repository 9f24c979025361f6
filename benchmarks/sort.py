#!/usr/bin/env python3
"""Our Kilosort run against Kilosort's own function on the same binary, on the CPU, side by side in one run.

    .venv/bin/python benchmarks/sort.py [CHANNELS] [SECONDS] [ROUNDS] [THREADS]

One simulated shank, each run in a fork of one process that has everything imported and compiled; the runs
take turns. Seconds are of wall clock and, in brackets, of the processor; ratios are of the latter, which a
busy machine hardly changes, the median over the rounds:

    ours / direct           ours by kilosort.run_kilosort, both with the fused match: what the steps, the
                            timings and the identity of the run cost; the results' bytes are compared
    checkpoints             the same with checkpoints
    without high-pass       the same without Kilosort's high-pass filter
    stock                   kilosort.run_kilosort as it is
    job                     bin/pp_sort.py as SORT runs it: seconds of Kilosort's steps over those of the job
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUMBERS = [int(argument) for argument in sys.argv[1:]]
CHANNELS, SECONDS, ROUNDS, THREADS = NUMBERS + [24, 30, 2, 1][len(NUMBERS) :]
if __name__ == "__main__":  # before the libraries that read them
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = str(THREADS)
    os.environ["TQDM_DISABLE"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def parameters(n_channels: int) -> dict:
    """What both are run with; the clustering's seed and the drift policy are SORT's."""
    return {"do_CAR": False, "cluster_init_seed": 42, "nblocks": 0 if n_channels < 65 else 1}


def runs() -> dict:
    """Name to a function of (unit folder, results folder)."""
    from kilosort import spikedetect
    from kilosort_attempts import directly
    from powerpixels import template_match
    from powerpixels.kilosort_run import run_kilosort

    given = parameters(CHANNELS)
    stock_match = spikedetect.template_match

    def stock(unit: Path, results: Path) -> None:
        template_match.install = lambda: spikedetect.__setattr__("template_match", stock_match)
        directly(unit, results, given)

    def checkpointed(unit: Path, results: Path) -> None:
        run_kilosort(unit, results, given, "cpu", results / "checkpoints", THREADS)

    def without_highpass(unit: Path, results: Path) -> None:
        run_kilosort(unit, results, {**given, "skip_kilosort_preprocessing": True}, "cpu", None, THREADS)

    return {
        "direct": lambda unit, results: directly(unit, results, given),
        "ours": lambda unit, results: run_kilosort(unit, results, given, "cpu", None, THREADS),
        "checkpoints": checkpointed,
        "without high-pass": without_highpass,
        "stock": stock,
    }


def seconds(function, unit: Path, results: Path) -> tuple[float, float]:
    """Seconds of wall clock and of the processor of a run in a fork of this process, its output put aside."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            function(unit, results)
            status = 0
        finally:
            os._exit(status)
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{results.name} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def found(results: Path, truth) -> int:
    """How many simulated neurons have a unit of accuracy above 0.8."""
    from spikeinterface.comparison import compare_sorter_to_ground_truth
    from spikeinterface.extractors.extractor_classes import KiloSortSortingExtractor

    comparison = compare_sorter_to_ground_truth(truth, KiloSortSortingExtractor(results))
    return int((comparison.get_performance()["accuracy"] > 0.8).sum())


def job(unit: Path, folder: Path) -> tuple[float, float]:
    """Seconds of Kilosort's steps and of the whole process of SORT."""
    folder.mkdir()
    command = [sys.executable, ROOT / "bin" / "pp_sort.py", "--unit-dir", unit, "--out", "sorting"]
    options = ["--device", "cpu", "--jobs", str(THREADS)]
    start = time.perf_counter()
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
    wall = time.perf_counter() - start
    timings = json.loads((folder / "sorting" / "sorter_output" / "timings.json").read_text())
    return sum(timings["steps"].values()), wall


def main() -> None:
    """Measure and print."""
    import numpy as np
    from simulated_unit import write_ground_truth

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unit = folder / "unit"
        truth = write_ground_truth(unit, CHANNELS, float(SECONDS), max(CHANNELS // 4, 4), 40.0)
        warm = folder / "warm"
        write_ground_truth(warm, 14, 6.0, 2, 45.0)
        variants = runs()
        variants["direct"](warm, folder / "compiled")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for turn in range(ROUNDS):
            for name, function in variants.items():
                if name == "stock" and turn:
                    continue  # it takes as long as all others together
                times[name].append(seconds(function, unit, folder / f"{name} {turn}"))
        steps, wall = job(unit, folder / "job")

        print(f"{CHANNELS} channels, {SECONDS} s, {THREADS} threads, {ROUNDS} rounds")
        for name, measured in times.items():
            ratios = [own[1] / direct[1] for own, direct in zip(measured, times["direct"], strict=False)]
            wall_s, used_s = (statistics.median(parts) for parts in zip(*measured, strict=True))
            results = folder / f"{name} 0"
            same = all(
                (results / file).read_bytes() == (folder / "direct 0" / file).read_bytes()
                for file in ("spike_times.npy", "spike_clusters.npy", "templates.npy", "amplitudes.npy")
            )
            n_spikes = len(np.load(results / "spike_times.npy"))
            print(
                f"{name:18} {wall_s:7.1f} s ({used_s:.1f}), {statistics.median(ratios):5.3f} of direct "
                f"({min(ratios):.3f} to {max(ratios):.3f}), {n_spikes} spikes, "
                f"{found(results, truth)} of {len(truth.unit_ids)} neurons, "
                f"{'the same bytes' if same else 'other bytes'}"
            )
        print(
            f"job                {wall:7.1f} s, of which Kilosort's steps {steps:.1f} s: {steps / wall:.3f}"
        )


if __name__ == "__main__":
    main()
