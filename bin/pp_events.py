#!/usr/bin/env python3
"""Write a session's events and analog traces from one of its DAQ streams."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write the ALF files, their clock and summary, and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stream", type=Path, required=True, help="the DAQ stream's document (nidq.json, obx0.json)"
    )
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--edges", type=Path, required=True, help="edges of the stream")
    parser.add_argument("--wiring", type=Path, required=True, help="wiring file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--sync",
        type=Path,
        help="the stream's fit to the session's clock (sync.json), without it the stream's clock is the"
        " session's; files of any stream but the NIDQ go to OUT/<stream>/",
    )
    args = parser.parse_args(argv)

    from powerpixels import events
    from powerpixels.documents import ClockFit, StreamDocument
    from powerpixels.edges import Edges
    from powerpixels.wiring import load_wiring

    stream = StreamDocument.load(args.stream).stream
    wiring = load_wiring(args.wiring)
    fit = ClockFit.load(args.sync) if args.sync else None
    events.write_events(stream, args.raw_dir, Edges.load(args.edges), wiring, args.out, fit)
    write_versions(Path("versions.json"), "numpy", "pydantic", "scipy")


if __name__ == "__main__":
    run_stage(main)
