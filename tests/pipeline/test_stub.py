"""The shape of a run, without the science: what is done how often, what is published, what -resume skips."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

from browser import browser, check_page
from driver import ENGINES, ROOT, Launcher, Run, copy_project, empty_session


def test_scatter_gather_publish_resume(launcher, tmp_path):
    """Spaces in every path; no Python packages in reach."""
    launcher.project = copy_project(tmp_path / "the project")
    raw = tmp_path / "raw data"
    for name in ("one", "two"):
        empty_session(raw / name)
    sheet = raw / "sheet.csv"
    sheet.write_text("subject,session,raw,probes\nm1,,one,\nm1,2026-03-02_003,two,probe01\n")
    launcher.folder = tmp_path / "launch here"
    launcher.environment["PATH"] = os.pathsep.join(["/usr/bin", "/bin"])
    arguments = ("-stub-run", "--input", sheet)

    run = launcher.run(*arguments, profile="test")
    assert run.status == 0, run.output
    assert Counter(row["stage"] for row in run.tasks("COMPLETED")) == {
        "INSPECT": 2, "EDGES": 5, "SYNC": 3, "EVENTS": 2, "RAW_QC": 3, "PREPROCESS": 3, "VISUALIZE": 3,
        "DRIFT": 12, "SORT": 12, "ANALYZE": 12, "LABEL": 12, "EXPORT": 3, "NWB": 3, "REPORT": 1, "MANIFEST": 5,
        "SESSION_REPORT": 2,
    }  # fmt: skip
    assert "SORT m1/2026-03-02_003/probe01/shank3" in run.keys("COMPLETED")
    published = {str(path.relative_to(run.results)) for path in run.results.rglob("*") if path.is_file()}
    for session, probe in (("2026-03-01/001", "probe00"), ("2026-03-02/003", "probe01")):
        assert {
            f"m1/{session}/qc/inventory.json",
            f"m1/{session}/qc/manifest.json",
            f"m1/{session}/report.html",
            f"m1/{session}/qc/{probe}/manifest.json",
            f"m1/{session}/qc/{probe}/preprocess.json",
            f"m1/{session}/qc/{probe}/sync.json",
            f"m1/{session}/qc/{probe}/levels.png",
            f"m1/{session}/qc/{probe}/preprocessing/index.html",
            f"m1/{session}/qc/{probe}/drift/shank3/drift.png",
            f"m1/{session}/alf/{probe}/_iblqc_ephysTimeRmsAP.rms.npy",
            f"m1/{session}/qc/{probe}/summary.json",
            f"m1/{session}/alf/stub.times.npy",
            f"m1/{session}/alf/{probe}/spikes.times.npy",
            f"m1/{session}/alf/{probe}/tables/clusters.metrics.pqt",
            f"m1/{session}/alf/{probe}/drift/shank0/drift.times.npy",
            f"m1/{session}/qc/{probe}/sync_residuals.png",
            f"m1/{session}/raw_ephys_data/{probe}/stub.sync.npy",
            f"m1/{session}/raw_ephys_data/{probe}/_spikeglx_sync.times.npy",
            f"m1/{session}/nwb/{probe}.nwb",
            f"m1/{session}/spike_sorters/kilosort4/{probe}/shank2/sorting.json",
            f"m1/{session}/analyzers/{probe}/shank2.zarr/.zgroup",
            f"m1/{session}/alf/{probe}/tables/clusters.metrics.pqt",
            f"m1/{session}/qc/{probe}/labels/shank2.json",
            f"m1/{session}/qc/{probe}/labels/shank2_bombcell.csv",
            f"m1/{session}/qc/{probe}/labels/shank2_ibl_confidence.csv",
        } <= published
    assert {"summary.csv", "pipeline_info/software_versions.yml"} <= published
    assert not any("2026-03-02/003/alf/probe00" in name for name in published)
    kinds = {name.split("/")[1].split("_")[0] for name in published if name.startswith("pipeline_info/")}
    assert {"trace", "report", "timeline", "dag.mmd"} <= kinds

    if browser() is not None:
        for page in (run.results / "report.html", run.results / "m1/2026-03-01/001/report.html"):
            assert "A stub run: nothing was computed." in check_page(page, tmp_path / "browser")

    again = launcher.run(*arguments, "-resume", profile="test")
    assert again.status == 0
    assert again.keys("COMPLETED") == []
    assert len(again.keys("CACHED")) == 83


def test_sessions_sorted_together(launcher, tmp_path):
    """Three sessions of a mouse under one name, one without probe01: sorted once a probe, exported once a session.
    The same name of another mouse is another group, and of that only one session is there."""
    launcher.project = copy_project(tmp_path / "project")
    for name, n_probes in (("a", 2), ("b", 2), ("c", 1), ("other", 1), ("alone", 1)):
        empty_session(tmp_path / name, n_probes=n_probes)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        "subject,session,raw,concatenate\n"
        "m1,2026-03-01,a,week1\nm1,2026-03-02,b,week1\nm1,2026-03-03,c,week1\n"
        "m2,2026-03-01,other,week1\nm1,2026-03-09,alone,\n"
    )
    run = launcher.run("-stub-run", "--input", sheet)
    assert run.status == 0, run.output
    sorted_units = {key.removeprefix("SORT ") for key in run.keys("COMPLETED") if key.startswith("SORT")}
    assert {unit.rsplit("/", 1)[0] for unit in sorted_units} == {
        "m1/concatenated_week1/probe00", "m1/concatenated_week1/probe01",
        "m2/2026-03-01_001/probe00", "m1/2026-03-09_001/probe00",
    }  # fmt: skip
    exported = {key for key in run.keys("COMPLETED") if key.startswith("EXPORT")}
    assert exported == {
        "EXPORT m1/2026-03-01_001/probe00", "EXPORT m1/2026-03-01_001/probe01",
        "EXPORT m1/2026-03-02_001/probe00", "EXPORT m1/2026-03-02_001/probe01",
        "EXPORT m1/2026-03-03_001/probe00", "EXPORT m2/2026-03-01_001/probe00",
        "EXPORT m1/2026-03-09_001/probe00",
    }  # fmt: skip
    # The sheet's order is that of the first tasks.
    begun = [
        row["tag"]
        for row in sorted(run.tasks(), key=lambda row: int(row["task_id"]))
        if row["stage"] == "INSPECT"
    ]
    assert begun == [
        "m1/2026-03-01_001", "m1/2026-03-02_001", "m1/2026-03-03_001", "m2/2026-03-01_001", "m1/2026-03-09_001",
    ]  # fmt: skip
    shared = run.results / "m1" / "concatenated_week1"
    assert (shared / "spike_sorters/kilosort4/probe01/shank0/sorting.json").exists()
    assert (shared / "qc/probe01/suggestions/shank0.json").exists()
    assert not (run.results / "m1/2026-03-01/001/spike_sorters").exists()
    # The recordings are joined in the order of their sessions, whatever that of their arrival.
    (task,) = [row for row in run.tasks() if row["key"] == "PREPROCESS m1/concatenated_week1/probe00"]
    script = (Path(task["workdir"]) / ".command.run").read_text()
    staged = re.findall(r"ln -s (\S+) raw(\d+)/", script)
    sessions = [
        Path(path).parts[len(tmp_path.parts)] for path, _ in sorted(staged, key=lambda pair: int(pair[1]))
    ]
    assert sessions == ["a", "a", "b", "b", "c", "c"]

    again = launcher.run("-stub-run", "--input", sheet, "-resume")
    assert again.keys("COMPLETED") == []


def test_compressed_copies_and_a_second_daq(launcher, tmp_path):
    """COMPRESS once a stream, LF and DAQ too; a OneBox beside a NIDQ gets a clock of its own."""
    run_folder = empty_session(tmp_path / "raw", n_probes=1) / "run_g0"
    for suffix in ("obx.bin", "obx.meta"):
        (run_folder / f"run_g0_t0.obx0.{suffix}").write_text("")
    (tmp_path / "tracing of m1.csv").write_text("")
    (tmp_path / "sheet.csv").write_text("subject,raw,histology\nm1,raw,tracing of m1.csv\n")
    arguments = ("-stub-run", "-resume", "--input", tmp_path / "sheet.csv", "--compress", "mtscomp")
    arguments += ("--nwb_include", "raw,lfp")
    run = launcher.run(*arguments)
    assert run.status == 0, run.output
    session = "m1/2026-03-01_001"
    assert {key for key in run.keys("COMPLETED") if key.split()[0] in ("COMPRESS", "EDGES", "SYNC", "EVENTS")} == {
        f"COMPRESS {session}/probe00/imec0.ap", f"COMPRESS {session}/probe00/imec0.lf",
        f"COMPRESS {session}/nidq/nidq", f"COMPRESS {session}/obx0/obx0",
        f"EDGES {session}", f"EDGES {session}/obx0", f"EDGES {session}/probe00",
        f"SYNC {session}/obx0", f"SYNC {session}/probe00", f"EVENTS {session}", f"EVENTS {session}/obx0",
    }  # fmt: skip
    (task,) = [row for row in run.tasks() if row["stage"] == "NWB"]
    staged = (Path(task["workdir"]) / ".command.run").read_text()
    for name in (
        "events/stub.times.npy",
        "events/obx0",
        "raw1/run_g0_t0.imec0.ap.bin",
        "raw2/run_g0_t0.imec0.ap.meta",
    ):
        assert f" {name}\n" in staged, staged
    assert (run.results / "m1/2026-03-01/001/alf/probe00/xyz_picks.json").exists()
    copies = run.results / "m1/2026-03-01/001/raw_ephys_data"
    assert sorted(str(path.relative_to(copies)) for path in copies.rglob(".zgroup")) == [
        "nidq.zarr/.zgroup", "obx0.zarr/.zgroup", "probe00/imec0.ap.zarr/.zgroup", "probe00/imec0.lf.zarr/.zgroup",
    ]  # fmt: skip

    # Copies of raw data have manifests of their own.
    assert {key for key in run.keys("COMPLETED") if key.startswith("MANIFEST")} == {
        f"MANIFEST {session}", f"MANIFEST {session}/probe00", f"MANIFEST {session}/obx0",
        f"MANIFEST {session}/probe00/imec0.ap", f"MANIFEST {session}/probe00/imec0.lf",
        f"MANIFEST {session}/nidq/nidq", f"MANIFEST {session}/obx0/obx0",
    }  # fmt: skip
    manifests = run.results / "m1/2026-03-01/001/qc"
    assert sorted(str(path.relative_to(manifests)) for path in manifests.rglob("manifest*")) == [
        "manifest.json", "manifest_nidq.json", "manifest_obx0.json", "obx0/manifest.json", "probe00/manifest.json",
        "probe00/manifest_imec0.ap.json", "probe00/manifest_imec0.lf.json",
    ]  # fmt: skip

    # Somebody aligned the probe: that is EXPORT's and NWB's and nobody else's.
    (run.results / "m1/2026-03-01/001/alf/probe00/channel_locations.json").write_text("{}")
    again = launcher.run(*arguments)
    assert again.keys("COMPLETED") == [
        f"EXPORT {session}/probe00", f"MANIFEST {session}/probe00", f"NWB {session}/probe00", "REPORT -",
        f"SESSION_REPORT {session}",
    ]  # fmt: skip
    (task,) = [row for row in again.tasks("COMPLETED") if row["stage"] == "EXPORT"]
    assert "locations/channel_locations.json" in (Path(task["workdir"]) / ".command.run").read_text()


def test_some_probes_up_to_a_stage_and_then_the_rest(oldest, tmp_path):
    """--only and --stop_after: the summary says how far the probes came; a run without them repeats nothing. Without
    a NIDQ the clock is the first probe's, chosen or not. A probe that no recording has is refused by name."""
    empty_session(tmp_path / "two", n_probes=2)
    for path in (tmp_path / "two").rglob("*nidq*"):
        path.unlink()
    empty_session(tmp_path / "one", n_probes=1)
    # Tracings, and one of the probes is aligned already.
    (tmp_path / "traced" / "probe01").mkdir(parents=True)
    (tmp_path / "traced" / "trace.csv").write_text("")
    (tmp_path / "traced" / "probe01" / "channel_locations_shank1.json").write_text("{}")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("subject,session,raw,histology\nm1,2026-03-01,two,traced\nm1,2026-03-02,one,\n")
    arguments = ("-stub-run", "-resume", "--input", sheet)
    session, other = "m1/2026-03-01_001", "m1/2026-03-02_001"

    first = oldest.run(*arguments, "--only", f"m1/2026-03-01/probe?1,{other}/probe07", "--stop_after", "sort")
    assert first.status != 0
    shanks = [f"{session}/probe01/shank{k}" for k in range(4)]
    done = first.keys("COMPLETED")
    assert done == sorted(
        [f"INSPECT {session}", f"INSPECT {other}", f"EDGES {session}/probe00", f"EDGES {session}/probe01"]
        + [f"SYNC {session}/probe00", f"SYNC {session}/probe01"]
        + [f"{stage} {session}/probe01" for stage in ("RAW_QC", "PREPROCESS", "VISUALIZE")]
        + [f"{stage} {shank}" for stage in ("DRIFT", "SORT") for shank in shanks]
        + [f"MANIFEST {place}" for place in (other, session, f"{session}/probe00", f"{session}/probe01")]
        + [f"SESSION_REPORT {session}", f"SESSION_REPORT {other}", "REPORT -"]
    )
    (report,) = [row for row in first.tasks() if row["stage"] == "REPORT"]
    stub_script = (Path(report["workdir"]) / ".command.sh").read_text()
    assert '[{"subject":"m1","session":"2026-03-01_001","probe":"probe01","stage":"SORT"}]' in stub_script
    assert f"{other}/probe07: REFUSE: --only asks for probe07; the recording has probe00" in first.output

    rest = oldest.run(*arguments)
    assert rest.status == 0, rest.output
    again = set(done) & set(rest.keys("COMPLETED"))
    assert {key.split()[0] for key in again} <= {"REPORT", "SESSION_REPORT", "MANIFEST"}
    assert set(done) - again == set(rest.keys("CACHED"))
    assert {key for key in rest.keys("COMPLETED") if key.startswith(("EXPORT", "HISTOLOGY"))} == {
        f"EXPORT {session}/probe00", f"EXPORT {session}/probe01", f"EXPORT {other}/probe00",
        f"HISTOLOGY {session}/histology/histology",
    }  # fmt: skip

    for stage in ("EXPORT", "NWB"):
        staged = {
            row["tag"]: "locations/channel_locations_shank1.json"
            in (Path(row["workdir"]) / ".command.run").read_text()
            for row in rest.tasks("COMPLETED")
            if row["stage"] == stage
        }
        assert staged == {
            f"{session}/probe00": False, f"{session}/probe01": True, f"{other}/probe00": False,
        }  # fmt: skip

    nobody = oldest.run(*arguments, "--only", "m1/*/probe9")
    assert (
        nobody.status != 0 and "--only m1/*/probe9: the chosen sessions have no such probe" in nobody.output
    )


def test_finished_sessions_are_skipped(oldest, tmp_path):
    """--skip_finished makes no task of a session that is whole and made of the same; anything else begins it anew, the
    work folder or Nextflow's memory are not needed. Sessions that are sorted as one go together."""
    oldest.project = copy_project(tmp_path / "project")
    for name in ("one", "two", "three", "four"):
        empty_session(tmp_path / name, n_probes=1)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        "subject,session,raw,concatenate,probes\nm1,2026-03-01,one,,\nm1,2026-03-02,two,both,\n"
        "m1,2026-03-03,three,both,\nm1,2026-03-04,four,,probe00 probe05\n"
    )
    session = {number: f"m1/2026-03-0{number}_001" for number in range(1, 5)}
    arguments = ("-stub-run", "--input", sheet, "--skip_finished")

    def begun(run: Run) -> set[str]:
        return {row["tag"] for row in run.tasks() if row["stage"] == "INSPECT"}

    first = oldest.run(*arguments)
    assert first.status != 0 and "0 of 4 sessions are finished" in first.output
    assert begun(first) == set(session.values())
    results = first.results
    finished = results / "pipeline_info" / "finished"
    assert {str(path.relative_to(finished)) for path in finished.rglob("*_001")} == {
        session[1], session[2], session[3],
    }  # fmt: skip

    # The probe that is not there, asked for no longer; and no memory of the work.
    sheet.write_text(sheet.read_text().replace("probe00 probe05", "probe00"))
    for folder in ("work", ".nextflow"):
        shutil.rmtree(oldest.folder / folder)
    second = oldest.run(*arguments)
    assert second.status == 0 and "3 of 4 sessions are finished" in second.output
    assert begun(second) == {session[4]}

    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    nothing = oldest.run(*arguments, "-resume")
    assert nothing.status == 0 and "4 of 4 sessions are finished" in nothing.output
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    assert {
        path for path in after if before.get(path) != after[path] and "pipeline_info" not in path.parts
    } == set()

    # A raw file of one of two that are sorted as one, and what a manifest names in another size.
    for path in (tmp_path / "three").rglob("*ap.bin"):
        path.write_text("more")
    spikes = "alf/probe00/spikes.times.npy"
    manifest = results / "m1/2026-03-01/001/qc/probe00/manifest.json"
    manifest.write_text(json.dumps({"files": [{"path": spikes, "size_bytes": 1}]}))
    third = oldest.run(*arguments, "-resume")
    assert begun(third) == {session[1], session[2], session[3]}

    # Another parameter, another line of the code.
    assert "0 of 1 sessions are" in oldest.run(*arguments, "--seed", "43", "--only", session[1]).output
    with open(oldest.project / "bin" / "powerpixels" / "status.py", "a") as file:
        file.write("# one more line\n")
    assert "0 of 1 sessions are" in oldest.run(*arguments, "--only", session[4]).output


def test_tasks_of_a_killed_head_are_ended(oldest, tmp_path):
    """On this machine a head that is killed leaves its tasks at work. -resume ends them before it starts any."""
    empty_session(tmp_path / "raw", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
    held = tmp_path / "held.config"
    held.write_text("process { withName: INSPECT { beforeScript = 'sleep 1000' } }\n")
    arguments = ("-stub-run", "--stop_after", "inspect", "--input", tmp_path / "sheet.csv")
    process = oldest.start(*arguments, "-c", held)

    def at_work() -> list[str]:
        here = f"{oldest.folder}/work/"
        links = Path("/proc").glob("[0-9]*/cwd")
        return [link.parent.name for link in links if os.path.exists(link) and here in os.readlink(link)]

    for _ in range(600):
        if at_work():
            break
        time.sleep(0.2)
    process.kill()
    process.wait()
    assert at_work()
    run = oldest.run(*arguments, "-resume")
    assert run.status == 0, run.output
    assert "left 1 task at work on this machine: ending it" in run.output
    assert not at_work()


def test_two_runs_at_once_into_one_folder(oldest, tmp_path):
    """Each leaves a trace, a record and its sessions' rows of its own; the next REPORT of either has both's."""
    for name in "ab":
        empty_session(tmp_path / name, n_probes=1)
        (tmp_path / f"{name}.csv").write_text(f"subject,session,raw\n{name},2026-03-01,{name}\n")
    results = tmp_path / "results"
    other = Launcher(ENGINES[0], tmp_path / "other launch")
    arguments = ("-stub-run", "-resume", "--outdir", results, "--input")
    processes = [
        one.start(*arguments, tmp_path / f"{name}.csv") for one, name in ((oldest, "a"), (other, "b"))
    ]
    for process in processes:
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, output
    info = results / "pipeline_info"
    rows = {str(path.relative_to(info)) for path in info.glob("rows/*/*")}
    assert rows == {"rows/a/2026-03-01_001.json", "rows/b/2026-03-01_001.json"}
    records = [json.loads(path.read_text()) for path in info.glob("run_*.json")]
    assert sorted(record["sessions"][0]["subject"] for record in records) == ["a", "b"]
    for record in records:
        (row,) = record["sessions"]
        with open(record["trace"], newline="") as file:
            tasks = list(csv.DictReader(file, delimiter="\t"))
        assert {task["tag"].split("/")[0] for task in tasks} == {row["subject"], "-"}
        assert record["success"] is True and record["end"] > record["start"]

    finished = oldest.run(*arguments, tmp_path / "a.csv")
    again = Run(finished.status, finished.output, tmp_path)
    (report,) = [row for row in again.tasks() if row["stage"] == "REPORT"]
    staged = (Path(report["workdir"]) / ".command.run").read_text()
    for source, name in (
        (info / "rows/b/2026-03-01_001.json", "earlier1.json"),
        (results / "b/2026-03-01/001/qc/inventory.json", "inventory2.json"),
        (results / "b/2026-03-01/001/qc/probe00/agreement.json", "agreement2.json"),
    ):
        assert f"ln -s {source} {name}\n" in staged


def test_another_reference_clock(oldest, tmp_path):
    """The second probe's clock: the NIDQ and the first probe are fitted to it. A session without such a stream is
    refused by name."""
    empty_session(tmp_path / "two", n_probes=2)
    empty_session(tmp_path / "one", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,session,raw\nm1,2026-03-01,two\nm1,2026-03-02,one\n")
    run = oldest.run("-stub-run", "--input", tmp_path / "sheet.csv", "--reference_clock", "probe01")
    assert run.status != 0
    session = "m1/2026-03-01_001"
    assert {key for key in run.keys("COMPLETED") if key.split()[0] in ("SYNC", "EVENTS", "EXPORT")} == {
        f"SYNC {session}/nidq", f"SYNC {session}/probe00", f"SYNC {session}/probe01",
        f"EVENTS {session}/nidq", f"EXPORT {session}/probe00", f"EXPORT {session}/probe01",
    }  # fmt: skip
    assert "m1/2026-03-02_001: REFUSE: " in run.output
    refused = [row for row in run.tasks("FAILED") if row["stage"] == "REFUSE"]
    assert (
        "--reference_clock asks for probe01; the recording has nidq, probe00"
        in (Path(refused[0]["workdir"]) / ".command.log").read_text()
    )


def test_sorted_by_probe(oldest, tmp_path):
    empty_session(tmp_path / "raw", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
    run = oldest.run("-stub-run", "--input", tmp_path / "sheet.csv", "--sort_by", "probe", "--nwb", "none")
    assert run.status == 0 and not [key for key in run.keys() if key.startswith("NWB")]
    assert [key for key in run.keys() if key.startswith("SORT")] == ["SORT m1/2026-03-01_001/probe00/probe"]
    assert "SYNC m1/2026-03-01_001/probe00" in run.keys("COMPLETED")


def test_drift_corrected_by_whom(oldest, tmp_path):
    """Corrected traces take the place of PREPROCESS's for what follows; without drift nothing is estimated. What
    PREPROCESS made stays."""
    empty_session(tmp_path / "raw", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
    arguments = ("-stub-run", "-resume", "--input", tmp_path / "sheet.csv", "--sort_by", "probe", "--drift")
    unit = "m1/2026-03-01_001/probe00/probe"

    def traces(run, stage: str) -> str:
        (task,) = [row for row in run.tasks() if row["key"] == f"{stage} {unit}"]
        (source,) = re.findall(r"ln -s (\S+) traces\n", (Path(task["workdir"]) / ".command.run").read_text())
        return Path(source).name

    for policy, source in (("auto", "probe"), ("dredge", "corrected"), ("off", "probe")):
        run = oldest.run(*arguments, policy)
        assert run.status == 0, run.output
        assert traces(run, "SORT") == traces(run, "ANALYZE") == source
        assert (f"DRIFT {unit}" in run.keys()) == (policy != "off")
    assert "PREPROCESS m1/2026-03-01_001/probe00" in run.keys("CACHED")
    assert (run.results / "m1/2026-03-01/001/qc/probe00/drift/motion.json").exists()


def test_code_and_input_changes_rerun_what_they_touch(tmp_path):
    """A line changed in a module re-runs the stages that import it; a rewritten file, its own probe;
    metadata, the NWB. What a person curated stays."""
    project = copy_project(tmp_path / "project copy")
    empty_session(tmp_path / "raw")
    (tmp_path / "sheet.csv").write_text("subject,raw,metadata\nm1,raw,mouse.yaml\n")
    (tmp_path / "mouse.yaml").write_text("")
    launcher = Launcher(ENGINES[0], tmp_path / "launch", project)
    arguments = ("-stub-run", "-resume", "--input", tmp_path / "sheet.csv")
    first = launcher.run(*arguments, profile="test")
    assert first.status == 0, first.output
    session = first.results / "m1" / "2026-03-01" / "001"
    curated = [
        session / "curation/probe00/shank0.json",
        session / "alf/probe00/#2026-03-02#/spikes.times.npy",
        session / "alf/probe00/tables/#2026-03-02#/clusters.metrics.pqt",
        session / "nwb/#2026-03-02#/a.nwb",
    ]
    for path in curated:
        path.parent.mkdir(parents=True)
        path.write_text("by hand")

    module = project / "bin" / "powerpixels" / "label.py"
    module.write_text(module.read_text() + "# another line\n")
    changed = launcher.run(*arguments, profile="test")
    # Their outputs are new files, so what follows runs again; SORT and ANALYZE stay.
    assert {row["stage"] for row in changed.tasks("COMPLETED")} == {"LABEL", "EXPORT", "NWB"} | (
        {"REPORT", "MANIFEST", "SESSION_REPORT"} & {row["stage"] for row in changed.tasks("COMPLETED")}
    )
    assert [path for path in curated if not path.is_file()] == []

    (tmp_path / "mouse.yaml").write_text("timezone: UTC")
    described = launcher.run(*arguments, profile="test")
    rerun = {row["stage"] for row in described.tasks("COMPLETED")}
    assert "NWB" in rerun and rerun <= {"NWB", "MANIFEST", "REPORT", "SESSION_REPORT"}

    data = tmp_path / "raw" / "run_g0" / "run_g0_imec1" / "run_g0_t0.imec1.ap.bin"
    os.utime(data, (1_700_000_000, 1_700_000_000))
    rewritten = launcher.run(*arguments, profile="test")
    rerun = rewritten.keys("COMPLETED")
    assert "PREPROCESS m1/2026-03-01_001/probe01" in rerun
    assert "SORT m1/2026-03-01_001/probe01/shank0" in rerun
    assert not [key for key in rerun if key.endswith("probe00") or "/probe00/" in key]


def test_code_digest_covers_every_import(tmp_path):
    """The pattern that finds a stage's modules sees every import of the package that Python sees."""
    import ast

    package = ROOT / "bin" / "powerpixels"
    for source in [*package.glob("*.py"), *(ROOT / "bin").glob("pp_*.py")]:
        tree = ast.parse(source.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("powerpixels") for name in node.names), source
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}: relative import"
                if (node.module or "").split(".")[0] == "powerpixels":
                    line = source.read_text().splitlines()[node.lineno - 1].strip()
                    assert line.startswith(f"from {node.module} import"), f"{source}: {line}"
                    if node.module == "powerpixels":
                        assert "(" not in line, f"{source}: {line}: one line, or the pattern misses it"


def test_lint_is_clean():
    """The strict parser's own check; it fails on any error or warning."""
    command = ROOT / ".engines" / "nextflow-25.04.0" / "nextflow"
    targets = ("main.nf", "nextflow.config", "conf", "modules", "subworkflows")
    done = subprocess.run([command, "lint", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "errors" in done.stdout and "❌" not in done.stdout and "⚠" not in done.stdout, done.stdout
