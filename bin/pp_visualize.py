#!/usr/bin/env python3
"""VISUALIZE: what preprocessing did to one probe's traces, step by step, as a page with figures."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and draw."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--preprocess", type=Path, required=True, help="preprocess.json")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder with the raw files it names")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)

    # Before the libraries that read these when they start.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"

    from powerpixels.documents import Preprocess
    from powerpixels.visualize import collect
    from powerpixels.visualize_figures import draw

    document = Preprocess.load(arguments.preprocess)
    draw(collect(document, arguments.raw_dir, None, "decided on the whole recording"), arguments.out)
    write_versions(Path("versions.json"), "spikeinterface", "scipy", "numpy", "matplotlib")


if __name__ == "__main__":
    run_stage(main)
