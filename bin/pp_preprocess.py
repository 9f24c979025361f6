#!/usr/bin/env python3
"""PREPROCESS: one probe's raw AP files to one int16 binary per sorting unit."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def _radii(text: str) -> tuple[float, float]:
    try:
        inner, outer = (float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"expected INNER,OUTER in µm, such as 40,200; found {text!r}") from None
    if not 0 <= inner < outer:
        raise ArgumentTypeError(f"expected 0 <= INNER < OUTER; found {text!r}")
    return inner, outer


def main(argv: Sequence[str]) -> None:
    """Parse the arguments and preprocess."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--probe", type=Path, required=True, help="the probe's recordings (JSON)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder with their raw files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--preprocessing", choices=("fast", "gpu", "spikeinterface"), default="fast")
    parser.add_argument("--reference", choices=("local", "global", "destripe", "none"), default="local")
    parser.add_argument("--reference-multi-shank", choices=("local", "global", "destripe", "none"))
    parser.add_argument("--reference-scope", choices=("shank", "probe"), default="shank")
    parser.add_argument("--notch", choices=("auto", "off"), default="auto")
    parser.add_argument("--notch-threshold-uv2-hz", type=float, default=0.0137)
    parser.add_argument("--mute", choices=("none", "saturation", "artifacts"), default="saturation")
    parser.add_argument("--highpass-hz", type=float, default=300.0)
    parser.add_argument("--local-radius-um", type=_radii, default=(40.0, 200.0), metavar="INNER,OUTER")
    parser.add_argument("--sort-by", choices=("shank", "probe"), default="shank")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--jobs", type=int, default=1, help="threads, or processes of SpikeInterface")
    arguments = parser.parse_args(argv)

    from powerpixels.documents import JoinedProbe
    from powerpixels.preprocess import Settings, preprocess_probe

    preprocess_probe(
        JoinedProbe.load(arguments.probe),
        arguments.raw_dir,
        arguments.out,
        Settings(
            engine=arguments.preprocessing,
            reference=arguments.reference,
            reference_multi_shank=arguments.reference_multi_shank,
            reference_scope=arguments.reference_scope,
            notch=arguments.notch,
            notch_threshold_uv2_hz=arguments.notch_threshold_uv2_hz,
            mute=arguments.mute,
            highpass_hz=arguments.highpass_hz,
            local_radius_um=arguments.local_radius_um,
            sort_by=arguments.sort_by,
            seed=arguments.seed,
        ),
        jobs=arguments.jobs,
    )
    write_versions(Path("versions.json"), "spikeinterface", "probeinterface", "numpy", "scipy", "numba")


if __name__ == "__main__":
    run_stage(main)
