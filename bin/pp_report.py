#!/usr/bin/env python3
"""REPORT: one table of all probes of the run, done and failed, and a page that explains it."""

import argparse
from pathlib import Path

from powerpixels.stage import read_json, run_stage, write_versions


def main(argv):
    """Parse arguments, write the tables, agreement.json and report.html into `<out>`, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--summaries", type=Path, nargs="*", default=[], help="summary.json of each exported probe"
    )
    parser.add_argument(
        "--inventories", type=Path, nargs="*", default=[], help="inventory.json of each session"
    )
    parser.add_argument(
        "--agreements", type=Path, nargs="*", default=[], help="agreement.json of each exported probe"
    )
    parser.add_argument(
        "--residuals", type=Path, nargs="*", default=[], help="residuals.json of each fitted stream"
    )
    parser.add_argument("--notes", type=Path, nargs="*", default=[], help="notes.json of each probe's NWB")
    parser.add_argument("--failures", type=Path, required=True, help="JSON list of what failed")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import report, summary
    from powerpixels.agreement import Agreement, combined
    from powerpixels.documents import Inventory, ProbeNotes, ProbeSummary, SyncResiduals

    inventories = [Inventory.load(path) for path in args.inventories]
    rows = summary.table(
        [ProbeSummary.load(path) for path in args.summaries],
        read_json(args.failures),
        inventories,
        [ProbeNotes.load(path) for path in args.notes],
    )
    args.out.mkdir(parents=True, exist_ok=True)
    summary.write_csv(rows, args.out / "summary.csv")
    summary.write_json(rows, args.out / "summary.json")
    together = combined([Agreement.load(path) for path in args.agreements])
    together.save(args.out / "agreement.json")
    page = report.page(rows, inventories, together, [SyncResiduals.load(path) for path in args.residuals])
    (args.out / "report.html").write_text(page, encoding="utf-8")
    print(summary.as_text(rows))
    write_versions(Path("versions.json"), "pydantic")


if __name__ == "__main__":
    run_stage(main)
