#!/usr/bin/env python3
"""Peak memory and time of writing an NWB with a probe's raw traces, by the recording's length.

    .venv/bin/python benchmarks/nwb.py [--minutes 1 10] [--backends hdf5 zarr] [--channels 384] [--noise]

Each file is written by a process of its own, with 100 units of 5 spikes a second and the AP stream. The raw
file is one of zeros that takes no place on the disk; with --noise it is Gaussian, 10 counts wide, as large as
a recording. Memory is the process's own peak (maximum resident set), with that before any of it was read.

Measured on 2 cores shared with other work (load 16 to 20, so the seconds are upper bounds):

    backend  channels  minutes  raw MB  file MB  before MB  peak MB  seconds
    hdf5     64        1           223      0.8        271      358     20.4
    hdf5     64        10         2232      4.2        279      368    168.8
    zarr     64        1           223      0.5        271      317     16.2
    zarr     64        10         2232      2.2        279      321    141.5
    hdf5     384       0.1         132     57.9        271      356     23.5, noise
    zarr     384       0.1         132     67.1        271      316     13.8, noise

What grows is the spikes: 30 000 of a minute, 300 000 of ten.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

RATE = 30000.0
N_UNITS, SPIKES_PER_S, WIDTH, WAVEFORM = 100, 5, 32, 90


def make_raw(path: Path, n_samples: int, n_columns: int, noise: bool) -> None:
    """The AP stream's file."""
    with open(path, "wb") as file:
        if not noise:
            file.truncate(2 * n_samples * n_columns)
            return
        rng = np.random.default_rng(0)
        for start in range(0, n_samples, 30000):
            rows = min(30000, n_samples - start)
            rng.normal(0, 10, (rows, n_columns)).astype(np.int16).tofile(file)


def exported(folder: Path, n_samples: int, n_channels: int):
    """A probe as EXPORT gathers it, with nothing in it but what takes memory."""
    from powerpixels.documents import Channel, ClockFit, Piece, Probe, ProbeDocument, RawFile, Session, Stream
    from powerpixels.export import IDENTITY_COLUMNS, ProbeExport

    seconds = n_samples / RATE
    channels = [
        Channel(
            raw_column=k, channel_id=f"AP{k}", contact_id=f"e{k}", shank=0, x_um=0.0, y_um=20.0 * k,
            inter_sample_shift=0.0, gain_uv=2.34,
        )
        for k in range(n_channels)
    ]  # fmt: skip
    ap = Stream(
        name="imec0.ap", kind="ap", sampling_rate_hz=RATE, n_columns=n_channels + 1, n_samples=n_samples,
        first_sample=0, channels=channels, files=[RawFile(path="a.ap.bin", role="data", size_bytes=0)],
        pieces=[Piece(path="a.ap.bin", first_row=0, n_samples=n_samples, first_sample=0)],
    )  # fmt: skip
    document = ProbeDocument(
        session=Session(
            subject="m", session="2026-03-01_001", acquisition="spikeglx", acquisition_version=None,
            start_time="2026-03-01T12:00:00+00:00",
        ),
        probe=Probe(name="probe00", part_number=None, serial_number=None, model=None, shanks=[0], ap=ap),
    )  # fmt: skip
    clock = ClockFit(
        probe="probe00", stream="imec0.ap", reference="nidq", sampling_rate_hz=RATE, offset_s=1.0, slope=1.0,
        n_edges=2, n_unmatched=0, rms_us=0.0, max_us=0.0, first_edge_s=0.0, last_edge_s=seconds,
        knots=[(0.0, 1.0), (seconds, 1.0 + seconds * (1 + 1e-5))],
    )  # fmt: skip
    n = int(seconds * N_UNITS * SPIKES_PER_S)
    rng = np.random.default_rng(1)
    samples = np.sort(rng.integers(0, n_samples, n))
    table = pd.DataFrame({name: np.zeros(N_UNITS, dtype) for name, dtype in IDENTITY_COLUMNS.items()})
    text = [name for name, dtype in IDENTITY_COLUMNS.items() if dtype == "object"]
    table[text] = "good"
    filled = {
        "document": document, "clock": clock, "channels": channels,
        "channel_labels": {k: "good" for k in range(n_channels)}, "brain": {}, "clusters": table,
        "cluster_uuids": [str(k) for k in range(N_UNITS)],
        "waveforms": np.ones((N_UNITS, WAVEFORM, WIDTH), np.float32),
        "waveforms_sd": np.ones((N_UNITS, WAVEFORM, WIDTH), np.float32),
        "waveform_channels": np.tile(np.arange(WIDTH, dtype=np.int32), (N_UNITS, 1)),
        "waveform_before_ms": 1.0,
        "observed": np.array([[1.0, 1.0 + seconds]]), "gaps": np.zeros((0, 2), np.int64),
        "spike_samples": samples, "spike_times": 1.0 + samples / RATE,
        "spike_clusters": rng.integers(0, N_UNITS, n).astype(np.int32), "joined": "",
    }  # fmt: skip
    # What the NWB does not hold is left out.
    names = ProbeExport.__dataclass_fields__
    return ProbeExport(**{**dict.fromkeys(names), **filled}), ap


def peak_mb() -> float:
    """The process's peak until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_one(folder: Path, backend: str, n_samples: int, n_channels: int) -> None:
    """Write one file; prints what it took as JSON."""
    from powerpixels import metadata, nwb
    from powerpixels.rawdata import StreamReader, locate

    export, ap = exported(folder, n_samples, n_channels)
    traces = nwb.Traces(raw=StreamReader(ap, locate([ap], folder)[0]))
    known = metadata.resolve(export.document.session)
    before, start = peak_mb(), time.perf_counter()
    path = nwb.write_nwb(export, known, folder / "nwb", backend, traces)
    took = time.perf_counter() - start
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    size = sum(found.stat().st_size for found in files) / 2**20
    print(json.dumps({"before": before, "peak": peak_mb(), "seconds": took, "mb": size}))


def main() -> None:
    """Measure each length and backend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--backends", nargs="+", default=["hdf5", "zarr"])
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "BACKEND", "SAMPLES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        write_one(Path(args.one[0]), args.one[1], int(args.one[2]), args.channels)
        return
    print("backend  minutes  raw MB  file MB  before MB  peak MB  seconds")
    for backend in args.backends:
        for minutes in args.minutes:
            n_samples = round(minutes * 60 * RATE)
            with tempfile.TemporaryDirectory() as folder:
                make_raw(Path(folder) / "a.ap.bin", n_samples, args.channels + 1, args.noise)
                command = [sys.executable, __file__, "--channels", str(args.channels)]
                command += ["--one", folder, backend, str(n_samples)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            raw = 2 * n_samples * (args.channels + 1) / 2**20
            print(
                f"{backend:7}  {minutes:7g}  {raw:6.0f}  {found['mb']:7.1f}  {found['before']:9.0f}"
                f"  {found['peak']:7.0f}  {found['seconds']:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
