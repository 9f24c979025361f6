#!/usr/bin/env python3
"""SORT: one sorting unit's preprocessed recording through the spike sorter."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and sort."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--unit-dir", type=Path, required=True, help="a unit's folder from PREPROCESS")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sorter", default="kilosort4", help="SpikeInterface's name of it")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    parser.add_argument("--params", type=Path, help="JSON object: sorter parameters by name")
    parser.add_argument("--drift", choices=("auto", "sorter", "off", "dredge"), default="auto")
    parser.add_argument("--memory-step", type=int, default=0, help="times a GPU's memory was short")
    parser.add_argument("--keep-binary", action="store_true", help="publish the traces too, for Phy")
    parser.add_argument("--checkpoint-dir", type=Path, help="this unit's own folder for checkpoints")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args(argv)

    # Before the libraries that read these when they start.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(arguments.jobs)
    os.environ["TQDM_DISABLE"] = "1"  # bars drawn over themselves are no log; sorters log lines as well

    from powerpixels.sort import sort_unit
    from powerpixels.sorters import read_parameter_file

    sort_unit(
        arguments.unit_dir,
        arguments.out,
        sorter=arguments.sorter,
        device=arguments.device,
        jobs=arguments.jobs,
        parameters=read_parameter_file(arguments.params) if arguments.params else {},
        seed=arguments.seed,
        drift=arguments.drift,
        memory_step=arguments.memory_step,
        keep_binary=arguments.keep_binary,
        checkpoint_dir=arguments.checkpoint_dir,
    )
    own = ("kilosort", "torch") if arguments.sorter == "kilosort4" else ()
    write_versions(Path("versions.json"), "spikeinterface", *own, "numpy")


if __name__ == "__main__":
    run_stage(main)
