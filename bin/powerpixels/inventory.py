"""INSPECT: what a session's raw folder holds, from its headers and file sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from powerpixels import sglx
from powerpixels.documents import Fault, Inventory, NidqDocument, Probe, ProbeDocument, Session, Stream
from powerpixels.stage import DataError

# SpikeGLX nests at most <run>_g0/<run>_g0_imec0/; raw may be that run's folder or its parent.
DEPTHS = ("*", "*/*", "*/*/*")

# Shorter than this no sync wave (1 Hz) has an edge that could be matched.
MIN_SECONDS = 1.0


@dataclass(frozen=True)
class _Found:
    """A readable header, and what it is a stream of."""

    path: Path
    meta: sglx.SglxMeta
    name: sglx.StreamName
    kind: str
    probe: str | None

    @property
    def stream(self) -> str:
        device = self.name.device or ("nidq" if self.kind == "nidq" else "imec")
        return device if self.kind == "nidq" else f"{device}.{self.kind}"


@dataclass(frozen=True)
class InspectedSession:
    """A session's inventory and the Session record of each of its probes' documents.

    sessions: by probe name. A probe's record is taken from the NIDQ's header, the reference clock,
    or where there is none from its own, so that it does not depend on any other probe.
    """

    inventory: Inventory
    sessions: dict[str, Session]


def inspect_session(raw: Path, subject: str, session: str) -> Inventory:
    """Find the SpikeGLX streams under ``raw`` and everything that is wrong with them.

    raw: the folder of a run (``<run>_g0``, with or without a folder per probe) or its parent.
    Nothing is written and no sample is read. What is wrong becomes a fault of the probe or, with
    probe None, of the session; one probe's fault never hides another probe. Probes whose header
    could be read are listed even where a fault blocks them, in the order of their names.
    Raises ``DataError`` where ``raw`` is not a folder.
    """
    return inspect_documents(raw, subject, session).inventory


def inspect_documents(raw: Path, subject: str, session: str) -> InspectedSession:
    """As ``inspect_session``, with the Session record that belongs in each probe's document."""
    raw = Path(raw)
    if not raw.is_dir():
        raise DataError(
            f"{raw}: the folder of a SpikeGLX run was expected, it is not a folder. Check the samplesheet."
        )
    found, faults = _find(raw)
    if not found and not faults:
        faults.append(
            Fault(
                code="NO_SPIKEGLX_FILES",
                severity="blocks",
                message=f"{raw.name or raw}: SpikeGLX files (.ap.bin with .ap.meta, up to two folders deep) "
                "were expected, none were found. Point the samplesheet's raw column at the run's folder.",
            )
        )
    segments = sorted({_segment(item) for item in found if item.name.gate is not None})
    if len(segments) > 1:
        faults.append(_several_segments(segments))
        found = []

    nidq_found, nidq = None, None
    probes: list[Probe] = []
    by_stream: dict[tuple[str, str], list[_Found]] = {}
    for item in found:
        by_stream.setdefault((item.probe or "", item.kind), []).append(item)
    kept = {}
    for key, items in sorted(by_stream.items()):
        if len(items) > 1:
            faults.append(_duplicates(items))
        else:
            kept[key] = items[0]
    if ("", "nidq") in kept:
        nidq_found = kept["", "nidq"]
        nidq = _read(nidq_found, raw, faults)
        if nidq is not None:
            _check_nidq_sync(nidq_found, nidq, faults)
    has_nidq = any(item.kind == "nidq" for item in found) or any(fault.stream == "nidq" for fault in faults)
    sessions = {}
    named = {item.probe for item in found} | {fault.probe for fault in faults if len(segments) < 2}
    for probe_name in sorted(name for name in named if name):
        ap_found, lf_found = kept.get((probe_name, "ap")), kept.get((probe_name, "lf"))
        if ap_found is None:
            if not any(fault.probe == probe_name and fault.severity == "blocks" for fault in faults):
                faults.append(_no_ap(probe_name, lf_found))
            continue
        ap = _read(ap_found, raw, faults)
        if ap is None:
            continue
        lf = None if lf_found is None else _read(lf_found, raw, faults)
        alone = not has_nidq and sum(kind == "ap" for _, kind in by_stream) == 1
        _check_probe_sync(ap_found, ap, alone, faults)
        _check_catgt(ap_found, faults)
        identity = sglx.probe_identity(ap_found.meta)
        probes.append(
            Probe(
                name=probe_name,
                part_number=identity.part_number,
                serial_number=identity.serial_number,
                model=identity.model,
                shanks=sorted({channel.shank for channel in ap.channels}),
                ap=ap,
                lf=lf,
            )
        )
        sessions[probe_name] = _session(subject, session, nidq_found or ap_found)
    if not probe_names(probes, faults) and blocking_message(faults, None) is None:
        faults.append(
            Fault(
                code="NO_PROBE",
                severity="blocks",
                message=f"{raw.name or raw}: the AP stream of at least one probe was expected, there is none "
                "that can be read. Point the samplesheet's raw column at the folder that holds the probes.",
            )
        )
    header = nidq_found or next((kept[key] for key in sorted(kept)), None)
    inventory = Inventory(
        session=_session(subject, session, header),
        probes=probes,
        nidq=nidq,
        faults=sorted(
            faults, key=lambda fault: (fault.probe or "", fault.stream or "", fault.code, fault.message)
        ),
    )
    return InspectedSession(inventory, sessions)


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


def head_document(inventory: Inventory) -> dict:
    """probes.json: the little that the pipeline's head reads to scatter a session.

    ``{"session_blocked": text or null, "nidq": [paths] or null, "probes": [{"probe", "shanks",
    "files", "blocked"}]}``; files are those of the AP stream, paths relative to the raw folder. A probe that
    could not be read has no shanks and no files and says why in ``blocked``, as does every probe of a
    blocked session.
    """
    session_blocked = blocking_message(inventory.faults, None)
    listed = {probe.name: probe for probe in inventory.probes}
    probes = []
    for name in probe_names(inventory.probes, inventory.faults):
        probe = listed.get(name)
        probes.append(
            {
                "probe": name,
                "shanks": [] if probe is None else probe.shanks,
                "files": [] if probe is None else [file.path for file in probe.ap.files],
                "blocked": blocking_message(inventory.faults, name) or session_blocked,
            }
        )
    nidq = None if inventory.nidq is None else [file.path for file in inventory.nidq.files]
    return {"session_blocked": session_blocked, "nidq": nidq, "probes": probes}


def stage_documents(inspected: InspectedSession) -> dict[str, ProbeDocument | NidqDocument]:
    """The documents of the stages that follow, by file name: one per listed probe, nidq.json if any."""
    inventory = inspected.inventory
    documents: dict[str, ProbeDocument | NidqDocument] = {
        f"{probe.name}.json": ProbeDocument(session=inspected.sessions[probe.name], probe=probe)
        for probe in inventory.probes
    }
    if inventory.nidq is not None:
        documents["nidq.json"] = NidqDocument(session=inventory.session, stream=inventory.nidq)
    return documents


def describe(inventory: Inventory) -> str:
    """A text table of an inventory for people: streams with their durations, then the faults."""
    session = inventory.session
    lines = [
        f"{session.subject} {session.session}: SpikeGLX {session.acquisition_version or '?'}, "
        f"started {session.start_time or '?'}"
    ]
    rows = [("probe", "stream", "model", "serial", "shanks", "channels", "rate Hz", "duration s", "sync", "")]
    streams: list[tuple[Probe | None, Stream]] = []
    for probe in inventory.probes:
        streams += [(probe, stream) for stream in (probe.ap, probe.lf) if stream is not None]
    if inventory.nidq is not None:
        streams.append((None, inventory.nidq))
    for probe, stream in streams:
        blocked = blocking_message(inventory.faults, None if probe is None else probe.name)
        if probe is None:
            channels = f"{len(stream.analog)} analog, {len(stream.digital)} digital"
        else:
            channels = str(len(stream.channels))
        if stream.sync_column is None:
            sync = "none"
        else:
            sync = f"column {stream.sync_column}" + (
                "" if stream.sync_bit is None else f" bit {stream.sync_bit}"
            )
        rows.append(
            (
                "-" if probe is None else probe.name,
                stream.name,
                "-" if probe is None else probe.model or "?",
                "-" if probe is None else probe.serial_number or "?",
                "-" if probe is None else ",".join(map(str, probe.shanks)),
                channels,
                f"{stream.sampling_rate_hz:g}",
                f"{stream.n_samples / stream.sampling_rate_hz:.1f}",
                sync,
                "BLOCKED" if blocked else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for fault in inventory.faults:
        where = " ".join(part for part in (fault.probe, fault.stream) if part) or "session"
        lines.append(f"{fault.severity.upper()} {where} {fault.code}: {fault.message}")
    return "\n".join(lines)


def _session(subject: str, session: str, header: _Found | None) -> Session:
    return Session(
        subject=subject,
        session=session,
        acquisition="spikeglx",
        acquisition_version=None if header is None else header.meta.values.get("appVersion") or None,
        start_time=None if header is None else sglx.start_time(header.meta),
    )


def _probe_name(device: str | None) -> str | None:
    """ "imec3" → "probe03"; phase 3A's "imec" → "probe00"; None for what is no probe."""
    if device is None or not device.startswith("imec"):
        return None
    return f"probe{int(device.removeprefix('imec') or 0):02d}"


def _find(raw: Path) -> tuple[list[_Found], list[Fault]]:
    """All readable headers of streams under raw, and faults for what has none."""
    paths = sorted(
        path
        for depth in DEPTHS
        for path in raw.glob(depth)
        # macOS leaves "._name" companions with binary content on foreign disks
        if path.suffix in (".meta", ".bin", ".cbin") and not path.name.startswith(".") and path.is_file()
    )
    found, faults = [], []
    for path in paths:
        relative = path.relative_to(raw).as_posix()
        name = sglx.parse_name(path.stem)
        if path.suffix == ".meta":
            try:
                meta = sglx.read_meta(path, raw)
                name = sglx.stream_name(path, meta)
                kind = sglx.stream_kind(meta)
            except sglx.HeaderError as error:
                faults.append(_unusable(name, error.code, str(error)))
                continue
            probe = None if kind == "nidq" else _probe_name(name.device or "imec")
            found.append(_Found(path, meta, name, kind, probe))
        elif name.device is not None and not path.with_suffix(".meta").exists():
            # other programs write .bin files too; only SpikeGLX's names count
            faults.append(
                _unusable(
                    name,
                    "META_MISSING",
                    f"{relative}: its header {path.stem}.meta was expected beside it, there is none. Copy it "
                    "from the acquisition PC; the data cannot be understood without.",
                )
            )
    return found, faults


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


def _fault(item: _Found, code: str, message: str, severity: str | None = None) -> Fault:
    """Fault of a stream: LF streams only warn, a NIDQ's fault is the session's."""
    if severity is None:
        severity = "warns" if item.kind == "lf" else "blocks"
    return Fault(code=code, severity=severity, message=message, probe=item.probe, stream=item.stream)


def _segment(item: _Found) -> tuple[str, int, str]:
    return (item.name.run or "", item.name.gate or 0, item.name.trigger or "")


def _several_segments(segments: list[tuple[str, int, str]]) -> Fault:
    names = ", ".join(f"{run}_g{gate}_t{trigger}" for run, gate, trigger in segments)
    return Fault(
        code="MULTIPLE_SEGMENTS",
        severity="blocks",
        message=f"one run with one gate and one trigger was expected, {len(segments)} were found: {names}. "
        "Several in one session are not supported yet: give each its own folder and samplesheet row.",
    )


def _duplicates(items: list[_Found]) -> Fault:
    names = ", ".join(item.meta.name for item in items)
    return _fault(
        items[0],
        "DUPLICATE_STREAM",
        f"{items[0].stream}: one header was expected, {len(items)} were found: {names}. "
        "Point the samplesheet's raw column at the folder of one copy.",
    )


def _no_ap(probe: str, lf: _Found | None) -> Fault:
    where = "" if lf is None else f"{lf.meta.name}: "
    return Fault(
        code="AP_MISSING",
        severity="blocks",
        message=f"{where}the AP stream of {probe} was expected beside its LF stream, there is none. "
        "Copy its .ap.bin and .ap.meta from the acquisition PC.",
        probe=probe,
    )


def _read(item: _Found, raw: Path, faults: list[Fault]) -> Stream | None:
    """The stream of a header, its faults added; None where it cannot be used at all.

    An LF stream with any fault cannot: the probe goes on without it.
    """
    try:
        stream = sglx.read_stream(item.path, raw)
    except sglx.HeaderError as error:
        faults.append(_fault(item, error.code, str(error)))
        return None
    fault = _data_fault(item, stream)
    if fault is not None:
        faults.append(fault)
        if item.kind == "lf":
            return None
    if sglx.expected_size(item.meta) is None:
        faults.append(
            _fault(
                item,
                "META_UNFINISHED",
                f"{item.meta.name}: fileSizeBytes was expected, it is not there: SpikeGLX did not close the "
                "file. All whole samples of the data file are used.",
                severity="warns",
            )
        )
    return stream


def _data_fault(item: _Found, stream: Stream) -> Fault | None:
    """What is wrong with the data file of a stream: its absence, its size, its length."""
    data = next((file for file in stream.files if file.role == "data"), None)
    if data is None:
        compressed = item.path.with_suffix(".cbin")
        name = Path(item.meta.name).with_suffix(".bin").as_posix()
        if compressed.exists():
            return _fault(
                item,
                "UNSUPPORTED_COMPRESSED",
                f"{name}: the uncompressed data file was expected, only {compressed.name} is there, which is "
                "not supported yet. Decompress it (mtsdecomp) beside its header.",
            )
        return _fault(
            item,
            "BIN_MISSING",
            f"{name}: the data file of {item.path.name} was expected beside it, there is none. "
            "Copy it from the acquisition PC.",
        )
    size, expected = data.size_bytes, sglx.expected_size(item.meta)
    row = sglx.BYTES_PER_SAMPLE * stream.n_columns
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
            f"{data.path}: {expected} bytes were expected (fileSizeBytes), found {size}: the end is missing. "
            "Copy it again from the acquisition PC.",
        )
    if expected is not None and size > expected:
        return _fault(
            item,
            "SIZE_MISMATCH",
            f"{data.path}: {expected} bytes were expected (fileSizeBytes), found {size}: header and data are "
            "not of one recording. Copy both again from the acquisition PC.",
        )
    if size % row:
        return _fault(
            item,
            "PARTIAL_SAMPLE",
            f"{data.path}: a multiple of {row} bytes was expected (2 bytes for each of nSavedChans = "
            f"{stream.n_columns} channels), found {size}. Check that the header belongs to this file.",
        )
    seconds = stream.n_samples / stream.sampling_rate_hz
    if seconds < MIN_SECONDS:
        return _fault(
            item,
            "TOO_SHORT",
            f"{data.path}: at least {MIN_SECONDS:g} s of recording were expected, found {seconds:.3f} s. "
            "Remove it from the samplesheet if it is a test recording.",
        )
    return None


def _check_nidq_sync(item: _Found, nidq: Stream, faults: list[Fault]) -> None:
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


def _check_probe_sync(item: _Found, ap: Stream, alone: bool, faults: list[Fault]) -> None:
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


def _check_catgt(item: _Found, faults: list[Fault]) -> None:
    """CatGT's output is usable; files that it joined have gaps or jumps in time, which is not."""
    if not any(key.startswith("catGTCmdline") for key in item.meta.values):
        return
    joined = item.meta.values.get("catNFiles", "1") != "1"
    if joined or any("-supercat" in value for value in item.meta.values.values()):
        faults.append(
            _fault(
                item,
                "CATGT_JOINED",
                f"{item.meta.name}: one recording was expected, CatGT joined several into this file, "
                "which is not supported yet. Use the original recordings.",
            )
        )
    else:
        faults.append(
            _fault(
                item,
                "CATGT_PROCESSED",
                f"{item.meta.name}: the original recording was expected, this is CatGT's output: its filters "
                "are in the data, and its channels are taken as aligned in time unless -no_tshift was given. "
                "Use the original recording if it still exists.",
                severity="warns",
            )
        )
