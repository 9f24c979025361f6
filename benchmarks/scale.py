#!/usr/bin/env python3
"""Memory and time of Nextflow's head by the number of sessions, and of a start that finds nothing to do.

    .venv/bin/python benchmarks/scale.py [--sessions 1000] [--probes 4] [--engine 25.04.0] [--heap 1g]

The tasks are the pipeline's stubs with four shanks a probe, sent to the slurm profile's executor. The
scheduler is played: it runs a task's script as soon as that is submitted, without Nextflow's wrapper around
it, so that two cores get through; what is measured is the head. Memory is the head's own peak, of heap and
all else: the maximum resident set, and of it what is no page of a mapped file (the database of the work
folder's tasks is mapped; the kernel takes its pages back when memory is short).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "pipeline"))
from driver import ENGINES, Run, empty_session  # noqa: E402

# Two stubs read their inputs, which the wrapper links.
SBATCH = """#!/bin/sh
touch .command.begin
if grep -qE 'NEUROPIXELS_(INSPECT|REPORT)' .command.run; then
    bash .command.run > .command.log 2>&1 < /dev/null &
else
    { bash -euo pipefail .command.sh > .command.log 2>&1; printf $? > .exitcode; } < /dev/null > /dev/null &
fi
echo "Submitted batch job $$"
"""


class Measured(NamedTuple):
    """A run of the head: exit status, wall and processor seconds, peak memory in MiB, of it without files."""

    status: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    peak_own_mib: float


def measured(command: list[str], folder: Path, environment: dict[str, str]) -> Measured:
    """Run the head to its end; what it prints goes to printed.txt in the folder."""
    begin = time.monotonic()
    peak_mib = peak_own_mib = cpu_s = 0.0
    with open(folder / "printed.txt", "w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            times = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            memory = {name: int(kb) / 1024 for name, kb in re.findall(r"(\w+):\s+(\d+) kB", status)}
            if memory:
                peak_mib, peak_own_mib = memory["VmHWM"], max(peak_own_mib, memory["RssAnon"])
                cpu_s = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
            time.sleep(0.5)
    return Measured(process.returncode, time.monotonic() - begin, cpu_s, peak_mib, peak_own_mib)


def main() -> None:
    """Print a row for the run and one for its repetition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[1])
    parser.add_argument("--heap", default="1g", help="Java's limit, -Xmx (default: 1g)")
    parser.add_argument("--folder", type=Path, help="where it works (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        commands = folder / "commands"
        commands.mkdir()
        for command, text in (("sbatch", SBATCH), ("squeue", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
            (commands / command).write_text(text)
            (commands / command).chmod(0o755)
        rows = ["subject,session,raw"]
        for k in range(args.sessions):
            empty_session(folder / f"raw{k:04d}", args.probes)
            rows.append(f"m{k:04d},2026-03-01,raw{k:04d}")
        (folder / "sheet.csv").write_text("\n".join(rows) + "\n")
        (folder / "fast.config").write_text(
            "executor {\n    queueSize = 200\n    submitRateLimit = '999/1sec'\n    pollInterval = '100 ms'\n"
            "    queueStatInterval = '10 sec'\n    exitReadTimeout = '60 sec'\n}\n"
        )
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "NXF_ANSI_LOG": "false",
            "NXF_OPTS": f"-Xmx{args.heap}",
        }
        command = [
            str(ROOT / ".engines" / f"nextflow-{args.engine}" / "nextflow"),
            "run",
            str(ROOT / "main.nf"),
        ]
        command += ["-profile", "slurm", "-stub-run", "-resume", "-c", str(folder / "fast.config")]
        command += ["--input", str(folder / "sheet.csv"), "--outdir", str(folder / "results")]
        print("run | tasks | wall, s | head's processor, s | s of wall per 1000 tasks | peak, MiB | own, MiB")
        # Without --skip_finished a start looks at every task.
        for what, more in (("first", []), ("all finished, skipped", ["--skip_finished"]), ("resumed", [])):
            run = measured([*command, *more], folder, environment)
            statuses = [task["status"] for task in Run(run.status, "", folder).tasks()]
            told = ", ".join(f"{n} {status.lower()}" for status, n in sorted(Counter(statuses).items()))
            per_1000 = f"{run.wall_s / len(statuses) * 1000:.1f}" if statuses else "-"
            row = [what, told or "none", f"{run.wall_s:.0f}", f"{run.cpu_s:.0f}", per_1000]
            row += [f"{run.peak_mib:.0f}", f"{run.peak_own_mib:.0f}"]
            print(" | ".join(row), flush=True)
            if run.status != 0:
                sys.exit((folder / "printed.txt").read_text()[-3000:])


if __name__ == "__main__":
    main()
