#!/usr/bin/env python3
"""LABEL: what each tool says of each unit of a sorting."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import read_json, run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and label."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sorting", type=Path, required=True, help="the unit's folder from SORT")
    parser.add_argument("--analysis", type=Path, required=True, help="the unit's folder from ANALYZE")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--bombcell-params", type=Path, help="JSON object: Bombcell's parameters in place of its defaults"
    )
    parser.add_argument("--ibl-params", type=Path, help="JSON object: IBL's criteria in place of its own")
    parser.add_argument("--unitrefine-models", type=Path, help="folder made by powerpixels fetch-models")
    arguments = parser.parse_args(argv)

    from powerpixels.label import label_units

    label_units(
        arguments.sorting,
        arguments.analysis,
        arguments.out,
        bombcell=read_json(arguments.bombcell_params) if arguments.bombcell_params else {},
        ibl=read_json(arguments.ibl_params) if arguments.ibl_params else {},
        models=arguments.unitrefine_models,
    )
    write_versions(Path("versions.json"), "spikeinterface", "bombcell", "ibllib", "scikit-learn", "pandas")


if __name__ == "__main__":
    run_stage(main)
