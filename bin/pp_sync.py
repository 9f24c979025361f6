#!/usr/bin/env python3
"""Fit one probe's clock to the session's reference clock (its own without --reference-edges)."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write sync.json, <stream>.sync.npy and versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", type=Path, required=True, help="the probe's document (probe00.json)")
    parser.add_argument("--probe-edges", type=Path, required=True, help="edges of the probe's AP stream")
    parser.add_argument("--reference-edges", type=Path, help="edges of the reference stream")
    parser.add_argument(
        "--reference-line", default="sync", help="line of the reference with the sync wave (NIDQ: P0.0 …)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    import numpy as np
    from powerpixels import clock
    from powerpixels.documents import ProbeDocument
    from powerpixels.edges import Edges

    probe = ProbeDocument.load(args.probe).probe
    edges = Edges.load(args.probe_edges)
    clock.check_probe(edges, probe)
    if args.reference_edges:
        reference = Edges.load(args.reference_edges)
        fit = clock.fit_clock(edges, reference, probe=probe.name, reference_line=args.reference_line)
        pairs = clock.matched_pairs(fit, edges, reference, args.reference_line)
    else:
        fit, pairs = clock.identity_fit(edges, probe.name), clock.own_pairs(edges)
    args.out.mkdir(parents=True, exist_ok=True)
    fit.save(args.out / "sync.json")
    np.save(args.out / f"{edges.stream}.sync.npy", pairs)
    write_versions(Path("versions.json"), "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
