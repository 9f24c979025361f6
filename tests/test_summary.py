"""REPORT's table: what went in comes out, in order and exactly."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from powerpixels import cli, report, summary
from powerpixels.documents import Fault, Inventory, Probe, ProbeNotes, ProbeSummary, Session, Stream

BIN = Path(__file__).resolve().parent.parent / "bin"


def done(subject: str, session: str, probe: str, **changes) -> ProbeSummary:
    values = {
        "subject": subject,
        "session": session,
        "probe": probe,
        "model": "Neuropixels 1.0",
        "duration_s": 1234.5678901234567,
        "n_shanks": 1,
        "n_channels": 384,
        "n_dead": 1,
        "n_noise": 2,
        "n_out": 40,
        "n_units": 3,
        "n_good_kilosort": 2,
        "n_good_bombcell": 1,
        "n_spikes": 12345678,
        "reference_clock": "nidq",
        "sync_rms_us": 0.1 + 0.2,
        "sync_max_us": 33.0,
        "warnings": [],
    }
    return ProbeSummary(**{**values, **changes})


def failed(subject: str, session: str, probe: str, **changes) -> dict:
    values = {
        "subject": subject,
        "session": session,
        "probe": probe,
        "shank": "",
        "stage": "PREPROCESS",
        "exit": 65,
        "reason": 'run.ap.bin: expected 10 bytes, found 9; "restore" it',
        "log": "ab/cdef/.command.log",
    }
    return {**values, **changes}


SUMMARIES = [
    done("mouse02", "2026-03-01_001", "probe00"),
    done("mouse01", "2026-03-02_001", "probe01", model=None, warnings=["shank1: a, b", "shank3: c"]),
]
FAILURES = [
    failed("mouse01", "2026-03-02_001", "probe00"),
    failed("mouse01", "2026-03-01_001", "", stage="INSPECT", exit=65, reason="NO_RECORDING: two\nlines"),
]
INVENTORIES = [
    Inventory(
        session=Session(
            subject="mouse01",
            session="2026-03-02_001",
            acquisition="spikeglx",
            acquisition_version="20230411",
            start_time=None,
        ),
        probes=[],
        nidq=None,
        faults=[
            Fault(code="ALL_ZERO", severity="blocks", message="all is 0", probe="probe00"),
            Fault(code="GAP", severity="warns", message="2 s are missing", probe="probe01"),
            Fault(code="SYNC_MISSING", severity="warns", message="no line", stream="nidq"),
        ],
    )
]
ORDER = [
    ("mouse01", "2026-03-01_001", "", "failed"),
    ("mouse01", "2026-03-02_001", "probe00", "failed"),
    ("mouse01", "2026-03-02_001", "probe01", "done"),
    ("mouse02", "2026-03-01_001", "probe00", "done"),
]


def test_rows_are_sorted_and_complete():
    rows = summary.table(SUMMARIES, FAILURES, INVENTORIES)
    assert [(r["subject"], r["session"], r["probe"], r["status"]) for r in rows] == ORDER
    assert rows == summary.table(SUMMARIES[::-1], FAILURES[::-1], INVENTORIES[::-1])
    assert all(list(row) == summary.COLUMNS for row in rows)


def test_csv_reads_back_exactly(tmp_path):
    rows = summary.table(SUMMARIES, FAILURES, INVENTORIES)
    summary.write_csv(rows, tmp_path / "summary.csv")
    with open(tmp_path / "summary.csv", newline="", encoding="utf-8") as file:
        back = list(csv.DictReader(file))
    assert list(back[0])[:4] == ["status", "subject", "session", "probe"]
    assert float(back[3]["duration_s"]) == 1234.5678901234567
    assert float(back[3]["sync_rms_us"]) == 0.1 + 0.2
    assert back[3]["n_spikes"] == "12345678"
    assert (back[3]["reason"], back[3]["log"], back[3]["exit"], back[2]["model"]) == ("", "", "", "")
    assert back[2]["warnings"] == "shank1: a, b; shank3: c; GAP: 2 s are missing; SYNC_MISSING: no line"
    assert [row["faults"] for row in back] == [
        "NO_RECORDING",
        "ALL_ZERO SYNC_MISSING",
        "GAP SYNC_MISSING",
        "",
    ]
    assert (back[0]["reason"], back[0]["exit"], back[0]["n_units"]) == ("NO_RECORDING: two\nlines", "65", "")
    assert back[1]["reason"] == FAILURES[0]["reason"]


def test_notes_follow_what_the_export_noted():
    notes = [
        ProbeNotes(subject="mouse01", session="2026-03-02_001", probe="probe01", warnings=["no NWB"]),
        ProbeNotes(subject="mouse02", session="2026-03-01_001", probe="probe00", warnings=[]),
    ]
    first, second = summary.table(SUMMARIES, [], [], notes)
    assert first["warnings"] == ["shank1: a, b", "shank3: c", "no NWB"] and second["warnings"] == []


def test_earlier_rows_stay_where_this_run_has_none():
    """Another run's sessions; of this run's, the probes that it was not to do."""
    first = summary.table(SUMMARIES, FAILURES, INVENTORIES)
    inventory = INVENTORIES[0].model_copy(
        update={"probes": [sorted_probe("probe00"), sorted_probe("probe01")]}
    )
    stopped = [{"subject": "mouse01", "session": "2026-03-02_001", "probe": "probe00", "stage": "SORT"}]
    now = summary.table([], [], [inventory], stopped=stopped)
    (row,) = now
    assert row["status"] == "stopped after SORT" and row["n_units"] is None and row["reason"] is None
    joined = summary.with_earlier(now, first, [inventory])
    assert [(r["subject"], r["session"], r["probe"], r["status"]) for r in joined] == [
        ORDER[0], ("mouse01", "2026-03-02_001", "probe00", "stopped after SORT"), *ORDER[2:],
    ]  # fmt: skip
    # A session that failed as a whole, or a stream of it, is judged anew.
    stream = failed("mouse01", "2026-03-02_001", "nidq", stage="EVENTS")
    old = summary.table([], [failed("mouse01", "2026-03-02_001", ""), stream], [])
    assert summary.with_earlier(now, old, [inventory]) == now
    assert "stopped after SORT" in report.page(joined, [])


def test_report_made_anew_of_what_all_runs_left(tmp_path, capsys):
    """Each session's rows, as two REPORTs that ended at the same time left them; one wrote its summary last."""
    for failures, summaries in ((FAILURES[:1], SUMMARIES[:1]), (FAILURES[1:], SUMMARIES[1:])):
        summary.write_rows(
            summary.table(summaries, failures, INVENTORIES), tmp_path / "pipeline_info" / "rows"
        )
    summary.write_csv([], tmp_path / "summary.csv")
    (tmp_path / "mouse01/2026-03-02/001/qc").mkdir(parents=True)
    INVENTORIES[0].save(tmp_path / "mouse01/2026-03-02/001/qc/inventory.json")
    # Both had rows of mouse01's second session: the last one's count, for a session is in one run at a time.
    expected = summary.table(SUMMARIES, FAILURES[1:], INVENTORIES)
    cli.main(["report", str(tmp_path)])
    assert json.loads((tmp_path / "summary.json").read_text()) == expected
    summary.write_csv(expected, tmp_path / "expected.csv")
    assert (tmp_path / "summary.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert "ALL_ZERO" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path / "mouse01")])
    assert ended.value.code == 65


def sorted_probe(name: str) -> Probe:
    stream = Stream(
        name="ap",
        kind="ap",
        files=[],
        sampling_rate_hz=3e4,
        n_columns=2,
        n_samples=30,
        first_sample=0,
        pieces=[],
    )
    return Probe(name=name, part_number=None, serial_number=None, model=None, shanks=[0], ap=stream)


def test_failure_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="a failure has the keys"):
        summary.table([], [{"subject": "mouse01", "reason": "?"}], [])


def test_faults_reach_the_probes_that_they_concern():
    rows = summary.table(SUMMARIES, FAILURES, INVENTORIES)
    shared = "SYNC_MISSING: no line"
    # another session's probe of the same name has none; what blocks is in the reason, not a warning
    assert [row["warnings"] for row in rows] == [
        [],
        [shared],
        ["shank1: a, b", "shank3: c", "GAP: 2 s are missing", shared],
        [],
    ]
    assert [row["faults"] for row in rows] == [
        ["NO_RECORDING"],
        ["ALL_ZERO", "SYNC_MISSING"],
        ["GAP", "SYNC_MISSING"],
        [],
    ]
    assert SUMMARIES[1].warnings == ["shank1: a, b", "shank3: c"]


def test_codes_are_read_from_reasons():
    """Of a session that has no inventory; other words in capitals are no codes."""
    reason = "ALL_ZERO: run.bin: NP1 data were expected. SOME_WORD: that. SYNC_NO_EDGES: none; see GAP"
    rows = summary.table([], [failed("m", "2026-03-01_001", "probe00", reason=reason)], [])
    assert rows[0]["faults"] == ["ALL_ZERO", "SYNC_NO_EDGES"]


def test_a_fault_that_blocks_is_named_once():
    """It stands in the inventory and in the reason of the failure."""
    failure = failed("mouse01", "2026-03-02_001", "probe00", reason="ALL_ZERO: all is 0")
    [row] = summary.table([], [failure], INVENTORIES)
    assert row["faults"] == ["ALL_ZERO", "SYNC_MISSING"]


def test_text_gives_a_shared_warning_once():
    text = summary.as_text(summary.table(SUMMARIES, FAILURES, INVENTORIES))
    assert text.count("SYNC_MISSING") == 1
    assert "WARNING mouse01 2026-03-02_001 probe00, probe01: SYNC_MISSING: no line" in text.splitlines()
    assert "WARNING mouse01 2026-03-02_001 probe01: GAP: 2 s are missing" in text.splitlines()


def test_executable(tmp_path):
    paths = []
    for k, document in enumerate(SUMMARIES):
        paths.append(tmp_path / f"summary{k}.json")
        document.save(paths[-1])
    (tmp_path / "failures.json").write_text(json.dumps(FAILURES))
    INVENTORIES[0].save(tmp_path / "inventory1.json")
    result = subprocess.run(
        [
            sys.executable,
            str(BIN / "pp_report.py"),
            *("--summaries", *map(str, paths), "--inventories", "inventory1.json"),
            *("--failures", "failures.json", "--out", "out"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = summary.table(SUMMARIES, FAILURES, INVENTORIES)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == rows
    summary.write_csv(rows, tmp_path / "expected.csv")
    assert (tmp_path / "out" / "summary.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == report.page(rows, INVENTORIES)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["status", "subject", "session", "probe"]
    assert [line.split()[0] for line in lines[1:5]] == ["failed", "failed", "done", "done"]
    assert any(
        line.startswith("FAILED mouse01 2026-03-02_001 probe00 in PREPROCESS (exit 65): run.ap.bin")
        for line in lines
    )
    assert "       log: ab/cdef/.command.log" in lines
    assert "WARNING mouse01 2026-03-02_001 probe01: shank3: c" in lines


def test_all_failed_or_stopped_beside_another_run(tmp_path):
    (tmp_path / "failures.json").write_text(json.dumps(FAILURES[:1]))
    place = {"subject": "mouse01", "session": "2026-03-02_001", "probe": "probe01"}
    (tmp_path / "stopped.json").write_text(json.dumps([{**place, "stage": "SORT"}]))
    others = summary.table(SUMMARIES[:1], [], [])
    summary.write_json(others, tmp_path / "earlier1.json")
    subprocess.run(
        [
            *(sys.executable, str(BIN / "pp_report.py"), "--failures", "failures.json", "--out", "out"),
            *("--stopped", "stopped.json", "--earlier", "earlier1.json", "--rows-out", "rows"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    own = summary.table([], FAILURES[:1], [], stopped=[{**place, "stage": "SORT"}])
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == [*own, *others]
    (rows,) = (tmp_path / "rows").rglob("*.json")
    assert rows == tmp_path / "rows" / "mouse01" / "2026-03-02_001.json"
    assert json.loads(rows.read_text()) == own
    assert (tmp_path / "out" / "summary.csv").read_text().count("\n") == 4
    assert "What failed" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_help_needs_no_packages(tmp_path):
    result = subprocess.run(
        [sys.executable, "-S", str(BIN / "pp_report.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "--failures" in result.stdout
