"""Small Open Ephys recordings for tests: headers as the GUI writes them, data files of zeros or as given."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np


@dataclass(frozen=True)
class OeProbe:
    """An NP_PROBE of settings.xml with its streams' names; bank 0 of an NP1, 96 rows of each shank of an "
    "NP2."""

    streams: tuple[str, ...] = ("ProbeA-AP", "ProbeA-LFP")
    part_number: str = "PRB_1_4_0480_1"
    serial: str = "18005116811"
    attributes: dict = field(default_factory=dict)

    @property
    def has_lf(self) -> bool:
        return not self.part_number.startswith("NP20")


NP1 = OeProbe()
NP2 = OeProbe(("ProbeB",), "NP2014", "22420006883")


@dataclass(frozen=True)
class OeStream:
    """One stream: its header, and the samples of one recording.

    numbers: sample number of each sample. data: (n samples, n channels) int16, None: a (sparse) file of
    n_rows zeros, n_rows None: as many as there are numbers. ttl: (sample numbers, states) of its events.
    """

    name: str
    channels: tuple[str, ...]
    rate: float = 30000.0
    processor: str = "Neuropix-PXI"
    node: int = 100
    sub_idx: int = 0
    bit_volts: float = 0.195
    history: str = "Neuropix-PXI -> Record Node"
    electrodes: tuple[int, ...] = ()
    numbers: np.ndarray = field(default_factory=lambda: np.arange(1000, 37000))
    data: np.ndarray | None = None
    n_rows: int | None = None
    ttl: tuple[list[int], list[int]] | None = ([2000, 17000, 32000], [1, -1, 1])

    @property
    def folder(self) -> str:
        return f"{self.processor}-{self.node}.{self.name}"


def ap(name: str = "ProbeA-AP", first_name: int = 1, **changes) -> OeStream:
    """An AP stream with all 384 channels."""
    return replace(OeStream(name, tuple(f"AP{k + first_name}" for k in range(384))), **changes)


def lfp(name: str = "ProbeA-LFP", **changes) -> OeStream:
    """Its LFP stream, as long."""
    numbers = np.arange(100, 3100)
    ttl = ([170, 1420, 2670], [1, -1, 1])
    stream = OeStream(name, tuple(f"LFP{k + 1}" for k in range(384)), 2500.0, numbers=numbers, ttl=ttl)
    return replace(stream, **{"sub_idx": 1, **changes})


def wide(name: str = "ProbeB", **changes) -> OeStream:
    """A 2.0 probe's stream with all 384 channels."""
    return replace(OeStream(name, tuple(f"CH{k + 1}" for k in range(384))), **changes)


def nidq(name: str = "PXIe-6341", **changes) -> OeStream:
    """A NI-DAQ's stream with eight inputs."""
    stream = OeStream(
        name,
        tuple(f"AI{k}" for k in range(8)),
        processor="NI-DAQmx",
        node=103,
        bit_volts=0.0003051850944757462,
        history="NI-DAQmx -> Record Node",
        ttl=([5000, 6000, 20000], [1, 3, -1]),
    )
    return replace(stream, **changes)


def write_npy(path: Path, values: np.ndarray, stated: int | None = None) -> None:
    """A .npy file as Open Ephys writes it; stated: the length in the header, where that is not right."""
    shape = f"({len(values) if stated is None else stated},)"
    header = (
        f"{{'descr': '{values.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values.tobytes()
    )


def write_recording(
    folder: Path, streams: list[OeStream], gui: str = "0.6.7", record_node: int = 101
) -> Path:
    """Write recording<m>; below version 0.6 with the files and headers of that time."""
    old = gui.startswith(("0.4", "0.5"))
    continuous, events, messages = (
        [],
        [],
        ["Software Time (milliseconds since midnight Jan 1st 1970 UTC): 1693464096435"],
    )
    for stream in streams:
        name = f"{stream.processor}-{stream.node}.{stream.sub_idx}" if old else stream.folder
        own = {"source_processor_sub_idx": stream.sub_idx} if old else {"stream_name": stream.name}
        channels = [
            {
                "channel_name": channel,
                "history": stream.history,
                "bit_volts": 1.0 if channel.endswith("SYNC") else stream.bit_volts,
                "units": "uV" if old else "",
            }
            for channel in stream.channels
        ]
        for channel, electrode in zip(channels, stream.electrodes, strict=False):
            channel["channel_metadata"] = [
                {"identifier": "neuropixels.electrode_index", "length": 1, "value": [electrode]}
            ]
        continuous.append(
            {
                "folder_name": f"{name}/",
                "sample_rate": stream.rate,
                "source_processor_name": stream.processor,
                "source_processor_id": stream.node,
                **own,
                "recorded_processor": "Record Node",
                "recorded_processor_id": record_node,
                "num_channels": len(channels),
                "channels": channels,
            }
        )
        data_folder = folder / "continuous" / name
        data_folder.mkdir(parents=True)
        numbers = np.asarray(stream.numbers, dtype="<i8")
        if stream.data is not None:
            stream.data.astype("<i2").tofile(data_folder / "continuous.dat")
        else:
            n_rows = len(numbers) if stream.n_rows is None else stream.n_rows
            with (data_folder / "continuous.dat").open("wb") as file:
                file.truncate(2 * len(channels) * n_rows)
        write_npy(data_folder / ("timestamps.npy" if old else "sample_numbers.npy"), numbers)
        if not old:
            write_npy(data_folder / "timestamps.npy", numbers / stream.rate)
        if len(numbers):
            messages.append(
                f"Start Time for {stream.processor} ({stream.node}) - {stream.name} @ {stream.rate:g} Hz: "
                f"{numbers[0]}"
            )
        if stream.ttl is not None:
            ttl = f"TTL_{stream.sub_idx + 1}" if old else "TTL"
            events.append({"folder_name": f"{name}/{ttl}/", "description": "TTL events", "type": "int16"})
            samples, states = np.asarray(stream.ttl[0], "<i8"), np.asarray(stream.ttl[1], "<i2")
            names = ("timestamps.npy", "channel_states.npy") if old else ("sample_numbers.npy", "states.npy")
            for file, values in zip(names, (samples, states), strict=True):
                write_npy(folder / "events" / name / ttl / file, values)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"GUI version": gui, "continuous": continuous, "events": events, "spikes": []}
    (folder / "structure.oebin").write_text(json.dumps(header))
    (folder / "sync_messages.txt").write_text("\n".join(messages) + "\n")
    return folder


def write_settings(
    path: Path,
    probes: list[OeProbe],
    gui: str = "0.6.7",
    node: int = 100,
    processor: str = "Neuropix-PXI",
    recorded: dict[str, str] | None = None,
    date: str = "30 Aug 2023 23:41:36",
) -> Path:
    """Write settings.xml; recorded: by stream the channels that Record Node 101 writes, as 0 and 1."""
    old, new = gui.startswith(("0.4", "0.5")), gui.startswith("1.")
    root = ElementTree.Element("SETTINGS")
    info = ElementTree.SubElement(root, "INFO")
    ElementTree.SubElement(info, "VERSION").text = gui
    ElementTree.SubElement(info, "DATE").text = date
    chain = ElementTree.SubElement(root, "SIGNALCHAIN")
    attributes = {"name": processor, "libraryVersion": "0.6.4", "NodeId" if old else "nodeId": str(node)}
    source = ElementTree.SubElement(chain, "PROCESSOR", attributes)
    for probe in probes:
        if old or probe.attributes.get("isEnabled") == "0":
            continue
        for name in probe.streams:
            rate = "2500.0" if name.endswith("-LFP") else "30000.0"
            ElementTree.SubElement(source, "STREAM", {"name": name, "sample_rate": rate})
    parent = ElementTree.SubElement(source, "EDITOR")
    if new:
        parent = ElementTree.SubElement(parent, "CUSTOM_PARAMETERS")
    for probe in probes:
        gains = {"apGainValue": "500x", "lfpGainValue": "250x"} if probe.has_lf else {}
        element = ElementTree.SubElement(
            parent,
            "NP_PROBE",
            {
                "slot": "2",
                "port": "1",
                "dock": "1",
                "probe_serial_number": probe.serial,
                "probe_part_number": probe.part_number,
                **gains,
                **probe.attributes,
            },
        )
        channels, x_um, y_um = {}, {}, {}
        for k in range(384):
            if probe.has_lf:
                row, column = divmod(k, 2)
                channels[f"CH{k}"], x, y = "0", (11 if row % 2 else 27) + 32 * column, 20 * row
            else:
                shank, row, column = k // 96, k % 96 // 2, k % 2
                channels[f"CH{k}"], x, y = f"0:{shank}", 8 + 32 * column + 250 * shank, 15 * row
                y += 250 * shank * old  # the plugin's error of that time
            x_um[f"CH{k}"], y_um[f"CH{k}"] = str(x), str(y)
        for tag, values in (("CHANNELS", channels), ("ELECTRODE_XPOS", x_um), ("ELECTRODE_YPOS", y_um)):
            ElementTree.SubElement(element, tag, values)
    record = ElementTree.SubElement(chain, "PROCESSOR", {"name": "Record Node", "nodeId": "101"})
    parameters = ElementTree.SubElement(record, "CUSTOM_PARAMETERS")
    for name, state in (recorded or {}).items():
        ElementTree.SubElement(parameters, "STREAM", {"name": name, "recording_state": state})
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def write_session(
    session: Path,
    recordings: list[list[OeStream]],
    probes: list[OeProbe],
    gui: str = "0.6.7",
    record_node: int = 101,
    **settings,
) -> Path:
    """A session with one Record Node, one experiment, and the recordings given; returns the node's folder."""
    node = session / f"Record Node {record_node}"
    write_settings(node / "settings.xml", probes, gui, **settings)
    for number, streams in enumerate(recordings, start=1):
        write_recording(node / "experiment1" / f"recording{number}", streams, gui, record_node)
    return node
