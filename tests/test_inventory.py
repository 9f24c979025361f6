"""Inventories of raw folders: layouts, every fault, isolation of one probe from another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from powerpixels import inventory
from powerpixels.documents import Inventory, NidqDocument, ProbeDocument
from powerpixels.stage import EXIT_DATA_ERROR, DataError
from sglx_files import nidq_header, np1_header, np2_header, write_header, write_recording

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
    return inventory.inspect_session(raw, "mouse01", "2026-03-01_001")


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
    assert head == {
        "session_blocked": None,
        "nidq": [f"{NIDQ}.bin", f"{NIDQ}.meta"],
        "probes": [
            {
                "probe": "probe00",
                "shanks": [0],
                "files": [f"{AP0}.bin", f"{AP0}.meta"],
                "blocked": None,
            },
            {
                "probe": "probe01",
                "shanks": [0, 1, 2, 3],
                "files": [f"{AP1}.bin", f"{AP1}.meta"],
                "blocked": None,
            },
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
    (run / "a" / "b" / "c").mkdir(parents=True)
    (run / "a" / "b" / "c" / "old_g0_t0.imec0.ap.bin").write_bytes(b"12")
    assert inspect(run).faults == []


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
    "UNSUPPORTED_COMPRESSED": (
        lambda bin: bin.rename(bin.with_suffix(".cbin")),
        ["only run_g0_t0.imec0.ap.cbin is there", "Decompress"],
    ),
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


@pytest.mark.parametrize("name", ["run_g1_t0", "run_g0_t1", "other_g0_t0"])
def test_several_gates_triggers_or_runs(run, name):
    write_recording(run.parent / "run_g1" / f"{name}.imec0.ap.meta", np1_header(run=name))
    found = inspect(run.parent)
    assert faults(found) == {(None, None, "MULTIPLE_SEGMENTS", "blocks")}
    assert f"2 were found: {min('run_g0_t0', name)}, {max('run_g0_t0', name)}." in found.faults[0].message
    assert found.probes == [] and inventory.head_document(found)["session_blocked"]


def test_two_headers_of_one_stream(run):
    write_recording(run / "copy" / f"{Path(AP0).name}.meta", np1_header())
    found = inspect(run)
    assert faults(found) == {("probe00", "imec0.ap", "DUPLICATE_STREAM", "blocks")}
    assert f"{AP0}.meta" in found.faults[0].message and "copy/" in found.faults[0].message
    assert [probe.name for probe in found.probes] == ["probe01"]


def test_a_onebox_is_named_and_left_out(run):
    header = {**nidq_header(), "typeThis": "obx", "snsXaDwSy": "2,1,1", "obSampRate": "30300"}
    write_header(run / "run_g0_t0.obx0.obx.meta", header)
    found = inspect(run)
    assert faults(found) == {(None, "obx0", "UNSUPPORTED_STREAM", "warns")}
    assert len(found.probes) == 2


def test_catgt_output_warns_and_joined_output_is_blocked(tmp_path):
    command = "<CatGT -dir=/data -run=run -g=0 -t=0 -ap -prb=0>"
    path = tmp_path / "run_g0_tcat.imec0.ap.meta"
    write_recording(path, np1_header(catGTCmdline0=command, catNFiles="1"))
    assert faults(inspect(tmp_path)) == {("probe00", "imec0.ap", "CATGT_PROCESSED", "warns")}
    write_recording(path, np1_header(catGTCmdline0=command, catNFiles="2"))
    assert faults(inspect(tmp_path)) == {("probe00", "imec0.ap", "CATGT_JOINED", "blocks")}


def test_folders_without_probes(tmp_path):
    found = inspect(tmp_path)
    assert faults(found) == {(None, None, "NO_SPIKEGLX_FILES", "blocks")}
    write_recording(tmp_path / f"{NIDQ}.meta", nidq_header())
    assert faults(inspect(tmp_path)) == {(None, None, "NO_PROBE", "blocks")}
    with pytest.raises(DataError, match="it is not a folder"):
        inspect(tmp_path / "nowhere")


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
    rows = {line.split()[1]: line for line in text.splitlines()[2:]}
    assert rows["imec0.ap"].endswith("BLOCKED")
    assert all(word in rows["imec1.ap"] for word in ("probe01", "0,1,2,3", "384", "30000", "2.0"))
    assert "column 2 bit 0" in rows["nidq"]
    assert f"BLOCKS probe00 imec0.ap BIN_MISSING: {AP0}.bin" in text


def run_script(raw: Path, folder: Path) -> subprocess.CompletedProcess:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--raw", raw, "--subject", "mouse01", "--session", "2026-03-01_001", "--out", folder / "out"]
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_executable_writes_documents_that_know_one_probe_only(run, tmp_path):
    done = run_script(run, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "a" / "out"
    names = {"inventory.json", "probes.json", "probe00.json", "probe01.json", "nidq.json"}
    assert {path.name for path in out.iterdir()} == names
    assert "probeinterface" in json.loads((tmp_path / "a" / "versions.json").read_text())
    assert "imec1.ap" in done.stderr
    found = Inventory.load(out / "inventory.json")
    assert ProbeDocument.load(out / "probe01.json").probe == found.probes[1]
    assert NidqDocument.load(out / "nidq.json").stream == found.nidq
    for path in out.iterdir():
        assert str(tmp_path) not in path.read_text(), path

    # the other probe's data change, its header changes, time passes: probe01's document does not
    before = (out / "probe01.json").read_bytes()
    write_recording(run / f"{AP0}.meta", np1_header(fileCreateTime="2031-01-01T00:00:00"), seconds=3)
    os.utime(run / f"{AP1}.bin", (1, 1))
    assert run_script(run, tmp_path / "b").returncode == 0
    out = tmp_path / "b" / "out"
    assert (out / "probe01.json").read_bytes() == before
    assert ProbeDocument.load(out / "probe00.json").probe.ap.n_samples == 90000
    (run / f"{AP0}.meta").write_bytes(b"")
    assert run_script(run, tmp_path / "c").returncode == 0
    out = tmp_path / "c" / "out"
    assert (out / "probe01.json").read_bytes() == before and not (out / "probe00.json").exists()
    assert json.loads((out / "probes.json").read_text())["probes"][0]["blocked"].startswith("META_UNREADABLE")


def test_with_a_nidq_the_session_starts_when_its_file_does(run):
    documents = inventory.stage_documents(inventory.inspect_documents(run, "mouse01", "2026-03-01"))
    assert set(documents) == {"probe00.json", "probe01.json", "nidq.json"}
    assert {document.session.start_time for document in documents.values()} == {"2026-03-01T10:35:09"}


def test_without_a_nidq_a_probes_document_has_its_own_start_time(run):
    remove(run / NIDQ)
    set_key(run / f"{AP1}.meta", "fileCreateTime", "2026-03-01T10:36:00")
    documents = inventory.stage_documents(inventory.inspect_documents(run, "mouse01", "2026-03-01"))
    assert set(documents) == {"probe00.json", "probe01.json"}
    assert documents["probe01.json"].session.start_time == "2026-03-01T10:36:00"
    assert documents["probe00.json"].session.start_time == "2026-03-01T10:35:10"


def test_the_executable_fails_as_bad_data_where_there_is_nothing(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    done = run_script(raw, tmp_path / "a")
    assert done.returncode == EXIT_DATA_ERROR
    assert done.stderr.splitlines()[-1].startswith("ERROR: NO_SPIKEGLX_FILES: raw: SpikeGLX files")
    assert not (tmp_path / "a" / "out").exists()


def test_nothing_is_written_to_the_raw_folder(run):
    def state() -> dict:
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in run.rglob("*")}

    before = state()
    inventory.inspect_documents(run.parent, "mouse01", "2026-03-01")
    assert state() == before


def test_real_recordings_with_data(real_data):
    """The public test recordings are cut short: that, and what each folder holds, must be said."""
    folder = real_data / "neuroconv_ephy_testing_data" / "spikeglx"
    found = inspect(folder / "Noise4Sam_g0")
    assert faults(found) == {
        ("probe00", "imec0.ap", "TRUNCATED", "blocks"),
        ("probe00", "imec0.lf", "BIN_MISSING", "warns"),
        (None, "nidq", "SYNC_SOURCE_NONE", "warns"),
    }
    assert "121625350 bytes were expected" in message(found, "TRUNCATED")
    assert found.nidq.n_samples == 1095552 // 18 and len(found.probes[0].ap.channels) == 384

    found = inspect(folder / "TEST_20210920_0_g0")
    assert faults(found) == {("probe00", "imec0.ap", "TRUNCATED", "blocks")}
    assert found.probes[0].shanks == [0, 1, 2, 3] and found.nidq is None

    found = inspect(folder / "NP2_no_sync")
    assert ("probe00", "imec0.ap", "SYNC_MISSING", "warns") in faults(found)

    several = folder / "multi_trigger_multi_gate"
    found = inspect(several / "SpikeGLX" / "5-19-2022-CI0")
    assert faults(found) == {(None, None, "MULTIPLE_SEGMENTS", "blocks")}
    for name in ("g0_t0", "g0_t1", "g1_t0", "g1_t1"):
        assert f"5-19-2022-CI0_{name}" in message(found, "MULTIPLE_SEGMENTS")

    found = inspect(several / "CatGT" / "CatGT-A")
    assert {(fault.probe, fault.code) for fault in found.faults if fault.severity == "blocks"} == {
        (probe, code) for probe in ("probe00", "probe01") for code in ("CATGT_JOINED", "TOO_SHORT")
    }
    found = inspect(real_data / "spikewrap/example_tiny_data/spikeglx/rawdata/sub-001/ses-001/ephys")
    assert faults(found) == {(None, None, "MULTIPLE_SEGMENTS", "blocks")}
