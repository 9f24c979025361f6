"""A day's empty session folders."""

from __future__ import annotations

from datetime import date

import pytest
from powerpixels import cli, samplesheet
from powerpixels.prepare import prepare
from powerpixels.stage import DataError


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_folders_and_flag_of_a_day(tmp_path, capsys):
    cli.main(["prepare", str(tmp_path), "m1", "m2", "m1", "--date", "2026-03-01"])
    assert tree(tmp_path) == sorted(
        f"{subject}{below}"
        for subject in ("m1", "m2")
        for below in (
            "",
            "/20260301",
            "/20260301/process_me.flag",
            "/20260301/raw_behavior_data",
            "/20260301/raw_ephys_data",
            "/20260301/raw_video_data",
        )
    )
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/{s}/20260301: made" for s in ("m1", "m2")]
    found = samplesheet.find_recordings([tmp_path], everything=False)
    assert found == [tmp_path / s / "20260301" / "raw_ephys_data" for s in ("m1", "m2")]


def test_what_is_there_is_left_as_it_is(tmp_path):
    """A session that was processed has no flag any more, and gets none."""
    done = tmp_path / "m1" / "20260301" / "raw_ephys_data"
    done.mkdir(parents=True)
    results = prepare(tmp_path, ["m1", "m2"], date(2026, 3, 1))
    assert results == [(tmp_path / "m1" / "20260301", False), (tmp_path / "m2" / "20260301", True)]
    assert tree(tmp_path / "m1") == ["20260301", "20260301/raw_ephys_data"]


def test_today_is_the_default(tmp_path, capsys):
    before = date.today()
    cli.main(["prepare", str(tmp_path), "m1"])
    assert tree(tmp_path)[1] in {f"m1/{day:%Y%m%d}" for day in (before, date.today())}


@pytest.mark.parametrize("name", ["mouse 1", "../m1", "", "-m", "a/b", "maus\u00e9"])
def test_odd_names_are_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(DataError, match="expected letters, digits"):
        prepare(tmp_path, ["m1", name], date(2026, 3, 1))
    assert tree(tmp_path) == []


def test_a_missing_data_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["prepare", str(tmp_path / "gone"), "m1"])
    assert exit_.value.code == 65
    assert "gone: expected the folder of all subjects" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_a_day_that_is_none_is_a_wrong_argument(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["prepare", str(tmp_path), "m1", "--date", "2026-02-30"])
    assert exit_.value.code == 2
    assert "expected a day as YYYY-MM-DD, found '2026-02-30'" in capsys.readouterr().err
