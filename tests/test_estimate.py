"""``powerpixels estimate``: what of it follows exactly from the headers. Its constants are held against a run's
own sizes in tests/pipeline/test_session.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from powerpixels import cli
from powerpixels.estimate import GPU_S_PER_GB, Options, estimate

# The small session: 28 and 52 channels, 20 s.
TRACES = 2 * (28 + 52) * 600_000


@pytest.fixture
def sheet(session_small, tmp_path) -> Path:
    """The small session, and beside it one whose second probe's file is cut off."""
    (raw,) = (session_small / "raw").iterdir()
    shutil.copytree(raw, tmp_path / "cut")
    (damaged,) = (tmp_path / "cut").rglob("*.imec1.ap.bin")
    with open(damaged, "r+b") as file:
        file.truncate(1_000_000)
    path = tmp_path / "sheet.csv"
    path.write_text(f"\ufeffsubject,session,raw,probes\nm1,2026-03-01,{raw},\nm1,,cut,probe00;probe01\n\n")
    return path


def test_options_change_what_they_should(sheet):
    plain, cut = estimate(sheet, Options())
    assert (plain.probes, cut.probes) == (2, 1)
    raw = [path for path in (sheet.parent / "cut").rglob("*") if path.is_file()]
    # Of the probe that can't be read nothing is counted.
    assert cut.raw_bytes == sum(path.stat().st_size for path in raw if "imec1" not in path.name)
    assert plain.gpu_hours == pytest.approx(GPU_S_PER_GB * TRACES / 1e9 / 3600)
    assert plain.work_bytes - plain.published_bytes - TRACES == pytest.approx(4.2e6, rel=0.01)

    def first(**options):
        return estimate(sheet, Options(**options))[0]

    kept = first(keep_binary=True)
    assert (kept.published_bytes - plain.published_bytes, kept.work_bytes) == (TRACES, plain.work_bytes)
    assert first(drift="dredge").work_bytes - plain.work_bytes == TRACES
    copied = first(compress="zarr")
    assert copied.published_bytes - plain.published_bytes == pytest.approx(plain.raw_bytes / 3.57)
    assert copied.work_bytes - plain.work_bytes == pytest.approx(plain.raw_bytes / 3.57)
    with_raw = first(nwb_include="raw")
    assert with_raw.published_bytes - plain.published_bytes == pytest.approx(TRACES / 2.28)
    assert first(nwb_include="raw", nwb="none") == plain
    assert first(lfp=True).published_bytes > plain.published_bytes
    # One shank fewer on the second probe.
    assert first(sort_by="probe").work_bytes < plain.work_bytes
    on_cpu = first(device="cpu")
    assert on_cpu.gpu_hours == 0 and on_cpu.core_hours > plain.core_hours


def test_table_and_json(sheet, capsys):
    cli.main(["estimate", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[3].startswith("all")
    cli.main(["estimate", str(sheet), "--json"])
    assert [row["probes"] for row in json.loads(capsys.readouterr().out)] == [2, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("subject,path\nm1,a\n", "raw is missing"),
        ("subject,raw\nm1,nowhere\n", "is not a folder"),
        ("subject,raw\nm1,\n", "has none"),
    ],
)
def test_faulty_sheets(tmp_path, capsys, text, message):
    (tmp_path / "sheet.csv").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["estimate", str(tmp_path / "sheet.csv")])
    assert ended.value.code == 65 and message in capsys.readouterr().err
