"""``powerpixels clean RESULTS``: gives back the work folder's largest files, probe by probe as they finish.

That is the preprocessed traces (traces.bin of PREPROCESS, and of DRIFT with --drift dredge) of probes that
are exported. Each is replaced by an empty file of the same name, and its folder's date is put back: Nextflow
knows an output by its name and a folder by its date and size, so all that is done stays done for -resume, and
LABEL and what follows can be done again. What reads traces (DRIFT, SORT, ANALYZE) can't: it says so, and
``--forget`` makes the next -resume preprocess the probe anew, and then sort it anew.

Files that are published, or in another folder than the run's own work folder, are never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from powerpixels.stage import DataError, read_json
from powerpixels.status import Task, active_tasks, going, read_records, read_traces

TRACES = "traces.bin"
# Where a task's own traces lie in its folder.
OF_STAGE = {"PREPROCESS": f"preprocessed/*/{TRACES}", "DRIFT": f"corrected/{TRACES}"}
READERS = ("DRIFT", "SORT", "ANALYZE", "LABEL")


class Released(NamedTuple):
    """A file of traces that can be given back, or was: the probe's tag, the file, its bytes."""

    tag: str
    path: Path
    n_bytes: int


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels clean``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the run's --outdir")
    parser.add_argument("--dry-run", action="store_true", help="say what would be given back")
    parser.add_argument(
        "--watch", type=float, metavar="MINUTES", help="again every so many minutes, until the run ends"
    )
    parser.add_argument(
        "--forget",
        metavar="PROBES",
        help="subject/session/probe (with * and ?): the next -resume makes traces that were given back anew",
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels clean``."""
    if args.forget:
        for folder in forget(args.results, args.forget):
            print(f"removed {folder}")
        return
    while True:
        found = release(args.results, args.dry_run)
        for one in found:
            print(f"{one.tag}: {one.n_bytes / 1e9:.2f} GB  {one.path}", flush=True)
        verb = "can be given back" if args.dry_run else "given back"
        print(f"{sum(one.n_bytes for one in found) / 1e9:.2f} GB {verb}", flush=True)
        if not args.watch or not going(read_records(args.results)):
            return
        time.sleep(60 * args.watch)


def release(results: Path, dry_run: bool = False) -> list[Released]:
    """Give back the traces of all probes that are done; returns what it was. Raises as ``read_records``."""
    records = read_records(results)
    tasks, active = _newest(results, records)
    by_probe = defaultdict(list)
    for task in (*tasks.values(), *active):
        by_probe[task.place[0], task.place[2]].append(task)
    found = []
    for stage, pattern in OF_STAGE.items():
        for task in tasks.values():
            if task.stage != stage or not _is_done(
                task.place, by_probe[task.place[0], task.place[2]], records
            ):
                continue
            for path in sorted(_own_folder(task, records).glob(pattern)):
                if path.is_symlink() or not path.is_file() or path.stat().st_size == 0:
                    continue
                found.append(Released(task.tag, path, path.stat().st_size))
                if not dry_run:
                    _empty(path)
    return found


def forget(results: Path, pattern: str) -> list[Path]:
    """Remove the task folders whose traces were given back, of the probes that fit; returns them.

    Raises ``DataError`` where a run goes on, or no such probe's traces were given back.
    """
    records = read_records(results)
    if going(records):
        raise DataError(f"{results}: a run goes on; wait for its end, or start it again with -resume first")
    tasks, _ = _newest(results, records)
    removed = []
    for stage, traces in OF_STAGE.items():
        for task in tasks.values():
            if task.stage != stage or not fnmatchcase("/".join(task.place), pattern):
                continue
            folder = _own_folder(task, records)
            unit = [path for path in folder.glob(traces) if _was_released(path)]
            if unit:
                shutil.rmtree(folder)
                removed.append(folder)
    if not removed:
        raise DataError(f"{results}: expected a probe {pattern} whose traces were given back, found none")
    return removed


def _newest(results: Path, records: list[dict]) -> tuple[dict[tuple[str, str], Task], list[Task]]:
    """The newest attempt of each task by stage and tag, and those that have not ended."""
    ended = read_traces(results, records)
    active = active_tasks(records, ended)
    return {(task.stage, task.tag): task for task in ended}, active


def _is_done(place: tuple[str, str, str], own: list[Task], records: list[dict]) -> bool:
    """Whether all that reads a probe's traces is done, and the probe exported in each of its sessions.

    own: the tasks of the subject's probe of that name, in all sessions.
    """
    subject, name, _ = place
    sessions = {
        s["session"]
        for record in records
        for s in record["sessions"]
        if s["subject"] == subject and name in (s["session"], s["sorted_as"])
    }
    # Of sessions that are sorted as one, those that have the probe at all.
    members = {task.place[1] for task in own} & sessions
    exported = {task.place[1] for task in own if task.stage == "EXPORT" and task.state == "done"}
    readers = [task for task in own if task.place[1] == name and task.stage in READERS]
    busy = [task for task in own if task.state in ("runs", "queued") and task.place[1] in members | {name}]
    return bool(members) and members <= exported and all(t.state == "done" for t in readers) and not busy


def _own_folder(task: Task, records: list[dict]) -> Path:
    """The task's folder, as a real path; raises ``DataError`` where it is none of the runs' work folders'."""
    folder = task.workdir.resolve()
    works = {Path(record["work_dir"]).resolve() for record in records}
    if folder.parent.parent not in works or not re.fullmatch(
        r"[0-9a-f]{2}/[0-9a-f]{30}", "/".join(folder.parts[-2:])
    ):
        raise DataError(
            f"{folder}: expected a task's folder in {', '.join(map(str, works))}; nothing was removed"
        )
    return folder


def _was_released(path: Path) -> bool:
    """Whether traces are empty that were not so from the start, for want of usable channels."""
    recorded = read_json(path.parent / "recording.json")
    return path.stat().st_size == 0 and bool(recorded.get("channels"))


def _empty(path: Path) -> None:
    """Put an empty file in the place of another, which stays as it is under its other names (hard links)."""
    before = path.parent.stat()
    path.unlink()
    path.touch()
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
