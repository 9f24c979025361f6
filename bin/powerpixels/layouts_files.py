"""What all layouts of a simulated session are written with: its streams, where they are cut, their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from powerpixels.simulate import PieceTruth, StreamTruth, Truth

CHUNK_ROWS = 30000

# Where recordings are cut: parts of the session's duration. In "gaps" and the like what lies between a
# cut's two ends is not saved, in "overlaps" it is saved twice.
CUTS = ((0.31, 0.345), (0.66, 0.72))
GATE_CUT = (0.47, 0.53)


class Part(NamedTuple):
    """Samples first to last of a source stream, as one file of gate g and trigger t has them."""

    first: int
    last: int
    gate: int
    trigger: int


class Work(NamedTuple):
    """A session being rewritten: the source's truth and the new session's folder (not yet its final one)."""

    source: Truth
    out: Path

    @property
    def raw(self) -> Path:
        """The new session's raw folder."""
        return self.out / "raw"

    @property
    def run(self) -> str:
        """The run's name."""
        return self.source.document.config.run


def source_rows(work: Work, stream: StreamTruth) -> np.ndarray:
    """(n_samples, n_columns) of a source stream, read only."""
    return np.memmap(work.source.folder / stream.file, dtype="<i2", mode="r").reshape(-1, stream.n_columns)


def source_meta(work: Work, stream: StreamTruth) -> dict[str, str]:
    """Fields of a source stream's .meta file."""
    text = (work.source.folder / stream.file).with_suffix(".meta").read_text(encoding="utf-8")
    return dict(line.split("=", 1) for line in text.splitlines())


def device_of(stream: StreamTruth) -> str:
    """imec0 of imec0.ap, "" of the NIDQ."""
    return stream.name.partition(".")[0] if "." in stream.name else ""


def _sample_at(work: Work, stream: StreamTruth, true_s: float) -> int:
    """First sample at or after a true time; that of an LF stream is the AP's."""
    device = device_of(stream)
    if not device:
        return int(np.ceil((true_s - stream.start_s) * stream.true_rate_hz))
    probe = work.source.probe(device)
    ap_sample = 12 * round((true_s - probe.ap.start_s) * probe.ap.true_rate_hz / 12)
    return ap_sample if stream is probe.ap else ap_sample // 12


def parts_of(
    work: Work,
    stream: StreamTruth,
    kind: Literal["whole", "contiguous", "gaps", "overlaps", "gates"],
) -> list[Part]:
    """The files that a stream is cut into; each clock is cut at the same moments."""
    duration = work.source.document.config.duration_s
    if kind == "whole":
        return [Part(0, stream.n_samples, 0, 0)]
    cuts = [GATE_CUT] if kind == "gates" else CUTS
    ends, starts = [], [0]
    for early, late in cuts:
        early, late = (_sample_at(work, stream, part * duration) for part in (early, late))
        end, start = {"contiguous": (early, early), "overlaps": (late, early)}.get(kind, (early, late))
        ends.append(end)
        starts.append(start)
    ends.append(stream.n_samples)
    numbers = [(k, 0) if kind == "gates" else (0, k) for k in range(len(starts))]
    return [Part(a, b, *number) for a, b, number in zip(starts, ends, numbers, strict=True)]


def piece_fields(stream: StreamTruth, parts: list[Part], files: list[str]) -> dict:
    """StreamTruth's fields for the stream as cut: what a later file repeats of an earlier one is skipped."""
    pieces, end = [], 0
    for part, file in zip(parts, files, strict=True):
        skip = max(0, end - part.first)
        end = part.last
        pieces.append(
            PieceTruth(
                file=file,
                first_row=skip,
                n_samples=part.last - part.first - skip,
                offset=part.first + skip,
            )
        )
    return {
        "file": files[0],
        "n_samples": sum(piece.n_samples for piece in pieces),
        "pieces": pieces if len(pieces) > 1 else [],
    }


def row_chunks(n_rows: int) -> Iterator[tuple[int, int]]:
    """(first, last) of consecutive stretches of at most CHUNK_ROWS of n_rows rows."""
    for first in range(0, n_rows, CHUNK_ROWS):
        yield first, min(first + CHUNK_ROWS, n_rows)


def write_rows(path: Path, blocks: Iterator[np.ndarray]) -> str:
    """Write int16 rows; returns the file's SHA-1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha1()
    with path.open("wb") as file:
        for block in blocks:
            data = block.astype("<i2", copy=False).tobytes()
            digest.update(data)
            file.write(data)
    return digest.hexdigest().upper()
