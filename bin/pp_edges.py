#!/usr/bin/env python3
"""Extract the edges of the digital lines of one stream (a probe's AP stream or the NIDQ stream)."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write edges.npz and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probe", type=Path, help="the probe's document (probe00.json)")
    source.add_argument("--nidq", type=Path, help="the NIDQ stream's document (nidq.json)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    args = parser.parse_args(argv)

    from powerpixels import edges
    from powerpixels.documents import NidqDocument, ProbeDocument

    stream = ProbeDocument.load(args.probe).probe.ap if args.probe else NidqDocument.load(args.nidq).stream
    edges.extract_edges(stream, args.raw_dir).save(args.out)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
