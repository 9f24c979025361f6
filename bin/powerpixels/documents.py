"""The JSON documents that pass between the stages, one typed model each.

A channel is known by its raw file column and its contact id through all of them. Paths in a
document are relative and use ``/``. Unknown values are ``None``; nothing is invented.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

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
    """An analog input of the NIDQ stream: its column and volts per count."""

    raw_column: int
    name: str
    gain_v: float


class DigitalLine(Document):
    """A digital input of the NIDQ stream: bit (0 to 15) of the int16 word in column raw_column."""

    raw_column: int
    bit: int
    name: str


class RawFile(Document):
    """A raw file: path relative to the samplesheet's raw folder, size in bytes."""

    path: str
    role: Literal["data", "meta"]
    size_bytes: int


class Stream(Document):
    """One clocked stream of samples (int16, sample-major, n_columns columns).

    sampling_rate_hz: what the metadata states (not the true rate). n_samples: per column, from
    the data file's size. first_sample: the metadata's count of samples since acquisition started
    (SpikeGLX firstSample), None if unknown. sync_column/sync_bit: where the probe's sync wave is
    (None: no sync). For NIDQ streams channels is empty and analog/digital are filled.
    """

    name: str
    kind: Literal["ap", "lf", "nidq"]
    files: list[RawFile]
    sampling_rate_hz: float
    n_columns: int
    n_samples: int
    first_sample: int | None
    sync_column: int | None = None
    sync_bit: int | None = None
    channels: list[Channel] = []
    analog: list[AnalogLine] = []
    digital: list[DigitalLine] = []

    def data_file(self, raw_dir: Path) -> Path:
        """Path of the stream's data file under raw_dir, in its place or staged flat by name."""
        relative = next(f.path for f in self.files if f.role == "data")
        in_place = Path(raw_dir) / relative
        return in_place if in_place.exists() else Path(raw_dir) / Path(relative).name


class Probe(Document):
    """One probe: its identity, its streams, the shanks that have recorded channels."""

    name: str
    part_number: str | None
    serial_number: str | None
    model: str | None
    shanks: list[int]
    ap: Stream
    lf: Stream | None = None


class Session(Document):
    """Who and when. start_time: ISO 8601 local time as the acquisition program wrote it."""

    subject: str
    session: str
    acquisition: Literal["spikeglx"]
    acquisition_version: str | None
    start_time: str | None


class ProbeDocument(Document):
    """probeNN.json: all that the stages of one probe need to know of the raw data."""

    session: Session
    probe: Probe


class NidqDocument(Document):
    """nidq.json: the session's NIDQ stream."""

    session: Session
    stream: Stream


class Inventory(Document):
    """inventory.json: everything INSPECT found in a session's raw folder."""

    session: Session
    probes: list[Probe]
    nidq: Stream | None
    faults: list[Fault]


class ChannelLabel(Document):
    """What bad-channel detection said of a channel: "good", "dead", "noise" or "out"."""

    raw_column: int
    contact_id: str
    shank: int
    label: Literal["good", "dead", "noise", "out"]


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


class Preprocess(Document):
    """preprocess.json: what PREPROCESS did to the whole probe.

    steps: name and parameters of each step in the order applied.
    """

    probe: str
    labels: list[ChannelLabel]
    steps: list[dict]
    units: list[str]


class SortingDocument(Document):
    """<sorting>/sorting.json beside spike_samples.npy (int64, sorted) and spike_unit_ids.npy (int64).

    status "sorted", or "skipped" with the reason in message (no channels in the brain, …).
    unit_ids: the sorter's own ids, ascending, only units with spikes. sorter_labels: the
    sorter's own label by unit id as text (Kilosort: "good", "mua"); empty where it has none.
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


class ProbeSummary(Document):
    """summary.json of an exported probe: one row of summary.csv."""

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
    reference_clock: str
    sync_rms_us: float
    sync_max_us: float
    warnings: list[str]
