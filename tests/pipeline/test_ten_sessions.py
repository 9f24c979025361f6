"""One run over ten sessions as laboratories have them: other layouts and programs, two that are sorted together,
and six that are broken, each in another way."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import browser, check_page
from driver import ENGINES, Launcher, Run
from one.alf.io import load_object
from powerpixels.inventory import inspect_session
from powerpixels.layouts import break_session, relayout
from powerpixels.rawdata import StreamReader, locate
from powerpixels.simulate import ProbeConfig, SimulationConfig, Truth, score_alf, simulate_session

# Session, layout and probe of the sound ones; the first two are of one `concatenate` group.
SOUND = {
    "2026-03-01_001": ("gaps", "probe00"),
    "2026-03-02_001": ("spikeglx", "probe00"),
    "2026-03-03_001": ("openephys", "ProbeA"),
    "2026-03-04_001": ("cbin", "probe00"),
}
BROKEN = {
    "2026-04-01_001": ("truncated", "TRUNCATED"),
    "2026-04-02_001": ("header_missing", "META_MISSING"),
    "2026-04-03_001": ("all_zero", "ALL_ZERO"),
    "2026-04-04_001": ("no_sync_edges", "SYNC_NO_EDGES"),
    "2026-04-05_001": ("saturated", "SATURATED"),
    "2026-04-06_001": ("unknown_probe", "UNKNOWN_PROBE"),
}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> dict[str, Path]:
    """Folders (with truth/) of the sound sessions by name, and beside them the samplesheet of all ten."""
    folder = tmp_path_factory.mktemp("ten sessions")
    small = SimulationConfig.small()
    config = small.model_copy(update={"probes": small.probes[:1], "duration_s": 16.0})
    assert isinstance(config.probes[0], ProbeConfig)
    first, second = folder / "first", folder / "second"
    simulate_session(first, config)
    simulate_session(second, config.another_session(7, start_time="2026-03-02T09:00:00", duration_s=14.0))
    rows, made = [], {}
    for session, (layout, _probe) in SOUND.items():
        source = second if session == "2026-03-02_001" else first
        raw = relayout(source, folder / session, layout)
        made[session] = folder / session
        rows.append(f'm1,{session},"{raw}",{"days" if session < "2026-03-03" else ""}')
    for session, (fault, _code) in BROKEN.items():
        raw = relayout(first, folder / session, "spikeglx")
        break_session(raw, fault, "imec0")
        rows.append(f'm1,{session},"{raw}",')
    made["sheet"] = folder / "sheet.csv"
    made["sheet"].write_text("\n".join(["subject,session,raw,concatenate", *rows]) + "\n")
    return made


@pytest.fixture(scope="module")
def finished(sessions, tmp_path_factory) -> Run:
    launcher = Launcher(ENGINES[0], tmp_path_factory.mktemp("ten") / "launch")
    return launcher.run("-resume", "--input", sessions["sheet"], "--compress", "zarr")


def folder_of(run: Run, session: str) -> Path:
    return run.results / "m1" / session.replace("_", "/")


def test_four_are_published_and_six_are_named(finished):
    assert finished.status != 0
    with open(finished.results / "summary.csv", newline="") as file:
        rows = {(row["session"], row["probe"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(session, probe) for session, (_, probe) in SOUND.items()} | {
        (session, "probe00") for session in BROKEN
    }
    for (session, probe), row in rows.items():
        published = folder_of(finished, session) / "alf" / probe / "spikes.times.npy"
        if session in SOUND:
            assert row["status"] == "done", row
            assert published.exists()
        else:
            code = BROKEN[session][1]
            assert row["status"] == "failed" and row["stage"] == "REFUSE", row
            assert row["reason"].startswith(f"{code}: "), row["reason"]
            assert not published.exists()
            # In the terminal, the inventory and the report as well.
            assert f"m1/{session}/probe00: REFUSE: {code}: " in finished.output
            inventory = json.loads((folder_of(finished, session) / "qc" / "inventory.json").read_text())
            assert code in {fault["code"] for fault in inventory["faults"] if fault["severity"] == "blocks"}
            assert code in (finished.results / "report.html").read_text()
    # No task after INSPECT was spent on the broken ones, but to list what is published of each.
    spent = {
        row["tag"].split("/")[1]
        for row in finished.tasks()
        if row["stage"] not in ("INSPECT", "REFUSE", "REPORT", "MANIFEST", "SESSION_REPORT")
    }
    assert not spent & set(BROKEN)
    assert {row["stage"] for row in finished.tasks("FAILED")} == {"REFUSE"}


@pytest.mark.skipif(browser() is None, reason="no browser is installed")
def test_pages_with_failures_in_a_browser(finished, tmp_path):
    text = check_page(finished.results / "report.html", tmp_path / "run")
    assert all(f"{code}:" in text for _, code in BROKEN.values())
    text = check_page(folder_of(finished, "2026-04-01_001") / "report.html", tmp_path / "broken")
    assert "TRUNCATED" in text


def test_gaps_are_named_where_the_user_looks(finished):
    with open(finished.results / "summary.csv", newline="") as file:
        rows = {row["session"]: row for row in csv.DictReader(file)}
    assert "GAP" in rows["2026-03-01_001"]["faults"].split()
    assert "GAP" not in rows["2026-03-02_001"]["faults"].split()


@pytest.mark.parametrize("session", SOUND)
def test_units_are_found_at_the_right_time_of_the_right_session(finished, sessions, session):
    """Well-isolated units: recall and precision as in the plain layout; every time within a sample of the
    truth on the session's own NIDQ clock, across gaps too. The floor of recall is that of test_session.py,
    lowered for the spikes that the borders of gaps cut."""
    probe = SOUND[session][1]
    alf = folder_of(finished, session) / "alf" / probe
    scores = score_alf(sessions[session], alf, probe)
    assert len(scores) >= 3
    assert (scores.recall >= 0.88).all(), scores.to_string()
    assert (scores.precision >= 0.88).all(), scores.to_string()
    truth = Truth.load(sessions[session])
    times, samples = np.load(alf / "spikes.times.npy"), np.load(alf / "spikes.samples.npy")
    assert samples.min() >= 0 and samples.max() < truth.probe(probe).ap.n_samples
    error_s = times - truth.to_nidq_seconds(probe, samples)
    assert np.abs(error_s).max() < 1 / 30_000


def test_joined_sessions_share_their_units(finished, sessions):
    """The same planted unit is the same cluster, with the same id, in both sessions."""
    first, second = (folder_of(finished, session) / "alf" / "probe00" for session in list(SOUND)[:2])
    uuids = [pd.read_csv(folder / "clusters.uuids.csv").uuids.tolist() for folder in (first, second)]
    assert uuids[0] == uuids[1]
    tables = [
        score_alf(sessions[session], folder_of(finished, session) / "alf" / "probe00", "probe00").matched_unit
        for session in list(SOUND)[:2]
    ]
    assert len(tables[0]) >= 3 and tables[0].tolist() == tables[1].tolist()
    assert tables[0].index.tolist() == tables[1].index.tolist()
    shared = finished.results / "m1" / "concatenated_days"
    assert (shared / "analyzers" / "probe00" / "shank0.zarr").exists()
    # Spikes are parted, not copied.
    spikes = [load_object(folder, "spikes") for folder in (first, second)]
    total = len(np.load(shared / "spike_sorters/kilosort4/probe00/shank0/spike_samples.npy"))
    assert sum(len(part["times"]) for part in spikes) == total


@pytest.mark.parametrize("session", ["2026-03-02_001", "2026-03-03_001"])
def test_compressed_copies_are_recordings_themselves(finished, sessions, session):
    """The published copies, given as raw folder, have the same streams with the same samples."""
    with open(sessions["sheet"], newline="") as file:
        (raw,) = [Path(row["raw"]) for row in csv.DictReader(file) if row["session"] == session]
    copies = folder_of(finished, session) / "raw_ephys_data"
    assert not list(copies.rglob("*.bin")) + list(copies.rglob("*.dat"))
    original, copied = (inspect_session(folder, "m1", session) for folder in (raw, copies))

    def streams(inventory):
        named = [probe.ap for probe in inventory.probes] + [
            probe.lf for probe in inventory.probes if probe.lf
        ]
        return {stream.name: stream for stream in [*named, inventory.nidq]}

    assert streams(original).keys() == streams(copied).keys() and len(streams(copied)) == 3
    assert [fault for fault in copied.faults if fault.severity == "blocks"] == []
    for name, stream in streams(copied).items():
        source = streams(original)[name]
        assert stream.channels == source.channels and stream.n_samples == source.n_samples
        reader = StreamReader(stream, locate([stream], copies)[0])
        known = StreamReader(source, locate([source], raw)[0])
        stop = min(stream.n_samples, 40_000)
        assert np.array_equal(reader.read(0, stop), known.read(0, stop))
