"""What people say of a session and its subject, from YAML or JSON files, joined with what the recording says.

A file has the sections and names that NWB and neuroconv use, and the time zone that acquisition programs do
not write::

    timezone: Europe/Lisbon
    NWBFile: {lab: ..., institution: ..., experimenter: ["Last, First"], ...}
    Subject: {species: Mus musculus, sex: F, date_of_birth: 2025-12-01, ...}

One file is of the lab (every session of a run), one of the session (the samplesheet's column ``metadata``).
A value of the session's file takes the place of the lab's, and both that of the recording's own files. Values
of which only one can be true (the subject's name, the session's start, age and date of birth) must agree.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from powerpixels.documents import Session
from powerpixels.stage import DataError

TEXT, LIST, DAY, TIME = "text", "a list of texts", "a date YYYY-MM-DD", "a time such as 2026-03-01T12:34:56"
# Fields of pynwb's NWBFile and Subject that people know; what the pipeline knows itself is none of them.
NWB_FILE = {
    "session_start_time": TIME,
    "session_id": TEXT,
    "session_description": TEXT,
    "experiment_description": TEXT,
    "experimenter": LIST,
    "institution": TEXT,
    "lab": TEXT,
    "keywords": LIST,
    "notes": TEXT,
    "protocol": TEXT,
    "related_publications": LIST,
    "pharmacology": TEXT,
    "surgery": TEXT,
    "virus": TEXT,
    "slices": TEXT,
    "stimulus_notes": TEXT,
    "data_collection": TEXT,
}
SUBJECT = {
    "subject_id": TEXT,
    "species": TEXT,
    "strain": TEXT,
    "genotype": TEXT,
    "sex": TEXT,
    "age": TEXT,
    "age__reference": TEXT,
    "date_of_birth": DAY,
    "weight": TEXT,
    "description": TEXT,
}
SECTIONS = {"NWBFile": NWB_FILE, "Subject": SUBJECT}
ZONE = "timezone"

# An ISO 8601 duration in whole or decimal units, the largest first.
DURATION = r"P(?=\d|T\d){}{}{}{}(?:T(?=\d){}{}{})?".format(
    *(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in "YMWDHMS")
)
UNIT_DAYS = (365.25, 365.25 / 12, 7, 1, 1 / 24, 1 / 1440, 1 / 86400)
# Forms that nwbinspector and DANDI ask for, with an example each.
FORMS = {
    "species": (
        r"[A-Z][a-z]* [a-z]+|http://purl\.obolibrary\.org/obo/NCBITaxon_\d+",
        "a Latin name such as Mus musculus, or an NCBI taxonomy link",
    ),
    "sex": (r"[MFUO]|XX|XO", "M, F, U (unknown) or O (other)"),
    "age": (
        rf"{DURATION}|(?:{DURATION})?/(?:{DURATION})?(?<!^/)",
        "an ISO 8601 duration such as P90D, or a range of two, P80D/P90D",
    ),
    "age__reference": (r"birth|gestational", "birth or gestational"),
    "weight": (r"\d+(\.\d+)? (kg|g|mg)", "a number and its unit, such as 0.025 kg"),
    "experimenter": (r"[\w\s\-.']+,\s+[\w\s\-.']+", '"LastName, FirstName"'),
}
# The recording's files are made within this time of the session's start.
SAME_START = timedelta(minutes=1)


@dataclass(frozen=True)
class Metadata:
    """What is known of a session for its NWB.

    start: of the session, with its time zone; None where that is not known. nwb_file, subject: arguments of
    pynwb's NWBFile and Subject. missing: for each thing that NWB demands and nobody said, what it is and how
    to give it.
    """

    start: datetime | None
    nwb_file: dict
    subject: dict
    missing: tuple[str, ...]


class _Given:
    """Values by (section, name), each with the file it is from; the time zone's section is ""."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], object] = {}
        self.origin: dict[tuple[str, str], str] = {}

    def take(self, path: Path) -> None:
        """Take a file's values, over those that are there."""
        for key, value in read_metadata(path).items():
            self.values[key] = value
            self.origin[key] = str(path)

    def get(self, section: str, name: str) -> Any:
        return self.values.get((section, name))

    def said(self, section: str, name: str) -> str:
        """ "file: Subject.age 'P90D'", for a message."""
        value = self.values[section, name]
        shown = value.isoformat() if isinstance(value, date) else value
        return f"{self.origin[section, name]} says {'.'.join(filter(None, (section, name)))} {shown}"


def resolve(session: Session, session_file: Path | None = None, lab_file: Path | None = None) -> Metadata:
    """Join the session's file over the lab's over what the recording's own files say.

    Raises ``DataError`` where a file can't be read, has an unknown name or a value of another form, and where
    two sources contradict each other: the subject's or session's name or date in a file and the samplesheet;
    the start in a file and in the recording (more than a minute apart); a start's UTC offset and the time
    zone; an age and a date of birth.
    """
    given = _Given()
    for path in (lab_file, session_file):
        if path is not None:
            given.take(path)
    for section, name, expected in (
        ("Subject", "subject_id", session.subject),
        ("NWBFile", "session_id", session.session),
    ):
        if given.get(section, name) not in (None, expected):
            raise _contradiction(given.said(section, name), f"the samplesheet {expected}")
    start, missing = _start(session, given)
    subject = {name: value for (section, name), value in given.values.items() if section == "Subject"}
    if "date_of_birth" in subject:
        if start is not None:
            _check_age(given, start)
        # NWB wants a time and a zone; only the day is meant.
        subject["date_of_birth"] = datetime.combine(
            subject["date_of_birth"], datetime.min.time(), start.tzinfo if start else timezone.utc
        )
    subject["subject_id"] = session.subject
    # "U" is NWB's word for unknown; for the age and the species it has none, so they stay out.
    subject.setdefault("sex", "U")
    nwb_file = {name: value for (section, name), value in given.values.items() if section == "NWBFile"}
    nwb_file.pop("session_start_time", None)
    nwb_file["session_id"] = session.session
    return Metadata(start, nwb_file, subject, tuple(missing))


def _contradiction(one: str, other: str) -> DataError:
    return DataError(f"{one}, {other}: only one can be true; correct the one that is wrong")


def _start(session: Session, given: _Given) -> tuple[datetime | None, list[str]]:
    """The session's start, and what is missing to know it."""
    stated = given.get("NWBFile", "session_start_time")
    own = datetime.fromisoformat(session.start_time) if session.start_time else None
    if stated is not None:
        said = given.said("NWBFile", "session_start_time")
        if stated.date().isoformat() != session.session[:10]:
            raise _contradiction(said, f"the samplesheet's session is {session.session}")
        if own is not None:
            both_zoned = own.tzinfo is not None and stated.tzinfo is not None
            apart = stated - own if both_zoned else stated.replace(tzinfo=None) - own.replace(tzinfo=None)
            if abs(apart) > SAME_START:
                raise _contradiction(said, f"the recording's files {session.start_time}")
    start = stated or own
    name = given.get("", ZONE)
    zone = None if name is None else ZoneInfo(name)
    if start is None:
        missing = [
            "the session's start, which the recording's files do not say "
            f'(NWBFile: session_start_time: "{session.session[:10]}T12:34:56+01:00", as it was)'
        ]
        return None, missing
    if start.tzinfo is None and zone is None:
        missing = [
            "the time zone of the session's start, which the recording's files do not say "
            "(timezone: Europe/Lisbon, as it is)"
        ]
        return None, missing
    if start.tzinfo is None:
        return start.replace(tzinfo=zone), []
    if zone is not None and start.utcoffset() != start.astimezone(zone).utcoffset():
        other = "the recording's files say" if stated is None else given.said("NWBFile", "session_start_time")
        shown = f"{other} {session.start_time}" if stated is None else other
        raise _contradiction(given.said("", ZONE), shown)
    return start, []


def _check_age(given: _Given, start: datetime) -> None:
    """Raise where the date of birth is after the session or, to the age's own unit, not the age before it."""
    born, age = given.get("Subject", "date_of_birth"), given.get("Subject", "age")
    said = given.said("Subject", "date_of_birth")
    days = (start.date() - born).days
    if days < 0:
        raise _contradiction(said, f"the session is of {start.date()}")
    if age is None or given.get("Subject", "age__reference") == "gestational":
        return
    low, _, high = age.partition("/")
    bounds = [_days(text) for text in (low, high or low)]
    least = bounds[0][0] - bounds[0][1] if bounds[0] else 0.0
    most = bounds[1][0] + bounds[1][1] if bounds[1] and (high or "/" not in age) else float("inf")
    if not least <= days <= most:
        raise _contradiction(given.said("Subject", "age"), f"{said}, which is {days} days before the session")


def _days(duration: str) -> tuple[float, float] | None:
    """A duration and its smallest unit in days; None for an open bound."""
    found = re.fullmatch(DURATION, duration)
    if not duration or found is None:
        return None
    parts = [(float(n) * unit, unit) for n, unit in zip(found.groups(), UNIT_DAYS, strict=True) if n]
    # A day more or less by the hour of birth.
    return sum(part for part, _ in parts), max(parts[-1][1], 1.0)


def read_metadata(path: Path) -> dict[tuple[str, str], object]:
    """A file's values by (section, name), the time zone under ("", "timezone"), each of its type in Python.

    Texts, lists of texts, ``date`` and ``datetime``. Raises ``DataError`` that names the file, what was
    expected and what was found, for a name that stands there twice, too.
    """
    path = Path(path)
    content = _parse(path)
    known = ", ".join([ZONE, *SECTIONS])
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the sections {known}, found {_shown(content)}; write them so")
    values: dict[tuple[str, str], object] = {}
    for section, entries in content.items():
        if section == ZONE:
            values["", ZONE] = _zone(path, entries)
            continue
        if section not in SECTIONS:
            raise DataError(f"{path}: unknown name {section!r}{_nearest(section)}; known are {known}")
        if not isinstance(entries, dict):
            raise DataError(
                f"{path}: {section}: expected names with values, found {_shown(entries)}; correct it"
            )
        for name, value in entries.items():
            if name not in SECTIONS[section]:
                raise DataError(
                    f"{path}: unknown name {section}.{name}{_nearest(name)}; known are "
                    f"{', '.join(SECTIONS[section])}"
                )
            values[section, name] = _checked(path, section, name, value)
    return values


def _parse(path: Path) -> object:
    """The content of a YAML or JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        import yaml

        return yaml.load(text, Loader=_yaml_loader())
    except OSError as error:
        raise DataError(f"{path}: expected a metadata file, it can't be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: expected YAML or JSON, found otherwise ({error}); correct it") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML, found otherwise ({error}); correct it") from None


def _once(pairs: list[tuple[str, object]]) -> dict:
    names = [name for name, _ in pairs]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} stands there more than once")
    return dict(pairs)


def _yaml_loader() -> type:
    """PyYAML's safe loader, which alone would take the last of a name's values, and dates as texts."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            key: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
            for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node, deep=False):
            # As texts, whatever they look like.
            return _once(
                [(str(self.construct_object(k, True)), self.construct_object(v, True)) for k, v in node.value]
            )

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    return Loader


def _zone(path: Path, value: object) -> str:
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        ZoneInfo(value)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise DataError(
            f"{path}: {ZONE}: expected the name of a time zone such as Europe/Lisbon or UTC, found "
            f"{_shown(value)}; correct it"
        ) from None
    return value


def _checked(path: Path, section: str, name: str, value: object) -> object:
    """A value of its field's type and form."""
    kind = SECTIONS[section][name]

    def wrong(expected: str) -> DataError:
        quoted = "; a text that looks like a number or a word like yes needs quotes"
        hint = quoted if isinstance(value, bool | int | float) else ""
        return DataError(
            f"{path}: {section}.{name}: expected {expected}, found {_shown(value)}{hint}; correct "
            "it or leave it out"
        )

    if kind == LIST:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
            raise wrong(kind)
        value = values
    elif not isinstance(value, str) or not value.strip():
        raise wrong(kind)
    elif kind in (DAY, TIME):
        try:
            text = value.strip().replace("Z", "+00:00")
            if kind == TIME and not re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", text):
                raise ValueError
            value = date.fromisoformat(text) if kind == DAY else datetime.fromisoformat(text)
        except ValueError:
            raise wrong(kind) from None
    form, described = FORMS.get(name, (None, ""))
    if form is not None and not all(
        re.fullmatch(form, text) for text in (value if kind == LIST else [value])
    ):
        raise wrong(described)
    return value


def _shown(value: object) -> str:
    return "nothing" if value is None or value == "" else repr(value)


def _nearest(name: str) -> str:
    """ ", did you mean Subject.species?" where a known name is close, wherever it belongs."""
    full = {ZONE: ZONE, **{section: section for section in SECTIONS}}
    full |= {known: f"{section}.{known}" for section, names in SECTIONS.items() for known in names}
    plain = {known.lower().replace("_", ""): known for known in full}
    close = difflib.get_close_matches(str(name).lower().replace("_", "").replace("-", ""), plain, 1, 0.7)
    return f", did you mean {full[plain[close[0]]]}?" if close else ""
