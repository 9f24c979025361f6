"""What PREPROCESS's pass learns of each channel from the counts that it writes: RMS and noise level."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

# The noise level is the median over the chunks that hold one of this many moments, evenly over the output.
NOISE_MOMENTS = 20
# Every so many samples of such a chunk: neighbouring ones tell little more, and a median is slow.
NOISE_STEP = 8
# A normal distribution's standard deviation over its median absolute deviation.
SIGMA_OF_MAD = 1.4826


class ChunkLevels(NamedTuple):
    """Of a chunk. energy: (channels,) int64, sum of squared counts; noise: (channels,) counts, or None."""

    energy: np.ndarray
    noise: np.ndarray | None


def chunk_levels(counts: np.ndarray, first: int, n_total: int) -> ChunkLevels:
    """Levels of a chunk of the output: (samples, channels) int16 that begin at sample ``first`` of n_total.

    noise is there where the chunk holds one of NOISE_MOMENTS: 1.4826 times the median absolute deviation.
    """
    moments = (2 * np.arange(NOISE_MOMENTS) + 1) * n_total // (2 * NOISE_MOMENTS)
    noise = None
    if np.any((moments >= first) & (moments < first + len(counts))):
        sample = counts[::NOISE_STEP].astype(np.float32)
        noise = SIGMA_OF_MAD * np.median(np.abs(sample - np.median(sample, axis=0)), axis=0)
    return ChunkLevels(_energy(counts), noise)


@numba.njit(nogil=True, cache=True)
def _energy(counts):
    energy = np.zeros(counts.shape[1], dtype=np.int64)
    for t in range(counts.shape[0]):
        for channel in range(counts.shape[1]):
            value = np.int32(counts[t, channel])
            energy[channel] += value * value
    return energy


class Levels:
    """Levels of a whole output, chunk by chunk in any order that stays the same."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._energy: np.ndarray | int = 0
        self._noise: list[np.ndarray] = []
        self._n_samples = 0

    def add(self, n_samples: int, chunks: list[ChunkLevels]) -> None:
        """One chunk of the recording: what was written of it to each of the files, in their order."""
        if not chunks:  # no file has a channel
            return
        self._n_samples += n_samples
        self._energy = self._energy + np.concatenate([chunk.energy for chunk in chunks])
        if chunks[0].noise is not None:
            self._noise.append(np.concatenate([chunk.noise for chunk in chunks]))

    def of_channels(self, gain_uv: float) -> tuple[np.ndarray, np.ndarray]:
        """RMS and noise level of each channel of all files, in order: (channels,) float64 µV each.

        RMS of all samples, muted ones (zero) included. NaN where nothing was written.
        """
        if not self._n_samples:
            return np.empty(0), np.empty(0)
        rms = np.sqrt(self._energy / self._n_samples)
        noise = np.median(self._noise, axis=0) if self._noise else np.full(len(rms), np.nan)
        return gain_uv * rms, gain_uv * noise
