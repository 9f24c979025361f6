"""The streams of a SpikeGLX run, however its files are laid out, cut into gates and triggers or processed.

A run (one press of SpikeGLX's Run button) counts its samples from its start; ``firstSample`` in a file's
header is the count of the file's first sample. Every press of Enable/Disable Recording begins a gate (g0,
g1, …), every trigger within it a file (t0, t1, …): all files of one run name lie on one count of samples per
stream, and are put together by it. Source: SpikeGLX's user manual, and CatGT's manual and code for what its
output holds (https://billkarsh.github.io/SpikeGLX).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from powerpixels import sglx
from powerpixels.documents import Fault, Findings, Piece, Probe, Stream
from powerpixels.stage import DataError, TemporaryError

# SpikeGLX nests at most <run>_g0/<run>_g0_imec0/; labs put one or two folders of their own above.
MAX_DEPTH = 4

# Shorter than this no sync wave (1 Hz) has an edge that could be matched.
MIN_SECONDS = 1.0

# Longer than this no recording is planned: the header's sampling rate or channel count is wrong.
MAX_SECONDS = 24 * 3600.0

# SpikeGLX stops a run's streams within milliseconds of each other (CatGT's manual), by the true rates;
# headers' rates may be nominal, which are up to 1e-4 off.
MAX_DIFFERENCE_S = 1.0
MAX_DIFFERENCE = 1e-3

# By how much the time between two files may differ from what firstSample says: a file is created some
# seconds after its first sample where a trigger's history is written too.
MAX_CREATED_S = 60.0

# How many gaps or overlaps a message lists.
LISTED = 3

# Codes of a data file that does not hold what its header says.
BROKEN = ("BIN_MISSING", "EMPTY_FILE", "TRUNCATED", "SIZE_MISMATCH", "PARTIAL_SAMPLE")

# Warnings that leave a stream usable; any other fault leaves an LF or OneBox stream out.
HARMLESS = ("DUPLICATE_DATA", "META_UNFINISHED", "DURATION_MISMATCH", "CATGT_JOINED", "CATGT_PROCESSED")

# Header keys that all files of a stream have in common, in the order in which a difference is named.
COMMON_KEYS = (
    "imDatPrb_sn",
    "imProbeSN",
    "imDatPrb_pn",
    "imProbeOpt",
    "nSavedChans",
    "snsSaveChanSubset",
    "imroTbl",
    "imSampRate",
    "niSampRate",
    "obSampRate",
    "imAiRangeMax",
    "niAiRangeMax",
    "obAiRangeMax",
    "imMaxInt",
    "niMaxInt",
    "obMaxInt",
    "imChan0apGain",
    "acqMnMaXaDw",
    "niXAChans1",
    "niXAChans2",
    "niXDChans1",
    "niXDChans2",
    "syncNiChan",
    "syncNiChanType",
    "syncImChan",
)


@dataclass(frozen=True)
class _Header:
    """A readable header: the file, its keys, what its names say, and what it is a stream of.

    probe: the probe's name, None for a DAQ stream. stream: the stream's name.
    """

    path: Path
    meta: sglx.SglxMeta
    name: sglx.StreamName
    kind: str
    probe: str | None
    stream: str

    @property
    def joined_by_catgt(self) -> bool:
        return self.name.trigger == "cat" or any(key.startswith("catGT") for key in self.meta.values)

    @property
    def identity(self) -> tuple:
        """What tells an imec stream's probe from the others of its run: slot, port, dock, serial number."""

        def number(key: str) -> int:
            text = self.meta.values.get(key, "")
            return int(text) if text.isdigit() else -1

        serial = self.meta.values.get("imDatPrb_sn") or self.meta.values.get("imProbeSN") or ""
        return (number("imDatPrb_slot"), number("imDatPrb_port"), number("imDatPrb_dock"), serial)


def is_spikeglx(raw: Path) -> bool:
    """Whether a SpikeGLX header, or a data file of SpikeGLX's names, lies at most MAX_DEPTH folders below."""
    for path in _files(Path(raw)):
        if path.suffix == ".meta":
            try:
                sglx.read_meta(path, raw)
            except sglx.HeaderError:
                if sglx.parse_name(sglx.stem_of(path)).device is None:
                    continue
            return True
        if path.suffix in sglx.DATA_SUFFIXES and sglx.parse_name(sglx.stem_of(path)).device is not None:
            return True
    return False


def find(raw: Path) -> Findings:
    """Find the SpikeGLX streams under ``raw``, and what their headers and file sizes say is wrong with them.

    raw: a folder with a run's files at most MAX_DEPTH folders below. No sample is read. What is wrong becomes
    a fault of the probe or, with probe None, of the session; one probe's fault never hides another probe.
    Probes whose headers could be read are listed even where a fault blocks them, in the order of their names.
    LF and OneBox streams with a fault are left out; the session goes on without.
    """
    raw = Path(raw)
    headers, faults = _headers(raw)
    runs = sorted({header.name.run for header in headers if header.name.run is not None})
    if len(runs) > 1:
        faults.append(_multiple_runs(runs, headers))
        return Findings(
            acquisition="spikeglx",
            headers={"": _origin(headers[0])},
            probes=[],
            nidq=None,
            daqs=[],
            faults=faults,
        )
    headers = _number_probes(headers, faults)
    by_stream: dict[str, list[_Header]] = {}
    for header in headers:
        by_stream.setdefault(header.stream, []).append(header)

    streams: dict[str, Stream] = {}
    first: dict[str, _Header] = {}
    for name, items in sorted(by_stream.items()):
        stream, first[name] = _join(items, raw, faults)
        if stream is not None:
            streams[name] = stream

    nidq = streams.get("nidq")
    if nidq is not None:
        _check_nidq_sync(first["nidq"], nidq, faults)
    daqs = [stream for stream in streams.values() if stream.kind == "obx"]
    for stream in daqs:
        _check_obx_sync(first[stream.name], stream, faults)
    named = {header.probe for header in headers} | {fault.probe for fault in faults}
    # What is meant, not what could be read: a probe's document must not change with another stream's faults.
    n_clocks = len({header.probe or header.stream for header in headers}) + sum(
        fault.stream == "nidq" and "nidq" not in by_stream for fault in faults
    )
    probes, origins = [], {}
    for probe_name in sorted(name for name in named if name):
        mine = {
            header.kind: header.stream
            for header in headers
            if header.probe == probe_name and header.stream in first
        }
        if "ap" not in mine:
            if not any(fault.probe == probe_name and fault.severity == "blocks" for fault in faults):
                faults.append(_no_ap(probe_name, first.get(mine.get("lf", ""))))
            continue
        ap = streams.get(mine["ap"])
        if ap is None:
            continue
        _check_probe_sync(first[ap.name], ap, n_clocks == 1, faults)
        identity = sglx.probe_identity(first[ap.name].meta)
        probes.append(
            Probe(
                name=probe_name,
                part_number=identity.part_number,
                serial_number=identity.serial_number,
                model=identity.model,
                shanks=sorted({channel.shank for channel in ap.channels}),
                ap=ap,
                lf=streams.get(mine.get("lf", "")),
            )
        )
        origins[probe_name] = _origin(first.get("nidq", first[ap.name]))
    faults += _missing_segments(by_stream, faults) + _different_durations(streams, faults)
    session_header = first.get("nidq") or next((first[name] for name in sorted(first)), None)
    return Findings(
        acquisition="spikeglx",
        headers={"": (None, None) if session_header is None else _origin(session_header), **origins},
        probes=probes,
        nidq=nidq,
        daqs=daqs,
        faults=faults,
    )


def _origin(header: _Header) -> tuple[str | None, str | None]:
    """Program version and start time."""
    return header.meta.values.get("appVersion") or None, sglx.start_time(header.meta)


def _files(raw: Path) -> Iterator[Path]:
    """Headers, data files and zarr folders under raw, folder by folder, in the order of their names.

    Links to folders are followed, no folder is entered twice. Raises ``DataError`` for a folder that may not
    be looked into, ``TemporaryError`` for one that can't be listed now.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise DataError(
                f"{error.filename}: no permission to look into it. Give read access to the raw folder."
            )
        raise TemporaryError(f"{error.filename}: cannot be listed now ({error.strerror})")

    seen = set()
    for folder, subfolders, names in os.walk(raw, onerror=refuse, followlinks=True):
        real, depth = os.path.realpath(folder), len(Path(folder).relative_to(raw).parts)
        zarrs = sorted(name for name in subfolders if name.endswith(".zarr"))
        subfolders[:] = sorted(set(subfolders) - set(zarrs)) if depth < MAX_DEPTH and real not in seen else []
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(names) + zarrs:
            # macOS leaves "._name" companions with binary content on foreign disks
            if name.endswith((".meta", *sglx.DATA_SUFFIXES)) and not name.startswith("."):
                yield Path(folder, name)


def _headers(raw: Path) -> tuple[list[_Header], list[Fault]]:
    """All readable headers of streams under raw, and faults for what has none.

    probe and stream are what the names say; probes without a number are "imec" until they get one.
    """
    paths = list(_files(raw))
    described = {path.with_name(sglx.stem_of(path)) for path in paths if path.suffix == ".meta"}
    headers, faults = [], []
    for path in paths:
        stem = path.with_name(sglx.stem_of(path))
        name = sglx.parse_name(stem.name)
        if path.suffix == ".meta":
            try:
                meta = sglx.read_meta(path, raw)
                name = sglx.stream_name(path, meta)
                kind = sglx.stream_kind(meta)
            except sglx.HeaderError as error:
                faults.append(_unusable(name, error.code, str(error)))
                continue
            family, default = {"nidq": ("nidq", "nidq"), "obx": ("obx", "obx0")}.get(kind, ("imec", "imec"))
            device = name.device if name.device and name.device.startswith(family) else default
            of_probe = family == "imec"
            stream = f"{device}.{kind}" if of_probe else device
            headers.append(_Header(path, meta, name, kind, _probe_name(device) if of_probe else None, stream))
        elif name.device is not None and stem not in described:
            # other programs write .bin files too; only SpikeGLX's names count
            described.add(stem)
            faults.append(
                _unusable(
                    name,
                    "META_MISSING",
                    f"{path.relative_to(raw).as_posix()}: its header {stem.name}.meta was expected beside "
                    "it, there is none. Copy it from the acquisition PC; the data cannot be understood "
                    "without.",
                )
            )
    return headers, faults


def _probe_name(device: str | None) -> str | None:
    """ "imec3" → "probe03"; "imec" (phase 3A, or no number known) → "probe00"; None for what is no probe."""
    if device is None or not device.startswith("imec"):
        return None
    return f"probe{int(device.removeprefix('imec') or 0):02d}"


def _unusable(name: sglx.StreamName, code: str, message: str) -> Fault:
    """Fault of a file of which only the name can be trusted."""
    if name.device == "nidq":
        return Fault(code=code, severity="blocks", message=message, stream="nidq")
    probe = _probe_name(name.device)
    stream = ".".join(part for part in (name.device, name.kind) if part) or None
    blocks = probe is not None and name.kind != "lf"
    return Fault(
        code=code, severity="blocks" if blocks else "warns", message=message, probe=probe, stream=stream
    )


def _number_probes(headers: list[_Header], faults: list[Fault]) -> list[_Header]:
    """Give probes whose files and headers say no number one.

    A probe that a numbered file has too (same slot, port, dock and serial number) takes that number. The
    others take the lowest free ones in the order of slot, port, dock and serial number: SpikeGLX numbers the
    probes of a run in that order, too, but over all that were plugged in: where there are several probes that
    is a warning. The only probe of a session is number 0.
    """
    known = {
        header.identity: header.probe
        for header in headers
        if header.probe is not None and not header.stream.startswith("imec.")
    }
    unknown = sorted(
        {header.identity for header in headers if header.stream.startswith("imec.")} - known.keys()
    )
    taken = set(known.values())
    numbered = dict(known)
    free = (f"probe{number:02d}" for number in range(len(taken) + len(unknown)))
    for identity in unknown:
        numbered[identity] = next(name for name in free if name not in taken)
        if len(taken) + len(unknown) > 1:
            slot, port, dock, serial = identity
            paths = ", ".join(header.meta.name for header in headers if header.identity == identity)
            faults.append(
                Fault(
                    code="PROBE_NUMBER_GUESSED",
                    severity="warns",
                    message=f"{paths}: a probe number (imec0, imec1, …) was expected in the file's name or "
                    f"the header's fileName, there is none. The probe (slot {slot}, port {port}, dock "
                    f"{dock}, serial number {serial}) is called {numbered[identity]}, by the order of slots "
                    "and ports. Rename the files if it had another number.",
                    probe=numbered[identity],
                )
            )
    return [
        header
        if not header.stream.startswith("imec.")
        else replace(
            header,
            probe=numbered[header.identity],
            stream=f"imec{int(numbered[header.identity].removeprefix('probe'))}.{header.kind}",
        )
        for header in headers
    ]


def _segment(header: _Header) -> str | None:
    """Which gate and trigger of its run a file is ("g0_t3"), None where neither name says."""
    name = header.name
    return None if name.gate is None else f"g{name.gate}_t{name.trigger}"


def _fault(item: _Header, code: str, message: str, severity: str | None = None) -> Fault:
    """Fault of a stream: LF and OneBox streams only warn, a NIDQ's fault is the session's."""
    if severity is None:
        severity = "warns" if item.kind in ("lf", "obx") else "blocks"
    return Fault(code=code, severity=severity, message=message, probe=item.probe, stream=item.stream)


def _multiple_runs(runs: list[str], headers: list[_Header]) -> Fault:
    """Runs of different names have nothing in common: each has its own count of samples."""
    examples = ", ".join(
        next(f"{run} ({header.meta.name})" for header in headers if header.name.run == run) for run in runs
    )
    return Fault(
        code="MULTIPLE_RUNS",
        severity="blocks",
        message=f"one run was expected, {len(runs)} were found: {examples}. Give each run a row of its own "
        "in the samplesheet, with raw pointing at its folder; rows with the same value in the column "
        "concatenate are sorted together.",
    )


def _join(items: list[_Header], raw: Path, faults: list[Fault]) -> tuple[Stream | None, _Header]:
    """The stream that all its files make up, and the header of the first; faults are added.

    None where the stream cannot be used at all; one that a fault keeps from being processed is there.
    """
    with_data = [item for item in items if sglx.data_files(item.path)]
    if with_data and any(not item.joined_by_catgt for item in items):
        # CatGT writes a header for every stream that it looked at, a data file only for what it changed.
        items = [item for item in items if item in with_data or not item.joined_by_catgt]
    if len({_segment(item) for item in items if _segment(item)}) < sum(
        _segment(item) is not None for item in items
    ):
        faults.append(_duplicates(items))
        return None, items[0]
    if len({item.joined_by_catgt for item in items}) > 1:
        faults.append(_mixed_with_catgt(items))
        return None, items[0]

    n_before, optional = len(faults), items[0].kind in ("lf", "obx")
    read: list[tuple[_Header, Stream]] = []
    for item in items:
        stream = _read(item, raw, faults)
        if stream is not None:
            read.append((item, stream))
        _check_catgt(item, faults)
    if len(read) < len(items):
        return None, items[0]
    codes = {fault.code for fault in faults[n_before:]}
    if len(read) > 1:
        difference = _difference(read)
        if difference is not None:
            faults.append(difference)
            return None, items[0]
        if any(stream.first_sample is None for _, stream in read):
            faults.append(
                _order_unknown([item for item, stream in read if stream.first_sample is None], items)
            )
            return None, items[0]
        read.sort(key=lambda pair: (pair[1].first_sample, pair[0].meta.name))
        restart = _restart(read)
        if restart is not None:
            faults.append(restart)
            return None, items[0]
        twins = _twins(read)
        if twins:
            faults.append(_duplicates(twins))
            return None, items[0]
    stream = _concatenate(read, faults)
    long_enough = bool(codes & set(BROKEN)) or _check_duration(read[0][0], stream, faults)
    usable = not optional or (codes <= set(HARMLESS) and long_enough)
    return stream if usable else None, read[0][0]


def _read(item: _Header, raw: Path, faults: list[Fault]) -> Stream | None:
    """The stream of one header and its data file, its faults added; None where they cannot be read."""
    try:
        stream = sglx.read_stream(item.path, raw, item.stream)
        expected = sglx.expected_size(item.meta)
        stated = item.meta.positive("fileTimeSecs") if "fileTimeSecs" in item.meta and expected else None
    except sglx.HeaderError as error:
        faults.append(_fault(item, error.code, str(error)))
        return None
    data = sglx.data_files(item.path)
    if len(data) > 1:
        names = ", ".join(path.name for path in data[1:])
        faults.append(
            _fault(
                item,
                "DUPLICATE_DATA",
                f"{stream.files[0].path}: one data file was expected beside {item.path.name}, {names} lies "
                f"there too. {data[0].name} is used; remove what is not needed.",
                severity="warns",
            )
        )
    fault = _data_fault(item, stream, expected)
    if fault is not None:
        faults.append(fault)
    if expected is None:
        faults.append(
            _fault(
                item,
                "META_UNFINISHED",
                f"{item.meta.name}: fileSizeBytes was expected, it is not there: SpikeGLX did not close the "
                "file, it still records or ended in a crash. Wait for its end.",
                severity="warns",
            )
        )
    elif stated is not None:
        row = sglx.BYTES_PER_SAMPLE * stream.n_columns
        seconds = expected / row / stream.sampling_rate_hz
        if abs(seconds - stated) > max(1e-3 * stated, 2 / stream.sampling_rate_hz):
            faults.append(
                _fault(
                    item,
                    "DURATION_MISMATCH",
                    f"{item.meta.name}: fileTimeSecs says {stated:g} s, but fileSizeBytes at "
                    f"{stream.n_columns} channels and {stream.sampling_rate_hz:g} Hz makes {seconds:g} s. "
                    "One of them was changed; all times come from the sampling rate: check it.",
                    severity="warns",
                )
            )
    return stream


def _data_fault(item: _Header, stream: Stream, expected: int | None) -> Fault | None:
    """What is wrong with the data file of a header: its absence, its size. Compressed: of what is inside."""
    data = next((file for file in stream.files if file.role == "data"), None)
    if data is None:
        return _fault(
            item,
            "BIN_MISSING",
            f"{stream.pieces[0].path}: the data file of {item.path.name} was expected beside it, there is "
            "none. Copy it from the acquisition PC.",
        )
    row = sglx.BYTES_PER_SAMPLE * stream.n_columns
    plain = data.path.endswith(".bin")
    size = data.size_bytes if plain else stream.n_samples * row
    found = f"found {size}" if plain else f"found {size} in the compressed file"
    if size == 0:
        return _fault(
            item,
            "EMPTY_FILE",
            f"{data.path}: {expected if expected is not None else 'some'} bytes were expected, it is empty. "
            "Copy it again from the acquisition PC.",
        )
    if expected is not None and size < expected:
        return _fault(
            item,
            "TRUNCATED",
            f"{data.path}: {expected} bytes were expected (fileSizeBytes), {found}: the end is missing. Copy "
            "it again from the acquisition PC.",
        )
    if expected is not None and size > expected:
        return _fault(
            item,
            "SIZE_MISMATCH",
            f"{data.path}: {expected} bytes were expected (fileSizeBytes), {found}: header and data are not "
            "of one recording. Copy both again from the acquisition PC.",
        )
    if size % row:
        return _fault(
            item,
            "PARTIAL_SAMPLE",
            f"{data.path}: a multiple of {row} bytes was expected (2 bytes for each of nSavedChans = "
            f"{stream.n_columns} channels), found {size}. Check that the header belongs to this file.",
        )
    return None


def _check_duration(item: _Header, stream: Stream, faults: list[Fault]) -> bool:
    """Whether a stream is long enough; a fault where it is too short or longer than any recording."""
    seconds = stream.n_samples / stream.sampling_rate_hz
    path = stream.pieces[0].path + (f" and {len(stream.pieces) - 1} more" if len(stream.pieces) > 1 else "")
    if seconds < MIN_SECONDS:
        faults.append(
            _fault(
                item,
                "TOO_SHORT",
                f"{path}: at least {MIN_SECONDS:g} s of recording were expected, found {seconds:.3f} s. "
                "Remove it from the samplesheet if it is a test recording.",
            )
        )
        return False
    span = stream.n_acquired / stream.sampling_rate_hz
    if span > MAX_SECONDS:
        faults.append(
            _fault(
                item,
                "IMPLAUSIBLE_DURATION",
                f"{path}: at most {MAX_SECONDS / 3600:g} h from the first to the last sample were expected, "
                f"found {span / 3600:.1f} h at {stream.sampling_rate_hz:g} Hz. Check the sampling rate, "
                "nSavedChans and firstSample in the header.",
                severity="warns",
            )
        )
    return True


def _duplicates(items: Iterable[_Header]) -> Fault:
    """Several files of one gate and trigger, or with the same samples."""
    items = list(items)
    names = ", ".join(item.meta.name for item in items)
    segment = _segment(items[0])
    return _fault(
        items[0],
        "DUPLICATE_STREAM",
        f"{items[0].stream}: one header {f'of {segment} ' if segment else ''}was expected, several were "
        f"found among {names}. Point the samplesheet's raw column at the folder of one copy.",
    )


def _mixed_with_catgt(items: list[_Header]) -> Fault:
    """Originals and CatGT's output of the same stream: which to use is not for a program to say."""
    processed = ", ".join(item.meta.name for item in items if item.joined_by_catgt)
    originals = ", ".join(item.meta.name for item in items if not item.joined_by_catgt)
    return _fault(
        items[0],
        "DUPLICATE_STREAM",
        f"{items[0].stream}: the original recording or CatGT's output of it was expected, both were found: "
        f"{originals} and {processed}. Point the samplesheet's raw column at a folder with one of them (best "
        "the original; a folder of links will do).",
    )


def _difference(read: list[tuple[_Header, Stream]]) -> Fault | None:
    """The first key in which a stream's files contradict each other, None where they agree."""
    first, stream = read[0]
    fields = {"sampling_rate_hz", "n_columns", "channels", "analog", "digital", "sync_column", "sync_bit"}
    shape = stream.model_dump(include=fields)
    for other, its in read[1:]:
        keys = [
            key for key in COMMON_KEYS if first.meta.values.get(key, "") != other.meta.values.get(key, "")
        ]
        always = [key for key in keys if key in ("imDatPrb_sn", "imProbeSN", "imDatPrb_pn", "imroTbl")]
        if its.model_dump(include=fields) == shape and not always:
            continue
        key = (always + keys + ["the channels"])[0]
        values = [item.meta.values.get(key, "nothing") for item in (first, other)]
        if max(map(len, values)) > 60:
            values = ["one table", "another"]
        return _fault(
            first,
            "SEGMENTS_DIFFER",
            f"{other.meta.name}: {key} of {first.meta.name} ({values[0]}) was expected in all files of "
            f"{first.stream}, found {values[1]}. They are no recording of one probe with one setting: give "
            "each its own folder and samplesheet row.",
        )
    return None


def _order_unknown(nameless: list[_Header], items: list[_Header]) -> Fault:
    names = ", ".join(item.meta.name for item in nameless)
    return _fault(
        items[0],
        "ORDER_UNKNOWN",
        f"{names}: firstSample was expected, which says where each of the {len(items)} files of "
        f"{items[0].stream} lies in time, it is not there. Restore the .meta file as SpikeGLX wrote it.",
    )


def _restart(read: list[tuple[_Header, Stream]]) -> Fault | None:
    """Whether the count of samples began anew between two files, as it does when the run is stopped.

    SpikeGLX goes on with the next gate where a stopped run's name is used again. The times at which the
    headers say that the files were created then do not fit firstSample. read is in the order of firstSample.
    """
    for (item, stream), (other, its) in zip(read, read[1:], strict=False):
        try:
            created = [datetime.fromisoformat(sglx.start_time(header.meta) or "") for header in (item, other)]
            elapsed = (created[1] - created[0]).total_seconds()
        except (ValueError, TypeError):
            continue
        counted = (its.first_sample - stream.first_sample) / stream.sampling_rate_hz
        difference = abs(elapsed - counted)
        # local time: clocks are put forward or back by an hour
        if min(difference, abs(difference - 3600)) > MAX_CREATED_S + MAX_DIFFERENCE * abs(counted):
            return _fault(
                item,
                "RUN_RESTARTED",
                f"{other.meta.name}: firstSample puts it {counted:.0f} s after {item.meta.name}, by "
                f"fileCreateTime it is {elapsed:.0f} s: the run was stopped between them, and samples were "
                "counted anew. Give each part its own folder and samplesheet row; rows with the same value "
                "in the column concatenate are sorted together.",
            )
    return None


def _twins(read: list[tuple[_Header, Stream]]) -> list[_Header]:
    """Two files that hold the same samples; read is in the order of time."""
    for (item, stream), (other, its) in zip(read, read[1:], strict=False):
        if (stream.first_sample, stream.n_samples) == (its.first_sample, its.n_samples):
            return [item, other]
    return []


def _concatenate(read: list[tuple[_Header, Stream]], faults: list[Fault]) -> Stream:
    """One stream of the files of ``read``, which are in the order of time; gaps and overlaps become faults.

    Samples that two files hold are taken from the earlier one, as in CatGT.
    """
    item, first = read[0]
    gaps, overlaps, pieces, files = [], [], [], []
    end = None
    for _, stream in read:
        (piece,) = stream.pieces
        skip = 0
        if end is not None and piece.first_sample > end:
            gaps.append((piece.first_sample - end, pieces[-1].path, piece.path))
        elif end is not None and piece.first_sample < end:
            skip = min(end - piece.first_sample, piece.n_samples)
            overlaps.append((skip, pieces[-1].path, piece.path))
        if skip < piece.n_samples or not skip:
            files += stream.files
            pieces.append(
                Piece(
                    path=piece.path,
                    first_row=skip,
                    n_samples=piece.n_samples - skip,
                    first_sample=None if piece.first_sample is None else piece.first_sample + skip,
                )
            )
        if piece.first_sample is not None:
            end = max(end or 0, piece.first_sample + piece.n_samples)
    rate = first.sampling_rate_hz

    def listed(joints: list[tuple[int, str, str]], word: str) -> str:
        text = "; ".join(
            f"{_count(n, 'sample')} ({n / rate:.4g} s) {word} {Path(before).name} and {Path(after).name}"
            for n, before, after in joints[:LISTED]
        )
        return text + (f"; and {len(joints) - LISTED} more" if len(joints) > LISTED else "")

    if gaps:
        faults.append(
            _fault(
                item,
                "GAP",
                f"{first.name}: files that follow each other were expected, found "
                f"{_count(len(gaps), 'gap')}: {listed(gaps, 'between')}. Nothing is filled in or closed up: "
                "spike times keep the gaps.",
                severity="warns",
            )
        )
    if overlaps:
        dropped = [Path(stream.pieces[0].path).name for _, stream in read if stream.files[0] not in files]
        whole = f" Nothing is left of {_few(dropped)}." if dropped else ""
        faults.append(
            _fault(
                item,
                "OVERLAP",
                f"{first.name}: files that follow each other were expected, found "
                f"{_count(len(overlaps), 'overlap')}: {listed(overlaps, 'both in')}. Each sample is used "
                f"once, from the earlier file.{whole}",
                severity="warns",
            )
        )
    return first.model_copy(
        update={
            "files": files,
            "pieces": pieces,
            "n_samples": sum(piece.n_samples for piece in pieces),
        }
    )


def _missing_segments(by_stream: dict[str, list[_Header]], faults: list[Fault]) -> list[Fault]:
    """Streams that lack a gate or trigger which another stream of the run has; not where a header is bad."""
    bad = {fault.stream for fault in faults if fault.code in ("META_MISSING", "META_UNREADABLE")}
    segments = {
        name: {_segment(item) for item in items}
        for name, items in by_stream.items()
        if name not in bad and not any(item.joined_by_catgt or _segment(item) is None for item in items)
    }
    everything = sorted(set().union(*segments.values())) if segments else []
    missed = []
    for name, own in sorted(segments.items()):
        missing = [segment for segment in everything if segment not in own]
        if missing:
            other = next(other for other in sorted(segments) if missing[0] in segments[other])
            missed.append(
                _fault(
                    by_stream[name][0],
                    "SEGMENT_MISSING",
                    f"{name}: {_few(missing)} was expected as in {other}, it is not there. Copy it from the "
                    "acquisition PC; without it this stream has a gap there.",
                    severity="warns",
                )
            )
    return missed


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _few(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _different_durations(streams: dict[str, Stream], faults: list[Fault]) -> list[Fault]:
    """A warning where a stream is much shorter than the others though its files are as their headers say."""
    known = {fault.stream for fault in faults if fault.code in ("SEGMENT_MISSING", "TOO_SHORT", *BROKEN)}
    spans = {
        name: stream.n_acquired / stream.sampling_rate_hz
        for name, stream in streams.items()
        if name not in known and stream.n_samples
    }
    if not spans:
        return []
    shortest, longest = min(spans.values()), max(spans.values())
    if longest - shortest <= max(MAX_DIFFERENCE_S, MAX_DIFFERENCE * longest):
        return []
    listed = ", ".join(
        f"{name} {span:.1f} s" for name, span in sorted(spans.items(), key=lambda pair: -pair[1])
    )
    return [
        Fault(
            code="DURATIONS_DIFFER",
            severity="warns",
            message=f"streams of one length were expected, as SpikeGLX stops them together, found {listed}. "
            "Check that all files are of one run and were copied whole.",
        )
    ]


def _no_ap(probe: str, lf: _Header | None) -> Fault:
    where = "" if lf is None else f"{lf.meta.name}: "
    return Fault(
        code="AP_MISSING",
        severity="blocks",
        message=f"{where}the AP stream of {probe} was expected beside its LF stream, there is none. Copy its "
        ".ap.bin and .ap.meta from the acquisition PC.",
        probe=probe,
    )


def _check_nidq_sync(item: _Header, nidq: Stream, faults: list[Fault]) -> None:
    """Warn where the NIDQ's header does not lead to a sync wave; its wiring may still have one."""
    if item.meta.values.get("syncSourceIdx") == "0":
        faults.append(
            _fault(
                item,
                "SYNC_SOURCE_NONE",
                f"{item.meta.name}: a source of the sync wave was expected, SpikeGLX's sync tab was set to "
                "None. Streams can be aligned only if a square wave was wired to all of them.",
                severity="warns",
            )
        )
    if nidq.sync_column is None:
        faults.append(
            _fault(
                item,
                "SYNC_MISSING",
                f"{item.meta.name}: the line of the sync wave (syncNiChan) was expected among the saved "
                "ones, it is not there. Streams can be aligned only if another saved line carries it.",
                severity="warns",
            )
        )


def _check_obx_sync(item: _Header, obx: Stream, faults: list[Fault]) -> None:
    """Without its SY word a OneBox's events stay on its own clock."""
    if obx.sync_column is None:
        faults.append(
            _fault(
                item,
                "SYNC_MISSING",
                f"{item.meta.name}: the sync word (SY) was expected among the saved channels, it was not "
                "saved: the OneBox's events cannot be put on the session's clock.",
            )
        )


def _check_probe_sync(item: _Header, ap: Stream, alone: bool, faults: list[Fault]) -> None:
    """Without the SY word the probe's spikes cannot be put on the clock of the other streams, if any."""
    if ap.sync_column is not None:
        return
    consequence = (
        "its spike times stay on its own clock"
        if alone
        else "its spike times cannot be put on the session's clock. Record with the SY channel saved"
    )
    faults.append(
        _fault(
            item,
            "SYNC_MISSING",
            f"{item.meta.name}: the sync word (SY) was expected among the saved channels, it was not saved: "
            f"{consequence}.",
            severity="warns" if alone else "blocks",
        )
    )


def _check_catgt(item: _Header, faults: list[Fault]) -> None:
    """CatGT's output: usable where it keeps the recording's time.

    Files of one run are joined with zeros in the gaps, which keeps it. With -zerofillmax longer gaps are
    shortened, and -supercat puts runs end to end; how much time is gone where can't be known from the output
    (the offsets beside it, *_ct_offsets.txt, are those in the output). Source: CatGT's manual.
    """
    commands = [value for key, value in item.meta.values.items() if key.startswith("catGTCmdline")]
    if not commands and item.name.trigger != "cat":
        return
    files = item.meta.values.get("catNFiles", "1")
    options = " ".join(commands)
    shortened = re.search(r"-zerofillmax=\S*", options) if files != "1" else None
    if shortened or "-supercat" in options or "catNRuns" in item.meta:
        how = (
            f"joined {files} files with {shortened[0].rstrip('>')}, which shortens the gaps between them"
            if shortened
            else "put several runs end to end (-supercat)"
        )
        faults.append(
            _fault(
                item,
                "CATGT_GAPS_CLOSED",
                f"{item.meta.name}: a recording that keeps its time was expected, CatGT {how}: times after "
                "the first are wrong, and streams can't be aligned. Use the original recordings (runs in "
                "rows of their own with the same value in the column concatenate are sorted together), or "
                "run CatGT without that option.",
            )
        )
    elif item.kind != "ap":
        return
    elif files != "1":
        faults.append(
            _fault(
                item,
                "CATGT_JOINED",
                f"{item.meta.name}: the original recordings were expected, CatGT joined {files} files into "
                "this one: gaps between them are filled with zeros, its filters are in the data. Use the "
                "original recordings if they still exist.",
                severity="warns",
            )
        )
    else:
        faults.append(
            _fault(
                item,
                "CATGT_PROCESSED",
                f"{item.meta.name}: the original recording was expected, this is CatGT's output: its filters "
                "are in the data, and its channels are taken as aligned in time unless -no_tshift was "
                "given. Use the original recording if it still exists.",
                severity="warns",
            )
        )
