"""The same simulated session in every layout and with every fault that laboratories have.

``relayout`` rewrites what ``simulate_session`` wrote (SpikeGLX, one gate, one trigger) into another folder
as another acquisition, another setting or a later program would have left it; ``break_session`` damages
such a folder. This module is written from the formats' own descriptions and from real files, and uses none
of the code that reads them: it is what that code is tested with.

The truth moves with the data. In the new folder ``Truth`` works as in the old one: spikes.sample counts the
samples of the stream as saved (nothing in gaps), spikes that were not recorded are left out, true_s and
nidq_s are as they were.

SpikeGLX's metadata: https://billkarsh.github.io/SpikeGLX (Metadata, OneBox help); CatGT's: its ReadMe and
real tcat files. Open Ephys: the documentation of its binary format and real recordings of GUI 0.5 and 0.6.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from powerpixels.layouts_files import (
    Part,
    Work,
    device_of,
    parts_of,
    piece_fields,
    row_chunks,
    source_meta,
    source_rows,
    write_rows,
)
from powerpixels.layouts_openephys import GUI_05, GUI_06, GUI_10, OPENEPHYS_UV, openephys, two_nodes
from powerpixels.simulate import (
    PROBE_MODELS,
    ProbeTruth,
    StreamTruth,
    Truth,
    TruthDocument,
    channel_ranges,
    require_new,
    write_meta,
    write_samplesheet,
)
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")


class Layout(NamedTuple):
    """How a layout is made: the function writes the files and returns the new streams by old name.

    raw: the folder for a samplesheet, below raw/. codes: faults that INSPECT is to find in it.
    """

    what: str
    write: Callable[[Work], dict[str, StreamTruth]]
    raw: str = "."
    codes: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------------------
# SpikeGLX files
# ---------------------------------------------------------------------------------------------------------


def _write_part(
    path: Path,
    rows: np.ndarray,
    part: Part,
    fields: dict[str, str],
    rate_hz: float,
    convert: Callable[[np.ndarray], np.ndarray] = lambda block: block,
) -> None:
    """Write a .bin file of samples part.first to part.last and its .meta; convert: what becomes of rows."""
    n = part.last - part.first
    sha1 = write_rows(path, (convert(rows[part.first + a : part.first + b]) for a, b in row_chunks(n)))
    first_sample = int(fields["firstSample"]) + part.first
    write_meta(
        path, {**fields, **_size_fields(path, rate_hz, fields, sha1), "firstSample": f"{first_sample}"}
    )


def _size_fields(path: Path, rate_hz: float, fields: dict[str, str], sha1: str) -> dict[str, str]:
    """Fields that follow from the data file."""
    size = path.stat().st_size
    return {
        "fileSHA1": sha1,
        "fileSizeBytes": f"{size}",
        "fileTimeSecs": repr(size // 2 // int(fields["nSavedChans"]) / rate_hz),
    }


def _file_name(work: Work, stream: StreamTruth, part: Part) -> str:
    """SpikeGLX's file name: run_g0_t0.imec0.ap.bin."""
    return f"{work.run}_g{part.gate}_t{part.trigger}.{stream.name}.bin"


def _probe_folder(work: Work, stream: StreamTruth, gate: int) -> str:
    """SpikeGLX's folder of a probe; the NIDQ file lies in none."""
    device = device_of(stream)
    return f"{work.run}_g{gate}_{device}" if device else ""


def _spikeglx(
    kind: Literal["whole", "contiguous", "gaps", "overlaps", "gates"] = "whole",
    run_folder: bool = True,
    probe_folders: bool = True,
) -> Callable[[Work], dict[str, StreamTruth]]:
    """SpikeGLX's own files, cut as kind says, in the folders asked for."""

    def write(work: Work) -> dict[str, StreamTruth]:
        streams = {}
        for stream in work.source.streams():
            rows, fields, files = source_rows(work, stream), source_meta(work, stream), []
            parts = parts_of(work, stream, kind)
            for part in parts:
                folder = work.raw
                if run_folder:
                    folder = folder / f"{work.run}_g{part.gate}"
                if probe_folders:
                    folder = folder / _probe_folder(work, stream, part.gate)
                path = folder / _file_name(work, stream, part)
                name = {"fileName": "D:/data/" + path.relative_to(work.raw).as_posix()}
                _write_part(path, rows, part, {**fields, **name}, stream.sampling_rate_hz)
                files.append(path.relative_to(work.out).as_posix())
            streams[stream.name] = stream.model_copy(update=piece_fields(stream, parts, files))
        return streams

    return write


def _tcat(work: Work) -> dict[str, StreamTruth]:
    """What CatGT makes of the files of "gaps": one file, zeros in the gaps, no folder of its own run."""
    streams = {}
    for stream in work.source.streams():
        rows, fields = source_rows(work, stream), source_meta(work, stream)
        parts = parts_of(work, stream, "gaps")
        folder = work.raw / f"catgt_{work.run}_g0" / _probe_folder(work, stream, 0)
        path = folder / f"{work.run}_g0_tcat.{stream.name}.bin"

        def blocks(rows=rows, parts=parts) -> Iterator[np.ndarray]:
            end = 0
            for part in parts:
                for first, last in row_chunks(part.first - end):
                    yield np.zeros((last - first, rows.shape[1]), dtype="<i2")
                for first, last in row_chunks(part.last - part.first):
                    yield rows[part.first + first : part.first + last]
                end = part.last

        write_rows(path, blocks())
        command = (
            f"<CatGT -dir=D:/data -run={work.run} -g=0 -t=0,{len(parts) - 1} -prb_fld -prb=0:1 -ap -lf -ni "
            "-no_auto_sync -no_tshift -dest=D:/catgt -out_prb_fld>"
        )
        changes = {
            **_size_fields(path, stream.sampling_rate_hz, fields, "0"),
            "catGTCmdline0": command,
            "catGVals": "0,0",
            "catNFiles": f"{len(parts)}",
            "catTVals": f"0,{len(parts) - 1}",
            "fileCreateTime_original": fields["fileCreateTime"],
            "fileName": "D:/catgt/" + path.relative_to(work.raw).as_posix(),
        }
        write_meta(path, {**fields, **changes})
        blank = [(a.last, b.first) for a, b in zip(parts[:-1], parts[1:], strict=True)]
        file = path.relative_to(work.out).as_posix()
        streams[stream.name] = stream.model_copy(update={"file": file, "blank": blank})
    return streams


def _subset(work: Work) -> dict[str, StreamTruth]:
    """Every third channel not saved, where no unit has its largest signal."""
    streams = {}
    for stream in work.source.streams():
        rows, fields = source_rows(work, stream), source_meta(work, stream)
        columns = _subset_columns(work, stream)
        device = device_of(stream)
        if device:
            probe = work.source.probe(device)
            ap = stream is probe.ap
            saved = [probe.channels[column].acquired_channel for column in columns[:-1]]
            n_acquired, n_lf, _ = (int(n) for n in fields["acqApLfSy"].split(","))
            sync = n_acquired + n_lf
            files = [channel + (0 if ap else n_acquired) for channel in saved]
            n = len(saved)
            channel_map = re.findall(r"\([^)]*\)", fields["~snsChanMap"])
            geometry = re.findall(r"\([^)]*\)", fields["~snsGeomMap"])
            fields |= {
                "nSavedChans": f"{n + 1}",
                "snsApLfSy": f"{n},0,1" if ap else f"0,{n},1",
                "snsSaveChanSubset": channel_ranges([*files, sync]),
                "~snsChanMap": channel_map[0] + "".join(channel_map[1 + column] for column in columns),
                "~snsGeomMap": geometry[0] + "".join(geometry[1 + column] for column in columns[:-1]),
            }
        part = Part(0, stream.n_samples, 0, 0)
        folder = work.raw / f"{work.run}_g0" / _probe_folder(work, stream, 0)
        path = folder / _file_name(work, stream, part)
        _write_part(path, rows, part, fields, stream.sampling_rate_hz, lambda block, c=columns: block[:, c])
        streams[stream.name] = stream.model_copy(
            update={
                "file": path.relative_to(work.out).as_posix(),
                "n_columns": len(columns),
                "sync_column": len(columns) - 1,
            }
        )
    return streams


def _subset_columns(work: Work, stream: StreamTruth) -> list[int]:
    """Source columns that "subset" keeps: of a probe two thirds, all that are a unit's largest, and sync."""
    if not device_of(stream):
        return list(range(stream.n_columns))
    probe = work.source.probe(device_of(stream))
    largest = {unit.raw_column for unit in probe.units}
    kept = [column for column in range(len(probe.channels)) if column % 3 != 1 or column in largest]
    return [*kept, stream.sync_column]


def _no_sync(work: Work) -> dict[str, StreamTruth]:
    """The probes' sync words not saved."""
    streams = {}
    for stream in work.source.streams():
        rows, fields = source_rows(work, stream), source_meta(work, stream)
        columns, changes = slice(None), {}
        if device_of(stream):
            n = stream.n_columns - 1
            columns = slice(0, n)
            fields |= {
                "nSavedChans": f"{n}",
                "snsApLfSy": f"{n},0,0" if stream.name.endswith(".ap") else f"0,{n},0",
                "snsSaveChanSubset": re.sub(r",\d+$", "", fields["snsSaveChanSubset"]),
                "~snsChanMap": re.sub(r"\(SY0;[^)]*\)$", "", fields["~snsChanMap"]),
            }
            changes = {"n_columns": n, "sync_column": None, "sync_bit": None}
        part = Part(0, stream.n_samples, 0, 0)
        folder = work.raw / f"{work.run}_g0" / _probe_folder(work, stream, 0)
        path = folder / _file_name(work, stream, part)
        _write_part(path, rows, part, fields, stream.sampling_rate_hz, lambda block, c=columns: block[:, c])
        changes["file"] = path.relative_to(work.out).as_posix()
        streams[stream.name] = stream.model_copy(update=changes)
    return streams


def _renamed(work: Work) -> dict[str, StreamTruth]:
    """Files that were given names of the laboratory's own, with no gate, trigger or probe number."""
    names = {"imec0": "left", "imec1": "right", "": "behaviour"}
    streams = {}
    for stream in work.source.streams():
        device, _, kind = stream.name.rpartition(".")
        path = work.raw / f"{names[device]}.{kind}.bin"
        _copy(work, stream, path)
        streams[stream.name] = stream.model_copy(update={"file": path.relative_to(work.out).as_posix()})
    return streams


def _copy(work: Work, stream: StreamTruth, path: Path) -> None:
    """Copy a source stream's data and header to path (.bin) and beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = work.source.folder / stream.file
    shutil.copyfile(source, path)
    shutil.copyfile(source.with_suffix(".meta"), path.with_suffix(".meta"))


def _compressed(ibl: bool) -> Callable[[Work], dict[str, StreamTruth]]:
    """mtscomp's own compressor at its usual settings; ibl: IBL's names and folders."""

    def write(work: Work) -> dict[str, StreamTruth]:
        import mtscomp

        streams = {}
        for stream in work.source.streams():
            device = device_of(stream)
            if ibl:
                folder = work.raw / f"probe{int(device[4:]):02d}" if device else work.raw
                path = folder / f"_spikeglx_ephysData_g0_t0.{stream.name}.bin"
            else:
                folder = work.raw / f"{work.run}_g0" / _probe_folder(work, stream, 0)
                path = folder / _file_name(work, stream, Part(0, 0, 0, 0))
            _copy(work, stream, path)
            mtscomp.compress(
                path,
                path.with_suffix(".cbin"),
                path.with_suffix(".ch"),
                sample_rate=stream.sampling_rate_hz,
                n_channels=stream.n_columns,
                dtype=np.int16,
                n_threads=1,
                check_after_compress=False,
            )
            path.unlink()
            file = path.with_suffix(".cbin").relative_to(work.out).as_posix()
            streams[stream.name] = stream.model_copy(update={"file": file})
        return streams

    return write


def _onebox(work: Work) -> dict[str, StreamTruth]:
    """No NI device: the same analog input and lines through a OneBox, sync in its SY word's bit 6."""
    streams = {}
    for stream in work.source.streams():
        rows, fields = source_rows(work, stream), source_meta(work, stream)
        fields |= {"typeNiEnabled": "0", "typeObEnabled": "1"}
        part = Part(0, stream.n_samples, 0, 0)
        folder = work.raw / f"{work.run}_g0"
        if device_of(stream):
            path = folder / _probe_folder(work, stream, 0) / _file_name(work, stream, part)
            _write_part(path, rows, part, fields, stream.sampling_rate_hz)
            streams[stream.name] = stream.model_copy(update={"file": path.relative_to(work.out).as_posix()})
            continue
        path = folder / f"{work.run}_g0_t0.obx0.obx.bin"

        def convert(block: np.ndarray, column=stream.sync_column, bit=stream.sync_bit) -> np.ndarray:
            level = (block[:, column] >> bit) & 1
            return np.stack([block[:, 0], block[:, column] & ~np.int16(1 << bit), level << 6], axis=1)

        kept = {
            key: value for key, value in fields.items() if not re.match(r"ni[A-Z]|syncNi|acqMn|snsMn", key)
        }
        kept |= {
            "acqXaDwSy": "12,1,1",
            "fileName": f"D:/data/{work.run}_g0/{path.name}",
            "imDatApi": "3.70",
            "imDatBs_fw": "2.0.169",
            "imDatBsc_fw": "3.2.189",
            "imDatBsc_hw": "2.1",
            "imDatBsc_pn": "OneBox",
            "imDatBsc_sn": "20240117",
            "nSavedChans": "3",
            "obAiRangeMax": fields["niAiRangeMax"],
            "obAiRangeMin": fields["niAiRangeMin"],
            "obMaxInt": "32768",
            "obSampRate": fields["niSampRate"],
            "obTrgSource": "0",
            "snsSaveChanSubset": "0,12:13",
            "snsXaDwSy": "1,1,1",
            "syncObInputSlot": "21",
            "typeThis": "obx",
            "~snsChanMap": "(12,1,1)(XA0;0:0)(XD0;12:12)(SY0;13:13)",
        }
        del kept["~snsShankMap"]
        _write_part(path, rows, part, kept, stream.sampling_rate_hz, convert)
        streams[stream.name] = stream.model_copy(
            update={
                "name": "obx0",
                "file": path.relative_to(work.out).as_posix(),
                "n_columns": 3,
                "sync_column": 2,
                "sync_bit": 6,
            }
        )
    return streams


# ---------------------------------------------------------------------------------------------------------
# A session in another layout
# ---------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "spikeglx": Layout("as simulated: a folder for each probe in the run's folder", _spikeglx(), "{run}_g0"),
    "folders": Layout("the same; raw is the folder above the run's", _spikeglx()),
    "flat": Layout("all files in one folder", _spikeglx(run_folder=False, probe_folders=False)),
    "no_run_folder": Layout("folders of the probes, no folder of the run", _spikeglx(run_folder=False)),
    "triggers": Layout("each stream cut in t0, t1 and t2 without gap", _spikeglx("contiguous"), "{run}_g0"),
    "gaps": Layout(
        "t0, t1 and t2 with time lost between them", _spikeglx("gaps"), "{run}_g0", codes=("GAP",)
    ),
    "overlaps": Layout(
        "t1 and t2 repeat the end of the file before", _spikeglx("overlaps"), "{run}_g0", codes=("OVERLAP",)
    ),
    "gates": Layout(
        "g0 and g1 in a run folder each, time lost between them", _spikeglx("gates"), codes=("GAP",)
    ),
    "tcat": Layout(
        "CatGT's output of gaps: one file, zeros in the gaps",
        _tcat,
        "catgt_{run}_g0",
        codes=("CATGT_JOINED",),
    ),
    "subset": Layout("a third of the channels not saved", _subset, "{run}_g0"),
    "no_sync": Layout("the probes' sync word not saved", _no_sync, "{run}_g0", codes=("SYNC_MISSING",)),
    "renamed": Layout("file names without run, gate, trigger and probe number", _renamed),
    "cbin": Layout("compressed by mtscomp", _compressed(ibl=False), "{run}_g0"),
    "ibl": Layout("compressed by mtscomp, IBL's names", _compressed(ibl=True)),
    "onebox": Layout("a OneBox in place of the NI device", _onebox, "{run}_g0"),
    "openephys": Layout("Open Ephys binary, GUI 0.6", openephys(GUI_06)),
    "openephys_0.5": Layout("Open Ephys binary, GUI 0.5", openephys(GUI_05)),
    "openephys_1.0": Layout("Open Ephys binary, GUI 1.0", openephys(GUI_10)),
    "openephys_nodes": Layout("the same streams by two Record Nodes", two_nodes, codes=("DUPLICATE_STREAM",)),
    "openephys_recordings": Layout(
        "three recordings, time lost between them", openephys(GUI_06, "gaps"), codes=("GAP",)
    ),
    "openephys_sync": Layout("the probes' sync also as a column", openephys(GUI_06, sync_column=True)),
    "openephys_#": Layout(
        "folder names with blanks and #", openephys(GUI_06, top="mouse 1 #2"), "mouse 1 #2"
    ),
}


def relayout(session: Path, out: Path, layout: str) -> Path:
    """Write the simulated session in another layout (a key of LAYOUTS); returns the raw folder to give to
    a samplesheet.

    session: folder of simulate_session, only read. out: new folder with raw/, truth/ and samplesheet.csv as
    there; it appears when it is complete. Raises DataError for an unknown layout, and where out holds
    something already.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}; name one of these")
    out = Path(out)
    require_new(out)
    source = Truth.load(session)
    relative = Path("raw") / LAYOUTS[layout].raw.format(run=source.document.config.run)
    out.parent.mkdir(parents=True, exist_ok=True)
    log.info("layout %s: %s", layout, LAYOUTS[layout].what)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        work = Work(source, Path(unfinished) / "session")
        work.raw.mkdir(parents=True)
        streams = LAYOUTS[layout].write(work)
        document = _write_truth(work, layout, streams, relative.as_posix())
        write_samplesheet(work.out, document, out)
        work.out.rename(out)
    return out / relative


def _write_truth(work: Work, layout: str, streams: dict[str, StreamTruth], raw: str) -> TruthDocument:
    """truth/ of the new layout."""
    source, folder = work.source.document, work.out / "truth"
    folder.mkdir()
    probes = []
    for probe in source.probes:
        changes: dict = {"ap": streams[probe.ap.name]}
        if probe.lf is not None:
            changes["lf"] = streams[probe.lf.name]
        if layout.startswith("openephys"):
            changes["name"] = changes["device"] = changes["ap"].name.rpartition(".")[0]
            changes["gain_uv"] = OPENEPHYS_UV
            changes["lf_gain_uv"] = OPENEPHYS_UV if probe.lf else None
            changes["channels"] = _openephys_channels(probe)
        if layout == "subset":
            changes |= _subset_truth(work, probe)
        spikes = work.source.spikes(probe.name)
        spikes["sample"] = _saved(spikes["sample"], streams[probe.ap.name])
        recorded = spikes["sample"] >= 0
        spikes = {key: values[recorded] for key, values in spikes.items()}
        counts = np.bincount(spikes["unit"], minlength=len(probe.units))
        units = changes.get("units", probe.units)
        changes["units"] = [u.model_copy(update={"n_spikes": int(counts[u.unit])}) for u in units]
        new = probe.model_copy(update=changes)
        new = new.model_copy(update={"spikes": f"spikes_{new.name}.npz"})
        np.savez(folder / new.spikes, **spikes)
        probes.append(new)
    nidq = streams[source.nidq.name]
    with np.load(work.source.folder / "truth" / "events.npz") as arrays:
        events = {name: true_s[work.source.recorded(nidq, true_s)] for name, true_s in arrays.items()}
    np.savez(folder / "events.npz", **events)
    lines = [line.model_copy(update={"n_events": events[f"{line.name}_on"].size}) for line in source.lines]
    document = source.model_copy(
        update={
            "run_folder": raw,
            "probes": probes,
            "nidq": nidq,
            "reference": probes[0].ap.name if layout == "onebox" else "nidq",
            "lines": lines,
            **({"analog": source.analog.model_copy(update={"name": "AI0"})} if "openephys" in layout else {}),
        }
    )
    document.save(folder / "truth.json")
    return document


def _saved(sample: np.ndarray, new: StreamTruth) -> np.ndarray:
    """Numbers in the new stream of samples of its source, int64; -1 where they were not recorded."""
    number, start = np.full(sample.shape, -1, dtype=np.int64), 0
    for first, n in [(piece.offset, piece.n_samples) for piece in new.pieces] or [(0, new.n_samples)]:
        inside = (sample >= first) & (sample < first + n)
        number[inside] = start + sample[inside] - first
        start += n
    for first, last in new.blank:
        number[(sample >= first) & (sample < last)] = -1
    return number


def _openephys_channels(probe: ProbeTruth) -> list:
    """The program counts channels from 1."""
    prefix = "AP" if probe.lf else "CH"
    return [c.model_copy(update={"channel_id": f"{prefix}{c.acquired_channel + 1}"}) for c in probe.channels]


def _subset_truth(work: Work, probe: ProbeTruth) -> dict:
    """Channels and units with the columns of the files of "subset"."""
    columns = _subset_columns(work, probe.ap)[:-1]
    new = {old: column for column, old in enumerate(columns)}
    channels = [
        channel.model_copy(update={"raw_column": new[channel.raw_column]})
        for channel in probe.channels
        if channel.raw_column in new
    ]
    units = [unit.model_copy(update={"raw_column": new[unit.raw_column]}) for unit in probe.units]
    return {"channels": channels, "units": units}


# ---------------------------------------------------------------------------------------------------------
# Faults
# ---------------------------------------------------------------------------------------------------------


class PlantedFault(NamedTuple):
    """A fault that break_session plants.

    plant: damages the stream whose data file it is given. spikeglx, openephys: code and severity that
    INSPECT is to give it, planted in a probe's AP stream, by the program whose layout it is; None: cannot be
    there. Of an LF stream any fault only warns, and of a NIDQ those of its values. probe_only: a NIDQ cannot
    have it.
    """

    what: str
    plant: Callable[[Path], None]
    spikeglx: tuple[str, str] | None
    openephys: tuple[str, str] | None
    probe_only: bool = False


def break_session(raw: Path, fault: str, stream: str) -> Path:
    """Damage a session in place: plant a fault (a key of FAULTS) in one stream; returns its data file.

    raw: raw folder of a copy that may be damaged, as relayout returns it. stream: "imec0" or "ProbeA" (the
    probe's AP stream), "imec0.lf", "nidq". Of several files the last one is damaged. Raises DataError where
    there is no such fault or stream, or where the layout or stream cannot have the fault.
    """
    if fault not in FAULTS:
        raise DataError(f"fault {fault!r}: expected one of {', '.join(FAULTS)}; name one of these")
    data, planted = _find_data(Path(raw), stream), FAULTS[fault]
    expected = planted.openephys if data.suffix == ".dat" else planted.spikeglx
    if expected is None or data.suffix == ".cbin" or (planted.probe_only and stream == "nidq"):
        raise DataError(
            f"{data}: a fault that this stream can have was expected, found {fault!r}; choose another"
        )
    planted.plant(data)
    return data


@contextmanager
def acquiring(raw: Path, stream: str) -> Iterator[Path]:
    """As long as the context lasts, the stream's SpikeGLX file grows and its header has no size yet.

    Arguments as of break_session; gives the data file. INSPECT is to say STILL_ACQUIRING and to block.
    """
    data = break_session(raw, "unclosed", stream)
    row, done = _writable(data)[0][-1].tobytes(), threading.Event()

    def write() -> None:
        with data.open("ab", buffering=0) as file:
            while not done.wait(0.05):
                file.write(row)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield data
    finally:
        done.set()
        writer.join()


def _find_data(raw: Path, stream: str) -> Path:
    """Data file of a stream, in any layout but "renamed" and "openephys_0.5"."""
    device, _, kind = stream.partition(".")
    name = stream if kind or device == "nidq" else f"{device}.ap"
    probe = "LFP" if kind == "lf" else "AP"
    folder = r"^NI-DAQmx-" if device == "nidq" else rf"\.{re.escape(device)}(-{probe})?$"
    found = [
        path
        for path in sorted(raw.rglob("*"))
        if re.search(rf"\.{re.escape(name)}\.c?bin$", path.name)
        or (path.name == "continuous.dat" and re.search(folder, path.parent.name))
    ]
    if not found:
        names = sorted({path.name for path in raw.rglob("*.*")})
        raise DataError(f"{raw}: a data file of stream {stream} was expected, found only {', '.join(names)}")
    return found[-1]


def _header(data: Path) -> dict[str, str]:
    text = data.with_suffix(".meta").read_text(encoding="utf-8")
    return dict(line.split("=", 1) for line in text.splitlines())


def _change_header(data: Path, **changes: str | None) -> None:
    """Change fields of the .meta; None takes one away."""
    fields = {**_header(data), **changes}
    write_meta(data, {key: value for key, value in fields.items() if value is not None})


def _oebin(data: Path) -> Path:
    return data.parents[2] / "structure.oebin"


def _settings_xml(data: Path) -> Path:
    return data.parents[4] / "settings.xml"


def _ttl(data: Path) -> Path:
    """TTL folder of a stream."""
    return next((data.parents[2] / "events" / data.parent.name).glob("TTL*"))


def _writable(data: Path) -> tuple[np.ndarray, slice]:
    """(n_samples, n_columns) of the file, to be written to; and its columns of signals."""
    if data.suffix == ".dat":
        streams = json.loads(_oebin(data).read_text(encoding="utf-8"))["continuous"]
        own = next(s for s in streams if s["folder_name"].rstrip("/") == data.parent.name)
        n_columns = own["num_channels"]
        has_sync = own["channels"][-1]["channel_name"].endswith("_SYNC")
    else:
        fields = _header(data)
        n_columns = int(fields["nSavedChans"])
        has_sync = not fields.get("snsApLfSy", "1").endswith(",0")
    rows = np.memmap(data, dtype="<i2", mode="r+").reshape(-1, n_columns)
    return rows, slice(0, n_columns - has_sync)


def _truncate(data: Path) -> None:
    n_bytes = data.stat().st_size * 4 // 5
    with data.open("r+b") as file:
        file.truncate(n_bytes - n_bytes % _row_bytes(data))


def _row_bytes(data: Path) -> int:
    return 2 * _writable(data)[0].shape[1]


def _cut_sample(data: Path) -> None:
    """Half a sample too many, which the header has counted."""
    with data.open("ab") as file:
        file.write(b"\0" * (_row_bytes(data) // 4 * 2))
    _change_header(data, fileSizeBytes=f"{data.stat().st_size}")


def _append(data: Path) -> None:
    with data.open("ab") as file:
        file.write(b"\0" * (1000 * _row_bytes(data)))


def _empty(data: Path) -> None:
    data.write_bytes(b"")


def _unfinished(data: Path) -> None:
    _change_header(data, fileSizeBytes=None, fileSHA1=None, fileTimeSecs=None)


def _all_zero(data: Path) -> None:
    _writable(data)[0][:] = 0


def _zero_end(data: Path) -> None:
    rows = _writable(data)[0]
    rows[len(rows) * 2 // 3 :] = 0


def _constant(data: Path) -> None:
    rows, signals = _writable(data)
    rows[:, signals] = 1 + np.arange(rows.shape[1], dtype="<i2")[signals]


def _saturate(data: Path) -> None:
    """Far beyond the converter's range all the time."""
    rows, signals = _writable(data)
    if data.suffix == ".dat":
        model = PROBE_MODELS["1.0" if data.parent.name.endswith("-AP") else "2.0-4shank"]
        limit = int(model.gain_uv(model.ap_gain) * model.max_int / OPENEPHYS_UV)
    else:
        limit = int(_header(data)["imMaxInt"])
    for first, last in row_chunks(len(rows)):
        rows[first:last, signals] = np.where(rows[first:last, signals] < 0, -limit, limit - 1)


def _flat_channels(data: Path) -> None:
    """Every third channel gives nothing."""
    rows, signals = _writable(data)
    rows[:, signals.start : signals.stop : 3] = 0


def _wrong_duration(data: Path) -> None:
    """The header's duration is that of another sampling rate."""
    _change_header(data, fileTimeSecs=repr(float(_header(data)["fileTimeSecs"]) * 1.2))


def _wrong_gain(data: Path) -> None:
    """The header's range is twenty times the real one."""
    if data.suffix == ".dat":
        structure = json.loads(_oebin(data).read_text(encoding="utf-8"))
        own = next(s for s in structure["continuous"] if s["folder_name"].rstrip("/") == data.parent.name)
        for channel in own["channels"]:
            channel["bit_volts"] *= 20
        _oebin(data).write_text(json.dumps(structure, indent=4), encoding="utf-8")
        return
    volts = 20 * float(_header(data)["imAiRangeMax"])
    _change_header(data, imAiRangeMax=f"{volts:g}", imAiRangeMin=f"{-volts:g}")


def _no_sync_edges(data: Path) -> None:
    """The cable of the sync wave was not plugged in."""
    if data.suffix == ".dat":
        for path in _ttl(data).glob("*.npy"):
            np.save(path, np.load(path)[:0])
        return
    rows, signals = _writable(data)
    rows[:, signals.stop :] = 0


def _remove_header(data: Path) -> None:
    (_settings_xml(data) if data.suffix == ".dat" else data.with_suffix(".meta")).unlink()


def _scramble_header(data: Path) -> None:
    header = _oebin(data) if data.suffix == ".dat" else data.with_suffix(".meta")
    header.write_bytes(np.random.default_rng(0).bytes(4096))


def _unknown_probe(data: Path) -> None:
    if data.suffix == ".dat":
        letter = re.search(r"Probe([A-Z])", data.parent.name)[1]
        text = _settings_xml(data).read_text(encoding="utf-8")
        part_number = re.findall(r'probe_part_number="([^"]*)"', text)["ABCDEFGH".index(letter)]
        changed = text.replace(f'probe_part_number="{part_number}"', 'probe_part_number="NP9999"')
        _settings_xml(data).write_text(changed, encoding="utf-8")
        return
    _change_header(data, imDatPrb_pn="NP9999")


def _times_back(data: Path) -> None:
    """The last third of the samples has numbers that are 10 s too early."""
    path = data.parent / "sample_numbers.npy"
    path = path if path.exists() else data.parent / "timestamps.npy"
    numbers = np.load(path)
    numbers[numbers.size * 2 // 3 :] -= 300000
    np.save(path, numbers)


def _duplicate(data: Path) -> None:
    """The same files once more, in a folder beside."""
    copy = data.parent / "copy"
    copy.mkdir()
    for path in (data, data.with_suffix(".meta")):
        shutil.copyfile(path, copy / path.name)


def _both(code: str, severity: str = "blocks") -> dict[str, tuple[str, str]]:
    return {"spikeglx": (code, severity), "openephys": (code, severity)}


def _only(program: Literal["spikeglx", "openephys"], code: str, severity: str = "blocks") -> dict:
    return {"spikeglx": None, "openephys": None, program: (code, severity)}


FAULTS = {
    "truncated": PlantedFault("the last fifth of the file missing", _truncate, **_both("TRUNCATED")),
    "unclosed": PlantedFault(
        "no size in the header: the program crashed",
        _unfinished,
        **_only("spikeglx", "META_UNFINISHED", "warns"),
    ),
    "empty_file": PlantedFault("no byte in the file", _empty, **_both("EMPTY_FILE")),
    "partial_sample": PlantedFault("half a sample", _cut_sample, **_only("spikeglx", "PARTIAL_SAMPLE")),
    # Open Ephys' header has no size; samples beyond their numbers are left out.
    "size_mismatch": PlantedFault(
        "more samples than stated", _append, ("SIZE_MISMATCH", "blocks"), ("SIZE_MISMATCH", "warns")
    ),
    "all_zero": PlantedFault("every value 0", _all_zero, **_both("ALL_ZERO")),
    "zero_end": PlantedFault("the last third 0", _zero_end, **_both("ZERO_STRETCH", "warns")),
    "constant": PlantedFault(
        "each channel at one value", _constant, **_both("CONSTANT_DATA"), probe_only=True
    ),
    "saturated": PlantedFault(
        "values at the converter's limits", _saturate, **_both("SATURATED"), probe_only=True
    ),
    "wrong_gain": PlantedFault(
        "a gain 20 times too large", _wrong_gain, **_both("WRONG_GAIN", "warns"), probe_only=True
    ),
    "flat_channels": PlantedFault(
        "every third channel always 0",
        _flat_channels,
        **_both("CONSTANT_CHANNELS", "warns"),
        probe_only=True,
    ),
    "wrong_duration": PlantedFault(
        "a duration that does not fit size and rate",
        _wrong_duration,
        **_only("spikeglx", "DURATION_MISMATCH", "warns"),
    ),
    # Without a single event Open Ephys' stream has no sync line at all.
    "no_sync_edges": PlantedFault(
        "a sync line that never changes",
        _no_sync_edges,
        ("SYNC_NO_EDGES", "blocks"),
        ("SYNC_MISSING", "blocks"),
    ),
    "header_missing": PlantedFault(".meta or settings.xml missing", _remove_header, **_both("META_MISSING")),
    "header_garbage": PlantedFault("no text in the header", _scramble_header, **_both("META_UNREADABLE")),
    "data_missing": PlantedFault("the data file missing", Path.unlink, **_both("BIN_MISSING")),
    "unknown_probe": PlantedFault(
        "a part number nobody knows", _unknown_probe, **_both("UNKNOWN_PROBE"), probe_only=True
    ),
    "duplicate": PlantedFault("files there twice", _duplicate, **_only("spikeglx", "DUPLICATE_STREAM")),
    "timestamps_back": PlantedFault(
        "sample numbers that go back", _times_back, **_only("openephys", "TIMESTAMPS_BACK")
    ),
}
