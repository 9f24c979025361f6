"""Files as the histology tools write them, of tracks that are known: AP, DV, ML voxels of 10 um, from 1.

Structures are those of the tools' sources: AP_Histology's annotate_neuropixels (v1), annotator and annotation2ccf
(v2), whose coordinates are MATLAB's subscripts (grab_atlas_slice); the Universal Probe Finder's SF_SliceFile2TracksFile, SH_LoadSlicePath and SF_SlicePts2AtlasPts;
brainglobe-segmentation's save_single_track; Pinpoint's Probe2Text. HDF5 files are laid out as MATLAB's -v7.3.
"""

from __future__ import annotations

import itertools
import json

import h5py
import numpy as np
from scipy import io

NUMBERS = itertools.count()
VOLUME = np.array([1320, 800, 1140])


def line_of_voxels(start, end, n):
    """n points from start to end, rounded as the tools round; the ends are exact."""
    return np.round(np.linspace(start, end, n))


def voxels_to_ccf_um(voxels):
    """The Allen CCF in um: index from 0 times 10."""
    return (np.asarray(voxels, dtype=float) - 1) * 10


def _structs(rows):
    """Struct array, one by n, of dicts with equal keys."""
    array = np.zeros((1, len(rows)), dtype=[(key, object) for key in rows[0]])
    for k, row in enumerate(rows):
        array[0, k] = tuple(row.values())
    return array


def _cells(items):
    array = np.zeros((1, len(items)), dtype=object)
    for k, item in enumerate(items):
        array[0, k] = item
    return array


def _save(path, name, value, hdf5):
    if not hdf5:
        io.savemat(path, {name: value})
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        _write_hdf5(file, file, name, value)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


def _reference(file, value):
    refs = file.require_group("#refs#")
    name = f"r{next(NUMBERS)}"
    _write_hdf5(file, refs, name, value)
    return refs[name].ref


def _write_hdf5(file, group, name, value):
    if isinstance(value, dict):
        value = _structs([value])
    if isinstance(value, str):
        item = group.create_dataset(name, data=np.array([[ord(c)] for c in value], np.uint16))
        item.attrs["MATLAB_class"] = np.bytes_("char")
        return
    value = np.atleast_2d(value)
    if value.dtype.names:
        item = group.create_group(name)
        item.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in value.dtype.names:
            if value.size == 1:
                _write_hdf5(file, item, field, value[0, 0][field])
            else:
                data = np.array([[_reference(file, v)] for v in value[field].ravel()], dtype=h5py.ref_dtype)
                item.create_dataset(field, data=data.reshape(value.shape[::-1]), dtype=h5py.ref_dtype)
    elif value.dtype == object:
        data = np.array([[_reference(file, v)] for v in value.ravel()], dtype=h5py.ref_dtype)
        item = group.create_dataset(name, data=data, dtype=h5py.ref_dtype)
        item.attrs["MATLAB_class"] = np.bytes_("cell")
    elif value.size == 0:
        item = group.create_dataset(name, data=np.array(value.shape, np.uint64))
        item.attrs["MATLAB_class"] = np.bytes_("double")
        item.attrs["MATLAB_empty"] = np.uint8(1)
    else:
        item = group.create_dataset(name, data=np.asarray(value, float).T)
        item.attrs["MATLAB_class"] = np.bytes_("double")


def ap_histology_v1(path, tracks, hdf5=False):
    """probe_ccf.mat, n by 1 as the tool has it."""
    rows = [
        {"points": points, "trajectory_areas": np.zeros((0, 0)), "trajectory_coords": points[[0, -1]]}
        for points in tracks
    ]
    _save(path, "probe_ccf", _structs(rows).T, hdf5)


def ap_histology_v2(path, tracks, hdf5=False):
    """AP_histology_processing.mat: four slices, of which the first and the third are empty."""
    annotations = []
    for label, voxels in tracks.items():
        half = len(voxels) // 2
        parts = [voxels[:0], voxels[:half], voxels[:0], voxels[half:]]
        slices = [{axis: part[:, [j]] if len(part) else np.zeros((0, 0)) for axis, j in
                   (("ap", 0), ("ml", 2), ("dv", 1))} for part in parts]  # fmt: skip
        clicked = _cells([part[:, :2] for part in parts])
        annotations.append({"label": label, "vertices_histology": clicked, "vertices_ccf": _structs(slices)})
    content = {
        "image_format": "x",
        "annotation": _structs(annotations),
        "histology_ccf": {"slice_vector": np.ones(3)},
    }
    _save(path, "AP_histology_processing", content, hdf5)


def to_upf(voxels):
    """Its voxels, ML, AP, DV: the flipped and permuted volume has voxel v at N + 1 - v."""
    return (VOLUME + 1 - np.asarray(voxels, dtype=float))[:, [2, 0, 1]]


def upf_tracks(path, tracks, hdf5=False, sourceatlas="Allen-CCF-Mouse", **more):
    """ProbeTracks….mat, as SliceFinder exports it."""
    content = {
        "cellNames": _cells(list(tracks)),
        "cellPoints": _cells([to_upf(points) for points in tracks.values()]),
        "sourcepath": "C:/images",
        "sourcedate": "20240305",
        "sourceatlas": sourceatlas,
    }
    _save(path, "sProbeCoords", content | more, hdf5)


def upf_rotation(angles):
    """Yaw, pitch and roll's matrix, transposed, written out as the tool writes it."""
    a, c, b = np.deg2rad(angles)
    ca, sa, cb, sb, cc, sc = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(c), np.sin(c)
    return np.array(
        [
            [ca * cb, ca * sb * sc - sa * cc, ca * sb * cc + sa * sc],
            [sa * cb, sa * sb * sc + ca * cc, sa * sb * cc - ca * sc],
            [-sb, cb * sc, cb * cc],
        ]
    ).T


def upf_slices(path, tracks, angles):
    """SliceFile….mat: one slice for each point, which lies aside of the slice's centre.

    The tool's transform is p = R (m - s x) + c: pixels x follow from a place m - s x in the slice, and the centre c
    from the point p.
    """
    scale, rows, columns, midline = (0.9, 1.1), 500, 700, 340.0
    middle = np.array([midline * scale[0], np.floor(rows * scale[1] + 0.5) / 2])
    aside = np.array([40.0, 0.0, -25.0])
    slices = []
    for number, voxels in enumerate(tracks.values(), 1):
        for point in to_upf(voxels):
            centre = point - upf_rotation(angles) @ aside
            pixels = ((middle - aside[[0, 2]]) / scale)[None]
            click = _structs([{"Vec": pixels, "Track": float(number), "hLine": np.zeros((0, 0))}])
            slices.append(_slice(rows, columns, click, scale, centre, midline, angles))
    nobody = _structs([{"Vec": np.full((2, 2), np.nan), "Track": 0.0, "hLine": np.zeros((0, 0))}])
    slices.append(_slice(rows, columns, nobody, scale, VOLUME[[2, 0, 1]] / 2, midline, angles))
    slices.append(slices[-1] | {"TrackClick": np.zeros((0, 0))})
    named = _structs([{"name": name, "marker": "*", "color": np.ones(3)} for name in tracks])
    content = {
        "autoadjust": 1.0,
        "path": "C:/images",
        "editdate": "20240305",
        "Slice": _structs(slices),
        "Track": named,
    }
    io.savemat(path, {"sSliceData": content})


def _slice(rows, columns, clicks, scale, centre, midline, angles):
    yaw, pitch, roll = angles
    return {
        "ImageName": "a.tif",
        "ImageSize": np.array([columns, rows], float),
        "ImTransformed": np.zeros((rows, columns, 3), np.uint8),
        "MidlineX": midline,
        "TrackClick": clicks,
        "Center": centre,
        "RotateAroundML": pitch,
        "RotateAroundDV": yaw,
        "RotateAroundAP": roll,
        "ResizeUpDown": scale[1],
        "ResizeLeftRight": scale[0],
    }


def brainglobe_points(folder, track, indices, voxel_um, name=None):
    """A brainreg output folder with a track in the atlas' space; the table is laid out as pandas does."""
    tracks = folder / "segmentation" / "atlas_space" / "tracks"
    tracks.mkdir(parents=True)
    record = {"atlas": name or f"allen_mouse_{voxel_um}um", "orientation": "psl"}
    (folder / "brainreg.json").write_text(json.dumps(record))
    with h5py.File(tracks / f"{track}.points", "w") as file:
        file["df/block0_values"] = np.asarray(indices, float)


def pinpoint_line(name, entry, tip, space="CCF"):
    """What Pinpoint puts on the clipboard, its numbers rounded to whole ones; entry, tip: AP, DV, ML."""

    def three(point):
        return "({:.0f}, {:.0f}, {:.0f})".format(*np.asarray(point)[[0, 2, 1]])

    depth = np.linalg.norm(np.subtract(tip, entry))
    return (
        f"{name}: ReferenceAtlas {space}, AtlasTransform Qiu2018, Entry and Tip are (AP, ML, DV), Entry (1, 2, 3),"
        f" Tip (4, 5, 6), Angles (0, 90, 0), Depth {depth:.0f}, CCF Entry {three(entry)}, CCF Tip {three(tip)},"
        f" CCF Depth {depth:.0f}"
    )
