"""The whole pipeline on a simulated session in SpikeGLX's format, against everything known about it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_unitrefine
from alignment_tool import AlignmentTool
from browser import browser, check_page
from driver import ENGINES, ROOT, Launcher, Run
from one.alf import spec
from one.alf.io import load_object
from powerpixels import load_neural_data
from powerpixels.analyze import Suggestions
from powerpixels.clean import release
from powerpixels.documents import Preprocess
from powerpixels.estimate import Options, estimate
from powerpixels.manifest import Manifest, verify
from powerpixels.session_report import STAGES
from powerpixels.simulate import Truth, score_alf
from powerpixels.status import status
from scipy.signal import butter, sosfiltfilt

SESSION = "sim01/2026-03-01/001"
PROBES = ("probe00", "probe01")


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def spikes_of(run: Run, probe: str) -> dict[str, bytes]:
    alf = run.results / SESSION / "alf" / probe
    return {
        name: (alf / f"spikes.{name}.npy").read_bytes() for name in ("times", "samples", "clusters", "amps")
    }


class ReadOnlyLauncher(Launcher):
    """Runs with a folder mounted read-only and without a network where this user may have that, else with the
    folder's write permission off alone."""

    def __init__(self, engine: str, folder: Path, locked: Path):
        super().__init__(engine, folder)
        self.locked = locked

    def arguments(self, *arguments, profile="local,test"):
        return self.isolated(super().arguments(*arguments, profile=profile))

    def isolated(self, command: list[str]) -> list[str]:
        if os.geteuid() != 0:
            return command
        # Nothing but the loopback device is left, and that is down.
        alone = 'test "$(grep -c : /proc/net/dev)" = 1'
        mount = f'{alone} && mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        return ["unshare", "--mount", "--net", "sh", "-c", mount, str(self.locked), *command]


@pytest.fixture(scope="module")
def session(session_small, tmp_path_factory) -> Path:
    """A copy of the simulated session that only this module touches, its raw folder without write permission."""
    folder = tmp_path_factory.mktemp("sim") / "session"
    shutil.copytree(session_small, folder)
    for path in [folder / "raw", *(folder / "raw").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


@pytest.fixture(scope="module")
def before(session) -> dict[str, str]:
    return contents(session / "raw")


@pytest.fixture(scope="module")
def launcher(session, tmp_path_factory) -> Launcher:
    """Nothing that an engine or a library once downloaded is in reach."""
    folder = tmp_path_factory.mktemp("run")
    made = ReadOnlyLauncher(ENGINES[0], folder / "launch", session / "raw")
    made.environment |= {"NXF_HOME": str(folder / "nxf"), "HOME": str(folder)}
    return made


@pytest.fixture(scope="module")
def finished(session, before, launcher) -> Run:
    """The first run, undisturbed."""
    run = launcher.run("-resume", "--input", session / "samplesheet.csv")
    assert run.status == 0, run.output
    return run


@pytest.fixture(scope="module")
def truth(session) -> Truth:
    return Truth.load(session)


def alf_folder(run: Run, probe: str) -> Path:
    return run.results / SESSION / "alf" / probe


@pytest.mark.parametrize("probe", PROBES)
def test_well_isolated_units_are_found(finished, session, probe):
    """Floor 0.9 for each unit: at a signal-to-noise ratio of 7 and more, with a template unlike any other's,
    only overlapping spikes and the recording's first and last milliseconds may be lost."""
    scores = score_alf(session, alf_folder(finished, probe), probe)
    assert len(scores) >= 3
    assert (scores.recall >= 0.9).all(), scores.to_string()
    assert (scores.precision >= 0.9).all(), scores.to_string()


@pytest.mark.parametrize("probe", PROBES)
def test_spike_times_are_on_the_nidq_clock(finished, truth, probe):
    """Every published time is within 1 sample (33 µs) of the true NIDQ time of its sample; without the clock
    fit the two probes would be off by tens of milliseconds."""
    folder = alf_folder(finished, probe)
    times, samples = np.load(folder / "spikes.times.npy"), np.load(folder / "spikes.samples.npy")
    error_s = times - truth.to_nidq_seconds(probe, samples)
    assert np.abs(error_s).max() < 1 / 30_000
    # Both ends are really there.
    assert samples.min() < 30_000 and samples.max() > truth.probe(probe).ap.n_samples - 30_000
    assert np.abs(samples / 30_000 - times).min() > 1e-3


@pytest.mark.parametrize("probe", PROBES)
def test_found_spikes_are_where_the_known_ones_are(finished, session, truth, probe):
    """Against the planted times themselves, at the start and at the end: a unit's median offset is that of its
    template's peak (up to a few samples, constant), and it does not change along the recording."""
    folder = alf_folder(finished, probe)
    times, clusters = np.load(folder / "spikes.times.npy"), np.load(folder / "spikes.clusters.npy")
    known = truth.spikes(probe)
    for unit, row in score_alf(session, folder, probe).iterrows():
        planted = known["nidq_s"][known["unit"] == unit]
        found = times[clusters == row.matched_unit]
        nearest = planted[np.clip(np.searchsorted(planted, found), 1, len(planted) - 1)]
        before_it = planted[np.clip(np.searchsorted(planted, found) - 1, 0, len(planted) - 1)]
        offset = np.where(
            np.abs(found - nearest) < np.abs(found - before_it), found - nearest, found - before_it
        )
        close = np.abs(offset) < 0.4e-3
        start, end = offset[close & (found < 5)], offset[close & (found > found.max() - 5)]
        assert abs(np.median(start)) < 5 / 30_000 and abs(np.median(end)) < 5 / 30_000
        assert abs(np.median(start) - np.median(end)) < 1 / 30_000


@pytest.mark.parametrize("probe", PROBES)
def test_bad_channels_are_those_planted(finished, truth, probe):
    record = Preprocess.load(finished.results / SESSION / "qc" / probe / "preprocess.json")
    found = {label.raw_column: (label.contact_id, label.label) for label in record.labels}
    planted = {
        channel.raw_column: (channel.contact_id, channel.label) for channel in truth.probe(probe).channels
    }
    assert found == planted


@pytest.mark.parametrize("probe", PROBES)
def test_channels_are_known_by_their_file_column(finished, truth, probe):
    """rawInd is the column in the raw file, for every channel; those that were removed are labelled so."""
    channels = load_object(alf_folder(finished, probe), "channels")
    known = {channel.raw_column: channel for channel in truth.probe(probe).channels}
    assert channels["rawInd"].tolist() == sorted(known)
    codes = {"good": 0, "dead": 1, "noise": 2, "out": 3}
    assert channels["labels"].tolist() == [codes[known[column].label] for column in sorted(known)]
    assert {1, 3} & set(channels["labels"]), "the simulation must have channels that are removed"
    for column, (x_um, y_um) in zip(channels["rawInd"], channels["localCoordinates"], strict=True):
        assert (x_um, y_um) == (known[column].x_um, known[column].y_um)


@pytest.mark.parametrize("probe", PROBES)
def test_units_lie_where_they_were_planted(finished, session, truth, probe):
    """A unit's peak channel is the planted one, or a neighbour of nearly the same amplitude (within 45 µm), and on the same shank."""
    folder = alf_folder(finished, probe)
    channels, clusters = load_object(folder, "channels"), load_object(folder, "clusters")
    known = {channel.raw_column: channel for channel in truth.probe(probe).channels}
    planted = {unit.unit: unit for unit in truth.probe(probe).units}
    for unit, row in score_alf(session, folder, probe).iterrows():
        found = known[int(channels["rawInd"][clusters["channels"][int(row.matched_unit)]])]
        expected = known[planted[unit].raw_column]
        assert found.shank == expected.shank == row.shank
        assert np.hypot(found.x_um - expected.x_um, found.y_um - expected.y_um) <= 45


@pytest.mark.parametrize("probe", PROBES)
def test_values_are_those_that_were_planted(finished, session, truth, probe):
    """Volts, depths and main channels against the planted templates and places.

    Of preprocessing only the zero-phase high-pass of 300 Hz changes a trough by much (it keeps 0.83 to 0.92 of
    its depth), so the templates go through it here, too. What is left, 0.957 to 0.999 where this was written, is
    what the reference takes, and jitter of the sorter's spike times; places were within 6 µm of the planted ones.
    """
    folder = alf_folder(finished, probe)
    clusters, spikes = load_object(folder, "clusters"), load_object(folder, "spikes")
    raw_ind = np.load(folder / "channels.rawInd.npy")
    planted = truth.templates(probe)
    good = [channel.raw_column for channel in truth.probe(probe).channels if channel.label == "good"]
    sos = butter(5, 300.0, "highpass", fs=30_000, output="sos")
    padding = ((0, 0), (3000, 3000), (0, 0))
    templates = sosfiltfilt(sos, np.pad(planted["template_uv"], padding), axis=1)[:, 3000:-3000]
    scores = score_alf(session, folder, probe)
    for unit, row in scores.iterrows():
        k = int(row.matched_unit)
        waveform, template = clusters["waveforms"][k] * 1e6, templates[unit]
        raw = raw_ind[clusters["waveformsChannels"][k]]
        # The first channel is the main one and has the largest peak, of what was measured and of the template;
        # which of two neighbours that differ by less than 3 % does, noise decides.
        assert clusters["waveformsChannels"][k, 0] == clusters["channels"][k]
        measured = ~np.isnan(waveform[0])
        peaks = np.abs(waveform[:, measured]).max(axis=0)
        assert measured[0] and peaks[0] >= 0.97 * peaks.max()
        # A noisy channel is made of its neighbours.
        assert template[:, raw[0]].min() <= 0.97 * template[:, raw[measured & np.isin(raw, good)]].min()
        # Volts: amplitudes are of the spikes, the waveform is their mean, which ends at its trough.
        trough = -template[:, raw[0]].min()
        assert clusters["amps"][k] * 1e6 == pytest.approx(trough, rel=0.08)
        assert -waveform[:, 0].min() == pytest.approx(trough, rel=0.08)
        assert spikes["amps"][spikes["clusters"] == k].mean() == pytest.approx(clusters["amps"][k], rel=1e-3)
        # Its shape, at the best of a few samples' shift between a sorter's spike time and the trough.
        own = np.pad(template[:, raw[0]], 100)
        centre = own.argmin() - int(waveform[:, 0].argmin())
        likeness = np.corrcoef(waveform[:, 0], own[centre : centre + len(waveform)])[0, 1]
        assert likeness > 0.97
        y_um = planted["location_um"][unit, 1]
        assert clusters["depths"][k] == pytest.approx(y_um, abs=10)
        # A spike's place is the centre of its amplitudes, which leans to the middle of the channels.
        assert np.median(spikes["depths"][spikes["clusters"] == k]) == pytest.approx(y_um, abs=25)
        assert clusters["peakToTrough"][k] == pytest.approx(
            (template[:, raw[0]].argmax() - template[:, raw[0]].argmin()) / 30, abs=0.1
        )


@pytest.mark.parametrize("probe", PROBES)
def test_nwb_holds_the_same_as_the_alf(finished, truth, probe):
    from pynwb import NWBHDF5IO

    folder = alf_folder(finished, probe)
    times, clusters = np.load(folder / "spikes.times.npy"), np.load(folder / "spikes.clusters.npy")
    (path,) = (finished.results / SESSION / "nwb").glob(f"*{probe}*.nwb")
    assert path.name == f"sub-sim01_ses-2026-03-01-001_probe-{probe}_ecephys.nwb"
    with NWBHDF5IO(path, "r") as io:
        nwb = io.read()
        assert len(nwb.units) == clusters.max() + 1
        for index in range(len(nwb.units)):
            assert np.array_equal(nwb.units["spike_times"][index], times[clusters == index])
        electrodes = nwb.electrodes.to_dataframe()
    known = {channel.raw_column: channel for channel in truth.probe(probe).channels}
    assert sorted(electrodes["raw_column"]) == sorted(known)
    for row in electrodes.itertuples():
        assert row.contact_id == known[row.raw_column].contact_id
        assert int(row.shank) == known[row.raw_column].shank
        assert (row.rel_x, row.rel_y) == (known[row.raw_column].x_um, known[row.raw_column].y_um)


@pytest.mark.parametrize("probe", PROBES)
def test_one_loads_the_alf(finished, probe):
    folder = alf_folder(finished, probe)
    spikes = load_object(folder, "spikes")
    lengths = {name: len(values) for name, values in spikes.items()}
    assert len(set(lengths.values())) == 1 and {"times", "samples", "clusters", "amps", "depths"} <= set(
        lengths
    )
    clusters = load_object(folder, "clusters")
    n_units = len(clusters["channels"])
    assert spikes["clusters"].max() + 1 == n_units
    assert len(clusters["metrics"]) == len(clusters["bombcellLabels"]) == n_units
    labels = pd.read_csv(folder / "clusters.metrics.csv")
    assert (clusters["kilosortLabels"] == (labels["ks2_label"] == "good")).all()
    names = [path.name for path in folder.iterdir() if path.is_file()] + [
        path.name for path in folder.parent.glob("*.*")
    ]
    assert [name for name in names if not spec.is_valid(name)] == []
    # Amplitudes in volts: the planted ones are 12 to 150 µV.
    assert 10e-6 < np.median(spikes["amps"]) < 200e-6


def test_one_opens_the_session_with_all_that_is_in_it(finished, tmp_path):
    """Its tables made of the results as they lie; brainbox as it comes; the alignment tool's own view."""
    from brainbox.io.one import SpikeSortingLoader
    from iblatlas.regions import BrainRegions
    from one.alf.cache import make_parquet_db
    from one.api import One

    make_parquet_db(finished.results, out_dir=tmp_path, hash_files=False)
    one = One(cache_dir=finished.results, tables_dir=tmp_path, mode="local")
    (eid,) = one.search(subject="sim01", date="2026-03-01", number=1)
    assert sorted(one.list_collections(eid, filename="spikes*")) == [f"alf/{probe}" for probe in PROBES]
    # Beside ALF the tables hold what happens to be named so: of Zarr's chunks those of three dimensions.
    others = [name for name in one.list_datasets(eid) if not name.startswith(("alf/", "raw_ephys_data/"))]
    assert [name for name in others if not re.fullmatch(r"analyzers/.+\.zarr/.+/\d+\.\d+\.\d+", name)] == []
    licks = one.load_object(eid, "port0line1", collection="alf", namespace="nidq")
    assert len(licks["times"]) == len(licks["polarities"]) > 10
    atlas = SimpleNamespace(regions=BrainRegions())
    for probe, n_shanks in zip(PROBES, (1, 2), strict=True):
        folder = alf_folder(finished, probe)
        loader = SpikeSortingLoader(session_path=folder.parents[1], pname=probe, one=one, atlas=atlas)
        spikes, clusters, channels = loader.load_spike_sorting()
        assert loader.collection == f"alf/{probe}"
        for name in ("times", "clusters", "amps", "depths"):
            assert np.array_equal(spikes[name], np.load(folder / f"spikes.{name}.npy"))
        assert channels["rawInd"].tolist() == np.load(folder / "channels.rawInd.npy").tolist()
        assert clusters["metrics"]["sorter_unit_id"].tolist() == (
            pd.read_csv(folder / "clusters.metrics.csv")["sorter_unit_id"].tolist()
        )
        # A motion is the probe's own, or each shank's.
        collections = sorted(one.list_collections(eid, filename="drift.times*", collection=f"alf/{probe}*"))
        shanks = [f"/drift/shank{k}" for k in (2, 3)] if n_shanks > 1 else [""]
        assert collections == [f"alf/{probe}{shank}" for shank in shanks]
        for collection in collections:
            drift = one.load_object(eid, "drift", collection=collection)
            assert len(drift["times"]) == len(drift["um"]) > 1
        tool = AlignmentTool(folder)
        data = tool.data()
        assert tool.n_shanks == n_shanks
        n_channels = len(tool.positions)
        for band in ("AP", "LF"):
            assert data[f"ephysTimeRms{band}"]["rms"].shape[1] == n_channels
            assert 1e-6 < np.median(data[f"ephysTimeRms{band}"]["rms"]) < 1e-3  # volts
        assert data["ephysSpectralDensityLF"]["power"].shape[1] == n_channels
        assert data["clusters"]["metrics"].shape[0] == len(clusters["channels"])
        rows = np.concatenate([tool.rows(shank) for shank in range(n_shanks)])
        assert sorted(rows) == list(range(n_channels))


@pytest.mark.parametrize("probe", PROBES)
def test_nwbinspector_misses_only_what_nobody_said(finished, probe):
    from nwb_parts import violations

    (path,) = (finished.results / SESSION / "nwb").glob(f"*{probe}*.nwb")
    assert violations(path) == {"check_subject_species_exists", "check_subject_age"}


def test_every_file_of_times_names_its_clock(finished):
    folders = [finished.results / SESSION / "alf", *(alf_folder(finished, probe) for probe in PROBES)]
    for folder in folders:
        stated = json.loads((folder / "_powerpixels_clock.fit.json").read_text())["files"]
        own = [
            path
            for path in folder.rglob("*.npy")
            if folder != folders[0] or path.relative_to(folder).parts[0] not in PROBES
        ]
        timed = {
            str(path.relative_to(folder))
            for path in own
            if {"times", "timestamps", "intervals", "samples"} & set(path.name.split("."))
        }
        assert timed and timed == stated.keys()
        assert {file["clock"] for file in stated.values() if file["unit"] == "s"} == {"nidq"}


def test_manifests_have_every_published_file(finished, session):
    """Checked as users do: nothing missing, changed or left out; and what made it is told."""
    n_files, differences = verify(finished.results)
    assert differences == [] and n_files > 100
    manifest = Manifest.load(finished.results / SESSION / "qc" / "probe00" / "manifest.json")
    files = {file.path: file for file in manifest.files}
    raw, sorter = "raw_ephys_data/probe00", "spike_sorters/kilosort4/probe00"
    analyzed = "analyzers/probe00/shank0.zarr/sorting/spikes/sample_index"
    assert {name: file.clocks for name, file in files.items() if file.clocks} == {
        **dict.fromkeys(
            [
                "alf/probe00/_iblqc_ephysTimeRmsAP.timestamps.npy",
                "alf/probe00/_iblqc_ephysTimeRmsLF.timestamps.npy",
                "alf/probe00/drift.times.npy",
                "alf/probe00/spikes.times.npy",
                "nwb/sub-sim01_ses-2026-03-01-001_probe-probe00_ecephys.nwb",
            ],
            ["nidq"],
        ),
        **dict.fromkeys(
            [
                "alf/probe00/_powerpixels_clock.fit.json",
                "qc/probe00/artifacts.csv",
                "qc/probe00/sync.json",
                f"{raw}/_spikeglx_imec0.sync.npy",
                f"{raw}/_spikeglx_imec0.timestamps.npy",
            ],
            ["imec0.ap", "nidq"],
        ),
        **dict.fromkeys(
            [
                "alf/probe00/spikes.samples.npy",
                f"{analyzed}/0",
                f"{analyzed}_chunk_firsts/0",
                "qc/probe00/drift/shank0/temporal_bins_s.npy",
                "qc/probe00/muted.npy",
                f"{raw}/_spikeglx_sync.times.probe00.npy",
                f"{sorter}/shank0/sorter_output/spike_times.npy",
                f"{sorter}/shank0/spike_samples.npy",
            ],
            ["imec0.ap"],
        ),
    }
    assert manifest.parameters["sorter"] == "kilosort4" and manifest.parameters["wiring"] is None
    assert manifest.software["SORT"][0]["kilosort"] == "4.1.7"
    own = session / "metadata.yaml"
    assert manifest.samplesheet == {
        "metadata": {"name": own.name, "sha256": hashlib.sha256(own.read_bytes()).hexdigest()}
    }
    read = {Path(file.path).suffix: file for file in manifest.raw}
    assert read[".meta"].sha256 is not None and read[".bin"].size_bytes > 1e6
    page = (finished.results / SESSION / "report.html").read_text(encoding="utf-8")
    assert page.count('<p class="status">') == len(PROBES) and page.count("data:image/webp") >= 8 * len(
        PROBES
    )
    told = manifest.model_dump_json()
    assert str(session) not in told and str(finished.results) not in told


@pytest.mark.parametrize("probe", PROBES)
def test_the_loader_reads_what_was_published(finished, probe):
    data = load_neural_data(finished.results / SESSION, probe, keep_units="kilosort")
    spikes, clusters, _ = data
    sync = json.loads((alf_folder(finished, probe) / "_powerpixels_clock.fit.json").read_text())
    assert (data.clock.name, data.clock.bound_us) == ("nidq", sync["bound_us"])
    assert {len(values) for values in spikes.values()} == {len(spikes["times"])}
    assert {len(values) for values in clusters.values()} == {len(clusters["cluster_id"])}
    labels = pd.read_csv(alf_folder(finished, probe) / "clusters.metrics.csv")
    good = np.flatnonzero(labels["ks2_label"] == "good")
    assert clusters["cluster_id"].tolist() == good.tolist() != []
    times = np.load(alf_folder(finished, probe) / "spikes.times.npy")
    of = np.load(alf_folder(finished, probe) / "spikes.clusters.npy")
    np.testing.assert_array_equal(spikes["times"], times[np.isin(of, good)])


def test_the_manuals_example_of_a_psth(finished, truth, tmp_path):
    """Licks say nothing of the simulated neurons: around them a unit's mean rate is its own."""
    script = ROOT / "docs" / "psth.py"
    subprocess.run(
        [sys.executable, script, finished.results / SESSION, "probe00", "_nidq_port0line1", tmp_path],
        check=True,
    )
    table = pd.read_csv(tmp_path / "psth.csv", index_col="cluster_id")
    spikes, clusters, _ = load_neural_data(finished.results / SESSION, "probe00")
    assert table.index.tolist() == clusters["cluster_id"].tolist() and (tmp_path / "psth.png").stat().st_size
    duration = truth.document.config.duration_s
    for unit, rates in table.iterrows():
        assert rates.mean() == pytest.approx((spikes["clusters"] == unit).sum() / duration, rel=0.35, abs=1)


def test_events_and_analog_on_the_nidq_clock(finished, truth):
    folder = finished.results / SESSION / "alf"
    one_sample = 1 / truth.document.nidq.sampling_rate_hz
    for line in truth.document.lines:
        times = np.load(folder / f"_nidq_port0line{line.bit}.times.npy")
        known = truth.events(line.name)
        edges = np.sort(np.concatenate([known["on_nidq_s"], known["off_nidq_s"]]))
        end = truth.document.nidq.n_samples / truth.document.nidq.sampling_rate_hz
        edges = edges[(edges > 0) & (edges < end)]
        assert len(times) == len(edges) > 10
        assert np.abs(times - edges).max() <= one_sample


def test_the_sorters_folder_and_the_analyzer_open_where_they_lie(finished):
    """Every shank's, with as many units as the ALF has; and no path of the machine in them."""
    from spikeinterface.core import load_sorting_analyzer

    for probe, shanks in (("probe00", ["shank0"]), ("probe01", ["shank2", "shank3"])):
        units = pd.read_csv(alf_folder(finished, probe) / "clusters.metrics.csv")
        sorter = finished.results / SESSION / "spike_sorters" / "kilosort4" / probe
        analyzers = finished.results / SESSION / "analyzers" / probe
        assert sorted(path.name for path in sorter.iterdir()) == shanks
        assert sorted(path.stem for path in analyzers.iterdir()) == shanks
        suggestions = finished.results / SESSION / "qc" / probe / "suggestions"
        assert sorted(path.stem for path in suggestions.iterdir()) == shanks
        typed = load_object(alf_folder(finished, probe) / "tables", "clusters")["metrics"]
        assert typed["sorter_unit_id"].tolist() == units["sorter_unit_id"].tolist()
        for shank in shanks:
            expected = units.sorter_unit_id[units.sorting_unit == shank].tolist()
            analyzer = load_sorting_analyzer(analyzers / f"{shank}.zarr")
            assert analyzer.unit_ids.tolist() == expected
            suggested = Suggestions.load(suggestions / f"{shank}.json")
            assert {i for pair in (*suggested.redundant, *suggested.merges) for i in pair} <= set(expected)
            assert analyzer.get_extension("waveforms").get_data().shape[0] > 100
            assert "dat_path = ''" in (sorter / shank / "sorter_output" / "params.py").read_text()
            for folder in (sorter / shank, analyzers / f"{shank}.zarr"):
                for path in folder.rglob("*"):
                    if path.is_file():
                        assert str(finished.folder).encode() not in path.read_bytes(), path


def test_summary_and_versions(finished):
    with open(finished.results / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["session"], row["probe"], row["status"]) for row in rows] == [
        ("sim01", "2026-03-01_001", "probe00", "done"),
        ("sim01", "2026-03-01_001", "probe01", "done"),
    ]
    for row in rows:
        clusters = load_object(alf_folder(finished, row["probe"]), "clusters")
        assert int(row["n_units"]) == len(clusters["channels"])
    versions = (finished.results / "pipeline_info" / "software_versions.yml").read_text()
    assert (
        "kilosort: 4.1.7" in versions
        and "spikeinterface: 0.105.3" in versions
        and "Nextflow: 24.10.0" in versions
    )


@pytest.mark.skipif(browser() is None, reason="no browser is installed")
def test_pages_in_a_browser(finished, tmp_path):
    """Both open without a complaint, by themselves, and the session's has each probe's figures."""
    text = check_page(finished.results / "report.html", tmp_path / "run")
    assert all(probe in text for probe in PROBES)
    text = check_page(finished.results / SESSION / "report.html", tmp_path / "session")
    for _, caption in STAGES:
        assert text.count(caption) >= len(PROBES), caption


def test_the_estimate_beforehand(finished, session, monkeypatch):
    """Sizes on the disk after the run, with as many units and spikes assumed as there are. Traces are estimated with
    the channels that turn out unfit (18 of 80 lie out of the brain, more are dead); the rest of this short session is
    figures. Hours: of the trace, on a machine whose load makes them longer."""
    rows = json.loads((finished.results / "summary.json").read_text())
    for name, count in (("UNITS_PER_CHANNEL", "n_units"), ("SPIKES_PER_S_PER_CHANNEL", "n_spikes")):
        n = sum(row[count] for row in rows) / sum(row["n_channels"] for row in rows)
        monkeypatch.setattr(f"powerpixels.estimate.{name}", n / (20 if count == "n_spikes" else 1))
    (found,) = estimate(session / "samplesheet.csv", Options(device="cpu"))
    raw = sum(path.stat().st_size for path in (session / "raw").rglob("*") if path.is_file())
    assert found.raw_bytes == raw and found.probes == 2 and found.gpu_hours == 0
    # A hard link counts once.
    tasks = {Path(row["workdir"]) for row in finished.tasks()}
    work = {
        (stat.st_ino): stat.st_size
        for folder in tasks
        for stat in (path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    }
    assert 1.0 <= found.work_bytes / sum(work.values()) <= 1.6
    published = sum(path.stat().st_size for path in (finished.results / "sim01").rglob("*") if path.is_file())
    assert 0.7 <= found.published_bytes / published <= 1.4
    spent = status(finished.results, time.time())["core_hours"]
    assert 0.1 <= found.core_hours / spent <= 2


def test_the_run_had_no_network(finished, launcher):
    """Neither Nextflow nor a task: the whole run was in such a namespace, with an empty home."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    connect = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
    done = subprocess.run(
        launcher.isolated([sys.executable, "-c", connect]), capture_output=True, text=True, timeout=60
    )
    assert "Network is unreachable" in done.stderr
    assert finished.status == 0


def test_resume_does_nothing_again(finished, launcher, session):
    again = launcher.run("-resume", "--input", session / "samplesheet.csv")
    assert again.status == 0, again.output
    assert again.keys("COMPLETED") == []
    assert again.keys("CACHED") == finished.keys("COMPLETED") or len(again.keys("CACHED")) > 10


def test_a_label_parameter_leaves_the_sorting(finished, launcher, session, tmp_path):
    """Also shows that nothing else was lost: what follows LABEL is new, what comes before is not. And that the
    summary has what another run left in the results folder, and that all this needs no preprocessed traces."""
    released = release(finished.results)
    assert sorted(one.path.parent.name for one in released) == ["shank0", "shank2", "shank3"]
    # int16 of 20 s and of every channel that was sorted, 60 of 80.
    assert sum(one.n_bytes for one in released) == 2 * 600_000 * 60
    (own,) = (finished.results / "pipeline_info" / "rows").glob("*/*.json")
    (row, _) = json.loads(own.read_text())
    place = own.parents[1] / "other" / "2026-01-01_001.json"
    place.parent.mkdir()
    failure = {"status": "failed", "stage": "SORT", "exit": "1", "reason": "lost", "log": "its log"}
    place.write_text(json.dumps([row | failure | {"subject": "other", "session": "2026-01-01_001"}]))
    thresholds = tmp_path / "bombcell.json"
    thresholds.write_text(json.dumps({"minSNR": 1000.0}))
    # UnitRefine's models too, where there is what to train them on.
    models, given = tmp_path / "models of mine" / "models", []
    if test_unitrefine.DATASET.exists():
        curated = test_unitrefine.judged(test_unitrefine.recordings())
        test_unitrefine.trained(curated, "none", models.parent, trees=5)
        given = ["--unitrefine_models", models]
    arguments = ("-resume", "--input", session / "samplesheet.csv", "--bombcell_params", thresholds)
    changed = launcher.run(*arguments, *given)
    assert changed.status == 0, changed.output
    stages = {row["stage"] for row in changed.tasks("COMPLETED")}
    assert "LABEL" in stages and stages <= {"LABEL", "EXPORT", "NWB", "REPORT", "MANIFEST", "SESSION_REPORT"}
    labels = np.load(alf_folder(changed, "probe00") / "clusters.bombcellLabels.npy")
    assert not (labels == 1).any(), "no unit reaches the threshold set"
    provenance = json.loads((changed.results / SESSION / "qc/probe00/labels/shank0.json").read_text())
    assert provenance["bombcell"]["parameters"]["minSNR"] == 1000
    if given:
        judged = np.load(alf_folder(changed, "probe00") / "clusters.unitrefineLabels.npy")
        assert set(judged.tolist()) <= {0, 1, 2} and (judged > 0).mean() > 0.5
        pinned = json.loads((models / "models.json").read_text())["models"]
        assert provenance["unitrefine"]["models"] == pinned
        stated = Manifest.load(changed.results / SESSION / "qc" / "probe00" / "manifest.json").parameters
        assert stated["unitrefine_models"] == {
            "name": "models",
            "sha256": hashlib.sha256((models / "models.json").read_bytes()).hexdigest(),
        }
    with open(changed.results / "summary.csv", newline="") as file:
        rows = [(row["subject"], row["probe"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [("other", "probe00", "failed"), *(("sim01", probe, "done") for probe in PROBES)]


def test_killed_in_sort_and_resumed(finished, session, tmp_path_factory):
    """kill -9 of Nextflow while it sorts: -resume does what had not finished, and the result is the one of
    the undisturbed run, byte for byte (so the same input twice gives the same spikes, too)."""
    # The results of the label test stand in the first run's folder: spikes are the same with any label.
    expected = {probe: spikes_of(finished, probe) for probe in PROBES}
    launcher = Launcher(ENGINES[0], tmp_path_factory.mktemp("killed") / "launch")
    arguments = ("-resume", "--input", session / "samplesheet.csv")
    process = launcher.start(*arguments)
    run = Run(-9, "", launcher.folder)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        traces = list((run.results / "pipeline_info").glob("trace_*.tsv"))
        done = [row["stage"] for row in run.tasks("COMPLETED")] if traces else []
        if "SORT" in done:
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before_kill = run.keys("COMPLETED")
    assert 1 <= sum(key.startswith("SORT") for key in before_kill) < 3

    resumed = launcher.run(*arguments)
    assert resumed.status == 0, resumed.output
    assert set(before_kill) <= set(resumed.keys("CACHED"))
    assert not set(before_kill) & set(resumed.keys("COMPLETED"))
    for probe in PROBES:
        assert spikes_of(resumed, probe) == expected[probe]


def test_a_failure_stays_local(finished, session, tmp_path_factory):
    """One session with a cut-off probe, one without any data: the sound probe is published, the others named."""
    folder = tmp_path_factory.mktemp("faulty")
    for name in ("cut", "empty"):
        shutil.copytree(session / "raw", folder / name, copy_function=os.symlink)
        for path in (folder / name).rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
    (damaged,) = (folder / "cut").rglob("*.imec1.ap.bin")
    original = damaged.resolve()
    damaged.unlink()
    with open(original, "rb") as source:
        damaged.write_bytes(source.read(1_000_000))
    for path in (folder / "empty").rglob("*.bin"):
        path.unlink()
        path.touch()
    (folder / "sheet.csv").write_text("subject,session,raw\ncut,,cut\nempty,,empty\n")
    launcher = Launcher(ENGINES[0], folder / "launch")
    run = launcher.run("--input", folder / "sheet.csv", "--sorter", "simple", "--drift", "off")

    assert run.status != 0
    published = run.results / "cut" / "2026-03-01" / "001"
    assert (published / "alf" / "probe00" / "spikes.times.npy").exists()
    assert not (published / "alf" / "probe01" / "spikes.times.npy").exists()
    with open(run.results / "summary.csv", newline="") as file:
        rows = {(row["subject"], row["probe"]): row for row in csv.DictReader(file)}
    assert rows["cut", "probe00"]["status"] == "done"
    # Nobody told its time zone: that costs the NWB alone.
    assert not (published / "nwb").exists()
    said = rows["cut", "probe00"]["warnings"]
    assert "no NWB was written, which demands the time zone" in said and "timezone: Europe/Lisbon" in said
    failed = rows["cut", "probe01"]
    assert failed["status"] == "failed"
    assert "1000000" in failed["reason"] and "imec1.ap.bin" in failed["reason"]
    assert "ERROR: " + failed["reason"] in Path(failed["log"]).read_text()
    assert any(subject == "empty" and row["status"] == "failed" for (subject, _probe), row in rows.items())
    assert "cut/2026-03-01_001/probe01" in run.output and failed["reason"] in run.output


def test_raw_data_are_as_they_were(finished, session, before):
    """After all runs above."""
    assert contents(session / "raw") == before
