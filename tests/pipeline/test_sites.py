"""What the profiles ask of schedulers other than SLURM, and the site files that a user starts from.

The schedulers are played: one script runs each job as it is submitted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from driver import ENGINES, ROOT, Launcher, Run, empty_session

SUBMIT = """#!/bin/bash
# A job's script comes as a file, the last argument, or on stdin (LSF). Jobs wait for ever while there is a file "full".
set -e
play=$(dirname "$0")/..
job=$PWD/submitted.sh
if [ "$(basename "$0")" = bsub ]; then cat > "$job"; else cp "${@: -1}" "$job"; fi
cp "$job" "$play/jobs/$$"
if [ -e "$play/full" ]; then
    touch "$play/queue/$$"
else
    setsid bash .command.run > .command.log 2>&1 < /dev/null &
fi
case $(basename "$0")-$SCHEDULER in
    bsub-*) echo "Job <$$> is submitted to queue <normal>." ;;
    *-sge) echo "Your job $$ (\\"job\\") has been submitted" ;;
    *) echo "$$.server" ;;
esac
"""
# The jobs that wait, as each scheduler prints them: SGE and PBS with a head line, LSF with a status of its own for none.
LIST = """#!/bin/bash
cd "$(dirname "$0")/../queue"
jobs=(*)
case $(basename "$0")-$SCHEDULER-$jobs in
    bjobs-*-\\*) echo "No unfinished job found"; exit 255 ;;
    *-\\*) ;;
    bjobs-*) printf '%s\\n' "${jobs[@]}" ;;
    *-sge-*) echo "job-ID  prior   name"; printf '%7d 0.5 job\\n' "${jobs[@]}" ;;
    *) echo "Job ID   Username"; printf '%d.server root\\n' "${jobs[@]}" ;;
esac
"""
CANCEL = """#!/bin/bash
for job; do rm "$(dirname "$0")/../queue/${job%%.*}"; done
"""


class Cluster:
    """A launcher whose PATH has a played scheduler first; ``jobs`` holds the scripts of all jobs, by number."""

    def __init__(self, folder: Path, profile: str):
        self.profile, self.jobs, self.queue = profile, folder / "jobs", folder / "queue"
        commands = folder / "commands"
        for one in (commands, self.jobs, self.queue):
            one.mkdir()
        for script, names in (
            (SUBMIT, ("qsub", "bsub")),
            (LIST, ("qstat", "bjobs")),
            (CANCEL, ("qdel", "bkill")),
        ):
            for name in names:
                (commands / name).write_text(script)
                (commands / name).chmod(0o755)
        empty_session(folder / "raw", n_probes=1)
        (folder / "sheet.csv").write_text("subject,raw\nm1,raw\n")
        (folder / "impatient.config").write_text(
            "executor {\n    submitRateLimit = '100/1sec'\n    pollInterval = '200 ms'\n"
            "    queueStatInterval = '500 ms'\n    exitReadTimeout = '2 sec'\n}\n"
        )
        self.launcher = Launcher(ENGINES[0], folder / "launch")
        self.launcher.environment["PATH"] = f"{commands}:{os.environ['PATH']}"
        self.launcher.environment["SCHEDULER"] = profile
        self.arguments = ("-stub-run", "-c", folder / "impatient.config", "--input", folder / "sheet.csv")

    def run(self, *arguments: str) -> Run:
        return self.launcher.run(*self.arguments, *arguments, profile=self.profile)


def run_on(tmp_path, profile: str) -> dict[str, list[str]]:
    """Run a session's stub through a played scheduler: the directives of each stage's first job."""
    cluster = Cluster(tmp_path, profile)
    run = cluster.run()
    assert run.status == 0, run.output
    directives = {}
    for job in sorted(cluster.jobs.iterdir()):
        text = job.read_text()
        # PBS cuts a job's name short; Nextflow's own line has it whole.
        stage = re.search(r"### name: 'NEUROPIXELS:(\w+)", text).group(1)
        lines = [line for line in text.splitlines() if line.startswith(("#$ ", "#PBS ", "#BSUB "))]
        directives.setdefault(stage, lines)
    assert {"SORT", "PREPROCESS", "EXPORT"} <= set(directives)
    return directives


@pytest.mark.parametrize("profile", ["sge", "lsf", "pbspro"])
def test_jobs_of_a_killed_head_are_cancelled(tmp_path, profile):
    """Its job waits in the queue beside another of the user's: -resume cancels it, and only it, and goes on."""
    cluster = Cluster(tmp_path, profile)
    (tmp_path / "full").touch()
    process = cluster.launcher.start(*cluster.arguments, profile=profile)
    log = cluster.launcher.folder / ".nextflow.log"
    for _ in range(600):
        time.sleep(0.2)
        if log.exists() and "Submitted process > NEUROPIXELS:INSPECT" in log.read_text():
            break
    (left,) = [path.name for path in cluster.queue.iterdir()]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "full").unlink()
    (cluster.queue / "1").touch()
    run = cluster.run("-resume", "--stop_after", "inspect")
    assert run.status == 0, run.output
    assert re.search(rf"left 1 job in the queue: cancelling {left}(\.server)?$", run.output, re.MULTILINE)
    assert [path.name for path in cluster.queue.iterdir()] == ["1"]
    assert "INSPECT m1/2026-03-01_001" in run.keys("COMPLETED")
    if profile == "lsf":
        again = cluster.run("-resume", "--stop_after", "inspect")
        assert again.status == 0 and "killed" not in again.output, again.output


# What the scheduler's own manual has for one GPU and, in the same breath, what it must not lose: cores and memory.
GPU_LINES = {
    "sge": ("-l gpu=1", "-pe smp 4"),
    "lsf": ("-gpu num=1:j_exclusive=yes", "-n 4"),
    "pbs": ("-l nodes=1:ppn=4:gpus=1",),
    "pbspro": ("-l select=1:ncpus=4:mem=8192mb:ngpus=1",),
}


@pytest.mark.parametrize("profile", GPU_LINES)
def test_only_sort_asks_for_a_gpu(tmp_path, profile):
    directives = run_on(tmp_path, profile)
    sort = "\n".join(directives["SORT"])
    for wanted in GPU_LINES[profile]:
        assert wanted in sort
    assert sort.count("select=") <= 1 and sort.count("nodes=") <= 1
    for stage, lines in directives.items():
        assert stage == "SORT" or not any("gpu" in line for line in lines if " -o " not in line), lines


def configuration(*arguments: str, engine: str = ENGINES[0]) -> str:
    """``nextflow config -flat`` of this pipeline with these arguments."""
    launcher = Launcher(engine, ROOT)
    done = subprocess.run(
        [launcher.command, *arguments[:-1], "config", "-flat", "-profile", arguments[-1], ROOT],
        env=launcher.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SITES = {
    "slurm_preemptible": "slurm,apptainer",
    "lsf_modules": "lsf",
    "sge_queue_per_length": "sge,apptainer",
}


def test_every_site_file_is_known_here():
    assert {path.stem for path in (ROOT / "conf" / "sites").glob("*.config")} == set(SITES)


@pytest.mark.parametrize("site", SITES)
def test_a_site_file_adds_to_its_profile(site):
    profile = SITES[site]
    text = configuration("-c", str(ROOT / "conf" / "sites" / f"{site}.config"), profile)
    assert f"process.executor = '{profile.split(',')[0]}'" in text
    assert "process.resourceLimits" in text or "process.resourceLimits.cpus" in text
    assert "process.errorStrategy" in text
    assert ("apptainer.enabled = true" in text) == ("apptainer" in profile)
    if "apptainer" in profile:
        # The label's selector here and in the profile: neither the image nor --nv may get lost.
        assert "'withLabel:process_gpu'.container " in text.replace("process.", "")
        assert "containerOptions" in text
        # The image that has torch.
        (drift,) = [line for line in text.splitlines() if "withName:DRIFT" in line]
        assert "powerpixels-gpu.sif" in drift
    assert ("params.checkpoint_dir = '" in text) == ("preemptible" in site)


def test_an_institutional_profile_is_read(tmp_path):
    """nf-core's own layout: custom_config_base names a folder with nfcore_custom.config, which has the profiles."""
    (tmp_path / "nfcore_custom.config").write_text(
        'profiles { our_university { includeConfig "${params.custom_config_base}/conf/ours.config" } }\n'
    )
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ours.config").write_text(
        "params {\n    config_profile_name = 'Ours'\n    max_memory = '250.GB'\n}\n"
        "process {\n    executor = 'slurm'\n    queue = 'ours'\n}\n"
    )
    empty_session(tmp_path / "raw", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
    launcher = Launcher(ENGINES[0], tmp_path / "launch")
    run = launcher.run(
        *("-preview", "--input", tmp_path / "sheet.csv", "--custom_config_base", tmp_path),
        profile="our_university",
    )
    assert run.status == 0, run.output
    assert "unknown parameter" not in run.output


def test_a_manifest_names_the_images_with_their_digests(tmp_path):
    """As `make images` leaves them beside the images; of one that came without it is said so."""
    (tmp_path / "cpu.sif.sha256").write_text(f"{'ab' * 32}  cpu.sif\n")
    (tmp_path / "images.nf").write_text(
        f"include {{ imagesOf }} from '{ROOT}/subworkflows/manifest'\n\nworkflow {{\n"
        f"    def images = imagesOf([container: '{tmp_path}/cpu.sif', sorter_image: '{tmp_path}/gpu.sif'])\n"
        "    println('images: ' + groovy.json.JsonOutput.toJson(images))\n}\n"
    )
    (tmp_path / "with.config").write_text("apptainer.enabled = true\n")
    launcher = Launcher(ENGINES[0], tmp_path)
    for arguments, expected in (
        (("-c", "with.config"), {"cpu.sif": f"sha256 {'ab' * 32}", "gpu.sif": "digest not known"}),
        ((), {}),
    ):
        done = subprocess.run(
            [launcher.command, *arguments, "run", "images.nf"],
            cwd=tmp_path,
            env=launcher.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (told,) = re.findall(r"images: (.*)", done.stdout)
        assert json.loads(told) == expected
