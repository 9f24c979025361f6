#!/usr/bin/env python3
"""REPORT: one table of all probes, done and failed, and a page that explains it."""

import argparse
from pathlib import Path

from powerpixels.stage import read_json, run_stage, write_versions


def main(argv):
    """Parse arguments, write the tables, agreement.json and report.html into `<out>`, print the table.

    The rows of each of the run's sessions go into `<rows-out>/<subject>/<session>.json`, too.
    """
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
    parser.add_argument("--stopped", type=Path, help="JSON list of probes that went no further, as asked")
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], help="rows that other runs left, a file a session"
    )
    parser.add_argument("--rows-out", type=Path, help="folder for the rows of each session of this run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import summary
    from powerpixels.agreement import Agreement
    from powerpixels.documents import Inventory, ProbeNotes, ProbeSummary, SyncResiduals

    inventories = [Inventory.load(path) for path in args.inventories]
    rows = summary.table(
        [ProbeSummary.load(path) for path in args.summaries],
        read_json(args.failures),
        inventories,
        [ProbeNotes.load(path) for path in args.notes],
        read_json(args.stopped) if args.stopped else [],
    )
    own = {(row["subject"], row["session"]) for row in rows}
    rows = summary.with_earlier(rows, [row for path in args.earlier for row in read_json(path)], inventories)
    if args.rows_out:
        summary.write_rows([row for row in rows if (row["subject"], row["session"]) in own], args.rows_out)
    args.out.mkdir(parents=True, exist_ok=True)
    agreements = [Agreement.load(path) for path in args.agreements]
    residuals = [SyncResiduals.load(path) for path in args.residuals]
    summary.write_all(rows, inventories, agreements, args.out, residuals)
    print(summary.as_text(rows))
    write_versions(Path("versions.json"), "pydantic")


if __name__ == "__main__":
    run_stage(main)
