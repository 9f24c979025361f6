"""``powerpixels status`` on folders as Nextflow leaves them in the middle of a run and after it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from powerpixels import cli, status
from run_folder import SESSION, START, Folder


@pytest.fixture
def halfway(tmp_path) -> Folder:
    """probe00 is done, probe01 sorts its second shank, the second session is not inspected yet."""
    made = Folder(tmp_path)
    made.ended("INSPECT", SESSION, realtime="1m", cpus=1)
    for probe, units in (("probe00", ["shank0"]), ("probe01", ["shank2"])):
        made.ended("PREPROCESS", f"{SESSION}/{probe}", realtime="20m", cpus=8)
        made.ended("SORT", f"{SESSION}/{probe}/{units[0]}", realtime="1h 30m")
    made.ended("SORT", f"{SESSION}/probe01/shank3", "FAILED", exit="143", realtime="30m")
    for stage in ("ANALYZE", "LABEL"):
        made.ended(stage, f"{SESSION}/probe00/shank0", realtime="6m")
    made.ended("EXPORT", f"{SESSION}/probe00", realtime="90s", cpus=1)
    made.active(
        "SORT", f"{SESSION}/probe01/shank3", log="12:00:01 INFO kilosort: drift took 42.0 s\nCPU usage: 3 %\n"
    )
    made.active("ANALYZE", f"{SESSION}/probe01/shank2", begun=False)
    made.active("INSPECT", "m1/2026-03-02_001", begun=False)
    made.save()
    # The head writes this line just now.
    made.trace.write_text(made.trace.read_text() + "77\tab/cd\t-\tNEUROPIXELS:SORT")
    return made


def test_in_the_middle_of_a_run(halfway):
    found = status.status(halfway.results, START + 7200)
    rows = [
        (row["session"][:10], row["probe"], row["state"], row["stage"], row["detail"])
        for row in found["rows"]
    ]
    assert rows == [
        ("2026-03-01", "probe00", "done", "", ""),
        ("2026-03-01", "probe01", "runs", "SORT 1/2", "drift took 42.0 s"),
        ("2026-03-02", "", "waits", "INSPECT", "in the queue"),
    ]
    assert found["tasks"] == {"done": 8, "running": 1, "queued": 2, "failed_attempts": 1}
    # A preempted attempt held a GPU, too.
    assert found["gpu_hours"] == pytest.approx(1.5 + 1.5 + 0.5)
    assert found["core_hours"] == pytest.approx((60 + 2 * 1200 * 8 + 12600 * 4 + 2 * 360 * 4 + 90) / 3600)
    assert found["queue_mean_s"] == pytest.approx(30.0)
    left = found["left"]
    # probe01 and as much as the first session has for the second one: five stages are measured.
    assert {stage: left["tasks"][stage] for stage in ("PREPROCESS", "SORT", "ANALYZE", "LABEL", "EXPORT")} == {
        "PREPROCESS": 2, "SORT": 1 + 3, "ANALYZE": 2 + 3, "LABEL": 2 + 3, "EXPORT": 1 + 2,
    }  # fmt: skip
    assert {"EDGES", "NWB"} <= set(left["unmeasured"])
    assert found["probes"] == {"done": 1, "runs": 1}


def test_what_is_unfinished_as_only_takes_it(halfway, capsys):
    cli.main(["status", str(halfway.results), "--unfinished"])
    assert capsys.readouterr().out == "m1/2026-03-01_001/probe01,m1/2026-03-02_001\n"


def test_a_gpu_is_counted_where_one_was_held(tmp_path):
    """Not for sorters without a use for one; with --device auto where Kilosort used one."""
    for k, (changes, expected) in enumerate(
        [({}, 1.5), ({"preprocessing": "gpu"}, 2.0), ({"device": "auto"}, 1.0), ({"gpu": False}, 0.0)]
    ):
        made = Folder(tmp_path / str(k), **{"device": "gpu", "preprocessing": "fast"} | changes)
        for session in made.record["sessions"]:
            session["gpu"] = changes.get("gpu", True)
        made.ended("PREPROCESS", f"{SESSION}/probe01", realtime="30m")
        made.ended("SORT", f"{SESSION}/probe01/shank2", realtime="1h")
        used = Path(made.lines[-1].split("\t")[-1]) / "sorting" / "sorter_output"
        used.mkdir(parents=True)
        (used / "timings.json").write_text('{"gpu_peak_bytes": 5}')
        made.ended("SORT", f"{SESSION}/probe01/shank3", realtime="30m")
        made.save()
        assert status.status(made.results, START)["gpu_hours"] == pytest.approx(expected)


def test_time_left_is_the_work_ahead_over_tasks_at_once(tmp_path):
    """Two probes of equal shanks: PREPROCESS took 20 min each, one of two SORTs of an hour is done after 80 min."""
    made = Folder(tmp_path, stop_after="sort", drift="off")
    made.record["sessions"] = made.record["sessions"][:1]
    for probe in ("probe00", "probe01"):
        for stage in ("EDGES", "SYNC", "RAW_QC", "VISUALIZE"):
            made.ended(stage, f"{SESSION}/{probe}", realtime="0ms")
        made.ended("PREPROCESS", f"{SESSION}/{probe}", realtime="20m")
    made.ended("SORT", f"{SESSION}/probe00/shank0", realtime="1h")
    made.save()
    now = datetime(2026, 11, 26, 11, 20).timestamp()
    start = datetime.fromtimestamp(now - 4800, timezone.utc)
    for line in range(1, len(made.lines)):
        made.lines[line] = made.lines[line].replace("2026-11-26 11:00", "2026-11-26 10:30")
    made.save(start=start.isoformat().replace("+00:00", "Z"))
    left = status.status(made.results, now)["left"]
    assert left["tasks"] == {"SORT": 2} and left["unmeasured"] == []
    assert left["tasks_at_once"] == pytest.approx((2 * 20 + 60) / 80)
    assert left["seconds"] == pytest.approx(2 * 3600 / (100 / 80))


def test_failed_for_good_and_failed_for_now(halfway):
    """The data's own fault ends a probe; a lost node does not while the run goes on, and does after it."""
    halfway.ended(
        "PREPROCESS", "m1/2026-03-02_001/probe00", "FAILED", exit="65", log="x\nERROR: f.bin: 9 bytes\n"
    )
    halfway.ended("PREPROCESS", "m1/2026-03-02_001/probe01", "FAILED", exit="-", attempt=2)
    halfway.save()
    rows = {
        row["probe"]: row
        for row in status.status(halfway.results, START)["rows"]
        if "02_001" in row["session"]
    }
    assert (rows["probe00"]["state"], rows["probe00"]["detail"]) == ("failed", "f.bin: 9 bytes")
    assert Path(rows["probe00"]["log"]).read_text().startswith("x")
    assert (rows["probe01"]["state"], rows["probe01"]["detail"]) == ("waits", "exit status -: is tried again")
    halfway.save(end="2026-11-26T18:00:00Z", success=False)
    found = status.status(halfway.results, START)
    assert {row["probe"]: row["state"] for row in found["rows"]}["probe01"] == "failed" and found[
        "left"
    ] is None


def test_stopped_and_resumed(tmp_path):
    """After a run with --stop_after its probes are stopped; what a later run takes from the cache costs nothing."""
    made = Folder(tmp_path, stop_after="preprocess")
    for probe in ("probe00", "probe01"):
        made.ended("PREPROCESS", f"{SESSION}/{probe}", realtime="1h", cpus=2)
    made.save(end="2026-11-26T12:00:00Z", success=True)
    found = status.status(made.results, START)
    rows = {(row["session"], row["probe"]): (row["state"], row["detail"]) for row in found["rows"]}
    assert rows["2026-03-01_001", "probe01"] == ("stopped", "after PREPROCESS")
    assert found["core_hours"] == pytest.approx(4.0) and found["gpu_hours"] == 0.0
    second = made.info / "trace_2026-11-27_10-00-00_1.tsv"
    second.write_text(made.trace.read_text().replace("COMPLETED", "CACHED"))
    assert status.status(made.results, START)["core_hours"] == pytest.approx(4.0)


def test_text_fits_a_terminal(halfway, capsys):
    reason = "a long reason " * 20
    halfway.ended("SORT", f"{SESSION}/probe01/shank3", "FAILED", exit="65", log=f"ERROR: {reason}\n")
    halfway.save()
    (halfway.info / "rows" / "m9").mkdir(parents=True)
    (halfway.info / "rows" / "m9" / "2026-01-01_001.json").write_text("[]")
    (halfway.results / "summary.json").write_text("[]")
    halfway.work.joinpath("ab").rename(halfway.work / "cd")
    cli.main(["status", str(halfway.results)])
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if not line.startswith("  log: ")) <= 80
    assert "left      more than " in text
    assert "summary.csv lacks m9/2026-01-01_001" in text and "calm_bohr" in text
    cli.main(["status", str(halfway.results), "--json"])
    assert json.loads(capsys.readouterr().out)["sessions"] == 2


def test_a_folder_without_a_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", str(tmp_path)])
    assert ended.value.code == 65 and "expected run_*.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, seconds", [("1h 2m 3s", 3723.0), ("850ms", 0.85), ("1.2s", 1.2), ("2d 1h", 176400.0), ("-", 0.0)]
)
def test_durations_as_the_trace_writes_them(text, seconds):
    assert status.duration_s(text) == pytest.approx(seconds)
