"""What is wrong with a recording's samples, seen by looking at few of them.

INSPECT has read the headers; here each stream is looked at in a few short windows and, where that is
cheap, in single samples between them. The time it takes does not grow with the recording, so that a fault
that would make hours of sorting useless is found in seconds. A check that the data are too short for is
left out: nothing is said of what cannot be judged.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from powerpixels.documents import Fault, Findings, Probe, Stream
from powerpixels.openephys_samples import open_npy
from powerpixels.rawdata import StreamReader, locate
from powerpixels.stage import DataError, TemporaryError

log = logging.getLogger("powerpixels")

SEED = 20260301

# Windows of each stream: the first and the last of it, the others spread between.
WINDOW_S = 0.2
N_WINDOWS = 10
# Single samples at which the sync wave is looked up in files that are not compressed.
N_PLACES = 1000
# Before a sync wave is called missing it must have stood still this long without a break: longer than
# the interval of the slowest waves in use (barcodes, one every 30 s).
STILL_S = 35.0
# Less than this was recorded: too little to judge.
JUDGED_S = 0.1
# Less than this holds no edge of the usual 1 Hz wave for certain.
SYNC_JUDGED_S = 1.0
# How long files that their header does not call finished are watched for growth.
WATCHED_S = 2.0

# A sample is saturated when more than a fifth of the channels are at the greatest (or least) value of all,
# or stand still within 2 % of it: proportion and margin are those of IBL's saturation detection (ibldsp.
# voltage.saturation). Values near zero are no converter's limit: the least range is ±512 counts (10 bits).
SATURATED_PROPORTION = 0.2
SATURATED_MARGIN = 0.02
SATURATED_COUNTS = 400
# Part of a window's samples that must be saturated for the window to count.
SATURATED_WINDOW = 0.01

# Microvolts of noise between neighbouring samples. Neuropixels' own noise is 5 to 8 µV rms in the AP band
# (Jun et al. 2017, Steinmetz et al. 2021), of which about two thirds remain in the differences; brain and
# surroundings add to it: real recordings in the tests have 1.7 to 26 µV. LF streams carry the LFP itself.
# Each: (least, greatest) that is plausible, and (least, greatest) that is possible: electrodes of 150 kΩ
# alone make some µV of thermal noise, and a volt taken for a millivolt shows as a thousandfold.
PLAUSIBLE_UV = {"ap": (1.0, 60.0), "lf": (0.5, 1000.0)}
POSSIBLE_UV = {"ap": (0.05, 1000.0)}

# Channels that stay at one value: single ones are usual (the reference electrode, dead sites).
MIN_CONSTANT_CHANNELS = 4
CONSTANT_PROPORTION = 0.025

# An analog input whose wave is less than this from peak to peak carries no logic level.
LOGIC_V = 0.5

# The server, not the data: another attempt may succeed.
PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENFILE, errno.EMFILE, errno.ENOMEM}


def check_findings(findings: Findings, raw: Path) -> list[Fault]:
    """Faults of the samples of all streams that no fault of their headers keeps from being read.

    findings: what the headers said, with paths relative to ``raw``. Raw data are only read. Faults of LF
    and DAQ streams warn, except that a reference clock (``findings.nidq``) that cannot be read or that
    still grows blocks the session. Raises ``TemporaryError`` where the file server fails for now.
    """
    raw = Path(raw)
    if any(fault.severity == "blocks" and fault.probe is None for fault in findings.faults):
        return []
    blocked = {fault.probe for fault in findings.faults if fault.severity == "blocks"}
    streams: list[tuple[Probe | None, Stream]] = []
    for probe in findings.probes:
        if probe.name not in blocked:
            streams += [(probe, stream) for stream in (probe.ap, probe.lf) if stream is not None]
    streams += [(None, stream) for stream in (findings.nidq, *findings.daqs) if stream is not None]
    checks = [_Check(findings, probe, stream, raw) for probe, stream in streams]

    faults = []
    before = [check.states() for check in checks]
    start = time.monotonic()
    for check in checks:
        faults += check.faults()
    # A header that was never finished: the program crashed, and what there is can be used, or it still runs.
    unfinished = {fault.stream for fault in findings.faults if fault.code == "META_UNFINISHED"}
    if any(check.stream.name in unfinished for check in checks):
        while time.monotonic() - start < WATCHED_S and before == [check.states() for check in checks]:
            time.sleep(WATCHED_S / 10)
    for check, earlier in zip(checks, before, strict=True):
        faults += check.growth(earlier)
    return faults


@dataclass
class _Seen:
    """What the windows of a stream showed, gathered one window after the other.

    Arrays are per channel (DAQ streams: per analog line). starts: first sample of each window; zero:
    whether all of it is 0; extremes: its least and greatest value; at_limits: samples of the window that
    are saturated and values that are at a limit, both as a proportion, were its extremes the limits
    (least, greatest); noise: standard deviation as the differences of neighbouring samples tell it.
    """

    length: int
    starts: list[int] = field(default_factory=list)
    zero: list[bool] = field(default_factory=list)
    flat: list[np.ndarray] = field(default_factory=list)
    extremes: list[tuple[int, int]] = field(default_factory=list)
    at_limits: list[np.ndarray] = field(default_factory=list)
    noise: list[np.ndarray] = field(default_factory=list)

    def add(self, start: int, values: np.ndarray) -> None:
        """Take in a window, int16 (samples, channels)."""
        self.starts.append(start)
        low, high = values.min(axis=0), values.max(axis=0)
        least, greatest = int(low.min()), int(high.max())
        self.zero.append(least == greatest == 0)
        self.flat.append(low == high)
        self.extremes.append((least, greatest))
        still = np.diff(values, axis=0, prepend=values[:1]) == 0
        limits = np.zeros((2, 2))
        for k, limit in enumerate((min(least, 0), max(greatest, 0))):
            if abs(limit) >= SATURATED_COUNTS:
                nearest = limit * (1 - SATURATED_MARGIN)
                beyond = (values == limit) | (still & (values <= nearest if k == 0 else values >= nearest))
                limits[k] = np.mean(beyond.mean(axis=1) > SATURATED_PROPORTION), beyond.mean()
        self.at_limits.append(limits)
        steps = np.diff(values.astype(np.float32), axis=0)
        self.noise.append(np.sqrt(np.mean(steps**2, axis=0) / 2))

    def saturation(self) -> tuple[np.ndarray, float]:
        """Proportion of saturated samples in each window, and of values at a limit in all of them.

        The limits are the extremes of all windows; a window that comes not near them is not saturated.
        """
        least = min(low for low, _ in self.extremes)
        greatest = max(high for _, high in self.extremes)
        near = 1 - SATURATED_MARGIN
        reached = np.array([(low <= near * least, high >= near * greatest) for low, high in self.extremes])
        parts = np.array(self.at_limits) * reached[:, :, None]
        return parts[:, :, 0].sum(axis=1), float(parts[:, :, 1].sum(axis=1).mean())

    def noise_uv(self, used: np.ndarray, gains_uv: np.ndarray) -> float | None:
        """Noise of the typical channel, µV rms, from the windows in ``used``; None if none can tell.

        From mean squares of differences, as counts can be coarser than the noise and a median would be 0;
        medians over windows and channels leave out artifacts and dead channels.
        """
        alive = ~np.array(self.flat)[used].all(axis=0)
        if not used.any() or not alive.any():
            return None
        noise = np.array(self.noise)[used]
        return float(np.median(np.median(noise, axis=0)[alive] * gains_uv[alive]))


class _Check:
    """A stream that is looked at, and the faults it is found to have."""

    def __init__(self, findings: Findings, probe: Probe | None, stream: Stream, raw: Path) -> None:
        self.probe = probe
        self.stream = stream
        self.raw = raw
        [self.places] = locate([stream], raw)
        self.rate = stream.sampling_rate_hz
        self.duration_s = stream.n_samples / self.rate
        # A probe alone keeps its own clock; with others it must be aligned to theirs.
        self.must_align = len(findings.probes) > 1 or findings.nidq is not None or bool(findings.daqs)
        # Columns with voltages: a probe's channels, a DAQ stream's analog lines but that of the sync wave.
        lines = stream.channels or stream.analog
        self.columns = [line.raw_column for line in lines if line.raw_column != stream.sync_column]
        self.is_reference = findings.nidq is not None and stream.name == findings.nidq.name

    # What it is called --------------------------------------------------------------------------------

    @property
    def file(self) -> str:
        """Name of the data file, or of the first of several."""
        paths = list(dict.fromkeys(piece.path for piece in self.stream.pieces))
        return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    def fault(self, code: str, message: str, blocks: bool, file: str | None = None) -> Fault:
        """A fault of the stream (of one file of it); of those of LF and DAQ streams none blocks."""
        return Fault(
            code=code,
            severity="blocks" if blocks and self.stream.kind == "ap" else "warns",
            message=f"{file or self.file}: {message}",
            probe=None if self.probe is None else self.probe.name,
            stream=self.stream.name,
        )

    def unusable(self, code: str, message: str, file: str | None = None) -> Fault:
        """A fault that blocks the probe or, where the stream is the session's clock, the session."""
        fault = self.fault(code, message, True, file)
        return fault.model_copy(update={"severity": "blocks"}) if self.is_reference else fault

    # Growth -------------------------------------------------------------------------------------------

    def states(self) -> dict[str, tuple[int, int]]:
        """Size (bytes) and time of the last change (ns) of each data file.

        Files that are gone or cannot be opened are left out: reading their samples tells why.
        """
        states = {}
        for file in self.stream.files:
            if file.role == "data":
                try:
                    states[file.path] = _state(self.places[file.path])
                except OSError as error:
                    _raise_if_passing(error, file.path)
        return states

    def growth(self, earlier: dict[str, tuple[int, int]]) -> list[Fault]:
        """A fault where a data file is not what it was."""
        now = self.states()
        changed = next((path for path in earlier if now.get(path) != earlier[path]), None)
        if changed is None:
            return []
        (was, _), found = earlier[changed], now.get(changed)
        if found is None:
            seen = "a moment later it was gone"
        elif found[0] == was:
            seen = "a moment later it had been written to"
        else:
            seen = f"a moment later it had {found[0]}"
        return [
            self.unusable(
                "STILL_ACQUIRING",
                f"a finished file of {was} bytes was expected, {seen}. Wait until the recording has ended "
                "or the copy is complete, and run again.",
                changed,
            )
        ]

    # Samples ------------------------------------------------------------------------------------------

    def faults(self) -> list[Fault]:
        """All faults of the stream's samples."""
        if self.duration_s < JUDGED_S:
            log.info("%s: %.3f s are too few to judge the data", self.stream.name, self.duration_s)
            return []
        start = time.monotonic()
        try:
            reader = StreamReader(self.stream, self.places)
            faults = self._look(reader)
        except OSError as error:
            _raise_if_passing(error, self.file)
            if isinstance(error, PermissionError):
                advice = "Make it readable for the account that runs the pipeline"
            else:
                advice = "Check the disk, and copy the file again from the acquisition PC"
            return [
                self.unusable(
                    "READ_ERROR",
                    f"samples were expected, reading them failed: {error.strerror or error}. {advice}.",
                )
            ]
        except DataError as error:
            reason = str(error).replace(f"{self.raw}/", "")
            return [self.unusable("READ_ERROR", f"samples were expected, they cannot be read. {reason}.")]
        log.info(
            "%s: looked at %d windows of %.1f s in %.1f s of recording; that took %.1f s",
            self.stream.name,
            min(N_WINDOWS, int(np.ceil(self.duration_s / WINDOW_S))),
            WINDOW_S,
            self.duration_s,
            time.monotonic() - start,
        )
        return faults

    def _look(self, reader: StreamReader) -> list[Fault]:
        """Faults of the samples: read the windows, judge them, read on where the sync wave was not seen."""
        wave = _Wave(self.stream)
        starts = window_starts(self.stream.n_samples, round(WINDOW_S * self.rate))
        length = min(round(WINDOW_S * self.rate), self.stream.n_samples)
        seen = _Seen(length)
        for start in starts:
            values = reader.read(start, start + length)
            if self.columns:
                seen.add(start, values[:, self.columns])
            wave.add(values)
        faults = self._signal_faults(reader, seen) if self.columns else []
        # Where the voltages are no recording the sync wave is none either, for the same reason.
        if not any(fault.code in ("ALL_ZERO", "CONSTANT_DATA") for fault in faults):
            faults += self._sync_faults(reader, wave)
        return faults

    def _signal_faults(self, reader: StreamReader, seen: _Seen) -> list[Fault]:
        zero = np.array(seen.zero)
        if zero.all():
            return [
                self.fault(
                    "ALL_ZERO",
                    f"voltages were expected, all values in {len(zero)} windows of {WINDOW_S:g} s are 0. "
                    "The copy is not complete, or nothing was acquired: copy the file again from the "
                    "acquisition PC.",
                    blocks=True,
                )
            ]
        if self.stream.kind not in ("ap", "lf"):
            return self._zero_faults(reader, seen)
        flat = np.array(seen.flat)
        saturated, at_limits = seen.saturation()
        faults = []
        if at_limits > 0.5:
            faults.append(
                self.fault(
                    "SATURATED",
                    f"voltages within the converter's range were expected, {at_limits:.0%} of all sampled "
                    "values are at its limits. Nothing can be sorted: check ground and reference of the "
                    "probe, and whether it was in tissue.",
                    blocks=True,
                )
            )
        elif flat[~zero].all():
            faults.append(
                self.fault(
                    "CONSTANT_DATA",
                    "voltages with noise were expected, every channel stays at one value in each of "
                    f"{(~zero).sum()} windows of {WINDOW_S:g} s. Nothing was acquired: check the probe and "
                    "its cable; if other copies differ, copy the file again.",
                    blocks=True,
                )
            )
        else:
            faults += self._saturated_windows(seen, saturated)
            faults += self._constant_channels(flat[~zero].all(axis=0))
            faults += self._noise(seen, ~zero & (saturated <= SATURATED_WINDOW))
        return faults + self._zero_faults(reader, seen)

    def _saturated_windows(self, seen: _Seen, saturated: np.ndarray) -> list[Fault]:
        hit = saturated > SATURATED_WINDOW
        if not hit.any():
            return []
        return [
            self.fault(
                "SATURATED",
                f"voltages within the converter's range were expected, in {hit.sum()} of {len(hit)} windows "
                f"of {WINDOW_S:g} s many channels are at its limits at once, first at "
                f"{seen.starts[int(np.argmax(hit))] / self.rate:.1f} s. Spikes are lost there; look for "
                "movement, stimulation or a loose ground.",
                blocks=False,
            )
        ]

    def _constant_channels(self, constant: np.ndarray) -> list[Fault]:
        n_constant = int(constant.sum())
        if n_constant < max(MIN_CONSTANT_CHANNELS, CONSTANT_PROPORTION * constant.size):
            return []
        ids = [self.stream.channels[k].channel_id for k in np.flatnonzero(constant)]
        shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
        return [
            self.fault(
                "CONSTANT_CHANNELS",
                f"noise was expected on all {constant.size} channels, {n_constant} stay at one value "
                f"({shown}). They will be left out as dead; check that the probe is whole and its settings "
                "are right.",
                blocks=False,
            )
        ]

    def _noise(self, seen: _Seen, used: np.ndarray) -> list[Fault]:
        gains = np.array([channel.gain_uv for channel in self.stream.channels])
        noise = seen.noise_uv(used, gains)
        least, greatest = PLAUSIBLE_UV[self.stream.kind]
        if noise is None:
            return []
        log.info("%s: noise %.2f µV", self.stream.name, noise)
        if least <= noise <= greatest:
            return []
        possible = POSSIBLE_UV.get(self.stream.kind, (0.0, np.inf))
        return [
            self.fault(
                "WRONG_GAIN",
                f"noise between {least:g} and {greatest:g} µV was expected, found {noise:.3g} µV with "
                f"{np.median(gains):.4g} µV per count. Check the gain and the voltage range in the header "
                "against the acquisition's settings, and that the probe was connected.",
                blocks=not possible[0] <= noise <= possible[1],
            )
        ]

    def _zero_faults(self, reader: StreamReader, seen: _Seen) -> list[Fault]:
        zero = np.array(seen.zero)
        if not zero.any():
            return []
        if zero[-1]:
            last = int(np.flatnonzero(~zero)[-1])
            begin = self._zeros_begin(reader, seen.starts[last], seen.length) / self.rate
            what = (
                f"the values from {begin:.2f} s to the end at {self.duration_s:.2f} s are 0. The copy was "
                "cut and filled up, or is not complete: copy the file again from the acquisition PC"
            )
            part = 1 - begin / self.duration_s
        else:
            first = seen.starts[int(np.argmax(zero))] / self.rate
            what = (
                f"in {zero.sum()} of {len(zero)} windows of {WINDOW_S:g} s all values are 0, first at "
                f"{first:.1f} s. Acquisition programs and CatGT write zeros for what was lost: there are no "
                "spikes in it"
            )
            part = float(zero.mean())
        return [self.fault("ZERO_STRETCH", f"voltages were expected throughout, {what}.", blocks=part > 0.5)]

    def _zeros_begin(self, reader: StreamReader, start: int, length: int) -> int:
        """First sample of the zeros that last to the end, given a window that is not zero, by bisection."""
        low, high = start, self.stream.n_samples - length
        while high - low > length:
            middle = (low + high) // 2
            if reader.read(middle, middle + length, self.columns).any():
                low = middle
            else:
                high = middle
        stop = min(high + length, self.stream.n_samples)
        return low + int(np.flatnonzero(reader.read(low, stop, self.columns).any(axis=1))[-1]) + 1

    # Sync wave ----------------------------------------------------------------------------------------

    def _sync_faults(self, reader: StreamReader, wave: _Wave) -> list[Fault]:
        if self.stream.sync_line is not None:
            carrier = f"on the line {self.stream.sync_line}"
            if self.duration_s < SYNC_JUDGED_S or self._has_events():
                return []
        elif self.stream.sync_column is None or self.duration_s < SYNC_JUDGED_S:
            return []
        else:
            bit = "" if self.stream.sync_bit is None else f", bit {self.stream.sync_bit}"
            carrier = f"in column {self.stream.sync_column}{bit}"
            if self._wave_moves(reader, wave):
                return []
        if self.probe is None:
            advice = (
                "If the wiring file names another line that carries it, this does no harm; otherwise "
                "nothing can be aligned to this stream: check the sync cable"
            )
        elif self.must_align:
            advice = (
                "The probe's spikes cannot be put on the clock of the other streams: check the sync "
                "settings and cables. To sort it all the same, give it a folder and a samplesheet row of "
                "its own"
            )
        else:
            advice = "Its spike times stay on its own clock"
        return [
            self.fault(
                "SYNC_NO_EDGES",
                f"the edges of a sync wave were expected {carrier}, its level never changes where it was "
                f"looked at. {advice}.",
                blocks=self.must_align,
            )
        ]

    def _wave_moves(self, reader: StreamReader, wave: _Wave) -> bool:
        """Whether the sync level changes, reading on beyond the windows until it does or ought to have."""
        n_samples = self.stream.n_samples
        stretches: list[tuple[int, int]] = []
        if not any(Path(piece.path).suffix in (".cbin", ".zarr") for piece in self.stream.pieces):
            stretches += [(place, place + 1) for place in scattered(n_samples)]
        # Short pulses may lie between all places: only a stretch without a break is a proof.
        step, still = max(1, round(WINDOW_S * self.rate)), round(STILL_S * self.rate)
        first = max(0, (n_samples - still) // 2)
        last = min(n_samples, first + still)
        stretches += [(start, min(start + step, last)) for start in range(first, last, step)]
        for start, stop in stretches:
            if wave.moves:
                break
            wave.add(reader.read(start, stop))
        return wave.moves

    def _has_events(self) -> bool:
        """Whether the sync line has the events of a wave in the TTL files: more than its state at the "
        "start."""
        line = next(ttl.line for ttl in self.stream.ttl if ttl.name == self.stream.sync_line)
        n_events = 0
        for file in self.stream.files:
            if file.role == "states":
                try:
                    states, _ = open_npy(self.places[file.path])
                except (ValueError, EOFError) as error:
                    raise DataError(
                        f"{file.path}: the events of the TTL lines were expected, found otherwise ({error}); "
                        "copy the file again"
                    ) from None
                n_events += int(np.count_nonzero(np.abs(states) == line))
        return n_events > 1


class _Wave:
    """The range of a stream's sync level over all samples seen; a bit of a word or a column's values."""

    def __init__(self, stream: Stream) -> None:
        self.column = stream.sync_column
        self.bit = stream.sync_bit
        gain = next((line.gain_v for line in stream.analog if line.raw_column == self.column), None)
        self.least_step = 1 if gain is None or self.bit is not None else LOGIC_V / gain
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Take in samples of all columns, int16 (samples, columns)."""
        if self.column is None:
            return
        level = values[:, self.column].astype(np.int32)
        if self.bit is not None:
            level = (level >> self.bit) & 1
        self.low, self.high = min(self.low, int(level.min())), max(self.high, int(level.max()))

    @property
    def moves(self) -> bool:
        """Whether more than one level was seen."""
        return self.high - self.low >= self.least_step


def window_starts(n_samples: int, length: int) -> list[int]:
    """First samples of at most N_WINDOWS windows that do not overlap: the first, the last, others between.

    Those between lie at random (seeded) within equal parts of the stream, so that nothing periodic is
    missed. A stream shorter than all windows is covered without a gap but in its last window's overlap.
    """
    if n_samples <= length:
        return [0]
    n_windows = min(N_WINDOWS, -(-n_samples // length))
    if n_samples < (N_WINDOWS + 2) * length:
        return [int(start) for start in np.linspace(0, n_samples - length, n_windows).round()]
    generator = np.random.default_rng(SEED)
    inner = np.linspace(length, n_samples - length, n_windows - 1)
    return [0, *_within(generator, inner, length), n_samples - length]


def _within(generator: np.random.Generator, borders: np.ndarray, length: int) -> Iterator[int]:
    """A random start for a window in each part between two borders."""
    for begin, end in zip(borders[:-1], borders[1:], strict=True):
        yield int(begin + generator.random() * max(end - begin - length, 0))


def scattered(n_samples: int) -> list[int]:
    """N_PLACES samples, ascending, one at random (seeded) in each of as many equal parts of the stream."""
    generator = np.random.default_rng(SEED)
    parts = (np.arange(N_PLACES) + generator.random(N_PLACES)) / N_PLACES
    return [int(place) for place in np.minimum(parts * n_samples, n_samples - 1)]


def _raise_if_passing(error: OSError, file: str) -> None:
    """Raise ``TemporaryError`` where the machine or its file server is at fault, not the file."""
    if error.errno in PASSING:
        raise TemporaryError(f"{file}: {error.strerror}; it may be readable later") from error


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change. An open file's, since file servers then tell the newest."""
    if path.is_dir():
        state = path.stat()
    else:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns
