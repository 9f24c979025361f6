"""Applies a person's curation to a probe: a new revision of its ALF and NWB beside the pipeline's own files.

The revision is a folder as the ALF standard has it, ``alf/<probe>/#<revision>#`` (and ``nwb/#<revision>#``),
with every file of spikes and clusters, so that none of the automatic ones is taken for it. ONE and
`powerpixels.load_neural_data` read the newest revision unless told otherwise: who curated means it. The
pipeline's own files are not touched.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from powerpixels.alf import CHANNEL_CODES, TABLES, write_typed
from powerpixels.curate import (
    CuratedUnit,
    add_probe_arguments,
    read_curation,
    session_folders,
    sorting_digest,
    sorting_units,
)
from powerpixels.documents import Preprocess
from powerpixels.load import CLOCK_FILE, NO_LABEL, fingerprints, newest_revision
from powerpixels.nwb_edit import OF_ALF, dandi_label, edited_copy
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

NAMESPACE = uuid.UUID("0d1f6b8e-1c55-5b1e-9c39-5d1c3a3a7b42")
APPLIED = "_powerpixels_curation.applied.json"
# The GUI's category of exclusive labels.
CATEGORY = "quality"
UNJUDGED = -1


@dataclass(frozen=True)
class NewUnit:
    """A unit that a merge or split made; k channels of the analyzer.

    made_from: the sorter's ids. trains: which of its spikes of each of these it has, indices into that unit's
    spikes in order of time. mean, sd: (samples, k) float64 µV, NaN where no waveform was measured. depth:
    µm, mean of its spikes' depths. n_spikes: in the whole recording that was sorted.
    """

    unit: str
    unit_id: int
    made_from: list[int]
    trains: dict[int, np.ndarray]
    label: str
    mean: np.ndarray
    sd: np.ndarray
    depth: float
    n_spikes: int


@dataclass(frozen=True)
class Decisions:
    """What is decided of one sorting unit. labels: by the sorter's id. raw_columns: of new units' waveforms.

    peak_sign: of the analyzer. samples: of each split or merged unit's spikes, in the whole sorted recording.
    """

    unit: str
    curation: dict
    gone: set[int]
    labels: dict[int, str]
    new: list[NewUnit]
    raw_columns: np.ndarray
    peak_sign: str
    rate: float
    samples: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """The rows of a revision's clusters: old ones that stay (ascending), then the new units."""

    kept: np.ndarray
    new: list[tuple[Decisions, NewUnit]]
    labels: list[str]


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels apply-curation``."""
    add_probe_arguments(parser)
    parser.add_argument(
        "--revision", metavar="NAME", help="default: today's date; the last by name is the newest"
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels apply-curation``."""
    for folder in apply_curation(args.results, args.probe, args.revision):
        log.info("%s", folder)


def apply_curation(
    results_path: Path | str, probe: str | None = None, revision: str | None = None
) -> list[Path]:
    """Write a revision of a probe's ALF and NWB by its curation; returns its ALF folder in each session.

    Removed units and their spikes are left out; merged and split units leave and new ones come after all
    others, with sorter unit ids above all of that sorting unit's. Other units keep all values, but their
    cluster ids are counted anew. New units: waveforms are the mean over the members' (weighted by their
    spikes) or over the sampled waveforms of a split's spikes, NaN where none was measured; depth and
    amplitude the mean of the spikes'; the tools' labels "unjudged" (-1), metrics but the number and rate of
    spikes unknown. Each spike keeps its own amplitude and depth, which were measured on the sorter's unit.
    clusters.manualLabels: text, the person's label, "no label" without one; a merge has that of its labelled
    members if they agree, a split its parent's. What was done is in _powerpixels_curation.applied.json of
    the revision; its table of units is also in tables/#<revision>#/clusters.metrics.pqt.

    Where the newest revision is of these curation files and of the exported files as they are, nothing is
    written. Raises DataError where there is no curation, or it, the analyzers and the exported files are not
    of one sorting.
    """
    import spikeinterface as si

    results_path = Path(results_path)
    probe, places = sorting_units(results_path, probe)
    decided: list[Decisions] = []
    for place in places.values():
        analyzer = si.load_sorting_analyzer(place.analyzer, load_extensions=True, read_only=True)
        curation = read_curation(place, analyzer)
        if curation is not None:
            decided.append(_decisions(place, curation, analyzer))
    if not decided:
        raise DataError(
            f"{results_path / 'curation' / probe}: expected the curation of {' or '.join(places)}, "
            f"found none; curate first: powerpixels curate {results_path} --probe {probe}"
        )
    sessions = session_folders(results_path, probe)
    folders = [session / "alf" / probe for session in sessions]
    for folder in folders:
        if not (folder / "spikes.clusters.npy").is_file():
            raise DataError(
                f"{folder}: expected the probe's exported spikes, found none; run the pipeline again"
            )
    records = [_record(decided, folder) for folder in folders]
    if revision is None and all(
        _applied(session, folder, record)
        for session, folder, record in zip(sessions, folders, records, strict=True)
    ):
        log.info("revision %s already is of this curation", newest_revision(folders[0]))
        return [folder / f"#{newest_revision(folder)}#" for folder in folders]
    revision = _new_name(folders, revision)

    parts = Preprocess.load(results_path / "qc" / probe / "preprocess.json").parts
    written = []
    for session, folder, part, record in zip(sessions, folders, parts, records, strict=True):
        out = folder / f"#{revision}#"
        # Complete or not there: a reader takes what has the revision's name.
        partial = folder / f".{revision}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        plan, changed = _write_alf(folder, partial, decided, part.start, part.n_samples)
        record["units"] = [
            {
                "cluster_id": len(plan.kept) + k,
                "sorting_unit": unit.unit,
                "sorter_unit_id": unit.unit_id,
                "made_from": unit.made_from,
            }
            for k, (_, unit) in enumerate(plan.new)
        ]
        # The times' own clock, whatever the pipeline's become.
        if (folder / CLOCK_FILE).is_file():
            shutil.copyfile(folder / CLOCK_FILE, partial / CLOCK_FILE)
        (partial / APPLIED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in _nwbs(session, probe):
            _write_nwb(path, session / "nwb" / f"#{revision}#" / path.name, plan, changed, partial, folder)
        write_typed(_typed(partial / "clusters.metrics.csv"), folder / TABLES / out.name)
        partial.rename(out)
        log.info("%s: %d units of %d kept, %d new", probe, len(plan.kept), len(changed["of"]), len(plan.new))
        written.append(out)
    return written


def _record(decided: list[Decisions], folder: Path) -> dict:
    return {
        "made_from": fingerprints(folder),
        "curation": {decisions.unit: decisions.curation for decisions in decided},
    }


def _applied(session: Path, folder: Path, record: dict) -> bool:
    """Whether the newest revision is of this record, with its table, and of every NWB that there is."""
    name = f"#{newest_revision(folder)}#"
    path = folder / name / APPLIED
    nwbs = [session / "nwb" / name / nwb.name for nwb in _nwbs(session, folder.name)]
    if not path.is_file() or not all(part.exists() for part in (folder / TABLES / name, *nwbs)):
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    return {key: found.get(key) for key in record} == record


def _nwbs(session: Path, probe: str) -> list[Path]:
    return sorted((session / "nwb").glob(f"sub-*_probe-{dandi_label(probe)}_*.nwb*"))


def _new_name(folders: list[Path], name: str | None) -> str:
    """The revision's name: as given, else today's date, with a number where that is taken."""
    taken = {path.name for folder in folders for path in folder.glob("#*#")}
    if name is not None:
        if f"#{name}#" in taken or not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise DataError(
                f"revision {name!r}: expected a new name of letters, digits, '-', '_' and '.', found "
                f"{'one that is there' if f'#{name}#' in taken else 'another'}; choose another"
            )
        return name
    today = f"{date.today()}"
    names = (today, *(f"{today}_{k:03d}" for k in range(2, 1000)))
    return next(name for name in names if f"#{name}#" not in taken)


def _decisions(place: CuratedUnit, curation: dict, analyzer) -> Decisions:
    """A curation resolved against its analyzer: every unit is in one decision at most."""
    ids = [int(unit_id) for unit_id in analyzer.unit_ids]
    trains = {
        i: np.asarray(analyzer.sorting.get_unit_spike_train(k))
        for i, k in zip(ids, analyzer.unit_ids, strict=True)
    }
    removed = [int(i) for i in curation["removed"]]
    merges = [[int(i) for i in merge["unit_ids"]] for merge in curation["merges"]]
    splits = {int(split["unit_id"]): _groups(place, split, trains) for split in curation["splits"]}
    used = [*removed, *(i for merge in merges for i in merge), *splits]
    twice = sorted({i for i in used if used.count(i) > 1})
    if twice or len(splits) != len(curation["splits"]):
        raise DataError(
            f"{place.curation}: expected each unit to be removed, merged or split once, found "
            f"otherwise for {twice}; take back one of them"
        )
    labels = {}
    for entry in curation["manual_labels"]:
        chosen = entry["labels"].get(CATEGORY) or [
            word for words in entry["labels"].values() for word in words
        ]
        if chosen:
            labels[int(entry["unit_id"])] = chosen[0]

    measured = _Measured(analyzer, ids)
    new, next_id = [], max(ids) + 1
    for members in merges:
        said = {labels[i] for i in members if i in labels}
        mean, sd = measured.pooled([(i, len(trains[i])) for i in members])
        whole = {i: np.arange(len(trains[i])) for i in members}
        new.append(
            NewUnit(
                place.name,
                next_id,
                sorted(members),
                whole,
                said.pop() if len(said) == 1 else NO_LABEL,
                mean,
                sd,
                measured.depth(whole),
                sum(len(trains[i]) for i in members),
            )
        )
        next_id += 1
    for parent, groups in splits.items():
        for group in groups:
            mean, sd = measured.sampled(parent, group)
            share = {parent: group}
            label = labels.get(parent, NO_LABEL)
            depth = measured.depth(share)
            new.append(NewUnit(place.name, next_id, [parent], share, label, mean, sd, depth, len(group)))
            next_id += 1
    gone = set(used)
    return Decisions(
        unit=place.name,
        curation={**curation, "sorting_sha256": sorting_digest(analyzer)},
        gone=gone,
        labels={i: label for i, label in labels.items() if i not in gone},
        new=new,
        raw_columns=np.asarray(analyzer.get_recording_property("raw_column")),
        peak_sign=analyzer.peak_sign,
        rate=analyzer.sampling_frequency,
        samples={i: trains[i] for i in gone},
    )


def _groups(place: CuratedUnit, split: dict, trains: dict[int, np.ndarray]) -> list[np.ndarray]:
    """A split's parts as indices into the unit's spikes; spikes in none of them are one more part."""
    n = len(trains[int(split["unit_id"])])
    where = f"{place.curation}: split of unit {split['unit_id']}"
    if split["mode"] == "labels":
        labels = np.asarray(split["labels"])
        if len(labels) != n:
            raise DataError(
                f"{where}: expected {n} labels, one per spike, found {len(labels)}; split it again"
            )
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [np.unique(indices) for indices in split["indices"] if len(indices)]
    taken = np.concatenate([*groups, np.zeros(0, int)]).astype(int)
    if taken.size and not 0 <= taken.min() <= taken.max() < n:
        raise DataError(f"{where}: expected indices of its {n} spikes, found {taken.max()}; split it again")
    rest = np.setdiff1d(np.arange(n), taken)
    groups = [group for group in (*groups, rest) if len(group)]
    if len(groups) < 2:
        raise DataError(
            f"{where}: expected two parts with spikes, found {len(groups)}; split it again or not"
        )
    return groups


class _Measured:
    """Waveforms and depths of an analyzer's units."""

    def __init__(self, analyzer, ids: list[int]):
        self.analyzer = analyzer
        self.row = {unit_id: row for row, unit_id in enumerate(ids)}
        templates = analyzer.get_extension("templates")
        self.means = np.asarray(templates.get_data(operator="average"), dtype=np.float64)
        self.sds = np.asarray(templates.get_data(operator="std"), dtype=np.float64)
        n_channels = analyzer.get_num_channels()
        self.mask = (
            analyzer.sparsity.mask if analyzer.is_sparse() else np.ones((len(ids), n_channels), dtype=bool)
        )
        self.unit_index = analyzer.sorting.to_spike_vector()["unit_index"]
        self.depths = np.asarray(analyzer.get_extension("spike_locations").get_data()["y"])

    def depth(self, trains: dict[int, np.ndarray]) -> float:
        """Mean depth of spikes, given as indices into their units' own."""
        of_units = [self.depths[self.unit_index == self.row[i]][train] for i, train in trains.items()]
        return float(np.mean(np.concatenate(of_units)))

    def pooled(self, members: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (samples, channels) over units, weighted by their number of spikes."""
        rows = [self.row[i] for i, _ in members]
        share = np.array([n for _, n in members], dtype=np.float64)
        share = (share / share.sum())[:, None, None]
        mean = (share * self.means[rows]).sum(axis=0)
        square = (share * (self.sds[rows] ** 2 + self.means[rows] ** 2)).sum(axis=0)
        sd = np.sqrt(np.maximum(square - mean**2, 0))
        everywhere = self.mask[rows].all(axis=0)
        return np.where(everywhere, mean, np.nan), np.where(everywhere, sd, np.nan)

    def sampled(self, unit_id: int, spikes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same over those of a unit's spikes whose waveforms the analyzer keeps."""
        row = self.row[unit_id]
        chosen = np.asarray(self.analyzer.get_extension("random_spikes").get_data())
        of_unit = chosen[self.unit_index[chosen] == row]
        position = np.searchsorted(np.flatnonzero(self.unit_index == row), of_unit)
        waveforms = self.analyzer.get_extension("waveforms").get_waveforms_one_unit(
            self.analyzer.unit_ids[row], force_dense=True
        )
        mine = np.asarray(waveforms[np.isin(position, spikes)], dtype=np.float64)
        if not len(mine):
            nothing = np.full(self.means.shape[1:], np.nan)
            return nothing, nothing
        mask = self.mask[row]
        return np.where(mask, mine.mean(axis=0), np.nan), np.where(mask, mine.std(axis=0), np.nan)


def _write_alf(
    folder: Path, out: Path, decided: list[Decisions], start: int, n_samples: int
) -> tuple[_Plan, dict]:
    """Write a revision's files of spikes and clusters; returns its rows, and what else NWB needs."""
    import pandas as pd

    # As text: what stays, stays to the last digit.
    table = pd.read_csv(folder / "clusters.metrics.csv", dtype=str, keep_default_na=False)
    row_of = {
        (unit, int(i)): row
        for row, (unit, i) in enumerate(zip(table["sorting_unit"], table["sorter_unit_id"], strict=True))
    }
    spikes = {path.name: np.load(path) for path in sorted(folder.glob("spikes.*.npy"))}
    old, samples = spikes["spikes.clusters.npy"], spikes["spikes.samples.npy"]
    gone = {(decisions.unit, i) for decisions in decided for i in decisions.gone}
    if not gone <= row_of.keys():
        raise DataError(
            f"{folder}: expected the units {sorted(gone - row_of.keys())[:5]} of the analyzers, "
            "found none; run the pipeline again"
        )
    kept = np.array([row for key, row in row_of.items() if key not in gone], dtype=np.int64)
    new = [(decisions, unit) for decisions in decided for unit in decisions.new]
    said = {(d.unit, i): label for d in decided for i, label in d.labels.items()}
    keys = list(row_of)
    labels = [said.get(keys[row], NO_LABEL) for row in kept] + [unit.label for _, unit in new]
    plan = _Plan(kept, new, labels)

    cluster = np.full(len(table), -1, dtype=np.int64)
    cluster[kept] = np.arange(len(kept))
    clusters = cluster[old]
    for k, (decisions, unit) in enumerate(new):
        for unit_id, train in unit.trains.items():
            mine = np.flatnonzero(old == row_of[unit.unit, unit_id])
            # The session's share of the spikes that were sorted.
            all_samples = decisions.samples[unit_id]
            first, last = np.searchsorted(all_samples, [start, start + n_samples])
            if not np.array_equal(samples[mine] + start, all_samples[first:last]):
                raise DataError(
                    f"{folder}: expected the spikes of the analyzer's unit {unit_id} ({unit.unit}), found "
                    "others; run the pipeline again"
                )
            train = train[(train >= first) & (train < last)] - first
            clusters[mine[train]] = len(kept) + k
    stay = clusters >= 0
    for name, values in spikes.items():
        values = clusters.astype(values.dtype) if name == "spikes.clusters.npy" else values
        np.save(out / name, values[stay], allow_pickle=False)
    clusters = clusters[stay]
    counts = np.bincount(clusters, minlength=len(plan.labels))
    amps = np.bincount(clusters, weights=spikes["spikes.amps.npy"][stay], minlength=len(plan.labels))

    changed = _new_values(folder, plan)
    changed["of"] = table
    is_new = np.arange(len(kept), len(plan.labels))
    with np.errstate(invalid="ignore", divide="ignore"):
        changed["clusters.amps"] = (amps / counts)[is_new].astype(np.float32)
    for path in sorted(folder.glob("clusters.*.npy")):
        values = np.load(path)
        new = changed.get(path.stem)
        if new is None and path.stem.endswith("Labels") and values.dtype.kind in "if":
            new = np.full(len(plan.new), UNJUDGED)
        np.save(out / path.name, _rows(values, plan, new), allow_pickle=False)
    np.save(out / "clusters.manualLabels.npy", np.array(labels, dtype=np.str_), allow_pickle=False)
    _write_tables(folder, out, plan, changed, counts)
    return plan, changed


def _new_values(folder: Path, plan: _Plan) -> dict:
    """The new units' rows of clusters' files, by the files' stems; also their raw columns and sd."""
    raw_ind = np.load(folder / "channels.rawInd.npy")
    positions = np.load(folder / "channels.localCoordinates.npy")
    width = np.load(folder / "clusters.waveformsChannels.npy", mmap_mode="r").shape[1]
    row_of_raw = {int(raw): row for row, raw in enumerate(raw_ind)}
    sorted_on = np.isin(
        np.load(folder / "channels.labels.npy"), [CHANNEL_CODES["good"], CHANNEL_CODES["noise"]]
    )
    found: dict[str, list] = {
        name: [] for name in ("channels", "depths", "peakToTrough", "waveforms", "sd", "waveformsChannels")
    }
    for decisions, unit in plan.new:
        rows = np.array([row_of_raw[int(raw)] for raw in decisions.raw_columns])
        heights = {"both": np.abs(unit.mean), "neg": -unit.mean, "pos": unit.mean}[decisions.peak_sign]
        if np.isnan(heights).all():
            # None of its spikes is among the sampled waveforms: they were found on the parent's channel.
            parent = _main_channel_of_parent(folder, unit)
            main = int(np.flatnonzero(rows == parent)[0])
        else:
            main = int(np.nanmax(np.nan_to_num(heights, nan=-np.inf), axis=0).argmax())
        distance = np.linalg.norm(positions - positions[rows[main]], axis=1)
        distance[~sorted_on] = np.inf
        nearest = np.argsort(distance, kind="stable")[:width]
        own = np.full(len(positions), -1)
        own[rows] = np.arange(len(rows))
        column = own[nearest]
        mean, sd = (
            np.where(column >= 0, values[:, np.maximum(column, 0)], np.nan) * 1e-6
            for values in (unit.mean, unit.sd)
        )
        on_main = unit.mean[:, main]
        known = not np.isnan(on_main).any()
        found["channels"].append(rows[main])
        found["depths"].append(unit.depth)
        found["peakToTrough"].append(
            (int(on_main.argmax()) - int(on_main.argmin())) / decisions.rate * 1e3 if known else np.nan
        )
        found["waveforms"].append(mean)
        found["sd"].append(sd)
        found["waveformsChannels"].append(nearest)
    changed = {
        f"clusters.{name}": np.array(values) for name, values in found.items() if values and name != "sd"
    }
    changed["sd"] = np.array(found["sd"])
    main_channels = np.array(found["channels"], dtype=int)
    for path in (*folder.glob("channels.brainLocation*.npy"), *folder.glob("channels.mlapdv.npy")):
        changed[path.stem.replace("channels.", "clusters.")] = np.load(path)[main_channels]
    changed["raw_columns"] = raw_ind[main_channels]
    return changed


def _main_channel_of_parent(folder: Path, unit: NewUnit) -> int:
    """Row of channels of the main channel of the unit that a new one was made from."""
    import pandas as pd

    table = pd.read_csv(folder / "clusters.metrics.csv", usecols=["sorting_unit", "sorter_unit_id"])
    row = np.flatnonzero(
        (table["sorting_unit"] == unit.unit) & (table["sorter_unit_id"] == unit.made_from[0])
    )[0]
    return int(np.load(folder / "clusters.channels.npy")[row])


def _rows(values: np.ndarray, plan: _Plan, new: np.ndarray | None = None) -> np.ndarray:
    """Rows that stay, then the new units': `new`, or what says that nothing is known."""
    if new is None:
        unknown = {"f": np.nan, "i": -1, "u": 0, "b": False, "U": "", "O": ""}[values.dtype.kind]
        new = np.full((len(plan.new), *values.shape[1:]), unknown, dtype=values.dtype)
    return np.concatenate(
        [values[plan.kept], np.asarray(new, dtype=values.dtype).reshape(-1, *values.shape[1:])]
    )


def _write_tables(folder: Path, out: Path, plan: _Plan, changed: dict, counts: np.ndarray) -> None:
    """clusters.uuids.csv and clusters.metrics.csv: text as it was, with the column made_from."""
    import pandas as pd

    table: pd.DataFrame = changed["of"]
    uuids = pd.read_csv(folder / "clusters.uuids.csv", dtype=str)["uuids"].to_numpy()
    revised = table.iloc[plan.kept].assign(made_from="")
    new_rows, new_uuids = [], []
    uuid_of = dict(zip(zip(table["sorting_unit"], table["sorter_unit_id"], strict=True), uuids, strict=True))
    contacts = np.load(folder / "channels.contactIds.npy")
    shanks = np.load(folder / "channels.shanks.npy")
    first = len(plan.kept)
    for k, (decisions, unit) in enumerate(plan.new):
        channel = int(changed["clusters.channels"][k])
        # Plain "label" is IBL's score, a number.
        row = {name: "unjudged" if name.endswith("_label") else "" for name in table.columns}
        parent = table[(table["sorting_unit"] == unit.unit)].iloc[0]
        row |= {
            "sorting_unit": unit.unit,
            "sorter_unit_id": str(unit.unit_id),
            "shank": str(shanks[channel]),
            "raw_column": str(changed["raw_columns"][k]),
            "contact_id": str(contacts[channel]),
            "made_from": "+".join(map(str, unit.made_from)),
        }
        if "firing_rate" in row:
            row["firing_rate"] = _rate(table, decisions, unit)
        if "num_spikes" in row:
            row["num_spikes"] = _like(parent["num_spikes"], unit.n_spikes)
        if "session_spikes" in row:
            row["session_spikes"] = str(counts[first + k])
        new_rows.append(row)
        sources = "+".join(
            f"{uuid_of[unit.unit, str(i)]}/{hashlib.sha256(train.astype('<i8').tobytes()).hexdigest()}"
            for i, train in sorted(unit.trains.items())
        )
        new_uuids.append(str(uuid.uuid5(NAMESPACE, sources)))
    revised = pd.concat([revised, pd.DataFrame(new_rows, columns=revised.columns)], ignore_index=True)
    revised["cluster_id"] = [str(k) for k in range(len(revised))]
    revised.to_csv(out / "clusters.metrics.csv", index=False, lineterminator="\n")
    changed["uuids"] = [*uuids[plan.kept], *new_uuids]
    (out / "clusters.uuids.csv").write_text("\n".join(["uuids", *changed["uuids"]]) + "\n")
    changed["table"] = revised


def _typed(path: Path) -> pd.DataFrame:
    """A revision's clusters.metrics.csv with the types of the pipeline's own table."""
    import pandas as pd

    from powerpixels.export import IDENTITY_COLUMNS

    texts = ["ks2_label", "made_from", *(name for name, kind in IDENTITY_COLUMNS.items() if kind == "object")]
    table = pd.read_csv(path, dtype=dict.fromkeys(texts, str), float_precision="round_trip")
    words = table.columns.intersection(texts)
    table[words] = table[words].fillna("")
    return table


def _like(text: str, number: int) -> str:
    """A count as the column writes it: whole numbers stand as 12.0 where a unit has none."""
    return f"{float(number)}" if "." in text else str(number)


def _rate(table: pd.DataFrame, decisions: Decisions, unit: NewUnit) -> str:
    """Spikes per second, by the seconds that the parents' rates and counts are of."""
    mine = table[
        (table["sorting_unit"] == unit.unit) & (table["sorter_unit_id"] == str(unit.made_from[0]))
    ].iloc[0]
    rate = float(mine["firing_rate"] or "nan")
    seconds = len(decisions.samples[unit.made_from[0]]) / rate if rate else np.nan
    return f"{unit.n_spikes / seconds!r}" if np.isfinite(seconds) else ""


def _write_nwb(source: Path, target: Path, plan: _Plan, changed: dict, revised: Path, folder: Path) -> None:
    """A copy of the probe's NWB with the revision's units: every column of its table, whatever it has."""
    times, clusters = np.load(revised / "spikes.times.npy"), np.load(revised / "spikes.clusters.npy")
    around = np.load(revised / "clusters.waveformsChannels.npy")
    n, first = len(plan.labels), len(plan.kept)
    order = np.argsort(clusters, kind="stable")
    table = changed["table"]
    with edited_copy(source, target) as nwb:
        electrodes = "general/extracellular_ephys/electrodes"
        row_of_raw = {int(raw): row for row, raw in enumerate(nwb.read(f"{electrodes}/raw_column"))}
        electrode_of = np.array([row_of_raw[int(raw)] for raw in np.load(folder / "channels.rawInd.npy")])
        observed = np.zeros((0, 2))
        if len(changed["of"]):
            observed = nwb.read("units/obs_intervals")[: nwb.read("units/obs_intervals_index")[0]]
        ragged = {
            "spike_times": (times[order], np.cumsum(np.bincount(clusters, minlength=n))),
            "obs_intervals": (np.tile(observed, (n, 1)), np.arange(1, n + 1) * len(observed)),
            "electrodes": (electrode_of[around].ravel(), np.arange(1, n + 1) * around.shape[1]),
        }
        of_new = {
            "waveform_mean": changed.get("clusters.waveforms"),
            "waveform_sd": changed["sd"] if len(plan.new) else None,
            **{name: changed.get(file) for name, file in OF_ALF.items()},
        }
        columns = [name for name in nwb.columns("units") if not name.endswith("_index")]
        for name in columns:
            path = f"units/{name}"
            if name in ragged:
                values, ends = ragged[name]
                nwb.replace(path, values.astype(nwb.read(path).dtype))
                nwb.replace(f"{path}_index", ends.astype(np.uint64))
                nwb.point_at(f"{path}_index", path)
            elif f"{name}_index" in nwb.columns("units"):
                raise ValueError(f"{source}: units have the ragged column {name}, which is not known here")
            elif name == "id":
                nwb.replace(path, np.arange(n, dtype=nwb.read(path).dtype))
            elif name == "electrode_group":
                groups = nwb.read(f"{electrodes}/group")
                of_shank = dict(zip(map(str, nwb.read(f"{electrodes}/shank")), groups, strict=True))
                new = [of_shank[shank] for shank in table["shank"].iloc[first:]]
                nwb.replace(path, _objects([*nwb.read(path)[plan.kept], *new]))
            elif nwb.is_text(path):
                csv = {"kilosort_label": "ks2_label"}.get(name, name)
                new = table[csv].iloc[first:] if csv in table else [""] * len(plan.new)
                new = changed["uuids"][first:] if name == "uuid" else new
                nwb.replace(path, _objects([*nwb.read(path)[plan.kept], *new]))
            else:
                old, new = nwb.read(path), of_new.get(name)
                if new is None and name in table:
                    new = [float(v) if v else np.nan for v in table[name].iloc[first:]]
                    if old.dtype.kind in "iu" and np.isnan(new).any():
                        new = None
                nwb.replace(path, _rows(old, plan, new))
        added = {
            "manual_label": ("a person's label of the unit", plan.labels),
            "made_from": (
                "sorter unit ids that a person merged into the unit (2+7), or split it from",
                list(table["made_from"]),
            ),
        }
        for name, (description, values) in added.items():
            nwb.add_texts("units", name, values, "sorting_unit", description)
        digest = hashlib.sha256((revised / APPLIED).read_bytes()).hexdigest()
        identifier = str(uuid.uuid5(NAMESPACE, f"{nwb.read('identifier')[0]}/{digest}"))
        said = nwb.read("session_description")[0]
        nwb.replace("identifier", _objects([identifier]))
        nwb.replace("session_description", _objects([f"{said} The units were curated by hand."]))


def _objects(values: list) -> np.ndarray:
    """A one-dimensional array of Python objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
