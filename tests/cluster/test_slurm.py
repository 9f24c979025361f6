"""Jobs that a real one-node SLURM preempts, cancels and kills, and a head that dies: nothing is lost.

In most tests the stages are stubs, SORT's held for a while: it is the scheduler and Nextflow that are under test.
tests/cluster/setup_slurm.sh brings the scheduler up; ``make test-cluster`` runs this."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from powerpixels.simulate import score_alf

ROOT = Path(__file__).resolve().parent.parent.parent
# The launcher of the pipeline's own tests.
sys.path.insert(0, str(ROOT / "tests" / "pipeline"))
from driver import ENGINES, Launcher, Run, copy_project, empty_session  # noqa: E402

pytestmark = pytest.mark.skipif(
    "POWERPIXELS_CLUSTER" not in os.environ or not shutil.which("sbatch"),
    reason="a real SLURM is tested by make test-cluster only",
)

# Waiting is what a real cluster needs, and only that.
IMPATIENT = """executor {
    submitRateLimit = '100/1sec'
    pollInterval = '500 ms'
    queueStatInterval = '1 sec'
    exitReadTimeout = '5 sec'
}
process.queue = 'preemptible'
"""
HELD_S = 20  # how long each SORT lasts: time to preempt it
PATIENCE_S = 300


def slurm(*command: str, check: bool = True) -> str:
    """What one of SLURM's programs prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


def jobs(stage: str, state: str) -> list[str]:
    """Ids of a stage's jobs in a state, in the order of their submission."""
    lines = slurm("squeue", "-h", "-S", "i", "-t", state, "-o", "%i %j").splitlines()
    return [line.split()[0] for line in lines if f"NEUROPIXELS_{stage}" in line]


def wait_for(condition, what: str):
    """The condition's value, as soon as it has one."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s\n{slurm('squeue')}")


class Session:
    """A session's stub on SLURM: four shanks of one probe, each SORT held for a while."""

    def __init__(self, folder: Path, more: str = "", project: Path = ROOT, held_s: int = HELD_S):
        empty_session(folder / "raw", n_probes=1)
        (folder / "sheet.csv").write_text("subject,raw\nm1,raw\n")
        (folder / "held.config").write_text(
            f"{IMPATIENT}process {{ withName: SORT {{ beforeScript = 'sleep {held_s}' }} }}\n{more}"
        )
        self.launcher = Launcher(ENGINES[0], folder / "launch", project)
        # 25.04.0's strict configuration parser knows no profile once -c names a second file.
        self.launcher.environment.pop("NXF_SYNTAX_PARSER", None)
        self.arguments = ("-stub-run", "-c", folder / "held.config", "--input", folder / "sheet.csv")

    def start(self, *arguments: str) -> subprocess.Popen:
        return self.launcher.start(*self.arguments, "--device", "gpu", *arguments, profile="slurm,test")

    def finish(self, process: subprocess.Popen) -> Run:
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
        return Run(process.returncode, output, self.launcher.folder)


@pytest.fixture(autouse=True)
def an_empty_queue():
    yield
    slurm("scancel", "-u", "root", check=False)


def published(run: Run) -> list[str]:
    files = [path.relative_to(run.results) for path in run.results.rglob("*") if path.is_file()]
    return sorted(str(path) for path in files if path.parts[0] != "pipeline_info")


def test_preempted_and_cancelled_jobs_are_done_again(tmp_path):
    """One SORT makes way for a job of higher priority, one is requeued by hand, one is cancelled before it starts."""
    session = Session(tmp_path)
    process = session.start()
    first = wait_for(lambda: jobs("SORT", "R"), "a running SORT")[0]
    slurm("scontrol", "requeue", first, check=False)
    pending = wait_for(lambda: jobs("SORT", "PD"), "a waiting SORT")
    slurm("scancel", pending[-1])
    wait_for(lambda: [job for job in jobs("SORT", "R") if job != first], "another running SORT")
    # Both cores, so that whatever runs has to go.
    command = ["sbatch", "-p", "urgent", "-n", str(os.cpu_count()), "-o", "/dev/null", "--wrap", "sleep 3"]
    slurm(*command)
    run = session.finish(process)
    assert run.status == 0, run.output
    failed = [row for row in run.tasks("FAILED") if row["stage"] == "SORT"]
    assert len(failed) >= 2
    assert all(row["exit"] in {"143", "-", "2147483647"} for row in failed), failed
    # Four sorted units, whatever became of their first attempts, and no more memory or time for the others.
    done = [row for row in run.tasks("COMPLETED") if row["stage"] == "SORT"]
    assert len(done) == 4
    assert len({(row["memory"], row["time"]) for row in done}) == 1

    undisturbed = Session(tmp_path / "again")
    other = undisturbed.finish(undisturbed.start())
    assert published(run) == published(other)


def test_a_killed_head_is_resumed(tmp_path):
    """kill -9 of the head leaves its jobs at work: -resume cancels those, and no other job of the user's, before it
    submits anything. What was done stays cached, and nothing is published twice."""
    session = Session(tmp_path)
    process = session.start()
    wait_for(lambda: jobs("SORT", "R"), "a running SORT")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = set(slurm("squeue", "-h", "-o", "%A").split())
    assert left
    other = slurm("sbatch", "--parsable", "-H", "-o", "/dev/null", "--wrap", "true").strip()
    resumed = session.start("-resume")
    run = session.finish(resumed)
    assert run.status == 0, run.output
    (cancelled,) = re.findall(r"left \d+ jobs? in the queue: cancelling (.*)", run.output)
    assert set(cancelled.split()) <= left  # the others have ended meanwhile
    # What they left in their folders, which this engine uses again, is not taken for the new jobs' end.
    assert run.tasks("FAILED") == []
    assert slurm("squeue", "-h", "-o", "%A").split() == [other]
    assert "PREPROCESS m1/2026-03-01_001/probe00" in run.keys("CACHED")
    assert len([key for key in run.keys("COMPLETED", "CACHED") if key.startswith("SORT")]) == 4


def test_what_is_short_grows_and_a_restarted_controller_loses_nothing(tmp_path):
    """A job that this SLURM kills for its memory, whole and so without an exit status, gets more when that happened
    twice; one at the end of its time gets longer. In between the controller goes down and comes back."""
    project = copy_project(tmp_path / "project")
    module = project / "modules" / "sort" / "main.nf"
    begins = "    mkdir sorting\n    echo "
    held = "python3 -c 'import time; held = bytes(range(256)) * 6_000_000; time.sleep(10)'"
    grows = f"    case ${{meta.unit}}-${{task.attempt}} in shank0-*) {held};; shank1-1) sleep 200;; esac\n"
    assert module.read_text().count(begins) == 1
    module.write_text(module.read_text().replace(begins, grows + begins))
    # Little at first, so that the test is short; what a retry asks for is the pipeline's own choice.
    limits = (
        "process { withName: SORT { resourceLimits = { [cpus: 1, memory: task.attempt <= 2 ? 1.GB : 4.GB, "
    )
    limits += "time: task.attempt == 1 && meta.unit == 'shank1' ? 2.min : 9.min] } } }\n"
    session = Session(tmp_path, more=limits, project=project, held_s=0)
    process = session.start()
    wait_for(lambda: jobs("SORT", "R"), "a running SORT")
    subprocess.run(["pkill", "slurmctld"], check=True)
    wait_for(lambda: subprocess.run(["pgrep", "slurmctld"], stdout=subprocess.DEVNULL).returncode, "its end")
    time.sleep(5)
    subprocess.run(["slurmctld"], check=True)
    run = session.finish(process)
    assert run.status == 0, run.output
    tasks = {}
    for row in run.tasks():
        if row["stage"] == "SORT":
            attempt = (row["exit"], row["memory"], row["time"])
            tasks.setdefault(row["key"].split("/")[-1], {})[int(row["attempt"])] = attempt
    none = tasks["shank0"][1][0]
    assert none in ("-", "2147483647")
    assert tasks == {
        "shank0": {1: (none, "1 GB", "9m"), 2: (none, "1 GB", "9m"), 3: ("0", "2 GB", "9m")},
        "shank1": {1: ("140", "1 GB", "2m"), 2: ("0", "1 GB", "4m")},
        "shank2": {1: ("0", "1 GB", "9m")},
        "shank3": {1: ("0", "1 GB", "9m")},
    }


IMAGE = ROOT / "containers" / "powerpixels-cpu.sif"


def test_whatever_befell_a_session_its_results_are_the_same(session_small, tmp_path):
    """A simulated probe, sorted on SLURM, in an image where there is one: one sort is requeued, both make way for a job
    of higher priority, and then the head is killed. Resumed, it does again what was lost and nothing else, and all that
    it publishes is what an undisturbed run publishes; the neurons are the known ones."""
    site = tmp_path / "site.config"
    site.write_text(f"{IMPATIENT}apptainer.runOptions = '--userns'\n")
    arguments = ("-c", site, "--input", session_small / "samplesheet.csv", "--only", "*/*/probe01")
    arguments += ("--sorter", "tridesclous2", "--drift", "off")
    profile = "slurm,test"
    if IMAGE.exists() and shutil.which("apptainer"):
        arguments += ("--container", IMAGE)
        profile += ",apptainer"
    launchers = {name: Launcher(ENGINES[0], tmp_path / name) for name in ("disturbed", "undisturbed")}
    for launcher in launchers.values():
        # As in Session.
        launcher.environment.pop("NXF_SYNTAX_PARSER", None)
    launcher = launchers["disturbed"]

    process = launcher.start(*arguments, profile=profile)
    first = wait_for(lambda: jobs("SORT", "R"), "a running SORT")[0]
    slurm("scontrol", "requeue", first, check=False)
    wait_for(lambda: [job for job in jobs("SORT", "R") if job != first], "another running SORT")
    slurm("sbatch", "-p", "urgent", "-n", str(os.cpu_count()), "-o", "/dev/null", "--wrap", "sleep 3")
    wait_for(lambda: jobs("ANALYZE", "R"), "a running ANALYZE")
    lost = Run(-9, "", launcher.folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    failed = [row["stage"] for row in lost.tasks("FAILED")]
    assert failed.count("SORT") >= 2
    done = set(lost.keys("COMPLETED"))
    assert any(key.startswith("SORT") for key in done)

    run = launcher.run("-resume", *arguments, profile=profile)
    assert run.status == 0, run.output
    assert done <= set(run.keys("CACHED"))
    other = launchers["undisturbed"].run(*arguments, profile=profile)
    assert other.status == 0, other.output
    assert contents(run) == contents(other)

    (folder,) = run.results.glob("*/*/*/alf/probe01")
    scores = score_alf(session_small, folder, "probe01")
    # Tridesclous 2 misses a fifth of one neuron's spikes.
    assert len(scores) == 6 and (scores.precision >= 0.9).all(), scores.to_string()
    assert (scores.recall >= 0.9).sum() >= 5 and scores.recall.min() >= 0.7, scores.to_string()


def contents(run: Run) -> dict[str, str]:
    """Digest of all that a run published, by name: of each file, and of each array in an NWB and an analyzer. Those two
    hold the time of their making, and the manifests all files' digests."""
    found = {}
    for name in published(run):
        path = run.results / name
        if path.suffix == ".nwb":
            with h5py.File(path) as file:
                file.visititems(
                    lambda key, item, name=name: (
                        found.update({f"{name}/{key}": digest(repr(np.asarray(item[()]).tolist()).encode())})
                        if isinstance(item, h5py.Dataset) and key != "file_create_date"
                        else None
                    )
                )
        elif ".zarr" not in name and path.name != "manifest.json":
            found[name] = digest(path.read_bytes())
    for path in run.results.rglob("*.zarr"):
        group = zarr.open(str(path), mode="r")
        group.visititems(
            lambda key, item, path=path: (
                found.update({f"{path.name}/{key}": digest(repr(item[...].tolist()).encode())})
                if isinstance(item, zarr.Array) and not key.endswith("/runtime_s")
                else None
            )
        )
    return found


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
