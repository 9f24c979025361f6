"""From IBL's alignment tool into ALF, and out again through ONE, brainbox and the loader."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from alignment_tool import AlignmentTool
from exported_probe import CLOCK, built
from iblatlas.regions import BrainRegions
from one.alf.io import load_object
from one.api import One
from powerpixels import alf, load_neural_data
from powerpixels.brain import load_channel_locations, region_acronyms
from powerpixels.export import UnitMotion, gather, summarise
from powerpixels.histology import convert_session
from powerpixels.stage import DataError

REGIONS = {382: "CA1", 463: "CA3", 632: "DG-sg"}


def export(locations=()):
    made = built()
    return gather(made.document, made.preprocess, CLOCK, made.units, locations)


@pytest.fixture(scope="module")
def regions():
    return BrainRegions()


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A session whose probe was exported, aligned on its first and third shank, and exported again."""
    session = tmp_path_factory.mktemp("one") / "mouse01" / "2026-03-01" / "001"
    folder = session / "alf" / "probe00"
    alf.write_alf(export(), folder)
    for band in ("AP", "LF"):
        np.save(folder / f"_iblqc_ephysTimeRms{band}.rms.npy", np.full((4, 36), 1e-5, np.float32))
        np.save(folder / f"_iblqc_ephysTimeRms{band}.timestamps.npy", np.arange(4.0))
    np.save(folder / "_iblqc_ephysSpectralDensityLF.power.npy", np.full((5, 36), 1e-12))
    np.save(folder / "_iblqc_ephysSpectralDensityLF.freqs.npy", np.arange(5.0))
    tool = AlignmentTool(folder)
    paths, truth = [], {}
    for shank in (0, 2):
        rows = tool.rows(shank)
        xyz = np.column_stack([np.full(12, shank * 250e-6), rows * 1e-6, -tool.positions[rows, 1] * 1e-6])
        ids = np.array(list(REGIONS))[np.arange(12) // 4]
        paths.append(tool.save(shank, ids, [REGIONS[i] for i in ids], xyz))
        truth |= {int(row): (*at * 1e6, i, REGIONS[i]) for row, at, i in zip(rows, xyz, ids, strict=True)}
    motions = {
        f"shank{k}": UnitMotion(np.arange(4.0) + k, np.array([200.0]), np.ones((4, 1)) * k) for k in (0, 2)
    }
    alf.write_alf(replace(export(paths), motions=motions), folder)
    as_one = replace(export(), units=["shank0"], motions={"shank0": motions["shank0"]})
    alf.write_alf(as_one, session / "alf" / "probe01")
    return SimpleNamespace(session=session, folder=folder, paths=paths, truth=truth, motions=motions)


def test_regions_are_iblatlas_own(regions):
    """Of both hemispheres: the left one's ids are negative in iblatlas, and the names the same."""
    ours = region_acronyms()
    assert len(ours) == 1328
    known = {int(i): name for i, name in zip(regions.id, regions.acronym, strict=True)}
    assert {abs(i) for i in known} == ours.keys()
    assert all(ours[abs(i)] == name for i, name in known.items())


def test_the_alignment_tool_finds_all_that_it_needs(aligned):
    tool = AlignmentTool(aligned.folder)
    data = tool.data()
    # A shank that is all out of the brain counts: the tool's numbers are those of the recorded shanks.
    assert tool.n_shanks == 3
    channels, clusters, spikes = data["channels"], data["clusters"], data["spikes"]
    for shank in range(3):
        assert set(channels["shanks"][tool.rows(shank)]) == {shank} and len(tool.rows(shank)) == 12
    raw = channels["rawInd"][clusters["channels"][spikes["clusters"]]]
    for name in ("ephysTimeRmsAP", "ephysTimeRmsLF"):
        rms = tool.seen(name, "rms").mean(axis=0) * 1e6  # µV
        assert 1 < rms.min() <= rms.max() < 1000
        assert len(data[name]["timestamps"]) == len(data[name]["rms"])
    power = data["ephysSpectralDensityLF"]["power"]
    assert power.shape == (len(data["ephysSpectralDensityLF"]["freqs"]), 36)
    assert np.isin(raw, channels["rawInd"][np.r_[tool.rows(0), tool.rows(2)]]).all()
    # It masks every array of spikes, and takes the units' number from metrics and their filter from its columns.
    assert {len(values) for values in spikes.values()} == {len(raw)}
    assert clusters["metrics"].shape[0] == 5
    assert (clusters["metrics"]["ks2_label"] == "good").sum() == 3 and (
        clusters["metrics"]["label"] == 1
    ).sum() == 2
    assert np.abs(clusters["peakToTrough"]).max() < 3  # ms
    assert 10 < np.median(spikes["amps"]) * 1e6 < 1000  # µV
    # The main channel's waveform is the first, in volts; its peak is the unit's amplitude.
    first = np.abs(clusters["waveforms"][:, :, 0]).max(axis=1)
    assert first == pytest.approx(clusters["amps"], rel=0.1)
    assert np.nanmax(np.abs(clusters["waveforms"]), axis=(1, 2)) == pytest.approx(first)


@pytest.mark.parametrize(
    "recorded, names",
    [
        ([0], ["xyz_picks.json"]),
        ([2], ["xyz_picks.json"]),
        ([0, 2, 3], ["xyz_picks_shank1.json", "xyz_picks_shank2.json", "xyz_picks_shank3.json"]),
    ],
)
def test_tracks_have_the_tools_numbers(tmp_path, caplog, recorded, names):
    """It counts the shanks that have channels; tracings name the probe's own, counted from 1."""
    rows = ["probe,shank,ap_um,dv_um,ml_um"]
    for shank in range(4):
        rows += [f"probe00,{shank + 1},{5000 + shank},{dv},{6000 + 250 * shank}" for dv in (500, 3500)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    folder = tmp_path / "probe00"
    with caplog.at_level(logging.WARNING):
        said = convert_session([tmp_path / "t.csv"], tmp_path, {"probe00": recorded})
    assert sorted(path.name for path in folder.iterdir()) == names and len(said) == len(names)
    assert caplog.text.count("it has no recorded channels") == 4 - len(recorded)
    positions = [[250.0 * shank + x, y] for shank in recorded for x in (0, 32) for y in (0, 15)]
    np.save(folder / "channels.localCoordinates.npy", positions)
    tool = AlignmentTool(folder)
    assert tool.n_shanks == len(recorded)
    for k, shank in enumerate(recorded):
        assert set(tool.positions[tool.rows(k), 0]) == {250.0 * shank, 250.0 * shank + 32}
        assert tool.picks(k)[:, 0] * 1e6 == pytest.approx([6000 + 250 * shank - 5739] * 2, abs=0.1)


def test_one_track_for_several_shanks_is_told(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("ap_um,dv_um,ml_um\n5000,500,6000\n5000,3500,6000\n")
    convert_session([tmp_path / "t.csv"], tmp_path / "out", {"probe00": [0, 1]})
    assert "the alignment tool wants one track for each, named probe00_shank1" in caplog.text


def test_alignments_are_left_to_export_and_must_name_their_probe(tmp_path):
    probes = {"probe00": [0], "probe01": [0]}
    (tmp_path / "probe01").mkdir()
    (tmp_path / "probe01" / "channel_locations.json").write_text("{}")
    (tmp_path / "probe01" / "prev_alignments.json").write_text("{}")
    assert convert_session([tmp_path], tmp_path / "out", probes) == []
    with pytest.raises(
        DataError, match=r"folder with the name of their probe \(ProbeA\), found them in 'probe01'"
    ):
        convert_session([tmp_path], tmp_path / "out", {"ProbeA": [0]})
    (tmp_path / "channel_locations.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"found them in '\.'; move them, as in .*/probe00/channel_locations.json"
    ):
        convert_session([tmp_path], tmp_path / "out", probes)
    assert not (tmp_path / "out").exists()


def test_channels_and_clusters_get_their_regions(aligned):
    channels, clusters = load_object(aligned.folder, "channels"), load_object(aligned.folder, "clusters")
    assert channels.check_dimensions == clusters.check_dimensions == 0
    for row in range(36):
        x, y, z, region_id, name = aligned.truth.get(row, (np.nan, np.nan, np.nan, 0, ""))
        assert channels["mlapdv"][row] == pytest.approx([x, y, z], nan_ok=True)
        assert channels["brainLocationIds_ccf_2017"][row] == region_id
        assert channels["brainLocationAcronyms_ccf_2017"][row] == name
    main = clusters["channels"]
    for name in ("mlapdv", "brainLocationIds_ccf_2017", "brainLocationAcronyms_ccf_2017"):
        assert np.array_equal(clusters[name], channels[name][main])
    assert set(clusters["brainLocationAcronyms_ccf_2017"]) <= set(REGIONS.values())


def test_the_loader_reads_what_was_published(aligned):
    kept = load_neural_data(aligned.session, "probe00", histology=aligned.folder)
    for path in aligned.paths:
        path.rename(path.with_suffix(".away"))
    try:
        published = load_neural_data(aligned.session, "probe00", histology=True)
    finally:
        for path in aligned.paths:
            path.with_suffix(".away").rename(path)
    for name in ("acronym", "atlas_id", "x", "y", "z"):
        assert np.array_equal(kept.channels[name], published.channels[name], equal_nan=name in "xyz")
    assert np.array_equal(kept.clusters["acronym"], published.clusters["acronym"])


def drawn(loader, spikes, channels, regions, drift=None) -> list:
    """The line of the motion in a loader's raster."""
    figure, axes = loader.raster(spikes, channels, br=regions, title="", drift=drift)
    plt.close(figure)
    return [line.get_xydata().tolist() for line in axes[0, 0].lines]


def drawn_of(motion: UnitMotion) -> list:
    return [np.column_stack([motion.times, motion.um]).tolist()]


def test_one_and_brainbox_open_the_session(aligned, regions):
    from brainbox.io.one import SpikeSortingLoader
    from one.alf.cache import make_parquet_db

    root = aligned.session.parents[2]
    make_parquet_db(root, hash_files=False)
    one = One(cache_dir=root, mode="local")
    (eid,) = one.search(subject="mouse01", date="2026-03-01")
    spikes = one.load_object(eid, "spikes", collection="alf/probe00")
    assert np.array_equal(spikes["times"], np.load(aligned.folder / "spikes.times.npy"))

    known = {"session_path": aligned.session, "one": one, "atlas": SimpleNamespace(regions=regions)}
    loader = SpikeSortingLoader(pname="probe00", **known)
    spikes, clusters, channels = loader.load_spike_sorting(spike_sorter="")
    assert loader.histology == "alf"
    assert np.array_equal(spikes["clusters"], np.load(aligned.folder / "spikes.clusters.npy"))
    located = np.array(sorted(aligned.truth))
    assert channels["acronym"][located].tolist() == [aligned.truth[row][4] for row in located]
    assert channels["x"][located] * 1e6 == pytest.approx([aligned.truth[row][0] for row in located])
    assert (
        channels["axial_um"].tolist()
        == np.load(aligned.folder / "channels.localCoordinates.npy")[:, 1].tolist()
    )
    # Of a probe with a motion for each shank it finds none, and its raster draws the one it is given ...
    loader.download_spike_sorting_object("drift", "", missing="ignore")
    assert "drift" not in loader.files
    drift = one.load_object(eid, "drift", collection="alf/probe00/drift/shank2")
    assert drawn(loader, spikes, channels, regions, drift) == drawn_of(aligned.motions["shank2"])
    # ... and of a probe that was sorted as one its own.
    other = SpikeSortingLoader(pname="probe01", spike_sorter="", **known)
    assert drawn(other, spikes, channels, regions) == drawn_of(aligned.motions["shank0"])
    merged = loader.merge_clusters(spikes, clusters, channels)
    assert merged["label"].tolist()[:3] == pytest.approx([1, 2 / 3, 1 / 3])
    assert merged["acronym"].tolist() == [aligned.truth[row][4] for row in clusters["channels"]]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"brain_region": "CA2"},
            "found 'CA2' with the id 382, which is 'CA1' there, for the channel of raw column 0",
        ),
        ({"brain_region_id": 5}, "which it does not have"),
        ({"brain_region_id": None}, "expected x, y, z, brain_region and brain_region_id"),
        ({"axial": 777.0}, "expected the positions of this probe's channels"),
    ],
)
def test_what_does_not_fit_is_refused(aligned, tmp_path, change, message):
    entries = json.loads(aligned.paths[0].read_text())
    entries["channel_0"] |= change
    path = tmp_path / "channel_locations_shank1.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=message):
        load_channel_locations([path], export().recorded)


def test_a_bad_alignment_costs_the_regions_alone(aligned, tmp_path, caplog):
    """All of them, where one of two files is an earlier export's or doubles a channel; the summary names it."""
    stale = tmp_path / "channel_locations_shank2.json"
    entries = json.loads(aligned.paths[0].read_text())
    stale.write_text(json.dumps(entries | {"channel_3": entries["channel_3"] | {"axial": 777.0}}))
    double = tmp_path / "channel_locations_shank3.json"
    double.write_text(json.dumps(entries))
    sound = export()
    for bad, said in (
        (stale, "expected the positions of this probe's"),
        (double, "expected channels that no other file has"),
    ):
        found = export([aligned.paths[0], bad])
        (note,) = [note for note in summarise(found).warnings if note.startswith("without brain regions")]
        assert note.startswith(f"without brain regions: {bad}: {said}") and note in caplog.text
        assert found.brain == {} and found.identifier == sound.identifier
    alf.write_alf(found, tmp_path / "alf")
    assert not [
        path for path in (tmp_path / "alf").iterdir() if "brain" in path.name or "mlapdv" in path.name
    ]


def test_a_channel_in_two_files_is_refused(aligned, tmp_path):
    copy = tmp_path / "channel_locations_shank2.json"
    copy.write_text(aligned.paths[0].read_text())
    with pytest.raises(DataError, match=r"found channel 0 in channel_locations_shank1\.json, too"):
        load_channel_locations([aligned.paths[0], copy], export().recorded)


def test_real_alignments_of_ibl(real_data, tmp_path):
    """Insertions' picks and alignments as people made them, through ibllib, onto a 1.0 probe's channels."""
    from iblatlas.atlas import AllenAtlas
    from ibllib.pipes.ephys_alignment import EphysAlignment

    atlas = AllenAtlas(25, mock=True)
    channels = [
        built()
        .document.probe.ap.channels[0]
        .model_copy(
            update={"raw_column": k, "x_um": [43.0, 11.0, 59.0, 27.0][k % 4], "y_um": 20.0 * (k // 2 + 1)}
        )
        for k in range(384)
    ]
    np.save(tmp_path / "channels.localCoordinates.npy", [[c.x_um, c.y_um] for c in channels])
    tool = AlignmentTool(tmp_path)
    # The picks are in metres but in one of the files, where they are in µm.
    for name, unit in (
        ("iblapps/tests/fixtures/data_alignmentqc_gui.npz", 1.0),
        ("ibllib/ibllib/tests/fixtures/qc/data_alignmentqc_existing.npz", 1e-6),
        ("ibllib/ibllib/tests/fixtures/qc/data_alignmentqc_manual.npz", 1.0),
    ):
        real = np.load(real_data / name, allow_pickle=True)
        # Of the people who aligned it the last.
        feature, track = (np.array(line) for line in next(reversed(real["alignments"].item().values())))
        picks = real["xyz_picks"] * unit
        aligned = EphysAlignment(picks, tool.positions[:, 1], track, feature, brain_atlas=atlas)
        xyz = aligned.get_channel_locations(feature, track)
        path = tool.save(0, np.full(384, 997), ["root"] * 384, xyz)
        found = load_channel_locations([path], channels)
        assert list(found) == list(range(384))
        places = np.array([location[:3] for location in found.values()])
        assert places == pytest.approx(xyz * 1e6, abs=1e-6)
        # Along a track that goes some mm down in the left hemisphere, channel 0 at the tip.
        assert (np.diff(places[::2, 2]) > 0).all() and 2500 < np.ptp(places[:, 2]) < 4500
        assert (places[:, 0] < 0).all()


def test_left_hemisphere_and_missing_origin(aligned, tmp_path):
    entries = {"channel_0": json.loads(aligned.paths[0].read_text())["channel_0"] | {"brain_region_id": -382}}
    path = tmp_path / "channel_locations.json"
    path.write_text(json.dumps(entries))
    (location,) = load_channel_locations([path], export().recorded).values()
    assert (location.atlas_id, location.acronym) == (-382, "CA1")
    assert load_channel_locations([], export().recorded) == {}
