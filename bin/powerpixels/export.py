"""Gathers a probe's sorting units, labels, metrics and clock into one table of units and spikes.

Everything is joined by identity: channels by raw file column and contact id, units by (sorting
unit, the sorter's own unit id), spikes by (sample, unit id). The result is what the writers of
ALF (`powerpixels.alf`) and NWB (`powerpixels.nwb`) put on disk.

Sessions that were sorted as one are exported one by one: each with all units, which are the same
clusters with the same UUIDs in all of them, and with its own spikes on its own clock.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from powerpixels.agreement import TOOLS, Agreement, agreement
from powerpixels.artifacts import in_intervals
from powerpixels.brain import BrainLocation, load_channel_locations
from powerpixels.clock import to_reference_seconds
from powerpixels.documents import (
    Channel,
    ClockFit,
    Part,
    Preprocess,
    PreprocessedUnit,
    ProbeDocument,
    ProbeSummary,
    SortingDocument,
    Stream,
)
from powerpixels.motion import MotionDocument, motion_folders
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

# Waveforms are kept on this many channels around a unit's main channel, as the International
# Brain Laboratory's files do.
WAVEFORM_CHANNELS = 32

# Of SpikeInterface's unit locations: they are fitted to the channels within it of the main one.
FIT_RADIUS_UM = 75.0

# Root of all identifiers made here: the same input always gets the same ones.
NAMESPACE = uuid.UUID("6f0c2a52-4c0e-5d0b-9a53-0c6f2f3d7d11")

# Column of the cluster table: spikes in this session, of sessions that were sorted as one.
SESSION_SPIKES = "session_spikes"

# Joined sessions' stated rates differ by this at most, relative: see PREPROCESS.
MAX_RATE_DIFFERENCE = 1e-4

# The bound on the clock's error is cautious: of 2218 simulated sessions with one below 50 µs a single one had
# an error above a sample of 30 kHz, of 212 with one between 50 and 100 µs fourteen.
CLOCK_NOTE_SAMPLES = 1.5

# Columns of the cluster table that are ours, and their types; all others are metrics.
IDENTITY_COLUMNS = {
    "cluster_id": "int64",
    "sorting_unit": "object",
    "shank": "int64",
    "sorter_unit_id": "int64",
    "raw_column": "int64",
    "contact_id": "object",
    "kilosort_label": "object",
    "bombcell_label": "object",
    "unitrefine_label": "object",
    "ibl_label": "object",
    "consensus_label": "object",
    "unitrefine_probability": "float64",
    "ibl_score": "float64",
    "ibl_bitwise": "float64",
}

# Column of labels.csv, by its name in the cluster table.
LABEL_COLUMNS = {
    "kilosort_label": "kilosort",
    "bombcell_label": "bombcell",
    "unitrefine_label": "unitrefine",
    "ibl_label": "ibl",
    "consensus_label": "consensus",
    "unitrefine_probability": "unitrefine_probability",
    "ibl_score": "ibl_score",
    "ibl_bitwise": "ibl_bitwise",
}


@dataclass(frozen=True)
class UnitFolders:
    """Where one sorting unit's results are: folders of SORT, ANALYZE and LABEL, and its recording.json."""

    sorting: Path
    analysis: Path
    labels: Path
    recording: Path


@dataclass(frozen=True)
class UnitMotion:
    """How far the tissue along a sorting unit's shank had moved up, of t times and d depths.

    times: (t,) float64 s on the reference clock. depths: (d,) float64 µm, of the channels' y. um: (t, d)
    float64 µm.
    """

    times: np.ndarray
    depths: np.ndarray
    um: np.ndarray


@dataclass(frozen=True)
class ProbeExport:
    """All that is exported of a probe: n clusters, s spikes, c kept channels, w = min(32, c).

    document: the probe's raw data. clock: its fit to the reference clock. channels: the kept
    channels of all sorting units, each once, ascending in raw_column. channel_labels: what
    bad-channel detection said of every recorded channel, by raw_column. brain: where the recorded channels
    lie, by raw_column; empty where the probe was not aligned, without those that the alignment left out.

    clusters: table of n rows, row k is cluster k, in order of (sorting unit, sorter's unit id);
    columns IDENTITY_COLUMNS, then the metrics; where sessions were sorted as one also SESSION_SPIKES, as
    labels and metrics are then of all sessions. cluster_channels: (n,) int32, main channel as index
    into channels. cluster_depths: (n,) float32 µm, see ``_depths``. cluster_amps: (n,) float32 V, mean of the
    spikes' amplitudes, NaN without a spike. cluster_peak_to_trough: (n,) float64 ms, time of the mean
    waveform's maximum minus that of its minimum on the main channel. cluster_uuids: n texts.

    waveforms, waveforms_sd: (n, samples, w) float32 V, mean and standard deviation, main channel
    first, then by distance; NaN on channels where the analysis measured none.
    waveform_channels: (n, w) int32, indices into channels. waveform_before_ms: time of the
    sorter's spike sample within the waveform.

    observed: (b, 2) float64 s, start and end of the recording's stretches without a gap on the reference
    clock. gaps: (b - 1, 2) int64, between them: the first sample after the gap and the number of samples
    that were not recorded.
    spike_samples: (s,) int64, ascending, samples of the probe's AP stream, which does not count what lies
    in gaps. spike_times: (s,)
    float64 s on the reference clock. spike_clusters: (s,) int32. spike_amps: (s,) float32 V,
    positive in the direction of the unit's peak. spike_depths: (s,) float32 µm from the probe's
    origin, up. spike_muted: (s,) bool, spikes within stretches that were muted before sorting, where the
    sorter can have seen nothing but what is left at their ends.
    units: names of all sorting units. motions: where it was estimated, by sorting unit, or shank of one that
    has several.

    notes: what the user should know, one text each (a skipped shank, …). drift: who corrected it and why,
    by sorting unit. joined: that of the sessions that were sorted as one with this one, "" if there are none.
    sorting: name of what was sorted, the same in each of these sessions: all of them, and the probe.
    """

    document: ProbeDocument
    clock: ClockFit
    channels: list[Channel]
    channel_labels: dict[int, str]
    brain: dict[int, BrainLocation]
    clusters: pd.DataFrame
    cluster_channels: np.ndarray
    cluster_depths: np.ndarray
    cluster_amps: np.ndarray
    cluster_peak_to_trough: np.ndarray
    cluster_uuids: list[str]
    waveforms: np.ndarray
    waveforms_sd: np.ndarray
    waveform_channels: np.ndarray
    waveform_before_ms: float
    observed: np.ndarray
    gaps: np.ndarray
    spike_samples: np.ndarray
    spike_times: np.ndarray
    spike_clusters: np.ndarray
    spike_amps: np.ndarray
    spike_depths: np.ndarray
    spike_muted: np.ndarray
    units: list[str]
    motions: dict[str, UnitMotion]
    notes: list[str]
    drift: str
    joined: str
    sorting: str
    noise_uv: float | None

    @property
    def recorded(self) -> list[Channel]:
        """All recorded channels, bad ones too, ascending in raw_column: the rows of ALF's channels.*."""
        return _by_column(self.document.probe.ap.channels)

    @property
    def gap_intervals(self) -> np.ndarray:
        """(g, 2) float64 s on the reference clock: where each gap begins and ends."""
        return np.column_stack([self.observed[:-1, 1], self.observed[1:, 0]])

    @property
    def identifier(self) -> str:
        """A UUID that follows from the session, the probe and its spikes."""
        digest = hashlib.sha256()
        for spikes in (self.spike_samples, self.spike_clusters, self.spike_times):
            digest.update(np.ascontiguousarray(spikes).tobytes())
        session, probe = self.document.session, self.document.probe
        return str(
            uuid.uuid5(NAMESPACE, f"{session.subject}/{session.session}/{probe.name}/{digest.hexdigest()}")
        )


@dataclass(frozen=True)
class _Unit:
    """One sorting unit's results."""

    sorting: SortingDocument
    recording: PreprocessedUnit
    channels: list[Channel]  # the columns of mean and sd; main_channels are indices into it
    table: pd.DataFrame  # one row per sorter's unit id, ascending; labels and metrics
    main_channels: np.ndarray  # (n,)
    depths: np.ndarray  # (n,) µm
    peak_to_trough: np.ndarray  # (n,) ms
    mean: np.ndarray  # (n, samples, columns) V, NaN where not measured
    sd: np.ndarray  # same
    before_ms: float
    samples: np.ndarray  # (s,) int64
    unit_index: np.ndarray  # (s,) row of table
    amps: np.ndarray  # (s,) V
    spike_depths: np.ndarray  # (s,) µm


def gather(
    document: ProbeDocument,
    preprocess: Preprocess,
    clock: ClockFit,
    units: list[UnitFolders],
    locations: Sequence[Path] = (),
    muted: Path | None = None,
    motions: Sequence[Path] = (),
) -> ProbeExport:
    """Join everything known of a probe in one session into one ProbeExport.

    document: of the session to export. preprocess: of the recording that was sorted, this session's or
    that of several sessions. units: the probe's sorting units, in any order; each unit that PREPROCESS
    made must be there exactly once. locations: channel_locations*.json of the probe's alignment, if there is
    one; where they do not fit, there are no regions and a note says why. muted: muted.npy of PREPROCESS, if
    anything was to be muted. motions: folders of DRIFT, of those sorting units whose motion was looked for.
    Raises ValueError where the parts do not belong together (another probe's or another unit's folder, a
    spike or unit that one stage has and another has not): that is a defect of the pipeline, never to be
    papered over.
    """
    probe = document.probe
    part = _part(document, preprocess)
    _belongs("sync.json", clock.probe, probe.name)
    _belongs("sync.json's stream", clock.stream, probe.ap.name)
    _belongs("sync.json's sampling rate", clock.sampling_rate_hz, probe.ap.sampling_rate_hz)

    labels = {(label.raw_column, label.contact_id): label.label for label in preprocess.labels}
    recorded = {(channel.raw_column, channel.contact_id): channel for channel in probe.ap.channels}
    if labels.keys() != recorded.keys():
        raise ValueError(
            f"preprocess.json labels other channels than probe {probe.name} recorded: "
            f"{sorted(labels.keys() ^ recorded.keys())[:5]}"
        )

    read = sorted((_read_unit(preprocess.probe, folders) for folders in units), key=_unit_order)
    names = [unit.sorting.unit for unit in read]
    if sorted(names) != sorted(preprocess.units):
        raise ValueError(
            f"probe {probe.name} has the sorting units {sorted(preprocess.units)}, "
            f"but the results are of {sorted(names)}"
        )

    n_joined = preprocess.parts[-1].start + preprocess.parts[-1].n_samples
    channels: dict[int, Channel] = {}
    for unit in read:
        _check_recording(unit.recording, probe.ap, n_joined)
        for channel in unit.recording.channels:
            own = recorded.get((channel.raw_column, channel.contact_id))
            # Its name may differ in a session that was recorded with another version of the program.
            if own is None or own != channel.model_copy(update={"channel_id": own.channel_id}):
                raise ValueError(
                    f"recording.json of {unit.sorting.unit} has a channel that probe {probe.name} "
                    f"did not record so: {channel}"
                )
            if channel.raw_column in channels:
                raise ValueError(f"raw column {channel.raw_column} is in two sorting units of {probe.name}")
            channels[channel.raw_column] = own
    kept = [channels[column] for column in sorted(channels)]

    clusters, of_all = _concatenate(read, {c.raw_column: k for k, c in enumerate(kept)}, kept)
    table = clusters["table"]
    uuids = _cluster_uuids(preprocess, table, of_all)
    spikes = _of_part(of_all, part, n_joined)
    n_spikes = np.bincount(spikes["clusters"], minlength=len(table))
    muted_intervals = _muted_intervals(preprocess, part, muted)
    spike_muted = in_intervals(spikes["samples"], muted_intervals)
    joined = _joined(preprocess, part)
    if joined:
        table = table.assign(**{SESSION_SPIKES: n_spikes})
    blocks = probe.ap.blocks()
    ends = np.array([[block.offset, block.offset + block.n_samples] for block in blocks])
    starts = np.array([block.start for block in blocks])
    gaps = np.column_stack([starts[1:], ends[1:, 0] - ends[:-1, 1]])
    notes = [_note(unit) for unit in read if not len(unit.table)] + _preprocessing_notes(preprocess)
    if probe.lf_source is None:
        notes.append(
            "no LF band: the probe records it in a stream of its own, which was not found or can't be used; "
            "so there are no LF levels, spectra or LFP"
        )
    if joined:
        notes.append(joined)
    if len(gaps):
        seconds = gaps[:, 1].sum() / probe.ap.sampling_rate_hz
        notes.append(
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''} in the recording, {seconds:.3g} s in all"
        )
    if len(muted_intervals):
        notes.append(
            f"{int(spike_muted.sum())} of {spike_muted.size} spikes lie in stretches that were muted"
        )
    brain = {}
    try:
        brain = load_channel_locations(locations, _by_column(probe.ap.channels))
    except DataError as error:
        # Spikes and units are none the worse for it.
        notes.append(f"without brain regions: {error}")
        log.warning("%s: %s", probe.name, notes[-1])
    sample_us = 1e6 / probe.ap.sampling_rate_hz
    if clock.bound_us is not None and clock.bound_us > CLOCK_NOTE_SAMPLES * sample_us:
        notes.append(
            f"times may be off by up to {clock.bound_us:.0f} µs, more than a sample: so coarse or slow is "
            f"the sync wave on {clock.reference} or on the probe"
        )
    log.info(
        "%s: %d units, %d spikes on %d of %d channels",
        probe.name,
        len(table),
        spikes["samples"].size,
        len(kept),
        len(recorded),
    )
    return ProbeExport(
        document=document,
        clock=clock,
        channels=kept,
        channel_labels={column: label for (column, _), label in labels.items()},
        brain=brain,
        clusters=table,
        cluster_channels=clusters["channels"],
        cluster_depths=clusters["depths"],
        cluster_amps=_mean_amplitude(spikes["clusters"], spikes["amps"], n_spikes),
        cluster_peak_to_trough=clusters["peak_to_trough"],
        cluster_uuids=uuids,
        waveforms=clusters["mean"],
        waveforms_sd=clusters["sd"],
        waveform_channels=clusters["waveform_channels"],
        waveform_before_ms=clusters["before_ms"],
        observed=to_reference_seconds(clock, ends),
        gaps=gaps,
        spike_samples=spikes["samples"],
        spike_times=to_reference_seconds(clock, probe.ap.acquired(spikes["samples"])),
        spike_clusters=spikes["clusters"],
        spike_amps=spikes["amps"],
        spike_depths=spikes["depths"],
        spike_muted=spike_muted,
        units=names,
        motions=_motions(preprocess, part, probe.ap, clock, motions),
        notes=notes,
        drift=_drift(read, motions),
        joined=joined,
        sorting=_sorting(preprocess),
        noise_uv=preprocess.noise_uv,
    )


def _preprocessing_notes(preprocess: Preprocess) -> list[str]:
    """Where a shank, or the probe, was preprocessed otherwise than was asked for.

    A shank that is a unit and has no channels is told by what its sorting said.
    """
    notes = []
    for step in preprocess.steps:
        empty = step.get("n_channels") == 0 and f"shank{step['shank']}" in preprocess.units
        if "note" in step and not empty:
            where = f" of shank {step['shank']}" if "shank" in step else ""
            notes.append(f"{step['step']}{where}: {step['note']}")
    return notes


def _drift(units: list[_Unit], motions: Sequence[Path] = ()) -> str:
    """Who corrected the units' drift: each reason once, after the names of its units.

    Of traces that were to be corrected before sorting also whether they were, and what DRIFT said of it.
    """
    said: dict[str, list[str]] = {}
    for folder in (found for own in motions for found in motion_folders(Path(own))):
        document = MotionDocument.load(folder / "motion.json")
        if document.policy == "dredge":
            where = "" if document.shank is None else f"shank {document.shank} "
            was = "corrected" if document.corrected else "not corrected"
            said.setdefault(document.unit, []).append(f"; {where}{was}: {document.message}")
    names: dict[str, list[str]] = {}
    for unit in units:
        if unit.sorting.drift is None:
            continue
        reason = unit.sorting.drift.reason + "".join(said.get(unit.sorting.unit, []))
        names.setdefault(reason, []).append(unit.sorting.unit)
    return "; ".join(f"{', '.join(own)}: {reason}" for reason, own in names.items())


def _part(document: ProbeDocument, preprocess: Preprocess) -> Part:
    """The session's share of the recording that was sorted."""
    session, probe = document.session, document.probe
    found = [
        part
        for part in preprocess.parts
        if (part.subject, part.session) == (session.subject, session.session)
    ]
    if len(found) != 1:
        raise ValueError(
            f"preprocess.json is of the sessions {[part.session for part in preprocess.parts]}: expected "
            f"{session.subject} {session.session} among them, once"
        )
    if found[0] == preprocess.parts[0]:
        # The others' name may be another: a recording bears its first session's, cables change their ports.
        _belongs("preprocess.json", preprocess.probe, probe.name)
    _belongs("preprocess.json: samples of the session", found[0].n_samples, probe.ap.n_samples)
    return found[0]


def _check_recording(recording: PreprocessedUnit, ap: Stream, n_samples: int) -> None:
    """A joined recording's rate is its first session's: the others' differ in calibration only."""
    name = f"recording.json of {recording.unit}"
    _belongs(f"{name}: samples", recording.n_samples, n_samples)
    if abs(recording.sampling_rate_hz - ap.sampling_rate_hz) > MAX_RATE_DIFFERENCE * ap.sampling_rate_hz:
        raise ValueError(
            f"{name}: sampling rate: expected {ap.sampling_rate_hz}, found {recording.sampling_rate_hz}"
        )


def _of_part(spikes: dict[str, np.ndarray], part: Part, n_joined: int) -> dict[str, np.ndarray]:
    """The spikes in a session's share of the joined recording; their samples are then of its own stream."""
    samples = spikes["samples"]
    if samples.size and not 0 <= samples[0] <= samples[-1] < n_joined:
        raise ValueError(
            f"spikes at samples {samples[0]} to {samples[-1]} of a recording of {n_joined} samples"
        )
    first, last = np.searchsorted(samples, [part.start, part.start + part.n_samples])
    mine = {name: values[first:last] for name, values in spikes.items()}
    return {**mine, "samples": mine["samples"] - part.start}


def _by_column(channels: Sequence[Channel]) -> list[Channel]:
    return sorted(channels, key=lambda channel: channel.raw_column)


def _muted_intervals(preprocess: Preprocess, part: Part, path: Path | None) -> np.ndarray:
    """(m, 2) first sample and end of the stretches of the session that PREPROCESS muted."""
    intervals = np.empty((0, 3), dtype=np.int64) if path is None else np.load(path)
    return intervals[intervals[:, 0] == preprocess.parts.index(part), 1:]


def _motions(
    preprocess: Preprocess, part: Part, ap: Stream, clock: ClockFit, folders: Sequence[Path]
) -> dict[str, UnitMotion]:
    """The session's share of each sorting unit's motion, on the reference clock.

    By the unit's name; of a unit of several shanks by each shank's.
    """
    found = {}
    for folder in (found for own in folders for found in motion_folders(Path(own))):
        document = MotionDocument.load(folder / "motion.json")
        _belongs("motion.json's probe", document.probe, preprocess.probe)
        name = document.unit if document.shank is None else f"shank{document.shank}"
        if document.unit not in preprocess.units or name in found:
            raise ValueError(
                f"motion.json: expected each of the units {preprocess.units} once, found {document.unit}"
            )
        if document.status == "skipped":
            continue
        times, depths, um = (
            np.load(folder / f"{name}.npy")
            for name in ("temporal_bins_s", "spatial_bins_um", "displacement_um")
        )
        # The document's seconds are samples of the whole recording at its own rate.
        rate = (preprocess.parts[-1].start + preprocess.parts[-1].n_samples) / document.duration_s
        samples = np.round(times * rate).astype(np.int64) - part.start
        mine = (samples >= 0) & (samples < part.n_samples)
        found[name] = UnitMotion(to_reference_seconds(clock, ap.acquired(samples[mine])), depths, um[mine])
    return dict(sorted(found.items()))


def _joined(preprocess: Preprocess, part: Part) -> str:
    """What to know of a session that was sorted as one with others; "" where it was not."""
    others = [other.session for other in preprocess.parts if other != part]
    if not others:
        return ""
    return f"sorted together with {', '.join(others)}; labels and metrics are of the joined recording"


def _sorting(preprocess: Preprocess) -> str:
    sessions = "+".join(f"{part.subject}/{part.session}" for part in preprocess.parts)
    return f"{sessions}/{preprocess.probe}"


def summarise(export: ProbeExport) -> ProbeSummary:
    """The probe's row of the run's summary table. duration_s: of what was recorded, without gaps."""
    session, probe = export.document.session, export.document.probe
    labels = list(export.channel_labels.values())
    return ProbeSummary(
        subject=session.subject,
        session=session.session,
        probe=probe.name,
        model=probe.model,
        duration_s=probe.ap.n_samples / probe.ap.sampling_rate_hz,
        n_shanks=len(probe.shanks),
        n_channels=len(probe.ap.channels),
        n_dead=labels.count("dead"),
        n_noise=labels.count("noise"),
        n_out=labels.count("out"),
        n_units=len(export.clusters),
        n_good_kilosort=int((export.clusters["kilosort_label"] == "good").sum()),
        n_good_bombcell=int((export.clusters["bombcell_label"] == "good").sum()),
        n_spikes=int(export.spike_samples.size),
        noise_uv=export.noise_uv,
        reference_clock=export.clock.reference,
        sync_rms_us=export.clock.rms_us,
        sync_max_us=export.clock.max_us,
        sync_bound_us=export.clock.bound_us,
        drift=export.drift,
        warnings=export.notes,
    )


def agreement_of(export: ProbeExport) -> Agreement:
    """How far the labelling tools agree on the probe's units, of all its shanks."""
    labels = {tool: export.clusters[f"{tool}_label"].tolist() for tool in TOOLS}
    return agreement(labels, export.sorting)


def _belongs(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{what}: expected {expected!r}, found {found!r}")


def _unit_order(unit: _Unit) -> tuple[int, str]:
    """Shanks by number ("shank2" before "shank10")."""
    number = re.search(r"\d+$", unit.sorting.unit)
    return (int(number.group()) if number else 0, unit.sorting.unit)


def _note(unit: _Unit) -> str:
    if unit.sorting.status == "skipped":
        return f"{unit.sorting.unit}: not sorted: {unit.sorting.message}"
    return f"{unit.sorting.unit}: {unit.sorting.sorter} found no units"


def _read_unit(probe: str, folders: UnitFolders) -> _Unit:
    """Read one sorting unit; all its parts must name the same probe and unit."""
    sorting = SortingDocument.load(folders.sorting / "sorting.json")
    recording = PreprocessedUnit.load(folders.recording)
    who = (probe, sorting.unit)
    _belongs("sorting.json's probe", sorting.probe, probe)
    _belongs(f"{folders.recording.name}'s probe and unit", (recording.probe, recording.unit), who)
    for path in (folders.analysis / "analysis.json", folders.labels / "labels.json"):
        stated = json.loads(path.read_text(encoding="utf-8"))
        _belongs(f"{path.name}'s probe and unit", (stated.get("probe"), stated.get("unit")), who)
    if not sorting.unit_ids:
        return _empty_unit(sorting, recording)

    table = _table(sorting, folders)
    return _analyzed(sorting, recording, table, folders)


def _empty_unit(sorting: SortingDocument, recording: PreprocessedUnit) -> _Unit:
    none = np.zeros(0)
    return _Unit(
        sorting=sorting,
        recording=recording,
        channels=recording.channels,
        table=pd.DataFrame(columns=list(LABEL_COLUMNS.values()), dtype=object),
        main_channels=none.astype(int),
        depths=none,
        peak_to_trough=none,
        mean=np.zeros((0, 0, len(recording.channels))),
        sd=np.zeros((0, 0, len(recording.channels))),
        before_ms=0.0,
        samples=none.astype(np.int64),
        unit_index=none.astype(int),
        amps=none,
        spike_depths=none,
    )


def _table(sorting: SortingDocument, folders: UnitFolders) -> pd.DataFrame:
    """Labels and metrics by the sorter's unit id, in the order of sorting.unit_ids."""
    labels = pd.read_csv(
        folders.labels / "labels.csv",
        index_col="unit_id",
        dtype={"unit_id": int, "ibl_bitwise": float},
        float_precision="round_trip",
    )
    metrics = pd.read_csv(folders.analysis / "metrics.csv", index_col="unit_id", float_precision="round_trip")
    for name, part in (("labels.csv", labels), ("metrics.csv", metrics)):
        if sorted(part.index) != sorted(sorting.unit_ids):
            differing = sorted(set(part.index) ^ set(sorting.unit_ids))
            raise ValueError(
                f"{name} of {sorting.unit} has {len(part)} units, sorting.json {len(sorting.unit_ids)}; "
                f"they differ in the unit ids {differing[:10]}"
            )
    clash = set(metrics.columns) & {*IDENTITY_COLUMNS, *LABEL_COLUMNS.values(), SESSION_SPIKES}
    if clash:
        raise ValueError(f"metrics.csv of {sorting.unit} has columns with names of ours: {sorted(clash)}")
    return labels[list(LABEL_COLUMNS.values())].join(metrics).loc[sorting.unit_ids]


def _analyzed(
    sorting: SortingDocument, recording: PreprocessedUnit, table: pd.DataFrame, folders: UnitFolders
) -> _Unit:
    """Waveforms, locations and amplitudes from the unit's SortingAnalyzer, joined to its spikes."""
    import spikeinterface as si

    analyzer = si.load_sorting_analyzer(folders.analysis / "analyzer.zarr", lazy=True, read_only=True)
    if not analyzer.return_in_uV:
        raise ValueError(f"analyzer.zarr of {sorting.unit} is in counts; it must be in µV")
    channels = _analyzer_channels(sorting, recording, analyzer)
    row_of = {int(unit_id): row for row, unit_id in enumerate(analyzer.unit_ids)}
    if row_of.keys() != set(sorting.unit_ids):
        raise ValueError(
            f"analyzer.zarr of {sorting.unit} has other units than sorting.json: "
            f"{sorted(row_of.keys() ^ set(sorting.unit_ids))[:10]}"
        )
    rows = np.array([row_of[unit_id] for unit_id in sorting.unit_ids])

    column_of = {channel_id: k for k, channel_id in enumerate(analyzer.channel_ids)}
    main = np.array([column_of[i] for i in analyzer.get_sorting_property("main_channel_id")])[rows]
    templates = analyzer.get_extension("templates")
    mean = templates.get_data(operator="average")[rows] * 1e-6
    sd = templates.get_data(operator="std")[rows] * 1e-6
    if analyzer.is_sparse():
        measured = analyzer.sparsity.mask[rows][:, None, :]
        mean, sd = np.where(measured, mean, np.nan), np.where(measured, sd, np.nan)
    on_main = mean[np.arange(len(rows)), :, main]
    rate = analyzer.sampling_frequency
    # SpikeInterface takes a spike's amplitude where the mean waveform on the main channel peaks;
    # the sign there says which way the unit's spikes point.
    heights = {"both": np.abs(on_main), "neg": -on_main, "pos": on_main}[analyzer.peak_sign]
    polarity = np.sign(on_main[np.arange(len(rows)), heights.argmax(axis=1)])

    samples, unit_index, amplitudes, depths = _spikes(sorting, analyzer, folders)
    places = np.asarray(analyzer.get_extension("unit_locations").get_data())[rows, :2]
    positions = np.asarray(analyzer.get_channel_locations())[main]
    return _Unit(
        sorting=sorting,
        recording=recording,
        channels=channels,
        table=table,
        main_channels=main,
        depths=_depths(places, positions, depths, unit_index),
        peak_to_trough=(on_main.argmax(axis=1) - on_main.argmin(axis=1)) / rate * 1e3,
        mean=mean,
        sd=sd,
        before_ms=templates.nbefore / rate * 1e3,
        samples=samples,
        unit_index=unit_index,
        amps=amplitudes * polarity[unit_index] * 1e-6,
        spike_depths=depths,
    )


def _analyzer_channels(sorting: SortingDocument, recording: PreprocessedUnit, analyzer) -> list[Channel]:
    """The channels of recording.json in the order of the analyzer's, known by raw column and contact id."""
    by_identity = {(channel.raw_column, channel.contact_id): channel for channel in recording.channels}
    carried = [analyzer.get_recording_property(name) for name in ("raw_column", "contact_id")]
    if any(values is None for values in carried):
        raise ValueError(
            f"analyzer.zarr of {sorting.unit} does not say its channels' raw columns and contacts"
        )
    identities = [(int(column), str(contact)) for column, contact in zip(*carried, strict=True)]
    if set(identities) != by_identity.keys():
        raise ValueError(
            f"analyzer.zarr of {sorting.unit} has other channels than recording.json: "
            f"{sorted(set(identities) ^ by_identity.keys())[:5]}"
        )
    return [by_identity[identity] for identity in identities]


def _spikes(sorting: SortingDocument, analyzer, folders: UnitFolders) -> tuple[np.ndarray, ...]:
    """Spikes as (samples, index into sorting.unit_ids, amplitudes µV, depths µm), joined by identity."""
    samples = np.load(folders.sorting / "spike_samples.npy")
    ids = np.load(folders.sorting / "spike_unit_ids.npy")
    order = np.lexsort((ids, samples))
    samples, ids = samples[order], ids[order]

    vector = analyzer.sorting.to_spike_vector()
    vector_ids = np.asarray([int(i) for i in analyzer.unit_ids], dtype=np.int64)[vector["unit_index"]]
    vector_order = np.lexsort((vector_ids, vector["sample_index"]))
    if not (
        np.array_equal(vector["sample_index"][vector_order], samples)
        and np.array_equal(vector_ids[vector_order], ids)
    ):
        raise ValueError(
            f"analyzer.zarr of {sorting.unit} holds {vector.size} spikes that are not the "
            f"{samples.size} of spike_samples.npy"
        )
    amplitudes = np.asarray(analyzer.get_extension("spike_amplitudes").get_data())[vector_order]
    depths = np.asarray(analyzer.get_extension("spike_locations").get_data()["y"])[vector_order]
    unit_index = np.searchsorted(np.asarray(sorting.unit_ids), ids)
    return samples.astype(np.int64), unit_index, amplitudes, depths


def _depths(
    places: np.ndarray, positions: np.ndarray, spike_depths: np.ndarray, unit_index: np.ndarray
) -> np.ndarray:
    """(n,) µm: the units' own, or the mean of their spikes' where the fit of the unit's place got lost.

    places, positions: (n, 2) µm, of units and of their main channels. The fit, SpikeInterface's monopolar
    triangulation, is of channels up to FIT_RADIUS_UM from the main one and may end anywhere.
    """
    n_spikes = np.bincount(unit_index, minlength=len(places))
    means = np.bincount(unit_index, weights=spike_depths, minlength=len(places)) / np.maximum(n_spikes, 1)
    lost = ~(np.linalg.norm(places - positions, axis=1) <= FIT_RADIUS_UM)
    return np.where(lost, means, places[:, 1])


def _concatenate(
    units: list[_Unit], index_of: dict[int, int], kept: list[Channel]
) -> tuple[dict, dict[str, np.ndarray]]:
    """All units' clusters and spikes, numbered through; index_of: raw column -> index into kept."""
    width = min(WAVEFORM_CHANNELS, len(kept))
    positions = np.array([[c.x_um, c.y_um] for c in kept], dtype=np.float64).reshape(-1, 2)
    analyzed = [unit for unit in units if len(unit.table)]
    lengths = {(unit.mean.shape[1], unit.before_ms) for unit in analyzed}
    if len(lengths) > 1:
        raise ValueError(f"the sorting units' waveforms differ in samples and alignment: {sorted(lengths)}")
    n_samples, before_ms = lengths.pop() if lengths else (0, 0.0)

    tables, channels, around, means, sds = [], [], [], [], []
    samples, clusters, amps, depths = [], [], [], []
    first = 0
    for unit in analyzed:
        to_kept = np.array([index_of[c.raw_column] for c in unit.channels])
        main = to_kept[unit.main_channels]
        # Nearest first; of channels equally far, the lower raw column.
        distance = np.linalg.norm(positions[None] - positions[main][:, None], axis=2)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :width]
        means.append(_on_channels(unit.mean, to_kept, nearest, len(kept)))
        sds.append(_on_channels(unit.sd, to_kept, nearest, len(kept)))
        channels.append(main)
        around.append(nearest)

        n = len(unit.table)
        identity = pd.DataFrame(
            {
                "cluster_id": np.arange(first, first + n),
                "sorting_unit": unit.sorting.unit,
                "shank": [kept[k].shank for k in main],
                "sorter_unit_id": unit.sorting.unit_ids,
                "raw_column": [kept[k].raw_column for k in main],
                "contact_id": [kept[k].contact_id for k in main],
                **{name: unit.table[column].array for name, column in LABEL_COLUMNS.items()},
            }
        )
        metrics = unit.table.drop(columns=list(LABEL_COLUMNS.values())).reset_index(drop=True)
        tables.append(pd.concat([identity, metrics], axis=1))
        samples.append(unit.samples)
        clusters.append(unit.unit_index + first)
        amps.append(unit.amps)
        depths.append(unit.spike_depths)
        first += n

    def joined(parts: list[np.ndarray], dtype: type, *shape: int) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape)), *parts]).astype(dtype)

    spikes = {
        "samples": np.concatenate([np.zeros(0, np.int64), *samples]),
        "clusters": joined(clusters, np.int32),
        "amps": joined(amps, np.float32),
        "depths": joined(depths, np.float32),
    }
    order = np.lexsort((spikes["clusters"], spikes["samples"]))
    return {
        "table": pd.concat(tables, ignore_index=True) if tables else _no_clusters(),
        "channels": joined(channels, np.int32),
        "depths": joined([unit.depths for unit in analyzed], np.float32),
        "peak_to_trough": joined([unit.peak_to_trough for unit in analyzed], np.float64),
        "waveform_channels": joined(around, np.int32, width),
        "mean": joined(means, np.float32, n_samples, width),
        "sd": joined(sds, np.float32, n_samples, width),
        "before_ms": before_ms,
    }, {name: values[order] for name, values in spikes.items()}


def _no_clusters() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in IDENTITY_COLUMNS.items()})


def _on_channels(values: np.ndarray, to_kept: np.ndarray, nearest: np.ndarray, n_kept: int) -> np.ndarray:
    """Waveforms (n, samples, own columns) on the kept channels `nearest` (n, w); NaN where not measured."""
    own = np.full(n_kept, -1)
    own[to_kept] = np.arange(to_kept.size)
    column = own[nearest]
    picked = np.take_along_axis(values, np.maximum(column, 0)[:, None, :], axis=2)
    return np.where((column >= 0)[:, None, :], picked, np.nan)


def _mean_amplitude(clusters: np.ndarray, amps: np.ndarray, n_spikes: np.ndarray) -> np.ndarray:
    """Mean over each cluster's spikes, NaN where it has none."""
    total = np.bincount(clusters, weights=amps, minlength=n_spikes.size)
    mean = np.full(n_spikes.size, np.nan)
    np.divide(total, n_spikes, out=mean, where=n_spikes > 0)
    return mean.astype(np.float32)


def _cluster_uuids(preprocess: Preprocess, table: pd.DataFrame, spikes: dict[str, np.ndarray]) -> list[str]:
    """One UUID per cluster that follows from the sessions, the probe, the unit and its spikes' samples.

    spikes: of the whole recording that was sorted, so that a cluster has the same in each of its sessions.
    """
    by_cluster = np.argsort(spikes["clusters"], kind="stable")
    counts = np.bincount(spikes["clusters"], minlength=len(table))
    trains = np.split(spikes["samples"][by_cluster], np.cumsum(counts)[:-1]) if len(table) else []
    sorting = _sorting(preprocess)
    return [
        str(
            uuid.uuid5(
                NAMESPACE,
                f"{sorting}/{unit}/{unit_id}/{hashlib.sha256(train.tobytes()).hexdigest()}",
            )
        )
        for unit, unit_id, train in zip(table["sorting_unit"], table["sorter_unit_id"], trains, strict=True)
    ]
