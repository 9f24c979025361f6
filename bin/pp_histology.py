#!/usr/bin/env python3
"""HISTOLOGY: tracings of a session's probes as xyz_picks.json, for IBL's alignment tool."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and convert."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tracing",
        type=Path,
        nargs="+",
        required=True,
        help="file of a histology tool, or folder",
    )
    parser.add_argument(
        "--probes",
        nargs="+",
        required=True,
        metavar="PROBE:SHANKS",
        help="the session's probes with their recorded shanks, counted from 0, as in probe00:0,1,2,3",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for <probe>/xyz_picks*.json")
    arguments = parser.parse_args(argv)

    from powerpixels.histology import convert_session

    probes = {}
    for given in arguments.probes:
        name, _, shanks = given.partition(":")
        probes[name] = [int(shank) for shank in shanks.split(",")]
    for line in convert_session(arguments.tracing, arguments.out, probes):
        logging.getLogger("powerpixels").info("%s", line)
    write_versions(Path("versions.json"), "numpy", "scipy", "h5py")


if __name__ == "__main__":
    run_stage(main)
