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
from powerpixels import edges, events, rawdata
from powerpixels.documents import (
    AnalogLine,
    ClockFit,
    DigitalLine,
    Piece,
    RawFile,
    Session,
    Stream,
    StreamDocument,
)
from powerpixels.stage import DataError
from powerpixels.wiring import Inputs, Wiring, load_wiring

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
        pieces=[Piece(path=path.name, first_row=0, n_samples=N, first_sample=68528)],
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
        intervals = np.load(tmp_path / "out" / "pulses" / f"{name}.intervals.npy")
        np.testing.assert_array_equal(intervals, np.array(pulses) / RATE)
    assert not list((tmp_path / "out").glob("analog*"))
    clock = json.loads((tmp_path / "out" / "_powerpixels_clock.fit.json").read_text())
    assert clock.pop("description").startswith("all times here are seconds on the clock of stream 'nidq'")
    files = clock.pop("files")
    assert set(files) == {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*.npy")
        if "polarities" not in path.name
    }
    assert all(one == {"clock": "nidq", "unit": "s", "bound_us": 0.0} for one in files.values())
    fit = ClockFit(**clock)
    assert (fit.stream, fit.reference, fit.slope, fit.offset_s) == ("nidq", "nidq", 1.0, 0.0)
    assert spec.is_valid("_powerpixels_clock.fit.json")
    assert spec.is_valid("_powerpixels_events.summary.json")


def test_default_wiring_publishes_active_lines_under_their_own_name(nidq, tmp_path):
    stream, found, _ = nidq
    wiring = load_wiring(ROOT / "assets" / "wiring.json")
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*.npy")}
    assert names == {
        f"_nidq_port0line{k}.{attribute}.npy"
        for k in (1, 3, 4)
        for attribute in ("times", "polarities", "intervals")
    }
    assert json.loads((tmp_path / "out" / "_powerpixels_events.summary.json").read_text())["digital"][0] == {
        "line": "P0.1",
        "object": "_nidq_port0line1",
        "wired": False,
        "n_edges": 4,
        "n_pulses": 2,
    }


def test_analog_traces_in_volts_and_seconds(nidq, tmp_path, monkeypatch):
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 10000)
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
    names = [path.name for path in (tmp_path / "out").rglob("*.npy")]
    assert len(names) == 3 + 2 * 3 + 2
    assert [name for name in names if not spec.is_valid(name)] == []
    analog = io.load_object(tmp_path / "out", "analog")
    assert set(analog) == {"breathing", "timestamps"} and analog.check_dimensions == 0
    # Fewer pulses than edges: of one object, ONE would warn of their lengths.
    edges_of, pulses = (io.load_object(tmp_path / folder, "lick_left") for folder in ("out", "out/pulses"))
    assert set(edges_of) == {"times", "polarities"} and edges_of.check_dimensions == 0
    assert set(pulses) == {"intervals"} and len(pulses["intervals"]) == 2
    line = io.load_object(tmp_path / "out", "port0line3", namespace="nidq")
    np.testing.assert_array_equal(line["times"], np.array([700, 800, 900]) / RATE)


def test_absent_and_silent_inputs_are_warnings_that_name_them(nidq, tmp_path, caplog):
    stream, found, _ = nidq
    wiring = Wiring(
        sync="P1.0", digital={"P0.12": "camera", "P0.5": "reward"}, analog={"AI0": "ok", "AI7": "eye"}
    )
    with caplog.at_level(logging.WARNING, logger="powerpixels"):
        warnings = events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    assert warnings[0] == "the wiring has the sync wave on P1.0, the recording's metadata on P0.0"
    assert any("P0.12 (camera)" in m and "not in nidq; its lines: P0.0, P0.1" in m for m in warnings)
    assert any("P0.5 (reward)" in m and "never changes" in m for m in warnings)
    assert any("AI7 (eye)" in m and "its inputs: AI0, AI2" in m for m in warnings)
    assert len(warnings) == 4
    assert [record.getMessage() for record in caplog.records] == warnings
    assert (
        json.loads((tmp_path / "out" / "_powerpixels_events.summary.json").read_text())["warnings"]
        == warnings
    )
    assert not list((tmp_path / "out").glob("camera*")) and not list((tmp_path / "out").glob("*eye*"))
    assert np.load(tmp_path / "out" / "reward.times.npy").shape == (0,)
    assert np.load(tmp_path / "out" / "pulses" / "reward.intervals.npy").shape == (0, 2)


def fit_of(stream):
    """A clock that gains 20 ppm on its reference, which began 1.5 s earlier."""
    return ClockFit(
        probe=stream.name,
        stream=stream.name,
        reference="nidq",
        sampling_rate_hz=stream.sampling_rate_hz,
        offset_s=1.5,
        slope=1 - 20e-6,
        n_edges=100,
        n_unmatched=0,
        rms_us=10.0,
        max_us=30.0,
        first_edge_s=0.0,
        last_edge_s=10.0,
        knots=[(0.0, 1.5), (10.0, 11.5 - 200e-6)],
    )


def test_another_stream_is_put_on_the_reference_clock_in_a_folder_of_its_own(nidq, tmp_path):
    """Its lines have the NIDQ's names; the wiring's top level is not about them."""
    stream, found, raw = nidq
    stream = stream.model_copy(update={"name": "obx0", "kind": "obx", "sync_column": None, "sync_bit": None})
    found = edges.extract_edges(stream, tmp_path / "raw")
    inputs = Inputs(digital={"P0.1": "lick"}, analog={"AI2": "pupil"})
    wiring = Wiring(digital={"P0.3": "wheel"}, analog={"AI7": "eye"}, streams={"obx0": inputs})
    warnings = events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out", fit_of(stream))
    assert warnings == []
    out = tmp_path / "out" / "obx0"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["obx0"]
    expected = 1.5 + (1 - 20e-6) * np.array([2000, 2500, 9000, 9001]) / RATE
    np.testing.assert_allclose(np.load(out / "lick.times.npy"), expected, rtol=0, atol=1e-12)
    intervals = np.load(out / "pulses" / "lick.intervals.npy")
    np.testing.assert_allclose(intervals, expected.reshape(2, 2), rtol=0, atol=1e-12)
    seconds = np.load(out / "analog.timestamps.npy")
    np.testing.assert_allclose(seconds, 1.5 + (1 - 20e-6) * np.arange(N) / RATE, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(
        np.load(out / "analog.pupil.npy"), (raw[:, 1] * (2 * GAIN)).astype(np.float32)
    )
    assert (out / "_obx0_port0line3.times.npy").exists() and not list(out.glob("wheel*"))
    assert [path.name for path in out.glob("*.npy") if not spec.is_valid(path.name)] == []
    told = json.loads((out / "_powerpixels_clock.fit.json").read_text())
    assert "recorded on 'obx0'" in told.pop("description")
    assert told.pop("files")["lick.times.npy"] == {
        "clock": "nidq",
        "unit": "s",
        "bound_us": fit_of(stream).bound_us,
    }
    assert ClockFit(**told) == fit_of(stream)
    assert json.loads((out / "_powerpixels_events.summary.json").read_text())["clock"] == "nidq"
    with pytest.raises(DataError, match="of stream obx0, expected nidq"):
        events.write_events(nidq[0], tmp_path / "raw", nidq[1], wiring, tmp_path / "out", fit_of(stream))


@pytest.mark.parametrize("chunk_bytes", [2**25, 9000])
def test_decimated_analog_keeps_what_it_can_hold_and_its_times(nidq, tmp_path, monkeypatch, chunk_bytes):
    """100 Hz come through, 900 Hz do not alias, and a sine's phase is that of the timestamps, across a gap."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", chunk_bytes)
    stream, found, raw = nidq
    seconds = np.arange(N) / RATE
    raw[:, 0] = 8000 * np.sin(2 * np.pi * 100 * seconds) + 8000 * np.sin(2 * np.pi * 900 * seconds)
    for name, rows in (("a.bin", raw[:14001]), ("b.bin", raw[20000:])):
        rows.tofile(tmp_path / "raw" / name)
    pieces = [
        Piece(path="a.bin", first_row=0, n_samples=14001, first_sample=0),
        Piece(path="b.bin", first_row=0, n_samples=N - 20000, first_sample=20000),
    ]
    files = [RawFile(path=piece.path, role="data", size_bytes=0) for piece in pieces]
    update = {"files": files, "pieces": pieces, "n_samples": N - 5999, "first_sample": 0}
    stream = stream.model_copy(update=update)
    found = edges.extract_edges(stream, tmp_path / "raw")
    wiring = Wiring(analog={"AI0": "pupil"}, analog_rate_hz=1000)
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    kept = np.r_[0:14001:11, 20000:N:11]
    times, volts = (np.load(tmp_path / "out" / f"analog.{a}.npy") for a in ("timestamps", "pupil"))
    np.testing.assert_array_equal(times, kept / RATE)
    expected = 8000 * GAIN * np.sin(2 * np.pi * 100 * times)
    inner = np.abs(kept[:, None] - [0, 14001, 20000, N]).min(axis=1) > 100
    assert inner.sum() > 2900
    assert np.abs(volts - expected)[inner].max() < 2e-3 * 8000 * GAIN
    summary = json.loads((tmp_path / "out" / "_powerpixels_events.summary.json").read_text())
    assert summary["analog"][0]["sampling_rate_hz"] == pytest.approx(RATE / 11)
    assert io.load_object(tmp_path / "out", "analog").check_dimensions == 0


def test_a_rate_above_the_recorded_one_is_a_warning(nidq, tmp_path):
    stream, found, raw = nidq
    wiring = Wiring(analog={"AI0": "pupil"}, analog_rate_hz=30000)
    warnings = events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    assert len(warnings) == 1 and "asks for 30000 Hz, the inputs were recorded at 11574.1 Hz" in warnings[0]
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "analog.pupil.npy"), raw[:, 0] * np.float32(GAIN)
    )


def test_gaps_keep_their_time(nidq, tmp_path):
    """The recording in two files, 5000 samples between them not recorded, one of P0.1's falls among them."""
    stream, _, raw = nidq
    for name, rows in (("a.bin", raw[:2400]), ("b.bin", raw[7400:])):
        rows.tofile(tmp_path / "raw" / name)
    files = [RawFile(path=name, role="data", size_bytes=0) for name in ("a.bin", "b.bin")]
    pieces = [
        Piece(path="a.bin", first_row=0, n_samples=2400, first_sample=68528),
        Piece(path="b.bin", first_row=0, n_samples=N - 7400, first_sample=68528 + 7400),
    ]
    stream = stream.model_copy(update={"files": files, "pieces": pieces, "n_samples": N - 5000})
    found = edges.extract_edges(stream, tmp_path / "raw")
    wiring = Wiring(digital={"P0.1": "lick"}, analog={"AI0": "a"})
    events.write_events(stream, tmp_path / "raw", found, wiring, tmp_path / "out")
    times = np.load(tmp_path / "out" / "lick.times.npy")
    np.testing.assert_array_equal(times, np.array([2000, 9000, 9001]) / RATE)
    intervals = np.load(tmp_path / "out" / "pulses" / "lick.intervals.npy")
    np.testing.assert_array_equal(intervals, np.array([[9000, 9001]]) / RATE)
    recorded = np.r_[0:2400, 7400:N]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "analog.timestamps.npy"), recorded / RATE)
    volts = np.load(tmp_path / "out" / "analog.a.npy")
    np.testing.assert_array_equal(volts, (raw[recorded, 0] * GAIN).astype(np.float32))


def test_a_pulse_that_spans_a_gap_is_not_known_to_be_one():
    sample, polarity = np.array([10, 20, 30, 60, 70, 90, 95]), np.array([1, -1, 1, -1, -1, 1, -1])
    gaps = np.array([[40, 50], [75, 80]])
    assert events.complete_pulses(sample, polarity, gaps).tolist() == [[10, 20], [90, 95]]
    # An edge in a gap (Open Ephys wrote the event, not the data) belongs to what came before.
    assert events.complete_pulses(np.array([10, 45]), np.array([1, -1]), gaps).tolist() == [[10, 45]]


def test_edges_of_another_stream_are_refused(nidq, tmp_path):
    stream, found, _ = nidq
    pieces = [stream.pieces[0].model_copy(update={"n_samples": N - 1})]
    other = stream.model_copy(update={"n_samples": N - 1, "pieces": pieces})
    with pytest.raises(DataError, match=r"expected nidq \(39999 samples\)"):
        events.write_events(other, tmp_path / "raw", found, Wiring(), tmp_path / "out")


def test_memory_does_not_grow_with_the_recording(nidq, tmp_path, monkeypatch):
    """24 MB of analog output in pieces: below 4 MB at any time."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 2**18)
    stream, _, raw = nidq
    np.tile(raw, (50, 1)).tofile(tmp_path / "raw" / "run_g0_t0.nidq.bin")
    pieces = [stream.pieces[0].model_copy(update={"n_samples": 50 * N})]
    stream = stream.model_copy(update={"n_samples": 50 * N, "pieces": pieces})
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
    StreamDocument(session=session, stream=stream).save(tmp_path / "nidq.json")
    found.save(tmp_path / "edges.npz")
    (tmp_path / "wiring.json").write_text('{"digital": {"P0.1": "lick", "P0.9": "gone"}}')
    command = [
        sys.executable,
        str(ROOT / "bin" / "pp_events.py"),
        "--stream",
        "nidq.json",
        "--raw-dir",
        "raw",
    ]
    command += ["--edges", "edges.npz", "--wiring", "wiring.json", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "P0.9 (gone)" in done.stderr
    assert len(np.load(tmp_path / "out" / "lick.times.npy")) == 4
    assert "numpy" in json.loads((tmp_path / "versions.json").read_text())
    fit_of(stream).save(tmp_path / "sync.json")
    done = subprocess.run([*command, "--sync", "sync.json"], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    assert np.load(tmp_path / "out" / "lick.times.npy")[0] > 1.5
    (tmp_path / "wiring.json").write_text("[]")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 65 and done.stderr.splitlines()[-1].startswith("ERROR: wiring.json: expected")
