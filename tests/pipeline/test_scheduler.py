"""What the slurm profile asks of the scheduler, and which failures are tried again: against a scheduler that
is played by three small scripts on PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from driver import ENGINES, Launcher, empty_session

SBATCH = """#!/bin/bash
# Runs the job at once. The play folder's first/<start of a job's name> says how the first such job ends instead:
# the exit status, "vanishes" for a job that began and was never heard of again, or "lost" for one that never began.
set -e
play=$(cd "$(dirname "$0")/../play" && pwd)
cp "${@: -1}" "$play/scripts/$$"
name=$(sed -n 's/^#SBATCH -J nf-NEUROPIXELS_//p' "$play/scripts/$$")
ending=
for first in "$play"/first/*; do
    if [[ "$name" == "$(basename "$first")"* ]]; then
        ending=$(cat "$first")
        rm "$first"
        break
    fi
done
if [ -n "$ending" ]; then
    [ "$ending" = lost ] || touch .command.begin
    [[ "$ending" = [a-z]* ]] || echo -n "$ending" > .exitcode
else
    setsid bash .command.run > .command.log 2>&1 < /dev/null &
fi
echo "Submitted batch job $$"
"""


class Cluster:
    """A launcher whose PATH has the played scheduler first."""

    def __init__(self, tmp_path, engine: str):
        self.play = tmp_path / "play"
        for name in ("scripts", "first"):
            (self.play / name).mkdir(parents=True)
        commands = tmp_path / "commands"
        commands.mkdir()
        for name, text in (
            ("sbatch", SBATCH),
            ("squeue", "#!/bin/sh\nexit 0\n"),
            ("scancel", "#!/bin/sh\nexit 0\n"),
        ):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        empty_session(tmp_path / "raw", n_probes=1)
        (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
        self.launcher = Launcher(engine, tmp_path / "launch")
        self.launcher.environment["PATH"] = f"{commands}:{os.environ['PATH']}"
        # 25.04.0's strict configuration parser knows no profile once -c names a second file.
        self.launcher.environment.pop("NXF_SYNTAX_PARSER", None)
        # Waiting is what a real cluster needs, and only that.
        self.impatient = tmp_path / "impatient.config"
        self.impatient.write_text(
            "executor {\n    submitRateLimit = '100/1sec'\n    pollInterval = '200 ms'\n"
            "    queueStatInterval = '500 ms'\n    exitReadTimeout = '2 sec'\n}\n"
            "process { withName: LABEL { maxSubmitAwait = '20 sec' } }\n"
        )
        self.sheet = tmp_path / "sheet.csv"

    def run(self, *arguments):
        return self.launcher.run(
            *("-stub-run", "-c", self.impatient, "--input", self.sheet, *arguments), profile="slurm"
        )

    def headers(self, stage: str) -> list[list[str]]:
        """The #SBATCH lines of each job of a stage."""
        jobs = [path.read_text().splitlines() for path in (self.play / "scripts").iterdir()]
        lines = [[line for line in job if line.startswith("#SBATCH")] for job in jobs]
        return [job for job in lines if any(re.search(rf"-J .*NEUROPIXELS_{stage}", line) for line in job)]


@pytest.mark.parametrize("engine", ENGINES)
def test_only_sort_asks_for_a_gpu_and_causes_are_retried(tmp_path, engine):
    """Preempted (143), out of memory (137), out of time (140), no exit status at all, no GPU (75), and a waiting
    job that the queue forgot: each is tried again, and only what was short grows."""
    cluster = Cluster(tmp_path, engine)
    for stage, ending in (
        ("INSPECT", "143"),
        ("EDGES", "75"),
        ("PREPROCESS", "137"),
        ("SYNC", "vanishes"),
        ("SORT", "140"),
        ("LABEL", "lost"),
    ):
        (cluster.play / "first" / stage).write_text(ending)
    run = cluster.run()
    assert run.status == 0, run.output
    attempts = {row["key"]: row for row in run.tasks("COMPLETED")}

    assert all(any("--gres=gpu:1" in line for line in job) for job in cluster.headers("SORT"))
    for stage in ("INSPECT", "EDGES", "PREPROCESS", "ANALYZE", "LABEL", "EXPORT", "REPORT"):
        assert cluster.headers(stage) and not any(
            "gres" in line for job in cluster.headers(stage) for line in job
        )

    failed = {row["key"]: row for row in run.tasks("FAILED")}
    assert {row["stage"] for row in failed.values()} == {
        *("INSPECT", "EDGES", "PREPROCESS", "SYNC", "SORT", "LABEL")
    }
    for key, row in failed.items():
        again = attempts[key]
        # A job that never began was no attempt.
        assert again["attempt"] == ("1" if row["stage"] == "LABEL" else "2")
        grew = {name for name in ("memory", "time") if row[name] != again[name]}
        assert grew == {"PREPROCESS": {"memory"}, "SORT": {"time"}}.get(row["stage"], set())
    assert attempts["PREPROCESS m1/2026-03-01_001/probe00"]["memory"] == "32 GB"


def test_a_fault_of_the_data_is_not_tried_again(tmp_path):
    cluster = Cluster(tmp_path, ENGINES[0])
    (cluster.play / "first" / "PREPROCESS").write_text("65")
    run = cluster.run()
    assert run.status != 0
    assert [row["attempt"] for row in run.tasks() if row["stage"] == "PREPROCESS"] == ["1"]
    assert "m1/2026-03-01_001/probe00: PREPROCESS: exit status 65" in run.output


def test_probes_that_lack_the_reference_clock_are_named_too(tmp_path):
    """Without a NIDQ the first probe's clock is the session's: when its edges can't be had, both probes fail."""
    cluster = Cluster(tmp_path, ENGINES[0])
    empty_session(tmp_path / "raw" / "more", n_probes=2)
    for nidq in (tmp_path / "raw").rglob("*.nidq.*"):
        nidq.unlink()
    shutil.rmtree(tmp_path / "raw" / "run_g0")
    (cluster.play / "first" / "EDGES_(m1_2026-03-01_001_probe00)").write_text("65")
    run = cluster.run()
    assert run.status != 0
    failures = {row["probe"]: row for row in json.loads((run.results / "summary.json").read_text())}
    assert set(failures) == {"probe00", "probe01"}
    assert failures["probe00"]["reason"].startswith("exit status 65")
    assert failures["probe01"]["reason"].startswith("it needs what failed in probe00: exit status 65")
    assert failures["probe01"]["log"] == failures["probe00"]["log"] != ""


def test_one_of_joined_sessions_is_lost(tmp_path):
    """Of three sessions to be sorted together one can't be read: the others go on without it."""
    cluster = Cluster(tmp_path, ENGINES[0])
    shutil.rmtree(tmp_path / "raw")
    rows = [f"m1,2026-03-0{k},{name},x" for k, name in enumerate("abc", start=1)]
    for name in "abc":
        empty_session(tmp_path / name, n_probes=1)
    cluster.sheet.write_text("\n".join(["subject,session,raw,concatenate", *rows]) + "\n")
    (cluster.play / "first" / "INSPECT_(m1_2026-03-02_001)").write_text("65")
    run = cluster.run()
    assert run.status != 0
    exported = {key for key in run.keys("COMPLETED") if key.startswith("EXPORT")}
    assert exported == {"EXPORT m1/2026-03-01_001/probe00", "EXPORT m1/2026-03-03_001/probe00"}
    (failure,) = json.loads((run.results / "summary.json").read_text())
    assert (failure["session"], failure["stage"]) == ("2026-03-02_001", "INSPECT")


def test_what_joined_sessions_share_fails_all_of_them(tmp_path):
    cluster = Cluster(tmp_path, ENGINES[0])
    shutil.rmtree(tmp_path / "raw")
    for name in "ab":
        empty_session(tmp_path / name, n_probes=1)
    cluster.sheet.write_text("subject,session,raw,concatenate\nm1,2026-03-01,a,x\nm1,2026-03-02,b,x\n")
    (cluster.play / "first" / "PREPROCESS").write_text("65")
    run = cluster.run()
    assert run.status != 0
    failures = {row["session"]: row for row in json.loads((run.results / "summary.json").read_text())}
    assert set(failures) == {"concatenated_x", "2026-03-01_001", "2026-03-02_001"}
    for session in ("2026-03-01_001", "2026-03-02_001"):
        assert failures[session]["reason"].startswith(
            "it needs what failed in concatenated_x/probe00: exit status 65"
        )
        assert failures[session]["log"] == failures["concatenated_x"]["log"] != ""


@pytest.mark.parametrize("engine", ENGINES)
def test_sorters_of_rows_and_a_gpu_whose_memory_was_short(tmp_path, engine):
    """Only a sorter that uses a GPU gets one. Exit 76 makes the retry need less, on a larger GPU where the site has
    one; a preemption does not. What was needed is no part of a task's identity, nor is the checkpoints' folder."""
    cluster = Cluster(tmp_path, engine)
    empty_session(tmp_path / "other", n_probes=1)
    (tmp_path / "my parameters.json").write_text("{}")
    cluster.sheet.write_text(
        "subject,session,raw,sorter,sorter_params\nm1,2026-03-01,raw,,\nm1,2026-03-02,other,lupin,my parameters.json\n"
    )
    first = "SORT_(m1_2026-03-01_001_probe00_shank"
    (cluster.play / "first" / f"{first}0").write_text("76")
    (cluster.play / "first" / f"{first}1").write_text("143")
    site = tmp_path / "site.config"
    site.write_text("process { withLabel: process_gpu { ext.larger_gpu = '--constraint=big' } }\n")
    run = cluster.run("-c", site)
    assert run.status == 0, run.output
    said, asked = {}, {}
    for row in run.tasks("COMPLETED"):
        if row["stage"] == "SORT":
            unit = tuple(row["tag"].split("/")[1::2])
            folder = Path(row["workdir"])
            said[unit] = (folder / ".command.out").read_text().split()
            header = re.findall(r"#SBATCH (--gres.*)", (folder / ".command.run").read_text())
            asked[unit] = header[0] if header else None
    one, two = "2026-03-01_001", "2026-03-02_001"
    assert said[one, "shank0"] == ["kilosort4", "--memory-step", "1"]
    assert said[one, "shank1"] == said[one, "shank2"] == ["kilosort4"]
    assert said[two, "shank0"] == ["lupin", "my", "parameters.json"]
    assert asked[one, "shank0"] == "--gres=gpu:1 --constraint=big"
    assert asked[one, "shank1"] == asked[one, "shank2"] == "--gres=gpu:1"
    assert asked[two, "shank0"] is None
    again = cluster.run("-c", site, "-resume", "--checkpoint_dir", tmp_path / "made" / "by main.nf")
    assert again.keys("COMPLETED") == []
    assert (tmp_path / "made" / "by main.nf").is_dir()


def test_no_gpu_asked_for_on_the_cpu(tmp_path):
    cluster = Cluster(tmp_path, ENGINES[0])
    run = cluster.run("--device", "cpu")
    assert run.status == 0, run.output
    assert not any("gres" in line for job in cluster.headers("SORT") for line in job)
