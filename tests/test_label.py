"""LABEL: labels are joined by unit id; thresholds decide as documented; unknown ones are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from powerpixels.analyze import analyze_unit
from powerpixels.label import bombcell_thresholds, label_units
from powerpixels.stage import DataError
from simulated_unit import write_ground_truth, write_sorting
from spikeinterface.curation import bombcell_get_default_thresholds

ROOT = Path(__file__).resolve().parent.parent
IDS = [4, 9, 2, 30]
# Kilosort says nothing of 9.
KILOSORT = {4: "good", 2: "mua", 30: "good", 77: "mua"}


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """A folder with sorting and analysis; unit 77 has two spikes, at no neuron's."""
    folder = tmp_path_factory.mktemp("labels")
    truth = write_ground_truth(folder / "shank0", n_channels=12, duration_s=8.0, n_units=4, spacing_um=25.0)
    trains = {unit: truth.get_unit_spike_train(true) for unit, true in zip(IDS, truth.unit_ids, strict=True)}
    trains[77] = np.array([30_000, 60_000])
    write_sorting(folder / "sorting", trains, KILOSORT)
    analyze_unit(folder / "shank0", folder / "sorting", folder / "analysis", jobs=2)
    return folder


def _expected(metrics: pd.Series, thresholds: dict) -> str:
    """Bombcell's rules by hand: noise before non-somatic before mua.

    A NaN fails noise metrics and the sliding refractory test, and says nothing elsewhere.
    """

    def passes(metric: str, bounds: dict, nan: bool) -> bool:
        value = abs(metrics[metric]) if bounds.get("abs") else metrics[metric]
        if np.isnan(value):
            return nan
        low, high = bounds["greater"], bounds["less"]
        return (low is None or value >= low) and (high is None or value <= high)

    if not all(passes(metric, bounds, False) for metric, bounds in thresholds["noise"].items()):
        return "noise"
    shape = thresholds["non-somatic"]
    widths = ("peak_before_width", "trough_width")
    ratios = ("peak_before_to_trough_ratio", "peak_before_to_peak_after_ratio")
    narrow = not any(passes(metric, shape[metric], False) for metric in widths)
    large_ratio = not all(passes(metric, shape[metric], True) for metric in ratios)
    large_peak = not passes("main_peak_to_trough_ratio", shape["main_peak_to_trough_ratio"], True)
    if (narrow and large_ratio) or large_peak:
        return "non_soma"
    good = all(
        passes(metric, bounds, metric != "sliding_rp_violation")
        for metric, bounds in thresholds["mua"].items()
    )
    return "good" if good else "mua"


# Such that the short simulated trains can be good.
LENIENT = {
    "mua": {"num_spikes": {"greater": 100}, "sliding_rp_violation": None, "snr": {"greater": 3}},
    "noise": {"num_positive_peaks": {"less": 5}, "num_negative_peaks": {"less": 5}},
}


@pytest.mark.parametrize("overrides", [{}, LENIENT])
def test_bombcell_labels_follow_the_metrics(analyzed, tmp_path, overrides):
    table = label_units(analyzed / "sorting", analyzed / "analysis", tmp_path, overrides)
    metrics = pd.read_csv(analyzed / "analysis" / "metrics.csv", index_col="unit_id")
    thresholds = bombcell_thresholds(overrides)
    expected = {unit: _expected(metrics.loc[unit], thresholds) for unit in metrics.index}
    assert dict(zip(table["unit_id"], table["bombcell"], strict=True)) == expected
    assert ("good" in expected.values()) == bool(overrides)


def test_labels_are_joined_by_id(analyzed, tmp_path):
    label_units(analyzed / "sorting", analyzed / "analysis", tmp_path)
    table = pd.read_csv(tmp_path / "labels.csv")
    assert table.columns.tolist() == ["unit_id", "kilosort", "bombcell"]
    assert table["unit_id"].tolist() == [2, 4, 9, 30, 77]
    assert table["kilosort"].tolist() == ["mua", "good", "unjudged", "good", "mua"]
    assert set(table["bombcell"]) <= {"good", "mua", "noise", "non_soma"}


def test_unit_that_the_analyzer_lacks_is_unjudged(analyzed, tmp_path):
    """The rows of the others stay theirs."""
    before = label_units(analyzed / "sorting", analyzed / "analysis", tmp_path / "all").set_index("unit_id")
    trains = {unit: np.array([50]) for unit in (2, 3, 4, 9, 30, 77)}
    write_sorting(tmp_path / "sorting", trains, {**KILOSORT, 3: "good"})
    table = label_units(tmp_path / "sorting", analyzed / "analysis", tmp_path / "out").set_index("unit_id")
    assert table.loc[3].tolist() == ["good", "unjudged"]
    assert table.drop(index=3).equals(before)


def test_skipped_sorting_gives_an_empty_table(analyzed, tmp_path):
    write_sorting(tmp_path / "sorting", {}, {})
    analyze_unit(analyzed / "shank0", tmp_path / "sorting", tmp_path / "analysis")
    table = label_units(tmp_path / "sorting", tmp_path / "analysis", tmp_path / "out")
    assert table.empty
    assert (tmp_path / "out" / "labels.csv").read_text() == "unit_id,kilosort,bombcell\n"


def test_executable_leaves_its_input_alone(analyzed, tmp_path):
    shutil.copytree(analyzed / "analysis", tmp_path / "analysis")
    before = {path: path.read_bytes() for path in (tmp_path / "analysis").rglob("*") if path.is_file()}
    (tmp_path / "thresholds.json").write_text(json.dumps(LENIENT))
    subprocess.run(
        [sys.executable, ROOT / "bin" / "pp_label.py", "--sorting", analyzed / "sorting"]
        + ["--analysis", "analysis", "--out", "labels", "--bombcell-params", "thresholds.json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert {p: p.read_bytes() for p in (tmp_path / "analysis").rglob("*") if p.is_file()} == before
    record = json.loads((tmp_path / "labels" / "labels.json").read_text())
    assert (record["probe"], record["unit"]) == ("probe00", "shank0")
    assert record["bombcell"]["thresholds"]["mua"]["num_spikes"] == {"greater": 100, "less": None}
    assert (
        record["bombcell"]["version"]
        == json.loads((tmp_path / "versions.json").read_text())["spikeinterface"]
    )


def test_defaults_are_spikeinterfaces_less_the_principal_components():
    expected = bombcell_get_default_thresholds()
    del expected["mua"]["isolation_distance"], expected["mua"]["l_ratio"]
    assert bombcell_thresholds({}) == expected


def test_override_changes_only_what_it_names():
    thresholds = bombcell_thresholds({"mua": {"amplitude_median": {"greater": 40}}})
    assert thresholds["mua"]["amplitude_median"] == {"greater": 40, "less": None, "abs": True}
    assert thresholds["noise"] == bombcell_thresholds({})["noise"]
    assert bombcell_thresholds({"mua": {"snr": None}})["mua"]["snr"] == {"greater": None, "less": None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"noisy": {}}, "'noisy' is not a section; the nearest is 'noise'"),
        (
            {"mua": {"num_spike": {"greater": 1}}},
            "'num_spike' is not a metric of mua; the nearest is 'num_spikes'",
        ),
        ({"mua": {"snr": {"greatr": 1}}}, "'greatr' is not a bound of mua.snr; the nearest is 'greater'"),
        ({"mua": {"snr": {"greater": "5"}}}, "mua.snr.greater must be a number or null, found '5'"),
        ({"mua": {"snr": 5}}, "JSON object in mua.snr, found 5"),
        ({"mua": [5]}, "JSON object in mua"),
        ([1], "JSON object in the file"),
        ({"mua": {"l_ratio": {"less": 1}}}, "mua.l_ratio needs principal components"),
    ],
)
def test_unknown_thresholds_are_named(overrides, message):
    with pytest.raises(DataError, match=message):
        bombcell_thresholds(overrides)


def test_analysis_of_another_unit_is_refused(analyzed, tmp_path):
    write_sorting(tmp_path / "sorting", {1: np.array([5])}, {}, unit="shank3")
    with pytest.raises(
        DataError, match="expected the analysis of probe00 shank3, found that of probe00 shank0"
    ):
        label_units(tmp_path / "sorting", analyzed / "analysis", tmp_path / "out")
