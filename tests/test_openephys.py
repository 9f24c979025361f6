"""Open Ephys: layouts, sample numbers, probes and faults, on small recordings written here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sglx_files
from openephys_files import (
    NP1,
    NP2,
    OeStream,
    ap,
    lfp,
    nidq,
    wide,
    write_npy,
    write_recording,
    write_session,
    write_settings,
)
from powerpixels import openephys
from powerpixels.openephys_samples import stretches
from powerpixels.rawdata import StreamReader, locate

GAIN_UV = 0.195


def codes(findings, severity: str | None = None) -> list[tuple]:
    """(code, probe) of the faults, sorted."""
    return sorted(
        (fault.code, fault.probe or "")
        for fault in findings.faults
        if severity is None or fault.severity == severity
    )


def message(findings, code: str) -> str:
    """The message of the only fault with this code."""
    (found,) = [fault.message for fault in findings.faults if fault.code == code]
    return found


def one_probe(tmp_path: Path, recordings: list[OeStream], **settings):
    """Findings of a session with one 2.0 probe, a recording for each stream given."""
    write_session(tmp_path, [[stream] for stream in recordings], [NP2], **settings)
    return openephys.find(tmp_path)


def counts(stream) -> np.ndarray:
    """The acquisition's number of every sample of a stream."""
    return stream.first_sample + stream.acquired(np.arange(stream.n_samples))


@pytest.fixture
def session(tmp_path) -> Path:
    """NP1 with LFP, NP2, NI-DAQ and a OneBox's inputs, in folders with blanks and #."""
    adc = OeStream(
        "OneBox-ADC",
        tuple(f"ADC{k}" for k in range(12)),
        rate=30300.5,
        processor="OneBox",
        node=105,
        bit_volts=0.000152587890625,
        ttl=([2000], [13]),
    )
    streams = [ap(), lfp(), wide(numbers=np.arange(500, 40000)), nidq(), adc]
    folder = tmp_path / "mouse 1 #2"
    write_session(folder, [streams], [NP1, NP2])
    return folder


def test_a_session_with_every_kind_of_stream(session):
    findings = openephys.find(session)
    assert openephys.is_openephys(session)
    assert findings.faults == []
    assert findings.acquisition == "openephys"
    start = ("0.6.7", "2023-08-30T23:41:36")
    assert findings.headers == {"": start, "ProbeA": start, "ProbeB": start}
    a, b = findings.probes
    assert (a.name, a.part_number, a.serial_number, a.shanks) == (
        "ProbeA",
        "PRB_1_4_0480_1",
        "18005116811",
        [0],
    )
    assert (b.name, b.part_number, b.shanks, b.lf) == ("ProbeB", "NP2014", [0, 1, 2, 3], None)
    assert [
        (s.name, s.kind, s.n_samples, s.first_sample, s.sampling_rate_hz) for s in (a.ap, a.lf, b.ap)
    ] == [
        ("ProbeA.ap", "ap", 36000, 1000, 30000.0),
        ("ProbeA.lf", "lf", 3000, 100, 2500.0),
        ("ProbeB.ap", "ap", 39500, 500, 30000.0),
    ]
    for stream in (a.ap, a.lf, b.ap):
        assert (stream.sync_line, stream.sync_column, stream.sync_bit) == ("sync", None, None)
        assert [(line.line, line.name) for line in stream.ttl] == [(1, "sync")]
        assert {channel.gain_uv for channel in stream.channels} == {GAIN_UV}
        assert [channel.raw_column for channel in stream.channels] == list(range(384))
    assert [channel.channel_id for channel in a.lf.channels[:2]] == ["LFP1", "LFP2"]
    daq = findings.nidq
    assert (daq.name, daq.kind, daq.sync_line, daq.n_columns) == ("nidq", "nidq", None, 8)
    assert (daq.analog[7].name, daq.analog[7].raw_column) == ("AI7", 7)
    assert daq.analog[7].gain_v == pytest.approx(10 / 32767)  # volts per count, of a range of 10 V
    assert [line.name for line in daq.ttl] == [f"TTL{k}" for k in range(1, 9)]
    (obx,) = findings.daqs
    assert (obx.name, obx.kind, len(obx.analog), len(obx.ttl)) == ("obx0", "obx", 12, 13)


def test_files_lie_below_raw_and_the_ttl_pairs_follow_the_recordings(tmp_path):
    first, second = wide(), wide(numbers=np.arange(50000, 90000), ttl=([60000], [-1]))
    findings = one_probe(tmp_path / "a b#", [first, second])
    stream = findings.probes[0].ap
    (places,) = locate([stream], tmp_path / "a b#")
    assert all(places[file.path].stat().st_size == file.size_bytes for file in stream.files)
    pairs = [file for file in stream.files if file.role in ("samples", "states")]
    assert [file.role for file in pairs] == ["samples", "states"] * 2
    numbers = [np.load(places[file.path]).tolist() for file in pairs]
    assert numbers == [[2000, 17000, 32000], [1, -1, 1], [60000], [-1]]
    assert [Path(file.path).name for file in stream.files if file.role == "data"] == ["continuous.dat"] * 2


@pytest.mark.parametrize(
    "level", ["Record Node 101", "Record Node 101/experiment1", "Record Node 101/experiment1/recording1"]
)
def test_raw_may_be_any_folder_down_to_the_recording(session, level):
    whole, part = openephys.find(session), openephys.find(session / level)
    assert part.faults == []
    assert [probe.ap.channels for probe in part.probes] == [probe.ap.channels for probe in whole.probes]
    assert part.headers == whole.headers
    for stream in (part.probes[0].ap, part.nidq):
        (places,) = locate([stream], session / level)
        assert StreamReader(stream, places).read(0, 5).shape == (5, stream.n_columns)
        assert not any(file.path.startswith(("/", "..")) for file in stream.files)


def test_a_renamed_recording_in_a_renamed_folder_is_the_same(session):
    whole = openephys.find(session)
    (session / "Record Node 101" / "experiment1" / "recording1").rename(
        session / "Record Node 101" / "experiment1" / "the good one"
    )
    (session / "Record Node 101" / "experiment1").rename(session / "Record Node 101" / "day 3")
    (session / "Record Node 101").rename(session / "rig")
    moved = openephys.find(session)
    assert moved.faults == []
    assert [probe.ap.channels for probe in moved.probes] == [probe.ap.channels for probe in whole.probes]


def test_inside_of_a_recording_the_folder_to_point_at_is_named(session):
    inside = session / "Record Node 101" / "experiment1" / "recording1" / "continuous"
    assert openephys.is_openephys(inside)
    assert "raw column at its .. or" in message(openephys.find(inside), "NO_RECORDING")


def test_other_folders_are_no_open_ephys(tmp_path):
    sglx_files.write_recording(tmp_path / "run_g0" / "run_g0_t0.imec0.ap.meta", sglx_files.np1_header())
    assert not openephys.is_openephys(tmp_path)
    assert not openephys.is_openephys(tmp_path / "missing")
    assert codes(openephys.find(tmp_path), "blocks") == [("NO_RECORDING", "")]


def test_versions_below_06(tmp_path):
    streams = [
        ap(sub_idx=0),
        lfp(sub_idx=1),
        wide(sub_idx=2),
        nidq(sub_idx=0),
    ]
    write_session(tmp_path, [streams], [NP1, NP2], gui="0.5.4", date="4 Jun 2021 4:14:41")
    findings = openephys.find(tmp_path)
    assert findings.faults == []
    assert findings.headers["ProbeB"] == ("0.5.4", "2021-06-04T04:14:41")
    a, b = findings.probes
    assert (a.name, a.ap.name, a.lf.name, b.name, b.shanks) == (
        "ProbeA",
        "ProbeA.ap",
        "ProbeA.lf",
        "ProbeB",
        [0, 1, 2, 3],
    )
    assert a.ap.first_sample == 1000
    assert [Path(file.path).name for file in a.ap.files if file.role in ("samples", "states")] == [
        "timestamps.npy",
        "channel_states.npy",
    ]
    assert (a.ap.sync_line, a.lf.sync_line, b.ap.sync_line) == ("sync", "sync", "sync")
    assert findings.nidq.analog[0].gain_v == pytest.approx(10 / 32767)


def sglx_channels(tmp_path: Path, header: dict):
    """The same probe as SpikeGLX describes it, read by probeinterface."""
    from probeinterface import read_spikeglx

    return read_spikeglx(sglx_files.write_header(tmp_path / "run_g0_t0.imec0.ap.meta", header))


@pytest.mark.parametrize(
    ("probe", "stream", "header", "n_turns", "gui"),
    [
        (NP1, ap(), sglx_files.np1_header(), 13, "0.6.7"),
        (NP2, wide(), sglx_files.np2_header(), 16, "0.6.7"),
        (NP2, wide(sub_idx=0), sglx_files.np2_header(), 16, "0.5.4"),
    ],
)
def test_contacts_are_those_of_the_same_probe_in_spikeglx(tmp_path, probe, stream, header, n_turns, gui):
    write_session(tmp_path / "oe", [[stream]], [probe], gui=gui)
    channels = openephys.find(tmp_path / "oe").probes[0].ap.channels
    expected = sglx_channels(tmp_path, header)
    assert [channel.contact_id for channel in channels] == [str(c) for c in expected.contact_ids]
    assert np.array_equal([(c.x_um, c.y_um) for c in channels], expected.contact_positions)
    order = expected.contact_annotations["adc_sample_order"]
    assert [channel.inter_sample_shift for channel in channels] == pytest.approx(order / n_turns)


@pytest.mark.parametrize("first_name", [0, 1])
def test_channels_are_known_by_name_whatever_subset_and_order_was_saved(tmp_path, first_name):
    picked = [300, 3, 7, 100]
    names = tuple(f"AP{k + first_name}" for k in picked)
    state = "".join("1" if k in picked else "0" for k in range(384))
    history = "Neuropix-PXI -> Channel Map -> Record Node"
    write_session(
        tmp_path,
        [[ap(channels=(*names, "AP_SYNC"), history=history)]],
        [NP1],
        recorded={"ProbeA-AP": state + "1"},
    )
    findings = openephys.find(tmp_path)
    assert codes(findings) == [("CHANNEL_MAP", "ProbeA")]
    stream = findings.probes[0].ap
    assert [channel.contact_id for channel in stream.channels] == [f"e{k}" for k in picked]
    assert [channel.raw_column for channel in stream.channels] == [0, 1, 2, 3]
    assert (stream.n_columns, stream.sync_column) == (5, 4)


def test_a_subset_whose_names_tell_nothing_is_refused(tmp_path):
    write_session(tmp_path, [[ap(channels=("AP5", "AP6"))]], [NP1])
    findings = openephys.find(tmp_path)
    assert "count from 0 or from 1" in message(findings, "META_UNREADABLE")
    assert findings.probes == []
    # its electrodes' numbers tell, if they are there
    shutil.rmtree(tmp_path)
    write_session(tmp_path, [[ap(channels=("AP5", "AP6"), electrodes=(5, 6))]], [NP1])
    channels = openephys.find(tmp_path).probes[0].ap.channels
    assert [channel.contact_id for channel in channels] == ["e5", "e6"]


def test_names_of_old_plugins_count_from_1(tmp_path):
    write_session(tmp_path, [[ap(channels=("AP5", "AP6"))]], [NP1], gui="0.5.4")
    channels = openephys.find(tmp_path).probes[0].ap.channels
    assert [channel.contact_id for channel in channels] == ["e4", "e5"]


def test_names_from_0_of_new_plugins(tmp_path):
    write_session(tmp_path, [[ap(first_name=0)]], [NP1], gui="1.0.2")
    findings = openephys.find(tmp_path)
    assert findings.faults == []
    channel = findings.probes[0].ap.channels[17]
    assert (channel.channel_id, channel.contact_id) == ("AP17", "e17")


def test_settings_with_other_electrodes_are_noticed(tmp_path):
    electrodes = tuple(1280 * (k // 96) + k % 96 for k in range(384))
    fits = wide(electrodes=electrodes)
    findings = one_probe(tmp_path / "fits", [fits])
    assert findings.faults == []
    others = one_probe(tmp_path / "others", [wide(electrodes=tuple(k + 96 for k in electrodes))])
    assert codes(others) == [("SETTINGS_MISMATCH", "ProbeB")]
    # NP Ultra's plugin writes one number for all channels: no evidence
    same = one_probe(tmp_path / "same", [wide(electrodes=(7,) * 384)])
    assert same.faults == []


def test_probes_that_are_switched_off_have_no_streams(tmp_path):
    off = replace(NP1, attributes={"isEnabled": "0"})
    write_session(tmp_path, [[wide()]], [off, NP2])
    findings = openephys.find(tmp_path)
    assert [(probe.name, probe.serial_number) for probe in findings.probes] == [("ProbeB", NP2.serial)]


def test_probes_with_own_names_are_found_by_them(tmp_path):
    first = replace(NP2, streams=("left #1",), serial="1", attributes={"custom_probe_name": "right"})
    second = replace(NP2, streams=("right",), serial="2", attributes={"custom_probe_name": "left #1"})
    write_session(tmp_path, [[wide("left #1"), wide("right")]], [first, second])
    findings = openephys.find(tmp_path)
    assert {probe.name: probe.serial_number for probe in findings.probes} == {"left_1": "2", "right": "1"}
    assert findings.probes[0].ap.name == "left_1.ap"


def test_two_sources_with_probes_of_the_same_name(tmp_path):
    node = tmp_path / "Record Node 101"
    write_settings(node / "settings.xml", [replace(NP2, streams=("ProbeA",))])
    text = (node / "settings.xml").read_text()
    write_settings(
        tmp_path / "x.xml", [replace(NP2, streams=("ProbeA",), serial="9")], node=200, processor="OneBox"
    )
    chain = (tmp_path / "x.xml").read_text()
    second = chain[
        chain.index('<PROCESSOR name="OneBox"') : chain.index("</PROCESSOR>") + len("</PROCESSOR>")
    ]
    (node / "settings.xml").write_text(text.replace("<SIGNALCHAIN>", "<SIGNALCHAIN>" + second))
    streams = [wide("ProbeA"), wide("ProbeA", processor="OneBox", node=200)]
    write_recording(node / "experiment1" / "recording1", streams)
    findings = openephys.find(tmp_path)
    assert {p.name: p.serial_number for p in findings.probes} == {"ProbeA": NP2.serial, "ProbeA_200": "9"}


# Sample numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_stretches_are_those_that_every_number_tells(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60000))
    steps = np.ones(n, dtype=np.int64)
    jumps = rng.choice(n, size=min(n, int(rng.integers(0, 12))), replace=False)
    steps[jumps] += rng.integers(1, 5000, size=len(jumps))
    numbers = 100 + np.cumsum(steps)
    rows = np.concatenate([[0], 1 + np.flatnonzero(np.diff(numbers) != 1)])
    ends = np.append(rows[1:], n)
    expected = [(int(row), int(end - row), int(numbers[row])) for row, end in zip(rows, ends, strict=True)]
    assert stretches(numbers) == expected


def test_jumps_back_that_later_ones_make_good_are_found():
    numbers = np.arange(200000)
    numbers[50000:120000] -= 30000
    assert [row for row, _, _ in stretches(numbers)] == [0, 50000, 120000]


def test_gaps_within_a_recording_and_between_two(tmp_path):
    inside = np.concatenate([np.arange(1000, 21000), np.arange(21300, 41300)])
    later = np.arange(101300, 131300)
    rng = np.random.default_rng(1)
    channels = tuple(f"CH{k}" for k in (1, 2, 384))
    data = [rng.integers(-500, 500, (len(numbers), 3)).astype(np.int16) for numbers in (inside, later)]
    streams = [
        wide(channels=channels, numbers=numbers, data=values)
        for numbers, values in zip((inside, later), data, strict=True)
    ]
    findings = one_probe(tmp_path, streams)
    assert codes(findings) == [("GAP", "ProbeB")]
    assert "2 gaps of 60300 samples (2.01 s) in all" in message(findings, "GAP")
    assert "recording1/continuous/Neuropix-PXI-100.ProbeB/continuous.dat at row 20000: 300" in message(
        findings, "GAP"
    )
    stream = findings.probes[0].ap
    assert [(p.first_row, p.n_samples, p.first_sample) for p in stream.pieces] == [
        (0, 20000, 1000),
        (20000, 20000, 21300),
        (0, 30000, 101300),
    ]
    assert np.array_equal(counts(stream), np.concatenate([inside, later]))
    (places,) = locate([stream], tmp_path)
    assert np.array_equal(StreamReader(stream, places).read(0, stream.n_samples), np.concatenate(data))


def test_recordings_are_ordered_by_their_number_not_their_text(tmp_path):
    streams = [wide(numbers=np.arange(k * 40000, k * 40000 + 3000)) for k in range(11)]
    stream = one_probe(tmp_path, streams).probes[0].ap
    assert [piece.first_sample for piece in stream.pieces] == [k * 40000 for k in range(11)]


def test_a_recording_that_goes_back_blocks(tmp_path):
    findings = one_probe(tmp_path, [wide(), wide(numbers=np.arange(36999, 80000))])
    assert codes(findings) == [("TIMESTAMPS_BACK", "ProbeB")]
    assert findings.faults[0].severity == "blocks"
    assert "recording2" in message(findings, "TIMESTAMPS_BACK")
    assert len(findings.probes) == 1


def test_numbers_that_go_back_within_a_recording_block(tmp_path):
    numbers = np.concatenate([np.arange(0, 40000), np.arange(39990, 80000)])
    findings = one_probe(tmp_path, [wide(numbers=numbers)])
    assert codes(findings, "blocks") == [("TIMESTAMPS_BACK", "ProbeB")]
    assert "at row 40000 the numbers go from 39999 back to 39990" in message(findings, "TIMESTAMPS_BACK")


def test_samples_of_the_acquisition_before_are_left_out(tmp_path):
    numbers = np.concatenate([np.arange(69299863 - 767, 69299864), np.arange(0, 40000)])
    findings = one_probe(tmp_path, [wide(numbers=numbers)])
    assert codes(findings) == [("STALE_SAMPLES", "ProbeB")]
    stream = findings.probes[0].ap
    assert [(p.first_row, p.n_samples, p.first_sample) for p in stream.pieces] == [(768, 40000, 0)]


def test_numbers_with_jumps_throughout_block(tmp_path):
    findings = one_probe(tmp_path, [wide(numbers=np.arange(0, 80000, 2))])
    assert codes(findings, "blocks") == [("TIMESTAMPS_BROKEN", "ProbeB")]


@pytest.mark.parametrize(
    ("stream", "code", "severity", "n_samples"),
    [
        (wide(n_rows=35999), "TRUNCATED", "blocks", 35999),
        (wide(n_rows=36000 + 4096), "SIZE_MISMATCH", "warns", 36000),
        (wide(n_rows=90000), "SIZE_MISMATCH", "blocks", 36000),
        # zeros were written for 1500 samples that have no number
        (
            wide(numbers=np.concatenate([np.arange(36000), np.arange(37500, 40000)]), n_rows=40000),
            "PADDED_SAMPLES",
            "warns",
            40000,
        ),
        (wide(n_rows=0), "EMPTY_FILE", "blocks", 0),
        (wide(numbers=np.arange(0)), "EMPTY_FILE", "blocks", 0),
        (wide(numbers=np.arange(20000)), "TOO_SHORT", "blocks", 20000),
    ],
)
def test_data_files_that_are_not_as_long_as_they_should(tmp_path, stream, code, severity, n_samples):
    findings = one_probe(tmp_path, [stream])
    assert codes(findings, severity) == [(code, "ProbeB")]
    assert findings.probes[0].ap.n_samples == n_samples
    assert len(findings.faults) == 1


def data_file(folder: Path) -> Path:
    """The only continuous.dat below a folder."""
    (path,) = folder.rglob("continuous.dat")
    return path


def test_a_sample_that_is_not_whole_blocks(tmp_path):
    one_probe(tmp_path, [wide()])
    with data_file(tmp_path).open("ab") as file:
        file.write(b"12345")
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("PARTIAL_SAMPLE", "ProbeB")]
    assert "found 5 more" in message(findings, "PARTIAL_SAMPLE")


def test_a_missing_data_file_blocks_its_probe_only(session):
    data = session / "Record Node 101/experiment1/recording1/continuous/Neuropix-PXI-100.ProbeA-AP"
    (data / "continuous.dat").unlink()
    findings = openephys.find(session)
    assert codes(findings) == [("BIN_MISSING", "ProbeA")]
    assert [(probe.name, probe.ap.n_samples) for probe in findings.probes] == [
        ("ProbeA", 0),
        ("ProbeB", 39500),
    ]


def test_a_broken_lf_band_is_left_out_with_a_warning(session):
    shutil.rmtree(session / "Record Node 101/experiment1/recording1/continuous/Neuropix-PXI-100.ProbeA-LFP")
    findings = openephys.find(session)
    assert codes(findings, "warns") == [("BIN_MISSING", "ProbeA")]
    assert codes(findings, "blocks") == []
    assert findings.probes[0].lf is None


def test_a_broken_nidq_blocks_the_session_a_broken_onebox_warns(session):
    for folder in ("NI-DAQmx-103.PXIe-6341", "OneBox-105.OneBox-ADC"):
        shutil.rmtree(session / "Record Node 101/experiment1/recording1/continuous" / folder)
    findings = openephys.find(session)
    assert codes(findings, "blocks") == [("BIN_MISSING", "")]
    assert codes(findings, "warns") == [("BIN_MISSING", "")]
    assert findings.daqs == []


def test_a_crash_leaves_headers_short(tmp_path):
    one_probe(tmp_path, [wide(channels=(*wide().channels, "CH_SYNC"))])
    numbers = data_file(tmp_path).with_name("sample_numbers.npy")
    write_npy(numbers, np.arange(1000, 36900), stated=16384)
    with data_file(tmp_path).open("ab") as file:
        file.write(b"123")  # the last sample was being written
    (states,) = tmp_path.rglob("states.npy")
    write_npy(states, np.array([1, -1, 1], dtype="<i2"), stated=0)
    findings = openephys.find(tmp_path)
    assert codes(findings) == [("META_UNFINISHED", "ProbeB")] * 2
    assert {fault.severity for fault in findings.faults} == {"warns"}
    stream = findings.probes[0].ap
    assert (stream.n_samples, stream.first_sample) == (35900, 1000)
    # the column is complete, the events may not be
    assert (stream.sync_line, stream.sync_column) == (None, 384)


def test_without_sample_numbers_the_first_is_that_of_sync_messages(tmp_path):
    one_probe(tmp_path, [wide()])
    data_file(tmp_path).with_name("sample_numbers.npy").unlink()
    findings = openephys.find(tmp_path)
    assert codes(findings, "warns") == [("SAMPLE_NUMBERS_MISSING", "ProbeB")]
    assert (findings.probes[0].ap.first_sample, findings.probes[0].ap.n_samples) == (1000, 36000)
    next(tmp_path.rglob("sync_messages.txt")).unlink()
    assert openephys.find(tmp_path).probes[0].ap.first_sample is None


def test_two_recordings_without_numbers_have_no_order(tmp_path):
    one_probe(tmp_path, [wide(), wide(numbers=np.arange(50000, 90000))])
    for path in [*tmp_path.rglob("continuous/*/sample_numbers.npy"), *tmp_path.rglob("sync_messages.txt")]:
        path.unlink()
    assert codes(openephys.find(tmp_path), "blocks") == [("ORDER_UNKNOWN", "ProbeB")]


def test_a_recording_in_which_nothing_was_recorded_is_left_out(tmp_path):
    empty = wide(numbers=np.arange(0), ttl=([], []))
    findings = one_probe(tmp_path, [empty, wide()])
    assert codes(findings, "warns") == [("EMPTY_FILE", "ProbeB")]
    assert codes(findings, "blocks") == []
    stream = findings.probes[0].ap
    assert (stream.n_samples, len(stream.pieces)) == (36000, 1)
    assert [file.size_bytes > 0 for file in stream.files if file.role == "data"] == [True]


def test_recordings_of_one_stream_must_be_alike(tmp_path):
    findings = one_probe(tmp_path, [wide(), wide(numbers=np.arange(50000, 90000), bit_volts=0.39)])
    assert ("SEGMENTS_DIFFER", "ProbeB") in codes(findings, "blocks")


# Compressed data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cbin", "zarr"])
def test_compressed_data_in_place_of_plain(tmp_path, form):
    rng = np.random.default_rng(2)
    values = rng.integers(-900, 900, (36000, 4)).astype(np.int16)
    write_session(tmp_path, [[wide(channels=("CH1", "CH2", "CH384", "CH_SYNC"), data=values)]], [NP2])
    plain = data_file(tmp_path)
    if form == "cbin":
        import mtscomp

        mtscomp.compress(
            plain, plain.with_suffix(".cbin"), plain.with_suffix(".ch"), 30000.0, 4, np.int16, n_threads=1
        )
    else:
        import zarr

        group = zarr.open_group(str(plain.with_suffix(".zarr")), mode="w")
        group.create_dataset("traces_seg0", data=values, chunks=(10000, 4))
    both = openephys.find(tmp_path)
    assert codes(both) == [("DUPLICATE_DATA", "ProbeB")]
    assert both.probes[0].ap.pieces[0].path.endswith("continuous.dat")
    plain.unlink()
    findings = openephys.find(tmp_path)
    assert findings.faults == []
    stream = findings.probes[0].ap
    roles = [file.role for file in stream.files]
    assert roles[:2] == (["data", "index"] if form == "cbin" else ["data", "meta"])
    (places,) = locate([stream], tmp_path)
    assert np.array_equal(StreamReader(stream, places).read(0, 36000), values)
    if form == "cbin":
        plain.with_suffix(".ch").unlink()
        assert codes(openephys.find(tmp_path), "blocks") == [("INDEX_MISSING", "ProbeB")]


def test_a_damaged_copy_is_named_by_its_path_below_raw(tmp_path):
    one_probe(tmp_path, [wide()])
    data_file(tmp_path).unlink()
    folder = next(tmp_path.rglob("continuous/*"))
    (folder / "continuous.cbin").write_bytes(b"xx")
    (folder / "continuous.ch").write_text("{}")
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("DATA_UNREADABLE", "ProbeB")]
    assert message(findings, "DATA_UNREADABLE").startswith("Record Node 101/experiment1/")


# Record Nodes and experiments ----------------------------------------------------------------------------


def two_nodes(tmp_path, first: list[OeStream], second: list[OeStream]):
    """A session with two Record Nodes; the one whose id is lower comes second in the order of names."""
    write_session(tmp_path, [first], [NP1, NP2], record_node=101)
    write_session(tmp_path, [second], [NP1, NP2], record_node=99)
    return openephys.find(tmp_path)


def test_nodes_with_different_streams_are_joined(tmp_path):
    findings = two_nodes(tmp_path, [ap(), lfp()], [wide(), nidq()])
    assert findings.faults == []
    assert [probe.name for probe in findings.probes] == ["ProbeA", "ProbeB"]
    assert findings.probes[1].ap.files[0].path.startswith("Record Node 99/")


def test_the_same_samples_of_two_nodes_are_taken_once_and_said(tmp_path):
    findings = two_nodes(tmp_path, [wide(), nidq()], [wide(), nidq()])
    assert codes(findings, "warns") == [("DUPLICATE_STREAM", ""), ("DUPLICATE_STREAM", "ProbeB")]
    assert codes(findings, "blocks") == []
    assert findings.probes[0].ap.pieces[0].path.startswith("Record Node 99/")
    text = next(f.message for f in findings.faults if f.probe)
    assert "node 99 with 36000 samples, node 101 with 36000 samples, the same ones" in text


def test_of_two_nodes_the_one_before_the_filter_is_taken(tmp_path):
    filtered = wide(history="Neuropix-PXI -> Record Node -> Bandpass Filter -> Record Node")
    findings = two_nodes(tmp_path, [wide()], [filtered])
    assert codes(findings) == [("DUPLICATE_STREAM", "ProbeB")]
    assert findings.probes[0].ap.pieces[0].path.startswith("Record Node 101/")
    assert "behind Bandpass Filter" in findings.faults[0].message


def test_of_two_nodes_the_one_with_more_samples_is_taken(tmp_path):
    findings = two_nodes(tmp_path, [wide()], [wide(numbers=np.arange(3000, 37000))])
    assert findings.probes[0].ap.n_samples == 36000
    assert "the same ones" not in message(findings, "DUPLICATE_STREAM")


def test_filtered_data_alone_are_used_with_a_warning(tmp_path):
    findings = one_probe(tmp_path, [wide(history="Neuropix-PXI -> Common Avg Ref -> Record Node")])
    assert codes(findings, "warns") == [("FILTERED", "ProbeB")]


def test_several_experiments_are_refused_with_their_folders(tmp_path):
    node = write_session(tmp_path, [[wide()]], [NP2])
    other = replace(NP2, serial="77")
    write_settings(node / "settings_2.xml", [other], date="1 Sep 2023 10:00:00")
    write_recording(node / "experiment2" / "recording1", [wide()])
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("MULTIPLE_EXPERIMENTS", "")]
    assert "Record Node 101/experiment1; Record Node 101/experiment2" in findings.faults[0].message
    assert (findings.probes, findings.headers) == ([], {"": (None, None)})
    # each alone, with its own settings
    second = openephys.find(node / "experiment2")
    assert second.faults == []
    assert second.probes[0].serial_number == "77"
    assert second.headers["ProbeB"][1] == "2023-09-01T10:00:00"


def test_links_gather_the_nodes_of_one_experiment(tmp_path):
    nodes = []
    for record_node, stream in ((101, wide()), (102, nidq())):
        node = write_session(tmp_path / "all", [[stream]], [NP2], record_node=record_node)
        write_settings(node / "settings_2.xml", [NP2])
        write_recording(node / "experiment2" / "recording1", [stream], record_node=record_node)
        nodes.append(node)
    (tmp_path / "second").mkdir()
    for node in nodes:
        (tmp_path / "second" / node.name).symlink_to(node / "experiment2")
    findings = openephys.find(tmp_path / "second")
    assert findings.faults == []
    assert ([probe.name for probe in findings.probes], findings.nidq.name) == (["ProbeB"], "nidq")


def test_two_sessions_in_one_folder_are_refused(tmp_path):
    for name in ("2026-01-01_10-00-00", "2026-01-02_10-00-00"):
        write_session(tmp_path / name, [[wide()]], [NP2])
    assert codes(openephys.find(tmp_path), "blocks") == [("MULTIPLE_EXPERIMENTS", "")]


# Headers -------------------------------------------------------------------------------------------------


def test_without_settings_the_electrodes_are_not_known(tmp_path):
    node = write_session(tmp_path, [[ap(), lfp()]], [NP1])
    (node / "settings.xml").unlink()
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("META_MISSING", "ProbeA")]
    # the time is then the PC's, in UTC
    assert findings.headers["ProbeA"] == ("0.6.7", "2023-08-31T06:41:36.435+00:00")


def test_settings_of_another_experiment_are_used_with_a_warning(tmp_path):
    node = write_session(tmp_path, [[wide()]], [NP2])
    (node / "experiment1").rename(node / "experiment2")
    findings = openephys.find(tmp_path)
    assert codes(findings) == [("SETTINGS_OTHER_EXPERIMENT", "")]
    assert len(findings.probes) == 1


def test_broken_headers(tmp_path):
    node = write_session(tmp_path, [[wide()]], [NP2])
    settings = (node / "settings.xml").read_text()
    (node / "settings.xml").write_text(settings[:2000])
    assert codes(openephys.find(tmp_path), "blocks") == [("META_UNREADABLE", "ProbeB")]
    (node / "settings.xml").write_text(settings)
    oebin = next(tmp_path.rglob("structure.oebin"))
    header = oebin.read_text()
    for broken in (header[:500], "[]", header.replace('"num_channels": 384', '"num_channels": 385')):
        oebin.write_text(broken)
        assert codes(openephys.find(tmp_path), "blocks") == [("META_UNREADABLE", "")]


@pytest.mark.parametrize(
    ("probe", "code"),
    [
        (replace(NP2, part_number="NP9999"), "UNKNOWN_PROBE"),
        (replace(NP2, part_number=""), "UNKNOWN_PROBE"),
        (replace(NP2, streams=("ProbeC",)), "SETTINGS_MISMATCH"),
    ],
)
def test_settings_without_the_probe(tmp_path, probe, code):
    write_session(tmp_path, [[wide()]], [probe])
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [(code, "ProbeB")]
    assert findings.probes == []


def test_plugins_that_noted_no_electrodes(tmp_path):
    write_session(tmp_path, [[ap(), lfp()]], [], gui="0.5.4")
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("UNKNOWN_PROBE", "ProbeA")]


def test_an_lf_band_without_its_ap_band(tmp_path):
    write_session(tmp_path, [[lfp()]], [NP1])
    assert codes(openephys.find(tmp_path), "blocks") == [("AP_MISSING", "ProbeA")]


def test_streams_that_are_of_no_probe_are_named(tmp_path):
    streams = [
        wide(),
        OeStream("example", ("CH1", "CH2"), processor="Acquisition Board", node=200),
        OeStream("PortB-Probe-AP", ("AP0", "AP1"), processor="ONIX Source", node=300),
        OeStream("BNO055", ("A", "B"), rate=100.0, processor="ONIX Source", node=300),
    ]
    write_session(tmp_path, [streams], [NP2])
    findings = openephys.find(tmp_path)
    assert codes(findings, "blocks") == [("UNSUPPORTED_STREAM", "PortB-Probe")]
    assert codes(findings, "warns") == [("UNSUPPORTED_STREAM", "")] * 2
    assert "2 channels at 30000 Hz of Acquisition Board" in "".join(f.message for f in findings.faults)
    assert [probe.name for probe in findings.probes] == ["ProbeB"]


# Sync ----------------------------------------------------------------------------------------------------


def test_without_any_sync_a_probe_is_blocked_if_there_are_other_clocks(tmp_path):
    write_session(tmp_path / "alone", [[wide(ttl=None)]], [NP2])
    assert codes(openephys.find(tmp_path / "alone"), "warns") == [("SYNC_MISSING", "ProbeB")]
    write_session(tmp_path / "nidq", [[wide(ttl=([5000], [2])), nidq()]], [NP2])
    findings = openephys.find(tmp_path / "nidq")
    assert codes(findings, "blocks") == [("SYNC_MISSING", "ProbeB")]
    assert [(line.line, line.name) for line in findings.probes[0].ap.ttl] == [(2, "TTL2")]


def test_a_sync_column_serves_where_there_are_no_events(tmp_path):
    write_session(tmp_path, [[wide(channels=(*wide().channels, "CH_SYNC"), ttl=([], [])), nidq()]], [NP2])
    findings = openephys.find(tmp_path)
    assert findings.faults == []
    stream = findings.probes[0].ap
    assert (stream.sync_line, stream.sync_column, stream.sync_bit) == (None, 384, None)
    assert len(stream.channels) == 384


def test_events_whose_files_do_not_fit_are_not_used(tmp_path):
    one_probe(tmp_path, [wide()])
    (states,) = tmp_path.rglob("states.npy")
    write_npy(states, np.array([1, -1], dtype="<i2"))
    findings = openephys.find(tmp_path)
    assert codes(findings, "warns") == [("META_UNREADABLE", "ProbeB"), ("SYNC_MISSING", "ProbeB")]
    assert findings.probes[0].ap.ttl == []


def test_the_inputs_of_a_second_device_and_stated_numbers_of_lines(tmp_path):
    write_session(tmp_path, [[wide(), nidq(), nidq("USB-6001", node=104)]], [NP2])
    oebin = next(tmp_path.rglob("structure.oebin"))
    text = oebin.read_text()
    stated = "Digital Line from a NIDAQ device containing 4 inputs"
    place = text.index('"description": "TTL events"', text.index("NI-DAQmx-103.PXIe-6341/TTL/"))
    oebin.write_text(text[:place] + text[place:].replace("TTL events", stated, 1))
    findings = openephys.find(tmp_path)
    assert findings.faults == []
    assert [line.name for line in findings.nidq.ttl] == ["TTL1", "TTL2", "TTL3", "TTL4"]
    assert [(stream.name, stream.kind, len(stream.ttl)) for stream in findings.daqs] == [("nidq1", "nidq", 8)]
