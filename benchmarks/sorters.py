#!/usr/bin/env python3
"""What the sorters find of simulated neurons that drift, and of two shanks that are sorted as one unit.

    .venv/bin/python benchmarks/sorters.py [CASE ...]

One line of a Markdown table per sort, on the CPU with one thread; all cases by default. A neuron is found
where some unit has an accuracy of 0.8 and more for it (SpikeInterface's comparison). Seconds are of the
processor and include the compilation of what a sorter is the first to use: no measure of its speed.
Expected (FLOORS): the least number of neurons found, and the most units beyond one per neuron.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # before the libraries that read them
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

SHANK24 = {"n_channels": 24, "duration_s": 16.0, "spacing_um": 30.0}
SHANK95 = {"n_channels": 95, "duration_s": 16.0, "spacing_um": 60.0}
TWO_SHANKS = {"n_channels": 14, "duration_s": 10.0, "spacing_um": 30.0, "n_shanks": 2}

# Name to recording, µm of drift, sorter, --drift.
CASES = {
    "two-shanks": (TWO_SHANKS, 0.0, "kilosort4", "auto"),
    "95-auto": (SHANK95, 20.0, "kilosort4", "auto"),
    "95-off": (SHANK95, 20.0, "kilosort4", "off"),
    "95-spykingcircus2": (SHANK95, 20.0, "spykingcircus2", "auto"),
    "95-tridesclous2": (SHANK95, 20.0, "tridesclous2", "auto"),
    "24-auto": (SHANK24, 15.0, "kilosort4", "auto"),
    "24-still-tridesclous2": (SHANK24, 0.0, "tridesclous2", "auto"),
}
FLOORS = {
    "two-shanks": (4, 0),
    "95-auto": (11, 0),
    "95-spykingcircus2": (11, 0),
    "95-tridesclous2": (11, 12),
    "24-auto": (3, 2),
    "24-still-tridesclous2": (4, 2),
}


def measure(name: str, folder: Path) -> bool:
    """Simulate, sort, print the table's line; returns whether the case's floor was reached."""
    from drifting_unit import found_neurons, least_accuracy, write_drifting_unit
    from powerpixels.sort import sort_unit

    recording, drift_um, sorter, policy = CASES[name]
    truth = write_drifting_unit(folder / "unit", **recording, drift_um=drift_um)
    n_neurons = len(truth.unit_ids)
    begin = time.process_time()
    document = sort_unit(folder / "unit", folder / "out", sorter=sorter, device="cpu", drift=policy)
    seconds = time.process_time() - begin
    if document.status != "sorted":
        print(f"| {name} | {document.message} |", flush=True)
        return False
    comparison = found_neurons(folder / "out", truth)
    n_found = comparison.count_well_detected_units(0.8)
    n_units = len(document.unit_ids)
    least_found, most_more = FLOORS.get(name, (0, n_units))
    cells = [
        name,
        f"{sorter} {document.sorter_version}",
        policy,
        f"{drift_um:.0f}",
        n_neurons,
        n_found,
        f"{least_accuracy(comparison):.2f}",
        n_units,
        comparison.count_redundant_units(),
        f"{seconds:.0f}",
    ]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return n_found >= least_found and n_units - n_neurons <= most_more


def main() -> None:
    """Measure and print; exit code 1 where a floor was missed."""
    names = sys.argv[1:] or list(CASES)
    print(
        "| case | sorter | --drift | drift, µm | neurons | found | least accuracy | units | redundant | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    reached = True
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            reached = measure(name, Path(temporary)) and reached
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
