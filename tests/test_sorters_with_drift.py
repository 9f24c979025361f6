"""Kilosort 4 and two sorters for the CPU on a shank of 95 channels that drifts by 20 µm: floors of benchmarks/sorters.py.

A neuron is found where a unit has an accuracy of 0.8 and more for it, so recall and precision are no less.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SORTERS = Path(__file__).resolve().parent.parent / "benchmarks" / "sorters.py"


@pytest.mark.parametrize("case", ["95-auto", "95-spykingcircus2", "95-tridesclous2"])
def test_every_drifting_neuron_is_found(case):
    done = subprocess.run([sys.executable, SORTERS, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {case}")]
    n_neurons, n_found = row.split("|")[5:7]
    assert int(n_neurons) == int(n_found) == 11
