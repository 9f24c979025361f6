"""ALF of the probe in exported_probe: every value against the traces and spikes that it comes from."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spikeinterface as si
from exported_probe import (
    BAD,
    CLOCK,
    LABELS,
    N_SAMPLES,
    OTHER_LABELS,
    RATE,
    UNIT_IDS,
    built,
    motion_of,
    session_of,
)
from one.alf import spec
from one.alf.io import load_object
from powerpixels import alf
from powerpixels.brain import BrainLocation
from powerpixels.documents import Part
from powerpixels.export import UnitMotion, _motions, gather

ROOT = Path(__file__).resolve().parent.parent
UNITS = [(shank, unit_id) for shank in (0, 2) for unit_id in UNIT_IDS[shank]]


@pytest.fixture(scope="module")
def made():
    return built()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("alf")
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, made.units), out)
    return out


@pytest.fixture(scope="module")
def spikes(folder):
    return load_object(folder, "spikes")


@pytest.fixture(scope="module")
def clusters(folder):
    return load_object(folder, "clusters")


@pytest.fixture(scope="module")
def channels(folder):
    return load_object(folder, "channels")


def test_names_are_alf_and_one_loads_them(folder, caplog):
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert len(names) == 29
    assert [name for name in names if not spec.is_valid(name)] == []
    with caplog.at_level(logging.WARNING):
        assert load_object(folder, "spikes").to_df().shape == (built_spikes(), 7)
        assert load_object(folder, "clusters").check_dimensions == 0
        assert load_object(folder, "channels").check_dimensions == 0
    assert [r.getMessage() for r in caplog.records if "Inconsistent" in r.getMessage()] == []


def test_the_typed_table_is_the_csv(made, folder, clusters):
    """In a collection of its own, so that the folder still loads; its text columns are text."""
    (path,) = (folder / "tables").iterdir()
    assert path.name == "clusters.metrics.pqt" and spec.is_valid(path.name)
    typed = load_object(folder / "tables", "clusters")["metrics"]
    read = pd.read_csv(folder / "clusters.metrics.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(typed, read, check_exact=True)
    pd.testing.assert_frame_equal(clusters["metrics"], read)
    assert typed["ks2_label"].tolist() == [LABELS[unit][0] for unit in UNITS]
    scores = [OTHER_LABELS[unit][2] for unit in UNITS]
    assert typed["label"].isna().tolist() == [score is None for score in scores]
    assert typed["label"].dropna().tolist() == [score for score in scores if score is not None]


def built_spikes() -> int:
    return sum(sorting.to_spike_vector().size for sorting in built().sortings.values())


def test_spikeinterface_reads_it(made, folder):
    from spikeinterface.extractors import read_alf_sorting

    sorting = read_alf_sorting(folder, sampling_frequency=RATE)
    assert sorting.unit_ids.tolist() == list(range(5))
    for cluster, (shank, unit_id) in enumerate(UNITS):
        train = made.sortings[shank].get_unit_spike_train(unit_id)
        assert np.array_equal(sorting.get_unit_spike_train(cluster), train)


def test_channels_are_the_recorded_ones_by_raw_column(made, channels):
    recorded = sorted(made.document.probe.ap.channels, key=lambda c: c.raw_column)
    assert channels["rawInd"].tolist() == [c.raw_column for c in recorded] == list(range(36))
    assert channels["contactIds"].tolist() == [c.contact_id for c in recorded]
    assert channels["shanks"].tolist() == [c.shank for c in recorded]
    assert channels["localCoordinates"].tolist() == [[c.x_um, c.y_um] for c in recorded]
    codes = {"good": 0, "dead": 1, "noise": 2, "out": 3}
    labels = [codes[BAD.get((c.shank, c.raw_column // 3), "good")] for c in recorded]
    assert channels["labels"].tolist() == labels
    assert np.bincount(labels).tolist() == [20, 1, 1, 14]


def test_spikes_are_the_sorters_on_the_reference_clock(made, spikes):
    assert {name: spikes[name].dtype.str for name in spikes} == {
        "times": "<f8",
        "samples": "<i8",
        "clusters": "<i4",
        "templates": "<i4",
        "amps": "<f4",
        "depths": "<f4",
        "muted": "|b1",
    }
    assert np.all(np.diff(spikes["times"]) >= 0)
    for cluster, (shank, unit_id) in enumerate(UNITS):
        train = made.sortings[shank].get_unit_spike_train(unit_id)
        assert np.array_equal(spikes["samples"][spikes["clusters"] == cluster], train)
    offset, slope, rate = (Fraction(x) for x in (CLOCK.offset_s, CLOCK.slope, RATE))
    exact = [float(offset + slope * int(sample) / rate) for sample in spikes["samples"]]
    assert np.abs(spikes["times"] - exact).max() < 1e-12


def test_clock_is_stated(folder):
    clock = json.loads((folder / "_powerpixels_clock.fit.json").read_text())
    assert "'nidq'" in clock.pop("description")
    files = clock.pop("files")
    assert clock == CLOCK.model_dump(mode="json")
    assert files == {
        "spikes.times.npy": {"clock": "nidq", "unit": "s", "bound_us": CLOCK.bound_us},
        "spikes.samples.npy": {"clock": CLOCK.stream, "unit": "samples", "bound_us": 0.0},
        # RAW_QC's, in the same folder.
        "_iblqc_ephysTimeRmsAP.timestamps.npy": {"clock": "nidq", "unit": "s", "bound_us": CLOCK.bound_us},
        "_iblqc_ephysTimeRmsLF.timestamps.npy": {"clock": "nidq", "unit": "s", "bound_us": CLOCK.bound_us},
    }


def waveforms(made, shank, unit_id):
    """Traces (spikes, 90, channels) µV around a unit's spikes, straight from the recording."""
    recording = made.recordings[shank]
    traces = recording.get_traces()
    train = made.sortings[shank].get_unit_spike_train(unit_id)
    inside = train[(train >= 30) & (train + 60 <= len(traces))]
    return np.stack([traces[sample - 30 : sample + 60] for sample in inside])


def columns(made, shank):
    """Raw file column of each column of a shank's recording."""
    kept = [k for k in range(12) if BAD.get((shank, k), "good") in ("good", "noise")]
    return np.array([3 * k + shank for k in (kept[::-1] if shank == 2 else kept)])


def test_waveforms_main_channels_and_amplitudes(made, spikes, clusters, channels):
    assert clusters["waveforms"].dtype == clusters["amps"].dtype == np.float32
    assert clusters["waveforms"].shape == (5, 90, 21)
    for cluster, (shank, unit_id) in enumerate(UNITS):
        snippets = waveforms(made, shank, unit_id)
        mean, raw = snippets.mean(axis=0), columns(made, shank)
        main = np.unravel_index(np.abs(mean).argmax(), mean.shape)[1]
        around = clusters["waveformsChannels"][cluster]
        assert channels["rawInd"][clusters["channels"][cluster]] == raw[main]
        assert around[0] == clusters["channels"][cluster]

        distance = np.linalg.norm(
            channels["localCoordinates"][around] - channels["localCoordinates"][around[0]], axis=1
        )
        assert sorted(around) == np.flatnonzero(np.isin(channels["labels"], [0, 2])).tolist()
        assert np.all(np.diff(distance) >= 0)
        for k, channel in enumerate(around):
            written = clusters["waveforms"][cluster, :, k]
            if distance[k] > 40:  # the analysis of exported_probe is sparse
                assert np.isnan(written).all()
            else:
                own = np.flatnonzero(raw == channels["rawInd"][channel]).item()
                assert written == pytest.approx(mean[:, own] * 1e-6, abs=2e-10)

        on_main = mean[:, main]
        milliseconds = (int(on_main.argmax()) - int(on_main.argmin())) / 30
        assert clusters["peakToTrough"][cluster] == pytest.approx(milliseconds)
        assert (milliseconds > 0) == (shank == 0)

        peak = np.abs(on_main).argmax()
        values = made.recordings[shank].get_traces()[:, main]
        amps = values[made.sortings[shank].get_unit_spike_train(unit_id) + peak - 30] * np.sign(on_main[peak])
        mine = spikes["clusters"] == cluster
        assert spikes["amps"][mine] == pytest.approx(amps * 1e-6, rel=1e-5)
        assert clusters["amps"][cluster] == pytest.approx(amps.mean() * 1e-6, rel=1e-5)
        assert 3e-5 < clusters["amps"][cluster] < 1e-3  # volts


def test_templates_are_the_clusters_as_they_were_sorted(folder, spikes, clusters):
    templates = load_object(folder, "templates")
    assert templates.check_dimensions == 0
    assert np.array_equal(spikes["templates"], spikes["clusters"])
    for name in ("waveforms", "waveformsChannels", "amps"):
        assert np.array_equal(templates[name], clusters[name], equal_nan=True)


def test_depths_are_the_analyzers_of_that_unit(made, spikes, clusters):
    for position, shank in ((1, 0), (0, 2)):
        analyzer = si.load_sorting_analyzer(made.units[position].analysis / "analyzer.zarr")
        by_unit = analyzer.get_extension("spike_locations").get_data(outputs="by_unit")[0]
        of_units = analyzer.get_extension("unit_locations").get_data(outputs="by_unit")
        for unit_id in UNIT_IDS[shank]:
            cluster = UNITS.index((shank, unit_id))
            mine = spikes["depths"][spikes["clusters"] == cluster]
            assert np.array_equal(mine, by_unit[unit_id]["y"].astype(np.float32))
            assert clusters["depths"][cluster] == np.float32(of_units[unit_id][1])


def test_depths_lie_around_the_main_channel(spikes, clusters, channels):
    main_y = channels["localCoordinates"][clusters["channels"], 1]
    assert np.abs(clusters["depths"] - main_y).max() < 40
    for cluster in range(5):
        assert abs(np.median(spikes["depths"][spikes["clusters"] == cluster]) - main_y[cluster]) < 20


def test_labels_and_metrics_are_joined_by_unit(made, clusters):
    table = clusters["metrics"]
    assert table["cluster_id"].tolist() == list(range(5))
    found = zip(table["sorting_unit"], table["shank"], table["sorter_unit_id"], strict=True)
    assert list(found) == [(f"shank{shank}", shank, unit_id) for shank, unit_id in UNITS]
    assert list(zip(table["ks2_label"], table["bombcell_label"], strict=True)) == [LABELS[u] for u in UNITS]
    assert clusters["kilosortLabels"].tolist() == [1, 0, 1, -1, 1]
    assert clusters["bombcellLabels"].tolist() == [1, 0, 2, -1, 3]
    assert clusters["unitrefineLabels"].tolist() == [1, 0, 2, -1, 1]
    assert clusters["consensusLabels"].tolist() == [1, 0, 2, -1, 1]
    assert clusters["iblLabels"].tolist() == [1, 2 / 3, 1 / 3, -1, 1]
    given = pd.DataFrame([OTHER_LABELS[u] for u in UNITS], dtype=object)
    columns = ["unitrefine_label", "unitrefine_probability", "label", "ibl_bitwise", "consensus_label"]
    for column, name in enumerate(columns):
        expected = given[column].to_list()
        found = table[name].astype(object).where(table[name].notna(), None).to_list()
        assert found == expected, name
    for name in ("firing_rate", "snr"):
        expected = [made.metrics[shank].loc[unit_id, name] for shank, unit_id in UNITS]
        assert table[name].to_numpy() == pytest.approx(expected, rel=1e-15)
    assert clusters["uuids"].nunique() == 5


def test_same_input_same_bytes(made, folder, tmp_path):
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, made.units[::-1]), tmp_path)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.*")}
        for out in (folder, tmp_path)
    ]
    assert digests[0] == digests[1]


def test_a_probe_without_units_loads_too(tmp_path):
    made = built(())
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, made.units), tmp_path)
    sizes = {
        name: {len(values) for values in load_object(tmp_path, name).values()}
        for name in ("spikes", "clusters", "channels")
    }
    assert sizes == {"spikes": {0}, "clusters": {0}, "channels": {36}}


def test_gaps_lead_from_samples_to_times(made, tmp_path):
    """By what is published alone: samples, the gaps' samples and missing, the clock's knots."""
    pieces = ((50_000, 10), (60_000, 10 + 50_000 + 45_000), (40_000, 10 + 155_000 + 301))
    document = session_of(made, "2026-03-01_001", *pieces)
    alf.write_alf(gather(document, made.preprocess, CLOCK, made.units), tmp_path)
    names = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert len(names) == 32
    assert [name for name in names if not spec.is_valid(name)] == []
    gaps = load_object(tmp_path, "gaps")
    assert {name: gaps[name].dtype.str for name in gaps} == {
        "intervals": "<f8",
        "samples": "<i8",
        "missing": "<i8",
    }
    assert gaps["samples"].tolist() == [50_000, 110_000]
    assert gaps["missing"].tolist() == [45_000, 301]
    spikes = load_object(tmp_path, "spikes")
    before = gaps["samples"][None] <= spikes["samples"][:, None]
    acquired = spikes["samples"] + before @ gaps["missing"]
    clock = json.loads((tmp_path / "_powerpixels_clock.fit.json").read_text())
    assert "_powerpixels_gaps.missing" in clock["description"]
    (t0, ref0), (t1, ref1) = clock["knots"]
    t = acquired / clock["sampling_rate_hz"]
    assert spikes["times"] == pytest.approx(ref0 + (t - t0) * (ref1 - ref0) / (t1 - t0), abs=1e-9)
    # no spike in a gap
    for start, stop in gaps["intervals"]:
        assert not np.any((spikes["times"] >= start) & (spikes["times"] < stop))
    assert np.diff(gaps["intervals"], axis=1)[:, 0] == pytest.approx(
        np.array([45_000, 301]) / RATE * CLOCK.slope, abs=1e-9
    )


def test_a_joined_session_without_spikes_loads_too(made, tmp_path):
    parts = [
        Part(subject="mouse01", session=name, start=start, n_samples=n)
        for name, start, n in (("2026-03-01_001", 0, N_SAMPLES - 1), ("2026-03-02", N_SAMPLES - 1, 1))
    ]
    preprocess = made.preprocess.model_copy(update={"parts": parts})
    alf.write_alf(gather(session_of(made, "2026-03-02", (1, 0)), preprocess, CLOCK, made.units), tmp_path)
    assert {len(values) for values in load_object(tmp_path, "spikes").values()} == {0}
    clusters = load_object(tmp_path, "clusters")
    assert clusters.check_dimensions == 0
    assert np.isnan(clusters["amps"]).all()
    assert clusters["metrics"]["session_spikes"].tolist() == [0] * 5


def test_a_probe_without_a_lf_band_is_said_to_have_none(made, tmp_path):
    """A model that records two bands, of which only the AP stream is there."""
    probe = made.document.probe.model_copy(update={"part_number": "NP1000"})
    document = made.document.model_copy(update={"probe": probe})
    export = gather(document, made.preprocess, CLOCK, made.units)
    alf.write_alf(export, tmp_path)
    assert [note for note in export.notes if note.startswith("no LF band: the probe records it in a stream")]
    files = json.loads((tmp_path / "_powerpixels_clock.fit.json").read_text())["files"]
    assert {name for name in files if "_iblqc_" in name} == {"_iblqc_ephysTimeRmsAP.timestamps.npy"}


def test_what_preprocessing_noted_is_in_the_summary(made):
    """Of each step its note; of a shank without channels its sorting says it."""
    steps = [
        {"step": "notch_filter", "note": "the line at 9000 Hz is not filtered: broader than 60 Hz"},
        {"step": "reference", "shank": 1, "n_channels": 0, "note": "no good channel"},
        {"step": "reference", "shank": 2, "n_channels": 10, "note": "global reference, not destriped"},
        {"step": "write", "n_clipped": 0},
    ]
    export = gather(made.document, made.preprocess.model_copy(update={"steps": steps}), CLOCK, made.units)
    assert [note for note in export.notes if not note.startswith("shank1: not sorted")] == [
        "notch_filter: the line at 9000 Hz is not filtered: broader than 60 Hz",
        "reference of shank 2: global reference, not destriped",
    ]


def test_motion_and_muted_stretches_of_a_session(made, tmp_path):
    """Of the second of two sessions that were sorted as one: its own bins and intervals, on its own clock."""
    parts = [
        Part(subject="mouse01", session=name, start=start, n_samples=n)
        for name, start, n in (("2026-03-01_001", 0, 60_000), ("2026-03-02", 60_000, 90_000))
    ]
    preprocess = made.preprocess.model_copy(update={"parts": parts})
    muted = np.array([[0, 10_000, 20_000], [1, 30_000, 33_000], [1, 80_000, 90_000]])
    np.save(tmp_path / "muted.npy", muted)
    motions = [motion_of(tmp_path / "m1", "shank2"), motion_of(tmp_path / "m2", "shank1", estimated=False)]
    document = session_of(made, "2026-03-02", (90_000, 0))
    arguments = (document, preprocess, CLOCK, made.units, (), tmp_path / "muted.npy", motions)
    export = gather(*arguments)
    alf.write_alf(export, tmp_path / "alf")
    names = [path.name for path in (tmp_path / "alf").rglob("*") if path.is_file()]
    assert [name for name in names if not spec.is_valid(name)] == []

    spikes = load_object(tmp_path / "alf", "spikes")
    samples = spikes["samples"]
    expected = ((samples >= 30_000) & (samples < 33_000)) | ((samples >= 80_000) & (samples < 90_000))
    assert spikes["muted"].dtype == bool and 0 < expected.sum() < len(samples)
    assert np.array_equal(spikes["muted"], expected)
    assert f"{expected.sum()} of {len(samples)} spikes lie in stretches that were muted" in export.notes

    # Of a probe that was sorted as one unit each shank has its own.
    (tmp_path / "probe").mkdir()
    for shank in (0, 2):
        motion_of(tmp_path / "probe" / f"shank{shank}", "probe", shank=shank)
    whole = preprocess.model_copy(update={"units": ["probe"]})
    found = _motions(whole, parts[1], document.probe.ap, CLOCK, [tmp_path / "probe"])
    assert list(found) == ["shank0", "shank2"]
    names = alf._drift(replace(export, units=["probe"], motions=found))
    of_shanks = {"drift/shank0/drift.times", "drift/shank2/drift.um", "drift/shank2/drift_depths.um"}
    assert of_shanks <= names.keys()

    # Only one of three shanks has a motion; the bins at 2.5, 3.5 and 4.5 s of 5 are this session's.
    (of_shank,) = (tmp_path / "alf" / "drift").iterdir()
    drift, depths = load_object(of_shank, "drift"), load_object(of_shank, "drift_depths")
    assert of_shank.name == "shank2" and depths["um"].tolist() == [100.0, 180.0]
    assert drift["um"].tolist() == [[4, 5], [6, 7], [8, 9]]
    on_reference = CLOCK.offset_s + CLOCK.slope * np.array([0.5, 1.5, 2.5])
    assert drift["times"] == pytest.approx(on_reference, abs=1e-9)
    clock = json.loads((tmp_path / "alf" / "_powerpixels_clock.fit.json").read_text())
    assert clock["files"]["drift/shank2/drift.times.npy"] == {"clock": "nidq", "unit": "s", "bound_us": None}
    with pytest.raises(ValueError, match="expected each of the units"):
        gather(*arguments[:-1], [motions[0], motions[0]])
    # The only unit's files have IBL's plain names.
    names = {name.split(".npy")[0] for name in alf._drift(replace(export, units=["shank2"]))}
    assert names == {"drift.times", "drift.um", "drift_depths.um"}


def test_unknown_label_is_refused(made, tmp_path):
    export = gather(made.document, made.preprocess, CLOCK, made.units)
    export.clusters.loc[2, "bombcell_label"] = "axonal"
    with pytest.raises(ValueError, match=r"\['axonal'\] have no code"):
        alf.write_alf(export, tmp_path)


def test_the_manuals_table_is_what_is_written(made, tmp_path):
    """Each file of a probe that has everything: in the table, of its number of dimensions and its type."""
    export = gather(made.document, made.preprocess, CLOCK, made.units)
    motion = UnitMotion(np.arange(4.0), np.arange(3.0), np.zeros((4, 3)))
    export = replace(
        export,
        brain={channel.raw_column: BrainLocation(1.0, 2.0, 3.0, 10, "VISp1") for channel in export.recorded},
        motions=dict.fromkeys(export.units, motion),
        spike_muted=np.zeros(export.spike_times.shape, bool),
        observed=np.array([[0.0, 1.0], [2.0, 3.0]]),
        gaps=np.array([[30000, 30000]]),
    )
    alf.write_alf(export, tmp_path)
    page = (
        (ROOT / "docs/outputs.md").read_text(encoding="utf-8").split("## A probe's ALF")[1].split("\n## ")[0]
    )
    rows = dict(re.findall(r"^\| `([^`]+)` \|([^|]*)\|", page, re.MULTILINE))
    written = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    names = {re.sub(r"^drift/shank\d/", "", name) for name in written}
    ours = {name for name in rows if "_iblqc_" not in name and name not in ("lfp.zarr", "xyz_picks.json")}
    assert names == ours
    assert {name for name in rows if name.endswith("timestamps.npy")} == alf.RAW_QC_UNITS.keys()
    kinds = {"text": "U", "bool": "b"}
    for name, path in written.items():
        if path.suffix != ".npy":
            continue
        shape, kind = re.fullmatch(
            r" \(([^)]*)\) (\w+) ", rows[re.sub(r"^drift/shank\d/", "", name)]
        ).groups()
        array = np.load(path)
        assert array.ndim == len([part for part in shape.split(",") if part.strip()]), name
        assert array.dtype.kind == kinds[kind] if kind in kinds else array.dtype == kind, name
