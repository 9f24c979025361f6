"""Session events from the NIDQ stream: digital lines as event times, analog inputs in volts.

All times are seconds on the NIDQ stream's own clock, zero at the first sample of its file. File names follow
ALF (``one.alf.spec``).
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np

from powerpixels.documents import Stream
from powerpixels.edges import Edges, open_raw, read_columns
from powerpixels.stage import DataError
from powerpixels.wiring import ANALOG_OBJECT, TIMESTAMPS, Wiring

log = logging.getLogger("powerpixels")

NAMESPACE = "nidq"


def write_events(stream: Stream, raw_dir: Path, edges: Edges, wiring: Wiring, out: Path) -> list[str]:
    """Write the session's events and analog traces to the folder out; return the warnings.

    Per wired digital line, as ``<name>``: ``<name>.times.npy`` ((n,) float64 s) and
    ``<name>.polarities.npy`` ((n,) int8, +1 rising, -1 falling) of all edges, and
    ``<name>.intervals.npy`` ((m, 2) float64 s, rise and fall of each complete pulse). A line that has
    edges but no name is written under its port and line, ``_nidq_port0line1``; the sync line only where it
    has a name. Per wired analog input ``analog.<name>.npy`` ((n_samples,) float32 V), and once
    ``analog.timestamps.npy`` ((n_samples,) float64 s), written in pieces. ``clock.json`` names the clock,
    ``events.json`` lists what was written and the warnings: wired inputs that the recording lacks, or that
    never change, and a sync line other than the metadata's. An event's time is that of the first sample
    with the new level.
    """
    if edges.stream != stream.name or edges.n_samples != stream.n_samples:
        raise DataError(
            f"the edges are of stream {edges.stream} ({edges.n_samples} samples), expected {stream.name}"
            f" ({stream.n_samples} samples); extract them again"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    warnings: list[str] = []

    def warn(message: str) -> None:
        log.warning(message)
        warnings.append(message)

    known = ", ".join(edges.lines) or "none"
    stated = [
        d.name for d in stream.digital if (d.raw_column, d.bit) == (stream.sync_column, stream.sync_bit)
    ]
    if stated and stated != [wiring.sync]:
        warn(f"the wiring has the sync wave on {wiring.sync}, the recording's metadata on {stated[0]}")
    for line, name in {wiring.sync: "sync", **wiring.digital}.items():
        if line not in edges.lines:
            warn(f"digital line {line} ({name}) is wired but not in {stream.name}; its lines: {known}")
    digital = []
    for line in edges.lines:
        sample, polarity = edges.of(line)
        name = wiring.digital.get(line)
        if name is None:
            if line == wiring.sync or not len(sample):
                continue
        elif not len(sample):
            warn(f"digital line {line} ({name}) is wired but never changes in {stream.name}")
        digital.append(_write_line(out, line, name, sample / edges.sampling_rate_hz, polarity))

    inputs = {line.name: line for line in stream.analog}
    analog = []
    for line, name in wiring.analog.items():
        if line in inputs:
            analog.append({"line": line, "file": f"{ANALOG_OBJECT}.{name}.npy"})
        else:
            have = ", ".join(inputs) or "none"
            warn(f"analog input {line} ({name}) is wired but not in {stream.name}; its inputs: {have}")
    if analog:
        _write_analog(stream, raw_dir, [(inputs[a["line"]], out / a["file"]) for a in analog], out)

    clock = {
        "clock": stream.name,
        "zero": "first sample of the file",
        "unit": "s",
        "sampling_rate_hz": stream.sampling_rate_hz,
        "first_sample": stream.first_sample,
    }
    summary = {"clock": stream.name, "digital": digital, "analog": analog, "warnings": warnings}
    for file, content in (("clock.json", clock), ("events.json", summary)):
        (out / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return warnings


def complete_pulses(times: np.ndarray, polarity: np.ndarray) -> np.ndarray:
    """(m, 2) float64: rise and fall of each pulse that both begins and ends in the recording.

    times: (n,) ascending. polarity: (n,) of one line, so alternating.
    """
    falls = np.flatnonzero(polarity[1:] < 0) + 1
    return np.column_stack([times[falls - 1], times[falls]])


def _write_line(out: Path, line: str, name: str | None, times: np.ndarray, polarity: np.ndarray) -> dict:
    """Write one digital line's files; returns its entry in events.json."""
    if name is None:
        # "P0.1" holds a dot, which separates the parts of an ALF name.
        name, prefix = re.sub(r"\W", "line", line.replace("P", "port", 1)), f"_{NAMESPACE}_"
    else:
        prefix = ""
    pulses = complete_pulses(times, polarity)
    np.save(out / f"{prefix}{name}.times.npy", times)
    np.save(out / f"{prefix}{name}.polarities.npy", polarity)
    np.save(out / f"{prefix}{name}.intervals.npy", pulses)
    return {
        "line": line,
        "object": f"{prefix}{name}",
        "wired": not prefix,
        "n_edges": len(times),
        "n_pulses": len(pulses),
    }


def _write_analog(stream: Stream, raw_dir: Path, inputs: list, out: Path) -> None:
    """Write each (AnalogLine, file) in volts and the common timestamps, in one pass over the raw file."""
    path = open_raw(stream, raw_dir)
    n = stream.n_samples
    # A file is opened anew for each piece: pages of a map that stays open count as the process's memory.
    targets = [(file, np.float32) for _, file in inputs] + [
        (out / f"{ANALOG_OBJECT}.{TIMESTAMPS}.npy", np.float64)
    ]
    for file, dtype in targets:
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(n,)).flush()
    columns = [line.raw_column for line, _ in inputs]
    for start, piece in read_columns(path, stream, columns):
        here = slice(start, start + len(piece))
        for c, (line, file) in enumerate(inputs):
            np.lib.format.open_memmap(file, mode="r+")[here] = piece[:, c] * line.gain_v
        np.lib.format.open_memmap(targets[-1][0], mode="r+")[here] = (
            np.arange(here.start, here.stop) / stream.sampling_rate_hz
        )
