"""PREPROCESS: from a probe's raw AP files to one int16 binary per sorting unit, in one pass.

The chain is SpikeInterface's own, in µV: high-pass, phase shift, bad channels, removal of dead and
outside channels, interpolation of noisy ones, reference. All that looks at more than one channel
(bad channels, interpolation, reference) stays within a shank: shanks enter the brain at
different depths, and are 250 µm and more apart. All that looks at more than one sample (the filters)
stays within a block, a stretch without gap of one session; the blocks are written one after the other.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from powerpixels.documents import Channel, ChannelLabel, JoinedProbe, Part, Preprocess, PreprocessedUnit
from powerpixels.raw_ap import load_raw_ap
from powerpixels.stage import DataError

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

log = logging.getLogger("powerpixels")

Reference = Literal["local", "global", "destripe", "none"]
REFERENCES: tuple[Reference, ...] = ("local", "global", "destripe", "none")

# Chunks are the same whatever the number of jobs: the margins of the filters make each sample depend
# (far below one count) on where its chunk starts.
CHUNK_S = 1.0
PHASE_SHIFT_MARGIN_MS = 40.0
# Coarsest step of the output: its rounding noise (0.12 µV) vanishes in the 5 to 10 µV of a probe's own.
# The range is then at least 32767 * 0.2 µV = 6.5 mV either way, above what 2.0 probes can record.
MAX_STEP_UV = 0.4
INT16_MAX = 32767
# Below this a shank's median is mostly the channel itself, so it is not subtracted.
MIN_REFERENCE_CHANNELS = 4
# The bad-channel detector's similarity to the shank's median needs a median that one channel does not make.
MIN_DETECTION_CHANNELS = 8
# Across fewer the spatial filter of destriping has nothing to separate; such a shank's median is taken.
MIN_DESTRIPE_CHANNELS = 16
DETECTION_CHUNKS = 100
DETECTION_CHUNK_S = 0.3
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
    """What a user may choose. local_radius_um: inner (excluded) and outer radius of the annulus."""

    reference: Reference = "local"
    highpass_hz: float = 300.0
    local_radius_um: tuple[float, float] = (40.0, 200.0)
    sort_by: Literal["shank", "probe"] = "shank"
    seed: int = 42


def preprocess_probe(
    joined: JoinedProbe, raw_dir: Path | Sequence[Path], out: Path, settings: Settings, jobs: int = 1
) -> Preprocess:
    """Write ``out/<unit>/traces.bin`` and ``recording.json`` of each sorting unit, ``out/preprocess.json``.

    traces.bin holds all samples of all recordings in order, nothing in gaps. Each block is filtered for
    itself; a block shorter than the filters' margins (17 and 40 ms) has their edges' effects all over, one
    shorter than 2 ms is written as zeros. A channel that is bad in one of the sessions is bad in all.

    The raw files are read once (bad-channel detection reads random chunks before that). Memory does not grow
    with the recording's duration: each of the ``jobs`` processes holds one second. A unit none of whose
    channels is usable gets an empty traces.bin and a recording.json without channels.

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
    filtered = filtered_chain(raw, settings)
    steps: list[dict] = [
        _read_step(joined),
        {"step": "scale_to_uv", "dtype": "float32"},
        {"step": "highpass_filter", "cutoff_hz": settings.highpass_hz, "order": 5, "zero_phase": True},
        {"step": "phase_shift", "margin_ms": PHASE_SHIFT_MARGIN_MS},
    ]

    by_session = [
        _label_session(_of_session(filtered, joined, k), shanks, settings, jobs) for k in range(len(lengths))
    ]
    labels = {
        column: next(label for label in WORST_FIRST if any(found[column] == label for found, _ in by_session))
        for column in (channel.raw_column for channel in channels)
    }
    log.info("bad channels: %s", _count(labels.values()))
    steps.append(
        {
            "step": "detect_bad_channels",
            "method": "coherence+psd",
            "scope": "shank",
            "sessions": [{**sampled, "found": _count(found.values())} for found, sampled in by_session],
            "seed": settings.seed,
            "found": _count(labels.values()),
        }
    )
    steps.append({"step": "remove_channels", "labels": ["dead", "out"]})
    steps.append({"step": "interpolate_bad_channels", "labels": ["noise"], "p": 1.3})

    chains: dict[int, BaseRecording | None] = {}
    for shank in shanks:
        chains[shank], step = shank_chain(filtered, shank, labels, settings)
        steps.append({"step": "reference", "shank": shank, **step})
        log.info("shank %d: %s", shank, step)

    gain_uv = output_gain_uv([channel.gain_uv for channel in channels])
    if settings.sort_by == "probe":
        members = {"probe": shanks}
    else:
        members = {f"shank{shank}": [shank] for shank in shanks}
    out = Path(out)
    by_column = {channel.raw_column: channel for channel in channels}
    units: dict[str, list[BaseRecording]] = {}
    for unit, unit_shanks in members.items():
        units[unit] = [chain for shank in unit_shanks if (chain := chains[shank]) is not None]
        (out / unit).mkdir(parents=True, exist_ok=True)
        kept: list[Channel] = [
            by_column[int(column)] for chain in units[unit] for column in chain.get_property("raw_column")
        ]
        PreprocessedUnit(
            probe=first.name,
            unit=unit,
            sampling_rate_hz=first.ap.sampling_rate_hz,
            n_samples=sum(lengths),
            gain_uv=gain_uv,
            channels=kept,
        ).save(out / unit / "recording.json")

    n_clipped = _write_units(raw, units, out, gain_uv, jobs)
    if n_clipped:
        log.warning("%d samples were beyond the range of ±%.1f mV and clipped", n_clipped, 32.767 * gain_uv)
    steps.append({"step": "write", "dtype": "int16", "gain_uv": gain_uv, "n_clipped": n_clipped})

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
            )
            for channel in channels
        ],
        steps=steps,
        units=list(members),
    )
    result.save(out / "preprocess.json")
    return result


def _read_step(joined: JoinedProbe) -> dict:
    """What was read, for ``Preprocess.steps``: each session's blocks and the gaps before them, in samples."""
    sessions = []
    for document in joined.recordings:
        stream = document.probe.ap
        blocks, acquired = [], 0
        for block in stream.blocks():
            blocks.append({"n_samples": block.n_samples, "gap_before": block.offset - acquired})
            acquired = block.offset + block.n_samples
            if block.n_samples < MIN_BLOCK_S * stream.sampling_rate_hz:
                blocks[-1]["zeros"] = True
                log.warning("a block of %d samples is too short to be filtered: zeros", block.n_samples)
        sessions.append({"session": document.session.session, "blocks": blocks})
    return {"step": "read", "sessions": sessions}


def output_gain_uv(gains_uv: list[float]) -> float:
    """µV per count of the written int16: the finest raw gain halved until it is at most MAX_STEP_UV.

    A power of two of the raw gain, so that a raw count is a whole number of output counts.
    """
    gain = min(gains_uv)
    while gain > MAX_STEP_UV:
        gain /= 2
    return gain


def filtered_chain(raw: BaseRecording, settings: Settings) -> BaseRecording:
    """The steps that treat each channel alone, lazy: float32 µV, high-passed, sampled at one moment.

    raw: as from ``raw_ap.load_raw_ap``. µV come first, since channels of one probe may differ in gain.
    """
    from spikeinterface import preprocessing as spre

    scaled = spre.scale(raw, gain=raw.get_channel_gains(), dtype="float32")
    scaled.set_channel_gains(1.0)
    scaled.set_channel_offsets(0.0)
    highpassed = spre.highpass_filter(scaled, freq_min=settings.highpass_hz)
    return spre.phase_shift(highpassed, margin_ms=PHASE_SHIFT_MARGIN_MS)


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
) -> tuple[dict[int, str], dict]:
    """Label by raw column of a session's channels: "good", "dead", "noise" or "out"; what was looked at.

    SpikeInterface's number of chunks, or as many as a short recording holds, but at least ten. Channels of
    a session without a block of MIN_DETECTION_CHUNK_S are taken to be good.
    """
    columns = [int(column) for column in filtered.get_property("raw_column")]
    rate = filtered.sampling_frequency
    n_chunks = int(np.clip(filtered.get_total_duration() / DETECTION_CHUNK_S, 10, DETECTION_CHUNKS))
    longest = max(filtered.get_num_samples(k) for k in range(filtered.get_num_segments()))
    chunk_s = min(DETECTION_CHUNK_S, longest / rate)
    if chunk_s < MIN_DETECTION_CHUNK_S:
        log.warning("no stretch of %g s without a gap: bad channels can't be found", MIN_DETECTION_CHUNK_S)
        return dict.fromkeys(columns, "good"), {"n_chunks": 0, "chunk_s": 0.0}
    labels: dict[int, str] = {}
    for shank in shanks:
        chunks = _random_chunks(_of_shank(filtered, shank), n_chunks, chunk_s, settings.seed)
        labels.update(_label_shank(chunks, shank, settings, jobs))
    return {column: labels[column] for column in columns}, {"n_chunks": n_chunks, "chunk_s": chunk_s}


def _label_shank(chunks: BaseRecording, shank: int, settings: Settings, jobs: int) -> dict[int, str]:
    """Label by raw column of a shank's channels, of which chunks holds the stretches to look at.

    Per shank, because "out" is the top block of a depth order, and each shank has its own.
    """
    from spikeinterface.preprocessing import detect_bad_channels

    columns = [int(column) for column in chunks.get_property("raw_column")]
    if len(columns) < MIN_DETECTION_CHANNELS:
        log.warning("shank %d: too few channels (%d) to look for bad ones", shank, len(columns))
        return dict.fromkeys(columns, "good")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Over 1/3 of channels are detected as bad")
        _, labels = detect_bad_channels(
            chunks,
            method="coherence+psd",
            seed=settings.seed,
            # One chunk of each segment, as long as it is (and a half sample, as the product is cut off).
            num_random_chunks=1,
            chunk_duration_s=(chunks.get_num_samples(0) + 0.5) / chunks.sampling_frequency,
            job_kwargs={"n_jobs": jobs, "progress_bar": False},
        )
    counts = _count(labels)
    if counts.get("good", 0) < len(columns) * 2 / 3:
        log.warning("shank %d: more than a third of the channels are bad: %s", shank, counts)
    return dict(zip(columns, (str(label) for label in labels), strict=True))


def shank_chain(
    filtered: BaseRecording, shank: int, labels: dict[int, str], settings: Settings
) -> tuple[BaseRecording | None, dict]:
    """The shank's chain after bad channels are known, lazy float32 µV, and a record of its reference.

    labels: by raw column. None instead of a recording where no good channel is left. Columns keep the
    order of the raw file. A shank with fewer than MIN_REFERENCE_CHANNELS is not referenced. Destriping
    mirrors up to 60 channels at each end of the shank, fewer where the shank has fewer; a shank
    with fewer than MIN_DESTRIPE_CHANNELS gets the global reference instead.
    """
    from spikeinterface import preprocessing as spre

    whole = _of_shank(filtered, shank)
    label_of = np.array([labels[int(column)] for column in whole.get_property("raw_column")])
    if not np.any(label_of == "good"):
        return None, {"method": "none", "reason": "no good channel", "n_channels": 0}
    kept = np.isin(label_of, ("good", "noise"))
    recording = whole.select_channels(whole.channel_ids[kept])
    noisy = whole.channel_ids[label_of == "noise"]
    if noisy.size:
        recording = spre.interpolate_bad_channels(recording, noisy)
    n_channels = recording.get_num_channels()
    step: dict = {"method": settings.reference, "n_channels": n_channels}
    if settings.reference != "none" and n_channels < MIN_REFERENCE_CHANNELS:
        return recording, {**step, "method": "none", "reason": "too few channels"}
    if settings.reference == "destripe" and n_channels < MIN_DESTRIPE_CHANNELS:
        step |= {"method": "global", "reason": "too few channels to destripe"}
    if step["method"] == "global":
        recording = spre.common_reference(recording, reference="global", operator="median")
    elif step["method"] == "local":
        inner, outer = settings.local_radius_um
        step |= {"inner_um": inner, "outer_um": outer, "operator": "median"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            recording = spre.common_reference(
                recording, reference="local", operator="median", local_radius=(inner, outer)
            )
        for warning in caught:
            log.warning("shank %d: %s", shank, warning.message)
    elif step["method"] == "destripe":
        step["pad_channels"] = min(60, n_channels)
        recording = spre.highpass_spatial_filter(
            recording, n_channel_pad=step["pad_channels"], rms_values=_levels_uv(recording, settings.seed)
        )
    return recording, step


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


def _write_units(
    raw: BaseRecording, units: dict[str, list[BaseRecording]], out: Path, gain_uv: float, jobs: int
) -> int:
    """Write every unit's traces.bin in one pass over the raw files; returns how many samples were clipped.

    units: by unit, the recordings whose columns stand side by side in its file. Blocks too short to be
    filtered stay what a new file holds: zeros.
    """
    from spikeinterface.core.job_tools import TimeSeriesChunkExecutor, divide_time_series_into_chunks

    lengths = [raw.get_num_samples(segment) for segment in range(raw.get_num_segments())]
    firsts = np.cumsum([0, *lengths])
    targets = []
    for unit, recordings in units.items():
        n_columns = sum(recording.get_num_channels() for recording in recordings)
        path = out / unit / "traces.bin"
        with open(path, "wb") as file:
            file.truncate(sum(lengths) * n_columns * 2)
        if n_columns:
            targets.append((path, n_columns, recordings))

    chunk = int(CHUNK_S * raw.sampling_frequency)
    slices = [
        (segment, start, stop)
        for segment, start, stop in divide_time_series_into_chunks(raw, chunk)
        if lengths[segment] >= MIN_BLOCK_S * raw.sampling_frequency
    ]
    progress = _Progress(sum(lengths), raw.sampling_frequency)
    TimeSeriesChunkExecutor(
        raw,
        _write_chunk,
        _open_targets,
        (targets, firsts, gain_uv),
        gather_func=progress,
        pool_engine="process",
        n_jobs=jobs,
        chunk_size=chunk,
        job_name="preprocess",
    ).run(slices=slices)
    return progress.n_clipped


class _Progress:
    """Counts written samples and clipped values; says so in the log at every tenth of the recording."""

    def __init__(self, n_samples: int, sampling_rate_hz: float):
        self.n_samples = n_samples
        self.sampling_rate_hz = sampling_rate_hz
        self.n_clipped = 0
        self._done = 0
        self._said = 0

    def __call__(self, result: tuple[int, int]) -> None:
        n_samples, n_clipped = result
        self._done += n_samples
        self.n_clipped += n_clipped
        tenth = 10 * self._done // self.n_samples
        if tenth > self._said:
            self._said = tenth
            log.info(
                "written %d %% (%.0f s of the recording)", 10 * tenth, self._done / self.sampling_rate_hz
            )


def _open_targets(
    targets: list[tuple[Path, int, list[BaseRecording]]], firsts: np.ndarray, gain_uv: float
) -> dict:
    """Each worker process opens the files for itself. firsts: each segment's first sample in them."""
    return {
        "firsts": firsts,
        "gain_uv": gain_uv,
        "targets": [(open(path, "r+b"), n_columns, recordings) for path, n_columns, recordings in targets],
    }


def _write_chunk(segment: int, start: int, end: int, context: dict) -> tuple[int, int]:
    n_clipped = 0
    for file, n_columns, recordings in context["targets"]:
        counts = np.empty((end - start, n_columns), dtype="<i2")
        column = 0
        for recording in recordings:
            traces_uv = recording.get_traces(segment, start_frame=start, end_frame=end)
            values = np.rint(traces_uv / np.float32(context["gain_uv"]))
            n_clipped += int(np.count_nonzero(np.abs(values) > INT16_MAX))
            width = values.shape[1]
            counts[:, column : column + width] = np.clip(values, -INT16_MAX, INT16_MAX)
            column += width
        file.seek((int(context["firsts"][segment]) + start) * n_columns * 2)
        file.write(counts)
        file.flush()
    return end - start, n_clipped


def _count(labels) -> dict[str, int]:
    return dict(sorted(Counter(str(label) for label in labels).items()))
