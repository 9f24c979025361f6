#!/usr/bin/env python3
"""Extract the edges of the digital lines of one stream (a probe's AP stream or a DAQ stream)."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write edges.npz, IBL's _spikeglx_sync files and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probe", type=Path, help="the probe's document (probe00.json)")
    source.add_argument("--stream", type=Path, help="the DAQ stream's document (nidq.json, obx0.json)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the raw files")
    parser.add_argument(
        "--wiring", type=Path, help="wiring file, read for analog inputs that are digital lines or sync"
    )
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    parser.add_argument("--ibl-out", type=Path, help="folder to write _spikeglx_sync.* into")
    args = parser.parse_args(argv)

    from powerpixels import edges
    from powerpixels.documents import ProbeDocument, StreamDocument
    from powerpixels.wiring import load_wiring

    if args.probe:
        probe = ProbeDocument.load(args.probe).probe
        stream, part = probe.ap, probe.name
    else:
        stream, part = StreamDocument.load(args.stream).stream, ""
    levels = load_wiring(args.wiring).inputs(stream.name).levels if args.wiring else ()
    found = edges.extract_edges(stream, args.raw_dir, levels)
    found.save(args.out)
    if args.ibl_out:
        edges.write_ibl_sync(stream, found, args.ibl_out, part)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
