"""Session events from a DAQ stream: digital lines as event times, analog inputs in volts.

The NIDQ is published in the session's own collection. Any other DAQ stream (OneBox inputs, a second NI
device) has lines of the same names, so its files go to a folder named after it (``alf/obx0/``). All times are
put on the session's reference clock, zero at the reference stream's first sample; time in gaps of the
recording counts. File names follow ALF (``one.alf.spec``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from powerpixels import rawdata
from powerpixels.clock import identity_fit, to_reference_seconds
from powerpixels.documents import ClockFit, Stream
from powerpixels.edges import Edges
from powerpixels.rawdata import StreamReader, locate
from powerpixels.stage import DataError
from powerpixels.sync_files import write_clock
from powerpixels.wiring import ANALOG_OBJECT, MAIN_STREAM, TIMESTAMPS, Wiring

log = logging.getLogger("powerpixels")

# ALF collection of the digital lines' pulses, below that of their edges.
PULSES = "pulses"


def write_events(
    stream: Stream, raw_dir: Path, edges: Edges, wiring: Wiring, out: Path, fit: ClockFit | None = None
) -> list[str]:
    """Write a DAQ stream's events and analog traces; return the warnings.

    fit: the stream's clock on the reference's, None where the stream is the reference. The NIDQ's files go to
    the folder out, those of any other stream to ``out/<stream>/``.

    Per wired digital line, as ``<name>``: ``<name>.times.npy`` ((n,) float64 s) and
    ``<name>.polarities.npy`` ((n,) int8, +1 rising, -1 falling) of all edges, and
    ``pulses/<name>.intervals.npy`` ((m, 2) float64 s, rise and fall of each complete pulse), in a collection
    of their own, since there are fewer than edges: ONE wants one length of an object's attributes. A line
    that has edges but no name is written under its stream and line, ``_nidq_port0line1``; the sync line only
    where it has a name. Per wired analog input ``analog.<name>.npy`` ((n,) float32 V), and once
    ``analog.timestamps.npy`` ((n,) float64 s), written in pieces: n_samples of them, or as many as the
    wiring's ``analog_rate_hz`` asks for, see ``decimation``. ``_powerpixels_clock.fit.json``, as beside a
    probe's spikes, tells which clock each is on (the fit; of the reference, the identity).
    ``_powerpixels_events.summary.json`` lists what was written and the warnings: wired inputs that the stream
    lacks, or that never change, and a sync line other than the metadata's. An event's time is that of the
    first sample with the new level. Raises ``DataError`` where the edges or the fit are another
    stream's.
    """
    if edges.stream != stream.name or edges.n_samples != stream.n_acquired:
        raise DataError(
            f"the edges are of stream {edges.stream} ({edges.n_samples} samples), expected {stream.name}"
            f" ({stream.n_acquired} samples); extract them again"
        )
    if fit is not None and fit.stream != stream.name:
        raise DataError(f"the clock fit is of stream {fit.stream}, expected {stream.name}; fit it again")
    out = Path(out) if stream.name == MAIN_STREAM else Path(out) / stream.name
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
    # Where the wiring's sync line is none of the stream's, SYNC finds another.
    sync = inputs.sync if inputs.sync in edges.lines else edges.sync
    if fit is not None and fit.line is not None:
        sync = fit.line
    if inputs.sync is not None and edges.sync not in (None, inputs.sync):
        warn(f"the wiring has the sync wave on {inputs.sync}, the recording's metadata on {edges.sync}")
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
        factor = decimation(stream.sampling_rate_hz, inputs.analog_rate_hz, warn)
        _write_analog(stream, raw_dir, targets, seconds, out / f"{ANALOG_OBJECT}.{TIMESTAMPS}.npy", factor)
        analog = [entry | {"sampling_rate_hz": stream.sampling_rate_hz / factor} for entry in analog]

    clock = identity_fit(edges, stream.name) if fit is None else fit
    described = (
        f"all times here are seconds on the clock of stream {clock.reference!r}, zero at that stream's"
        f" first sample; recorded on {stream.name!r}, linear between the knots [samples since its first one"
        " (time in gaps included) / sampling_rate_hz, seconds]"
    )
    timed = [f"{line['object']}.times.npy" for line in digital]
    timed += [f"{PULSES}/{line['object']}.intervals.npy" for line in digital]
    timed += [f"{ANALOG_OBJECT}.{TIMESTAMPS}.npy"] if analog else []
    write_clock(clock, described, dict.fromkeys(timed, "s"), out)
    summary = {"clock": clock.reference, "digital": digital, "analog": analog, "warnings": warnings}
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (out / "_powerpixels_events.summary.json").write_text(text, encoding="utf-8")
    return warnings


def decimation(rate_hz: float, wanted_hz: float | None, warn: Callable[[str], None]) -> int:
    """Of how many samples one is kept, so that the rate is the lowest that is at least the wanted one.

    1 where no rate is wanted, or, with a warning, where the recording's is lower.
    """
    if wanted_hz is None:
        return 1
    if wanted_hz > rate_hz:
        warn(f"analog_rate_hz asks for {wanted_hz:g} Hz, the inputs were recorded at {rate_hz:g} Hz: kept so")
        return 1
    return int(rate_hz / wanted_hz)


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
    """Write one digital line's files; returns its entry in the summary."""
    # "P0.1" holds a dot, which separates the parts of an ALF name.
    name = name or re.sub(r"\W", "line", re.sub(r"^P(?=\d)", "port", line))
    np.save(out / f"{prefix}{name}.times.npy", times)
    np.save(out / f"{prefix}{name}.polarities.npy", polarity)
    (out / PULSES).mkdir(exist_ok=True)
    np.save(out / PULSES / f"{prefix}{name}.intervals.npy", pulses)
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
    factor: int,
) -> None:
    """Write each (AnalogLine, file) in volts and the common timestamps, in one pass over the raw data.

    seconds: of counts on the stream's acquisition clock. factor: one sample of so many is kept, the first of
    each stretch without a gap among them, after a low-pass filter without phase (``_lowpass``).
    """
    reader = StreamReader(stream, locate([stream], raw_dir)[0])
    blocks = stream.blocks()
    n = sum(-(-block.n_samples // factor) for block in blocks)
    # A file is opened anew for each piece: pages of a map that stays open count as the process's memory.
    for file, dtype in [(file, np.float32) for _, file in inputs] + [(timestamps, np.float64)]:
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(n,)).flush()
    columns = [line.raw_column for line, _ in inputs]
    kernel = _lowpass(factor)
    begin = 0
    for block in blocks:
        for kept, piece in _decimated(reader, columns, block.start, block.n_samples, kernel, factor):
            here = slice(begin, begin + len(kept))
            for c, (line, file) in enumerate(inputs):
                np.lib.format.open_memmap(file, mode="r+")[here] = piece[:, c] * line.gain_v
            np.lib.format.open_memmap(timestamps, mode="r+")[here] = seconds(stream.acquired(kept))
            begin += len(kept)


def _lowpass(factor: int) -> np.ndarray:
    """(2 k + 1,) filter that passes what the decimated rate can hold; (1,) for factor 1.

    Windowed sinc (Kaiser, 80 dB), flat up to 0.8 and closed from 1.2 of half the decimated rate: what could
    alias falls above 0.8 of it.
    """
    if factor == 1:
        return np.ones(1)
    from scipy.signal import firwin, kaiserord

    taps, beta = kaiserord(80, 0.4 / factor)
    return firwin(taps | 1, 1 / factor, window=("kaiser", beta))


def _decimated(
    reader: StreamReader, columns: list[int], start: int, n_samples: int, kernel: np.ndarray, factor: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (samples of the stream (int64), their filtered values (n, columns) float64) of a stretch.

    Every factor-th sample from the first on. Beyond its ends the stretch's first and last values go on.
    """
    half = len(kernel) // 2
    step = max(1, rawdata.CHUNK_BYTES // (2 * reader.stream.n_columns * factor)) * factor
    for first in range(0, n_samples, step):
        stop = min(first + step, n_samples)
        kept = np.arange(first, stop, factor)
        low, high = max(first - half, 0), min(int(kept[-1]) + half + 1, n_samples)
        values = reader.read(start + low, start + high, columns)
        if factor > 1:
            from scipy.signal import upfirdn

            missing = (low - (first - half), int(kept[-1]) + half + 1 - high)
            values = np.pad(values.astype(np.float64), (missing, (0, 0)), mode="edge")
            # The first output that saw a whole kernel is centred on the first sample kept.
            filtered = upfirdn(kernel, values, axis=0)[2 * half :: factor]
            values = filtered[: len(kept)]
        yield start + kept, values[: len(kept)]
