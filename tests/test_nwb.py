"""NWB of the probe in exported_probe, against its ALF and its documents."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest
from exported_probe import CLOCK, LABELS, N_SAMPLES, OTHER_LABELS, RATE, UNIT_IDS, built, session_of
from nwbinspector import Importance, inspect_nwbfile
from powerpixels import nwb
from powerpixels.documents import Part, Session
from powerpixels.export import gather
from pynwb import NWBHDF5IO, validate

UNITS = [(shank, unit_id) for shank in (0, 2) for unit_id in UNIT_IDS[shank]]


@pytest.fixture(scope="module")
def export():
    made = built()
    return gather(made.document, made.preprocess, CLOCK, made.units)


@pytest.fixture(scope="module")
def path(export, tmp_path_factory):
    return nwb.write_nwb(export, tmp_path_factory.mktemp("nwb"))


@pytest.fixture(scope="module")
def nwbfile(path):
    with NWBHDF5IO(path, "r") as io:
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


def test_name(path):
    assert path.name == "sub-mouse01_ses-2026-03-01-001_probe00_ecephys.nwb"
    assert nwb.file_name(session(session="2026-03-01"), "probe01") == (
        "sub-mouse01_ses-2026-03-01_probe01_ecephys.nwb"
    )


def test_valid_and_only_unknown_metadata_missing(path):
    assert validate(path=str(path)) == []
    found = list(inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.BEST_PRACTICE_VIOLATION))
    # Nobody told us the subject's species and age, and they must not be invented; all else is right.
    unknown = {"check_subject_species_exists", "check_subject_age"}
    assert {message.check_function_name for message in found} == unknown


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


def test_metadata_are_only_what_is_known(nwbfile, export):
    assert nwbfile.session_start_time == datetime(2026, 3, 1, 12, 34, 56, tzinfo=timezone.utc)
    assert "no time zone" in nwbfile.session_description
    assert nwbfile.identifier == export.identifier
    assert nwbfile.subject.subject_id == "mouse01"
    assert nwbfile.subject.sex == "U"
    assert nwbfile.subject.species is nwbfile.subject.age is None
    assert set(nwbfile.electrodes["location"][:]) == {"unknown"}
    assert nwbfile.devices["probe00"].serial_number == "123456"
    assert nwbfile.devices["probe00"].model.model_number == "NP2013"


def test_start_time_of_a_recording_without_one():
    start, known = nwb.start_time(session(start_time=None))
    assert start == datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert "Only the session's date is known" in known
    start, known = nwb.start_time(session(start_time="2026-03-01T12:00:00+02:00"))
    assert (start.isoformat(), known) == ("2026-03-01T12:00:00+02:00", "")


def test_gaps_are_invalid_times(nwbfile, tmp_path):
    assert nwbfile.invalid_times is None
    made = built()
    pieces = ((50_000, 10), (60_000, 10 + 50_000 + 45_000), (40_000, 10 + 155_000 + 301))
    export = gather(session_of(made, "2026-03-01_001", *pieces), made.preprocess, CLOCK, made.units)
    path = nwb.write_nwb(export, tmp_path)
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
    path = nwb.write_nwb(export, tmp_path)
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
    path = nwb.write_nwb(gather(made.document, made.preprocess, CLOCK, made.units), tmp_path)
    assert validate(path=str(path)) == []
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        assert len(nwbfile.units) == 0
        assert set(nwbfile.electrodes["label"][:]) == {"out"}
    found = list(inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.CRITICAL))
    assert {message.check_function_name for message in found} == {"check_subject_age"}
