"""NWB of the probe in exported_probe, against its ALF and its documents."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import nwb_parts
import nwbinspector
import pytest
from exported_probe import CLOCK, LABELS, N_SAMPLES, OTHER_LABELS, RATE, UNIT_IDS, built, session_of
from hdmf_zarr.nwb import NWBZarrIO
from iblatlas.regions import BrainRegions
from nwb_parts import COMPLETE, LICKS, NIDQ_RATE, ZONE, metadata, violations
from nwbinspector import Importance, inspect_nwbfile
from powerpixels import alf, nwb
from powerpixels.brain import BrainLocation
from powerpixels.clock import to_reference_seconds
from powerpixels.documents import Part, Session
from powerpixels.export import gather
from powerpixels.rawdata import StreamReader, locate
from pynwb import NWBHDF5IO, validate
from spikeinterface.extractors.nwbextractors import NwbRecordingExtractor, NwbSortingExtractor

UNITS = [(shank, unit_id) for shank in (0, 2) for unit_id in UNIT_IDS[shank]]


@pytest.fixture(scope="module")
def export():
    made = built()
    return gather(made.document, made.preprocess, CLOCK, made.units)


@pytest.fixture(scope="module")
def written(export, tmp_path_factory):
    """With all metadata and all traces, by backend; and what went in."""
    folder = tmp_path_factory.mktemp("parts")
    traces = nwb_parts.traces(built(), folder)
    known = metadata(export.document.session, folder)
    return {name: nwb.write_nwb(export, known, folder / "nwb", name, traces) for name in ("hdf5", "zarr")}


@pytest.fixture(scope="module")
def path(written):
    return written["hdf5"]


@pytest.fixture(scope="module", params=["hdf5", "zarr"])
def nwbfile(request, written):
    path = written[request.param]
    with NWBHDF5IO(path, "r") if request.param == "hdf5" else NWBZarrIO(str(path), "r") as io:
        assert validate(io=io) == []
        yield io.read()


def session(**changes) -> Session:
    known = {
        "subject": "mouse01",
        "session": "2026-03-01_001",
        "acquisition": "spikeglx",
        "acquisition_version": None,
        "start_time": "2026-03-01T12:34:56",
    }
    return Session(**{**known, **changes})


# dandi.organize.ORGANIZED_FILENAME_REGEX of dandi 0.81.
DANDI_LABEL = r"[^_*\\/<>:|\"'?%@;.]+"
DANDI_NAME = (
    rf"sub-{DANDI_LABEL}(_ses-{DANDI_LABEL})?(_(tis|slice|cell|desc|probe|obj)-{DANDI_LABEL})*"
    r"(_[a-z]+(\+[a-z]+)*)?\.nwb"
)


def test_name(written):
    assert written["hdf5"].name == "sub-mouse01_ses-2026-03-01-001_probe-probe00_ecephys.nwb"
    assert written["zarr"].name == written["hdf5"].name + ".zarr"
    for known, probe in (
        (session(), "probe00"),
        (session(subject="a.b_c-d", session="2026-03-01"), "Probe_A"),
    ):
        assert re.fullmatch(DANDI_NAME, nwb.file_name(known, probe))
    assert nwb.file_name(session(subject="a.b_c"), "Probe_A").startswith(
        "sub-a-b-c_ses-2026-03-01-001_probe-Probe-A_"
    )


def test_nothing_but_the_regions_that_nobody_gave_is_criticised(written, export, tmp_path):
    """Mice have regions of the Allen CCF; where the probe was not aligned they are "unknown"."""
    regions = {"check_electrodes_location_allen_ccf"}
    assert violations(written["hdf5"]) == regions
    # The inspector itself fails on Zarr: it calls pynwb's validation as for HDF5 (here: done above), and one of
    # its checks indexes by floats.
    found = violations(written["zarr"], skip_validate=True)
    assert {
        name for name in found if "check_units_table_duration' - <class 'IndexError'>" not in name
    } == regions
    rat = metadata(export.document.session, tmp_path, COMPLETE.replace("Mus musculus", "Rattus norvegicus"))
    assert violations(nwb.write_nwb(export, rat, tmp_path)) == set()


def test_only_unknown_metadata_are_missing(export, tmp_path):
    path = nwb.write_nwb(export, metadata(export.document.session, tmp_path, ZONE), tmp_path)
    # Nobody told us the subject's species and age, and they must not be invented; all else is right.
    assert violations(path) == {"check_subject_species_exists", "check_subject_age"}
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        assert nwbfile.session_start_time == datetime(2026, 3, 1, 12, 34, 56, tzinfo=timezone.utc)
        assert (nwbfile.subject.subject_id, nwbfile.subject.sex) == ("mouse01", "U")
        assert nwbfile.subject.species is nwbfile.subject.age is nwbfile.subject.date_of_birth is None
        assert nwbfile.lab is nwbfile.institution is nwbfile.experimenter is None
        assert not nwbfile.events and not nwbfile.acquisition and not nwbfile.processing


def test_without_what_nwb_demands_nothing_is_written(export, tmp_path):
    with pytest.raises(ValueError, match="the time zone of the session's start"):
        nwb.write_nwb(
            export, metadata(export.document.session, tmp_path, "Subject: {sex: F}"), tmp_path / "nwb"
        )
    assert not (tmp_path / "nwb").exists()


def test_electrodes_are_all_recorded_channels(nwbfile):
    made = built()
    table = nwbfile.electrodes.to_dataframe()
    labels = {label.raw_column: label.label for label in made.preprocess.labels}
    channels = sorted(made.document.probe.ap.channels, key=lambda c: c.raw_column)
    expected = [
        (c.raw_column, c.channel_id, c.contact_id, c.shank, c.x_um, c.y_um, labels[c.raw_column])
        for c in channels
    ]
    names = ["raw_column", "channel_name", "contact_id", "shank", "rel_x", "rel_y", "label"]
    assert list(table[names].itertuples(index=False, name=None)) == expected
    assert table["label"].value_counts().to_dict() == {"good": 20, "out": 14, "dead": 1, "noise": 1}
    assert table["group_name"].tolist() == [f"probe00_shank{c.shank}" for c in channels]


def test_units_are_those_of_the_alf(nwbfile, export):
    table = nwbfile.units.to_dataframe()
    for cluster, (shank, unit_id) in enumerate(UNITS):
        row = table.loc[cluster]
        mine = export.spike_times[export.spike_clusters == cluster]
        assert np.asarray(row["spike_times"]).tobytes() == mine.tobytes()
        assert (row["sorting_unit"], row["shank"], row["sorter_unit_id"]) == (f"shank{shank}", shank, unit_id)
        assert (row["kilosort_label"], row["bombcell_label"]) == LABELS[shank, unit_id]
        word, probability, _, bits, consensus = OTHER_LABELS[shank, unit_id]
        assert (row["unitrefine_label"], row["consensus_label"]) == (word, consensus)
        numbers = [np.nan if number is None else number for number in (probability, bits)]
        assert np.array_equal([row["unitrefine_probability"], row["ibl_bitwise"]], numbers, equal_nan=True)
        assert row["electrode_group"].name == f"probe00_shank{shank}"
        assert row["snr"] == built().metrics[shank].loc[unit_id, "snr"]
        raw = [export.channels[k].raw_column for k in export.waveform_channels[cluster]]
        assert row["electrodes"]["raw_column"].tolist() == raw
        assert raw[0] == row["raw_column"]
        assert np.array_equal(row["waveform_mean"], export.waveforms[cluster], equal_nan=True)
        assert np.array_equal(row["waveform_sd"], export.waveforms_sd[cluster], equal_nan=True)
        end = CLOCK.offset_s + CLOCK.slope * N_SAMPLES / RATE
        assert np.asarray(row["obs_intervals"]).ravel() == pytest.approx([CLOCK.offset_s, end], abs=1e-12)
        assert row["obs_intervals"][0, 0] <= mine[0]
        assert mine[-1] <= row["obs_intervals"][0, 1]
    assert nwbfile.units.waveform_rate == RATE
    assert nwbfile.units.waveform_time_before_peak_in_ms == pytest.approx(1.0)
    assert "nidq" in nwbfile.units.description


def test_the_alf_and_the_nwb_agree_exactly(nwbfile, export, tmp_path):
    """What both hold, read back from files."""
    alf.write_alf(export, tmp_path)
    saved = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    units, electrodes = nwbfile.units, nwbfile.electrodes.to_dataframe()
    clusters = saved["spikes.clusters"]
    for k in range(len(units)):
        assert units["spike_times"][k].tobytes() == saved["spikes.times"][clusters == k].tobytes()
    codes = {
        "kilosort": alf.KILOSORT_CODES,
        "bombcell": alf.BOMBCELL_CODES,
        "unitrefine": alf.UNITREFINE_CODES,
        "consensus": alf.BOMBCELL_CODES,
    }
    for tool, code in codes.items():
        assert [code[label] for label in units[f"{tool}_label"][:]] == saved[
            f"clusters.{tool}Labels"
        ].tolist()
    score = np.nan_to_num(units["ibl_score"][:], nan=-1)
    assert np.array_equal(score, saved["clusters.iblLabels"])
    assert (tmp_path / "clusters.uuids.csv").read_text().split()[1:] == list(units["uuid"][:])
    for column, found in (("rel_x", 0), ("rel_y", 1)):
        assert np.array_equal(electrodes[column], saved["channels.localCoordinates"][:, found])
    for column, name in (("raw_column", "rawInd"), ("shank", "shanks"), ("contact_id", "contactIds")):
        assert electrodes[column].tolist() == saved[f"channels.{name}"].tolist()
    assert [alf.CHANNEL_CODES[word] for word in electrodes["label"]] == saved["channels.labels"].tolist()
    assert units["raw_column"][:].tolist() == electrodes["raw_column"][saved["clusters.channels"]].tolist()
    assert np.array_equal(np.stack(units["waveform_mean"][:]), saved["clusters.waveforms"], equal_nan=True)
    for column, name in (
        ("amplitude_v", "amps"),
        ("depth_um", "depths"),
        ("peak_to_trough_ms", "peakToTrough"),
    ):
        assert units[column][:].tobytes() == saved[f"clusters.{name}"].tobytes()


def test_a_probe_that_began_before_the_reference_keeps_its_times(tmp_path):
    """ALF and NWB have one zero also where spikes lie before it; of that alone nwbinspector complains."""
    made = built()
    knots = [(t, on_reference - CLOCK.offset_s - 0.4) for t, on_reference in CLOCK.knots]
    early = CLOCK.model_copy(update={"offset_s": -0.4, "knots": knots})
    found = gather(made.document, made.preprocess, early, made.units)
    traces = nwb.Traces(raw=nwb_parts.traces(made, tmp_path).raw)
    rat = metadata(made.document.session, tmp_path, COMPLETE.replace("Mus musculus", "Rattus norvegicus"))
    path = nwb.write_nwb(found, rat, tmp_path / "nwb", traces=traces)
    alf.write_alf(found, tmp_path / "alf")
    times, clusters = (np.load(tmp_path / "alf" / f"spikes.{name}.npy") for name in ("times", "clusters"))
    n = int((times < 0).sum())
    assert n > 10 and -0.4 <= times.min() < -0.3
    assert violations(path) == {"check_negative_spike_times"}
    assert validate(path=str(path)) == []
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        for k in range(5):
            assert nwbfile.units["spike_times"][k].tobytes() == times[clusters == k].tobytes()
            assert nwbfile.units["obs_intervals"][k][0, 0] == pytest.approx(-0.4, abs=1e-9)
        assert nwbfile.acquisition["ElectricalSeriesAP"].starting_time == pytest.approx(-0.4, abs=1e-9)
        assert nwbfile.timestamps_reference_time == nwbfile.session_start_time
        assert nwbfile.session_description.endswith(
            f"{n} spikes have negative times: the probe's recording began 0.4 s before that of nidq, whose first "
            "sample is zero."
        )


def test_metadata_are_those_given(nwbfile, export):
    assert nwbfile.session_start_time == datetime(2026, 3, 1, 12, 34, 56, tzinfo=timezone.utc)
    assert nwbfile.session_description.startswith("A mouse on a wheel. Sorted units of probe probe00")
    assert "clock of stream nidq" in nwbfile.session_description
    assert nwbfile.identifier == export.identifier and nwbfile.session_id == "2026-03-01_001"
    assert (nwbfile.lab, list(nwbfile.experimenter), list(nwbfile.keywords[:])) == (
        "The lab", ["Doe, Jane"], ["Neuropixels", "wheel"],
    )  # fmt: skip
    subject = nwbfile.subject
    assert (subject.subject_id, subject.sex, subject.species, subject.age, subject.weight) == (
        "mouse01", "F", "Mus musculus", "P90D", "0.025 kg",
    )  # fmt: skip
    assert subject.date_of_birth.date().isoformat() == "2025-12-01"
    assert set(nwbfile.electrodes["location"][:]) == {"unknown"}
    assert nwbfile.devices["probe00"].serial_number == "123456"
    assert nwbfile.devices["probe00"].model.model_number == "NP2013"


def test_raw_traces_in_volts_on_the_reference_clock(nwbfile):
    series = nwbfile.acquisition["ElectricalSeriesAP"]
    counts = nwb_parts.raw_counts()
    columns = [int(column) for column in nwbfile.electrodes["raw_column"][:]]
    assert np.array_equal(series.data[:], counts[:, columns])
    assert series.electrodes.data[:].tolist() == list(range(36))
    assert series.conversion == pytest.approx(2.34e-6) and series.unit == "volts"
    seconds = to_reference_seconds(CLOCK, np.arange(N_SAMPLES))
    assert series.timestamps is None
    found = series.starting_time + np.arange(N_SAMPLES) / series.rate
    assert np.abs(found - seconds).max() < 1e-9
    assert series.data.chunks[0] < N_SAMPLES


def test_lfp_is_raw_qcs(nwbfile):
    series = nwbfile.processing["ecephys"]["LFP"].electrical_series["ElectricalSeriesLFP"]
    contacts = nwbfile.electrodes["contact_id"][:][series.electrodes.data[:]].tolist()
    channels = built().document.probe.ap.channels
    assert contacts == [channel.contact_id for channel in channels]
    k = np.arange(12500)
    assert np.array_equal(series.data[:], (k[:, None] % 500 + np.arange(36)).astype(np.int16))
    assert (series.conversion * series.channel_conversion[:2]).tolist() == pytest.approx([4.69e-6, 2.345e-6])
    seconds = to_reference_seconds(CLOCK, k * 12.0)
    assert np.abs(series.starting_time + k / series.rate - seconds).max() < 1e-9


def test_events_and_analog_inputs(nwbfile):
    """The NIDQ is the reference: its seconds are samples over its rate. A line without edges has no table."""
    assert list(nwbfile.events) == ["lick"]
    licks = nwbfile.events["lick"].to_dataframe()
    assert licks["timestamp"].tolist() == [sample / NIDQ_RATE for sample in LICKS]
    assert licks["polarity"].tolist() == [1, -1, 1]
    assert licks["duration"].tolist()[0] == LICKS[1] / NIDQ_RATE - LICKS[0] / NIDQ_RATE
    assert licks["duration"].isna().tolist() == [False, True, True]
    assert "P0.1 of nidq" in nwbfile.events["lick"].description
    for name, counts in (("breathing", np.arange(50000) % 20000), ("pupil", -(np.arange(50000) % 300))):
        series = nwbfile.acquisition[name]
        assert series.unit == "volts" and series.conversion == 1.0
        assert np.array_equal(series.data[:], (counts * 1e-4).astype(np.float32))
        assert (series.starting_time, series.rate) == (0.0, NIDQ_RATE)


@pytest.mark.parametrize("backend", ["hdf5", "zarr"])
def test_spikeinterface_reads_it(written, export, backend):
    path, series = written[backend], "acquisition/ElectricalSeriesAP"
    sorting = NwbSortingExtractor(path, electrical_series_path=series)
    assert sorting.get_num_units() == 5
    assert sorting.get_property("consensus_label").tolist() == export.clusters["consensus_label"].tolist()
    for k, unit in enumerate(sorting.unit_ids):
        # On the clock of the samples, which is the probe's own.
        assert np.array_equal(
            sorting.get_unit_spike_train(unit), export.spike_samples[export.spike_clusters == k]
        )
    recording = NwbRecordingExtractor(path, electrical_series_path=series)
    columns = sorted(channel.raw_column for channel in export.document.probe.ap.channels)
    assert np.array_equal(recording.get_traces(end_frame=3), nwb_parts.raw_counts()[:3, columns])
    assert recording.get_channel_gains() == pytest.approx(2.34)


def test_times_where_one_rate_does_not_hold(export, tmp_path):
    """A clock that bends and a recording with a gap: each sample's own time is written."""
    made, n = built(), 50_000
    document = session_of(made, "2026-03-01_001", (n, 0), (N_SAMPLES - n, n + 900))
    bent = CLOCK.model_copy(update={"knots": [(0.5, 1.5), (2.0, 3.0), (4.5, 5.5 + 4e-5)]})
    found = gather(document, made.preprocess, bent, made.units)
    ap = document.probe.ap
    counts = nwb_parts.raw_counts()
    for piece, rows in zip(ap.pieces, (counts[:n], counts[n:]), strict=True):
        rows.tofile(tmp_path / piece.path)
    traces = nwb.Traces(raw=StreamReader(ap, locate([ap], tmp_path)[0]))
    path = nwb.write_nwb(found, metadata(document.session, tmp_path), tmp_path, traces=traces)
    with NWBHDF5IO(path, "r") as io:
        series = io.read().acquisition["ElectricalSeriesAP"]
        expected = to_reference_seconds(bent, ap.acquired(np.arange(N_SAMPLES)))
        assert series.rate is None and series.timestamps[:].tobytes() == expected.tobytes()
        assert np.array_equal(series.data[n - 1 : n + 1, 0], counts[n - 1 : n + 1, 0])
    assert violations(path) == {"check_electrodes_location_allen_ccf"}


def test_traces_of_another_clock_or_probe_are_refused(export, tmp_path):
    made = built()
    nwb_parts.write_lfp(made, tmp_path / "lfp.zarr")
    nwb_parts.write_nidq_events(tmp_path)
    known = metadata(export.document.session, tmp_path)
    other = gather(made.document, made.preprocess, CLOCK.model_copy(update={"reference": "obx0"}), made.units)
    for traces in (nwb.Traces(events=tmp_path / "events"), nwb.Traces(lfp=tmp_path / "lfp.zarr")):
        with pytest.raises(ValueError, match="on the clock of nidq, not of obx0"):
            nwb.write_nwb(other, known, tmp_path / "nwb", traces=traces)


def test_regions_and_coordinates_of_an_aligned_probe(tmp_path):
    """All channels of shank 0: NWB's x is posterior, its y inferior, its z right."""
    made = built()
    own = sorted(made.document.probe.ap.channels, key=lambda c: c.raw_column)
    regions = {0: ("CA1", 382), 1: ("DG", 726)}
    places = {}
    for k, channel in enumerate(c for c in own if c.shank == 0):
        acronym, number = regions[int(channel.y_um > 140)]
        places[f"channel_{k}"] = {
            "x": -1000.0 - k, "y": -2000.0, "z": -1500.0 + channel.y_um, "axial": channel.y_um,
            "lateral": channel.x_um, "brain_region": acronym, "brain_region_id": number,
            "original_channel_idx": own.index(channel),
        }  # fmt: skip
    (tmp_path / "channel_locations_shank0.json").write_text(json.dumps(places))
    export = gather(
        made.document, made.preprocess, CLOCK, made.units, [tmp_path / "channel_locations_shank0.json"]
    )
    path = nwb.write_nwb(export, metadata(export.document.session, tmp_path), tmp_path)
    alf.write_alf(export, tmp_path / "alf")
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        table = nwbfile.electrodes.to_dataframe()
        mine = (table["shank"] == 0).to_numpy()
        assert set(table["location"][~mine]) == {"unknown"} and table["ml_um"][~mine].isna().all()
        assert table["location"][mine].tolist() == [regions[int(y > 140)][0] for y in table["rel_y"][mine]]
        bregma = np.load(tmp_path / "alf" / "channels.mlapdv.npy")
        assert np.array_equal(table[["ml_um", "ap_um", "dv_um"]].to_numpy()[mine], bregma[mine])
        assert np.array_equal(table[["z", "x", "y"]].to_numpy()[mine], bregma[mine] * [1, -1, -1])
        ids = np.load(tmp_path / "alf" / "channels.brainLocationIds_ccf_2017.npy")
        assert table["ccf_id"][mine].tolist() == ids[mine].tolist()
        groups = nwbfile.electrode_groups
        assert (
            groups["probe00_shank0"].location == "CA1; DG" and groups["probe00_shank1"].location == "unknown"
        )


def test_nothing_of_an_aligned_probe_is_criticised(export, tmp_path):
    """Its uppermost channels outside of the brain, others in regions that IBL and Allen abbreviate otherwise."""
    tree = {0: "void", 382: "CA1", -732: "Mmme", 1091: "CUL4 5"}
    brain = {
        channel.raw_column: BrainLocation(-1000.0, -2000.0, -500.0, number, tree[number])
        for k, channel in enumerate(export.recorded)
        for number in [list(tree)[k % 4]]
    }
    aligned = replace(export, brain=brain)
    path = nwb.write_nwb(aligned, metadata(export.document.session, tmp_path), tmp_path)
    assert violations(path) == set()
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        table = nwbfile.electrodes.to_dataframe()
        words = {0: "root", 382: "CA1", -732: "MMme", 1091: "CUL4, 5"}
        assert table["location"].tolist() == [words[brain[raw].atlas_id] for raw in table["raw_column"]]
        assert table["ccf_id"].tolist() == [brain[raw].atlas_id for raw in table["raw_column"]]
        location = nwbfile.electrode_groups["probe00_shank0"].location
        assert sorted(location.split("; ")) == sorted(words.values())


def test_locations_are_terms_of_allens_ontology():
    """Of every region that an alignment can have, by its name, which IBL's table has without commas."""
    path = Path(nwbinspector.__file__).parent / "_internal_configs" / "allen_ccf_structure_names.json"
    allen = json.loads(path.read_text(encoding="utf-8"))
    names = dict(zip(allen["acronyms"], (name.replace(",", "") for name in allen["names"]), strict=True))
    regions = BrainRegions()
    for number, acronym, name in zip(regions.id, regions.acronym, regions.name, strict=True):
        found = nwb.allen_acronym(BrainLocation(0, 0, 0, int(number), acronym))
        assert found == acronym or abs(number) in nwb.ALLEN_ACRONYMS
        assert names[found] == (name.replace(" (left)", "") if number else "root")


def test_gaps_are_invalid_times(tmp_path):
    made = built()
    pieces = ((50_000, 10), (60_000, 10 + 50_000 + 45_000), (40_000, 10 + 155_000 + 301))
    export = gather(session_of(made, "2026-03-01_001", *pieces), made.preprocess, CLOCK, made.units)
    path = nwb.write_nwb(export, metadata(export.document.session, tmp_path, ZONE), tmp_path)
    assert validate(path=str(path)) == []
    found = list(inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.BEST_PRACTICE_VIOLATION))
    unknown = {"check_subject_species_exists", "check_subject_age"}
    assert {message.check_function_name for message in found} == unknown
    samples = np.array([0, 50_000, 95_000, 155_000, 155_301, 195_301])
    seconds = CLOCK.offset_s + CLOCK.slope * samples / RATE
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        invalid = nwbfile.invalid_times.to_dataframe()
        assert invalid["start_time"].to_numpy() == pytest.approx(seconds[1:-1:2], abs=1e-9)
        assert invalid["stop_time"].to_numpy() == pytest.approx(seconds[2:-1:2], abs=1e-9)
        assert "301 samples" in invalid["tags"][1][0]
        table = nwbfile.units.to_dataframe()
        for cluster in range(len(table)):
            observed = table.loc[cluster, "obs_intervals"]
            assert np.ravel(observed) == pytest.approx(seconds, abs=1e-9)
            times = table.loc[cluster, "spike_times"]
            assert times.tobytes() == export.spike_times[export.spike_clusters == cluster].tobytes()
            inside = (times[:, None] >= observed[:, 0]) & (times[:, None] < observed[:, 1])
            assert np.all(inside.sum(axis=1) == 1)


@pytest.mark.parametrize("last", [1, 800])
def test_a_joined_session_opens_too(tmp_path, last):
    """Of a few spikes, so that units are silent, or none at all (which NWB Inspector can't read)."""
    made = built()
    parts = [
        Part(subject="mouse01", session=name, start=start, n_samples=n)
        for name, start, n in (("2026-03-01", 0, N_SAMPLES - last), ("2026-03-02", N_SAMPLES - last, last))
    ]
    preprocess = made.preprocess.model_copy(update={"parts": parts})
    export = gather(session_of(made, "2026-03-02", (last, 0)), preprocess, CLOCK, made.units)
    path = nwb.write_nwb(export, metadata(export.document.session, tmp_path, ZONE), tmp_path)
    assert validate(path=str(path)) == []
    if last > 1:
        found = inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.BEST_PRACTICE_VIOLATION)
        assert {message.check_function_name for message in found} == {
            "check_subject_species_exists",
            "check_subject_age",
        }
    with NWBHDF5IO(path, "r") as io:
        units = io.read().units
        assert "Sorted together with 2026-03-01; labels" in units.description
        assert units["session_spikes"][:].tolist() == [len(units["spike_times"][k]) for k in range(5)]
        assert units["session_spikes"][:].sum() == export.spike_samples.size
        assert (export.spike_samples.size == 0) == (last == 1)


def test_a_probe_without_units_opens_too(tmp_path):
    made = built(())
    export = gather(made.document, made.preprocess, CLOCK, made.units)
    path = nwb.write_nwb(export, metadata(export.document.session, tmp_path, ZONE), tmp_path)
    assert validate(path=str(path)) == []
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        assert len(nwbfile.units) == 0
        assert set(nwbfile.electrodes["label"][:]) == {"out"}
    found = list(inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.CRITICAL))
    assert {message.check_function_name for message in found} == {"check_subject_age"}
