#!/usr/bin/env python3
"""SESSION_REPORT: a page with figures of all that a run published of a session."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse arguments and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path, required=True, help="JSON: parts (stage, unit, probe), record")
    parser.add_argument(
        "--made", type=Path, nargs="+", required=True, help="folders, in the order of the parts"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)

    from powerpixels.manifest import Part, lay_out
    from powerpixels.session_report import page

    head = json.loads(args.head.read_text(encoding="utf-8"))
    session = Path("session")
    for part, folder in zip(head["parts"], args.made, strict=True):
        lay_out(Part(part["stage"], part["unit"], folder), part["probe"], session)
    args.out.write_text(page(session, head["record"]), encoding="utf-8")
    write_versions(Path("versions.json"), "matplotlib", "pandas", "pillow")


if __name__ == "__main__":
    run_stage(main)
