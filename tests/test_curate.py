"""Manual curation: the GUI's own file, the revision that it makes, and a real browser on the GUI.

The GUI's controller makes the decisions as its buttons do, without a display. Values are checked against the
automatic files and the analyzers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import nwb_parts
import pandas as pd
import pytest
import spikeinterface as si
import test_preprocess
from browser import browser, free_port, opened
from exported_probe import CLOCK, N_SAMPLES, UNIT_IDS, built, session_of
from hdmf_zarr.nwb import NWBZarrIO
from one.alf.cache import make_parquet_db
from one.api import One
from powerpixels import alf, apply_curation, cli, curate, load_neural_data, manual_curation, motion, nwb
from powerpixels.compress import compress_stream
from powerpixels.documents import Part, PreprocessedUnit, StreamDocument
from powerpixels.export import gather
from powerpixels.motion import MotionDocument
from powerpixels.nwb_edit import OF_ALF
from powerpixels.preprocess import Settings, preprocess_probe
from powerpixels.rawdata import locate
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from pynwb import NWBHDF5IO, validate
from spikeinterface.core.motion import Motion

UNITS = [(shank, unit_id) for shank in (0, 2) for unit_id in UNIT_IDS[shank]]
SPLIT = np.arange(0, 30, 3)  # spikes of the split unit that go apart


def publish(folder: Path) -> Path:
    """The probe of exported_probe as the pipeline publishes it; returns the session's folder."""
    made, session = built(), folder / "mouse01" / "2026-03-01" / "001"
    export = gather(made.document, made.preprocess, CLOCK, made.units)
    alf.write_alf(export, session / "alf" / "probe00")
    for backend in ("hdf5", "zarr"):
        nwb.write_nwb(export, nwb_parts.metadata(made.document.session, folder), session / "nwb", backend)
    for unit, shank in zip(made.units, (2, 0), strict=False):
        target = session / "analyzers" / "probe00" / f"shank{shank}.zarr"
        shutil.copytree(unit.analysis / "analyzer.zarr", target)
    (session / "qc" / "probe00").mkdir(parents=True)
    made.preprocess.save(session / "qc" / "probe00" / "preprocess.json")
    return session


def decide(session: Path, shank: int, merges=(), removed=(), splits=None, labels=None) -> Path:
    """A curation file by the installed GUI's own controller; returns it."""
    controller_of = pytest.importorskip(
        "spikeinterface_gui.controller", reason="the GUI is not installed"
    ).Controller
    _, units = curate.sorting_units(session, "probe00")
    place = units[f"shank{shank}"]
    arguments = curate.gui_arguments(session, "probe00", place)
    arguments["curation_data"] = arguments.pop("curation_dict")
    controller = controller_of(
        **arguments,
        backend="panel",
        # What they would compute, and colours: half a minute of compiling.
        skip_extensions=["waveforms", "template_similarity", "correlograms", "isi_histograms"],
        user_main_settings={"color_mode": "color_by_visibility"},
    )
    for group in merges:
        assert controller.make_manual_merge_if_possible(list(group))
    controller.make_manual_delete_if_possible(list(removed))
    for unit_id, spikes in (splits or {}).items():
        controller.set_visible_unit_ids([unit_id])
        controller.set_indices_spike_selected(
            controller.get_spike_indices(unit_id, segment_index=None)[spikes]
        )
        assert controller.make_manual_split_if_possible(unit_id)
    for unit_id, label in (labels or {}).items():
        controller.set_label_to_unit(unit_id, "quality", label)
    controller.save_curation_callback()
    return place.curation


def digests(session: Path) -> dict[str, str]:
    return {
        str(path.relative_to(session)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(session.rglob("*"))
        if path.is_file() and "#" not in str(path) and "curation" not in path.parts
    }


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """(session, its files before, the revision): shank 0: 2+7 merged, 11 split; shank 2: 0 removed, 7 good."""
    session = publish(tmp_path_factory.mktemp("curated units"))
    before = digests(session)
    decide(session, 0, merges=[(2, 7)], splits={11: SPLIT}, labels={2: "good", 7: "good", 11: "MUA"})
    decide(session, 2, removed=[0], labels={7: "good"})
    (revision,) = apply_curation(session, "probe00", "2026-03-02")
    return session, before, revision


def automatic(session: Path):
    return load_neural_data(session, "probe00", revision="")


def test_the_file_is_spikeinterfaces_and_is_gone_on_with(curated):
    session = curated[0]
    path = session / "curation" / "probe00" / "shank0.json"
    from spikeinterface.curation import load_curation

    model = load_curation(path)
    assert [merge.unit_ids for merge in model.merges] == [[2, 7]]
    assert [(split.unit_id, split.indices) for split in model.splits] == [(11, [SPLIT.tolist()])]
    assert sorted(model.unit_ids) == UNIT_IDS[0]
    _, units = curate.sorting_units(session, "probe00")
    again = curate.gui_arguments(session, "probe00", units["shank0"])
    assert again["curation_dict"]["merges"] == [{"unit_ids": [2, 7], "new_unit_id": None}]
    rows = {int(i): k for k, i in enumerate(again["analyzer"].unit_ids)}
    shown = {
        tool: labels[[rows[i] for i in (2, 7, 11)]].tolist()
        for tool, labels in again["extra_unit_properties"].items()
    }
    assert shown["bombcell"] == ["good", "noise", "mua"] and shown["kilosort"] == ["good", "mua", "good"]


def test_the_automatic_files_stay_as_they_were(curated):
    session, before, _ = curated
    assert digests(session) == before
    assert not list(session.rglob("*.partial"))


def test_units_and_spikes_of_the_revision(curated):
    session, _, _ = curated
    old, new = automatic(session), load_neural_data(session, "probe00")
    assert (old.revision, new.revision) == ("", "2026-03-02")
    found = list(
        zip(
            new.clusters["sorting_unit"],
            new.clusters["sorter_unit_id"].tolist(),
            new.clusters["made_from"],
            strict=True,
        )
    )
    assert found == [("shank2", 7, ""), ("shank0", 12, "2+7"), ("shank0", 13, "11"), ("shank0", 14, "11")]
    times = {unit: old.spikes["times"][old.spikes["clusters"] == k] for k, unit in enumerate(UNITS)}
    expected = [
        times[2, 7],
        np.sort(np.concatenate([times[0, 2], times[0, 7]])),
        times[0, 11][SPLIT],
        np.delete(times[0, 11], SPLIT),
    ]
    for k, train in enumerate(expected):
        assert np.array_equal(new.spikes["times"][new.spikes["clusters"] == k], train)
    assert len(new.spikes["times"]) == sum(map(len, expected))
    assert {len(values) for values in new.clusters.values()} == {4}
    assert len({len(values) for values in new.spikes.values()}) == 1
    # What each spike has of its own came with it.
    key = {
        (t, a): d
        for t, a, d in zip(*(old.spikes[n].tolist() for n in ("times", "amps", "depths")), strict=True)
    }
    assert all(
        key[t, a] == d
        for t, a, d in zip(*(new.spikes[n].tolist() for n in ("times", "amps", "depths")), strict=True)
    )


def test_labels_and_metrics_of_the_revision(curated):
    session, _, revision = curated
    old, new = automatic(session), load_neural_data(session, "probe00")
    assert new.clusters["manual_label"].tolist() == ["good", "good", "MUA", "MUA"]
    row = UNITS.index((2, 7))
    for name in (
        "bombcell_label",
        "kilosort_label",
        "unitrefine_label",
        "ibl_label",
        "snr",
        "depths",
        "amps",
        "uuids",
    ):
        assert new.clusters[name][0] == old.clusters[name][row]
    for tool in ("bombcell", "kilosort", "unitrefine", "ibl", "consensus"):
        assert new.clusters[f"{tool}_label"][1:].tolist() == [-1] * 3
    assert np.isnan(new.clusters["snr"][1:]).all()
    counts = np.bincount(new.spikes["clusters"])
    assert new.clusters["firing_rate"] == pytest.approx(counts / 5.0)
    assert (
        not set(new.clusters["uuids"][1:]) & set(old.clusters["uuids"])
        and len(set(new.clusters["uuids"])) == 4
    )
    kept = load_neural_data(session, "probe00", "manual")
    assert kept.clusters["cluster_id"].tolist() == [0, 1] and set(kept.spikes["clusters"]) == {0, 1}
    record = json.loads((revision / "_powerpixels_curation.applied.json").read_text())
    assert [unit["made_from"] for unit in record["units"]] == [[2, 7], [11], [11]]
    assert record["curation"]["shank2"]["removed"] == [0]


def test_waveforms_of_new_units(curated):
    """Against the analyzer's own: the weighted mean of a merge, the sampled waveforms of a split."""
    session, _, revision = curated
    analyzer = si.load_sorting_analyzer(session / "analyzers" / "probe00" / "shank0.zarr", read_only=True)
    templates = dict(
        zip(analyzer.unit_ids.tolist(), analyzer.get_extension("templates").get_data(), strict=True)
    )
    counts = analyzer.sorting.count_num_spikes_per_unit()
    waveforms = np.load(revision / "clusters.waveforms.npy") * 1e6
    around = np.load(revision / "clusters.waveformsChannels.npy")
    raw = np.load(session / "alf" / "probe00" / "channels.rawInd.npy")
    column = {int(c): k for k, c in enumerate(analyzer.get_recording_property("raw_column"))}

    merged = (templates[2] * counts[2] + templates[7] * counts[7]) / (counts[2] + counts[7])
    everything = analyzer.get_extension("waveforms").get_waveforms_one_unit(11, force_dense=True)
    assert len(everything) == counts[11]  # all are sampled
    for cluster, expected in (
        (1, merged),
        (2, everything[SPLIT].mean(axis=0)),
        (3, np.delete(everything, SPLIT, axis=0).mean(axis=0)),
    ):
        measured = 0
        for k, channel in enumerate(around[cluster]):
            values = waveforms[cluster, :, k]
            if not np.isnan(values).all():
                assert values == pytest.approx(expected[:, column[int(raw[channel])]], abs=1e-3)
                measured += 1
        assert measured >= 4
        main = np.load(revision / "clusters.channels.npy")[cluster]
        assert around[cluster, 0] == main
        assert column[int(raw[main])] == np.abs(expected).max(axis=0).argmax()


@pytest.mark.parametrize(("kind", "opened"), [("nwb", NWBHDF5IO), ("nwb.zarr", NWBZarrIO)])
def test_the_nwb_equals_the_alf(curated, kind, opened):
    session, _, revision = curated
    assert len(list((session / "nwb" / "#2026-03-02#").iterdir())) == 2
    (path,) = (session / "nwb" / "#2026-03-02#").glob(f"*.{kind}")
    (original,) = (session / "nwb").glob(f"*.{kind}")
    assert path.name == original.name
    new = load_neural_data(session, "probe00")
    with opened(str(path), "r") as io, opened(str(original), "r") as other:
        assert validate(io=io) == []
        nwbfile, before = io.read(), other.read()
        assert nwbfile.identifier != before.identifier
        units, old = nwbfile.units.to_dataframe(), before.units.to_dataframe()
        for k in range(4):
            assert np.array_equal(units.spike_times[k], new.spikes["times"][new.spikes["clusters"] == k])
            raw = units.electrodes[k].raw_column.to_numpy()
            assert raw[0] == new.clusters["raw_column"][k] and len(raw) == len(old.electrodes[0])
            assert units.electrode_group[k].name == f"probe00_shank{new.clusters['shank'][k]}"
            assert np.array_equal(units.obs_intervals[k], old.obs_intervals[0])
        assert units.manual_label.tolist() == new.clusters["manual_label"].tolist()
        assert units.made_from.tolist() == ["", "2+7", "11", "11"]
        assert units.uuid.tolist() == pd.read_csv(revision / "clusters.uuids.csv")["uuids"].tolist()
        assert nwbfile.session_description == f"{before.session_description} The units were curated by hand."
        assert units.sorter_unit_id.tolist() == [7, 12, 13, 14]
        assert units.bombcell_label.tolist() == ["non_soma", *["unjudged"] * 3]
        assert np.array_equal(
            np.stack(units.waveform_mean), np.load(revision / "clusters.waveforms.npy"), equal_nan=True
        )
        assert np.array_equal(units.waveform_sd[0], old.waveform_sd[UNITS.index((2, 7))], equal_nan=True)
        for column, name in OF_ALF.items():
            values = np.load(revision / f"{name}.npy")
            assert units[column].to_numpy().tobytes() == values.tobytes() and not np.isnan(values).any()


@pytest.mark.filterwarnings("ignore")
def test_one_loads_the_revision_and_on_request_the_automatic(curated):
    session, _, _ = curated
    root = session.parents[2]
    make_parquet_db(root, hash_files=False)
    one = One(cache_dir=root, mode="local")
    new, old = load_neural_data(session, "probe00"), automatic(session)
    for revision, expected in ((None, new), ("0", old)):
        spikes = one.load_object(session, "spikes", collection="alf/probe00", revision=revision)
        clusters = one.load_object(session, "clusters", collection="alf/probe00", revision=revision)
        assert np.array_equal(spikes["times"], expected.spikes["times"])
        assert len(clusters["channels"]) == len(clusters["metrics"]) == len(expected.clusters["cluster_id"])
        typed = one.load_object(session, "clusters", collection="alf/probe00/tables", revision=revision)
        names = ["sorter_unit_id", "snr", "bombcell_label", "label"]
        # ONE reads a CSV to the last digit but one.
        pd.testing.assert_frame_equal(typed["metrics"][names], clusters["metrics"][names], rtol=1e-14)
        assert typed["metrics"]["sorter_unit_id"].dtype == np.int64
    assert typed["metrics"].columns.tolist() == clusters["metrics"].columns.tolist()


def test_applied_twice_is_once_and_another_curation_is_another_revision(curated, tmp_path):
    session = tmp_path / "mouse01" / "2026-03-01" / "001"
    shutil.copytree(curated[0], session)
    assert apply_curation(session) == [session / "alf" / "probe00" / "#2026-03-02#"]
    decide(session, 2, labels={0: "noise"})
    (newest,) = apply_curation(session)
    assert newest.name > "#2026-03-02#"
    # The same decisions make the same bytes, whatever the revision's name.
    (again,) = apply_curation(session, "probe00", "z")
    assert [(p.name, p.read_bytes()) for p in sorted(newest.iterdir())] == [
        (p.name, p.read_bytes()) for p in sorted(again.iterdir())
    ]
    with pytest.raises(DataError, match="expected a new name"):
        apply_curation(session, "probe00", "z")


def test_a_revision_of_old_labels_or_times_is_not_taken_for_a_new_one(curated, tmp_path, caplog):
    """What the pipeline writes anew after a curation was applied: a label, then the times on another clock."""
    made, session = built(), tmp_path / "mouse01" / "2026-03-01" / "001"
    shutil.copytree(curated[0], session)
    units = [replace(unit, labels=tmp_path / unit.labels.name) for unit in made.units]
    for old, new in zip(made.units, units, strict=True):
        shutil.copytree(old.labels, new.labels)
    path = units[0].labels / "labels.csv"
    path.write_text(path.read_text().replace("non_soma", "good"))
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, units), session / "alf" / "probe00")

    stale = load_neural_data(session, "probe00")
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "clusters.bombcellLabels.npy" in said and "powerpixels apply-curation" in said
    (newest,) = apply_curation(session)
    assert apply_curation(session) == [newest]
    caplog.clear()
    fresh = load_neural_data(session, "probe00")
    assert fresh.revision > stale.revision and not caplog.records
    assert (stale.clusters["bombcell_label"][0], fresh.clusters["bombcell_label"][0]) == (3, 1)

    clock = CLOCK.model_copy(
        update={"reference": "imec1.ap", "offset_s": 2.0, "knots": [(t, s + 1) for t, s in CLOCK.knots]}
    )
    alf.write_alf(gather(made.document, made.preprocess, clock, units), session / "alf" / "probe00")
    with pytest.raises(DataError, match=r"spikes.times.npy.* apply the curation again"):
        load_neural_data(session, "probe00")
    (again,) = apply_curation(session)
    old, new = fresh, load_neural_data(session, "probe00")
    assert f"#{new.revision}#" == again.name > newest.name
    assert new.spikes["times"] == pytest.approx(old.spikes["times"] + 1, abs=1e-6)
    assert (old.clock.name, new.clock.name) == ("nidq", "imec1.ap")
    stated = json.loads((newest / "_powerpixels_clock.fit.json").read_text())
    assert stated["files"]["spikes.times.npy"]["clock"] == "nidq"
    with NWBHDF5IO(str(next((session / "nwb" / again.name).glob("*.nwb"))), "r") as io:
        times = np.concatenate(list(io.read().units.to_dataframe().spike_times))
    assert np.array_equal(np.sort(times), np.sort(new.spikes["times"]))
    # What the revision lacks is written, too.
    shutil.rmtree(session / "nwb" / again.name)
    assert apply_curation(session) != [again]


def test_a_new_sorting_is_not_taken_for_the_curated_one(curated, tmp_path):
    session = tmp_path / "001"
    shutil.copytree(curated[0], session)
    path = session / "alf" / "probe00" / "spikes.clusters.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(DataError, match=r"one of an earlier export \(spikes.clusters.npy differ\)"):
        load_neural_data(session, "probe00")
    assert load_neural_data(session, "probe00", revision="").revision == ""
    with pytest.raises(DataError, match="expected the spikes of the analyzer's unit"):
        apply_curation(session, "probe00")
    file = session / "curation" / "probe00" / "shank0.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "sorting_sha256": "0"}))
    with pytest.raises(DataError, match="found one of another sorting"):
        apply_curation(session, "probe00")
    file.write_text("{")
    with pytest.raises(DataError, match="expected a JSON file"):
        apply_curation(session, "probe00")
    file.write_text(json.dumps({**content, "removed": [2]}))
    with pytest.raises(DataError, match=r"removed, merged or split once|curation in SpikeInterface's format"):
        apply_curation(session, "probe00")


def test_sessions_sorted_as_one_get_each_their_part(tmp_path):
    made, half = built(), N_SAMPLES // 2
    names = ("2026-03-01_001", "2026-03-02")
    preprocess = made.preprocess.model_copy(
        update={
            "parts": [
                Part(subject="mouse01", session=n, start=s, n_samples=half)
                for n, s in zip(names, (0, half), strict=True)
            ]
        }
    )
    group = tmp_path / "mouse01" / "concatenated_days"
    for name in names:
        export = gather(session_of(made, name, (half, 0)), preprocess, CLOCK, made.units)
        alf.write_alf(export, tmp_path / "mouse01" / name.replace("_", "/") / "alf" / "probe00")
    for unit, shank in zip(made.units, (2, 0), strict=False):
        shutil.copytree(
            unit.analysis / "analyzer.zarr", group / "analyzers" / "probe00" / f"shank{shank}.zarr"
        )
    (group / "qc" / "probe00").mkdir(parents=True)
    preprocess.save(group / "qc" / "probe00" / "preprocess.json")
    train = made.sortings[0].get_unit_spike_train(11)
    apart = np.arange(5, len(train), 2)
    decide(group, 0, splits={11: apart})
    assert len(apply_curation(group)) == 2
    for name, start in zip(names, (0, half), strict=True):
        session = tmp_path / "mouse01" / name.replace("_", "/")
        spikes, clusters, _ = load_neural_data(session, "probe00")
        k = int(np.flatnonzero(clusters["sorter_unit_id"] == 12)[0])
        expected = train[apart] - start
        expected = expected[(expected >= 0) & (expected < half)]
        assert len(expected) and np.array_equal(spikes["samples"][spikes["clusters"] == k], expected)
        assert clusters["session_spikes"].tolist() == np.bincount(spikes["clusters"]).tolist()


def test_what_is_wrong_is_said(curated, tmp_path, capsys, monkeypatch):
    session = publish(tmp_path)
    with pytest.raises(DataError, match="expected the curation of shank0 or shank2, found none"):
        apply_curation(session, "probe00")
    with pytest.raises(DataError, match="expected analyzers of probe07, found those of probe00"):
        manual_curation(session, "probe07")
    with pytest.raises(DataError, match="sorting units shank0, shank2, none was named"):
        manual_curation(session)
    with monkeypatch.context() as patched, pytest.raises(DataError, match="for the desktop .* PyQt5"):
        patched.setattr(curate, "find_spec", lambda name: None if "Q" in name or "Side" in name else name)
        manual_curation(session, unit="shank0", mode="desktop")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["apply-curation", str(tmp_path)])
    assert exit_.value.code == 65 and capsys.readouterr().err.startswith("ERROR: ")


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory):
    """A probe's raw data, as JoinedProbe, its folder, and that of PREPROCESS; 60 thousand samples, 42 columns."""
    folder = tmp_path_factory.mktemp("traces")
    counts, channels = test_preprocess._signal(3), test_preprocess._channels()
    joined = test_preprocess._document(folder / "raw", counts, channels, 42)
    preprocess_probe(joined, folder / "raw", folder / "out", Settings(engine="spikeinterface"), jobs=1)
    return joined, folder / "raw", folder / "out"


@pytest.mark.parametrize("method", ["mtscomp", "zarr"])
def test_traces_are_those_that_were_sorted(preprocessed, tmp_path, method):
    """From the published copies, found by themselves; with the motion taken back where the sorter had it so."""
    joined, raw, out = preprocessed
    session = tmp_path / "results"
    shutil.copytree(out, session / "qc" / "probe00", ignore=shutil.ignore_patterns("shank*"))
    assert curate._traces(session, None, "probe00", "shank1") is None, "no copies yet"
    document = joined.recordings[0]
    stream = StreamDocument(session=document.session, stream=document.probe.ap)
    (places,) = locate([document.probe.ap], raw)
    compress_stream(stream, places, session / "raw_ephys_data", method, jobs=2, folder="probe00")

    def compared(folder: Path, counts: int = 1) -> None:
        sorted_ = load_preprocessed(folder)
        shown = curate._traces(session, None, "probe00", "shank1")
        # About a border of chunks.
        part = {"start_frame": 25_000, "end_frame": 35_000}
        difference = np.abs(shown.get_traces(**part).astype(int) - sorted_.get_traces(**part))
        assert difference.max() <= counts and np.mean(difference > 0) < 0.03
        # The GUI hands them to the analyzer, which checks channels, rate, length and type.
        spikes = si.NumpySorting.from_unit_dict(
            {3: np.arange(1000, 50_000, 1000)}, sorted_.sampling_frequency
        )
        analyzer = si.create_sorting_analyzer(spikes, sorted_, sparse=False)
        analyzer._recording = None
        analyzer.set_temporary_recording(shown)

    compared(out / "shank1")
    if method == "zarr":
        return
    drift = session / "qc" / "probe00" / "drift" / "shank1"
    taken_back = Motion([np.array([[0.0], [12.0]])], [np.array([0.5, 1.5])], np.array([775.0]))
    drift.mkdir(parents=True)
    np.save(drift / "displacement_um.npy", taken_back.displacement[0])
    np.save(drift / "temporal_bins_s.npy", taken_back.temporal_bins_s[0])
    np.save(drift / "spatial_bins_um.npy", taken_back.spatial_bins_um)
    said = {"probe": "probe00", "unit": "shank1", "status": "estimated", "message": "", "policy_text": ""}
    said |= {"method": "", "version": "", "parameters": {}, "seed": 0, "n_channels": 20, "duration_s": 2.0}
    said |= {"read_s": 2.0, "n_peaks": 9, "bin_s": 1.0, "n_temporal_bins": 2, "n_spatial_bins": 1}
    said |= {"range_um": 12.0, "alignment": None}
    MotionDocument(**said, policy="auto", corrected=False).save(drift / "motion.json")
    compared(out / "shank1")
    unit = PreprocessedUnit.load(out / "shank1" / "recording.json")
    everywhere = list(range(len(unit.channels)))
    motion._write_corrected(out / "shank1", unit, [(everywhere, taken_back)], tmp_path / "corrected", jobs=1)
    before, after = (
        load_preprocessed(folder).get_traces() for folder in (out / "shank1", tmp_path / "corrected")
    )
    assert np.mean(before != after) > 0.3
    MotionDocument(**said, policy="dredge", corrected=True).save(drift / "motion.json")
    compared(tmp_path / "corrected", 2)


def test_a_probe_whose_units_are_all_removed(tmp_path):
    session = publish(tmp_path)
    decide(session, 0, removed=UNIT_IDS[0])
    decide(session, 2, removed=UNIT_IDS[2])
    apply_curation(session)
    spikes, clusters, channels = load_neural_data(session, "probe00")
    assert len(spikes["times"]) == len(clusters["cluster_id"]) == 0 < len(channels["raw_ind"])
    assert pd.read_csv(session / "alf/probe00/clusters.uuids.csv").shape[0] == 5
    for kind, io_class in (("nwb", NWBHDF5IO), ("nwb.zarr", NWBZarrIO)):
        (path,) = session.glob(f"nwb/#*#/*.{kind}")
        with io_class(str(path), "r") as io:
            assert len(io.read().units) == 0


@pytest.mark.timeout(600)
def test_a_browser_shows_the_units_and_saves(curated, tmp_path):
    """The command as a user runs it, looked at by a browser that reaches nothing but this machine."""
    if browser() is None:
        pytest.skip("no browser here (Chromium)")
    pytest.importorskip("spikeinterface_gui", reason="the GUI is not installed")
    session = tmp_path / "a session"
    shutil.copytree(curated[0], session)
    analyzer = si.load_sorting_analyzer(session / "analyzers" / "probe00" / "shank0.zarr", read_only=False)
    # In numpy; the pipeline's own is there already.
    analyzer.compute({"template_similarity": {"method": "cosine"}})
    file = session / "curation" / "probe00" / "shank0.json"
    content = json.loads(file.read_text())
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", "from powerpixels.cli import main; main()", "curate", str(session), "--probe", "probe00",
         "--shank", "0", "--web", "--port", str(port), "--no-browser"],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/", timeout=60).read()
                break
            except OSError:
                assert server.poll() is None, "the GUI's server ended"
                time.sleep(0.5)
        with opened(f"http://localhost:{port}/", tmp_path / "profile") as page:
            text = page.wait_for("bombcell", "kilosort", "Save curation", "2 - 7").splitlines()
            for shown in ("bombcell", "kilosort", "2 - 7", "Save curation"):
                assert shown in text
            file.unlink()
            assert page.click("Save curation")
            end = time.monotonic() + 60
            while not file.is_file() and time.monotonic() < end:
                time.sleep(0.2)
            assert json.loads(file.read_text()) == content
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.timeout(600)
def test_the_desktop_window_shows_the_units_and_saves(curated, tmp_path):
    """Qt draws into memory. Without a button's press nothing is kept; "Save curation" keeps what was there."""
    pytest.importorskip("spikeinterface_gui", reason="the GUI is not installed")
    pytest.importorskip("PyQt5", reason="no Qt")
    session = tmp_path / "a session"
    shutil.copytree(curated[0], session)
    analyzer = si.load_sorting_analyzer(session / "analyzers" / "probe00" / "shank0.zarr", read_only=False)
    analyzer.compute({"template_similarity": {"method": "cosine"}})
    file = session / "curation" / "probe00" / "shank0.json"
    content = json.loads(file.read_text())
    done = subprocess.run(
        [sys.executable, "-c", PRESS_SAVE, "curate", str(session), "--probe", "probe00", "--shank", "0", "--desktop"],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert {"bombcell", "kilosort", "consensus"} <= set(shown["columns"])
    assert shown["title"] == "SpikeInterface GUI" and not shown["before"]
    assert json.loads(file.read_text()) == content


# Runs the command; once its window is there presses "Save curation" in it and closes it.
PRESS_SAVE = """
import json, sys
from pathlib import Path
from PyQt5 import QtCore, QtWidgets
from powerpixels.cli import main

file = Path(sys.argv[2]) / "curation" / "probe00" / "shank0.json"
shown = {}

def press():
    window = next((w for w in app.topLevelWidgets() if isinstance(w, QtWidgets.QMainWindow) and w.isVisible()), None)
    if window is None:
        return
    timer.stop()
    tables = window.findChildren(QtWidgets.QTableWidget)
    shown["columns"] = [t.horizontalHeaderItem(k).text() for t in tables for k in range(t.columnCount())
                        if t.horizontalHeaderItem(k) is not None]
    shown["title"] = window.windowTitle()
    file.unlink()
    shown["before"] = file.exists()
    button = next(b for b in window.findChildren(QtWidgets.QAbstractButton) if b.text() == "Save curation")
    button.click()
    window.close()

import pyqtgraph
app = pyqtgraph.mkQApp()
timer = QtCore.QTimer()
timer.timeout.connect(press)
timer.start(200)
main()
print(json.dumps(shown))
"""
