#!/usr/bin/env python3
"""A full-size recording through PREPROCESS and SORT on a machine with a GPU.

    .venv/bin/python benchmarks/gpu.py [SECONDS] [CORES]

A simulated 1.0 probe (384 channels, ``powerpixels simulate --preset full``) of SECONDS:

    preprocess   the pass on CORES threads and with the GPU's arithmetic: seconds, and how their traces differ
    sort         bin/pp_sort.py as SORT runs it: seconds of the job and of Kilosort's steps in it, how busy
                 the GPU was meanwhile (nvidia-smi, twice a second), its memory, what was found of the neurons
    checks       on the first CHECKED_S: the same spikes again; the same after SIGKILL behind a checkpoint;
                 the memory that each step of the ladder takes; the error where a GPU's memory is too small
    direct       kilosort.run_kilosort on that part: seconds beside ours, and whether the spikes are the same

Prints a line each and, last, all numbers as JSON. Files lie in TMPDIR, 60 GB for 10 minutes, and are removed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bin")]

CHECKED_S = 120
SPIKES = ("spike_samples.npy", "spike_unit_ids.npy")
# Of the GPU's memory: less than 384 channels take.
TOO_LITTLE = 0.004


def simulate(folder: Path, n_seconds: float, jobs: int):
    """The session, and its 1.0 probe's recording for PREPROCESS."""
    from powerpixels.documents import JoinedProbe
    from powerpixels.inventory import inspect_documents, stage_documents
    from powerpixels.simulate import SimulationConfig, Truth, simulate_session

    config = SimulationConfig.full(n_seconds)
    simulate_session(folder, config.model_copy(update={"probes": config.probes[:1]}), jobs)
    truth = Truth.load(folder)
    documents = stage_documents(inspect_documents(truth.run_folder, "mouse01", truth.document.session))
    return truth, JoinedProbe(recordings=[documents["probe00.json"]]), truth.run_folder


def preprocess(joined, raw: Path, out: Path, engine: str, jobs: int) -> float:
    """Seconds of the pass itself, from raw file to traces.bin."""
    from powerpixels.preprocess import Settings, preprocess_probe

    moment = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("bad channels:"):
                moment["found"] = time.perf_counter()

    listener = Listener()
    logging.getLogger("powerpixels").addHandler(listener)
    preprocess_probe(joined, raw, out, Settings(engine=engine), jobs)
    logging.getLogger("powerpixels").removeHandler(listener)
    return time.perf_counter() - moment["found"]


def differences(one: Path, other: Path) -> tuple[int, float]:
    """Largest difference between two files of counts, and the share of counts that differ."""
    a, b = (np.memmap(path, dtype="<i2", mode="r") for path in (one, other))
    largest = n_other = 0
    for start in range(0, a.size, 2**26):
        apart = np.abs(a[start : start + 2**26].astype(np.int32) - b[start : start + 2**26])
        largest = max(largest, int(apart.max()))
        n_other += int(np.count_nonzero(apart))
    return largest, n_other / a.size


def watched(command: list, folder: Path) -> dict:
    """Run it; its seconds, and the GPU's use and memory (MiB, of all that runs there) meanwhile."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    with open(folder / "gpu.csv", "w") as file:
        watcher = subprocess.Popen([*query, "-lms", "500"], stdout=file)
        begin = time.perf_counter()
        try:
            subprocess.run(command, cwd=folder, check=True)
        finally:
            wall_s = time.perf_counter() - begin
            watcher.terminate()
            watcher.wait()
    use = np.loadtxt(folder / "gpu.csv", delimiter=",", ndmin=2)
    return {"wall_s": wall_s, "gpu_busy_percent": float(use[:, 0].mean()), "gpu_mib": float(use[:, 1].max())}


def sort(unit: Path, folder: Path, jobs: int, *more: str) -> dict:
    """SORT's job; what ``watched`` tells, and Kilosort's timings."""
    folder.mkdir()
    command = [sys.executable, ROOT / "bin" / "pp_sort.py", "--unit-dir", unit, "--out", "out"]
    found = watched([*command, "--device", "cuda", "--jobs", str(jobs), *more], folder)
    return {**found, **json.loads((folder / "out" / "sorter_output" / "timings.json").read_text())}


def direct(unit: Path, parameters: Path, results: Path) -> None:
    """Kilosort's own function in this process; prints its seconds."""
    import kilosort.run_kilosort  # noqa: F401  its import is not measured
    from kilosort_attempts import directly

    given = json.loads(parameters.read_text())["parameters"]
    begin = time.perf_counter()
    directly(unit, results, given, "cuda")
    print(json.dumps({"direct_s": time.perf_counter() - begin}))


def same_spikes(one: Path, other: Path) -> bool:
    """Whether two SORT folders hold the same bytes of spikes."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in SPIKES)


def scores(truth, sorting: Path) -> dict:
    """Of the well-isolated neurons: how many there are and are found, median recall and precision."""
    from powerpixels.simulate import score_sorting

    spikes = truth.spikes("probe00")
    units = [unit.unit for unit in truth.probe("probe00").units if unit.well_isolated]
    samples, unit_ids = (np.load(sorting / name) for name in SPIKES)
    table = score_sorting(
        {unit: spikes["sample"][spikes["unit"] == unit] for unit in units},
        {int(unit): samples[unit_ids == unit] for unit in np.unique(unit_ids)},
        30_000.0,
    )
    return {
        "neurons": len(table),
        "recall_above_0.8": int((table["recall"] > 0.8).sum()),
        "median_recall": float(table["recall"].median()),
        "median_precision": float(table["precision"].median()),
        "units": int(np.unique(unit_ids).size),
    }


def first_part(unit: Path, out: Path) -> Path:
    """The unit's first CHECKED_S as a unit of its own."""
    from powerpixels.documents import PreprocessedUnit

    out.mkdir()
    whole = PreprocessedUnit.load(unit / "recording.json")
    n_samples = min(whole.n_samples, int(CHECKED_S * whole.sampling_rate_hz))
    whole.model_copy(update={"n_samples": n_samples}).save(out / "recording.json")
    with open(unit / "traces.bin", "rb") as source, open(out / "traces.bin", "wb") as target:
        target.write(source.read(n_samples * len(whole.channels) * 2))
    return out


def killed_behind_a_checkpoint(unit: Path, folder: Path, jobs: int) -> bool:
    """Sort, SIGKILL behind the second checkpoint, sort on; whether that happened."""
    folder.mkdir()
    kept = folder / "kept"
    command = [sys.executable, ROOT / "bin" / "pp_sort.py", "--unit-dir", unit, "--out", "out"]
    command += ["--device", "cuda", "--jobs", str(jobs), "--checkpoint-dir", kept]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "checkpoint after detection" in line:
            process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=folder, check=True)
    timings = json.loads((folder / "out" / "sorter_output" / "timings.json").read_text())
    return process.returncode == -signal.SIGKILL and timings["resumed_after"] == "detection"


def too_little_memory(unit: Path, folder: Path) -> str:
    """What SORT says where the GPU's memory is too small for the sort."""
    import torch
    from powerpixels.sort import sort_unit
    from powerpixels.stage import GpuMemoryError

    torch.cuda.set_per_process_memory_fraction(TOO_LITTLE)
    try:
        sort_unit(unit, folder, device="cuda")
    except GpuMemoryError as error:
        return str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    return "sorted all the same"


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["direct"]:
        direct(*map(Path, sys.argv[2:]))
        return
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    n_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    jobs = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    found: dict = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cores": jobs,
        "recording_s": n_seconds,
    }

    def tell(**more) -> None:
        found.update(more)
        print(", ".join(f"{name} {value}" for name, value in more.items()), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        truth, joined, raw = simulate(folder / "session", n_seconds, jobs)
        tell(simulating_s=time.perf_counter() - begin)
        unit = folder / "fast" / "shank0"
        tell(pass_fast_s=preprocess(joined, raw, folder / "fast", "fast", jobs))

        sorted_ = sort(unit, folder / "sort", jobs)
        steps_s = sum(sorted_["steps"].values())
        tell(**{f"sort_{key}": value for key, value in sorted_.items()})
        tell(speed=n_seconds / sorted_["wall_s"], steps_of_job=steps_s / sorted_["wall_s"])
        tell(**scores(truth, folder / "sort/out"))

        part = first_part(unit, folder / "part")
        first = sort(part, folder / "first", jobs)
        results = folder / "direct"
        command = [sys.executable, __file__, "direct", part, folder / "first/out/sorting.json", results]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        direct_s = json.loads(done.stdout.splitlines()[-1])["direct_s"]
        tell(direct_s=direct_s, ours_s=first["total_s"], ours_over_direct=first["total_s"] / direct_s)
        ours = folder / "first/out/sorter_output"
        for file in ("spike_times.npy", "spike_clusters.npy"):
            tell(**{f"direct_same_{file}": (ours / file).read_bytes() == (results / file).read_bytes()})
        sizes = [np.load(own / "amplitudes.npy") for own in (ours, results)]
        tell(direct_amplitudes_apart=float(np.abs(sizes[1] / sizes[0] - 1).max()))

        tell(pass_gpu_s=preprocess(joined, raw, folder / "gpu", "gpu", jobs))
        tell(pass_gpu_peak_bytes=torch.cuda.max_memory_reserved())
        torch.cuda.empty_cache()
        largest, share = differences(*(folder / engine / "shank0/traces.bin" for engine in ("fast", "gpu")))
        tell(largest_difference_counts=largest, share_other=share)
        shutil.rmtree(folder / "gpu")

        again = sort(part, folder / "again", jobs, "--memory-step", "1")
        tell(same_spikes_again=same_spikes(folder / "first/out", folder / "again/out"))
        tell(killed=killed_behind_a_checkpoint(part, folder / "killed", jobs))
        tell(same_spikes_after_kill=same_spikes(folder / "first/out", folder / "killed/out"))
        quarter = sort(part, folder / "quarter", jobs, "--memory-step", "3")
        for step, timings in ((0, first), (1, again), (3, quarter)):
            tell(**{f"ladder_{step}": (timings["gpu_peak_bytes"], timings["total_s"])})
        tell(too_little=too_little_memory(part, folder / "little"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
