"""Tracings of every tool to xyz_picks.json: positions, sides, tips, shanks, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from histology_files import (
    ap_histology_v1,
    ap_histology_v2,
    brainglobe_points,
    line_of_voxels,
    pinpoint_line,
    upf_slices,
    upf_tracks,
    voxels_to_ccf_um,
)
from iblatlas import atlas
from powerpixels import histology
from powerpixels.histology import Place, assign, fit_line, parse_mapping
from powerpixels.histology_formats import ccf_to_bregma, read_tracks
from powerpixels.stage import DataError
from scipy import io

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def allen():
    """iblatlas' Allen atlas: its frame is real, its volumes are empty, so that nothing is downloaded."""
    return atlas.AllenAtlas(25, mock=True)


def convert(*arguments):
    parser = ArgumentParser()
    histology.add_arguments(parser)
    histology.run(parser.parse_args([str(argument) for argument in arguments]))


def picks(path):
    return np.array(json.loads(Path(path).read_text())["xyz_picks"])


def truth(allen, voxels):
    """What iblatlas says of AP, DV, ML voxels counted from 1, in um."""
    return allen.ccf2xyz(voxels_to_ccf_um(voxels), ccf_order="apdvml") * 1e6


# --- frame


def test_bregma_and_points_beside_it():
    """Counted by hand from bregma at AP 5400, DV 332, ML 5739 um."""
    ccf = [[5400, 332, 5739], [5400, 332, 8000], [5400, 332, 3000], [3000, 332, 5739], [5400, 4332, 5739]]
    expected = [[0, 0, 0], [2261, 0, 0], [-2739, 0, 0], [0, 2400, 0], [0, 0, -4000]]
    np.testing.assert_array_equal(ccf_to_bregma(np.array(ccf)), expected)


def test_frame_is_that_of_iblatlas(allen):
    ccf = np.random.default_rng(0).uniform([0, 0, 0], [13200, 8000, 11400], (200, 3))
    np.testing.assert_allclose(
        ccf_to_bregma(ccf), allen.ccf2xyz(ccf, ccf_order="apdvml") * 1e6, rtol=0, atol=1e-6
    )


# --- line


def test_tip_is_the_deepest_traced_point_and_nothing_is_added():
    """Depths from 600 to 4000 um, where the original's line went to 4600."""
    points = np.column_stack([np.full(18, 1000.0), np.full(18, -500.0), -np.arange(600, 4001, 200.0)])
    line = fit_line(points[np.random.default_rng(1).permutation(18)])
    np.testing.assert_allclose(line.picks, [[1000, -500, -600], [1000, -500, -4000]], atol=1e-6)
    assert line.stray_um == pytest.approx(0, abs=1e-6)
    assert line.degrees == pytest.approx(90)


@pytest.mark.parametrize("tilt", [0, 10, 30, 60])
def test_scattered_tracing_gives_angle_and_tip(tilt):
    rng = np.random.default_rng(tilt)
    across = np.array([np.cos(0.7), np.sin(0.7), 0]) * np.sin(np.deg2rad(tilt))
    axis = across + [0, 0, np.cos(np.deg2rad(tilt))]
    tip = np.array([-1500.0, 800.0, -4200.0])
    points = tip + np.outer(np.append(0, rng.uniform(100, 3800, 40)), axis)
    points[1:] += rng.normal(0, 25, (40, 3))
    line = fit_line(points)
    np.testing.assert_allclose(line.picks[1], tip, atol=1e-6)
    found = line.picks[0] - line.picks[1]
    assert np.degrees(np.arccos(found @ axis / np.linalg.norm(found))) < 0.5
    assert np.linalg.norm(found) == pytest.approx(np.max((points - tip) @ axis), abs=5)
    assert 20 < line.stray_um < 150


def test_of_equally_deep_points_the_end_of_the_track_is_the_tip():
    """Voxels of a nearly flat track: its last three are equally deep."""
    points = np.array([[0, 0, -100], [500, 0, -200], [1000, 0, -300], [1100, 0, -300], [1200, 0, -300.0]])
    for order in ([0, 1, 2, 3, 4], [3, 4, 2, 0, 1]):
        np.testing.assert_array_equal(fit_line(points[order]).picks[1], [1200, 0, -300])


def test_alignment_tool_starts_at_the_tip(allen, tmp_path):
    """What ibllib's alignment makes of the picks: its track runs through them, the deepest first."""
    from ibllib.pipes.ephys_alignment import TIP_SIZE_UM, EphysAlignment

    voxels = line_of_voxels([520, 90, 720], [500, 430, 690], 20)
    ap_histology_v1(tmp_path / "probe_ccf.mat", [voxels])
    convert(tmp_path / "probe_ccf.mat", "--out", tmp_path / "out")
    found = picks(tmp_path / "out" / "xyz_picks.json")
    track, extent = EphysAlignment.get_insertion_track(
        type("Aligned", (), {"brain_atlas": allen})(), found / 1e6, speedy=True
    )
    np.testing.assert_allclose(track[1] * 1e6, truth(allen, [[500, 430, 690]])[0], atol=10)
    np.testing.assert_allclose(track[2] * 1e6, found[0], atol=1e-3)
    below = np.linalg.norm(track[1] - track[0])
    assert extent[0] == pytest.approx(-(below + TIP_SIZE_UM / 1e6))


# --- each tool, against iblatlas

# A right-hand and a left-hand track, surface and tip: AP, DV, ML voxels of 10 um, counted from 1.
RIGHT = np.array([[540, 60, 800], [500, 400, 760]])
LEFT = np.array([[700, 50, 300], [720, 380, 350]])


def check_tracks(allen, tracks, names, sides=(RIGHT, LEFT)):
    assert [track.name for track in tracks] == names
    for track, side in zip(tracks, sides, strict=True):
        expected = truth(allen, side)
        line = fit_line(track.points)
        np.testing.assert_allclose(line.picks[1], expected[1], atol=1)
        np.testing.assert_allclose(line.picks[0], expected[0], atol=10)
    assert fit_line(tracks[0].points).picks[:, 0].min() > 1500
    assert fit_line(tracks[1].points).picks[:, 0].max() < -1500


VOXELS = [line_of_voxels(*RIGHT, 15), line_of_voxels(*LEFT, 15)]


@pytest.mark.parametrize("hdf5", [False, True])
def test_ap_histology_v1(allen, tmp_path, hdf5):
    path = tmp_path / "probe_ccf.mat"
    ap_histology_v1(path, VOXELS, hdf5=hdf5)
    check_tracks(allen, read_tracks([path]), [None, None])
    ap_histology_v1(path, VOXELS[:1], hdf5=hdf5)
    assert len(read_tracks([path])) == 1


@pytest.mark.parametrize("hdf5", [False, True])
def test_ap_histology_v2(allen, tmp_path, hdf5):
    """Points lie in several slices, some of them empty."""
    path = tmp_path / "AP_histology_processing.mat"
    ap_histology_v2(path, {"probe00": VOXELS[0], "probe01": VOXELS[1]}, hdf5=hdf5)
    check_tracks(allen, read_tracks([path]), ["probe00", "probe01"])
    ap_histology_v2(path, {"only": VOXELS[0]}, hdf5=hdf5)
    assert [(track.name, len(track.points)) for track in read_tracks([path])] == [("only", 15)]


@pytest.mark.parametrize("hdf5", [False, True])
def test_universal_probe_finder_tracks(allen, tmp_path, hdf5):
    path = tmp_path / "ProbeTracks.mat"
    upf_tracks(path, {"a": VOXELS[0], "b": VOXELS[1]}, hdf5=hdf5)
    check_tracks(allen, read_tracks([path]), ["a", "b"])


@pytest.mark.parametrize("rotated", [False, True])
def test_universal_probe_finder_slices(allen, tmp_path, rotated):
    """Pixels are those that the tool's own transform, inverted, gives for the voxels."""
    path = tmp_path / "SliceFile_UniversalProbeFinder.mat"
    angles = (3.0, -4.0, 7.0) if rotated else (0.0, 0.0, 0.0)
    upf_slices(path, {"a": RIGHT, "b": LEFT}, angles)
    check_tracks(allen, read_tracks([path]), ["a", "b"])


def test_universal_probe_finder_slice_by_hand(tmp_path):
    """A slice as loaded, never moved: 1140 x 1320 px fill the atlas 1:1, centred at (570, 660, 400).

    Pixel (100, 60): ML 570 + 570 - 100 = 1040, DV 400 + 660 - 60 = 1000 - beyond the atlas' 800; so 300 px
    down: DV 760. In CCF from 0: AP 1320 - 660 = 660, DV 800 - 760 = 40, ML 1140 - 1040 = 100 voxels.
    """
    empty = np.zeros((0, 0))
    clicks = np.zeros(1, dtype=[("Vec", object), ("Track", object)])
    clicks[0] = (np.array([[100.0, 300.0], [100.0, 900.0]]), 1.0)
    names = ["ImTransformed", "TrackClick", "ResizeLeftRight", "ResizeUpDown", "Center", "MidlineX"]
    names += ["RotateAroundAP", "RotateAroundML", "RotateAroundDV"]
    slices = np.zeros(1, dtype=[(name, object) for name in names])
    slices[0] = (np.zeros((1320, 1140), np.uint8), clicks, *[empty] * 7)
    track = np.array([("t",)], dtype=[("name", object)])
    path = tmp_path / "slices.mat"
    io.savemat(path, {"sSliceData": {"Slice": slices, "Track": track, "path": "x"}})
    (found,) = read_tracks([path])
    np.testing.assert_allclose(found.points[0], [1000 - 5739, 5400 - 6600, 332 - 400], atol=1e-6)
    np.testing.assert_allclose(found.points[1] - found.points[0], [0, 0, -6000], atol=1e-6)


@pytest.mark.parametrize("voxel_um", [10, 25, 50])
def test_brainglobe_counts_ml_from_the_right(tmp_path, voxel_um):
    """The same voxel in iblatlas' volume of that size; a high third index is on the left."""
    indices = np.array([[4000, 600, 2000], [4100, 3000, 2300]]) / voxel_um
    folder = tmp_path / "brainreg"
    brainglobe_points(folder, "probe00", indices, voxel_um)
    (track,) = read_tracks([folder])
    allen = atlas.AllenAtlas(voxel_um if voxel_um > 10 else 25, mock=True)
    across = 11400 / voxel_um - 1 - indices[:, 2]
    ccf = np.column_stack([indices[:, 0], indices[:, 1], across]) * voxel_um
    np.testing.assert_allclose(track.points, allen.ccf2xyz(ccf, ccf_order="apdvml") * 1e6, atol=1e-6)
    assert (track.points[:, 0] > 3000).all()
    # The curve that it exports is in um.
    tracks = folder / "segmentation" / "atlas_space" / "tracks"
    np.save(tracks / "spline.npy", indices * voxel_um)
    np.testing.assert_allclose(read_tracks([tracks / "spline.npy"])[0].points, track.points, atol=1e-6)


def test_brainglobe_real_tracks(real_data):
    """brainglobe's own example: clicked points and the curve drawn through them agree, on the left."""
    folder = real_data / "brainglobe-segmentation" / "brainreg_output"
    tracks = folder / "segmentation" / "atlas_space" / "tracks"
    (clicked,) = read_tracks([folder])
    (curve,) = read_tracks([tracks / "test_track.npy"])
    assert (clicked.file.suffix, len(clicked.points), len(curve.points)) == (".points", 6, 1000)
    # Last point: index 132, 50.386, 134.807 of 50 um; 227 - 134.807 from the left.
    expected = [(227 - 134.80661248) * 50 - 5739, 5400 - 132 * 50, 332 - 50.38638048 * 50]
    np.testing.assert_allclose(fit_line(clicked.points).picks[1], expected, atol=0.01)
    np.testing.assert_allclose(fit_line(curve.points).picks[1], expected, atol=10)
    with pytest.raises(DataError, match="regions along a track; give the .points"):
        read_tracks([tracks / "test_track.csv"])
    with pytest.raises(DataError, match="found one in the sample's"):
        read_tracks([folder / "segmentation" / "sample_space" / "tracks" / "track_0.points"])
    with pytest.raises(DataError, match="expected brainreg.json in a folder above"):
        read_tracks([real_data / "brainglobe-segmentation" / "tracks"])
    assert read_tracks([real_data / "brainglobe-segmentation" / "tracks"], atlas="allen_mouse_50um")


def test_real_picks_of_ibl_are_kept(real_data, tmp_path):
    real = np.load(real_data / "iblapps/tests/fixtures/data_alignmentqc_gui.npz", allow_pickle=True)
    traced = np.round(real["xyz_picks"] * 1e6)
    folder = tmp_path / "in" / "probe00"
    folder.mkdir(parents=True)
    (folder / "xyz_picks.json").write_text(json.dumps({"xyz_picks": traced.tolist()}))
    convert(tmp_path / "in", "--out", tmp_path / "out")
    np.testing.assert_array_equal(picks(tmp_path / "out" / "probe00" / "xyz_picks.json"), traced)
    line = fit_line(traced)
    np.testing.assert_array_equal(line.picks[1], traced[np.argmin(traced[:, 2])])
    # iblatlas fits the same insertion, but for the anchor.
    trajectory = atlas.Trajectory.fit(traced)
    along = np.diff(line.picks, axis=0)[0] / np.linalg.norm(np.diff(line.picks, axis=0))
    assert abs(trajectory.vector @ along) > np.cos(np.deg2rad(2))
    assert line.stray_um < 150


def test_pinpoint_text(allen, tmp_path):
    path = tmp_path / "pinpoint.txt"
    right, left = voxels_to_ccf_um(RIGHT), voxels_to_ccf_um(LEFT)
    path.write_text(pinpoint_line("probe00", *right) + "\n\n" + pinpoint_line("imec1", *left) + "\n")
    check_tracks(allen, read_tracks([path]), ["probe00", "imec1"])
    path.write_text(pinpoint_line("probe00", *right / 1000))
    with pytest.raises(DataError, match="expected micrometres, found whole millimetres"):
        read_tracks([path])
    path.write_text(pinpoint_line("probe00", *right, space="Waxholm Rat"))
    with pytest.raises(DataError, match="expected the atlas CCF, found Waxholm Rat"):
        read_tracks([path])


@pytest.mark.parametrize(
    ("header", "scale", "options"),
    [
        ("probe,ap_um,dv_um,ml_um", 1, {}),
        ("Probe,AP (mm),DV (mm),ML (mm)", 1000, {}),
        ("probe,CCF_AP [\u00b5m],CCF_DV [\u03bcm],CCF_ML [um]", 1, {}),
        ("probe,ap,dv,ml", 1000, {"unit": "mm"}),
        ("probe,ap_um,dv_um,ml_um", 1, {"unit": "um"}),
    ],
)
def test_csv(allen, tmp_path, header, scale, options):
    path = tmp_path / "points.csv"
    rows = [f"{name},{','.join(map(str, p))}" for name, side in (("probe00", RIGHT), ("probe01", LEFT))
            for p in voxels_to_ccf_um(side) / scale]  # fmt: skip
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    check_tracks(allen, read_tracks([path], **options), ["probe00", "probe01"])


def test_csv_columns_are_known_by_name_not_place(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(
        "ml_um,shank,ap_um,dv_um\n8000,1,3000,332\n8000,1,3000,1332\n3000,2,5400,332\n3000,2,5400,900\n"
    )
    tracks = read_tracks([path])
    assert [track.name for track in tracks] == ["shank1", "shank2"]
    np.testing.assert_array_equal(tracks[0].points, [[2261, 2400, 0], [2261, 2400, -1000]])


# --- which track is which probe


def names(*given):
    points = np.array([[0, 0, -100.0], [0, 0, -900.0]])
    return [histology.Track(name, points - k, Path("t.mat")) for k, name in enumerate(given)]


def test_mapping_by_number_and_name(tmp_path, capsys):
    ap_histology_v2(tmp_path / "AP_histology_processing.mat", {"left one": VOXELS[1], "right": VOXELS[0]})
    convert(tmp_path, "--out", tmp_path / "out", "--probes", "probe00=right, probe01=1")
    assert picks(tmp_path / "out" / "probe00" / "xyz_picks.json")[1, 0] > 0
    assert picks(tmp_path / "out" / "probe01" / "xyz_picks.json")[1, 0] < 0
    said = capsys.readouterr().out
    assert "probe01/xyz_picks.json: left one of AP_histology_processing.mat" in said


def test_shanks_get_the_files_that_the_alignment_tool_looks_for(allen, tmp_path):
    """Four shanks, 250 um apart: xyz_picks_shank1.json to 4, and no xyz_picks.json beside them."""
    shanks = [line_of_voxels([540, 60, 700 + 25 * k], [500, 400 + k, 700 + 25 * k], 12) for k in range(4)]
    ap_histology_v2(tmp_path / "p.mat", {f"probe00_shank{k + 1}": v for k, v in enumerate(shanks)})
    convert(tmp_path / "p.mat", "--out", tmp_path / "out")
    folder = tmp_path / "out" / "probe00"
    assert sorted(path.name for path in folder.iterdir()) == [f"xyz_picks_shank{k}.json" for k in range(1, 5)]
    for k in range(4):
        found = picks(folder / f"xyz_picks_shank{k + 1}.json")
        np.testing.assert_allclose(found[1], truth(allen, [[500, 400 + k, 700 + 25 * k]])[0], atol=1)
    # Numbered by the user, into the folder itself.
    convert(tmp_path / "p.mat", "--out", tmp_path / "one", "--probes", "shank1=3,shank2=4")
    with pytest.raises(StopIteration):
        next((tmp_path / "one").rglob("xyz_picks.json"))


def test_names_of_probes():
    placed = assign(names("probe00_shank2", "Probe00 Shank1", "imec1", "ProbeB", "lesion"))
    assert list(placed) == [
        Place("probe00", 2),
        Place("probe00", 1),
        Place("probe01", None),
        Place("ProbeB", None),
    ]
    assert placed[Place("ProbeB", None)].name == "ProbeB"
    assert list(assign(names("anything"))) == [Place(None, None)]
    assert list(assign(names("anything"), None, ["probe03"])) == [Place("probe03", None)]
    assert list(assign(names("shank1", "shank2"), None, ["ProbeA"])) == [
        Place("ProbeA", 1),
        Place("ProbeA", 2),
    ]
    assert list(assign(names("probea"), None, ["ProbeA", "ProbeB"])) == [Place("ProbeA", None)]


@pytest.mark.parametrize(
    ("tracks", "mapping", "probes", "message"),
    [
        (["a", "b"], None, None, r"found 2; tracks: 1 'a' \(t.mat, 2 points, DV -900 um at the deepest\); 2 'b'"),
        ([None, None], None, ["probe00", "probe01"], "say which is which with powerpixels histology --probes"),
        (["probe 0", "probe 1"], None, None, "expected tracks with the names of probes"),
        (["only"], None, ["probe00", "probe01"], "expected tracks of the probes probe00, probe01"),
        (["probe02"], None, ["probe00", "probe01"], "expected tracks of the probes probe00, probe01, found probe02"),
        (["probe00", "PROBE00"], None, None, "expected one track for probe00, found several"),
        (["probe00", "probe00_shank1"], None, None, "traced as a whole or by shanks, found both for probe00_shank1"),
        (["probe00_shank0"], None, None, "expected shanks counted from 1"),
        (["a", "b"], "probe00=c", None, "expected a track 'c', found none; tracks: 1 'a'"),
        (["a", "b"], "probe00=3", None, "expected a track '3', found none"),
        (["a", "a"], "probe00=a", None, "found 2 of that name; give its number"),
        (["a"], "probe00", None, "expected PROBE=TRACK"),
        (["a"], "probe00=1,probe00=1", None, "probe00 is given twice"),
        (["a"], "../x=1", None, "expected a probe's name, found '../x'"),
    ],
)  # fmt: skip
def test_unclear_probes_are_refused_with_what_there_is(tracks, mapping, probes, message):
    with pytest.raises(DataError, match=message):
        assign(names(*tracks), mapping and parse_mapping(mapping), probes)


def test_what_is_there_is_not_written_over(tmp_path):
    ap_histology_v1(tmp_path / "probe_ccf.mat", VOXELS)
    arguments = (tmp_path / "probe_ccf.mat", "--out", tmp_path, "--probes", "probe00=1,probe01=2")
    (tmp_path / "probe01").mkdir()
    (tmp_path / "probe01" / "xyz_picks.json").write_text("mine")
    with pytest.raises(DataError, match="probe01/xyz_picks.json: it is there already"):
        convert(*arguments)
    assert not (tmp_path / "probe00").exists()
    convert(*arguments, "--force")
    assert picks(tmp_path / "probe01" / "xyz_picks.json").shape == (2, 3)


# --- what is refused


def test_broken_files_are_named(tmp_path):
    good = tmp_path / "probe_ccf.mat"
    for hdf5 in (False, True):
        ap_histology_v1(good, VOXELS, hdf5=hdf5)
        whole = good.read_bytes()
        for name, data in (
            ("cut.mat", whole[: len(whole) // 2]),
            ("text.mat", b"not a MATLAB file" * 20),
            ("empty.mat", b""),
        ):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(DataError, match=f"{name}: expected a MATLAB file, it can't be read"):
                read_tracks([tmp_path / name])
    (tmp_path / "track.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "track.points").write_bytes(b"nothing")
    for name in ("track.npy", "track.points"):
        with pytest.raises(
            DataError, match=f"{name}: expected a track of brainglobe-segmentation, it can't be read"
        ):
            read_tracks([tmp_path / name], atlas="allen_mouse_25um")
    (tmp_path / "xyz_picks.json").write_text("{}")
    with pytest.raises(DataError, match="xyz_picks.json: expected"):
        read_tracks([tmp_path / "xyz_picks.json"])


def saved(path, **content):
    io.savemat(path, content)
    return path


def test_what_files_lack_is_named(tmp_path):
    path = tmp_path / "x.mat"
    with pytest.raises(DataError, match="x.mat: expected probe_ccf.mat or .*, found none of those"):
        read_tracks([saved(path, other=1)])
    with pytest.raises(DataError, match="x.mat: expected the variable probe_ccf to be a struct"):
        read_tracks([saved(path, probe_ccf=np.zeros((4, 3)))])
    with pytest.raises(DataError, match="x.mat: expected a field 'points'"):
        read_tracks([saved(path, probe_ccf={"vertices": np.zeros((4, 3))})])
    with pytest.raises(DataError, match=r"expected probe_ccf\(1\).points with three columns, found 4x2"):
        read_tracks([saved(path, probe_ccf={"points": np.zeros((4, 2))})])
    with pytest.raises(DataError, match="x.mat: expected traced points, found none"):
        read_tracks([saved(path, probe_ccf={"points": np.zeros((0, 3))})])
    with pytest.raises(DataError, match="x.mat: expected annotations, there is none"):
        read_tracks([saved(path, AP_histology_processing={"image": 1})])
    with pytest.raises(
        DataError, match="slice 1: expected as many AP as DV and ML coordinates, found .3, 2, 3."
    ):
        annotation = {"label": "a", "vertices_ccf": {"ap": np.ones(3), "dv": np.ones(2), "ml": np.ones(3)}}
        read_tracks([saved(path, AP_histology_processing={"annotation": annotation})])
    with pytest.raises(DataError, match="gone.mat: there is no such file or folder"):
        read_tracks([tmp_path / "gone.mat"])
    with pytest.raises(DataError, match="empty: expected a folder with"):
        (tmp_path / "empty").mkdir()
        read_tracks([tmp_path / "empty"])
    ap_histology_v1(path, [np.array([[540, 60, 800]] * 3)])
    with pytest.raises(
        DataError, match="x.mat: track the only track: expected a traced probe, found fewer than two"
    ):
        convert(path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_atlases_and_axes_are_refused(tmp_path):
    path = tmp_path / "t.mat"
    upf_tracks(path, {"a": VOXELS[0]}, sourceatlas="Sprague-Dawley-Rat")
    with pytest.raises(
        DataError, match="expected a tracing on the atlas Allen-CCF-Mouse, found Sprague-Dawley-Rat"
    ):
        read_tracks([path])
    upf_tracks(path, {"a": VOXELS[0]}, sProbeAdjusted={"probe_vector_cart": np.zeros((2, 3))})
    with pytest.raises(DataError, match="found a file of an old version"):
        read_tracks([path])
    upf_tracks(
        path, {"a": VOXELS[0]}, sProbeAdjusted={"probe_vector_cart": np.zeros((2, 3))}, format="ML,AP,DV"
    )
    assert len(read_tracks([path])) == 1
    # AP, ML, DV in place of AP, DV, ML: 800 voxels deep is at the bottom of the volume, 801 beyond.
    ap_histology_v1(path, [VOXELS[0][:, [0, 2, 1]] + [0, 10, 0]])
    with pytest.raises(DataError, match="t.mat: track 1: expected points within the Allen CCF"):
        read_tracks([path])
    folder = tmp_path / "rat"
    brainglobe_points(folder, "a", np.ones((2, 3)), 39, name="whs_sd_rat_39um")
    with pytest.raises(
        DataError, match="expected a track in the atlas allen_mouse_10um, .* found whs_sd_rat_39um"
    ):
        read_tracks([folder])


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("ap,dv,ml\n1,2,3\n", None, "expected a unit of ap, dv and ml, found none"),
        ("ap_um,dv_um,ml_mm\n1,2,3\n", None, "expected one unit, found mm and um"),
        ("ap_um,dv_um,ml_um\n1,2,3\n", "mm", "expected one unit, found mm and um"),
        ("x,y,z\n1,2,3\n", None, "expected the columns ap, dv and ml in the first line .* found x,y,z"),
        ("5400,332,5739\n5400,332,5739\n", None, "expected the columns ap, dv and ml"),
        ("ap_um,dv_um,ml_um\n1,2\n", None, "row 2: expected numbers in ap, dv and ml"),
        ("ap_um,dv_um,ml_um\n1,2,3\n1,a,3\n", None, "row 3: expected numbers .* found '1,a,3'"),
        ("ap_um,dv_um,ml_um\n", None, "expected traced points, found none"),
        ("ap_mm,dv_mm,ml_mm\n5400,332,5739\n", None, "expected points within the Allen CCF"),
    ],
)
def test_csv_units_and_columns_are_never_guessed(tmp_path, text, unit, message):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"points.csv: .*{message}|points.csv: {message}"):
        read_tracks([path], unit=unit)


def test_points_that_are_no_numbers_are_left_out(tmp_path, caplog):
    ap_histology_v1(tmp_path / "p.mat", [np.vstack([VOXELS[0], [np.nan, 3, 3]])])
    (track,) = read_tracks([tmp_path / "p.mat"])
    assert len(track.points) == len(VOXELS[0])
    assert "1 points that are no numbers left out" in caplog.text


def test_folder_of_two_tools_needs_a_choice(tmp_path):
    ap_histology_v1(tmp_path / "probe_ccf.mat", VOXELS[:1])
    ap_histology_v2(tmp_path / "AP_histology_processing.mat", {"a": VOXELS[1]})
    (tmp_path / "notes.csv").write_text("slice,image\n1,a.tif\n")
    (tmp_path / "broken.mat").write_bytes(b"no")
    with pytest.raises(
        DataError, match=r"found AP_histology_processing.mat \(ap_histology_v2\), probe_ccf.mat"
    ):
        read_tracks([tmp_path])
    assert [track.name for track in read_tracks([tmp_path], "ap_histology_v2")] == ["a"]


def test_export_of_ap_histology_itself_is_not_taken_for_ibls(tmp_path):
    """Its export_ibl_probe writes AP, ML, DV in mm under the name of IBL's file."""
    ap_histology_v2(tmp_path / "AP_histology_processing.mat", {"probe00": VOXELS[0]})
    folder = tmp_path / "IBL_probe_coordinates" / "probe00"
    folder.mkdir(parents=True)
    (folder / "xyz_picks.json").write_text('{"xyz_picks": [[-0.4, 2.3, 0.16], [0, 1.9, 3.56]]}')
    assert [track.file.name for track in read_tracks([tmp_path])] == ["AP_histology_processing.mat"]
    with pytest.raises(DataError, match="found a track that spans 3.4; AP_Histology's own export is in mm"):
        read_tracks([folder / "xyz_picks.json"])


# --- the stage


def stage(tmp_path, *arguments):
    command = [sys.executable, ROOT / "bin" / "pp_histology.py", *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_stage_writes_picks_of_the_sessions_probes(tmp_path):
    ap_histology_v2(tmp_path / "p.mat", {"probe01": VOXELS[1], "imec0": VOXELS[0], "lesion": VOXELS[0]})
    done = stage(tmp_path, "--tracing", "p.mat", "--probes", "probe00:0", "probe01:0", "--out", "histology")
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert found == ["histology/probe00/xyz_picks.json", "histology/probe01/xyz_picks.json", "versions.json"]
    assert picks(tmp_path / "histology/probe00/xyz_picks.json")[1, 0] > 0
    assert {"numpy", "scipy", "h5py"} < set(json.loads((tmp_path / "versions.json").read_text()))
    failed = stage(tmp_path, "--tracing", "p.mat", "--probes", "ProbeA:0", "--out", "other")
    assert failed.returncode == 65
    assert failed.stderr.splitlines()[-1].startswith("ERROR: expected tracks of the probes ProbeA")
    assert not (tmp_path / "other").exists()


# --- the MATLAB converters


@pytest.fixture(scope="module")
def octave():
    found = shutil.which("octave-cli") or shutil.which("octave")
    if found is None:
        pytest.skip("the MATLAB converters are not run: Octave is not installed here")

    def run(code):
        line = f"addpath('{ROOT / 'matlab'}'); {code}"
        return subprocess.run([found, "--no-gui", "--quiet", "--eval", line], capture_output=True, text=True)

    return run


SCATTER = [np.round(v + np.random.default_rng(k).normal(0, 2, v.shape)) for k, v in enumerate(VOXELS)]


@pytest.mark.parametrize("tool", ["v1", "v2", "tracks", "slices"])
def test_matlab_converters_write_what_python_writes(octave, tmp_path, tool):
    path = tmp_path / "traced.mat"
    named = {"a": SCATTER[0], "b": SCATTER[1]}
    if tool == "v1":
        ap_histology_v1(path, SCATTER)
    elif tool == "v2":
        ap_histology_v2(path, named)
    elif tool == "tracks":
        upf_tracks(path, named)
    else:
        upf_slices(path, {"a": RIGHT, "b": LEFT}, (3.0, -4.0, 7.0))
    convert(path, "--out", tmp_path / "python", "--probes", "probe00=2,probe01_shank2=1")
    function = "convert_ap_histology" if tool[0] == "v" else "convert_universal_probe_finder"
    done = octave(f"{function}('{path}', '{tmp_path / 'octave'}', {{'probe00', 2; 'probe01_shank2', 1}})")
    assert done.returncode == 0, done.stderr
    for name in ("probe00/xyz_picks.json", "probe01/xyz_picks_shank2.json"):
        np.testing.assert_allclose(
            picks(tmp_path / "octave" / name), picks(tmp_path / "python" / name), atol=0.11
        )
    if tool != "v1":
        done = octave(f"{function}('{path}', '{tmp_path / 'named'}', {{'probe00', 'b'}})")
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(
            picks(tmp_path / "named/probe00/xyz_picks.json"),
            picks(tmp_path / "python/probe00/xyz_picks.json"),
            atol=0.11,
        )


def test_matlab_converters_refuse_what_is_unclear(octave, tmp_path):
    ap_histology_v1(tmp_path / "p.mat", VOXELS)
    done = octave(f"convert_ap_histology('{tmp_path / 'p.mat'}', '{tmp_path / 'out'}')")
    assert done.returncode != 0
    assert "expected one track, found 2" in done.stderr
    ap_histology_v1(tmp_path / "p.mat", VOXELS[:1])
    done = octave(f"convert_ap_histology('{tmp_path / 'p.mat'}', '{tmp_path / 'out'}')")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(picks(tmp_path / "out" / "xyz_picks.json")[1], [1851, 410, -3658], atol=0.11)
    done = octave(f"convert_ap_histology('{tmp_path / 'p.mat'}', '{tmp_path / 'out'}')")
    assert "it is there already" in done.stderr
