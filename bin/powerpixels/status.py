"""``powerpixels status RESULTS``: how far a run is, while it goes on and afterwards.

Nextflow's trace (``pipeline_info/trace_*.tsv``) has every task that ended. What runs or waits in a queue is
found in the run's work folder, which ``pipeline_info/run_*.json`` names together with the sessions that are
to be done. Nothing is written.
"""

from __future__ import annotations

import csv
import json
import re
import textwrap
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

from powerpixels.stage import DataError, read_json

WIDTH = 80
# Tasks of one probe, in the order of the README's table; UNIT_STAGES have one for each of its sorting units.
PROBE_STAGES = (
    "EDGES", "SYNC", "RAW_QC", "PREPROCESS", "VISUALIZE", "DRIFT", "SORT", "ANALYZE", "LABEL", "EXPORT",
    "NWB", "MANIFEST",
)  # fmt: skip
UNIT_STAGES = ("DRIFT", "SORT", "ANALYZE", "LABEL")
# Those of recordings that are sorted as one have the joined recording's name.
JOINED_STAGES = ("PREPROCESS", "VISUALIZE", *UNIT_STAGES)
# One waits for the other.
CHAIN = ("EDGES", "SYNC", "PREPROCESS", "SORT", "ANALYZE", "LABEL", "EXPORT")
# Exit statuses that are tried again, and how often: conf/base.config.
RETRIED = ("75", "76", "104", "137", "140", "143", "2147483647", "-")
RETRIES = 5
UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# What stages say of how far they are: "written 40 % (…)", "peaks of 3 of 12 time bins", "kilosort: …".
# Lines of our own log only: Kilosort's has the processor's use in %.
PROGRESS = re.compile(r"^\d\d:\d\d:\d\d [A-Z]+ (.*(?:\d+ %|\d+ of \d+|kilosort: ).*)")


@dataclass(frozen=True)
class Task:
    """An attempt of a task. state: done, failed, cut (by the run's end), runs, queued. Times: s, epoch."""

    stage: str
    tag: str
    state: str
    exit: str
    attempt: int
    cached: bool
    submit: float | None
    start: float | None
    realtime_s: float
    cpus: int
    workdir: Path

    @property
    def place(self) -> tuple[str, str, str]:
        """Subject, session and probe ("" of a whole session's), by the tag subject/session[/probe[/unit]]."""
        parts = [*self.tag.split("/"), "", "", ""]
        return parts[0], parts[1], parts[2]


@dataclass(frozen=True)
class Row:
    """A probe of a session (probe "": the session itself). state: done, runs, failed, stopped or waits."""

    subject: str
    session: str
    probe: str
    state: str
    stage: str
    detail: str
    log: str | None = None


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels status``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the run's --outdir")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument(
        "--unfinished", action="store_true", help="only the names of what is not done, as --only takes them"
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels status``: the table on stdout."""
    found = status(args.results, datetime.now(timezone.utc).timestamp())
    if args.unfinished:
        print(unfinished(found))
    else:
        print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else as_text(found))


def unfinished(found: dict[str, Any]) -> str:
    """What ``status`` found that is not done: "subject/session/probe,…", no probe where none is known yet."""
    places = [
        [row["subject"], row["session"], row["probe"]] for row in found["rows"] if row["state"] != "done"
    ]
    return ",".join("/".join(part for part in place if part) for place in places)


def status(results: Path, now: float) -> dict[str, Any]:
    """Runs, totals and a row for each probe of a results folder, as plain values (times in s, epoch).

    now: s, epoch. Of several runs into the folder the newest attempt of each task counts; time left is that
    of the runs that have not ended. Raises ``DataError`` where no run was started into the folder.
    """
    records = read_records(results)
    ended = read_traces(results, records)
    alive = going(records)
    active = active_tasks(records, ended)
    newest = {(task.stage, task.tag): task for task in ended} | {(t.stage, t.tag): t for t in active}
    sessions = _sessions(records, Path(results), newest.values())
    rows = [row for session in sessions for row in _rows(session, bool(alive))]
    spent = [task for task in ended if not task.cached]
    by_place = {(s["subject"], s[name]): s for s in sessions for name in ("session", "sorted_as")}
    waits = [task.start - task.submit for task in spent if task.start and task.submit]
    running = [task for task in active if task.state == "runs"]
    return {
        "runs": [_run_state(record, now) for record in alive or records[-1:]],
        "sessions": len(sessions),
        "probes": dict(Counter(row.state for row in rows if row.probe)),
        "tasks": {
            "done": sum(task.state == "done" for task in newest.values()),
            "running": len(running),
            "queued": len(active) - len(running),
            "failed_attempts": sum(task.state == "failed" for task in spent),
        },
        "gpu_hours": sum(t.realtime_s for t in spent if _held_gpu(t, by_place.get(t.place[:2], {}))) / 3600,
        "core_hours": sum(task.realtime_s * task.cpus for task in spent) / 3600,
        "queue_hours": sum(waits) / 3600,
        "queue_mean_s": mean(waits) if waits else None,
        "left": _left(sessions, newest, spent, running, rows, alive, now) if alive else None,
        "rows": [asdict(row) for row in rows],
        "summary_lacks": _lacking(Path(results)),
    }


def read_records(results: Path) -> list[dict]:
    """What the runs into a results folder left when they started and ended, the oldest first.

    Raises ``DataError`` where no run was started into the folder.
    """
    info = Path(results) / "pipeline_info"
    records = [read_json(path) for path in info.glob("run_*.json")]
    if not records:
        raise DataError(f"{info}: expected run_*.json of a run; give the run's --outdir")
    return sorted(records, key=lambda record: record["start"])


def going(records: Sequence[dict]) -> list[dict]:
    """The runs that have not ended, as far as is known: a killed one has when it was started again."""
    newest = {record["session_id"]: record for record in records}
    return [record for record in newest.values() if record["end"] is None]


def read_traces(results: Path, records: Sequence[dict]) -> list[Task]:
    """All tasks of all runs into a results folder that ended, in the order of the runs."""
    traces = {path.resolve() for path in (Path(results) / "pipeline_info").glob("trace_*.tsv")}
    traces |= {Path(record["trace"]).resolve() for record in records if Path(record["trace"]).exists()}
    return [task for path in sorted(traces, key=lambda path: path.name) for task in read_trace(path)]


def active_tasks(records: Sequence[dict], ended: Sequence[Task]) -> list[Task]:
    """The tasks of runs that go on which have not ended."""
    folders = {task.workdir for task in ended}
    return [task for record in going(records) for task in _active(record, folders)]


def read_trace(path: Path) -> list[Task]:
    """The tasks of a trace, in the order in which they ended; a line that is being written is left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row.get("workdir")]
    states = {"COMPLETED": "done", "CACHED": "done", "FAILED": "failed"}
    return [
        Task(
            stage=row["process"].split(":")[-1],
            tag=row["tag"],
            state=states.get(row["status"], "cut"),
            exit=row["exit"],
            attempt=int(row["attempt"]),
            cached=row["status"] == "CACHED",
            submit=_time(row["submit"]),
            start=_time(row["start"]),
            realtime_s=duration_s(row["realtime"]),
            cpus=int(row["cpus"]) if row["cpus"].isdigit() else 1,
            workdir=Path(row["workdir"]),
        )
        for row in rows
    ]


def duration_s(text: str) -> float:
    """Seconds of a duration as the trace writes it: "1h 2m 3s", "850ms", "1.2s"; 0 of "-"."""
    return sum(float(number) * UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", text))


def _time(text: str) -> float | None:
    """Epoch seconds of "2026-11-26 14:44:56.822", the head's local time; None of "-"."""
    return None if text in ("-", "") else datetime.fromisoformat(text).timestamp()


def _active(record: dict, ended: set[Path]) -> Iterator[Task]:
    """The tasks of a run that have not ended, by their folders: begun is what has a .command.begin."""
    work = Path(record["work_dir"])
    since = _instant(record["start"]) - 60
    for script in work.glob("[0-9a-f][0-9a-f]/*/.command.run"):
        folder = script.parent
        if folder in ended or (folder / ".exitcode").exists() or script.stat().st_mtime < since:
            continue
        with open(script, encoding="utf-8", errors="replace") as file:
            named = re.search(r"^### name: '([\w:]+)(?: \((.*)\))?'$", "".join(file.readlines(2000)), re.M)
        if named is None:
            continue
        begin = folder / ".command.begin"
        began = begin.stat().st_mtime if begin.exists() else None
        yield Task(
            stage=named[1].split(":")[-1],
            tag=named[2] or "-",
            state="queued" if began is None else "runs",
            exit="",
            attempt=0,
            cached=False,
            submit=script.stat().st_mtime,
            start=began,
            realtime_s=0.0,
            cpus=1,
            workdir=folder,
        )


def _instant(text: str) -> float:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00")).timestamp()


def _held_gpu(task: Task, session: dict) -> bool:
    """Whether a task held a GPU; with --device auto a sort did whose Kilosort tells of its memory."""
    if task.stage == "PREPROCESS":
        return session.get("preprocessing") == "gpu"
    if task.stage != "SORT" or not session.get("gpu"):
        return False
    if session.get("device") != "auto":
        return True
    timings = task.workdir / "sorting" / "sorter_output" / "timings.json"
    return timings.exists() and "gpu_peak_bytes" in read_json(timings)


def _run_state(record: dict, now: float) -> dict[str, Any]:
    signs = [Path(record["trace"]), Path(record["launch_dir"]) / ".nextflow.log"]
    seen = [path.stat().st_mtime for path in signs if path.exists()]
    return {
        "name": record["name"],
        "start": _instant(record["start"]),
        "end": None if record["end"] is None else _instant(record["end"]),
        "success": record["success"],
        "silent_s": max(0.0, now - max(seen)) if seen else None,
    }


def _sessions(records: Sequence[dict], results: Path, tasks) -> list[dict[str, Any]]:
    """Each session of the runs once; "known": its probes, {name: names of its units}, or None; "tasks"."""
    found = {
        (s["subject"], s["session"]): s | record["parameters"]
        for record in records
        for s in record["sessions"]
    }
    by_place = defaultdict(list)
    for task in tasks:
        subject, session, probe = task.place
        by_place[subject, session].append(task)
        if not records and probe:
            found.setdefault(
                (subject, session), {"subject": subject, "session": session, "sorted_as": session}
            )
    for (subject, session), record in found.items():
        tagged = by_place[subject, session] + by_place[subject, record["sorted_as"]]
        probes = _recorded(results / subject / session.replace("_", "/") / "qc" / "inventory.json", record)
        for task in tagged:
            if task.stage in ("PREPROCESS", "RAW_QC", "REFUSE", "EXPORT") and task.place[2]:
                probes.setdefault(task.place[2], [])
            if task.stage in UNIT_STAGES and task.place[2] in probes:
                unit = task.tag.split("/")[-1]
                units = probes[task.place[2]]
                units.extend([unit] if unit not in units else [])
        record["known"] = probes if probes else None
        record["tasks"] = [
            task for name in {session, record["sorted_as"]} for task in by_place[subject, name]
        ]
    return [found[place] for place in sorted(found)]


def _recorded(inventory: Path, record: dict) -> dict[str, list[str]]:
    """Probes that INSPECT found and the run is to do, with their sorting units; none yet: empty."""
    try:
        document = json.loads(inventory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    by_probe = record.get("sort_by") == "probe"
    return {
        probe["name"]: ["probe"] if by_probe else [f"shank{shank}" for shank in probe["shanks"]]
        for probe in document.get("probes", [])
        if (not record.get("probes") or probe["name"] in record["probes"])
        and any(fnmatchcase(probe["name"], pattern) for pattern in record.get("only_probes", ["*"]))
    }


def _rows(session: dict, going: bool) -> list[Row]:
    """A session's probes, and a row of its own where it has none yet or where its own task runs or failed."""
    subject, name = session["subject"], session["session"]
    own = session["tasks"]
    probes = session["known"] or {}
    rows = [
        _row((subject, name, probe), [task for task in own if task.place[2] == probe], session, going)
        for probe in sorted(probes)
    ]
    rest = _row((subject, name, ""), [task for task in own if task.place[2] not in probes], session, going)
    return [*([rest] if not probes or rest.state in ("failed", "runs") else []), *rows]


def _row(place: tuple[str, str, str], tasks: list[Task], session: dict, going: bool) -> Row:
    """What becomes of a probe, by its tasks: what failed for good, else what runs, else what is done."""
    done = {task.stage for task in tasks if task.state == "done"}
    failed = [task for task in tasks if task.state == "failed" and not (going and _again(task))]
    if failed:
        first = min(
            failed, key=lambda task: PROBE_STAGES.index(task.stage) if task.stage in PROBE_STAGES else -1
        )
        return Row(*place, "failed", first.stage, reason(first), str(first.workdir / ".command.log"))
    for state in ("runs", "queued"):
        active = [task for task in tasks if task.state == state]
        if active:
            # Of several that of the chain: the others wait for it.
            task = max(active, key=lambda task: (task.stage in CHAIN, task.submit or 0))
            n_units = len((session["known"] or {}).get(place[2], [])) if task.stage in UNIT_STAGES else 0
            n_done = sum(other.stage == task.stage and other.state == "done" for other in tasks)
            stage = f"{task.stage} {n_done}/{n_units}" if n_units > 1 else task.stage
            told = progress(task) if state == "runs" else "in the queue"
            return Row(*place, "runs" if state == "runs" else "waits", stage, told)
    if "EXPORT" in done:
        return Row(*place, "done", "", "")
    last = next((stage for stage in reversed(("INSPECT", *CHAIN)) if stage in done), "")
    if not going and session.get("stop_after") and place[2]:
        return Row(*place, "stopped", "", f"after {session['stop_after'].upper()}")
    if any(task.state == "cut" for task in tasks):
        return Row(*place, "waits", "", "cut off: -resume goes on")
    again = [task for task in tasks if task.state == "failed"]
    if again:
        return Row(*place, "waits", again[0].stage, f"exit status {again[0].exit}: is tried again")
    return Row(*place, "waits", "", f"{last} is done" if last else "")


def _again(task: Task) -> bool:
    return task.exit in RETRIED and task.attempt <= RETRIES


def reason(task: Task) -> str:
    """Why a task failed: the last line of its log that begins with ERROR, else its exit status."""
    said = [line for line in _last_lines(task.workdir / ".command.log") if line.startswith("ERROR: ")]
    return said[-1].removeprefix("ERROR: ") if said else f"exit status {task.exit}"


def progress(task: Task) -> str:
    """How far a running task says that it is, by the last such line of its log; "" where it says nothing."""
    said = [PROGRESS.match(line) for line in _last_lines(task.workdir / ".command.log")]
    return next((match[1].removeprefix("kilosort: ") for match in reversed(said) if match), "")


def _last_lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _expected(session: dict) -> set[tuple[str, str]]:
    """Stage and tag of each task that a session's known probes have."""
    left_out = {"NWB"} if session.get("nwb") == "none" else set()
    left_out |= {"DRIFT"} if session.get("drift") == "off" else set()
    last = (session.get("stop_after") or PROBE_STAGES[-1]).upper()
    n_stages = PROBE_STAGES.index(last) + 1 if last in PROBE_STAGES else 0
    stages = [stage for stage in PROBE_STAGES[:n_stages] if stage not in left_out]
    tags = set()
    for probe, units in (session["known"] or {}).items():
        for stage in stages:
            name = session["sorted_as"] if stage in JOINED_STAGES else session["session"]
            tag = f"{session['subject']}/{name}/{probe}"
            tags |= {(stage, f"{tag}/{unit}") for unit in units} if stage in UNIT_STAGES else {(stage, tag)}
    return tags


def _left(sessions, newest, spent, running, rows: list[Row], alive, now: float) -> dict[str, Any]:
    """Time left: what is still to do, at each stage's mean time, with as many at once as on average so far.

    Never less than one probe's way through the stages. unmeasured: stages of which no task has ended yet,
    which are not counted.
    """
    given_up = {(row.subject, row.session, row.probe) for row in rows if row.state == "failed"}
    times = defaultdict(list)
    for task in newest.values():
        if task.state == "done":
            times[task.stage].append(task.realtime_s)
    means = {stage: mean(values) for stage, values in times.items()}
    todo: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    n_known = 0
    for session in sessions:
        expected = _expected(session)
        n_known += session["known"] is not None
        counted.update(stage for stage, _ in expected)
        for stage, tag in expected:
            parts = tag.split("/")
            failed = (parts[0], session["session"], parts[2]) in given_up
            todo[stage] += not failed and not ((stage, tag) in newest and newest[stage, tag].state == "done")
    # Sessions that are not inspected yet: as many tasks as the others have on average.
    for stage, n in counted.items():
        todo[stage] += round(n / n_known * (len(sessions) - n_known)) if n_known else 0
    ahead = sum(n * means.get(stage, 0.0) for stage, n in todo.items())
    elapsed = {task: now - task.start for task in running if task.start}
    ahead -= sum(min(seconds, means.get(task.stage, 0.0)) for task, seconds in elapsed.items())
    begun = min(_instant(record["start"]) for record in alive)
    worked = sum(task.realtime_s for task in spent if (task.start or 0) >= begun) + sum(elapsed.values())
    at_once = max(worked / max(now - begun, 1.0), 1.0)
    chain = sum(means.get(stage, 0.0) for stage in CHAIN if todo[stage])
    return {
        "seconds": max(ahead / at_once, chain, 0.0) if n_known and means else None,
        "tasks_at_once": at_once,
        "unmeasured": sorted(stage for stage, n in todo.items() if n and stage not in means),
        "tasks": {stage: todo[stage] for stage in PROBE_STAGES if todo[stage]},
    }


def _lacking(results: Path) -> list[str]:
    """Sessions whose rows a run left and that summary.json lacks: two runs wrote it at the same time."""
    try:
        table = read_json(results / "summary.json")
    except (OSError, DataError):
        return []
    named = {(row["subject"], row["session"]) for row in table}
    left = [(path.parent.name, path.stem) for path in (results / "pipeline_info" / "rows").glob("*/*.json")]
    return [f"{subject}/{session}" for subject, session in sorted(left) if (subject, session) not in named]


def as_text(found: dict[str, Any]) -> str:
    """What ``status`` found, for a terminal of 80 columns."""
    lines = [_run_line(one) for one in found["runs"]]
    n = found["probes"]
    words = ("done", "runs", "waits", "stopped", "failed")
    counts = ", ".join(f"{n[word]} {word}" for word in words if n.get(word)) or "none known yet"
    tasks = found["tasks"]
    lines += [
        f"sessions  {found['sessions']}; probes: {counts}",
        f"tasks     {tasks['done']} done, {tasks['running']} running, {tasks['queued']} in the queue, "
        f"{tasks['failed_attempts']} attempts failed",
        f"used      {found['gpu_hours']:.2f} GPU-hours, {found['core_hours']:.2f} core-hours"
        + (
            f"; {found['queue_mean_s']:.0f} s in the queue on average"
            if found["queue_mean_s"] is not None
            else ""
        ),
    ]
    if found["left"]:
        left = found["left"]
        known = left["seconds"] is not None
        at_once = f"{left['tasks_at_once']:.1f} tasks at once, as so far"
        about = "more than" if left["unmeasured"] else "about"
        lines.append(
            f"left      {about} {words_of(left['seconds'])}; {at_once}"
            if known
            else "left      not known before the first tasks are done"
        )
        if known and left["unmeasured"]:
            lines += _wrapped(f"without {', '.join(left['unmeasured'])}, of which none is done yet", " " * 10)
    heads = ("subject", "session", "probe", "state", "stage", "")
    cells = [heads] + [
        (row["subject"], row["session"], row["probe"] or "-", row["state"], row["stage"], row["detail"])
        for row in found["rows"]
    ]
    widths = [max(len(line[k]) for line in cells) for k in range(5)]
    lines.append("")
    for line in cells:
        start = "  ".join(cell.ljust(width) for cell, width in zip(line[:5], widths, strict=True))
        lines.append(_cut(f"{start}  {line[5]}"))
    for row in found["rows"]:
        if row["state"] == "failed":
            who = "/".join(row[name] for name in ("subject", "session", "probe") if row[name])
            lines += ["", *_wrapped(f"{who}: {row['stage']}: {row['detail']}", ""), f"  log: {row['log']}"]
    if found["summary_lacks"]:
        lines += ["", *_wrapped(
            f"summary.csv lacks {', '.join(found['summary_lacks'])}: two runs ended at the same time; "
            "'powerpixels report' on this folder joins their rows", "")]  # fmt: skip
    return "\n".join(lines)


def _run_line(one: dict[str, Any]) -> str:
    began = datetime.fromtimestamp(one["start"]).strftime("%Y-%m-%d %H:%M")
    if one["end"] is not None:
        took = words_of(one["end"] - one["start"])
        how = "well" if one["success"] else "with failures"
        return f"run       {one['name']}, {began}: ended after {took}, {how}"
    silent = one["silent_s"]
    if silent is not None and silent > 600:
        return (
            f"run       {one['name']}, {began}: no sign of life for {words_of(silent)}.\n"
            "          If its head is dead, the same command with -resume goes on."
        )
    return f"run       {one['name']}, {began}: goes on"


def words_of(seconds: float) -> str:
    """A time for people: "3 d 4 h", "2 h 5 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _cut(line: str) -> str:
    line = line.rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ")
