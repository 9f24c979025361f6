"""Reads a probe's published spikes, units and channels into arrays: the way into an analysis.

It needs only numpy and pandas. Reads what this pipeline publishes (``alf/<probe>``), its manual revisions
(`powerpixels.apply_curation`) and the result folders of the original Power Pixels (``<session>/<probe>``).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from powerpixels.brain import read_locations
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

# Who judged the units: the attributes of the file clusters.<attribute>.npy, the original's older one last.
LABELS = {
    "bombcell": ("bombcellLabels",),
    "unitrefine": ("unitrefineLabels", "MLLabel"),
    "ibl": ("iblLabels", "IBLLabel"),
    "kilosort": ("kilosortLabels", "KSLabel"),
    "consensus": ("consensusLabels",),
    "manual": ("manualLabels",),
}
# What stands for a unit to keep: the automatic labels are codes, a person's are words.
GOOD = {**dict.fromkeys(LABELS, 1), "manual": "good"}
# A person's word, as the original Power Pixels writes it, of a unit without one.
NO_LABEL = "no label"

# Spikes' files in which a revision must be of the pipeline's present result; of others it may be behind.
OF_ONE_SORTING = ("times", "clusters", "samples")
SPIKES = ("times", "clusters", "amps", "depths", "samples", "templates", "muted")
CLUSTERS = {"channels": "channels", "depths": "depths", "amps": "amps", "peakToTrough": "peak_to_trough"}
# Identity of a unit, columns of clusters.metrics.csv; the others are metrics.
IDENTITY = ("sorting_unit", "shank", "sorter_unit_id", "made_from")
CHANNELS = {"rawInd": "raw_ind", "shanks": "shank", "contactIds": "contact_id", "labels": "label"}

# Says of each file with times in its folder which clock they are on.
CLOCK_FILE = "_powerpixels_clock.fit.json"


@dataclass(frozen=True)
class Clock:
    """What spikes["times"] are counted on.

    name: the stream whose first sample is zero ("nidq", "imec0.ap"); "unknown" where no file says it, as in
    the original's folders. bound_us: what the times' error against that clock can't exceed, None where not
    known. description: in words.
    """

    name: str
    bound_us: float | None
    description: str


@dataclass(frozen=True)
class NeuralData:
    """Spikes, clusters and channels of a probe; unpacks as these three.

    Dicts of arrays by name, or DataFrames; within each all have the same length. clock: of spikes["times"].
    revision: the manual revision that was read, "" for the pipeline's own result.
    """

    spikes: dict[str, np.ndarray] | pd.DataFrame
    clusters: dict[str, np.ndarray] | pd.DataFrame
    channels: dict[str, np.ndarray] | pd.DataFrame
    clock: Clock
    revision: str

    def __iter__(self) -> Iterator:
        """The three tables, so that a loader's result unpacks as in the original."""
        return iter((self.spikes, self.clusters, self.channels))


def load_neural_data(
    session_path: Path | str,
    probe: str,
    keep_units: str = "all",
    histology: bool | Path | str = False,
    as_dataframe: bool = False,
    revision: str | None = None,
) -> NeuralData:
    """Load a probe: ``spikes, clusters, channels = load_neural_data(session_path, "probe00")``.

    session_path: ``<outdir>/<subject>/<date>/<NNN>``, or a session of the original Power Pixels. probe: its
    folder's name ("probe00", "ProbeA"; the original's with its identifier). keep_units: "all", or whose word
    counts: "bombcell", "unitrefine", "ibl", "kilosort", "consensus" (units with code 1) or "manual" (units
    labelled "good"); other units and their spikes are left out. histology: True adds the brain regions of
    channel_locations.json or channel_locations_shank<k>.json in the probe's or the session's folder, else
    those that the pipeline published; or the file or folder where they are. as_dataframe: tables instead of
    dicts. revision: of apply-curation; None is the newest there is, "" the pipeline's own result.

    spikes: times (float64 s, on the result's clock), clusters (a cluster_id each), amps (V), depths (µm),
    samples (of the probe's AP stream), templates (the cluster before any manual revision) and muted (lies in
    a stretch that was muted), the last three where they are published. clusters: cluster_id (ids are kept
    when units are left out, so they have gaps: cluster 7 of the spikes is where cluster_id is 7), channels
    (row of channels), <tool>_label for all tools that judged, depths, amps, peak_to_trough (ms in this
    pipeline's files, s in the original's), uuids, identity and metrics where published; with histology
    acronym.
    channels: all recorded ones: lateral_um, axial_um, raw_ind (column of the raw file), shank, contact_id,
    label (0 good, 1 dead, 2 noisy, 3 out of the brain: 1 and 3 were not sorted); with histology
    acronym, atlas_id, x, y, z (µm from bregma), "" , -1 and NaN where a channel has no location.

    Label codes: 0 noise (Kilosort: mua), 1 good, 2 mua, 3 non-somatic, -1 unjudged; the original's IBL labels
    are the fraction of passed tests.

    Raises DataError where files are missing or do not belong together, as a revision and spikes that the
    pipeline wrote anew since (where it wrote other files anew, a warning is logged), and where the one whose
    word counts judged no unit; ValueError for an unknown keep_units.
    """
    if keep_units != "all" and keep_units not in LABELS:
        raise ValueError(f"keep_units must be one of {', '.join(['all', *LABELS])}, not {keep_units!r}")
    session = Path(session_path)
    folder = probe_folder(session, probe)
    if revision is None:
        revision = newest_revision(folder)
    files = _Files(folder, revision)
    if revision:
        _check_revision(folder, files.revised)

    spikes = {name: files.array("spikes", name, required=name in ("times", "clusters")) for name in SPIKES}
    spikes = {name: values for name, values in spikes.items() if values is not None}
    channels = _channels(files)
    clusters = _clusters(files, len(channels["lateral_um"]))
    for name, table in (("spikes", spikes), ("clusters", clusters), ("channels", channels)):
        _check_lengths(files, name, table)
    n = len(clusters["cluster_id"])
    if spikes["clusters"].size and not 0 <= spikes["clusters"].min() <= spikes["clusters"].max() < n:
        raise DataError(
            f"{files.folder}: expected spikes of clusters 0 to {n - 1}, found "
            f"{spikes['clusters'].min()} to {spikes['clusters'].max()}; its files are not of one export"
        )
    if histology is not False:
        where = _histology_folders(session, folder, probe) if histology is True else [Path(histology)]
        _add_histology(channels, where, files if histology is True else None)
        main = clusters["channels"]
        clusters["acronym"] = channels["acronym"][main] if len(main) else np.zeros(0, dtype=np.str_)

    if keep_units != "all":
        keep = _kept(files, clusters, keep_units)
        of_kept = keep[spikes["clusters"]]
        spikes = {name: values[of_kept] for name, values in spikes.items()}
        clusters = {name: values[keep] for name, values in clusters.items()}
    if as_dataframe:
        import pandas as pd

        spikes, clusters, channels = (pd.DataFrame(table) for table in (spikes, clusters, channels))
    return NeuralData(spikes, clusters, channels, _clock(files), revision)


def probe_folder(session: Path, probe: str) -> Path:
    """The folder with the probe's spikes.times.npy; raises DataError naming the probes that are there."""
    for folder in (session / "alf" / probe, session / probe):
        if (folder / "spikes.times.npy").is_file():
            return folder
    if not session.is_dir():
        raise DataError(f"{session}: expected a session's folder, found nothing; correct the path")
    found = sorted(
        {path.parent.name for at in (session / "alf", session) for path in at.glob("*/spikes.times.npy")}
    )
    raise DataError(
        f"{session}: expected spikes.times.npy in alf/{probe} or {probe}, found "
        + (f"the probes {', '.join(found)}; name one of them" if found else "no sorted probe")
    )


def revisions(folder: Path) -> list[str]:
    """Names of the manual revisions in a probe's ALF folder, oldest first, as ONE orders them."""
    return sorted(path.parent.name.strip("#") for path in folder.glob("#*#/spikes.times.npy"))


def newest_revision(folder: Path) -> str:
    """The last of ``revisions``, "" if there is none."""
    return (revisions(folder) or [""])[-1]


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of an ALF folder that a revision is made from: spikes', clusters', the clock's."""
    files = [*folder.glob("spikes.*.npy"), *folder.glob("clusters.*"), *folder.glob(CLOCK_FILE)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@dataclass(frozen=True)
class _Files:
    """A probe's ALF files, those of a revision before the others."""

    folder: Path
    revision: str

    @property
    def revised(self) -> Path:
        return self.folder / f"#{self.revision}#" if self.revision else self.folder

    def find(self, name: str) -> Path | None:
        for at in dict.fromkeys((self.revised, self.folder)):
            if (at / name).is_file():
                return at / name
        return None

    def array(self, object_: str, attribute: str, required: bool = False) -> np.ndarray | None:
        path = self.find(f"{object_}.{attribute}.npy")
        if path is None:
            if required:
                raise DataError(
                    f"{self.revised}: expected {object_}.{attribute}.npy, found none; the probe's export is "
                    "incomplete: run the pipeline again"
                )
            return None
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(
                f"{path}: expected a numpy array, found otherwise ({error}); copy it again"
            ) from None

    def labels(self, tool: str) -> np.ndarray | None:
        arrays = (self.array("clusters", attribute) for attribute in LABELS[tool])
        return next((array for array in arrays if array is not None), None)


def _check_revision(folder: Path, revised: Path) -> None:
    """A revision of a sorting that is there no more would silently hide the new one."""
    path = revised / "_powerpixels_curation.applied.json"
    if not path.is_file():
        known = ", ".join(revisions(folder)) or "none"
        raise DataError(f"{folder}: expected the revision {revised.name.strip('#')!r}, found {known}")
    made_from = json.loads(path.read_text(encoding="utf-8")).get("made_from", {})
    found = fingerprints(folder)
    changed = sorted(name for name in made_from.keys() | found if made_from.get(name) != found.get(name))
    if set(changed) & {f"spikes.{name}.npy" for name in OF_ONE_SORTING}:
        raise DataError(
            f"{revised}: expected a revision of the spikes in {folder}, found one of an earlier export "
            f"({', '.join(changed[:5])} differ); apply the curation again (powerpixels apply-curation), or "
            "read the pipeline's own result with revision=''"
        )
    if changed:
        log.warning(
            "%s was made before the pipeline wrote %s anew; powerpixels apply-curation makes one of the new",
            revised,
            ", ".join(changed[:5]) + (f" and {len(changed) - 5} more files" if len(changed) > 5 else ""),
        )


def _channels(files: _Files) -> dict[str, np.ndarray]:
    positions = files.array("channels", "localCoordinates", required=True)
    channels = {"lateral_um": positions[:, 0], "axial_um": positions[:, 1]}
    for attribute, name in CHANNELS.items():
        values = files.array("channels", attribute)
        if values is not None:
            channels[name] = values
    return channels


def _clusters(files: _Files, n_channels: int) -> dict[str, np.ndarray]:
    import pandas as pd

    main = files.array("clusters", "channels", required=True)
    if main.size and not 0 <= main.min() <= main.max() < n_channels:
        raise DataError(
            f"{files.revised}: expected clusters.channels within the {n_channels} channels, found "
            f"{main.min()} to {main.max()}; its files are not of one export"
        )
    clusters = {"cluster_id": np.arange(len(main))}
    for attribute, name in CLUSTERS.items():
        values = files.array("clusters", attribute)
        if values is not None:
            clusters[name] = values
    for tool in LABELS:
        values = files.labels(tool)
        if values is not None:
            clusters[f"{tool}_label"] = values
    path = files.find("clusters.uuids.csv")
    if path is not None:
        clusters["uuids"] = pd.read_csv(path, dtype=str)["uuids"].to_numpy(dtype=np.str_)
    path = files.find("clusters.metrics.csv")
    if path is not None:
        table = pd.read_csv(path, float_precision="round_trip")
        for name in table.columns:
            # Labels are the coded files'; the original wrote its index and labels as columns, too.
            judged = name == "label" or name.endswith("_label") or name.lower() in LABELS
            if judged or name in clusters or name.startswith(("Unnamed", "cluster_id")):
                continue
            if name in IDENTITY or pd.api.types.is_numeric_dtype(table[name]):
                values = table[name]
                clusters[name] = (
                    values.fillna("").to_numpy(dtype=np.str_) if values.dtype == object else values.to_numpy()
                )
    return clusters


def _check_lengths(files: _Files, name: str, table: dict[str, np.ndarray]) -> None:
    lengths = {attribute: len(values) for attribute, values in table.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{files.revised}: expected all arrays of {name} to be of one length, found {lengths}; its files "
            "are not of one export: publish it again"
        )


def _kept(files: _Files, clusters: dict[str, np.ndarray], tool: str) -> np.ndarray:
    labels = clusters.get(f"{tool}_label")
    judged = {name: _judged(clusters[f"{name}_label"]) for name in LABELS if f"{name}_label" in clusters}
    there = [name for name, units in judged.items() if units.any()]
    if labels is not None and labels.size and tool not in there:
        raise DataError(
            f"{files.revised}: expected units that {tool} judged to keep the good ones, found {labels.size} "
            f"units and none judged; keep by {' or '.join(there) or 'all'}"
            + (", or run the pipeline with --unitrefine_models" if tool == "unitrefine" else "")
        )
    if labels is None:
        raise DataError(
            f"{files.revised}: expected clusters.{LABELS[tool][0]}.npy to keep the good units of "
            f"{tool}, found labels of {', '.join(there) or 'nobody'}"
            + ("; curate and apply first" if tool == "manual" else "; keep by one of these")
        )
    return labels == GOOD[tool]


def _judged(labels: np.ndarray) -> np.ndarray:
    """Which units a tool said something of, or a person."""
    return labels != NO_LABEL if labels.dtype.kind == "U" else labels >= 0


def _clock(files: _Files) -> Clock:
    path = files.find(CLOCK_FILE)
    if path is None:
        return Clock("unknown", None, "no file beside the spikes says which clock their times are on")
    stated = json.loads(path.read_text(encoding="utf-8"))
    # Earlier versions said it once for the whole folder.
    times = stated.get("files", {}).get("spikes.times.npy")
    times = times or {"clock": stated["reference"], "bound_us": stated.get("bound_us")}
    return Clock(times["clock"], times["bound_us"], stated.get("description", ""))


def _histology_folders(session: Path, folder: Path, probe: str) -> list[Path]:
    return [folder, session / probe, session / "histology" / probe, session]


def _add_histology(channels: dict[str, np.ndarray], where: list[Path], files: _Files | None) -> None:
    """Add acronym, atlas_id, x, y and z to channels, from the first place that has channel locations.

    files: the probe's, which may have locations that were published; None where a place was asked for.
    """
    n = len(channels["lateral_um"])
    acronym, atlas_id = np.full(n, "", dtype=object), np.full(n, -1, dtype=np.int64)
    xyz = np.full((n, 3), np.nan)
    for place in where:
        paths = [place] if place.is_file() else sorted(place.glob("channel_locations*.json"))
        if paths:
            break
    published = None if files is None or paths else files.array("channels", "mlapdv")
    if paths:
        positions = np.column_stack([channels["lateral_um"], channels["axial_um"]])
        for row, (*at, region_id, name) in read_locations(paths, positions).items():
            acronym[row], atlas_id[row], xyz[row] = name, region_id, at
    elif published is not None:
        xyz = published
        known = ~np.isnan(xyz[:, 0])
        acronym = files.array("channels", "brainLocationAcronyms_ccf_2017", required=True)
        region_ids = files.array("channels", "brainLocationIds_ccf_2017", required=True)
        atlas_id[known] = region_ids[known]
    else:
        raise DataError(
            f"expected channel_locations.json or channel_locations_shank<k>.json in "
            f"{', '.join(str(place) for place in where)}, found none; align the probe or load "
            "without histology"
        )
    missing = int(np.isnan(xyz[:, 0]).sum())
    if missing:
        log.info("%d of %d channels have no brain location", missing, n)
    channels["acronym"], channels["atlas_id"] = acronym.astype(np.str_), atlas_id
    channels.update(zip("xyz", xyz.T, strict=True))
