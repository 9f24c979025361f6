"""Probe tracings of histology tools as IBL's alignment tool reads them: ``xyz_picks.json``.

A tracing becomes the straight line that fits it. Its **tip** is the deepest traced point (lowest DV) itself,
so that the line neither overshoots nor falls short of what was traced; its other end lies on the line beside
the traced point that is farthest from the tip. Picks run from that end, the surface, to the tip.
"""

from __future__ import annotations

import json
import logging
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from powerpixels.histology_formats import FORMATS, UNITS_UM, Track, read_tracks
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

# Coordinates are equal to this (um); ties for the deepest point within it.
EQUAL_UM = 1e-6
# A tracing that strays farther from its line than this, or lies flatter, is worth a look.
STRAIGHT_UM = 100.0
FLAT_DEGREES = 15.0
# What IBL's alignment tool writes.
ALIGNMENT = r"(channel_locations|prev_alignments)(_shank\d+)?\.json"
# Probes as the pipeline names them: SpikeGLX' probe00 (imec0), Open Ephys' ProbeA.
PROBE_NAME = r"probe\d{2}|imec\d+|probe[a-z]\d?"


@dataclass(frozen=True)
class Place:
    """Which probe a track is, None for the only one; shank counted from 1, None for a whole probe."""

    probe: str | None
    shank: int | None

    def __str__(self) -> str:
        """As a track is named for it: probe00, probe00_shank1, shank1."""
        parts = (self.probe, f"shank{self.shank}" if self.shank else None)
        return "_".join(part for part in parts if part) or "the only track"


@dataclass(frozen=True)
class Line:
    """Straight fit of a tracing. picks: (2, 3) float64, surface then tip, µm from bregma (ML, AP, DV).

    stray_um: largest distance of a traced point from the line. degrees: its angle to the horizontal.
    """

    picks: np.ndarray
    stray_um: float
    degrees: float


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels histology``."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="tracing: a file, or a folder of a tool's files"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for xyz_picks.json, or <probe>/xyz_picks.json",
    )
    parser.add_argument(
        "--format", choices=("auto", *FORMATS), default="auto", help="default: by what it holds"
    )
    parser.add_argument(
        "--probes",
        metavar="PROBE=TRACK,...",
        help="which track (number or name) is which probe: probe00=1,probe01=2, or probe00_shank1=left,...;"
        " shanks count from 1",
    )
    parser.add_argument("--unit", choices=tuple(UNITS_UM), help="of a CSV file whose header does not say it")
    parser.add_argument(
        "--atlas", metavar="NAME", help="of brainglobe tracks without brainreg.json, as in allen_mouse_25um"
    )
    parser.add_argument("--force", action="store_true", help="write over picks that are there")


def run(args: Namespace) -> None:
    """Body of ``powerpixels histology``: writes the picks and says what each file is."""
    mapping = parse_mapping(args.probes) if args.probes is not None else None
    tracks = read_tracks(args.files, args.format, args.unit, args.atlas)
    print("\n".join(write_picks(assign(tracks, mapping), args.out, force=args.force)))


def convert_session(files: Sequence[Path], out: Path, probes: Mapping[str, Sequence[int]]) -> list[str]:
    """HISTOLOGY: write ``out/<probe>/xyz_picks[_shank<k>].json`` for the probes of a session that are traced.

    files: tracings, or folders of them; also results of IBL's alignment tool (``ALIGNMENT``), which EXPORT
    reads and here are only looked at: each must lie in the folder of one of the probes, or belong to the only
    one. probes: the shanks, counted from 0, that each probe of the session recorded on. Returns a line for
    each file written. Raises ``DataError`` where a tracing can't be read or it is not clear which probe a
    track or an alignment is.
    """
    _check_alignments(files, list(probes))
    traced = [path for path in files if not _is_alignment(path)]
    if not traced:
        return []
    return write_picks(_as_the_tool_counts(assign(read_tracks(traced), None, list(probes)), probes), out)


def _is_alignment(path: Path) -> bool:
    """Whether a file is, or all files of a folder are, results of IBL's alignment tool."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return bool(files) and all(re.fullmatch(ALIGNMENT, file.name) for file in files)


def _check_alignments(files: Sequence[Path], probes: Sequence[str]) -> None:
    """Raise ``DataError`` where it is not clear which probe an alignment is of."""
    for path in files:
        found = sorted(path.rglob("channel_locations*.json")) if path.is_dir() else [path]
        for file in found:
            folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
            known = folder in probes or (folder == "." and len(probes) == 1)
            if re.fullmatch(ALIGNMENT, file.name) and not known:
                raise DataError(
                    f"{file}: expected channel locations in a folder with the name of their probe"
                    f" ({', '.join(probes)}), found them in {folder!r}; move them, as in"
                    f" {path.name if path.is_dir() else 'FOLDER'}/{probes[0]}/{file.name}"
                )


def _as_the_tool_counts(
    places: Mapping[Place, Track], probes: Mapping[str, Sequence[int]]
) -> dict[Place, Track]:
    """The places with their shanks as IBL's alignment tool counts them: from 1, only those with channels.

    It tells shanks apart by gaps in the channels' positions, so that one without channels is none, and a
    probe with channels on one shank has just "xyz_picks.json".
    """
    counted = {}
    for place, track in places.items():
        shanks = sorted(probes.get(place.probe, ()))
        if place.shank is None or place.probe not in probes:
            if len(shanks) > 1:
                log.warning(
                    "%s: %s is traced as one and has %d shanks: the alignment tool wants one track for each,"
                    " named %s_shank1 and so on",
                    track.file,
                    place,
                    len(shanks),
                    place.probe,
                )
            counted[place] = track
        elif place.shank - 1 not in shanks:
            log.warning("%s: %s left out, it has no recorded channels", track.file, place)
        else:
            number = shanks.index(place.shank - 1) + 1
            counted[Place(place.probe, number if len(shanks) > 1 else None)] = track
    return counted


def fit_line(points: np.ndarray) -> Line:
    """The straight line through the deepest of the points that fits the others best, by least squares.

    points: (n, 3), µm from bregma (ML, AP, DV). Of several deepest points the one farthest along the tracing
    is the tip. Raises ``ValueError`` for fewer than two different points.
    """
    if len(np.unique(points, axis=0)) < 2:
        raise ValueError("fewer than two different points")
    upwards = _upward_axis(points - points.mean(axis=0))
    deepest = points[points[:, 2] <= points[:, 2].min() + EQUAL_UM]
    tip = deepest[np.argmin(deepest @ upwards)]
    upwards = _upward_axis(points - tip)
    along = (points - tip) @ upwards
    # A level tracing may run either way.
    reach = along[np.argmax(np.abs(along))]
    strays = np.linalg.norm((points - tip) - np.outer(along, upwards), axis=1)
    degrees = float(np.degrees(np.arcsin(min(1.0, abs(upwards[2])))))
    return Line(np.array([tip + reach * upwards, tip]), float(strays.max()), degrees)


def _upward_axis(away: np.ndarray) -> np.ndarray:
    """Direction (3,) of the line through the origin nearest to points (n, 3), with DV not falling."""
    axis = np.linalg.svd(away, full_matrices=False)[2][0]
    return -axis if axis[2] < 0 else axis


def parse_mapping(text: str) -> dict[Place, str]:
    """``probe00=1,probe01_shank2=left`` as which track each place is; raises ``DataError`` where wrong."""
    mapping: dict[Place, str] = {}
    for part in text.split(","):
        name, equals, track = (piece.strip() for piece in part.partition("="))
        if not (name and equals and track):
            raise DataError(
                f"--probes: expected PROBE=TRACK, as in probe00=1,probe01=2, found {part.strip()!r}"
            )
        place = _place(name)
        if place in mapping:
            raise DataError(f"--probes: {name} is given twice; give each probe or shank one track")
        mapping[place] = track
    return mapping


def _place(name: str) -> Place:
    """A place by its name: probe00, probe00_shank1 or shank1."""
    match = re.fullmatch(r"(?:(.+?)[ _-]+)?shank[ _-]?(\d+)", name.strip(), re.IGNORECASE)
    probe, shank = (match[1], int(match[2])) if match else (name.strip(), None)
    if shank == 0:
        raise DataError(
            f"{name}: expected shanks counted from 1, as IBL's alignment tool counts them, found 0; rename"
            " it, or give --probes"
        )
    if probe is not None and (not re.fullmatch(r"\w[\w .-]*", probe) or probe != probe.strip()):
        raise DataError(f"{name}: expected a probe's name, found {probe!r}; it is to be a folder's name too")
    return Place(probe, shank)


def assign(
    tracks: Sequence[Track], mapping: Mapping[Place, str] | None = None, probes: Sequence[str] | None = None
) -> dict[Place, Track]:
    """Which track is which probe or shank.

    mapping: as ``parse_mapping`` gives it; without one, tracks are known by their names (probe00, imec0,
    ProbeA, each also with _shank<k>; shank<k> alone of the only probe), and a single track needs no name.
    probes: those that there can be, None where that is not known. Raises ``DataError`` that lists the tracks
    where it is not clear.
    """
    given = [(number, track) for number, track in enumerate(tracks, 1)]
    if mapping is not None:
        places = {place: _chosen(given, wanted) for place, wanted in mapping.items()}
    else:
        places = _by_name([track for _, track in given if len(track.points)], given, probes)
    if probes is not None:
        places = {_known(place, probes, given): track for place, track in places.items()}
    wholes = {place.probe for place in places if place.shank is None}
    both = sorted(str(place) for place in places if place.shank is not None and place.probe in wholes)
    if both:
        raise DataError(
            f"expected a probe traced as a whole or by shanks, found both for {', '.join(both)};"
            f" {_listing(given)}"
        )
    return places


def _chosen(given: Sequence[tuple[int, Track]], wanted: str) -> Track:
    """The track of a name or, where none has it, of a number."""
    named = [track for _, track in given if track.name == wanted]
    named = named or [track for number, track in given if str(number) == wanted]
    if len(named) != 1:
        found = "none" if not named else f"{len(named)} of that name; give its number"
        raise DataError(f"--probes: expected a track {wanted!r}, found {found}; {_listing(given)}")
    return named[0]


def _by_name(
    tracks: Sequence[Track], given: Sequence[tuple[int, Track]], probes: Sequence[str] | None
) -> dict[Place, Track]:
    """The tracks whose names say which probe or shank they are; or the only one."""
    places: dict[Place, Track] = {}
    others = []
    for track in tracks:
        place = _named_place(track.name, probes)
        if place is None:
            others.append(track)
        elif place in places:
            raise DataError(
                f"expected one track for {place}, found several; {_listing(given)}; give --probes"
            )
        else:
            places[place] = track
    if places:
        for track in others:
            log.info("%s: track %s left out, it has no probe's name", track.file, track.name or "?")
        return places
    if len(tracks) != 1:
        raise DataError(
            "expected tracks with the names of probes (probe00, ProbeA, probe00_shank1), or one track, found"
            f" {len(tracks)}; {_listing(given)}; say which is which with powerpixels histology --probes"
            " probe00=1,probe01=2"
        )
    return {Place(None, None): tracks[0]}


def _named_place(name: str | None, probes: Sequence[str] | None) -> Place | None:
    """The place that a track's name says; None where it says none."""
    if name is None:
        return None
    match = re.fullmatch(r"(?:(.+?)[ _-]+)?shank[ _-]?\d+", name.strip(), re.IGNORECASE)
    probe = match[1] if match else name.strip()
    if probe is None:
        return _place(name)
    known = {known.lower(): known for known in probes or ()}
    imec = re.fullmatch(r"imec(\d+)", probe, re.IGNORECASE)
    if imec and probe.lower() not in known:
        probe = f"probe{int(imec[1]):02d}"
    if probe.lower() not in known and not re.fullmatch(PROBE_NAME, probe, re.IGNORECASE):
        return None
    shank = _place(name).shank
    # Without a list, SpikeGLX' probes are in lower case and those of Open Ephys begin with a capital.
    usual = probe.lower() if probe[5].isdigit() else f"Probe{probe[5:].upper()}"
    return Place(known.get(probe.lower(), usual), shank)


def _known(place: Place, probes: Sequence[str], given: Sequence[tuple[int, Track]]) -> Place:
    """A place with its probe among those that there are."""
    if place.probe is None and len(probes) == 1:
        return Place(probes[0], place.shank)
    if place.probe not in probes:
        raise DataError(
            f"expected tracks of the probes {', '.join(probes)}, found {place}; {_listing(given)}; name"
            " the tracks after their probes, or convert them with powerpixels histology --probes and give"
            " its folder"
        )
    return place


def _listing(given: Sequence[tuple[int, Track]]) -> str:
    """The tracks there are, for messages."""
    lines = []
    for number, track in given:
        depth = f", DV {track.points[:, 2].min():.0f} um at the deepest" if len(track.points) else ""
        name = f" {track.name!r}" if track.name else ""
        lines.append(f"{number}{name} ({track.file.name}, {len(track.points)} points{depth})")
    return f"tracks: {'; '.join(lines) or 'none'}"


def write_picks(places: Mapping[Place, Track], out: Path, force: bool = False) -> list[str]:
    """Write ``xyz_picks.json``, or ``xyz_picks_shank<k>.json``, of each place into ``out[/<probe>]``.

    Picks are µm from bregma, ML (right +), AP (anterior +), DV (up +), surface first; those that were picks
    already are kept as they are. force: write over files that are there. Nothing is written where any track
    can't be. Returns a line for each file. Raises ``DataError`` for a file that is there or a track without
    two different points.
    """
    texts: dict[Path, tuple[str, str]] = {}
    for place, track in sorted(places.items(), key=lambda item: (item[0].probe or "", item[0].shank or 0)):
        name = "xyz_picks.json" if place.shank is None else f"xyz_picks_shank{place.shank}.json"
        path = out / place.probe / name if place.probe else out / name
        if path.exists() and not force:
            raise DataError(f"{path}: it is there already; give another --out, or --force to write over it")
        try:
            line = fit_line(track.points)
        except ValueError as error:
            raise DataError(
                f"{track.file}: track {track.name or place}: expected a traced probe, found {error}; trace"
                " it from the surface to its tip"
            ) from None
        if line.stray_um > STRAIGHT_UM:
            log.warning("%s: %s strays %.0f um from a straight line", track.file, place, line.stray_um)
        if line.degrees < FLAT_DEGREES:
            log.warning("%s: %s lies nearly flat; its lower end is taken as the tip", track.file, place)
        picks = track.points if track.ready else line.picks
        ml, ap, dv = line.picks[1]
        length = np.linalg.norm(np.diff(line.picks, axis=0))
        # Rounding may leave a negative zero.
        rows = [[round(float(value), 1) + 0.0 for value in pick] for pick in picks]
        texts[path] = (
            json.dumps({"xyz_picks": rows}) + "\n",
            f"{path}: {track.name or 'track'} of {track.file.name}, {length:.0f} um long, tip at ML {ml:.0f},"
            f" AP {ap:.0f}, DV {dv:.0f} um from bregma, strays {line.stray_um:.0f} um",
        )
    for path, (text, _) in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [said for _, said in texts.values()]
