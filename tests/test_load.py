"""load_neural_data: on what this pipeline publishes, and on the original Power Pixels' folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import nwb_parts
import pandas as pd
import pytest
import spikeinterface as si
from exported_probe import CLOCK, EXTENSIONS, LABELS, RATE, UNIT_IDS, built
from powerpixels import alf, load_neural_data, nwb
from powerpixels.export import UnitFolders, gather
from powerpixels.stage import DataError
from pynwb import NWBHDF5IO

UNITS = [(shank, unit_id) for shank in (0, 2) for unit_id in UNIT_IDS[shank]]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load neural data") / "001"
    made = built()
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, made.units), folder / "alf" / "probe00")
    return folder


def lengths(table) -> set[int]:
    return {len(values) for values in table.values()}


def original(folder, clusters=(0, 1, 1, 3, 0, 3), legacy=False):
    """A result folder as the original Power Pixels 0.2 writes it: units 0 to 3, of which 2 has no spike."""
    folder.mkdir(parents=True)
    names = (
        {"unitrefine": "MLLabel", "ibl": "IBLLabel", "kilosort": "KSLabel"}
        if legacy
        else {"unitrefine": "unitrefineLabels", "ibl": "iblLabels", "kilosort": "kilosortLabels"}
    )
    arrays = {
        "spikes.times": np.arange(6) / 2,
        "spikes.samples": (np.arange(6) * 15000).astype(np.uint64),
        "spikes.clusters": np.array(clusters, dtype=np.int32),
        "spikes.amps": np.linspace(-1e-5, 1e-4, 6).astype(np.float32),
        "spikes.depths": np.linspace(0, 60, 6).astype(np.float32),
        "clusters.channels": np.array([0, 2, 3, 4], dtype=np.int32),
        "clusters.waveforms": np.zeros((4, 90, 5)),
        "clusters.peakToTrough": np.full(4, 4e-4),
        "clusters.bombcellLabels": np.array([1, 0, 2, 1]),
        f"clusters.{names['unitrefine']}": np.array([1, 2, 0, 1]),
        f"clusters.{names['ibl']}": np.array([1, 2 / 3, np.nan, 1 / 3]),
        f"clusters.{names['kilosort']}": np.array([1, 1, 0, 0]),
        "clusters.manualLabels": np.array(["good", "no label", "no label", "mua"], dtype="<U8"),
        "channels.localCoordinates": np.array([[0.0, 0], [32, 0], [0, 20], [250, 0], [250, 20]]),
        "channels.rawInd": np.arange(5, dtype=np.int32),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    table = pd.DataFrame({"Bombcell": [1, 0, 2, 1], "IBL": [1, 0.67, 0, 0.33], "snr": [5.0, 4, 3, 2]})
    table.to_csv(folder / "clusters.metrics.csv")
    return folder


def test_all_units(session):
    data = load_neural_data(session, "probe00")
    spikes, clusters, channels = data
    published = session / "alf" / "probe00"
    for name in ("times", "clusters", "amps", "depths", "samples"):
        assert np.array_equal(spikes[name], np.load(published / f"spikes.{name}.npy"))
    assert len(lengths(spikes)) == len(lengths(clusters)) == len(lengths(channels)) == 1
    # Nothing was changed by hand, and nothing muted.
    assert np.array_equal(spikes["templates"], spikes["clusters"]) and not spikes["muted"].any()
    assert list(zip(clusters["shank"].tolist(), clusters["sorter_unit_id"].tolist(), strict=True)) == UNITS
    assert clusters["bombcell_label"].tolist() == [1, 0, 2, -1, 3]
    assert clusters["kilosort_label"].tolist() == [1, 0, 1, -1, 1]
    assert set(channels["shank"]) == {0, 1, 2}
    # The unit's main channel by its row is that of the table.
    assert np.array_equal(channels["raw_ind"][clusters["channels"]], clusters["raw_column"])
    assert (data.clock.name, data.clock.bound_us) == ("nidq", CLOCK.bound_us)
    assert data.revision == ""


@pytest.mark.parametrize("tool", ["bombcell", "kilosort", "unitrefine", "ibl", "consensus"])
def test_kept_units_keep_their_ids_and_all_their_spikes(session, tool):
    everything, kept = load_neural_data(session, "probe00"), load_neural_data(session, "probe00", tool)
    good = np.flatnonzero(everything.clusters[f"{tool}_label"] == 1)
    assert 0 < len(good) < 5
    assert kept.clusters["cluster_id"].tolist() == good.tolist()
    assert (lengths(kept.clusters), len(lengths(kept.spikes))) == ({len(good)}, 1)
    mine = np.isin(everything.spikes["clusters"], good)
    assert np.array_equal(kept.spikes["times"], everything.spikes["times"][mine])
    assert set(kept.spikes["clusters"]) == set(good)
    assert np.array_equal(kept.clusters["depths"], everything.clusters["depths"][good])
    if tool in ("bombcell", "kilosort"):
        which = ("kilosort", "bombcell").index(tool)
        assert good.tolist() == [k for k, unit in enumerate(UNITS) if LABELS[unit][which] == "good"]


def test_data_frames(session):
    data = load_neural_data(session, "probe00", "bombcell", as_dataframe=True)
    assert all(isinstance(table, pd.DataFrame) for table in data)
    assert data.spikes.merge(data.clusters, left_on="clusters", right_on="cluster_id").shape[0] == len(
        data.spikes
    )


def test_the_sidecar_names_the_clock_of_the_spikes(session, tmp_path):
    folder = tmp_path / "001" / "alf" / "probe00"
    shutil.copytree(session / "alf" / "probe00", folder)
    sidecar = folder / "_powerpixels_clock.fit.json"
    stated = json.loads(sidecar.read_text())
    stated |= {"files": {"spikes.times.npy": {"clock": "imec1.ap", "unit": "s", "bound_us": 41.5}}}
    sidecar.write_text(json.dumps(stated))
    clock = load_neural_data(tmp_path / "001", "probe00").clock
    assert (clock.name, clock.bound_us) == ("imec1.ap", 41.5)
    sidecar.unlink()
    assert load_neural_data(tmp_path / "001", "probe00").clock.name == "unknown"


@pytest.mark.parametrize("legacy", [False, True])
def test_the_originals_folder(tmp_path, legacy):
    original(tmp_path / "20260301" / "probe00_id", legacy=legacy)
    data = load_neural_data(tmp_path / "20260301", "probe00_id")
    assert data.clock.name == "unknown" and data.clock.bound_us is None
    assert data.clusters["unitrefine_label"].tolist() == [1, 2, 0, 1]
    assert data.clusters["snr"].tolist() == [5, 4, 3, 2]
    assert data.clusters["ibl_label"][[0, 1, 3]].tolist() == [1, 2 / 3, 1 / 3]
    kept = load_neural_data(tmp_path / "20260301", "probe00_id", "manual")
    assert kept.spikes["times"].tolist() == [0, 2] and kept.clusters["cluster_id"].tolist() == [0]
    for tool, ids in (("ibl", [0]), ("unitrefine", [0, 3]), ("kilosort", [0, 1]), ("bombcell", [0, 3])):
        kept = load_neural_data(tmp_path / "20260301", "probe00_id", tool)
        assert kept.clusters["cluster_id"].tolist() == ids
        assert (len(lengths(kept.spikes)), lengths(kept.clusters)) == (1, {len(ids)})
        assert kept.spikes["clusters"].tolist() == [k for k in (0, 1, 1, 3, 0, 3) if k in ids]


def location(k: int, x: float, y: float, region: str, **more) -> dict:
    return {"x": 10.0 * float(k), "y": 0.0, "z": -5.0, "axial": float(y), "lateral": float(x), "brain_region_id": int(900 + k),
            "brain_region": region, **more}  # fmt: skip


@pytest.mark.parametrize("numbered", [False, True], ids=["by position", "by row, too"])
def test_histology_of_several_shanks(session, tmp_path, numbered):
    """The tool counts the channels of a shank anew, from below; rows here are in the raw file's order."""
    _, _, channels = load_neural_data(session, "probe00")
    expected = {}
    for shank in (0, 2):
        rows = np.flatnonzero(channels["shank"] == shank)
        rows = rows[np.argsort(channels["axial_um"][rows], kind="stable")]
        entries = {}
        for k, row in enumerate(rows[1:]):
            expected[row] = f"R{shank}-{k}"
            entries[f"channel_{k}"] = location(
                row,
                channels["lateral_um"][row],
                channels["axial_um"][row],
                expected[row],
                **({"original_channel_idx": int(row)} if numbered else {}),
            )
        entries["origin"] = {"bregma": [5739, 5400, 332]}
        (tmp_path / f"channel_locations_shank{shank + 1}.json").write_text(json.dumps(entries))
    _, clusters, found = load_neural_data(session, "probe00", "kilosort", histology=tmp_path)
    n = len(found["raw_ind"])
    assert found["acronym"].tolist() == [expected.get(row, "") for row in range(n)]
    assert found["atlas_id"].tolist() == [900 + row if row in expected else -1 for row in range(n)]
    assert np.isnan(found["x"]).sum() == 12 + 2 and found["x"][max(expected)] == 10 * max(expected)
    assert clusters["acronym"].tolist() == [expected.get(row, "") for row in clusters["channels"]]
    assert lengths(clusters) == {3}


def test_histology_beside_the_originals_results(tmp_path):
    folder = original(tmp_path / "probe00")
    positions = np.load(folder / "channels.localCoordinates.npy")
    entries = {f"channel_{k}": location(k, x, y, f"R{k}") for k, (x, y) in enumerate(positions)}
    path = folder / "channel_locations.json"
    path.write_text(json.dumps(entries))
    _, clusters, channels = load_neural_data(tmp_path, "probe00", histology=True)
    assert clusters["acronym"].tolist() == ["R0", "R2", "R3", "R4"]
    assert channels["atlas_id"].tolist() == [900, 901, 902, 903, 904]
    entries["channel_1"]["axial"] += 40
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match="expected the positions of this probe's channels"):
        load_neural_data(tmp_path, "probe00", histology=True)
    path.write_text('{"channel_0": {"x": 1}')
    with pytest.raises(DataError, match="expected an alignment's channel locations"):
        load_neural_data(tmp_path, "probe00", histology=True)
    path.unlink()
    with pytest.raises(DataError, match=r"expected channel_locations\.json"):
        load_neural_data(tmp_path, "probe00", histology=True)


def test_what_is_wrong_is_said(session, tmp_path):
    with pytest.raises(DataError, match="found the probes probe00; name one"):
        load_neural_data(session, "probe01")
    with pytest.raises(DataError, match="found nothing"):
        load_neural_data(tmp_path / "gone", "probe00")
    with pytest.raises(ValueError, match="keep_units must be one of all, bombcell, .*, not 'best'"):
        load_neural_data(session, "probe00", "best")
    with pytest.raises(DataError, match=r"labels of bombcell, .*kilosort.*; curate and apply first"):
        load_neural_data(session, "probe00", "manual")
    folder = original(tmp_path / "a" / "probe00")
    (folder / "spikes.amps.npy").write_bytes((folder / "spikes.amps.npy").read_bytes()[:100])
    with pytest.raises(DataError, match=r"spikes\.amps\.npy: expected a numpy array"):
        load_neural_data(tmp_path / "a", "probe00")
    np.save(folder / "spikes.amps.npy", np.zeros(5))
    with pytest.raises(DataError, match="all arrays of spikes to be of one length"):
        load_neural_data(tmp_path / "a", "probe00")
    (folder / "spikes.clusters.npy").unlink()
    with pytest.raises(DataError, match=r"expected spikes\.clusters\.npy"):
        load_neural_data(tmp_path / "a", "probe00")
    original(tmp_path / "b" / "probe00", clusters=(0, 1, 2, 3, 4, 0))
    with pytest.raises(DataError, match="clusters 0 to 3, found 0 to 4"):
        load_neural_data(tmp_path / "b", "probe00")


def test_a_unit_of_one_spike(tmp_path):
    """From SORT's files through ALF and NWB to the loader: its waveform is that spike, without a spread."""
    made = built()
    whole = made.units[0]
    unit = UnitFolders(tmp_path / "sorting", tmp_path / "analysis", whole.labels, whole.recording)
    shutil.copytree(whole.sorting, unit.sorting)
    shutil.copytree(whole.analysis, unit.analysis, ignore=shutil.ignore_patterns("analyzer.zarr"))
    ids, samples = (np.load(unit.sorting / f"spike_{name}.npy") for name in ("unit_ids", "samples"))
    first = np.flatnonzero(ids == 0)
    keep = (ids == 7) | (np.arange(len(ids)) == first[4])
    np.save(unit.sorting / "spike_unit_ids.npy", ids[keep])
    np.save(unit.sorting / "spike_samples.npy", samples[keep])
    sample = samples[first[4]]
    analyzer = si.create_sorting_analyzer(
        si.NumpySorting.from_samples_and_labels([samples[keep]], [ids[keep]], RATE),
        made.recordings[2],
        format="zarr",
        folder=unit.analysis / "analyzer.zarr",
        return_in_uV=True,
    )
    analyzer.compute(EXTENSIONS)
    export = gather(made.document, made.preprocess, CLOCK, [unit, *made.units[1:]])
    alf.write_alf(export, tmp_path / "001" / "alf" / "probe00")
    path = nwb.write_nwb(export, nwb_parts.metadata(made.document.session, tmp_path), tmp_path, "hdf5")
    spikes, clusters, channels = load_neural_data(tmp_path / "001", "probe00", "kilosort")
    row = UNITS.index((2, 0))
    assert row not in clusters["cluster_id"] and row not in spikes["clusters"]
    spikes, clusters, channels = load_neural_data(tmp_path / "001", "probe00")
    (k,) = np.flatnonzero(spikes["clusters"] == row)
    expected = CLOCK.offset_s + CLOCK.slope * sample / RATE
    assert spikes["samples"][k] == sample and spikes["times"][k] == pytest.approx(expected, abs=1e-6)
    main = made.recordings[2].get_property("raw_column").tolist().index(clusters["raw_column"][row])
    trace = made.recordings[2].get_traces(start_frame=sample - 30, end_frame=sample + 60)[:, main] * 1e-6
    waveform = np.load(tmp_path / "001/alf/probe00/clusters.waveforms.npy")[row, :, 0]
    assert waveform == pytest.approx(trace, abs=1e-9)
    with NWBHDF5IO(str(path), "r") as io:
        units = io.read().units.to_dataframe()
    assert units.spike_times[row].tolist() == [spikes["times"][k]]
    assert np.nanmax(units.waveform_sd[row]) == 0


@pytest.mark.parametrize("tool", ["unitrefine", "kilosort"])
def test_a_tool_that_judged_no_unit_is_told_apart_from_one_that_found_none_good(session, tmp_path, tool):
    """As unitrefine without models, and kilosort with another sorter."""
    folder = tmp_path / "001" / "alf" / "probe00"
    shutil.copytree(session / "alf" / "probe00", folder)
    labels = np.load(folder / f"clusters.{tool}Labels.npy")
    np.save(folder / f"clusters.{tool}Labels.npy", np.full_like(labels, -1))
    others = [name for name in ("bombcell", "unitrefine", "ibl", "kilosort", "consensus") if name != tool]
    with pytest.raises(DataError, match=f"found 5 units and none judged; keep by {' or '.join(others)}"):
        load_neural_data(tmp_path / "001", "probe00", tool)
    np.save(folder / f"clusters.{tool}Labels.npy", np.where(np.arange(5) == 2, 0, -1).astype(labels.dtype))
    spikes, clusters, _ = load_neural_data(tmp_path / "001", "probe00", tool)
    assert (lengths(spikes), lengths(clusters)) == ({0}, {0})


def test_a_probe_without_units(tmp_path):
    made = built(())
    alf.write_alf(gather(made.document, made.preprocess, CLOCK, made.units), tmp_path / "alf" / "probe00")
    spikes, clusters, channels = load_neural_data(tmp_path, "probe00", "bombcell")
    assert (lengths(spikes), lengths(clusters), lengths(channels)) == ({0}, {0}, {36})


def test_loading_needs_no_heavy_package(session):
    """A laptop with numpy and pandas must do."""
    code = (
        "import sys; from powerpixels import load_neural_data; load_neural_data(sys.argv[1], 'probe00');"
        "print([m for m in ('spikeinterface', 'torch', 'pynwb', 'zarr', 'scipy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, session], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
