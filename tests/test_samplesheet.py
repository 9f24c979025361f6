"""Samplesheets of data trees as labs have them, and what is refused."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path

import openephys_files
import pytest
from powerpixels import cli, samplesheet
from powerpixels.stage import DataError
from sglx_files import nidq_header, np1_header, np2_header, write_recording

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "assets" / "schema_input.json").read_text())["items"]


def write_run(folder, run="run", gate=0, day="2026-03-01", hour=10, probes=2, per_probe=True, trigger=0):
    """A SpikeGLX run folder with a NIDQ; returns it."""
    time = f"{day}T{hour:02d}:00:00"
    run_folder = folder / f"{run}_g{gate}"
    stem = f"{run}_g{gate}_t{trigger}"
    write_recording(run_folder / f"{stem}.nidq.meta", nidq_header(run=stem, fileCreateTime=time))
    for k, header in enumerate([np1_header, np2_header][:probes]):
        own = run_folder / f"{run}_g{gate}_imec{k}" if per_probe else run_folder
        keys = {"device": f"imec{k}", "run": stem, "fileCreateTime": time}
        write_recording(own / f"{stem}.imec{k}.ap.meta", header(**keys))
    return run_folder


def write_open_ephys(session, n_experiments=1):
    """An Open Ephys session with one probe."""
    node = openephys_files.write_session(
        session, [[openephys_files.wide()]], [openephys_files.OeProbe(("ProbeB",), "NP2014", "22420006883")]
    )
    for k in range(2, n_experiments + 1):
        shutil.copytree(node / "experiment1", node / f"experiment{k}")
        shutil.copy(node / "settings.xml", node / f"settings_{k}.xml")
    return node


def flag(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "process_me.flag").touch()
    return folder


def found(folder, everything=True):
    return samplesheet.find_recordings([folder], everything)


def check_sheet(text):
    """The rows of a samplesheet, taken apart as subworkflows/inputs.nf does, and checked by the schema."""
    fields = [re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', line) for line in text.splitlines()]
    bare = [[f[1:-1].replace('""', '"') if f[:1] == '"' == f[-1:] else f for f in row] for row in fields]
    rows = [dict(zip(bare[0], row, strict=True)) for row in bare[1:]]
    assert set(rows[0]) <= set(SCHEMA["properties"]) and set(SCHEMA["required"]) <= set(rows[0])
    for row in rows:
        for column, spec in SCHEMA["properties"].items():
            value = row.get(column, "")
            assert value or column not in SCHEMA["required"]
            assert not value or re.search(spec.get("pattern", ""), value), value
        assert Path(row["raw"]).is_dir()
    keys = [(row["subject"], (row["session"] + "_001")[:14]) for row in rows]
    assert len(set(keys)) == len(keys) and len({row["raw"] for row in rows}) == len(rows)
    return rows


def test_the_subjects_rule_is_the_samplesheets():
    assert SCHEMA["properties"]["subject"]["pattern"] == f"^{samplesheet.SUBJECT}$"


def test_runs_in_folders_of_their_own(tmp_path):
    """A folder per probe, or flat; beside each other runs are sessions of their own."""
    runs = [
        write_run(tmp_path / "m1" / "20260301", "a"),
        write_run(tmp_path / "m1" / "20260301", "b", hour=9),
    ]
    runs.append(write_run(tmp_path / "m2" / "2026-03-02", per_probe=False))
    assert found(tmp_path) == sorted(runs)


def test_gates_of_one_run_are_one_session(tmp_path):
    day = tmp_path / "m1" / "20260301"
    for gate in (0, 1):
        write_run(day, gate=gate, hour=10 + gate)
    assert found(tmp_path) == [day]
    other = write_run(day, "other")
    assert found(tmp_path) == [other, day / "run_g0", day / "run_g1"]


def test_one_run_name_on_two_days_is_two_sessions(tmp_path):
    days = [
        write_run(tmp_path / "m1" / day, gate=k, day=day)
        for k, day in enumerate(["2026-03-01", "2026-03-03"])
    ]
    assert found(tmp_path) == days
    named = [
        write_run(tmp_path / "m2" / name, gate=k, day=f"2026-03-0{k + 1}")
        for k, name in enumerate(["one", "two"])
    ]
    assert found(tmp_path / "m2") == named


def test_probe_folders_without_a_run_folder(tmp_path):
    run = write_run(tmp_path / "elsewhere")
    session = tmp_path / "m1" / "20260301" / "raw_ephys_data"
    session.mkdir(parents=True)
    (run / "run_g0_imec0").rename(session / "probe_a")
    (run / "run_g0_imec1").rename(session / "probe_b")
    assert found(tmp_path / "m1") == [session]
    # One of them without a header still belongs to it.
    next((session / "probe_a").glob("*.meta")).unlink()
    assert found(tmp_path / "m1") == [session]
    shutil.rmtree(session / "probe_b")
    (session / "probe_a").rename(session / "run_g0_imec0")
    assert found(tmp_path / "m1") == [session]


def test_open_ephys_sessions(tmp_path):
    """Several experiments of one Record Node are a session each; names with spaces and #."""
    one = tmp_path / "m1" / "20260301" / "first # try"
    write_open_ephys(one)
    node = write_open_ephys(tmp_path / "m1" / "20260302", 2)
    assert found(tmp_path) == [one, node / "experiment1", node / "experiment2"]
    two_nodes = tmp_path / "m2" / "20260302"
    shutil.copytree(node, two_nodes / "Record Node 101")
    shutil.copytree(node, two_nodes / "Record Node 102")
    assert found(tmp_path / "m2") == [two_nodes]


def test_catgt_output_beside_its_original_is_left_out(tmp_path, caplog):
    run = write_run(tmp_path)
    shutil.copytree(run, tmp_path / "catgt_run_g0")
    with caplog.at_level(logging.WARNING, logger="powerpixels"):
        assert found(tmp_path) == [run]
    assert "catgt_run_g0: left out, its original run_g0 lies beside it" in caplog.text
    shutil.rmtree(run)
    assert found(tmp_path) == [tmp_path / "catgt_run_g0"]


def test_results_work_folders_and_hidden_folders_are_not_looked_into(tmp_path):
    run = write_run(tmp_path / "data" / "m1" / "20260301")
    outdir = tmp_path / "results"
    session = outdir / "m1" / "2026-03-01" / "001"
    write_run(session / "raw_ephys_data" / "probe00")
    (session / "alf").mkdir()
    (session / "analyzers").mkdir()
    task = tmp_path / "work" / "ab" / "cdef"
    task.mkdir(parents=True)
    (task / ".command.sh").touch()
    (task / "raw").symlink_to(run)
    write_run(tmp_path / ".snapshot")
    assert found(tmp_path) == [run]
    (outdir / "pipeline_info").mkdir()
    (outdir / "summary.csv").touch()
    (session / "alf").rmdir()
    assert found(tmp_path) == [run]


def test_links_are_followed_once_and_tell_the_subject(tmp_path):
    run = write_run(tmp_path / "store" / "x")
    day = tmp_path / "tree" / "m7" / "20260301"
    day.parent.mkdir(parents=True)
    day.symlink_to(run)
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    rows = samplesheet.sessions(found(tmp_path / "tree"), None)
    assert [(row.subject, row.session, row.raw) for row in rows] == [("m7", "2026-03-01", run)]


def test_flagged_sessions_only(tmp_path):
    flagged = flag(tmp_path / "m1" / "20260301")
    run = write_run(flagged / "raw_ephys_data")
    write_run(tmp_path / "m1" / "20260302" / "raw_ephys_data")
    empty = flag(tmp_path / "m1" / "20260303")
    (empty / "raw_ephys_data").mkdir()
    inside = flag(write_run(tmp_path / "m2" / "20260301"))
    assert found(tmp_path, everything=False) == [run, empty / "raw_ephys_data", inside]
    assert len(found(tmp_path)) == 3


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(DataError, match="no SpikeGLX or Open Ephys recording was found"):
        found(tmp_path)
    write_run(tmp_path / "m1")
    with pytest.raises(
        DataError, match=r"no folder with a process_me.flag, but 1 recordings without; give --all"
    ):
        found(tmp_path, everything=False)
    with pytest.raises(DataError, match="nowhere: expected a folder"):
        found(tmp_path / "nowhere")


def test_sessions_of_a_day_are_numbered_as_they_began(tmp_path):
    day = tmp_path / "m1" / "20260301"
    write_run(day, "late", hour=15)
    write_run(day, "early", hour=8)
    # The header's date counts: this one began before midnight.
    write_run(tmp_path / "m1" / "20260303", "night", day="2026-03-02", hour=23)
    write_run(tmp_path / "m0" / "20260301", "other")
    rows = samplesheet.sessions(found(tmp_path), None)
    assert [(row.subject, row.session, row.raw.name) for row in rows] == [
        ("m0", "2026-03-01", "other_g0"),
        ("m1", "2026-03-01_001", "early_g0"),
        ("m1", "2026-03-01_002", "late_g0"),
        ("m1", "2026-03-02", "night_g0"),
    ]
    assert rows[1].inventory.session.session == "2026-03-01_001"


def test_numbers_that_the_tree_gives_are_kept(tmp_path):
    for number, hour in (("002", 8), ("005", 12)):
        write_run(tmp_path / "m1" / "2026-03-01" / number / "raw_ephys_data", hour=hour)
    write_run(tmp_path / "m2" / "2026-03-01" / "003" / "raw_ephys_data")
    rows = samplesheet.sessions(found(tmp_path), None)
    assert [row.session for row in rows] == ["2026-03-01_002", "2026-03-01_005", "2026-03-01_003"]


def test_unknown_and_odd_subjects_are_refused(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", "other")
    with pytest.raises(DataError, match=rf"not known of: {first}, {second}; give it with --subject"):
        samplesheet.sessions(found(tmp_path), None)
    known = write_run(tmp_path / "m1" / "20260301")
    rows = samplesheet.sessions(found(tmp_path), "m9")
    assert {row.raw: row.subject for row in rows} == {first: "m9", second: "m9", known: "m1"}
    write_run(tmp_path / "mouse 1" / "20260301")
    with pytest.raises(DataError, match=r"found: 'mouse 1' \(.*rename their folders"):
        samplesheet.sessions(found(tmp_path), "m9")


def test_command_writes_a_valid_sheet(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "data, old" / "m1" / "20260301", '7"')
    broken = write_run(tmp_path / "data, old" / "m2" / "20260301", probes=1)
    data = next(broken.rglob("*.ap.bin"))
    data.write_bytes(b"\0" * 770)
    with caplog.at_level(logging.WARNING, logger="powerpixels"):
        cli.main(["samplesheet", "data, old", "--all"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        ["m1", "2026-03-01", "probe00", "probe01"],
        ["m2", "2026-03-01", "probe00", "0:00:00"],
    ]
    assert "probe00: TRUNCATED" in " ".join(lines[2]) and "TRUNCATED" not in lines[1]
    assert "m2 2026-03-01 probe00 can't be processed: TRUNCATED: " in caplog.text
    text = Path("samplesheet.csv").read_text()
    rows = check_sheet(text)
    assert [row["raw"] for row in rows] == [
        str(tmp_path / "data, old" / "m1" / "20260301" / '7"_g0'),
        str(broken),
    ]

    with pytest.raises(SystemExit) as exit_:
        cli.main(["samplesheet", "data, old", "--all"])
    assert exit_.value.code == 65
    assert capsys.readouterr().err.startswith("ERROR: samplesheet.csv: it is there already")
    assert Path("samplesheet.csv").read_text() == text
    cli.main(["samplesheet", "data, old/m1", "--all", "--force"])
    assert len(check_sheet(Path("samplesheet.csv").read_text())) == 1


def test_copies_of_a_recording_are_named(tmp_path, caplog):
    for name in ("m1", "copies"):
        write_run(tmp_path / name / "20260301")
    with caplog.at_level(logging.WARNING, logger="powerpixels"):
        samplesheet.sessions(found(tmp_path), None)
    assert "copies of one recording" in caplog.text


def test_a_folder_name_that_the_sheet_cannot_hold_is_refused(tmp_path):
    write_run(tmp_path / "m1" / "20260301" / "two\nlines")
    with pytest.raises(DataError, match="a samplesheet can't hold such a name"):
        samplesheet.sheet(samplesheet.sessions(found(tmp_path), None))


def test_real_recordings(real_data):
    """All SpikeGLX and Open Ephys folders of neuroconv's test data, known by their README and names."""
    folder = real_data / "neuroconv_ephy_testing_data"
    assert [str(path.relative_to(folder)) for path in found(folder)] == [
        "openephysbinary/neural_and_non_neural_data_mixed",
        "openephysbinary/v0.4.4.1_with_spikes",
        "openephysbinary/v0.6.x_neuropixels_multiexp_multistream",
        "spikeglx/NP2_no_sync",
        "spikeglx/Noise4Sam_g0",
        "spikeglx/TEST_20210920_0_g0",
        *(f"spikeglx/multi_trigger_multi_gate/CatGT/CatGT-{k}/catgt_5-19-2022-CI0_g0" for k in "ABC"),
        *(f"spikeglx/multi_trigger_multi_gate/SpikeGLX/5-19-2022-CI{k}" for k in (0, 1, 3)),
    ]


def test_simulated_session(session_small, tmp_path):
    """Through the installed command, as a user runs it."""
    sheet = tmp_path / "sheet.csv"
    command = [str(ROOT / ".venv" / "bin" / "powerpixels"), "samplesheet", str(session_small), "--all"]
    if not Path(command[0]).exists():
        pytest.skip("the package is not installed in .venv")
    done = subprocess.run(
        [*command, "--subject", "mouse01", "--out", str(sheet)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = check_sheet(sheet.read_text())
    assert len(rows) == 1 and rows[0]["subject"] == "mouse01"
