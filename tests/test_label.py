"""LABEL: labels are joined by unit id; the consensus follows its rule; nothing that was analyzed is changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_unitrefine
from phylib.io.model import load_metadata
from powerpixels import unitrefine
from powerpixels.analyze import analyze_unit
from powerpixels.label import TOOLS, consensus, label_units
from powerpixels.stage import DataError
from simulated_unit import write_ground_truth, write_sorting
from spikeinterface.curation.model_based_curation import _handle_backwards_compatibility_in_metrics

ROOT = Path(__file__).resolve().parent.parent
IDS = [4, 9, 2, 30]
# Kilosort says nothing of 9.
KILOSORT = {4: "good", 2: "mua", 30: "good", 77: "mua"}


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """A folder with sorting and analysis; unit 77 has two spikes and unit 80 one, at no neuron's."""
    folder = tmp_path_factory.mktemp("labels")
    truth = write_ground_truth(folder / "shank0", n_channels=12, duration_s=8.0, n_units=4, spacing_um=25.0)
    trains = {unit: truth.get_unit_spike_train(true) for unit, true in zip(IDS, truth.unit_ids, strict=True)}
    trains[77], trains[80] = np.array([30_000, 60_000]), np.array([100_000])
    write_sorting(folder / "sorting", trains, KILOSORT)
    analyze_unit(folder / "shank0", folder / "sorting", folder / "analysis", jobs=2)
    return folder


# Such that the short simulated trains can be good; all presence is in one bin of a minute.
LENIENT = {"minNumSpikes": 50, "minPresenceRatio": 0, "maxRPVviolations": 1.0}
COLUMNS = "unit_id,kilosort,bombcell,unitrefine,ibl,consensus,unitrefine_probability,ibl_score,ibl_bitwise\n"


def test_labels_are_joined_by_id(analyzed, tmp_path):
    label_units(analyzed / "sorting", analyzed / "analysis", tmp_path, LENIENT)
    table = pd.read_csv(tmp_path / "labels.csv")
    assert ",".join(table.columns) + "\n" == COLUMNS
    assert table["unit_id"].tolist() == [2, 4, 9, 30, 77, 80]
    assert table["kilosort"].tolist() == ["mua", "good", "unjudged", "good", "mua", "unjudged"]
    # Two spikes are too few for Bombcell, and fail all that IBL asks for; so does one.
    assert table["bombcell"].tolist() == ["good"] * 4 + ["unjudged"] * 2
    assert table["unitrefine"].tolist() == ["unjudged"] * 6
    assert table["unitrefine_probability"].isna().all()
    for _, last in table.iloc[-2:].iterrows():
        assert (last["ibl"], last["ibl_score"], last["ibl_bitwise"], last["consensus"]) == (
            "mua",
            0,
            7,
            "mua",
        )
    assert ((table["ibl_score"] == 1) == (table["ibl"] == "good")).all()
    assert table["ibl_score"].tolist() == pytest.approx(
        [1 - bin(b).count("1") / 3 for b in table["ibl_bitwise"]]
    )


def test_ibl_amplitudes_are_of_the_right_units(analyzed, tmp_path):
    """A threshold between the units' true median amplitudes parts them."""
    metrics = pd.read_csv(analyzed / "analysis" / "metrics.csv", index_col="unit_id")
    heights = metrics["amplitude_median"].abs().drop(index=[77, 80]).sort_values()
    between = float(heights.iloc[1:3].mean())
    table = label_units(
        analyzed / "sorting", analyzed / "analysis", tmp_path, ibl={"med_amp_thresh_uv": between}
    ).set_index("unit_id")
    small = {unit for unit in heights.index if int(table.loc[unit, "ibl_bitwise"]) & 4}
    assert small == set(heights.index[:2])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """UnitRefine models of the published kind, small, of the curated recordings; and these."""
    curated = test_unitrefine.judged(test_unitrefine.recordings())
    return test_unitrefine.trained(curated, "none", tmp_path_factory.mktemp("models"), trees=20), curated


def test_unitrefine_on_an_analyzer(analyzed, models, tmp_path):
    """Opened as LABEL does, from Zarr and read-only: neurons are none to the noise model, 2 spikes of noise are."""
    before = {path: path.read_bytes() for path in (analyzed / "analysis").rglob("*") if path.is_file()}
    table = label_units(analyzed / "sorting", analyzed / "analysis", tmp_path, models=models[0])
    assert dict(zip(table["unit_id"], table["unitrefine"] == "noise", strict=True)) == {
        2: False, 4: False, 9: False, 30: False, 77: True, 80: True
    }  # fmt: skip
    assert set(table["unitrefine"]) <= {"good", "mua", "noise"}
    assert table["unitrefine_probability"].between(0.5, 1).all()
    record = json.loads((tmp_path / "labels.json").read_text())["unitrefine"]["models"]
    assert record == json.loads((models[0] / "models.json").read_text())["models"]
    assert {p: p.read_bytes() for p in (analyzed / "analysis").rglob("*") if p.is_file()} == before


def test_unitrefine_reads_metrics_in_its_models_form(analyzed, models):
    """Signs and orders of magnitude of what LABEL hands over, beside the curated recordings' own."""
    curated = pd.concat(models[1].values()).replace([np.inf, -np.inf], np.nan)
    computed = pd.read_csv(analyzed / "analysis" / "metrics.csv", index_col="unit_id").loc[IDS]
    info = json.loads((models[0] / unitrefine.NOISE / "model_info.json").read_text())
    given = _handle_backwards_compatibility_in_metrics(
        unitrefine.given_to(models[0] / unitrefine.NOISE, computed), info
    )
    read, _ = unitrefine.check_model(models[0] / unitrefine.NOISE)
    old = {new: name for name, new in test_unitrefine.RENAMED.items()}
    compared, strange = [], []
    for name in (old.get(name, name) for name in read):
        known, own = curated[name].dropna(), given[name].dropna()
        own = own[own != 0]
        for sign in (1, -1):
            if (np.sign(known) == sign).mean() > 0.95 and len(own):
                compared.append(name)
                low, high = (known * sign).clip(lower=0).quantile([0.01, 0.99])
                if not (own * sign).between(low / 10, high * 10).all():
                    strange.append(name)
    assert strange == []
    assert set(compared) == {
        "amplitude_median", "firing_rate", "num_spikes", "snr", "sliding_rp_violation", "exp_decay", "half_width",
        "num_negative_peaks", "peak_to_valley", "peak_trough_ratio", "recovery_slope", "repolarization_slope", "spread",
    }  # fmt: skip


def test_a_threshold_changes_the_labels(analyzed, tmp_path):
    table = label_units(analyzed / "sorting", analyzed / "analysis", tmp_path, {**LENIENT, "minSNR": 1e6})
    assert table["bombcell"].tolist() == ["mua"] * 4 + ["unjudged"] * 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # kilosort, bombcell, unitrefine, ibl
        (("good", "good", "unjudged", "good"), "good"),
        (("good", "good", "unjudged", "mua"), "good"),
        (("mua", "good", "unjudged", "unjudged"), "mua"),
        (("good", "noise", "unjudged", "good"), "noise"),
        (("good", "noise", "good", "good"), "good"),
        (("good", "noise", "mua", "mua"), "mua"),
        (("mua", "non_soma", "mua", "good"), "non_soma"),
        (("good", "non_soma", "good", "good"), "good"),
        (("good", "unjudged", "noise", "good"), "noise"),
        (("good", "unjudged", "unjudged", "unjudged"), "good"),
        (("unjudged",) * 4, "unjudged"),
    ],
)
def test_consensus(words, expected):
    assert consensus(dict(zip(TOOLS, words, strict=True))) == expected


def test_unit_that_the_analyzer_lacks_is_unjudged(analyzed, tmp_path):
    """The rows of the others stay theirs."""
    before = label_units(analyzed / "sorting", analyzed / "analysis", tmp_path / "all").set_index("unit_id")
    trains = {unit: np.array([50]) for unit in (2, 3, 4, 9, 30, 77, 80)}
    write_sorting(tmp_path / "sorting", trains, {**KILOSORT, 3: "good"})
    table = label_units(tmp_path / "sorting", analyzed / "analysis", tmp_path / "out").set_index("unit_id")
    assert table.loc[3].tolist()[:5] == ["good", "unjudged", "unjudged", "unjudged", "good"]
    assert table.loc[3].isna().sum() == 3
    pd.testing.assert_frame_equal(table.drop(index=3), before)
    assert "3,good,unjudged,unjudged,unjudged,good,,,\n" in (tmp_path / "out" / "labels.csv").read_text()


def test_skipped_sorting_gives_an_empty_table(analyzed, tmp_path):
    write_sorting(tmp_path / "sorting", {}, {})
    analyze_unit(analyzed / "shank0", tmp_path / "sorting", tmp_path / "analysis")
    table = label_units(tmp_path / "sorting", tmp_path / "analysis", tmp_path / "out")
    assert table.empty
    assert (tmp_path / "out" / "labels.csv").read_text() == COLUMNS
    assert (tmp_path / "out" / "phy" / "cluster_ibl.tsv").read_text() == "cluster_id\tibl\n"


def test_executable_leaves_its_input_alone(analyzed, tmp_path):
    """And works in a folder with a space in its name."""
    place = tmp_path / "a run"
    place.mkdir()
    shutil.copytree(analyzed / "analysis", place / "analysis")
    before = {path: path.read_bytes() for path in (place / "analysis").rglob("*") if path.is_file()}
    (place / "thresholds.json").write_text(json.dumps(LENIENT))
    (place / "ibl.json").write_text(json.dumps({"acceptable_contamination": 20}))
    subprocess.run(
        [sys.executable, ROOT / "bin" / "pp_label.py", "--sorting", analyzed / "sorting"]
        + ["--analysis", "analysis", "--out", "labels", "--bombcell-params", "thresholds.json"]
        + ["--ibl-params", "ibl.json"],
        cwd=place,
        check=True,
        capture_output=True,
    )
    assert {p: p.read_bytes() for p in (place / "analysis").rglob("*") if p.is_file()} == before
    record = json.loads((place / "labels" / "labels.json").read_text())
    assert (record["probe"], record["unit"]) == ("probe00", "shank0")
    assert record["bombcell"]["parameters"]["minNumSpikes"] == 50
    assert record["bombcell"]["parameters"]["rpv_method"] == "ibl_sliding"
    assert record["ibl"]["parameters"]["acceptable_contamination"] == 20
    versions = json.loads((place / "versions.json").read_text())
    assert record["bombcell"]["version"] == versions["bombcell"] == "0.94"
    labels = pd.read_csv(place / "labels" / "labels.csv")
    for tool in ("bombcell", "unitrefine", "ibl", "consensus"):
        # As Phy reads them.
        found = load_metadata(place / "labels" / "phy" / f"cluster_{tool}.tsv")
        assert found == {tool: dict(zip(labels["unit_id"], labels[tool], strict=True))}


def test_missing_models_folder_is_refused_without_units_too(analyzed, tmp_path):
    write_sorting(tmp_path / "sorting", {}, {})
    analyze_unit(analyzed / "shank0", tmp_path / "sorting", tmp_path / "analysis")
    with pytest.raises(DataError, match="expected models.json"):
        label_units(tmp_path / "sorting", tmp_path / "analysis", tmp_path / "out", models=tmp_path)


def test_analysis_of_another_unit_is_refused(analyzed, tmp_path):
    write_sorting(tmp_path / "sorting", {1: np.array([5])}, {}, unit="shank3")
    with pytest.raises(
        DataError, match="expected the analysis of probe00 shank3, found that of probe00 shank0"
    ):
        label_units(tmp_path / "sorting", analyzed / "analysis", tmp_path / "out")
