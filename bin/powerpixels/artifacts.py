"""Saturated samples and large artifacts in raw traces, found chunk by chunk; muting them.

A sample is *saturated* where more than a fifth of the channels are at the converter's limit, an *artifact*
where more than a fifth are beyond ARTIFACT_UV above the high-pass filter's corner or change by JUMP_UV from
the sample before: no neuron does that. Proportion, margin and jump are those of IBL's
``ibldsp.voltage.saturation`` (ibl-neuropixel), which looks for saturation by level and by speed.

What is said of a sample depends on it and the WARM_UP_S before it only, so that chunks may be looked at in
any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numba
import numpy as np
from scipy import signal

PROPORTION = 0.2
# The limit is where amplifiers stand still, within this part of it.
LIMIT_MARGIN = 0.04
# Spikes reach it on a few channels at most. 1.0 probes at gain 500 record up to 1200 µV.
ARTIFACT_UV = 500.0
# 300 µV within a sample at 30 kHz.
JUMP_UV_PER_S = 9e6
# Intervals of one kind that are no further apart are one: artifacts oscillate.
MERGE_S = 0.005
# A mute fades out and in within this.
FADE_S = 0.001
HIGHPASS_HZ = 300.0
HIGHPASS_ORDER = 5
# The filter's response has fallen to 1e-7.
WARM_UP_S = 0.03
# Rows whose squares are summed in float32 before they are added in float64.
BLOCK_ROWS = 64

Kind = Literal["saturation", "artifact"]
# What is muted: nothing, saturated stretches, or these and artifacts.
Mute = Literal["none", "saturation", "artifacts"]


class Interval(NamedTuple):
    """Samples start to stop (excluded) of a stream, and the most channels that were affected at once."""

    start: int
    stop: int
    kind: Kind
    n_channels: int


@dataclass(frozen=True)
class Detector:
    """What ``scan`` needs to know of a stream. columns: of the raw rows, gains_uv: µV per count of each.

    limit_counts: the converter's limit; None where it is not known: then the greatest value is taken for it.
    """

    columns: np.ndarray
    gains_uv: np.ndarray
    sampling_rate_hz: float
    limit_counts: int | None

    @property
    def n_before(self) -> int:
        """Rows before the first sample of interest that ``scan`` wants to have."""
        return round(WARM_UP_S * self.sampling_rate_hz)


@dataclass(frozen=True)
class Scan:
    """What ``scan`` found in n_samples rows.

    level: counts taken for the converter's limit; n_at_level: values that are at it or beyond. at_limit
    (n_channels,) int64: samples of each channel within LIMIT_MARGIN of the level. raw_sum, raw_squares,
    highpassed_squares (n_channels,) float64: sums of counts, counts² and of the high-passed counts².
    """

    n_samples: int
    level: int
    n_at_level: int
    at_limit: np.ndarray
    raw_sum: np.ndarray
    raw_squares: np.ndarray
    highpassed_squares: np.ndarray
    intervals: list[Interval]


def highpass_sos(sampling_rate_hz: float) -> np.ndarray:
    """Sections of the Butterworth high-pass filter: preprocessing's order and corner, run once, forward."""
    return signal.butter(HIGHPASS_ORDER, HIGHPASS_HZ, "highpass", fs=sampling_rate_hz, output="sos")


def scan(rows: np.ndarray, n_before: int, first: int, detector: Detector) -> Scan:
    """Look at rows (samples, columns) int16, C order; the first n_before only settle the filter.

    first: the number in the stream of the sample after them. At the beginning of a block n_before is 0; the
    filter then starts as if the first value had been there for ever.
    """
    n_channels = len(detector.columns)
    level = detector.limit_counts
    if level is None:
        looked_at = rows[n_before:][:, detector.columns]
        level = max(int(looked_at.max()), -int(looked_at.min()), 1)
    gains = detector.gains_uv
    sos = highpass_sos(detector.sampling_rate_hz).astype(np.float32)
    per_row, per_channel, sums, n_at_level = _scan(
        rows,
        n_before,
        np.asarray(detector.columns, dtype=np.int64),
        sos,
        np.float32((1 - LIMIT_MARGIN) * level),
        np.float32(level),
        (ARTIFACT_UV / gains).astype(np.float32),
        (JUMP_UV_PER_S / detector.sampling_rate_hz / gains).astype(np.float32),
    )
    offset = rows[0, detector.columns].astype(np.float64)
    n_samples = len(rows) - n_before
    merge = round(MERGE_S * detector.sampling_rate_hz)
    least = PROPORTION * n_channels
    beyond = np.maximum(per_row[1], per_row[2])
    return Scan(
        n_samples=n_samples,
        level=level,
        n_at_level=n_at_level,
        at_limit=per_channel,
        raw_sum=sums[0] + n_samples * offset,
        raw_squares=sums[1] + 2 * offset * sums[0] + n_samples * offset**2,
        highpassed_squares=sums[2],
        intervals=merge_intervals(
            [*_runs(per_row[0], least, first, "saturation"), *_runs(beyond, least, first, "artifact")], merge
        ),
    )


def _runs(n_channels: np.ndarray, least: float, first: int, kind: Kind) -> list[Interval]:
    """Stretches in which more than ``least`` channels are affected."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], n_channels > least, [False]])))
    return [
        Interval(first + int(start), first + int(stop), kind, int(n_channels[start:stop].max()))
        for start, stop in edges.reshape(-1, 2)
    ]


def merge_intervals(intervals: Iterable[Interval], gap: int) -> list[Interval]:
    """Intervals by start; those of one kind with at most ``gap`` samples between them made one."""
    merged: list[Interval] = []
    last: dict[str, int] = {}
    for interval in sorted(intervals):
        k = last.get(interval.kind)
        if k is not None and interval.start - merged[k].stop <= gap:
            n_channels = max(merged[k].n_channels, interval.n_channels)
            stop = max(merged[k].stop, interval.stop)
            merged[k] = merged[k]._replace(stop=stop, n_channels=n_channels)
        else:
            last[interval.kind] = len(merged)
            merged.append(interval)
    return sorted(merged)


def mute(intervals: Sequence[Interval], start: int, stop: int, sampling_rate_hz: float) -> np.ndarray:
    """Gain of samples start to stop of the stream, float32 (stop - start,), by which to multiply traces.

    0 in the intervals, 1 away from them, and half a cosine within FADE_S on either side. The same for a
    sample whatever the chunk it is in.
    """
    fade = max(1, round(FADE_S * sampling_rate_hz))
    gain = np.ones(stop - start, dtype=np.float32)
    steps = np.arange(1, fade + 1)
    falling = (0.5 + 0.5 * np.cos(np.pi * steps / (fade + 1))).astype(np.float32)
    shape = [falling, falling[::-1]]
    for interval in intervals:
        lo, hi = interval.start - fade, interval.stop + fade
        if hi <= start or lo >= stop:
            continue
        whole = np.concatenate([shape[0], np.zeros(interval.stop - interval.start, np.float32), shape[1]])
        inside = slice(max(lo, start) - start, min(hi, stop) - start)
        np.minimum(gain[inside], whole[max(start - lo, 0) : len(whole) - max(hi - stop, 0)], out=gain[inside])
    return gain


@dataclass(frozen=True)
class Muting:
    """Finds what is to be muted in a chunk of raw samples, by itself: the same whatever the chunk.

    detector: of the stream. kinds: "saturation" or "artifacts" (both; where the detector knows no limit only
    artifacts, which none is needed for).
    """

    detector: Detector
    kinds: Mute

    @property
    def n_before(self) -> int:
        """Rows before a chunk that ``gain`` wants to have."""
        return self.n_after + (self.detector.n_before if self.kinds == "artifacts" else 0)

    @property
    def n_after(self) -> int:
        """Rows behind a chunk that ``gain`` wants to have: what can be merged, and a fade."""
        rate = self.detector.sampling_rate_hz
        return round(MERGE_S * rate) + max(1, round(FADE_S * rate))

    def gain(self, rows: np.ndarray, left: int, right: int) -> tuple[np.ndarray | None, np.ndarray]:
        """What to multiply a chunk's traces by, and the intervals in which that is 0.

        rows: (left + n + right, columns) int16: the chunk with ``n_before`` and ``n_after`` rows around it,
        fewer where its block begins or ends. Returns float32 (n,), as ``mute`` has it (None: all is 1), and
        int64 (intervals, 2), first sample and first behind, counted from the chunk's first, cut off at its
        ends.
        """
        n, rate = len(rows) - left - right, self.detector.sampling_rate_hz
        settling = max(left - self.n_after, 0)
        seen = np.ascontiguousarray(rows[: left + n + min(right, self.n_after)])
        if self.kinds == "artifacts":
            found = scan(seen, settling, settling - left, self.detector).intervals
            if self.detector.limit_counts is None:
                # A chunk's greatest value, which scan takes for the limit, would be each chunk's own.
                found = [interval for interval in found if interval.kind == "artifact"]
        else:
            found = self._saturated(seen[settling:], settling - left)
        plain = [interval._replace(kind="artifact", n_channels=0) for interval in found]
        merged = merge_intervals(plain, round(MERGE_S * rate))
        inside = [(max(i.start, 0), min(i.stop, n)) for i in merged if i.start < n and i.stop > 0]
        spans = np.array(inside, dtype=np.int64).reshape(-1, 2)
        return (mute(merged, 0, n, rate) if merged else None), spans

    def _saturated(self, rows: np.ndarray, first: int) -> list[Interval]:
        detector = self.detector
        columns = np.asarray(detector.columns, dtype=np.int64)
        near = np.int32(np.ceil((1 - LIMIT_MARGIN) * detector.limit_counts))
        return _runs(_count_near(rows, columns, near), PROPORTION * len(columns), first, "saturation")


def joined_intervals(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array of consecutive chunks' intervals, int64 (n, 2), samples of the whole; what touches is one."""
    spans = np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
    if not len(spans):
        return spans
    starts = np.concatenate([[True], spans[1:, 0] != spans[:-1, 1]])
    return np.stack([spans[starts, 0], spans[np.append(starts[1:], True), 1]], axis=1)


def in_intervals(samples: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Whether each sample (n,) lies in one of the intervals, int64 (intervals, 2) ascending: bool (n,)."""
    k = np.searchsorted(intervals[:, 0], samples, side="right") - 1
    return (k >= 0) & (np.asarray(samples) < np.append(intervals[:, 1], 0)[k])


@numba.njit(nogil=True, cache=True)
def _count_near(rows, columns, near):
    """Number of columns, int32 (n_rows,), whose values are ``near`` or more away from 0."""
    counts = np.zeros(rows.shape[0], dtype=np.int32)
    for row in range(rows.shape[0]):
        n = np.int32(0)
        for c in range(len(columns)):
            value = np.int32(rows[row, columns[c]])
            n += np.int32(abs(value) >= near)
        counts[row] = n
    return counts


# Channels are innermost throughout, so that the compiler turns the loops over them into vector instructions.
@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _scan(rows, n_before, columns, sos, near_limit, level, artifact, jump):
    """Channels affected per row, and three sums per channel.

    Per row, (3, n) int32: channels near the limit, beyond ``artifact``, changing by ``jump``. Per channel:
    values near the limit, int64; sums (3, n_channels) of the values, their squares and the high-passed
    values' squares, all of values less the first row's. Last the number of values at ``level``.
    """
    n_rows, n_channels = rows.shape[0], len(columns)
    per_row = np.zeros((3, n_rows - n_before), dtype=np.int32)
    near = np.zeros(n_channels, dtype=np.int64)
    near_block = np.zeros(n_channels, dtype=np.int32)
    sums = np.zeros((3, n_channels))
    block = np.zeros((3, n_channels), dtype=np.float32)
    state = np.zeros((2 * sos.shape[0], n_channels), dtype=np.float32)
    offset = np.empty(n_channels, dtype=np.float32)
    value = np.empty(n_channels, dtype=np.float32)
    before = np.empty(n_channels, dtype=np.float32)
    filtered = np.empty(n_channels, dtype=np.float32)
    n_at_level = 0
    for c in range(n_channels):
        offset[c] = np.float32(rows[0, columns[c]])
        before[c] = offset[c]
    for row in range(n_rows):
        for c in range(n_channels):
            value[c] = np.float32(rows[row, columns[c]])
        for c in range(n_channels):
            filtered[c] = value[c] - offset[c]
        for k in range(sos.shape[0]):
            b0, b1, b2, a1, a2 = sos[k, 0], sos[k, 1], sos[k, 2], sos[k, 4], sos[k, 5]
            first, second = state[2 * k], state[2 * k + 1]
            for c in range(n_channels):
                x = filtered[c]
                y = b0 * x + first[c]
                first[c] = b1 * x - a1 * y + second[c]
                second[c] = b2 * x - a2 * y
                filtered[c] = y
        at = row - n_before
        if at >= 0:
            n_near, n_beyond, n_jump, n_at = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
            for c in range(n_channels):
                is_near = np.int32(abs(value[c]) >= near_limit)
                near_block[c] += is_near
                n_near += is_near
                n_at += np.int32(abs(value[c]) >= level)
                n_beyond += np.int32(abs(filtered[c]) > artifact[c])
                n_jump += np.int32(abs(value[c] - before[c]) >= jump[c])
            per_row[0, at], per_row[1, at], per_row[2, at] = n_near, n_beyond, n_jump
            n_at_level += n_at
            for c in range(n_channels):
                x = value[c] - offset[c]
                block[0, c] += x
                block[1, c] += x * x
                block[2, c] += filtered[c] * filtered[c]
        if (row + 1) % BLOCK_ROWS == 0 or row + 1 == n_rows:
            for c in range(n_channels):
                near[c] += near_block[c]
                near_block[c] = 0
            for k in range(3):
                for c in range(n_channels):
                    sums[k, c] += block[k, c]
                    block[k, c] = 0
        for c in range(n_channels):
            before[c] = value[c]
    return per_row, near, sums, n_at_level
