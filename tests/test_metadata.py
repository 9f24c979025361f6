"""Session and subject metadata: missing, partial, complete, contradictory, mistyped."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from nwb_parts import COMPLETE, ZONE
from powerpixels.documents import Session
from powerpixels.metadata import Metadata, read_metadata, resolve
from powerpixels.stage import DataError


def session(**changes) -> Session:
    known = {
        "subject": "mouse01",
        "session": "2026-07-01_001",
        "acquisition": "spikeglx",
        "acquisition_version": None,
        "start_time": "2026-07-01T12:34:56",
    }
    return Session(**{**known, **changes})


def files(folder: Path, **texts: str) -> dict[str, Path]:
    """session_file and lab_file with such texts."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return {f"{name}_file": folder / f"{name}.yaml" for name in texts}


def resolved(folder: Path, recorded: Session | None = None, **texts: str) -> Metadata:
    return resolve(recorded or session(), **files(folder, **texts))


def test_without_any_only_what_the_recording_and_samplesheet_say():
    found = resolve(session())
    assert found.start is None and len(found.missing) == 1
    assert "time zone" in found.missing[0] and "timezone: Europe/Lisbon" in found.missing[0]
    assert found.nwb_file == {"session_id": "2026-07-01_001"}
    assert found.subject == {"subject_id": "mouse01", "sex": "U"}


def test_a_start_that_nobody_says_is_missing_even_with_a_zone(tmp_path):
    found = resolved(tmp_path, session(start_time=None), lab=ZONE)
    assert found.start is None
    assert len(found.missing) == 1 and 'NWBFile: session_start_time: "2026-07-01T' in found.missing[0]


def test_the_zone_makes_the_recordings_start_whole(tmp_path):
    """Lisbon has summer time in July."""
    found = resolved(tmp_path, lab=ZONE)
    assert found.start.isoformat() == "2026-07-01T12:34:56+01:00" and found.missing == ()
    winter = session(session="2026-01-05_001", start_time="2026-01-05T12:34:56")
    assert resolved(tmp_path, winter, lab=ZONE).start.isoformat() == "2026-01-05T12:34:56+00:00"
    zoned = session(start_time="2026-07-01T12:34:56+02:00")
    assert resolve(zoned).start == datetime(2026, 7, 1, 10, 34, 56, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "given", ["2026-07-01T12:34:56+01:00", "2026-07-01 12:35:20+01:00", "2026-07-01T12:34:56Z"]
)
def test_a_stated_start_is_taken_where_the_recording_does_not_contradict_it(tmp_path, given):
    found = resolved(tmp_path, session=f"NWBFile: {{session_start_time: '{given}'}}")
    assert found.start == datetime.fromisoformat(given.replace("Z", "+00:00"))
    only = resolved(tmp_path, session(start_time=None), session=f"NWBFile: {{session_start_time: '{given}'}}")
    assert only.start == found.start


def test_session_over_lab_over_recording(tmp_path):
    lab = COMPLETE.replace("2025-12-01", "2026-04-02")
    found = resolved(tmp_path, lab=lab, session="NWBFile: {lab: Another}\nSubject: {sex: M, strain: FVB}")
    assert found.nwb_file["lab"] == "Another" and found.nwb_file["institution"] == "Institute of Somewhere"
    assert found.nwb_file["experimenter"] == ["Doe, Jane"]
    assert (found.subject["sex"], found.subject["strain"], found.subject["age"]) == ("M", "FVB", "P90D")
    born = found.subject["date_of_birth"]
    assert born.date().isoformat() == "2026-04-02" and born.utcoffset() == timedelta(hours=1)
    assert "session_start_time" not in found.nwb_file


def test_json_says_the_same(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps({"timezone": "UTC", "Subject": {"sex": "F", "weight": "24.5 g"}})
    )
    (tmp_path / "a.yaml").write_text("timezone: UTC\nSubject:\n  sex: F\n  weight: 24.5 g\n")
    assert read_metadata(tmp_path / "a.json") == read_metadata(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("recorded", "text", "one", "other"),
    [
        ({}, "Subject: {subject_id: mouse02}", "session.yaml says Subject.subject_id mouse02", "the samplesheet mouse01"),
        ({}, "NWBFile: {session_id: other}", "session.yaml says NWBFile.session_id other", "the samplesheet 2026-07-01_001"),
        ({}, "NWBFile: {session_start_time: '2026-07-02T12:34:56'}", "session_start_time 2026-07-02T12:34:56", "the samplesheet's session is 2026-07-01_001"),
        ({}, "NWBFile: {session_start_time: '2026-07-01T14:34:56'}", "session_start_time 2026-07-01T14:34:56", "the recording's files 2026-07-01T12:34:56"),
        ({"start_time": "2026-07-01T12:34:56+02:00"}, "NWBFile: {session_start_time: '2026-07-01T12:34:56+01:00'}", "session_start_time 2026-07-01T12:34:56+01:00", "the recording's files 2026-07-01T12:34:56+02:00"),
        ({}, f"{ZONE}NWBFile: {{session_start_time: '2026-07-01T12:34:56+02:00'}}", "says timezone Europe/Lisbon", "says NWBFile.session_start_time 2026-07-01T12:34:56+02:00"),
        ({"start_time": "2026-07-01T12:34:56+02:00"}, ZONE, "says timezone Europe/Lisbon", "the recording's files say 2026-07-01T12:34:56+02:00"),
        ({}, f"{ZONE}Subject: {{date_of_birth: 2026-08-01}}", "says Subject.date_of_birth 2026-08-01", "the session is of 2026-07-01"),
        ({}, f"{ZONE}Subject: {{date_of_birth: 2026-04-02, age: P80D}}", "says Subject.age P80D", "date_of_birth 2026-04-02, which is 90 days before"),
        ({}, f"{ZONE}Subject: {{date_of_birth: 2026-04-02, age: P95D/}}", "says Subject.age P95D/", "which is 90 days before"),
    ],
)  # fmt: skip
def test_contradictions_name_both(tmp_path, recorded, text, one, other):
    with pytest.raises(DataError, match="only one can be true") as error:
        resolved(tmp_path, session(**recorded), session=text)
    assert one in str(error.value) and other in str(error.value)


def test_a_contradiction_of_two_files_names_both(tmp_path):
    with pytest.raises(DataError) as error:
        resolved(
            tmp_path, lab=f"{ZONE}Subject: {{age: P12W}}", session="Subject: {date_of_birth: 2026-06-01}"
        )
    assert str(tmp_path / "lab.yaml") in str(error.value) and str(tmp_path / "session.yaml") in str(
        error.value
    )


@pytest.mark.parametrize("age", ["P90D", "P89D", "P13W", "P3M", "P85D/P95D", "P60D/", "/P91D", "P2M"])
def test_an_age_in_its_own_unit_agrees_with_the_date_of_birth(tmp_path, age):
    found = resolved(tmp_path, lab=f"{ZONE}Subject: {{date_of_birth: 2026-04-02, age: {age}}}")
    assert found.subject["age"] == age


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Subject: {specis: Mus musculus}", "unknown name Subject.specis, did you mean Subject.species?"),
        ("NWBFile: {strain: C57}", "unknown name NWBFile.strain, did you mean Subject.strain?"),
        ("subject: {sex: F}", "unknown name 'subject', did you mean Subject?"),
        ("time_zone: UTC", "unknown name 'time_zone', did you mean timezone?"),
        ("colour: green", "unknown name 'colour'; known are timezone, NWBFile, Subject"),
        ("timezone: Lisbon", "timezone: expected the name of a time zone such as Europe/Lisbon or UTC, found 'Lisbon'"),
        ("Subject: {sex: female}", "Subject.sex: expected M, F, U (unknown) or O (other), found 'female'"),
        ("Subject: {age: 90 days}", "Subject.age: expected an ISO 8601 duration such as P90D"),
        ("Subject: {age: P/P}", "Subject.age: expected an ISO 8601 duration"),
        ("Subject: {age: 90}", "found 90; a text that looks like a number"),
        ("Subject: {species: mouse}", "Subject.species: expected a Latin name such as Mus musculus"),
        ("Subject: {weight: 25}", "Subject.weight: expected text, found 25"),
        ("Subject: {weight: '25'}", "Subject.weight: expected a number and its unit"),
        ("Subject: {strain:}", "Subject.strain: expected text, found nothing"),
        ("Subject: {date_of_birth: 1.12.2025}", "Subject.date_of_birth: expected a date YYYY-MM-DD"),
        ("NWBFile: {session_start_time: 2026-07-01}", "expected a time such as 2026-03-01T12:34:56"),
        ("NWBFile: {keywords: [1, 2]}", "NWBFile.keywords: expected a list of texts"),
        ("NWBFile: {experimenter: Jane Doe}", 'NWBFile.experimenter: expected "LastName, FirstName"'),
        ("Subject: {sex: F, sex: M}", "'sex' stands there more than once"),
        ("Subject: [sex]", "Subject: expected names with values"),
        ("- a\n- b", "expected the sections timezone, NWBFile, Subject"),
        ("a: [", "expected YAML, found otherwise"),
    ],
)  # fmt: skip
def test_one_clear_message_for_what_is_wrong(tmp_path, text, said):
    (tmp_path / "mouse.yaml").write_text(text)
    with pytest.raises(DataError) as error:
        read_metadata(tmp_path / "mouse.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'mouse.yaml'}: ") and said in str(error.value)


def test_a_name_twice_in_json_and_a_missing_file(tmp_path):
    (tmp_path / "a.json").write_text('{"Subject": {"sex": "F", "sex": "M"}}')
    with pytest.raises(DataError, match="'sex' stands there more than once"):
        read_metadata(tmp_path / "a.json")
    with pytest.raises(DataError, match="can't be read"):
        read_metadata(tmp_path / "none.yaml")
