"""Every Open Ephys recording and header that is here, against tables, neo and probeinterface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from powerpixels import openephys
from powerpixels.rawdata import StreamReader, locate

MULTI = "neuroconv_ephy_testing_data/openephysbinary/v0.6.x_neuropixels_multiexp_multistream"
MIXED = "neuroconv_ephy_testing_data/openephysbinary/neural_and_non_neural_data_mixed"
SPIKES = "neuroconv_ephy_testing_data/openephysbinary/v0.4.4.1_with_spikes"
OPTO = "spikewrap/example_tiny_data/openephys/rawdata/sub-001/ses-001/ephys"
OPTO_1 = f"{OPTO}/Record Node 104/experiment1/recording1"
MULTISHANK = "probeinterface/openephys/OE_Neuropix-PXI-NP2-multishank-binary"
EPHYSIOPY = "ephysiopy"

UV = 0.1949999928474426

# folder: version, start, probes (name, part number, serial number, shanks), streams (name, rate in Hz,
# columns, channels or inputs, samples, number of the first, gain), faults (code, severity, probe).
# The values are those of the files' own text and sizes.
RECORDINGS = {
    MULTI: (
        "0.6.0",
        "2022-05-03T10:52:24",
        [("ProbeB", "NP2000", "20403311724", [0]), ("ProbeC", "NP2000", "20403311714", [0])],
        [
            ("ProbeB.ap", 30000, 384, 384, 100, 1863198, UV),
            ("ProbeC.ap", 30000, 384, 384, 100, 1863781, UV),
            ("nidq", 30000, 8, 8, 100, 1867001, 0.0003051850944757462),
        ],
        [
            ("TOO_SHORT", "blocks", None),
            ("TOO_SHORT", "blocks", "ProbeB"),
            ("TOO_SHORT", "blocks", "ProbeC"),
        ],
    ),
    # recording2 is a copy of recording1
    OPTO: (
        "0.6.0",
        "2023-08-30T23:41:36",
        [("ProbeA", "NP1300", "22112107161", [0])],
        [("ProbeA.ap", 30000, 385, 384, 2000, 21836244, UV)],
        [("TIMESTAMPS_BACK", "blocks", "ProbeA")],
    ),
    OPTO_1: (
        "0.6.0",
        "2023-08-30T23:41:36",
        [("ProbeA", "NP1300", "22112107161", [0])],
        [("ProbeA.ap", 30000, 385, 384, 1000, 21836244, UV)],
        [("TOO_SHORT", "blocks", "ProbeA")],
    ),
    MULTISHANK: (
        "0.6.7",
        "2024-12-15T15:08:45",
        [("ProbeA", "NP2013", "22420002164", [0, 1, 2, 3])],
        [("ProbeA.ap", 30000, 385, 384, 0, None, UV)],
        [("BIN_MISSING", "blocks", "ProbeA")],
    ),
    MIXED: ("0.4.5", "2022-07-25T15:30:00", [], [], [("UNSUPPORTED_STREAM", "warns", None)]),
    SPIKES: ("0.4.4.1", "2021-05-06T16:27:43", [], [], [("UNSUPPORTED_STREAM", "warns", None)]),
    # its settings.xml lies in another folder
    EPHYSIOPY: ("0.5.4", None, [], [], [("META_MISSING", "blocks", "ProbeA")]),
}


def all_streams(findings) -> list:
    """AP, LF and DAQ streams."""
    of_probes = [stream for probe in findings.probes for stream in (probe.ap, probe.lf)]
    return [stream for stream in (*of_probes, findings.nidq, *findings.daqs) if stream is not None]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording(real_data, name):
    version, start, probes, streams, faults = RECORDINGS[name]
    assert openephys.is_openephys(real_data / name)
    findings = openephys.find(real_data / name)
    assert findings.headers[""] == (version, start)
    assert [(p.name, p.part_number, p.serial_number, p.shanks) for p in findings.probes] == probes
    found = []
    for stream in all_streams(findings):
        gains = {channel.gain_uv for channel in stream.channels} | {line.gain_v for line in stream.analog}
        (gain,) = gains
        n_channels = len(stream.channels) + len(stream.analog)
        found.append(
            (
                stream.name,
                stream.sampling_rate_hz,
                stream.n_columns,
                n_channels,
                stream.n_samples,
                stream.first_sample,
                gain,
            )
        )
    assert found == streams
    assert sorted(((f.code, f.severity, f.probe) for f in findings.faults), key=str) == sorted(
        faults, key=str
    )


def test_every_recording_here_is_in_the_table(real_data):
    known = [real_data / name for name in RECORDINGS]
    for path in real_data.rglob("structure.oebin"):
        assert any(path.is_relative_to(folder) for folder in known), path


@pytest.mark.parametrize(("name", "n_streams"), [(MULTI, 3), (OPTO_1, 1)])
def test_samples_and_gains_are_those_that_neo_reads(real_data, name, n_streams):
    from neo.rawio import OpenEphysBinaryRawIO

    reader = OpenEphysBinaryRawIO(str(real_data / name))
    reader.parse_header()
    stream_ids = [str(k) for k in reader.header["signal_streams"]["id"]]
    findings = openephys.find(real_data / name)
    compared = 0
    for stream in all_streams(findings):
        folder = Path(stream.pieces[0].path).parent.name
        index = next(
            k
            for k, neo_name in enumerate(reader.header["signal_streams"]["name"])
            if str(neo_name).split("#")[-1] == folder
        )
        (places,) = locate([stream], real_data / name)
        own = StreamReader(stream, places).read(0, stream.n_samples)
        columns = [c.raw_column for c in stream.channels] or [line.raw_column for line in stream.analog]
        neo = reader.get_analogsignal_chunk(0, 0, None, None, stream_index=index)
        assert np.array_equal(own[:, columns], neo)
        signal_channels = reader.header["signal_channels"]
        neo_channels = signal_channels[signal_channels["stream_id"] == stream_ids[index]]
        gains = [c.gain_uv for c in stream.channels] or [line.gain_v for line in stream.analog]
        assert np.array_equal(gains, neo_channels["gain"])
        names = [c.channel_id for c in stream.channels] or [line.name for line in stream.analog]
        assert names == list(neo_channels["id"])
        assert reader.get_signal_t_start(0, 0, index) == stream.first_sample / stream.sampling_rate_hz
        compared += 1
    assert compared == n_streams


def test_sync_columns_hold_the_level_and_events_the_edges(real_data):
    stream = openephys.find(real_data / OPTO_1).probes[0].ap
    assert (stream.sync_column, stream.sync_bit, stream.sync_line) == (384, None, "sync")
    (places,) = locate([stream], real_data / OPTO_1)
    assert set(StreamReader(stream, places).read(0, 1000, [384])[:, 0]) == {1}
    samples, states = (np.load(places[f.path]) for f in stream.files if f.role in ("samples", "states"))
    # the level is 1 when the first event after the recording's start goes down
    assert (states[0], samples[0] > stream.first_sample) == (-1, True)
    assert set(np.unique(states)) == {-1, 1}
    assert np.diff(samples) == pytest.approx(15000, abs=2)


def test_lines_of_a_nidq_are_those_of_its_port(real_data):
    daq = openephys.find(real_data / MULTI).nidq
    assert [(line.line, line.name) for line in daq.ttl] == [(k, f"TTL{k}") for k in range(1, 9)]


# settings.xml: GUI version, probes (name of the stream, channels recorded, part number, shanks). As no data come
# with them, structure.oebin is made of their own lists of streams.
SETTINGS = {
    "aind-metadata-mapper/open_ephys/settings.xml": [
        (f"Probe{letter}", 384, "PRB_1_4_0480_1", 1) for letter in "ABCDEF"
    ],
    "aind-metadata-mapper/open_ephys/settings_main.xml": [
        ("46118", 384, "NP2000", 1),
        ("46121", 384, "NP2000", 1),
    ],
    "aind-metadata-mapper/open_ephys/settings_surface_finding.xml": [
        ("46118", 384, "NP2000", 1),
        ("46121", 384, "NP2000", 1),
    ],
    "probeinterface/openephys/OE_1.0_Neuropix-PXI-multi-probe/settings.xml": [
        ("ProbeA", 384, "NP2000", 1),
        ("ProbeB", 384, "NP2000", 1),
        ("ProbeC", 384, "NP2000", 1),
    ],
    "probeinterface/openephys/OE_6.7_enabled_disabled_Neuropix-PXI/settings_enabled-disabled.xml": [
        ("ProbeA", 384, "PRB_1_4_0480_1_C", 1)
    ],
    "probeinterface/openephys/OE_6.7_enabled_disabled_Neuropix-PXI/settings_enabled-enabled.xml": [
        ("ProbeA", 384, "PRB_1_4_0480_1_C", 1),
        ("ProbeB", 384, "NP2014", 4),
    ],
    "probeinterface/openephys/OE_Neuropix-PXI/settings.xml": [("ProbeA", 384, "NP2000", 1)],
    # the positions of its three NP1100 are not those of that part number
    "probeinterface/openephys/OE_Neuropix-PXI-NP-Ultra/settings.xml": [("ProbeD", 384, "NP1121", 1)],
    "probeinterface/openephys/OE_Neuropix-PXI-NP2-4shank/settings.xml": [("ProbeA", 384, "NP2010", 2)],
    # channel 191 of its 1.0 probe, the reference, has no electrode
    "probeinterface/openephys/OE_Neuropix-PXI-multi-probe/settings.xml": [
        ("ProbeA", 383, "PRB_1_4_0480_1", 1),
        ("ProbeB", 384, "NP2000", 1),
        ("ProbeC", 384, "NP2000", 1),
        ("ProbeD", 384, "NP1110", 1),
    ],
    "probeinterface/openephys/OE_Neuropix-PXI-multi-probe/settings_2.xml": [
        ("ProbeA", 384, "NP2010", 1),
        ("ProbeB", 384, "NP2010", 1),
    ],
    "probeinterface/openephys/OE_Neuropix-PXI-multiple-signalchains/settings.xml": [
        ("ProbeA", 384, "PRB_1_4_0480_1_C", 1)
    ],
    "probeinterface/openephys/OE_Neuropix-PXI-opto-with-sync/settings.xml": [("ProbeA", 384, "NP1300", 1)],
    "probeinterface/openephys/OE_Neuropix-PXI-subset/settings.xml": [("ProbeA", 0, "PRB_1_4_0480_1_C", 1)],
    "probeinterface/openephys/OE_OneBox-NP-Ultra/settings.xml": [("ProbeA", 384, "NP1110", 1)],
}

FAULTS = {
    "probeinterface/openephys/OE_Neuropix-PXI-NP-Ultra/settings.xml": {
        ("META_UNREADABLE", f"Probe{letter}") for letter in "ABF"
    },
    "probeinterface/openephys/OE_Neuropix-PXI-multi-probe/settings.xml": {
        ("CHANNELS_WITHOUT_ELECTRODE", "ProbeA")
    },
}


def recording_of(settings: Path, folder: Path) -> Path:
    """A recording without data whose structure.oebin has the streams that settings.xml lists."""
    root = ElementTree.parse(settings).getroot()
    entries = []
    for processor in root.iter("PROCESSOR"):
        name = processor.get("name")
        if name not in ("Neuropix-PXI", "OneBox", "NI-DAQmx", "ONIX Source"):
            continue
        for stream in processor.findall("STREAM"):
            own = stream.get("name")
            n = int(stream.get("channel_count"))
            prefix = "AP" if own.endswith("-AP") else "LFP" if own.endswith("-LFP") else "CH"
            prefix = {"NI-DAQmx": "AI", "ONIX Source": prefix}.get(name, "ADC" if "ADC" in own else prefix)
            recorded = next(
                (
                    element.get("recording_state")
                    for element in root.iter("STREAM")
                    if element.get("name") == own and set(element.get("recording_state") or "x") <= set("01")
                ),
                "1" * n,
            )
            channels = [
                f"{prefix}_SYNC" if k == 384 else f"{prefix}{k + 1}" for k in range(n) if recorded[k] == "1"
            ]
            if not channels:
                continue
            entries.append(
                {
                    "folder_name": f"{name}-{processor.get('nodeId')}.{own}/",
                    "sample_rate": float(stream.get("sample_rate")),
                    "source_processor_name": name,
                    "source_processor_id": int(processor.get("nodeId")),
                    "stream_name": own,
                    "recorded_processor": "Record Node",
                    "recorded_processor_id": next(
                        int(p.get("nodeId")) for p in root.iter("PROCESSOR") if p.get("name") == "Record Node"
                    ),
                    "num_channels": len(channels),
                    "channels": [{"channel_name": c, "bit_volts": 0.195} for c in channels],
                }
            )
    recording = folder / "experiment1" / "recording1"
    recording.mkdir(parents=True)
    header = {"GUI version": root.findtext("INFO/VERSION"), "continuous": entries}
    (recording / "structure.oebin").write_text(json.dumps(header))
    shutil.copy(settings, folder / "settings.xml")
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_contacts_are_those_that_probeinterface_reads(real_data, tmp_path, name):
    from probeinterface import read_openephys_neuropixels

    folder = recording_of(real_data / name, tmp_path / "session")
    findings = openephys.find(folder)
    # no data and no events come with the headers
    expected_of_all = ("BIN_MISSING", "SYNC_MISSING")
    others = {(f.code, f.probe) for f in findings.faults if f.code not in expected_of_all}
    assert others == FAULTS.get(name, set())
    found = [(p.name, len(p.ap.channels), p.part_number, len(p.shanks)) for p in findings.probes]
    expected = [
        (probe, n or len(findings.probes[0].ap.channels), part, shanks)
        for probe, n, part, shanks in SETTINGS[name]
    ]
    assert found == expected
    for probe in findings.probes:
        stream_name = probe.ap.name.removesuffix(".ap")
        listed = {s.get("name") for s in ElementTree.parse(real_data / name).iter("STREAM")}
        stream_name = f"{stream_name}-AP" if f"{stream_name}-AP" in listed else stream_name
        contacts = read_openephys_neuropixels(real_data / name, stream_name=stream_name)
        assert contacts.serial_number == probe.serial_number
        assert [c.contact_id for c in probe.ap.channels] == [str(c) for c in contacts.contact_ids]
        assert np.array_equal([(c.x_um, c.y_um) for c in probe.ap.channels], contacts.contact_positions)


def test_a_channel_without_electrode_is_left_out_and_shifts_none(real_data, tmp_path):
    path = real_data / "probeinterface/openephys/OE_Neuropix-PXI-multi-probe/settings.xml"
    findings = openephys.find(recording_of(path, tmp_path / "session"))
    channels = findings.probes[0].ap.channels
    assert [c.raw_column for c in channels] == [k for k in range(384) if k != 191]
    (fault,) = [f for f in findings.faults if f.code == "CHANNELS_WITHOUT_ELECTRODE"]
    assert "AP192" in fault.message
    # bank 0: channel k is electrode k, sampled in turn k // 2 % 12 of 13
    assert [c.contact_id for c in channels] == [f"e{c.raw_column}" for c in channels]
    assert [c.inter_sample_shift for c in channels] == [c.raw_column // 2 % 12 / 13 for c in channels]


def test_a_saved_subset_is_the_one_that_settings_name(real_data, tmp_path):
    path = real_data / "probeinterface/openephys/OE_Neuropix-PXI-subset/settings.xml"
    states = {
        s.get("name"): s.get("recording_state")
        for s in ElementTree.parse(path).iter("STREAM")
        if s.get("recording_state")
    }
    (probe,) = openephys.find(recording_of(path, tmp_path / "session")).probes
    recorded = [k for k, on in enumerate(states["ProbeA-AP"]) if on == "1"]
    assert 0 < len(recorded) < 384
    assert [channel.channel_id for channel in probe.ap.channels] == [f"AP{k + 1}" for k in recorded]
    assert len({channel.contact_id for channel in probe.ap.channels}) == len(recorded)


def test_every_probe_header_here_is_in_the_table(real_data):
    """Those of ONIX headstages are refused; the others lie beside a recording or have no probe."""
    elsewhere = ("OE_ONIX-NP", "multishank-binary", "openephysbinary", "spikewrap", "ephysiopy")
    for path in real_data.rglob("settings*.xml"):
        name = path.relative_to(real_data).as_posix()
        assert name in SETTINGS or any(part in name for part in elsewhere), name


@pytest.mark.parametrize(
    ("name", "probes"),
    [
        ("settings_bankA.xml", ["PortB-Neuropixels1_0eHeadstage-Probe"]),
        (
            "settings_NP2.xml",
            [f"PortA-Neuropixels2_0eHeadstage-Neuropixels2_0-Probe{k}" for k in (0, 1)],
        ),
    ],
)
def test_onix_headstages_are_named(real_data, tmp_path, name, probes):
    folder = recording_of(real_data / "probeinterface/openephys/OE_ONIX-NP" / name, tmp_path / "session")
    findings = openephys.find(folder)
    blocked = [fault for fault in findings.faults if fault.severity == "blocks"]
    assert sorted(fault.probe for fault in blocked) == probes
    assert {fault.code for fault in findings.faults} == {"UNSUPPORTED_STREAM"}
    assert findings.probes == []


def test_a_plugin_that_noted_no_electrodes(real_data, tmp_path):
    shutil.copy(real_data / "ephysiopy" / "structure.oebin", tmp_path / "structure.oebin")
    shutil.copy(real_data / "ephysiopy" / "npx_settings_file" / "settings.xml", tmp_path / "settings.xml")
    findings = openephys.find(tmp_path)
    assert [(fault.code, fault.severity, fault.probe) for fault in findings.faults] == [
        ("UNKNOWN_PROBE", "blocks", "ProbeA")
    ]
    assert findings.headers["ProbeA"] == ("0.5.4", "2021-06-04T14:14:41")
