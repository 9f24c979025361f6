"""Recordings from documents: the right columns, gains, identities; files that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pytest
from powerpixels.documents import Channel, PreprocessedUnit, Probe, ProbeDocument, RawFile, Session, Stream
from powerpixels.recordings import load_preprocessed, load_raw_ap
from powerpixels.stage import DataError

RATE = 30000.0
COLUMNS = 6  # five saved channels and the sync word
USED = [4, 0, 2]  # the probe's columns, neither contiguous nor ascending


def _channels() -> list[Channel]:
    return [
        Channel(
            raw_column=column,
            channel_id=f"AP{10 + column}",
            contact_id=f"s{column % 2}e{column}",
            shank=3 * (column % 4 // 2),
            x_um=750.0 * (column % 4 // 2),
            y_um=15.0 * column,
            inter_sample_shift=column / 13,
            gain_uv=2.34375,
        )
        for column in USED
    ]


@pytest.fixture
def raw(tmp_path):
    counts = np.random.default_rng(1).integers(-500, 500, (1000, COLUMNS)).astype("<i2")
    file = tmp_path / "run" / "probe.ap.bin"
    file.parent.mkdir()
    counts.tofile(file)
    stream = Stream(
        name="imec0.ap",
        kind="ap",
        files=[RawFile(path="run/probe.ap.bin", role="data", size_bytes=counts.nbytes)],
        sampling_rate_hz=RATE,
        n_columns=COLUMNS,
        n_samples=1000,
        first_sample=None,
        channels=_channels(),
    )
    session = Session(
        subject="s", session="2026-01-01", acquisition="spikeglx", acquisition_version=None, start_time=None
    )
    probe = Probe(
        name="probe00", part_number=None, serial_number=None, model=None, shanks=[0, 3], ap=stream, lf=None
    )
    return ProbeDocument(session=session, probe=probe), file, counts


def test_raw_columns_are_those_of_the_document(raw, tmp_path):
    document, _, counts = raw
    recording = load_raw_ap(document, tmp_path)
    assert np.array_equal(recording.get_traces(), counts[:, USED])
    assert np.allclose(recording.get_traces(return_in_uV=True), counts[:, USED] * 2.34375)
    assert recording.get_property("raw_column").tolist() == USED
    assert recording.get_property("contact_id").tolist() == ["s0e4", "s0e0", "s0e2"]
    assert recording.channel_ids.tolist() == ["AP14", "AP10", "AP12"]
    assert recording.get_channel_groups().tolist() == [0, 0, 3]
    assert np.allclose(recording.get_property("inter_sample_shift"), np.array(USED) / 13)
    assert np.allclose(recording.get_channel_locations(), [(0, 60), (0, 0), (750, 30)])


def test_raw_file_staged_flat_is_found(raw, tmp_path):
    document, file, counts = raw
    flat = tmp_path / "flat"
    flat.mkdir()
    file.rename(flat / file.name)
    assert np.array_equal(load_raw_ap(document, flat).get_traces(), counts[:, USED])


@pytest.mark.parametrize("change", [-2 * COLUMNS, 2 * COLUMNS, -1])
def test_raw_file_of_another_size_is_refused(raw, tmp_path, change):
    document, file, counts = raw
    with open(file, "r+b") as handle:
        handle.truncate(counts.nbytes + change)
    with pytest.raises(
        DataError, match=rf"probe.ap.bin.*{counts.nbytes} bytes.*found {counts.nbytes + change}"
    ):
        load_raw_ap(document, tmp_path)


def test_missing_raw_file_is_refused(raw, tmp_path):
    document, file, _ = raw
    file.unlink()
    with pytest.raises(DataError, match="probe.ap.bin.*found none"):
        load_raw_ap(document, tmp_path)


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
    _unit(tmp_path, _channels(), counts)
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
    _unit(tmp_path, _channels(), np.zeros((500, 3), "<i2"))
    with open(tmp_path / "traces.bin", "r+b") as handle:
        handle.truncate(100)
    with pytest.raises(DataError, match="expected 3000 bytes.*found 100"):
        load_preprocessed(tmp_path)


def test_preprocessed_unit_without_channels_is_refused(tmp_path):
    _unit(tmp_path, [], np.zeros((0, 0), "<i2"))
    with pytest.raises(DataError, match="no usable channels"):
        load_preprocessed(tmp_path)
