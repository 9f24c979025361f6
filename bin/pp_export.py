#!/usr/bin/env python3
"""EXPORT: gathers a probe's sorting units and writes them as ALF on the reference clock."""

import argparse
from pathlib import Path

from powerpixels.probe_parts import add_arguments, read_arguments
from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse arguments, gather the probe, write `<out>/alf` and two documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--muted", type=Path, help="muted.npy of PREPROCESS")
    parser.add_argument("--motion", type=Path, nargs="*", default=[], help="folders of DRIFT, in any order")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import alf, export

    probe = export.gather(*read_arguments(parser, args), args.muted, args.motion)
    alf.write_alf(probe, args.out / "alf")
    export.summarise(probe).save(args.out / "summary.json")
    export.agreement_of(probe).save(args.out / "agreement.json")
    write_versions(Path("versions.json"), "spikeinterface", "numpy", "pandas")


if __name__ == "__main__":
    run_stage(main)
