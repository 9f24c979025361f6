#!/usr/bin/env python3
"""Fit the clock of a probe, or of a further DAQ stream, to the session's reference clock."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments, write sync.json, residuals.png and .json, IBL's files in ibl/, versions.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probe", type=Path, help="the probe's document (probe00.json)")
    source.add_argument("--stream", type=Path, help="the DAQ stream's document (nidq.json, obx0.json)")
    parser.add_argument(
        "--probe-edges", type=Path, required=True, help="edges of the probe's AP stream or of the DAQ stream"
    )
    parser.add_argument(
        "--reference-edges",
        type=Path,
        required=True,
        help="edges of the reference stream; the same as --probe-edges where it is the reference itself",
    )
    parser.add_argument("--wiring", type=Path, required=True, help="wiring file, read for the sync lines")
    parser.add_argument(
        "--max-error-us",
        type=float,
        default=50.0,
        help="refuse a map whose error can't be shown to stay below this (default: 50)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import clock, sync_files
    from powerpixels.documents import ProbeDocument, StreamDocument
    from powerpixels.edges import Edges
    from powerpixels.wiring import load_wiring

    if args.probe:
        document = ProbeDocument.load(args.probe)
        name, stream = document.probe.name, document.probe.ap
    else:
        document = StreamDocument.load(args.stream)
        name, stream = document.stream.name, document.stream
    edges, reference = Edges.load(args.probe_edges), Edges.load(args.reference_edges)
    wiring = load_wiring(args.wiring)
    clock.check_edges(edges, stream)
    args.out.mkdir(parents=True, exist_ok=True)
    if reference.stream == edges.stream:
        fit = clock.identity_fit(edges, name)
    else:
        own, other = clock.sync_lines(
            edges, reference, wiring.inputs(reference.stream).sync, wiring.inputs(edges.stream).sync
        )
        fit = clock.fit_clock(
            edges, reference, probe=name, line=own, reference_line=other, max_error_us=args.max_error_us
        )
        pairs = clock.matched_pairs(fit, edges, reference, line=own, reference_line=other)
        sync_files.plot_residuals(
            fit, pairs, edges, reference.sampling_rate_hz, own, args.out / "residuals.png"
        )
        sync_files.binned_residuals(
            fit, pairs, edges, reference.sampling_rate_hz, document.session, args.max_error_us
        ).save(args.out / "residuals.json")
    fit.save(args.out / "sync.json")
    sync_files.write_ibl(fit, stream, args.out / "ibl")
    write_versions(Path("versions.json"), "matplotlib", "numpy", "pydantic")


if __name__ == "__main__":
    run_stage(main)
