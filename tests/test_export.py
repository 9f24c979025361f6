"""EXPORT as a whole: the executable's output, and what it does with parts that do not belong together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exported_probe import CLOCK, built
from powerpixels.documents import ProbeSummary
from powerpixels.export import UnitFolders, gather, summarise

BIN = Path(__file__).resolve().parent.parent / "bin"


def run(arguments: list[str], folder: Path, *python: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *python, str(BIN / "pp_export.py"), *arguments],
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


def test_executable_writes_alf_nwb_and_summary(tmp_path):
    made = built()
    done = run(made.arguments(tmp_path / "out"), tmp_path)
    assert done.returncode == 0, done.stderr
    written = {p.relative_to(tmp_path / "out").parts[0] for p in (tmp_path / "out").rglob("*")}
    assert written == {"alf", "nwb", "summary.json"}
    assert [p.name for p in (tmp_path / "out" / "nwb").iterdir()] == [
        "sub-mouse01_ses-2026-03-01-001_probe00_ecephys.nwb"
    ]
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
    assert {"pynwb", "spikeinterface", "powerpixels"} <= json.loads(
        (tmp_path / "versions.json").read_text()
    ).keys()


def test_help_needs_no_science_packages(tmp_path):
    done = run(["--help"], tmp_path, "-S")
    assert done.returncode == 0, done.stderr
    assert "--preprocess" in done.stdout


def test_unequal_lists_are_refused(tmp_path):
    made = built()
    arguments = made.arguments(tmp_path / "out")
    arguments.remove(str(made.units[0].labels))
    done = run(arguments, tmp_path)
    assert done.returncode == 2
    assert "need as many values each" in done.stderr


def test_every_skipped_shank_is_a_warning():
    summary = summarise(gathered(built(())))
    assert (summary.n_units, summary.n_spikes, summary.n_out) == (0, 0, 36)
    assert summary.warnings == [
        f"shank{shank}: not sorted: no channel of shank {shank} is in the brain" for shank in range(3)
    ]


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
