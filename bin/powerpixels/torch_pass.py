"""The preprocessing pass with its arithmetic on a GPU, or any other device of torch.

The plan is FastPass's own: decisions, filters, neighbours and chunks; so are its reading, muting, rounding
and writing. Only what ``kernels`` and ``medians`` do to a chunk's µV is done by torch here. Chunks at a
block's ends, where SpikeInterface's edge effects are added, stay on the CPU: two of some 4000 in an hour.

Values differ from FastPass's by the rounding of float32, so counts by one, seldom.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt

from powerpixels.artifacts import Muting
from powerpixels.documents import Block
from powerpixels.fast_pass import FastPass, ShankPass, UnitFile
from powerpixels.kernels import (
    AGC_EPSILON,
    FFT_SAMPLES,
    SPATIAL_CUTOFF,
    SPATIAL_ORDER,
    destripe_margin,
    fade,
    responses,
)
from powerpixels.rawdata import StreamReader
from powerpixels.stage import TemporaryError

DEVICE = "cuda"
# Values that a sort of neighbours holds at a time: 64 MB of float32, twice that again for the sorted ones.
SORT_VALUES = 2**24
# Chunks on the device at a time: one computes while another is copied. Each holds some hundred MB there.
CHUNKS = 2


class TorchPass(FastPass):
    """As FastPass, on DEVICE. Raises TemporaryError where torch does not see it."""

    def __init__(
        self,
        blocks: Sequence[tuple[StreamReader, Block]],
        units: Sequence[UnitFile],
        highpass_hz: float,
        gain_uv: float,
        muting: Muting | None = None,
    ):
        """See FastPass."""
        super().__init__(blocks, units, highpass_hz, gain_uv, muting)
        if DEVICE == "cuda" and not torch.cuda.is_available():
            raise TemporaryError("a GPU (CUDA) was asked for, and torch sees none on this machine")
        self._device = torch.device(DEVICE)
        self._room = threading.Semaphore(CHUNKS)
        if self._plan is None:
            return
        plan = self._plan
        two_sided = responses(plan.sampling_rate_hz, plan.highpass_hz, plan.notches, plan.kinds, FFT_SAMPLES)
        kind = np.empty(len(plan.columns), dtype=np.int64)
        for pair, own in zip(plan.order, plan.kind_of, strict=True):
            kind[pair[pair >= 0]] = own
        self._columns = self._tensor(plan.columns)
        self._gains = self._tensor(plan.gains_uv)[:, None]
        self._responses = self._tensor(two_sided[:, : FFT_SAMPLES // 2 + 1])
        self._kind = self._tensor(kind)
        self._interpolations = [
            (rows, self._tensor(shank.noisy), self._interpolation(shank))
            for rows, shank in self._shanks
            if shank.noisy.size
        ]
        self._destripes = [
            (rows, self._along_depth(shank), self._tensor(_floors(shank.levels_uv)))
            for rows, shank in self._shanks
            if shank.method == "destripe"
        ]
        self._medians = [tuple(map(self._tensor, group)) for group in _by_size(self._neighbours)]
        self._window = self._tensor(_window_spectrum(self._rate))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), device=self._device)

    def _interpolation(self, shank: ShankPass) -> torch.Tensor:
        """(noisy, channels) float64 weights of all channels, 0 for noisy ones."""
        weights = np.zeros((len(shank.noisy), len(shank.columns)))
        weights[:, np.setdiff1d(np.arange(len(shank.columns)), shank.noisy)] = shank.weights.T
        return self._tensor(weights)

    def _along_depth(self, shank: ShankPass) -> torch.Tensor:
        """(channels, channels) float64: destriping's spatial filter, which is linear, and its padding."""
        order, n_pad = np.asarray(shank.depth_order), shank.pad_channels
        inside = np.concatenate([order[:n_pad][::-1], order, order[len(order) - n_pad :][::-1]])
        unit = np.eye(len(order))[inside]
        sos = butter(SPATIAL_ORDER, SPATIAL_CUTOFF, btype="highpass", output="sos")
        matrix = np.empty((len(order), len(order)))
        matrix[order] = sosfiltfilt(sos, unit, axis=0)[n_pad : n_pad + len(order)]
        return self._tensor(matrix)

    def _arithmetic(self, raw: np.ndarray, before: int, after: int, left: int, right: int) -> np.ndarray:
        if min(before, after) < self._plan.margin:
            return super()._arithmetic(raw, before, after, left, right)
        with self._room, torch.inference_mode():
            wide = self._filtered(raw)
            for rows, noisy, weights in self._interpolations:
                traces = wide[rows]
                traces[noisy] = (weights @ traces.double()).float()
            inside = slice(left, len(raw) - before - after - right)
            traces = wide[:, inside].clone()
            for rows, along_depth, floors in self._destripes:
                level = self._level(wide[rows])[:, inside].clamp(min=0)
                divisor = torch.maximum(level, floors)
                scaled = torch.where(divisor > 0, wide[rows, inside] / divisor, 0).double()
                traces[rows] = level * (along_depth @ scaled).float()
            references = [(rows, _medians(traces, neighbours, of)) for rows, neighbours, of in self._medians]
            for rows, reference in references:
                traces[rows] -= reference
            return traces.cpu().numpy()

    def _level(self, wide: torch.Tensor) -> torch.Tensor:
        """Mean amplitude of each channel under destriping's window; right within its reach of the ends."""
        spectrum = torch.fft.rfft(wide.abs().double(), n=FFT_SAMPLES)
        return torch.fft.irfft(spectrum * self._window, n=FFT_SAMPLES)[:, : wide.shape[1]].float()

    def _filtered(self, raw: np.ndarray) -> torch.Tensor:
        """µV of a chunk without its margins: (channels, samples) float32."""
        margin = self._plan.margin
        counts = self._tensor(raw)[:, self._columns].T
        values = counts.float()
        # Any constant would do; a few hundred samples are enough for the mean.
        values -= values[:, ::64].mean(dim=1, keepdim=True).round()
        values *= self._gains * self._tensor(fade(margin, len(raw), FFT_SAMPLES)[: len(raw)])
        spectrum = torch.fft.rfft(values, n=FFT_SAMPLES)
        spectrum *= self._responses[self._kind]
        return torch.fft.irfft(spectrum, n=FFT_SAMPLES)[:, margin : len(raw) - margin].contiguous()


def _floors(levels_uv: np.ndarray) -> np.ndarray:
    """(channels, 1) float32: what a channel's level is not taken below."""
    return (AGC_EPSILON * np.asarray(levels_uv, dtype=np.float64)).astype(np.float32)[:, None]


def _window_spectrum(sampling_rate_hz: float) -> np.ndarray:
    """Spectrum of destriping's window, a Hann window of sum 1 around sample 0."""
    half = destripe_margin(sampling_rate_hz)
    window = np.zeros(FFT_SAMPLES)
    lag = np.arange(-half, half + 1)
    window[lag] = (1 + np.cos(np.pi * lag / half)) / (2 * half)
    return np.fft.rfft(window)


def _by_size(neighbours: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Channels by how many neighbours they have: (channels, sets (n, size), set of each channel)."""
    sizes = neighbours.sum(axis=1)
    groups = []
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        sets, of = np.unique(neighbours[rows], axis=0, return_inverse=True)
        groups.append((rows, np.nonzero(sets)[1].reshape(len(sets), size), of))
    return groups


def _medians(traces: torch.Tensor, sets: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """As numpy's median over each set of channels, sample by sample, for the channels whose sets these are.

    Where the number of channels is even it is the mean of the two in the middle.
    """
    n_sets, size = sets.shape
    medians = torch.empty((n_sets, traces.shape[1]), dtype=traces.dtype, device=traces.device)
    step = max(1, SORT_VALUES // (n_sets * size))
    for start in range(0, traces.shape[1], step):
        ordered = traces[:, start : start + step][sets].sort(dim=1).values
        medians[:, start : start + step] = (ordered[:, (size - 1) // 2] + ordered[:, size // 2]) / 2
    return medians[of]
