"""Open Ephys headers: structure.oebin, settings.xml, sync_messages.txt, and the channels that they describe.

Which electrode a channel is comes from settings.xml through probeinterface, which carries IMEC's table of
probes (https://github.com/billkarsh/ProbeTable); the probe's part number decides.
"""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from powerpixels.documents import Channel, RawFile
from powerpixels.headers import HeaderError, read_bytes

OEBIN = "structure.oebin"

# An LF band has 2.5 kHz, AP and wide band 30 kHz.
LF_BELOW_HZ = 5000.0

# Stages of a signal chain that change the signal; all others pass it on.
ALTERING = re.compile(r"filter|common avg|\bCAR\b|reference|whiten|resampl|downsampl|artifact", re.IGNORECASE)

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True)
class Recording:
    """A folder with a structure.oebin.

    path: below raw, as given. relative: to raw, with ``/``. group: (the session's folder, the experiment's
    number or folder); recordings of different groups have different clocks. node: id of the processor that
    wrote it. number: of recording<number>, None if the folder is not called so. header: what
    structure.oebin says.
    """

    path: Path
    relative: str
    group: tuple[str, int | str]
    node: int
    number: int | None
    header: dict

    def name(self, *parts: str) -> str:
        """A file of the recording as messages and documents call it."""
        return "/".join(part for part in (self.relative, *parts) if part != ".")


@dataclass(frozen=True)
class Source:
    """One stream in one recording: the recording, and the stream's entry in structure.oebin."""

    recording: Recording
    entry: dict

    @property
    def folder(self) -> str:
        """Name of its folder: source's name and id, and the stream's name or number."""
        return self.entry["folder_name"].strip("/")

    @property
    def node(self) -> int:
        """Id of the processor that is the source of the data."""
        return int(self.entry.get("source_processor_id", 0))

    @property
    def rate(self) -> float:
        """Sampling rate in Hz."""
        return float(self.entry["sample_rate"])

    @property
    def is_lf(self) -> bool:
        """Whether it is a LF band."""
        return self.rate < LF_BELOW_HZ

    @property
    def family(self) -> str:
        """What it is of: "probe", "nidq", "obx" (a OneBox's inputs), "onix" or "other"."""
        maker = str(self.entry.get("source_processor_name", ""))
        if re.search(r"ONIX", maker, re.IGNORECASE):
            return "onix"
        if re.search(r"NI-?DAQ", maker, re.IGNORECASE):
            return "nidq"
        if re.search(r"Neuropix|OneBox", maker, re.IGNORECASE):
            adc = all(channel["channel_name"].startswith("ADC") for channel in self.entry["channels"])
            return "obx" if adc else "probe"
        return "other"

    @property
    def altered_by(self) -> str | None:
        """Processors of the signal chain that changed the signal before it was recorded."""
        histories = sorted({str(channel.get("history", "")) for channel in self.entry["channels"]})
        stages = [stage.strip() for history in histories for stage in history.split("->")]
        return ", ".join(dict.fromkeys(stage for stage in stages if ALTERING.search(stage))) or None

    @property
    def mapped(self) -> bool:
        """Whether it was recorded behind a Channel Map."""
        return any("Channel Map" in str(channel.get("history", "")) for channel in self.entry["channels"])

    @property
    def sync_column(self) -> int | None:
        """Column with the level of the sync wave."""
        names = [channel["channel_name"] for channel in self.entry["channels"]]
        return next((column for column, name in enumerate(names) if name.endswith("SYNC")), None)

    def electrodes(self) -> dict[int, int]:
        """Electrode numbers that newer plugins note for their channels, by column.

        Empty where they say nothing: for NP Ultra probes the plugin writes one number for all channels.
        """
        found = {}
        for column, channel in enumerate(self.entry["channels"]):
            for item in channel.get("channel_metadata") or []:
                if item.get("identifier") == "neuropixels.electrode_index" and item.get("value"):
                    found[column] = int(item["value"][0])
        return found if len(set(found.values())) == len(found) > 1 else {}


def read_oebin(path: Path, name: str) -> dict:
    """A structure.oebin whose continuous streams have the keys that are used here, of the types expected.

    Raises ``HeaderError`` (META_UNREADABLE), naming the stream that has not.
    """
    advice = "Restore it as Open Ephys wrote it."
    try:
        header = json.loads(read_bytes(path, name).decode("utf-8", errors="replace"))
    except ValueError as error:
        raise HeaderError(
            "META_UNREADABLE", f"{name}: JSON was expected, found otherwise ({error}). {advice}"
        ) from None
    if not isinstance(header, dict) or not isinstance(header.get("continuous"), list):
        raise HeaderError("META_UNREADABLE", f"{name}: a list `continuous` was expected. {advice}")
    for k, entry in enumerate(header["continuous"]):
        try:
            channels = entry["channels"]
            int(entry.get("source_processor_id", 0)), int(entry.get("recorded_processor_id", 0))
            usable = (
                entry["folder_name"].strip("/") not in ("", ".", "..")
                and 0 < float(entry["sample_rate"]) < float("inf")
                and int(entry["num_channels"]) == len(channels) > 0
                and all(isinstance(c["channel_name"], str) and float(c["bit_volts"]) > 0 for c in channels)
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            usable = False
        if not usable:
            raise HeaderError(
                "META_UNREADABLE",
                f"{name}: stream {k} of `continuous`: a folder_name, a sample_rate above 0, and num_channels "
                "channels with a channel_name and bit_volts above 0 were expected, not all are there. "
                f"{advice}",
            )
    return header


def read_sync_messages(source: Source) -> tuple[int | None, str | None]:
    """From sync_messages.txt: a stream's first sample number, and the PC's time (ISO 8601, UTC).

    None for what is not there; versions below 0.6 write another text, of which nothing is used.
    """
    path = source.recording.path / "sync_messages.txt"
    if not path.is_file():
        return None, None
    text = read_bytes(path, source.recording.name(path.name)).decode("utf-8", errors="replace")
    stream = re.escape(str(source.entry.get("stream_name", "")))
    first = re.search(rf"\({source.node}\) - {stream} @ [\d.]+ Hz: (\d+)", text)
    clock = re.search(r"Software Time[^:]*:\s*(\d{12,14})\b", text)
    when = None
    if clock:
        when = datetime.fromtimestamp(int(clock[1]) / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return int(first[1]) if first else None, when


@dataclass(frozen=True)
class Settings:
    """A settings.xml. name: how messages call it. file: None where it lies above the raw folder.

    warning: why it may be of another experiment, if it may.
    """

    name: str
    root: ElementTree.Element
    file: RawFile | None
    warning: str | None

    @property
    def version(self) -> str | None:
        """Version of the GUI."""
        return (self.root.findtext("INFO/VERSION") or "").strip() or None

    @property
    def before_06(self) -> bool:
        """Whether the GUI is older than 0.6."""
        return () < tuple(int(part) for part in re.findall(r"\d+", self.version or "")[:2]) < (0, 6)

    def recorded(self, source: Source) -> set[int] | None:
        """Which of a stream's channels, from 0, its Record Node was set to write; None if not stated."""
        for processor in self.root.iter("PROCESSOR"):
            if processor.get("nodeId") == str(source.recording.node):
                for stream in processor.findall("CUSTOM_PARAMETERS/STREAM"):
                    state = stream.get("recording_state", "")
                    same = stream.get("name") == source.entry.get("stream_name")
                    if same and re.fullmatch("[01]+", state):
                        return {channel for channel, on in enumerate(state) if on == "1"}
        return None

    @property
    def date(self) -> str | None:
        """INFO/DATE ("30 Aug 2023 23:41:36": local time, English months) as ISO 8601."""
        match = re.fullmatch(
            r"\s*(\d{1,2}) ([A-Za-z]{3})\w* (\d{4}) (\d{1,2}):(\d{2}):(\d{2})\s*",
            self.root.findtext("INFO/DATE") or "",
        )
        if match is None or match[2].lower() not in MONTHS:
            return None
        month = MONTHS.index(match[2].lower()) + 1
        try:
            return datetime(
                int(match[3]), month, int(match[1]), *(int(match[k]) for k in (4, 5, 6))
            ).isoformat()
        except ValueError:
            return None


def read_settings(raw: Path, recording: Recording) -> Settings:
    """The settings.xml of a recording's experiment (settings_<k>.xml of experiment k above 1).

    It lies beside the experiment's folder, which may be above ``raw``; where folders were moved it may lie
    in one of them. A single one of another experiment is taken with a warning.
    Raises ``HeaderError`` (META_MISSING, META_UNREADABLE).
    """
    real = recording.path.resolve()
    number = recording.group[1] if isinstance(recording.group[1], int) else 1
    wanted = "settings.xml" if number == 1 else f"settings_{number}.xml"
    folders = (real.parent.parent, real.parent, real)
    path = next((folder / wanted for folder in folders if (folder / wanted).is_file()), None)
    where, warning = f"{recording.name(OEBIN)}: {wanted} was expected beside the experiment's folder", None
    if path is None:
        others = sorted(file for folder in folders for file in folder.glob("settings*.xml"))
        if len(others) != 1:
            raise HeaderError(
                "META_MISSING",
                f"{where}, there {'are others' if others else 'is none'}. Copy it from the acquisition PC; "
                "without it the electrodes are not known.",
            )
        path = others[0]
        warning = (
            f"{where}, only {path.name} is there; it is used, but may describe another choice of electrodes. "
            "Copy the right one if it exists."
        )
    name = Path(os.path.relpath(path, raw.resolve())).as_posix()
    try:
        root = ElementTree.fromstring(read_bytes(path, name))
    except ElementTree.ParseError as error:
        raise HeaderError(
            "META_UNREADABLE",
            f"{name}: XML was expected, found otherwise ({error}). Restore it as Open Ephys wrote it.",
        ) from None
    inside = not name.startswith("../")
    file = RawFile(path=name, role="meta", size_bytes=path.stat().st_size) if inside else None
    return Settings(name, root, file, warning)


@dataclass(frozen=True)
class ProbeHeader:
    """Which probe of its source a stream is of, and what settings.xml says of it.

    index: among the source's probes. name: Open Ephys' own, as it is. element: its NP_PROBE.
    """

    index: int
    name: str
    element: ElementTree.Element


def probe_header(source: Source, settings: Settings) -> ProbeHeader:
    """The probe of an AP, LF or wide-band stream.

    A source's streams come in the order of its probes, one each, or AP and then LF; probes that are switched
    off have none. Streams of GUI versions below 0.6 have numbers, and the probes no names: they
    are called ProbeA, ProbeB, … as later versions do. Raises ``HeaderError`` (UNKNOWN_PROBE,
    SETTINGS_MISMATCH) where settings.xml does not have it.
    """
    processors = [
        processor
        for processor in settings.root.iter("PROCESSOR")
        if next(processor.iter("NP_PROBE"), None) is not None
    ]
    processor = next(
        (p for p in processors if (p.get("nodeId") or p.get("NodeId")) == str(source.node)),
        processors[0] if len(processors) == 1 else None,
    )
    if processor is None:
        raise HeaderError(
            "UNKNOWN_PROBE",
            f"{settings.name}: the probes (NP_PROBE) of {source.entry.get('source_processor_name')} "
            f"({source.node}) were expected, there are none: the plugin was older than 0.3.3, which does not "
            "note the electrodes, or the file is of another experiment.",
        )
    probes = [probe for probe in processor.iter("NP_PROBE") if probe.get("isEnabled", "1") == "1"]
    listed = [stream for stream in processor.findall("STREAM") if not stream.get("name", "").endswith("ADC")]
    advice = "it is of another experiment. Put the right one there."
    if listed and source.entry.get("stream_name"):
        bases: list[str] = []
        index = None
        for stream in listed:
            name = stream.get("name", "")
            if not bases or float(stream.get("sample_rate", "inf")) >= LF_BELOW_HZ:
                bases.append(name.removesuffix("-AP"))
            if name == source.entry["stream_name"]:
                index = len(bases) - 1
        if index is None or len(bases) != len(probes):
            raise HeaderError(
                "SETTINGS_MISMATCH",
                f"{settings.name}: stream {source.entry['stream_name']} and a probe for each stream were "
                f"expected, found streams of {', '.join(bases)} and {len(probes)} probes: {advice}",
            )
        # Probes can be given names, which their streams then have too.
        custom = [probe.get("custom_probe_name") for probe in probes]
        chosen = custom.index(bases[index]) if set(custom) == set(bases) else index
        return ProbeHeader(index, bases[index], probes[chosen])
    number = int(source.entry.get("source_processor_sub_idx", 0))
    start = 0
    for index, probe in enumerate(probes):
        stop = start + (2 if probe.get("lfpGainValue") or probe.get("lfpGainIndex") else 1)
        if start <= number < stop:
            return ProbeHeader(index, letter_name(index), probe)
        start = stop
    raise HeaderError(
        "SETTINGS_MISMATCH",
        f"{settings.name}: a probe for stream {number} of {source.node} was expected, its {len(probes)} "
        f"probes have {start} streams: {advice}",
    )


def letter_name(index: int) -> str:
    """ProbeA, ProbeB, …: the name that Open Ephys gives to a source's probe by its order."""
    return f"Probe{chr(ord('A') + index)}" if index < 26 else f"Probe{index + 1}"


@dataclass(frozen=True)
class ProbeModel:
    """Identity and electrodes of a probe.

    contacts: probeinterface's Probe. place: which of its contacts a readout channel is connected to, of
    n_channels; one that has none is no recording site. catalogue: contact ids of all electrodes of this
    part number. numbered: whether an electrode's number is its place there.
    """

    part_number: str
    serial_number: str | None
    model: str
    contacts: Any
    n_channels: int
    place: dict[int, int]
    catalogue: list[str]
    numbered: bool


def read_model(element: ElementTree.Element, settings: Settings) -> ProbeModel:
    """The probe that an NP_PROBE element describes.

    probeinterface looks probes up by parts of their names, refuses files with two kinds of sources and
    applies channel maps by position: it is given a file with this probe alone.
    Raises ``HeaderError`` (UNKNOWN_PROBE, META_UNREADABLE).
    """
    from probeinterface import read_openephys_neuropixels
    from probeinterface.neuropixels_tools import build_neuropixels_probe

    part_number = element.get("probe_part_number") or element.get("probePartNumber") or ""
    serial = element.get("probe_serial_number") or element.get("probeSerialNumber") or None
    try:
        full = build_neuropixels_probe(part_number)
        model = full.description.strip()
        if model.startswith("duplicate of "):  # two part numbers of one probe in the table
            model = build_neuropixels_probe(model.removeprefix("duplicate of ")).description.strip()
    except KeyError:
        raise HeaderError(
            "UNKNOWN_PROBE",
            f"{settings.name}: the part number of a Neuropixels probe was expected in probe_part_number, "
            f"found {part_number!r}, which this version's probe table does not have. Correct it if it is a "
            "slip; otherwise a newer probeinterface is needed.",
        ) from None
    alone = copy.deepcopy(element)
    for key in ("custom_probe_name", "isEnabled"):
        alone.attrib.pop(key, None)
    root = ElementTree.Element("SETTINGS")
    info = ElementTree.SubElement(root, "INFO")
    # Below 0.6 the positions of multi-shank probes have an error that probeinterface takes out.
    ElementTree.SubElement(info, "VERSION").text = "0.5.0" if settings.before_06 else "0.6.0"
    attributes = {"name": "Neuropix-PXI", "libraryVersion": "0.4.0", "nodeId": "1"}
    processor = ElementTree.SubElement(ElementTree.SubElement(root, "SIGNALCHAIN"), "PROCESSOR", attributes)
    ElementTree.SubElement(processor, "STREAM", {"name": "Probe"})
    ElementTree.SubElement(processor, "EDITOR").append(alone)
    what = f"{settings.name}: probe {serial or '?'} ({part_number})"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.xml"
        ElementTree.ElementTree(root).write(path, encoding="utf-8")
        try:
            contacts = read_openephys_neuropixels(path)
        except Exception as error:  # probeinterface raises this very class
            raise HeaderError(
                "META_UNREADABLE",
                f"{what}: its electrodes were expected, found otherwise ({type(error).__name__}: {error}). "
                "Correct the part number if it is wrong, or restore the file as Open Ephys wrote it (with "
                "Neuropix-PXI 0.3.3 or later).",
            ) from None
    n = int(contacts.annotations["num_readout_channels"])
    chosen = element.find("CHANNELS")
    names = [] if chosen is None else [re.match(r"CH(\d+)", key) for key in chosen.attrib]
    # probeinterface has the contacts in the order of these numbers.
    numbers = sorted(int(name[1]) if name else -1 for name in names)
    n_contacts = contacts.get_contact_count()
    sound = len(set(numbers)) == len(numbers) == n_contacts and 0 <= numbers[0] <= numbers[-1] < n
    if not sound or len(set(contacts.contact_ids)) != n_contacts:
        raise HeaderError(
            "META_UNREADABLE",
            f"{what}: an electrode of its own for each of the channels CH0 to CH{n - 1} was expected in "
            "CHANNELS, found otherwise. Restore the file as Open Ephys wrote it.",
        )
    return ProbeModel(
        part_number=part_number,
        serial_number=serial,
        model=model,
        contacts=contacts,
        n_channels=n,
        place={number: k for k, number in enumerate(numbers)},
        catalogue=[str(contact) for contact in full.contact_ids],
        # A quad-base probe is four to Open Ephys; how they number their electrodes is not known.
        numbered="shank" not in element.attrib,
    )


def read_channels(source: Source, model: ProbeModel, settings: Settings) -> list[Channel]:
    """The electrode channels of a stream in the order of its columns; other columns are left out.

    Gains are structure.oebin's (µV per count), positions in µm probeinterface's,
    inter_sample_shift in sample periods; LF channels have that of their AP channel.
    Raises ``HeaderError`` (META_UNREADABLE, SETTINGS_MISMATCH).
    """
    contacts = model.contacts
    positions = contacts.contact_positions
    one_shank = contacts.shank_ids is None or contacts.get_shank_count() == 1
    # An ADC samples its channels one after the other; probes with an LF band spend one more turn per period
    # on it (12 channels in 13 turns on 1.0 probes, 16 in 16 on 2.0 probes).
    # Source: https://github.com/billkarsh/ProbeTable/issues/3
    n_turns = contacts.annotations["num_channels_per_adc"]
    if contacts.annotations["lf_sample_frequency_hz"] > 0:
        n_turns += 1
    turns = _turns(contacts.annotations["adc_sampling_table"], model.n_channels)
    channels = []
    for column, number in _readout_channels(source, model, settings).items():
        if number not in model.place:
            continue
        k = model.place[number]
        channels.append(
            Channel(
                raw_column=column,
                channel_id=source.entry["channels"][column]["channel_name"],
                contact_id=str(contacts.contact_ids[k]),
                shank=0 if one_shank else int(contacts.shank_ids[k]),
                x_um=float(positions[k, 0]),
                y_um=float(positions[k, 1]),
                inter_sample_shift=turns[number] / n_turns,
                gain_uv=float(source.entry["channels"][column]["bit_volts"]),
            )
        )
    return channels


def without_electrode(source: Source, channels: list[Channel]) -> list[str]:
    """Names of a stream's columns, other than sync, that are none of its channels."""
    columns = {channel.raw_column for channel in channels} | {source.sync_column}
    names = [channel["channel_name"] for channel in source.entry["channels"]]
    return [name for column, name in enumerate(names) if column not in columns]


def _turns(table: str, n_channels: int) -> dict[int, int]:
    """In which turn of its ADC a readout channel is sampled, from the probe table's ADC order.

    table: "(number of ADCs,channels of each)(channels sampled first, one per ADC)(sampled second)…";
    numbers beyond the probe's channels stand for none. probeinterface's own annotation counts
    contacts, so it is wrong where a channel has none.
    """
    groups = [[int(number) for number in group.split()] for group in re.findall(r"\(([\d ]+)\)", table)]
    turns = {}
    for adc in zip(*groups, strict=True):
        turns |= {number: turn for turn, number in enumerate(n for n in adc if n < n_channels)}
    return turns


def _readout_channels(source: Source, model: ProbeModel, settings: Settings) -> dict[int, int]:
    """Readout channel of each column that is one's, by its name (AP1, LFP1, CH1, …).

    Names count from 1, those of later plugins from 0: which, the first or the last name tells, and where
    both were not saved, settings.xml. A saved subset or a channel map leaves the names as they are. Where
    structure.oebin has the electrodes' numbers too they must be those of settings.xml.
    """
    where = f"{source.recording.name(OEBIN)}: {source.folder}"
    n = model.n_channels
    names = [channel["channel_name"] for channel in source.entry["channels"]]
    matches = {column: re.fullmatch(r"(?:AP|LFP|CH)(\d+)", name) for column, name in enumerate(names)}
    named = {column: int(match[1]) for column, match in matches.items() if match}
    numbers = set(named.values())
    if not named or len(numbers) != len(named) or max(numbers) - min(numbers) >= n or max(numbers) > n:
        raise HeaderError(
            "META_UNREADABLE",
            f"{where}: channels of a probe with {n} were expected, called AP, LFP or CH and a number, found "
            f"{len(named)} such names with {len(numbers)} numbers up to {max(numbers, default='none')}. "
            "Restore the file as Open Ephys wrote it.",
        )
    bases = [0] if 0 in numbers else [1] if n in numbers else [1, 0]
    if model.numbered:
        noted = {named[column]: number for column, number in source.electrodes().items() if column in named}
        electrode = {
            number: model.catalogue.index(str(model.contacts.contact_ids[k]))
            for number, k in model.place.items()
        }
        fits = [
            base
            for base in bases
            if all(electrode.get(name - base, number) == number for name, number in noted.items())
        ]
        if not fits:
            raise HeaderError(
                "SETTINGS_MISMATCH",
                f"{where}: the electrodes that settings.xml lists were expected, the channels' own "
                "electrode_index says others: settings.xml is of another experiment. Put the right one "
                "there.",
            )
        bases = fits
    if len(bases) > 1 and settings.before_06:
        bases = [1]
    if len(bases) > 1:
        recorded = (settings.recorded(source) or set()) - {n}  # n: the sync channel
        bases = [base for base in bases if {number - base for number in numbers} == recorded]
    if len(bases) != 1:
        raise HeaderError(
            "META_UNREADABLE",
            f"{where}: all channels of the probe were expected, a subset was saved, and whether its names "
            f"(numbers {min(numbers)} to {max(numbers)}) count from 0 or from 1 is not stated.",
        )
    return {column: number - bases[0] for column, number in named.items()}
