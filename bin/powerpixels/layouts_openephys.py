"""A simulated session as Open Ephys' GUI would have written it, in its binary format.

Written from the documentation of the format and from real recordings of GUI 0.5, 0.6 and 1.0. As there, the
samples are in steps of 0.195 µV whatever the probe's own: these are finer, so that nothing is lost.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from powerpixels.layouts_files import (
    Part,
    Work,
    parts_of,
    piece_fields,
    row_chunks,
    source_meta,
    source_rows,
    write_rows,
)
from powerpixels.simulate import PROBE_MODELS, ProbeTruth, StreamTruth, acquired_channel

# µV per count, and volts of the NI device's range, in Open Ephys' files.
OPENEPHYS_UV = 0.1949999928474426
OPENEPHYS_NI_V = 5.0 / 32767


class _Stream(NamedTuple):
    """A stream as Open Ephys has it. name: in settings.xml ("ProbeA-AP"); folder: below continuous/."""

    truth: StreamTruth
    probe: ProbeTruth | None
    name: str
    folder: str
    ttl_folder: str
    sub_idx: int
    channels: list[str]
    unit: float


class Gui(NamedTuple):
    """Version of the program, and its ids of processors."""

    version: str
    library: str
    record_node: int

    @property
    def old(self) -> bool:
        """Before 0.6: other file names, streams have numbers."""
        return self.version.startswith("0.5")

    @property
    def new(self) -> bool:
        """From 1.0 on: settings.xml has other elements."""
        return self.version.startswith("1.")


GUI_06 = Gui("0.6.7", "0.6.4", 101)
GUI_10 = Gui("1.0.1", "1.0.0", 101)
GUI_05 = Gui("0.5.4", "0.3.3", 102)
NEUROPIX_NODE, NI_NODE = 100, 103


def openephys(
    gui: Gui, kind: Literal["whole", "gaps"] = "whole", top: str = ".", sync_column: bool = False
) -> Callable[[Work], dict[str, StreamTruth]]:
    """Open Ephys' binary format, a recording for each part; sync_column: also in the probes' samples."""

    def write(work: Work) -> dict[str, StreamTruth]:
        node = work.raw / top / f"Record Node {gui.record_node}"
        ours = _openephys_streams(work, gui, sync_column)
        node.mkdir(parents=True)
        (node / "settings.xml").write_text(_settings(work, gui, ours, sync_column), encoding="utf-8")
        parts = {stream.name: parts_of(work, stream.truth, kind) for stream in ours}
        files: dict[str, list[str]] = {stream.name: [] for stream in ours}
        for number in range(len(parts[ours[0].name])):
            recording = node / "experiment1" / f"recording{number + 1}"
            for stream in ours:
                data = _write_continuous(
                    work, gui, recording, stream, parts[stream.name][number], sync_column
                )
                _write_ttl(work, gui, recording, stream, parts[stream.name][number])
                files[stream.name].append(data.relative_to(work.out).as_posix())
            firsts = {stream.name: parts[stream.name][number].first for stream in ours}
            _write_structure(work, gui, recording, ours, firsts)
        streams = {}
        for stream in ours:
            own = stream.truth
            changes = piece_fields(own, parts[stream.name], files[stream.name])
            if stream.probe is not None:
                letter = _letter(work, stream.probe)
                changes["name"] = f"Probe{letter}.{own.name.rpartition('.')[2]}"
                changes |= {"n_columns": own.n_columns - 1, "sync_column": None, "sync_bit": None}
                if sync_column:
                    changes |= {"n_columns": own.n_columns, "sync_column": own.n_columns - 1}
            else:
                changes |= {"n_columns": 1, "sync_column": None, "sync_bit": None}
            streams[own.name] = own.model_copy(update=changes)
        return streams

    return write


def _letter(work: Work, probe: ProbeTruth) -> str:
    """A for the first probe, B for the second, …"""
    return "ABCDEFGH"[[p.name for p in work.source.document.probes].index(probe.name)]


def _openephys_streams(work: Work, gui: Gui, sync_column: bool) -> list[_Stream]:
    """All streams in the order of the probes, then the NI device's."""
    streams: list[_Stream] = []
    for probe in work.source.document.probes:
        letter = _letter(work, probe)
        bands = [(probe.ap, "AP" if probe.lf else "CH", "-AP"), (probe.lf, "LFP", "-LFP")]
        for truth, prefix, suffix in bands:
            if truth is None:
                continue
            name = f"Probe{letter}{suffix if probe.lf else ''}"
            folder = f"Neuropix-PXI-{NEUROPIX_NODE}.{len(streams) if gui.old else name}"
            ttl = f"TTL_{len(streams) + 1}" if gui.old else "TTL"
            channels = [f"{prefix}{channel.acquired_channel + 1}" for channel in probe.channels]
            if sync_column:
                channels.append(f"{prefix}_SYNC")
            streams.append(
                _Stream(truth, probe, name, folder, f"{folder}/{ttl}", len(streams), channels, OPENEPHYS_UV)
            )
    nidq = work.source.document.nidq
    folder = f"NI-DAQmx-{NI_NODE}.{0 if gui.old else 'PXIe-6341'}"
    ttl = "TTL_1" if gui.old else "TTL"
    streams.append(_Stream(nidq, None, "PXIe-6341", folder, f"{folder}/{ttl}", 0, ["AI0"], OPENEPHYS_NI_V))
    return streams


def _write_continuous(
    work: Work, gui: Gui, recording: Path, stream: _Stream, part: Part, sync_column: bool
) -> Path:
    """continuous.dat in the program's own steps of µV (or volts), and the samples' numbers."""
    folder = recording / "continuous" / stream.folder
    rows, truth = source_rows(work, stream.truth), stream.truth
    if stream.probe is None:
        source_unit = float(source_meta(work, truth)["niAiRangeMax"]) / 32768
        n_analog = 1
    else:
        source_unit = stream.probe.gain_uv if truth.name.endswith(".ap") else stream.probe.lf_gain_uv
        n_analog = truth.n_columns - 1

    def blocks() -> Iterator[np.ndarray]:
        for first, last in row_chunks(part.last - part.first):
            block = rows[part.first + first : part.first + last]
            scaled = np.rint(block[:, :n_analog] * (source_unit / stream.unit))
            scaled = np.clip(scaled, -32768, 32767).astype("<i2")
            if sync_column and stream.probe is not None:
                level = (block[:, truth.sync_column] >> truth.sync_bit) & 1
                scaled = np.hstack([scaled, level[:, None]])
            yield scaled

    data = folder / "continuous.dat"
    write_rows(data, blocks())
    first, n = truth.first_sample + part.first, part.last - part.first
    if gui.old:
        _save_numbers(folder / "timestamps.npy", first, n)
        return data
    _save_numbers(folder / "sample_numbers.npy", first, n)
    _save_numbers(folder / "timestamps.npy", first, n, truth.sampling_rate_hz)
    return data


def _save_numbers(path: Path, first: int, n: int, rate_hz: float | None = None) -> None:
    """Write n numbers from first on as int64 .npy, or divided by a rate as float64."""
    dtype = np.int64 if rate_hz is None else np.float64
    numbers = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n,))
    for a, b in row_chunks(n):
        numbers[a:b] = np.arange(first + a, first + b) / (1 if rate_hz is None else rate_hz)


def _write_ttl(work: Work, gui: Gui, recording: Path, stream: _Stream, part: Part) -> None:
    """Every change of a line during the part: of a probe its sync on line 1, of the NI device all bits."""
    truth = stream.truth
    column, mask = source_rows(work, truth)[part.first : part.last, truth.sync_column], 0xFF
    if stream.probe is not None:
        mask = 1 << truth.sync_bit
    at, before, after = [], [], []
    for first, last in row_chunks(part.last - part.first):
        word = np.array(column[max(first - 1, 0) : last]) & mask
        changes = 1 + np.flatnonzero(np.diff(word))
        at.append(max(first - 1, 0) + changes)
        before.append(word[changes - 1])
        after.append(word[changes])
    at, before, after = np.concatenate(at), np.concatenate(before), np.concatenate(after)
    if stream.probe is not None:
        before, after = before >> truth.sync_bit, after >> truth.sync_bit
    # Several lines may change at once: an event for each of them, with the word as it is then.
    which, bit = np.nonzero(((before ^ after)[:, None] >> np.arange(8)) & 1)
    states = np.where((after[which] >> bit) & 1, bit + 1, -(bit + 1)).astype(np.int16)
    words, numbers = after[which], truth.first_sample + part.first + at[which].astype(np.int64)
    folder = recording / "events" / stream.ttl_folder
    folder.mkdir(parents=True)
    if gui.old:
        np.save(folder / "channel_states.npy", states)
        np.save(folder / "channels.npy", np.abs(states).astype(np.uint16))
        np.save(folder / "full_words.npy", words.astype(np.uint8))
        np.save(folder / "timestamps.npy", numbers)
        return
    np.save(folder / "states.npy", states)
    np.save(folder / "sample_numbers.npy", numbers)
    np.save(folder / "timestamps.npy", numbers / truth.sampling_rate_hz)
    np.save(folder / "full_words.npy", words.astype(np.uint64))


def _write_structure(
    work: Work, gui: Gui, recording: Path, streams: list[_Stream], firsts: dict[str, int]
) -> None:
    """structure.oebin, and sync_messages.txt with the streams' first samples."""
    continuous, events, n_before = [], [], 0
    for stream in streams:
        node, processor = (NEUROPIX_NODE, "Neuropix-PXI") if stream.probe else (NI_NODE, "NI-DAQmx")
        rate = stream.truth.sampling_rate_hz
        own = {} if gui.old else {"stream_name": stream.name}
        channels = []
        for index, name in enumerate(stream.channels):
            sync = name.endswith("_SYNC")
            channel = {
                "channel_name": name,
                "description": "Neuropixels sync line (continuously sampled)" if sync else "Data channel",
                "identifier": "genericdata.continuous" if gui.old else "",
                "history": f"{processor} -> Record Node",
                "bit_volts": 1.0 if sync else stream.unit,
                "units": ("uV" if stream.probe else "V") if gui.old else "",
            }
            if stream.probe and not sync and not gui.old:
                channel["channel_metadata"] = [
                    {
                        "name": "electrode_index",
                        "description": "Electrode index for this channel",
                        "identifier": "neuropixels.electrode_index",
                        "type": "uint16",
                        "length": 1,
                        "value": [_electrode_index(stream.probe.channels[index].contact_id)],
                    }
                ]
            if gui.old:
                acquired = stream.probe.channels[index].acquired_channel if stream.probe else index
                channel |= {
                    "source_processor_index": acquired + (n_before if stream.probe else 0),
                    "recorded_processor_index": n_before + acquired,
                }
            channels.append(channel)
        n_before += 384 if stream.probe else 1
        continuous.append(
            {
                "folder_name": f"{stream.folder}/",
                "sample_rate": rate,
                "source_processor_name": processor,
                "source_processor_id": node,
                **({"source_processor_sub_idx": stream.sub_idx} if gui.old else own),
                "recorded_processor": "Record Node",
                "recorded_processor_id": gui.record_node,
                "num_channels": len(channels),
                "channels": channels,
            }
        )
        level = int(source_rows(work, stream.truth)[firsts[stream.name], stream.truth.sync_column])
        if stream.probe:
            level = (level >> stream.truth.sync_bit) & 1
        what = {
            "folder_name": f"{stream.ttl_folder}/",
            "channel_name": "Neuropixels PXI Sync" if stream.probe else "PXIe-6341Digital Input Line",
            "description": "Status of SMA sync line on PXI card" if stream.probe else "Digital Line",
            "identifier": "sourceevent" if gui.old else "neuropixels.sync" if stream.probe else "identifier",
            "sample_rate": rate,
            "type": "int16",
            "source_processor": processor,
        }
        more = {"num_channels": 1 if stream.probe else 8} if gui.old else {**own, "initial_state": level}
        events.append({**what, **more})
    structure = {"GUI version": gui.version, "continuous": continuous, "events": events, "spikes": []}
    (recording / "structure.oebin").write_text(json.dumps(structure, indent=4), encoding="utf-8")

    start = datetime.fromisoformat(work.source.document.config.start_time).replace(tzinfo=timezone.utc)
    lines = []
    if gui.old:
        lines.append("Software time: 1000000@3312692Hz")
    else:
        milliseconds = round(start.timestamp() * 1000)
        lines.append(f"Software Time (milliseconds since midnight Jan 1st 1970 UTC): {milliseconds}")
    for stream in streams:
        first = stream.truth.first_sample + firsts[stream.name]
        node, processor = (NEUROPIX_NODE, "Neuropix-PXI") if stream.probe else (NI_NODE, "NI-DAQmx")
        rate = f"{stream.truth.sampling_rate_hz:g}"
        if gui.old:
            lines.append(
                f"Processor: {processor} Id: {node} subProcessor: {stream.sub_idx} "
                f"start time: {first}@{rate}Hz"
            )
        else:
            lines.append(f"Start Time for {processor} ({node}) - {stream.name} @ {rate} Hz: {first}")
    (recording / "sync_messages.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _electrode_index(contact_id: str) -> int:
    """The program's number of an electrode on the whole probe: 1280 for each shank before its own."""
    shank, electrode = re.fullmatch(r"(?:s(\d+))?e(\d+)", contact_id).groups()
    return 1280 * int(shank or 0) + int(electrode)


def _settings(work: Work, gui: Gui, streams: list[_Stream], sync_column: bool) -> str:
    """settings.xml: the probes with the electrodes of all 384 channels, and which channels are recorded."""
    config = work.source.document.config
    root = ElementTree.Element("SETTINGS")
    info = ElementTree.SubElement(root, "INFO")
    start = datetime.fromisoformat(config.start_time)
    date = f"{start.day} {start:%b %Y} {start.hour}:{start:%M:%S}"
    for tag, text in (
        ("VERSION", gui.version),
        ("PLUGIN_API_VERSION", "7" if gui.old else "8"),
        ("DATE", date),
        ("OS", "Windows 10"),
    ):
        ElementTree.SubElement(info, tag).text = text
    ElementTree.SubElement(info, "MACHINE", {"name": "RIG1", "cpu_model": "unknown", "cpu_num_cores": "24"})
    chain = ElementTree.SubElement(root, "SIGNALCHAIN")

    def processor(name: str, node: int, library: str, kind: str) -> ElementTree.Element:
        if gui.old:
            place = {"Record Node": "Filters"}.get(name, "Sources")
            attributes = {"name": f"{place}/{name}", "insertionPoint": "0", "pluginName": name}
            attributes |= {"pluginType": "4", "pluginIndex": "1", "libraryName": name}
            attributes |= {"libraryVersion": library, "isSource": "1", "isSink": "0", "NodeId": f"{node}"}
        else:
            attributes = {"name": name, "insertionPoint": "0", "pluginName": name, "type": "4", "index": "0"}
            attributes |= {"libraryName": name, "libraryVersion": library, "processorType": kind}
            attributes |= {"nodeId": f"{node}"}
        return ElementTree.SubElement(chain, "PROCESSOR", attributes)

    def add_streams(parent: ElementTree.Element, wanted: list[_Stream]) -> None:
        for stream in () if gui.old else wanted:
            attributes = _stream_attributes(stream, sync_column)
            ElementTree.SubElement(
                ElementTree.SubElement(parent, "STREAM", attributes), "PARAMETERS", {"enable_stream": "1"}
            )

    probe_streams = [stream for stream in streams if stream.probe is not None]
    neuropix = processor("Neuropix-PXI", NEUROPIX_NODE, gui.library, "2")
    add_streams(neuropix, probe_streams)
    editor = ElementTree.SubElement(neuropix, "EDITOR", {"displayName": "Neuropix-PXI"})
    custom = ElementTree.SubElement(
        editor,
        "NEUROPIXELS_EDITOR",
        {
            "MainSyncSlot": "0",
            "SendSyncAsContinuous": f"{int(sync_column)}",
            "SyncDirection": "1",
            "SyncFreq": "0",
        },
    )
    ElementTree.SubElement(custom, "BASESTATION", {"Directory": "", "Slot": "2", "NamingScheme": "1"})
    place = ElementTree.SubElement(editor, "CUSTOM_PARAMETERS") if gui.new else editor
    for port, probe in enumerate(work.source.document.probes, start=1):
        _add_probe(place, gui, probe, port)
    ni = processor("NI-DAQmx", NI_NODE, "0.3.0", "2")
    add_streams(ni, streams[len(probe_streams) :])
    record = processor("Record Node", gui.record_node, "", "8")
    add_streams(record, streams)
    parameters = ElementTree.SubElement(
        record, "CUSTOM_PARAMETERS", {"path": "D:\\data", "engine": "BINARY", "recordEvents": "1"}
    )
    for stream in streams if gui.version.startswith("0.6") else ():
        attributes = _stream_attributes(stream, sync_column)
        state = "ALL"
        if stream.probe is not None:
            recorded = {channel.acquired_channel for channel in stream.probe.channels}
            state = "".join(str(int(channel in recorded)) for channel in range(384)) + "1" * sync_column
        attributes |= {
            "isMainStream": str(int(stream is streams[0])),
            "sync_line": "0",
            "recording_state": state,
        }
        ElementTree.SubElement(parameters, "STREAM", attributes)
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    )


def _stream_attributes(stream: _Stream, sync_column: bool) -> dict[str, str]:
    """A STREAM element of settings.xml. Its channels are those acquired, not those recorded."""
    n_channels = (384 + sync_column) if stream.probe else 1
    attributes = {
        "name": stream.name,
        "description": "description",
        "sample_rate": f"{stream.truth.sampling_rate_hz}",
        "channel_count": f"{n_channels}",
    }
    if stream.probe is not None:
        attributes["device_name"] = _device_name(stream.probe)
    return attributes


def _device_name(probe: ProbeTruth) -> str:
    return "Neuropixels 1.0" if probe.lf else "Neuropixels 2.0 - Multishank"


def _add_probe(editor, gui: Gui, probe: ProbeTruth, port: int) -> None:
    """NP_PROBE: bank, x and y of every channel's electrode.

    x counts from the left edge of the first shank as the plugin has it. Before 0.6 the plugin added the
    shank's distance to y, too (probeinterface knows: fix_x_position_for_oe_5).
    """
    model_name = "1.0" if probe.lf else "2.0-4shank"
    model = PROBE_MODELS[model_name]
    attributes = {
        "slot": "2",
        "bs_firmware_version": "2.0169",
        "bsc_part_number": "NP2_QBSC_00",
        "headstage_part_number": "NP2_HS_30",
        "port": f"{port}",
        "dock": "1",
        "probe_serial_number": probe.serial_number,
        "probe_part_number": probe.part_number,
        "probe_name": _device_name(probe),
        "num_adcs": "32" if probe.lf else "24",
        "custom_probe_name": probe.serial_number,
    }
    if probe.lf:
        attributes |= {"apGainValue": f"{model.ap_gain}x", "lfpGainValue": f"{model.lf_gain}x"}
        attributes |= {"filterCut": "ON", "filterCutIndex": "1"}
    attributes |= {"referenceChannel": "Ext", "referenceChannelIndex": "0"}
    element = ElementTree.SubElement(editor, "NP_PROBE", attributes)
    bank, x_um, y_um = {}, {}, {}
    for shank in range(model.n_shanks):
        for electrode in range(384 // model.n_shanks):
            key = f"CH{acquired_channel(model_name, shank, electrode)}"
            x, y = _electrode_um(model_name, electrode)
            bank[key] = f"0:{shank}" if model.n_shanks > 1 else "0"
            x_um[key] = f"{x + shank * model.shank_pitch_um}"
            y_um[key] = f"{y + (shank * model.shank_pitch_um if gui.old else 0)}"
    for tag, values in (("CHANNELS", bank), ("ELECTRODE_XPOS", x_um), ("ELECTRODE_YPOS", y_um)):
        ElementTree.SubElement(element, tag, values)


def _electrode_um(model: str, electrode: int) -> tuple[int, int]:
    """x and y of an electrode on its shank, as real settings.xml of both models have them."""
    row, column = divmod(electrode, 2)
    if model == "1.0":
        return (11 if row % 2 else 27) + 32 * column, 20 * row
    return 8 + 32 * column, 15 * row


def two_nodes(work: Work) -> dict[str, StreamTruth]:
    """Two Record Nodes in the chain that recorded the same."""
    streams = openephys(GUI_06)(work)
    first, second = (work.raw / f"Record Node {GUI_06.record_node + more}" for more in (0, 3))
    shutil.copytree(first, second)
    for path in second.rglob("structure.oebin"):
        structure = json.loads(path.read_text(encoding="utf-8"))
        for stream in structure["continuous"]:
            stream["recorded_processor_id"] = GUI_06.record_node + 3
        path.write_text(json.dumps(structure, indent=4), encoding="utf-8")
    return streams
