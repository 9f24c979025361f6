#!/usr/bin/env python3
"""INSPECT: look at a session's raw folder; write inventory.json, probes.json, <probe>.json, <stream>.json.

Also probes.description.json, the session's probes as IBL lists them.
"""

import argparse
import json
import logging
from pathlib import Path

from powerpixels.stage import DataError, run_stage, write_versions


def main(argv):
    """Parse the arguments and write the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the recording, or its parent")
    parser.add_argument("--raw-name", help="what messages call that folder (default: --raw)")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--session", required=True, help="YYYY-MM-DD or YYYY-MM-DD_NNN")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the documents into")
    arguments = parser.parse_args(argv)

    from powerpixels import inventory

    inspected = inventory.inspect_documents(
        arguments.raw, arguments.subject, arguments.session, raw_name=arguments.raw_name
    )
    found = inspected.inventory
    if any(fault.code == "NO_RECORDING" for fault in found.faults):
        raise DataError(inventory.blocking_message(found.faults, None))
    for line in inventory.describe(found).splitlines():
        logging.getLogger("powerpixels").info("%s", line)

    arguments.out.mkdir(parents=True, exist_ok=True)
    found.save(arguments.out / "inventory.json")
    for name, document in inventory.stage_documents(inspected).items():
        document.save(arguments.out / name)
    head = inventory.head_document(found)
    (arguments.out / "probes.json").write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
    described = inventory.probes_description(found)
    path = arguments.out / "probes.description.json"
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    write_versions(Path("versions.json"), "probeinterface", "pydantic", "numpy")


if __name__ == "__main__":
    run_stage(main)
