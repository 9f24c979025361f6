#!/usr/bin/env python3
"""Extract the edges of the digital lines of one stream (a probe's AP stream or a DAQ stream)."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write edges.npz and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probe", type=Path, help="the probe's document (probe00.json)")
    source.add_argument("--stream", type=Path, help="the DAQ stream's document (nidq.json, obx0.json)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    args = parser.parse_args(argv)

    from powerpixels import edges
    from powerpixels.documents import ProbeDocument, StreamDocument

    stream = (
        ProbeDocument.load(args.probe).probe.ap if args.probe else StreamDocument.load(args.stream).stream
    )
    edges.extract_edges(stream, args.raw_dir).save(args.out)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
