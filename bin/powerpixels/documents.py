"""The JSON documents that pass between the stages, one typed model each.

A channel is known by its raw file column and its contact id through all of them. Paths in a
document are relative and use ``/``. Unknown values are ``None``; nothing is invented.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

D = TypeVar("D", bound="Document")


class Document(BaseModel):
    """Base of all documents: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def save(self, path: Path) -> None:
        """Write the document as JSON (UTF-8, stable key order)."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[D], path: Path) -> D:
        """Read a document; raises ``pydantic.ValidationError`` where it does not fit the model."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))


class Fault(Document):
    """Something wrong with the input.

    code: stable, UPPER_SNAKE. severity: "blocks" keeps the probe (or, with probe None, the
    session) from being processed; "warns" does not. message: what was expected, what was found,
    what to do.
    """

    code: str
    severity: Literal["blocks", "warns"]
    message: str
    probe: str | None = None
    stream: str | None = None


class Channel(Document):
    """One recorded channel of a probe.

    raw_column: 0-based column of the raw binary file. channel_id: the acquisition program's name
    (SpikeGLX "AP12"). contact_id: probeinterface's, unique on the probe. x_um, y_um: position in
    µm, probe coordinates of probeinterface (y up from the tip; x across all shanks).
    inter_sample_shift: time of the channel's sampling within the sample period, 0 to 1.
    gain_uv: µV per count.
    """

    raw_column: int
    channel_id: str
    contact_id: str
    shank: int
    x_um: float
    y_um: float
    inter_sample_shift: float
    gain_uv: float


class AnalogLine(Document):
    """An analog input of a DAQ stream: its column and volts per count."""

    raw_column: int
    name: str
    gain_v: float


class DigitalLine(Document):
    """A digital input that is a bit (0 to 15) of the int16 word in column raw_column."""

    raw_column: int
    bit: int
    name: str


class TtlLine(Document):
    """A digital input whose edges the acquisition program wrote as events: its number, from 1."""

    line: int
    name: str


class RawFile(Document):
    """A raw file: path relative to the samplesheet's raw folder, size in bytes.

    role: "data" holds samples (a zarr copy is a folder: the size of all in it), "index" tells where
    a compressed data file's chunks lie (.ch), "meta" describes it, "samples" and "states" are an
    Open Ephys TTL folder's sample numbers and signed line numbers.
    """

    path: str
    role: Literal["data", "index", "meta", "samples", "states"]
    size_bytes: int


class Piece(Document):
    """Consecutive samples of a stream that lie in one data file.

    path: RawFile.path of the file. first_row: the file's row (sample) that holds the first of them: 0,
    unless the file begins with samples that an earlier file holds too, or its timestamps jump.
    first_sample: the acquisition program's number of that sample, None if unknown.
    """

    path: str
    first_row: int
    n_samples: int
    first_sample: int | None


class Block(NamedTuple):
    """Samples without a gap: start in the stream's own order of samples, n_samples of them, and offset,
    the acquisition program's number of the first one less that of the stream's first sample.
    """

    start: int
    n_samples: int
    offset: int


class Stream(Document):
    """One clocked stream of samples (int16, sample-major, n_columns columns).

    The stream is its pieces one after the other, ascending in time, n_samples in all; "sample k of the
    stream" counts them from 0 with nothing put into gaps. Where the acquisition paused between pieces, the
    pieces' first_sample tell: see ``blocks``. sampling_rate_hz: what the metadata states (not the
    true rate). first_sample: that of the first piece. files: all files of the stream, in a fixed
    order (the tasks' order of staging). sync_column/sync_bit: where the probe's sync wave is in the data
    (both None: not there; sync_bit None: the column is no word of bits, its level is the wave).
    sync_line: name of the ttl line with the sync wave. limit_counts: where a probe's converter saturates, in
    counts either way; None where that is not known: Open Ephys' plugin takes an offset off each channel, of
    which it keeps no note, and scales what is left. DAQ streams (nidq, obx) have no channels but
    analog, digital and ttl lines.
    """

    name: str
    kind: Literal["ap", "lf", "nidq", "obx"]
    files: list[RawFile]
    sampling_rate_hz: float
    n_columns: int
    n_samples: int
    first_sample: int | None
    pieces: list[Piece]
    sync_column: int | None = None
    sync_bit: int | None = None
    sync_line: str | None = None
    limit_counts: int | None = None
    channels: list[Channel] = []
    analog: list[AnalogLine] = []
    digital: list[DigitalLine] = []
    ttl: list[TtlLine] = []

    def blocks(self) -> list[Block]:
        """The stream's stretches without a gap, in order; pieces that follow each other exactly are one.

        Pieces without a number are taken to follow the one before.
        """
        blocks: list[Block] = []
        start = offset = 0
        for piece in self.pieces:
            if piece.first_sample is not None and self.first_sample is not None:
                offset = piece.first_sample - self.first_sample
            last = blocks[-1] if blocks else None
            if last is not None and last.offset + last.n_samples == offset:
                blocks[-1] = Block(last.start, last.n_samples + piece.n_samples, last.offset)
            else:
                blocks.append(Block(start, piece.n_samples, offset))
            start += piece.n_samples
            offset += piece.n_samples
        return blocks

    def acquired(self, samples: np.ndarray) -> np.ndarray:
        """Samples of the stream (integers, any shape) as counts of the acquisition's clock, int64.

        Counted from the stream's first sample, time in gaps included; equal to ``samples`` where there is
        no gap. Samples before the first and beyond the last go on in the first and last block.
        """
        blocks = self.blocks()
        starts = np.array([block.start for block in blocks])
        offsets = np.array([block.offset for block in blocks])
        samples = np.asarray(samples, dtype=np.int64)
        k = np.clip(np.searchsorted(starts, samples, side="right") - 1, 0, None)
        return samples - starts[k] + offsets[k]

    @property
    def n_acquired(self) -> int:
        """Samples from the stream's first to its last one, time in gaps included."""
        last = self.blocks()[-1]
        return last.offset + last.n_samples


class Probe(Document):
    """One probe: its identity, its streams, the shanks that have recorded channels."""

    name: str
    part_number: str | None
    serial_number: str | None
    model: str | None
    shanks: list[int]
    ap: Stream
    lf: Stream | None = None

    @property
    def lf_source(self) -> Stream | None:
        """The stream that the LF band is in: its own, or the AP stream of a model that records one wide band.

        None where a model that records the bands apart (1.0) has no LF stream: its AP stream was high-passed
        before it was digitised. By the part number; phase 3A, which has none, records them apart.
        """
        if self.lf is not None or self.part_number is None:
            return self.lf
        from probeinterface.neuropixels_tools import build_neuropixels_probe

        own_lf_hz = build_neuropixels_probe(self.part_number).annotations["lf_sample_frequency_hz"]
        return None if own_lf_hz > 0 else self.ap


class Session(Document):
    """Who and when. start_time: ISO 8601 local time as the acquisition program wrote it."""

    subject: str
    session: str
    acquisition: Literal["spikeglx", "openephys"]
    acquisition_version: str | None
    start_time: str | None


class ProbeDocument(Document):
    """<probe>.json: all that the stages of one probe need to know of the raw data."""

    session: Session
    probe: Probe


class JoinedProbe(Document):
    """One probe's recordings that are sorted as one, in the order of their sessions; most often just one."""

    recordings: list[ProbeDocument] = Field(min_length=1)


class StreamDocument(Document):
    """<stream>.json (nidq.json, imec0.lf.json, …): one stream of a session."""

    session: Session
    stream: Stream


class Inventory(Document):
    """inventory.json: everything INSPECT found in a session's raw folder.

    nidq: the stream with the session's events, whose clock is the session's. daqs: further DAQ streams
    (OneBox inputs, a second NI device).
    """

    session: Session
    probes: list[Probe]
    nidq: Stream | None
    daqs: list[Stream] = []
    faults: list[Fault]


class Findings(Document):
    """What one acquisition program's folder holds by its headers and file sizes.

    headers: (program version, start time) by probe name, under "" the session's; a probe's must not depend
    on any other probe's files.
    """

    acquisition: Literal["spikeglx", "openephys"]
    headers: dict[str, tuple[str | None, str | None]]
    probes: list[Probe]
    nidq: Stream | None
    daqs: list[Stream]
    faults: list[Fault]


class ChannelLabel(Document):
    """What bad-channel detection said of a channel: "good", "dead", "noise" or "out".

    similarity: to the shank's median, 1 where it is as large in the channel. trend: its running median over
    11 channels along the shank; "out" is the top block below 0.25. residual: similarity less trend; "dead"
    below -0.5, "noise" above 1. high_uv2_hz: mean density above 0.8 of the Nyquist frequency, µV²/Hz; "noise"
    above 0.02. Medians over chunks of the session that gave the label, which is the most frequent one of its
    chunks; None where the shank has too few channels, or the recording is too short, to look for bad ones.
    """

    raw_column: int
    contact_id: str
    shank: int
    label: Literal["good", "dead", "noise", "out"]
    similarity: float | None = None
    trend: float | None = None
    residual: float | None = None
    high_uv2_hz: float | None = None


class ChannelLevel(Document):
    """How large a channel's written traces are, µV. noise_uv: from the median absolute deviation, the median
    over 20 moments; None where these lie in blocks too short to be filtered.
    """

    raw_column: int
    contact_id: str
    rms_uv: float
    noise_uv: float | None


class PreprocessedUnit(Document):
    """<unit>/recording.json beside <unit>/traces.bin (int16, sample-major, little endian).

    A sorting unit's preprocessed recording. channels are in the order of the binary's columns;
    µV = count * gain_uv (one gain for all). unit is "shank0" … or "probe".
    """

    probe: str
    unit: str
    sampling_rate_hz: float
    n_samples: int
    gain_uv: float
    channels: list[Channel]


class Part(Document):
    """A session's share of a preprocessed recording: n_samples from sample start on."""

    subject: str
    session: str
    start: int
    n_samples: int


class Preprocess(Document):
    """preprocess.json: what PREPROCESS did to the whole probe.

    parts: the sessions that were joined, in order; their samples make up the whole recording.
    levels: of the channels that were written. steps: name and parameters of each step in the order applied.
    source: what was preprocessed.
    """

    probe: str
    parts: list[Part]
    labels: list[ChannelLabel]
    levels: list[ChannelLevel] = []
    steps: list[dict]
    units: list[str]
    source: JoinedProbe | None = None

    @property
    def noise_uv(self) -> float | None:
        """Noise level of the median written channel, µV; None where no channel has one."""
        known = [level.noise_uv for level in self.levels if level.noise_uv is not None]
        return median(known) if known else None


class DriftChoice(Document):
    """What ``--drift`` meant for the sorting of a unit, and why."""

    policy: Literal["auto", "sorter", "off", "dredge"]
    reason: str


class SortingDocument(Document):
    """<sorting>/sorting.json beside spike_samples.npy (int64, sorted) and spike_unit_ids.npy (int64).

    status "sorted", or "skipped" with the reason in message (no channels in the brain, …).
    unit_ids: the sorter's own ids, ascending, only units with spikes. sorter_labels: the
    sorter's own label by unit id as text (Kilosort: "good", "mua"); empty where it has none.
    drift: None of a sorting that was made without the choice.
    """

    probe: str
    unit: str
    sorter: str
    sorter_version: str | None
    status: Literal["sorted", "skipped"]
    message: str
    parameters: dict
    unit_ids: list[int]
    sorter_labels: dict[int, str]
    drift: DriftChoice | None = None
    lowered_for_memory: dict = {}


class ClockFit(Document):
    """sync.json: how a probe's clock maps to the reference clock.

    knots are the map: (seconds on the probe's own clock, sample / sampling_rate_hz; seconds on the
    clock of stream `reference`), the zero of each being its file's first sample. It is linear
    between them, and its first and last segment go on beyond them. Two knots, at the first and
    last matched edge, make it a straight line; clocks that drift unevenly have more.
    offset_s and slope tell of it as a whole, t_ref = offset_s + slope * t: the straight line that
    fits the matched edges best, equal to the map where that has two knots.
    Residuals of the matched edges from the map in µs; first/last matched edge in seconds on the
    probe's own clock bound where the fit was measured.

    bound_us: what the map's error can't exceed at any time of the file, between pulses, in pauses and at the
    ends (None: not known). settled_by: what told which of the wave's repeats belong together, "counters" (the
    acquisition's counts of samples) or the "pattern" of pulses; None where there was nothing to tell.
    repeats_s: the wave's period, by multiples of which it would look the same; None for an irregular one.
    counters_apart_s: by how much the two counters then started apart, None where either is unknown.
    line, reference_line: of each stream, the line whose wave was matched; None for the reference itself.
    """

    probe: str
    stream: str
    reference: str
    sampling_rate_hz: float
    offset_s: float
    slope: float
    n_edges: int
    n_unmatched: int
    rms_us: float
    max_us: float
    first_edge_s: float
    last_edge_s: float
    knots: list[tuple[float, float]] = Field(min_length=2)
    bound_us: float | None = None
    settled_by: Literal["counters", "pattern"] | None = None
    repeats_s: float | None = None
    counters_apart_s: float | None = None
    line: str | None = None
    reference_line: str | None = None


class TimesFile(Document):
    """What the numbers of a published file are counted on.

    clock: name of the stream whose clock it is. unit: "s" since that stream's first sample, time in gaps
    included; or its recorded "samples", those in gaps not counted. bound_us: what their error against that
    clock can't exceed at any time of the recording, 0 on the stream's own clock, None where not known.
    """

    clock: str
    unit: Literal["s", "samples"]
    bound_us: float | None


# Beside ALF files; an object of its own, as an attribute of spikes breaks code that indexes all of them.
CLOCK_FILE = "_powerpixels_clock.fit.json"


class PublishedClock(ClockFit):
    """CLOCK_FILE beside ALF files: the fit, and what each of the files is counted on.

    description: in words. files: by path in the folder.
    """

    description: str
    files: dict[str, TimesFile]


class SyncResiduals(Document):
    """residuals.json of a fitted stream: how far its sync wave lies off the map, for the run's report.

    fit: the clock's map. limit_us: what its bound was allowed to be. duration_s: of the stream. bins: of the
    matched edges in equal parts of it, those without an edge left out: (middle in s on the stream's own
    clock, least and largest residual in µs).
    """

    session: Session
    fit: ClockFit
    limit_us: float
    duration_s: float
    bins: list[tuple[float, float, float]]


class ProbeNotes(Document):
    """notes.json of NWB: what the user should know of a probe beside its summary.json's warnings."""

    subject: str
    session: str
    probe: str
    warnings: list[str]


class ProbeSummary(Document):
    """summary.json of an exported probe: one row of summary.csv.

    noise_uv: the median channel's after preprocessing. sync_bound_us: what the times' error can't exceed,
    None where that is not known. drift: who corrected it, and why, by sorting unit.
    """

    subject: str
    session: str
    probe: str
    model: str | None
    duration_s: float
    n_shanks: int
    n_channels: int
    n_dead: int
    n_noise: int
    n_out: int
    n_units: int
    n_good_kilosort: int
    n_good_bombcell: int
    n_spikes: int
    noise_uv: float | None = None
    reference_clock: str
    sync_rms_us: float
    sync_max_us: float
    sync_bound_us: float | None = None
    drift: str = ""
    warnings: list[str]
