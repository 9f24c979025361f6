"""``powerpixels clean``: what it gives back, and above all what it does not. That -resume then does nothing anew is
shown by tests/pipeline/test_session.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from powerpixels import cli
from powerpixels.clean import forget, release
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from run_folder import SESSION, Folder
from simulated_unit import write_unit

DAYS = ("2026-03-01_001", "2026-03-02_001")


def preprocessed(run: Folder, tag: str, units: list[str], folder: str = "preprocessed") -> list[Path]:
    """The traces of the task that was added last: 4000 bytes a unit, whose folder's date is long past."""
    work = Path(run.lines[-1].split("\t")[-1])
    made = []
    for unit in units:
        place = work / folder / unit if unit else work / folder
        place.mkdir(parents=True)
        (place / "recording.json").write_text(json.dumps({"channels": [1, 2]}))
        (place / "traces.bin").write_bytes(bytes(4000))
        os.utime(place, (1e9, 1e9))
        made.append(place / "traces.bin")
    return made


def sorted_probe(run: Folder, tag: str, units: list[str]) -> list[Path]:
    run.ended("PREPROCESS", tag)
    traces = preprocessed(run, tag, units)
    for unit in units:
        for stage in ("DRIFT", "SORT", "ANALYZE", "LABEL"):
            run.ended(stage, f"{tag}/{unit}")
    return traces


def test_only_of_probes_that_are_done(tmp_path, capsys):
    run = Folder(tmp_path)
    done = sorted_probe(run, f"{SESSION}/probe00", ["shank0", "shank1"])
    run.ended("EXPORT", f"{SESSION}/probe00")
    unexported = sorted_probe(run, f"{SESSION}/probe01", ["shank2"])
    undrifted = sorted_probe(run, "m1/2026-03-02_001/probe00", ["shank0"])
    run.ended("DRIFT", "m1/2026-03-02_001/probe00/shank0", "FAILED", exit="1")
    run.ended("EXPORT", "m1/2026-03-02_001/probe00")
    busy = sorted_probe(run, "m1/2026-03-02_001/probe01", ["shank0"])
    run.ended("EXPORT", "m1/2026-03-02_001/probe01")
    run.active("ANALYZE", "m1/2026-03-02_001/probe01/shank0")
    # Published as a hard link, and a probe without usable channels.
    published = tmp_path / "published.bin"
    published.hardlink_to(done[0])
    run.save()
    dates = [path.parent.stat().st_mtime_ns for path in done]
    assert [one.n_bytes for one in release(run.results, dry_run=True)] == [4000, 4000]
    assert all(path.stat().st_size == 4000 for path in done)
    cli.main(["clean", str(run.results)])
    assert "0.00 GB given back" in capsys.readouterr().out
    assert [path.stat().st_size for path in done] == [0, 0]
    assert [path.parent.stat().st_mtime_ns for path in done] == dates
    assert published.stat().st_size == 4000
    assert all(path.stat().st_size == 4000 for path in (*unexported, *undrifted, *busy))
    assert release(run.results) == []


def test_sessions_sorted_as_one_are_done_when_all_are(tmp_path):
    run = Folder(tmp_path)
    run.record["sessions"] = [session | {"sorted_as": "concatenated_a"} for session in run.record["sessions"]]
    (traces,) = sorted_probe(run, "m1/concatenated_a/probe00", ["shank0"])
    for day in DAYS:
        run.ended("RAW_QC", f"m1/{day}/probe00")
    run.ended("EXPORT", f"m1/{DAYS[0]}/probe00")
    run.save()
    assert release(run.results) == []
    run.ended("EXPORT", f"m1/{DAYS[1]}/probe00")
    run.save()
    assert [one.path for one in release(run.results)] == [traces]


def test_corrected_traces_too(tmp_path):
    run = Folder(tmp_path, drift="dredge")
    sorted_probe(run, f"{SESSION}/probe00", ["shank0"])
    run.ended("DRIFT", f"{SESSION}/probe00/shank0")
    (corrected,) = preprocessed(run, f"{SESSION}/probe00", [""], "corrected")
    run.ended("EXPORT", f"{SESSION}/probe00")
    run.save()
    assert corrected in [one.path for one in release(run.results)] and corrected.stat().st_size == 0


def test_nothing_outside_the_work_folder(tmp_path):
    """A trace that names another place, as after a copy of the results; a link that leads out of it."""
    run = Folder(tmp_path)
    (traces,) = sorted_probe(run, f"{SESSION}/probe00", ["shank0"])
    run.ended("EXPORT", f"{SESSION}/probe00")
    run.save(work_dir=str(tmp_path / "another"))
    with pytest.raises(DataError, match="nothing was removed"):
        release(run.results)
    run.save(work_dir=str(run.work))
    outside = tmp_path / "raw.bin"
    traces.rename(outside)
    traces.symlink_to(outside)
    assert release(run.results) == [] and outside.stat().st_size == 4000


def test_what_reads_traces_says_how_to_get_them_back(tmp_path):
    unit = write_unit(tmp_path / "shank0", np.zeros((100, 2)), np.zeros((2, 2)))
    os.truncate(unit / "traces.bin", 0)
    with pytest.raises(DataError, match="'powerpixels clean RESULTS --forget SUBJECT/SESSION/"):
        load_preprocessed(unit)


def test_forgetting(tmp_path):
    run = Folder(tmp_path)
    traces = sorted_probe(run, f"{SESSION}/probe00", ["shank0"])
    run.ended("EXPORT", f"{SESSION}/probe00")
    run.save(end="2026-11-26T18:00:00Z", success=True)
    with pytest.raises(DataError, match="found none"):
        forget(run.results, f"{SESSION}/probe00")
    release(run.results)
    with pytest.raises(DataError, match="found none"):
        forget(run.results, f"{SESSION}/probe01")
    run.save(end=None)
    with pytest.raises(DataError, match="a run goes on"):
        forget(run.results, f"{SESSION}/probe00")
    run.save(end="2026-11-26T18:00:00Z")
    (removed,) = forget(run.results, "m1/*/probe00")
    assert removed == traces[0].parents[2] and not removed.exists() and run.work.exists()
