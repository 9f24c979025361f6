"""Parameters and samplesheets are checked before any work, all faults in one message."""

from __future__ import annotations

import json

import pytest
from driver import ENGINES, ROOT, Launcher, empty_session


def write_sheet(folder, text: str):
    sheet = folder / "sheet.csv"
    sheet.write_text(text, encoding="utf-8")
    return sheet


def refused(run, *messages: str) -> None:
    """The run ended before any task, and said each of the messages."""
    assert run.status != 0
    for message in messages:
        assert message in run.output, f"{message!r} is not in:\n{run.output}"
    assert "Submitted process" not in run.output
    assert not run.tasks()


def test_every_faulty_parameter_is_named_at_once(launcher, tmp_path):
    empty_session(tmp_path / "raw")
    sheet = write_sheet(tmp_path, "subject,raw\nm1,raw\n")
    run = launcher.run(
        *("--input", sheet, "--referense", "local", "--highpass_hz", "high", "--seed", "1.5"),
        *("--sort_by", "probes", "--local_radius_um", "40", "--wiring", tmp_path / "none.json"),
        *(
            "--outdir",
            "results",
            "--publish_dir_mode",
            "move",
            "--stop_after",
            "sorts",
            "--only",
            "m1//probe00",
        ),
    )
    refused(
        run,
        "The parameters have 9 faults:",
        "--referense: unknown parameter, did you mean reference?",
        "--highpass_hz: expected a number, found 'high'",
        "--seed: expected a whole number, found '1.5'",
        "--sort_by: expected one of shank, probe, found 'probes'",
        "--local_radius_um: expected text like 40,200, found '40'",
        f"--wiring: no such file, found '{tmp_path / 'none.json'}'",
        "--publish_dir_mode: expected one of copy, link, symlink, rellink, copyNoFollow, found 'move'",
        "label, found 'sorts', did you mean sort?",
        "--only: expected text like mouse01,mouse02/2026-03-01,mouse03/*/probe00, found 'm1//probe00'",
    )


def test_no_samplesheet_given(oldest):
    refused(oldest.run(), "--input: missing (Samplesheet (CSV) with one row per recording session)")


def test_every_faulty_row_is_named_at_once(launcher, tmp_path):
    for name in ("a", "b", "undated"):
        empty_session(tmp_path / name)
    for meta in (tmp_path / "undated").rglob("*.meta"):
        meta.write_text("")
    (tmp_path / "file").write_text("")
    sheet = write_sheet(
        tmp_path,
        "\ufeffsubject,session,raw,probes\r\n"
        "m 1,2026-03-01,a,\r\n"
        ",2026-03-01,a,\r\n"
        "m1,01/03/2026,a,\r\n"
        "m1,2026-02-30,a,\r\n"
        "m1,2026-03-02,nowhere,\r\n"
        "m1,2026-03-02,file,\r\n"
        "m1,2026-03-02,,\r\n"
        "m1,2026-03-02,a,probe00,probe01\r\n"
        "m1,,undated,\r\n"
        'm1,2026-03-03,a,"probe00,probe01"\r\n'
        "\r\n"
        "m2,2026-03-04,a,\r\n"
        "m2,2026-03-04_001,b,\r\n"
        "m3,,a,probe00;probe01\r\n",
    )
    refused(
        launcher.run("--input", sheet),
        "sheet.csv has 12 faults:",
        "row 2, column 'subject': expected letters, digits, '.', '_' or '-', starting with a letter or digit; found 'm 1'",
        "row 3, column 'subject': expected a value, found none",
        "row 4, column 'session': expected a date YYYY-MM-DD or a date with a number YYYY-MM-DD_NNN, or nothing for the recording's own date; found '01/03/2026'",
        "row 5, column 'session': 2026-02-30 is no day of the calendar",
        f"row 6, column 'raw': expected the folder that the acquisition program wrote; found nothing at {tmp_path / 'nowhere'}",
        f"row 7, column 'raw': expected the folder that the acquisition program wrote; found a file at {tmp_path / 'file'}",
        "row 8, column 'raw': expected a value, found none",
        "row 9: expected 4 fields as in the header, found 5",
        f"row 10, column 'session': it is empty and no file in {tmp_path / 'undated'} tells the recording's date",
        "row 11, column 'probes': expected names of probes such as probe00, separated by ';', or nothing for all; found 'probe00,probe01'",
        "rows 13, 14, column 'session': m2 has session 2026-03-04_001 more than once",
        f"rows 13, 15, column 'raw': the same folder stands there more than once: {tmp_path / 'a'}",
    )


def test_sorters_of_rows(oldest, tmp_path):
    """A sorter that is none, a parameter file that is not there, and sessions to be sorted together by two sorters."""
    for name in "abcd":
        empty_session(tmp_path / name, n_probes=1)
    sheet = write_sheet(
        tmp_path,
        "subject,session,raw,concatenate,sorter,sorter_params\n"
        "m1,2026-03-01,a,week1,,\n"
        "m1,2026-03-02,b,week1,lupin,\n"
        "m1,2026-03-03,c,,kilosort5,\n"
        "m1,2026-03-04,d,,,none.json\n",
    )
    refused(
        oldest.run("--input", sheet),
        "sheet.csv has 3 faults:",
        "rows 2, 3, columns 'sorter', 'sorter_params': m1's sessions week1 are to be sorted as one, with different sorters",
        "row 4, column 'sorter': expected SpikeInterface's name of a sorter (kilosort4, spykingcircus2, ...)",
        "row 5, column 'sorter_params': expected a JSON file of the sorter's parameters, or nothing for that of --sorter_params; found nothing at",
    )


def test_a_sorters_image_needs_a_profile_that_uses_it(oldest, tmp_path):
    empty_session(tmp_path / "raw")
    (tmp_path / "kilosort3.sif").write_text("")
    sheet = write_sheet(tmp_path, "subject,raw\nm1,raw\n")
    refused(
        oldest.run("--input", sheet, "--sorter_image", tmp_path / "kilosort3.sif"),
        "--sorter_image: tasks run in images",
    )


def test_only_names_what_the_samplesheet_has(oldest, tmp_path):
    """Before any work, all at once; of sessions that are sorted as one none may be left out."""
    for name in "abcd":
        empty_session(tmp_path / name, n_probes=1)
    sheet = write_sheet(
        tmp_path,
        "subject,session,raw,probes,concatenate\n"
        "mouse1,2026-03-01,a,,week1\nmouse1,2026-03-02,b,,week1\n"
        "mouse1,2026-03-03_002,c,probe00;probe01,\nother,2026-03-04,d,,\n",
    )
    choices = [
        "mous1",
        "mouse1/2026-03-22",
        "zzzzzzz",
        "mouse1/2026-03-03/probe0",
        "mouse1/2026-03-01",
        "oth*",
    ]
    refused(
        oldest.run("--input", sheet, "--only", ",".join(choices)),
        "--only has 5 faults:",
        "mous1: no such subject in the samplesheet, did you mean mouse1?",
        "mouse1/2026-03-22: no such session of mouse1 in the samplesheet, did you mean 2026-03-02?",
        "zzzzzzz: no such subject in the samplesheet: it has mouse1, other",
        "mouse1/2026-03-03/probe0: no such probe in the samplesheet's column probes, did you mean probe00?",
        "mouse1's sessions week1 are sorted as one: choose all of them with the same probes, mouse1/2026-03-01_001,mouse1/2026-03-02_001",
    )


def test_scratch_is_for_engines_that_copy_back_safely(oldest, tmp_path):
    sheet = write_sheet(tmp_path, "subject,raw\nm1,raw\n")
    refused(oldest.run("--input", sheet, "--scratch", tmp_path), "--scratch needs Nextflow 25.04 or newer")


@pytest.mark.parametrize(
    "text, messages",
    [
        (
            "",
            [
                "it is empty: expected a first line with the columns subject, session, raw, probes, concatenate, histology"
            ],
        ),
        ("subject,raw\n", ["it has no rows: expected one for each session below the header"]),
        ("subject;raw\nm1;a\n", ["the columns are separated by ';': expected commas"]),
        (
            "subject,session,session,path\nm1,,,a\n",
            [
                "has 3 faults",
                "row 1: unknown column 'path': known are subject, session, raw, probes, concatenate, histology",
                "row 1: column 'raw' is missing",
                "row 1: column 'session' stands there more than once",
            ],
        ),
    ],
    ids=["empty", "no rows", "semicolons", "columns"],
)
def test_faulty_header(oldest, tmp_path, text, messages):
    refused(oldest.run("--input", write_sheet(tmp_path, text)), *messages)


@pytest.mark.parametrize(("engine", "option"), [(ENGINES[0], "--help"), (ENGINES[1], "--help_all")])
def test_help_names_every_parameter_and_does_nothing(engine, option, tmp_path):
    run = Launcher(engine, tmp_path / "launch").run(option, profile="test")
    assert run.status == 0, run.output
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    for group in schema["$defs"].values():
        shown = {name: spec for name, spec in group["properties"].items() if not spec.get("hidden")}
        assert not shown or f"\n{group['title']}\n" in run.output
        for name, spec in shown.items():
            (line,) = [line for line in run.output.splitlines() if line.startswith(f"  --{name} ")]
            words = spec["description"].split()[:4]
            assert " ".join(words) in line and len(line) <= 110
            if option == "--help_all" and "help_text" in spec:
                assert " ".join(spec["help_text"].split()[:4]) in run.output
    assert "custom_config_base" not in run.output and "Submitted process" not in run.output
    assert run.output.count("\n") < 70 or option == "--help_all"
