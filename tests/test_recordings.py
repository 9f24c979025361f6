"""Preprocessed recordings: the right columns, gains, identities; files that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pytest
from powerpixels.documents import PreprocessedUnit
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from used_channels import USED, used_channels

RATE = 30000.0


def _unit(folder, channels, counts) -> None:
    PreprocessedUnit(
        probe="probe00",
        unit="shank0",
        sampling_rate_hz=RATE,
        n_samples=len(counts),
        gain_uv=0.25,
        channels=channels,
    ).save(folder / "recording.json")
    counts.tofile(folder / "traces.bin")


def test_preprocessed_unit_is_its_binary(tmp_path):
    counts = np.random.default_rng(2).integers(-9000, 9000, (500, 3)).astype("<i2")
    _unit(tmp_path, used_channels(), counts)
    recording = load_preprocessed(tmp_path)
    assert np.array_equal(recording.get_traces(), counts)
    assert np.allclose(recording.get_traces(return_in_uV=True), counts * 0.25)
    assert recording.get_property("raw_column").tolist() == USED
    assert recording.get_property("contact_id").tolist() == ["s0e4", "s0e0", "s0e2"]
    assert recording.is_filtered()
    # what a sorter needs to read traces.bin itself
    assert recording.binary_compatible_with(dtype="int16", time_axis=0, file_paths_length=1, file_offset=0)
    assert recording.get_binary_description()["file_paths"] == [str(tmp_path / "traces.bin")]


def test_preprocessed_unit_cut_short_is_refused(tmp_path):
    _unit(tmp_path, used_channels(), np.zeros((500, 3), "<i2"))
    with open(tmp_path / "traces.bin", "r+b") as handle:
        handle.truncate(100)
    with pytest.raises(DataError, match="expected 3000 bytes.*found 100"):
        load_preprocessed(tmp_path)


def test_preprocessed_unit_without_channels_is_refused(tmp_path):
    _unit(tmp_path, [], np.zeros((0, 0), "<i2"))
    with pytest.raises(DataError, match="no usable channels"):
        load_preprocessed(tmp_path)
