#!/usr/bin/env python3
"""REPORT: one table of all probes of the run, done and failed."""

import argparse
import json
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse arguments, write `<out>/summary.csv` and `<out>/summary.json`, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--summaries", type=Path, nargs="*", default=[], help="summary.json of each exported probe"
    )
    parser.add_argument("--failures", type=Path, required=True, help="JSON list of what failed")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)

    from powerpixels import summary
    from powerpixels.documents import ProbeSummary

    rows = summary.table(
        [ProbeSummary.load(path) for path in args.summaries],
        json.loads(args.failures.read_text(encoding="utf-8")),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    summary.write_csv(rows, args.out / "summary.csv")
    summary.write_json(rows, args.out / "summary.json")
    print(summary.as_text(rows))
    write_versions(Path("versions.json"), "pydantic")


if __name__ == "__main__":
    run_stage(main)
