"""Preprocessed traces again, from the raw files and preprocess.json: for curation without traces.bin.

The chain is SpikeInterface's, lazy: nothing is written, and only what is looked at is computed. Every
decision (bad channels, notches, references) is the one that preprocess.json records, none is made anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from spikeinterface.core import BaseRecording, concatenate_recordings
from spikeinterface.preprocessing.basepreprocessor import BasePreprocessor, BasePreprocessorSegment

from powerpixels.artifacts import Muting
from powerpixels.documents import Channel, Preprocess
from powerpixels.preprocess import (
    ShankPlan,
    filtered_chain,
    min_block_samples,
    mute_gain,
    muting_of,
    shank_chains,
    to_counts,
    versions,
)
from powerpixels.raw_ap import compressed_copy, load_raw_ap
from powerpixels.recordings import describe_channels
from powerpixels.spectra import Notch
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")


def load_preprocessed(
    record: Path | str, raw_dir: Path | str | Sequence[Path | str] | None, probe: str, unit: str
) -> BaseRecording:
    """What PREPROCESS wrote to a sorting unit's traces.bin, computed from the raw files as it is read.

    record: preprocess.json, its folder, or a session's folder of results (with qc/<probe>/preprocess.json).
    raw_dir: as ``raw_ap.load_raw_ap`` takes it, one folder for each session where sessions were joined; the
    published raw_ephys_data of a run with --compress will do. None: these, found from the folder of results.
    probe, unit: names, such as "probe00" and "shank0".

    Returns one segment of int16 counts with the gain, channels and properties that
    ``recordings.load_preprocessed`` gives for traces.bin. The counts are those of the file if it was written
    by the engine "spikeinterface" with the same versions, but for the borders of chunks; else they differ by
    rounding: in some percent of the values, by one count, seldom two within 40 ms (with notches 100 ms) of a
    block's ends or of the borders of chunks.

    Raises ``DataError`` where there is no such record, probe, unit or published copy, the unit has no
    channels, the record is of a version without the description of the raw files, or these don't fit it.
    """
    document, path = find_record(record, probe)
    if unit not in document.units:
        raise DataError(f"{path}: expected a unit of {', '.join(document.units)}, asked for {unit}")
    used = _step(document, "compute")["versions"]
    differ = [name for name, version in versions("spikeinterface").items() if used.get(name) != version]
    if differ:
        log.warning("other versions than the traces were made with: %s", ", ".join(differ))
    if raw_dir is None:
        raw_dir = published_copies(document, Path(record))
        if raw_dir is None:
            raise DataError(
                f"{record}: expected compressed copies of the AP band in raw_ephys_data, found none; name "
                "the raw folder, or run the pipeline with --compress"
            )
    rebuilt = rebuild(document, raw_dir)
    if not rebuilt.plans_of(unit):
        raise DataError(f"{path}: {probe} {unit} has no usable channels, nothing to read")
    return rebuilt.written(unit)


def published_copies(document: Preprocess, results: Path) -> list[Path] | None:
    """Each session's raw_ephys_data where all of the record's AP files have copies in there, else None.

    results: a session's folder of results, or that of sessions sorted as one, which lie beside it.
    """
    sessions = [results]
    if len(document.parts) > 1:
        sessions = [results.parent / part.session.replace("_", "/") for part in document.parts]
    folders = [session / "raw_ephys_data" for session in sessions]
    for recording, folder in zip(document.source.recordings, folders, strict=True):
        data = [file.path for file in recording.probe.ap.files if file.role == "data"]
        if any(compressed_copy(folder, recording.probe.name, path) is None for path in data):
            return None
    return folders


def find_record(record: Path | str, probe: str) -> tuple[Preprocess, Path]:
    """A probe's preprocess.json, and where it was found.

    record: as for ``load_preprocessed``, which says what ``DataError`` is raised for.
    """
    record = Path(record)
    places = [record, record / "preprocess.json", record / "qc" / probe / "preprocess.json"]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise DataError(
            f"{record}: expected preprocess.json, a folder with it, or a session's folder with "
            f"qc/{probe}/preprocess.json, found none of them"
        )
    try:
        document = Preprocess.load(path)
    except ValueError as error:
        raise DataError(
            f"{path}: expected what PREPROCESS wrote, found otherwise ({error}); name another file, or "
            "preprocess again"
        ) from None
    if document.probe != probe:
        raise DataError(f"{path}: expected probe {probe}, found {document.probe}; give the probe's own file")
    if document.source is None:
        raise DataError(
            f'{path}: expected the description of the raw files ("source"), found none; preprocess again'
        )
    return document, path


@dataclass(frozen=True)
class Rebuilt:
    """A probe's chain, lazy, as its record has it. raw: as from ``raw_ap.load_raw_ap``.

    plans: of the shanks. seed: of destriping. muting: None where nothing was to be muted. gain_uv: of the
    written counts. least: samples of a block that is no zeros.
    """

    raw: BaseRecording
    highpass_hz: float
    notches: list[Notch]
    plans: list[ShankPlan]
    seed: int
    muting: Muting | None
    gain_uv: float
    least: int

    def plans_of(self, unit: str) -> list[ShankPlan]:
        """The shanks with channels that stand side by side in the unit's traces.bin."""
        return [plan for plan in self.plans if unit in ("probe", f"shank{plan.shank}") and plan.channels]

    def written(self, unit: str) -> BaseRecording:
        """What ``load_preprocessed`` returns."""
        plans = self.plans_of(unit)
        own = [channel for plan in plans for channel in plan.channels]
        filtered = filtered_chain(self.raw, self.highpass_hz, self.notches)
        chains = shank_chains(filtered, self.plans, self.seed)
        of_shanks = [chains[plan.shank] for plan in plans]
        parts = _Written(of_shanks, self.raw, own, self.muting, self.gain_uv, self.least)
        recording = concatenate_recordings([parts])
        describe_channels(recording, own, [self.gain_uv] * len(own))
        recording.annotate(is_filtered=True)
        return recording

    def steps(self) -> dict[str, list[BaseRecording]]:
        """The traces after each step up to the reference, by the step's name, in order; float32 µV, lazy.

        Each as recordings of parts of the probe's channels (property raw_column), which have the segments of
        ``raw``. The first is ``raw`` itself, in counts. "notches" is there where there are any.
        """
        highpassed = filtered_chain(self.raw, self.highpass_hz)
        filtered = filtered_chain(self.raw, self.highpass_hz, self.notches)
        # The chain's last link is the phase shift.
        steps = {"raw": [self.raw], "high-pass": [highpassed.get_parent()]}
        if self.notches:
            steps["notches"] = [filtered.get_parent()]
        steps["phase shift"] = [filtered]
        without = [
            replace(plan, step={**plan.step, "method": "none", "scope": "shank"}) for plan in self.plans
        ]
        steps["bad channels"] = list(shank_chains(filtered, without, self.seed).values())
        steps["reference"] = list(shank_chains(filtered, self.plans, self.seed).values())
        return steps


def rebuild(document: Preprocess, raw_dir: Path | str | Sequence[Path | str]) -> Rebuilt:
    """The chain that a record with a source describes. raw_dir: as for ``load_preprocessed``.

    Raises ``DataError`` where the raw files don't fit the record.
    """
    folders = Path(raw_dir) if isinstance(raw_dir, str | Path) else [Path(folder) for folder in raw_dir]
    raw = load_raw_ap(document.source, folders)
    channels = document.source.recordings[0].probe.ap.channels
    notches = [Notch(**notch) for notch in _step(document, "notch_filter")["notches"]]
    mute = _step(document, "mute")
    muting = None
    if mute["kinds"] != "none":
        muting = muting_of(document.source, mute["limit_counts"], mute["kinds"], raw_columns=False)
    return Rebuilt(
        raw=raw,
        highpass_hz=_step(document, "highpass_filter")["cutoff_hz"],
        notches=notches,
        plans=_plans(document, channels),
        seed=_step(document, "detect_bad_channels")["seed"],
        muting=muting,
        gain_uv=_step(document, "write")["gain_uv"],
        least=min_block_samples(
            raw.sampling_frequency, notches, [channel.raw_column for channel in channels]
        ),
    )


def _step(document: Preprocess, name: str) -> dict:
    return next(step for step in document.steps if step["step"] == name)


def _plans(document: Preprocess, channels: Sequence[Channel]) -> list[ShankPlan]:
    """The shanks' channels and references as they were decided."""
    labels = {(label.raw_column, label.contact_id): label.label for label in document.labels}
    plans = []
    for step in document.steps:
        if step["step"] != "reference":
            continue
        of_shank = [channel for channel in channels if channel.shank == step["shank"]]
        of = {channel: labels[channel.raw_column, channel.contact_id] for channel in of_shank}
        # A shank without a good channel keeps none.
        kept = [channel for channel in of_shank if of[channel] in ("good", "noise") and step["n_channels"]]
        noisy = [channel.raw_column for channel in kept if of[channel] == "noise"]
        plans.append(ShankPlan(step["shank"], kept, noisy, step))
    return plans


class _Written(BasePreprocessor):
    """Chains of one unit's shanks side by side, muted and rounded as they are written; int16 counts."""

    def __init__(
        self,
        chains: Sequence[BaseRecording],
        raw: BaseRecording,
        channels: Sequence[Channel],
        muting: Muting | None,
        gain_uv: float,
        least: int,
    ) -> None:
        """Take what the segments need. least: samples of a block that is no zeros."""
        ids = [channel.channel_id for channel in channels]
        BasePreprocessor.__init__(self, raw.select_channels(ids), dtype="int16")
        for k in range(raw.get_num_segments()):
            parent = self._parent.segments[k]
            self.add_recording_segment(_Segment(parent, k, chains, raw, muting, gain_uv, least))
        self._serializability["json"] = False
        self._kwargs = {
            "chains": list(chains),
            "raw": raw,
            "channels": list(channels),
            "muting": muting,
            "gain_uv": gain_uv,
            "least": least,
        }


class _Segment(BasePreprocessorSegment):
    def __init__(self, parent, k: int, chains, raw, muting, gain_uv: float, least: int) -> None:
        BasePreprocessorSegment.__init__(self, parent)
        self._k = k
        self._chains = chains
        self._raw = raw
        self._muting = muting
        self._gain_uv = gain_uv
        self._least = least

    def get_traces(self, start_frame=None, end_frame=None, channel_indices=None) -> np.ndarray:
        start = 0 if start_frame is None else int(start_frame)
        end = self.get_num_samples() if end_frame is None else int(end_frame)
        wanted = slice(None) if channel_indices is None else channel_indices
        n_channels = sum(chain.get_num_channels() for chain in self._chains)
        if self.get_num_samples() < self._least or start == end:
            return np.zeros((end - start, n_channels), dtype=np.int16)[:, wanted]
        gain, _ = mute_gain(self._muting, self._raw, self._k, start, end)
        asked = {"segment_index": self._k, "start_frame": start, "end_frame": end}
        traces_uv = np.concatenate([chain.get_traces(**asked) for chain in self._chains], axis=1)
        return to_counts(traces_uv[:, wanted], gain, self._gain_uv)[0]
