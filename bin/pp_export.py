#!/usr/bin/env python3
"""EXPORT: gathers a probe's sorting units and writes them as ALF and NWB on the reference clock."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse arguments, gather the probe, write `<out>/alf`, `<out>/nwb` and two documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--probe", type=Path, required=True, help="the probe's document in the session to export"
    )
    parser.add_argument("--preprocess", type=Path, required=True, help="preprocess.json")
    parser.add_argument("--sync", type=Path, required=True, help="the probe's clock fit (sync.json)")
    for name, what in (
        ("sorting", "folders of SORT"),
        ("analysis", "folders of ANALYZE"),
        ("labels", "folders of LABEL"),
        ("recording", "recording.json files of PREPROCESS"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", required=True, help=f"{what}, one per sorting unit, same order"
        )
    parser.add_argument("--muted", type=Path, help="muted.npy of PREPROCESS")
    parser.add_argument("--motion", type=Path, nargs="*", default=[], help="folders of DRIFT, in any order")
    parser.add_argument(
        "--locations",
        type=Path,
        nargs="*",
        default=[],
        help="channel_locations*.json of the probe's alignment",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    if len({len(args.sorting), len(args.analysis), len(args.labels), len(args.recording)}) != 1:
        parser.error("--sorting, --analysis, --labels and --recording need as many values each")

    from powerpixels import alf, export, nwb
    from powerpixels.documents import ClockFit, Preprocess, ProbeDocument

    units = [
        export.UnitFolders(*paths)
        for paths in zip(args.sorting, args.analysis, args.labels, args.recording, strict=True)
    ]
    probe = export.gather(
        ProbeDocument.load(args.probe),
        Preprocess.load(args.preprocess),
        ClockFit.load(args.sync),
        units,
        args.locations,
        args.muted,
        args.motion,
    )
    alf.write_alf(probe, args.out / "alf")
    nwb.write_nwb(probe, args.out / "nwb")
    export.summarise(probe).save(args.out / "summary.json")
    export.agreement_of(probe).save(args.out / "agreement.json")
    write_versions(Path("versions.json"), "spikeinterface", "pynwb", "hdmf", "h5py", "numpy", "pandas")


if __name__ == "__main__":
    run_stage(main)
