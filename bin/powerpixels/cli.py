"""The ``powerpixels`` command: the tools around the pipeline."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from powerpixels import __version__
from powerpixels.stage import EXIT_DATA_ERROR, DataError


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exits with 65 and one message where the input is at fault."""
    from powerpixels import simulate

    parser = argparse.ArgumentParser(prog="powerpixels", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    simulated = commands.add_parser(
        "simulate", help="write a session as SpikeGLX does, with everything about it known"
    )
    simulate.add_arguments(simulated)
    simulated.set_defaults(run=simulate.run)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        args.run(args)
    except DataError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(EXIT_DATA_ERROR)
