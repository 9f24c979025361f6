"""Open Ephys recordings in the binary format (GUI 0.4 to 1.x): which streams a folder holds.

Layout and meaning of the files:
https://open-ephys.github.io/gui-docs/User-Manual/Recording-data/Binary-format.html

    [<session>/][Record Node <id>/]settings.xml, settings_2.xml (of experiment 2), …
        experiment<k>/recording<m>/structure.oebin
            continuous/<stream>/continuous.dat, sample_numbers.npy (below 0.6 timestamps.npy)
            events/<stream>/TTL/

An experiment is one run of the acquisition, whose sample counter starts anew; its recordings are the
stretches of it that were written to disk.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from powerpixels.documents import AnalogLine, Channel, Fault, Findings, Probe, RawFile, Stream, TtlLine
from powerpixels.headers import HeaderError
from powerpixels.openephys_headers import (
    OEBIN,
    ProbeHeader,
    Recording,
    Settings,
    Source,
    letter_name,
    probe_header,
    read_channels,
    read_model,
    read_oebin,
    read_settings,
    read_sync_messages,
    without_electrode,
)
from powerpixels.openephys_samples import (
    Problem,
    Segment,
    difference_problems,
    measure,
    open_npy,
    sequence_problems,
)

log = logging.getLogger("powerpixels")

# structure.oebin lies at most this many folders below raw: node/experiment/recording, and two that labs add.
DEPTH = 5

# Shorter than this no sync wave (1 Hz) has an edge that could be matched.
MIN_SECONDS = 1.0

# Digital inputs where structure.oebin does not say how many: a NI port's, a OneBox's.
N_LINES = {"nidq": 8, "obx": 13}

# Files of a TTL folder, since 0.6 and before: sample numbers, and line numbers with the sign of the change.
TTL_FILES = (("sample_numbers.npy", "states.npy"), ("timestamps.npy", "channel_states.npy"))

ProbeKey = tuple[int, int]


def is_openephys(raw: Path) -> bool:
    """Whether ``raw`` holds an Open Ephys recording in the binary format, or is a folder inside of one.

    A structure.oebin is looked for in ``raw``, up to five folders below it and up to three above.
    """
    raw = Path(raw)
    return next(_walk(raw), None) is not None or _recording_above(raw) is not None


def find(raw: Path) -> Findings:
    """The streams of the Open Ephys recording in ``raw`` and everything that is wrong with them.

    raw: the folder of a session, a Record Node, an experiment or a recording. Of the data only sizes are
    read, of the sample numbers what ``openephys_samples.stretches`` needs. Nothing is written.

    Probes keep Open Ephys' own names (ProbeA), with "_" for characters that don't fit into file names;
    their streams are "<probe>.ap" and "<probe>.lf". A NI-DAQ's stream is "nidq" (that of a second
    device "nidq1", in daqs), a OneBox's inputs are "obx0". Digital inputs are ttl lines: of a probe
    "sync" (line 1), of DAQs TTL1, TTL2, …; which of these has the sync wave no header says
    (sync_line None). A probe's sync column (sync_bit None) has the wave's level, 0 or 1.
    Gains are structure.oebin's: µV per count of electrodes, V of inputs.
    Where ``raw`` is not a whole recording or holds several experiments, there are no streams but a fault
    that blocks the session.
    """
    raw = Path(raw)
    faults: list[Fault] = []
    recordings = _recordings(raw, faults)
    if not recordings and not faults:
        faults.append(_no_recording(raw))
    groups = sorted({recording.group for recording in recordings}, key=_natural)
    if len(groups) > 1:
        faults.append(_several_experiments(recordings, groups))
        recordings = []
    return _Session(raw, recordings, faults).findings()


def _walk(raw: Path) -> Iterator[Path]:
    """Folders with a structure.oebin, raw itself first, in the order of their names; follows links."""
    seen: set[str] = set()
    stack = [(raw, 0)]
    while stack:
        folder, depth = stack.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if (folder / OEBIN).is_file():
            yield folder
            continue
        if depth == DEPTH:
            continue
        try:
            with os.scandir(folder) as entries:
                below = [entry.name for entry in entries if entry.is_dir()]
        except (PermissionError, NotADirectoryError, FileNotFoundError):
            continue
        # A compressed copy is a folder with thousands of files; hidden folders are no recordings.
        stack += [
            (folder / name, depth + 1)
            for name in sorted(below, key=_natural, reverse=True)
            if not name.startswith(".") and not name.endswith(".zarr")
        ]


def _natural(name: object) -> list[tuple[int, int | str]]:
    """Key that sorts recording10 after recording2."""
    parts = re.split(r"(\d+)", str(name))
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def _recording_above(raw: Path) -> Path | None:
    return next((folder for folder in list(raw.resolve().parents)[:3] if (folder / OEBIN).is_file()), None)


def _no_recording(raw: Path) -> Fault:
    above = _recording_above(raw)
    advice = "Point the samplesheet's raw column at the session's folder."
    if above is not None:
        relative = Path(os.path.relpath(above, raw.resolve())).as_posix()
        advice = f"It is a part of one: point the samplesheet's raw column at its {relative} or further up."
    return Fault(
        code="NO_RECORDING",
        severity="blocks",
        message=f"{raw.name or raw}: an Open Ephys recording with data ({OEBIN}, up to {DEPTH} folders deep) "
        f"was expected, there is none. {advice}",
    )


def _several_experiments(recordings: list[Recording], groups: list[tuple]) -> Fault:
    names = []
    for group in groups:
        folders = {Path(r.relative).parent.as_posix() for r in recordings if r.group == group}
        names.append(" with ".join(sorted(folders, key=_natural)))
    return Fault(
        code="MULTIPLE_EXPERIMENTS",
        severity="blocks",
        message=f"one Open Ephys experiment was expected, {len(groups)} were found: {'; '.join(names)}. The "
        "acquisition was stopped between them and their clocks start anew. Give each a samplesheet row with "
        "its own experiment folder as raw, and the same value in the column concatenate to sort them "
        "together. (Where several Record Nodes wrote an experiment: a folder with links to its folders.)",
    )


def _recordings(raw: Path, faults: list[Fault]) -> list[Recording]:
    """All recordings below raw that have continuous data; unreadable ones become faults of the session."""
    recordings = []
    for folder in _walk(raw):
        relative = folder.relative_to(raw).as_posix()
        name = OEBIN if relative == "." else f"{relative}/{OEBIN}"
        try:
            header = read_oebin(folder / OEBIN, name)
        except HeaderError as error:
            faults.append(Fault(code=error.code, severity="blocks", message=str(error)))
            continue
        if not header["continuous"]:
            log.info("%s: no continuous data", name)
            continue
        real = folder.resolve()
        first = header["continuous"][0]
        experiment = re.search(r"experiment(\d+)$", real.parent.name)
        number = re.search(r"recording(\d+)$", real.name)
        # The folders of several Record Nodes lie beside each other, whatever they are called.
        by_node = "record node" in str(first.get("recorded_processor", "")).lower()
        session = real.parents[2] if by_node and len(real.parents) > 2 else real.parents[1]
        recordings.append(
            Recording(
                path=folder,
                relative=relative,
                group=(str(session), int(experiment[1]) if experiment else str(real.parent)),
                node=int(first.get("recorded_processor_id", 0)),
                number=int(number[1]) if number else None,
                header=header,
            )
        )
    # A Record Node has one folder per experiment: a second one is a copy, or another session's.
    folders: dict[tuple, set[Path]] = {}
    for recording in recordings:
        folders.setdefault((recording.group, recording.node), set()).add(recording.path.resolve().parent)
    return [
        recording
        if len(folders[recording.group, recording.node]) == 1
        else replace(recording, group=(recording.group[0], str(recording.path.resolve().parent)))
        for recording in recordings
    ]


def _safe(name: str) -> str:
    """A probe's name as it can be part of file names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "Probe"


class _Session:
    """The recordings of one experiment on their way to Findings."""

    def __init__(self, raw: Path, recordings: list[Recording], faults: list[Fault]) -> None:
        self.raw = raw
        self.faults = faults
        self.settings: dict[Path, Settings | HeaderError] = {}
        sources: dict[str, list[Source]] = {}
        for recording in recordings:
            for entry in recording.header["continuous"]:
                source = Source(recording, entry)
                sources.setdefault(source.folder, []).append(source)
        # Ids of sources come first in the names, so streams are in the order of the sources.
        self.streams = {folder: self._choose(sources[folder]) for folder in sorted(sources, key=_natural)}

    def findings(self) -> Findings:
        """All streams and faults."""
        families: dict[str, list[list[Segment]]] = {}
        for segments in self.streams.values():
            families.setdefault(segments[0].source.family, []).append(segments)
        for segments in families.get("onix", []) + families.get("other", []):
            self._unsupported(segments[0].source)
        nidq, daqs = None, []
        for kind in ("nidq", "obx"):
            for k, segments in enumerate(families.get(kind, [])):
                name = kind if kind == "nidq" and k == 0 else f"{kind}{k}"
                stream, sound = self._daq(segments, kind, name)
                if name == "nidq":
                    nidq = stream
                elif sound:
                    daqs.append(stream)
        n_daqs = len(families.get("nidq", [])) + len(families.get("obx", []))
        probes, headers = self._probes(families.get("probe", []), alone=n_daqs == 0)
        reference = families.get("nidq") or list(self.streams.values())
        headers[""] = self._header(reference[0][0].source) if reference else (None, None)
        return Findings(
            acquisition="openephys",
            headers=headers,
            probes=probes,
            nidq=nidq,
            daqs=daqs,
            faults=self.faults,
        )

    def _fault(
        self, severity: str, code: str, message: str, probe: str | None = None, stream: str | None = None
    ) -> None:
        self.faults.append(Fault(code=code, severity=severity, message=message, probe=probe, stream=stream))

    def _settings(self, recording: Recording) -> Settings:
        """Settings of the recording's experiment at its node, read once. Raises ``HeaderError``."""
        key = recording.path.resolve().parent
        if key not in self.settings:
            try:
                settings = self.settings[key] = read_settings(self.raw, recording)
                if settings.warning:
                    self._fault("warns", "SETTINGS_OTHER_EXPERIMENT", settings.warning)
            except HeaderError as error:
                self.settings[key] = error
        found = self.settings[key]
        if isinstance(found, HeaderError):
            raise found
        return found

    def _header(self, source: Source) -> tuple[str | None, str | None]:
        """Version of the program and start of the recording, local time if settings.xml tells, or UTC."""
        version, start = source.recording.header.get("GUI version"), None
        try:
            settings = self._settings(source.recording)
            version, start = version or settings.version, settings.date
        except HeaderError:
            log.info("%s: no settings.xml tells when it was recorded", source.recording.name(OEBIN))
        return version, start or read_sync_messages(source)[1]

    def _choose(self, sources: list[Source]) -> list[Segment]:
        """A stream's segments in the order of time, of the Record Node whose copy is used.

        That is the one without faults, before any filter, with most samples, with the lowest id: in this
        order.
        """
        copies: dict[int, list[Segment]] = {}
        for source in sources:
            copies.setdefault(source.recording.node, []).append(measure(source))
        for node, segments in copies.items():
            recorded = [segment for segment in segments if not segment.empty] or segments[:1]
            for segment in segments:
                if segment not in recorded:
                    recorded[0].problem("EMPTY_FILE", segment.problems[-1].message, "warns")
            if all(segment.source.recording.number is not None for segment in recorded):
                recorded.sort(key=lambda segment: segment.source.recording.number)
            else:
                recorded.sort(
                    key=lambda segment: segment.pieces[0].first_sample or 0 if segment.pieces else 0
                )
            copies[node] = recorded

        def rank(node: int) -> tuple:
            segments = copies[node]
            return (
                any(problem.severity is None for segment in segments for problem in segment.problems),
                segments[0].source.altered_by is not None,
                -sum(segment.n_samples for segment in segments),
                node,
            )

        chosen = copies[min(copies, key=rank)]
        if len(copies) > 1:
            extents = [[segment.extent for segment in segments] for segments in copies.values()]
            same = ", the same ones" if all(extent == extents[0] for extent in extents) else ""
            found = []
            for node, segments in sorted(copies.items()):
                altered = segments[0].source.altered_by
                found.append(
                    f"node {node} with {sum(segment.n_samples for segment in segments)} samples"
                    + (f" (behind {altered})" if altered else "")
                )
            chosen[0].problem(
                "DUPLICATE_STREAM",
                f"{sources[0].folder}: one Record Node was expected to have it, found "
                f"{', '.join(found)}{same}. That of {chosen[0].source.recording.relative} is used; to use "
                "another one, point the samplesheet's raw column at its folder.",
                "warns",
            )
        return chosen

    def _stream(
        self, segments: list[Segment], kind: str, name: str, probe: str | None, files: list[RawFile], **fields
    ) -> tuple[Stream, bool]:
        """The stream that the segments make up, and whether it can be used; its faults are added.

        files: those that come after the segments' own. A fault of an LF stream or of a second DAQ only warns.
        """
        source = segments[0].source
        where = f"{source.recording.name(OEBIN)}: {source.folder}"
        problems = [problem for segment in segments for problem in segment.problems]
        problems += difference_problems(segments) + sequence_problems(segments)
        if source.altered_by:
            problems.append(
                Problem(
                    "FILTERED",
                    f"{where}: data as they were acquired were expected, they were recorded behind "
                    f"{source.altered_by}. Use those of a Record Node before it, if there is one.",
                    "warns",
                )
            )
        if source.mapped:
            problems.append(
                Problem(
                    "CHANNEL_MAP",
                    f"{where}: was recorded behind a Channel Map. Each channel is taken for what its name "
                    "says, wherever the map has put it.",
                    "warns",
                )
            )
        pieces = [piece for segment in segments for piece in segment.pieces]
        n_samples = sum(piece.n_samples for piece in pieces)
        if all(problem.severity for problem in problems) and n_samples / source.rate < MIN_SECONDS:
            problems.append(
                Problem(
                    "TOO_SHORT",
                    f"{pieces[0].path}: at least {MIN_SECONDS:g} s of recording were expected, found "
                    f"{n_samples / source.rate:.3f} s. Remove it from the samplesheet if it is a test "
                    "recording.",
                )
            )
        blocks = "blocks" if kind == "ap" or name == "nidq" else "warns"
        for problem in problems:
            self._fault(problem.severity or blocks, problem.code, problem.message, probe, name)
        own = [file for segment in segments for file in segment.files]
        headers = [
            RawFile(path=recording.name(path.name), role="meta", size_bytes=path.stat().st_size)
            for recording in (segment.source.recording for segment in segments)
            for path in (recording.path / OEBIN, recording.path / "sync_messages.txt")
            if path.is_file()
        ]
        stream = Stream(
            name=name,
            kind=kind,
            files=own + headers + files,
            sampling_rate_hz=source.rate,
            n_columns=int(source.entry["num_channels"]),
            n_samples=n_samples,
            first_sample=pieces[0].first_sample if pieces else None,
            pieces=pieces,
            **fields,
        )
        return stream, all(problem.severity for problem in problems)

    def _daq(self, segments: list[Segment], kind: str, name: str) -> tuple[Stream, bool]:
        """A DAQ's stream, and whether it can be used."""
        source = segments[0].source
        analog = [
            # Inputs have volts per count in bit_volts, though early versions call all units "uV".
            AnalogLine(
                raw_column=column,
                name=channel["channel_name"],
                gain_v=float(channel["bit_volts"]) * (1e-3 if channel.get("units") == "mV" else 1.0),
            )
            for column, channel in enumerate(source.entry["channels"])
        ]
        files, with_events, _ = self._ttl(segments, None, name)
        lines: list[int] = []
        if files:
            n_lines = N_LINES[kind]
            for event in source.recording.header.get("events") or []:
                if str(event.get("folder_name", "")).split("/")[0] == source.folder:
                    stated = re.search(r"containing (\d+) inputs", str(event.get("description", "")))
                    n_lines = int(stated[1]) if stated else n_lines
            lines = sorted({*range(1, n_lines + 1), *with_events})
        ttl = [TtlLine(line=k, name=f"TTL{k}") for k in lines]
        return self._stream(segments, kind, name, None, files, analog=analog, ttl=ttl)

    def _ttl(
        self, segments: list[Segment], probe: str | None, name: str
    ) -> tuple[list[RawFile], list[int], bool]:
        """TTL files of a stream (sample numbers and states in turn), lines with events, and if all is "
        "whole."""
        files: list[RawFile] = []
        lines: set[int] = set()
        whole = True
        for segment in segments:
            recording = segment.source.recording
            folders = sorted(
                (recording.path / "events" / segment.source.folder).glob("TTL*"),
                key=lambda path: _natural(path.name),
            )
            pairs = [
                (folder / samples, folder / states) for folder in folders for samples, states in TTL_FILES
            ]
            # Further folders have events that other processors made of this stream.
            pair = next((pair for pair in pairs if all(path.is_file() for path in pair)), None)
            if pair is None:
                continue
            where = recording.name("events", segment.source.folder, pair[0].parent.name)
            try:
                (samples, samples_whole), (states, states_whole) = (open_npy(path) for path in pair)
                if samples.dtype.kind not in "iu" or states.dtype.kind not in "iu":
                    raise ValueError(f"values of types {samples.dtype} and {states.dtype}")
                if samples_whole and states_whole and len(samples) != len(states):
                    raise ValueError(f"{len(samples)} sample numbers for {len(states)} states")
            except (ValueError, EOFError) as error:
                whole = False
                self._fault(
                    "warns",
                    "META_UNREADABLE",
                    f"{where}: sample numbers and states of the same events were expected, found otherwise "
                    f"({error}). They are not used; copy the folder again from the acquisition PC.",
                    probe,
                    name,
                )
                continue
            if not (samples_whole and states_whole):
                whole = False
                self._fault(
                    "warns",
                    "META_UNFINISHED",
                    f"{where}: the headers of its files say otherwise than their sizes: Open Ephys did not "
                    "close them. Events towards the end may be missing.",
                    probe,
                    name,
                )
            lines |= {int(line) for line in np.unique(np.abs(np.asarray(states, dtype=np.int64)))} - {0}
            files += [
                RawFile(path=f"{where}/{path.name}", role=role, size_bytes=path.stat().st_size)
                for path, role in zip(pair, ("samples", "states"), strict=True)
            ]
        return files, sorted(lines), whole

    def _unsupported(self, source: Source) -> None:
        """Name a stream that is of no probe or DAQ known here; a probe's blocks that probe."""
        entry = source.entry
        maker = entry.get("source_processor_name", "an unknown source")
        what = (
            f"{source.recording.name(OEBIN)}: {source.folder}: {entry['num_channels']} channels at "
            f"{source.rate:g} Hz of {maker}"
        )
        stream_name = str(entry.get("stream_name", ""))
        if source.family == "onix" and "Probe" in stream_name:
            if not source.is_lf:
                advice = (
                    "probes of Neuropix-PXI or OneBox were expected, ONIX headstages are not supported yet."
                )
                name = _safe(stream_name.removesuffix("-AP"))
                self._fault("blocks", "UNSUPPORTED_STREAM", f"{what}: {advice}", name, source.folder)
            return
        self._fault(
            "warns",
            "UNSUPPORTED_STREAM",
            f"{what}: a Neuropixels probe, NI-DAQ or OneBox was expected; it is left out.",
            stream=source.folder,
        )

    def _probes(self, streams: list[list[Segment]], alone: bool) -> tuple[list[Probe], dict]:
        """All probes that can be read, in the order of their names, and (version, start) of each by name.

        alone: there are no other clocks than the probes'.
        """
        bands: dict[ProbeKey, dict[str, list[Segment]]] = {}
        names: dict[ProbeKey, str] = {}
        known: dict[ProbeKey, ProbeHeader | HeaderError] = {}
        for segments in sorted(streams, key=lambda segments: segments[0].source.is_lf):
            source = segments[0].source
            try:
                header = probe_header(source, self._settings(source.recording))
                index, name = header.index, header.name
            except HeaderError as error:
                header = error
                index, name = self._unlisted(source, [others[0].source for others in streams])
            key = (source.node, index)
            bands.setdefault(key, {})["lf" if source.is_lf else "ap"] = segments
            names.setdefault(key, name)
            known.setdefault(key, header)
        probes, headers = [], {}
        for key in sorted(names):
            name = _safe(names[key])
            if name in headers:
                name = f"{name}_{key[0]}"
            while name in headers:
                name += "_"
            headers[name] = self._header(next(iter(bands[key].values()))[0].source)
            probe = self._probe(name, bands[key], known[key], alone and len(names) == 1)
            if probe is not None:
                probes.append(probe)
        return sorted(probes, key=lambda probe: probe.name), headers

    @staticmethod
    def _unlisted(source: Source, streams: list[Source]) -> tuple[int, str]:
        """Index and name of the probe of a stream without settings.xml, by what the recorded streams say."""
        peers = [peer for peer in streams if peer.node == source.node]
        if source.entry.get("stream_name"):

            def base(peer: Source) -> str:
                return re.sub(r"-(AP|LFP)$", "", str(peer.entry.get("stream_name")))

            return sorted({base(peer) for peer in peers}).index(base(source)), base(source)
        peers.sort(key=lambda peer: int(peer.entry.get("source_processor_sub_idx", 0)))
        before = peers[: next(k for k, peer in enumerate(peers) if peer.folder == source.folder) + 1]
        index = max(sum(not peer.is_lf for peer in before) - 1, 0)
        return index, letter_name(index)

    def _probe(
        self, name: str, bands: dict[str, list[Segment]], known: ProbeHeader | HeaderError, alone: bool
    ) -> Probe | None:
        """The probe with its streams, its faults added; None where its header cannot be used."""
        if "ap" not in bands:
            source = bands["lf"][0].source
            self._fault(
                "blocks",
                "AP_MISSING",
                f"{source.recording.name(OEBIN)}: the AP stream of {name} was expected beside "
                f"{source.folder}, there is none. Copy its folder from the acquisition PC.",
                name,
            )
            return None
        source = bands["ap"][0].source
        try:
            if isinstance(known, HeaderError):
                raise known
            settings = self._settings(source.recording)
            model = read_model(known.element, settings)
            channels = read_channels(source, model, settings)
        except HeaderError as error:
            self._fault("blocks", error.code, str(error), name, f"{name}.ap")
            return None
        left_out = without_electrode(source, channels)
        if left_out:
            self._fault(
                "warns",
                "CHANNELS_WITHOUT_ELECTRODE",
                f"{source.recording.name(OEBIN)}: an electrode of each channel was expected in "
                f"{settings.name}, there is none of {', '.join(left_out)}. They are left out. (Channel 191, "
                "counted from 0, of 1.0 probes is the reference: older plugins do not list it.)",
                name,
                f"{name}.ap",
            )
        meta = [] if settings.file is None else [settings.file]
        ap, _ = self._band(bands["ap"], "ap", name, channels, meta)
        if ap.sync_line is None and ap.sync_column is None:
            consequence = "its spike times cannot be put on the session's clock"
            self._fault(
                "warns" if alone else "blocks",
                "SYNC_MISSING",
                f"{source.recording.name(OEBIN)}: events on TTL line 1 or a SYNC channel were expected for "
                f"{source.folder}, there are none: "
                f"{'its spike times stay on its own clock' if alone else consequence}. Record events, or the "
                "sync channel.",
                name,
                ap.name,
            )
        lf = None
        if "lf" in bands:
            try:
                lf_channels = read_channels(bands["lf"][0].source, model, settings)
                lf, sound = self._band(bands["lf"], "lf", name, lf_channels, meta)
                lf = lf if sound else None
            except HeaderError as error:
                self._fault("warns", error.code, str(error), name, f"{name}.lf")
        return Probe(
            name=name,
            part_number=model.part_number,
            serial_number=model.serial_number,
            model=model.model,
            shanks=sorted({channel.shank for channel in ap.channels}),
            ap=ap,
            lf=lf,
        )

    def _band(
        self, segments: list[Segment], kind: str, probe: str, channels: list[Channel], meta: list[RawFile]
    ) -> tuple[Stream, bool]:
        """A probe's AP or LF stream, and whether it can be used."""
        name = f"{probe}.{kind}"
        sync_column = segments[0].source.sync_column
        files, lines, whole = self._ttl(segments, probe, name)
        # Events that may be incomplete are worth less than a column that has the wave all along.
        has_line = 1 in lines and (whole or sync_column is None)
        return self._stream(
            segments,
            kind,
            name,
            probe,
            meta + files,
            channels=channels,
            sync_column=sync_column,
            sync_line="sync" if has_line else None,
            ttl=[TtlLine(line=k, name="sync" if k == 1 else f"TTL{k}") for k in lines],
        )
