"""Reads a probe's published local field potential (``--lfp``) for analysis with SpikeInterface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from probeinterface import Probe
from spikeinterface.core import BaseRecording, BaseRecordingSegment

from powerpixels.stage import DataError


def load_lfp(session_path: Path | str, probe: str) -> BaseRecording:
    """The LF band of a probe, lazily: ``load_lfp("results/mouse01/2026-03-01/001", "probe00")``.

    int16 counts, µV by get_traces(return_in_uV=True). It is the LF stream of a 1.0 probe and the decimated
    wide band of others, at 2500 Hz in either case and neither filtered nor referenced. Channels are named by
    their contacts; properties raw_column, group (the shank), inter_sample_shift; times are seconds on the
    session's clock, which they say themselves where the recording has gaps. Raises DataError where there is
    no LFP.
    """
    import zarr

    path = Path(session_path) / "alf" / probe / "lfp.zarr"
    if not (path / ".zgroup").is_file():
        raise DataError(
            f"{path}: expected the probe's LFP, found none; run the pipeline with --lfp (a 1.0 probe without "
            "its LF stream has none)"
        )
    group = zarr.open_group(str(path), mode="r")
    recording = _Lfp(group["traces"], group.attrs["sampling_rate_hz"], group["contact_id"][:].tolist())
    recording.set_channel_gains(group["gain_uv"][:])
    recording.set_channel_offsets(0.0)
    geometry = Probe(ndim=2)
    geometry.set_contacts(
        np.column_stack([group["x_um"][:], group["y_um"][:]]),
        shank_ids=group["shank"][:].astype(str),
        contact_ids=group["contact_id"][:],
    )
    geometry.set_device_channel_indices(np.arange(recording.get_num_channels()))
    recording.set_probe(geometry, group_mode="by_shank")
    for name in ("raw_column", "inter_sample_shift"):
        recording.set_property(name, group[name][:])
    recording.set_times(group["timestamps"][:])
    return recording


class _Lfp(BaseRecording):
    """Traces of an open zarr array (samples, channels)."""

    def __init__(self, traces, sampling_rate_hz: float, channel_ids: list[str]):
        super().__init__(sampling_rate_hz, channel_ids, traces.dtype)
        self.add_recording_segment(_LfpSegment(traces, sampling_rate_hz))


class _LfpSegment(BaseRecordingSegment):
    def __init__(self, traces, sampling_rate_hz: float):
        super().__init__(sampling_frequency=sampling_rate_hz)
        self._traces = traces

    def get_num_samples(self) -> int:
        """Samples of the recording."""
        return self._traces.shape[0]

    def get_traces(self, start_frame=None, end_frame=None, channel_indices=None) -> np.ndarray:
        """Counts (samples, channels)."""
        rows = self._traces[slice(start_frame, end_frame)]
        return rows if channel_indices is None else rows[:, channel_indices]
