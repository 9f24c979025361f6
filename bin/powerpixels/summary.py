"""The run's table: one row per probe, done or failed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from powerpixels.documents import ProbeSummary

IDENTITY = ["subject", "session", "probe"]
FAILURE = [*IDENTITY, "shank", "stage", "exit", "reason", "log"]
COLUMNS = ["status", *ProbeSummary.model_fields, *FAILURE[len(IDENTITY) :]]
# What is shown in the terminal: the width of a screen.
SHOWN = ["status", *IDENTITY, "n_channels", "n_units", "n_good_kilosort", "n_good_bombcell", "n_spikes"]


def table(summaries: list[ProbeSummary], failures: list[dict]) -> list[dict]:
    """Rows with all of COLUMNS (None where a row has no value), sorted by subject, session, probe.

    failures: one dict each with subject, session, probe ("" when the whole session failed), shank (""
    when the whole probe did), stage, exit, reason, log. Raises ValueError where a failure lacks a key
    or has another one.
    """
    rows = []
    for summary in summaries:
        rows.append({"status": "done", **summary.model_dump()})
    for failure in failures:
        if failure.keys() != set(FAILURE):
            raise ValueError(f"a failure has the keys {sorted(failure)}, expected {sorted(FAILURE)}")
        rows.append({"status": "failed", "warnings": [], **failure})
    filled = [{column: row.get(column) for column in COLUMNS} for row in rows]
    return sorted(
        filled, key=lambda row: (*(row[name] for name in IDENTITY), row["status"], row["stage"] or "")
    )


def write_csv(rows: list[dict], path: Path) -> None:
    """Write the table as CSV: numbers in full precision, warnings joined by "; ", nothing for None."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "warnings": "; ".join(row["warnings"])} for row in rows)


def write_json(rows: list[dict], path: Path) -> None:
    """Write the table as a JSON list of objects."""
    Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def as_text(rows: list[dict]) -> str:
    """The table for a terminal: aligned columns, then the reason and log of each failure and all warnings."""
    cells = [SHOWN, *([_shown(row[column]) for column in SHOWN] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(SHOWN))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    for row in rows:
        who = " ".join(row[name] for name in IDENTITY if row[name])
        if row["status"] == "failed":
            lines.append(f"FAILED {who} in {row['stage']} (exit {row['exit']}): {row['reason']}")
            lines.append(f"       log: {row['log']}")
        lines.extend(f"WARNING {who}: {warning}" for warning in row["warnings"])
    return "\n".join(lines)


def _shown(value: object) -> str:
    return "" if value is None else str(value)
