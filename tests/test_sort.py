"""SORT: known spikes are found, twice the same; no second copy, no paths; what can't be sorted is skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from powerpixels.documents import SortingDocument
from powerpixels.sort import effective_parameters, sort_unit, spikes_inside
from powerpixels.stage import DataError, TemporaryError
from simulated_unit import neuropixels_columns, write_ground_truth, write_unit

ROOT = Path(__file__).resolve().parent.parent


def _run(cwd: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "bin" / "pp_sort.py", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def sorted_unit(tmp_path_factory):
    """A small unit sorted by the executable: (folder, truth, finished process)."""
    folder = tmp_path_factory.mktemp("sorted")
    truth = write_ground_truth(folder / "shank0", n_channels=14, duration_s=6.0, n_units=2, spacing_um=45.0)
    (folder / "shank0" / "traces.bin").chmod(0o444)
    (folder / "params.json").write_text(json.dumps({"Th_universal": 8.5}))
    process = _run(
        folder,
        *("--unit-dir", "shank0", "--out", "sorting", "--device", "cpu", "--jobs", 1),
        *("--params", "params.json", "--seed", 7),
    )
    assert process.returncode == 0, process.stderr
    return folder, truth, process


def test_known_spikes_are_found(sorted_unit):
    folder, truth, _ = sorted_unit
    samples = np.load(folder / "sorting" / "spike_samples.npy")
    unit_ids = np.load(folder / "sorting" / "spike_unit_ids.npy")
    assert samples.dtype == unit_ids.dtype == np.int64
    assert np.all(np.diff(samples) >= 0)
    for true_unit in truth.unit_ids:
        train = truth.get_unit_spike_train(true_unit)
        accuracies = []
        for unit in np.unique(unit_ids):
            found = samples[unit_ids == unit]
            hits = np.sum(np.min(np.abs(train[:, None] - found), axis=1) <= 10)
            accuracies.append(hits / (len(train) + len(found) - hits))
        assert max(accuracies) > 0.95


def test_document_agrees_with_the_arrays(sorted_unit):
    folder, _, _ = sorted_unit
    document = SortingDocument.load(folder / "sorting" / "sorting.json")
    unit_ids = np.load(folder / "sorting" / "spike_unit_ids.npy")
    assert (document.status, document.probe, document.unit) == ("sorted", "probe00", "shank0")
    assert document.unit_ids == np.unique(unit_ids).tolist()
    table = (folder / "sorting" / "sorter_output" / "cluster_KSLabel.tsv").read_text().split()[2:]
    labels = dict(zip(map(int, table[::2]), table[1::2], strict=True))
    assert document.sorter_labels == {unit: labels[unit] for unit in document.unit_ids}
    assert document.parameters["Th_universal"] == 8.5
    assert document.parameters["cluster_init_seed"] == 7
    assert document.parameters["do_CAR"] is False
    assert document.parameters["nblocks"] == 0
    assert document.parameters["torch_device"] == "cpu"


def test_same_input_gives_the_same_spikes(sorted_unit, tmp_path):
    folder, _, _ = sorted_unit
    again = sort_unit(
        folder / "shank0", tmp_path, device="cpu", jobs=1, parameters={"Th_universal": 8.5}, seed=7
    )
    assert again == SortingDocument.load(folder / "sorting" / "sorting.json")
    for name in ("spike_samples.npy", "spike_unit_ids.npy"):
        assert (tmp_path / name).read_bytes() == (folder / "sorting" / name).read_bytes()


def test_no_second_copy_and_no_leftovers(sorted_unit):
    folder, _, _ = sorted_unit
    size = (folder / "shank0" / "traces.bin").stat().st_size
    assert sorted(path.name for path in (folder / "sorting").iterdir()) == [
        "sorter_output",
        "sorting.json",
        "spike_samples.npy",
        "spike_unit_ids.npy",
    ]
    assert all(path.stat().st_size < size for path in (folder / "sorting").rglob("*"))


def test_nothing_published_names_this_machine(sorted_unit):
    folder, _, _ = sorted_unit
    for path in (folder / "sorting").rglob("*"):
        if path.is_file():
            assert str(folder).encode() not in path.read_bytes(), path


def test_sorter_output_opens_for_phy(sorted_unit):
    from phylib.io.model import load_model

    folder, _, _ = sorted_unit
    model = load_model(folder / "sorting" / "sorter_output" / "params.py")
    samples = np.load(folder / "sorting" / "spike_samples.npy")
    assert np.array_equal(model.spike_samples, samples)
    assert model.n_channels == 14
    assert model.traces is None


def test_progress_is_lines(sorted_unit):
    _, _, process = sorted_unit
    assert "\r" not in process.stdout + process.stderr
    # Kilosort's own lines, each once
    assert (process.stdout + process.stderr).count("Total runtime") == 1
    assert "drift correction off: 14 channels" in process.stderr


def _noise_unit(folder: Path, n_channels: int, n_samples: int = 90_000) -> Path:
    noise = np.random.default_rng(1).normal(0, 6, (n_samples, n_channels))
    return write_unit(folder, noise, neuropixels_columns(n_channels))


@pytest.mark.parametrize(
    ("n_channels", "n_samples", "reason"),
    [
        (0, 90_000, "0 usable"),
        (3, 90_000, "3 usable"),
        (8, 60_061, "more than one batch"),
        (8, 60_200, "too few spikes"),
    ],
)
def test_nothing_to_sort_is_skipped(tmp_path, n_channels, n_samples, reason):
    unit = _noise_unit(tmp_path / "unit", n_channels, n_samples)
    document = sort_unit(unit, tmp_path / "out", device="cpu")
    assert document.status == "skipped"
    assert reason in document.message
    assert document.unit_ids == []
    assert SortingDocument.load(tmp_path / "out" / "sorting.json") == document
    for name in ("spike_samples.npy", "spike_unit_ids.npy"):
        array = np.load(tmp_path / "out" / name)
        assert array.shape == (0,) and array.dtype == np.int64
    assert not (tmp_path / "out" / "work").exists()


def test_missing_gpu_is_temporary(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    unit = _noise_unit(tmp_path / "unit", 8)
    with pytest.raises(TemporaryError, match="GPU"):
        sort_unit(unit, tmp_path / "out", device="cuda")


@pytest.mark.parametrize(("n_channels", "nblocks"), [(64, 0), (65, 1), (384, 1)])
def test_drift_correction_needs_channels(n_channels, nblocks):
    assert effective_parameters(n_channels, {}, 1)["nblocks"] == nblocks
    assert effective_parameters(n_channels, {"nblocks": 5}, 1)["nblocks"] == 5


def test_parameters_survive_json():
    parameters = effective_parameters(96, {}, 1)
    assert json.loads(json.dumps(parameters, allow_nan=False)) == parameters


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"Th_universl": 9}, "'Th_universl' is not .* nearest is 'Th_universal'"),
        ({"torch_device": "cpu"}, "'torch_device' is set by the pipeline"),
        ({"nblocks": "1"}, "nblocks must be .*int.*'1'"),
        ({"nblocks": 1.5}, "nblocks must be .*int.*1.5"),
        ({"nblocks": True}, "nblocks must be"),
        ({"do_CAR": 1}, "do_CAR must be a bool"),
        ({"Th_learned": None}, "Th_learned must be a number, found None"),
        ({"Th_learned": 0}, "Th_learned must be within 0 to inf, and none of"),
        ({"cluster_init_seed": 0}, "cluster_init_seed must be within 1"),
    ],
)
def test_wrong_parameters_are_named(overrides, message):
    with pytest.raises(DataError, match=message):
        effective_parameters(96, overrides, 1)


def test_wrong_parameter_file_ends_as_bad_input(tmp_path):
    for text, message in (("{", "expected a JSON file"), ("[1]", "JSON object")):
        (tmp_path / "p.json").write_text(text)
        process = _run(tmp_path, "--unit-dir", "unit", "--out", "o", "--params", "p.json")
        assert process.returncode == 65
        last = process.stderr.strip().splitlines()[-1]
        assert last.startswith("ERROR: p.json: ") and message in last


def test_spikes_outside_are_dropped():
    from spikeinterface.core import NumpySorting

    sorting = NumpySorting.from_unit_dict(
        [{3: np.array([-2, 10, 999]), 8: np.array([10, 500]), 11: np.array([1000])}], 30000.0
    )
    samples, unit_ids, n_outside = spikes_inside(sorting, 1000)
    assert samples.tolist() == [10, 10, 500, 999]
    assert unit_ids.tolist() == [3, 8, 8, 3]
    assert n_outside == 2
