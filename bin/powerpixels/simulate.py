"""A simulated session in SpikeGLX's file format, of which everything is known.

Two probes (a 1.0 probe and a 4-shank 2.0 probe) and a NIDQ stream, each with its own clock. Spikes come
from SpikeInterface's ground-truth generator, geometry and ADC timing from probeinterface. What was put in
is written to a truth folder beside the raw folder, so that results can be compared with it:

    <folder>/raw/<run>_g0/…      exactly what SpikeGLX would have written
    <folder>/truth/truth.json    TruthDocument
    <folder>/truth/*.npz         spikes and templates of each probe, events of the NIDQ lines
    <folder>/samplesheet.csv     one row, ready for the pipeline
    <folder>/metadata.yaml       what the NWB needs beside the recording

Three kinds of time occur. *True time* is seconds of an ideal clock. A stream's sample n was taken at true
time start_s + n / true_rate_hz. *NIDQ seconds* are what the NIDQ stream's own metadata would say: sample
number in that stream divided by its nominal sampling rate, so they drift against true time.

What is simulated of the hardware: the staggered sampling of channels that share an ADC, the saved subset of
channels, resolution and range of the ADC, the 1.0 probe's two bands. What is simulated of the recording:
noise that neighbours share and noise that they do not, LFP, dead and noisy channels, channels above the
brain, transients on all channels, a tone, a sync square wave in every stream.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
import tempfile
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, ValidationError
from threadpoolctl import threadpool_limits

from powerpixels.documents import Document
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd
    from spikeinterface.core import BaseRecording

log = logging.getLogger("powerpixels")

AP_RATE_HZ = 30000.0
LF_RATE_HZ = 2500.0
NIDQ_RATE_HZ = 10593.2
NIDQ_RANGE_V = 5.0
CHUNK_S = 1.0

# SpikeGLX puts its sync wave on bit 6 of the imec SY word; on the NIDQ it is wired to P0.0 here.
IMEC_SYNC_BIT = 6
NIDQ_SYNC_BIT = 0
SYNC_PERIOD_S = 1.0
SYNC_PHASE_S = 0.31

# Background of a channel in the brain, µV rms above 300 Hz: its own, what neighbours share (falling with
# distance) and what the whole probe shares. The last is what tells channels in the brain from those above it.
NOISE_OWN_UV = 5.0
NOISE_LOCAL_UV = 3.5
NOISE_LOCAL_UM = 60.0
NOISE_COMMON_UV = 7.0
NOISE_NOISY_UV = 40.0
NOISE_DEAD_UV = 0.2

LFP_UV = 150.0
TONE_HZ = 8900.0
TONE_UV = 3.0
ARTIFACT_INTERVAL_S = 4.0
ARTIFACT_HZ = 1000.0
ARTIFACT_DECAY_S = 0.002
# Hardware filters of the 1.0 probe: AP high-pass and LF low-pass corner.
AP_CORNER_HZ = 300.0
LF_CORNER_HZ = 500.0

TEMPLATE_MS = (1.0, 3.0)
TEMPLATES = "templates_{}.npz"
UNIT_AMPLITUDE_UV = (70.0, 150.0)
SMALL_UNIT_AMPLITUDE_UV = (12.0, 20.0)
FIRING_RATE_HZ = (5.0, 15.0)
REFRACTORY_MS = 3.0

# What counts as well isolated: a sorter should find such a unit nearly completely.
WELL_ISOLATED_SNR = 7.0
WELL_ISOLATED_SIMILARITY = 0.9

# Block of 48 electrodes (within a bank of 384) to block of 48 readout channels, for each shank of a 4-shank
# 2.0 probe. This is the wiring of the silicon; imroTbl of every real recording obeys it.
NP2_BLOCKS = (
    (0, 2, 4, 6, 5, 7, 1, 3),
    (1, 3, 5, 7, 4, 6, 0, 2),
    (4, 6, 0, 2, 1, 3, 5, 7),
    (5, 7, 1, 3, 0, 2, 4, 6),
)


class ProbeConfig(Document):
    """One probe of the session.

    device: SpikeGLX's name ("imec0"). model: "1.0" (one shank, with LF band) or "2.0-4shank".
    Saved are, on each shank of shanks, n_channels electrodes from first_electrode on; of these the
    n_outside topmost are above the brain. n_dead and n_noisy count over the probe, n_units
    (well-isolated) and n_small_units (barely above the noise) per shank. start_s, drift_ppm: true time
    of the first sample, deviation of the clock.
    """

    device: str
    model: Literal["1.0", "2.0-4shank"]
    shanks: tuple[int, ...]
    first_electrode: int
    n_channels: int
    n_outside: int
    n_dead: int
    n_noisy: int
    n_units: int
    n_small_units: int
    start_s: float
    drift_ppm: float


class SimulationConfig(Document):
    """A session. start_time: local, as SpikeGLX writes it. artifact_uv: peak of the common transients.

    session_seed: what the session does not share with others of the same probes and units (their firing,
    noise, LFP, behaviour) is drawn with it; None: with seed, as is everything else.
    """

    subject: str = "sim01"
    run: str = "sim01_run1"
    start_time: str = Field("2026-03-01T10:35:10", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$")
    seed: int = 1
    session_seed: int | None = Field(None, ge=0)
    duration_s: float = Field(ge=2.0)
    probes: tuple[ProbeConfig, ...]
    nidq_start_s: float = 0.0137
    nidq_drift_ppm: float = 31.0
    artifact_uv: float = 300.0

    def another_session(self, session_seed: int, start_time: str, duration_s: float) -> SimulationConfig:
        """A later session of the same probes and units (serials, channels, templates, firing rates).

        Spikes, noise, LFP, events, and the streams' starts and drifts are others, all set by session_seed.
        Raises pydantic.ValidationError where a value is impossible.
        """
        SimulationConfig.model_validate({**self.model_dump(), "session_seed": session_seed})
        rng = np.random.default_rng([self.seed, session_seed])
        probes = [
            {**probe.model_dump(), "start_s": rng.uniform(0.02, 0.2), "drift_ppm": rng.uniform(-30.0, 30.0)}
            for probe in self.probes
        ]
        changes = {
            "session_seed": session_seed,
            "start_time": start_time,
            "duration_s": duration_s,
            "run": f"{self.run}_s{session_seed}",
            "probes": probes,
            "nidq_start_s": rng.uniform(0.0, 0.02),
            "nidq_drift_ppm": rng.uniform(-40.0, 40.0),
        }
        return SimulationConfig.model_validate({**self.model_dump(), **changes})

    @classmethod
    def small(cls) -> SimulationConfig:
        """The tests' session: 20 s, 28 channels of a 1.0 probe, 26 on each of two shanks of a 2.0 probe.

        Shanks 2 and 3 are used and the first saved channel is not channel 0, so that a shank number,
        a column or a channel number taken for one of the others shows.
        """
        return cls(
            duration_s=20.0,
            probes=(
                _probe_1(first_electrode=100, n_channels=28, n_outside=6, n_units=4, n_small_units=3),
                _probe_2(
                    shanks=(2, 3),
                    first_electrode=36,
                    n_channels=26,
                    n_outside=6,
                    n_units=3,
                    n_small_units=2,
                ),
            ),
        )

    @classmethod
    def demo(cls) -> SimulationConfig:
        """The demonstration: 25 s, 40 channels of a 1.0 probe, 26 on each of four shanks of a 2.0 probe."""
        return cls(
            duration_s=25.0,
            probes=(
                _probe_1(first_electrode=100, n_channels=40, n_outside=8, n_units=6, n_small_units=4),
                _probe_2(
                    shanks=(0, 1, 2, 3),
                    first_electrode=36,
                    n_channels=26,
                    n_outside=6,
                    n_units=3,
                    n_small_units=2,
                ),
            ),
        )

    @classmethod
    def full(cls, duration_s: float = 600.0) -> SimulationConfig:
        """Real size: all 384 channels of both probes."""
        return cls(
            duration_s=duration_s,
            probes=(
                _probe_1(
                    first_electrode=0,
                    n_channels=384,
                    n_outside=60,
                    n_dead=4,
                    n_noisy=3,
                    n_units=70,
                    n_small_units=30,
                ),
                _probe_2(
                    shanks=(0, 1, 2, 3),
                    first_electrode=0,
                    n_channels=96,
                    n_outside=14,
                    n_dead=3,
                    n_noisy=3,
                    n_units=17,
                    n_small_units=7,
                ),
            ),
        )


def _probe_1(**sizes) -> ProbeConfig:
    defaults = dict(device="imec0", model="1.0", shanks=(0,), n_dead=1, n_noisy=1, start_s=0.1183)
    return ProbeConfig(**{**defaults, "drift_ppm": -18.0, **sizes})


def _probe_2(**sizes) -> ProbeConfig:
    defaults = dict(device="imec1", model="2.0-4shank", n_dead=1, n_noisy=1, start_s=0.0621)
    return ProbeConfig(**{**defaults, "drift_ppm": 12.0, **sizes})


class PieceTruth(Document):
    """A stretch of a stream in one file: n_samples rows from first_row on.

    offset: samples acquired from the stream's first one to the stretch's first one, saved or not.
    """

    file: str
    first_row: int
    n_samples: int
    offset: int


class StreamTruth(Document):
    """One stream. file: relative to the session's folder. sampling_rate_hz: as its metadata states.

    start_s: true time of the first sample. n_samples: of all saved ones. pieces: where they are, in order
    of time, if not all in one file without a gap; file is then the first one. "Sample k" of the stream
    counts what was saved. sync_column and sync_bit are None where the sync wave is not in the samples.
    blank: (first, last) of stretches of samples that hold zeros in place of what was not recorded.
    """

    name: str
    file: str
    sampling_rate_hz: float
    true_rate_hz: float
    start_s: float
    n_samples: int
    n_columns: int
    first_sample: int
    sync_column: int | None
    sync_bit: int | None
    pieces: list[PieceTruth] = []
    blank: list[tuple[int, int]] = []


class ChannelTruth(Document):
    """One saved channel. acquired_channel: readout channel of the probe (0 to 383), not the file column.

    x_um, y_um: probe coordinates of probeinterface. inter_sample_shift: how much later than the sample's
    nominal time the channel was sampled, in samples.
    """

    raw_column: int
    channel_id: str
    acquired_channel: int
    contact_id: str
    shank: int
    x_um: float
    y_um: float
    inter_sample_shift: float
    label: Literal["good", "dead", "noise", "out"]


class UnitTruth(Document):
    """One unit; raw_column and contact_id are of its largest channel.

    peak_uv: depth of the trough there. snr: that over the standard deviation of the channel's noise.
    similarity: largest cosine between its template and that of another unit whose snr reaches
    WELL_ISOLATED_SNR (0: there is none). well_isolated: snr reaches WELL_ISOLATED_SNR and similarity does
    not exceed WELL_ISOLATED_SIMILARITY.
    """

    unit: int
    shank: int
    raw_column: int
    contact_id: str
    peak_uv: float
    snr: float
    similarity: float
    n_spikes: int
    well_isolated: bool


class ProbeTruth(Document):
    """One probe. name: as the pipeline names it (probe00), device: as SpikeGLX does (imec0).

    spikes: npz file in the truth folder with unit (int64), sample (int64, of the trough in the ap stream,
    as a channel without sampling delay sees it), true_s and nidq_s (float64), ordered by sample.
    """

    name: str
    device: str
    part_number: str
    serial_number: str
    gain_uv: float
    lf_gain_uv: float | None
    ap: StreamTruth
    lf: StreamTruth | None
    channels: list[ChannelTruth]
    units: list[UnitTruth]
    spikes: str


class LineTruth(Document):
    """A NIDQ digital line. events.npz holds <name>_on and <name>_off, true times in s (float64)."""

    name: str
    bit: int
    n_events: int


class AnalogTruth(Document):
    """The NIDQ's XA0: offset_v + amplitude_v * sin(2π frequency_hz * true time + phase_rad), in volts."""

    name: str
    raw_column: int
    offset_v: float
    amplitude_v: float
    frequency_hz: float
    phase_rad: float


class TruthDocument(Document):
    """truth.json: everything that was put into the session.

    run_folder: relative to the session's folder. nidq: the stream with the lines; reference: name of the
    stream whose clock is the session's. sync_period_s, sync_phase_s: the wave rises at true times
    sync_phase_s + k * sync_period_s and falls half a period later. artifact_s: true times of the common
    transients. tone_hz: on true time.
    """

    config: SimulationConfig
    session: str
    run_folder: str
    probes: list[ProbeTruth]
    nidq: StreamTruth
    reference: str = "nidq"
    lines: list[LineTruth]
    analog: AnalogTruth
    sync_period_s: float
    sync_phase_s: float
    artifact_s: list[float]
    tone_hz: float
    tone_uv: float


class Truth:
    """The truth of a simulated session, read back."""

    def __init__(self, folder: Path):
        """Read folder/truth/truth.json; raises FileNotFoundError where folder is no simulated session."""
        self.folder = Path(folder)
        self.document = TruthDocument.load(self.folder / "truth" / "truth.json")

    @classmethod
    def load(cls, folder: Path) -> Truth:
        """Truth of the session simulated in folder (the folder given to simulate_session)."""
        return cls(folder)

    @property
    def run_folder(self) -> Path:
        """The raw folder for a samplesheet: SpikeGLX's run folder as simulated."""
        return self.folder / self.document.run_folder

    def probe(self, name: str) -> ProbeTruth:
        """The probe of that name ("probe00") or device ("imec0"); raises KeyError."""
        for probe in self.document.probes:
            if name in (probe.name, probe.device):
                return probe
        raise KeyError(f"no probe {name!r} in {self.folder}")

    def spikes(self, name: str) -> dict[str, np.ndarray]:
        """Arrays unit, sample (int64), true_s, nidq_s (float64) of all spikes of a probe, by sample."""
        with np.load(self.folder / "truth" / self.probe(name).spikes) as arrays:
            return dict(arrays)

    def templates(self, name: str) -> dict[str, np.ndarray]:
        """Arrays template_uv (units, samples, file columns) float32, spikes as electrodes see them before any
        filter, and location_um (units, 3) float64: x and y on the probe, distance from it.
        """
        with np.load(self.folder / "truth" / TEMPLATES.format(self.probe(name).name)) as arrays:
            return dict(arrays)

    def events(self, line: str) -> dict[str, np.ndarray]:
        """Arrays on_s, off_s (true time), on_nidq_s, off_nidq_s (float64) of a NIDQ digital line."""
        with np.load(self.folder / "truth" / "events.npz") as arrays:
            on, off = arrays[f"{line}_on"], arrays[f"{line}_off"]
        return {
            "on_s": on,
            "off_s": off,
            "on_nidq_s": self.true_to_nidq_seconds(on),
            "off_nidq_s": self.true_to_nidq_seconds(off),
        }

    def streams(self) -> list[StreamTruth]:
        """All streams: those of the probes, then the NIDQ."""
        probes = self.document.probes
        return [s for probe in probes for s in (probe.ap, probe.lf) if s is not None] + [self.document.nidq]

    def acquired(self, stream: StreamTruth, sample: np.ndarray) -> np.ndarray:
        """Samples of a stream as counts of its clock since its first sample, time in gaps included."""
        sample = np.asarray(sample)
        if not stream.pieces:
            return sample
        starts = np.cumsum([0] + [piece.n_samples for piece in stream.pieces[:-1]])
        k = np.clip(np.searchsorted(starts, sample, side="right") - 1, 0, None)
        return sample - starts[k] + np.array([piece.offset for piece in stream.pieces])[k]

    def to_true_seconds(self, stream: StreamTruth, sample: np.ndarray) -> np.ndarray:
        """True time of a stream's samples, s."""
        acquired = self.acquired(stream, sample)
        return stream.start_s + np.asarray(acquired, dtype=np.float64) / stream.true_rate_hz

    def recorded(self, stream: StreamTruth, true_s: np.ndarray) -> np.ndarray:
        """Whether a stream was recorded at true times, bool: False in its gaps, before and after it."""
        count = np.ceil((np.asarray(true_s) - stream.start_s) * stream.true_rate_hz)
        stretches = [(p.offset, p.offset + p.n_samples) for p in stream.pieces] or [(0, stream.n_samples)]
        saved = np.any([(count >= first) & (count < last) for first, last in stretches], axis=0)
        blank = [(count >= first) & (count < last) for first, last in stream.blank]
        return saved & ~np.any(blank, axis=0) if blank else saved

    def true_to_nidq_seconds(self, true_s: np.ndarray) -> np.ndarray:
        """Seconds on the NIDQ's own clock since its first sample, of true times."""
        nidq = self.document.nidq
        return (np.asarray(true_s) - nidq.start_s) * (nidq.true_rate_hz / nidq.sampling_rate_hz)

    def to_reference_seconds(self, true_s: np.ndarray) -> np.ndarray:
        """Seconds on the reference stream's own clock since its first sample, of true times."""
        reference = next(s for s in self.streams() if s.name == self.document.reference)
        rate = reference.true_rate_hz / reference.sampling_rate_hz
        return (np.asarray(true_s) - reference.start_s) * rate

    def to_nidq_seconds(self, probe: str, sample: np.ndarray) -> np.ndarray:
        """Seconds on the NIDQ's own clock since its first sample, of ap samples of a probe."""
        return self.true_to_nidq_seconds(self.to_true_seconds(self.probe(probe).ap, sample))

    def sync_edges_s(self, stream: StreamTruth) -> np.ndarray:
        """True times of all sync edges, rising and falling, while the stream was recorded."""
        half = self.document.sync_period_s / 2
        end = self.to_true_seconds(stream, stream.n_samples)
        first = np.ceil((stream.start_s - self.document.sync_phase_s) / half)
        last = np.floor((end - self.document.sync_phase_s) / half)
        edges = self.document.sync_phase_s + half * np.arange(first, last + 1)
        return edges[self.recorded(stream, edges)]

    def analog_v(self, true_s: np.ndarray) -> np.ndarray:
        """Volts on XA0 at true times."""
        return _analog_v(self.document.analog, true_s)


def simulate_session(folder: Path, config: SimulationConfig, jobs: int = 1) -> Path:
    """Simulate a session under folder and return the path of its truth.json.

    folder appears when the session is complete; raises DataError where something is in it already. The same
    config gives the same bytes, for any number of jobs (processes). Memory does not grow with duration,
    except for the spikes.
    """
    folder = Path(folder)
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # An interrupted simulation must not leave half a session under the name of a whole one.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        work = Path(unfinished) / "session"
        document = _write_session(work, config, jobs)
        write_samplesheet(work, document, folder)
        work.rename(folder)
    return folder / "truth" / "truth.json"


def require_new(folder: Path) -> None:
    """Raise DataError where something is in folder already."""
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder}: expected an empty or new folder for the simulated session, found files in it; "
            "name another folder or delete this one"
        )


# What the recording's files do not say and NWB demands, and what else is true of every simulated session.
METADATA = """\
timezone: UTC
NWBFile:
  session_description: Simulated; every spike is known.
  keywords: [Neuropixels, simulation]
Subject:
  description: simulated
"""


def write_samplesheet(work: Path, document: TruthDocument, folder: Path) -> None:
    """Write samplesheet.csv and metadata.yaml into work, of the one session that will lie in folder."""
    with (work / "samplesheet.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["subject", "session", "raw", "metadata"])
        raw = (folder / document.run_folder).resolve()
        writer.writerow([document.config.subject, document.session, raw.as_posix(), "metadata.yaml"])
    (work / "metadata.yaml").write_text(METADATA, encoding="utf-8")


def _write_session(folder: Path, config: SimulationConfig, jobs: int) -> TruthDocument:
    """Write raw/ and truth/ into folder, which is created."""
    run_folder = folder / "raw" / f"{config.run}_g0"
    truth_folder = folder / "truth"
    run_folder.mkdir(parents=True)
    truth_folder.mkdir()
    n_seeds = len(config.probes) + 2
    seeds = np.random.SeedSequence(config.seed).spawn(n_seeds)
    # The session's own part: seeds[0] and seeds[1], and what a probe draws after its units.
    own = [None] * n_seeds
    if config.session_seed is not None:
        own = np.random.SeedSequence([config.seed, config.session_seed]).spawn(n_seeds)
        seeds[:2] = own[:2]
    rng = np.random.default_rng(seeds[0])
    waves = _draw_waves(rng)
    n_artifacts = int(config.duration_s / ARTIFACT_INTERVAL_S)
    artifact_s = ARTIFACT_INTERVAL_S * (np.arange(n_artifacts) + rng.uniform(0.3, 0.7, n_artifacts))

    probes, spikes_of = [], []
    for index, (probe, seed) in enumerate(zip(config.probes, seeds[2:], strict=True)):
        name = f"probe{int(probe.device[4:]):02d}"
        simulated = _SimulatedProbe(probe, config, name, seed, own[2 + index])
        streams = {
            kind: simulated.write_stream(folder, run_folder, kind, waves, artifact_s, jobs)
            for kind in (("ap", "lf") if simulated.has_lf else ("ap",))
        }
        probes.append(simulated.truth(streams["ap"], streams.get("lf")))
        spikes_of.append(simulated.spikes)
        np.savez_compressed(
            truth_folder / TEMPLATES.format(name),
            template_uv=simulated.templates,
            location_um=simulated.locations_um,
        )

    nidq, lines, analog, events = _write_nidq(folder, run_folder, config, np.random.default_rng(seeds[1]))
    np.savez(truth_folder / "events.npz", **events)
    document = TruthDocument(
        config=config,
        session=f"{config.start_time[:10]}_001",
        run_folder=run_folder.relative_to(folder).as_posix(),
        probes=probes,
        nidq=nidq,
        lines=lines,
        analog=analog,
        sync_period_s=SYNC_PERIOD_S,
        sync_phase_s=SYNC_PHASE_S,
        artifact_s=artifact_s.tolist(),
        tone_hz=TONE_HZ,
        tone_uv=TONE_UV,
    )
    document.save(truth_folder / "truth.json")
    truth = Truth.load(folder)
    for probe, (unit, sample) in zip(probes, spikes_of, strict=True):
        np.savez(
            truth_folder / probe.spikes,
            unit=unit,
            sample=sample,
            true_s=truth.to_true_seconds(probe.ap, sample),
            nidq_s=truth.to_nidq_seconds(probe.name, sample),
        )
    return document


# ---------------------------------------------------------------------------------------------------------
# Analytic signals: everything that is a formula of true time, so that a delayed channel can be evaluated at
# exactly its own sampling time.
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Waves:
    """LFP as a sum of sinusoids, coherent over all channels in the brain.

    frequency_hz, amplitude_uv, phase_rad, depth_rad_per_um, depth_phase_rad: (n_waves,) float64. Channel at
    depth y sees wave k with amplitude a_k * (0.8 + 0.2 cos(y / 1000 µm + depth_phase)) and its phase
    advanced by depth_rad_per_um * y.
    """

    frequency_hz: np.ndarray
    amplitude_uv: np.ndarray
    phase_rad: np.ndarray
    depth_rad_per_um: np.ndarray
    depth_phase_rad: np.ndarray


def _draw_waves(rng: np.random.Generator) -> _Waves:
    """1/f-like LFP from 1 to 250 Hz with a theta peak, LFP_UV rms."""
    frequency = np.geomspace(1.0, 250.0, 32) * rng.uniform(0.95, 1.05, 32)
    amplitude = 1.0 / frequency
    theta = np.argmin(np.abs(frequency - 8.0))
    amplitude[theta] *= 3.0
    amplitude *= LFP_UV / np.sqrt(np.sum(amplitude**2) / 2)
    return _Waves(
        frequency,
        amplitude,
        rng.uniform(0, 2 * np.pi, 32),
        rng.uniform(-3e-4, 3e-4, 32),
        rng.uniform(0, 2 * np.pi, 32),
    )


def _highpass_gain(frequency_hz: np.ndarray) -> np.ndarray:
    """Gain of the 1.0 probe's AP band at low frequencies (first order)."""
    ratio = frequency_hz / AP_CORNER_HZ
    return ratio / np.sqrt(1 + ratio**2)


def _lowpass_gain(frequency_hz: np.ndarray) -> np.ndarray:
    """Gain of the 1.0 probe's LF band at high frequencies (first order; nothing beyond Nyquist)."""
    return (frequency_hz < LF_RATE_HZ / 2) / np.sqrt(1 + (frequency_hz / LF_CORNER_HZ) ** 2)


def _no_filter(frequency_hz: np.ndarray) -> np.ndarray:
    """Gain of the 2.0 probe's wide band."""
    return np.ones_like(frequency_hz, dtype=np.float64)


class _AnalyticSignal:
    """LFP, tone and artifacts on the channels of one stream, each channel at its own sampling times.

    gain_at: the band's gain at frequencies in Hz. All others (n_channels,): y_um; delay_s, how much later
    than the nominal time a channel is sampled; in_brain and alive, bool; artifact_uv, peak before the
    band's filter. artifact_s: true times of the artifacts, ascending.
    """

    def __init__(
        self,
        waves: _Waves,
        gain_at: Callable[[np.ndarray], np.ndarray],
        y_um: np.ndarray,
        delay_s: np.ndarray,
        in_brain: np.ndarray,
        alive: np.ndarray,
        artifact_s: np.ndarray,
        artifact_uv: np.ndarray,
    ):
        depth = 0.8 + 0.2 * np.cos(y_um[None, :] / 1000.0 + waves.depth_phase_rad[:, None])
        amplitude = (waves.amplitude_uv * gain_at(waves.frequency_hz))[:, None] * depth
        amplitude = amplitude * (in_brain & alive)
        phase = waves.phase_rad[:, None] + waves.depth_rad_per_um[:, None] * y_um[None, :]
        frequency = np.append(waves.frequency_hz, TONE_HZ)
        amplitude = np.vstack([amplitude, TONE_UV * gain_at(np.array(TONE_HZ)) * alive])
        phase = np.vstack([phase, np.zeros(y_um.size)])
        angle = 2 * np.pi * frequency[:, None] * delay_s[None, :] + phase
        self.frequency_hz = frequency
        # A cos(wt + angle) = A cos(angle) cos(wt) - A sin(angle) sin(wt): one matrix product per chunk.
        self.coefficients = np.vstack([amplitude * np.cos(angle), -amplitude * np.sin(angle)])
        self.delay_s = delay_s
        self.artifact_s = artifact_s
        self.artifact_uv = artifact_uv * gain_at(np.array(ARTIFACT_HZ)) * alive

    def __call__(self, true_s: np.ndarray) -> np.ndarray:
        """(n_samples, n_channels) float64 µV at nominal sampling times true_s."""
        angle = 2 * np.pi * true_s[:, None] * self.frequency_hz[None, :]
        traces = np.hstack([np.cos(angle), np.sin(angle)]) @ self.coefficients
        length = 8 * ARTIFACT_DECAY_S
        first, last = np.searchsorted(self.artifact_s, [true_s[0] - length, true_s[-1] + self.delay_s.max()])
        for start in self.artifact_s[first:last]:
            rows = slice(*np.searchsorted(true_s, [start - self.delay_s.max(), start + length]))
            after = true_s[rows, None] + self.delay_s[None, :] - start
            shape = np.where(after >= 0, np.exp(-np.abs(after) / ARTIFACT_DECAY_S), 0.0)
            traces[rows] += self.artifact_uv * shape * np.cos(2 * np.pi * ARTIFACT_HZ * after)
        return traces


def _sync_level(true_s: np.ndarray) -> np.ndarray:
    """True where the sync wave is high."""
    return np.floor((true_s - SYNC_PHASE_S) / (SYNC_PERIOD_S / 2)) % 2 == 0


def _analog_v(analog: AnalogTruth, true_s: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * analog.frequency_hz * np.asarray(true_s) + analog.phase_rad
    return analog.offset_v + analog.amplitude_v * np.sin(angle)


# ---------------------------------------------------------------------------------------------------------
# Probes
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ProbeModel:
    """What SpikeGLX's metadata say of a probe model.

    max_int: counts at range_v, before the gain. n_cycles: slots of an ADC's cycle; that of the 1.0 probe
    has a 13th for the LF band. edge_um: from a shank's left edge to its leftmost column of electrodes,
    where probeinterface's x begins.
    """

    part_number: str
    serial_number: str
    imro_type: int
    range_v: float
    max_int: int
    ap_gain: int
    lf_gain: int | None
    n_cycles: int
    n_shanks: int
    shank_pitch_um: int
    edge_um: int

    def gain_uv(self, gain: float) -> float:
        """µV per count."""
        return 1e6 * self.range_v / self.max_int / gain


PROBE_MODELS = {
    "1.0": _ProbeModel("PRB_1_4_0480_1", "18194814141", 0, 0.6, 512, 500, 250, 13, 1, 0, 11),
    "2.0-4shank": _ProbeModel("NP2014", "22420011431", 2013, 0.62, 2048, 100, None, 16, 4, 250, 27),
}


def acquired_channel(model: str, shank: int, electrode: int) -> int:
    """Readout channel (0 to 383) that an electrode of a shank is wired to."""
    within = electrode % 384
    if model == "1.0":
        return within
    return 48 * NP2_BLOCKS[shank][within // 48] + within % 48


class _SimulatedProbe:
    """Everything drawn for one probe; writes its streams.

    session_seed: for all that is drawn after the units and their rates; None: as they are.
    """

    def __init__(
        self,
        probe: ProbeConfig,
        config: SimulationConfig,
        name: str,
        seed: np.random.SeedSequence,
        session_seed: np.random.SeedSequence | None,
    ):
        from probeinterface.neuropixels_tools import build_neuropixels_probe

        self.config = config
        self.probe = probe
        self.name = name
        self.model = PROBE_MODELS[probe.model]
        self.has_lf = self.model.lf_gain is not None
        self.rng = np.random.default_rng(seed)
        self.session_seed = session_seed
        self.n_samples = round(config.duration_s * AP_RATE_HZ)
        self.true_rate_hz = AP_RATE_HZ * (1 + 1e-6 * probe.drift_ppm)
        # SpikeGLX counts samples from the start of acquisition, here some 12 s before the files begin. A
        # multiple of 12, so that the ap and lf files begin at the same moment.
        self.first_sample = 12 * round((12.4 + probe.start_s) * self.true_rate_hz / 12)

        whole = build_neuropixels_probe(self.model.part_number)
        self.mux = whole.annotations["adc_sampling_table"]
        positions = dict(zip(whole.contact_ids, whole.contact_positions, strict=True))
        self.electrode_of = _acquired_electrodes(probe.model)
        wanted = range(probe.first_electrode, probe.first_electrode + probe.n_channels)
        self.acquired = np.array(
            sorted(acquired_channel(probe.model, shank, el) for shank in probe.shanks for el in wanted)
        )
        self.shank = np.array([self.electrode_of[channel][0] for channel in self.acquired])
        self.contact_id = [_contact_id(probe.model, *self.electrode_of[channel]) for channel in self.acquired]
        self.xy_um = np.array([positions[contact] for contact in self.contact_id])
        slot_of = _adc_slots(self.mux)
        self.shift = np.array([slot_of[channel] / self.model.n_cycles for channel in self.acquired])
        self.label = self._plant_bad_channels()
        self.in_brain = self.label != "out"
        self.alive = self.label != "dead"
        self.artifact_gain = self.rng.uniform(0.9, 1.1, self.shank.size)
        self.noise_cov = self._noise_covariance()
        self.locations_um, self.templates, self.units, self.spikes = self._draw_units()

    def _plant_bad_channels(self) -> np.ndarray:
        """(n_channels,) of "good", "dead", "noise", "out".

        Dead and noisy channels lie 6 or more channels, in depth order, below the brain's surface, where the
        detector's running median over 11 channels must find its place to the channel.
        """
        label = np.full(self.shank.size, "good", dtype="U5")
        candidates = []
        for shank in self.probe.shanks:
            on_shank = np.flatnonzero(self.shank == shank)
            by_depth = on_shank[np.lexsort((self.xy_um[on_shank, 0], self.xy_um[on_shank, 1]))]
            n_inside = by_depth.size - self.probe.n_outside
            label[by_depth[n_inside:]] = "out"
            candidates.append(by_depth[: n_inside - 6])
        # One bad channel after the other goes to the next shank, spread over its depth.
        n_bad = self.probe.n_dead + self.probe.n_noisy
        per_shank = -(-n_bad // len(candidates))
        for index in range(n_bad):
            places = candidates[index % len(candidates)]
            place = (index // len(candidates) + 0.5) / per_shank * places.size
            label[places[int(place)]] = "dead" if index < self.probe.n_dead else "noise"
        return label

    def _noise_covariance(self) -> np.ndarray:
        """(n_channels, n_channels) float64 µV²: own, local and common noise, by the labels."""
        distance = np.linalg.norm(self.xy_um[:, None] - self.xy_um[None], axis=2)
        shared = NOISE_COMMON_UV**2 + NOISE_LOCAL_UV**2 * np.exp(-distance / NOISE_LOCAL_UM)
        brain = (self.in_brain & self.alive).astype(float)
        own = np.where(self.alive, NOISE_OWN_UV, NOISE_DEAD_UV) ** 2
        own = own + np.where(self.label == "noise", NOISE_NOISY_UV**2, 0.0)
        return shared * np.outer(brain, brain) + np.diag(own)

    def _draw_locations(self, inside: np.ndarray, n_units: int) -> np.ndarray:
        """(n_units, 3) µm: a unit near the middle of each of n_units equal slices of the brain's depth.

        Kilosort 4 takes all spikes near one of its cluster centres (each 40 µm on a 1.0 probe, 30 µm on a
        2.0 probe) for one unit while they are fewer than 1000, as they are in a short recording. So that
        recall and precision of a short session measure the pipeline, no two such units share a centre.
        """
        from spikeinterface.core.generate import generate_unit_locations

        x_um, (bottom, top) = self.xy_um[inside, 0], _range(self.xy_um[inside, 1])
        edges = np.linspace(bottom, top, n_units + 1)
        locations = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            middle, reach = (low + high) / 2, 0.1 * (high - low)
            corners = [(x, y) for x in _range(x_um) for y in (middle - reach, middle + reach)]
            seed = int(self.rng.integers(2**31))
            locations.append(
                generate_unit_locations(
                    1, np.array(corners), margin_um=0.0, minimum_z=8.0, maximum_z=25.0, seed=seed
                )
            )
        return np.array(locations).reshape(n_units, 3)

    def _draw_units(
        self,
    ) -> tuple[np.ndarray, np.ndarray, list[UnitTruth], tuple[np.ndarray, np.ndarray]]:
        """Locations and templates as ``Truth.templates`` has them, the units, and their spikes.

        Spikes are two int64 arrays, unit and sample, ordered by sample.
        """
        from spikeinterface.core import generate_sorting
        from spikeinterface.core.generate import generate_templates

        n_of = (self.probe.n_units, self.probe.n_small_units)
        templates, shanks, mains, places = [], [], [], []
        for shank in self.probe.shanks:
            inside = np.flatnonzero((self.shank == shank) & self.in_brain)
            living = inside[self.alive[inside]]
            main_able = inside[self.label[inside] == "good"]
            locations = np.concatenate([self._draw_locations(inside, n) for n in n_of])
            drawn = generate_templates(
                self.xy_um[living],
                locations,
                AP_RATE_HZ,
                *TEMPLATE_MS,
                seed=int(self.rng.integers(2**31)),
                unit_params=dict(alpha=1.0, spatial_decay=(18.0, 28.0), ellipse_shrink=(0.7, 1.0)),
            )
            nbefore = _n_before()
            for index in range(sum(n_of)):
                amplitude_range = UNIT_AMPLITUDE_UV if index < n_of[0] else SMALL_UNIT_AMPLITUDE_UV
                peak = np.exp(self.rng.uniform(*np.log(amplitude_range)))
                template = np.zeros((drawn.shape[1], self.shank.size), dtype=np.float32)
                template[:, living] = drawn[index]
                main = main_able[np.argmin(template[:, main_able].min(axis=0))]
                # Conduction delays move the trough of the largest channel off the nominal sample.
                template = np.roll(template, nbefore - int(np.argmin(template[:, main])), axis=0)
                templates.append(template * (peak / -template[nbefore, main]))
                shanks.append(shank)
                mains.append(main)
                places.append(locations[index])

        n_units = len(templates)
        rates = np.exp(self.rng.uniform(*np.log(FIRING_RATE_HZ), n_units))
        if self.session_seed is not None:
            self.rng = np.random.default_rng(self.session_seed)
        sorting = generate_sorting(
            num_units=n_units,
            sampling_frequency=AP_RATE_HZ,
            durations=[self.n_samples / AP_RATE_HZ],
            firing_rates=rates,
            refractory_period_ms=REFRACTORY_MS,
            seed=int(self.rng.integers(2**31)),
        )
        vector = sorting.to_spike_vector()
        unit, sample = vector["unit_index"].astype(np.int64), vector["sample_index"].astype(np.int64)
        flat = np.array([t.ravel() / np.linalg.norm(t) for t in templates])
        cosine = np.clip(flat @ flat.T - 2 * np.eye(n_units), 0.0, None)
        peaks = np.array([-t[_n_before(), main] for t, main in zip(templates, mains, strict=True)])
        snrs = peaks / np.sqrt(np.diag(self.noise_cov))[mains]
        cosine[:, snrs < WELL_ISOLATED_SNR] = 0.0
        units = []
        for index, main in enumerate(mains):
            snr, similarity = float(snrs[index]), float(cosine[index].max())
            units.append(
                UnitTruth(
                    unit=index,
                    shank=int(shanks[index]),
                    raw_column=int(main),
                    contact_id=self.contact_id[main],
                    peak_uv=float(peaks[index]),
                    snr=snr,
                    similarity=similarity,
                    n_spikes=int(np.sum(unit == index)),
                    well_isolated=snr >= WELL_ISOLATED_SNR and similarity <= WELL_ISOLATED_SIMILARITY,
                )
            )
        return np.array(places), np.stack(templates), units, (unit, sample)

    def _noise(self, rate_hz: float, n_samples: int, scale: float, seed: int) -> BaseRecording:
        """Background noise with the covariance of the probe, lazily computed."""
        from spikeinterface.generation import NoiseGeneratorRecording
        from spikeinterface.preprocessing import whiten

        white = NoiseGeneratorRecording(
            num_channels=self.shank.size,
            sampling_frequency=rate_hz,
            durations=[n_samples / rate_hz + 1.0],
            strategy="on_the_fly",
            noise_block_size=3000,
            seed=seed,
        )
        # whiten() with a given matrix is a matrix product: here it colours.
        factor = scale * np.linalg.cholesky(self.noise_cov).T
        return whiten(white, W=factor.astype(np.float32), apply_mean=False)

    def write_stream(
        self, folder: Path, run_folder: Path, kind: str, waves: _Waves, artifact_s: np.ndarray, jobs: int
    ) -> StreamTruth:
        """Write <run>_g0_imecN/<run>_g0_t0.imecN.<kind>.bin and .meta."""
        from spikeinterface.core import NumpySorting
        from spikeinterface.core.generate import InjectTemplatesRecording
        from spikeinterface.preprocessing import phase_shift

        ratio = 1 if kind == "ap" else round(AP_RATE_HZ / LF_RATE_HZ)
        rate_hz, true_rate_hz = AP_RATE_HZ / ratio, self.true_rate_hz / ratio
        n_samples = self.n_samples // ratio
        seed = int(self.rng.integers(2**31))
        if kind == "ap":
            unit, sample = self.spikes
            recording = InjectTemplatesRecording(
                NumpySorting.from_samples_and_labels([sample], [unit], AP_RATE_HZ),
                self.templates,
                nbefore=_n_before(),
                parent_recording=self._noise(rate_hz, n_samples, 1.0, seed),
            )
            gain_at = _highpass_gain if self.has_lf else _no_filter
            gain_uv = self.model.gain_uv(self.model.ap_gain)
        else:
            recording = self._noise(rate_hz, n_samples, 0.5, seed)
            gain_at = _lowpass_gain
            gain_uv = self.model.gain_uv(self.model.lf_gain)
        # phase_shift delays by the given number of samples, to undo that a channel was sampled late. Its
        # negative is what the ADC does.
        recording = phase_shift(recording, inter_sample_shift=-self.shift)
        analytic = _AnalyticSignal(
            waves,
            gain_at,
            self.xy_um[:, 1],
            self.shift / true_rate_hz,
            self.in_brain,
            self.alive,
            artifact_s,
            self.config.artifact_uv * self.artifact_gain,
        )

        def chunk(first: int, last: int) -> np.ndarray:
            true_s = self.probe.start_s + np.arange(first, last) / true_rate_hz
            uv = recording.get_traces(start_frame=first, end_frame=last) + analytic(true_s)
            counts = np.empty((last - first, self.shank.size + 1), dtype="<i2")
            limit = self.model.max_int
            counts[:, :-1] = np.clip(np.rint(uv / gain_uv), -limit, limit - 1)
            counts[:, -1] = _sync_level(true_s).astype(np.int16) << IMEC_SYNC_BIT
            return counts

        device = self.probe.device
        probe_folder = run_folder / f"{self.config.run}_g0_{device}"
        probe_folder.mkdir(exist_ok=True)
        data = probe_folder / f"{self.config.run}_g0_t0.{device}.{kind}.bin"
        log.info("simulate: %s, %d channels, %.0f s", data.name, self.shank.size, n_samples / rate_hz)
        sha1 = _write_chunks(data, chunk, n_samples, round(CHUNK_S * rate_hz), jobs)
        meta = self._meta(data, kind, n_samples, rate_hz, self.first_sample // ratio, sha1)
        write_meta(data, meta)
        return StreamTruth(
            name=f"{device}.{kind}",
            file=data.relative_to(folder).as_posix(),
            sampling_rate_hz=rate_hz,
            true_rate_hz=true_rate_hz,
            start_s=self.probe.start_s,
            n_samples=n_samples,
            n_columns=self.shank.size + 1,
            first_sample=self.first_sample // ratio,
            sync_column=self.shank.size,
            sync_bit=IMEC_SYNC_BIT,
        )

    def _meta(
        self, data: Path, kind: str, n_samples: int, rate_hz: float, first_sample: int, sha1: str
    ) -> dict[str, str]:
        """Fields of the .meta file, as SpikeGLX 20230905 writes them."""
        model, n_lf = self.model, 384 if self.has_lf else 0
        band_offset, prefix = (0, "AP") if kind == "ap" else (384, "LF")
        saved = self.acquired + band_offset
        sync = 384 + n_lf
        n = self.shank.size
        if self.has_lf:
            entries = [f"{c} 0 0 {model.ap_gain} {model.lf_gain} 1" for c in range(384)]
        else:
            entries = [f"{c} {self.electrode_of[c][0]} 0 0 {self.electrode_of[c][1]}" for c in range(384)]
        # x in snsGeomMap counts from the left edge of the channel's own shank.
        x_um = self.xy_um[:, 0] - model.shank_pitch_um * self.shank + model.edge_um
        geometry = zip(self.shank, x_um, self.xy_um[:, 1], strict=True)
        return {
            **_common_meta(self.config, data, n_samples, rate_hz, n + 1, first_sample, sha1),
            "acqApLfSy": f"384,{n_lf},1",
            "imAiRangeMax": f"{model.range_v}",
            "imAiRangeMin": f"-{model.range_v}",
            "imAnyChanFullBand": "false" if self.has_lf else "true",
            "imCalibrated": "true",
            "imChan0apGain": f"{model.ap_gain}",
            "imDatApi": "3.62",
            "imDatBs_fw": "2.0.169",
            "imDatBsc_fw": "3.2.189",
            "imDatBsc_hw": "2.1",
            "imDatBsc_pn": "NP2_QBSC_00",
            "imDatBsc_sn": "20240117",
            "imDatFx_hw": "4.13" if self.has_lf else "0.1",
            "imDatFx_pn": "NP2_FLEX_0" if self.has_lf else "NPM_FLEX_01",
            "imDatFx_sn": "0" if self.has_lf else "23200107",
            "imDatHs_hw": "5.1" if self.has_lf else "3.2",
            "imDatHs_pn": "NP2_HS_30" if self.has_lf else "NPM_HS_31",
            "imDatHs_sn": "761" if self.has_lf else "23200107",
            "imDatPrb_dock": "1",
            "imDatPrb_pn": model.part_number,
            "imDatPrb_port": f"{int(self.probe.device[4:]) + 1}",
            "imDatPrb_slot": "2",
            "imDatPrb_sn": model.serial_number,
            "imDatPrb_type": f"{model.imro_type}",
            "imErrFlags_IS_CT_SR_LK_PP_SY": "0 0 0 0 0 0",
            "imIsSvyRun": "false",
            "imLEDEnable": "false",
            "imLowLatency": "false",
            "imMaxInt": f"{model.max_int}",
            "imSampRate": _number(rate_hz),
            "imStdby": "",
            "imSvyMaxBnk": "-1",
            "imSvySecPerBnk": "35",
            "imTipLength": "209" if self.has_lf else "206",
            "imTrgRising": "true",
            "imTrgSource": "0",
            "imroFile": "",
            "snsApLfSy": f"{n},0,1" if kind == "ap" else f"0,{n},1",
            "snsSaveChanSubset": channel_ranges([*saved, sync]),
            "syncImInputSlot": "2",
            "typeThis": "imec",
            "~imroTbl": f"({model.imro_type},384)" + "".join(f"({entry})" for entry in entries),
            "~muxTbl": self.mux,
            "~snsChanMap": f"(384,{n_lf},1)"
            + "".join(f"({prefix}{a};{c}:{c})" for a, c in zip(self.acquired, saved, strict=True))
            + f"(SY0;{sync}:{sync})",
            "~snsGeomMap": f"({model.part_number},{model.n_shanks},{model.shank_pitch_um},70)"
            + "".join(f"({s}:{x:.0f}:{y:.0f}:1)" for s, x, y in geometry),
        }

    def truth(self, ap: StreamTruth, lf: StreamTruth | None) -> ProbeTruth:
        """The probe's part of truth.json."""
        channels = [
            ChannelTruth(
                raw_column=column,
                channel_id=f"AP{self.acquired[column]}",
                acquired_channel=int(self.acquired[column]),
                contact_id=self.contact_id[column],
                shank=int(self.shank[column]),
                x_um=float(self.xy_um[column, 0]),
                y_um=float(self.xy_um[column, 1]),
                inter_sample_shift=float(self.shift[column]),
                label=str(self.label[column]),
            )
            for column in range(self.shank.size)
        ]
        return ProbeTruth(
            name=self.name,
            device=self.probe.device,
            part_number=self.model.part_number,
            serial_number=self.model.serial_number,
            gain_uv=self.model.gain_uv(self.model.ap_gain),
            lf_gain_uv=self.model.gain_uv(self.model.lf_gain) if self.has_lf else None,
            ap=ap,
            lf=lf,
            channels=channels,
            units=self.units,
            spikes=f"spikes_{self.name}.npz",
        )


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _n_before() -> int:
    """Sample of the trough within a template."""
    return round(TEMPLATE_MS[0] * AP_RATE_HZ / 1000)


def _acquired_electrodes(model: str) -> dict[int, tuple[int, int]]:
    """(shank, electrode) of each readout channel: bank 0, or the lowest 96 electrodes of all four shanks."""
    shanks, n_electrodes = ((0,), 384) if model == "1.0" else (range(4), 96)
    return {
        acquired_channel(model, shank, electrode): (shank, electrode)
        for shank in shanks
        for electrode in range(n_electrodes)
    }


def _contact_id(model: str, shank: int, electrode: int) -> str:
    """probeinterface's name of a contact."""
    return f"e{electrode}" if model == "1.0" else f"s{shank}e{electrode}"


def _adc_slots(mux_table: str) -> dict[int, int]:
    """Slot of the ADC's cycle in which each readout channel is sampled, from SpikeGLX's muxTbl."""
    groups = re.findall(r"\(([^)]*)\)", mux_table)[1:]
    return {int(channel): slot for slot, group in enumerate(groups) for channel in group.split()}


# ---------------------------------------------------------------------------------------------------------
# NIDQ
# ---------------------------------------------------------------------------------------------------------


def _write_nidq(
    folder: Path, run_folder: Path, config: SimulationConfig, rng: np.random.Generator
) -> tuple[StreamTruth, list[LineTruth], AnalogTruth, dict[str, np.ndarray]]:
    """Write <run>_g0_t0.nidq.bin and .meta: XA0 and the digital word XD0.

    Returns the stream, its digital lines, its analog trace and the arrays of events.npz.
    """
    true_rate_hz = NIDQ_RATE_HZ * (1 + 1e-6 * config.nidq_drift_ppm)
    start_s = config.nidq_start_s
    n_samples = round((config.duration_s + 0.4) * NIDQ_RATE_HZ)
    first_sample = round((12.4 + start_s) * true_rate_hz)
    end_s = config.duration_s - 0.2
    analog = AnalogTruth(
        name="XA0", raw_column=0, offset_v=0.4, amplitude_v=1.2, frequency_hz=0.73, phase_rad=0.9
    )
    # The animal licks irregularly; the camera exposes 5 ms at 30 Hz.
    lick = np.cumsum(rng.exponential(0.25, int(config.duration_s / 0.3)) + 0.1) + 0.4
    lick = lick[lick < end_s]
    camera = np.arange(0.7, end_s, 1 / 30)
    pulses = {
        "lick": (1, lick, lick + rng.uniform(0.02, 0.06, lick.size)),
        "camera": (2, camera, camera + 0.005),
    }

    def chunk(first: int, last: int) -> np.ndarray:
        true_s = start_s + np.arange(first, last) / true_rate_hz
        counts = np.empty((last - first, 2), dtype="<i2")
        volts = _analog_v(analog, true_s)
        counts[:, 0] = np.clip(np.rint(volts / NIDQ_RANGE_V * 32768), -32768, 32767)
        word = _sync_level(true_s).astype(np.int16) << NIDQ_SYNC_BIT
        for bit, on, off in pulses.values():
            high = np.searchsorted(on, true_s, side="right") > np.searchsorted(off, true_s, side="right")
            word |= high.astype(np.int16) << bit
        counts[:, 1] = word
        return counts

    data = run_folder / f"{config.run}_g0_t0.nidq.bin"
    log.info("simulate: %s", data.name)
    sha1 = _write_chunks(data, chunk, n_samples, round(10 * CHUNK_S * NIDQ_RATE_HZ))
    meta = {
        **_common_meta(config, data, n_samples, NIDQ_RATE_HZ, 2, first_sample, sha1),
        "acqMnMaXaDw": "0,0,1,1",
        "niAiRangeMax": _number(NIDQ_RANGE_V),
        "niAiRangeMin": _number(-NIDQ_RANGE_V),
        "niAiTermination": "Default",
        "niClockLine1": "Internal",
        "niClockSource": f"PXI1Slot4_Internal : {NIDQ_RATE_HZ:.6f}",
        "niDev1": "PXI1Slot4",
        "niDev1ProductName": "PXIe-6341",
        "niMAChans1": "",
        "niMAGain": "1",
        "niMNChans1": "",
        "niMNGain": "200",
        "niMaxInt": "32768",
        "niMuxFactor": "32",
        "niSampRate": _number(NIDQ_RATE_HZ),
        "niStartEnable": "false",
        "niStartLine": "PXI1Slot4/port0/line0",
        "niXAChans1": "0",
        "niXDBytes1": "1",
        "niXDChans1": "0:7",
        "snsMnMaXaDw": "0,0,1,1",
        "snsSaveChanSubset": "0:1",
        "syncNiChan": f"{NIDQ_SYNC_BIT}",
        "syncNiChanType": "0",
        "syncNiThresh": "1.1",
        "typeThis": "nidq",
        "~snsChanMap": "(0,0,32,1,1)(XA0;0:0)(XD0;1:1)",
        "~snsShankMap": "(1,2,0)",
    }
    write_meta(data, meta)
    stream = StreamTruth(
        name="nidq",
        file=data.relative_to(folder).as_posix(),
        sampling_rate_hz=NIDQ_RATE_HZ,
        true_rate_hz=true_rate_hz,
        start_s=start_s,
        n_samples=n_samples,
        n_columns=2,
        first_sample=first_sample,
        sync_column=1,
        sync_bit=NIDQ_SYNC_BIT,
    )
    lines = [LineTruth(name=name, bit=bit, n_events=on.size) for name, (bit, on, _) in pulses.items()]
    events = {}
    for name, (_, on, off) in pulses.items():
        events[f"{name}_on"], events[f"{name}_off"] = on, off
    return stream, lines, analog, events


# ---------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------


def _write_chunks(
    path: Path, chunk: Callable[[int, int], np.ndarray], n_samples: int, size: int, jobs: int = 1
) -> str:
    """Write chunk(first, last) for all samples to path; returns the SHA-1 of the file."""
    digest = hashlib.sha1()
    bounds = [(first, min(first + size, n_samples)) for first in range(0, n_samples, size)]
    with path.open("wb") as file:
        for (_, last), block in zip(bounds, _computed(chunk, bounds, jobs), strict=True):
            digest.update(block)
            file.write(block)
            if last % (60 * size) == 0:
                log.info("simulate: %s: %d %%", path.name, 100 * last // n_samples)
    return digest.hexdigest().upper()


def _computed(
    chunk: Callable[[int, int], np.ndarray], bounds: list[tuple[int, int]], jobs: int
) -> Iterator[bytes]:
    """The bytes of each chunk, in order, by as many processes; at most two a process wait to be written."""
    if jobs == 1:
        yield from (chunk(*bound).tobytes() for bound in bounds)
        return
    pending: deque = deque()
    # A closure can't be sent to another process, but is there in a fork; each has one core.
    with threadpool_limits(1), get_context("fork").Pool(jobs, _set_chunk, (chunk,)) as pool:
        for bound in bounds:
            pending.append(pool.apply_async(_chunk_bytes, (bound,)))
            if len(pending) == 2 * jobs:
                yield pending.popleft().get()
        while pending:
            yield pending.popleft().get()


_chunk: Callable[[int, int], np.ndarray]


def _set_chunk(chunk: Callable[[int, int], np.ndarray]) -> None:
    global _chunk
    _chunk = chunk


def _chunk_bytes(bound: tuple[int, int]) -> bytes:
    return _chunk(*bound).tobytes()


def _common_meta(
    config: SimulationConfig,
    data: Path,
    n_samples: int,
    rate_hz: float,
    n_columns: int,
    first_sample: int,
    sha1: str,
) -> dict[str, str]:
    """Fields that imec and NIDQ files share."""
    size = data.stat().st_size
    # The path on the acquisition machine, which is not ours.
    parts = data.parts[data.parts.index(f"{config.run}_g0") :]
    return {
        "appVersion": "20230905",
        "fileCreateTime": config.start_time,
        "fileName": "D:/data/" + "/".join(parts),
        "fileSHA1": sha1,
        "fileSizeBytes": f"{size}",
        "fileTimeSecs": repr(n_samples / rate_hz),
        "firstSample": f"{first_sample}",
        "gateMode": "Immediate",
        "nDataDirs": "1",
        "nSavedChans": f"{n_columns}",
        "syncSourceIdx": "3",
        "syncSourcePeriod": _number(SYNC_PERIOD_S),
        "trigMode": "Immediate",
        "typeImEnabled": f"{len(config.probes)}",
        "typeNiEnabled": "1",
        "typeObEnabled": "0",
        "userNotes": "",
    }


def write_meta(data: Path, fields: dict[str, str]) -> None:
    """Write the .meta file beside a data file.

    SpikeGLX's order: plain keys, then those that start with ~, each alphabetically.
    """
    lines = [f"{key}={fields[key]}\n" for key in sorted(fields, key=lambda key: (key[0] == "~", key))]
    data.with_suffix(".meta").write_text("".join(lines), encoding="utf-8")


def _number(value: float) -> str:
    """30000.0 as 30000, 10593.2 as 10593.2."""
    return repr(int(value)) if value == int(value) else repr(value)


def channel_ranges(channels: list[int]) -> str:
    """SpikeGLX's list of saved channels: 0:2,5,7:8."""
    runs: list[list[int]] = []
    for channel in channels:
        if runs and channel == runs[-1][1] + 1:
            runs[-1][1] = int(channel)
        else:
            runs.append([int(channel), int(channel)])
    return ",".join(f"{first}:{last}" if last > first else f"{first}" for first, last in runs)


# ---------------------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------------------


def score_sorting(
    true_trains: dict[int, np.ndarray], sorted_trains: dict[int, np.ndarray], sampling_rate_hz: float
) -> pd.DataFrame:
    """Recall, precision and accuracy of each true unit, by SpikeInterface's comparison to ground truth.

    true_trains, sorted_trains: unit id to samples (int, ascending) on the same clock. A true and a sorted
    spike within 0.4 ms are one; each true unit gets at most one sorted unit (Hungarian match). Returns one
    row per true unit, index "unit": matched_unit (-1: none), recall, precision, accuracy (0: no match).
    """
    import pandas as pd
    from spikeinterface.comparison import compare_sorter_to_ground_truth
    from spikeinterface.core import NumpySorting

    columns = ["matched_unit", "recall", "precision", "accuracy"]
    if not sorted_trains:
        table = pd.DataFrame([[-1, 0.0, 0.0, 0.0]] * len(true_trains), columns=columns)
        return table.set_index(pd.Index(list(true_trains), name="unit"))
    comparison = compare_sorter_to_ground_truth(
        NumpySorting.from_unit_dict([true_trains], sampling_rate_hz),
        NumpySorting.from_unit_dict([sorted_trains], sampling_rate_hz),
        exhaustive_gt=False,
        delta_time=0.4,
        match_mode="hungarian",
    )
    table = comparison.get_performance()[["recall", "precision", "accuracy"]].astype(float)
    table.insert(0, "matched_unit", comparison.hungarian_match_12.astype(int))
    return table.rename_axis("unit")


def score_alf(truth_folder: Path, alf_folder: Path, probe: str) -> pd.DataFrame:
    """Compare a probe's published ALF spikes with the truth.

    truth_folder: the folder that simulate_session wrote. alf_folder: holds spikes.samples.npy and
    spikes.clusters.npy. Returns one row per well-isolated true unit: shank, peak_uv, snr, n_spikes and the
    columns of score_sorting.
    """
    truth = Truth.load(truth_folder)
    spikes, probe_truth = truth.spikes(probe), truth.probe(probe)
    units = {unit.unit: unit for unit in probe_truth.units if unit.well_isolated}
    samples = np.load(Path(alf_folder) / "spikes.samples.npy").astype(np.int64)
    clusters = np.load(Path(alf_folder) / "spikes.clusters.npy").astype(np.int64)
    table = score_sorting(
        {unit: spikes["sample"][spikes["unit"] == unit] for unit in units},
        {int(cluster): np.sort(samples[clusters == cluster]) for cluster in np.unique(clusters)},
        probe_truth.ap.sampling_rate_hz,
    )
    for position, column in enumerate(("shank", "peak_uv", "snr", "n_spikes")):
        table.insert(position, column, [getattr(units[unit], column) for unit in table.index])
    return table


# ---------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels simulate``."""
    parser.add_argument("folder", type=Path, help="where to write raw/, truth/ and samplesheet.csv")
    from powerpixels.layouts import FAULTS, LAYOUTS

    parser.add_argument("--preset", choices=("small", "demo", "full"), default="demo", help="size")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="instead of the preset's")
    parser.add_argument("--seed", type=int, help="another draw of everything random")
    parser.add_argument("--start-time", metavar="TIME", help="of the recording: 2026-03-01T10:35:10")
    parser.add_argument(
        "--session-seed", type=int, help="a session of the same units: other spikes, noise and clocks"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes; the files are the same for any number"
    )
    layouts = "; ".join(f"{name}: {layout.what}" for name, layout in LAYOUTS.items())
    parser.add_argument("--layout", choices=LAYOUTS, default="spikeglx", metavar="NAME", help=layouts)
    faults = "; ".join(f"{name}: {fault.what}" for name, fault in FAULTS.items())
    parser.add_argument(
        "--fault",
        metavar="NAME[:STREAM]",
        help=f"damage one stream (imec0, imec0.lf, nidq, ProbeA; default: the first probe's). {faults}",
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels simulate``."""
    from powerpixels.layouts import break_session, relayout

    changes = {"duration_s": args.duration, "seed": args.seed, "start_time": args.start_time}
    changes = {key: value for key, value in changes.items() if value is not None}
    preset = getattr(SimulationConfig, args.preset)().model_dump()
    try:
        config = SimulationConfig.model_validate({**preset, **changes})
        if args.session_seed is not None:
            config = config.another_session(args.session_seed, config.start_time, config.duration_s)
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise DataError(f"powerpixels simulate: {faults}") from error
    if args.layout == "spikeglx":
        simulate_session(args.folder, config, args.jobs)
    else:
        require_new(args.folder)
        args.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.folder.parent, prefix=f".{args.folder.name}.") as work:
            simulate_session(Path(work) / "source", config, args.jobs)
            relayout(Path(work) / "source", args.folder, args.layout)
    if args.fault is not None:
        fault, _, stream = args.fault.partition(":")
        truth = Truth.load(args.folder)
        break_session(truth.run_folder, fault, stream or truth.document.probes[0].device)
    print(args.folder / "samplesheet.csv")
