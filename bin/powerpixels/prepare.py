"""Empty session folders for a day's recordings, with the flag that marks them for processing."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import date
from pathlib import Path

from powerpixels.samplesheet import FLAG, RAW_FOLDER, check_subject
from powerpixels.stage import DataError

FOLDERS = ("raw_behavior_data", "raw_video_data", RAW_FOLDER)


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels prepare``."""
    parser.add_argument(
        "data_folder", type=Path, metavar="DATA_FOLDER", help="where the subjects' folders lie"
    )
    parser.add_argument("subjects", nargs="+", metavar="SUBJECT", help="name of a subject")
    parser.add_argument(
        "--date", type=_date, metavar="YYYY-MM-DD", help="day of the session (default: today)"
    )


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a day as YYYY-MM-DD, found {text!r}") from None


def run(args: Namespace) -> None:
    """Body of ``powerpixels prepare``: says of each session's folder what was done."""
    day = args.date or date.today()
    for folder, made in prepare(args.data_folder, args.subjects, day):
        print(f"{folder}: {'made' if made else 'there already, left as it is'}")


def prepare(data_folder: Path, subjects: list[str], day: date) -> list[tuple[Path, bool]]:
    """Make ``<data folder>/<subject>/<YYYYMMDD>/`` with its empty folders and flag for each subject.

    Returns each session's folder, and whether it was made: one that is there is not touched, whatever it
    holds. Raises ``DataError``, before anything is made, where the data folder is none or a subject's name is
    none that the samplesheet allows.
    """
    if not data_folder.is_dir():
        raise DataError(
            f"{data_folder}: expected the folder of all subjects, it is none; make it or correct it"
        )
    for subject in subjects:
        check_subject(subject)
    done = []
    for subject in dict.fromkeys(subjects):
        session = data_folder / subject / f"{day:%Y%m%d}"
        made = not session.exists()
        if made:
            for folder in FOLDERS:
                (session / folder).mkdir(parents=True)
            (session / FLAG).touch()
        done.append((session, made))
    return done
