"""Every SpikeGLX recording and header of the public collections: what INSPECT must say of each.

The numbers were taken from the headers' text; shanks and channel counts are those of probeinterface,
gains those of neo and of IBL's reader where these read the file (not NP1110, where 0.6 V / 512 / 500
was reckoned by hand; IBL's reader takes 100 for the gain of 80 of PRB2 probes).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from powerpixels import inventory, sglx_layout
from powerpixels.documents import Inventory, Stream
from powerpixels.rawdata import StreamReader, locate


class Header(NamedTuple):
    """A header without data: part number, probe, file's columns, channels, shanks, µV per count, Hz, seconds."""

    part_number: str | None
    probe: str
    n_columns: int
    n_channels: int
    shanks: tuple[int, ...]
    gain_uv: float
    rate: float
    seconds: float
    more: tuple[str, ...] = ()


NP1, NP2A, NP2B, LF = 2.34375, 0.762939453125, 3.02734375, 4.6875
FOUR = (0, 1, 2, 3)
CATGT = ("CATGT_PROCESSED",)
SAMPLE_3A = Header(None, "probe00", 385, 384, (0,), NP1, 30000, 1568.537)
SAMPLE_3B = Header("PRB_1_4_0480_1", "probe01", 385, 384, (0,), NP1, 30000.390639481, 824.464)
SAMPLE_21 = Header("PRB2_1_2_0640_0", "probe00", 385, 384, (0,), NP2A, 30000, 3.0)
SAMPLE_24_ONE = Header("NP2010", "probe01", 385, 384, (0,), NP2A, 30000, 4321.667)
SAMPLE_24_FOUR = Header("NP2010", "probe00", 385, 384, FOUR, NP2A, 29999.757983, 3.0)
QUAD_BASE = Header("NP2021", "probe00", 1540, 1536, FOUR, NP2B, 30000, 201.603)
NP24_SPLIT = Header("NP2010", "probe00", 385, 384, FOUR, NP2A, 29999.757983, 1.0)
SPIKEWRAP = Header("NP2010", "probe00", 385, 384, (1, 2), NP2A, 30000, 0.5)

IBL = "ibl-neuropixel/fixtures"
SPLIT = f"{IBL}/np2split"
IBL_NAME = "_spikeglx_ephysData_g0_t0.imec0.ap.meta"
PIPES, FPGA = "ibllib/ibllib/tests/fixtures/pipes", "ibllib/ibllib/tests/fixtures/sync_ephys_fpga"
PI = "probeinterface/spikeglx"
WRAP = "spikewrap/example_tiny_data/spikeglx/rawdata/sub-001/ses-001/ephys"
NEUROCONV = "neuroconv_ephy_testing_data/spikeglx"

AP_HEADERS = {
    f"{SPLIT}/NP1_meta/{IBL_NAME}": Header(
        "PRB_1_4_0480_1", "probe00", 385, 384, (0,), NP1, 29999.757983, 1.0
    ),
    f"{SPLIT}/NP21_meta/{IBL_NAME}": Header("PRB2_1_2_0640_0", "probe00", 385, 384, (0,), NP2A, 30000, 1.0),
    f"{SPLIT}/NP24_meta/{IBL_NAME}": NP24_SPLIT,
    f"{SPLIT}/NP2QB_meta/{IBL_NAME}": QUAD_BASE,
    f"{SPLIT}/{IBL_NAME}": NP24_SPLIT,
    f"{IBL}/sample3A_g0_t0.imec.ap.meta": SAMPLE_3A,
    f"{IBL}/sample3A_short_g0_t0.imec.ap.meta": SAMPLE_3A._replace(seconds=2.537),
    f"{IBL}/sample3B2_exported.imec0.ap.meta": Header(
        "PRB_1_2_0480_2", "probe00", 302, 301, (0,), NP1, 29999.83625, 100.0, CATGT
    ),
    f"{IBL}/sample3B_g0_t0.imec1.ap.meta": SAMPLE_3B,
    f"{IBL}/sample3B_version202304.ap.meta": Header(
        "PRB_1_4_0480_1_C", "probe01", 385, 384, (0,), NP1, 30000, 4204.143
    ),
    f"{IBL}/sampleNHPlong_prototype.ap.meta": Header(
        "NP1030", "probe01", 385, 384, (0,), NP1, 30000, 8928.958
    ),
    f"{IBL}/sampleNP2.1_g0_t0.imec.ap.meta": SAMPLE_21,
    f"{IBL}/sampleNP2.4_1shank_g0_t0.imec.ap.meta": SAMPLE_24_ONE,
    f"{IBL}/sampleNP2.4_4shanks_appVersion20230905.ap.meta": Header(
        "NP2014", "probe01", 385, 384, FOUR, NP2B, 30000, 4732.413
    ),
    f"{IBL}/sampleNP2.4_4shanks_g0_t0.imec.ap.meta": SAMPLE_24_FOUR,
    f"{IBL}/sampleNP2QB.imec.ap.meta": QUAD_BASE,
    f"{IBL}/sampleNPultra_g0_t0.imec0.ap.meta": Header(
        "NP1100", "probe00", 385, 384, (0,), NP1, 30000, 4040.306
    ),
    f"{PIPES}/sample3A_g0_t0.imec.ap.meta": SAMPLE_3A,
    f"{PIPES}/sample3B_g0_t0.imec1.ap.meta": SAMPLE_3B,
    f"{PIPES}/sampleNP2.1_g0_t0.imec.ap.meta": SAMPLE_21,
    f"{PIPES}/sampleNP2.4_1shank_g0_t0.imec.ap.meta": SAMPLE_24_ONE,
    f"{PIPES}/sampleNP2.4_4shanks_g0_t0.imec.ap.meta": SAMPLE_24_FOUR,
    f"{FPGA}/sample3A_g0_t0.imec.ap.meta": SAMPLE_3A,
    f"{FPGA}/sample3B_g0_t0.imec1.ap.meta": SAMPLE_3B,
    f"{PI}/NP-Ultra.meta": Header("NP1100", "probe00", 385, 384, (0,), NP1, 30000, 4532.356),
    f"{PI}/NP1110_bank0_g0_t0.imec0.ap.meta": Header("NP1110", "probe00", 385, 384, (0,), NP1, 30000, 16.393),
    f"{PI}/NP1110_botrow80_g0_t0.imec0.ap.meta": Header(
        "NP1110", "probe00", 385, 384, (0,), NP1, 30000, 6.551
    ),
    f"{PI}/NP1_saved_only_subset_of_channels.meta": Header(
        "PRB_1_4_0480_1_C", "probe01", 152, 151, (0,), NP1, 30000, 10827.463
    ),
    f"{PI}/NP2_2013_all_channels.imec0.ap.meta": Header(
        "NP2013", "probe00", 385, 384, FOUR, NP2B, 30000, 8.059
    ),
    f"{PI}/NP2_4_shanks.imec0.ap.meta": Header("NP2010", "probe00", 385, 384, FOUR, NP2A, 30000, 1.022),
    f"{PI}/NP2_4_shanks_save_different_electrodes.imec0.ap.meta": Header(
        "NP2010", "probe00", 385, 384, FOUR, NP2A, 30000, 4.676
    ),
    f"{PI}/Noise_g0_t0.imec0.ap.meta": Header("PRB_1_4_0480_1", "probe00", 385, 384, (0,), NP1, 30000, 5.265),
    f"{PI}/allan-longcol_g0_t0.imec0.ap.meta": Header(
        "PRB_1_4_0480_1_C", "probe00", 385, 384, (0,), NP1, 29999.941586, 1734.103
    ),
    f"{PI}/catgt.meta": Header(
        "PRB_1_4_0480_1_C", "probe00", 385, 384, (0,), NP1, 30000.149579831934, 4269.447, CATGT
    ),
    f"{PI}/doppio-checkerboard_t0.imec0.ap.meta": Header(
        "PRB_1_4_0480_1_C", "probe00", 385, 384, (0,), NP1, 30000.030168, 7200.0
    ),
    f"{PI}/non_human_primate_long_staggered.imec0.ap.meta": Header(
        "NP1030", "probe00", 385, 384, (0,), NP1, 30000, 458.11
    ),
    f"{PI}/p2_g0_t0.imec0.ap.meta": Header(
        "PRB2_1_2_0640_0", "probe00", 385, 384, (0,), NP2A, 30000, 1956.954
    ),
    f"{PI}/phase3a.imec.ap.meta": Header(None, "probe00", 385, 384, (0,), NP1, 30000, 194.083),
    f"{WRAP}/run-001_g0_imec0/run-001_g0_t0.imec0.ap.meta": SPIKEWRAP,
    f"{WRAP}/run-002_g0_imec0/run-002_g0_t0.imec0.ap.meta": SPIKEWRAP,
}
# columns, channels, µV per count, Hz, seconds
LF_HEADERS = {
    "CSC-UW-ecephys/data/example-data.exported.imec0.lf.meta": (385, 384, LF, 2500.002514, 20.0),
    f"{IBL}/sample3A_g0_t0.imec.lf.meta": (385, 384, LF, 2500, 3601.12),
    f"{IBL}/sample3B_g0_t0.imec1.lf.meta": (385, 384, LF, 2500.0325532900833, 824.464),
}
NIDQ_HEADERS = [f"{folder}/sample3B_g0_t0.nidq.meta" for folder in (IBL, PIPES, FPGA)]


def inspect(raw: Path) -> Inventory:
    return inventory.inspect_session(raw, "mouse01", "2026-03-01", look_at_data=False)


def faults(found: Inventory) -> set[tuple]:
    return {(fault.probe, fault.stream, fault.code, fault.severity) for fault in found.faults}


def blocking(found: Inventory) -> set[tuple]:
    return {(fault.probe, fault.code) for fault in found.faults if fault.severity == "blocks"}


def alone(path: Path, folder: Path) -> Path:
    """A folder with nothing but a link to the file."""
    (folder / path.name).symlink_to(path)
    return folder


def test_the_tables_have_every_header(real_data):
    """Those in folders of whole recordings are in the tests further down."""
    listed = {*AP_HEADERS, *LF_HEADERS, *NIDQ_HEADERS}
    found = {path.relative_to(real_data).as_posix() for path in real_data.rglob("*.meta")}
    assert {name for name in found if not name.startswith(NEUROCONV)} == listed
    assert len(found) - len(listed) == 65


@pytest.mark.parametrize("name", AP_HEADERS)
def test_ap_headers_without_data(real_data, tmp_path, name):
    """All is known of the probe, and its data file is missing."""
    expected = AP_HEADERS[name]
    found = inspect(alone(real_data / name, tmp_path))
    (probe,) = found.probes
    stream = probe.ap
    assert (probe.name, probe.part_number, probe.shanks) == (
        expected.probe,
        expected.part_number,
        list(expected.shanks),
    )
    assert (stream.n_columns, len(stream.channels)) == (expected.n_columns, expected.n_channels)
    np.testing.assert_allclose([channel.gain_uv for channel in stream.channels], expected.gain_uv, rtol=1e-9)
    assert stream.sampling_rate_hz == pytest.approx(expected.rate, rel=1e-12)
    assert stream.n_samples / stream.sampling_rate_hz == pytest.approx(expected.seconds, abs=6e-4)
    # phase 3A has 16 lines of input: the header names the one with the sync wave
    sync_bit = 0 if name == f"{PI}/phase3a.imec.ap.meta" else 6
    assert (stream.sync_column, stream.sync_bit) == (expected.n_channels, sync_bit)
    assert stream.name == f"imec{int(expected.probe[5:])}.ap"
    codes = {"BIN_MISSING", *expected.more}
    assert {fault.code for fault in found.faults} == codes
    assert blocking(found) == {(expected.probe, "BIN_MISSING")}
    assert inventory.head_document(found)["streams"] == []


@pytest.mark.parametrize("name", LF_HEADERS)
def test_lf_headers_alone(real_data, tmp_path, name):
    n_columns, n_channels, gain_uv, rate, seconds = LF_HEADERS[name]
    stream = sglx_layout.sglx.read_stream(real_data / name, real_data)
    assert (stream.kind, stream.n_columns, len(stream.channels)) == ("lf", n_columns, n_channels)
    np.testing.assert_allclose([channel.gain_uv for channel in stream.channels], gain_uv, rtol=1e-9)
    assert stream.sampling_rate_hz == pytest.approx(rate, rel=1e-12)
    assert stream.n_samples / rate == pytest.approx(seconds, abs=6e-4)
    found = inspect(alone(real_data / name, tmp_path))
    probe = "probe01" if "imec1" in name else "probe00"
    assert blocking(found) == {(probe, "AP_MISSING")} and found.probes == []


@pytest.mark.parametrize("name", NIDQ_HEADERS)
def test_nidq_headers_alone(real_data, tmp_path, name):
    found = inspect(alone(real_data / name, tmp_path))
    assert faults(found) == {(None, "nidq", "BIN_MISSING", "blocks")}
    nidq = found.nidq
    assert [(line.raw_column, line.name, line.gain_v) for line in nidq.analog] == [(0, "AI0", 5 / 32768)]
    assert [line.name for line in nidq.digital] == [f"P0.{k}" for k in range(8)]
    assert (nidq.sync_column, nidq.sync_bit, nidq.first_sample) == (1, 3, 1738164)
    assert nidq.n_samples / nidq.sampling_rate_hz == pytest.approx(824.461, abs=6e-4)


def test_folders_of_headers(real_data):
    """Collections are no sessions: many runs, or the same stream many times; each is named."""
    found = inspect(real_data / IBL)
    assert blocking(found) == {(None, "MULTIPLE_RUNS")}
    assert "test4olivier" not in found.faults[0].message  # the files' own names come first
    assert "sample3B (sample3B_g0_t0.imec1.ap.meta)" in found.faults[0].message
    found = inspect(real_data / SPLIT)
    assert faults(found) == {("probe00", "imec0.ap", "DUPLICATE_STREAM", "blocks")}
    assert all(f"NP{name}_meta/{IBL_NAME}" in found.faults[0].message for name in ("1", "21", "24", "2QB"))
    assert blocking(inspect(real_data / WRAP)) == {(None, "MULTIPLE_RUNS")}


def test_an_index_and_a_header_without_the_compressed_file(real_data, tmp_path):
    """IBL's own .ch: with a .cbin of the size that it states, all that INSPECT asks for is there."""
    for end in ("ch", "meta"):
        path = real_data / SPLIT / f"{IBL_NAME.removesuffix('meta')}{end}"
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert blocking(inspect(tmp_path)) == {("probe00", "BIN_MISSING")}
    with (tmp_path / f"{IBL_NAME.removesuffix('meta')}cbin").open("wb") as data:
        data.truncate(12028183)  # the last of chunk_offsets
    found = inspect(tmp_path)
    assert found.faults == []
    assert found.probes[0].ap.n_samples == 30000 and found.probes[0].shanks == [0, 1, 2, 3]


def test_recordings_of_neuroconv(real_data):
    """The public recordings are cut short: that, and what each folder holds, must be said."""
    folder = real_data / NEUROCONV
    found = inspect(folder / "Noise4Sam_g0")
    assert faults(found) == {
        ("probe00", "imec0.ap", "TRUNCATED", "blocks"),
        ("probe00", "imec0.lf", "BIN_MISSING", "warns"),
        (None, "nidq", "SYNC_SOURCE_NONE", "warns"),
    }
    (probe,) = found.probes
    assert (probe.part_number, probe.serial_number, probe.shanks) == ("PRB_1_4_0480_1", "18194809281", [0])
    assert (len(probe.ap.channels), probe.ap.n_samples, probe.ap.sync_column) == (384, 889350 // 770, 384)
    nidq = found.nidq
    assert (nidq.n_samples, nidq.sampling_rate_hz, len(nidq.analog)) == (1095552 // 18, 11574.074074, 8)
    assert (found.session.start_time, found.session.acquisition_version) == (
        "2020-11-03T10:35:10",
        "20190327",
    )
    head = inventory.head_document(found)
    assert head["reference"] == "nidq" and [stream["stream"] for stream in head["streams"]] == ["nidq"]

    found = inspect(folder / "TEST_20210920_0_g0")
    assert faults(found) == {("probe00", "imec0.ap", "TRUNCATED", "blocks")}
    assert (found.probes[0].shanks, found.nidq, found.probes[0].ap.n_samples) == ([0, 1, 2, 3], None, 1000)

    found = inspect(folder / "NP2_no_sync")
    assert faults(found) == {
        ("probe00", "imec0.ap", "SYNC_MISSING", "warns"),
        ("probe00", "imec0.ap", "TRUNCATED", "blocks"),
    }
    assert (found.probes[0].part_number, found.probes[0].ap.n_columns) == ("NP2013", 384)

    assert blocking(inspect(folder)) == {(None, "MULTIPLE_RUNS")}


MULTI = f"{NEUROCONV}/multi_trigger_multi_gate"
# run: by stream the files' (firstSample, samples), from the headers, in the order g0_t0, g0_t1, g1_t0, g1_t1
RUNS = {
    "5-19-2022-CI0": {
        "imec0.ap": [(373751, 300), (374050, 300), (532464, 300), (532763, 300)],
        "imec0.lf": [(31145, 26), (31170, 26), (44372, 25), (44396, 26)],
        "imec1.ap": [(373748, 299), (374047, 299), (532458, 299), (532758, 299)],
        "imec1.lf": [(31145, 26), (31170, 26), (44371, 26), (44396, 26)],
    },
    "5-19-2022-CI1": {
        "imec0.ap": [(471107, 300), (471407, 300), (620363, 300), (620663, 300)],
        "imec0.lf": [(39258, 26), (39283, 26), (51696, 26), (51721, 26)],
        "imec1.ap": [(471103, 299), (471402, 299), (620357, 299), (620656, 299)],
        "imec1.lf": [(39258, 26), (39283, 26), (51696, 26), (51721, 26)],
    },
    "5-19-2022-CI3": {
        "imec0.ap": [(433667, 300), (463966, 300), (678911, 300), (709210, 300)],
        "imec0.lf": [(36138, 26), (38663, 26), (56575, 26), (59100, 26)],
        "imec1.ap": [(433663, 299), (463962, 299), (678905, 299), (709203, 299)],
        "imec1.lf": [(36138, 26), (38663, 26), (56575, 26), (59100, 26)],
    },
}


def streams_of(found: Inventory) -> dict[str, Stream]:
    return {stream.name: stream for probe in found.probes for stream in (probe.ap, probe.lf)}


@pytest.mark.parametrize("run", RUNS)
def test_gates_and_triggers(real_data, monkeypatch, run):
    """Two probes, two gates of two triggers of 10 ms; LF streams, too, once their length is not minded."""
    raw = real_data / MULTI / "SpikeGLX" / run
    found = inspect(raw)
    assert blocking(found) == {("probe00", "TOO_SHORT"), ("probe01", "TOO_SHORT")}
    assert [(probe.name, probe.serial_number, probe.lf) for probe in found.probes] == [
        ("probe00", "18194803162", None),
        ("probe01", "18194803842", None),
    ]
    monkeypatch.setattr(sglx_layout, "MIN_SECONDS", 0.0)
    found = inspect(raw)
    assert blocking(found) == set()
    streams = streams_of(found)
    assert set(streams) == set(RUNS[run])
    for name, files in RUNS[run].items():
        stream = streams[name]
        # which samples of the run each file adds: those that no earlier one has
        kept, end = [], 0
        for first, n in files:
            start = max(first, end)
            kept.append((start - first, first + n - start, start))
            end = first + n
        assert [(piece.first_row, piece.n_samples, piece.first_sample) for piece in stream.pieces] == kept, (
            name
        )
        overlaps = sum(row > 0 for row, _, _ in kept)
        gaps = sum(b[2] > a[2] + a[1] for a, b in zip(kept, kept[1:], strict=False))
        own = {fault.code: fault.message for fault in found.faults if fault.stream == name}
        assert set(own) == ({"OVERLAP"} if overlaps else set()) | ({"GAP"} if gaps else set())
        assert f"found {gaps} gap" in own["GAP"] and len(stream.blocks()) == gaps + 1
        assert stream.n_acquired == files[-1][0] + files[-1][1] - files[0][0]
        folders = re.findall(r"g\d_t\d", " ".join(Path(piece.path).name for piece in stream.pieces))
        assert folders == ["g0_t0", "g0_t1", "g1_t0", "g1_t1"]
        rows = np.concatenate(
            [
                np.fromfile(raw / piece.path, "<i2").reshape(-1, 385)[piece.first_row :]
                for piece in stream.pieces
            ]
        )
        reader = StreamReader(stream, locate([stream], raw)[0])
        np.testing.assert_array_equal(reader.read(0, stream.n_samples), rows)


def catgt_offsets(path: Path) -> dict[str, list[int]]:
    """CatGT's table of where each input file's first sample lies in its output, in samples, by stream."""
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith("smp_")]
    names = {"smp_imap": "ap", "smp_imlf": "lf"}
    return {f"imec{key[8:-1]}.{names[key[:8]]}": [int(value) for value in values] for key, *values in lines}


def tcat_rows(folder: Path, name: str) -> np.ndarray:
    (path,) = folder.rglob(f"*_tcat.{name}.bin")
    return np.fromfile(path, "<i2").reshape(-1, 385)


@pytest.mark.parametrize(
    "output, gates", [("CatGT-A", ["g0"]), ("CatGT-B", ["g0"]), ("CatGT-C", ["g0", "g1"])]
)
def test_files_are_put_together_as_catgt_does(real_data, tmp_path, monkeypatch, output, gates):
    """CatGT's joined files of CI0: where each file lies in them, how long they are, their sync words.

    (Of the other samples nothing can be said: the collection's originals are shortened stand-ins, the two
    triggers of a gate the same bytes, and CatGT aligned the channels.) CatGT was told to close gaps, so the
    offsets are those of "sample k of the stream". The version of CatGT that made C did not see an overlap any
    more after a gap that it had closed (its later code compares neighbouring files, as ours does): there the
    one sample that two files share is in its output twice.
    """
    monkeypatch.setattr(sglx_layout, "MIN_SECONDS", 0.0)
    originals = real_data / MULTI / "SpikeGLX" / "5-19-2022-CI0"
    for gate in gates:
        os.symlink(originals / f"5-19-2022-CI0_{gate}", tmp_path / f"5-19-2022-CI0_{gate}")
    streams = streams_of(inspect(tmp_path))
    folder = real_data / MULTI / "CatGT" / output
    (table,) = folder.rglob("*_ct_offsets.txt")
    offsets = catgt_offsets(table)
    assert set(offsets) == set(streams) == set(RUNS["5-19-2022-CI0"])
    for name, stream in streams.items():
        starts = np.cumsum([0] + [piece.n_samples for piece in stream.pieces[:-1]])
        ours = [int(start) - piece.first_row for start, piece in zip(starts, stream.pieces, strict=True)]
        unseen = stream.pieces[3].first_row if len(gates) == 2 else 0
        assert ours[:3] == offsets[name][:3], name
        assert [start + unseen for start in ours[3:]] == offsets[name][3:], name
        theirs = tcat_rows(folder, name)
        assert len(theirs) == stream.n_samples + unseen, name
        sync = StreamReader(stream, locate([stream], tmp_path)[0]).read(0, stream.n_samples, [384])
        np.testing.assert_array_equal(sync, theirs[: stream.n_samples, [384]])
        # within a gate no gap is closed: the count of acquired samples is CatGT's offset, too
        if gates == ["g0"]:
            acquired = [piece.first_sample - piece.first_row - stream.first_sample for piece in stream.pieces]
            assert acquired == offsets[name]


@pytest.mark.parametrize("output, n_files", [("CatGT-A", 2), ("CatGT-B", 2), ("CatGT-C", 4)])
def test_catgt_output_whose_gaps_are_closed(real_data, output, n_files):
    """All of them were made with -zerofillmax=0."""
    found = inspect(real_data / MULTI / "CatGT" / output)
    assert blocking(found) == {
        (probe, code) for probe in ("probe00", "probe01") for code in ("CATGT_GAPS_CLOSED", "TOO_SHORT")
    }
    messages = [fault.message for fault in found.faults if fault.code == "CATGT_GAPS_CLOSED"]
    assert len(messages) == 4 and all(f"joined {n_files} files with -zerofillmax=0" in m for m in messages)
    assert [probe.ap.n_samples for probe in found.probes] == {2: [599, 598], 4: [1199, 1196]}[n_files]


def test_nothing_is_chosen_between_originals_and_catgt_output(real_data, tmp_path):
    os.symlink(real_data / MULTI / "SpikeGLX" / "5-19-2022-CI0", tmp_path / "originals")
    os.symlink(real_data / MULTI / "CatGT" / "CatGT-A", tmp_path / "processed")
    found = inspect(tmp_path)
    assert blocking(found) == {("probe00", "DUPLICATE_STREAM"), ("probe01", "DUPLICATE_STREAM")}
    text = found.faults[0].message
    assert "originals/5-19-2022-CI0_g0/" in text and "processed/catgt_5-19-2022-CI0_g0/" in text
    assert blocking(inspect(real_data / MULTI)) == {(None, "MULTIPLE_RUNS")}
