"""DRIFT: how the tissue moved along a sorting unit's channels, and its recording with that taken back.

Each shank moves by itself: of a unit of several shanks each has its own estimate, and is moved back by it.

Method: DREDge for spikes (Windolf et al., https://doi.org/10.1101/2023.10.24.563768) as SpikeInterface has
it, with that package's settings "dredge_fast".
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from powerpixels.documents import Document, PreprocessedUnit
from powerpixels.drift import sorter_policy
from powerpixels.stage import DataError

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording
    from spikeinterface.core.motion import Motion

log = logging.getLogger("powerpixels")

# Less than this can't be registered: the unit is skipped.
MIN_CHANNELS = 16
MIN_HEIGHT_UM = 100.0
MIN_BINS = 10
MIN_PEAKS_PER_BIN = 10

# What bounds the cost, whatever the recording's length: the bins grow beyond MAX_BINS of them, the seconds
# read and the peaks kept are shared out evenly among the bins.
BIN_S = 1.0
MAX_BINS = 2400
MAX_READ_S = 1200.0
MAX_PEAKS = 1_000_000
# Bins whose peaks are in memory before they are thinned out.
BATCH_BINS = 240

# Of two bins no displacement above this is taken, nor one above a share of the unit's height: on a short
# shank the best match of larger ones is by chance (24 channels over 165 µm: 0.5 µm of error, 20 µm with up
# to 100 µm).
MAX_DISPLACEMENT_UM = 100.0
MAX_DISPLACEMENT_HEIGHTS = 0.25
# Non-rigid from a height with room for two windows on.
WINDOW_UM = 400.0

DETECTION = {
    "method": "locally_exclusive",
    "peak_sign": "neg",
    "detect_threshold": 8.0,
    "exclude_sweep_ms": 0.8,
    "radius_um": 80.0,
}
LOCALIZATION = "grid_convolution"
INTERPOLATION = {"spatial_interpolation_method": "kriging", "sigma_um": 20.0, "p": 2}
# Depths of peaks are compared in bins of this height.
DEPTH_BIN_UM = 10.0


class MotionDocument(Document):
    """motion.json beside, where status is "estimated", three float64 arrays and drift.png.

    displacement_um.npy: (n_temporal_bins, n_spatial_bins), how far the tissue had moved towards the shank's
    base (up, larger y). temporal_bins_s.npy: the bins' centres in seconds on the probe's AP sample clock
    (sample of the unit's recording / sampling_rate_hz). spatial_bins_um.npy: the windows' centres, in µm of
    the channels' y; one window is a rigid motion.

    shank: of a unit of several the one that this is of, else None.
    status "skipped": message says why there is no estimate. policy: ``--drift``; policy_text: what it means
    here. corrected: whether the traces that go to the sorter were moved back. read_s: seconds of traces
    that were searched. n_peaks: peaks that were registered. range_um: from the least to the largest
    displacement of any window. alignment: mean correlation of the bins' depth profiles with that of all,
    before and after the peaks are moved back (1: the same profile at all times). parameters: of the method
    and the steps before it.
    """

    probe: str
    unit: str
    status: Literal["estimated", "skipped"]
    message: str
    shank: int | None = None
    policy: Literal["auto", "sorter", "off", "dredge"]
    policy_text: str
    corrected: bool
    method: str
    version: str
    parameters: dict[str, Any]
    seed: int
    n_channels: int
    duration_s: float
    read_s: float
    n_peaks: int
    bin_s: float | None
    n_temporal_bins: int
    n_spatial_bins: int
    range_um: float | None
    alignment: tuple[float, float] | None

    @property
    def place(self) -> str:
        """Probe, unit and, of a unit of several shanks, the shank, as logs and figures say it."""
        return f"{self.probe} {self.unit}" + ("" if self.shank is None else f", shank {self.shank}")


class Peaks(NamedTuple):
    """Located peaks in the order of time: seconds, height y (µm), amplitude (µV, negative)."""

    times_s: np.ndarray
    y_um: np.ndarray
    amplitudes_uv: np.ndarray


class Estimate(NamedTuple):
    """Of one shank: the folder of its files, its document, and the peaks registered (None: skipped)."""

    folder: Path
    document: MotionDocument
    peaks: Peaks | None


class _Plan(NamedTuple):
    """Time bins and the samples [start, stop) that are read of each."""

    bin_s: float
    slices: list[tuple[int, int]]


def estimate_drift(
    unit_folder: Path,
    out: Path,
    policy: str = "auto",
    corrected: Path | None = None,
    jobs: int = 1,
    seed: int = 42,
) -> list[Estimate]:
    """Estimate the motion of a unit folder of PREPROCESS; write the files of MotionDocument into out.

    Of a unit of several shanks into out/shank<k>, for each of them.

    corrected: with policy "dredge", the folder to write the unit's recording to with its motion taken back,
    as PREPROCESS writes units: the same channels, all of them, in the same order, gain and number of
    samples. Where no motion was estimated, or moving the peaks back does not align them, it holds the
    traces of the shank as they were.

    Memory and time have bounds that do not grow with the recording, but for the corrected traces' time. Same
    input, same bytes, whatever jobs. Raises DataError where the unit's files are not what they should be.
    """
    unit_folder, out = Path(unit_folder), Path(out)
    if (policy == "dredge") != (corrected is not None):
        raise ValueError("a folder for corrected traces goes with the policy 'dredge', and only with it")
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    shanks = sorted({channel.shank for channel in unit.channels})
    estimates, motions = [], []
    for shank in shanks if len(shanks) > 1 else [None]:
        columns = [k for k, channel in enumerate(unit.channels) if shank in (None, channel.shank)]
        folder = out if shank is None else out / f"shank{shank}"
        document, motion, peaks = _estimate(unit_folder, unit, columns, shank, folder, policy, jobs, seed)
        document.save(folder / "motion.json")
        log.info("%s: %s. %s", document.place, document.message, document.policy_text)
        estimates.append(Estimate(folder, document, peaks))
        if document.corrected:
            motions.append((columns, motion))
    if corrected is not None:
        _write_corrected(unit_folder, unit, motions, Path(corrected), jobs)
    return estimates


def _estimate(
    unit_folder: Path,
    unit: PreprocessedUnit,
    columns: list[int],
    shank: int | None,
    out: Path,
    policy: str,
    jobs: int,
    seed: int,
) -> tuple[MotionDocument, Motion | None, Peaks | None]:
    """The estimate of a shank, whose channels are those columns of the unit's traces; its arrays into out."""
    policy_text = sorter_policy(policy, len(unit.channels)).reason
    unit = unit.model_copy(update={"channels": [unit.channels[k] for k in columns]})
    out.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {
        "probe": unit.probe,
        "unit": unit.unit,
        "shank": shank,
        "policy": policy,
        "policy_text": policy_text,
        "method": "dredge_ap",
        "version": f"spikeinterface {metadata.version('spikeinterface')}",
        "seed": seed,
        "n_channels": len(unit.channels),
        "duration_s": unit.n_samples / unit.sampling_rate_hz,
    }
    nothing = {
        "status": "skipped",
        "corrected": False,
        "parameters": {},
        "read_s": 0.0,
        "n_peaks": 0,
        "bin_s": None,
        "n_temporal_bins": 0,
        "n_spatial_bins": 0,
        "range_um": None,
        "alignment": None,
    }
    motion = peaks = None
    reason = _too_small(unit)
    if not reason:
        from powerpixels.recordings import load_preprocessed

        recording = _of_columns(load_preprocessed(unit_folder), columns)
        plan = _plan(unit, seed)
        found, locations = _find_peaks(recording, plan, jobs, seed)
        nothing["read_s"] = sum(stop - start for start, stop in plan.slices) / unit.sampling_rate_hz
        nothing["n_peaks"] = len(found)
        if len(found) < MIN_PEAKS_PER_BIN * len(plan.slices):
            wanted = MIN_PEAKS_PER_BIN * len(plan.slices)
            reason = f"{len(found)} peaks in {len(plan.slices)} time bins, at least {wanted} are needed"
    if reason:
        document = MotionDocument(**known, **nothing, message=f"no motion was estimated: {reason}")
    else:
        parameters = _dredge_parameters(unit, plan.bin_s)
        motion = _register(recording, found, locations, parameters)
        peaks = Peaks(
            found["sample_index"] / unit.sampling_rate_hz,
            locations["y"].astype(float),
            found["amplitude"] * unit.gain_uv,
        )
        alignment = _alignment(peaks, motion, plan.bin_s)
        displacement = motion.displacement[0]
        np.save(out / "displacement_um.npy", displacement.astype(np.float64))
        np.save(out / "temporal_bins_s.npy", motion.temporal_bins_s[0].astype(np.float64))
        np.save(out / "spatial_bins_um.npy", motion.spatial_bins_um.astype(np.float64))
        range_um = float(np.ptp(displacement))
        helps = alignment[1] > alignment[0]
        message = f"{range_um:.1f} µm from the lowest to the highest position"
        if policy == "dredge" and not helps:
            message += "; moving the peaks back does not align them better, so the traces stay as they were"
        document = MotionDocument(
            **known,
            **{
                **nothing,
                "status": "estimated",
                "corrected": policy == "dredge" and helps,
                "parameters": {
                    "detection": DETECTION,
                    "localization": LOCALIZATION,
                    "dredge_ap": parameters,
                    **({"interpolation": INTERPOLATION} if policy == "dredge" and helps else {}),
                },
                "bin_s": plan.bin_s,
                "n_temporal_bins": displacement.shape[0],
                "n_spatial_bins": displacement.shape[1],
                "range_um": range_um,
                "alignment": alignment,
            },
            message=message,
        )
    return document, motion, peaks


def _of_columns(recording: BaseRecording, columns: list[int]) -> BaseRecording:
    """The recording itself where these are all."""
    if len(columns) == recording.get_num_channels():
        return recording
    return recording.select_channels(recording.channel_ids[columns])


def load_motion(folder: Path) -> Motion:
    """The motion in a folder of DRIFT as SpikeInterface's Motion (one segment, direction y).

    Raises DataError where the folder's unit was skipped.
    """
    from spikeinterface.core.motion import Motion

    folder = Path(folder)
    document = MotionDocument.load(folder / "motion.json")
    if document.status == "skipped":
        raise DataError(f"{folder / 'motion.json'}: expected a motion, found none: {document.message}")
    arrays = [
        np.load(folder / f"{name}.npy") for name in ("displacement_um", "temporal_bins_s", "spatial_bins_um")
    ]
    return Motion([arrays[0]], [arrays[1]], arrays[2], direction="y")


def _too_small(unit: PreprocessedUnit) -> str:
    """Why a unit can't be registered at all, "" where it may."""
    if len(unit.channels) < MIN_CHANNELS:
        return f"{len(unit.channels)} channels, at least {MIN_CHANNELS} are needed"
    height_um = _height_um(unit)
    if height_um < MIN_HEIGHT_UM:
        return f"the channels span {height_um:.0f} µm, at least {MIN_HEIGHT_UM:.0f} µm are needed"
    duration_s = unit.n_samples / unit.sampling_rate_hz
    if duration_s < MIN_BINS * BIN_S:
        return f"{duration_s:.1f} s of recording, at least {MIN_BINS * BIN_S:.0f} s are needed"
    return ""


def _height_um(unit: PreprocessedUnit) -> float:
    return float(np.ptp([channel.y_um for channel in unit.channels]))


def _plan(unit: PreprocessedUnit, seed: int) -> _Plan:
    """Equal bins over the whole recording; of each, as much is read as of any other, from a random place on.

    The last bin can be shorter than the others.
    """
    rate = unit.sampling_rate_hz
    duration_s = unit.n_samples / rate
    bin_s = max(BIN_S, duration_s / MAX_BINS)
    edges = np.rint(np.arange(0, duration_s, bin_s) * rate).astype(int)
    # A rest of a few samples is no bin of its own to find peaks in.
    edges = np.append(edges[edges < unit.n_samples - 1], unit.n_samples)
    length = (
        int(min(bin_s, MAX_READ_S / (len(edges) - 1)) * rate) if duration_s > MAX_READ_S else unit.n_samples
    )
    rng = np.random.default_rng(seed)
    slices = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        spare = max(stop - start - length, 0)
        begin = start + int(rng.integers(spare + 1))
        slices.append((begin, min(begin + length, stop)))
    return _Plan(bin_s, slices)


def _find_peaks(recording: BaseRecording, plan: _Plan, jobs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of the slices and their locations, SpikeInterface's structured arrays, at most MAX_PEAKS.

    Of each bin at most an equal share of MAX_PEAKS is kept, chosen at random.
    """
    from spikeinterface.core import get_noise_levels
    from spikeinterface.sortingcomponents.peak_detection import detect_peaks
    from spikeinterface.sortingcomponents.peak_localization import localize_peaks

    job_kwargs = {"n_jobs": jobs, "chunk_duration": "1s", "progress_bar": False}
    noise = get_noise_levels(
        recording, return_in_uV=False, random_slices_kwargs={"seed": seed}, **{**job_kwargs, "n_jobs": 1}
    )
    # A silent channel has no threshold: whatever is in it, it is no peak.
    noise = np.where(noise > 0, noise, np.inf)
    rng = np.random.default_rng(seed)
    share = max(MAX_PEAKS // len(plan.slices), 1)
    kept = []
    for first in range(0, len(plan.slices), BATCH_BINS):
        batch = plan.slices[first : first + BATCH_BINS]
        peaks = detect_peaks(
            recording,
            method_kwargs={**DETECTION, "noise_levels": noise},
            pipeline_kwargs={"slices": [(0, start, stop) for start, stop in batch]},
            job_kwargs=job_kwargs,
        )
        kept += list(_thinned(peaks, [stop for _, stop in batch], share, rng))
        log.info("peaks of %d of %d time bins", min(first + BATCH_BINS, len(plan.slices)), len(plan.slices))
    peaks = np.concatenate(kept)
    if len(peaks) < MIN_PEAKS_PER_BIN * len(plan.slices):
        return peaks, np.empty(0)
    locations = localize_peaks(
        recording,
        peaks,
        method=LOCALIZATION,
        pipeline_kwargs={"slices": [(0, start, stop) for start, stop in plan.slices]},
        job_kwargs=job_kwargs,
        seed=seed,
    )
    log.info("%d peaks located", len(peaks))
    return peaks, locations


def _thinned(
    peaks: np.ndarray, stops: list[int], share: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """At most ``share`` peaks of each bin; the peaks are in the order of their samples."""
    for members in np.split(peaks, np.searchsorted(peaks["sample_index"], stops[:-1])):
        if len(members) > share:
            members = members[np.sort(rng.choice(len(members), share, replace=False))]
        yield members


def _dredge_parameters(unit: PreprocessedUnit, bin_s: float) -> dict[str, Any]:
    height_um = _height_um(unit)
    return {
        "direction": "y",
        "rigid": height_um < 2 * WINDOW_UM,
        "win_shape": "gaussian",
        "win_step_um": WINDOW_UM,
        "win_scale_um": WINDOW_UM,
        "win_margin_um": None,
        "bin_um": 1.0,
        "bin_s": bin_s,
        "max_disp_um": min(MAX_DISPLACEMENT_UM, MAX_DISPLACEMENT_HEIGHTS * height_um),
    }


def _register(
    recording: BaseRecording, peaks: np.ndarray, locations: np.ndarray, parameters: dict[str, Any]
) -> Motion:
    import torch
    from spikeinterface.sortingcomponents.motion import estimate_motion

    # Sums in another order have other last digits.
    torch.set_num_threads(1)
    motion = estimate_motion(
        recording, peaks, locations, method="dredge_ap", progress_bar=False, device="cpu", **parameters
    )
    if not np.isfinite(motion.displacement[0]).all():
        raise RuntimeError("DREDge gave a motion that is not finite")
    return motion


def _alignment(peaks: Peaks, motion: Motion, bin_s: float) -> tuple[float, float]:
    """Mean correlation of each bin's depth profile with that of all bins, before and after correction."""
    moved = peaks.y_um - motion.get_displacement_at_time_and_depth(peaks.times_s, peaks.y_um)
    low, high = (float(limit(peaks.y_um)) for limit in (np.min, np.max))
    depths = np.arange(low - MAX_DISPLACEMENT_UM, high + MAX_DISPLACEMENT_UM + DEPTH_BIN_UM, DEPTH_BIN_UM)
    times = np.arange(0, peaks.times_s[-1] + bin_s, bin_s)
    correlations = []
    for y_um in (peaks.y_um, moved):
        profiles = np.histogram2d(peaks.times_s, y_um, bins=(times, depths))[0]
        profiles = profiles[profiles.any(axis=1)]
        centred = profiles - profiles.mean(axis=1, keepdims=True)
        mean = centred.mean(axis=0)
        each = centred @ mean / (np.linalg.norm(centred, axis=1) * np.linalg.norm(mean))
        correlations.append(round(float(each.mean()), 4))
    return correlations[0], correlations[1]


def motion_folders(folder: Path) -> list[Path]:
    """Those with a motion.json: a unit's folder of DRIFT, or in that of several shanks each shank's."""
    return [folder] if (folder / "motion.json").is_file() else sorted(folder.glob("shank*"))


def motions_taken_back(folder: Path, shanks: Sequence[int]) -> list[tuple[list[int], Motion]]:
    """What was taken back of a sorting unit before sorting, from its folder of DRIFT, for ``moved_back``.

    shanks: of each column of the unit's traces. Empty where the traces stayed as they were.
    """
    motions = []
    for place in motion_folders(Path(folder)):
        document = MotionDocument.load(place / "motion.json")
        if document.corrected:
            columns = [k for k, shank in enumerate(shanks) if document.shank in (None, shank)]
            motions.append((columns, load_motion(place)))
    return motions


def moved_back(recording: BaseRecording, motions: Sequence[tuple[list[int], Motion]]) -> BaseRecording:
    """A sorting unit's recording with motions taken back, lazy: float32 counts of the same channels.

    motions: each with the columns of the recording that it moves, those of a shank; all others stay put.
    """
    from spikeinterface.preprocessing import astype
    from spikeinterface.sortingcomponents.motion import interpolate_motion

    from powerpixels.raw_ap import SideBySide

    parts = [
        interpolate_motion(
            _of_columns(recording, columns),
            motion,
            border_mode="force_extrapolate",
            dtype="float32",
            **INTERPOLATION,
        )
        for columns, motion in motions
    ]
    still = sorted(set(range(recording.get_num_channels())).difference(*(columns for columns, _ in motions)))
    if still:
        parts.append(astype(_of_columns(recording, still), "float32"))
    return SideBySide(parts, like=recording)


def _write_corrected(
    unit_folder: Path,
    unit: PreprocessedUnit,
    motions: list[tuple[list[int], Motion]],
    out: Path,
    jobs: int,
) -> None:
    """Write a unit folder with the motions of columns of its traces taken back; all others as they are.

    Every channel stays, so that channels keep their identity from here on. At a border a channel can be
    left with nothing recorded at its place; there kriging goes on from the nearest channels and fades to
    zero. Removing such channels would let the largest excursion of a recording decide which channels it
    has.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    unit.save(out / "recording.json")
    source, target = unit_folder / "traces.bin", out / "traces.bin"
    if not motions:
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)
        return
    from threadpoolctl import threadpool_limits

    from powerpixels.recordings import load_preprocessed

    moved = moved_back(load_preprocessed(unit_folder), motions)
    chunk = int(unit.sampling_rate_hz)
    limits = np.iinfo(np.int16)

    def corrected(start: int) -> np.ndarray:
        asked = {"start_frame": start, "end_frame": min(start + chunk, unit.n_samples)}
        return np.clip(np.rint(moved.get_traces(**asked)), limits.min, limits.max).astype("<i2")

    starts = range(0, unit.n_samples, chunk)
    # One thread for each product: the sums, and so the bytes, do not depend on jobs.
    with threadpool_limits(1), ThreadPoolExecutor(jobs) as pool, open(target, "wb") as file:
        # As many chunks in memory as there are threads.
        for first in range(0, len(starts), jobs):
            for traces in pool.map(corrected, starts[first : first + jobs]):
                traces.tofile(file)
            if first // 60 != (first + jobs) // 60:
                log.info("corrected %d of %d s", min(first + jobs, len(starts)), len(starts))
