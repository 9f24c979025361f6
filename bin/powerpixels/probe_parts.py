"""What the executables that gather a probe are given: files and folders of the stages before.

Importing this module needs nothing installed, so that their --help comes at once.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from powerpixels.documents import ClockFit, Preprocess, ProbeDocument
    from powerpixels.export import UnitFolders


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments for the probe's parts."""
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
    parser.add_argument(
        "--locations",
        type=Path,
        nargs="*",
        default=[],
        help="channel_locations*.json of the probe's alignment",
    )


def read_arguments(
    parser: ArgumentParser, args: Namespace
) -> tuple[ProbeDocument, Preprocess, ClockFit, list[UnitFolders], list[Path]]:
    """The first arguments of ``export.gather``, from those of ``add_arguments``."""
    from powerpixels.documents import ClockFit, Preprocess, ProbeDocument
    from powerpixels.export import UnitFolders

    if len({len(args.sorting), len(args.analysis), len(args.labels), len(args.recording)}) != 1:
        parser.error("--sorting, --analysis, --labels and --recording need as many values each")
    units = [
        UnitFolders(*paths)
        for paths in zip(args.sorting, args.analysis, args.labels, args.recording, strict=True)
    ]
    document, preprocess = ProbeDocument.load(args.probe), Preprocess.load(args.preprocess)
    return document, preprocess, ClockFit.load(args.sync), units, args.locations
