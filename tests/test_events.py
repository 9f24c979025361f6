"""Events and analog traces of a NIDQ stream against what was written into the raw file."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from one.alf import io, spec
from powerpixels import edges, events
from powerpixels.documents import AnalogLine, DigitalLine, NidqDocument, RawFile, Session, Stream
from powerpixels.stage import DataError
from powerpixels.wiring import Wiring, load_wiring

ROOT = Path(__file__).resolve().parent.parent
RATE = 11574.074074
N = 40000
GAIN = 2 / 32768
# line -> (sample, new level) of its changes; P0.3 is high when the recording begins, P0.4 when it ends
CHANGES = {
    "P0.0": [(1000 + 5787 * k, (k + 1) % 2) for k in range(6)],
    "P0.1": [(2000, 1), (2500, 0), (9000, 1), (9001, 0)],
    "P0.3": [(0, 1), (700, 0), (800, 1), (900, 0)],
    "P0.4": [(30000, 1), (31000, 0), (39000, 1)],
    "P0.5": [],
}


@pytest.fixture
def nidq(tmp_path):
    """(stream, its edges, raw counts of AI0 and AI2) of a small NIDQ recording in tmp_path/raw."""
    rng = np.random.default_rng(0)
    raw = np.zeros((N, 3), np.int16)
    raw[:, :2] = rng.integers(-32768, 32768, (N, 2))
    for line, changes in CHANGES.items():
        level = np.zeros(N, np.int16)
        for sample, value in changes:
            level[sample:] = value
        raw[:, 2] |= level << int(line[3:])
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / "run_g0_t0.nidq.bin"
    raw.tofile(path)
    stream = Stream(
        name="nidq",
        kind="nidq",
        files=[RawFile(path=path.name, role="data", size_bytes=path.stat().st_size)],
        sampling_rate_hz=RATE,
        n_columns=3,
        n_samples=N,
        first_sample=68528,
        sync_column=2,
        sync_bit=0,
        analog=[
            AnalogLine(raw_column=0, name="AI0", gain_v=GAIN),
            AnalogLine(raw_column=1, name="AI2", gain_v=2 * GAIN),
        ],
        digital=[DigitalLine(raw_column=2, bit=bit, name=f"P0.{bit}") for bit in range(8)],
    )
    return stream, edges.extract_edges(stream, tmp_path / "raw"), raw


def test_wired_lines(nidq, tmp_path):
    stream, found, _ = nidq
    wiring = Wiring(digital={"P0.1": "lick", "P0.3": "wheel_gate", "P0.4": "laser"})
    warnings = events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    assert warnings == []
    for line, name, pulses in (
        ("P0.1", "lick", [(2000, 2500), (9000, 9001)]),
        ("P0.3", "wheel_gate", [(800, 900)]),
        ("P0.4", "laser", [(30000, 31000)]),
    ):
        changes = [(sample, level) for sample, level in CHANGES[line] if sample > 0]
        times = np.load(tmp_path / "out" / f"{name}.times.npy")
        assert times.dtype == np.float64
        np.testing.assert_array_equal(times, [sample / RATE for sample, _ in changes])
        polarities = np.load(tmp_path / "out" / f"{name}.polarities.npy")
        assert polarities.dtype == np.int8
        assert polarities.tolist() == [1 if level else -1 for _, level in changes]
        intervals = np.load(tmp_path / "out" / f"{name}.intervals.npy")
        np.testing.assert_array_equal(intervals, np.array(pulses) / RATE)
    assert not list((tmp_path / "out").glob("analog*"))
    assert json.loads((tmp_path / "out" / "clock.json").read_text()) == {
        "clock": "nidq",
        "zero": "first sample of the file",
        "unit": "s",
        "sampling_rate_hz": RATE,
        "first_sample": 68528,
    }


def test_default_wiring_publishes_active_lines_under_their_own_name(nidq, tmp_path):
    stream, found, _ = nidq
    wiring = load_wiring(ROOT / "assets" / "wiring.json")
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").glob("*.npy")}
    assert names == {
        f"_nidq_port0line{k}.{attribute}.npy"
        for k in (1, 3, 4)
        for attribute in ("times", "polarities", "intervals")
    }
    assert json.loads((tmp_path / "out" / "events.json").read_text())["digital"][0] == {
        "line": "P0.1",
        "object": "_nidq_port0line1",
        "wired": False,
        "n_edges": 4,
        "n_pulses": 2,
    }


def test_analog_traces_in_volts_and_seconds(nidq, tmp_path, monkeypatch):
    monkeypatch.setattr(edges, "CHUNK_BYTES", 10000)
    stream, found, raw = nidq
    wiring = Wiring(analog={"AI2": "breathing", "AI0": "pupil"})
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    for name, column, gain in (("breathing", 1, 2 * GAIN), ("pupil", 0, GAIN)):
        volts = np.load(tmp_path / "out" / f"analog.{name}.npy")
        assert volts.dtype == np.float32
        np.testing.assert_allclose(volts, raw[:, column].astype(float) * gain, rtol=1e-6)
    seconds = np.load(tmp_path / "out" / "analog.timestamps.npy")
    assert seconds.dtype == np.float64
    np.testing.assert_array_equal(seconds, np.arange(N) / RATE)


def test_alf_names_and_loading(nidq, tmp_path):
    stream, found, raw = nidq
    wiring = Wiring(digital={"P0.1": "lick_left"}, analog={"AI0": "breathing"})
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    names = [path.name for path in (tmp_path / "out").glob("*.npy")]
    assert len(names) == 3 + 2 * 3 + 2
    assert [name for name in names if not spec.is_valid(name)] == []
    analog = io.load_object(tmp_path / "out", "analog")
    assert set(analog) == {"breathing", "timestamps"} and analog.check_dimensions == 0
    assert set(io.load_object(tmp_path / "out", "lick_left")) == {"times", "polarities", "intervals"}
    line = io.load_object(tmp_path / "out", "port0line3", namespace="nidq")
    np.testing.assert_array_equal(line["times"], np.array([700, 800, 900]) / RATE)


def test_absent_and_silent_inputs_are_warnings_that_name_them(nidq, tmp_path, caplog):
    stream, found, _ = nidq
    wiring = Wiring(
        sync="P1.0", digital={"P0.12": "camera", "P0.5": "reward"}, analog={"AI0": "ok", "AI7": "eye"}
    )
    with caplog.at_level(logging.WARNING, logger="powerpixels"):
        warnings = events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    assert [message.split(" is ")[0] for message in warnings[:2]] == [
        "the wiring has the sync wave on P1.0, the recording's metadata on P0.0",
        "digital line P1.0 (sync)",
    ]
    assert any("P0.12 (camera)" in m and "not in nidq; its lines: P0.0, P0.1" in m for m in warnings)
    assert any("P0.5 (reward)" in m and "never changes" in m for m in warnings)
    assert any("AI7 (eye)" in m and "its inputs: AI0, AI2" in m for m in warnings)
    assert len(warnings) == 5
    assert [record.getMessage() for record in caplog.records] == warnings
    assert json.loads((tmp_path / "out" / "events.json").read_text())["warnings"] == warnings
    assert not list((tmp_path / "out").glob("camera*")) and not list((tmp_path / "out").glob("*eye*"))
    assert np.load(tmp_path / "out" / "reward.times.npy").shape == (0,)
    assert np.load(tmp_path / "out" / "reward.intervals.npy").shape == (0, 2)


def test_edges_of_another_stream_are_refused(nidq, tmp_path):
    stream, found, _ = nidq
    other = stream.model_copy(update={"n_samples": N - 1})
    with pytest.raises(DataError, match=r"expected nidq \(39999 samples\)"):
        events.write_events(other, tmp_path / "raw", found, Wiring(), tmp_path / "out")


def test_memory_does_not_grow_with_the_recording(nidq, tmp_path, monkeypatch):
    """24 MB of analog output in pieces: below 4 MB at any time."""
    monkeypatch.setattr(edges, "CHUNK_BYTES", 2**18)
    stream, _, raw = nidq
    np.tile(raw, (50, 1)).tofile(tmp_path / "raw" / "run_g0_t0.nidq.bin")
    stream = stream.model_copy(update={"n_samples": 50 * N})
    found = edges.extract_edges(stream, tmp_path / "raw")
    tracemalloc.start()
    events.write_events(stream, tmp_path / "raw", found, Wiring(analog={"AI0": "a"}), tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "analog.a.npy")[-N:], (raw[:, 0] * GAIN).astype(np.float32)
    )


def test_executable(nidq, tmp_path):
    stream, found, _ = nidq
    session = Session(
        subject="m", session="2026-03-01", acquisition="spikeglx", acquisition_version=None, start_time=None
    )
    NidqDocument(session=session, stream=stream).save(tmp_path / "nidq.json")
    found.save(tmp_path / "edges.npz")
    (tmp_path / "wiring.json").write_text('{"digital": {"P0.1": "lick", "P0.9": "gone"}}')
    command = [sys.executable, str(ROOT / "bin" / "pp_events.py"), "--nidq", "nidq.json", "--raw-dir", "raw"]
    command += ["--edges", "edges.npz", "--wiring", "wiring.json", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "P0.9 (gone)" in done.stderr
    assert len(np.load(tmp_path / "out" / "lick.times.npy")) == 4
    assert "numpy" in json.loads((tmp_path / "versions.json").read_text())
    (tmp_path / "wiring.json").write_text("[]")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 65 and done.stderr.splitlines()[-1].startswith("ERROR: wiring.json: expected")
