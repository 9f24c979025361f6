"""Manifests: what is published of each stage's folder, and what `powerpixels verify` says of a results folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from exported_probe import CLOCK
from powerpixels.cli import main
from powerpixels.documents import RawFile, Session, SortingDocument, Stream, StreamDocument
from powerpixels.manifest import Difference, Manifest, Part, make_manifest, verify
from powerpixels.stage import DataError
from powerpixels.sync_files import write_clock

ROOT = Path(__file__).resolve().parents[1]
RECORD = {
    "parameters": {"seed": 42},
    "software": {"SORT": [{"kilosort": "4.1.7"}]},
    "containers": {"powerpixels-cpu.sif": f"sha256 {'ab' * 32}"},
    "samplesheet": {},
}

SESSION = Session(subject="m", session="s", acquisition="spikeglx", acquisition_version=None, start_time=None)


def stream_of(name: str, files: list[RawFile]) -> Stream:
    return Stream(
        name=name,
        kind="nidq",
        files=files,
        sampling_rate_hz=1,
        n_columns=1,
        n_samples=1,
        first_sample=0,
        pieces=[],
    )


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"what is in {name}")


@pytest.fixture
def parts(tmp_path) -> list[Part]:
    """Tasks' folders as the stages leave them, with what they keep to themselves."""
    at = tmp_path / "work"
    write(
        at / "raw_qc",
        "raw_qc.json",
        "levels.png",
        "artifacts.csv",
        "_iblqc_x.timestamps.npy",
        "lfp.zarr/traces/0.0",
        "lfp.zarr/timestamps/0",
        "lfp.zarr/a.json",
    )
    write(at / "preprocessed", "preprocess.json", "muted.npy", "shank0/traces.bin", "shank0/muted.npy")
    write(
        at / "export",
        "summary.json",
        "agreement.json",
        "alf/spikes.times.npy",
        "alf/clusters.depths.npy",
    )
    write(at / "export", "alf/spikes.samples.npy", "alf/drift/shank0/drift.times.npy")
    timed = {"spikes.times.npy": "s", "spikes.samples.npy": "samples", "drift/shank0/drift.times.npy": "s"}
    write_clock(CLOCK, "", timed, at / "export" / "alf")
    write(at / "nwb", "nwb/a.nwb", "nwb/b.nwb.zarr/units/0", "notes.json")
    write(at / "labels", "labels.csv", "labels.json", "phy/cluster_a.tsv")
    write(
        at / "analysis",
        "metrics.csv",
        "bombcell.csv",
        "bombcell.json",
        "ibl_confidence.csv",
        "suggestions.json",
        "analyzer.zarr/.zgroup",
        "analyzer.zarr/templates/0.0",
        "analyzer.zarr/sorting/spikes/sample_index/.zarray",
        "analyzer.zarr/sorting/spikes/sample_index/0",
    )
    write(at / "figures", "index.html", "channels.png")
    write(at / "sync", "residuals.png", "residuals.json", "ibl/_spikeglx_a.sync.npy")
    write(at / "sync", "ibl/_spikeglx_a.timestamps.npy")
    CLOCK.save(at / "sync" / "sync.json")
    write(at / "edges", "_spikeglx_sync.times.probe00.npy", "_spikeglx_sync.channels.probe00.npy")
    write(at / "drift", "displacement_um.npy", "temporal_bins_s.npy")
    write(at / "sorting", "phy/params.py", "spike_samples.npy", "sorter_output/spike_times.npy")
    SortingDocument(
        probe="probe00",
        unit="shank0",
        sorter="lupin",
        sorter_version=None,
        status="sorted",
        message="",
        parameters={},
        unit_ids=[],
        sorter_labels={},
    ).save(at / "sorting" / "sorting.json")
    stages = {
        "raw_qc": "RAW_QC",
        "preprocessed": "PREPROCESS",
        "export": "EXPORT",
        "sync": "SYNC",
        "edges": "EDGES",
        "nwb": "NWB",
        "figures": "VISUALIZE",
    }
    of_units = {"labels": "LABEL", "analysis": "ANALYZE", "sorting": "SORT", "drift": "DRIFT"}
    return [Part(stage, "", at / name) for name, stage in stages.items()] + [
        Part(stage, "shank0", at / name) for name, stage in of_units.items()
    ]


PLACES = {
    "alf/probe00/_iblqc_x.timestamps.npy": "raw_qc/_iblqc_x.timestamps.npy",
    "alf/probe00/_powerpixels_clock.fit.json": "export/alf/_powerpixels_clock.fit.json",
    "alf/probe00/clusters.depths.npy": "export/alf/clusters.depths.npy",
    "alf/probe00/drift/shank0/drift.times.npy": "export/alf/drift/shank0/drift.times.npy",
    "alf/probe00/lfp.zarr/a.json": "raw_qc/lfp.zarr/a.json",
    "alf/probe00/lfp.zarr/traces/0.0": "raw_qc/lfp.zarr/traces/0.0",
    "alf/probe00/lfp.zarr/timestamps/0": "raw_qc/lfp.zarr/timestamps/0",
    "alf/probe00/spikes.samples.npy": "export/alf/spikes.samples.npy",
    "alf/probe00/spikes.times.npy": "export/alf/spikes.times.npy",
    "analyzers/probe00/shank0.zarr/.zgroup": "analysis/analyzer.zarr/.zgroup",
    **{
        f"analyzers/probe00/shank0.zarr/{name}": f"analysis/analyzer.zarr/{name}"
        for name in (
            "sorting/spikes/sample_index/.zarray",
            "sorting/spikes/sample_index/0",
            "templates/0.0",
        )
    },
    "nwb/a.nwb": "nwb/nwb/a.nwb",
    "nwb/b.nwb.zarr/units/0": "nwb/nwb/b.nwb.zarr/units/0",
    "qc/probe00/labels/shank0.json": "labels/labels.json",
    "qc/probe00/labels/shank0_bombcell.csv": "analysis/bombcell.csv",
    "qc/probe00/labels/shank0_ibl_confidence.csv": "analysis/ibl_confidence.csv",
    "qc/probe00/suggestions/shank0.json": "analysis/suggestions.json",
    "qc/probe00/preprocessing/index.html": "figures/index.html",
    "qc/probe00/preprocessing/channels.png": "figures/channels.png",
    "qc/probe00/agreement.json": "export/agreement.json",
    "qc/probe00/artifacts.csv": "raw_qc/artifacts.csv",
    "qc/probe00/drift/shank0/displacement_um.npy": "drift/displacement_um.npy",
    "qc/probe00/drift/shank0/temporal_bins_s.npy": "drift/temporal_bins_s.npy",
    "qc/probe00/levels.png": "raw_qc/levels.png",
    "qc/probe00/muted.npy": "preprocessed/muted.npy",
    "qc/probe00/preprocess.json": "preprocessed/preprocess.json",
    "qc/probe00/raw_qc.json": "raw_qc/raw_qc.json",
    "qc/probe00/summary.json": "export/summary.json",
    "qc/probe00/sync.json": "sync/sync.json",
    "qc/probe00/sync_residuals.png": "sync/residuals.png",
    "raw_ephys_data/probe00/_spikeglx_a.sync.npy": "sync/ibl/_spikeglx_a.sync.npy",
    "raw_ephys_data/probe00/_spikeglx_a.timestamps.npy": "sync/ibl/_spikeglx_a.timestamps.npy",
    "raw_ephys_data/probe00/_spikeglx_sync.channels.probe00.npy": "edges/_spikeglx_sync.channels.probe00.npy",
    "raw_ephys_data/probe00/_spikeglx_sync.times.probe00.npy": "edges/_spikeglx_sync.times.probe00.npy",
    "spike_sorters/lupin/probe00/shank0/phy/params.py": "sorting/phy/params.py",
    "spike_sorters/lupin/probe00/shank0/sorter_output/spike_times.npy": "sorting/sorter_output/spike_times.npy",
    "spike_sorters/lupin/probe00/shank0/sorting.json": "sorting/sorting.json",
    "spike_sorters/lupin/probe00/shank0/spike_samples.npy": "sorting/spike_samples.npy",
    "spike_sorters/phy_labels/probe00/shank0/cluster_a.tsv": "labels/phy/cluster_a.tsv",
}


OWN, REFERENCE = "imec0.ap", "nidq"
CLOCKS = {
    "alf/probe00/_iblqc_x.timestamps.npy": [REFERENCE],
    "alf/probe00/_powerpixels_clock.fit.json": [OWN, REFERENCE],
    "alf/probe00/drift/shank0/drift.times.npy": [REFERENCE],
    "alf/probe00/lfp.zarr/timestamps/0": [REFERENCE],
    "alf/probe00/spikes.samples.npy": [OWN],
    "alf/probe00/spikes.times.npy": [REFERENCE],
    "analyzers/probe00/shank0.zarr/sorting/spikes/sample_index/0": [OWN],
    "nwb/a.nwb": [REFERENCE],
    "nwb/b.nwb.zarr/units/0": [REFERENCE],
    "qc/probe00/artifacts.csv": [OWN, REFERENCE],
    "qc/probe00/drift/shank0/temporal_bins_s.npy": [OWN],
    "qc/probe00/muted.npy": [OWN],
    "qc/probe00/sync.json": [OWN, REFERENCE],
    "raw_ephys_data/probe00/_spikeglx_a.sync.npy": [OWN, REFERENCE],
    "raw_ephys_data/probe00/_spikeglx_a.timestamps.npy": [OWN, REFERENCE],
    "raw_ephys_data/probe00/_spikeglx_sync.times.probe00.npy": [OWN],
    "spike_sorters/lupin/probe00/shank0/sorter_output/spike_times.npy": [OWN],
    "spike_sorters/lupin/probe00/shank0/spike_samples.npy": [OWN],
}


@pytest.fixture
def published(parts, tmp_path) -> Path:
    """The folder of a session with its manifest, as the pipeline leaves it."""
    session = tmp_path / "results" / "mouse01" / "2026-03-01" / "001"
    for target, source in PLACES.items():
        (session / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "work" / source, session / target)
    manifest = make_manifest("mouse01", "2026-03-01_001", "probe00", parts, RECORD)
    manifest.save(session / "qc" / "probe00" / "manifest.json")
    return session


def test_every_published_file_and_nothing_else(published, tmp_path):
    manifest = Manifest.load(published / "qc" / "probe00" / "manifest.json")
    assert [file.path for file in manifest.files] == sorted(PLACES)
    for file in manifest.files:
        content = (tmp_path / "work" / PLACES[file.path]).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert {file.path: file.clocks for file in manifest.files if file.clocks} == CLOCKS
    assert manifest.containers == RECORD["containers"]
    assert manifest.parameters == {"seed": 42} and manifest.software["SORT"][0]["kilosort"] == "4.1.7"
    assert "/work/" not in manifest.model_dump_json()


def test_clocks_of_what_is_not_a_probes(tmp_path):
    """Of a session's events, each stream's by the clock file beside them; of a copy of raw data; before EXPORT."""
    write(tmp_path / "alf", "lick.times.npy", "obx0/lick.times.npy")
    write_clock(CLOCK, "", {"lick.times.npy": "s"}, tmp_path / "alf")
    other = CLOCK.model_copy(update={"stream": "obx0", "reference": "imec0.ap"})
    write_clock(other, "", {"lick.times.npy": "s"}, tmp_path / "alf" / "obx0")
    write(tmp_path / "edges", "_spikeglx_sync.times.npy")
    write(tmp_path / "copy", "probe00/a.lf.cbin", "probe00/a.lf.ch")
    (tmp_path / "copy" / "probe00" / "a.compress.json").write_text('{"stream": "imec0.lf"}')
    write(tmp_path / "sorting", "spike_times.npy")
    (tmp_path / "sync").mkdir()
    CLOCK.save(tmp_path / "sync" / "sync.json")

    def clocks(*stages: str, documents=()) -> dict[str, list[str]]:
        folders = {"EVENTS": "alf", "EDGES": "edges", "COMPRESS": "copy", "SYNC": "sync"}
        parts = [Part(stage, "", tmp_path / folders[stage]) for stage in stages]
        made = make_manifest("m", "s", "", parts, RECORD, documents)
        return {file.path: file.clocks for file in made.files if file.clocks}

    document = StreamDocument(session=SESSION, stream=stream_of("nidq", []))
    assert clocks("EVENTS", "EDGES", documents=[document]) == {
        "alf/_powerpixels_clock.fit.json": ["imec0.ap", "nidq"],
        "alf/lick.times.npy": ["nidq"],
        "alf/obx0/_powerpixels_clock.fit.json": ["obx0", "imec0.ap"],
        "alf/obx0/lick.times.npy": ["imec0.ap"],
        "raw_ephys_data/_spikeglx_sync.times.npy": ["nidq"],
    }
    assert clocks("EDGES") == {}, "of a stream that is not known"
    assert clocks("COMPRESS") == {"raw_ephys_data/probe00/a.lf.cbin": ["imec0.lf"]}
    assert clocks("EDGES", "SYNC")["raw_ephys_data/_spikeglx_sync.times.npy"] == ["imec0.ap"]


def test_verify_names_what_differs(published, tmp_path, capsys):
    results = tmp_path / "results"
    assert verify(published) == verify(results) == (len(PLACES), [])
    # What people add is theirs.
    for name in (
        "alf/probe00/#2026-03-02#/a.npy",
        "curation/a.json",
        "alf/probe00/channel_locations_shank2.json",
    ):
        write(published, name)
    main(["verify", str(results)])
    assert capsys.readouterr().out == f"{len(PLACES)} files in manifests: 0 missing, 0 changed, 0 extra\n"

    (published / "nwb" / "a.nwb").unlink()
    (published / "qc" / "probe00" / "levels.png").write_text("longer than before, by far")
    samples = published / "spike_sorters/lupin/probe00/shank0/spike_samples.npy"
    samples.write_bytes(samples.read_bytes()[::-1])
    write(published, "analyzers/probe00/shank1.zarr/.zgroup")
    n_files, differences = verify(results)
    at = Path("mouse01/2026-03-01/001")
    assert n_files == len(PLACES) and differences == [
        Difference("extra", at / "analyzers/probe00/shank1.zarr/.zgroup", ""),
        Difference("missing", at / "nwb/a.nwb", "units, electrodes, events and traces as NWB"),
        Difference("changed", at / "qc/probe00/levels.png", "26 bytes, 21 were published"),
        Difference("changed", at / samples.relative_to(published), "of the same size, with another content"),
    ]
    with pytest.raises(SystemExit) as left:
        main(["verify", str(published)])
    assert left.value.code == 65
    said = capsys.readouterr()
    assert "missing  nwb/a.nwb: units, electrodes, events and traces as NWB\n" in said.out
    assert said.err.endswith("not as it was published (1 missing, 2 changed, 1 extra); see above\n")


def test_published_as_links(published, parts, tmp_path):
    """Folders and files that are links to where they were made count as if they lay there."""
    zarr = published / "analyzers" / "probe00" / "shank0.zarr"
    shutil.rmtree(zarr)
    zarr.symlink_to(tmp_path / "work" / "analysis" / "analyzer.zarr")
    assert verify(published)[1] == []


def test_raw_files_are_known_by_content(tmp_path):
    size = 17 << 20
    files = [
        RawFile(path="a.bin", role="data", size_bytes=size),
        RawFile(path="a.meta", role="meta", size_bytes=3),
    ]
    document = StreamDocument(session=SESSION, stream=stream_of("nidq", files))
    with (tmp_path / "a.bin").open("wb") as data:
        data.write(b"first")
        data.truncate(size - 4)
        data.seek(size - 4)
        data.write(b"last")
    (tmp_path / "a.meta").write_bytes(b"abc")
    raw = [tmp_path / "a.bin", tmp_path / "a.meta"]
    manifest = make_manifest("m", "s", "probe00", [], RECORD, [document], raw)
    content = (tmp_path / "a.bin").read_bytes()
    assert [identity.model_dump() for identity in manifest.raw] == [
        {
            "path": "a.bin",
            "size_bytes": size,
            "sha256": None,
            "ends_sha256": hashlib.sha256(content[: 1 << 20] + content[-1 << 20 :]).hexdigest(),
        },
        {
            "path": "a.meta",
            "size_bytes": 3,
            "sha256": hashlib.sha256(b"abc").hexdigest(),
            "ends_sha256": None,
        },
    ]


def test_two_files_for_one_place_are_a_defect(parts):
    with pytest.raises(ValueError, match=r"qc/probe00/sync_residuals\.png is published by SYNC and by SYNC"):
        make_manifest("m", "s", "probe00", [*parts, parts[3]], RECORD)


def test_without_or_with_a_broken_manifest(published, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected results with qc/manifest.json"):
        verify(tmp_path / "empty")
    path = published / "qc" / "probe00" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["path"] = "../../other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"expected paths within the session's folder, found \.\./\.\./other"):
        verify(published)
    path.write_text("{")
    with pytest.raises(DataError, match="expected a manifest, found otherwise"):
        verify(published)


def test_executable(parts, tmp_path):
    """With the head as the pipeline writes it: of a session's DAQ stream that has no probe, and no raw file."""
    head = {
        "subject": "mouse01",
        "session": "2026-03-01_001",
        "probe": "probe00",
        "parts": [{"stage": part.stage, "unit": part.unit} for part in parts],
        "documents": [],
        "record": RECORD,
    }
    (tmp_path / "head.json").write_text(json.dumps(head))
    folders = [str(part.folder) for part in parts]
    command = [
        sys.executable,
        ROOT / "bin" / "pp_manifest.py",
        "--head",
        "head.json",
        "--made",
        *folders,
        "--raw",
        "--out",
        "m.json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [file.path for file in Manifest.load(tmp_path / "m.json").files] == sorted(PLACES)
