"""What each line of a recording carries, so that a user sees which bit is which: ``powerpixels wiring``."""

from __future__ import annotations

import json
import logging
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np

from powerpixels import clock, inventory
from powerpixels.documents import Inventory, Stream
from powerpixels.edges import Edges, column_counts, digital_bits, extract_edges, level_pair
from powerpixels.rawdata import StreamReader, locate
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

# Of an analog input's samples lie below, and above, the range that is told.
RANGE_QUANTILE = 1e-3
HEADS = ("stream", "line", "edges", "first", "last", "carries")


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels wiring``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="as in the samplesheet's column raw")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="read only this much of each stream (default: the whole recording, which takes as long as"
        " reading its files)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, not a table")


def run(args: Namespace) -> None:
    """Body of ``powerpixels wiring``."""
    if args.seconds is not None and args.seconds <= 0:
        raise DataError(f"--seconds {args.seconds:g}: expected more than 0")
    found = inventory.inspect_session(args.folder, "?", "?")
    streams = found_streams(found)
    if not streams:
        why = inventory.blocking_message(found.faults, None) or "no stream was found in it"
        raise DataError(f"{args.folder}: {why}")
    rows = []
    for stream in streams:
        begun = time.monotonic()
        rows += line_rows(stream if args.seconds is None else beginning(stream, args.seconds), args.folder)
        log.info("%s: read in %.1f s", stream.name, time.monotonic() - begun)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if args.json else table(rows))


def beginning(stream: Stream, seconds: float) -> Stream:
    """The stream's first so many seconds of samples, as a stream; itself where it is no longer."""
    left = max(2, int(seconds * stream.sampling_rate_hz))
    if left >= stream.n_samples:
        return stream
    pieces = []
    for piece in stream.pieces:
        pieces.append(piece.model_copy(update={"n_samples": min(left, piece.n_samples)}))
        left -= pieces[-1].n_samples
        if not left:
            break
    return stream.model_copy(update={"pieces": pieces, "n_samples": sum(piece.n_samples for piece in pieces)})


def line_rows(stream: Stream, raw_dir: Path) -> list[dict]:
    """A row for each line of a stream: what is on it, nothing about what it is for.

    Of digital lines: stream, line, sync (whether the recording's metadata say that the sync wave is on it),
    n_edges, first_s and last_s (edges, seconds from the stream's first sample, gaps included), period_s (the
    most frequent time between pulses), regular (whether they come at that rate throughout), high_part (of
    the time), level ("high" or "low" where it never changes). Of analog inputs: stream, line, low_v, high_v
    (all but a thousandth of the samples lie between), and, as of digital lines, how their level changes,
    where it has two. Of a probe: its sync line, and other bits of that word that change.
    """
    levels = [line.name for line in stream.analog]
    edges = extract_edges(stream, raw_dir, levels)
    reader = StreamReader(stream, locate([stream], raw_dir)[0]) if stream.n_columns else None
    start = reader.read(0, 1)[0] if reader and edges.lines else None
    bits = {name: (column, bit) for column, bit, name in digital_bits(stream)}
    ttl = {line.name for line in stream.ttl}
    rows = []
    for line in edges.lines:
        n_edges = len(edges.of(line)[0])
        if line in levels or (stream.channels and not n_edges and line != edges.sync):
            continue
        row = {"stream": stream.name, "line": line, "sync": line == edges.sync, **_changes(edges, line)}
        if not n_edges and line in bits and start is not None:
            column, bit = bits[line]
            row["level"] = "high" if (int(start[column]) >> bit) & 1 else "low"
        if not n_edges and line in ttl:
            row["level"] = None
        rows.append(row)
    if stream.analog:
        counts = column_counts(reader, [line.raw_column for line in stream.analog])
        for count, line in zip(counts, stream.analog, strict=True):
            low, high = level_pair(count, RANGE_QUANTILE)
            volts = {"low_v": low * line.gain_v, "high_v": high * line.gain_v}
            row = {"stream": stream.name, "line": line.name, "sync": line.name == edges.sync, **volts}
            rows.append(row | _changes(edges, line.name))
    return rows


def _changes(edges: Edges, line: str) -> dict:
    """How one line changes; see ``line_rows``."""
    sample, polarity = edges.of(line)
    fs = edges.sampling_rate_hz
    row = {"n_edges": len(sample)}
    if not len(sample):
        return row
    row |= {"first_s": float(sample[0] / fs), "last_s": float(sample[-1] / fs)}
    rate = clock.pulse_rate(edges, line)
    if rate is not None:
        row |= {"period_s": rate[0], "regular": rate[1]}
    high = np.diff(sample)[polarity[:-1] > 0].sum()
    spans = np.diff(sample).sum()
    if spans:
        row["high_part"] = float(high / spans)
    return row


def table(rows: list[dict]) -> str:
    """The rows as text, one line each."""
    cells = [HEADS]
    for row in rows:
        first, last = (f"{row[key]:.3f} s" if key in row else "-" for key in ("first_s", "last_s"))
        sync = ["the sync wave, by the metadata"] if row["sync"] else []
        said = ", ".join([*_words(row), *sync])
        cells.append((row["stream"], row["line"], str(row["n_edges"]), first, last, said))
    widths = [max(len(line[k]) for line in cells) for k in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _words(row: dict) -> list[str]:
    """What a row says, in words."""
    words = []
    if "low_v" in row:
        words.append(f"analog, {row['low_v']:.3f} to {row['high_v']:.3f} V")
    elif not row["n_edges"]:
        words.append(f"always {row['level']}" if row.get("level") else "no event")
    if "period_s" in row:
        words.append(
            f"a pulse every {row['period_s']:.6g} s" if row["regular"] else "pulses at irregular times"
        )
    elif row["n_edges"]:
        words.append("few edges")
    if "high_part" in row:
        words.append(f"{100 * row['high_part']:.0f} % high")
    return words


def found_streams(found: Inventory) -> list[Stream]:
    """DAQ streams and the probes' AP streams of a session, the NIDQ first."""
    daqs = [stream for stream in (found.nidq, *found.daqs) if stream is not None]
    return daqs + [probe.ap for probe in found.probes]
