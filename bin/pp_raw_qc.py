#!/usr/bin/env python3
"""RAW_QC: levels, spectra, saturation and artifacts of one probe's raw AP and LF bands."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv: Sequence[str]) -> None:
    """Parse the arguments, measure, and draw the figures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--probe", type=Path, required=True, help="the probe's document (JSON)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder with its AP, then its LF files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sync", type=Path, help="sync.json: time stamps on the reference clock")
    parser.add_argument("--lfp", action="store_true", help="write lfp.zarr, the LF band")
    parser.add_argument("--notch", choices=("auto", "off"), default="auto")
    parser.add_argument("--notch-threshold-uv2-hz", type=float, default=0.0137)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    arguments = parser.parse_args(argv)

    from powerpixels.documents import ClockFit, ProbeDocument
    from powerpixels.raw_qc import raw_qc
    from powerpixels.raw_qc_figures import draw

    raw_qc(
        ProbeDocument.load(arguments.probe),
        arguments.raw_dir,
        arguments.out,
        jobs=arguments.jobs,
        fit=ClockFit.load(arguments.sync) if arguments.sync else None,
        lfp=arguments.lfp,
        seed=arguments.seed,
        notch=arguments.notch,
        notch_threshold_uv2_hz=arguments.notch_threshold_uv2_hz,
    )
    draw(arguments.out)
    packages = ["numpy", "scipy", "numba", "pydantic", "probeinterface", "matplotlib"]
    write_versions(Path("versions.json"), *packages, *(["zarr", "numcodecs"] if arguments.lfp else []))


if __name__ == "__main__":
    run_stage(main)
