#!/usr/bin/env python3
"""ANALYZE and LABEL: time and memory per 100 units and hour of recording.

    .venv/bin/python benchmarks/label.py [--channels 96] [--units 20] [--seconds 60,120] [--jobs 2]

A shank is simulated and its true spikes are analyzed and labelled by the pipeline's own executables, once for
each duration: wall-clock and processor time and peak memory of the whole process. The first run in a fresh
environment includes the compiling of numba's functions: it is made once more beforehand, not measured. What
grows with the duration is the difference between durations; what follows from it for 100 units and an hour is
printed, linear in units and duration.

What was measured is in results/label.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATE = 30_000.0
GAIN_UV = 0.25


def simulate(folder: Path, n_channels: int, n_units: int, seconds: float) -> None:
    """A unit folder of PREPROCESS and a folder of SORT with the true spikes."""
    import numpy as np
    import probeinterface
    from powerpixels.documents import Channel, PreprocessedUnit, SortingDocument
    from spikeinterface.core import generate_ground_truth_recording

    rows, columns = np.divmod(np.arange(n_channels), 2)
    places = np.stack([32.0 * columns, 15.0 * rows], axis=1)
    probe = probeinterface.Probe(ndim=2, si_units="um")
    probe.set_contacts(places, shapes="square", shape_params={"width": 12})
    probe.set_device_channel_indices(np.arange(n_channels))
    recording, sorting = generate_ground_truth_recording(
        durations=[seconds], sampling_frequency=RATE, num_units=n_units, probe=probe, seed=1
    )
    unit, sorted_ = folder / "shank0", folder / "sorting"
    unit.mkdir()
    sorted_.mkdir()
    with open(unit / "traces.bin", "wb") as file:
        for first in range(0, recording.get_num_samples(), int(RATE)):
            traces = recording.get_traces(start_frame=first, end_frame=first + int(RATE))
            np.rint(traces / GAIN_UV).astype("<i2").tofile(file)
    channels = [
        Channel(
            raw_column=k, channel_id=f"AP{k}", contact_id=f"e{k}", shank=0, x_um=x, y_um=y,
            inter_sample_shift=0.0, gain_uv=2.34375,
        )
        for k, (x, y) in enumerate(places.tolist())
    ]  # fmt: skip
    PreprocessedUnit(
        probe="probe00", unit="shank0", sampling_rate_hz=RATE, n_samples=recording.get_num_samples(),
        gain_uv=GAIN_UV, channels=channels,
    ).save(unit / "recording.json")  # fmt: skip
    spikes = sorting.to_spike_vector()
    np.save(sorted_ / "spike_samples.npy", spikes["sample_index"].astype(np.int64))
    np.save(sorted_ / "spike_unit_ids.npy", spikes["unit_index"].astype(np.int64))
    SortingDocument(
        probe="probe00", unit="shank0", sorter="truth", sorter_version=None, status="sorted", message="",
        parameters={}, unit_ids=np.unique(spikes["unit_index"]).tolist(), sorter_labels={},
    ).save(sorted_ / "sorting.json")  # fmt: skip


def measured(folder: Path, *command: object) -> tuple[float, float, float]:
    """Wall-clock and processor seconds and peak memory (GB) of a process and those it started."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--seconds", default="60,120", help="two durations, separated by a comma")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    durations = [float(text) for text in arguments.seconds.split(",")]
    rows: dict[str, list[tuple[float, float, float]]] = {"ANALYZE": [], "LABEL": []}
    for seconds in (durations[0], *durations):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            simulate(folder, arguments.channels, arguments.units, seconds)
            analyze = measured(
                folder, ROOT / "bin/pp_analyze.py", "--unit-dir", "shank0", "--sorting", "sorting",
                "--out", "analysis", "--jobs", arguments.jobs,
            )  # fmt: skip
            label = measured(
                folder, ROOT / "bin/pp_label.py", "--sorting", "sorting", "--analysis", "analysis",
                "--out", "labels",
            )  # fmt: skip
            rows["ANALYZE"].append(analyze)
            rows["LABEL"].append(label)
    print("stage    seconds of recording   wall s   processor s   peak GB")
    for stage, found in rows.items():
        for seconds, (wall, processor, memory) in zip(durations, found[1:], strict=True):
            print(f"{stage:8} {seconds:20.0f} {wall:8.1f} {processor:13.1f} {memory:9.2f}")
        more = (found[2][1] - found[1][1]) / (durations[1] - durations[0])
        each = more * 3600 * 100 / arguments.units
        grows = (
            f"grows by {each:.0f} s of processor time per 100 units and hour" if more > 0 else "does not grow"
        )
        print(f"{stage:8} {grows}")


if __name__ == "__main__":
    main()
