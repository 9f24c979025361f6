#!/usr/bin/env python3
"""Write a session's events and analog traces from its NIDQ stream."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write the ALF files, clock.json, events.json and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nidq", type=Path, required=True, help="the NIDQ stream's document (nidq.json)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--edges", type=Path, required=True, help="edges of the NIDQ stream")
    parser.add_argument("--wiring", type=Path, required=True, help="wiring file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import events
    from powerpixels.documents import NidqDocument
    from powerpixels.edges import Edges
    from powerpixels.wiring import load_wiring

    stream = NidqDocument.load(args.nidq).stream
    wiring = load_wiring(args.wiring)
    events.write_events(stream, args.raw_dir, Edges.load(args.edges), wiring, args.out)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
