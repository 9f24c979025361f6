#!/usr/bin/env python3
"""DRIFT: the motion of the tissue along one sorting unit's channels, and the traces without it."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments, estimate the motion, draw it."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--unit-dir", type=Path, required=True, help="a unit's folder from PREPROCESS")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--drift", choices=("auto", "sorter", "dredge"), default="auto", help="who corrects it"
    )
    parser.add_argument("--corrected", type=Path, help="with dredge: folder to write the corrected unit to")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args(argv)

    # Before the libraries that read these when they start: the processes are what works in parallel.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"

    from powerpixels.motion import estimate_drift
    from powerpixels.motion_figures import draw

    estimates = estimate_drift(
        arguments.unit_dir,
        arguments.out,
        policy=arguments.drift,
        corrected=arguments.corrected,
        jobs=arguments.jobs,
        seed=arguments.seed,
    )
    for folder, _, peaks in estimates:
        draw(folder, peaks)
    write_versions(Path("versions.json"), "spikeinterface", "torch", "numba", "scipy", "numpy", "matplotlib")


if __name__ == "__main__":
    run_stage(main)
