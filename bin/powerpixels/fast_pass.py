"""PREPROCESS's chain at the speed of the hardware: raw files to traces.bin in one pass, in threads.

What ``powerpixels.kernels`` and ``powerpixels.medians`` do to arrays is done here to the blocks of a probe's
recordings, chunk by chunk. Each thread takes a chunk from the raw file to the output by itself, so nothing
waits for anything but the disk. Chunks lie where a block's start says, whatever the number of threads, and a
chunk's values depend on nothing but what is around it in its block: so does the output.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from spikeinterface.core import BaseRecording, BaseRecordingSegment

from powerpixels.artifacts import Muting
from powerpixels.documents import Block
from powerpixels.kernels import (
    FFT_SAMPLES,
    FilterPlan,
    destripe,
    destripe_margin,
    filter_chunk,
    filter_plan,
    interpolate,
    quantise,
)
from powerpixels.levels import ChunkLevels, chunk_levels
from powerpixels.medians import local_neighbours, median_program, subtract_medians
from powerpixels.rawdata import StreamReader
from powerpixels.spectra import Notches


@dataclass(frozen=True)
class ShankPass:
    """What is done to the kept channels of a shank, which stand side by side in their unit's file.

    columns, gains_uv, shifts: (channels,) raw column, µV per count and inter_sample_shift of each. notches:
    of each channel. shared: "local" and "global" take all channels of such shanks, not only its own.
    locations_um: (channels, 2). noisy: rows among them to be interpolated, weights: (other channels, noisy).
    depth_order, levels_uv, pad_channels: for "destripe", see ``kernels.destripe``. local_radius_um: for
    "local", see ``medians.local_neighbours``.
    """

    columns: np.ndarray
    gains_uv: np.ndarray
    shifts: np.ndarray
    locations_um: np.ndarray
    noisy: np.ndarray
    weights: np.ndarray
    method: Literal["local", "global", "destripe", "none"]
    notches: Sequence[Notches] | None = None
    shared: bool = False
    local_radius_um: tuple[float, float] = (0.0, 0.0)
    depth_order: np.ndarray | None = None
    levels_uv: np.ndarray | None = None
    pad_channels: int = 0


@dataclass(frozen=True)
class UnitFile:
    """A sorting unit's traces.bin, which must have its full size, and its shanks in the order of columns."""

    path: Path
    shanks: Sequence[ShankPass]


class FilteredRecording(BaseRecording):
    """A raw recording high-passed and phase-shifted by ``kernels.filter_chunk``: lazy, float32 µV.

    Equal to ``preprocess.filtered_chain`` within the bounds that filter_chunk states. Threads may read at the
    same time.
    """

    def __init__(
        self,
        raw: BaseRecording,
        blocks: Sequence[tuple[StreamReader, Block]],
        highpass_hz: float,
        notches: Sequence[Notches] | None = None,
    ):
        """raw: as from ``raw_ap.load_raw_ap``; blocks: what its segments are; notches: of each channel."""
        BaseRecording.__init__(self, raw.sampling_frequency, raw.channel_ids, np.dtype("float32"))
        raw.copy_metadata(self)
        plan = _Plans(
            raw.sampling_frequency,
            highpass_hz,
            raw.get_property("raw_column"),
            raw.get_channel_gains(),
            raw.get_property("inter_sample_shift"),
            notches,
        )
        self.set_channel_gains(1.0)
        self.set_channel_offsets(0.0)
        self.annotate(is_filtered=True)
        for reader, block in blocks:
            self.add_recording_segment(_FilteredSegment(reader, block, plan))
        self._serializability["json"] = False
        self._kwargs = {"raw": raw, "blocks": list(blocks), "highpass_hz": highpass_hz, "notches": notches}


class _Plans:
    """Filter plans for any of a recording's channels, made when they are first asked for."""

    def __init__(self, rate: float, highpass_hz: float, columns, gains_uv, shifts, notches):
        self.rate = rate
        self._notches = list(notches) if notches is not None else [()] * len(columns)
        self._highpass_hz = highpass_hz
        self._channels = columns, gains_uv, shifts
        self._made: dict[bytes, FilterPlan] = {}

    def __call__(self, channel_indices) -> FilterPlan:
        chosen = np.arange(len(self._channels[0]))
        if channel_indices is not None:
            chosen = chosen[channel_indices]
        key = chosen.tobytes()
        if key not in self._made:
            self._made[key] = filter_plan(
                self.rate,
                self._highpass_hz,
                *(values[chosen] for values in self._channels),
                notches=[self._notches[k] for k in chosen],
            )
        return self._made[key]


class _FilteredSegment(BaseRecordingSegment):
    def __init__(self, reader: StreamReader, block: Block, plan: _Plans):
        BaseRecordingSegment.__init__(self, sampling_frequency=plan.rate)
        self._reader = reader
        self._block = block
        self._plan = plan

    def get_num_samples(self) -> int:
        return self._block.n_samples

    def get_traces(self, start_frame=None, end_frame=None, channel_indices=None) -> np.ndarray:
        start = 0 if start_frame is None else int(start_frame)
        stop = self._block.n_samples if end_frame is None else int(end_frame)
        plan = self._plan(channel_indices)
        rows, left, right = _read(self._reader, self._block, start, stop, plan.margin)
        return filter_chunk(rows, left, right, plan).T


def _read(
    reader: StreamReader, block: Block, start: int, stop: int, margin: int
) -> tuple[np.ndarray, int, int]:
    """Samples start to stop of a block with at most ``margin`` around them, and how many these are."""
    left, right = min(margin, start), min(margin, block.n_samples - stop)
    return reader.read(block.start + start - left, block.start + stop + right), left, right


class Written(NamedTuple):
    """What became of a chunk: its samples, values beyond the range, muted intervals, levels in each file.

    muted: int64 (intervals, 2), samples of the output, cut off at the chunk's ends.
    """

    n_samples: int
    n_clipped: int
    muted: np.ndarray
    levels: list[ChunkLevels]


class FastPass:
    """The whole chain of a probe's sorting units, and where their traces go."""

    def __init__(
        self,
        blocks: Sequence[tuple[StreamReader, Block]],
        units: Sequence[UnitFile],
        highpass_hz: float,
        gain_uv: float,
        muting: Muting | None = None,
    ):
        """Plan the pass: no sample is read. blocks: in the order of the output, those of all recordings.

        The sampling rate is the first stream's. gain_uv: µV per count of the output. muting: None: nothing
        is muted.
        """
        self._muting = muting
        self._blocks = list(blocks)
        self._firsts = np.cumsum([0] + [block.n_samples for _, block in blocks])
        self._rate = blocks[0][0].stream.sampling_rate_hz
        self._gain_uv = gain_uv
        self._shanks: list[tuple[slice, ShankPass]] = []
        self._targets: list[tuple[slice, Path]] = []
        for unit in units:
            first = n = self._n_rows()
            for shank in unit.shanks:
                self._shanks.append((slice(n, n + len(shank.columns)), shank))
                n += len(shank.columns)
            if n > first:
                self._targets.append((slice(first, n), unit.path))
        self._neighbours = _reference_neighbours(self._shanks, self._n_rows())
        self._program = median_program(self._neighbours) if self._neighbours.any() else None
        destriped = any(shank.method == "destripe" for _, shank in self._shanks)
        self._reach = destripe_margin(self._rate) if destriped else 0
        self._plan = None
        if self._shanks:
            self._plan = filter_plan(
                self._rate,
                highpass_hz,
                np.concatenate([shank.columns for _, shank in self._shanks]),
                np.concatenate([shank.gains_uv for _, shank in self._shanks]),
                np.concatenate([shank.shifts for _, shank in self._shanks]),
                [own for _, shank in self._shanks for own in shank.notches or [()] * len(shank.columns)],
            )
        self._memory = threading.local()

    def _n_rows(self) -> int:
        return self._shanks[-1][0].stop if self._shanks else 0

    @property
    def chunk_samples(self) -> int:
        """Samples per chunk: as many as one transform filters."""
        margin = self._plan.margin if self._plan is not None else 0
        return max(FFT_SAMPLES - 2 * margin - 2 * self._reach, margin, 1)

    def run(self, jobs: int, min_samples: int, progress: Callable[[Written], None]) -> None:
        """Write the traces of all blocks of at least min_samples; shorter ones' places stay as they are.

        jobs: threads. progress: is told of each chunk, in order, what was written. Memory: some 100 MB for
        each thread (384 channels), 200 MB for destriping.
        """
        chunk = self.chunk_samples
        chunks = [
            (k, start, min(start + chunk, block.n_samples))
            for k, (_, block) in enumerate(self._blocks)
            if block.n_samples >= min_samples
            for start in range(0, block.n_samples, chunk)
        ]
        if self._plan is None:
            return
        with ThreadPoolExecutor(jobs) as pool:
            for result in pool.map(self._write_chunk, chunks):
                progress(result)

    def _array(self, name: str, dtype: type, shape: tuple[int, int]) -> np.ndarray:
        """This thread's memory of that name, used again for each chunk: fresh memory costs a tenth of all."""
        size = shape[0] * shape[1]
        values = getattr(self._memory, name, None)
        if values is None or values.size < size:
            values = np.empty(size, dtype=dtype)
            setattr(self._memory, name, values)
        return values[:size].reshape(shape)

    def _write_chunk(self, item: tuple[int, int, int]) -> Written:
        """One chunk from the raw file to every unit's."""
        k, start, stop = item
        traces, muted = self._traces(k, start, stop)
        n_clipped, levels = 0, []
        first, n_total = int(self._firsts[k]) + start, int(self._firsts[-1])
        for rows, path in self._targets:
            counts = self._array("counts", np.int16, (stop - start, rows.stop - rows.start))
            n_clipped += quantise(traces[rows], self._gain_uv, counts)
            levels.append(chunk_levels(counts, first, n_total))
            with open(path, "r+b") as file:
                file.seek(first * counts.shape[1] * counts.itemsize)
                file.write(counts)
        return Written(stop - start, n_clipped, first + muted, levels)

    def _traces(self, k: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """µV of a chunk of the k-th block after all steps: (channels of all units, samples) float32.

        And the muted intervals, samples of the chunk.
        """
        reader, block = self._blocks[k]
        left, right = min(self._reach, start), min(self._reach, block.n_samples - stop)
        raw, before, after = _read(reader, block, start - left, stop + right, self._plan.margin)
        traces = self._arithmetic(raw, before, after, left, right)
        muted = np.empty((0, 2), dtype=np.int64)
        if self._muting is not None:
            spare = max(left + before - self._muting.n_before, 0)
            gain, muted = self._muting.gain(raw[spare:], left + before - spare, right + after)
            if gain is not None:
                traces *= gain
        return traces, muted

    def _arithmetic(self, raw: np.ndarray, before: int, after: int, left: int, right: int) -> np.ndarray:
        """Filtered, interpolated and referenced: (channels of all units, samples) float32 µV, to be changed.

        raw: (before + left + samples + right + after, columns); before and after are the filter's margins,
        left and right destriping's.
        """
        n_rows, n_wide = self._n_rows(), len(raw) - before - after
        n_samples = n_wide - left - right
        wide = self._array("wide", np.float32, (n_rows, n_wide))
        filter_chunk(raw, before, after, self._plan, out=wide)
        for rows, shank in self._shanks:
            if shank.noisy.size:
                good = np.setdiff1d(np.arange(len(shank.columns)), shank.noisy)
                interpolate(wide[rows], good, shank.noisy, shank.weights)
        traces = wide
        if self._reach:
            traces = self._array("traces", np.float32, (n_rows, n_samples))
            for rows, shank in self._shanks:
                if shank.method == "destripe":
                    destripe(
                        wide[rows],
                        left,
                        right,
                        self._rate,
                        shank.depth_order,
                        shank.levels_uv,
                        shank.pad_channels,
                        out=traces[rows],
                    )
                else:
                    traces[rows] = wide[rows, left : left + n_samples]
        if self._program is not None:
            subtract_medians(traces, self._program)
        return traces


def _reference_neighbours(shanks: Sequence[tuple[slice, ShankPass]], n_rows: int) -> np.ndarray:
    """Over which rows the median goes that is subtracted from each: (n_rows, n_rows) bool, see medians.

    shanks: with their rows. Rows that are not referenced by a median have none.
    """
    neighbours = np.zeros((n_rows, n_rows), dtype=bool)
    alone = [[member] for member in shanks if not member[1].shared]
    shared = [member for member in shanks if member[1].shared]
    for members in [*alone, *([shared] if shared else [])]:
        method = members[0][1].method
        rows = np.concatenate([np.arange(own.start, own.stop) for own, _ in members])
        if method == "global":
            neighbours[np.ix_(rows, rows)] = True
        elif method == "local":
            locations_um = np.concatenate([shank.locations_um for _, shank in members])
            neighbours[np.ix_(rows, rows)] = local_neighbours(locations_um, members[0][1].local_radius_um)
    return neighbours
