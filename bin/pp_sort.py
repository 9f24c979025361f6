#!/usr/bin/env python3
"""SORT: one sorting unit's preprocessed recording through the spike sorter."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerpixels.stage import DataError, read_json, run_stage, write_versions


def _read_parameters(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    parameters = read_json(path)
    if not isinstance(parameters, dict):
        raise DataError(f"{path}: expected a JSON object of parameters by name; correct it")
    return parameters


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and sort."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--unit-dir", type=Path, required=True, help="a unit's folder from PREPROCESS")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sorter", choices=("kilosort4",), default="kilosort4")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    parser.add_argument("--params", type=Path, help="JSON object: sorter parameters by name")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args(argv)

    # Before the libraries that read these when they start.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(arguments.jobs)
    os.environ["TQDM_DISABLE"] = "1"  # bars drawn over themselves are no log; Kilosort logs lines as well

    from powerpixels.sort import sort_unit

    sort_unit(
        arguments.unit_dir,
        arguments.out,
        sorter=arguments.sorter,
        device=arguments.device,
        jobs=arguments.jobs,
        parameters=_read_parameters(arguments.params),
        seed=arguments.seed,
    )
    write_versions(Path("versions.json"), "spikeinterface", "kilosort", "torch", "numpy")


if __name__ == "__main__":
    run_stage(main)
