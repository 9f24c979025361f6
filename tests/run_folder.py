"""What a run of Nextflow leaves in the results and work folders, as far as status and clean read it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

FIELDS = (
    "task_id hash native_id process tag name status exit attempt submit start complete duration realtime %cpu "
    "peak_rss peak_vmem rchar wchar queue cpus memory time workdir"
).split()
START = datetime(2026, 11, 26, 10, 0, tzinfo=timezone.utc).timestamp()
SESSION = "m1/2026-03-01_001"


class Folder:
    """A results folder with one run's record, its trace and its work folder."""

    def __init__(self, folder: Path, **parameters):
        self.results, self.work = folder / "results", folder / "work"
        self.info = self.results / "pipeline_info"
        self.info.mkdir(parents=True)
        self.trace = self.info / "trace_2026-11-26_10-00-00_1.tsv"
        self.lines = ["\t".join(FIELDS)]
        self.n = 0
        sessions = [
            {
                "subject": "m1",
                "session": day,
                "sorted_as": day,
                "probes": [],
                "only_probes": ["*"],
                "gpu": True,
            }
            for day in ("2026-03-01_001", "2026-03-02_001")
        ]
        settings = {"only": None, "stop_after": None, "sort_by": "shank", "drift": "auto", "nwb": "hdf5"}
        self.record = {
            "name": "calm_bohr", "session_id": "1-2", "start": "2026-11-26T10:00:00.123456789Z", "end": None, "success": None,
            "work_dir": str(self.work), "launch_dir": str(folder), "trace": str(self.trace),
            "parameters": settings | parameters, "sessions": sessions,
        }  # fmt: skip
        probes = [{"name": "probe00", "shanks": [0]}, {"name": "probe01", "shanks": [2, 3]}]
        place = self.results / "m1" / "2026-03-01" / "001" / "qc"
        place.mkdir(parents=True)
        (place / "inventory.json").write_text(json.dumps({"probes": probes}))
        self.save()

    def save(self, **changes) -> None:
        self.record |= changes
        (self.info / "run_2026-11-26_10-00-00_calm_bohr.json").write_text(json.dumps(self.record))
        self.trace.write_text("\n".join(self.lines) + "\n")

    def folder(self, log: str) -> Path:
        self.n += 1
        folder = self.work / "ab" / f"{self.n:030d}"
        folder.mkdir(parents=True)
        (folder / ".command.log").write_text(log)
        return folder

    def ended(self, stage, tag, status="COMPLETED", exit="0", realtime="10m", cpus=4, log="", attempt=1):
        row = dict.fromkeys(FIELDS, "-") | {
            "process": f"NEUROPIXELS:{stage}", "tag": tag, "status": status, "exit": exit,
            "attempt": str(attempt), "submit": "2026-11-26 11:00:00.000", "start": "2026-11-26 11:00:30.000",
            "realtime": realtime, "cpus": str(cpus), "workdir": str(self.folder(log)),
        }  # fmt: skip
        self.lines.append("\t".join(row[name] for name in FIELDS))

    def active(self, stage, tag, begun=True, log=""):
        folder = self.folder(log)
        (folder / ".command.run").write_text(
            f"#!/bin/bash\n### ---\n### name: 'NEUROPIXELS:{stage} ({tag})'\n"
        )
        if begun:
            (folder / ".command.begin").touch()
        return folder
