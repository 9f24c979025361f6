"""ANALYZE: metrics against the known spikes; the analyzer stands alone; units with few spikes pass."""

from __future__ import annotations

import json
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import spikeinterface as si
from powerpixels.analyze import (
    PCA_METRICS,
    QUALITY_METRICS,
    AnalysisDocument,
    Suggestions,
    analyze_unit,
    extension_parameters,
    load_sorting,
    suggest,
)
from powerpixels.label import TOOLS, _write_for_phy
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from simulated_unit import GAIN_UV, RATE, write_ground_truth, write_sorting

DURATION_S = 8.0
# The sorter's ids: gaps, and no order of the true units.
IDS = [4, 9, 2, 30]
LABELS = {4: "good", 9: "mua", 30: "good", 77: "mua"}


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """(folder, trains by unit id): four neurons, unit 77 of two spikes and unit 80 of one.

    Unit 2 is below the lowest row but one; folder/depths.npy has the neurons' true depths in the order of IDS.
    """
    folder = tmp_path_factory.mktemp("analyzed")
    truth = write_ground_truth(
        folder / "shank0", n_channels=12, duration_s=DURATION_S, n_units=4, spacing_um=25.0
    )
    trains = {unit: truth.get_unit_spike_train(true) for unit, true in zip(IDS, truth.unit_ids, strict=True)}
    trains[77] = np.array([30_000, 60_000])
    trains[80] = np.array([100_000])
    np.save(folder / "depths.npy", truth.get_property("gt_unit_locations")[:, 1])
    write_sorting(folder / "sorting", trains, LABELS)
    analyze_unit(folder / "shank0", folder / "sorting", folder / "analysis", jobs=2, seed=3)
    return folder, trains


def _metrics(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "analysis" / "metrics.csv", index_col="unit_id")


def test_metrics_are_by_unit_id(analyzed):
    folder, trains = analyzed
    metrics = _metrics(folder)
    assert metrics.index.dtype == np.int64
    assert sorted(metrics.index) == sorted(trains)
    for unit, train in trains.items():
        assert metrics.loc[unit, "num_spikes"] == len(train)
        assert metrics.loc[unit, "firing_rate"] == pytest.approx(len(train) / DURATION_S)
        too_close = np.sum(np.diff(train) < 1.5e-3 * RATE)
        assert metrics.loc[unit, "isi_violations_count"] == too_close


def test_amplitudes_and_snr_are_in_microvolts(analyzed):
    """Against the binary itself: the trough of the mean waveform, the noise's MAD."""
    folder, trains = analyzed
    counts = np.fromfile(folder / "shank0" / "traces.bin", "<i2").reshape(-1, 12)
    metrics = _metrics(folder)
    noise = np.median(np.abs(counts - np.median(counts, axis=0)), axis=0) / 0.6745
    for unit in IDS:
        template = np.mean([counts[sample - 5 : sample + 6] for sample in trains[unit][1:-1]], axis=0)
        channel = np.argmax(np.max(np.abs(template), axis=0))
        trough = template[:, channel].min()
        assert metrics.loc[unit, "amplitude_median"] == pytest.approx(trough * GAIN_UV, rel=0.15)
        assert metrics.loc[unit, "snr"] == pytest.approx(-trough / noise[channel], rel=0.15)


def test_a_unit_at_the_probes_edge_is_where_it_is(analyzed):
    """And the template of a unit of one spike is that spike."""
    folder, _ = analyzed
    analyzer = si.load_sorting_analyzer(folder / "analysis" / "analyzer.zarr", read_only=True)
    found = dict(
        zip(analyzer.unit_ids.tolist(), analyzer.get_extension("unit_locations").get_data(), strict=True)
    )
    main = dict(
        zip(analyzer.unit_ids.tolist(), analyzer.get_sorting_property("main_channel_id"), strict=True)
    )
    depths = dict(zip(IDS, np.load(folder / "depths.npy"), strict=True))
    assert depths[2] == min(depths.values()) < 7.5 and main[2] in analyzer.channel_ids[:4]
    for unit, depth in depths.items():
        assert found[unit][1] == pytest.approx(depth, abs=8)
    metrics = _metrics(folder)
    assert (metrics.loc[IDS, "snr"] > 5).all() and metrics.loc[80, "num_spikes"] == 1
    # Of one spike: the trace itself.
    counts = np.fromfile(folder / "shank0" / "traces.bin", "<i2").reshape(-1, 12)
    column = analyzer.channel_ids.tolist().index(main[80])
    around = counts[100_000 - 30 : 100_000 + 60, column] * GAIN_UV
    template = analyzer.get_extension("templates").get_data()[analyzer.unit_ids.tolist().index(80)]
    assert template[:, column] == pytest.approx(around, abs=1e-3)


def test_every_metric_has_its_column(analyzed):
    folder, _ = analyzed
    columns = set(_metrics(folder).columns)
    assert set(QUALITY_METRICS) & columns >= {"num_spikes", "presence_ratio", "snr", "amplitude_cutoff"}


def test_what_label_needs_has_every_unit(analyzed):
    folder, trains = analyzed
    for name in ("bombcell.csv", "ibl_confidence.csv"):
        table = pd.read_csv(folder / "analysis" / name, index_col="unit_id")
        assert table.index.tolist() == sorted(trains), name
    suggestions = Suggestions.load(folder / "analysis" / "suggestions.json")
    assert (suggestions.redundant, suggestions.merges) == ([], [])


def test_units_that_may_be_one_are_suggested():
    """One neuron's spikes under two ids, and another's spikes split between two; a third is nobody's part."""
    recording, truth = si.generate_ground_truth_recording(
        durations=[40.0],
        sampling_frequency=RATE,
        num_channels=8,
        num_units=3,
        generate_sorting_kwargs={"firing_rates": 60.0, "refractory_period_ms": 4.0},
        noise_kwargs={"noise_levels": 5.0, "strategy": "on_the_fly"},
        seed=1,
    )
    twice, split, alone = (truth.get_unit_spike_train(unit) for unit in truth.unit_ids)
    half = np.random.default_rng(0).random(len(split)) < 0.5
    given = {4: twice, 5: twice[5:], 8: split[half], 6: split[~half], 7: alone}
    sorting = si.NumpySorting.from_unit_dict(given, RATE)
    analyzer = si.create_sorting_analyzer(sorting, recording, sparse=False)
    needed = ("random_spikes", "templates", "correlograms", "unit_locations", "template_similarity")
    parameters = extension_parameters(3)
    analyzer.compute({name: parameters[name] for name in needed})
    found = suggest(analyzer)
    assert found.redundant == [(4, 5)]
    assert [6, 8] in found.merges
    assert all(group in ([6, 8], [4, 5]) for group in found.merges)
    assert analyzer.unit_ids.tolist() == list(given), "nothing is done about them"


def test_similarity_of_templates(analyzed):
    """Less the l1 distance over the union of two units' channels."""
    folder, _ = analyzed
    analyzer = si.load_sorting_analyzer(folder / "analysis" / "analyzer.zarr", read_only=True)
    templates, mask = analyzer.get_extension("templates").get_data(), analyzer.sparsity.mask
    similarity = analyzer.get_extension("template_similarity").get_data()
    compared = 0
    for i, j in combinations(range(len(templates)), 2):
        if not (mask[i] & mask[j]).any():
            continue
        both = mask[i] | mask[j]
        one, other = templates[i][:, both], templates[j][:, both]
        distance = np.abs(one - other).sum() / (np.abs(one).sum() + np.abs(other).sum())
        assert similarity[i, j] == similarity[j, i] == pytest.approx(1 - distance, abs=1e-5)
        compared += 1
    assert compared >= 5


def test_pca_metrics_are_those_of_unitrefines_full_models(analyzed, tmp_path):
    """By their names in the curated recordings that the models were trained on; neurons are apart from each other."""
    folder, _ = analyzed
    parameters = extension_parameters(3, pca_metrics=True)
    assert set(PCA_METRICS) <= set(parameters["quality_metrics"]["metric_names"])
    assert list(parameters).index("principal_components") < list(parameters).index("quality_metrics")
    assert "principal_components" not in extension_parameters(3)
    shutil.copytree(folder / "analysis" / "analyzer.zarr", tmp_path / "analyzer.zarr")
    analyzer = si.load_sorting_analyzer(tmp_path / "analyzer.zarr", read_only=False)
    analyzer.set_temporary_recording(load_preprocessed(folder / "shank0"))
    analyzer.compute({"principal_components": parameters["principal_components"]})
    analyzer.compute(
        {"quality_metrics": {"metric_names": list(PCA_METRICS), "delete_existing_metrics": True}}, n_jobs=1
    )
    metrics = analyzer.get_extension("quality_metrics").get_data()
    names = ["isolation_distance", "l_ratio", "d_prime", "silhouette", "nn_hit_rate", "nn_miss_rate"]
    assert set(names) <= set(metrics.columns)
    of_neurons = metrics.loc[IDS, names]
    assert of_neurons.notna().all(axis=None)
    assert (of_neurons["d_prime"] > 2).all() and (of_neurons["nn_hit_rate"] > 0.9).all()
    assert (of_neurons["nn_miss_rate"] < 0.1).all() and (of_neurons["l_ratio"] < 0.1).all()


def test_analyzer_opens_alone(analyzed, tmp_path):
    """Moved, with recording and sorting gone, and read-only."""
    folder, trains = analyzed
    shutil.copytree(folder / "analysis" / "analyzer.zarr", tmp_path / "moved.zarr")
    analyzer = si.load_sorting_analyzer(tmp_path / "moved.zarr", read_only=True)
    assert not analyzer.has_recording()
    assert analyzer.unit_ids.tolist() == sorted(trains)
    assert analyzer.return_in_uV
    labels = analyzer.get_sorting_property("sorter_label")
    assert dict(zip(analyzer.unit_ids.tolist(), labels, strict=True)) == {**LABELS, 2: "", 80: ""}
    assert analyzer.get_extension("templates").get_templates(operator="std").shape[0] == len(trains)
    properties = analyzer.rec_attributes["properties"]
    assert list(properties["raw_column"]) == [2 * index + 5 for index in range(12)]
    assert list(properties["contact_id"]) == [f"e{100 + index}" for index in range(12)]
    for unit, train in trains.items():
        assert np.array_equal(analyzer.sorting.get_unit_spike_train(unit), train)


def test_any_sorters_units_open_in_phy(analyzed, tmp_path):
    """docs/sorting.md: SpikeInterface's export of the published analyzer, without traces, with our labels."""
    from phylib.io.model import load_model
    from spikeinterface.exporters import export_to_phy

    folder, trains = analyzed
    analyzer = si.load_sorting_analyzer(folder / "analysis" / "analyzer.zarr", read_only=True)
    table = pd.DataFrame({tool: [f"{tool} {i}" for i in [30, 4, *trains]] for tool in (*TOOLS, "consensus")})
    table = table.assign(unit_id=[30, 4, *trains]).drop_duplicates("unit_id")
    _write_for_phy(table, tmp_path)
    labels = pd.read_table(tmp_path / "cluster_consensus.tsv", index_col="cluster_id")
    analyzer.sorting.set_property("consensus", labels["consensus"].loc[analyzer.unit_ids].to_numpy(str))
    export_to_phy(
        analyzer,
        tmp_path / "phy",
        copy_binary=False,
        compute_pc_features=False,
        use_relative_path=True,
        additional_properties=["consensus"],
        verbose=False,
    )
    model = load_model(tmp_path / "phy" / "params.py")
    assert (model.n_channels, model.n_templates) == (12, len(trains))
    # Phy counts the units; their ids are in a column beside.
    ids = np.array([int(model.metadata["si_unit_id"][cluster]) for cluster in range(len(trains))])
    spikes = analyzer.sorting.to_spike_vector()
    assert np.array_equal(model.spike_samples, spikes["sample_index"])
    assert [model.metadata["consensus"][k] for k in range(len(ids))] == [f"consensus {i}" for i in ids]
    assert np.array_equal(ids[model.spike_clusters], np.array(analyzer.unit_ids)[spikes["unit_index"]])


def test_analysis_holds_no_path(analyzed):
    folder, _ = analyzed
    text = str(folder).encode()
    for path in (folder / "analysis").rglob("*"):
        if path.is_file():
            assert text not in path.read_bytes(), path
    # the recording's description is compressed: its absence is looked up
    assert not (folder / "analysis" / "analyzer.zarr" / "recording").exists()


def test_document(analyzed):
    folder, _ = analyzed
    document = AnalysisDocument.load(folder / "analysis" / "analysis.json")
    assert (document.status, document.n_units, document.unit) == ("analyzed", 6, "shank0")
    assert document.extensions["random_spikes"]["seed"] == document.seed == 3


def test_same_seed_gives_the_same_metrics(analyzed, tmp_path):
    folder, _ = analyzed
    analyze_unit(folder / "shank0", folder / "sorting", tmp_path, jobs=1, seed=3)
    for name in ("metrics.csv", "bombcell.csv", "bombcell.json", "ibl_confidence.csv", "suggestions.json"):
        assert (tmp_path / name).read_bytes() == (folder / "analysis" / name).read_bytes(), name


def test_skipped_sorting_is_passed_on(analyzed, tmp_path):
    folder, _ = analyzed
    write_sorting(tmp_path / "sorting", {}, {})
    document = analyze_unit(folder / "shank0", tmp_path / "sorting", tmp_path / "out")
    assert (document.status, document.n_units) == ("skipped", 0)
    assert "2 usable channels" in document.message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["analysis.json", "metrics.csv"]
    assert (tmp_path / "out" / "metrics.csv").read_text().strip() == "unit_id"
    assert json.loads((tmp_path / "out" / "analysis.json").read_text())["probe"] == "probe00"


def test_sorting_of_another_unit_is_refused(analyzed, tmp_path):
    folder, trains = analyzed
    write_sorting(tmp_path / "sorting", trains, LABELS, unit="shank2")
    with pytest.raises(
        DataError, match="expected the sorting of probe00 shank0, found that of probe00 shank2"
    ):
        analyze_unit(folder / "shank0", tmp_path / "sorting", tmp_path / "out")


def test_spikes_beyond_the_recording_are_refused(tmp_path):
    write_sorting(tmp_path / "sorting", {1: np.array([5, 1000])}, {})
    with pytest.raises(DataError, match="1000 samples, found 5 to 1000"):
        load_sorting(tmp_path / "sorting", RATE, 1000)


def test_arrays_of_another_sorting_are_refused(tmp_path):
    write_sorting(tmp_path / "sorting", {1: np.array([5, 10])}, {})
    np.save(tmp_path / "sorting" / "spike_unit_ids.npy", np.array([1, 2]))
    with pytest.raises(DataError, match="not of one sorting"):
        load_sorting(tmp_path / "sorting", RATE, 1000)
