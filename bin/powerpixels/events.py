"""Session events from a DAQ stream: digital lines as event times, analog inputs in volts.

The stream whose clock is the session's (the NIDQ) is published in the session's own collection, its times
seconds on its own clock, zero at its first sample. Any other DAQ stream (OneBox inputs, a second NI device)
has lines of the same names, so its files go to a folder named after it (``alf/obx0/``), its times put on the
session's clock. Time in gaps of the recording counts. File names follow ALF (``one.alf.spec``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from powerpixels.clock import to_reference_seconds
from powerpixels.documents import ClockFit, Stream
from powerpixels.edges import Edges
from powerpixels.rawdata import StreamReader, locate
from powerpixels.stage import DataError
from powerpixels.wiring import ANALOG_OBJECT, TIMESTAMPS, Wiring

log = logging.getLogger("powerpixels")


def write_events(
    stream: Stream, raw_dir: Path, edges: Edges, wiring: Wiring, out: Path, fit: ClockFit | None = None
) -> list[str]:
    """Write a DAQ stream's events and analog traces; return the warnings.

    fit: the stream's clock on the reference's, None where the stream is the reference; its files go to the
    folder out, those of any other stream to ``out/<stream>/``.

    Per wired digital line, as ``<name>``: ``<name>.times.npy`` ((n,) float64 s) and
    ``<name>.polarities.npy`` ((n,) int8, +1 rising, -1 falling) of all edges, and
    ``<name>.intervals.npy`` ((m, 2) float64 s, rise and fall of each complete pulse). A line that has
    edges but no name is written under its stream and line, ``_nidq_port0line1``; the sync line only where it
    has a name. Per wired analog input ``analog.<name>.npy`` ((n_samples,) float32 V), and once
    ``analog.timestamps.npy`` ((n_samples,) float64 s), written in pieces. ``clock.json`` names the clock,
    ``events.json`` lists what was written and the warnings: wired inputs that the stream lacks, or that
    never change, and a sync line other than the metadata's. An event's time is that of the first sample
    with the new level. Raises ``DataError`` where the edges or the fit are another stream's.
    """
    if edges.stream != stream.name or edges.n_samples != stream.n_acquired:
        raise DataError(
            f"the edges are of stream {edges.stream} ({edges.n_samples} samples), expected {stream.name}"
            f" ({stream.n_acquired} samples); extract them again"
        )
    if fit is not None and fit.stream != stream.name:
        raise DataError(f"the clock fit is of stream {fit.stream}, expected {stream.name}; fit it again")
    out = Path(out) if fit is None else Path(out) / stream.name
    out.mkdir(parents=True, exist_ok=True)
    warnings: list[str] = []

    def warn(message: str) -> None:
        log.warning(message)
        warnings.append(message)

    def seconds(acquired: np.ndarray) -> np.ndarray:
        """Seconds on the session's clock of counts on the stream's own."""
        return acquired / stream.sampling_rate_hz if fit is None else to_reference_seconds(fit, acquired)

    inputs = wiring.inputs(stream.name)
    known = ", ".join(edges.lines) or "none"
    sync = edges.sync
    # The wiring speaks of the reference's sync line; where that is none of its lines, SYNC finds another.
    if fit is None:
        sync = wiring.sync if wiring.sync in edges.lines else edges.sync
        if edges.sync not in (None, wiring.sync):
            warn(f"the wiring has the sync wave on {wiring.sync}, the recording's metadata on {edges.sync}")
    for line, name in inputs.digital.items():
        if line not in edges.lines:
            warn(f"digital line {line} ({name}) is wired but not in {stream.name}; its lines: {known}")
    digital = []
    for line in edges.lines:
        sample, polarity = edges.of(line)
        name = inputs.digital.get(line)
        if name is None:
            if line == sync or not len(sample):
                continue
        elif not len(sample):
            warn(f"digital line {line} ({name}) is wired but never changes in {stream.name}")
        pulses = complete_pulses(sample, polarity, edges.gaps)
        prefix = "" if name else f"_{re.sub(r'[^A-Za-z0-9]', '', stream.name)}_"
        digital.append(_write_line(out, line, prefix, name, seconds(sample), polarity, seconds(pulses)))

    columns = {line.name: line for line in stream.analog}
    analog = []
    for line, name in inputs.analog.items():
        if line in columns:
            analog.append({"line": line, "file": f"{ANALOG_OBJECT}.{name}.npy"})
        else:
            have = ", ".join(columns) or "none"
            warn(f"analog input {line} ({name}) is wired but not in {stream.name}; its inputs: {have}")
    if analog:
        targets = [(columns[a["line"]], out / a["file"]) for a in analog]
        _write_analog(stream, raw_dir, targets, seconds, out / f"{ANALOG_OBJECT}.{TIMESTAMPS}.npy")

    if fit is None:
        clock = {
            "clock": stream.name,
            "zero": "first sample of the file",
            "unit": "s",
            "sampling_rate_hz": stream.sampling_rate_hz,
            "first_sample": stream.first_sample,
        }
    else:
        clock = {
            "clock": fit.reference,
            "zero": "first sample of the file",
            "unit": "s",
            "recorded_on": stream.name,
        }
    summary = {"clock": clock["clock"], "digital": digital, "analog": analog, "warnings": warnings}
    for file, content in (("clock.json", clock), ("events.json", summary)):
        (out / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return warnings


def complete_pulses(sample: np.ndarray, polarity: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """(m, 2) int64: rise and fall of each pulse that was recorded from its begin to its end.

    sample: (n,) int64, ascending, polarity: (n,), of one line. gaps: (n_gaps, 2), see ``Edges``. A line's
    edges alternate, but over a gap an edge may be missing, and a line that is high on both sides of it may
    have been low between.
    """
    falls = np.flatnonzero((polarity[1:] < 0) & (polarity[:-1] > 0)) + 1
    block = np.searchsorted(gaps[:, 1], sample, side="right")
    falls = falls[block[falls] == block[falls - 1]]
    return np.column_stack([sample[falls - 1], sample[falls]])


def _write_line(
    out: Path,
    line: str,
    prefix: str,
    name: str | None,
    times: np.ndarray,
    polarity: np.ndarray,
    pulses: np.ndarray,
) -> dict:
    """Write one digital line's files; returns its entry in events.json."""
    # "P0.1" holds a dot, which separates the parts of an ALF name.
    name = name or re.sub(r"\W", "line", re.sub(r"^P(?=\d)", "port", line))
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


def _write_analog(
    stream: Stream,
    raw_dir: Path,
    inputs: list,
    seconds: Callable[[np.ndarray], np.ndarray],
    timestamps: Path,
) -> None:
    """Write each (AnalogLine, file) in volts and the common timestamps, in one pass over the raw data.

    seconds: of counts on the stream's acquisition clock.
    """
    reader = StreamReader(stream, locate([stream], raw_dir)[0])
    n = stream.n_samples
    # A file is opened anew for each piece: pages of a map that stays open count as the process's memory.
    for file, dtype in [(file, np.float32) for _, file in inputs] + [(timestamps, np.float64)]:
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(n,)).flush()
    for start, piece in reader.chunks([line.raw_column for line, _ in inputs]):
        here = slice(start, start + len(piece))
        for c, (line, file) in enumerate(inputs):
            np.lib.format.open_memmap(file, mode="r+")[here] = piece[:, c] * line.gain_v
        acquired = stream.acquired(np.arange(here.start, here.stop))
        np.lib.format.open_memmap(timestamps, mode="r+")[here] = seconds(acquired)
