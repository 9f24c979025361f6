"""Medians over sets of channels, sample by sample: the local and the global common reference.

The median over a channel's neighbours is what SpikeInterface's chain spends nearly all its time on. Two facts
make it cheap. A sorted list is a fixed sequence of minima and maxima (Batcher's odd-even merge), so one
instruction does 8 or 16 samples at once. And neighbouring channels have most of their neighbours in common:
what they share is sorted once, and of a sorted part only the ranks that can still be the median are kept.
On a 1.0 probe (34 neighbours within 40 to 200 µm) that leaves about 35 comparisons per channel and sample.

``median_program`` plans this for any geometry: a tree of merges of sorted lists, written as a table of
integers. ``subtract_medians`` follows the table over blocks of samples that stay in the cache; its machine
code does not depend on the geometry. Results equal numpy's median of float32 to the bit.

Batcher, K. E. (1968), Sorting networks and their applications; the idea of keeping only the ranks that can
still matter is Adams, A. (2021), Fast median filters using separable sorting networks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

log = logging.getLogger("powerpixels")

# Samples that one step of the program treats: several vectors, so that reading the table is a small part.
VECTOR = 16
VECTORS = 8
BLOCK = VECTOR * VECTORS
# Of them, as many as a rank's running minima fill registers.
RANK_VECTORS = 4
# Samples that a thread takes at a time.
TASK_SAMPLES = 2048

# Codes of the table's steps.
_END, _PAIR, _MIN, _MAX, _RANK, _SUBTRACT, _FUSED = 0, 1, 2, 3, 4, 5, 6
# Merges of sorted lists of these lengths run wholly in registers; they are most of what any probe needs.
FUSED_SHAPES = ((1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 6), (4, 8), (8, 8))


@dataclass(frozen=True)
class MedianProgram:
    """What ``subtract_medians`` does with one block of samples.

    table: (n,) int32 steps. n_channels: rows of the traces. n_rows: rows of working memory, of which the
    first n_channels hold the block's traces. n_merges: merges of sorted lists, for the log and tests.
    """

    table: np.ndarray
    n_channels: int
    n_rows: int
    n_merges: int


def local_neighbours(
    locations_um: np.ndarray, radius_um: tuple[float, float] = (40.0, 200.0), min_neighbours: int = 5
) -> np.ndarray:
    """Which channels make each channel's local reference, (channels, channels) bool, row by row.

    As SpikeInterface 0.105.3's common_reference(reference="local"): channels farther than the inner radius
    and at most the outer radius away; where there are fewer than min_neighbours, the min_neighbours nearest
    beyond the inner radius (fewer where there are no more). A row without any leaves its channel as it is.

    locations_um: (channels, 2) of one probe, or of one shank where references stay within shanks.
    """
    locations_um = np.asarray(locations_um, dtype=np.float64)
    n_channels = len(locations_um)
    neighbours = np.zeros((n_channels, n_channels), dtype=bool)
    for channel in range(n_channels):
        # The same arithmetic and order of ties as SpikeInterface's get_closest_channels.
        distance = np.linalg.norm(locations_um[channel] - locations_um, axis=1)
        order = np.argsort(distance)[1:]
        distance = distance[order]
        inside = (distance > radius_um[0]) & (distance <= radius_um[1])
        if np.count_nonzero(inside) < min_neighbours:
            inside = np.flatnonzero(distance > radius_um[0])[:min_neighbours]
        neighbours[channel, order[inside]] = True
    return neighbours


def median_program(neighbours: np.ndarray) -> MedianProgram:
    """Plan the medians over any sets of channels; takes about a second for 384 channels, once per geometry.

    neighbours: (channels, channels) bool; row c says over which channels the median that is subtracted from
    channel c goes. A row without any leaves its channel as it is.
    """
    neighbours = np.ascontiguousarray(neighbours, dtype=bool)
    if neighbours.ndim != 2 or neighbours.shape[0] != neighbours.shape[1]:
        raise ValueError(f"expected a square matrix of channels by channels, got {neighbours.shape}")
    return _planned(neighbours.tobytes(), len(neighbours))


@lru_cache(maxsize=32)
def _planned(neighbours: bytes, n_channels: int) -> MedianProgram:
    matrix = np.frombuffer(neighbours, dtype=bool).reshape(n_channels, n_channels)
    used = matrix.any(axis=1)
    if not used.any():
        return MedianProgram(np.array([_END], dtype=np.int32), n_channels, n_channels, 0)
    sets, set_of = np.unique(matrix[used], axis=0, return_inverse=True)
    # Which of two ways to weigh lists' lengths shares more depends on the geometry: both are tried.
    plans = []
    for length_weight in (0.05, 0.2):
        merges, final = _share_by_part(sets, length_weight)
        plans.append(_write_table(n_channels, merges, final, sets.sum(axis=1), used, set_of))
    cost, table, n_rows, n_merges = min(plans, key=lambda plan: plan[0])
    log.info(
        "median over %d to %d channels: %.1f minima or maxima per channel",
        sets.sum(axis=1).min(),
        sets.sum(axis=1).max(),
        cost / n_channels,
    )
    return MedianProgram(table, n_channels, n_rows, n_merges)


def _share_by_part(sets: np.ndarray, length_weight: float) -> tuple[list[tuple[int, int]], list[int]]:
    """As ``_share``; channels that no set connects, as those of different shanks, are planned apart."""
    from scipy.sparse.csgraph import connected_components

    n_channels = sets.shape[1]
    members = sets.astype(np.float32)
    n_parts, part_of = connected_components(members.T @ members, directed=False)
    joins: list[tuple[int, int]] = []
    final = [-1] * len(sets)
    for part in range(n_parts):
        channels = np.flatnonzero(part_of == part)
        ours = np.flatnonzero(sets[:, channels].any(axis=1))
        if not ours.size:
            continue
        inner = np.ascontiguousarray(sets[np.ix_(ours, channels)])
        part_joins, part_final = _share(inner.tobytes(), inner.shape, length_weight)
        lists = [
            *channels.tolist(),
            *range(n_channels + len(joins), n_channels + len(joins) + len(part_joins)),
        ]
        joins += [(lists[one], lists[other]) for one, other in part_joins]
        for which, end in zip(ours, part_final, strict=True):
            final[which] = lists[end]
    return joins, final


@lru_cache(maxsize=32)
def _share(
    sets_bytes: bytes, shape: tuple[int, int], length_weight: float
) -> tuple[list[tuple[int, int]], list[int]]:
    """Build the sets by joining disjoint lists two at a time, so that many sets use each list.

    sets_bytes: of (sets, channels) bool. In rounds, lists that occur together in most sets are joined, short
    ones first; in the sets that hold both, the joined list takes their place. Returns the joins (list k +
    channels is the join of the two at k), and which list each set ended as.
    """
    sets = np.frombuffer(sets_bytes, dtype=bool).reshape(shape)
    members = sets.T.astype(np.float32)  # (lists, sets): the sets that a list is now part of
    ids = np.arange(len(members))
    lengths = np.ones(len(members))
    joins: list[tuple[int, int]] = []
    final = np.full(len(sets), -1)
    while True:
        together = members @ members.T
        np.fill_diagonal(together, 0)
        open_ = together.max(axis=1, initial=0) > 0
        for row in np.flatnonzero(~open_):
            final[members[row] > 0] = ids[row]
        if not open_.any():
            return joins, final.tolist()
        members, ids, lengths = members[open_], ids[open_], lengths[open_]
        together = together[np.ix_(open_, open_)]
        score = np.where(
            together > 0, (together - 0.9) / (1 + length_weight * (lengths[:, None] + lengths[None])), 0
        )
        best = score.max(axis=1)
        candidates = np.argwhere(
            np.triu((score > 0) & (score >= 0.8 * np.maximum(best[:, None], best[None])), 1)
        )
        order = np.argsort(-score[candidates[:, 0], candidates[:, 1]], kind="stable")
        taken = np.zeros(len(ids), dtype=bool)
        new_members, new_ids, new_lengths = [], [], []
        for one, other in candidates[order]:
            if taken[one] or taken[other]:
                continue
            taken[one] = taken[other] = True
            both = members[one] * members[other]
            members[one] -= both
            members[other] -= both
            new_members.append(both)
            new_ids.append(len(sets[0]) + len(joins))
            new_lengths.append(lengths[one] + lengths[other])
            joins.append((int(ids[one]), int(ids[other])))
        members = np.vstack([members, *new_members])
        ids, lengths = np.append(ids, new_ids), np.append(lengths, new_lengths)
        left = members.any(axis=1)
        members, ids, lengths = members[left], ids[left], lengths[left]


def odd_even_merge(n_first: int, n_second: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Batcher's network for two sorted lists of any lengths.

    The wires 0..n_first-1 carry the first list, ascending, the following n_second the second. Returns pairs
    of wires to compare in turn (the smaller value goes to the first of the pair), and the wires in
    ascending order after that.
    """
    pairs: list[tuple[int, int]] = []

    def merge(first: list[int], second: list[int]) -> list[int]:
        if not first or not second:
            return first + second
        if len(first) == len(second) == 1:
            pairs.append((first[0], second[0]))
            return [first[0], second[0]]
        even = merge(first[0::2], second[0::2])
        odd = merge(first[1::2], second[1::2])
        merged = [even[0]]
        for k in range(max(len(odd), len(even) - 1)):
            if k < len(odd) and k + 1 < len(even):
                pairs.append((odd[k], even[k + 1]))
                merged += [odd[k], even[k + 1]]
            else:
                merged.append(odd[k] if k < len(odd) else even[k + 1])
        return merged

    return pairs, merge(list(range(n_first)), list(range(n_first, n_first + n_second)))


@lru_cache(maxsize=4096)
def _pruned_merge(n_first: int, n_second: int, low: int, high: int):
    """The network for the ranks low..high of the merged lists only: (steps, wires of those ranks).

    Each step is (wire, wire, smaller needed, larger needed).
    """
    pairs, order = odd_even_merge(n_first, n_second)
    outputs = order[low : high + 1]
    needed = set(outputs)
    steps = []
    for one, other in reversed(pairs):
        smaller, larger = one in needed, other in needed
        if smaller or larger:
            steps.append((one, other, smaller, larger))
            needed |= {one, other}
    return steps[::-1], outputs


class _Writer:
    """Collects the table's steps; working rows are given out and taken back."""

    def __init__(self, n_channels: int):
        self.steps: list[int] = []
        self.cost = 0
        self.n_rows = n_channels
        self._free: list[int] = []
        self._n_channels = n_channels

    def row(self) -> int:
        if self._free:
            return self._free.pop()
        self.n_rows += 1
        return self.n_rows - 1

    def give_back(self, row: int) -> None:
        # The first rows are the traces themselves, which other sets and the subtraction need.
        if row >= self._n_channels:
            self._free.append(row)

    def add(self, cost: int, *numbers: int) -> None:
        self.cost += cost
        self.steps += numbers


def _rank_terms(n_first: int, n_second: int, rank: int) -> list[tuple[int, int]]:
    """Pairs (i, j), -1 for none, such that value of ``rank`` = min over pairs of max(first[i], second[j]).

    Of rank + 1 smallest values, i + 1 stand in the first list and j + 1 in the second; the split that is
    right has the smallest maximum.
    """
    return [(i, rank - 1 - i) for i in range(max(-1, rank - n_second), min(n_first - 1, rank) + 1)]


def _merge(writer: _Writer, first: list[int], second: list[int], low: int, high: int) -> list[int]:
    """Write the merge of two sorted lists of rows; returns the rows of ranks low..high of the result."""
    shape = (len(first), len(second))
    whole = low == 0 and high == sum(shape) - 1
    if whole and shape[::-1] in FUSED_SHAPES:
        first, second, shape = second, first, shape[::-1]
    if whole and shape in FUSED_SHAPES:
        outputs = [writer.row() for _ in range(sum(shape))]
        cost = 2 * len(odd_even_merge(*shape)[0])
        writer.add(cost, _FUSED + FUSED_SHAPES.index(shape), *first, *second, *outputs)
        return outputs
    steps, wires = _pruned_merge(*shape, low, high)
    terms = [_rank_terms(*shape, rank) for rank in range(low, high + 1)]
    n_terms = sum(len(term) for term in terms)
    # In loads and stores: a rank reads two rows per term, a compare reads and writes two.
    if 2 * n_terms + len(terms) <= sum(2 + smaller + larger for _, _, smaller, larger in steps):
        outputs = []
        for term in terms:
            single = [first[i] if j < 0 else second[j] for i, j in term if i < 0 or j < 0]
            double = [(first[i], second[j]) for i, j in term if i >= 0 and j >= 0]
            out = writer.row()
            flat = [row for pair in double for row in pair]
            writer.add(2 * len(term), _RANK, out, len(single), len(double), *single, *flat)
            outputs.append(out)
        return outputs
    # A wire is copied on its first write: the lists themselves may be needed by other merges.
    at = dict(enumerate(first + second))
    own: set[int] = set()
    for one, other, smaller, larger in steps:
        before = {at[wire] for wire in (one, other) if at[wire] in own}
        sources = at[one], at[other]
        low_row = writer.row() if smaller else -1
        high_row = writer.row() if larger else -1
        if smaller and larger:
            writer.add(2, _PAIR, *sources, low_row, high_row)
        elif smaller:
            writer.add(1, _MIN, *sources, low_row)
        else:
            writer.add(1, _MAX, *sources, high_row)
        for row in before:
            own.discard(row)
            writer.give_back(row)
        for wire, row in ((one, low_row), (other, high_row)):
            at[wire] = row
            if row >= 0:
                own.add(row)
    return [at[wire] for wire in wires]


def _write_table(
    n_channels: int,
    joins: list[tuple[int, int]],
    final: list[int],
    set_sizes: np.ndarray,
    used: np.ndarray,
    set_of: np.ndarray,
) -> tuple[int, np.ndarray, int, int]:
    """The joins as steps; returns (cost, table, rows, number of merges)."""
    n_lists = n_channels + len(joins)
    lengths = np.ones(n_lists, dtype=int)
    for k, (one, other) in enumerate(joins):
        lengths[n_channels + k] = lengths[one] + lengths[other]

    # Which ranks of each list can still be the median of a set that it ends in: with e channels yet to come,
    # the value of rank k ends between the ranks k and k + e.
    sizes_of: list[set[int]] = [set() for _ in range(n_lists)]
    uses = np.zeros(n_lists, dtype=int)
    for which, size in zip(final, set_sizes, strict=True):
        sizes_of[which].add(int(size))
        uses[which] += 1
    for k in range(len(joins) - 1, -1, -1):
        for part in joins[k]:
            sizes_of[part] |= sizes_of[n_channels + k]
            uses[part] += 1
    low = np.zeros(n_lists, dtype=int)
    high = np.zeros(n_lists, dtype=int)
    for which, sizes in enumerate(sizes_of):
        if sizes:
            length = int(lengths[which])
            low[which] = min(max(0, (size - 1) // 2 - (size - length)) for size in sizes)
            high[which] = max(min(length - 1, size // 2) for size in sizes)

    writer = _Writer(n_channels)
    # The rows of the ranks low..high of each list written so far.
    rows: dict[int, list[int]] = {channel: [channel] for channel in range(n_channels)}
    n_merges = 0

    def release(which: int) -> None:
        uses[which] -= 1
        if not uses[which] and which >= n_channels:
            for row in rows.pop(which):
                writer.give_back(row)

    channels_of = [np.flatnonzero(used)[set_of.ravel() == k] for k in range(len(final))]
    # Along the probe, and each list just before its first use: few rows are in use at any time.
    for k in sorted(range(len(final)), key=lambda k: channels_of[k][0]):
        stack = [final[k]]
        while stack:
            which = stack[-1]
            if which in rows:
                stack.pop()
                continue
            one, other = joins[which - n_channels]
            missing = [part for part in (one, other) if part not in rows]
            if missing:
                stack += missing
                continue
            offset = low[one] + low[other]
            sources = set(rows[one]) | set(rows[other])
            rows[which] = _merge(
                writer, rows[one], rows[other], int(low[which] - offset), int(high[which] - offset)
            )
            n_merges += 1
            shared = sources & set(rows[which])
            if shared:
                # A merge can leave rows as they are; the two lists must not share them, since each gives its
                # rows back when its last use is over.
                rows[which] = [_copied(writer, row) if row in shared else row for row in rows[which]]
            release(one)
            release(other)
            stack.pop()
        size = int(set_sizes[k])
        medians = rows[final[k]]
        first = medians[(size - 1) // 2 - low[final[k]]]
        second = medians[size // 2 - low[final[k]]]
        for channel in channels_of[k]:
            writer.add(0, _SUBTRACT, int(channel), first, second)
        release(final[k])
    writer.add(0, _END)
    return writer.cost, np.array(writer.steps, dtype=np.int32), writer.n_rows, n_merges


def _copied(writer: _Writer, row: int) -> int:
    copy = writer.row()
    writer.add(1, _MIN, row, row, copy)
    return copy


_int32, _int64 = ir.IntType(32), ir.IntType(64)
_lanes = ir.VectorType(ir.FloatType(), VECTOR)


def _row_address(builder, work, table, k):
    """Address of the working row that the step's k-th number names."""
    pointer = builder.gep(builder.inttoptr(table, _int32.as_pointer()), [k])
    row = builder.sext(builder.load(pointer, align=4), _int64)
    return builder.add(work, builder.mul(row, ir.Constant(_int64, BLOCK * 4)))


def _vector_at(builder, row, vector):
    """Pointer to the vector-th vector of a row."""
    return builder.gep(builder.inttoptr(row, _lanes.as_pointer()), [vector])


def _smaller(builder, one, other):
    return builder.select(builder.fcmp_ordered("<", one, other), one, other)


def _larger(builder, one, other):
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _vector_step(n_in: int, n_out: int, body: Callable) -> Callable:
    """An intrinsic step(work, table): rows table[0..n_in) go through ``body`` to the following n_out.

    work: address of the working rows, BLOCK float32 each. table: address of the step's int32 numbers.
    body(builder, values) returns the n_out results of n_in vectors in LLVM's intermediate code, since
    loops over rows that may be the same memory are not made into vector instructions.
    """

    def codegen(context, builder, _signature, arguments):
        work, table = arguments
        rows = [_row_address(builder, work, table, ir.Constant(_int64, k)) for k in range(n_in + n_out)]
        with cgutils.for_range(builder, ir.Constant(_int64, VECTORS)) as loop:
            pointers = [_vector_at(builder, row, loop.index) for row in rows]
            values = [builder.load(pointer, align=64) for pointer in pointers[:n_in]]
            for value, pointer in zip(body(builder, values), pointers[n_in:], strict=True):
                builder.store(value, pointer, align=64)
        return context.get_dummy_value()

    def step(typingctx, work, table):
        return types.void(types.intp, types.intp), codegen

    return intrinsic(step)


def _merge_step(shape: tuple[int, int]) -> Callable:
    """A whole merge in registers."""
    pairs, order = odd_even_merge(*shape)

    def body(builder, values):
        values = list(values)
        for one, other in pairs:
            smaller = _smaller(builder, values[one], values[other])
            values[other] = _larger(builder, values[one], values[other])
            values[one] = smaller
        return [values[wire] for wire in order]

    return _vector_step(sum(shape), sum(shape), body)


_pair_step = _vector_step(2, 2, lambda builder, rows: [_smaller(builder, *rows), _larger(builder, *rows)])
_min_step = _vector_step(2, 1, lambda builder, rows: [_smaller(builder, *rows)])
_max_step = _vector_step(2, 1, lambda builder, rows: [_larger(builder, *rows)])
(
    _fused_0,
    _fused_1,
    _fused_2,
    _fused_3,
    _fused_4,
    _fused_5,
    _fused_6,
    _fused_7,
) = (_merge_step(shape) for shape in FUSED_SHAPES)

# Numbers in the table by step, its code included and a rank's lists of rows not.
_LENGTHS = np.array([1, 5, 4, 4, 4, 4] + [1 + 2 * sum(shape) for shape in FUSED_SHAPES], dtype=np.int64)


@intrinsic
def _rank_step(typingctx, work, table, n_single, n_double):
    """Row table[0] = the least of n_single rows (table[3..]) and of the larger ones of n_double pairs."""

    def codegen(context, builder, _signature, arguments):
        work, table, n_single, n_double = arguments
        number = partial(ir.Constant, _int64)
        infinite = ir.Constant(_lanes, [float("inf")] * VECTOR)
        least = [cgutils.alloca_once(builder, _lanes) for _ in range(RANK_VECTORS)]
        with cgutils.for_range(builder, number(VECTORS // RANK_VECTORS)) as part:
            first = builder.mul(part.index, number(RANK_VECTORS))
            vectors = [builder.add(first, number(k)) for k in range(RANK_VECTORS)]

            def values(k):
                row = _row_address(builder, work, table, k)
                return [builder.load(_vector_at(builder, row, vector), align=64) for vector in vectors]

            def lessen(terms):
                for pointer, term in zip(least, terms, strict=True):
                    builder.store(_smaller(builder, builder.load(pointer), term), pointer)

            for pointer in least:
                builder.store(infinite, pointer)
            with cgutils.for_range(builder, n_single) as loop:
                lessen(values(builder.add(loop.index, number(3))))
            with cgutils.for_range(builder, n_double) as loop:
                k = builder.add(builder.add(number(3), n_single), builder.mul(loop.index, number(2)))
                pairs = zip(values(k), values(builder.add(k, number(1))), strict=True)
                lessen([_larger(builder, one, other) for one, other in pairs])
            out = _row_address(builder, work, table, number(0))
            for pointer, vector in zip(least, vectors, strict=True):
                builder.store(builder.load(pointer), _vector_at(builder, out, vector), align=64)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@numba.njit(nogil=True, cache=True)
def _run(traces, start, stop, table, lengths, n_rows):
    """Follow the table over the samples start..stop of traces, (channels, samples) float32, in place."""
    n_channels = traces.shape[0]
    memory = np.zeros(n_rows * BLOCK + 16, dtype=np.float32)
    shift = (-(memory.ctypes.data // 4)) % 16
    rows = memory[shift : shift + n_rows * BLOCK].reshape(n_rows, BLOCK)
    work = rows.ctypes.data
    steps = table.ctypes.data
    for first in range(start, stop, BLOCK):
        n = min(BLOCK, stop - first)
        for channel in range(n_channels):
            rows[channel, :n] = traces[channel, first : first + n]
        at = 0
        while True:
            code = table[at]
            step = steps + 4 * (at + 1)
            if code == _PAIR:
                _pair_step(work, step)
            elif code == _MIN:
                _min_step(work, step)
            elif code == _MAX:
                _max_step(work, step)
            elif code == _RANK:
                n_single, n_double = table[at + 2], table[at + 3]
                _rank_step(work, step, n_single, n_double)
                at += n_single + 2 * n_double
            elif code == _SUBTRACT:
                channel = table[at + 1]
                out = traces[channel, first : first + n]
                own, low, high = rows[channel], rows[table[at + 2]], rows[table[at + 3]]
                for k in range(n):
                    out[k] = own[k] - np.float32(0.5) * (low[k] + high[k])
            elif code == _FUSED:
                _fused_0(work, step)
            elif code == _FUSED + 1:
                _fused_1(work, step)
            elif code == _FUSED + 2:
                _fused_2(work, step)
            elif code == _FUSED + 3:
                _fused_3(work, step)
            elif code == _FUSED + 4:
                _fused_4(work, step)
            elif code == _FUSED + 5:
                _fused_5(work, step)
            elif code == _FUSED + 6:
                _fused_6(work, step)
            elif code == _FUSED + 7:
                _fused_7(work, step)
            else:
                break
            at += lengths[code]


def subtract_medians(traces: np.ndarray, program: MedianProgram, pool: Executor | None = None) -> np.ndarray:
    """Subtract from each channel the median over its set of channels, in place; returns ``traces``.

    traces: (channels, samples) float32, C order, without NaN; any unit. Equal to the bit to
    ``traces[c] - numpy.median(traces[neighbours[c]], axis=0)`` with all medians taken before. pool: threads
    that share the samples; how many there are does not change the result.
    """
    if traces.dtype != np.float32 or traces.ndim != 2 or len(traces) != program.n_channels:
        raise ValueError(
            f"expected ({program.n_channels}, samples) float32, found {traces.shape} {traces.dtype}"
        )
    starts = range(0, traces.shape[1], TASK_SAMPLES)

    def task(start: int) -> None:
        stop = min(start + TASK_SAMPLES, traces.shape[1])
        _run(traces, start, stop, program.table, _LENGTHS, program.n_rows)

    for _ in (map if pool is None else pool.map)(task, starts):
        pass
    return traces
