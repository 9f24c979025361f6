"""The command: ``powerpixels inspect``, and how commands end."""

from __future__ import annotations

import json
import re

import pytest
from powerpixels import __version__, cli, edges, inventory
from powerpixels.documents import Inventory
from sglx_files import nidq_header, np1_header, write_recording


@pytest.fixture
def run_folder(session_small):
    """The simulated session's run."""
    return next(session_small.rglob("*.nidq.meta")).parent


def test_inspect_prints_streams_for_people(run_folder, capsys):
    cli.main(["inspect", str(run_folder)])
    out = capsys.readouterr().out
    for stream in ("imec0.ap", "imec0.lf", "imec1.ap", "nidq"):
        assert stream in out
    assert out.startswith("? 20")


def test_inspect_as_json_is_an_inventory(run_folder, capsys):
    cli.main(["inspect", str(run_folder), "--json"])
    found = Inventory.model_validate_json(capsys.readouterr().out)
    assert [probe.name for probe in found.probes] == ["probe00", "probe01"]
    assert found.nidq is not None
    assert found.session.subject == "?" and found.session.session == found.session.start_time[:10]


def test_inspect_takes_the_subject_from_the_path_and_fails_where_a_probe_is_blocked(tmp_path, capsys):
    folder = tmp_path / "m1" / "20260301" / "run_g0"
    write_recording(folder / "run_g0_t0.nidq.meta", nidq_header())
    path = write_recording(folder / "run_g0_t0.imec0.ap.meta", np1_header())
    path.with_suffix(".bin").write_bytes(b"\0" * 770)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", str(folder)])
    assert exit_.value.code == 65
    told = capsys.readouterr()
    assert told.out.startswith("m1 2026-03-01") and "BLOCKS probe00 imec0.ap TRUNCATED" in told.out
    last = told.err.splitlines()[-1]
    assert last.startswith(f"ERROR: {folder}: can't be processed: probe00 (TRUNCATED")


def test_inspect_of_no_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", str(tmp_path / "gone")])
    assert exit_.value.code == 65
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("ERROR: ") and len(told.err.splitlines()) == 1


def test_inspect_of_an_empty_folder_is_blocked(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", str(tmp_path)])
    assert exit_.value.code == 65
    assert "the session (NO_RECORDING)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "wiring", "samplesheet", "prepare", "simulate"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: powerpixels {command}" in capsys.readouterr().out


def test_wiring_shows_which_line_carries_what(run_folder, capsys):
    """Against the simulated session: sync on P0.0, licks on P0.1, camera on P0.2."""
    cli.main(["wiring", str(run_folder)])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["stream", "line", "edges", "first", "last", "carries"]
    rows = {tuple(line.split()[:2]): line for line in out[1:]}
    assert re.search(r"a pulse every (1|1\.000\d+|0\.9999\d+) s, .*the sync wave", rows["nidq", "P0.0"])
    assert "pulses at irregular times" in rows["nidq", "P0.1"]
    assert "always low" in rows["nidq", "P0.7"]
    assert "analog, -" in rows["nidq", "AI0"]
    assert ("imec0.ap", "sync") in rows and ("imec1.ap", "sync") in rows


def test_wiring_as_json_agrees_with_the_edges(run_folder, capsys):
    cli.main(["wiring", str(run_folder), "--json"])
    rows = json.loads(capsys.readouterr().out)
    found = inventory.inspect_session(run_folder, "?", "?")
    known = edges.extract_edges(found.nidq, run_folder)
    for row in rows:
        if row["stream"] == "nidq" and row["line"].startswith("P"):
            sample, _ = known.of(row["line"])
            assert row["n_edges"] == len(sample)
            if len(sample):
                assert row["last_s"] == sample[-1] / found.nidq.sampling_rate_hz
    cli.main(["wiring", str(run_folder), "--json", "--seconds", "2"])
    fewer = json.loads(capsys.readouterr().out)
    assert [row["line"] for row in fewer] == [row["line"] for row in rows]
    assert all(row.get("last_s", 0) < 2 for row in fewer) and sum(row["n_edges"] for row in fewer) > 10


def test_wiring_of_no_recording_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["wiring", str(tmp_path)])
    assert exit_.value.code == 65
    assert "NO_RECORDING" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__
