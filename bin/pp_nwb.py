#!/usr/bin/env python3
"""NWB: a probe's units and electrodes, the session's events and, where asked for, its traces, in one file."""

import argparse
import logging
from pathlib import Path

from powerpixels.probe_parts import add_arguments, read_arguments
from powerpixels.stage import run_stage, write_versions

log = logging.getLogger("powerpixels")


def main(argv):
    """Parse arguments, write `<out>/nwb`. Where NWB demands more, `<out>/notes.json` says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--metadata", type=Path, help="the session's metadata (YAML or JSON)")
    parser.add_argument("--lab-metadata", type=Path, help="the metadata that all sessions share")
    parser.add_argument("--backend", choices=["hdf5", "zarr"], required=True, help="how the file is written")
    parser.add_argument("--events", type=Path, help="folder of EVENTS; without it no events")
    parser.add_argument("--lfp", type=Path, help="lfp.zarr of RAW_QC; without it no LFP")
    parser.add_argument(
        "--raw-dir", type=Path, help="folder of the AP stream's files; without it no raw traces"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import export, metadata, nwb
    from powerpixels.documents import ProbeNotes
    from powerpixels.rawdata import StreamReader, locate

    parts = read_arguments(parser, args)
    document = parts[0]
    session, probe = document.session, document.probe
    known = metadata.resolve(session, args.metadata, args.lab_metadata)
    notes = []
    if known.missing:
        notes.append(
            f"no NWB was written, which demands {'; '.join(known.missing)}: write it into a YAML file and "
            "give that with --metadata for all sessions, or in the samplesheet's column metadata for one"
        )
        log.warning("%s", notes[0])
    else:
        raw = None if args.raw_dir is None else StreamReader(probe.ap, locate([probe.ap], args.raw_dir)[0])
        traces = nwb.Traces(events=args.events, raw=raw, lfp=args.lfp)
        nwb.write_nwb(export.gather(*parts), known, args.out / "nwb", args.backend, traces)
    args.out.mkdir(exist_ok=True)
    ProbeNotes(
        subject=session.subject,
        session=session.session,
        probe=probe.name,
        warnings=notes,
    ).save(args.out / "notes.json")
    write_versions(
        Path("versions.json"),
        "spikeinterface",
        "pynwb",
        "hdmf",
        "h5py",
        "hdmf-zarr",
        "zarr",
        "numpy",
        "pandas",
    )


if __name__ == "__main__":
    run_stage(main)
