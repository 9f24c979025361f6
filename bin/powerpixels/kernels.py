"""The arithmetic of preprocessing on chunks of samples, as fast as it goes: arrays in, arrays out, no files.

Order of use: ``filter_chunk`` (raw counts -> µV, high-passed, all channels at one moment), ``interpolate``,
one of ``medians.subtract_medians`` and ``destripe``, then ``quantise``. In between, traces are (channels,
samples) float32 in µV: each channel's samples one after the other, as transforms and medians need them.

Each function is SpikeInterface 0.105.3's step of the same name done otherwise; how far apart the results can
be stands with each. All take an Executor of threads (or None): the work is split the same way for any number
of threads, so results do not depend on it. ``out``, where there is one, takes the result: memory that is used
again saves a tenth of the time. NumPy, SciPy and numba release the interpreter's lock inside.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from powerpixels.spectra import Notches

INT16_MAX = 32767

# A block's transform: 2**15 samples hold one second at 30 kHz and both margins.
FFT_SAMPLES = 32768
# Margin on both sides of what filter_chunk returns. SpikeInterface's phase_shift takes as much: the sinc of a
# shift by part of a sample fades as 1/t. The outer half fades in, the inner lets the high-pass filter settle.
MARGIN_MS = 40.0
# With notches, whose responses fall as exp(-pi * width * t): to 0.2 % within half of it at 40 Hz.
NOTCH_MARGIN_MS = 100.0
# Pairs of channels that a thread transforms at a time: 4 MB.
PAIRS = 16
BUTTERWORTH_ORDER = 5
TILE = 256
# Samples by channels that stay in the cache while they are turned from one order to the other.
GATHER_SAMPLES = 128
QUANTISE_TILE = (256, 32)
# Channels that a thread filters at a time near the recording's ends, in float64.
EDGE_ROWS = 32
# Samples that a thread takes at a time when it writes counts.
QUANTISE_SAMPLES = 2048


def _each(pool: Executor | None, task, items) -> list:
    """Results of task(item) in the order of the items."""
    return list((map if pool is None else pool.map)(task, items))


def _transposing(size: int, bits: int):
    """An intrinsic transpose(source, target, source_bytes, target_bytes) of a square of size**2 numbers.

    source, target: addresses of the first row. source_bytes, target_bytes: from row to row. In vector
    shuffles: left to itself, the compiler moves one number at a time.
    """
    vector = ir.VectorType(ir.IntType(bits), size)
    half = size // 2

    def codegen(context, builder, _signature, arguments):
        def pointer(start, step, k):
            offset = builder.mul(step, ir.Constant(step.type, k))
            return builder.inttoptr(builder.add(start, offset), vector.as_pointer())

        source, target, source_bytes, target_bytes = arguments
        rows = [builder.load(pointer(source, source_bytes, k), align=bits // 8) for k in range(size)]
        lower = ir.Constant(
            ir.VectorType(ir.IntType(32), size), [k // 2 + (k % 2) * size for k in range(size)]
        )
        upper = ir.Constant(
            ir.VectorType(ir.IntType(32), size), [half + k // 2 + (k % 2) * size for k in range(size)]
        )
        # Interleaving rows half the square apart, as many times as its size is a power of two.
        for _ in range(size.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[k], rows[k + half], mask)
                for k in range(half)
                for mask in (lower, upper)
            ]
        for k, row in enumerate(rows):
            builder.store(row, pointer(target, target_bytes, k), align=bits // 8)
        return context.get_dummy_value()

    def transpose(typingctx, source, target, source_bytes, target_bytes):
        return types.void(types.intp, types.intp, types.intp, types.intp), codegen

    return intrinsic(transpose)


_transpose_16 = _transposing(16, 16)
_transpose_64 = _transposing(8, 64)


def _result(out: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """The caller's array for a result, or a new one."""
    if out is None:
        return np.empty(shape, dtype=np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"expected contiguous float32 of shape {shape}, found {out.shape} {out.dtype}")
    return out


@dataclass(frozen=True)
class FilterPlan:
    """Which columns of the raw samples become which rows of the traces, and through which filter.

    columns, gains_uv, shifts: of each row: its raw column, µV per count, and by which part of a sample it is
    taken late (inter_sample_shift). filters: each row's filter, an index into ``notches``: (frequency, width)
    in Hz of the notches that the filter has beside the high-pass. order: rows by pairs of equal filter and
    shift, (pairs, 2), -1 where there is none. kind_of: (pairs,) index into ``kinds``: (filter, shift).
    margin: samples that filter_chunk wants on either side.
    """

    sampling_rate_hz: float
    highpass_hz: float
    columns: np.ndarray
    gains_uv: np.ndarray
    shifts: np.ndarray
    filters: np.ndarray
    notches: tuple[Notches, ...]
    order: np.ndarray
    kind_of: np.ndarray
    kinds: tuple[tuple[int, float], ...]
    margin: int

    def sections(self, k: int) -> np.ndarray:
        """Second-order sections of the k-th filter."""
        return sections(self.sampling_rate_hz, self.highpass_hz, self.notches[k])


def filter_plan(
    sampling_rate_hz: float,
    highpass_hz: float,
    columns: np.ndarray,
    gains_uv: np.ndarray,
    shifts: np.ndarray,
    notches: Sequence[Notches] | None = None,
) -> FilterPlan:
    """Plan ``filter_chunk`` for the channels to be kept; see FilterPlan.

    columns, gains_uv, shifts: (channels,) in the order in which the traces' rows are wanted. notches: of each
    channel, None: no channel has any. Two channels that are sampled at the same moment and filtered alike
    share one complex transform. Raises ValueError for lengths that differ, or a cutoff that is not between 0
    and half the sampling rate.
    """
    columns = np.ascontiguousarray(columns, dtype=np.int64)
    gains_uv = np.ascontiguousarray(gains_uv, dtype=np.float32)
    shifts = np.ascontiguousarray(shifts, dtype=np.float64)
    if not columns.shape == gains_uv.shape == shifts.shape or columns.ndim != 1 or not columns.size:
        raise ValueError(
            "columns, gains and shifts must be as many, at least one: "
            f"found {columns.shape}, {gains_uv.shape}, {shifts.shape}"
        )
    if not 0 < highpass_hz < sampling_rate_hz / 2:
        raise ValueError(f"high-pass cutoff {highpass_hz} Hz at a sampling rate of {sampling_rate_hz} Hz")
    of_row = [tuple(own) for own in notches] if notches is not None else [()] * len(columns)
    if len(of_row) != len(columns):
        raise ValueError(f"notches of {len(of_row)} channels, expected {len(columns)}")
    unique = sorted(set(of_row))
    filters = np.array([unique.index(own) for own in of_row], dtype=np.int64)
    kinds = sorted(set(zip(filters.tolist(), shifts.tolist(), strict=True)))
    order, kind_of = [], []
    for k, (chosen, shift) in enumerate(kinds):
        rows = np.flatnonzero((filters == chosen) & (shifts == shift))
        rows = rows[np.argsort(columns[rows], kind="stable")].tolist()
        if len(rows) % 2:
            rows.append(-1)
        order += zip(rows[0::2], rows[1::2], strict=True)
        kind_of += [k] * (len(rows) // 2)
    # Pairs that are neighbours in the raw file are read together.
    by_column = np.argsort([columns[pair[0]] for pair in order], kind="stable")
    return FilterPlan(
        sampling_rate_hz=float(sampling_rate_hz),
        highpass_hz=float(highpass_hz),
        columns=columns,
        gains_uv=gains_uv,
        shifts=shifts,
        filters=filters,
        notches=tuple(unique),
        order=np.array(order, dtype=np.int64)[by_column],
        kind_of=np.array(kind_of, dtype=np.int64)[by_column],
        kinds=tuple(kinds),
        margin=int((NOTCH_MARGIN_MS if any(unique) else MARGIN_MS) * sampling_rate_hz / 1000),
    )


def butterworth(sampling_rate_hz: float, highpass_hz: float) -> np.ndarray:
    """Second-order sections of the high-pass filter, as SpikeInterface's highpass_filter uses them."""
    from scipy.signal import iirfilter

    return iirfilter(
        BUTTERWORTH_ORDER, highpass_hz, fs=sampling_rate_hz, btype="highpass", ftype="butter", output="sos"
    )


def sections(sampling_rate_hz: float, highpass_hz: float, notches: Notches) -> np.ndarray:
    """Second-order sections (n, 6) of the high-pass filter and ``scipy.signal.iirnotch`` of each notch."""
    from scipy.signal import iirnotch

    rows = [butterworth(sampling_rate_hz, highpass_hz)]
    for frequency_hz, width_hz in notches:
        rows.append(np.concatenate(iirnotch(frequency_hz, frequency_hz / width_hz, sampling_rate_hz))[None])
    return np.concatenate(rows)


def edge_extension(sos: np.ndarray) -> int:
    """By how many samples sosfiltfilt extends the data at each end, if it is not told otherwise."""
    n_taps = 2 * len(sos) + 1 - min(np.count_nonzero(sos[:, 2] == 0), np.count_nonzero(sos[:, 5] == 0))
    return 3 * int(n_taps)


@lru_cache(maxsize=8)
def responses(
    sampling_rate_hz: float,
    highpass_hz: float,
    notches: tuple[Notches, ...],
    kinds: tuple[tuple[int, float], ...],
    n_fft: int,
) -> np.ndarray:
    """(kinds, n_fft) complex64: filter forward and backward, and delay; of a real impulse response."""
    from scipy.signal import freqz_sos

    half = n_fft // 2 + 1
    frequency = np.arange(half) / n_fft
    gains = []
    for own in notches:
        _, single = freqz_sos(sections(sampling_rate_hz, highpass_hz, own), worN=2 * np.pi * frequency)
        gains.append(np.abs(single) ** 2)
    one_sided = np.array([gains[k] * np.exp(-2j * np.pi * frequency * shift) for k, shift in kinds])
    # Half the sampling rate has no phase in real samples: its real part is what remains, as in irfft.
    one_sided[:, -1] = one_sided[:, -1].real
    two_sided = np.concatenate([one_sided, np.conj(one_sided[:, -2:0:-1])], axis=1)
    return two_sided.astype(np.complex64)


@lru_cache(maxsize=4)
def fade(margin: int, n_used: int, n_fft: int) -> np.ndarray:
    """(n_fft,) float32 weights: 0 to 1 over half a margin, 1, 1 to 0 at the end of n_used samples, then 0."""
    rise = (1 - np.cos(np.pi * (np.arange(margin // 2) + 0.5) / max(margin // 2, 1))) / 2
    fade = np.zeros(n_fft, dtype=np.float32)
    fade[:n_used] = 1
    fade[: margin // 2] = rise
    fade[n_used - margin // 2 : n_used] = rise[::-1]
    return fade


@numba.njit(nogil=True, cache=True)
def _gather(raw, first, at_start, at_end, columns, gains, extensions, order, fade, out):
    """Pairs of channels as complex numbers, (pairs, n_fft): µV less the channel's mean, faded.

    raw: (samples, channels); out's first sample is raw[first], which may lie before the data, as its last may
    lie beyond. There the data go on as sosfiltfilt extends them where at_start or at_end says that the
    recording ends there: mirrored through the end point over the row's extension in samples, then constant.
    """
    n_raw, n_fft = raw.shape[0], out.shape[1]
    begin, end = max(0, -first), min(n_fft, n_raw - first)
    n_pairs = order.shape[0]
    # Lanes without a channel have a gain of 0. As many as PAIRS says, whatever the number of pairs: loops of
    # a length known beforehand become vector instructions.
    lane_column = np.zeros(2 * PAIRS, dtype=np.int64)
    lane_gain = np.zeros(2 * PAIRS, dtype=np.float32)
    lane_offset = np.zeros(2 * PAIRS, dtype=np.float32)
    for lane in range(2 * n_pairs):
        row = order[lane // 2, lane % 2]
        if row >= 0:
            lane_column[lane], lane_gain[lane] = columns[row], gains[row]
    consecutive = n_pairs == PAIRS
    for lane in range(2 * PAIRS):
        consecutive = consecutive and lane_gain[lane] != 0 and lane_column[lane] == lane_column[0] + lane
    # A few hundred samples are enough to take off an offset; any constant would do.
    total = np.zeros(2 * PAIRS)
    n_total = 0
    for k in range(begin, end, 64):
        n_total += 1
        for lane in range(2 * n_pairs):
            total[lane] += raw[first + k, lane_column[lane]]
    for lane in range(2 * n_pairs):
        lane_offset[lane] = total[lane] / max(1, n_total)
    # Tiles that stay in the cache: read along channels, written along time.
    tile = np.zeros((GATHER_SAMPLES, 2 * PAIRS), dtype=np.float32)
    picked = np.zeros(2 * PAIRS, dtype=raw.dtype)
    for start in range(begin, end, GATHER_SAMPLES):
        n = min(GATHER_SAMPLES, end - start)
        for k in range(n):
            lanes, weight = tile[k], fade[start + k]
            if consecutive:
                counts = raw[first + start + k, lane_column[0] : lane_column[0] + 2 * PAIRS]
            else:
                for lane in range(2 * PAIRS):
                    picked[lane] = raw[first + start + k, lane_column[lane]]
                counts = picked
            for lane in range(2 * PAIRS):
                value = np.float32(counts[lane]) - lane_offset[lane]
                lanes[lane] = value * (lane_gain[lane] * weight)
        whole = n - n % 8
        whole_pairs = n_pairs - n_pairs % 8
        for pair in range(0, whole_pairs, 8):
            for k in range(0, whole, 8):
                source = tile.ctypes.data + (k * PAIRS + pair) * 8
                target = out.ctypes.data + (pair * n_fft + start + k) * 8
                _transpose_64(source, target, PAIRS * 8, n_fft * 8)
        for pair in range(n_pairs):
            for k in range(whole if pair < whole_pairs else 0, n):
                out[pair, start + k] = complex(tile[k, 2 * pair], tile[k, 2 * pair + 1])
    for pair in range(order.shape[0]):
        out[pair, :begin] = 0
        out[pair, end:] = 0
        target = out[pair].view(np.float32)
        for part in range(2):
            row = order[pair, part]
            if row < 0:
                continue
            column, gain, offset = columns[row], gains[row], lane_offset[2 * pair + part]
            reach = min(extensions[row], n_raw - 1)
            if at_start:
                edge = np.float32(raw[0, column])
                for k in range(begin):
                    back = np.float32(raw[min(begin - k, reach), column])
                    target[2 * k + part] = (2 * edge - back - offset) * gain * fade[k]
            if at_end:
                edge = np.float32(raw[n_raw - 1, column])
                for k in range(end, n_fft):
                    back = np.float32(raw[n_raw - 1 - min(k - end + 1, reach), column])
                    target[2 * k + part] = (2 * edge - back - offset) * gain * fade[k]


@numba.njit(nogil=True, cache=True)
def _multiply(values, responses, kind_of):
    """values[p] *= responses[kind_of[p]], complex64."""
    for pair in range(values.shape[0]):
        one = values[pair].view(np.float32)
        other = responses[kind_of[pair]].view(np.float32)
        for k in range(values.shape[1]):
            real, imaginary = one[2 * k], one[2 * k + 1]
            one[2 * k] = real * other[2 * k] - imaginary * other[2 * k + 1]
            one[2 * k + 1] = real * other[2 * k + 1] + imaginary * other[2 * k]


@numba.njit(nogil=True, cache=True)
def _scatter(values, skip, order, traces, start, n):
    """The pairs' real and imaginary parts from sample ``skip`` on, to their rows of the traces."""
    for pair in range(order.shape[0]):
        source = values[pair].view(np.float32)
        for part in range(2):
            if order[pair, part] >= 0:
                target = traces[order[pair, part], start : start + n]
                for k in range(n):
                    target[k] = source[2 * (skip + k) + part]


def filter_chunk(
    raw: np.ndarray,
    left: int,
    right: int,
    plan: FilterPlan,
    pool: Executor | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """µV of a chunk, high-passed and with all channels moved to one moment: (channels, n) float32.

    raw: (left + n + right, columns) int16 or float32 counts: the chunk and its margins. left, right: samples
    of margin, ``plan.margin`` each; fewer say that the recording starts or ends where raw does.

    The filter (Butterworth of order 5, forward and backward) and the shift are one multiplication in the
    frequency domain, of two channels at a time. The reference is SpikeInterface's highpass_filter and
    phase_shift of the whole recording in one piece. What sosfiltfilt does at the recording's ends, and that
    phase_shift sees zeros beyond them, is added there. The two then differ by float32 rounding, and by
    what lies outside the block: a shift by part of a sample weighs what is at half the sampling rate with
    1/distance. For noise of 10 µV that a probe's amplifier has limited to 10 kHz that is below 0.005 µV
    rms and 0.05 µV at any sample, wherever chunks lie; for noise that reaches half the sampling rate
    undiminished 0.05 µV rms and 0.5 µV at a chunk's border, as between SpikeInterface's own chunks.

    Channels with notches go through the notches' sections together with the high-pass filter's, and need
    wider margins. The reference then is SpikeInterface's filter with the sections of ``sections``.

    Recordings of any length from one sample on. Memory: raw, the result, and 8 MB per thread.
    """
    margin = plan.margin
    n = len(raw) - left - right
    if n < 1 or left < 0 or right < 0 or left > margin or right > margin:
        raise ValueError(
            f"{len(raw)} samples with margins of {left} and {right}: "
            f"expected margins up to {margin} and a chunk between"
        )
    if raw.shape[1] <= plan.columns.max():
        raise ValueError(f"samples of {raw.shape[1]} columns, expected more than {plan.columns.max()}")
    at_start, at_end = left < margin, right < margin
    traces = _result(out, (len(plan.columns), n))
    groups = [
        rows[k : k + EDGE_ROWS]
        for rows in (np.flatnonzero(plan.filters == f) for f in range(len(plan.notches)))
        for k in range(0, len(rows), EDGE_ROWS)
    ]
    if at_start and at_end and len(raw) <= 4 * margin:
        _each(pool, lambda rows: _filter_whole(raw, left, plan, rows, traces), groups)
        return traces
    _filter_blocks(raw, left, plan, at_start, at_end, traces, pool)
    if at_start:
        _each(pool, lambda rows: _add_start(raw, left, plan, rows, traces), groups)
    if at_end:
        _each(pool, lambda rows: _add_end(raw, right, plan, rows, traces), groups)
    return traces


_of_thread = threading.local()


def _scratch(n_fft: int) -> np.ndarray:
    """(PAIRS, n_fft) complex64 of this thread: fresh memory costs as much as a tenth of the transforms."""
    values = getattr(_of_thread, "values", None)
    if values is None or values.shape[1] != n_fft:
        values = _of_thread.values = np.empty((PAIRS, n_fft), dtype=np.complex64)
    return values


def _filter_blocks(raw, left, plan, at_start, at_end, traces, pool) -> None:
    """filter_chunk within the recording: overlapping blocks of FFT_SAMPLES, PAIRS pairs at a time.

    What is shorter takes the smallest power of two that holds it.
    """
    from scipy import fft

    margin, n = plan.margin, traces.shape[1]
    n_fft = 2 ** int(np.ceil(np.log2(max(4 * margin, min(n + 2 * margin, FFT_SAMPLES)))))
    per_block = n_fft - 2 * margin
    factors = responses(plan.sampling_rate_hz, plan.highpass_hz, plan.notches, plan.kinds, n_fft)
    extensions = np.array([edge_extension(plan.sections(k)) for k in range(len(plan.notches))])[plan.filters]

    def task(item: tuple[int, int]) -> None:
        start, pair = item
        n_out = min(per_block, n - start)
        order = plan.order[pair : pair + PAIRS]
        values = _scratch(n_fft)[: len(order)]
        weights = fade(margin, n_out + 2 * margin, n_fft)
        first = left + start - margin
        _gather(raw, first, at_start, at_end, plan.columns, plan.gains_uv, extensions, order, weights, values)
        values = fft.fft(values, axis=1, overwrite_x=True, workers=1)
        _multiply(values, factors, plan.kind_of[pair : pair + PAIRS])
        values = fft.ifft(values, axis=1, overwrite_x=True, workers=1)
        _scatter(values, margin, order, traces, start, n_out)

    _each(
        pool,
        task,
        [(start, pair) for start in range(0, n, per_block) for pair in range(0, len(plan.order), PAIRS)],
    )


def _shifted(values: np.ndarray, shifts: np.ndarray, n_zeros: int) -> np.ndarray:
    """values, (samples, rows) float64, with zeros before and after, delayed by each row's shift."""
    from scipy import fft

    n_fft = fft.next_fast_len(len(values) + n_zeros, real=True)
    spectrum = fft.rfft(values, n=n_fft, axis=0)
    frequency = np.arange(n_fft // 2 + 1) / n_fft
    spectrum *= np.exp(-2j * np.pi * frequency[:, None] * shifts)
    return fft.irfft(spectrum, n=n_fft, axis=0)[: len(values)]


def _filter_whole(raw, skip, plan, rows, traces) -> None:
    """SpikeInterface's own steps in float64, for rows of one filter, of a recording that raw holds whole."""
    from scipy.signal import sosfiltfilt

    values = raw[:, plan.columns[rows]].astype(np.float32) * plan.gains_uv[rows]
    sos = plan.sections(plan.filters[rows[0]])
    filtered = sosfiltfilt(sos, values, axis=0, padlen=min(edge_extension(sos), len(values) - 1))
    shifted = _shifted(filtered, plan.shifts[rows], 2 * int(MARGIN_MS * plan.sampling_rate_hz / 1000))
    traces[rows] = shifted[skip : skip + traces.shape[1]].T


def _add_start(raw, left, plan, rows, traces) -> None:
    """Make the traces near the recording's first sample what the reference's are.

    sosfiltfilt's start is that of data that went on before as _gather continues them. But the reference's
    shift sees zeros before the first sample, ours the backward filter's response there: that is taken off.
    """
    from scipy.signal import sosfiltfilt

    margin, before = plan.margin, plan.margin // 2
    values = raw[:margin, plan.columns[rows]].astype(np.float64) * plan.gains_uv[rows]
    sos = plan.sections(plan.filters[rows[0]])
    mirrored = 2 * values[0] - values[np.minimum(np.arange(before, 0, -1), edge_extension(sos))]
    filtered = sosfiltfilt(sos, np.concatenate([mirrored, values]), axis=0)
    n = min(traces.shape[1], 4 * margin)
    difference = np.zeros((before + left + n, len(rows)))
    difference[:before] = -filtered[:before]
    traces[rows, :n] += _shifted(difference, plan.shifts[rows], margin)[before + left :].T


def _add_end(raw, right, plan, rows, traces) -> None:
    """Make the traces near the recording's last sample what the reference's are.

    There sosfiltfilt starts the backward filter anew, and the reference's shift sees zeros beyond.
    """
    from scipy.signal import sosfiltfilt

    margin, beyond = plan.margin, plan.margin // 2
    values = raw[-margin:, plan.columns[rows]].astype(np.float64) * plan.gains_uv[rows]
    sos = plan.sections(plan.filters[rows[0]])
    mirrored = 2 * values[-1] - values[-1 - np.minimum(np.arange(1, beyond + 1), edge_extension(sos))]
    n = min(traces.shape[1], 4 * margin)
    inside = max(margin, right + n)
    difference = np.zeros((inside + beyond, len(rows)))
    difference[inside - margin :] = -sosfiltfilt(sos, np.concatenate([values, mirrored]), axis=0)
    difference[inside - margin : inside] += sosfiltfilt(sos, values, axis=0)
    shifted = _shifted(difference, plan.shifts[rows], margin)
    traces[rows, -n:] += shifted[inside - right - n : inside - right].T


def interpolate(
    traces: np.ndarray,
    good: np.ndarray,
    noisy: np.ndarray,
    weights: np.ndarray,
    pool: Executor | None = None,
) -> np.ndarray:
    """Replace noisy channels by weighted sums of good ones, in place; returns ``traces``.

    traces: (channels, samples) float32. good, noisy: rows. weights: (good, noisy), as from SpikeInterface's
    get_kriging_channel_weights. Sums are float64, so values equal SpikeInterface's interpolate_bad_channels
    but for the last bit of float32.
    """
    good, noisy = np.asarray(good, dtype=np.int64), np.asarray(noisy, dtype=np.int64)
    if weights.shape != (len(good), len(noisy)):
        raise ValueError(f"weights of shape {weights.shape}, expected {(len(good), len(noisy))}")
    if np.intersect1d(good, noisy).size:
        raise ValueError("a channel is both good and noisy")
    sources = [good[weights[:, k] != 0] for k in range(len(noisy))]
    used = [np.ascontiguousarray(weights[weights[:, k] != 0, k], dtype=np.float64) for k in range(len(noisy))]
    _each(pool, lambda k: _weighted_sum(traces, sources[k], used[k], noisy[k]), range(len(noisy)))
    return traces


@numba.njit(nogil=True, cache=True)
def _weighted_sum(traces, sources, weights, row):
    total = np.empty(TILE)
    for start in range(0, traces.shape[1], TILE):
        n = min(TILE, traces.shape[1] - start)
        total[:n] = 0
        for k in range(len(sources)):
            source, weight = traces[sources[k], start : start + n], weights[k]
            for t in range(n):
                total[t] += weight * source[t]
        for t in range(n):
            traces[row, start + t] = total[t]


# SpikeInterface's highpass_spatial_filter with its default settings.
AGC_WINDOW_S = 0.1
AGC_EPSILON = 0.003
SPATIAL_ORDER = 3
SPATIAL_CUTOFF = 0.01
# sosfiltfilt's own extension for three poles, in channels.
SPATIAL_EXTENSION = 12
AGC_ROWS = 16
SPATIAL_SAMPLES = 64


def destripe_margin(sampling_rate_hz: float) -> int:
    """Samples that ``destripe`` wants on either side of a chunk: half the window of its gain control."""
    return int(np.round(AGC_WINDOW_S * sampling_rate_hz / 2) * 2 + 1) // 2


def destripe(
    traces: np.ndarray,
    left: int,
    right: int,
    sampling_rate_hz: float,
    depth_order: np.ndarray,
    rms_uv: np.ndarray,
    n_pad: int,
    pool: Executor | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """High-pass along the shank: subtract what varies slowly with depth; (channels, n) float32.

    traces: (channels, left + n + right) float32 of one shank, with ``destripe_margin`` samples on either
    side, or fewer where the recording ends. depth_order: rows from the deepest contact up. rms_uv:
    (channels,) of the rows. n_pad: channels mirrored at each end, at most as many as there are.

    As SpikeInterface's highpass_spatial_filter: each channel is divided by its mean amplitude within 0.1 s
    (Hann window), a Butterworth filter of order 3 runs over the channels forward and backward, and the
    amplitude is multiplied back. Sums are float64, running ones for the window, so that results differ by
    the rounding of float32 (1e-6 of the largest amplitude). SpikeInterface takes the floor of the k-th
    channel in depth from the k-th row, here it is the channel's own; it matters only to silent channels.
    """
    from scipy.signal import butter, sosfilt_zi

    n_channels, n_samples = traces.shape
    n = n_samples - left - right
    if n < 1 or left < 0 or right < 0 or traces.dtype != np.float32:
        raise ValueError(f"{n_samples} samples of {traces.dtype} with margins of {left} and {right}")
    if not 0 <= n_pad <= n_channels or n_channels + 2 * n_pad <= SPATIAL_EXTENSION:
        raise ValueError(f"cannot destripe {n_channels} channels with {n_pad} mirrored at each end")
    half = destripe_margin(sampling_rate_hz)
    out = _result(out, (n_channels, n))
    floors = (AGC_EPSILON * np.asarray(rms_uv, dtype=np.float64)).astype(np.float32)

    def level(first: int) -> None:
        rows = slice(first, first + AGC_ROWS)
        _level(traces[rows], left, half, out[rows])

    _each(pool, level, range(0, n_channels, AGC_ROWS))
    sos = butter(SPATIAL_ORDER, SPATIAL_CUTOFF, btype="highpass", output="sos")
    state = sosfilt_zi(sos)
    depth_order = np.asarray(depth_order, dtype=np.int64)
    inside = np.concatenate([depth_order[:n_pad][::-1], depth_order, depth_order[n_channels - n_pad :][::-1]])

    def spread(start: int) -> None:
        stop = min(start + 16 * SPATIAL_SAMPLES, n)
        _along_depth(traces, left, floors, out, start, stop, inside, n_pad, sos, state)

    _each(pool, spread, range(0, n, 16 * SPATIAL_SAMPLES))
    return out


_double = ir.DoubleType()
_int64 = ir.IntType(64)
_doubles = ir.VectorType(_double, AGC_ROWS)


def _splat(builder, number):
    """The number in each lane."""
    one = builder.insert_element(ir.Constant(_doubles, None), number, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), AGC_ROWS), None)
    return builder.shuffle_vector(one, ir.Constant(_doubles, None), mask)


def _lanes_at(builder, address, k):
    """Pointer to the k-th vector after the address."""
    return builder.gep(builder.inttoptr(address, _doubles.as_pointer()), [k])


def _times(builder, one, other):
    return builder.fmul(one, other, flags=("contract",))


def _plus(builder, one, other):
    return builder.fadd(one, other, flags=("contract",))


def _minus(builder, one, other):
    return builder.fsub(one, other, flags=("contract",))


@intrinsic
def _turning_sums(typingctx, change, level, n, state, turn_real, turn_imag):
    """_level's recursion over n samples of AGC_ROWS rows; sums are kept in registers.

    change, level: addresses of (n, AGC_ROWS) float64. state: of (3, AGC_ROWS) sums, plain, real, imaginary.
    """

    def codegen(context, builder, _signature, arguments):
        change, level, n, state, turn_real, turn_imag = arguments
        turn_real, turn_imag = _splat(builder, turn_real), _splat(builder, turn_imag)
        kept = [_lanes_at(builder, state, ir.Constant(_int64, k)) for k in range(3)]
        sums = [cgutils.alloca_once(builder, _doubles) for _ in range(3)]
        for pointer, source in zip(sums, kept, strict=True):
            builder.store(builder.load(source, align=8), pointer)
        with cgutils.for_range(builder, n) as loop:
            plain, real, imag = (builder.load(pointer) for pointer in sums)
            difference = builder.load(_lanes_at(builder, change, loop.index), align=8)
            builder.store(_plus(builder, plain, real), _lanes_at(builder, level, loop.index), align=8)
            turned = _minus(builder, real, difference)
            builder.store(_plus(builder, plain, difference), sums[0])
            cross = _times(builder, turn_imag, imag)
            builder.store(_minus(builder, _times(builder, turn_real, turned), cross), sums[1])
            cross = _times(builder, turn_real, imag)
            builder.store(_plus(builder, _times(builder, turn_imag, turned), cross), sums[2])
        for pointer, target in zip(sums, kept, strict=True):
            builder.store(builder.load(pointer), target, align=8)
        return context.get_dummy_value()

    integers = types.intp, types.intp, types.intp, types.intp
    return types.void(*integers, types.float64, types.float64), codegen


@intrinsic
def _sections(typingctx, line, n_rows, row_bytes, sos, state):
    """Two second-order sections along n_rows rows of 2 AGC_ROWS samples, in place, in registers.

    line: address of the first row; row_bytes: to the next, negative for backward. sos: address of (2, 6)
    float64. state: address of (2, 2), the sections' state for a constant 1, which the first row multiplies.
    """

    def codegen(context, builder, _signature, arguments):
        line, n_rows, row_bytes, sos, state = arguments

        def number(address, k):
            pointer = builder.gep(builder.inttoptr(address, _double.as_pointer()), [ir.Constant(_int64, k)])
            return _splat(builder, builder.load(pointer, align=8))

        factors = [[number(sos, 6 * section + k) for k in (0, 1, 2, 4, 5)] for section in range(2)]
        memory = {}
        for part in range(2):
            first = builder.load(_lanes_at(builder, line, ir.Constant(_int64, part)), align=8)
            for k in range(4):
                memory[part, k] = cgutils.alloca_once(builder, _doubles)
                builder.store(_times(builder, number(state, k), first), memory[part, k])
        with cgutils.for_range(builder, n_rows) as loop:
            row = builder.add(line, builder.mul(loop.index, row_bytes))
            for part in range(2):
                at = _lanes_at(builder, row, ir.Constant(_int64, part))
                value = builder.load(at, align=8)
                for section in range(2):
                    b0, b1, b2, a1, a2 = factors[section]
                    near, far = memory[part, 2 * section], memory[part, 2 * section + 1]
                    result = _plus(builder, _times(builder, b0, value), builder.load(near))
                    passed = _plus(builder, _times(builder, b1, value), builder.load(far))
                    builder.store(_minus(builder, passed, _times(builder, a1, result)), near)
                    passed = _times(builder, b2, value)
                    builder.store(_minus(builder, passed, _times(builder, a2, result)), far)
                    value = result
                builder.store(value, at, align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), codegen


@numba.njit(nogil=True, cache=True)
def _level(traces, left, half, gains):
    """gains: mean of |traces| under a Hann window of 2 half + 1 samples, by row, from sample ``left`` on.

    The window is (1 + cos(pi j / half)) / (2 half): a plain running sum and one of a turning phasor, whose
    turn over the whole window is exactly one, so that samples enter and leave with the same sign.
    """
    n_rows, n_samples = traces.shape
    n = gains.shape[1]
    turn_real, turn_imag = np.cos(np.pi / half), np.sin(np.pi / half)
    state = np.zeros((3, AGC_ROWS))
    change = np.zeros((TILE, AGC_ROWS))
    level = np.zeros((TILE, AGC_ROWS))
    by_row = np.zeros((AGC_ROWS, TILE))
    scale, zero = 1 / (2 * half), np.float32(0)
    # At step t the sums hold the samples t - half .. t + half - 1; they start before any sample is in.
    for tile in range(-half, left + n, TILE):
        stop = min(tile + TILE, left + n)
        for row in range(n_rows):
            source = traces[row]
            amplitude = by_row[row]
            amplitude[:] = 0
            entering = source[tile + half : max(tile, min(stop, n_samples - half)) + half]
            for k in range(len(entering)):
                amplitude[k] = abs(entering[k])
            begin = min(max(tile, half), stop)
            leaving, inside = source[max(begin - half, 0) : max(stop - half, 0)], amplitude[begin - tile :]
            for k in range(len(leaving)):
                inside[k] -= abs(leaving[k])
        for row in range(0, AGC_ROWS, 8):
            for t in range(0, TILE, 8):
                source = by_row.ctypes.data + (row * TILE + t) * 8
                _transpose_64(source, change.ctypes.data + (t * AGC_ROWS + row) * 8, TILE * 8, AGC_ROWS * 8)
        _turning_sums(
            change.ctypes.data, level.ctypes.data, stop - tile, state.ctypes.data, turn_real, turn_imag
        )
        for row in range(0, AGC_ROWS, 8):
            for t in range(0, TILE, 8):
                source = level.ctypes.data + (t * AGC_ROWS + row) * 8
                _transpose_64(source, by_row.ctypes.data + (row * TILE + t) * 8, AGC_ROWS * 8, TILE * 8)
        for row in range(n_rows):
            begin = max(tile, left)
            gain, mean = gains[row, begin - left : stop - left], by_row[row, begin - tile : stop - tile]
            for k in range(stop - begin):
                gain[k] = max(np.float32(mean[k] * scale), zero)


@numba.njit(nogil=True, cache=True)
def _along_depth(traces, left, floors, gains, start, stop, inside, n_pad, sos, state):
    """gains *= sosfiltfilt of traces / max(gain, floor) over the rows in the order ``inside``, start..stop.

    Sample 0 of gains is sample ``left`` of traces.
    """
    zero = np.float32(0)
    n_inside = len(inside)
    n_rows = n_inside + 2 * SPATIAL_EXTENSION
    line = np.empty((n_rows, SPATIAL_SAMPLES))
    for first in range(start, stop, SPATIAL_SAMPLES):
        n = min(SPATIAL_SAMPLES, stop - first)
        if n < SPATIAL_SAMPLES:
            line[:] = 0
        for k in range(n_inside):
            row, source = line[SPATIAL_EXTENSION + k], traces[inside[k], left + first : left + first + n]
            gain, floor = gains[inside[k], first : first + n], floors[inside[k]]
            for t in range(n):
                divisor = max(gain[t], floor)
                row[t] = source[t] / divisor if divisor > zero else zero
        head, tail = SPATIAL_EXTENSION, SPATIAL_EXTENSION + n_inside - 1
        for k in range(1, SPATIAL_EXTENSION + 1):
            for t in range(n):
                line[head - k, t] = 2 * line[head, t] - line[head + k, t]
                line[tail + k, t] = 2 * line[tail, t] - line[tail - k, t]
        for part in range(0, SPATIAL_SAMPLES, 2 * AGC_ROWS):
            begin, step = line.ctypes.data + part * 8, SPATIAL_SAMPLES * 8
            _sections(begin, n_rows, step, sos.ctypes.data, state.ctypes.data)
            _sections(begin + (n_rows - 1) * step, n_rows, -step, sos.ctypes.data, state.ctypes.data)
        for k in range(n_inside - 2 * n_pad):
            gain, result = gains[inside[n_pad + k], first : first + n], line[head + n_pad + k]
            for t in range(n):
                gain[t] *= result[t]


def quantise(
    traces: np.ndarray,
    gain_uv: float,
    out: np.ndarray,
    first_column: int = 0,
    pool: Executor | None = None,
) -> int:
    """Round to counts of gain_uv into ``out``; returns how many values were beyond the range and clipped.

    traces: (channels, samples) float32. out: (samples, columns) int16; the channels go to the columns from
    first_column on. Values are rint(traces / float32(gain_uv)) within -32767..32767.
    """
    n_channels, n_samples = traces.shape
    if not out.flags.c_contiguous:
        raise ValueError("the counts must be contiguous")
    if out.dtype != np.int16 or len(out) != n_samples or out.shape[1] < first_column + n_channels:
        raise ValueError(f"cannot write traces of shape {traces.shape} to {out.shape} {out.dtype}")

    def task(start: int) -> int:
        stop = min(start + QUANTISE_SAMPLES, n_samples)
        return _quantise(traces, start, stop, np.float32(gain_uv), out, first_column)

    return sum(_each(pool, task, range(0, n_samples, QUANTISE_SAMPLES)))


@numba.njit(nogil=True, cache=True)
def _quantise(traces, start, stop, gain_uv, out, first_column):
    n_channels = traces.shape[0]
    limit = np.float32(INT16_MAX)
    n_clipped = 0
    n_columns = out.shape[1]
    # Tiles that stay in the cache: read along time, written along channels.
    tile = np.zeros((QUANTISE_TILE[1], QUANTISE_TILE[0]), dtype=np.int16)
    for first in range(start, stop, QUANTISE_TILE[0]):
        n = min(QUANTISE_TILE[0], stop - first)
        for channel in range(0, n_channels, QUANTISE_TILE[1]):
            n_rows = min(QUANTISE_TILE[1], n_channels - channel)
            for row in range(n_rows):
                source, target = traces[channel + row, first : first + n], tile[row]
                beyond = np.int32(0)
                for t in range(n):
                    value = np.rint(source[t] / gain_uv)
                    inside = min(max(value, -limit), limit)
                    beyond += np.int32(inside != value)
                    target[t] = np.int16(np.int32(inside))
                n_clipped += beyond
            whole, whole_rows = n - n % 16, n_rows - n_rows % 16
            column = first_column + channel
            for t in range(0, whole, 16):
                for row in range(0, whole_rows, 16):
                    source = tile.ctypes.data + (row * QUANTISE_TILE[0] + t) * 2
                    target = out.ctypes.data + ((first + t) * n_columns + column + row) * 2
                    _transpose_16(source, target, QUANTISE_TILE[0] * 2, n_columns * 2)
            for row in range(n_rows):
                for t in range(whole if row < whole_rows else 0, n):
                    out[first + t, column + row] = tile[row, t]
    return n_clipped
