"""Runs of the pipeline itself, on the oldest supported engine and on one with the strict parser."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINES = ("24.10.0", "25.04.0")


@dataclass
class Run:
    """What a finished ``nextflow run`` left: exit status, what it printed, its folder and trace."""

    status: int
    output: str
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def tasks(self, *statuses: str) -> list[dict[str, str]]:
        """Rows of this run's trace, those with one of the statuses where any is given.

        Each row also has ``stage`` (the process without its workflow) and ``key`` (stage and tag).
        """
        newest = max(
            (self.results / "pipeline_info").glob("trace_*.tsv"), key=lambda path: path.stat().st_mtime_ns
        )
        with open(newest, newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        for row in rows:
            row["stage"] = row["process"].split(":")[-1]
            row["key"] = f"{row['stage']} {row['tag']}"
        return [row for row in rows if not statuses or row["status"] in statuses]

    def keys(self, *statuses: str) -> list[str]:
        return sorted(row["key"] for row in self.tasks(*statuses))


class Launcher:
    """Starts the pipeline with one engine, always from the same launch folder."""

    def __init__(self, engine: str, folder: Path, project: Path = ROOT):
        self.folder, self.project = folder, project
        self.command = ROOT / ".engines" / f"nextflow-{engine}" / "nextflow"
        if not self.command.exists():
            pytest.skip(f"Nextflow {engine} is not installed: make engines")
        # So short a run gains nothing from Java's second compiler, which takes half of all processor time.
        java = "-Xmx1g -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
        self.environment = {**os.environ, "NXF_ANSI_LOG": "false", "NXF_OPTS": java}
        # What newer engines do by default: every value from the command line arrives as text.
        self.environment["NXF_DISABLE_PARAMS_TYPE_DETECTION"] = "true"
        if engine.startswith("25"):
            self.environment["NXF_SYNTAX_PARSER"] = "v2"

    def arguments(self, *arguments: str | Path, profile: str = "local,test") -> list[str]:
        return [
            str(self.command),
            "run",
            str(self.project / "main.nf"),
            "-profile",
            profile,
            *map(str, arguments),
        ]

    def start(self, *arguments: str | Path, profile: str = "local,test") -> subprocess.Popen:
        """Start a run in the background, in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            self.arguments(*arguments, profile=profile),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, profile: str = "local,test") -> Run:
        """Run to the end."""
        process = self.start(*arguments, profile=profile)
        output, _ = process.communicate(timeout=1800)
        return Run(process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", output), self.folder)


def copy_project(folder: Path) -> Path:
    """A copy of what Nextflow reads of this project, without the environment and the engines."""
    folder.mkdir()
    for name in ("main.nf", "nextflow.config", "nextflow_schema.json"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("conf", "modules", "subworkflows", "assets", "bin"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def empty_session(folder: Path, n_probes: int = 2, date: str = "2026-03-01") -> Path:
    """A raw folder with the names of a SpikeGLX run and next to nothing in the files: enough for a stub."""
    run = folder / "run_g0"
    for probe in range(n_probes):
        probe_folder = run / f"run_g0_imec{probe}"
        probe_folder.mkdir(parents=True)
        for suffix in ("ap.bin", "ap.meta", "lf.bin", "lf.meta"):
            text = f"fileCreateTime={date}T10:00:00\n" if suffix.endswith("meta") else ""
            (probe_folder / f"run_g0_t0.imec{probe}.{suffix}").write_text(text)
    (run / "run_g0_t0.nidq.bin").write_text("")
    (run / "run_g0_t0.nidq.meta").write_text(f"fileCreateTime={date}T10:00:00\n")
    return folder
