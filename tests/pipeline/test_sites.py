"""What the profiles ask of schedulers other than SLURM, and the site files that a user starts from.

The schedulers are played: one script runs each job as it is submitted."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from driver import ENGINES, ROOT, Launcher, empty_session

SUBMIT = """#!/bin/bash
# A job's script comes as a file, the last argument, or on stdin (LSF).
set -e
job=$PWD/submitted.sh
if [ "$(basename "$0")" = bsub ]; then cat > "$job"; else cp "${@: -1}" "$job"; fi
cp "$job" "$(dirname "$0")/../jobs/$$"
setsid bash .command.run > .command.log 2>&1 < /dev/null &
case $(basename "$0")-$SCHEDULER in
    bsub-*) echo "Job <$$> is submitted to queue <normal>." ;;
    *-sge) echo "Your job $$ (\\"job\\") has been submitted" ;;
    *) echo "$$.server" ;;
esac
"""


def run_on(tmp_path, profile: str, *arguments: str) -> dict[str, list[str]]:
    """Run a session's stub through a played scheduler: the directives of each stage's first job."""
    commands, jobs = tmp_path / "commands", tmp_path / "jobs"
    commands.mkdir()
    jobs.mkdir()
    for name in ("qsub", "bsub", "qstat", "bjobs", "qdel", "bkill"):
        (commands / name).write_text(SUBMIT if name.endswith("sub") else "#!/bin/sh\nexit 0\n")
        (commands / name).chmod(0o755)
    empty_session(tmp_path / "raw", n_probes=1)
    (tmp_path / "sheet.csv").write_text("subject,raw\nm1,raw\n")
    (tmp_path / "impatient.config").write_text(
        "executor {\n    submitRateLimit = '100/1sec'\n    pollInterval = '200 ms'\n"
        "    queueStatInterval = '500 ms'\n    exitReadTimeout = '2 sec'\n}\n"
    )
    launcher = Launcher(ENGINES[0], tmp_path / "launch")
    launcher.environment["PATH"] = f"{commands}:{os.environ['PATH']}"
    launcher.environment["SCHEDULER"] = profile
    run = launcher.run(
        *("-stub-run", "-c", tmp_path / "impatient.config", "--input", tmp_path / "sheet.csv", *arguments),
        profile=profile,
    )
    assert run.status == 0, run.output
    directives = {}
    for job in sorted(jobs.iterdir()):
        text = job.read_text()
        # PBS cuts a job's name short; Nextflow's own line has it whole.
        stage = re.search(r"### name: 'NEUROPIXELS:(\w+)", text).group(1)
        lines = [line for line in text.splitlines() if line.startswith(("#$ ", "#PBS ", "#BSUB "))]
        directives.setdefault(stage, lines)
    assert {"SORT", "PREPROCESS", "EXPORT"} <= set(directives)
    return directives


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
