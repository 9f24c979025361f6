"""Power spectra of long recordings, and the notches that their spectral lines ask for.

Spectra are Welch's estimate (mean of periodograms of half-overlapping segments under a Hann window, each
segment's mean removed, one-sided density), summed piece by piece, so that memory does not grow and nothing
runs over a gap. A line is a peak of a spectrum too narrow to be neural: an inverter, a light's ballast, a
switching power supply. ``find_notches`` finds lines, ``notch_gain`` is the filter that takes them out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, signal

from powerpixels.documents import Block, Document
from powerpixels.rawdata import StreamReader

log = logging.getLogger("powerpixels")

# Frequency and full width at half power of each, Hz.
Notches = tuple[tuple[float, float], ...]

# What a spectrum is taken from, where a recording is long enough.
SPECTRUM_WINDOWS = 60
WINDOW_SAMPLES = 32768
# Bins of 7.3 Hz at 30 kHz: fine enough to see a line of one channel in its noise.
SEGMENT_SAMPLES = 4096
# Noise bandwidth of a Hann window, in bins: the power of a line in a bin's middle is its density times this.
HANN_BANDWIDTH_BINS = 1.5
# Half the main lobe of a Hann window, and the second moment of its power, in bins.
HANN_LOBE_BINS = 2
HANN_VARIANCE_BINS = 1 / 3

# The original's threshold, 0.0025 (ADC counts)²/Hz, for a 1.0 probe of gain 500: 2.34 µV per count.
THRESHOLD_UV2_HZ = 0.0137
# It is of spectra of 256 samples at 30 kHz.
# What a density of such a spectrum stands for in a line's power.
THRESHOLD_BANDWIDTH_HZ = HANN_BANDWIDTH_BINS * 30000 / 256

# As in the original nothing below is notched: there are the spikes' own frequencies.
LOWEST_HZ = 2000.0
# The running median takes what is narrower than half of this for a line, and follows what is broader.
BASELINE_HZ = 500.0
# Of fewer periodograms a spectrum is mostly chance.
MIN_SEGMENTS = 10
# Broader peaks are no lines.
MAX_LINE_HZ = 100.0
# A notch of 40 Hz rings for 40 ms (to 1 %): the margin of the preprocessing's chunks.
MIN_NOTCH_HZ = 40.0
MAX_NOTCH_HZ = 120.0
MAX_NOTCHES = 12
# Part of the frequencies up to Nyquist that notches may take from any channel: 450 Hz at 30 kHz.
MAX_NOTCHED = 0.03
# How many standard deviations of the spectrum's own scatter a line is above it: in the mean over the channels
# (some thousand bins), in a single channel (a million), for a channel to belong to a line found in others,
# and at a multiple of a line's frequency (a few bins).
COMMON_Z = 7.0
CHANNEL_Z = 8.0
MEMBER_Z = 4.0
HARMONIC_Z = 4.5


class Notch(Document):
    """A line of the spectrum and the filter against it.

    frequency_hz: the line's. width_hz: full width of the notch at half power (one pass). power_uv2: the
    line's mean square in the median of its channels, µV². raw_columns: the channels it is in. harmonic_of_hz:
    the line of which this is a multiple. left_out: why it is not to be filtered; None: it is.
    """

    frequency_hz: float
    width_hz: float
    power_uv2: float
    raw_columns: list[int]
    harmonic_of_hz: float | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Spectrum:
    """freqs_hz (n_freqs,), power (n_freqs, n_channels) in the traces' unit² per Hz, both float64.

    n_segments: how many periodograms power is the mean of.
    """

    freqs_hz: np.ndarray
    power: np.ndarray
    n_segments: int


class Welch:
    """Sum of periodograms; equal to ``scipy.signal.welch`` where all was added at once.

    (P. D. Welch, IEEE Transactions on Audio and Electroacoustics 15, 1967.)
    """

    def __init__(self, sampling_rate_hz: float, n_channels: int, segment_samples: int = SEGMENT_SAMPLES):
        """Begin with nothing."""
        self.sampling_rate_hz = sampling_rate_hz
        self.segment_samples = segment_samples
        self.n_segments = 0
        self._sum = np.zeros((segment_samples // 2 + 1, n_channels))

    def periodograms(self, traces: np.ndarray) -> tuple[np.ndarray, int]:
        """Sum of |transform|² over the half-overlapping segments of traces, and how many these are.

        traces: (samples, channels). The sum: float64 (n_freqs, n_channels). Changes nothing, so that threads
        may do it; ``add`` takes the result. Samples behind the last whole segment are left out.
        """
        size = self.segment_samples
        window = signal.get_window("hann", size).astype(np.float32)[:, None]
        total, n_segments = np.zeros_like(self._sum), 0
        for start in range(0, len(traces) - size + 1, size // 2):
            segment = traces[start : start + size].astype(np.float32)
            transform = fft.rfft((segment - segment.mean(axis=0)) * window, axis=0)
            total += transform.real**2 + transform.imag**2
            n_segments += 1
        return total, n_segments

    def add(self, total: np.ndarray, n_segments: int) -> None:
        """Take what ``periodograms`` returned."""
        self._sum += total
        self.n_segments += n_segments

    def spectrum(self) -> Spectrum:
        """The mean of all segments; raises ``ValueError`` where there was none."""
        if not self.n_segments:
            raise ValueError(f"no stretch of {self.segment_samples} samples was added")
        size = self.segment_samples
        energy = np.sum(signal.get_window("hann", size) ** 2)
        power = self._sum / (self.n_segments * self.sampling_rate_hz * energy)
        # One-sided: all but 0 and (even sizes) the Nyquist frequency stand for their negative too.
        power[1 : -1 if size % 2 == 0 else None] *= 2
        return Spectrum(fft.rfftfreq(size, 1 / self.sampling_rate_hz), power, self.n_segments)


def sample_windows(blocks: Sequence[Block], length: int, n_windows: int, seed: int) -> np.ndarray:
    """First samples (int64, ascending) of windows of ``length`` samples spread over a stream's blocks.

    One at a random place of each of n_windows equal parts of the recording (fewer where it holds fewer);
    each lies in one block. Empty where no block is as long.
    """
    n_starts = np.array([max(block.n_samples - length + 1, 0) for block in blocks])
    n_windows = min(n_windows, sum(block.n_samples // length for block in blocks))
    ends = np.cumsum(n_starts)
    if not n_windows:
        return np.empty(0, dtype=np.int64)
    parts = (np.arange(n_windows) + np.random.default_rng(seed).random(n_windows)) / n_windows
    drawn = (parts * ends[-1]).astype(np.int64)
    k = np.searchsorted(ends, drawn, side="right")
    return drawn - (ends - n_starts)[k] + np.array([block.start for block in blocks])[k]


def sampled_spectrum(readers: Sequence[StreamReader], seed: int, jobs: int) -> tuple[Spectrum, int]:
    """Spectrum of streams of one probe as recorded, µV²/Hz, columns as the first's channels; and the windows.

    The mean of SPECTRUM_WINDOWS windows of about a second in all, spread over each stream. Above some
    hundred Hz that is the high-passed traces' spectrum too. The streams must have the same channels.
    """
    first = readers[0].stream
    columns = [channel.raw_column for channel in first.channels]
    gains_uv = np.array([channel.gain_uv for channel in first.channels])
    longest = max(block.n_samples for reader in readers for block in reader.stream.blocks())
    length = min(WINDOW_SAMPLES, longest)
    size = 2 ** int(np.log2(min(SEGMENT_SAMPLES, longest)))
    welch = Welch(first.sampling_rate_hz, len(columns), size)
    n_windows = max(1, SPECTRUM_WINDOWS // len(readers))
    windows = [
        (reader, int(start))
        for reader in readers
        for start in sample_windows(reader.stream.blocks(), length, n_windows, seed)
    ]

    def periodograms(window: tuple[StreamReader, int]) -> tuple[np.ndarray, int]:
        reader, start = window
        return welch.periodograms(reader.read(start, start + length, columns))

    with ThreadPoolExecutor(jobs) as pool:
        # As many at a time as there are threads: each sum is as large as the result.
        for k in range(0, len(windows), jobs):
            for found in pool.map(periodograms, windows[k : k + jobs]):
                welch.add(*found)
    spectrum = welch.spectrum()
    scaled = Spectrum(spectrum.freqs_hz, spectrum.power * gains_uv**2, spectrum.n_segments)
    return scaled, len(windows)


def find_notches(
    spectrum: Spectrum, raw_columns: Sequence[int], threshold: float, lowest_hz: float = LOWEST_HZ
) -> tuple[list[Notch], list[Notch]]:
    """Lines of a spectrum in µV²/Hz: those to filter, by frequency, and those left out, each with the reason.

    raw_columns: of the spectrum's channels. threshold, µV²/Hz: a line counts where its mean square is at
    least threshold * THRESHOLD_BANDWIDTH_HZ in the median of its channels; that is what makes a density of
    ``threshold`` in a spectrum with the original's bins, but does not depend on the bins nor on where in one
    a line lies. lowest_hz: below nothing is looked for.

    A line stands out of the logarithm of the spectrum, each bin pooled with its two neighbours, less its
    running median over BASELINE_HZ, by COMMON_Z times the scatter (median absolute deviation) in the mean
    over channels, or by CHANNEL_Z in one. It is all channels' where at least half have half the mean excess,
    else that of the channels where it is significant. Multiples of lines are looked for with HARMONIC_Z.

    A spectrum of fewer than MIN_SEGMENTS periodograms is not looked at.

    Bounds, whatever the spectrum: at most MAX_NOTCHES, each MIN_NOTCH_HZ to MAX_NOTCH_HZ wide, together at
    most MAX_NOTCHED of the band up to Nyquist in any channel; the strongest lines go first. Peaks broader
    than MAX_LINE_HZ are never filtered. Channels without power (all zero) are not looked at.
    """
    columns = np.asarray(raw_columns)
    alive = np.flatnonzero(np.all(spectrum.power[1:] > 0, axis=0))
    if alive.size == 0 or spectrum.freqs_hz[-1] <= lowest_hz:
        return [], []
    if spectrum.n_segments < MIN_SEGMENTS:
        log.warning("too short to look for spectral lines: %d periodograms", spectrum.n_segments)
        return [], []
    seen = _Seen(spectrum, alive, lowest_hz)
    floor_uv2 = threshold * THRESHOLD_BANDWIDTH_HZ
    lines = seen.lines(floor_uv2)
    budget = np.zeros(len(columns))
    limit_hz = MAX_NOTCHED * spectrum.freqs_hz[-1]
    kept, left_out = [], []
    for line in sorted(lines, key=lambda line: -line.power_uv2):
        width_hz = float(np.clip(MIN_NOTCH_HZ + 4 * line.spread_hz, MIN_NOTCH_HZ, MAX_NOTCH_HZ))
        reason = None
        if line.broad:
            reason = f"broader than {MAX_LINE_HZ:g} Hz"
        elif len(kept) == MAX_NOTCHES:
            reason = f"more than {MAX_NOTCHES} lines"
        elif np.any(budget[line.channels] + width_hz > limit_hz):
            reason = f"more than {MAX_NOTCHED:.0%} of the band"
        else:
            budget[line.channels] += width_hz
        notch = Notch(
            frequency_hz=line.frequency_hz,
            width_hz=width_hz,
            power_uv2=line.power_uv2,
            raw_columns=[int(column) for column in columns[line.channels]],
            harmonic_of_hz=line.harmonic_of_hz,
            left_out=reason,
        )
        (left_out if reason else kept).append(notch)
        if reason:
            log.warning("line at %.1f Hz is not filtered: %s", line.frequency_hz, reason)
    return sorted(kept, key=lambda notch: notch.frequency_hz), left_out


def notches_of_columns(notches: Iterable[Notch], columns: Sequence[int]) -> list[Notches]:
    """Frequency and width in Hz of the notches of each raw column, in the order of the columns."""
    by_frequency = sorted(notches, key=lambda notch: notch.frequency_hz)
    return [
        tuple((notch.frequency_hz, notch.width_hz) for notch in by_frequency if column in notch.raw_columns)
        for column in columns
    ]


def notch_gain(freqs_hz: np.ndarray, notches: Sequence[Notch], sampling_rate_hz: float) -> np.ndarray:
    """Gain (float64, shape of freqs_hz, 0 to 1) by which to multiply a transform to filter by all notches.

    Each is the second-order notch of ``scipy.signal.iirnotch`` with Q = frequency / width run forward and
    backward, so of zero phase: 1/2 at frequency ± width / 2, 0 at the frequency. Its response to an impulse
    falls as exp(-pi * width * t): transforms of chunks want margins as long.
    """
    w = 2 * np.pi * np.asarray(freqs_hz, dtype=np.float64) / sampling_rate_hz
    gain = np.ones_like(w)
    for notch in notches:
        off = (np.cos(w) - np.cos(2 * np.pi * notch.frequency_hz / sampling_rate_hz)) ** 2
        gain *= off / (off + (np.tan(np.pi * notch.width_hz / sampling_rate_hz) * np.sin(w)) ** 2)
    return gain


@dataclass(frozen=True)
class _Line:
    """A line: channels are positions in the spectrum; spread_hz the line's own standard deviation."""

    frequency_hz: float
    spread_hz: float
    power_uv2: float
    broad: bool
    channels: np.ndarray
    harmonic_of_hz: float | None = None


class _Seen:
    """How far each bin of each channel, and of their mean, stands out of its surroundings."""

    def __init__(self, spectrum: Spectrum, alive: np.ndarray, lowest_hz: float):
        self.freqs_hz = spectrum.freqs_hz
        self.bin_hz = float(spectrum.freqs_hz[1])
        self.alive = alive
        # From a baseline's width below lowest_hz on, so that it is the same there as anywhere.
        self.first = int(np.searchsorted(self.freqs_hz, lowest_hz))
        self.from_bin = max(1, self.first - round(BASELINE_HZ / self.bin_hz))
        density = spectrum.power[self.from_bin :, alive]
        size = 2 * round(BASELINE_HZ / self.bin_hz / 2) + 1
        pooled = np.log(ndimage.uniform_filter1d(density, 3, axis=0))
        above = pooled - ndimage.median_filter(pooled, size=(size, 1))
        # Without what is pooled: the baseline itself, to take off a line's bins.
        self.baseline = np.exp(ndimage.median_filter(np.log(density), size=(size, 1)))
        self.excess = density - self.baseline
        self.above = above
        self.z = above / _scatter(above)
        self.common = above.mean(axis=1)
        self.common_z = self.common / _scatter(self.common[:, None])[:, 0]

    def lines(self, floor_uv2: float) -> list[_Line]:
        """All lines of at least floor_uv2, the strongest first looked at, then their multiples."""
        first = self.first - self.from_bin
        strongest = np.maximum(self.common_z / COMMON_Z, self.z.max(axis=1) / CHANNEL_Z)
        is_peak = strongest >= np.maximum(np.roll(strongest, 1), np.roll(strongest, -1))
        peaks = [k for k in np.flatnonzero(is_peak & (strongest >= 1)) if first <= k < len(strongest) - 2]
        height = {k: self.excess[max(k - 1, 0) : k + 2].max() for k in peaks}
        lines: list[_Line] = []
        for k in sorted(peaks, key=lambda k: -height[k]):
            line = self._line(k, COMMON_Z, CHANNEL_Z)
            if line is not None and line.power_uv2 >= floor_uv2 and not self._explained(line, lines):
                lines.append(line)
        for line in sorted(lines, key=lambda line: line.frequency_hz):
            lines = self._with_multiples(line, lines, floor_uv2)
        return lines

    def _line(self, k: int, common_z: float, channel_z: float) -> _Line | None:
        """The line whose highest bin is k; None where it is in no channel for certain."""
        around = slice(max(k - 1, 0), k + 2)
        above, z = self.above[around].max(axis=0), self.z[around].max(axis=0)
        half_have_it = np.mean(above >= self.common[k] / 2) >= 0.5
        if self.common_z[around].max() >= common_z and half_have_it:
            channels = np.arange(len(self.alive))
        elif z.max() >= channel_z:
            channels = np.flatnonzero(z >= MEMBER_Z)
        else:
            return None
        # Relative to the baseline no channel decides alone how broad the line is.
        shape = np.mean(self.excess[:, channels] / self.baseline[:, channels], axis=1)
        reach = round(MAX_LINE_HZ / self.bin_hz)
        low, high = k - HANN_LOBE_BINS, k + HANN_LOBE_BINS
        while low > max(k - reach, 0) and shape[low - 1] > shape[k] / 10:
            low -= 1
        while high < min(k + reach, len(shape) - 1) and shape[high + 1] > shape[k] / 10:
            high += 1
        low, high = max(low, 0), min(high, len(shape) - 1)
        bins = np.arange(low, high + 1)
        weight = np.clip(shape[bins], 0, None)
        centre = np.average(bins, weights=weight)
        variance = np.average((bins - centre) ** 2, weights=weight) - HANN_VARIANCE_BINS
        power = self.excess[bins][:, channels].sum(axis=0) * self.bin_hz
        return _Line(
            frequency_hz=float((centre + self.from_bin) * self.bin_hz),
            spread_hz=float(np.sqrt(max(variance, 0.0)) * self.bin_hz),
            power_uv2=float(np.median(power)),
            broad=(high - low - 2 * HANN_LOBE_BINS) * self.bin_hz > MAX_LINE_HZ,
            channels=self.alive[channels],
        )

    def _explained(self, line: _Line, stronger: list[_Line]) -> bool:
        """Whether the line lies in the notch of a stronger one, or is a side lobe of the window's on one."""
        for other in stronger:
            distance = abs(line.frequency_hz - other.frequency_hz)
            own_notch = max(MIN_NOTCH_HZ, 4 * other.spread_hz) / 2
            if distance <= own_notch and np.isin(line.channels, other.channels).all():
                return True
            # A Hann window's side lobes are 31 dB down 2.5 bins away and fall by 18 dB an octave; 10 dB more
            # for lines that are not quite steady.
            lobe = 10 ** (-2.1) * (2.5 * self.bin_hz / max(distance, 2.5 * self.bin_hz)) ** 6
            if line.power_uv2 <= lobe * other.power_uv2:
                return True
        return False

    def _with_multiples(self, line: _Line, lines: list[_Line], floor_uv2: float) -> list[_Line]:
        """The lines, those at multiples of this one marked, and fainter ones there added."""
        if next(known for known in lines if known.frequency_hz == line.frequency_hz).harmonic_of_hz:
            return lines
        for n in range(2, int(self.freqs_hz[-3] / line.frequency_hz) + 1):
            # The line's frequency is known to a small part of a bin.
            reach = max(1, round(0.2 * n))
            at = round(n * line.frequency_hz / self.bin_hz) - self.from_bin
            near = (reach + 1) * self.bin_hz
            known = [k for k, o in enumerate(lines) if abs(o.frequency_hz - n * line.frequency_hz) <= near]
            for k in known:
                lines[k] = _Line(**{**vars(lines[k]), "harmonic_of_hz": line.frequency_hz})
            if known:
                continue
            places = np.arange(at - reach, at + reach + 1)
            places = places[places < len(self.common_z) - 2]
            best = int(places[np.argmax(self.common_z[places])])
            found = self._line(best, HARMONIC_Z, CHANNEL_Z)
            if found is not None and found.power_uv2 >= floor_uv2 and not self._explained(found, lines):
                lines.append(_Line(**{**vars(found), "harmonic_of_hz": line.frequency_hz}))
        return lines


def _scatter(above: np.ndarray) -> np.ndarray:
    """Standard deviation of each column as its median absolute deviation tells it, (1, n_columns)."""
    return 1.4826 * np.median(np.abs(above), axis=0, keepdims=True)
