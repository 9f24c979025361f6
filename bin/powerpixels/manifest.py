"""What a run published of a probe, byte for byte, and what made it: manifests; and the check against them.

The pipeline writes one for each probe of a session (``qc/<probe>/manifest.json``), one for what belongs to
the session itself (``qc/manifest.json``), one for each DAQ stream with a clock of its own, and one for each
copy of a raw stream (``manifest_<stream>.json``), which is large and seldom changes. They are made from the
tasks' own outputs, at the end of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from powerpixels.documents import (
    CLOCK_FILE,
    ClockFit,
    Document,
    ProbeDocument,
    PublishedClock,
    SortingDocument,
    StreamDocument,
)
from powerpixels.stage import DataError

NAME = re.compile(r"manifest(_.+)?\.json")
BLOCK_BYTES = 1 << 20
# Raw files that are larger are known by their first and last MiB: to read them whole takes too long.
WHOLE_BYTES = 16 << 20

# What each stage publishes: (path within its folder, path within the session's, what it is). {probe}, {unit}
# and {sorter} are the task's; with a slash they are a folder, or nothing. What is not here is not published.
PUBLISHED: dict[str, list[tuple[str, str, str]]] = {
    "INSPECT": [
        (r"inventory\.json", "qc/inventory.json", "what INSPECT found in the raw folder"),
        (
            r"probes\.description\.json",
            "alf/probes.description.json",
            "the session's probes, as IBL lists them",
        ),
    ],
    "EDGES": [(r"(.*)", r"raw_ephys_data/{probe/}\1", "edges of the digital lines, IBL's file")],
    "SYNC": [
        (r"sync\.json", "qc/{probe}/sync.json", "fit of the clock to the session's"),
        (r"residuals\.png", "qc/{probe}/sync_residuals.png", "distance of the sync edges from that fit"),
        (r"ibl/(.*)", r"raw_ephys_data/{probe/}\1", "map of the clock to the session's, IBL's file"),
    ],
    "EVENTS": [(r"(.*)", r"alf/\1", "events and analog traces")],
    "RAW_QC": [
        (r"(lfp\.zarr/.*)", r"alf/{probe}/\1", "the local field potential"),
        (r"([^/]*\.npy)", r"alf/{probe}/\1", "levels and spectra of the raw bands, for the alignment tool"),
        (r"([^/]*\.(?:png|csv|json))", r"qc/{probe}/\1", "levels, spectra and artifacts of the raw bands"),
    ],
    "PREPROCESS": [
        (r"preprocess\.json", "qc/{probe}/preprocess.json", "every decision of preprocessing"),
        (
            r"muted\.npy",
            "qc/{probe}/muted.npy",
            "stretches that were muted: session's number, first sample, end",
        ),
    ],
    "VISUALIZE": [(r"(.*)", r"qc/{probe}/preprocessing/\1", "what each step of preprocessing did")],
    "DRIFT": [(r"(.*)", r"qc/{probe}/drift/{unit/}\1", "the motion of the tissue along the shank")],
    "SORT": [(r"(.*)", r"spike_sorters/{sorter}/{probe}/{unit/}\1", "the sorter's own folder")],
    "ANALYZE": [
        (r"analyzer\.zarr/(.*)", r"analyzers/{probe}/{unit}.zarr/\1", "SpikeInterface SortingAnalyzer"),
        (r"suggestions\.json", "qc/{probe}/suggestions/{unit}.json", "units that might be merged"),
        (r"bombcell\.csv", "qc/{probe}/labels/{unit}_bombcell.csv", "Bombcell's own metrics of the units"),
        (
            r"ibl_confidence\.csv",
            "qc/{probe}/labels/{unit}_ibl_confidence.csv",
            "IBL's confidence that a unit is no more contaminated than so much",
        ),
    ],
    "LABEL": [
        (r"phy/(.*\.tsv)", r"spike_sorters/phy_labels/{probe}/{unit/}\1", "labels of the units for Phy"),
        (
            r"labels\.json",
            "qc/{probe}/labels/{unit}.json",
            "what each labelling tool went by: version, every parameter, hashes of models",
        ),
    ],
    "EXPORT": [
        (r"alf/(.*)", r"alf/{probe}/\1", "spikes, units and channels as ALF"),
        (r"((?:summary|agreement)\.json)", r"qc/{probe}/\1", "the probe's part of the run's report"),
    ],
    "NWB": [(r"nwb/(.*)", r"nwb/\1", "units, electrodes, events and traces as NWB")],
    "HISTOLOGY": [(r"(.*\.json)", r"alf/\1", "track of the probe for the alignment tool")],
    "COMPRESS": [(r"(.*)", r"raw_ephys_data/\1", "verified copy of a raw stream")],
}
# Files that are counted on a clock, beside those that a CLOCK_FILE names: on the stream's own, on the
# session's reference, or on both. Of Zarr the chunks with the numbers.
OWN, REFERENCE = "own", "reference"
CLOCKS: list[tuple[str, tuple[str, ...]]] = [
    (r"nwb/.*", (REFERENCE,)),
    (r"alf/[^/]+/(lfp\.zarr/timestamps/[\d.]+|_iblqc_[^/]*\.timestamps\.npy)", (REFERENCE,)),
    (r"qc/[^/]+/(sync\.json|artifacts\.csv)", (OWN, REFERENCE)),
    (r"raw_ephys_data/(.*/)?_spikeglx_[^/]*\.(timestamps|sync)\.npy", (OWN, REFERENCE)),
    (r"raw_ephys_data/(.*/)?(_spikeglx_sync\.times[^/]*\.npy|[^/]*\.cbin|[^/]*\.zarr/(.*/)?[\d.]+)", (OWN,)),
    (r"qc/[^/]+/(muted\.npy|drift/(.*/)?temporal_bins_s\.npy)", (OWN,)),
    (r"spike_sorters/.*/(spike_samples|spike_times|spikes)\.npy", (OWN,)),
    (r"analyzers/.*/sorting/spikes/sample_index(_chunk_firsts)?/[\d.]+", (OWN,)),
]
# What people and their tools add to a session's folder: never missing, and not of the pipeline.
ADDED = re.compile(
    r"(.*/)?#[^/]+#/.*|(.*/)?curation/.*|histology/.*|(.*/)?(channel_locations|prev_alignments)[^/]*\.json"
    r"|report\.html|(.*/)?session_notes\.txt|(.*/)?[^/]*\.(nrrd|tiff?)|qc/(.*/)?manifest(_[^/]+)?\.json"
)


class Part(NamedTuple):
    """A task's folder: of which stage, which sorting unit ("" where it is of none), and where it is."""

    stage: str
    unit: str
    folder: Path


class PublishedFile(Document):
    """A published file: path in the session's folder; sha256 of all its bytes; the stage that made it.

    what: in words. clocks: of its times or samples, as names of streams; its own stream's before the
    reference of the session, where it has both; none where it has no times.
    """

    path: str
    size_bytes: int
    sha256: str
    stage: str
    what: str
    clocks: list[str]


class RawIdentity(Document):
    """A raw file that the results were made from: path in the raw folder, size.

    sha256: of the whole file, or, where that is larger than 16 MiB, ends_sha256: of its first and last MiB.
    Both None of a folder.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    ends_sha256: str | None = None


class Manifest(Document):
    """manifest.json. probe: "" for what belongs to the session itself.

    parameters: the run's, files by name and sha256; samplesheet: what the session's row gives beside them.
    software: versions by process. containers: the images
    that tasks ran in, with their digests; empty where there were none.
    """

    subject: str
    session: str
    probe: str
    parameters: dict[str, Any]
    samplesheet: dict[str, Any]
    software: dict[str, list[dict[str, str]]]
    containers: dict[str, str]
    raw: list[RawIdentity]
    files: list[PublishedFile]


def make_manifest(
    subject: str,
    session: str,
    probe: str,
    parts: Iterable[Part],
    record: dict[str, Any],
    documents: Sequence[ProbeDocument | StreamDocument] = (),
    raw: Sequence[Path] = (),
) -> Manifest:
    """The manifest of what tasks made of a probe.

    parts: their folders. record: "parameters", "samplesheet", "software" and
    "containers" of ``Manifest``. documents: of the
    streams that were read; raw: their files, in the order of the documents'. Memory does not grow with the
    files. Raises ``ValueError`` where two files would be published to one place.
    """
    parts = sorted(parts, key=lambda part: part[:2])
    clocks = _clocks(parts, probe, documents)
    files: dict[str, PublishedFile] = {}
    for part in parts:
        for file, path, what in _published(part, probe):
            if path in files:
                raise ValueError(f"{path} is published by {files[path].stage} and by {part.stage}")
            files[path] = PublishedFile(
                path=path,
                size_bytes=file.stat().st_size,
                sha256=sha256(file),
                stage=part.stage,
                what=what,
                clocks=clocks(path),
            )
    # One file may hold both bands.
    named = {
        file.path: file for document in documents for stream in _streams(document) for file in stream.files
    }
    return Manifest(
        subject=subject,
        session=session,
        probe=probe,
        raw=[_identity(file.path, file.size_bytes, at) for file, at in zip(named.values(), raw, strict=True)],
        files=[files[path] for path in sorted(files)],
        **record,
    )


def _streams(document: ProbeDocument | StreamDocument) -> list:
    if isinstance(document, StreamDocument):
        return [document.stream]
    return [stream for stream in (document.probe.ap, document.probe.lf) if stream is not None]


def _published(part: Part, probe: str) -> Iterator[tuple[Path, str, str]]:
    """(file, path in the session's folder, what it is) of all that is published of a task's folder."""
    unit = "" if part.unit in ("", "probe") else f"{part.unit}/"
    known = {"{probe}": probe, "{probe/}": f"{probe}/" if probe else "", "{unit}": part.unit, "{unit/}": unit}
    if part.stage == "SORT":
        known["{sorter}"] = SortingDocument.load(part.folder / "sorting.json").sorter
    for file in files_below(part.folder):
        relative = file.relative_to(part.folder).as_posix()
        for pattern, target, what in PUBLISHED[part.stage]:
            match = re.fullmatch(pattern, relative)
            if match:
                path = match.expand(target)
                for name, value in known.items():
                    path = path.replace(name, value)
                yield file, path, what
                break


def lay_out(part: Part, probe: str, session: Path) -> None:
    """Links to a task's files, where they are published in the folder of their session."""
    for file, path, _ in _published(part, probe):
        target = session / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.resolve())


def _clocks(
    parts: Sequence[Part], probe: str, documents: Sequence[ProbeDocument | StreamDocument]
) -> Callable[[str], list[str]]:
    """What tells the clocks of a published file, by its path: the clock files beside ALF, else CLOCKS.

    The stream is that of the documents, or of a copy of raw data; the reference is that of the clock files or
    of SYNC. A recording that sessions were joined to has neither.
    """
    stated: dict[str, list[str]] = {}
    fits: list[ClockFit] = []
    own = [_streams(document)[0].name for document in documents]
    for part in parts:
        for file, path, _ in _published(part, probe):
            if file.name == CLOCK_FILE:
                clock = PublishedClock.load(file)
                fits.append(clock)
                folder = PurePosixPath(path).parent
                stated[path] = list(dict.fromkeys([clock.stream, clock.reference]))
                stated |= {str(folder / name): [times.clock] for name, times in clock.files.items()}
            elif part.stage == "SYNC" and file.name == "sync.json":
                fits.append(ClockFit.load(file))
            elif part.stage == "COMPRESS" and file.name.endswith(".compress.json"):
                own.append(json.loads(file.read_text(encoding="utf-8"))["stream"])
    streams = {OWN: [*own, *(fit.stream for fit in fits)][:1], REFERENCE: [fit.reference for fit in fits][:1]}

    def of(path: str) -> list[str]:
        if path in stated:
            return stated[path]
        kinds = next((kinds for pattern, kinds in CLOCKS if re.fullmatch(pattern, path)), ())
        return list(dict.fromkeys(name for kind in kinds for name in streams[kind]))

    return of


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder in a fixed order; links are followed, as results may be published as such."""
    for at, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            yield Path(at) / name


def sha256(path: Path) -> str:
    """SHA-256 of a file, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _identity(name: str, size: int, path: Path) -> RawIdentity:
    if path.is_dir():
        return RawIdentity(path=name, size_bytes=size)
    if size <= WHOLE_BYTES:
        return RawIdentity(path=name, size_bytes=size, sha256=sha256(path))
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(BLOCK_BYTES))
        file.seek(-BLOCK_BYTES, os.SEEK_END)
        digest.update(file.read(BLOCK_BYTES))
    return RawIdentity(path=name, size_bytes=size, ends_sha256=digest.hexdigest())


class Difference(NamedTuple):
    """What is not as a manifest says: "missing", "changed" or "extra"; the file; what is wrong with it."""

    kind: str
    path: Path
    detail: str


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels verify``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of results, or of one session in them")


def run(args: Namespace) -> None:
    """Body of ``powerpixels verify``: names what differs, and raises ``DataError`` where anything does."""
    n_files, differences = verify(args.folder)
    for difference in differences:
        print(f"{difference.kind:8} {difference.path}{difference.detail and f': {difference.detail}'}")
    counts = ", ".join(
        f"{sum(difference.kind == kind for difference in differences)} {kind}"
        for kind in ("missing", "changed", "extra")
    )
    print(f"{n_files} files in manifests: {counts}")
    if differences:
        raise DataError(f"{args.folder}: not as it was published ({counts}); see above")


def verify(folder: Path) -> tuple[int, list[Difference]]:
    """Compare the files below a folder of results, or a session's, with the manifests in it.

    Returns how many files the manifests have, and the differences, by path within ``folder``. A file is extra
    where its session has manifests and none of them has it, unless people put such files there: revisions,
    curations, alignments. Raises ``DataError`` where there is no manifest, or one that can't be read.
    """
    folder = Path(folder)
    found = [
        path
        for path in files_below(folder)
        if NAME.fullmatch(path.name) and "qc" in path.relative_to(folder).parts
    ]
    if not found:
        raise DataError(
            f"{folder}: expected results with qc/manifest.json or qc/<probe>/manifest.json, found none; give"
            " the folder of the results, or of a session"
        )
    n_files, differences = 0, []
    sessions: dict[Path, set[str]] = {}
    for path in found:
        try:
            manifest = Manifest.load(path)
        except ValueError as error:
            raise DataError(
                f"{path}: expected a manifest, found otherwise ({error}); run the pipeline"
            ) from None
        session = path.parent if path.parent.name == "qc" else path.parent.parent
        session = session.parent if session.name == "qc" else session
        known = sessions.setdefault(session, set())
        for file in manifest.files:
            if not _inside(file.path):
                raise DataError(f"{path}: expected paths within the session's folder, found {file.path}")
            n_files += 1
            known.add(file.path)
            differences += _compared(session / file.path, file, folder)
    for session, known in sessions.items():
        for file in files_below(session):
            name = file.relative_to(session).as_posix()
            if name not in known and not ADDED.fullmatch(name):
                differences.append(Difference("extra", file.relative_to(folder), ""))
    return n_files, sorted(differences, key=lambda difference: difference.path)


def _inside(path: str) -> bool:
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _compared(path: Path, stated: PublishedFile, folder: Path) -> list[Difference]:
    if not path.is_file():
        return [Difference("missing", path.relative_to(folder), stated.what)]
    size = path.stat().st_size
    if size != stated.size_bytes:
        detail = f"{size} bytes, {stated.size_bytes} were published"
        return [Difference("changed", path.relative_to(folder), detail)]
    if sha256(path) != stated.sha256:
        return [Difference("changed", path.relative_to(folder), "of the same size, with another content")]
    return []
