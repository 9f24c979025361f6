"""Kilosort step by step: what Kilosort itself gives, also when it is killed at every boundary."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from powerpixels import kilosort_run
from powerpixels.kilosort_run import STEPS, Checkpoint, traces_digest
from simulated_unit import RATE, neuropixels_columns, write_unit

N_CHANNELS, N_SAMPLES = 12, 270_000


def busy_unit(folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Four neurons side by side, together above 1000 spikes: fewer, and Kilosort doesn't cluster them.

    Returns the unit's folder and the neurons' trains.
    """
    rng = np.random.default_rng(11)
    positions = neuropixels_columns(N_CHANNELS)
    traces = rng.normal(0, 6, (N_SAMPLES, N_CHANNELS)).astype(np.float32)
    time_ms = (np.arange(61) - 20) / 30
    trains = []
    for x, y, width in ((0, 0, 0.1), (32, 0, 0.2), (0, 15, 0.15), (32, 15, 0.25)):
        shape = -np.exp(-((time_ms / width) ** 2)) + 0.1 * np.exp(-(((time_ms - 0.5) / 0.3) ** 2))
        size_uv = 150 * np.exp(-np.hypot(positions[:, 0] - x, positions[:, 1] - y) / 12)
        train = np.cumsum(90 + rng.exponential(30 * 24, 1000)).astype(int)
        train = train[train < N_SAMPLES - 200]
        for sample in train:
            traces[sample - 20 : sample + 41] += shape[:, None] * size_uv * rng.normal(1, 0.05)
        trains.append(train)
    return write_unit(folder, traces, positions), trains


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of everything that kilosort_attempts.py made, and the true spikes."""
    folder = tmp_path_factory.mktemp("kilosort")
    unit, trains = busy_unit(folder / "unit")
    (unit / "traces.bin").chmod(0o444)
    script = Path(__file__).parent / "kilosort_attempts.py"
    libraries = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    done = subprocess.run(
        [sys.executable, script, unit, folder / "out"],
        env={**os.environ, "TQDM_DISABLE": "1"} | {f"{name}_NUM_THREADS": "1" for name in libraries},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "out", trains


def results_of(folder: Path) -> dict[str, bytes]:
    """Arrays and tables by name; ops.npy holds run times and paths."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".npy", ".tsv") and path.name != "ops.npy"
    }


def found(folder: Path, trains: list[np.ndarray]) -> list[float]:
    """Each neuron's accuracy in the unit that fits it best."""
    samples, units = np.load(folder / "spike_times.npy"), np.load(folder / "spike_clusters.npy")
    accuracies = []
    for train in trains:
        best = 0.0
        for unit in np.unique(units):
            own = np.sort(samples[units == unit])
            near = np.abs(own[np.clip(np.searchsorted(own, train) - 1, 0, None)] - train)
            after = np.abs(own[np.clip(np.searchsorted(own, train), None, len(own) - 1)] - train)
            hits = np.sum(np.minimum(near, after) <= 10)
            best = max(best, hits / (len(train) + len(own) - hits))
        accuracies.append(best)
    return accuracies


def test_same_results_as_kilosorts_own_function(runs):
    folder, trains = runs
    direct, ours = results_of(folder / "direct"), results_of(folder / "whole")
    assert len(direct["spike_times.npy"]) > 8 * 1000  # otherwise nothing is clustered
    assert sorted(direct) == sorted(ours) and len(direct) > 15
    assert [name for name in direct if direct[name] != ours[name]] == []
    names = {path.name for path in (folder / "direct").iterdir()}
    assert {path.name for path in (folder / "whole").iterdir()} - names == {"timings.json"}
    assert {path.name for path in (folder / "whole").iterdir()} >= names
    assert min(found(folder / "whole", trains)) > 0.9


def test_broken_off_at_every_boundary_gives_the_same_bytes(runs):
    folder, _ = runs
    attempts = json.loads((folder / "attempts.json").read_text())[:-1]
    assert {attempt["step"] for attempt in attempts} == set(STEPS)
    for attempt in attempts:
        assert attempt["ended"] == (1 if attempt["how"] == "raised" else -signal.SIGKILL)
    whole, resumed = results_of(folder / "whole"), results_of(folder / "resumed")
    assert sorted(whole) == sorted(resumed)
    assert [name for name in whole if whole[name] != resumed[name]] == []
    for name in ("drift_amount.png", "drift_scatter.png", "diagnostics.png"):
        assert (folder / "resumed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_every_attempt_goes_on_where_the_one_before_was(runs):
    folder, _ = runs
    attempts = json.loads((folder / "attempts.json").read_text())[:-1]
    for attempt in attempts:
        done = STEPS[: STEPS.index(attempt["step"])]
        lines = [line for line in attempt["log"].splitlines() if "Continued after" in line]
        assert [line.split()[-4] for line in lines] == list(done)
        # What a killed writing leaves is gone with the next attempt.
        left = [".npz", ".partial"] if attempt["how"] == "killed while saving" else [".npz"]
        assert attempt["left"] == left
    timings = json.loads((folder / "resumed" / "timings.json").read_text())
    assert timings["resumed_after"] == "clustering"
    assert list(timings["steps"]) == ["preprocessing", *STEPS, "saving"]
    assert sum(timings["steps"].values()) > timings["total_s"]
    # The log tells of every step, of whichever attempt.
    log = (folder / "resumed" / "kilosort4.log").read_text()
    order = [
        log.index(text) for text in ("Computing preprocessing", "first clustering", "Merging", "Saving to")
    ]
    assert order == sorted(order)


def test_folder_is_removed_and_holds_no_path(runs):
    folder, _ = runs
    assert json.loads((folder / "attempts.json").read_text())[-1]["folder_was_removed"]
    with np.load(folder / "last checkpoint" / "state.npz", allow_pickle=False) as arrays:
        assert str(folder) not in arrays["structure"].tobytes().decode()


def test_other_parameters_begin_anew(runs):
    folder, _ = runs
    other = json.loads((folder / "attempts.json").read_text())[-1]
    assert "Continued after" not in other["log"] and "drift computed" in other["log"]


def test_without_highpass_the_whitening_stays(runs):
    folder, trains = runs
    ops = np.load(folder / "no_highpass" / "ops.npy", allow_pickle=True).item()
    whitening = np.load(folder / "no_highpass" / "whitening_mat.npy")
    filtered = np.load(folder / "whole" / "whitening_mat.npy")
    counts = np.memmap(folder.parent / "unit" / "traces.bin", dtype="<i2").reshape(-1, N_CHANNELS)
    # Whitening looks at one batch in 25: the first. Kilosort takes each channel's mean away.
    batch = counts[:60_000].astype(np.float64)
    batch -= batch.mean(0)
    covariance = np.cov((batch @ whitening.T).T)
    assert np.abs(covariance - np.eye(N_CHANNELS)).max() < 0.02
    assert np.abs(whitening - filtered).max() > 1e-4
    assert ops["dshift"] is not None and ops["iKxx"].shape == (N_CHANNELS, N_CHANNELS)
    # What was saved as the filter changes nothing.
    assert ops["fwav"].sum() == 1 and ops["fwav"].max() == 1
    assert min(found(folder / "no_highpass", trains)) > 0.9


def test_params_point_to_the_binary_in_place(runs):
    folder, _ = runs
    parameters = {}
    for line in (folder / "whole" / "params.py").read_text().splitlines():
        name, value = line.split(" = ")
        parameters[name] = ast.literal_eval(value)
    assert parameters["dat_path"] == [str(folder.parent / "unit" / "traces.bin")]
    assert parameters["n_channels_dat"] == N_CHANNELS and parameters["sample_rate"] == RATE
    assert not list(folder.rglob("*.dat"))


def small_state() -> dict:
    return {"ops": {"nblocks": 1, "settings": {"fs": 1.0, "filename": Path("/x")}, "filename": Path("/x")}}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint after "detection", and how to open it."""
    import torch

    checkpoint = Checkpoint(tmp_path / "c", {"traces": "a", "parameters": {"x": [1.5, float("inf")]}})
    checkpoint.save("detection", small_state(), {"drift": 1.0}, {}, torch.device("cpu"))
    return checkpoint


def test_checkpoint_returns_what_was_saved(saved):
    again = Checkpoint(saved.folder, {"parameters": {"x": (1.5, float("inf"))}, "traces": "a"}).load(None)
    assert (again["step"], again["timings"]) == ("detection", {"drift": 1.0})
    assert again["state"]["ops"] == {"nblocks": 1, "settings": {"fs": 1.0}}


def test_checkpoint_of_another_sort_is_ignored(saved, caplog):
    assert Checkpoint(saved.folder, {**saved.identity, "traces": "b"}).load(None) is None
    assert "is of another sort (traces differ)" in caplog.text
    assert Checkpoint(saved.folder / "none", saved.identity).load(None) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "other"])
def test_damaged_checkpoint_is_ignored(saved, caplog, damage):
    content = bytearray(saved.path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = b""
    elif damage == "changed":
        content[len(content) // 3] ^= 1
    else:
        content = b"PK\x03\x04 no archive"
    saved.path.write_bytes(content)
    assert saved.load(None) is None
    assert "can't be used" in caplog.text


def test_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    import torch

    (tmp_path / "file").write_text("")
    checkpoint = Checkpoint(tmp_path / "file" / "below", {})
    checkpoint.save("drift", small_state(), {}, {}, torch.device("cpu"))
    assert "could not be written" in caplog.text


def test_digest_is_of_the_content_not_of_the_place(tmp_path):
    unit = write_unit(tmp_path / "a", np.ones((40_000, 4)), neuropixels_columns(4))
    again = write_unit(tmp_path / "b c", np.ones((40_000, 4)), neuropixels_columns(4))
    assert traces_digest(unit) == traces_digest(again)
    counts = np.fromfile(unit / "traces.bin", dtype="<i2")
    counts[-1] += 1
    counts.tofile(again / "traces.bin")
    assert traces_digest(unit) != traces_digest(again)
    other_shank = write_unit(tmp_path / "d", np.ones((40_000, 4)), neuropixels_columns(4) + [250.0, 0.0])
    assert traces_digest(unit) != traces_digest(other_shank)


def test_what_changes_no_spike_is_no_part_of_the_identity(tmp_path):
    unit = write_unit(tmp_path / "a", np.ones((100, 4)), neuropixels_columns(4))
    plain = kilosort_run._identity(unit, {"clear_cache": False, "batch_size": 60000}, "cuda")
    assert plain == kilosort_run._identity(unit, {"clear_cache": True, "batch_size": 60000}, "cuda")
    assert plain != kilosort_run._identity(unit, {"clear_cache": False, "batch_size": 30000}, "cuda")
    assert plain != kilosort_run._identity(unit, {"clear_cache": False, "batch_size": 60000}, "cpu")
