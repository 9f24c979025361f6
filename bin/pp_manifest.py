#!/usr/bin/env python3
"""MANIFEST: what a run published of a probe, with sizes and hashes, and what made it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse arguments and write manifest.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--head", type=Path, required=True, help="JSON: subject, session, probe, parts, documents, record"
    )
    parser.add_argument(
        "--made", type=Path, nargs="+", required=True, help="folders, in the order of the parts"
    )
    parser.add_argument("--raw", type=Path, nargs="*", default=[], help="raw files, in the documents' order")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)

    from powerpixels.documents import ProbeDocument, StreamDocument
    from powerpixels.manifest import Part, make_manifest

    head = json.loads(args.head.read_text(encoding="utf-8"))
    parts = [
        Part(part["stage"], part["unit"], folder)
        for part, folder in zip(head["parts"], args.made, strict=True)
    ]
    documents = [
        (ProbeDocument if "probe" in document else StreamDocument).model_validate(document)
        for document in head["documents"]
    ]
    make_manifest(
        head["subject"], head["session"], head["probe"], parts, head["record"], documents, args.raw
    ).save(args.out)
    write_versions(Path("versions.json"), "pydantic")


if __name__ == "__main__":
    run_stage(main)
