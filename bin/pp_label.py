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
        "--bombcell-params", type=Path, help="JSON object: thresholds in place of the defaults"
    )
    arguments = parser.parse_args(argv)

    from powerpixels.label import label_units

    thresholds = read_json(arguments.bombcell_params) if arguments.bombcell_params else {}
    label_units(arguments.sorting, arguments.analysis, arguments.out, thresholds)
    write_versions(Path("versions.json"), "spikeinterface", "pandas")


if __name__ == "__main__":
    run_stage(main)
