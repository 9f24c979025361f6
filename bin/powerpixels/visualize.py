"""What preprocessing does to a stretch of a recording, step by step, as figures on a page.

``powerpixels visualize`` makes them for any session, of PREPROCESS's record or, without one, of decisions
that the same code makes on some seconds around the stretch. The traces are those of ``powerpixels.rebuild``.
"""

from __future__ import annotations

import logging
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from powerpixels.documents import Channel, ChannelLabel, JoinedProbe, Piece, Preprocess, ProbeDocument
from powerpixels.spectra import SEGMENT_SAMPLES, Notch
from powerpixels.stage import DataError

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

    from powerpixels.rebuild import Rebuilt

log = logging.getLogger("powerpixels")

# In longer stretches a spike is too narrow to be seen.
TRACES_S = 0.03
SPECTRUM_S = 1.0
# Without a record decisions are made on this much: 33 of the detector's chunks, a fifth of the spectrum's.
DECISION_S = 10.0


@dataclass(frozen=True)
class Walk:
    """A stretch of a probe's recording after each step, and what was decided.

    channels, labels: of the probe, in the same order. start_s: the stretch's, counted in recorded samples (of
    sessions sorted as one: one after the other). steps: by name in order, (samples, channels) float32 µV; NaN
    in channels that were removed. muted: int64 (n, 2), intervals of the stretch, in its samples. freqs_hz
    (n_freqs,), and by step "raw", "high-pass" and, where there are any, "notches" densities (n_freqs,
    channels), µV²/Hz, of spectrum_s seconds around the stretch. decided_on: in words.
    """

    document: Preprocess
    channels: list[Channel]
    labels: list[ChannelLabel]
    sampling_rate_hz: float
    start_s: float
    steps: dict[str, np.ndarray]
    muted: np.ndarray
    freqs_hz: np.ndarray
    densities: dict[str, np.ndarray]
    spectrum_s: float
    notches: list[Notch]
    left_out: list[Notch]
    decided_on: str

    def of_shank(self, shank: int) -> np.ndarray:
        """Positions in ``channels`` of a shank's channels, from the tip up."""
        own = [k for k, channel in enumerate(self.channels) if channel.shank == shank]
        return np.array(sorted(own, key=lambda k: (self.channels[k].y_um, self.channels[k].x_um)))

    @property
    def shanks(self) -> list[int]:
        """Shanks with recorded channels, ascending."""
        return sorted({channel.shank for channel in self.channels})


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels visualize``."""
    parser.add_argument(
        "raw",
        type=Path,
        nargs="+",
        metavar="RAW_FOLDER",
        help="the session's raw folder (one for each of sessions sorted as one, in order)",
    )
    parser.add_argument("--probe", help="such as probe00; default: the only one")
    parser.add_argument(
        "--preprocess-json",
        type=Path,
        metavar="FILE",
        help="PREPROCESS's record, qc/<probe>/preprocess.json, or the session's folder of results; default: "
        f"decide as the pipeline does by default, on {DECISION_S:g} s around the stretch",
    )
    parser.add_argument(
        "--at",
        type=float,
        metavar="SECONDS",
        help="middle of the stretch shown, in seconds of recorded samples; default: the recording's middle",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for the page and its figures; default: preprocessing_PROBE",
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels visualize``."""
    probe = args.probe or _only_probe(args.raw[0])
    page = visualize(args.raw, probe, args.preprocess_json, args.at, args.out or f"preprocessing_{probe}")
    log.info("written: %s", page)


def visualize(
    raw_dirs: Sequence[Path],
    probe: str,
    record: Path | str | None,
    at_s: float | None,
    out: Path | str,
) -> Path:
    """Draw a probe's preprocessing around a moment into a folder; returns the page, ``out/index.html``.

    raw_dirs, record, at_s: as the command's arguments. Raises ``DataError`` where the raw folder, the probe
    or the record can't be used, or there is nothing at that moment.
    """
    from powerpixels.rebuild import find_record
    from powerpixels.visualize_figures import draw

    if record is not None:
        document, path = find_record(record, probe)
        walk = collect(
            document, raw_dirs, at_s, f"decided by PREPROCESS on the whole recording ({path.name})"
        )
    else:
        if len(raw_dirs) > 1:
            raise DataError(
                f"{', '.join(map(str, raw_dirs))}: expected one raw folder without --preprocess-json, found "
                f"{len(raw_dirs)}; name the record of the sessions that were sorted as one"
            )
        document, words = decide(_described(raw_dirs[0], probe), raw_dirs[0], at_s)
        walk = collect(document, raw_dirs, at_s, words)
    return draw(walk, Path(out))


def decide(described: ProbeDocument, raw_dir: Path, at_s: float | None) -> tuple[Preprocess, str]:
    """PREPROCESS's decisions with its default settings on DECISION_S of the recording around a moment.

    The stretch is preprocessed as a recording of its own, in a temporary folder. Returns its record, with
    the whole recording as its source, and in words what it was decided on. Raises ``DataError`` as
    PREPROCESS does, and where the recording has no such moment.
    """
    from powerpixels.preprocess import Settings, preprocess_probe

    stream = described.probe.ap
    rate = stream.sampling_rate_hz
    lengths = [block.n_samples for block in stream.blocks()]
    k, start, stop = _window(lengths, rate, at_s, DECISION_S, stream.files[0].path)
    first = sum(lengths[:k]) + start
    cut = stream.model_copy(update={"pieces": _cut(stream.pieces, first, first + stop - start)})
    cut = cut.model_copy(update={"n_samples": stop - start, "first_sample": cut.pieces[0].first_sample})
    probe = described.probe.model_copy(update={"ap": cut})
    stretch = JoinedProbe(recordings=[described.model_copy(update={"probe": probe})])
    log.info("deciding on %.1f s of the recording", (stop - start) / rate)
    with tempfile.TemporaryDirectory(prefix="powerpixels_") as folder:
        document = preprocess_probe(stretch, raw_dir, Path(folder), Settings())
    whole = JoinedProbe(recordings=[described])
    words = f"decided on {first / rate:.1f} to {(first + stop - start) / rate:.1f} s, with default settings"
    return document.model_copy(update={"source": whole}), words


def collect(
    document: Preprocess, raw_dirs: Path | Sequence[Path], at_s: float | None, decided_on: str = ""
) -> Walk:
    """The traces of TRACES_S around a moment after each step of a record with a source, and their spectra.

    raw_dirs: one folder for each of its sessions, or one that holds the files of all. at_s: seconds of
    recorded samples; None: the middle of the longest stretch without a gap. What is shown lies in one such
    stretch. Raises ``DataError`` where the raw files don't fit the record, or it has no such moment.
    """
    from powerpixels.rebuild import rebuild

    source = document.source
    if not isinstance(raw_dirs, Path) and len(raw_dirs) != len(source.recordings):
        raise DataError(
            f"{', '.join(map(str, raw_dirs))}: expected {len(source.recordings)} raw folders, one for each "
            f"of the sessions that were sorted as one, found {len(raw_dirs)}"
        )
    rebuilt = rebuild(document, raw_dirs)
    raw, rate = rebuilt.raw, rebuilt.raw.sampling_frequency
    channels = source.recordings[0].probe.ap.channels
    lengths = [raw.get_num_samples(k) for k in range(raw.get_num_segments())]
    name = source.recordings[0].probe.ap.files[0].path
    k, start, stop = _window(lengths, rate, at_s, TRACES_S, name)
    if lengths[k] < rebuilt.least:
        raise DataError(
            f"{name}: expected at least {rebuilt.least} samples without gap to filter, found {lengths[k]} at "
            f"{(sum(lengths[:k]) + start) / rate:.3f} s; choose another moment"
        )
    of_column = {channel.raw_column: k for k, channel in enumerate(channels)}
    before = sum(lengths[:k])
    steps = {}
    for step, parts in rebuilt.steps().items():
        steps[step] = _side_by_side(parts, of_column, k, start, stop)
        log.info("%s: done", step)
    steps["raw"] -= np.median(steps["raw"], axis=0)
    written = [rebuilt.written(unit) for unit in document.units if rebuilt.plans_of(unit)]
    steps["written"] = _side_by_side(written, of_column, 0, before + start, before + stop)
    freqs_hz, densities, spectrum_s = _densities(rebuilt, of_column, k, start, stop)
    labels = {(label.raw_column, label.contact_id): label for label in document.labels}
    notching = next(step for step in document.steps if step["step"] == "notch_filter")
    return Walk(
        document=document,
        channels=channels,
        labels=[labels[channel.raw_column, channel.contact_id] for channel in channels],
        sampling_rate_hz=rate,
        start_s=(before + start) / rate,
        steps=steps,
        muted=_muted(rebuilt, k, start, stop),
        freqs_hz=freqs_hz,
        densities=densities,
        spectrum_s=spectrum_s,
        notches=rebuilt.notches,
        left_out=[Notch(**notch) for notch in notching["left_out"]],
        decided_on=decided_on,
    )


def _only_probe(raw: Path) -> str:
    from powerpixels.inventory import inspect_session

    names = [probe.name for probe in inspect_session(raw, "?", "?", look_at_data=False).probes]
    if len(names) != 1:
        raise DataError(f"{raw}: name one of its probes with --probe: {', '.join(names) or 'none found'}")
    return names[0]


def _described(raw: Path, name: str) -> ProbeDocument:
    """The probe's document, from the headers alone."""
    from powerpixels.inventory import blocking_message, inspect_documents

    found = inspect_documents(raw, "?", "?", look_at_data=False)
    faults = found.inventory.faults
    wrong = blocking_message(faults, name) or blocking_message(faults, None)
    if wrong:
        raise DataError(wrong)
    probes = {probe.name: probe for probe in found.inventory.probes}
    if name not in probes:
        raise DataError(f"{raw}: expected a probe of {', '.join(probes) or 'none'}, asked for {name}")
    return ProbeDocument(session=found.sessions[name], probe=probes[name])


def _window(
    lengths: Sequence[int], rate: float, at_s: float | None, seconds: float, name: str
) -> tuple[int, int, int]:
    """Which block, its first sample and the first behind, of a stretch around a moment, within the block.

    lengths: of the blocks; None: the middle of the longest one.
    """
    firsts = np.cumsum([0, *lengths])
    if at_s is None:
        k = int(np.argmax(lengths))
        middle = lengths[k] // 2
    else:
        sample = round(at_s * rate) if np.isfinite(at_s) else -1
        if not 0 <= sample < firsts[-1]:
            raise DataError(
                f"{name}: expected a moment within the recording's {firsts[-1] / rate:.3f} s, asked for "
                f"{at_s:g} s"
            )
        k = int(np.searchsorted(firsts, sample, side="right")) - 1
        middle = sample - int(firsts[k])
    size = min(round(seconds * rate), lengths[k])
    start = int(np.clip(middle - size // 2, 0, lengths[k] - size))
    return k, start, start + size


def _cut(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """What of a stream's pieces holds samples start to stop of it."""
    kept, first = [], 0
    for piece in pieces:
        lo, hi = max(start - first, 0), min(stop - first, piece.n_samples)
        if lo < hi:
            number = None if piece.first_sample is None else piece.first_sample + lo
            update = {"first_row": piece.first_row + lo, "n_samples": hi - lo, "first_sample": number}
            kept.append(piece.model_copy(update=update))
        first += piece.n_samples
    return kept


def _side_by_side(
    parts: Sequence[BaseRecording], of_column: dict[int, int], segment: int, start: int, stop: int
) -> np.ndarray:
    """Samples of recordings of parts of the channels, (samples, channels) float32 µV; NaN where in none."""
    traces_uv = np.full((stop - start, len(of_column)), np.nan, dtype=np.float32)
    for part in parts:
        rows = [of_column[int(column)] for column in part.get_property("raw_column")]
        asked = {"segment_index": segment, "start_frame": start, "end_frame": stop}
        traces_uv[:, rows] = part.get_traces(**asked, return_in_uV=True)
    return traces_uv


def _muted(rebuilt: Rebuilt, segment: int, start: int, stop: int) -> np.ndarray:
    from powerpixels.preprocess import mute_gain

    return mute_gain(rebuilt.muting, rebuilt.raw, segment, start, stop)[1]


def _densities(
    rebuilt: Rebuilt, of_column: dict[int, int], segment: int, start: int, stop: int
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Frequencies, spectra of the steps that treat each channel alone, and of how many seconds they are."""
    from scipy.signal import welch

    rate, n = rebuilt.raw.sampling_frequency, rebuilt.raw.get_num_samples(segment)
    size = min(round(SPECTRUM_S * rate), n)
    first = int(np.clip((start + stop - size) // 2, 0, n - size))
    densities, freqs_hz = {}, np.empty(0)
    for step, parts in rebuilt.steps().items():
        if step in ("raw", "high-pass", "notches"):
            traces_uv = _side_by_side(parts, of_column, segment, first, first + size)
            freqs_hz, densities[step] = welch(traces_uv, rate, nperseg=min(SEGMENT_SAMPLES, size), axis=0)
    return freqs_hz, densities, size / rate
