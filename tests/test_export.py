"""EXPORT as a whole: the executable's output, and what it does with parts that do not belong together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import nwb_parts
import pandas as pd
import pytest
from exported_probe import CLOCK, N_SAMPLES, RATE, built, session_of
from powerpixels.agreement import combined
from powerpixels.documents import ChannelLevel, Part, ProbeNotes, ProbeSummary
from powerpixels.export import NAMESPACE, UnitFolders, _depths, agreement_of, gather, summarise
from pynwb import NWBHDF5IO

BIN = Path(__file__).resolve().parent.parent / "bin"


def run(
    arguments: list[str], folder: Path, *python: str, executable: str = "pp_export.py"
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *python, str(BIN / executable), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def gathered(made, units=None, **documents):
    parts = {"document": made.document, "preprocess": made.preprocess, "clock": CLOCK, **documents}
    return gather(**parts, units=made.units if units is None else units)


def changed(made, tmp_path: Path, unit: int) -> list[UnitFolders]:
    """The probe's units, with the folders of one of them copied so that a test may change them."""
    units = list(made.units)
    copy = UnitFolders(
        *(tmp_path / name for name in ("sorting", "analysis", "labels")), tmp_path / "recording.json"
    )
    for source, target in (
        (units[unit].sorting, copy.sorting),
        (units[unit].analysis, copy.analysis),
        (units[unit].labels, copy.labels),
    ):
        shutil.copytree(source, target)
    shutil.copy(units[unit].recording, copy.recording)
    units[unit] = copy
    return units


def test_executable_writes_alf_and_summary(tmp_path):
    made = built()
    done = run(made.arguments(tmp_path / "out"), tmp_path)
    assert done.returncode == 0, done.stderr
    written = {p.relative_to(tmp_path / "out").parts[0] for p in (tmp_path / "out").rglob("*")}
    assert written == {"alf", "summary.json", "agreement.json"}
    n_spikes = sum(sorting.to_spike_vector().size for sorting in made.sortings.values())
    assert np.load(tmp_path / "out" / "alf" / "spikes.times.npy").size == n_spikes
    assert ProbeSummary.load(tmp_path / "out" / "summary.json") == ProbeSummary(
        subject="mouse01",
        session="2026-03-01_001",
        probe="probe00",
        model="Neuropixels 2.0 4-shank",
        duration_s=5.0,
        n_shanks=3,
        n_channels=36,
        n_dead=1,
        n_noise=1,
        n_out=14,
        n_units=5,
        n_good_kilosort=3,
        n_good_bombcell=1,
        n_spikes=n_spikes,
        reference_clock="nidq",
        sync_rms_us=5.25,
        sync_max_us=11.5,
        warnings=["shank1: not sorted: no channel of shank 1 is in the brain"],
    )
    assert {"spikeinterface", "powerpixels"} <= json.loads((tmp_path / "versions.json").read_text()).keys()


def test_nwb_by_its_executable_once_the_metadata_suffice(tmp_path):
    """Without a time zone a note says how to give it; a contradiction ends it, naming both."""
    made = built()
    nwb_parts.traces(made, tmp_path)
    extra = ["--events", "events", "--lfp", "lfp.zarr", "--raw-dir", ".", "--backend", "hdf5"]
    arguments = [*made.arguments(tmp_path / "out"), *extra]
    done = run(arguments, tmp_path, executable="pp_nwb.py")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.json"]
    (note,) = ProbeNotes.load(tmp_path / "out" / "notes.json").warnings
    assert note.startswith("no NWB was written, which demands the time zone of the session's start")
    assert "timezone: Europe/Lisbon" in note and "--metadata" in note and "column metadata" in note

    (tmp_path / "lab.yaml").write_text(nwb_parts.COMPLETE)
    (tmp_path / "mouse.yaml").write_text("Subject: {subject_id: mouse02}")
    given = [*arguments, "--lab-metadata", "lab.yaml"]
    done = run([*given, "--metadata", "mouse.yaml"], tmp_path, executable="pp_nwb.py")
    assert done.returncode == 65
    assert done.stderr.splitlines()[-1] == (
        "ERROR: mouse.yaml says Subject.subject_id mouse02, the samplesheet mouse01: only one can be true; "
        "correct the one that is wrong"
    )
    done = run(given, tmp_path, executable="pp_nwb.py")
    assert done.returncode == 0, done.stderr
    assert ProbeNotes.load(tmp_path / "out" / "notes.json").warnings == []
    (path,) = (tmp_path / "out" / "nwb").iterdir()
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        assert {*nwbfile.acquisition} == {"ElectricalSeriesAP", "breathing", "pupil"}
        assert {*nwbfile.events} == {"lick"} and {*nwbfile.processing} == {"ecephys"}
        assert nwbfile.lab == "The lab" and len(nwbfile.units) == 5


@pytest.mark.parametrize("executable", ["pp_export.py", "pp_nwb.py"])
def test_help_needs_no_science_packages(tmp_path, executable):
    done = run(["--help"], tmp_path, "-S", executable=executable)
    assert done.returncode == 0, done.stderr
    assert "--preprocess" in done.stdout


def test_unequal_lists_are_refused(tmp_path):
    made = built()
    arguments = made.arguments(tmp_path / "out")
    arguments.remove(str(made.units[0].labels))
    done = run(arguments, tmp_path)
    assert done.returncode == 2
    assert "need as many values each" in done.stderr


def test_a_lost_fit_of_a_units_place_gives_way_to_its_spikes():
    """Where it lies beyond the channels that it is of; a unit without a place at all counts as lost."""
    places = np.array([[20.0, 110.0], [121.5, 114.2], [np.nan, np.nan], [90.0, 120.0]])
    positions = np.array([[32.0, 100.0], [0.0, 285.0], [0.0, 300.0], [32.0, 115.0]])
    found = _depths(places, positions, np.array([10.0, 300, 310, 290, 50]), np.array([0, 1, 1, 2, 3]))
    assert found.tolist() == [110.0, 305.0, 290.0, 120.0]


def test_every_skipped_shank_is_a_warning():
    summary = summarise(gathered(built(())))
    assert (summary.n_units, summary.n_spikes, summary.n_out) == (0, 0, 36)
    assert summary.warnings == [
        f"shank{shank}: not sorted: no channel of shank {shank} is in the brain" for shank in range(3)
    ]


def test_what_preprocessing_did_otherwise_is_told_and_its_noise_level():
    made = built(())
    few = "3 channels, fewer than 4: no reference"
    none = "no good channel: nothing of this shank is sorted"
    steps = [
        {"step": "reference", "shank": 0, "method": "none", "n_channels": 3, "note": few},
        {"step": "reference", "shank": 1, "method": "none", "n_channels": 0, "note": none},
        {"step": "reference", "shank": 2, "method": "local", "n_channels": 30},
        {"step": "mute", "note": "nothing is muted"},
    ]
    levels = [
        ChannelLevel(raw_column=k, contact_id=f"e{k}", rms_uv=9.0, noise_uv=noise)
        for k, noise in enumerate((5.0, 7.5, 6.0, None))
    ]
    preprocess = made.preprocess.model_copy(update={"steps": steps, "levels": levels})
    summary = summarise(gathered(made, preprocess=preprocess))
    assert summary.noise_uv == 6.0
    assert f"reference of shank 0: {few}" in summary.warnings
    assert "mute: nothing is muted" in summary.warnings
    assert sum("shank 1" in text for text in summary.warnings) == 1


def test_a_coarse_clock_is_told():
    summaries = [
        summarise(gathered(built(()), clock=CLOCK.model_copy(update={"bound_us": bound})))
        for bound in (None, 49.0, 61.7)
    ]
    assert [summary.sync_bound_us for summary in summaries] == [None, 49.0, 61.7]
    told = [sum("may be off by up to 62 µs" in text for text in summary.warnings) for summary in summaries]
    assert told == [0, 0, 1]


def test_order_of_units_does_not_matter():
    made = built()
    first, second = gathered(made), gathered(made, made.units[1:] + made.units[:1])
    pd.testing.assert_frame_equal(first.clusters, second.clusters)
    assert np.array_equal(first.spike_clusters, second.spike_clusters)
    assert first.identifier == second.identifier
    assert first.cluster_uuids == second.cluster_uuids


def test_identifiers_follow_the_spikes(tmp_path):
    made = built()
    other = gathered(
        made,
        clock=CLOCK.model_copy(update={"knots": [(t, on_reference + 1) for t, on_reference in CLOCK.knots]}),
    )
    assert other.identifier != gathered(made).identifier
    assert other.cluster_uuids == gathered(made).cluster_uuids


def test_folders_of_different_units_together():
    made = built()
    a, b = made.units[:2]
    swapped = [
        UnitFolders(a.sorting, a.analysis, b.labels, a.recording),
        UnitFolders(b.sorting, b.analysis, a.labels, b.recording),
        made.units[2],
    ]
    with pytest.raises(ValueError, match=r"labels.json.*'shank2'.*'shank0'"):
        gathered(made, swapped)


@pytest.mark.parametrize("which", [slice(0, 2), [0, 1, 2, 2]])
def test_a_unit_missing_or_there_twice(which):
    made = built()
    units = made.units[which] if isinstance(which, slice) else [made.units[k] for k in which]
    with pytest.raises(ValueError, match="has the sorting units"):
        gathered(made, units)


@pytest.mark.parametrize("field", ["probe", "stream", "sampling_rate_hz"])
def test_another_probes_clock(field):
    clock = CLOCK.model_copy(update={field: 25000.0 if field == "sampling_rate_hz" else "other"})
    with pytest.raises(ValueError, match="expected .* found"):
        gathered(built(), clock=clock)


def test_a_unit_without_label(tmp_path):
    made = built()
    units = changed(made, tmp_path, 1)
    table = pd.read_csv(units[1].labels / "labels.csv")
    table[table["unit_id"] != 7].to_csv(units[1].labels / "labels.csv", index=False)
    with pytest.raises(ValueError, match=r"labels.csv of shank0 has 2 units, sorting.json 3.*\[7\]"):
        gathered(made, units)


def test_a_spike_that_the_analysis_does_not_know(tmp_path):
    made = built()
    units = changed(made, tmp_path, 1)
    samples = np.load(units[1].sorting / "spike_samples.npy")
    samples[10] += 1
    np.save(units[1].sorting / "spike_samples.npy", samples)
    with pytest.raises(ValueError, match="analyzer.zarr of shank0 holds .* spikes that are not"):
        gathered(made, units)


def test_spikes_of_two_units_exchanged(tmp_path):
    """Same samples, other units: a join by position would not notice."""
    made = built()
    units = changed(made, tmp_path, 1)
    ids = np.load(units[1].sorting / "spike_unit_ids.npy")
    np.save(units[1].sorting / "spike_unit_ids.npy", np.where(ids == 2, 7, np.where(ids == 7, 2, ids)))
    with pytest.raises(ValueError, match="analyzer.zarr of shank0 holds .* spikes that are not"):
        gathered(made, units)


@pytest.mark.parametrize(
    "change",
    [{"raw_column": 1}, {"contact_id": "s0e99"}, {"x_um": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_channel_that_was_not_recorded_so(tmp_path, change):
    made = built()
    units = changed(made, tmp_path, 1)
    recording = json.loads(units[1].recording.read_text())
    recording["channels"][0].update(change)
    units[1].recording.write_text(json.dumps(recording))
    with pytest.raises(ValueError, match="other channels than recording.json|did not record so"):
        gathered(made, units)


def test_channels_labelled_other_than_recorded():
    made = built()
    short = made.preprocess.model_copy(update={"labels": made.preprocess.labels[1:]})
    with pytest.raises(ValueError, match="labels other channels than probe probe00 recorded"):
        gathered(made, preprocess=short)


def test_nothing_is_written_into_the_inputs():
    made = built()
    before = {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in made.folder.rglob("*")}
    gathered(made)
    assert {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in made.folder.rglob("*")} == before


def test_uuids_are_of_session_probe_unit_and_spikes():
    made = built()
    samples = np.load(made.units[1].sorting / "spike_samples.npy")
    ids = np.load(made.units[1].sorting / "spike_unit_ids.npy")
    digest = hashlib.sha256(np.sort(samples[ids == 7]).tobytes()).hexdigest()
    text = f"mouse01/2026-03-01_001/probe00/shank0/7/{digest}"
    assert gathered(made).cluster_uuids[1] == str(uuid.uuid5(NAMESPACE, text))


FIRST = 88_000
GAP = 45_000


@pytest.fixture(scope="module")
def gapped():
    """The probe with a gap of 1.5 s after 88,000 samples."""
    made = built()
    return gathered(
        made, document=session_of(made, "2026-03-01_001", (FIRST, 7), (N_SAMPLES - FIRST, 7 + FIRST + GAP))
    )


def test_spike_times_jump_by_the_gap(gapped):
    without = gathered(built())
    later = without.spike_samples >= FIRST
    assert 100 < np.sum(later) < later.size - 100
    assert np.array_equal(gapped.spike_samples, without.spike_samples)
    jump = gapped.spike_times - without.spike_times
    assert not jump[~later].any()
    assert jump[later] == pytest.approx(GAP / RATE * CLOCK.slope, abs=1e-9)
    ends = CLOCK.offset_s + CLOCK.slope * np.array([[0, FIRST], [FIRST + GAP, N_SAMPLES + GAP]]) / RATE
    assert gapped.observed == pytest.approx(ends, abs=1e-9)
    assert gapped.gaps.tolist() == [[FIRST, GAP]]
    assert gapped.gap_intervals == pytest.approx(np.array([[ends[0, 1], ends[1, 0]]]), abs=1e-9)
    # of the same spikes
    assert gapped.cluster_uuids == without.cluster_uuids


def test_gaps_are_told(gapped):
    summary = summarise(gapped)
    assert summary.warnings[1:] == ["1 gap in the recording, 1.5 s in all"]
    assert summary.duration_s == N_SAMPLES / RATE  # what was recorded
    made = built()
    pieces = ((50_000, 0), (50_000, 59_000), (50_000, 200_000))
    summary = summarise(gathered(made, document=session_of(made, "2026-03-01_001", *pieces)))
    assert summary.warnings[1:] == ["2 gaps in the recording, 3.33 s in all"]


# The third session is so short that some units are silent in it.
LAST = 800
STARTS = (0, 61_000, N_SAMPLES - LAST)
SESSIONS = ("2026-03-01_001", "2026-03-01_002", "2026-03-02_001")


@pytest.fixture(scope="module")
def joined():
    """The probe's recording as one of three sessions: the export of each, on its own clock."""
    made = built()
    lengths = np.diff([*STARTS, N_SAMPLES]).tolist()
    parts = [
        Part(subject="mouse01", session=name, start=start, n_samples=n)
        for name, start, n in zip(SESSIONS, STARTS, lengths, strict=True)
    ]
    exports = []
    for k, name in enumerate(SESSIONS):
        rate = RATE * (1 + 1e-6 * k)
        pieces = ((lengths[k], 5),) if k != 1 else ((40_000, 5), (lengths[1] - 40_000, 45_005 + 1000))
        exports.append(
            gathered(
                made,
                document=session_of(made, name, *pieces, sampling_rate_hz=rate),
                preprocess=made.preprocess.model_copy(update={"parts": parts}),
                clock=CLOCK.model_copy(
                    update={
                        "sampling_rate_hz": rate,
                        "knots": [(t, t_ref + 100 * k) for t, t_ref in CLOCK.knots],
                    }
                ),
            )
        )
    return exports


def test_spikes_return_to_their_session(joined):
    whole = gathered(built())
    for name in ("spike_clusters", "spike_amps", "spike_depths"):
        together = np.concatenate([getattr(export, name) for export in joined])
        assert np.array_equal(together, getattr(whole, name)), name
    samples = [export.spike_samples + start for export, start in zip(joined, STARTS, strict=True)]
    assert np.array_equal(np.concatenate(samples), whole.spike_samples)
    for k, export in enumerate(joined):
        assert export.spike_samples.size
        acquired = export.spike_samples + (6000 * (export.spike_samples >= 40_000) if k == 1 else 0)
        t = acquired / (RATE * (1 + 1e-6 * k))
        expected = CLOCK.offset_s + 100 * k + CLOCK.slope * t
        assert export.spike_times == pytest.approx(expected, abs=1e-9)
        assert export.observed[0, 0] == pytest.approx(CLOCK.offset_s + 100 * k, abs=1e-9)
        assert np.all(np.diff(export.spike_times) >= 0)


def test_units_are_the_same_in_all_sessions(joined):
    whole = gathered(built())
    for export in joined:
        assert export.cluster_uuids == joined[0].cluster_uuids
        pd.testing.assert_frame_equal(export.clusters.drop(columns="session_spikes"), whole.clusters)
        for name in ("cluster_channels", "cluster_depths", "waveforms", "waveform_channels"):
            assert np.array_equal(getattr(export, name), getattr(whole, name), equal_nan=True)
    assert len(set(joined[0].cluster_uuids)) == len(whole.clusters)
    # three recordings of the same spikes, and another sorting of the first alone
    assert len({export.identifier for export in joined}) == len(joined)
    assert not set(joined[0].cluster_uuids) & set(whole.cluster_uuids)


def test_a_run_counts_the_labels_of_joined_units_once(joined):
    """And those of another probe beside them."""
    each = [agreement_of(export) for export in joined]
    own = agreement_of(gathered(built()))
    assert {one.sorting for one in each} == {
        "mouse01/2026-03-01_001+mouse01/2026-03-01_002+mouse01/2026-03-02_001/probe00"
    }
    assert own.sorting == "mouse01/2026-03-01_001/probe00" and own.n_units == 5
    assert combined(each) == each[0].model_copy(update={"sorting": ""})
    both = combined([each[0], own, *each[1:]])
    assert (both.n_probes, both.n_units) == (2, 10)
    for pair, single in zip(both.pairs, own.pairs, strict=True):
        assert (pair.n, pair.kappa) == (2 * single.n, pytest.approx(single.kappa))


def test_counts_and_amplitudes_are_of_the_session(joined):
    silent = 0
    for export in joined:
        for cluster in range(len(export.clusters)):
            amps = export.spike_amps[export.spike_clusters == cluster]
            assert export.clusters["session_spikes"][cluster] == amps.size
            if amps.size:
                assert export.cluster_amps[cluster] == pytest.approx(amps.mean(), rel=1e-5)
            else:
                silent += 1
                assert np.isnan(export.cluster_amps[cluster])
    assert silent
    assert "session_spikes" not in gathered(built()).clusters


def test_joined_sessions_are_told(joined):
    assert summarise(joined[1]).warnings[1:] == [
        "sorted together with 2026-03-01_001, 2026-03-02_001; labels and metrics are of the joined recording",
        "1 gap in the recording, 0.2 s in all",
    ]
    summary = summarise(joined[2])
    assert (summary.session, summary.n_units, summary.n_spikes) == (
        "2026-03-02_001",
        5,
        joined[2].spike_samples.size,
    )
    assert summary.duration_s == pytest.approx(LAST / RATE, rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("2026-03-09", 0, N_SAMPLES)], r"\['2026-03-09'\]: expected mouse01 2026-03-01_001 among them"),
        ([("2026-03-01_001", 0, N_SAMPLES - 1)], "samples of the session: expected 150000, found 149999"),
        (
            [("2026-03-01_001", 0, N_SAMPLES), ("2026-03-02", N_SAMPLES, 10)],
            "recording.json of shank0: samples: expected 150010, found 150000",
        ),
    ],
)
def test_parts_of_another_recording(parts, message):
    made = built()
    listed = [Part(subject="mouse01", session=name, start=start, n_samples=n) for name, start, n in parts]
    with pytest.raises(ValueError, match=message):
        gathered(made, preprocess=made.preprocess.model_copy(update={"parts": listed}))


def test_a_spike_beyond_the_recording(tmp_path):
    """Shorter by one sample than the last spike says, in all documents."""
    made = built()
    last = max(int(np.load(unit.sorting / "spike_samples.npy").max(initial=0)) for unit in made.units)
    units = []
    for k, unit in enumerate(made.units):
        recording = json.loads(unit.recording.read_text())
        (tmp_path / f"{k}.json").write_text(json.dumps({**recording, "n_samples": last}))
        units.append(UnitFolders(unit.sorting, unit.analysis, unit.labels, tmp_path / f"{k}.json"))
    part = Part(subject="mouse01", session="2026-03-01_001", start=0, n_samples=last)
    with pytest.raises(ValueError, match=f"to {last} of a recording of {last} samples"):
        gathered(
            made,
            units,
            document=session_of(made, "2026-03-01_001", (last, 0)),
            preprocess=made.preprocess.model_copy(update={"parts": [part]}),
        )
