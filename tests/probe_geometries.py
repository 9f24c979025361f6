"""Contacts of the probes that the fast kernels are tested and measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """locations_um: (channels, 2). shifts: (channels,) inter_sample_shift. shank: (channels,) int."""

    locations_um: np.ndarray
    shifts: np.ndarray
    shank: np.ndarray


def geometry(part_number: str, n_channels: int = 384) -> Geometry:
    """The contacts nearest the tips, as many on each shank, of a probe in probeinterface's catalogue."""
    from probeinterface.neuropixels_tools import build_neuropixels_probe

    probe = build_neuropixels_probe(part_number)
    shank = np.zeros(probe.get_contact_count(), dtype=int)
    if probe.shank_ids is not None:
        shank = np.unique(probe.shank_ids, return_inverse=True)[1]
    n_shanks = shank.max() + 1
    chosen = np.concatenate([np.flatnonzero(shank == k)[: n_channels // n_shanks] for k in range(n_shanks)])
    # 1.0 probes sample 12 channels of each converter one after the other, in 13 steps; 2.0 probes 16 in 16.
    per_converter, n_steps = (12, 13) if part_number.startswith("NP1") else (16, 16)
    shifts = np.arange(len(chosen)) // 2 % per_converter / n_steps
    return Geometry(probe.contact_positions[chosen], shifts, shank[chosen])


def subset(of: Geometry, n_channels: int, seed: int) -> Geometry:
    """Random channels, in the order of the file."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(of.shank), n_channels, replace=False))
    return Geometry(of.locations_um[chosen], of.shifts[chosen], of.shank[chosen])


def recording_of(traces_uv: np.ndarray, locations_um: np.ndarray, sampling_rate_hz: float = 30_000.0):
    """A SpikeInterface recording of (samples, channels) in µV with contacts at these places."""
    from spikeinterface.core import NumpyRecording

    recording = NumpyRecording([traces_uv], sampling_rate_hz)
    recording.set_dummy_probe_from_locations(locations_um)
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    return recording
