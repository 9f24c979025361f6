"""PREPROCESS: from a probe's raw AP files to one int16 binary per sorting unit, in one pass.

The chain is SpikeInterface's own, in µV: high-pass and notches, phase shift, bad channels, removal of dead
and outside channels, interpolation of noisy ones, reference; then saturated stretches are muted. Bad channels
are looked for behind the notches: a strong line above 12 kHz makes every channel a noisy one before. All that
looks at more than one channel (bad channels, interpolation, reference) stays within a shank: shanks enter the
brain at different depths, and are 250 µm and more apart; only the reference may be asked to cross over. All
that looks at more than one sample (the filters) stays within a block, a stretch without gap of one session;
the blocks are written one after the other.

Two engines do it: "spikeinterface" is that chain itself, "fast" (``powerpixels.fast_pass``) the same steps
otherwise, many times faster, "gpu" (``powerpixels.torch_pass``) that pass with a GPU's arithmetic. Decisions
(bad channels, references, seeds) are made by the same code here. On noise that the amplifiers have limited in
band their traces differ by rounding: in some percent of the values, by one count, seldom two within 40 ms of
a block's ends or of the borders of SpikeInterface's chunks.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from powerpixels import __version__
from powerpixels.artifacts import (
    FADE_S,
    LIMIT_MARGIN,
    MERGE_S,
    PROPORTION,
    Detector,
    Mute,
    Muting,
    joined_intervals,
)
from powerpixels.documents import (
    Block,
    Channel,
    ChannelLabel,
    ChannelLevel,
    JoinedProbe,
    Part,
    Preprocess,
    PreprocessedUnit,
)
from powerpixels.kernels import INT16_MAX, NOTCH_MARGIN_MS, sections
from powerpixels.levels import Levels
from powerpixels.raw_ap import SideBySide, load_raw_ap
from powerpixels.rawdata import StreamReader
from powerpixels.spectra import (
    MIN_SEGMENTS,
    SEGMENT_SAMPLES,
    THRESHOLD_UV2_HZ,
    Notch,
    Notches,
    find_notches,
    notches_of_columns,
    sampled_spectrum,
)
from powerpixels.stage import DataError

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

    from powerpixels.fast_pass import ShankPass, Written

log = logging.getLogger("powerpixels")

Engine = Literal["fast", "gpu", "spikeinterface"]
Reference = Literal["local", "global", "destripe", "none"]
REFERENCES: tuple[Reference, ...] = ("local", "global", "destripe", "none")

# Chunks are the same whatever the number of jobs: the margins of the filters make each sample depend
# (far below one count) on where its chunk starts.
CHUNK_S = 1.0
PHASE_SHIFT_MARGIN_MS = 40.0
# Coarsest step of the output: its rounding noise (0.12 µV) vanishes in the 5 to 10 µV of a probe's own.
# The range is then at least 32767 * 0.2 µV = 6.5 mV either way, above what 2.0 probes can record.
MAX_STEP_UV = 0.4
# Below this a shank's median is mostly the channel itself, so it is not subtracted.
MIN_REFERENCE_CHANNELS = 4
# A local reference of fewer is taken from the nearest ones beyond the annulus, as SpikeInterface does.
MIN_LOCAL_NEIGHBOURS = 5
# The bad-channel detector's similarity to the shank's median needs a median that one channel does not make.
MIN_DETECTION_CHANNELS = 8
# Across fewer the spatial filter of destriping has nothing to separate; such a shank's median is taken.
MIN_DESTRIPE_CHANNELS = 16
DETECTION_CHUNKS = 100
DETECTION_CHUNK_S = 0.3
# The evidence for the labels is the median of this many of them.
EVIDENCE_CHUNKS = 20
# The detector's running median along the shank.
TREND_CHANNELS = 11
# In less a channel's likeness to the others and its spectrum are chance.
MIN_DETECTION_CHUNK_S = 0.1
# Destriping's gain control wants each channel's level, to a factor or so: SpikeInterface's own sample of it.
LEVEL_CHUNKS = 20
LEVEL_CHUNK_S = 0.5
# No spike fits into a shorter block, and the high-pass filter needs 19 samples to start from.
MIN_BLOCK_S = 0.002
# What a channel is in any of the joined sessions it is in all; the first of these that applies.
WORST_FIRST = ("dead", "out", "noise", "good")


@dataclass(frozen=True)
class Settings:
    """What a user may choose. local_radius_um: inner (excluded) and outer radius of the annulus.

    reference_multi_shank: the reference of probes recorded on more than one shank; None: as others'.
    reference_scope: whose channels "local" and "global" take the median of. notch_threshold_uv2_hz: see
    ``spectra.find_notches``.
    """

    engine: Engine = "fast"
    reference: Reference = "local"
    reference_multi_shank: Reference | None = None
    reference_scope: Literal["shank", "probe"] = "shank"
    highpass_hz: float = 300.0
    local_radius_um: tuple[float, float] = (40.0, 200.0)
    notch: Literal["auto", "off"] = "auto"
    notch_threshold_uv2_hz: float = THRESHOLD_UV2_HZ
    mute: Mute = "saturation"
    sort_by: Literal["shank", "probe"] = "shank"
    seed: int = 42


def preprocess_probe(
    joined: JoinedProbe, raw_dir: Path | Sequence[Path], out: Path, settings: Settings, jobs: int = 1
) -> Preprocess:
    """Write ``out/<unit>/traces.bin`` and ``recording.json`` of each sorting unit, ``out/preprocess.json``.

    Also the muted intervals, fades not counted: ``out/muted.npy``, int64 (n, 3), the part (the number of the
    session in preprocess.json), first sample and first behind in that part's AP stream; and
    ``out/<unit>/muted.npy``, int64 (n, 2), the same in samples of traces.bin. Empty where nothing was muted.

    traces.bin holds all samples of all recordings in order, nothing in gaps. Each block is filtered for
    itself; a block shorter than the filters' margins (17 and 40 ms) has their edges' effects all over, one
    shorter than 2 ms (4 with many notches) is written as zeros. A channel that is bad in one of the sessions
    is bad in all.

    The raw files are read once (bad channels and spectral lines are looked for in random chunks before that).
    Memory does not grow with the recording's duration: each of the ``jobs`` threads (of SpikeInterface:
    processes) holds about one second. The output does not depend on jobs. A unit none of whose channels is
    usable gets an empty traces.bin and a recording.json without channels.

    raw_dir: as ``raw_ap.load_raw_ap`` takes it. Raises DataError where the raw files do not fit the
    documents, the recordings can't be joined, or they are shorter than one second together.
    """
    first = joined.recordings[0].probe
    raw = load_raw_ap(joined, raw_dir)
    lengths = [document.probe.ap.n_samples for document in joined.recordings]
    rate = raw.sampling_frequency
    if sum(lengths) < rate:
        files = ", ".join(piece.path for document in joined.recordings for piece in document.probe.ap.pieces)
        raise DataError(
            f"{files}: expected at least 1 s of data, found {sum(lengths) / rate:.3f} s; leave this "
            "recording out of the samplesheet"
        )
    channels = first.ap.channels
    shanks = sorted({channel.shank for channel in channels})
    if len(shanks) > 1 and settings.reference_multi_shank is not None:
        settings = replace(settings, reference=settings.reference_multi_shank)
    fast = settings.engine != "spikeinterface"
    notches, notch_step = _notches(raw, settings, jobs)
    filtered = _filtered(raw, settings, notches)
    by_session = [
        _label_session(_of_session(filtered, joined, k), shanks, settings, jobs) for k in range(len(lengths))
    ]
    labels, evidence = {}, {}
    for column in (channel.raw_column for channel in channels):
        labels[column], evidence[column] = next(
            (label, found[column][1])
            for label in WORST_FIRST
            for found, _ in by_session
            if found[column][0] == label
        )
    least = min_block_samples(rate, notches, [channel.raw_column for channel in channels])
    muting, mute_step = _muting(joined, settings, fast)
    steps: list[dict] = [
        _read_step(joined, least),
        {"step": "compute", "engine": settings.engine, "versions": versions(settings.engine)},
        {"step": "scale_to_uv", "dtype": "float32"},
        {"step": "highpass_filter", "cutoff_hz": settings.highpass_hz, "order": 5, "zero_phase": True},
        notch_step,
        {"step": "phase_shift", "margin_ms": PHASE_SHIFT_MARGIN_MS},
    ]
    log.info("bad channels: %s", _count(labels.values()))
    steps.append(
        {
            "step": "detect_bad_channels",
            "method": "coherence+psd",
            "scope": "shank",
            "sessions": [
                {
                    "n_chunks": sampled["n_chunks"],
                    "chunk_s": sampled["chunk_s"],
                    "found": _count(label for label, _ in found.values()),
                }
                for found, sampled in by_session
            ],
            "seed": settings.seed,
            "found": _count(labels.values()),
            **_noted(
                f"{session}{note}"
                for session, (_, sampled) in zip(_session_names(joined), by_session, strict=True)
                for note in sampled["notes"]
            ),
        }
    )
    steps.append({"step": "remove_channels", "labels": ["dead", "out"]})
    steps.append({"step": "interpolate_bad_channels", "labels": ["noise"], "p": 1.3})

    plans = plan_shanks(channels, labels, settings)
    for shank, plan in plans.items():
        steps.append({"step": "reference", "shank": shank, **plan.step})
        log.info("shank %d: %s", shank, plan.step)

    gain_uv = output_gain_uv([channel.gain_uv for channel in channels])
    if settings.sort_by == "probe":
        members = {"probe": shanks}
    else:
        members = {f"shank{shank}": [shank] for shank in shanks}
    out = Path(out)
    units: dict[str, list[ShankPlan]] = {}
    for unit, unit_shanks in members.items():
        units[unit] = [plans[shank] for shank in unit_shanks if plans[shank].channels]
        (out / unit).mkdir(parents=True, exist_ok=True)
        kept = [channel for plan in units[unit] for channel in plan.channels]
        PreprocessedUnit(
            probe=first.name,
            unit=unit,
            sampling_rate_hz=first.ap.sampling_rate_hz,
            n_samples=sum(lengths),
            gain_uv=gain_uv,
            channels=kept,
        ).save(out / unit / "recording.json")
        with open(out / unit / "traces.bin", "wb") as file:
            file.truncate(sum(lengths) * len(kept) * 2)

    progress = _Progress(sum(lengths), rate)
    if fast:
        _write_fast(raw, filtered, units, notches, muting, out, gain_uv, settings, jobs, least, progress)
    else:
        of_shank = shank_chains(filtered, list(plans.values()), settings.seed)
        chains = {unit: [of_shank[plan.shank] for plan in unit_plans] for unit, unit_plans in units.items()}
        _write_units(raw, chains, muting, out, gain_uv, jobs, least, progress)
    steps.append(mute_step | _save_muted(out, list(members), joined_intervals(progress.muted), lengths, rate))
    n_clipped = progress.n_clipped
    write_step = {"step": "write", "dtype": "int16", "gain_uv": gain_uv, "n_clipped": n_clipped}
    if n_clipped:
        range_mv = 32.767 * gain_uv
        write_step["note"] = f"{n_clipped} samples were beyond the range of ±{range_mv:.1f} mV and clipped"
        log.warning("%s", write_step["note"])
    steps.append(write_step)

    result = Preprocess(
        probe=first.name,
        parts=[
            Part(
                subject=document.session.subject,
                session=document.session.session,
                start=sum(lengths[:k]),
                n_samples=lengths[k],
            )
            for k, document in enumerate(joined.recordings)
        ],
        labels=[
            ChannelLabel(
                raw_column=channel.raw_column,
                contact_id=channel.contact_id,
                shank=channel.shank,
                label=labels[channel.raw_column],
                **evidence[channel.raw_column],
            )
            for channel in channels
        ],
        levels=_channel_levels(units, progress.levels, gain_uv),
        steps=steps,
        units=list(members),
        source=joined,
    )
    if result.noise_uv is not None:
        log.info("noise after preprocessing: %.1f µV in the median channel", result.noise_uv)
    result.save(out / "preprocess.json")
    return result


def _channel_levels(units: dict[str, list[ShankPlan]], levels: Levels, gain_uv: float) -> list[ChannelLevel]:
    """Levels of the channels of all units' files. Nothing is said of a channel where nothing was written."""
    written = [channel for plans in units.values() for plan in plans for channel in plan.channels]
    return [
        ChannelLevel(
            raw_column=channel.raw_column,
            contact_id=channel.contact_id,
            rms_uv=round(float(rms), 4),
            noise_uv=None if np.isnan(noise) else round(float(noise), 4),
        )
        for channel, rms, noise in zip(written, *levels.of_channels(gain_uv), strict=False)
    ]


def _filtered(raw: BaseRecording, settings: Settings, notches: Sequence[Notch]) -> BaseRecording:
    """The steps that treat each channel alone, lazy, by the engine that was asked for."""
    if settings.engine == "spikeinterface":
        return filtered_chain(raw, settings.highpass_hz, notches)
    from powerpixels.fast_pass import FilteredRecording

    of_channel = notches_of_columns(notches, raw.get_property("raw_column"))
    return FilteredRecording(raw, _blocks(raw), settings.highpass_hz, of_channel)


def _notches(raw: BaseRecording, settings: Settings, jobs: int) -> tuple[list[Notch], dict]:
    """The lines of the spectrum to be filtered, and what is to be said of them in ``Preprocess.steps``.

    In all channels alike, good or not, as RAW_QC looks for them: both find the same.
    """
    step: dict = {"step": "notch_filter", "mode": settings.notch, "notches": [], "left_out": []}
    if settings.notch == "off":
        return [], step
    threshold = settings.notch_threshold_uv2_hz
    spectrum, n_windows = sampled_spectrum(raw._kwargs["readers"], settings.seed, jobs)
    notches, left_out = find_notches(spectrum, raw._kwargs["columns"], threshold)
    log.info("notches: %s", ", ".join(f"{notch.frequency_hz:.1f} Hz" for notch in notches) or "none")
    notes = [
        f"the line at {notch.frequency_hz:.0f} Hz is not filtered: {notch.left_out}" for notch in left_out
    ]
    if spectrum.n_segments < MIN_SEGMENTS:
        notes.append(f"too short to look for spectral lines: {spectrum.n_segments} periodograms")
    return notches, step | {
        "threshold_uv2_hz": threshold,
        "zero_phase": True,
        "seed": settings.seed,
        "n_windows": n_windows,
        "n_periodograms": spectrum.n_segments,
        "segment_samples": min(SEGMENT_SAMPLES, 2 * (len(spectrum.freqs_hz) - 1)),
        "notches": [notch.model_dump() for notch in notches],
        "left_out": [notch.model_dump() for notch in left_out],
        **_noted(notes),
    }


def _noted(notes: Iterable[str]) -> dict[str, str]:
    """A step's "note", which the probe's summary repeats; nothing where there is none."""
    text = "; ".join(notes)
    return {"note": text} if text else {}


def _session_names(joined: JoinedProbe) -> list[str]:
    """What to put before a note that is of one of the joined sessions; nothing before a single one's."""
    if len(joined.recordings) == 1:
        return [""]
    return [f"{document.session.session}: " for document in joined.recordings]


def _muting(joined: JoinedProbe, settings: Settings, fast: bool) -> tuple[Muting | None, dict]:
    """What finds the stretches to be muted, and what is to be said of it in ``Preprocess.steps``."""
    step: dict = {"step": "mute", "kinds": settings.mute}
    if settings.mute == "none":
        return None, step
    limit = joined.recordings[0].probe.ap.limit_counts
    step |= {"limit_counts": limit, "limit_margin": LIMIT_MARGIN, "proportion": PROPORTION}
    step |= {"merge_s": MERGE_S, "fade_s": FADE_S}
    if limit is None:
        unknown = "where the converter saturates is not known, as Open Ephys does not note it"
        note = f"nothing is muted: {unknown}; --mute artifacts needs no limit"
        if settings.mute == "artifacts":
            note = f"artifacts are muted, saturation only where it jumps as they do: {unknown}"
        log.warning("%s", note)
        step["note"] = note
        if settings.mute == "saturation":
            return None, step | {"kinds": "none"}
    return muting_of(joined, limit, settings.mute, raw_columns=fast), step


def muting_of(joined: JoinedProbe, limit_counts: int | None, kinds: Mute, raw_columns: bool) -> Muting:
    """What finds the stretches to be muted. raw_columns: in rows of the raw file, or of ``load_raw_ap``."""
    stream = joined.recordings[0].probe.ap
    columns = [channel.raw_column for channel in stream.channels]
    detector = Detector(
        columns=np.array(columns if raw_columns else range(len(columns))),
        gains_uv=np.array([channel.gain_uv for channel in stream.channels]),
        sampling_rate_hz=stream.sampling_rate_hz,
        limit_counts=limit_counts,
    )
    return Muting(detector, kinds)


def _save_muted(out: Path, units: Iterable[str], muted: np.ndarray, lengths: list[int], rate: float) -> dict:
    """Write the muted intervals, samples of the output, into the files; their sums for the step."""
    firsts = np.cumsum([0, *lengths])
    by_part = []
    for part, (first, last) in enumerate(zip(firsts[:-1], firsts[1:], strict=True)):
        inside = np.clip(muted, first, last) - first
        inside = inside[inside[:, 1] > inside[:, 0]]
        by_part.append(np.insert(inside, 0, part, axis=1))
    np.save(out / "muted.npy", np.concatenate(by_part))
    for unit in units:
        np.save(out / unit / "muted.npy", muted)
    total_s = float((muted[:, 1] - muted[:, 0]).sum() / rate)
    if len(muted):
        log.warning("muted %d intervals, %.3f s in all", len(muted), total_s)
    return {"file": "muted.npy", "n_intervals": len(muted), "total_s": total_s}


def min_block_samples(rate: float, notches: Sequence[Notch], columns: Sequence[int]) -> int:
    """Samples that a block must have to be filtered; shorter ones are zeros."""
    n_most = max((len(own) for own in notches_of_columns(notches, columns)), default=0)
    # sosfiltfilt's extension at either end has to be shorter than the block.
    return max(int(np.ceil(MIN_BLOCK_S * rate)), 3 * (6 + 2 * n_most) + 1)


def _read_step(joined: JoinedProbe, least: int) -> dict:
    """What was read, for ``Preprocess.steps``: each session's blocks and the gaps before them, in samples.

    least: samples of a block that is filtered.
    """
    sessions, n_zeros = [], 0
    for document in joined.recordings:
        stream = document.probe.ap
        blocks, acquired = [], 0
        for block in stream.blocks():
            blocks.append({"n_samples": block.n_samples, "gap_before": block.offset - acquired})
            acquired = block.offset + block.n_samples
            if block.n_samples < least:
                blocks[-1]["zeros"] = True
                n_zeros += 1
                log.warning("a block of %d samples is too short to be filtered: zeros", block.n_samples)
        sessions.append({"session": document.session.session, "blocks": blocks})
    note = [f"{n_zeros} blocks between gaps are too short to be filtered: zeros"] if n_zeros else []
    return {"step": "read", "sessions": sessions, **_noted(note)}


def _blocks(raw: BaseRecording) -> list[tuple[StreamReader, Block]]:
    """What the segments of a recording from ``load_raw_ap`` are."""
    return [(reader, block) for reader in raw._kwargs["readers"] for block in reader.stream.blocks()]


def versions(engine: Engine) -> dict[str, str]:
    """Versions of what the traces' values come from, for ``Preprocess.steps``."""
    from importlib.metadata import version

    own = {"spikeinterface": [], "fast": ["numba"], "gpu": ["numba", "torch"]}
    packages = ["spikeinterface", "numpy", "scipy", *own[engine]]
    return {"powerpixels": __version__} | {package: version(package) for package in packages}


def output_gain_uv(gains_uv: list[float]) -> float:
    """µV per count of the written int16: the finest raw gain halved until it is at most MAX_STEP_UV.

    A power of two of the raw gain, so that a raw count is a whole number of output counts.
    """
    gain = min(gains_uv)
    while gain > MAX_STEP_UV:
        gain /= 2
    return gain


def filtered_chain(raw: BaseRecording, highpass_hz: float, notches: Sequence[Notch] = ()) -> BaseRecording:
    """The steps that treat each channel alone, lazy: float32 µV, high-passed, sampled at one moment.

    raw: as from ``raw_ap.load_raw_ap``. µV come first, since channels of one probe may differ in gain. A
    channel with notches goes through these and the high-pass filter in one.
    """
    from spikeinterface import preprocessing as spre

    scaled = spre.scale(raw, gain=raw.get_channel_gains(), dtype="float32")
    scaled.set_channel_gains(1.0)
    scaled.set_channel_offsets(0.0)
    of_channel = notches_of_columns(notches, raw.get_property("raw_column"))
    parts = []
    for own in sorted(set(of_channel)):
        part = scaled.select_channels(
            [ident for ident, has in zip(scaled.channel_ids, of_channel, strict=True) if has == own]
        )
        parts.append(_through(part, highpass_hz, own))
    highpassed = parts[0]
    if len(parts) > 1:
        highpassed = SideBySide(parts, like=scaled)
    return spre.phase_shift(highpassed, margin_ms=PHASE_SHIFT_MARGIN_MS)


def _through(recording: BaseRecording, highpass_hz: float, notches: Notches) -> BaseRecording:
    """SpikeInterface's high-pass filter, with the sections of notches where there are any."""
    from spikeinterface import preprocessing as spre

    if not notches:
        return spre.highpass_filter(recording, freq_min=highpass_hz)
    sos = sections(recording.sampling_frequency, highpass_hz, notches)
    return spre.filter(recording, coeff=sos, filter_mode="sos", margin_ms=NOTCH_MARGIN_MS)


def _of_shank(recording: BaseRecording, shank: int) -> BaseRecording:
    return recording.select_channels(recording.channel_ids[recording.get_channel_groups() == shank])


def _of_session(recording: BaseRecording, joined: JoinedProbe, k: int) -> BaseRecording:
    """The segments of the k-th of the joined recordings."""
    n_blocks = [len(document.probe.ap.blocks()) for document in joined.recordings]
    first = sum(n_blocks[:k])
    return recording.select_segments(list(range(first, first + n_blocks[k])))


def _random_chunks(recording: BaseRecording, n_chunks: int, seconds: float, seed: int) -> BaseRecording:
    """Stretches of the recording, each as a segment; filters before them still see what is around.

    Every stretch of that length that lies in one block is as likely; where there is none, the longest
    blocks are taken whole. (SpikeInterface's own choice takes as many from each segment and shortens all to
    fit into the shortest. For one segment this draws the same as it does.)
    """
    from spikeinterface.core import append_recordings

    lengths = np.array([recording.get_num_samples(k) for k in range(recording.get_num_segments())])
    size = min(int(seconds * recording.sampling_frequency), int(lengths.max()))
    ends = np.cumsum(np.clip(lengths - size + 1, 0, None))
    drawn = np.random.default_rng(seed).integers(0, ends[-1] - 1, size=n_chunks, endpoint=True)
    chunks, segments = [], {}
    for start in np.sort(drawn):
        k = int(np.searchsorted(ends, start, side="right"))
        if k not in segments:
            segments[k] = recording.select_segments([k])
        begin = int(start - (ends[k - 1] if k else 0))
        chunks.append(segments[k].frame_slice(begin, begin + size))
    return append_recordings(chunks)


def _label_session(
    filtered: BaseRecording, shanks: list[int], settings: Settings, jobs: int
) -> tuple[dict[int, tuple[str, dict[str, float]]], dict]:
    """Label by raw column of a session's channels: "good", "dead", "noise" or "out"; what was looked at.

    With each label its evidence, for ``ChannelLabel``. What was looked at: n_chunks, chunk_s, and notes.

    SpikeInterface's number of chunks, or as many as a short recording holds, but at least ten. Channels of
    a session without a block of MIN_DETECTION_CHUNK_S are taken to be good.
    """
    columns = [int(column) for column in filtered.get_property("raw_column")]
    rate = filtered.sampling_frequency
    n_chunks = int(np.clip(filtered.get_total_duration() / DETECTION_CHUNK_S, 10, DETECTION_CHUNKS))
    longest = max(filtered.get_num_samples(k) for k in range(filtered.get_num_segments()))
    chunk_s = min(DETECTION_CHUNK_S, longest / rate)
    if chunk_s < MIN_DETECTION_CHUNK_S:
        note = f"no stretch of {MIN_DETECTION_CHUNK_S:g} s without a gap: bad channels can't be found"
        log.warning("%s", note)
        return dict.fromkeys(columns, ("good", {})), {"n_chunks": 0, "chunk_s": 0.0, "notes": [note]}
    labels: dict[int, tuple[str, dict[str, float]]] = {}
    notes = []
    for shank in shanks:
        chunks = _random_chunks(_of_shank(filtered, shank), n_chunks, chunk_s, settings.seed)
        found, note = _label_shank(chunks, shank, settings, jobs)
        labels.update(found)
        notes += [note] if note else []
    sampled = {"n_chunks": n_chunks, "chunk_s": chunk_s, "notes": notes}
    return {column: labels[column] for column in columns}, sampled


def _label_shank(
    chunks: BaseRecording, shank: int, settings: Settings, jobs: int
) -> tuple[dict[int, tuple[str, dict[str, float]]], str]:
    """Label and evidence by raw column of a shank's channels, of which chunks holds the stretches to look at.

    And what the user should know of them, or "". Per shank, because "out" is the top block of a depth order,
    and each shank has its own.
    """
    from spikeinterface.preprocessing import detect_bad_channels

    columns = [int(column) for column in chunks.get_property("raw_column")]
    if len(columns) < MIN_DETECTION_CHANNELS:
        note = f"shank {shank}: too few channels ({len(columns)}) to look for bad ones"
        log.warning("%s", note)
        return dict.fromkeys(columns, ("good", {})), note
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Over 1/3 of channels are detected as bad")
        _, labels = detect_bad_channels(
            chunks,
            method="coherence+psd",
            seed=settings.seed,
            # One chunk of each segment, as long as it is (and a half sample, as the product is cut off).
            num_random_chunks=1,
            chunk_duration_s=(chunks.get_num_samples(0) + 0.5) / chunks.sampling_frequency,
            job_kwargs={
                "n_jobs": jobs,
                "progress_bar": False,
                # The fast filter is machine code that each process would compile for itself.
                "pool_engine": "process" if settings.engine == "spikeinterface" else "thread",
            },
        )
    counts, note = _count(labels), ""
    if counts.get("good", 0) < len(columns) * 2 / 3:
        bad = ", ".join(f"{n} {label}" for label, n in counts.items() if label != "good")
        note = f"shank {shank}: more than a third of the channels are bad ({bad})"
        log.warning("%s", note)
    evidence = _evidence(chunks)
    return {
        column: (str(label), found) for column, label, found in zip(columns, labels, evidence, strict=True)
    }, note


def _evidence(chunks: BaseRecording) -> list[dict[str, float]]:
    """What ``detect_bad_channels_ibl`` of SpikeInterface looks at, of each channel, for ``ChannelLabel``.

    The median over EVIDENCE_CHUNKS of the chunks: the detector itself labels each chunk and takes the most
    frequent label.
    """
    from scipy.signal import welch
    from spikeinterface.core import order_channels_by_depth
    from spikeinterface.preprocessing.detect_bad_channels import shrinking_median_filter

    order, _ = order_channels_by_depth(chunks, dimensions=("x", "y"))
    n_chunks, rate = chunks.get_num_segments(), chunks.sampling_frequency
    similarity, trend, high = [], [], []
    for k in np.unique(np.linspace(0, n_chunks - 1, min(EVIDENCE_CHUNKS, n_chunks)).astype(int)):
        traces = chunks.get_traces(segment_index=int(k))
        traces = traces - traces.mean(axis=0)
        common = np.median(traces, axis=1)
        common -= common.mean()
        similarity.append(traces.T @ common / max(float(common @ common), np.finfo(np.float32).tiny))
        trend.append(np.empty_like(similarity[-1]))
        trend[-1][order] = shrinking_median_filter(similarity[-1][order], TREND_CHANNELS)
        freqs_hz, density = welch(traces, fs=rate, axis=0, nperseg=int(0.01 * rate))
        high.append(density[freqs_hz > 0.8 * rate / 2].mean(axis=0))
    likeness = [np.median(values, axis=0) for values in (similarity, trend, np.subtract(similarity, trend))]
    return [
        dict(zip(("similarity", "trend", "residual"), (round(float(value), 3) for value in own), strict=True))
        | {"high_uv2_hz": float(f"{density:.3g}")}
        for *own, density in zip(*likeness, np.median(high, axis=0), strict=True)
    ]


@dataclass(frozen=True)
class ShankPlan:
    """What is done to a shank's channels once bad ones are known.

    channels: those that are kept, in the order of the raw file; none where no channel is good. noisy: raw
    columns of those that are interpolated. step: its reference, for ``Preprocess.steps``.
    """

    shank: int
    channels: list[Channel]
    noisy: list[int]
    step: dict

    @property
    def columns(self) -> list[int]:
        """Raw columns of the channels that are kept."""
        return [channel.raw_column for channel in self.channels]


def plan_shanks(
    channels: Sequence[Channel], labels: dict[int, str], settings: Settings
) -> dict[int, ShankPlan]:
    """Decide on the channels and the reference of each shank of a probe. labels: by raw column.

    Channels that are dead or outside the brain enter no reference. A reference of the scope "probe" is taken
    over all kept channels of all shanks; destriping runs along one shank whatever the scope.
    """
    shanks = sorted({channel.shank for channel in channels})
    own = {
        shank: plan_shank([channel for channel in channels if channel.shank == shank], labels, settings)
        for shank in shanks
    }
    if settings.reference_scope == "shank" or len(shanks) == 1 or settings.reference == "none":
        return own
    if settings.reference == "destripe":
        note = "destriping is along the shank: the scope probe does not apply"
        return {
            shank: replace(plan, step={**plan.step, "note": _notes(note, plan.step)})
            for shank, plan in own.items()
        }
    together = [channel for plan in own.values() for channel in plan.channels]
    common = _reference_step("all shanks", together, settings) if together else {}
    return {
        shank: replace(plan, step={**common, "scope": "probe", "n_channels": len(plan.channels)})
        if plan.channels
        else plan
        for shank, plan in own.items()
    }


def plan_shank(channels: list[Channel], labels: dict[int, str], settings: Settings) -> ShankPlan:
    """Decide on a shank's channels and a reference of them. channels: its own; labels: by raw column."""
    shank = channels[0].shank
    if all(labels[channel.raw_column] != "good" for channel in channels):
        note = "no good channel: nothing of this shank is sorted"
        return ShankPlan(shank, [], [], {"method": "none", "n_channels": 0, "note": note})
    kept = [channel for channel in channels if labels[channel.raw_column] in ("good", "noise")]
    noisy = [channel.raw_column for channel in kept if labels[channel.raw_column] == "noise"]
    step = {**_reference_step(f"shank {shank}", kept, settings), "scope": "shank"}
    return ShankPlan(shank, kept, noisy, step)


def _reference_step(where: str, kept: list[Channel], settings: Settings) -> dict:
    """The reference of channels that are treated together, for ``Preprocess.steps``.

    Fewer than MIN_REFERENCE_CHANNELS are not referenced. Destriping mirrors up to 60 channels at each end of
    the shank, fewer where the shank has fewer; fewer than MIN_DESTRIPE_CHANNELS get the global reference
    instead. Where that, or too few neighbours, makes it another reference than was asked for, "note" says so.
    """
    step: dict = {"method": settings.reference, "n_channels": len(kept)}
    if settings.reference != "none" and len(kept) < MIN_REFERENCE_CHANNELS:
        note = f"{len(kept)} channels, fewer than {MIN_REFERENCE_CHANNELS}: no reference"
        step |= {"method": "none", "note": note}
    elif settings.reference == "destripe" and len(kept) < MIN_DESTRIPE_CHANNELS:
        note = f"{len(kept)} channels, fewer than {MIN_DESTRIPE_CHANNELS}: global reference, not destriped"
        step |= {"method": "global", "note": note}
    if step["method"] == "local":
        inner, outer = settings.local_radius_um
        step |= {"inner_um": inner, "outer_um": outer, "operator": "median"}
        note = _few_neighbours(kept, inner, outer)
        if note:
            step["note"] = note
    elif step["method"] == "destripe":
        step["pad_channels"] = min(60, len(kept))
    if "note" in step:
        log.warning("%s: %s", where, step["note"])
    return step


def _notes(note: str, step: dict) -> str:
    return "; ".join([note, *([step["note"]] if "note" in step else [])])


def _few_neighbours(channels: list[Channel], inner_um: float, outer_um: float) -> str:
    """Which channels' local reference is not what was asked for, since the annulus holds too few; or ""."""
    places = np.array([(channel.x_um, channel.y_um) for channel in channels])
    few, none = [], []
    for channel, place in zip(channels, places, strict=True):
        distance = np.linalg.norm(places - place, axis=1)
        if not np.any(distance > inner_um):
            none.append(channel.channel_id)
        elif np.count_nonzero((distance > inner_um) & (distance <= outer_um)) < MIN_LOCAL_NEIGHBOURS:
            few.append(channel.channel_id)
    notes = []
    if few:
        notes.append(
            f"fewer than {MIN_LOCAL_NEIGHBOURS} channels within {inner_um:g} to {outer_um:g} µm: the nearest "
            f"{MIN_LOCAL_NEIGHBOURS} beyond {inner_um:g} µm are the reference of {len(few)} channels "
            f"({', '.join(few)})"
        )
    if none:
        notes.append(
            f"no channel beyond {inner_um:g} µm: {len(none)} channels have no reference ({', '.join(none)})"
        )
    return "; ".join(notes)


def _repaired(filtered: BaseRecording, plan: ShankPlan) -> BaseRecording:
    """The shank's kept channels, lazy, noisy ones interpolated."""
    from spikeinterface import preprocessing as spre

    columns = filtered.get_property("raw_column")
    recording = filtered.select_channels(filtered.channel_ids[np.isin(columns, plan.columns)])
    if plan.noisy:
        recording = spre.interpolate_bad_channels(
            recording, filtered.channel_ids[np.isin(columns, plan.noisy)]
        )
    return recording


def shank_chains(filtered: BaseRecording, plans: Sequence[ShankPlan], seed: int) -> dict[int, BaseRecording]:
    """SpikeInterface's chain for each shank that has channels, lazy float32 µV, up to the reference.

    filtered: as from ``filtered_chain``. seed: of the chunks that destriping takes levels from.
    """
    repaired = {plan.shank: _repaired(filtered, plan) for plan in plans if plan.channels}
    steps = {plan.shank: plan.step for plan in plans}
    shared = [shank for shank in repaired if steps[shank]["scope"] == "probe"]
    chains = {
        shank: _referenced(recording, steps[shank], seed)
        for shank, recording in repaired.items()
        if shank not in shared
    }
    if shared:
        parts = [repaired[shank] for shank in shared]
        ids = [ident for part in parts for ident in part.channel_ids]
        together = SideBySide(parts, like=filtered.select_channels(ids))
        referenced = _referenced(together, steps[shared[0]], seed)
        chains |= {shank: referenced.select_channels(repaired[shank].channel_ids) for shank in shared}
    return chains


def _referenced(recording: BaseRecording, step: dict, seed: int) -> BaseRecording:
    """The recording after a "reference" step."""
    from spikeinterface import preprocessing as spre

    if step["method"] == "global":
        return spre.common_reference(recording, reference="global", operator="median")
    if step["method"] == "local":
        with warnings.catch_warnings():
            # The plan has said it already.
            warnings.filterwarnings("ignore", message="The following channels")
            return spre.common_reference(
                recording,
                reference="local",
                operator="median",
                local_radius=(step["inner_um"], step["outer_um"]),
                min_local_neighbors=MIN_LOCAL_NEIGHBOURS,
            )
    if step["method"] == "destripe":
        return spre.highpass_spatial_filter(
            recording, n_channel_pad=step["pad_channels"], rms_values=_levels_uv(recording, seed)
        )
    return recording


def _levels_uv(recording: BaseRecording, seed: int) -> np.ndarray:
    """Root mean square of each channel, µV, averaged over random chunks."""
    from spikeinterface.core import get_noise_levels

    chunks = _random_chunks(recording, LEVEL_CHUNKS, LEVEL_CHUNK_S, seed)
    return get_noise_levels(
        chunks,
        method="rms",
        return_in_uV=False,
        random_slices_kwargs={
            "num_chunks_per_segment": 1,
            "chunk_duration": None,
            "chunk_size": chunks.get_num_samples(0),
            "seed": seed,
        },
        progress_bar=False,
    )


def _write_fast(
    raw: BaseRecording,
    filtered: BaseRecording,
    units: dict[str, list[ShankPlan]],
    notches: Sequence[Notch],
    muting: Muting | None,
    out: Path,
    gain_uv: float,
    settings: Settings,
    jobs: int,
    least: int,
    progress: _Progress,
) -> None:
    """As ``_write_units``, by ``fast_pass``. filtered: its FilteredRecording."""
    from powerpixels.fast_pass import FastPass, UnitFile

    files = [
        UnitFile(
            out / unit / "traces.bin",
            [_fast_shank(filtered, plan, settings.seed, notches) for plan in plans],
        )
        for unit, plans in units.items()
    ]
    chain = FastPass
    if settings.engine == "gpu":
        from powerpixels.torch_pass import TorchPass

        chain = TorchPass
    chain(_blocks(raw), files, settings.highpass_hz, gain_uv, muting).run(jobs, least, progress)


def _fast_shank(
    filtered: BaseRecording, plan: ShankPlan, seed: int, notches: Sequence[Notch] = ()
) -> ShankPass:
    """A shank's plan in numbers; interpolation's weights and the order in depth are SpikeInterface's."""
    from spikeinterface.core import order_channels_by_depth

    from powerpixels.fast_pass import ShankPass

    recording, step = _repaired(filtered, plan), plan.step
    columns = np.array(plan.columns)
    locations_um = recording.get_channel_locations()
    more: dict = {}
    if step["method"] == "destripe":
        order = np.arange(len(columns))
        if np.any(np.diff(locations_um[:, 1]) < 0):
            order, _ = order_channels_by_depth(recording=recording, dimensions=("x", "y"))
        levels_uv = _levels_uv(recording, seed)
        more = {"depth_order": order, "levels_uv": levels_uv, "pad_channels": step["pad_channels"]}
    elif step["method"] == "local":
        more = {"local_radius_um": (step["inner_um"], step["outer_um"])}
    return ShankPass(
        columns=columns,
        gains_uv=np.array([channel.gain_uv for channel in plan.channels]),
        shifts=np.array([channel.inter_sample_shift for channel in plan.channels]),
        locations_um=locations_um,
        noisy=np.flatnonzero(np.isin(columns, plan.noisy)),
        weights=recording._kwargs["weights"] if plan.noisy else np.zeros((len(columns), 0)),
        method=step["method"],
        notches=notches_of_columns(notches, plan.columns),
        shared=step["scope"] == "probe",
        **more,
    )


def _write_units(
    raw: BaseRecording,
    units: dict[str, list[BaseRecording]],
    muting: Muting | None,
    out: Path,
    gain_uv: float,
    jobs: int,
    least: int,
    progress: _Progress,
) -> None:
    """Fill every unit's traces.bin in one pass over the raw files.

    units: by unit, the recordings whose columns stand side by side in its file. Blocks of fewer than
    ``least`` samples stay what a new file holds: zeros.
    """
    from spikeinterface.core.job_tools import TimeSeriesChunkExecutor, divide_time_series_into_chunks

    lengths = [raw.get_num_samples(segment) for segment in range(raw.get_num_segments())]
    firsts = np.cumsum([0, *lengths])
    targets = []
    for unit, recordings in units.items():
        n_columns = sum(recording.get_num_channels() for recording in recordings)
        if n_columns:
            targets.append((out / unit / "traces.bin", n_columns, recordings))

    chunk = int(CHUNK_S * raw.sampling_frequency)
    slices = [
        (segment, start, stop)
        for segment, start, stop in divide_time_series_into_chunks(raw, chunk)
        if lengths[segment] >= least
    ]
    TimeSeriesChunkExecutor(
        raw,
        _write_chunk,
        _open_targets,
        (targets, firsts, gain_uv, raw, muting),
        gather_func=progress,
        pool_engine="process",
        n_jobs=jobs,
        chunk_size=chunk,
        job_name="preprocess",
    ).run(slices=slices)


class _Progress:
    """Adds up what was written; says so in the log at every tenth of the recording.

    n_clipped: values; muted: intervals of each chunk, samples of the output; levels: of all channels.
    """

    def __init__(self, n_samples: int, sampling_rate_hz: float):
        self.n_samples = n_samples
        self.sampling_rate_hz = sampling_rate_hz
        self.n_clipped = 0
        self.muted: list[np.ndarray] = []
        self.levels = Levels()
        self._done = 0
        self._said = 0

    def __call__(self, written: Written) -> None:
        self._done += written.n_samples
        self.n_clipped += written.n_clipped
        self.muted.append(written.muted)
        self.levels.add(written.n_samples, written.levels)
        tenth = 10 * self._done // self.n_samples
        if tenth > self._said:
            self._said = tenth
            log.info(
                "written %d %% (%.0f s of the recording)", 10 * tenth, self._done / self.sampling_rate_hz
            )


def _open_targets(
    targets: list[tuple[Path, int, list[BaseRecording]]],
    firsts: np.ndarray,
    gain_uv: float,
    raw: BaseRecording,
    muting: Muting | None,
) -> dict:
    """Each worker process opens the files for itself. firsts: each segment's first sample in them."""
    return {
        "firsts": firsts,
        "gain_uv": gain_uv,
        "raw": raw,
        "muting": muting,
        "targets": [(open(path, "r+b"), n_columns, recordings) for path, n_columns, recordings in targets],
    }


def _write_chunk(segment: int, start: int, end: int, context: dict) -> Written:
    from powerpixels.fast_pass import Written
    from powerpixels.levels import chunk_levels

    n_clipped, levels = 0, []
    gain, muted = mute_gain(context["muting"], context["raw"], segment, start, end)
    first, n_total = int(context["firsts"][segment]) + start, int(context["firsts"][-1])
    for file, n_columns, recordings in context["targets"]:
        counts = np.empty((end - start, n_columns), dtype="<i2")
        column = 0
        for recording in recordings:
            traces_uv = recording.get_traces(segment, start_frame=start, end_frame=end)
            own, n_beyond = to_counts(traces_uv, gain, context["gain_uv"])
            n_clipped += n_beyond
            counts[:, column : column + own.shape[1]] = own
            column += own.shape[1]
        file.seek(first * n_columns * 2)
        file.write(counts)
        file.flush()
        levels.append(chunk_levels(counts, first, n_total))
    return Written(end - start, n_clipped, first + muted, levels)


def mute_gain(
    muting: Muting | None, raw: BaseRecording, segment: int, start: int, end: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """``Muting.gain`` for samples of a segment of the raw recording; None: nothing is muted."""
    if muting is None:
        return None, np.empty((0, 2), dtype=np.int64)
    left = min(muting.n_before, start)
    right = min(muting.n_after, raw.get_num_samples(segment) - end)
    rows = raw.get_traces(segment, start_frame=start - left, end_frame=end + right)
    return muting.gain(rows, left, right)


def to_counts(traces_uv: np.ndarray, gain: np.ndarray | None, gain_uv: float) -> tuple[np.ndarray, int]:
    """int16 counts of traces (samples, channels) times gain (samples,); how many were beyond the range."""
    if gain is not None:
        traces_uv = traces_uv * gain[:, None]
    values = np.rint(traces_uv / np.float32(gain_uv))
    n_beyond = int(np.count_nonzero(np.abs(values) > INT16_MAX))
    return np.clip(values, -INT16_MAX, INT16_MAX).astype("<i2"), n_beyond


def _count(labels) -> dict[str, int]:
    return dict(sorted(Counter(str(label) for label in labels).items()))
