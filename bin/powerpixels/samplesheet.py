"""The samplesheet of a data tree: which recordings lie in it, of whom and of when.

A recording is a SpikeGLX run (all its gates) or an Open Ephys experiment. Its subject is the folder above the
one that is named after a day: ``<subject>/<YYYYMMDD or YYYY-MM-DD>/…``. Its date is what its headers say.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from powerpixels import inventory, sglx
from powerpixels.documents import Inventory
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

FLAG = "process_me.flag"
RAW_FOLDER = "raw_ephys_data"
# The samplesheet's own rules (assets/schema_input.json).
SUBJECT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
COLUMNS = ("subject", "session", "raw")
# Gates of one run are recorded one after the other.
LONGEST_RUN = timedelta(hours=24)


@dataclass(frozen=True)
class Place:
    """What a recording's path says: subject, date and number of the session; None where it does not."""

    subject: str | None
    date: date | None
    number: str | None


@dataclass(frozen=True)
class Row:
    """A session of the samplesheet. session: YYYY-MM-DD or YYYY-MM-DD_NNN. raw: absolute."""

    subject: str
    session: str
    raw: Path
    inventory: Inventory


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels samplesheet``."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="data tree to look through")
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"take every recording; by default only those in a folder with a {FLAG}",
    )
    parser.add_argument(
        "--subject", metavar="NAME", help="of recordings that do not lie in <subject>/<YYYYMMDD>/"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("samplesheet.csv"), help="file to write (default: samplesheet.csv)"
    )
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def run(args: Namespace) -> None:
    """Body of ``powerpixels samplesheet``: the table on stdout, the samplesheet in a file."""
    if args.out.exists() and not args.force:
        raise DataError(f"{args.out}: it is there already; give another --out, or --force to write over it")
    if args.subject is not None:
        check_subject(args.subject)
    rows = sessions(find_recordings(args.folders, args.all), args.subject)
    text = sheet(rows)
    print(table(rows))
    args.out.write_text(text, encoding="utf-8")
    log.info("%s: %d sessions", args.out, len(rows))


def check_subject(name: str) -> None:
    """Raise ``DataError`` where a name is none that the samplesheet allows for a subject."""
    if not re.fullmatch(SUBJECT, name):
        raise DataError(
            f"subject {name!r}: expected letters, digits, '.', '_' or '-', starting with a letter or digit;"
            " choose another name"
        )


def find_recordings(folders: Sequence[Path], everything: bool) -> list[Path]:
    """Raw folders (absolute) of the recordings in data trees, by path; each once, though links lead to it.

    everything: all recordings; otherwise those of folders with a process_me.flag, a flagged folder without
    any being listed itself (its ``raw_ephys_data`` where it has one). Results of this pipeline and its work
    folders are not looked into. Raises ``DataError`` where a folder is none, or nothing is found.
    """
    roots = [_existing(folder) for folder in folders]
    found: set[Path] = set()
    if everything:
        for root in roots:
            found.update(_recordings(root, _Walk()))
    else:
        for root in roots:
            for session in _flagged(root, _Walk()):
                raw = session / RAW_FOLDER if (session / RAW_FOLDER).is_dir() else session
                found.update(_recordings(raw, _Walk()) or [raw])
    if not found:
        where = ", ".join(str(root) for root in roots)
        others = [] if everything else [path for root in roots for path in _recordings(root, _Walk())]
        if others:
            raise DataError(
                f"{where}: no folder with a {FLAG}, but {len(others)} recordings without; give --all to take"
                " them, or put the flag into the folders of those to process"
            )
        raise DataError(
            f"{where}: no SpikeGLX or Open Ephys recording was found; give the folder that holds them"
        )
    return sorted({path.resolve(): path for path in sorted(found)}.values())


def _existing(folder: Path) -> Path:
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: expected a folder with recordings, it is none; correct the path")
    # Links are kept: <subject>/<day> may be one to where the data lie.
    return Path(os.path.abspath(folder))


class _Walk:
    """Looks into folders: into each once, though links lead to it, and not into those of results."""

    def __init__(self) -> None:
        self._seen: set[Path] = set()

    def enter(self, folder: Path) -> list[Path] | None:
        """The folder's entries by name; None where there is no need to look."""
        real = folder.resolve()
        if real in self._seen:
            return None
        self._seen.add(real)
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            log.warning("%s: left out, it can't be read (%s)", folder, error.strerror)
            return None
        names = {entry.name for entry in entries}
        # A task's folder, which has links to raw files; a session, and a whole folder, of results.
        if (
            ".command.sh" in names
            or {"alf", "analyzers"} <= names
            or {"pipeline_info", "summary.csv"} <= names
        ):
            log.info("%s: not looked into, these are results of the pipeline", folder)
            return None
        return entries


def _flagged(folder: Path, walk: _Walk) -> Iterator[Path]:
    """Folders with a process_me.flag; those below one are part of it."""
    entries = walk.enter(folder)
    if entries is None:
        return
    if any(entry.name == FLAG for entry in entries):
        yield folder
        return
    for child in _subfolders(entries):
        yield from _flagged(child, walk)


def _subfolders(entries: list[Path]) -> list[Path]:
    return [e for e in entries if not e.name.startswith(".") and not e.name.endswith(".zarr") and e.is_dir()]


def _recordings(folder: Path, walk: _Walk) -> list[Path]:
    """The smallest folders that hold a whole recording each, at or below one.

    SpikeGLX spreads a run over folders (one per gate, one per probe): siblings whose files are different
    streams or gates of one run, recorded within a day, are one recording, and their parent is its folder.
    """
    entries = walk.enter(folder)
    if entries is None:
        return []
    experiments = _open_ephys(folder)
    if experiments:
        return experiments
    if any(_is_spikeglx(entry) for entry in entries):
        return [folder]
    below = [(child, _recordings(child, walk)) for child in _subfolders(entries)]
    below = [(child, found) for child, found in below if found]
    names = {child.name for child, _ in below}
    for child, _ in below:
        if child.name.removeprefix("catgt_") in names - {child.name}:
            log.warning(
                "%s: left out, its original %s lies beside it", child, child.name.removeprefix("catgt_")
            )
    below = [
        (child, found)
        for child, found in below
        if child.name.removeprefix("catgt_") not in names - {child.name}
    ]
    found = [path for _, paths in below for path in paths]
    if found and all(paths == [child] for child, paths in below) and _one_run(folder, found):
        return [folder]
    return found


def _is_spikeglx(path: Path) -> bool:
    """Whether a file (or zarr copy) is one of SpikeGLX's, by its name or, a header, by what it holds."""
    if path.suffix not in (".meta", *sglx.DATA_SUFFIXES):
        return False
    if sglx.parse_name(sglx.stem_of(path)).device is not None:
        return True
    return path.suffix == ".meta" and b"typeThis=" in path.read_bytes()


def _open_ephys(folder: Path) -> list[Path]:
    """The experiments of an Open Ephys session folder, or of one inside of it; empty where it is none.

    Several experiments are several sessions, since their clocks start anew. Where more than one Record Node
    wrote them, no folder holds one experiment: then it is the session's.
    """
    if any(folder.glob("structure.oebin")) or any(folder.glob("recording*/structure.oebin")):
        return [folder]
    by_node: dict[Path, set[Path]] = defaultdict(set)
    for pattern in ("", "Record Node*/", "Record_Node*/"):
        for path in folder.glob(f"{pattern}experiment*/recording*/structure.oebin"):
            by_node[path.parents[2]].add(path.parents[1])
    if len(by_node) == 1 and len(next(iter(by_node.values()))) > 1:
        return sorted(next(iter(by_node.values())))
    return [folder] if by_node else []


def _one_run(folder: Path, parts: list[Path]) -> bool:
    """Whether sibling folders are parts of one SpikeGLX run; a single one where a name says it is a part."""
    if len(parts) == 1:
        probe = re.fullmatch(r".+_g\d+_imec\d+", parts[0].name) is not None
        return probe or re.fullmatch(r".+_g\d+", folder.name) is not None
    if any(_day(part.name) for part in parts):
        return False
    streams, times = Counter(), []
    for part in parts:
        files = list(_spikeglx_files(part))
        described = {path.with_name(sglx.stem_of(path)) for path in files if path.suffix == ".meta"}
        own = set()
        for path in files:
            if path.suffix == ".meta":
                try:
                    meta = sglx.read_meta(path, folder)
                except sglx.HeaderError:
                    own.add(sglx.parse_name(sglx.stem_of(path)))
                    continue
                own.add(sglx.stream_name(path, meta))
                times += _times([sglx.start_time(meta)])
            elif path.with_name(sglx.stem_of(path)) not in described:
                own.add(sglx.parse_name(sglx.stem_of(path)))
        streams.update(own)
    runs = {name.run for name in streams}
    together = not times or max(times) - min(times) < LONGEST_RUN
    return len(runs) == 1 and None not in runs and max(streams.values()) == 1 and together


def _spikeglx_files(folder: Path) -> Iterator[Path]:
    """SpikeGLX's files in a folder and below."""
    entries = sorted(folder.iterdir())
    yield from (entry for entry in entries if _is_spikeglx(entry))
    for child in _subfolders(entries):
        yield from _spikeglx_files(child)


def _times(texts: list[str | None]) -> list[datetime]:
    """The points in time (without a zone) among ISO texts; what is none is left out."""
    times = []
    for text in texts:
        try:
            times.append(datetime.fromisoformat(text or "").replace(tzinfo=None))
        except ValueError:
            continue
    return times


def _day(name: str) -> date | None:
    """The day that a folder is named after (YYYYMMDD, YYYY-MM-DD), None where it is not."""
    parts = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})|(\d{4})(\d{2})(\d{2})", name)
    try:
        return date(*(int(part) for part in parts.groups() if part)) if parts else None
    except ValueError:
        return None


def place_of(raw: Path) -> Place:
    """What the path of a recording's folder says: ``<subject>/<day>[/<NNN>]/…``, before links or after."""
    for path in (Path(os.path.abspath(raw)), raw.resolve()):
        below = None
        for folder in (path, *path.parents):
            day = _day(folder.name)
            if day is not None and folder.parent.name:
                number = below if below is not None and re.fullmatch(r"\d{3}", below) else None
                return Place(folder.parent.name, day, number)
            below = folder.name
    return Place(None, None, None)


def start_of(inventory: Inventory) -> datetime | None:
    """When the recording began (without a zone), by its headers; None where they do not say."""
    return next(iter(_times([inventory.session.start_time])), None)


def sessions(recordings: Sequence[Path], subject: str | None) -> list[Row]:
    """A row for each recording, by subject and session; headers are read, samples are not.

    recordings: as ``find_recordings`` gives them. subject: of those whose path does not tell. The date is the
    headers', and where these do not tell, the folder's. Several sessions of a subject's day are numbered: as
    their folders are, or else in the order in which they began. Blocked recordings have rows too: the
    pipeline names them. Raises ``DataError`` that lists all folders whose subject is unknown or can't be a
    subject's name.
    """
    places = {raw: place_of(raw) for raw in recordings}
    subjects = {raw: place.subject or subject for raw, place in places.items()}
    unknown = [str(raw) for raw, name in subjects.items() if name is None]
    if unknown:
        raise DataError(
            "expected recordings in <subject>/<YYYYMMDD>/, so the subject is not known of: "
            f"{', '.join(unknown)}; give it with --subject NAME"
        )
    odd = [f"{name!r} ({raw})" for raw, name in subjects.items() if not re.fullmatch(SUBJECT, name)]
    if odd:
        raise DataError(
            "expected subjects of letters, digits, '.', '_' or '-', a letter or digit first, found: "
            f"{', '.join(odd)}; rename their folders"
        )

    days: dict[tuple[str, date], list[tuple[Path, Inventory]]] = defaultdict(list)
    for raw, name in subjects.items():
        found = inventory.inspect_session(raw, name, "?", look_at_data=False)
        began = start_of(found)
        day = began.date() if began else places[raw].date
        if day is None:
            log.warning("%s: left out, neither its headers nor its folder tell its date", raw)
            continue
        days[name, day].append((raw, found))
    rows = []
    for (name, day), members in sorted(days.items()):
        members.sort(key=lambda member: (start_of(member[1]) or datetime.max, member[0]))
        numbers = [places[raw].number for raw, _ in members]
        if None in numbers or len(set(numbers)) < len(numbers):
            numbers = [f"{k:03d}" for k in range(1, len(members) + 1)]
        kept = len(members) > 1 or places[members[0][0]].number
        for (raw, found), number in zip(members, numbers, strict=True):
            session = f"{day}_{number}" if kept else f"{day}"
            record = found.session.model_copy(update={"session": session})
            rows.append(Row(name, session, raw.resolve(), found.model_copy(update={"session": record})))
    rows.sort(key=lambda row: (row.subject, row.session))
    _warn(rows)
    return rows


def _warn(rows: list[Row]) -> None:
    """Log what blocks sessions or probes, and recordings that look like copies of one another."""
    for row in rows:
        for fault in row.inventory.faults:
            if fault.severity == "blocks":
                who = " ".join(part for part in (row.subject, row.session, fault.probe) if part)
                log.warning("%s can't be processed: %s: %s", who, fault.code, fault.message)
    alike = defaultdict(list)
    for row in rows:
        serials = tuple(probe.serial_number for probe in row.inventory.probes)
        if row.inventory.session.start_time and serials:
            alike[row.inventory.session.start_time, serials].append(str(row.raw))
    for folders in alike.values():
        if len(folders) > 1:
            copies = ", ".join(folders)
            log.warning("%s: copies of one recording, by their start and probes; keep one row", copies)


def table(rows: Sequence[Row]) -> str:
    """The sessions as text, one line each: probes, length, codes of warnings, who is blocked by what."""
    lines = [("subject", "session", "probes", "length", "warnings", "blocked", "raw")]
    for row in rows:
        faults = row.inventory.faults
        codes = sorted({fault.code for fault in faults if fault.severity == "warns"})
        blocked = [f"{f.probe or 'session'}: {f.code}" for f in faults if f.severity == "blocks"]
        names = inventory.probe_names(row.inventory.probes, faults)
        lines.append(
            (
                row.subject,
                row.session,
                " ".join(names) or "-",
                _length(row.inventory),
                " ".join(codes) or "-",
                ", ".join(dict.fromkeys(blocked)) or "-",
                str(row.raw),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _length(found: Inventory) -> str:
    """h:mm:ss of the longest probe's data, "-" where no probe could be read."""
    seconds = [probe.ap.n_samples / probe.ap.sampling_rate_hz for probe in found.probes]
    return str(timedelta(seconds=round(max(seconds)))) if seconds else "-"


def sheet(rows: Sequence[Row]) -> str:
    """The samplesheet's text (CSV). Raises ``DataError`` for a folder's name that it can't hold."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        raw = str(row.raw)
        # The pipeline reads the sheet line by line and strips its fields.
        if len(raw.splitlines()) > 1 or raw != raw.strip():
            raise DataError(f"{raw!r}: a samplesheet can't hold such a name of a folder; rename it")
        writer.writerow((row.subject, row.session, raw))
    return file.getvalue()
