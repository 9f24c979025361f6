"""Preprocessed traces as SpikeInterface recordings, built from the documents that describe them.

A column of a recording is never identified by its position: every recording from here carries the
properties ``raw_column`` and ``contact_id`` of the documents' channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerpixels.documents import Channel, PreprocessedUnit
from powerpixels.stage import DataError

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

BYTES_PER_SAMPLE = 2


def load_preprocessed(unit_folder: Path) -> BaseRecording:
    """A sorting unit's preprocessed recording: int16 counts, memory-mapped.

    Columns are in the order of recording.json's channels. The recording is the binary file itself
    (``binary_compatible_with``), so a sorter reads traces.bin without making a copy.

    Raises DataError where traces.bin is missing or has another size than recording.json says, or
    where the unit has no channels.
    """
    unit_folder = Path(unit_folder)
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    path = unit_folder / "traces.bin"
    n_channels = len(unit.channels)
    if n_channels == 0:
        raise DataError(f"{unit_folder}: {unit.probe} {unit.unit} has no usable channels, nothing to read")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(
            f"{path}: expected traces, found an empty file: 'powerpixels clean' gave them back. Anew:"
            f" 'powerpixels clean RESULTS --forget SUBJECT/SESSION/{unit.probe}', then run with -resume"
        )
    _check_size(
        path, unit.n_samples * n_channels * BYTES_PER_SAMPLE, f"{unit.n_samples} samples of {n_channels}"
    )
    ids = [channel.channel_id for channel in unit.channels]
    recording = _binary(path, unit.sampling_rate_hz, n_channels, ids)
    recording.annotate(is_filtered=True)
    describe_channels(recording, unit.channels, [unit.gain_uv] * n_channels)
    return recording


def _check_size(path: Path, expected: int, content: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: expected a file with {content}, found none; restore it")
    found = path.stat().st_size
    if found != expected:
        raise DataError(
            f"{path}: expected {expected} bytes ({content}), found {found}; the file was cut short or "
            "changed after it was inspected: restore it, or run again so that it is inspected anew"
        )


def _binary(path: Path, sampling_rate_hz: float, n_columns: int, ids: list) -> BaseRecording:
    from spikeinterface.core import BinaryRecordingExtractor

    return BinaryRecordingExtractor(
        path, sampling_frequency=sampling_rate_hz, dtype="<i2", num_channels=n_columns, channel_ids=ids
    )


def describe_channels(
    recording: BaseRecording, channels: Sequence[Channel], gains_uv: Sequence[float]
) -> None:
    """Attach the probe (groups = shanks), the gains and each channel's identity to the recording."""
    import numpy as np
    from probeinterface import Probe

    probe = Probe(ndim=2, si_units="um")
    probe.set_contacts(
        positions=[(channel.x_um, channel.y_um) for channel in channels],
        shapes="square",
        # Probeinterface wants a shape: this is that of the 1.0 and 2.0 probes. Nothing is computed from it.
        shape_params={"width": 12},
        shank_ids=[str(channel.shank) for channel in channels],
        contact_ids=[channel.contact_id for channel in channels],
    )
    probe.set_device_channel_indices(np.arange(len(channels)))
    recording.set_probe(probe, group_mode="by_shank")
    # by_shank numbers the groups from 0; a group here is the shank's own number.
    recording.set_channel_groups(np.array([channel.shank for channel in channels]))
    recording.set_channel_gains(np.array(gains_uv, dtype=float))
    recording.set_channel_offsets(np.zeros(len(channels)))
    recording.set_property("raw_column", np.array([channel.raw_column for channel in channels]))
    recording.set_property("contact_id", np.array([channel.contact_id for channel in channels]))
    recording.set_property(
        "inter_sample_shift", np.array([channel.inter_sample_shift for channel in channels], dtype=float)
    )
