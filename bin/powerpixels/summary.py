"""The run's table: one row per probe, done or failed."""

from __future__ import annotations

import csv
import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerpixels.documents import Fault, Inventory, ProbeNotes, ProbeSummary, SyncResiduals
from powerpixels.fault_codes import CODES
from powerpixels.stage import DataError, read_json

if TYPE_CHECKING:
    from powerpixels.agreement import Agreement

IDENTITY = ["subject", "session", "probe"]
FAILURE = [*IDENTITY, "shank", "stage", "exit", "reason", "log"]
COLUMNS = ["status", *ProbeSummary.model_fields, "faults", *FAILURE[len(IDENTITY) :]]
# What is shown in the terminal: the width of a screen.
SHOWN = ["status", *IDENTITY, "n_channels", "n_units", "n_good_kilosort", "n_good_bombcell", "n_spikes"]


def table(
    summaries: list[ProbeSummary],
    failures: list[dict],
    inventories: list[Inventory],
    notes: Sequence[ProbeNotes] = (),
    stopped: Sequence[dict] = (),
) -> list[dict]:
    """Rows with all of COLUMNS (None where a row has no value), sorted by subject, session, probe.

    failures: one dict each with subject, session, probe ("" when the whole session failed), shank (""
    when the whole probe did), stage, exit, reason, log. inventories: of any of the sessions. A row's
    "warnings" (a list) are what the export and then its notes say, and the warnings among the faults of the
    probe's input and of its session, each as "CODE: message"; "faults" (a list) has the codes of all faults,
    those that blocked the probe included. stopped: probes that the run was to take no further than a stage,
    one dict each with subject, session, probe, stage; their status is "stopped after STAGE". Raises
    ValueError where a failure lacks a key or has another one.
    """
    noted = {(note.subject, note.session, note.probe): note.warnings for note in notes}
    rows = []
    for summary in summaries:
        row = {"status": "done", **summary.model_dump()}
        row["warnings"] += noted.get(tuple(row[name] for name in IDENTITY), [])
        rows.append(row)
    for failure in failures:
        if failure.keys() != set(FAILURE):
            raise ValueError(f"a failure has the keys {sorted(failure)}, expected {sorted(FAILURE)}")
        rows.append({"status": "failed", "warnings": [], **failure})
    for probe in stopped:
        row = {name: probe[name] for name in IDENTITY}
        rows.append({"status": f"stopped after {probe['stage']}", "warnings": [], **row})
    faults = {(found.session.subject, found.session.session): found.faults for found in inventories}
    filled = []
    for row in rows:
        own = faults_of(faults.get((row["subject"], row["session"]), []), row["probe"])
        warned = [f"{fault.code}: {fault.message}" for fault in own if fault.severity == "warns"]
        codes = [fault.code for fault in own] + codes_in(row.get("reason") or "")
        row = {**row, "warnings": [*row["warnings"], *warned], "faults": list(dict.fromkeys(codes))}
        filled.append({column: row.get(column) for column in COLUMNS})
    return _in_order(filled)


def _in_order(rows: list[dict]) -> list[dict]:
    return sorted(
        rows, key=lambda row: (*(row[name] for name in IDENTITY), row["status"], row["stage"] or "")
    )


def with_earlier(rows: list[dict], earlier: list[dict], inventories: list[Inventory]) -> list[dict]:
    """The rows, and those of earlier runs that are still true, in order.

    That are the rows of sessions that have none here, and of a session that has, those of probes (by its
    inventory) that have none: this run was to do some of its probes alone.
    """
    sessions = {(row["subject"], row["session"]) for row in rows}
    probes = {tuple(row[name] for name in IDENTITY) for row in rows}
    recorded = {
        (found.session.subject, found.session.session, probe.name)
        for found in inventories
        for probe in found.probes
    }
    kept = []
    for row in earlier:
        place = tuple(row[name] for name in IDENTITY)
        if place[:2] not in sessions or (place in recorded and place not in probes):
            kept.append(row)
    return _in_order([*rows, *kept])


def write_rows(rows: list[dict], folder: Path) -> None:
    """Write the rows of each session as ``<subject>/<session>.json`` below a folder."""
    for subject, session in sorted({(row["subject"], row["session"]) for row in rows if row["session"]}):
        own = [row for row in rows if (row["subject"], row["session"]) == (subject, session)]
        (Path(folder) / subject).mkdir(parents=True, exist_ok=True)
        write_json(own, Path(folder) / subject / f"{session}.json")


def faults_of(faults: list[Fault], probe: str) -> list[Fault]:
    """The faults of a probe ("": of none) and those of its whole session."""
    return [fault for fault in faults if fault.probe in (None, probe)]


def codes_in(reason: str) -> list[str]:
    """Codes of the faults that the reason of a failure begins its messages with.

    A session whose input is not understood at all has no inventory: what is known stands in the reason.
    """
    return [code for code in re.findall(r"\b([A-Z][A-Z_]+): ", reason) if code in CODES]


def write_csv(rows: list[dict], path: Path) -> None:
    """Write the table as CSV: numbers in full precision, nothing for None.

    Warnings are joined by "; ", the codes of faults by spaces.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            joined = {"warnings": "; ".join(row["warnings"]), "faults": " ".join(row["faults"])}
            writer.writerow({**row, **joined})


def write_json(rows: list[dict], path: Path) -> None:
    """Write the table as a JSON list of objects."""
    Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def as_text(rows: list[dict]) -> str:
    """The table for a terminal: aligned columns, then the reason and log of each failure and all warnings.

    A warning that several probes of a session share is given once.
    """
    cells = [SHOWN, *([_shown(row[column]) for column in SHOWN] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(SHOWN))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    for row in rows:
        if row["status"] == "failed":
            who = " ".join(row[name] for name in IDENTITY if row[name])
            lines.append(f"FAILED {who} in {row['stage']} (exit {row['exit']}): {row['reason']}")
            lines.append(f"       log: {row['log']}")
    for subject, session, probes, warning in shared_warnings(rows):
        who = f"{subject} {session} {', '.join(probes)}".rstrip()
        lines.append(f"WARNING {who}: {warning}")
    return "\n".join(lines)


def shared_warnings(rows: list[dict]) -> list[tuple[str, str, list[str], str]]:
    """Each warning of a session once: subject, session, names of the probes that it is of, the warning.

    No names where the session has rows without a probe only.
    """
    probes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for warning in row["warnings"]:
            names = probes.setdefault((row["subject"], row["session"], warning), [])
            if row["probe"] and row["probe"] not in names:
                names.append(row["probe"])
    return [(subject, session, names, warning) for (subject, session, warning), names in probes.items()]


def write_all(
    rows: list[dict],
    inventories: list[Inventory],
    agreements: Sequence[Agreement],
    folder: Path,
    residuals: Sequence[SyncResiduals] = (),
) -> None:
    """Write summary.csv, summary.json, agreement.json (of all probes) and report.html into a folder."""
    from powerpixels import report
    from powerpixels.agreement import combined

    write_csv(rows, folder / "summary.csv")
    write_json(rows, folder / "summary.json")
    together = combined(agreements)
    together.save(folder / "agreement.json")
    page = report.page(rows, inventories, together, residuals)
    (folder / "report.html").write_text(page, encoding="utf-8")


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels report``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the runs' --outdir")


def run(args: Namespace) -> None:
    """Body of ``powerpixels report``: the tables and the page of all sessions in a results folder.

    What REPORT of each run left in pipeline_info/rows, with the inventories and agreements that lie with the
    sessions; residuals of clocks are known to a run alone.
    """
    from powerpixels.agreement import Agreement

    left = sorted((args.results / "pipeline_info" / "rows").glob("*/*.json"))
    if not left:
        raise DataError(
            f"{args.results}: expected pipeline_info/rows/*/*.json of a run; give the run's --outdir"
        )
    rows = _in_order([row for path in left for row in read_json(path)])
    records = [args.results / path.parent.name / path.stem.replace("_", "/") / "qc" for path in left]
    inventories = [
        Inventory.load(path / "inventory.json") for path in records if (path / "inventory.json").exists()
    ]
    agreements = [Agreement.load(file) for path in records for file in sorted(path.glob("*/agreement.json"))]
    write_all(rows, inventories, agreements, args.results)
    print(as_text(rows))


def _shown(value: object) -> str:
    return "" if value is None else str(value)
