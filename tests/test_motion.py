"""DRIFT: planted motion is found and taken back, none is invented; what can't be registered is skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from powerpixels import motion as drift_motion
from powerpixels.documents import PreprocessedUnit
from powerpixels.motion import MotionDocument, estimate_drift, load_motion, motions_taken_back, moved_back
from powerpixels.motion_figures import draw
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from probe_geometries import geometry
from simulated_unit import GAIN_UV, neuropixels_columns, write_unit

ROOT = Path(__file__).resolve().parent.parent
TRACES = "traces.bin"


def _drifting(locations_um: np.ndarray, duration_s: float, n_units: int, reach_um: float, **motion):
    """SpikeInterface's generator: (static, drifting, sorting, units' displacements (5 Hz, units), units' y)."""
    import probeinterface
    from spikeinterface.generation import generate_drifting_recording

    probe = probeinterface.Probe(ndim=2, si_units="um")
    probe.set_contacts(locations_um, shapes="square", shape_params={"width": 12})
    probe.set_device_channel_indices(np.arange(len(locations_um)))
    static, drifting, sorting, extra = generate_drifting_recording(
        num_units=n_units,
        duration=duration_s,
        probe=probe,
        generate_displacement_vector_kwargs={
            "displacement_sampling_frequency": 5.0,
            "drift_start_um": [0, reach_um],
            "drift_stop_um": [0, -reach_um],
            "drift_step_um": 1,
            "motion_list": [motion],
        },
        generate_sorting_kwargs={"firing_rates": (4.0, 10.0), "refractory_period_ms": 4.0},
        extra_outputs=True,
        seed=3,
    )
    return static, drifting, sorting, extra["unit_displacements"][:, :, 1], extra["unit_locations"][:, 1]


@pytest.fixture(scope="module")
def long_shank(tmp_path_factory):
    """95 channels over 940 µm of a 1.0 probe, one of them silent, for 24 s; the tissue at the tip moves 15 µm up
    and down, that at the top 6 µm. (corrected unit's folder, its estimate's, the raw unit's, truth.)"""
    folder = tmp_path_factory.mktemp("a long shank")
    places = np.delete(geometry("NP1010", 96).locations_um, 31, axis=0)
    truth = _drifting(places, 24.0, 40, 15.0, drift_mode="zigzag", period_s=16, non_rigid_gradient=-0.4)
    traces_uv = truth[1].get_traces()
    traces_uv[:, 60] = 0
    write_unit(folder / "shank0", traces_uv, places)
    estimate_drift(folder / "shank0", folder / "drift", "dredge", folder / "corrected", jobs=1, seed=5)
    return folder, truth


@pytest.fixture(scope="module")
def short_shank(tmp_path_factory):
    """24 channels over 165 µm of a 2.0 probe for 24 s, that jump by 20 µm: (unit's folder, truth)."""
    folder = tmp_path_factory.mktemp("short")
    truth = _drifting(neuropixels_columns(24), 24.0, 8, 10.0, drift_mode="bump", bump_interval_s=(4, 7))
    write_unit(folder / "shank0", truth[1].get_traces(), neuropixels_columns(24))
    return folder, truth


def _errors_um(folder: Path, displacements: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """(bins, units): estimated less true displacement, each unit's median taken off: the zero is arbitrary."""
    motion = load_motion(folder)
    times_s = motion.temporal_bins_s[0]
    found = motion.get_displacement_at_time_and_depth(times_s, y_um, grid=True).T
    steps_s = np.arange(len(displacements)) / 5
    true = np.stack([np.interp(times_s, steps_s, one) for one in displacements.T], axis=1)
    return found - true - np.median(found - true, axis=0)


def test_motion_that_differs_along_the_shank_is_found(long_shank):
    folder, (_, _, _, displacements, y_um) = long_shank
    document = MotionDocument.load(folder / "drift" / "motion.json")
    assert (document.status, document.corrected, document.n_channels) == ("estimated", True, 95)
    assert document.n_spatial_bins == 2 and document.n_temporal_bins == 24
    errors = _errors_um(folder / "drift", displacements, y_um)
    # The two windows overlap, so a part of the difference between tip and top is lost.
    assert np.sqrt(np.mean(errors**2)) < 2
    assert np.sqrt(np.mean(errors**2, axis=0)).max() < 4
    before, after = document.alignment
    assert after > before + 0.1
    assert np.load(folder / "drift" / "displacement_um.npy").shape == (24, 2)


def test_steps_are_found_on_a_short_shank(short_shank, tmp_path):
    folder, (_, _, _, displacements, y_um) = short_shank
    ((_, document, peaks),) = estimate_drift(folder / "shank0", tmp_path, jobs=1)
    assert (document.status, document.corrected, document.n_spatial_bins) == ("estimated", False, 1)
    assert "24 channels" in document.policy_text
    assert np.ptp(displacements) == pytest.approx(20)
    errors = _errors_um(tmp_path, displacements, y_um)
    # A bin in which the step falls is between the two.
    assert np.median(np.abs(errors)) < 1
    assert np.percentile(np.abs(errors), 80) < 3
    assert peaks.times_s.size == document.n_peaks and np.all(np.diff(peaks.times_s) >= 0)
    assert peaks.amplitudes_uv.max() < 0


def test_no_motion_is_invented(short_shank, tmp_path):
    _, (static, *_) = short_shank
    write_unit(tmp_path / "shank0", static.get_traces(), neuropixels_columns(24))
    ((_, document, _),) = estimate_drift(tmp_path / "shank0", tmp_path / "drift", jobs=1)
    assert document.status == "estimated"
    assert document.range_um < 2


def _templates(traces: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return np.mean([traces[sample - 20 : sample + 30] for sample in samples], axis=0)


def test_spikes_come_back_to_their_depth(long_shank):
    """Templates of the spikes fired while the tissue was high, and while it was low, before and after."""
    folder, (_, _, sorting, displacements, _) = long_shank
    raw = PreprocessedUnit.load(folder / "shank0" / "recording.json")
    assert PreprocessedUnit.load(folder / "corrected" / "recording.json") == raw
    y_um = np.array([channel.y_um for channel in raw.channels])
    likeness, shift_um = {}, {}
    for name in ("shank0", "corrected"):
        traces = load_preprocessed(folder / name).get_traces().astype(np.float32) * GAIN_UV
        alike, apart = [], []
        for k, unit in enumerate(sorting.unit_ids):
            samples = sorting.get_unit_spike_train(unit)
            samples = samples[(samples > 20) & (samples < raw.n_samples - 30)]
            moved = displacements[np.minimum(samples // 6000, len(displacements) - 1), k]
            high, low = (samples[rank] for rank in (moved > 0.6 * moved.max(), moved < 0.6 * moved.min()))
            if np.ptp(displacements[:, k]) < 20 or min(len(high), len(low)) < 15:
                continue
            pair = [_templates(traces, chosen) for chosen in (high, low)]
            sizes = [np.ptp(template, axis=0) for template in pair]
            if max(size.max() for size in sizes) < 60:
                continue
            alike.append(np.sum(pair[0] * pair[1]) / np.prod([np.linalg.norm(one) for one in pair]))
            centres = [np.sum(y_um * size**4) / np.sum(size**4) for size in sizes]
            apart.append(abs(centres[0] - centres[1]))
        assert len(alike) >= 8
        likeness[name], shift_um[name] = np.median(alike), np.median(apart)
    # Rows 20 µm apart bound what interpolation can do: with the true motion 5 µm and 0.91 remain.
    assert shift_um["shank0"] > 15
    assert shift_um["corrected"] < 0.6 * shift_um["shank0"]
    assert likeness["corrected"] > 0.82
    assert likeness["corrected"] > likeness["shank0"] + 0.05


def test_same_bytes_whatever_the_number_of_processes(long_shank):
    """The executable with two processes, in a folder with a space, against one process above."""
    folder, _ = long_shank
    run = subprocess.run(
        [
            *(sys.executable, ROOT / "bin" / "pp_drift.py", "--unit-dir", "shank0", "--out", "again"),
            *("--drift", "dredge", "--corrected", "corrected again", "--jobs", "2", "--seed", "5"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "\r" not in run.stdout + run.stderr
    names = {path.name for path in (folder / "again").iterdir()}
    assert names == {
        *("motion.json", "displacement_um.npy", "temporal_bins_s.npy", "spatial_bins_um.npy", "drift.png")
    }
    for name in names - {"drift.png"}:
        assert (folder / "again" / name).read_bytes() == (folder / "drift" / name).read_bytes(), name
    for name in (TRACES, "recording.json"):
        again = (folder / "corrected again" / name).read_bytes()
        assert again == (folder / "corrected" / name).read_bytes(), name
    assert str(folder) not in (folder / "again" / "motion.json").read_text()


def test_shanks_of_one_unit_move_each_by_itself(short_shank, tmp_path):
    """Sorted as one probe: the second shank is the first upside down, so moves against it; a third is too small."""
    _, (_, drifting, _, displacements, y_um) = short_shank
    column, traces_uv = neuropixels_columns(24), drifting.get_traces()
    upside_down = np.arange(24).reshape(12, 2)[::-1].ravel()
    shanks = np.repeat([0, 1, 3], [24, 24, 3])
    places = np.concatenate([column, column, column[:3]]) + np.outer(shanks, [250.0, 0.0])
    # The file's columns go from shank to shank.
    order = np.random.default_rng(1).permutation(len(shanks))
    together = np.concatenate([traces_uv, traces_uv[:, upside_down], traces_uv[:, :3]], axis=1)[:, order]
    write_unit(tmp_path / "traces", together, places[order], "probe", shanks[order])
    estimates = estimate_drift(tmp_path / "traces", tmp_path / "drift", "dredge", tmp_path / "out")
    assert [one.folder.name for one in estimates] == ["shank0", "shank1", "shank3"]
    documents = [one.document for one in estimates]
    assert [(one.unit, one.shank, one.n_channels) for one in documents] == [
        ("probe", 0, 24), ("probe", 1, 24), ("probe", 3, 3),
    ]  # fmt: skip
    assert [one.corrected for one in documents] == [True, True, False]
    assert documents[2].status == "skipped" and "3 channels, at least 16" in documents[2].message
    assert np.median(np.abs(_errors_um(estimates[0].folder, displacements, y_um))) < 1
    mirrored_um = column[:, 1].max() - y_um
    assert np.median(np.abs(_errors_um(estimates[1].folder, -displacements, mirrored_um))) < 1
    # Each moved back by its own, the third left as it is.
    before, after = (
        np.fromfile(tmp_path / name / TRACES, "<i2")
        .reshape(-1, len(shanks))[:, np.argsort(order)]
        .astype(int)
        for name in ("traces", "out")
    )
    assert np.array_equal(before[:, 48:], after[:, 48:]) and not np.array_equal(before, after)
    # As curation shows them, from what DRIFT published.
    motions = motions_taken_back(tmp_path / "drift", shanks[order])
    shown = moved_back(load_preprocessed(tmp_path / "traces"), motions).get_traces()
    assert np.array_equal(np.rint(shown)[:, np.argsort(order)], after)
    mirrored = after[:, 24:48][:, upside_down]
    # Which of a pair of rows is the upper one makes a difference to the estimates, a small one.
    assert np.corrcoef(after[:, :24].ravel(), mirrored.ravel())[0, 1] > 0.99


def test_a_long_recording_is_read_in_part(short_shank, tmp_path, monkeypatch):
    """Bounds far below those of a real run: half of the time read, a fraction of the peaks kept."""
    folder, (_, _, _, displacements, y_um) = short_shank
    monkeypatch.setattr(drift_motion, "MAX_BINS", 16)
    monkeypatch.setattr(drift_motion, "MAX_READ_S", 12.0)
    monkeypatch.setattr(drift_motion, "MAX_PEAKS", 320)
    monkeypatch.setattr(drift_motion, "BATCH_BINS", 5)
    ((_, document, _),) = estimate_drift(folder / "shank0", tmp_path, jobs=1)
    assert document.read_s == pytest.approx(12, abs=0.01)
    assert document.bin_s == 1.5 and document.n_temporal_bins == 16
    assert 200 < document.n_peaks <= 320
    assert np.median(np.abs(_errors_um(tmp_path, displacements, y_um))) < 2


@pytest.mark.parametrize("duration_s", [10.0, 59.99997, 1200.0, 1200.5, 3600.0, 4 * 3600.0])
def test_what_is_read_is_bounded(duration_s):
    rate = 30_000.0
    unit = PreprocessedUnit(
        probe="probe00", unit="shank0", sampling_rate_hz=rate, n_samples=round(rate * duration_s), gain_uv=1.0,
        channels=[],
    )  # fmt: skip
    plan = drift_motion._plan(unit, seed=1)
    starts, stops = np.array(plan.slices).T
    assert len(starts) <= drift_motion.MAX_BINS
    assert np.all(starts < stops) and np.all(stops[:-1] <= starts[1:]) and stops[-1] <= unit.n_samples
    # Each within its own bin.
    assert np.array_equal(np.floor((starts + 0.5) / rate / plan.bin_s), np.arange(len(starts)))
    assert np.all((stops - 1) / rate / plan.bin_s < np.arange(1, len(starts) + 1) + 1e-6)
    read_s = np.sum(stops - starts) / rate
    if duration_s <= drift_motion.MAX_READ_S:
        assert read_s == pytest.approx(duration_s)
    else:
        assert read_s == pytest.approx(drift_motion.MAX_READ_S, rel=1e-3)
        assert drift_motion._plan(unit, seed=1) == plan != drift_motion._plan(unit, seed=2)


def _noise_unit(folder: Path, n_channels: int, n_samples: int, pitch_um: float = 15.0) -> Path:
    noise = np.random.default_rng(1).normal(0, 6, (n_samples, n_channels))
    return write_unit(folder, noise, neuropixels_columns(n_channels) * [1, pitch_um / 15])


@pytest.mark.parametrize(
    ("n_channels", "n_samples", "pitch_um", "reason"),
    [
        (0, 330_000, 15.0, "0 channels, at least 16"),
        (15, 330_000, 15.0, "15 channels, at least 16"),
        (24, 330_000, 6.0, "66 µm, at least 100"),
        (24, 299_000, 15.0, "10.0 s of recording, at least 10 s"),
        (24, 330_000, 15.0, "0 peaks in 11 time bins, at least 110"),
    ],
)
def test_what_cannot_be_registered_is_skipped(tmp_path, n_channels, n_samples, pitch_um, reason):
    unit = _noise_unit(tmp_path / "shank0", n_channels, n_samples, pitch_um)
    ((_, document, peaks),) = estimate_drift(
        unit, tmp_path / "drift", "dredge", tmp_path / "corrected", jobs=1
    )
    assert document.status == "skipped" and reason in document.message
    assert not document.corrected and peaks is None
    # The sorter gets the traces as they were, and no file says otherwise.
    assert (tmp_path / "corrected" / TRACES).read_bytes() == (unit / TRACES).read_bytes()
    assert draw(tmp_path / "drift", peaks).stat().st_size > 0
    assert {path.name for path in (tmp_path / "drift").iterdir()} == {"motion.json", "drift.png"}
    with pytest.raises(DataError, match="expected a motion, found none"):
        load_motion(tmp_path / "drift")


def test_truncated_traces_are_refused(tmp_path):
    unit = _noise_unit(tmp_path / "shank0", 24, 330_000)
    with open(unit / TRACES, "r+b") as file:
        file.truncate(24 * 2 * 200_000)
    with pytest.raises(DataError, match="expected 15840000 bytes"):
        estimate_drift(unit, tmp_path / "drift", jobs=1)
