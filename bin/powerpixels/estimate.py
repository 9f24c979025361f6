"""``powerpixels estimate SHEET``: disk and hours that a samplesheet's sessions will take, before any runs.

From the recordings' headers alone. Sizes of traces are exact but for the channels that turn out to be dead or
out of the brain, which are not written: those figures are what it takes at most. Everything else rests on the
constants below, each with where it is from and how far off it may be. Analog inputs of a wiring file are not
counted (4 bytes a sample and input).
"""

from __future__ import annotations

import csv
import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from powerpixels import inventory
from powerpixels.analyze import MAX_SPIKES_PER_UNIT
from powerpixels.documents import Inventory, Probe, Stream
from powerpixels.stage import DataError

# How much there is to be found. Assumed, for no header tells. Recordings in quiet or dense tissue differ by a
# factor of 3 either way; the simulated ones have fewer units (benchmarks/results/gpu.md: 92 on 320 channels).
UNITS_PER_CHANNEL = 1.0
SPIKES_PER_S_PER_CHANNEL = 6.0

# Bytes by the arrays' types. A spike: Kilosort 4's folder (6 features on 10 channels, float32, and 32 of its
# time, ids, amplitude, place), the sorting's own two arrays, ALF's seven, the NWB's time; and in the analyzer
# what its amplitudes and locations pack to (estimated, 20).
SPIKE_BYTES = (240 + 32) + 16 + 33 + 8 + 20
# A unit's template on each channel in Kilosort's folder: 61 samples, float32.
TEMPLATE_BYTES = 61 * 4
# The analyzer's waveforms: 90 samples, float32, on the channels within 100 µm, some 18 of a 1.0 probe; packed
# to 0.45 (the tests' session, whose channels and spikes are simulated: 0.40 to 0.45; real ones within 1.5).
WAVEFORM_BYTES = 90 * 4 * 18 * 0.45
# Figures, tables and documents of each shank and probe, by the tests' session; within 1.5.
SHANK_BYTES = 5e6
PROBE_BYTES = 2.5e6
# Spectra of the raw bands: 1025 frequencies, float64, AP and LF.
SPECTRUM_BYTES = 1025 * 8 * 2
# A task's scripts, logs and caches in the work folder, by the tests' session; 15 tasks a probe, 4 a shank.
TASK_BYTES = 0.15e6

# Ratios of benchmarks/compress.py (simulated AP 1.0, the lowest; its LF and NIDQ are better), real recordings
# 3.0 to 6.4, Open Ephys with 0.195 µV counts 1.9 to 2.5.
RATIO = {"mtscomp": 2.88, "zarr": 3.57}
LFP_RATIO = 5.78
LFP_RATE_HZ = 2500.0
# A raw AP stream in an NWB: benchmarks/nwb.py, noise of 132 MB in 57.9 (hdf5) and 67.1 MB (zarr).
NWB_RATIO = {"hdf5": 2.28, "zarr": 1.97}

# Seconds of a GPU for each GB of preprocessed traces: benchmarks/results/gpu.md, an H100, 152.9 s for 11.5 GB
# (of which 47 % computing). Older cards take 2 to 4 times as long (assumed). On the CPU: 250 s of two cores
# (modules/resources.nf).
GPU_S_PER_GB = 13.3
CPU_SORT_S_PER_GB = 500.0
SORT_CPUS = 4
# Seconds of one core for each GB of raw AP data. PREPROCESS: benchmarks/results/gpu.md, 18.3 s of 16 threads
# for 13.8 GB. RAW_QC, VISUALIZE, DRIFT and edges together: not measured at full size, assumed to be as much.
PREPROCESS_S_PER_GB = 21.2
BESIDE_S_PER_GB = 21.2
# COMPRESS with its comparison: 70 to 300 MB/s each way on a core (benchmarks/compress.py).
COMPRESS_S_PER_GB = {"mtscomp": 45.0, "zarr": 20.0}
# An NWB's raw traces: benchmarks/nwb.py, 13.8 to 23.5 s of which most is the start; within 3.
NWB_RAW_S_PER_GB = 60.0
# benchmarks/results/label.md: ANALYZE and LABEL together, for 100 units and an hour, and once a shank.
UNIT_HOUR_S = (260.0 + 10.0) / 100
SHANK_S = 48.6 + 7.7
# What a task takes before it does anything: imports (label.md: 19 s for ANALYZE's, others less).
TASK_S = 10.0
TASKS_PER_PROBE, TASKS_PER_SHANK = 8, 4


class Options(NamedTuple):
    """The run's parameters that change what it takes, by their names."""

    compress: str = "none"
    sort_by: str = "shank"
    keep_binary: bool = False
    nwb: str = "hdf5"
    nwb_include: str = ""
    lfp: bool = False
    drift: str = "auto"
    device: str = "gpu"


@dataclass(frozen=True)
class Estimate:
    """What a session takes: bytes (work_bytes: the work folder's at the end), hours of GPUs and cores."""

    subject: str
    session: str
    probes: int
    recorded_h: float
    raw_bytes: float
    work_bytes: float
    published_bytes: float
    gpu_hours: float
    core_hours: float


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels estimate``."""
    parser.add_argument("sheet", type=Path, metavar="SHEET", help="the samplesheet")
    parser.add_argument(
        "--compress", choices=("none", "mtscomp", "zarr"), default="none", help="as in the run"
    )
    parser.add_argument("--sort_by", choices=("shank", "probe"), default="shank", help="as in the run")
    parser.add_argument("--keep_binary", action="store_true", help="as in the run")
    parser.add_argument("--nwb", choices=("hdf5", "zarr", "none"), default="hdf5", help="as in the run")
    parser.add_argument("--nwb_include", default="", metavar="raw,lfp", help="as in the run")
    parser.add_argument("--lfp", action="store_true", help="as in the run")
    parser.add_argument(
        "--drift", choices=("auto", "sorter", "off", "dredge"), default="auto", help="as in the run"
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="where the sorter runs")
    parser.add_argument("--json", action="store_true", help="bytes and hours of each session as JSON")


def run(args: Namespace) -> None:
    """Body of ``powerpixels estimate``: the table on stdout."""
    options = Options(**{name: getattr(args, name) for name in Options._fields})
    rows = estimate(args.sheet, options)
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else as_text(rows))


def estimate(sheet: Path, options: Options) -> list[Estimate]:
    """What each row of a samplesheet takes, in their order; probes that can't be processed take nothing.

    Raises ``DataError`` where the sheet lacks a column or a raw folder is none.
    """
    with open(sheet, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = {"subject", "raw"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{sheet}: expected the columns subject and raw, {', '.join(sorted(missing))} is missing"
            )
        rows = [row for row in reader if any(row.values())]
    found = []
    for row in rows:
        if not row["raw"]:
            raise DataError(f"{sheet}: expected a folder in the column raw of each row; {row} has none")
        raw = Path(sheet).parent / row["raw"].strip()
        seen = inventory.inspect_session(raw, row["subject"], row.get("session") or "?", look_at_data=False)
        wanted = (row.get("probes") or "").replace(";", " ").split()
        found.append(of_session(seen, wanted, options))
    return found


def of_session(seen: Inventory, wanted: list[str], options: Options) -> Estimate:
    """What a session takes. wanted: names of probes, empty for all."""
    probes = [
        probe
        for probe in seen.probes
        if (not wanted or probe.name in wanted) and not inventory.blocking_message(seen.faults, probe.name)
    ]
    streams = [stream for probe in probes for stream in (probe.ap, probe.lf) if stream]
    streams += [stream for stream in (seen.nidq, *seen.daqs) if stream and probes]
    raw = sum(_raw_bytes(stream) for stream in streams)
    copies = core_s = gpu_s = 0.0
    if options.compress != "none":
        copies = raw / RATIO[options.compress]
        core_s += raw / 1e9 * COMPRESS_S_PER_GB[options.compress]
    results = binary = n_tasks = 0.0
    for probe in probes:
        n_shanks = len(probe.shanks) if options.sort_by == "shank" else 1
        n_tasks += TASKS_PER_PROBE + TASKS_PER_SHANK * n_shanks
        traces = _dense_bytes(probe.ap)
        binary += traces
        results += _result_bytes(probe, n_shanks, options)
        core_s += traces / 1e9 * (PREPROCESS_S_PER_GB + BESIDE_S_PER_GB)
        core_s += len(probe.ap.channels) * UNITS_PER_CHANNEL * _hours(probe.ap) * UNIT_HOUR_S
        core_s += n_shanks * SHANK_S
        if options.nwb != "none" and "raw" in options.nwb_include:
            core_s += traces / 1e9 * NWB_RAW_S_PER_GB
    if options.device == "gpu":
        gpu_s = binary / 1e9 * GPU_S_PER_GB
        core_s += gpu_s * SORT_CPUS
    else:
        core_s += binary / 1e9 * CPU_SORT_S_PER_GB
    core_s += n_tasks * TASK_S
    # With --drift dredge the corrected traces are written once more. Published traces are a hard link in the
    # work folder.
    work = results + copies + binary * (2 if options.drift == "dredge" else 1) + n_tasks * TASK_BYTES
    published = results + copies + (binary if options.keep_binary else 0.0)
    return Estimate(
        subject=seen.session.subject,
        session=seen.session.session,
        probes=len(probes),
        recorded_h=max((_hours(probe.ap) for probe in probes), default=0.0),
        raw_bytes=raw,
        work_bytes=work,
        published_bytes=published,
        gpu_hours=gpu_s / 3600,
        core_hours=core_s / 3600,
    )


def _raw_bytes(stream: Stream) -> float:
    return sum(file.size_bytes for file in stream.files)


def _dense_bytes(stream: Stream) -> float:
    """Of a probe's channels as int16, whatever the raw file is packed to and without its sync column."""
    return 2.0 * len(stream.channels) * stream.n_samples


def _hours(stream: Stream) -> float:
    return stream.n_samples / stream.sampling_rate_hz / 3600


def _result_bytes(probe: Probe, n_shanks: int, options: Options) -> float:
    """What is published of a probe beside its traces and compressed copies."""
    n_channels, seconds = len(probe.ap.channels), 3600 * _hours(probe.ap)
    n_units = UNITS_PER_CHANNEL * n_channels
    n_spikes = SPIKES_PER_S_PER_CHANNEL * n_channels * seconds
    n_waveforms = min(MAX_SPIKES_PER_UNIT * n_units, n_spikes)
    size = PROBE_BYTES + n_shanks * SHANK_BYTES + n_channels * SPECTRUM_BYTES
    size += (
        n_spikes * SPIKE_BYTES
        + n_units * n_channels / n_shanks * TEMPLATE_BYTES
        + n_waveforms * WAVEFORM_BYTES
    )
    lfp = 2.0 * LFP_RATE_HZ * seconds * n_channels / LFP_RATIO
    in_nwb = options.nwb_include.split(",") if options.nwb != "none" else []
    size += lfp * ((options.lfp or "lfp" in in_nwb) + ("lfp" in in_nwb))
    if "raw" in in_nwb:
        size += _dense_bytes(probe.ap) / NWB_RATIO[options.nwb]
    return size


def as_text(rows: list[Estimate]) -> str:
    """The sessions and their sum, for a terminal of 80 columns."""
    heads = ("subject", "session", "probes", "hours", "raw GB", "work GB", "out GB", "GPU-h", "core-h")
    lines = [heads, *(_cells(row) for row in rows)]
    sums = {
        name: sum(getattr(row, name) for row in rows)
        for name in Estimate.__dataclass_fields__
        if name not in ("subject", "session")
    }
    if len(rows) > 1:
        lines.append(_cells(Estimate("all", "", **sums)))
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    table = "\n".join(
        "  ".join(
            c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return (
        f"{table}\n\nTraces are exact, at most; the rest is within a factor of 2 to 3 (its constants:\n"
        "bin/powerpixels/estimate.py). GPU-hours are an H100's; older cards take 2 to 4\ntimes."
    )


def _cells(row: Estimate) -> tuple[str, ...]:
    sizes = (row.raw_bytes, row.work_bytes, row.published_bytes)
    return (
        row.subject,
        row.session,
        str(row.probes),
        f"{row.recorded_h:.2f}",
        *(f"{size / 1e9:.2f}" for size in sizes),
        f"{row.gpu_hours:.2f}",
        f"{row.core_hours:.1f}",
    )
