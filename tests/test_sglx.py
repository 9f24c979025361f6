"""Headers against what other readers, and the headers' own maps, say of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import probeinterface
import pytest
import spikeglx as ibl
from neo.rawio import spikeglxrawio as neo
from powerpixels import sglx
from powerpixels.stage import DataError, TemporaryError
from sglx_files import (
    imro_np1,
    nidq_header,
    np1_header,
    np2_header,
    obx_header,
    write_header,
    write_recording,
)
from spikeinterface.extractors import read_spikeglx
from spikeinterface.extractors.neuropixels_utils import get_neuropixels_sample_shifts_from_probe

# file: part number, columns, channels, shanks, Hz, µV per count, sync column
# (µV: 1.0 probes 0.6 V / 512 / 500 (LF 250), 2.0 prototypes 0.5 / 8192 / 80, 2.0 0.62 / 2048 / 100)
REAL_PROBES = {
    "CSC-UW-ecephys/data/example-data.exported.imec0.lf.meta": (
        ("PRB_1_4_0480_1_C", 385, 384, {0}, 2500.002514, 4.6875, 384)
    ),
    "ibl-neuropixel/fixtures/sample3A_g0_t0.imec.ap.meta": (None, 385, 384, {0}, 30000, 2.34375, 384),
    "ibl-neuropixel/fixtures/sample3A_g0_t0.imec.lf.meta": (None, 385, 384, {0}, 2500, 4.6875, 384),
    "ibl-neuropixel/fixtures/sample3B2_exported.imec0.ap.meta": (
        ("PRB_1_2_0480_2", 302, 301, {0}, 29999.83625, 2.34375, 301)
    ),
    "ibl-neuropixel/fixtures/sample3B_g0_t0.imec1.ap.meta": (
        ("PRB_1_4_0480_1", 385, 384, {0}, 30000.390639481, 2.34375, 384)
    ),
    "ibl-neuropixel/fixtures/sample3B_g0_t0.imec1.lf.meta": (
        ("PRB_1_4_0480_1", 385, 384, {0}, 2500.0325532900833, 4.6875, 384)
    ),
    "ibl-neuropixel/fixtures/sample3B_version202304.ap.meta": (
        ("PRB_1_4_0480_1_C", 385, 384, {0}, 30000, 2.34375, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNHPlong_prototype.ap.meta": (
        ("NP1030", 385, 384, {0}, 30000, 2.34375, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNP2.1_g0_t0.imec.ap.meta": (
        ("PRB2_1_2_0640_0", 385, 384, {0}, 30000, 0.762939453125, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNP2.4_1shank_g0_t0.imec.ap.meta": (
        ("NP2010", 385, 384, {0}, 30000, 0.762939453125, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNP2.4_4shanks_g0_t0.imec.ap.meta": (
        ("NP2010", 385, 384, {0, 1, 2, 3}, 29999.757983, 0.762939453125, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNP2.4_4shanks_appVersion20230905.ap.meta": (
        ("NP2014", 385, 384, {0, 1, 2, 3}, 30000, 3.02734375, 384)
    ),
    "ibl-neuropixel/fixtures/sampleNP2QB.imec.ap.meta": (
        ("NP2021", 1540, 1536, {0, 1, 2, 3}, 30000, 3.02734375, 1536)
    ),
    "ibl-neuropixel/fixtures/sampleNPultra_g0_t0.imec0.ap.meta": (
        ("NP1100", 385, 384, {0}, 30000, 2.34375, 384)
    ),
    "neuroconv_ephy_testing_data/spikeglx/NP2_no_sync/all_chan_g0_t0.exported.imec0.ap.meta": (
        ("NP2013", 384, 384, {0, 1, 2, 3}, 30000, 3.02734375, None)
    ),
    "neuroconv_ephy_testing_data/spikeglx/Noise4Sam_g0/Noise4Sam_g0_imec0/Noise4Sam_g0_t0.imec0.lf.meta": (
        ("PRB_1_4_0480_1", 385, 384, {0}, 2500, 9.375, 384)
    ),
    "probeinterface/spikeglx/NP1110_bank0_g0_t0.imec0.ap.meta": (
        ("NP1110", 385, 384, {0}, 30000, 2.34375, 384)
    ),
    "probeinterface/spikeglx/NP1_saved_only_subset_of_channels.meta": (
        ("PRB_1_4_0480_1_C", 152, 151, {0}, 30000, 2.34375, 151)
    ),
    "probeinterface/spikeglx/NP2_4_shanks_save_different_electrodes.imec0.ap.meta": (
        ("NP2010", 385, 384, {0, 1, 2, 3}, 30000, 0.762939453125, 384)
    ),
    "probeinterface/spikeglx/catgt.meta": (
        ("PRB_1_4_0480_1_C", 385, 384, {0}, 30000.149579831934, 2.34375, 384)
    ),
    "spikewrap/example_tiny_data/spikeglx/rawdata/sub-001/ses-001/ephys/run-001_g0_imec0/"
    "run-001_g0_t0.imec0.ap.meta": ("NP2010", 385, 384, {1, 2}, 30000, 0.762939453125, 384),
}


def real_headers(real_data: Path) -> list[Path]:
    paths = sorted(real_data.rglob("*.meta"))
    assert len(paths) >= 111
    return paths


@pytest.fixture(scope="module")
def real_streams(real_data):
    """Every real header and its stream: none may be refused."""
    return [(path, sglx.read_stream(path, real_data)) for path in real_headers(real_data)]


def table_entries(meta: sglx.SglxMeta, key: str) -> list[str]:
    return re.findall(r"\(([^)]*)\)", meta.text(key))


def acquired_numbers(stream) -> np.ndarray:
    return np.array([int(channel.channel_id[2:]) for channel in stream.channels])


@pytest.mark.parametrize("name", REAL_PROBES)
def test_real_probe_headers_against_the_table(real_data, name):
    part_number, n_columns, n_channels, shanks, rate, gain_uv, sync_column = REAL_PROBES[name]
    path = real_data / name
    stream = sglx.read_stream(path, real_data)
    assert sglx.probe_identity(sglx.read_meta(path)).part_number == part_number
    assert (stream.n_columns, len(stream.channels)) == (n_columns, n_channels)
    assert {channel.shank for channel in stream.channels} == shanks
    assert stream.sampling_rate_hz == pytest.approx(rate, rel=1e-12)
    np.testing.assert_allclose([channel.gain_uv for channel in stream.channels], gain_uv, rtol=1e-12)
    assert stream.sync_column == sync_column
    assert [channel.raw_column for channel in stream.channels] == list(range(n_channels))


def test_every_real_header_keeps_file_size_first_sample_and_paths(real_data, real_streams):
    for path, stream in real_streams:
        meta = sglx.read_meta(path)
        data = path.with_suffix(".bin")
        size = data.stat().st_size if data.exists() else int(meta.text("fileSizeBytes"))
        assert [piece.n_samples for piece in stream.pieces] == [stream.n_samples], path
        assert stream.n_samples == size // 2 // int(meta.text("nSavedChans")), path
        assert stream.first_sample == int(meta.text("firstSample")), path
        assert stream.files[-1].path == path.relative_to(real_data).as_posix()
        assert [file.role for file in stream.files] == (["data", "meta"] if data.exists() else ["meta"])


def test_channel_names_are_those_of_the_channel_map(real_streams):
    compared = 0
    for path, stream in real_streams:
        names = [entry.split(";")[0] for entry in table_entries(sglx.read_meta(path), "snsChanMap")[1:]]
        if stream.kind != "nidq" and len(names) == stream.n_columns:
            assert [channel.channel_id for channel in stream.channels] == names[: len(stream.channels)], path
            compared += 1
    assert compared > 90


def test_geometry_is_that_of_probeinterface(real_streams):
    compared = 0
    for path, stream in real_streams:
        if stream.kind != "ap":
            continue
        probe = probeinterface.read_spikeglx(path)
        positions = np.array([(channel.x_um, channel.y_um) for channel in stream.channels])
        np.testing.assert_array_equal(positions, probe.contact_positions, err_msg=str(path))
        assert [channel.contact_id for channel in stream.channels] == list(probe.contact_ids), path
        expected = probe.shank_ids if probe.shank_ids is not None else np.full(len(positions), "0")
        assert [str(channel.shank) for channel in stream.channels] == [shank or "0" for shank in expected]
        compared += 1
    assert compared > 60


def test_lf_channels_are_where_the_same_probes_ap_channels_are(real_streams):
    streams = dict(real_streams)
    compared = 0
    for path, lf in streams.items():
        ap = streams.get(path.with_name(path.name.replace(".lf.", ".ap.")))
        if lf.kind != "lf" or ap is None:
            continue
        for low, high in zip(lf.channels, ap.channels, strict=True):
            assert low.channel_id == high.channel_id.replace("AP", "LF")
            fields = {"contact_id", "shank", "x_um", "y_um", "inter_sample_shift", "raw_column"}
            assert low.model_dump(include=fields) == high.model_dump(include=fields)
        compared += 1
    assert compared > 20


def test_geometry_agrees_with_the_map_that_spikeglx_wrote(real_streams):
    """snsGeomMap: µm from each shank's left edge; snsShankMap: shank, column, row of the grid."""
    row_pitch = {"NP2": 15.0, "PRB2": 15.0, "NP11": 6.0}
    compared = {"snsGeomMap": 0, "snsShankMap": 0}
    for path, stream in real_streams:
        meta = sglx.read_meta(path)
        if stream.kind == "nidq":
            continue
        shank, x, y = np.array([(c.shank, c.x_um, c.y_um) for c in stream.channels]).T
        if "snsGeomMap" in meta:
            header, *entries = table_entries(meta, "snsGeomMap")
            geometry = np.array([[float(v) for v in entry.split(":")] for entry in entries])[: shank.size]
            np.testing.assert_array_equal(geometry[:, 0], shank, err_msg=str(path))
            np.testing.assert_allclose(geometry[:, 2], y, err_msg=str(path))
            across = geometry[:, 1] + shank * float(header.split(",")[2])
            assert np.ptp(across - x) < 1e-6, path
            compared["snsGeomMap"] += 1
        elif "snsShankMap" in meta:
            header, *entries = table_entries(meta, "snsShankMap")
            grid = np.array([[int(v) for v in entry.split(":")] for entry in entries])
            part_number = meta.values.get("imDatPrb_pn", "")
            pitch = next((um for key, um in row_pitch.items() if part_number.startswith(key)), 20.0)
            if len(grid) != shank.size:  # some versions list every acquired channel
                grid = grid[acquired_numbers(stream)]
            np.testing.assert_array_equal(grid[:, 0], shank, err_msg=str(path))
            np.testing.assert_allclose(grid[:, 2] * pitch, y, err_msg=str(path))
            compared["snsShankMap"] += 1
    assert compared["snsGeomMap"] >= 8 and compared["snsShankMap"] >= 60


def test_sample_shifts_are_those_of_spikeinterface_and_of_the_headers_own_table(real_streams):
    own_tables = 0
    for path, stream in real_streams:
        meta = sglx.read_meta(path)
        if stream.kind == "nidq":
            continue
        shifts = np.array([channel.inter_sample_shift for channel in stream.channels])
        if "catGTCmdline0" in meta:
            assert not shifts.any(), path
            continue
        if stream.kind == "ap":
            expected = get_neuropixels_sample_shifts_from_probe(probeinterface.read_spikeglx(path))
            np.testing.assert_allclose(shifts, expected, atol=1e-12, err_msg=str(path))
        if "muxTbl" in meta:  # one entry per turn: the channels that are sampled then
            turns = [[int(k) for k in entry.split()] for entry in table_entries(meta, "muxTbl")[1:]]
            turn_of = {k: turn for turn, channels in enumerate(turns) for k in channels}
            n_turns = {12: 13, 16: 16}[len(turns)]
            expected = np.array([turn_of[k] for k in acquired_numbers(stream)]) / n_turns
            np.testing.assert_allclose(shifts, expected, atol=1e-12, err_msg=str(path))
            own_tables += 1
    assert own_tables >= 8


def test_gains_are_those_of_neo(real_streams):
    compared = 0
    for path, stream in real_streams:
        meta = sglx.read_meta(path)
        if meta.values.get("imDatPrb_pn") == "NP1110":
            continue  # neo looks for gains per channel, which this probe's table does not have
        gains = neo.extract_stream_info(str(path), neo.read_meta_file(path))["channel_gains"]
        if stream.kind == "nidq":
            own = [line.gain_v for line in stream.analog]
        else:
            own = [channel.gain_uv for channel in stream.channels]
        if stream.kind != "nidq" and stream.sync_column is None:
            own = own[:-1]  # neo takes the last column for the sync word, be it there or not
        np.testing.assert_allclose(own, gains[: len(own)], rtol=1e-12, err_msg=str(path))
        compared += 1
    assert compared >= 109


def test_volts_are_those_of_ibl(real_streams):
    compared = 0
    for path, stream in real_streams:
        header = ibl.read_meta_data(path)
        if header.get("imDatPrb_type") == 1110:
            continue  # not a probe that this reader knows
        volts = ibl._conversion_sample2v_from_meta(header)[stream.kind]
        if stream.kind == "nidq":
            own = [line.gain_v for line in stream.analog]
        else:
            own = [channel.gain_uv * 1e-6 for channel in stream.channels]
        if header.get("imDatPrb_pn", "").startswith("PRB2"):
            # A type 21 prototype: its gain is 80 (SpikeGLX's metadata guide, neo, the probe table);
            # this reader knows that of NP2010 and NP2000 only and takes 100.
            volts = volts * 100 / 80
        np.testing.assert_allclose(own, volts[: len(own)], rtol=1e-6, err_msg=str(path))
        compared += 1
    assert compared >= 109


def test_traces_of_a_real_recording_in_volts(real_data):
    """The same counts, scaled by our gains and by SpikeInterface's, from our columns and its channels."""
    folder = real_data / "neuroconv_ephy_testing_data/spikeglx/Noise4Sam_g0"
    for stem, stream_id in (
        ("Noise4Sam_g0_imec0/Noise4Sam_g0_t0.imec0.ap", "imec0.ap"),
        ("Noise4Sam_g0_t0.nidq", "nidq"),
    ):
        stream = sglx.read_stream(folder / f"{stem}.meta", folder)
        counts = np.fromfile(folder / stream.files[0].path, "int16").reshape(-1, stream.n_columns)
        recording = read_spikeglx(folder, stream_id=stream_id)
        assert recording.get_num_frames() == stream.n_samples == len(counts)
        if stream_id == "nidq":
            columns = {f"XA{line.name[2:]}": (line.raw_column, line.gain_v) for line in stream.analog}
        else:
            columns = {c.channel_id: (c.raw_column, c.gain_uv * 1e-6) for c in stream.channels}
        assert len(columns) == (8 if stream_id == "nidq" else 384)
        ids = list(recording.channel_ids)
        theirs = recording.get_traces(0, 0, 1000) * recording.get_channel_gains() * 1e-6
        for name, (column, gain_v) in columns.items():
            volts = counts[:1000, column] * gain_v
            np.testing.assert_allclose(volts, theirs[:, ids.index(f"{stream_id}#{name}")], rtol=1e-6)


def test_quad_base_probe_has_four_sync_words_and_the_first_is_taken(real_data):
    stream = sglx.read_stream(real_data / "ibl-neuropixel/fixtures/sampleNP2QB.imec.ap.meta", real_data)
    assert stream.n_columns - len(stream.channels) == 4
    assert (stream.sync_column, stream.sync_bit) == (1536, 6)
    assert len({channel.contact_id for channel in stream.channels}) == 1536


def test_nidq_of_real_headers(real_data):
    folder = real_data / "neuroconv_ephy_testing_data/spikeglx/Noise4Sam_g0"
    stream = sglx.read_stream(folder / "Noise4Sam_g0_t0.nidq.meta", folder)
    assert [(line.raw_column, line.name) for line in stream.analog] == [(k, f"AI{k}") for k in range(8)]
    assert [(line.raw_column, line.bit, line.name) for line in stream.digital] == [
        (8, k, f"P0.{k}") for k in range(8)
    ]
    assert {line.gain_v for line in stream.analog} == {2 / 32768}
    one = real_data / "ibl-neuropixel/fixtures"
    stream = sglx.read_stream(one / "sample3B_g0_t0.nidq.meta", one)
    assert (stream.sync_column, stream.sync_bit) == (1, 3)
    assert [line.name for line in stream.analog] == ["AI0"]


def read(tmp_path: Path, header: dict, name: str = "run_g0_t0.imec0.ap.meta"):
    return sglx.read_stream(write_header(tmp_path / name, {"fileSizeBytes": "0", **header}), tmp_path)


def test_a_saved_subset_keeps_each_channels_own_gain_contact_and_shift(tmp_path):
    """Column 0 of this file is acquired channel 100: nothing may be looked up by column."""
    ap_gains = [50 if k < 200 else 1000 for k in range(384)]
    keys = {
        "nSavedChans": "5",
        "snsApLfSy": "4,0,1",
        "snsSaveChanSubset": "100,199:201,768",
        "~imroTbl": imro_np1(ap_gains, [250] * 384),
    }
    stream = read(tmp_path, np1_header(**keys))
    # ADC order of 1.0 probes: channels 24 n + 2 j and 24 n + 2 j + 1 are sampled at turn j of 13
    assert [
        (c.raw_column, c.channel_id, c.contact_id, c.gain_uv, round(c.inter_sample_shift * 13, 9))
        for c in stream.channels
    ] == [
        (0, "AP100", "e100", 0.6 / 512 / 50 * 1e6, 2),
        (1, "AP199", "e199", 0.6 / 512 / 50 * 1e6, 3),
        (2, "AP200", "e200", 0.6 / 512 / 1000 * 1e6, 4),
        (3, "AP201", "e201", 0.6 / 512 / 1000 * 1e6, 4),
    ]
    assert (stream.sync_column, stream.sync_bit) == (4, 6)


def test_a_saved_subset_of_the_lf_stream(tmp_path):
    keys = {
        "nSavedChans": "3",
        "snsApLfSy": "0,2,1",
        "snsSaveChanSubset": "386,767:768",
        "~imroTbl": imro_np1([500] * 384, [125 if k == 2 else 2000 for k in range(384)]),
    }
    stream = read(tmp_path, np1_header("lf", **keys), "run_g0_t0.imec0.lf.meta")
    assert [(c.raw_column, c.channel_id, c.contact_id, c.gain_uv) for c in stream.channels] == [
        (0, "LF2", "e2", 0.6 / 512 / 125 * 1e6),
        (1, "LF383", "e383", 0.6 / 512 / 2000 * 1e6),
    ]
    assert (stream.name, stream.sync_column) == ("imec0.lf", 2)


def test_all_channels_saved_in_one_word(tmp_path):
    listed = read(tmp_path, np1_header())
    assert read(tmp_path, np1_header(snsSaveChanSubset="all")).channels == listed.channels
    four_shanks = read(tmp_path, np2_header(), "a_g0_t0.imec1.ap.meta")
    assert read(tmp_path, np2_header(snsSaveChanSubset="all"), "b_g0_t0.imec1.ap.meta").channels == (
        four_shanks.channels
    )


def test_sync_word_not_saved(tmp_path):
    keys = {"nSavedChans": "384", "snsApLfSy": "384,0,0", "snsSaveChanSubset": "0:383"}
    stream = read(tmp_path, np1_header(**keys))
    assert (stream.sync_column, stream.sync_bit) == (None, None)


def test_the_part_number_decides_not_the_type(tmp_path):
    """Type 2013 is also written for NP2014; a header that calls a 1.0 probe so is still a 1.0 probe."""
    plain = read(tmp_path, np1_header())
    assert read(tmp_path, np1_header(imDatPrb_type="2013")).channels == plain.channels


def test_gains_where_the_header_does_not_state_them(tmp_path):
    """Prototype 2.0 headers have neither the gain (80) nor, at first, the ADC's range (14 bits)."""
    prototype = np2_header("NP2010", imAiRangeMax="0.5", imChan0apGain=None, imMaxInt=None)
    for header, limit, gain_v in (
        (prototype, 8192, 0.5 / 8192 / 80),
        (np1_header(imMaxInt=None), 512, 0.6 / 512 / 500),
        (np1_header(imMaxInt="1024"), 1024, 0.6 / 1024 / 500),
    ):
        stream = read(tmp_path, header)
        assert {c.gain_uv for c in stream.channels} == {gain_v * 1e6}
        assert stream.limit_counts == limit


def test_catgt_output_is_not_shifted_twice(tmp_path):
    plain = [c.inter_sample_shift for c in read(tmp_path, np1_header()).channels]
    command = "<CatGT -dir=/data -run=run -g=0 -t=0 -ap -prb=0{}>"
    aligned = read(tmp_path, np1_header(catGTCmdline0=command.format("")))
    assert {c.inter_sample_shift for c in aligned.channels} == {0.0}
    # up to version 2.1, which had these filter options, it aligned only when told to
    for option in (" -no_tshift", " -aphipass=300", " -gbldmx -aphipass=300"):
        kept = read(tmp_path, np1_header(catGTCmdline0=command.format(option)))
        assert [c.inter_sample_shift for c in kept.channels] == plain and max(plain) > 0, option
    aligned = read(tmp_path, np1_header(catGTCmdline0=command.format(" -aphipass=300 -tshift")))
    assert {c.inter_sample_shift for c in aligned.channels} == {0.0}


def test_nidq_with_muxed_channels_two_devices_and_a_saved_subset(tmp_path):
    """Acquired: 4 MN, 2 MA, 3 XA (two devices), 2 words of 3 bytes; saved without MN and AI2."""
    header = nidq_header(
        acqMnMaXaDw="4,2,3,2",
        snsMnMaXaDw="0,2,2,2",
        nSavedChans="6",
        snsSaveChanSubset="4:5,7:10",
        niXAChans1="2,5",
        niXAChans2="0",
        niXDBytes1="2",
        niXDChans1="1,9:10",
        niXDBytes2="1",
        niXDChans2="3",
        niMaxInt="8192",
        syncNiChan="19",
    )
    stream = read(tmp_path, header, "run_g0_t0.nidq.meta")
    assert [(line.raw_column, line.name, line.gain_v) for line in stream.analog] == [
        (2, "AI5", 5 / 8192),
        (3, "AI0_dev2", 5 / 8192),
    ]
    assert [(line.raw_column, line.bit, line.name) for line in stream.digital] == [
        (4, 1, "P0.1"),
        (4, 9, "P0.9"),
        (4, 10, "P0.10"),
        (5, 3, "P0.3_dev2"),
    ]
    # digital sync lines are numbered over the bits of all words: 19 = bit 3 of the second
    assert (stream.sync_column, stream.sync_bit) == (5, 3)
    analog_sync = {**header, "syncNiChanType": "1", "syncNiChan": "7"}
    stream = read(tmp_path, analog_sync, "run_g0_t0.nidq.meta")
    assert (stream.sync_column, stream.sync_bit) == (2, None)
    for keys in ({"syncNiChanType": "1", "syncNiChan": "6"}, {"syncNiChan": "4"}, {"syncNiChan": "64"}):
        stream = read(tmp_path, {**header, **keys}, "run_g0_t0.nidq.meta")
        assert (stream.sync_column, stream.sync_bit) == (None, None), keys


def test_onebox_lines_gains_and_sync(tmp_path):
    """Twelve inputs, of which 3, 5 and 11 were saved, the digital word and the sync word."""
    keys = {
        "acqXaDwSy": "12,1,1",
        "snsXaDwSy": "3,1,1",
        "nSavedChans": "5",
        "snsSaveChanSubset": "3,5,11:13",
        "obAiRangeMax": "2.5",
    }
    stream = read(tmp_path, obx_header(**keys), "run_g0_t0.obx1.obx.meta")
    assert (stream.name, stream.kind, stream.sampling_rate_hz) == ("obx1", "obx", 30303)
    assert [(line.raw_column, line.name, line.gain_v) for line in stream.analog] == [
        (0, "XA3", 2.5 / 32768),
        (1, "XA5", 2.5 / 32768),
        (2, "XA11", 2.5 / 32768),
    ]
    assert [(line.raw_column, line.bit, line.name) for line in stream.digital] == [
        (3, bit, f"XD0.{bit}") for bit in range(12)
    ]
    assert (stream.sync_column, stream.sync_bit) == (4, 6)
    keys = {"acqXaDwSy": "12,0,1", "snsXaDwSy": "12,0,1", "nSavedChans": "13"}
    stream = read(tmp_path, obx_header(**keys), "run_g0_t0.obx0.obx.meta")
    assert (len(stream.analog), stream.digital, stream.sync_column) == (12, [], 12)


def test_onebox_is_read_as_neo_reads_it(tmp_path):
    samples = np.arange(4 * 3000, dtype="int16").reshape(-1, 4)
    header = obx_header(**{"~snsChanMap": "(2,1,1)(XA0;0:0)(XA1;1:1)(XD0;2:2)(SY0;3:3)"})
    path = write_recording(tmp_path / "run_g0_t0.obx0.obx.meta", header, samples=samples)
    stream = sglx.read_stream(path, tmp_path)
    info = neo.extract_stream_info(str(path), neo.read_meta_file(path))
    np.testing.assert_allclose([line.gain_v for line in stream.analog], info["channel_gains"][:2])
    assert [line.name for line in stream.analog] == info["channel_names"][:2]
    assert (stream.sampling_rate_hz, stream.n_samples) == (info["sampling_rate"], 3000)


def test_names_of_ibls_archive(tmp_path):
    """A data set's number stands before the last suffix, another one in each file."""
    uuid = "b9a3e3a0-2a4c-4b0e-8a5d-1c2d3e4f5a6b"
    path = write_header(tmp_path / f"_spikeglx_ephysData_g0_t0.imec1.ap.{uuid}.meta", np1_header())
    name = sglx.stream_name(path, sglx.read_meta(path))
    assert (name.run, name.gate, name.device, name.kind) == ("_spikeglx_ephysData", 0, "imec1", "ap")
    others = [
        f"_spikeglx_ephysData_g0_t0.imec1.ap.{k}{uuid[1:]}{end}" for k, end in ((1, ".cbin"), (2, ".ch"))
    ]
    for other in (*others, "_spikeglx_ephysData_g0_t0.imec1.lf.cbin"):
        (tmp_path / other).write_bytes(b"1")
    assert [file.name for file in sglx.data_files(path)] == others[:1]


def test_notes_in_another_encoding_do_not_matter(tmp_path):
    notes = "5 µm/s, a=b"
    stream = read(tmp_path, np1_header(userNotes=notes))
    assert len(stream.channels) == 384
    assert sglx.read_meta(tmp_path / "run_g0_t0.imec0.ap.meta").text("userNotes").endswith("a=b")


@pytest.mark.parametrize(
    "stem, expected",
    [
        ("my.run_g3_t12.imec4.ap", ("my.run", 3, "12", "imec4", "ap")),
        ("run_g0_tcat.imec0.lf", ("run", 0, "cat", "imec0", "lf")),
        ("run_g0_t0.imec.ap", ("run", 0, "0", "imec", "ap")),
        ("run_g1_t0.nidq", ("run", 1, "0", "nidq", None)),
        ("run_g0_t0.exported.imec0.ap", ("run", 0, "0", "imec0", "ap")),
        ("run_g0_t0.obx0.obx", ("run", 0, "0", "obx0", None)),
        ("renamed.imec2.ap", (None, None, None, "imec2", "ap")),
        ("anything", (None, None, None, None, None)),
    ],
)
def test_names(stem, expected):
    name = sglx.parse_name(stem)
    assert (name.run, name.gate, name.trigger, name.device, name.kind) == expected


def test_a_renamed_file_is_named_by_its_header(tmp_path):
    path = write_header(tmp_path / "left.meta", np1_header(device="imec3", run="orig_g1_t2"))
    name = sglx.stream_name(path, sglx.read_meta(path))
    assert (name.run, name.gate, name.trigger, name.device, name.kind) == ("orig", 1, "2", "imec3", "ap")
    assert sglx.read_stream(path, tmp_path).name == "imec3.ap"
    assert read(tmp_path, np1_header(device="imec3"), "run_g0_t0.imec5.ap.meta").name == "imec5.ap"


@pytest.mark.parametrize(
    "code, keys, words",
    [
        ("META_UNREADABLE", {"typeThis": None}, "typeThis"),
        ("META_UNREADABLE", {"snsApLfSy": "384,0"}, "snsApLfSy: 3 numbers with commas"),
        ("META_UNREADABLE", {"acqApLfSy": None}, "acqApLfSy: it is missing"),
        (
            "META_UNREADABLE",
            {"nSavedChans": "many"},
            "nSavedChans: a whole number was expected, found 'many'",
        ),
        ("META_UNREADABLE", {"nSavedChans": "0"}, "nSavedChans: at least one"),
        ("META_UNREADABLE", {"nSavedChans": "384"}, "snsSaveChanSubset: it names 385 channels"),
        ("META_UNREADABLE", {"snsSaveChanSubset": "0:384"}, "snsSaveChanSubset"),
        ("META_UNREADABLE", {"snsSaveChanSubset": "0-383"}, "snsSaveChanSubset: ranges"),
        ("META_UNREADABLE", {"imSampRate": "0"}, "imSampRate: a number above 0"),
        ("META_UNREADABLE", {"imSampRate": "nan"}, "imSampRate: a number above 0"),
        ("META_UNREADABLE", {"imAiRangeMax": "-"}, "imAiRangeMax: a number above 0"),
        ("META_UNREADABLE", {"firstSample": "1e3"}, "firstSample: a whole number"),
        ("META_UNREADABLE", {"fileSizeBytes": "big"}, "fileSizeBytes: a whole number"),
        ("META_UNREADABLE", {"~imroTbl": None}, "imroTbl: it is missing"),
        ("META_UNREADABLE", {"~imroTbl": "garbage"}, "imroTbl: it does not fit"),
        ("META_UNREADABLE", {"~imroTbl": "(0,384)(0 9 0 500 250 1)"}, "imroTbl: it does not fit"),
        ("META_UNREADABLE", {"~imroTbl": "(0,384)(0 0 0 500 250 1)"}, "imroTbl: it lists 1 channels"),
        ("META_UNREADABLE", {"~imroTbl": imro_np1([0] * 384, [1] * 384)}, "imroTbl: AP gains above 0"),
        ("UNKNOWN_PROBE", {"imDatPrb_pn": "NP9999"}, "'NP9999'"),
        ("UNKNOWN_PROBE", {"imDatPrb_pn": None}, "imDatPrb_pn, found ''"),
        ("UNKNOWN_PROBE", {"imDatPrb_pn": None, "imProbeOpt": "4"}, "option 4"),
        ("META_UNREADABLE", {"typeThis": "obx"}, "snsXaDwSy: it is missing"),
        ("UNSUPPORTED_STREAM", {"typeThis": "whisper"}, "type 'whisper'"),
        ("UNSUPPORTED_STREAM", {"snsApLfSy": "192,192,1"}, "192 AP and 192 LF"),
        (
            "UNSUPPORTED_STREAM",
            {"imDatPrb_pn": "NP3020", "imDatApi": "3.71.2"},
            "recordings of NP3020 by versions of SpikeGLX with imDatApi 3.71.2 have them inverted",
        ),
        (
            "UNSUPPORTED_STREAM",
            {"snsApLfSy": "0,384,1", "acqApLfSy": "384,0,1"},
            "acqApLfSy says that it has none",
        ),
    ],
)
def test_what_cannot_be_read_says_which_file_and_key(tmp_path, code, keys, words):
    with pytest.raises(sglx.HeaderError) as caught:
        read(tmp_path, np1_header(**keys))
    assert isinstance(caught.value, DataError) and caught.value.code == code
    assert str(caught.value).startswith("run_g0_t0.imec0.ap.meta: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"imDatApi": "4.0.2"},
        {"imDatApi": "4.1"},
        {"imDatApi": "3.71", "catGTCmdline0": "<CatGT -dir=/d>"},
        {"imDatApi": "3.71", "imDatPrb_pn": "NP2014"},
    ],
)
def test_nxt_probes_are_inverted_up_to_one_version(tmp_path, keys):
    """The imro table here is another probe's: what matters is that it is come to."""
    with pytest.raises(sglx.HeaderError) as caught:
        read(tmp_path, np1_header(**{"imDatPrb_pn": "NP3020", "~imroTbl": "garbage", **keys}))
    assert caught.value.code == "META_UNREADABLE"


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"niXAChans1": "0:4"}, "niXAChans1: it names 5 analog channels, but acqMnMaXaDw says 2"),
        ({"niXDBytes1": "4"}, "niXDChans1: its lines need 2 words, but acqMnMaXaDw says 1"),
        ({"snsMnMaXaDw": "0,0,2"}, "snsMnMaXaDw: 4 numbers"),
        ({"niSampRate": None}, "niSampRate: it is missing"),
    ],
)
def test_nidq_headers_that_contradict_themselves(tmp_path, keys, words):
    with pytest.raises(sglx.HeaderError, match=re.escape(words)):
        read(tmp_path, nidq_header(**keys), "run_g0_t0.nidq.meta")


@pytest.mark.parametrize(
    "content, words", [(b"", "it is empty"), (b" \r\n", "it is empty"), (b"\0" * 400, "binary data")]
)
def test_files_that_are_no_text(tmp_path, content, words):
    path = tmp_path / "run_g0_t0.imec0.ap.meta"
    path.write_bytes(content)
    with pytest.raises(sglx.HeaderError, match=words) as caught:
        sglx.read_meta(path, tmp_path)
    assert caught.value.code == "META_UNREADABLE"


def test_a_header_that_the_file_system_refuses(tmp_path, monkeypatch):
    """Forbidden is the user's to mend; a stale handle passes, so another attempt may be made."""
    path = write_header(tmp_path / "run_g0_t0.imec0.ap.meta", np1_header())

    def refuse(error: OSError):
        def read_bytes(_):
            raise error

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    refuse(PermissionError(13, "Permission denied"))
    with pytest.raises(sglx.HeaderError, match="no permission to read it"):
        sglx.read_meta(path, tmp_path)
    refuse(OSError(116, "Stale file handle"))
    with pytest.raises(TemporaryError, match="Stale file handle"):
        sglx.read_meta(path, tmp_path)
