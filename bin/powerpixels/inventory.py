"""INSPECT: what a session's raw folder holds, from headers and file sizes, then a sparse look at the data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from powerpixels import openephys, sglx_layout
from powerpixels.documents import (
    Fault,
    Findings,
    Inventory,
    Probe,
    ProbeDocument,
    Session,
    Stream,
    StreamDocument,
)
from powerpixels.stage import DataError

# Folders below raw that are looked through for what else is there.
MAX_DEPTH = 5

# What files say of a folder in which there is no recording that can be read, by the end of their names.
FOREIGN = {
    ".rhd": "Intan",
    ".rhs": "Intan",
    ".nwb": "NWB",
    ".continuous": "Open Ephys' old format",
    ".kwd": "Open Ephys' Kwik format",
    "continuous.dat": "Open Ephys data without their structure.oebin",
    ".dat": "raw data without a header",
    ".meta": "headers of another program",
    ".bin": "raw data without a header",
    ".cbin": "compressed data without a header",
    ".ns6": "Blackrock",
    ".plx": "Plexon",
    ".smr": "Spike2",
}

# Blocking faults that do not speak against a stream's data file: a copy of it can still be made.
READABLE = ("SYNC_MISSING", "SYNC_NO_EDGES", "TOO_SHORT")


@dataclass(frozen=True)
class InspectedSession:
    """A session's inventory and the Session record of each of its probes' documents.

    sessions: by probe name. A probe's record is taken from the NIDQ's header, the reference clock,
    or where there is none from its own, so that it does not depend on any other probe.
    """

    inventory: Inventory
    sessions: dict[str, Session]


def inspect_session(
    raw: Path, subject: str, session: str, look_at_data: bool = True, raw_name: str | None = None
) -> Inventory:
    """Find the streams of the recording under ``raw`` and everything that is wrong with them.

    raw: the folder of a SpikeGLX run or an Open Ephys recording, or a folder around it. look_at_data:
    whether samples are looked at after the headers passed (False: headers and file sizes only). raw_name:
    what messages call the folder, by default ``raw`` itself. Nothing is written. What is wrong becomes a
    fault of the probe or, with probe None, of the session; one probe's fault never hides another probe.
    Probes whose header could be read are listed even where a fault blocks them, in the order of their names.
    Raises ``DataError`` where ``raw`` is not a folder.
    """
    return inspect_documents(raw, subject, session, look_at_data, raw_name).inventory


def inspect_documents(
    raw: Path, subject: str, session: str, look_at_data: bool = True, raw_name: str | None = None
) -> InspectedSession:
    """As ``inspect_session``, with the Session record that belongs in each probe's document."""
    raw, raw_name = Path(raw), str(raw) if raw_name is None else raw_name
    if not raw.is_dir():
        raise DataError(
            f"{raw_name}: the folder of a SpikeGLX or Open Ephys recording was expected, it is not a folder. "
            "Check the samplesheet."
        )
    findings = _find(raw, raw_name)
    faults = list(findings.faults)
    if look_at_data:
        from powerpixels import checks

        faults += checks.check_findings(findings, raw)
    if not probe_names(findings.probes, faults) and blocking_message(faults, None) is None:
        faults.append(
            Fault(
                code="NO_PROBE",
                severity="blocks",
                message=f"{raw_name}: the AP stream of at least one probe was expected, there is none "
                "that can be read. Point the samplesheet's raw column at the folder that holds the probes.",
            )
        )

    def record(name: str) -> Session:
        version, start_time = findings.headers[name]
        return Session(
            subject=subject,
            session=session,
            acquisition=findings.acquisition,
            acquisition_version=version,
            start_time=start_time,
        )

    inventory = Inventory(
        session=record(""),
        probes=findings.probes,
        nidq=findings.nidq,
        daqs=findings.daqs,
        faults=sorted(
            faults, key=lambda fault: (fault.probe or "", fault.stream or "", fault.code, fault.message)
        ),
    )
    return InspectedSession(inventory, {probe.name: record(probe.name) for probe in findings.probes})


def _find(raw: Path, raw_name: str) -> Findings:
    """What the headers say, by the program that wrote them."""
    is_sglx, is_openephys = sglx_layout.is_spikeglx(raw), openephys.is_openephys(raw)
    if is_sglx and not is_openephys:
        return sglx_layout.find(raw)
    if is_openephys and not is_sglx:
        return openephys.find(raw)
    if is_sglx:
        code = "MIXED_ACQUISITIONS"
        message = (
            f"{raw_name}: a recording of one program was expected, found SpikeGLX files and an Open Ephys "
            "recording. Give each its own row, with raw pointing at its own folder."
        )
    else:
        code = "NO_RECORDING"
        message = (
            f"{raw_name}: a SpikeGLX run (.ap.bin, .ap.cbin or .ap.zarr with .ap.meta, at most "
            f"{sglx_layout.MAX_DEPTH} folders deep) or an Open Ephys recording (structure.oebin) was "
            f"expected, {_foreign(raw)}. Point the samplesheet's raw column at the folder of the recording."
        )
    return Findings(
        acquisition="openephys" if is_openephys and not is_sglx else "spikeglx",
        headers={"": (None, None)},
        probes=[],
        nidq=None,
        daqs=[],
        faults=[Fault(code=code, severity="blocks", message=message)],
    )


def _foreign(raw: Path) -> str:
    """In words, what a folder without a recording holds."""
    counts: Counter[str] = Counter()
    n_files = 0
    for name in _names(raw):
        n_files += 1
        end = next((end for end in FOREIGN if name.lower().endswith(end)), None)
        if end is not None:
            counts[end] += 1
    if counts:
        listed = ", ".join(f"{n} {end} ({FOREIGN[end]})" for end, n in counts.most_common(3))
        return f"found {listed}, which can't be read"
    return f"found {n_files} files of other kinds" if n_files else "the folder is empty"


def _names(raw: Path) -> Iterator[str]:
    """Names of the files at most MAX_DEPTH folders below raw."""
    for folder, subfolders, names in os.walk(raw):
        if len(Path(folder).relative_to(raw).parts) >= MAX_DEPTH:
            subfolders.clear()
        yield from names


def probe_names(probes: list[Probe], faults: list[Fault]) -> list[str]:
    """Names of all probes that are listed or that a fault names, sorted."""
    return sorted({probe.name for probe in probes} | {fault.probe for fault in faults if fault.probe})


def blocking_message(faults: list[Fault], probe: str | None) -> str | None:
    """What keeps ``probe`` (None: the session) from being processed, in one line; None if nothing does."""
    messages = [
        f"{fault.code}: {fault.message}"
        for fault in faults
        if fault.severity == "blocks" and fault.probe == probe
    ]
    return " ".join(messages) or None


def _streams(inventory: Inventory) -> list[tuple[Probe | None, Stream]]:
    """All streams of a session with their probes: AP and LF probe by probe, then the DAQ streams."""
    streams: list[tuple[Probe | None, Stream]] = []
    for probe in inventory.probes:
        streams += [(probe, stream) for stream in (probe.ap, probe.lf) if stream is not None]
    return streams + [(None, stream) for stream in (inventory.nidq, *inventory.daqs) if stream is not None]


def _readable(inventory: Inventory) -> list[tuple[Probe | None, Stream]]:
    """The streams whose samples can be read and are worth a copy."""
    broken = {
        fault.stream
        for fault in inventory.faults
        if fault.stream is not None and fault.severity == "blocks" and fault.code not in READABLE
    }
    return [(probe, stream) for probe, stream in _streams(inventory) if stream.name not in broken]


def head_document(inventory: Inventory) -> dict:
    """probes.json: the little that the pipeline's head reads to scatter a session.

    ``{"session_blocked": text or null, "reference": stream's name or null, "probes": [{"probe",
    "shanks", "serial", "files", "blocked"}], "daqs": [{"stream", "files"}], "streams": [{"stream",
    "probe", "files"}]}``. files are all files of the stream (of a probe: of its AP stream) in the
    document's order, paths relative to the raw folder. reference is "nidq" where the session has that
    stream; null: its first sound probe is the reference. daqs: the DAQ streams, the reference first.
    streams: every stream that can be read, probe "" for a DAQ stream. A probe that could not be read has
    no shanks and no files and says why in ``blocked``, as does every probe of a blocked session.
    """
    session_blocked = blocking_message(inventory.faults, None)
    listed = {probe.name: probe for probe in inventory.probes}

    def paths(stream: Stream) -> list[str]:
        return [file.path for file in stream.files]

    probes = []
    for name in probe_names(inventory.probes, inventory.faults):
        probe = listed.get(name)
        probes.append(
            {
                "probe": name,
                "shanks": [] if probe is None else probe.shanks,
                "serial": None if probe is None else probe.serial_number,
                "files": [] if probe is None else paths(probe.ap),
                "blocked": blocking_message(inventory.faults, name) or session_blocked,
            }
        )
    readable = _readable(inventory)
    return {
        "session_blocked": session_blocked,
        "reference": None if inventory.nidq is None else inventory.nidq.name,
        "probes": probes,
        "daqs": [
            {"stream": stream.name, "files": paths(stream)} for probe, stream in readable if probe is None
        ],
        "streams": [
            {"stream": stream.name, "probe": "" if probe is None else probe.name, "files": paths(stream)}
            for probe, stream in readable
        ],
    }


def probes_description(inventory: Inventory) -> list[dict]:
    """ALF's probes.description.json: the probes that could be read, with the keys that ibllib gives them.

    ``{"label": probe's name, "model", "serial", "raw_file_name"}``, the first data file of its AP band by
    its path in the raw folder; model and serial null where the recording does not say them.
    """
    return [
        {
            "label": probe.name,
            "model": probe.model,
            "serial": int(probe.serial_number)
            if (probe.serial_number or "").isdigit()
            else probe.serial_number,
            "raw_file_name": next(file.path for file in probe.ap.files if file.role == "data"),
        }
        for probe in inventory.probes
    ]


def stage_documents(inspected: InspectedSession) -> dict[str, ProbeDocument | StreamDocument]:
    """The documents of the stages that follow, by file name.

    "<probe>.json" for each listed probe, "<stream>.json" (nidq.json, imec0.ap.json, …) for each stream
    that can be read.
    """
    inventory = inspected.inventory
    documents: dict[str, ProbeDocument | StreamDocument] = {
        f"{probe.name}.json": ProbeDocument(session=inspected.sessions[probe.name], probe=probe)
        for probe in inventory.probes
    }
    for probe, stream in _readable(inventory):
        session = inventory.session if probe is None else inspected.sessions[probe.name]
        documents[f"{stream.name}.json"] = StreamDocument(session=session, stream=stream)
    return documents


def describe(inventory: Inventory) -> str:
    """A text table of an inventory for people: streams with their durations, then the faults."""
    session = inventory.session
    program = {"spikeglx": "SpikeGLX", "openephys": "Open Ephys"}[session.acquisition]
    lines = [
        f"{session.subject} {session.session}: {program} {session.acquisition_version or '?'}, "
        f"started {session.start_time or '?'}"
    ]
    heads = (
        "probe",
        "stream",
        "model",
        "serial",
        "shanks",
        "channels",
        "rate Hz",
        "duration s",
        "pieces",
        "format",
        "sync",
        "",
    )
    rows = [heads]
    for probe, stream in _streams(inventory):
        blocked = blocking_message(inventory.faults, None if probe is None else probe.name)
        rows.append(
            (
                "-" if probe is None else probe.name,
                stream.name,
                "-" if probe is None else probe.model or "?",
                "-" if probe is None else probe.serial_number or "?",
                "-" if probe is None else ",".join(map(str, probe.shanks)),
                _lines(stream) if probe is None else str(len(stream.channels)),
                f"{stream.sampling_rate_hz:g}",
                _seconds(stream),
                _pieces(stream),
                _format(stream),
                _sync(stream),
                "BLOCKED" if blocked else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for fault in inventory.faults:
        where = " ".join(part for part in (fault.probe, fault.stream) if part) or "session"
        lines.append(f"{fault.severity.upper()} {where} {fault.code}: {fault.message}")
    return "\n".join(lines)


def _seconds(stream: Stream) -> str:
    """How long the stream's samples take, gaps not counted."""
    seconds = stream.n_samples / stream.sampling_rate_hz
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.3f}"


def _lines(stream: Stream) -> str:
    """How many lines of each kind a DAQ stream has."""
    counts = {
        "analog": len(stream.analog),
        "digital": len(stream.digital),
        "TTL": len(stream.ttl),
    }
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "none"


def _pieces(stream: Stream) -> str:
    """ "1", or the number of pieces and what is missing between them."""
    if len(stream.pieces) < 2:
        return str(len(stream.pieces))
    text, n_gaps = f"{len(stream.pieces)} pieces", len(stream.blocks()) - 1
    if n_gaps:
        seconds = (stream.n_acquired - stream.n_samples) / stream.sampling_rate_hz
        text += f", {n_gaps} gap{'s' if n_gaps > 1 else ''} ({seconds:.1f} s)"
    return text


def _format(stream: Stream) -> str:
    """The data files' suffixes."""
    suffixes = {Path(file.path).suffix.removeprefix(".") for file in stream.files if file.role == "data"}
    return "+".join(sorted(suffixes)) or "none"


def _sync(stream: Stream) -> str:
    """Where the sync wave is."""
    if stream.sync_line is not None:
        return f"line {stream.sync_line}"
    if stream.sync_column is None:
        return "none"
    return f"column {stream.sync_column}" + ("" if stream.sync_bit is None else f" bit {stream.sync_bit}")
