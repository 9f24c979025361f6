#!/usr/bin/env python3
"""What DRIFT costs on a full-size unit, by length of the recording.

    .venv/bin/python benchmarks/drift.py [MINUTES ...]

The preprocessed 1.0 probe of a simulated minute (384 channels, those in the brain are kept), laid end to end
for longer ones; each length in a process of its own with all cores. Prints seconds of wall clock and of all
cores, the seconds of traces that were read, and the peak of memory of this process and, times their number,
of the largest of those it started. Files lie in TMPDIR and are removed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu import simulate


def measure(unit: Path, jobs: int) -> None:
    """Estimate in this process; prints what it took as JSON."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    from powerpixels.motion import estimate_drift

    begin = time.perf_counter()
    ((_, document, _),) = estimate_drift(unit, unit / "drift", jobs=jobs)
    wall_s, cores_s = time.perf_counter() - begin, sum(os.times()[:4])
    own, others = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    found = {"wall_s": wall_s, "cores_s": cores_s, "peak_mb": own + jobs * others}
    found |= {"read_s": document.read_s, "n_peaks": document.n_peaks, "bins": document.n_temporal_bins}
    print(json.dumps(found))


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]))
        return
    from powerpixels.documents import PreprocessedUnit
    from powerpixels.preprocess import Settings, preprocess_probe

    jobs = len(os.sched_getaffinity(0))
    lengths = [int(argument) for argument in sys.argv[1:]] or [1, 3, 10]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, joined, raw = simulate(folder / "session", 60.0, jobs)
        preprocess_probe(joined, raw, folder / "minute", Settings(), jobs)
        shutil.rmtree(folder / "session")
        minute = folder / "minute" / "shank0"
        document = PreprocessedUnit.load(minute / "recording.json")
        print(f"{len(document.channels)} channels, {jobs} cores", flush=True)
        for minutes in lengths:
            unit = folder / "unit"
            unit.mkdir()
            longer = document.model_copy(update={"n_samples": minutes * document.n_samples})
            longer.save(unit / "recording.json")
            with open(unit / "traces.bin", "wb") as file:
                for _ in range(minutes):
                    with open(minute / "traces.bin", "rb") as source:
                        shutil.copyfileobj(source, file, 2**24)
            command = [sys.executable, __file__, "measure", unit, str(jobs)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            shown = ", ".join(f"{key} {value:.0f}" for key, value in found.items())
            print(f"{minutes} min: {shown}", flush=True)
            shutil.rmtree(unit)


if __name__ == "__main__":
    main()
