"""RAW_QC: what a probe's raw files tell of the recording's quality, for the alignment tool and for people.

One pass over the AP stream gives each channel's level over time, saturated and artifact intervals, and, of
probes that record one wide band (2.0), the LF band: decimated with a linear-phase filter. A 1.0 probe's LF
band is its LF stream's; without that stream it has none. Spectra of the AP band come from windows spread
over the recording.

The arrays follow IBL's conventions (``ibllib.ephys.ephysqc.rmsmap``): windows of 2**ceil(log2(3 s)) samples,
their middles as time stamps, volts; but spectra are means over windows, not sums.

Columns of all arrays are those of the AP stream's raw file up to its last channel (the alignment tool looks
channels up by ``channels.rawInd``). NaN are columns that are no channel, and what a LF stream has not.
"""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numba
import numpy as np
from scipy import fft, signal

from powerpixels.artifacts import (
    LIMIT_MARGIN,
    MERGE_S,
    Detector,
    Interval,
    Scan,
    merge_intervals,
    scan,
)
from powerpixels.clock import to_reference_seconds
from powerpixels.documents import Block, ClockFit, Document, Probe, ProbeDocument, Stream
from powerpixels.rawdata import StreamReader, locate
from powerpixels.spectra import (
    THRESHOLD_UV2_HZ,
    Notch,
    Spectrum,
    Welch,
    find_notches,
    sampled_spectrum,
)
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

WINDOW_S = 3.0
# A block's rest shorter than this makes no window of its own, for its level below some Hz is chance.
MIN_WINDOW_S = 1.0
# Shorter stretches have no LF band to speak of.
MIN_BLOCK_S = 0.1
# IBL's own for the LF band: bins of 2.4 Hz.
LF_SEGMENT_SAMPLES = 1024
LF_RATE_HZ = 2500.0
# IBL removes what is slower than 1 Hz from each window: half a cosine from 0 to 1 Hz.
SLOW_HZ = 1.0
# The decimating filter, of the new Nyquist frequency: flat up to, 80 dB down from; between the two fall the
# frequencies that fold back, onto what is above the first.
PASS, STOP, STOP_DB = 0.8, 1.2, 80.0
# Rows that a thread holds at a time: 25 MB of a probe's 385 columns.
ROWS = 32768
# IBL looks above this part of the Nyquist frequency for noisy channels.
HIGH_BAND = 0.8
# A limit that is not known is taken from the data where it is reached that often, and can be one.
MIN_AT_LEVEL = 10
MIN_LEVEL_COUNTS = 400
# Coarsest step of a decimated LFP, as of the preprocessed traces.
MAX_STEP_UV = 0.4
LFP_CHUNK_ROWS = 8192
# The AP and LF files of a probe begin within this of each other.
MAX_START_DIFFERENCE_S = 1.0


class ChannelQuality(Document):
    """One channel of a probe.

    ap_rms_uv, lf_rms_uv: median over the windows, µV. high_uv2_hz: mean density above HIGH_BAND.
    ap_saturated, lf_saturated: part of the samples at the converter's limit. lf_*: None where the channel is
    not in the LF stream, or there is none; *_saturated: None where the limit is not known and was not seen
    either.
    """

    raw_column: int
    contact_id: str
    shank: int
    x_um: float
    y_um: float
    ap_rms_uv: float
    lf_rms_uv: float | None
    high_uv2_hz: float
    ap_saturated: float | None
    lf_saturated: float | None


class RawQc(Document):
    """raw_qc.json, beside the arrays.

    clock: the stream whose seconds the time stamps are, the reference or the probe's own AP stream. ap_band,
    lf_band: where the levels and the LF band come from; "none": there is no LF band. limit_counts: the
    converter's, limit_source: how it is known. n_saturated, saturated_s, n_artifacts, artifact_s: intervals
    and their sum, as listed in artifacts.csv. lines: those of the raw AP spectrum above the threshold, found
    as PREPROCESS finds them (which looks at sessions that are sorted as one together, so may there find
    others); left_out says which are not fit for a notch. lfp_clipped: values beyond lfp.zarr's range.
    """

    probe: str
    clock: str
    sampling_rate_hz: float
    duration_s: float
    ap_band: str
    lf_band: str
    limit_counts: int | None
    limit_source: Literal["header", "data", "unknown"]
    n_saturated: int
    saturated_s: float
    n_artifacts: int
    artifact_s: float
    threshold_uv2_hz: float
    lines: list[Notch]
    seed: int
    lfp_clipped: int | None
    channels: list[ChannelQuality]


@dataclass(frozen=True)
class Band:
    """A band's features, in volts.

    rms: float64 (n_windows, n_channels); counts: (n_windows,), the windows' middles on the AP stream's clock,
    time in gaps included; saturated: (n_channels,) parts of the samples, or None.
    """

    rms: np.ndarray
    counts: np.ndarray
    spectrum: Spectrum
    saturated: np.ndarray | None


@dataclass
class _Window:
    """Samples start to stop (of the stream) of a block."""

    block: Block
    start: int
    stop: int

    @property
    def middle(self) -> float:
        """The acquisition's count of its middle, time in gaps included."""
        return self.start - self.block.start + self.block.offset + (self.stop - self.start - 1) / 2


def raw_qc(
    document: ProbeDocument,
    raw_dir: Path,
    out: Path,
    jobs: int = 1,
    fit: ClockFit | None = None,
    lfp: bool = False,
    seed: int = 42,
    notch: Literal["auto", "off"] = "auto",
    notch_threshold_uv2_hz: float = THRESHOLD_UV2_HZ,
) -> RawQc:
    """Write the probe's features into ``out``; with ``lfp`` also lfp.zarr.

    _iblqc_ephysTimeRmsAP.rms, …LF.rms: float32 (n_windows, n_columns) V; .timestamps: float64 s, the
    windows' middles. _iblqc_ephysSpectralDensityAP.power, …LF.power: float32 (n_freqs, n_columns) V²/Hz;
    .freqs: float32 Hz. artifacts.csv: intervals (samples of the AP stream, seconds). raw_qc.json: ``RawQc``.
    lfp.zarr: ``LfpWriter``. Of a probe without a LF band neither …LF files nor lfp.zarr.

    Time stamps are seconds on the reference clock of ``fit``, without one on the probe's own: since the AP
    stream's first sample, at the stated rate, time in gaps included.

    The AP level of a 1.0 probe is the raw band's (hardware filtered), each window's mean removed; of a wide
    band it is what is above 300 Hz (``artifacts.highpass_sos``). The LF level is what is above 1 Hz in the
    band below 1000 Hz. Memory does not grow with the recording: each of the ``jobs`` threads holds about
    100 MB.

    raw_dir: where ``rawdata.locate`` finds the AP stream's files and then the LF stream's. Raises
    ``DataError`` where they do not fit the document, or hold no stretch of MIN_BLOCK_S without a gap.
    """
    probe = document.probe
    places = locate([probe.ap] if probe.lf is None else [probe.ap, probe.lf], raw_dir)
    ap = StreamReader(probe.ap, places[0])
    for stream, files in zip([probe.ap, probe.lf], places, strict=False):
        _check(stream, files)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ratio = round(probe.ap.sampling_rate_hz / (probe.lf.sampling_rate_hz if probe.lf else LF_RATE_HZ))
    lf_rate_hz = probe.lf.sampling_rate_hz if probe.lf else probe.ap.sampling_rate_hz / ratio
    lf_stream = probe.lf_source
    if lf_stream is None:
        log.warning("%s has no LF stream, and its AP stream no LF band: neither levels nor LFP", probe.name)
    wide = lf_stream is probe.ap
    seconds = _seconds_on(fit, probe.ap.sampling_rate_hz)

    writer = None
    if lfp and lf_stream is not None:
        n_lf = probe.lf.n_samples if probe.lf else sum(-(-b.n_samples // ratio) for b in probe.ap.blocks())
        writer = LfpWriter(out / "lfp.zarr", n_lf, probe, lf_rate_hz, fit)
    limit = probe.ap.limit_counts
    with ThreadPoolExecutor(jobs) as pool:
        levels = None
        if lf_stream is not None:
            longest = max(block.n_samples for block in lf_stream.blocks()) // (ratio if wide else 1)
            gains = [channel.gain_uv for channel in lf_stream.channels]
            levels = _LfBand(lf_rate_hz, longest, gains, None if wide else limit, pool, jobs)
        ap_rms, ap_counts, scans = _scan_ap(
            ap, limit, ratio if wide else None, pool, jobs, levels, writer, seconds
        )
        if probe.lf is not None:
            start = _lf_start(probe.ap, probe.lf, ratio)
            _read_lf(StreamReader(probe.lf, places[1]), ratio, start, pool, jobs, levels, writer, seconds)
        lf = None if levels is None else _as_channels_of(probe, levels.band())
    in_uv, _ = sampled_spectrum([ap], seed, jobs)
    spectrum = Spectrum(in_uv.freqs_hz, in_uv.power * 1e-12, in_uv.n_segments)
    if writer is not None:
        writer.close()

    limit_source, level, saturated, intervals = _settle(scans, limit, probe.ap)
    band = Band(ap_rms, ap_counts, spectrum, saturated)
    columns = [channel.raw_column for channel in probe.ap.channels]
    for name, own in (("AP", band), ("LF", lf)):
        if own is not None:
            _save_band(out, name, own, columns, seconds)
    # As PREPROCESS decides.
    lines, left_out = find_notches(in_uv, columns, notch_threshold_uv2_hz)
    if notch == "off":
        lines = [line.model_copy(update={"left_out": "notches are off"}) for line in lines]
    _save_intervals(out / "artifacts.csv", intervals, probe.ap, seconds)
    high = spectrum.freqs_hz >= HIGH_BAND * spectrum.freqs_hz[-1]
    result = RawQc(
        probe=probe.name,
        clock=probe.ap.name if fit is None else fit.reference,
        sampling_rate_hz=probe.ap.sampling_rate_hz,
        duration_s=probe.ap.n_acquired / probe.ap.sampling_rate_hz,
        ap_band="above 300 Hz" if wide else "as recorded",
        lf_band="none" if lf is None else f"AP stream decimated by {ratio}" if wide else "LF stream",
        limit_counts=level,
        limit_source=limit_source,
        **_summed(intervals, probe.ap.sampling_rate_hz),
        threshold_uv2_hz=notch_threshold_uv2_hz,
        lines=sorted([*lines, *left_out], key=lambda line: line.frequency_hz),
        seed=seed,
        lfp_clipped=writer.n_clipped if writer else None,
        channels=[
            ChannelQuality(
                raw_column=channel.raw_column,
                contact_id=channel.contact_id,
                shank=channel.shank,
                x_um=channel.x_um,
                y_um=channel.y_um,
                ap_rms_uv=1e6 * float(np.median(ap_rms[:, k])),
                lf_rms_uv=None if lf is None else _or_none(1e6 * np.median(lf.rms[:, k])),
                high_uv2_hz=float(in_uv.power[high, k].mean()),
                ap_saturated=None if saturated is None else float(saturated[k]),
                lf_saturated=(None if lf is None or lf.saturated is None else _or_none(lf.saturated[k])),
            )
            for k, channel in enumerate(probe.ap.channels)
        ],
    )
    result.save(out / "raw_qc.json")
    return result


def decimating_filter(sampling_rate_hz: float, ratio: int) -> np.ndarray:
    """Taps, float32, odd in number and symmetric, of the low-pass filter before taking each ratio-th sample.

    Kaiser's window method: flat within 0.001 up to PASS of the new Nyquist frequency, STOP_DB down from STOP
    on.
    """
    nyquist_hz = sampling_rate_hz / ratio / 2
    n_taps, beta = signal.kaiserord(STOP_DB, (STOP - PASS) * nyquist_hz / (sampling_rate_hz / 2))
    taps = signal.firwin(n_taps | 1, nyquist_hz, window=("kaiser", beta), fs=sampling_rate_hz)
    return taps.astype(np.float32)


def decimate(rows: np.ndarray, first: int, n_out: int, ratio: int, taps: np.ndarray) -> np.ndarray:
    """Low-passed rows (samples, columns) int16 at rows first, first + ratio, …: float32 (n_out, n_columns).

    Zero phase: a value of the result is of the time of the row in its middle. Beyond the ends the first and
    last row go on.
    """
    half = len(taps) // 2
    before = max(half - first, 0)
    after = max(first + (n_out - 1) * ratio + half + 1 - len(rows), 0)
    if before or after:
        rows = np.pad(rows, ((before, after), (0, 0)), mode="edge")
    return _decimate(rows, first + before - half, n_out, ratio, taps)


# Columns innermost: the loop over them becomes vector instructions.
@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _decimate(rows, first, n_out, ratio, taps):
    n_columns, half = rows.shape[1], len(taps) // 2
    out = np.zeros((n_out, n_columns), dtype=np.float32)
    for k in range(n_out):
        total = out[k]
        start = first + k * ratio
        for tap in range(half):
            early, late, weight = rows[start + tap], rows[start + 2 * half - tap], taps[tap]
            for c in range(n_columns):
                total[c] += weight * (np.float32(early[c]) + np.float32(late[c]))
        middle, weight = rows[start + half], taps[half]
        for c in range(n_columns):
            total[c] += weight * np.float32(middle[c])
    return out


class LfpWriter:
    """lfp.zarr: a zarr group (format 2) with the LF band, sample-major.

    traces: int16 (n_samples, n_channels); gain_uv: float64 (n_channels,), µV per count; timestamps: float64
    (n_samples,), s on the clock that the attribute ``clock`` names; raw_column, shank (int64), x_um, y_um
    (float64), contact_id: the channels; inter_sample_shift: float64, how much later than its sample each was
    taken, in samples of the traces. Attributes: sampling_rate_hz, clock, band. A 1.0 probe's are the LF
    stream's own counts; else they are the decimated AP stream in steps of at most MAX_STEP_UV.
    """

    def __init__(self, path: Path, n_samples: int, probe: Probe, rate_hz: float, fit: ClockFit | None):
        """Begin the file; it holds all samples once ``close`` was called."""
        import zarr
        from numcodecs import Blosc

        channels = (probe.lf or probe.ap).channels
        self._raw_gains = np.array([channel.gain_uv for channel in channels])
        steps = self._raw_gains.copy()
        self._decimated = probe.lf is None
        if self._decimated:
            steps /= 2.0 ** np.ceil(np.log2(np.maximum(steps / MAX_STEP_UV, 1.0)))
        self._steps = steps
        self.n_clipped = 0
        self._written = 0
        self._waiting: list[np.ndarray] = []
        group = zarr.open_group(str(path), mode="w")
        codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
        shape, chunks = (n_samples, len(channels)), (LFP_CHUNK_ROWS, len(channels))
        self._traces = group.create_dataset(
            "traces", shape=shape, chunks=chunks, dtype="<i2", compressor=codec
        )
        self._timestamps = group.create_dataset("timestamps", shape=n_samples, chunks=2**18, dtype="<f8")
        group.create_dataset("gain_uv", data=steps)
        for key in ("raw_column", "shank", "x_um", "y_um"):
            group.create_dataset(key, data=np.array([getattr(channel, key) for channel in channels]))
        shift = np.array([channel.inter_sample_shift for channel in channels])
        late = shift * rate_hz / probe.ap.sampling_rate_hz if self._decimated else shift
        group.create_dataset("inter_sample_shift", data=late)
        group.create_dataset("contact_id", data=np.array([c.contact_id for c in channels], dtype="U"))
        group.attrs["sampling_rate_hz"] = rate_hz
        group.attrs["clock"] = probe.ap.name if fit is None else fit.reference
        group.attrs["band"] = "AP stream, decimated" if self._decimated else "LF stream"

    def add(self, counts: np.ndarray, times_s: np.ndarray) -> None:
        """Take the next samples: raw counts (n, n_channels), float32 where decimated, and their times."""
        if self._decimated:
            values = np.rint(counts * (self._raw_gains / self._steps).astype(np.float32))
            self.n_clipped += int(np.count_nonzero(np.abs(values) > 32767))
            counts = np.clip(values, -32767, 32767).astype(np.int16)
        start = self._written + sum(len(rows) for rows in self._waiting)
        self._timestamps[start : start + len(times_s)] = times_s
        self._waiting.append(counts)
        n_waiting = sum(len(rows) for rows in self._waiting)
        if n_waiting >= LFP_CHUNK_ROWS:
            self._write(n_waiting // LFP_CHUNK_ROWS * LFP_CHUNK_ROWS)

    def _write(self, n_rows: int) -> None:
        """Write whole chunks, so that each is compressed once."""
        rows = np.concatenate(self._waiting)
        self._traces[self._written : self._written + n_rows] = rows[:n_rows]
        self._written += n_rows
        self._waiting = [rows[n_rows:]]

    def close(self) -> None:
        """Write what is left; raises ``RuntimeError`` where samples are missing."""
        if self._waiting:
            self._write(sum(len(rows) for rows in self._waiting))
        if self._written != self._traces.shape[0]:
            raise RuntimeError(f"{self._written} of {self._traces.shape[0]} LFP samples were written")


def _check(stream: Stream | None, files: dict[str, Path]) -> None:
    path = files[stream.pieces[0].path]
    if not stream.channels:
        raise DataError(f"{path}: the probe has no recorded channels; check the metadata file beside it")
    longest_s = max(block.n_samples for block in stream.blocks()) / stream.sampling_rate_hz
    if longest_s < MIN_BLOCK_S:
        raise DataError(
            f"{path}: expected at least {MIN_BLOCK_S:g} s without a gap in stream {stream.name}, found "
            f"{longest_s:.3f} s; leave this recording out of the samplesheet"
        )


def _seconds_on(fit: ClockFit | None, rate_hz: float) -> Callable[[np.ndarray], np.ndarray]:
    """From counts of the AP stream's clock to seconds."""
    if fit is None:
        return lambda counts: np.asarray(counts, dtype=np.float64) / rate_hz
    return lambda counts: to_reference_seconds(fit, counts)


def _window_samples(rate_hz: float) -> int:
    """Samples in a window of the levels, as IBL has it."""
    return 2 ** int(np.ceil(np.log2(WINDOW_S * rate_hz)))


def _power_of_two(n: int) -> int:
    """The greatest that is not above n."""
    return 2 ** int(np.log2(n))


def _windows(blocks: Sequence[Block], rate_hz: float) -> list[_Window]:
    """Consecutive windows of 2**ceil(log2(WINDOW_S * rate)) samples, beginning anew in each block."""
    size = _window_samples(rate_hz)
    windows = []
    for block in blocks:
        for start in range(0, block.n_samples, size):
            stop = min(start + size, block.n_samples)
            if start == 0 or stop - start >= MIN_WINDOW_S * rate_hz:
                windows.append(_Window(block, block.start + start, block.start + stop))
    return windows


def _in_order(pool: ThreadPoolExecutor, task: Callable, items: Iterable, jobs: int) -> Iterator:
    """Results of the task for each item, in order, with only so many under way that memory stays flat."""
    under_way: deque[Future] = deque()
    for item in items:
        under_way.append(pool.submit(task, item))
        if len(under_way) > jobs + 1:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


class _Progress:
    """Says in the log at every tenth how much of a stream is read."""

    def __init__(self, stream: Stream):
        self._stream, self._tenth = stream, 0

    def __call__(self, sample: int) -> None:
        tenth = 10 * sample // self._stream.n_samples
        if tenth > self._tenth:
            self._tenth = tenth
            log.info(
                "%s: %d %% of %d samples looked at", self._stream.name, 10 * tenth, self._stream.n_samples
            )


def _spans(stream: Stream) -> list[_Window]:
    """All samples, in stretches of ROWS that do not run over the windows of the levels."""
    size = _window_samples(stream.sampling_rate_hz)
    spans = []
    for block in stream.blocks():
        for start in range(0, block.n_samples, size):
            end = min(start + size, block.n_samples)
            for first in range(start, end, ROWS):
                spans.append(_Window(block, block.start + first, block.start + min(first + ROWS, end)))
    return spans


def _scan_ap(
    reader: StreamReader,
    limit: int | None,
    ratio: int | None,
    pool: ThreadPoolExecutor,
    jobs: int,
    levels: _LfBand | None,
    writer: LfpWriter | None,
    seconds: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, list[Scan]]:
    """The pass over the AP stream: RMS (n_windows, n_channels) V, the windows' middles, what was found.

    ratio: of a wide band, which decimated by it goes to ``levels`` and ``writer``; None: it has no LF band.
    """
    stream = reader.stream
    columns = np.array([channel.raw_column for channel in stream.channels])
    gains = np.array([channel.gain_uv for channel in stream.channels])
    detector = Detector(columns, gains, stream.sampling_rate_hz, limit)
    taps = None if ratio is None else decimating_filter(stream.sampling_rate_hz, ratio)
    half = 0 if taps is None else len(taps) // 2

    def look(span: _Window) -> tuple[_Window, Scan, np.ndarray | None]:
        begin, end = span.block.start, span.block.start + span.block.n_samples
        lo, hi = max(begin, span.start - max(detector.n_before, half)), min(end, span.stop + half)
        rows = np.ascontiguousarray(reader.read(lo, hi))
        n_before = min(span.start - begin, detector.n_before)
        own = rows[span.start - n_before - lo : span.stop - lo]
        found = scan(own, n_before, span.start, detector)
        if taps is None:
            return span, found, None
        first, last = (-((begin - sample) // ratio) for sample in (span.start, span.stop))
        centre = begin + first * ratio - lo
        return span, found, decimate(rows, centre, last - first, ratio, taps)[:, columns]

    windows = _windows(stream.blocks(), stream.sampling_rate_hz)
    squares = np.zeros((len(windows), len(columns)))
    sums = np.zeros_like(squares)
    starts = np.array([window.start for window in windows])
    scans, progress = [], _Progress(stream)
    for span, found, decimated in _in_order(pool, look, _spans(stream), jobs):
        k = int(np.searchsorted(starts, span.start, side="right")) - 1
        if span.stop <= windows[k].stop:
            squares[k] += found.raw_squares if ratio is None else found.highpassed_squares
            sums[k] += found.raw_sum
        scans.append(found)
        if decimated is not None:
            first = -((span.block.start - span.start) // ratio)
            counts = span.block.offset + ratio * (first + np.arange(len(decimated)))
            _pass_on(decimated, counts, span, levels, writer, seconds)
        progress(span.stop)
    n_samples = np.array([window.stop - window.start for window in windows])[:, None]
    variance = squares / n_samples
    if ratio is None:
        variance -= (sums / n_samples) ** 2
    rms = np.sqrt(np.maximum(variance, 0.0)) * gains * 1e-6
    return rms, np.array([window.middle for window in windows]), scans


class _LfBand:
    """Levels and spectrum of the LF band from consecutive samples of it, window by window."""

    def __init__(
        self,
        rate_hz: float,
        longest: int,
        gains_uv: Sequence[float],
        limit: int | None,
        pool: ThreadPoolExecutor,
        jobs: int,
    ) -> None:
        """Take the longest block's samples (spectra of shorter ones have fewer bins) and µV per count.

        limit: the converter's, counts; None: saturation can't be seen in these samples.
        """
        self._rate_hz = rate_hz
        self._gains_v = np.array(gains_uv, dtype=np.float32) * np.float32(1e-6)
        self._limit = limit
        self._pool, self._jobs = pool, jobs
        self._size = _window_samples(rate_hz)
        self._welch = Welch(rate_hz, len(gains_uv), _power_of_two(min(LF_SEGMENT_SAMPLES, longest)))
        self._waiting: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._n_in_block = 0
        self._under_way: deque[tuple[float, Future]] = deque()
        self._rms: list[np.ndarray] = []
        self._middles: list[float] = []
        self._n_near = np.zeros(len(gains_uv), dtype=np.int64)
        self._n_samples = 0

    def add(self, counts: np.ndarray, at: np.ndarray) -> None:
        """Take samples (n, n_channels) that follow the last ones; ``at``: their counts on the AP clock."""
        if self._limit is not None:
            near = np.abs(counts.astype(np.float32)) >= (1 - LIMIT_MARGIN) * self._limit
            self._n_near += near.sum(axis=0)
            self._n_samples += len(counts)
        self._waiting.append(counts)
        self._counts.append(at)
        while sum(len(rows) for rows in self._waiting) >= self._size:
            self._submit(self._size)

    def end_block(self) -> None:
        """The next samples do not follow these."""
        left = sum(len(rows) for rows in self._waiting)
        if left and (left >= MIN_WINDOW_S * self._rate_hz or not self._n_in_block):
            self._submit(left)
        self._waiting, self._counts, self._n_in_block = [], [], 0

    def _submit(self, size: int) -> None:
        rows, at = np.concatenate(self._waiting), np.concatenate(self._counts)
        self._waiting, self._counts = [rows[size:]], [at[size:]]
        self._n_in_block += 1
        self._under_way.append(((at[0] + at[size - 1]) / 2, self._pool.submit(self._measure, rows[:size])))
        if len(self._under_way) > self._jobs + 1:
            self._take()

    def _measure(self, counts: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
        """RMS above 1 Hz (n_channels,) V, and the periodograms' sum."""
        volts = counts.astype(np.float32) * self._gains_v
        volts -= volts.mean(axis=0)
        transform = fft.rfft(volts, axis=0)
        freqs_hz = fft.rfftfreq(len(volts), 1 / self._rate_hz)
        gain = 0.5 - 0.5 * np.cos(np.pi * np.minimum(freqs_hz / SLOW_HZ, 1.0))
        volts = fft.irfft(transform * gain[:, None].astype(np.float32), len(volts), axis=0)
        return np.sqrt(np.mean(volts**2, axis=0, dtype=np.float64)), self._welch.periodograms(volts)

    def _take(self) -> None:
        middle, future = self._under_way.popleft()
        rms, periodograms = future.result()
        self._middles.append(middle)
        self._rms.append(rms)
        self._welch.add(*periodograms)

    def band(self) -> Band:
        """What was found; the channels in the order given."""
        while self._under_way:
            self._take()
        saturated = None if self._limit is None else self._n_near / self._n_samples
        return Band(np.array(self._rms), np.array(self._middles), self._welch.spectrum(), saturated)


def _pass_on(
    rows: np.ndarray,
    counts: np.ndarray,
    span: _Window,
    levels: _LfBand,
    writer: LfpWriter | None,
    seconds: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Hand the LF band's next samples, those of a span, and their counts to what takes them."""
    levels.add(rows, counts)
    if span.stop == span.block.start + span.block.n_samples:
        levels.end_block()
    if writer is not None:
        writer.add(rows, seconds(counts))


def _lf_start(ap: Stream, lf: Stream, ratio: int) -> int:
    """Count on the AP stream's clock of the LF stream's first sample; 0 where the files don't tell."""
    if ap.first_sample is None or lf.first_sample is None:
        return 0
    start = lf.first_sample * ratio - ap.first_sample
    if abs(start) > MAX_START_DIFFERENCE_S * ap.sampling_rate_hz:
        log.warning(
            "streams %s and %s begin %.3f s apart by their sample numbers: taken to begin together",
            ap.name,
            lf.name,
            start / ap.sampling_rate_hz,
        )
        return 0
    return start


def _read_lf(
    reader: StreamReader,
    ratio: int,
    start: int,
    pool: ThreadPoolExecutor,
    jobs: int,
    levels: _LfBand,
    writer: LfpWriter | None,
    seconds: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Pass a LF stream's samples on. start: see ``_lf_start``."""
    stream = reader.stream
    columns = [channel.raw_column for channel in stream.channels]
    progress = _Progress(stream)

    def read(span: _Window) -> tuple[_Window, np.ndarray]:
        return span, reader.read(span.start, span.stop, columns)

    for span, rows in _in_order(pool, read, _spans(stream), jobs):
        acquired = span.block.offset - span.block.start + np.arange(span.start, span.stop)
        counts = start + ratio * acquired
        _pass_on(rows, counts, span, levels, writer, seconds)
        progress(span.stop)


def _settle(
    scans: list[Scan], limit: int | None, stream: Stream
) -> tuple[Literal["header", "data", "unknown"], int | None, np.ndarray | None, list[Interval]]:
    """Where the converter's limit is from, the limit, each channel's saturated part, all intervals.

    Where it is not known, it is the greatest value of all if that was reached MIN_AT_LEVEL times, as a limit
    is and chance is not; stretches that come not near it were not saturated.
    """
    source: Literal["header", "data", "unknown"] = "header"
    n_samples = sum(found.n_samples for found in scans)
    near, level = scans, limit
    if level is None:
        level = max(found.level for found in scans)
        near = [found for found in scans if found.level >= (1 - LIMIT_MARGIN) * level]
        source = "data"
        if level < MIN_LEVEL_COUNTS or sum(f.n_at_level for f in near if f.level == level) < MIN_AT_LEVEL:
            source, level, near = "unknown", None, []
    intervals = [interval for found in scans for interval in found.intervals if interval.kind == "artifact"]
    intervals += [interval for found in near for interval in found.intervals if interval.kind == "saturation"]
    merged = []
    for block in stream.blocks():
        inside = [i for i in intervals if block.start <= i.start < block.start + block.n_samples]
        merged += merge_intervals(inside, round(MERGE_S * stream.sampling_rate_hz))
    saturated = None if level is None else sum(found.at_limit for found in near) / n_samples
    return source, level, saturated, merged


def _as_channels_of(probe: Probe, lf: Band) -> Band:
    """The LF band with a column for each AP channel, NaN where the LF stream has not that contact."""
    if probe.lf is None:
        return lf
    column_of = {channel.contact_id: k for k, channel in enumerate(probe.lf.channels)}
    found = [column_of.get(channel.contact_id) for channel in probe.ap.channels]
    missing = [channel.contact_id for channel, k in zip(probe.ap.channels, found, strict=True) if k is None]
    if missing:
        log.warning("%d of %d channels are not in the LF stream", len(missing), len(found))

    def chosen(values: np.ndarray) -> np.ndarray:
        padded = np.concatenate([values, np.full((*values.shape[:-1], 1), np.nan)], axis=-1)
        return padded[..., [len(column_of) if k is None else k for k in found]]

    spectrum = Spectrum(lf.spectrum.freqs_hz, chosen(lf.spectrum.power), lf.spectrum.n_segments)
    saturated = None if lf.saturated is None else chosen(lf.saturated)
    return Band(chosen(lf.rms), lf.counts, spectrum, saturated)


def _save_band(
    out: Path, name: str, band: Band, columns: Sequence[int], seconds: Callable[[np.ndarray], np.ndarray]
) -> None:
    """columns: of the raw file, of the band's channels."""

    def by_column(values: np.ndarray) -> np.ndarray:
        placed = np.full((len(values), max(columns) + 1), np.nan, dtype=np.float32)
        placed[:, columns] = values
        return placed

    np.save(out / f"_iblqc_ephysTimeRms{name}.rms.npy", by_column(band.rms))
    np.save(out / f"_iblqc_ephysTimeRms{name}.timestamps.npy", seconds(band.counts))
    np.save(out / f"_iblqc_ephysSpectralDensity{name}.power.npy", by_column(band.spectrum.power))
    np.save(out / f"_iblqc_ephysSpectralDensity{name}.freqs.npy", band.spectrum.freqs_hz.astype(np.float32))


def _save_intervals(
    path: Path, intervals: list[Interval], stream: Stream, seconds: Callable[[np.ndarray], np.ndarray]
) -> None:
    starts = np.array([interval.start for interval in intervals], dtype=np.int64)
    lasts = np.array([interval.stop - 1 for interval in intervals], dtype=np.int64)
    start_s, stop_s = seconds(stream.acquired(starts)), seconds(stream.acquired(lasts) + 1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["start_sample", "stop_sample", "start_s", "stop_s", "kind", "n_channels"])
        for interval, begin, end in zip(intervals, start_s, stop_s, strict=True):
            times = f"{begin:.6f}", f"{end:.6f}"
            writer.writerow([interval.start, interval.stop, *times, interval.kind, interval.n_channels])


def _summed(intervals: list[Interval], rate_hz: float) -> dict[str, float]:
    """Number and summed duration of each kind, for ``RawQc``."""
    saturated = [i.stop - i.start for i in intervals if i.kind == "saturation"]
    artifacts = [i.stop - i.start for i in intervals if i.kind == "artifact"]
    return {
        "n_saturated": len(saturated),
        "saturated_s": sum(saturated) / rate_hz,
        "n_artifacts": len(artifacts),
        "artifact_s": sum(artifacts) / rate_hz,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
