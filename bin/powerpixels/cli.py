"""The ``powerpixels`` command: the tools around the pipeline."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from powerpixels import __version__
from powerpixels.stage import EXIT_DATA_ERROR, DataError


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exits with 65 and one message where the input is at fault."""
    parser = argparse.ArgumentParser(prog="powerpixels", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspected = commands.add_parser("inspect", help="say what a session's raw folder holds and what is wrong")
    inspected.add_argument("folder", type=Path, metavar="FOLDER", help="as in the samplesheet's column raw")
    inspected.add_argument("--json", action="store_true", help="the whole inventory as JSON, not a table")
    inspected.set_defaults(run=inspect)
    for name, place, summary in (
        ("samplesheet", "samplesheet", "find the recordings in data trees and write their samplesheet"),
        ("wiring", "lines", "say what each line of a session's streams carries"),
        ("prepare", "prepare", "make the day's empty session folders"),
        ("histology", "histology", "turn a histology tool's tracings into xyz_picks.json"),
        ("sorter-params", "sorters", "print a sorter's parameters with their defaults, as a file to edit"),
        ("simulate", "simulate", "write a session as SpikeGLX does, with everything about it known"),
        ("visualize", "visualize", "draw what preprocessing does to a stretch, step by step"),
        ("curate", "curate", "open SpikeInterface's GUI on a probe's units"),
        ("apply-curation", "curated", "write the revision of ALF and NWB that a curation makes"),
        ("verify", "manifest", "check published results against their manifests"),
        ("session-report", "session_report", "write a page of figures for each session of a run's results"),
        ("migrate", "migrate", "turn the original Power Pixels' settings.json into this pipeline's files"),
        ("estimate", "estimate", "say what disk and hours a samplesheet's sessions will take"),
        ("status", "status", "say how far a run is: probes done, running, failed, and the time left"),
        ("clean", "clean", "give back the preprocessed traces of finished probes in a run's work folder"),
        ("report", "summary", "make the summary and report of a results folder anew, of all its runs"),
        ("fetch-models", "models", "fetch UnitRefine's models once, for --unitrefine_models"),
    ):
        module = import_module(f"powerpixels.{place}")
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        args.run(args)
    except DataError as error:
        print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_DATA_ERROR)


def inspect(args: argparse.Namespace) -> None:
    """Body of ``powerpixels inspect``: prints the inventory, then fails where something in it blocks.

    Subject and session are what the folder's path and the headers say, "?" where they do not.
    """
    from powerpixels import inventory, samplesheet

    subject = samplesheet.place_of(args.folder).subject or "?"
    found = inventory.inspect_session(args.folder, subject, "?")
    began = samplesheet.start_of(found)
    if began is not None:
        session = found.session.model_copy(update={"session": f"{began.date()}"})
        found = found.model_copy(update={"session": session})
    print(found.model_dump_json(indent=1) if args.json else inventory.describe(found))
    blocked = [f"{f.probe or 'the session'} ({f.code})" for f in found.faults if f.severity == "blocks"]
    if blocked:
        raise DataError(f"{args.folder}: can't be processed: {', '.join(dict.fromkeys(blocked))}; see above")
