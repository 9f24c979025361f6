"""Probe tracings as the histology tools write them, read into one frame: µm from bregma, as IBL counts.

Every tool counts in its own way; here a voxel of the Allen CCF (2017) is the same voxel for all of them:

* iblatlas: CCF position in µm = index of the voxel, from 0, times its size; ML from the left.
* AP_Histology: voxels of 10 µm counted from 1, as AP, DV, ML.
* Universal Probe Finder: the same voxels with all three axes reversed, as ML, AP, DV.
* brainglobe: AP, DV, ML with ML counted **from the right** (its atlases are "asr", whatever the orientation
  of the sample is), ``.points`` in voxels, ``.npy`` in µm.
* Pinpoint: µm as AP, ML, DV; ML from the left.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from powerpixels.histology_mat import Struct, load_struct, variables
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

# iblatlas' ALLEN_CCF_LANDMARKS_MLAPDV_UM, and the size of the Allen CCF's volume; as AP, DV, ML.
BREGMA_UM = np.array([5400.0, 332.0, 5739.0])
CCF_UM = np.array([13200.0, 8000.0, 11400.0])
MATLAB_VOXEL_UM = 10.0
CCF_VOXELS = (CCF_UM / MATLAB_VOXEL_UM).astype(int)

FORMATS = ("ap_histology_v1", "ap_histology_v2", "upf", "brainglobe", "pinpoint", "csv", "xyz_picks")
MAT_VARIABLES = {
    "probe_ccf": "ap_histology_v1",
    "AP_histology_processing": "ap_histology_v2",
    "sProbeCoords": "upf",
    "sSliceData": "upf",
}
# Where AP_Histology's export_ibl_probe writes files of that name, which are not in IBL's convention.
AP_HISTOLOGY_EXPORT = "IBL_probe_coordinates"
# No probe is that short: picks that span less are in mm.
SHORTEST_UM = 50.0
SUFFIXES = (".mat", ".points", ".npy", ".csv", ".txt", ".json")
UNITS_UM = {"um": 1.0, "mm": 1000.0}
READ = (
    "probe_ccf.mat or AP_histology_processing.mat of AP_Histology, a slice or tracks file of the"
    " Universal Probe Finder (.mat), a track of brainglobe-segmentation (.points, .npy), Pinpoint's text,"
    " a CSV file with columns ap, dv and ml, or xyz_picks.json"
)


@dataclass(frozen=True)
class Track:
    """One traced probe or shank. name: as the tool has it, None where it has none.

    points: (n, 3) float64, µm from bregma: ML (right +), AP (anterior +), DV (up +).
    ready: whether the points are picks already, not to be fitted again.
    """

    name: str | None
    points: np.ndarray
    file: Path
    ready: bool = False


def ccf_to_bregma(points_um: np.ndarray) -> np.ndarray:
    """Allen CCF positions as µm from bregma, as ``iblatlas.atlas.AllenAtlas.ccf2xyz`` has them.

    points_um: (n, 3), AP, DV, ML in µm from the volume's anterior, dorsal, left corner.
    Returns (n, 3): ML (right +), AP (anterior +), DV (up +).
    """
    ap, dv, ml = (np.asarray(points_um, dtype=float) - BREGMA_UM).T
    return np.column_stack([ml, -ap, -dv])


def read_tracks(
    paths: Sequence[Path], kind: str = "auto", unit: str | None = None, atlas: str | None = None
) -> list[Track]:
    """The tracks in files, or in all files of folders, in the order of the paths, then of the file.

    kind: "auto" or one of FORMATS: which files of a folder to take. unit: "um" or "mm", of CSV files whose
    header does not say it. atlas: brainglobe's name of the atlas of tracks that lie without brainreg.json.
    Raises ``DataError`` where a file can't be read, nothing is found, or a folder holds several formats.
    """
    tracks = []
    for path in paths:
        for file, found in _files(Path(path), kind):
            tracks += _read(file, found, unit, atlas)
    return tracks


def _files(path: Path, kind: str) -> list[tuple[Path, str]]:
    """Files to read below a path, each with its format."""
    if path.is_file():
        found = sniff(path)
        if found is None or kind not in ("auto", found):
            wanted = READ if kind == "auto" else f"a file of the format {kind}"
            raise DataError(f"{path}: expected {wanted}, found {found or 'none of those'}; give another file")
        return [(path, found)]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder; correct the path")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    known = []
    for file in files:
        found = sniff(file, searched=True)
        if found is not None and kind in ("auto", found):
            known.append((file, found))
    # The points that were clicked are better than the curve that was drawn through them.
    clicked = {file.with_suffix("") for file, _ in known if file.suffix == ".points"}
    known = [pair for pair in known if pair[0].suffix != ".npy" or pair[0].with_suffix("") not in clicked]
    kinds = sorted({found for _, found in known})
    if not known:
        raise DataError(f"{path}: expected a folder with {READ}, found none of them; give the file itself")
    if len(kinds) > 1:
        names = ", ".join(f"{file.relative_to(path)} ({found})" for file, found in known)
        raise DataError(f"{path}: expected tracings of one tool, found {names}; give the file, or --format")
    return known


def sniff(path: Path, searched: bool = False) -> str | None:
    """Which of FORMATS a file is of, by its suffix and what it holds; None where it is of none.

    searched: it was come upon in a folder, where a damaged or foreign file is passed over, not an error.
    """
    suffix = path.suffix.lower()
    if suffix == ".mat":
        try:
            names = variables(path)
        except DataError:
            if searched:
                log.warning("%s: left out, it can't be read", path)
                return None
            raise
        return next((kind for name, kind in MAT_VARIABLES.items() if name in names), None)
    if suffix in (".points", ".npy"):
        # Other arrays may lie in a folder; and tracks in the sample's own space are of no use.
        usable = path.parent.name == "tracks" and path.parent.parent.name != "sample_space"
        return "brainglobe" if usable or not searched else None
    if suffix == ".json":
        if searched and path.parent.parent.name == AP_HISTOLOGY_EXPORT:
            log.info("%s: left out, AP_Histology's own export is in mm and in another order", path)
            return None
        return "xyz_picks" if re.fullmatch(r".*xyz_picks(_shank\d+)?\.json", path.name) else None
    if suffix in (".csv", ".txt"):
        with path.open("rb") as file:
            start = file.read(65536).decode("utf-8-sig", errors="replace")
        if "CCF Tip (" in start:
            return "pinpoint"
        columns = _columns(next(csv.reader(start.splitlines()), []))
        if {"ap", "dv", "ml"} <= set(columns):
            return "csv"
        if not searched and "Distance from first position" in start:
            raise DataError(
                f"{path}: expected coordinates, found the regions along a track; give the .points or .npy"
                " file beside it"
            )
        if not searched and suffix == ".csv":
            raise DataError(
                f"{path}: expected the columns ap, dv and ml in the first line (as in ap_um,dv_um,ml_um;"
                f" from the Allen CCF's corner), found {', '.join(start.splitlines()[:1]) or 'nothing'};"
                " name them"
            )
    return None


def _read(path: Path, kind: str, unit: str | None, atlas: str | None) -> list[Track]:
    """The tracks of one file, without points that are not numbers."""
    if kind == "csv":
        named = _read_csv(path, unit)
    elif kind == "brainglobe":
        named = [(path.stem, ccf_to_bregma(_read_brainglobe(path, atlas)))]
    elif kind == "xyz_picks":
        named = [_read_picks(path)]
    else:
        readers = {
            "ap_histology_v1": _read_ap_histology_v1,
            "ap_histology_v2": _read_ap_histology_v2,
            "upf": _read_upf,
            "pinpoint": _read_pinpoint,
        }
        named = [(name, ccf_to_bregma(points)) for name, points in readers[kind](path)]
    if not any(points.size for _, points in named):
        raise DataError(f"{path}: expected traced points, found none; trace the probes and save it again")
    tracks = []
    for number, (name, points) in enumerate(named, 1):
        good = np.isfinite(points).all(axis=1)
        if not good.all():
            log.warning("%s: track %s: %d points that are no numbers left out", path, number, (~good).sum())
        _check_inside(path, name or f"{number}", points[good])
        tracks.append(Track(name, points[good], path, ready=kind == "xyz_picks"))
    return tracks


def _check_inside(path: Path, track: str, points: np.ndarray) -> None:
    """Raise ``DataError`` where a point is outside of the atlas: its unit or axes are not what they seem."""
    ccf = np.column_stack([-points[:, 1], -points[:, 2], points[:, 0]]) + BREGMA_UM
    outside = ~((ccf >= 0) & (ccf <= CCF_UM)).all(axis=1)
    if outside.any():
        ap, dv, ml = ccf[outside][0]
        raise DataError(
            f"{path}: track {track}: expected points within the Allen CCF (AP 0-13200, DV 0-8000, ML"
            f" 0-11400 um), found AP {ap:.0f}, DV {dv:.0f}, ML {ml:.0f} um; check the unit, the axes and"
            " the atlas of the tracing"
        )


def _read_ap_histology_v1(path: Path) -> list[tuple[str | None, np.ndarray]]:
    """AP_Histology until 2025: struct array ``probe_ccf``, ``points`` (n, 3) as AP, DV, ML voxels from 1.

    They are MATLAB's subscripts into template_volume_10um.npy: annotate_neuropixels takes them from a grid
    ``1:size(tv, 3)`` by ``1:size(tv, 2)`` and reads the areas at ``sub2ind(size(av), ap, dv, ml)``
    (grab_atlas_slice.m and annotate_neuropixels.m of github.com/petersaj/AP_histology, d7cee11).
    """
    probes = load_struct(path, "probe_ccf")
    return [
        (None, (_points(path, probes.get(k, "points"), f"probe_ccf({k + 1}).points") - 1) * MATLAB_VOXEL_UM)
        for k in range(len(probes))
    ]


def _read_ap_histology_v2(path: Path) -> list[tuple[str | None, np.ndarray]]:
    """AP_Histology from 2025: ``annotation(k).label`` and, by slice, ``vertices_ccf(slice).ap/dv/ml``.

    Subscripts as in v1: annotation2ccf.m takes them from the same grid of grab_atlas_slice.m.
    """
    processing = load_struct(path, "AP_histology_processing")
    annotations = processing.get(0, "annotation") if processing.has("annotation") else None
    if not isinstance(annotations, Struct):
        raise DataError(f"{path}: expected annotations, there is none; draw the probes with AP_Histology")
    tracks = []
    for k in range(len(annotations)):
        slices, label = annotations.get(k, "vertices_ccf"), annotations.get(k, "label")
        points = [np.zeros((0, 3))]
        for j in range(len(slices) if isinstance(slices, Struct) else 0):
            axes = [np.ravel(slices.get(j, axis)) for axis in ("ap", "dv", "ml")]
            if len({axis.size for axis in axes}) > 1:
                raise DataError(
                    f"{path}: annotation {k + 1}, slice {j + 1}: expected as many AP as DV and ML"
                    f" coordinates, found {[axis.size for axis in axes]}; draw it again with AP_Histology"
                )
            points.append(np.column_stack(axes).astype(float))
        name = label if isinstance(label, str) else None
        tracks.append((name, (np.concatenate(points) - 1) * MATLAB_VOXEL_UM))
    return tracks


def _read_upf(path: Path) -> list[tuple[str | None, np.ndarray]]:
    """Universal Probe Finder: exported tracks or a probe's location (sProbeCoords), or slices (sSliceData).

    Its atlas is the Allen CCF with all axes reversed, as ML, AP, DV (AL_PrepABA): voxel u there is voxel
    N + 1 - u. Its own reading of ML from bregma (PH_SphVec2BregmaVec) has the same sign as ours.
    """
    if "sProbeCoords" in variables(path):
        named = _upf_tracks(path, load_struct(path, "sProbeCoords"))
    else:
        named = _upf_slices(path, load_struct(path, "sSliceData"))
    ml_ap_dv = CCF_VOXELS[[2, 0, 1]]
    return [(name, (ml_ap_dv - points)[:, [1, 2, 0]] * MATLAB_VOXEL_UM) for name, points in named]


def _upf_tracks(path: Path, coords: Struct) -> list[tuple[str | None, np.ndarray]]:
    """Names and traced points (n, 3), ML, AP, DV in its voxels, of sProbeCoords."""
    for field in ("sourceatlas", "AtlasType"):
        atlas = coords.get(0, field) if coords.has(field) else None
        if isinstance(atlas, str) and atlas != "Allen-CCF-Mouse":
            raise DataError(
                f"{path}: expected a tracing on the atlas Allen-CCF-Mouse, found {atlas}; IBL's convention"
                " is for the mouse only"
            )
    layout = coords.get(0, "format") if coords.has("format") else None
    source = coords.get(0, "Type") if coords.has("Type") else None
    if layout != "ML,AP,DV" and (coords.has("sProbeAdjusted") or source not in (None, "native")):
        raise DataError(
            f"{path}: expected points as ML,AP,DV, found a file of an old version that has them otherwise;"
            " open it in the Universal Probe Finder 1.1 or newer and save it again"
        )
    cells = coords.get(0, "cellPoints")
    names = coords.get(0, "cellNames") if coords.has("cellNames") else []
    if not isinstance(cells, list):
        raise DataError(f"{path}: expected tracks in sProbeCoords.cellPoints, there is none; export it again")
    tracks = []
    for k, cell in enumerate(cells):
        if isinstance(cell, np.ndarray) and cell.ndim == 2 and cell.shape[0] == 3 < cell.shape[1]:
            cell = cell.T
        name = names[k] if k < len(names) and isinstance(names[k], str) else None
        tracks.append((name, _points(path, cell, f"cellPoints{{{k + 1}}}")))
    return tracks


def _upf_slices(path: Path, data: Struct) -> list[tuple[str | None, np.ndarray]]:
    """Names and traced points (n, 3), ML, AP, DV in its voxels, of the clicks on slices in sSliceData.

    The way from a slice's pixels to the atlas is the Universal Probe Finder's own (SF_SlicePts2AtlasPts):
    scale, subtract from the middle, rotate by yaw, pitch and roll, add the slice's centre.
    """
    # The file does not name its atlas, so that the rat's or the monkey's can't be told from the mouse's.
    log.warning("%s: taken as aligned to the Allen CCF mouse atlas, which a slice file does not say", path)
    tracks, slices = data.get(0, "Track"), data.get(0, "Slice")
    if not isinstance(tracks, Struct) or not isinstance(slices, Struct):
        raise DataError(
            f"{path}: expected tracks drawn on slices, there is none; draw them in the SlicePrepper"
        )
    named = [(tracks.get(k, "name"), [np.zeros((0, 3))]) for k in range(len(tracks))]
    for j in range(len(slices)):
        clicks = slices.get(j, "TrackClick")
        for i in range(len(clicks) if isinstance(clicks, Struct) else 0):
            number, pixels = np.ravel(clicks.get(i, "Track")), clicks.get(i, "Vec")
            # Slices nobody drew on have one click of track 0.
            if number.size != 1 or number[0] == 0 or not np.size(pixels):
                continue
            if not 1 <= number[0] <= len(tracks):
                raise DataError(
                    f"{path}: slice {j + 1}: expected a track from 1 to {len(tracks)}, found"
                    f" {number[0]:.0f}; draw it again in the SlicePrepper"
                )
            named[int(number[0]) - 1][1].append(_slice_to_atlas(np.asarray(pixels), slices, j))
    return [(name if isinstance(name, str) else None, np.concatenate(parts)) for name, parts in named]


def _slice_to_atlas(pixels: np.ndarray, slices: Struct, j: int) -> np.ndarray:
    """Positions (n, 3), ML, AP, DV in its voxels, of a slice's pixels (n, 2), x and y."""

    def value(field: str, default: float) -> float:
        found = np.ravel(slices.get(j, field)) if slices.has(field) else np.zeros(0)
        return float(found[0]) if found.size else default

    shape = CCF_VOXELS[[2, 0, 1]]
    rows, columns = slices.size(j, "ImTransformed")[:2]
    fitting = min(shape[0] / columns, shape[1] / rows)
    scale_x, scale_y = value("ResizeLeftRight", fitting), value("ResizeUpDown", fitting)
    centre = np.ravel(slices.get(j, "Center")) if slices.has("Center") else np.zeros(0)
    centre = centre if centre.size == 3 else shape / 2
    # round() of MATLAB goes away from zero, that of numpy to the even neighbour.
    middle = np.array(
        [(value("MidlineX", 0.0) or columns / 2) * scale_x, 0.0, np.floor(rows * scale_y + 0.5) / 2]
    )
    away = np.column_stack([pixels[:, 0] * scale_x, np.zeros(len(pixels)), pixels[:, 1] * scale_y])
    yaw, pitch, roll = np.deg2rad([value(f"RotateAround{axis}", 0.0) for axis in ("DV", "ML", "AP")])
    about_dv = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    about_ap = [[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]]
    about_ml = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    # Points are rows, and the rotation is the transpose of this product: so it stands on the right as it is.
    return (middle - away) @ (np.array(about_dv) @ about_ap @ about_ml) + centre


def _read_brainglobe(path: Path, atlas: str | None) -> np.ndarray:
    """Points (n, 3), AP, DV, ML in µm of the CCF with ML from the left, of a track of brainglobe's."""
    if "sample_space" in path.resolve().parts or "sample_space" in path.parts:
        raise DataError(
            f"{path}: expected a track in the atlas' space, found one in the sample's; trace it on the"
            " registered brain (segmentation/atlas_space)"
        )
    voxel_um = _brainglobe_voxel_um(path, atlas)
    try:
        if path.suffix == ".npy":
            points = _points(path, np.load(path), "its array")
        else:
            with h5py.File(path, "r") as file:
                points = _points(path, file["df/block0_values"][()], "its table") * voxel_um
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path}: expected a track of brainglobe-segmentation, it can't be read ({error}); save it again"
        ) from None
    points[:, 2] = CCF_UM[2] - voxel_um - points[:, 2]
    return points


def _brainglobe_voxel_um(path: Path, atlas: str | None) -> float:
    """Size of a voxel of the atlas that brainreg.json, beside the track or above it, or the user names."""
    folders = dict.fromkeys([*path.absolute().parents, *path.resolve().parents])
    said = next(
        (folder / "brainreg.json" for folder in folders if (folder / "brainreg.json").is_file()), None
    )
    if said is not None:
        try:
            named = json.loads(said.read_text(encoding="utf-8"))["atlas"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{said}: expected brainreg's record with an atlas, found none ({error})"
            ) from None
        if atlas not in (None, named):
            raise DataError(f"{said}: names the atlas {named}, but --atlas says {atlas}; correct one of them")
        atlas = named
    if atlas is None:
        raise DataError(
            f"{path}: expected brainreg.json in a folder above, which tells the atlas, found none; give"
            " brainreg's whole output folder, or the atlas with --atlas (as in allen_mouse_25um)"
        )
    match = re.fullmatch(r"allen_mouse_(10|25|50|100)um", str(atlas))
    if match is None:
        raise DataError(
            f"{said or path}: expected a track in the atlas allen_mouse_10um, _25um, _50um or _100um,"
            f" found {atlas}; register the brain to one of these"
        )
    return float(match[1])


def _read_pinpoint(path: Path) -> list[tuple[str | None, np.ndarray]]:
    """Pinpoint's text (its button "copy"): a line for each probe with its CCF entry and tip as AP, ML, DV."""
    three = r"\(\s*(-?[\d.]+),\s*(-?[\d.]+),\s*(-?[\d.]+)\s*\)"
    tracks = []
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.strip():
            continue
        head = re.match(r"\s*\"?(?P<name>.+?): ReferenceAtlas (?P<atlas>[^,]+),", line)
        entry, tip = re.search(f"CCF Entry {three}", line), re.search(f"CCF Tip {three}", line)
        if head is None or entry is None or tip is None:
            raise DataError(
                f"{path}: expected Pinpoint's lines with a name, CCF Entry and CCF Tip, found"
                f" {line.strip()[:60]!r}; copy them from Pinpoint again"
            )
        if not re.fullmatch(r"(?i)ccf|allen[_ ]mouse.*", head["atlas"].strip()):
            raise DataError(
                f"{path}: {head['name']}: expected the atlas CCF, found {head['atlas'].strip()}; choose it in"
                " Pinpoint and copy again"
            )
        try:
            points = np.array([entry.groups(), tip.groups()], dtype=float)[:, [0, 2, 1]]
        except ValueError:
            raise DataError(
                f"{path}: {head['name']}: expected numbers, found {line.strip()[:200]!r}"
            ) from None
        # It writes whole millimetres or whole micrometres, as its settings say, and does not tell which.
        if (np.abs(points) <= CCF_UM.max() / 1000 + 1).all():
            raise DataError(
                f"{path}: {head['name']}: expected micrometres, found whole millimetres; let Pinpoint's"
                " settings show um and copy again"
            )
        tracks.append((head["name"].strip(), points))
    return tracks


def _columns(header: Sequence[str]) -> dict[str, tuple[int, str | None]]:
    """Of a CSV header: column and unit ("um", "mm", None where not said) of ap, dv and ml; column of"
    " others."""
    found: dict[str, tuple[int, str | None]] = {}
    for position, cell in enumerate(header):
        text = cell.strip().lower().replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
        match = re.fullmatch(r"(?:ccf[_ ])?(ap|dv|ml)(?:[_ ]ccf)?(?:[_ ]*[\[(]?\s*(um|mm)\s*[\])]?)?", text)
        name, unit = match.groups() if match else (text, None)
        found.setdefault(name, (position, unit))
    return found


def _read_csv(path: Path, unit: str | None) -> list[tuple[str | None, np.ndarray]]:
    """A CSV file of CCF points: columns ap, dv, ml (from the corner; ML from the left), also probe and shank.

    The unit is in the header (ap_um, "dv (mm)") or said by the user; it is never taken from the values.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    columns = _columns(rows[0])
    said = {columns[axis][1] for axis in ("ap", "dv", "ml")}
    if len(said) > 1 or (unit is not None and said not in ({None}, {unit})):
        units = sorted(str(name) for name in said | {unit} if name)
        raise DataError(
            f"{path}: expected one unit, found {' and '.join(units)} (header, --unit); correct one"
        )
    unit = unit or next(iter(said))
    if unit is None:
        raise DataError(
            f"{path}: expected a unit of ap, dv and ml, found none; name the columns ap_um, dv_um, ml_um"
            " (or _mm), or give --unit"
        )
    tracks: dict[str | None, list[list[float]]] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            point = [float(row[columns[axis][0]]) for axis in ("ap", "dv", "ml")]
            parts = [row[columns[name][0]].strip() for name in ("probe", "shank") if name in columns]
        except (ValueError, IndexError):
            raise DataError(
                f"{path}: row {number}: expected numbers in ap, dv and ml and as many columns as in the"
                f" header, found {','.join(row)[:80]!r}; correct it"
            ) from None
        # A shank's name as --probes has it: shank1, or probe00_shank1.
        if "shank" in columns and parts[-1] and not parts[-1].lower().startswith("shank"):
            parts[-1] = f"shank{parts[-1]}"
        tracks.setdefault("_".join(part for part in parts if part) or None, []).append(point)
    return [(name, ccf_to_bregma(np.array(points) * UNITS_UM[unit])) for name, points in tracks.items()]


def _read_picks(path: Path) -> tuple[str | None, np.ndarray]:
    """Picks that are ready, µm from bregma; named after the file's folder and shank."""
    try:
        points = np.array(json.loads(path.read_text(encoding="utf-8"))["xyz_picks"], dtype=float)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}: expected {{"xyz_picks": [[x, y, z], ...]}} in um from bregma, found otherwise ({error})'
        ) from None
    points = _points(path, points, "xyz_picks")
    if len(points) and np.ptp(points, axis=0).max() < SHORTEST_UM:
        raise DataError(
            f"{path}: expected picks in um from bregma, found a track that spans"
            f" {np.ptp(points, axis=0).max():.1f};"
            " AP_Histology's own export is in mm and in another order: give AP_histology_processing.mat"
            " in its place"
        )
    shank = re.search(r"_(shank\d+)\.json$", path.name)
    name = "_".join(part for part in (path.absolute().parent.name, shank and shank[1]) if part)
    return name, points


def _points(path: Path, value: object, what: str) -> np.ndarray:
    """A value as float64 (n, 3), also with n = 0; raises ``DataError`` where it is none."""
    array = np.asarray(value) if isinstance(value, np.ndarray) else np.asarray(None)
    if array.dtype.kind in "fiu" and array.size == 0:
        return np.zeros((0, 3))
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 3:
        raise DataError(
            f"{path}: expected {what} with three columns, found {'x'.join(map(str, array.shape)) or 'none'};"
            " save it again with its tool"
        )
    return array.astype(float)
