#!/usr/bin/env python3
"""ANALYZE: a sorting unit's SortingAnalyzer and metrics."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import read_json, run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and analyze."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--unit-dir", type=Path, required=True, help="a unit's folder from PREPROCESS")
    parser.add_argument("--sorting", type=Path, required=True, help="the unit's folder from SORT")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--pca-metrics", action="store_true", help="metrics of the waveforms' principal components too"
    )
    parser.add_argument(
        "--bombcell-params", type=Path, help="JSON object: parameters of Bombcell's measuring, not thresholds"
    )
    arguments = parser.parse_args(argv)

    from powerpixels.analyze import analyze_unit

    analyze_unit(
        arguments.unit_dir,
        arguments.sorting,
        arguments.out,
        jobs=arguments.jobs,
        seed=arguments.seed,
        pca_metrics=arguments.pca_metrics,
        bombcell=read_json(arguments.bombcell_params) if arguments.bombcell_params else {},
    )
    write_versions(Path("versions.json"), "spikeinterface", "bombcell", "slidingRP", "numpy", "zarr")


if __name__ == "__main__":
    run_stage(main)
