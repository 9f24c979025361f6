#!/usr/bin/env python3
"""Fit one probe's clock to the session's reference clock."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write sync.json, <stream>.sync.npy and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", type=Path, required=True, help="the probe's document (probe00.json)")
    parser.add_argument("--probe-edges", type=Path, required=True, help="edges of the probe's AP stream")
    parser.add_argument(
        "--reference-edges",
        type=Path,
        required=True,
        help="edges of the reference stream; the probe's own where it is the reference",
    )
    parser.add_argument(
        "--wiring", type=Path, required=True, help="wiring file, read for the sync line of a NIDQ reference"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    import numpy as np
    from powerpixels import clock
    from powerpixels.documents import ProbeDocument
    from powerpixels.edges import SYNC_LINE, Edges
    from powerpixels.wiring import load_wiring

    probe = ProbeDocument.load(args.probe).probe
    edges, reference = Edges.load(args.probe_edges), Edges.load(args.reference_edges)
    clock.check_probe(edges, probe)
    if reference.stream == edges.stream:
        fit, pairs = clock.identity_fit(edges, probe.name), clock.own_pairs(edges)
    else:
        line = load_wiring(args.wiring).sync if reference.stream == "nidq" else SYNC_LINE
        fit = clock.fit_clock(edges, reference, probe=probe.name, reference_line=line)
        pairs = clock.matched_pairs(fit, edges, reference, line)
    args.out.mkdir(parents=True, exist_ok=True)
    fit.save(args.out / "sync.json")
    np.save(args.out / f"{edges.stream}.sync.npy", pairs)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
