"""Inventories of raw folders: layouts, every fault, isolation of one probe from another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from powerpixels import inventory
from powerpixels.documents import Block, Inventory, ProbeDocument, StreamDocument
from powerpixels.layouts import LAYOUTS, relayout
from powerpixels.rawdata import StreamReader, locate
from powerpixels.simulate import Truth
from powerpixels.stage import EXIT_DATA_ERROR, DataError
from sglx_files import nidq_header, np1_header, np2_header, obx_header, sampling_rate, write_recording

SCRIPT = Path(__file__).resolve().parent.parent / "bin" / "pp_inspect.py"

AP0 = "run_g0_imec0/run_g0_t0.imec0.ap"
LF0 = "run_g0_imec0/run_g0_t0.imec0.lf"
AP1 = "run_g0_imec1/run_g0_t0.imec1.ap"
NIDQ = "run_g0_t0.nidq"


def write_session(run: Path) -> Path:
    """Two probes (1.0 with LF, four-shank 2.0) and a NIDQ, folder per probe; nothing is wrong."""
    write_recording(run / f"{AP0}.meta", np1_header())
    write_recording(run / f"{LF0}.meta", np1_header("lf"))
    write_recording(run / f"{AP1}.meta", np2_header())
    write_recording(run / f"{NIDQ}.meta", nidq_header())
    return run


@pytest.fixture
def run(tmp_path) -> Path:
    return write_session(tmp_path / "raw" / "run_g0")


def inspect(raw: Path) -> Inventory:
    """By headers and file sizes alone: the data files of these tests are zeros."""
    return inventory.inspect_session(raw, "mouse01", "2026-03-01_001", look_at_data=False)


def documents(raw: Path) -> dict:
    return inventory.stage_documents(
        inventory.inspect_documents(raw, "mouse01", "2026-03-01", look_at_data=False)
    )


def faults(found: Inventory) -> set[tuple]:
    return {(fault.probe, fault.stream, fault.code, fault.severity) for fault in found.faults}


def message(found: Inventory, code: str) -> str:
    (fault,) = [fault for fault in found.faults if fault.code == code]
    return fault.message


def set_key(meta: Path, key: str, value: str | None) -> None:
    """Replace (None: remove) one key of a header that is there already."""
    lines = meta.read_text().splitlines()
    kept = [line for line in lines if line.split("=")[0].lstrip("~") != key.lstrip("~")]
    assert len(kept) < len(lines), f"{meta} has no {key}"
    meta.write_text("\n".join(kept + ([] if value is None else [f"{key}={value}"])) + "\n")


def test_a_sound_session(run):
    found = inspect(run)
    assert found.faults == []
    assert [probe.name for probe in found.probes] == ["probe00", "probe01"]
    first, second = found.probes
    assert (first.part_number, first.serial_number, first.shanks) == ("PRB_1_4_0480_1", "18005116811", [0])
    assert (second.part_number, second.shanks, second.lf) == ("NP2014", [0, 1, 2, 3], None)
    assert (first.ap.name, first.lf.name, first.ap.n_samples, first.lf.n_samples) == (
        ("imec0.ap", "imec0.lf", 60000, 5000)
    )
    assert (found.nidq.name, found.nidq.n_samples, found.nidq.sync_column) == ("nidq", 20000, 2)
    assert (found.session.acquisition_version, found.session.start_time) == (
        "20230411",
        "2026-03-01T10:35:09",
    )
    head = inventory.head_document(found)
    ap0, lf0, ap1, nidq = ([f"{stem}.bin", f"{stem}.meta"] for stem in (AP0, LF0, AP1, NIDQ))
    assert head == {
        "session_blocked": None,
        "reference": "nidq",
        "probes": [
            {
                "probe": "probe00",
                "shanks": [0],
                "serial": "18005116811",
                "files": ap0,
                "blocked": None,
            },
            {
                "probe": "probe01",
                "shanks": [0, 1, 2, 3],
                "serial": "22420006883",
                "files": ap1,
                "blocked": None,
            },
        ],
        "daqs": [{"stream": "nidq", "files": nidq}],
        "streams": [
            {"stream": "imec0.ap", "probe": "probe00", "files": ap0},
            {"stream": "imec0.lf", "probe": "probe00", "files": lf0},
            {"stream": "imec1.ap", "probe": "probe01", "files": ap1},
            {"stream": "nidq", "probe": "", "files": nidq},
        ],
    }


def test_the_runs_folder_or_its_parent_with_or_without_a_folder_per_probe(run, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in run.rglob("*.*"):
        os.link(path, flat / path.name)
    in_parent, in_flat = inspect(run.parent), inspect(flat)
    assert [file.path for file in in_parent.probes[0].ap.files] == [f"run_g0/{AP0}.bin", f"run_g0/{AP0}.meta"]
    assert [file.path for file in in_flat.probes[1].ap.files] == [
        f"{Path(AP1).name}.bin",
        f"{Path(AP1).name}.meta",
    ]

    def all_but_paths(found: Inventory) -> str:
        return re.sub(r'"path":"[^"]*"', "", found.model_dump_json())

    assert all_but_paths(in_parent) == all_but_paths(in_flat) == all_but_paths(inspect(run))


def test_names_of_phase_3a_and_names_without_a_gate(tmp_path):
    header = np1_header(
        device="imec", imDatPrb_pn=None, imProbeOpt="3", imProbeSN="641251510", imDatPrb_sn=None
    )
    write_recording(tmp_path / "a" / "run_g0_t0.imec.ap.meta", header)
    (probe,) = inspect(tmp_path / "a").probes
    assert (probe.name, probe.part_number, probe.serial_number) == ("probe00", None, "641251510")
    write_recording(tmp_path / "b" / "left.meta", np1_header(device="imec7"))
    found = inspect(tmp_path / "b")
    assert [probe.name for probe in found.probes] == ["probe07"] and found.faults == []


def test_other_programs_files_are_left_alone(run):
    (run / "temp_wh.bin").write_bytes(b"12")
    (run / f"._{NIDQ}.meta").write_bytes(b"\0\5\26\7")
    (run / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)
    (run / "a" / "b" / "c" / "d" / "e" / "old_g0_t0.imec0.ap.bin").write_bytes(b"12")
    (run / ".trash").mkdir()
    (run / ".trash" / "run_g0_t0.imec0.ap.bin").write_bytes(b"12")
    assert inspect(run).faults == []
    # four folders deep it is one of the session's files
    (run / "a" / "b" / "c" / "d" / "run_g0_t0.imec4.ap.bin").write_bytes(b"12")
    assert faults(inspect(run)) == {("probe04", "imec4.ap", "META_MISSING", "blocks")}


def remove(stem: Path) -> None:
    """Delete a stream's data file and header."""
    for suffix in (".bin", ".meta"):
        stem.with_name(stem.name + suffix).unlink()


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def resize(path: Path, size: int) -> None:
    """Change a data file and what its header says of its size."""
    os.truncate(path, size)
    set_key(path.with_suffix(".meta"), "fileSizeBytes", str(size))


ROW = 2 * 385
FULL = 60000 * ROW
DATA_FAULTS = {
    "BIN_MISSING": (lambda bin: bin.unlink(), ["the data file of run_g0_t0.imec0.ap.meta was expected"]),
    "EMPTY_FILE": (lambda bin: truncate(bin, 0), [f"{FULL} bytes were expected, it is empty"]),
    "TRUNCATED": (lambda bin: truncate(bin, FULL - 5 * ROW), [f"{FULL} bytes", f"found {FULL - 5 * ROW}"]),
    "SIZE_MISMATCH": (lambda bin: truncate(bin, FULL + ROW), [f"{FULL} bytes", f"found {FULL + ROW}"]),
    "PARTIAL_SAMPLE": (
        lambda bin: resize(bin, FULL + 2),
        [f"a multiple of {ROW} bytes", "nSavedChans = 385", f"found {FULL + 2}"],
    ),
    "TOO_SHORT": (lambda bin: resize(bin, 15000 * ROW), ["at least 1 s", "found 0.500 s"]),
}


@pytest.mark.parametrize("code", DATA_FAULTS)
def test_faults_of_an_ap_data_file_block_its_probe_only(run, code):
    damage, words = DATA_FAULTS[code]
    damage(run / f"{AP0}.bin")
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", code, "blocks")}
    text = message(found, code)
    assert text.startswith(f"{AP0}.bin: ") and all(word in text for word in words)
    assert [probe.name for probe in found.probes] == ["probe00", "probe01"]
    head = inventory.head_document(found)
    assert head["session_blocked"] is None
    assert head["probes"][0]["blocked"] == f"{code}: {text}" and head["probes"][1]["blocked"] is None


def test_a_recording_of_one_second_is_not_too_short(run):
    resize(run / f"{AP0}.bin", 30000 * ROW)
    assert inspect(run).faults == []


@pytest.mark.parametrize("damage", [lambda bin: bin.unlink(), lambda bin: truncate(bin, ROW)])
def test_faults_of_an_lf_stream_warn_and_leave_it_out(run, damage):
    damage(run / f"{LF0}.bin")
    found = inspect(run)
    assert {(fault.probe, fault.stream, fault.severity) for fault in found.faults} == {
        ("probe00", "imec0.lf", "warns")
    }
    assert found.probes[0].lf is None
    assert inventory.head_document(found)["probes"][0]["blocked"] is None


def test_an_unreadable_lf_header_warns(run):
    (run / f"{LF0}.meta").write_bytes(b"")
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.lf", "META_UNREADABLE", "warns")}
    assert found.probes[0].lf is None


def test_a_file_that_spikeglx_did_not_close(run):
    set_key(run / f"{AP0}.meta", "fileSizeBytes", None)
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", "META_UNFINISHED", "warns")}
    assert found.probes[0].ap.n_samples == 60000
    truncate(run / f"{AP0}.bin", FULL + 3)
    assert ("probe00", "imec0.ap", "PARTIAL_SAMPLE", "blocks") in faults(inspect(run))


@pytest.mark.parametrize(
    "code, damage, file, words",
    [
        ("META_MISSING", lambda meta: meta.unlink(), f"{AP0}.bin", "run_g0_t0.imec0.ap.meta was expected"),
        ("META_UNREADABLE", lambda meta: meta.write_bytes(b"\0" * 99), f"{AP0}.meta", "binary data"),
        ("META_UNREADABLE", lambda meta: set_key(meta, "nSavedChans", "x"), f"{AP0}.meta", "nSavedChans"),
        ("META_UNREADABLE", lambda meta: set_key(meta, "snsApLfSy", "x"), f"{AP0}.meta", "snsApLfSy"),
        ("UNKNOWN_PROBE", lambda meta: set_key(meta, "imDatPrb_pn", "NP9999"), f"{AP0}.meta", "'NP9999'"),
    ],
)
def test_headers_that_cannot_be_used_name_their_probe_and_spare_the_other(run, code, damage, file, words):
    damage(run / f"{AP0}.meta")
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", code, "blocks")}
    assert message(found, code).startswith(f"{file}: ") and words in message(found, code)
    assert [probe.name for probe in found.probes] == ["probe01"]
    first, second = inventory.head_document(found)["probes"]
    assert first == {
        "probe": "probe00",
        "shanks": [],
        "serial": None,
        "files": [],
        "blocked": f"{code}: {message(found, code)}",
    }
    assert second["probe"] == "probe01" and second["blocked"] is None


def test_an_lf_stream_without_its_ap_stream(run):
    remove(run / AP0)
    found = inspect(run)
    assert faults(found) == {("probe00", None, "AP_MISSING", "blocks")}
    assert [probe.name for probe in found.probes] == ["probe01"]
    (run / f"{LF0}.meta").unlink()
    found = inspect(run)
    assert faults(found) == {
        ("probe00", None, "AP_MISSING", "blocks"),
        ("probe00", "imec0.lf", "META_MISSING", "warns"),
    }
    assert inventory.head_document(found)["probes"][0]["blocked"].startswith("AP_MISSING: ")


NO_SYNC = {"nSavedChans": "384", "snsApLfSy": "384,0,0", "snsSaveChanSubset": "0:383"}


def test_a_probe_without_sync_is_blocked_unless_it_is_alone(run):
    write_recording(run / f"{AP0}.meta", np1_header(**NO_SYNC))
    assert faults(inspect(run)) == {("probe00", "imec0.ap", "SYNC_MISSING", "blocks")}
    remove(run / NIDQ)
    assert faults(inspect(run)) == {("probe00", "imec0.ap", "SYNC_MISSING", "blocks")}
    remove(run / AP1)
    assert faults(inspect(run)) == {("probe00", "imec0.ap", "SYNC_MISSING", "warns")}


@pytest.mark.parametrize(
    "code, damage",
    [
        ("BIN_MISSING", lambda meta: meta.with_suffix(".bin").unlink()),
        ("META_MISSING", lambda meta: meta.unlink()),
        ("META_UNREADABLE", lambda meta: meta.write_text("hello\n")),
        ("META_UNREADABLE", lambda meta: set_key(meta, "snsMnMaXaDw", "1")),
        ("TRUNCATED", lambda meta: truncate(meta.with_suffix(".bin"), 6000)),
        ("EMPTY_FILE", lambda meta: truncate(meta.with_suffix(".bin"), 0)),
    ],
)
def test_a_broken_nidq_blocks_the_session_and_every_probe_says_so(run, code, damage):
    damage(run / f"{NIDQ}.meta")
    found = inspect(run)
    assert faults(found) == {(None, "nidq", code, "blocks")}
    head = inventory.head_document(found)
    assert head["session_blocked"] == f"{code}: {message(found, code)}"
    assert [probe["blocked"] for probe in head["probes"]] == [head["session_blocked"]] * 2
    assert [probe.name for probe in found.probes] == ["probe00", "probe01"]


def test_a_nidq_whose_sync_line_is_not_there_warns(run):
    set_key(run / f"{NIDQ}.meta", "syncNiChan", "12")
    found = inspect(run)
    assert faults(found) == {(None, "nidq", "SYNC_MISSING", "warns")}
    assert found.nidq.sync_column is None
    set_key(run / f"{NIDQ}.meta", "syncNiChan", "0")
    set_key(run / f"{NIDQ}.meta", "syncSourceIdx", "0")
    assert faults(inspect(run)) == {(None, "nidq", "SYNC_SOURCE_NONE", "warns")}


def test_several_runs_in_one_folder(run):
    write_recording(run.parent / "run_g1" / "other_g0_t0.imec0.ap.meta", np1_header(run="other_g0_t0"))
    found = inspect(run.parent)
    assert faults(found) == {(None, None, "MULTIPLE_RUNS", "blocks")}
    text = found.faults[0].message
    assert "2 were found: other (run_g1/other_g0_t0.imec0.ap.meta), run (run_g0/" in text
    assert "concatenate" in text
    assert found.probes == [] and inventory.head_document(found)["session_blocked"]


def test_two_headers_of_one_stream(run):
    write_recording(run / "copy" / f"{Path(AP0).name}.meta", np1_header())
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", "DUPLICATE_STREAM", "blocks")}
    assert f"{AP0}.meta" in found.faults[0].message and "copy/" in found.faults[0].message
    assert [probe.name for probe in found.probes] == ["probe01"]
    # the same samples under another trigger's name are a copy, too
    remove(run / "copy" / Path(AP0).name)
    write_recording(run / "run_g0_t1.imec0.ap.meta", np1_header(run="run_g0_t1"))
    assert ("probe00", "imec0.ap", "DUPLICATE_STREAM", "blocks") in faults(inspect(run))


def test_a_onebox_is_a_further_daq_stream(run):
    write_recording(run / "run_g0_t0.obx0.obx.meta", obx_header())
    found = inspect(run)
    assert found.faults == [] and found.nidq.name == "nidq"
    (obx,) = found.daqs
    assert (obx.name, obx.kind, obx.n_samples, obx.sync_column, obx.sync_bit) == ("obx0", "obx", 60606, 3, 6)
    head = inventory.head_document(found)
    assert [daq["stream"] for daq in head["daqs"]] == ["nidq", "obx0"]
    assert documents(run)["obx0.json"].stream == obx
    # without a NIDQ the first probe is the reference
    remove(run / NIDQ)
    found = inspect(run)
    assert (found.nidq, [stream.name for stream in found.daqs]) == (None, ["obx0"])
    assert inventory.head_document(found)["reference"] is None
    # whatever is wrong with it, the probes go on
    truncate(run / "run_g0_t0.obx0.obx.bin", 800)
    found = inspect(run)
    assert faults(found) == {(None, "obx0", "TRUNCATED", "warns")} and found.daqs == []


def test_a_onebox_without_its_sync_word_warns(run):
    keys = {"nSavedChans": "3", "snsXaDwSy": "2,1,0", "snsSaveChanSubset": "0:2"}
    write_recording(run / "run_g0_t0.obx0.obx.meta", obx_header(**keys))
    found = inspect(run)
    assert faults(found) == {(None, "obx0", "SYNC_MISSING", "warns")} and len(found.daqs) == 1


COMMAND = "<CatGT -dir=/data -run=run -g=0 -t=0,1 -ap -prb=0{}>"


@pytest.mark.parametrize(
    "code, severity, keys",
    [
        ("CATGT_PROCESSED", "warns", {"catGTCmdline0": COMMAND.format(""), "catNFiles": "1"}),
        ("CATGT_JOINED", "warns", {"catGTCmdline0": COMMAND.format(""), "catNFiles": "2"}),
        (
            "CATGT_GAPS_CLOSED",
            "blocks",
            {"catGTCmdline0": COMMAND.format(" -zerofillmax=500"), "catNFiles": "2"},
        ),
        ("CATGT_GAPS_CLOSED", "blocks", {"catGTCmdline": "<CatGT -supercat={/d,run_g0}>", "catNRuns": "2"}),
        # one file has no gap that the option could shorten
        (
            "CATGT_PROCESSED",
            "warns",
            {"catGTCmdline0": COMMAND.format(" -zerofillmax=500"), "catNFiles": "1"},
        ),
    ],
)
def test_catgt_output(tmp_path, code, severity, keys):
    write_recording(tmp_path / "run_g0_tcat.imec0.ap.meta", np1_header(**keys))
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", code, severity)}
    assert ("-zerofillmax=500," in message(found, code)) == (
        severity == "blocks" and "catNFiles" in keys and "zerofill" in keys["catGTCmdline0"]
    )


def test_catgt_output_beside_the_original_is_not_chosen_between(run):
    keys = {"catGTCmdline0": COMMAND.format(""), "catNFiles": "1"}
    write_recording(run / f"{AP0.replace('_t0', '_tcat')}.meta", np1_header(**keys))
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", "DUPLICATE_STREAM", "blocks")}
    assert "CatGT's output of it was expected, both were found" in message(found, "DUPLICATE_STREAM")
    # CatGT writes a header for each stream that it read, also where it made no data file
    (run / f"{AP0.replace('_t0', '_tcat')}.bin").unlink()
    assert inspect(run).faults == []


def test_catgt_output_of_a_probe_goes_with_the_original_nidq(run):
    remove(run / LF0)
    keys = {"catGTCmdline0": COMMAND.format(""), "catNFiles": "2"}
    for suffix in (".bin", ".meta"):
        (run / f"{AP0}{suffix}").rename(run / f"{AP0.replace('_t0', '_tcat')}{suffix}")
    for key, value in keys.items():
        path = run / f"{AP0.replace('_t0', '_tcat')}.meta"
        path.write_text(f"{path.read_text()}{key}={value}\n")
    assert faults(inspect(run)) == {("probe00", "imec0.ap", "CATGT_JOINED", "warns")}


SUBSET = {"nSavedChans": "3", "snsApLfSy": "2,0,1", "snsSaveChanSubset": "7,9,768"}


def write_parts(folder: Path, first_samples: dict[str, int], n_samples: dict[str, int] | int = 30000) -> Path:
    """One probe (2 channels and sync) in several files, each sample of the run its own number's values."""
    for name, first in first_samples.items():
        n = n_samples if isinstance(n_samples, int) else n_samples[name]
        numbers = np.arange(first, first + n)
        samples = np.stack([numbers % 251, numbers // 251 % 251, numbers * 0], axis=1).astype("int16")
        header = np1_header(run=name, firstSample=str(first), **SUBSET)
        write_recording(folder / name[:6] / f"{name}.imec0.ap.meta", header, samples=samples)
    return folder


def read_numbers(raw: Path, stream) -> np.ndarray:
    """The run's sample numbers that a stream's samples carry (modulo 251²)."""
    rows = StreamReader(stream, locate([stream], raw)[0]).read(0, stream.n_samples)
    return rows[:, 0] + 251 * rows[:, 1].astype(int)


def test_gates_and_triggers_make_one_stream_in_the_order_of_their_samples(tmp_path):
    """Contiguous t0, t1 of g0; a gap of 7000 samples; t10 of g1 before t2 by name, after it by number."""
    firsts = {"run_g0_t0": 1000, "run_g0_t1": 31000, "run_g1_t2": 68000, "run_g1_t10": 98000}
    found = inspect(write_parts(tmp_path, firsts))
    assert faults(found) == {("probe00", "imec0.ap", "GAP", "warns")}
    assert "found 1 gap: 7000 samples (0.2333 s) between run_g0_t1.imec0.ap.bin and run_g1_t2" in (
        message(found, "GAP")
    )
    (probe,) = found.probes
    stream = probe.ap
    assert [(Path(piece.path).name.split(".")[0], piece.first_sample) for piece in stream.pieces] == list(
        firsts.items()
    )
    assert stream.blocks() == [Block(0, 60000, 0), Block(60000, 60000, 67000)]
    assert (stream.n_samples, stream.n_acquired, stream.first_sample) == (120000, 127000, 1000)
    assert [file.role for file in stream.files] == ["data", "meta"] * 4
    numbers = read_numbers(tmp_path, stream)
    expected = stream.first_sample + stream.acquired(np.arange(stream.n_samples))
    np.testing.assert_array_equal(numbers, expected % 251**2)
    assert "4 pieces, 1 gap (0.2 s)" in inventory.describe(found)


def test_overlapping_files_give_each_sample_once(tmp_path):
    """t1 begins 500 samples before t0 ends, t2 lies wholly within t1, t3 follows t1."""
    firsts = {"run_g0_t0": 1000, "run_g0_t1": 30500, "run_g0_t2": 40000, "run_g0_t3": 60500}
    n_samples = {"run_g0_t0": 30000, "run_g0_t1": 30000, "run_g0_t2": 9000, "run_g0_t3": 30000}
    found = inspect(write_parts(tmp_path, firsts, n_samples))
    assert faults(found) == {("probe00", "imec0.ap", "OVERLAP", "warns")}
    text = message(found, "OVERLAP")
    assert "2 overlaps: 500 samples (0.01667 s) both in run_g0_t0.imec0.ap.bin and run_g0_t1" in text
    assert "Nothing is left of run_g0_t2.imec0.ap.bin." in text
    stream = found.probes[0].ap
    assert [(piece.first_row, piece.n_samples, piece.first_sample) for piece in stream.pieces] == [
        (0, 30000, 1000),
        (500, 29500, 31000),
        (0, 30000, 60500),
    ]
    assert not any("t2" in file.path for file in stream.files)
    assert stream.blocks() == [Block(0, 89500, 0)]
    np.testing.assert_array_equal(read_numbers(tmp_path, stream), np.arange(1000, 90500) % 251**2)


def test_many_gaps_are_counted_and_the_first_named(tmp_path):
    found = inspect(write_parts(tmp_path, {f"run_g0_t{k}": 40000 * k for k in range(6)}))
    assert "found 5 gaps: " in message(found, "GAP") and "; and 2 more. Nothing" in message(found, "GAP")


def test_files_without_a_place_in_time_block_the_probe(tmp_path):
    write_parts(tmp_path, {"run_g0_t0": 1000, "run_g0_t1": 31000})
    set_key(tmp_path / "run_g0" / "run_g0_t1.imec0.ap.meta", "firstSample", None)
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", "ORDER_UNKNOWN", "blocks")}
    assert message(found, "ORDER_UNKNOWN").startswith("run_g0/run_g0_t1.imec0.ap.meta: firstSample")
    # alone it needs none
    remove(tmp_path / "run_g0" / "run_g0_t0.imec0.ap")
    found = inspect(tmp_path)
    assert found.faults == [] and found.probes[0].ap.first_sample is None


@pytest.mark.parametrize(
    "key, value, shown",
    [
        ("imDatPrb_sn", "999", "(18005116811) was expected in all files of imec0.ap, found 999"),
        ("imSampRate", "30001", "(30000) was expected"),
        ("snsSaveChanSubset", "7,10,768", "(7,9,768) was expected"),
        ("imAiRangeMax", "1.2", "(0.6) was expected"),
        ("~imroTbl", "bank 1", "(one table) was expected in all files of imec0.ap, found another"),
    ],
)
def test_files_of_one_stream_that_contradict_each_other(tmp_path, key, value, shown):
    write_parts(tmp_path, {"run_g0_t0": 1000, "run_g0_t1": 31000})
    if key == "~imroTbl":
        value = np1_header()["~imroTbl"].replace("(0 0 0 ", "(0 1 0 ")
    set_key(tmp_path / "run_g0" / "run_g0_t1.imec0.ap.meta", key, value)
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", "SEGMENTS_DIFFER", "blocks")}
    text = message(found, "SEGMENTS_DIFFER")
    assert text.startswith(f"run_g0/run_g0_t1.imec0.ap.meta: {key.lstrip('~')} of run_g0/run_g0_t0")
    assert shown in text


def test_a_run_that_was_stopped_between_two_gates(tmp_path):
    """SpikeGLX goes on with g1 under the same name, but counts samples from zero: nothing fits together."""
    write_parts(tmp_path, {"run_g0_t0": 1000, "run_g1_t0": 500000})
    second = tmp_path / "run_g1" / "run_g1_t0.imec0.ap.meta"
    set_key(second, "fileCreateTime", "2026-03-01T11:20:00")
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", "RUN_RESTARTED", "blocks")}
    assert "17 s after" in message(found, "RUN_RESTARTED") and "is 2690 s" in message(found, "RUN_RESTARTED")
    # 17 s later by both; and in the night in which clocks are put forward
    for time in ("2026-03-01T10:35:27", "2026-03-01T11:35:26"):
        set_key(second, "fileCreateTime", time)
        assert faults(inspect(tmp_path)) == {("probe00", "imec0.ap", "GAP", "warns")}


def test_a_fault_in_one_of_a_streams_files_blocks_the_probe_and_names_the_file(tmp_path):
    write_parts(tmp_path, {"run_g0_t0": 1000, "run_g0_t1": 31000})
    truncate(tmp_path / "run_g0" / "run_g0_t1.imec0.ap.bin", 6 * 29999)
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", "TRUNCATED", "blocks")}
    assert message(found, "TRUNCATED").startswith("run_g0/run_g0_t1.imec0.ap.bin: 180000 bytes")
    assert inventory.head_document(found)["streams"] == []
    # a header that can't be read is not a missing trigger, too
    write_recording(tmp_path / "run_g0" / "run_g0_t0.nidq.meta", nidq_header(), seconds=1)
    keys = {"run": "run_g0_t1", "firstSample": "10400"}
    write_recording(tmp_path / "run_g0" / "run_g0_t1.nidq.meta", nidq_header(**keys), seconds=1)
    (tmp_path / "run_g0" / "run_g0_t1.imec0.ap.meta").write_bytes(b"")
    assert faults(inspect(tmp_path)) == {("probe00", "imec0.ap", "META_UNREADABLE", "blocks")}


def test_a_trigger_that_one_stream_lacks(tmp_path):
    write_parts(tmp_path, {"run_g0_t0": 1000, "run_g0_t1": 31000})
    write_recording(tmp_path / "run_g0" / "run_g0_t0.nidq.meta", nidq_header(), seconds=1)
    found = inspect(tmp_path)
    assert faults(found) == {(None, "nidq", "SEGMENT_MISSING", "warns")}
    assert message(found, "SEGMENT_MISSING").startswith("nidq: g0_t1 was expected as in imec0.ap")


def test_short_triggers_are_judged_together(tmp_path):
    firsts = {f"run_g0_t{k}": 300 * k for k in range(120)}
    assert inspect(write_parts(tmp_path / "a", firsts, 300)).faults == []
    found = inspect(write_parts(tmp_path / "b", {"run_g0_t0": 0, "run_g0_t1": 300}, 300))
    assert faults(found) == {("probe00", "imec0.ap", "TOO_SHORT", "blocks")}
    assert "and 1 more: at least 1 s" in message(found, "TOO_SHORT")


def test_streams_of_different_lengths_warn(run):
    write_recording(run / f"{AP1}.meta", np2_header(), seconds=2.9)
    assert inspect(run).faults == []
    write_recording(run / f"{AP1}.meta", np2_header(), seconds=3.1)
    found = inspect(run)
    assert faults(found) == {(None, None, "DURATIONS_DIFFER", "warns")}
    assert "imec1.ap 3.1 s, imec0.ap 2.0 s" in message(found, "DURATIONS_DIFFER")


def test_a_duration_that_does_not_fit_the_header(run):
    for stated, expected in (("2", set()), ("1.99999", set()), ("2.1", {"DURATION_MISMATCH"})):
        write_recording(run / f"{AP0}.meta", np1_header(fileTimeSecs=stated))
        assert {fault.code for fault in inspect(run).faults} == expected
    assert "fileTimeSecs says 2.1 s" in message(inspect(run), "DURATION_MISMATCH")
    assert "30000 Hz makes 2 s" in message(inspect(run), "DURATION_MISMATCH")


def test_a_recording_longer_than_a_day(tmp_path):
    header = np1_header(imSampRate="3", **SUBSET)
    write_recording(tmp_path / "run_g0_t0.imec0.ap.meta", header, seconds=25 * 3600)
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", "imec0.ap", "IMPLAUSIBLE_DURATION", "warns")}
    assert "found 25.0 h at 3 Hz" in message(found, "IMPLAUSIBLE_DURATION")


def test_probes_without_a_number_are_told_apart_by_their_headers(tmp_path):
    """Files called after what they hold; port and serial number say which AP and LF belong together."""
    for name, port, serial in (("left", "2", "111"), ("right", "1", "222")):
        keys = {"imDatPrb_slot": "3", "imDatPrb_port": port, "imDatPrb_dock": "1", "imDatPrb_sn": serial}
        for kind in ("ap", "lf"):
            header = np1_header(kind, fileName=f"D:/{name}.bin", **keys)
            write_recording(tmp_path / f"{name}.{kind}.meta", header)
    found = inspect(tmp_path)
    assert [(probe.name, probe.serial_number) for probe in found.probes] == [
        ("probe00", "222"),
        ("probe01", "111"),
    ]
    assert [(probe.ap.name, probe.lf.name) for probe in found.probes] == [
        ("imec0.ap", "imec0.lf"),
        ("imec1.ap", "imec1.lf"),
    ]
    assert found.probes[1].lf.files[0].path == "left.lf.bin"
    assert faults(found) == {
        ("probe00", None, "PROBE_NUMBER_GUESSED", "warns"),
        ("probe01", None, "PROBE_NUMBER_GUESSED", "warns"),
    }
    (text,) = [fault.message for fault in found.faults if fault.probe == "probe01"]
    assert text.startswith("left.ap.meta, left.lf.meta: ") and "port 2" in text and "111" in text


def test_a_probe_without_a_number_takes_that_of_its_other_files(tmp_path):
    write_recording(tmp_path / "run_g0_t0.imec3.ap.meta", np1_header(device="imec3"))
    write_recording(tmp_path / "run.lf.meta", np1_header("lf", fileName="D:/run.bin"))
    other = np1_header(fileName="D:/b.bin", imDatPrb_sn="2", imDatPrb_slot="2")
    write_recording(tmp_path / "b.meta", other)
    found = inspect(tmp_path)
    assert faults(found) == {("probe00", None, "PROBE_NUMBER_GUESSED", "warns")}
    assert [(probe.name, probe.lf and probe.lf.name) for probe in found.probes] == [
        ("probe00", None),
        ("probe03", "imec3.lf"),
    ]


ONE = "{}.3f1b5a52-6f0a-4c1e-9a44-00aa11bb22cc{}"


def compress(bin: Path, n_columns: int, rate: float, uuid: bool = False) -> None:
    """Replace a data file by mtscomp's .cbin and .ch, in IBL's archive with a number in the name."""
    import mtscomp

    ends = [bin.with_suffix(suffix) for suffix in (".cbin", ".ch")]
    mtscomp.compress(
        bin, *ends, sample_rate=rate, n_channels=n_columns, dtype="int16", check_after_compress=False
    )
    bin.unlink()
    for k, end in enumerate([*ends, bin.with_suffix(".meta")] if uuid else []):
        end.rename(end.with_name(ONE.format(end.stem, end.suffix).replace("3f1b5a52", f"{k}f1b5a52")))


@pytest.mark.parametrize("uuid", [False, True])
def test_compressed_data_files_are_as_good(tmp_path, uuid):
    name = "_spikeglx_ephysData_g0_t0"
    plain = write_parts(tmp_path / "plain", {name: 1000})
    raw = write_parts(tmp_path / "raw", {name: 1000})
    compress(raw / name[:6] / f"{name}.imec0.ap.bin", 3, 30000, uuid)
    found, expected = inspect(raw), inspect(plain)
    assert found.faults == [] and found.probes[0].name == "probe00"
    stream = found.probes[0].ap
    assert [file.role for file in stream.files] == ["data", "index", "meta"]
    assert stream.pieces[0].path.endswith(".cbin") and "cbin" in inventory.describe(found)
    same = {"n_samples", "first_sample", "channels", "sampling_rate_hz", "sync_column", "name"}
    assert stream.model_dump(include=same) == expected.probes[0].ap.model_dump(include=same)
    np.testing.assert_array_equal(read_numbers(raw, stream), np.arange(1000, 31000) % 251**2)


def test_faults_of_compressed_data_files(tmp_path):
    stem = "run_g0/run_g0_t0.imec0.ap"
    raw = write_parts(tmp_path, {"run_g0_t0": 1000})
    plain = (raw / f"{stem}.bin").read_bytes()
    compress(raw / f"{stem}.bin", 3, 30000)

    set_key(raw / f"{stem}.meta", "fileSizeBytes", "180006")
    found = inspect(raw)
    assert faults(found) == {("probe00", "imec0.ap", "TRUNCATED", "blocks")}
    assert message(found, "TRUNCATED").startswith(
        f"{stem}.cbin: 180006 bytes were expected (fileSizeBytes), "
    )
    assert "found 180000 in the compressed file" in message(found, "TRUNCATED")
    set_key(raw / f"{stem}.meta", "fileSizeBytes", "180000")

    (raw / f"{stem}.bin").write_bytes(plain)
    found = inspect(raw)
    assert faults(found) == {("probe00", "imec0.ap", "DUPLICATE_DATA", "warns")}
    assert "run_g0_t0.imec0.ap.bin is used" in message(found, "DUPLICATE_DATA")
    assert found.probes[0].ap.pieces[0].path == f"{stem}.bin"
    (raw / f"{stem}.bin").unlink()

    index = (raw / f"{stem}.ch").read_text()
    (raw / f"{stem}.ch").write_text("garbage")
    found = inspect(raw)
    assert faults(found) == {("probe00", "imec0.ap", "DATA_UNREADABLE", "blocks")}
    assert message(found, "DATA_UNREADABLE").startswith(f"{stem}.c") and found.probes == []
    (raw / f"{stem}.ch").write_text(index)
    assert inspect(raw).faults == []
    (raw / f"{stem}.ch").unlink()
    found = inspect(raw)
    assert faults(found) == {("probe00", "imec0.ap", "INDEX_MISSING", "blocks")}
    assert "its index run_g0_t0.imec0.ap.ch was expected" in message(found, "INDEX_MISSING")


def test_zarr_copies_as_input(tmp_path):
    """A folder is one data file; what lies in it is not looked through."""
    import zarr

    stem = "run_g0/run_g0_t0.imec0.ap"
    raw = write_parts(tmp_path, {"run_g0_t0": 1000})
    bin = raw / f"{stem}.bin"
    samples = np.fromfile(bin, "<i2").reshape(-1, 3)
    root = zarr.open_group(str(raw / f"{stem}.zarr"), mode="w")
    root.create_dataset("traces_seg0", data=samples, chunks=(30000, 3))
    zarr.consolidate_metadata(root.store)
    bin.unlink()
    found = inspect(raw)
    assert found.faults == []
    data = found.probes[0].ap.files[0]
    size = sum(path.stat().st_size for path in (raw / f"{stem}.zarr").rglob("*") if path.is_file())
    assert (data.path, data.role, data.size_bytes) == (f"{stem}.zarr", "data", size)
    np.testing.assert_array_equal(read_numbers(raw, found.probes[0].ap), np.arange(1000, 31000) % 251**2)
    (raw / f"{stem}.meta").unlink()
    assert faults(inspect(raw)) == {("probe00", "imec0.ap", "META_MISSING", "blocks")}


# ("cbin" is in "ibl", too; compressing takes most of these tests' time.)
SPIKEGLX_LAYOUTS = [name for name in LAYOUTS if not name.startswith("openephys") and name != "cbin"]


@pytest.mark.parametrize("layout", SPIKEGLX_LAYOUTS)
def test_every_simulated_layout(session_small, tmp_path, layout):
    """What the simulator's truth says of each stream, with a look at the data: no alarm but the layout's own."""
    raw = relayout(session_small, tmp_path / "out", layout)
    truth = Truth.load(tmp_path / "out").document
    found = inventory.inspect_session(raw, "sim01", "2026-03-01")
    assert {fault.code for fault in found.faults} == set(LAYOUTS[layout].codes)
    assert [probe.name for probe in found.probes] == [probe.name for probe in truth.probes]
    pairs = [(found.nidq or found.daqs[0], truth.nidq)]
    for own, true in zip(found.probes, truth.probes, strict=True):
        assert (own.serial_number, own.lf is None) == (true.serial_number, true.lf is None)
        assert [(c.raw_column, c.contact_id, c.shank) for c in own.ap.channels] == [
            (c.raw_column, c.contact_id, c.shank) for c in true.channels
        ]
        pairs += [(own.ap, true.ap)] + ([] if own.lf is None else [(own.lf, true.lf)])
    for own, true in pairs:
        assert (own.n_samples, own.n_columns, own.first_sample) == (
            true.n_samples,
            true.n_columns,
            true.first_sample,
        )
        assert (own.sync_column, own.sync_bit) == (true.sync_column, true.sync_bit)
        assert [
            (piece.first_row, piece.n_samples, piece.first_sample - own.first_sample) for piece in own.pieces
        ] == ([(p.first_row, p.n_samples, p.offset) for p in true.pieces] or [(0, true.n_samples, 0)])
        base = raw.relative_to(tmp_path / "out")
        assert (base / own.pieces[0].path).as_posix() == true.file


def test_folders_that_may_not_be_looked_into(run, monkeypatch):
    """What lies in them would be missing without a word."""
    real_scandir = os.scandir

    def scandir(path):
        if Path(path).name == "run_g0_imec1":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="run_g0_imec1: no permission to look into it"):
        inspect(run)


def test_folders_without_probes(tmp_path):
    found = inspect(tmp_path)
    assert faults(found) == {(None, None, "NO_RECORDING", "blocks")}
    assert message(found, "NO_RECORDING").startswith(f"{tmp_path}: ")
    assert "the folder is empty" in message(found, "NO_RECORDING")
    for name in ("a.rhd", "b.rhd", "deep/er/100_CH1.continuous", "continuous.dat", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    text = message(inspect(tmp_path), "NO_RECORDING")
    assert "found 2 .rhd (Intan), 1 continuous.dat (Open Ephys data without their structure.oebin), " in text
    assert "1 .continuous (Open Ephys' old format), which can't be read" in text
    named = inventory.inspect_session(tmp_path, "m", "2026-03-01", False, raw_name="/lab/mouse01/run1")
    assert message(named, "NO_RECORDING").startswith("/lab/mouse01/run1: ")
    write_recording(tmp_path / f"{NIDQ}.meta", nidq_header())
    assert faults(inspect(tmp_path)) == {(None, None, "NO_PROBE", "blocks")}
    with pytest.raises(DataError, match="it is not a folder"):
        inspect(tmp_path / "nowhere")


def test_two_programs_recordings_in_one_folder(run):
    folder = run.parent / "Record Node 101" / "experiment1" / "recording1"
    folder.mkdir(parents=True)
    (folder / "structure.oebin").write_text('{"GUI version": "0.6.7", "continuous": [], "events": []}')
    found = inspect(run.parent)
    assert faults(found) == {(None, None, "MIXED_ACQUISITIONS", "blocks")}
    assert found.probes == [] and inspect(run).faults == []


def test_all_faults_at_once_are_all_named(run):
    (run / f"{AP0}.bin").unlink()
    set_key(run / f"{AP1}.meta", "imDatPrb_pn", "NP9999")
    truncate(run / f"{NIDQ}.bin", 60)
    found = inspect(run)
    assert faults(found) == {
        (None, "nidq", "TRUNCATED", "blocks"),
        ("probe00", "imec0.ap", "BIN_MISSING", "blocks"),
        ("probe01", "imec1.ap", "UNKNOWN_PROBE", "blocks"),
    }


def test_description_names_streams_durations_and_faults(run):
    (run / f"{AP0}.bin").unlink()
    text = inventory.describe(inspect(run))
    assert text.startswith("mouse01 2026-03-01_001: SpikeGLX 20230411, started 2026-03-01T10:35:09")
    rows = {line.split()[1]: line for line in text.splitlines()[2:]}
    assert rows["imec0.ap"].endswith("BLOCKED")
    assert all(word in rows["imec1.ap"] for word in ("probe01", "0,1,2,3", "384", "30000", "2.0"))
    assert "column 2 bit 0" in rows["nidq"]
    assert f"BLOCKS probe00 imec0.ap BIN_MISSING: {AP0}.bin" in text


def run_script(raw: Path, folder: Path, *more: str) -> subprocess.CompletedProcess:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--raw", raw, "--subject", "mouse01", "--session", "2026-03-01_001", "--out", folder / "out"]
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments, *more], cwd=folder, capture_output=True, text=True, timeout=120
    )


def write_sound(path: Path, header: dict, seconds: float = 2.0) -> Path:
    """A recording that a look at the data finds nothing wrong with: noise, and a sync wave of 1 Hz."""
    rate, n_columns = sampling_rate(header), int(header["nSavedChans"])
    n = int(rate * seconds)
    samples = np.random.default_rng(7).normal(0, 4, (n, n_columns)).round().astype("int16")
    samples[:, -1] = (np.arange(n) / rate % 1 < 0.5) * (1 if header["typeThis"] == "nidq" else 64)
    return write_recording(path, header, samples=samples)


def test_the_executable_writes_documents_that_know_one_probe_only(tmp_path):
    run = tmp_path / "raw" / "run_g0"
    write_sound(run / f"{AP0}.meta", np1_header(**SUBSET))
    write_sound(run / f"{AP1}.meta", np1_header(device="imec1", **SUBSET))
    write_sound(run / f"{NIDQ}.meta", nidq_header())
    done = run_script(run, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "a" / "out"
    names = {
        "inventory",
        "probes",
        "probes.description",
        "probe00",
        "probe01",
        "nidq",
        "imec0.ap",
        "imec1.ap",
    }
    assert {path.name for path in out.iterdir()} == {f"{name}.json" for name in names}
    assert "probeinterface" in json.loads((tmp_path / "a" / "versions.json").read_text())
    described = json.loads((out / "probes.description.json").read_text())
    assert [probe["label"] for probe in described] == ["probe00", "probe01"]
    assert described[1]["raw_file_name"] == f"{AP1}.bin" and isinstance(described[1]["serial"], int)
    assert "imec1.ap" in done.stderr
    found = Inventory.load(out / "inventory.json")
    assert found.faults == []
    assert ProbeDocument.load(out / "probe01.json").probe == found.probes[1]
    assert StreamDocument.load(out / "nidq.json").stream == found.nidq
    assert StreamDocument.load(out / "imec1.ap.json").stream == found.probes[1].ap
    for path in out.iterdir():
        assert str(tmp_path) not in path.read_text(), path

    # the other probe's data change, its header changes, time passes: probe01's documents do not
    before = {name: (out / name).read_bytes() for name in ("probe01.json", "imec1.ap.json")}
    write_sound(run / f"{AP0}.meta", np1_header(fileCreateTime="2031-01-01T00:00:00", **SUBSET), seconds=3)
    os.utime(run / f"{AP1}.bin", (1, 1))
    assert run_script(run, tmp_path / "b").returncode == 0
    out = tmp_path / "b" / "out"
    assert all((out / name).read_bytes() == content for name, content in before.items())
    assert ProbeDocument.load(out / "probe00.json").probe.ap.n_samples == 90000
    (run / f"{AP0}.meta").write_bytes(b"")
    assert run_script(run, tmp_path / "c").returncode == 0
    out = tmp_path / "c" / "out"
    assert all((out / name).read_bytes() == content for name, content in before.items())
    assert not (out / "probe00.json").exists() and not (out / "imec0.ap.json").exists()
    assert json.loads((out / "probes.json").read_text())["probes"][0]["blocked"].startswith("META_UNREADABLE")


def test_a_look_at_the_data_comes_after_the_headers(run):
    """These files are zeros, as sparse copies of data are; headers alone can't tell."""
    assert inspect(run).faults == []
    found = inventory.inspect_session(run, "mouse01", "2026-03-01")
    assert {fault.code for fault in found.faults if fault.severity == "blocks"} == {"ALL_ZERO"}
    assert all(probe["blocked"] for probe in inventory.head_document(found)["probes"])


def test_with_a_nidq_the_session_starts_when_its_file_does(run):
    written = documents(run)
    assert set(written) == {
        f"{name}.json" for name in ("probe00", "probe01", "imec0.ap", "imec0.lf", "imec1.ap", "nidq")
    }
    assert {document.session.start_time for document in written.values()} == {"2026-03-01T10:35:09"}


def test_without_a_nidq_a_probes_document_has_its_own_start_time(run):
    remove(run / NIDQ)
    set_key(run / f"{AP1}.meta", "fileCreateTime", "2026-03-01T10:36:00")
    written = documents(run)
    assert written["probe01.json"].session.start_time == "2026-03-01T10:36:00"
    assert written["imec1.ap.json"].session.start_time == "2026-03-01T10:36:00"
    assert written["probe00.json"].session.start_time == "2026-03-01T10:35:10"


def test_the_executable_fails_as_bad_data_where_there_is_nothing(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    done = run_script(raw, tmp_path / "a")
    assert done.returncode == EXIT_DATA_ERROR
    assert done.stderr.splitlines()[-1].startswith(f"ERROR: NO_RECORDING: {raw}: a SpikeGLX run")
    done = run_script(raw, tmp_path / "b", "--raw-name", "/lab/mouse01")
    assert done.stderr.splitlines()[-1].startswith("ERROR: NO_RECORDING: /lab/mouse01: a SpikeGLX run")
    assert not (tmp_path / "a" / "out").exists()


def test_nothing_is_written_to_the_raw_folder(run):
    def state() -> dict:
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in run.rglob("*")}

    before = state()
    inventory.inspect_documents(run.parent, "mouse01", "2026-03-01")
    assert state() == before
