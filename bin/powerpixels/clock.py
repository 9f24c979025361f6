"""The map from a probe's clock to the session's reference clock, from the sync wave both recorded.

Edges are matched by time, never by their order, so that a lost or an extra pulse costs that pulse only.

1. Both streams count samples from the start of the acquisition (first_sample). The two counters are taken
   to have started together; that gives each edge a coarse common time.
2. In the stretch of some periods where the two waves agree best, the offset between them modulo the wave's
   period is found; from there a local line is tracked to both ends, so that drift may bend it.
3. The wave fixes the offset only up to whole periods. The whole period is the one for which the counters
   started together: a straight line through the pairs, followed back to the counters' zero, must come within
   MAX_START_PERIODS of a period of it.
4. A straight line is fitted by least squares to the edges within two samples of it, until nothing changes.
   Where the wave leaves it, the fit is repeated as a continuous line of 2, 4, 8 … straight segments of equal
   numbers of edges, on average no shorter than SEGMENT_S, until it follows the wave everywhere and four times
   as many segments would move it (rms) by less than MAX_BEND_SAMPLES of the faster stream, or than twice what
   noise does. Where no number achieves that, the fewest segments that follow the wave are taken.

Gaps. Where a stream was not recorded for a while its counter went on, so that both sides of a gap are on one
clock. Edges that the other stream saw in a gap have no partner and are not looked for. Where the map is bent
and no edges match for more than SEGMENT_S, each stretch between such pauses gets segments (and a knot at its
ends) of its own, or, where it is too short for one, a single knot.

Waves at irregular times (barcodes, random intervals) need no period and no counters: steps 1 to 3 are
replaced by the one shift at which so many more edges of both coincide than at any other that chance can't
explain it, found from the differences of all edges' times. Counters that started minutes apart are then no
matter. Of a regular wave, the pattern of pulses that were not sent may tell as well, where the counters
can't. What told is kept (``ClockFit.settled_by``), with the period by multiples of which a regular wave would
look the same.

Bounds. Drift is slow, a loss of samples is sudden: the clocks' rates must agree within MAX_PPM, and change
against each other by less than MAX_PPM_PER_MINUTE from segment to segment and MAX_WANDER_PPM in all, but for
what quantisation does to the rates. The residuals' means over LOCAL_S must be below MAX_LOCAL_SAMPLES, their
medians over FEW_S below MAX_FEW_SAMPLES. The map's error at any time of the file is bounded (``_bound``): by
quantisation between edges, and by how the rate may change where there are none, in pauses of the wave and at
the file's ends; a gap of the probe itself may be of any length. A bound above MAX_ERROR_US (or what the user
allows) is refused with a ``DataError``, as is what exceeds the others.

A loss of two or three samples may hide in the quantisation of the edges beside it. Where the wave and both
clocks keep step within about 1 ppm, the edges fall on one fraction of a sample for minutes, quantisation does
not average out, and the error may exceed one sample by some tenths.

What the fit cannot see, because a regular wave repeats itself: counters that started more than 0.7 periods
apart, and a loss of samples that lasts a whole number of periods; and, for want of edges, a loss in the first
or last two periods of the time both record.

An edge is seen at the first sample after it, on average half a sample late. The fit takes half a sample off
both sides, so that streams of different rates (30 kHz and a slower NIDQ) are not skewed by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from powerpixels.documents import ClockFit, Stream
from powerpixels.edges import SYNC_LINE, Edges
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

MIN_EDGES = 5
MAX_PPM = 500.0
MAX_START_PERIODS = 0.3
# An edge is quantised to one sample on each side, so an undisturbed one lies within one sample of the map;
# the second sample is for what the clocks may deviate from it.
MATCH_SAMPLES = 2.0
# Largest mean residual of the edges of LOCAL_S, at least LOCAL_EDGES, and largest median of those of FEW_S.
LOCAL_S = 10.0
LOCAL_EDGES = 20
MAX_LOCAL_SAMPLES = 0.75
FEW_S = 3.0
FEW_EDGES = 6
MAX_FEW_SAMPLES = 1.0
MAX_RMS_SAMPLES = 1.0
MIN_MATCHED_FRACTION = 0.5
# Shortest segment of a bent map, and fewest edges in it; how far a finer map may differ (rms).
SEGMENT_S = 60.0
SEGMENT_EDGES = 20
MAX_BEND_SAMPLES = 0.15
# Crystals warm up by some ppm within tens of minutes.
MAX_PPM_PER_MINUTE = 1.0
MAX_WANDER_PPM = 10.0
# Seed: stretches of this many periods, edges within this much of drift across one. Tracking: an edge's
# distance from the local line.
SEED_PERIODS = 20
SEED_PPM = 2000.0
TRACK_PERIODS = 0.02
# Consecutive edges without a partner that lie off the line by one amount, within this spread, are a wave
# that was shifted (samples lost), not lost or extra pulses.
SHIFTED_EDGES = 3
SHIFTED_SPREAD_S = 1e-3
# A pattern of pulses decides between two shifts only where it is rich: one shift leaves at least this many
# edges without a partner and the other, of as many edges, at most a tenth of them. Independently lost
# pulses that happen to coincide at a wrong shift stay far below.
PATTERN_EDGES = 24
PATTERN_RATIO = 0.1
PATTERN_PERIODS = 600
SCREENED_EDGES = 400
# A wave is regular where this part of the time, and of the pulses, lies in intervals of a few periods.
REGULAR_PART = 0.3
REGULAR_PERIODS = 5
# Irregular waves: stretches of so many edges vote for shifts, as far as so many differences of times can be
# looked at; so many shifts of a stretch, and of all, are followed.
VOTING_EDGES = 40
VOTING_STRETCHES = 12
VOTED_SHIFTS = 4
MAX_DIFFERENCES = 4_000_000
MAX_CANDIDATES = 12
MAX_TRACK_S = 5e-3
MAX_START_S = 1.0
SHIFTED_GROUP = 30
SHIFTED_REACH_S = 60.0
# What the bound on the map's error must not exceed. A wave that is locked to a stream's own sampling, as
# where the NIDQ makes it, leaves half a sample of either stream open, 33 µs at 30 kHz. The bound is cautious:
# of 2218 simulated sessions with one below 50 µs all but one stayed below a sample of 30 kHz (41.7 µs).
MAX_ERROR_US = 50.0
# Shorter times without edges bend a clock by less than a µs.
PAUSE_S = 20.0
# From so many seconds of edges on, a steady clock is taken to change its rate by no more than this.
MEASURED_S = 600.0
LEAST_PPM_PER_MINUTE = 0.3

CROOKED = (
    "; no slow drift maps the one clock to the other: samples were lost, or the clocks drift unevenly; look"
    " for gaps in the acquisition's log"
)


@dataclass(frozen=True, eq=False)
class _Wave:
    """Edges of one line: t (n,) float64 seconds, ascending; rising (n,) bool.

    gaps: (m, 2) float64 seconds between which nothing was recorded, ascending.
    """

    t: np.ndarray
    rising: np.ndarray
    gaps: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))


@dataclass(frozen=True)
class _Rhythm:
    """What is known of a sync wave before its edges are matched (all in seconds).

    period: between pulses, None where they come at irregular times. tick: one sample of the slower stream.
    track: how near to the predicted time an edge is looked for; slack: how much earlier or later the time
    that both waves cover may begin or end; width: of a stretch that holds enough edges to begin with.
    """

    period: float | None
    tick: float
    track: float
    slack: float
    width: float

    @classmethod
    def of(cls, wave_p: _Wave, wave_r: _Wave, tick: float, names: str) -> _Rhythm:
        """Of two waves that may be one; ``DataError`` where both are regular with different periods."""
        if any(_is_regular(wave) for wave in (wave_p, wave_r)):
            period = _common_period(wave_p, wave_r, names, tick)
            return cls(period, tick, TRACK_PERIODS * period, period / 4, SEED_PERIODS * period)
        intervals = np.concatenate([_intervals(wave) for wave in (wave_p, wave_r)])
        brief = float(np.quantile(intervals, 0.1))
        track = float(np.clip(brief / 10, 2 * MATCH_SAMPLES * tick, MAX_TRACK_S))
        span = min(np.ptp(wave.t) / len(wave.t) for wave in (wave_p, wave_r))
        return cls(None, tick, track, 4 * track, VOTING_EDGES * span)


@dataclass(frozen=True, eq=False)
class _Map:
    """A continuous line of straight segments: reference = t + delta(t), all in seconds.

    knots (k,) ascending and their deltas (k,), k >= 2; the first and last segment go on beyond them.
    """

    knots: np.ndarray
    deltas: np.ndarray

    @property
    def slopes(self) -> np.ndarray:
        """(k - 1,) relative difference of the clocks' rates in each segment."""
        return np.diff(self.deltas) / np.diff(self.knots)

    def delta(self, t):
        """Seconds by which the reference is ahead at the probe's times t."""
        k = self.segment(t)
        return self.deltas[k] + self.slopes[k] * (t - self.knots[k])

    def segment(self, t):
        """Index of the segment that t lies in."""
        return np.searchsorted(self.knots[1:-1], t, side="right")

    def moved(self, seconds: float) -> _Map:
        """The same map with the reference later by some seconds."""
        return _Map(self.knots, self.deltas + seconds)


def _map_of(fit: ClockFit) -> _Map:
    """The map of seconds since each file's first sample."""
    own, reference = np.array(fit.knots, dtype=np.float64).T
    return _Map(own, reference - own)


def to_reference_seconds(fit: ClockFit, samples: np.ndarray) -> np.ndarray:
    """Seconds (float64) on the reference clock of counts on the probe's own (any shape).

    samples: since the stream's first one, time in gaps included, as ``Stream.acquired`` gives them. Linear
    between the fit's knots; its first and last segment go on beyond them.
    """
    t = np.asarray(samples, dtype=np.float64) / fit.sampling_rate_hz
    return t + _map_of(fit).delta(t)


def check_edges(edges: Edges, stream: Stream) -> None:
    """Raise ``DataError`` where the edges are not those of the stream."""
    if edges.stream != stream.name:
        raise DataError(f"the edges are of stream {edges.stream}, expected {stream.name}; extract them again")


def identity_fit(edges: Edges, probe: str) -> ClockFit:
    """The fit of a probe (or DAQ stream) that is itself the reference: exact over its whole length."""
    end = edges.n_samples / edges.sampling_rate_hz
    return ClockFit(
        probe=probe,
        stream=edges.stream,
        reference=edges.stream,
        sampling_rate_hz=edges.sampling_rate_hz,
        offset_s=0.0,
        slope=1.0,
        n_edges=len(own_pairs(edges)),
        n_unmatched=0,
        rms_us=0.0,
        max_us=0.0,
        first_edge_s=0.0,
        last_edge_s=end,
        knots=[(0.0, 0.0), (end, end)],
        bound_us=0.0,
    )


def fit_clock(
    probe_edges: Edges,
    reference_edges: Edges,
    *,
    probe: str,
    line: str = SYNC_LINE,
    reference_line: str = SYNC_LINE,
    max_error_us: float = MAX_ERROR_US,
) -> ClockFit:
    """Fit the probe's clock to the reference's, as few straight segments as will do, from their sync lines.

    probe: name of the probe, or of the DAQ stream, whose edges probe_edges are. line, reference_line: the
    line of each with the sync wave. The reference's time zero is its first sample. Residuals are those of the
    matched edges. n_unmatched counts the edges of either stream, in the time both cover, that have no
    partner. max_error_us: how large the error may be at any time of the file. Raises ``DataError`` wherever
    it could be larger; the module's docstring says what it cannot notice.
    """
    names = f"{probe_edges.stream} ({line}) and {reference_edges.stream} ({reference_line})"
    fs_probe, fs_reference = probe_edges.sampling_rate_hz, reference_edges.sampling_rate_hz
    tick = 1 / min(fs_probe, fs_reference)
    counted = probe_edges.first_sample is not None and reference_edges.first_sample is not None
    start_probe = probe_edges.first_sample / fs_probe if counted else 0.0
    start_reference = reference_edges.first_sample / fs_reference if counted else 0.0
    wave_p = _wave(probe_edges, line, start_probe)
    wave_r = _wave(reference_edges, reference_line, start_reference)
    rhythm = _Rhythm.of(wave_p, wave_r, tick, names)

    i, j, settled_by = _pair(wave_p, wave_r, rhythm, names, counted)
    close = MAX_BEND_SAMPLES / max(fs_probe, fs_reference)
    fitted, i, j = _fewest_segments(wave_p, wave_r, i, j, rhythm, close, start_probe, names)
    straight = _fit(wave_p, wave_r, i, j)
    rate = float(straight.slopes[0])
    if abs(rate) > MAX_PPM * 1e-6:
        raise DataError(
            f"{names}: the clocks' rates differ by {rate * 1e6:.0f} ppm, expected below {MAX_PPM:.0f};"
            " check the sampling rates in the meta files"
        )
    residual = _residual(wave_p, wave_r, fitted, i, j)
    rms = _rms(residual)
    _check_drift(fitted, wave_p.t[i], rms, 0.5 / fs_probe + 0.5 / fs_reference, names)
    limit = max_error_us * 1e-6
    bound = _bound(wave_p.t[i], residual, fitted, probe_edges, fs_reference, start_probe, limit, names)

    shared_p, shared_r = _shared(wave_p, wave_r, fitted, rhythm)
    shared_p[i] = shared_r[j] = False
    n_unmatched = int(shared_p.sum() + shared_r.sum())
    if n_unmatched:
        log.warning("%s: %d edges of the sync wave have no partner", names, n_unmatched)
    # From acquisition time back to each file's own.
    own = fitted.knots - start_probe
    reference = fitted.knots + fitted.deltas - start_reference
    matched_s = wave_p.t[i] - start_probe
    fit = ClockFit(
        probe=probe,
        stream=probe_edges.stream,
        reference=reference_edges.stream,
        sampling_rate_hz=fs_probe,
        offset_s=float(start_probe - start_reference + straight.delta(start_probe)),
        slope=1 + rate,
        n_edges=len(i),
        n_unmatched=n_unmatched,
        rms_us=rms * 1e6,
        max_us=float(np.abs(residual).max() * 1e6),
        first_edge_s=float(matched_s[0]),
        last_edge_s=float(matched_s[-1]),
        knots=list(zip(own.tolist(), reference.tolist(), strict=True)),
        bound_us=bound * 1e6,
        settled_by=settled_by,
        repeats_s=rhythm.period,
        counters_apart_s=float(straight.delta(0.0)) if counted else None,
        line=line,
        reference_line=reference_line,
    )
    log.info(
        "%s: %d edges, %+.2f ppm, %d segments, rms %.1f µs, error below %.1f µs",
        names,
        fit.n_edges,
        rate * 1e6,
        len(fitted.slopes),
        fit.rms_us,
        fit.bound_us,
    )
    return fit


def matched_pairs(
    fit: ClockFit,
    probe_edges: Edges,
    reference_edges: Edges,
    *,
    line: str = SYNC_LINE,
    reference_line: str = SYNC_LINE,
) -> np.ndarray:
    """(n, 2) float64: seconds on the probe's and on the reference's own clock of each matched edge.

    The observed times, sample / rate: the half sample that the fit takes off both is not in them.
    """
    fs_probe, fs_reference = probe_edges.sampling_rate_hz, reference_edges.sampling_rate_hz
    wave_p = _wave(probe_edges, line, 0.0)
    wave_r = _wave(reference_edges, reference_line, 0.0)
    i, j = _match(wave_p, wave_r, _map_of(fit), MATCH_SAMPLES / min(fs_probe, fs_reference))
    return np.column_stack([wave_p.t[i] + 0.5 / fs_probe, wave_r.t[j] + 0.5 / fs_reference])


def own_pairs(edges: Edges) -> np.ndarray:
    """(n, 2) float64: the sync edges of a stream that is itself the reference, twice (seconds)."""
    samples = np.empty(0) if edges.sync is None else edges.of(edges.sync)[0]
    return np.repeat(samples[:, None] / edges.sampling_rate_hz, 2, axis=1)


def sync_lines(
    edges: Edges, reference_edges: Edges, wired: str | None, own_wired: str | None = None
) -> tuple[str, str]:
    """The lines with the sync wave: of a stream that is to be fitted, and of the reference.

    wired, own_wired: the wiring file's name for the reference's and for the other stream's line, None where
    it has none. It is taken where the stream has that line, unless it is silent and the recording's metadata
    name another; then the metadata's (``Edges.sync``). Where they name none, all lines of a stream are tried,
    and the one pair is taken whose waves repeat alike; of more than one, the one that can be fitted (of
    copies of the wave on the other stream, the first). Raises ``DataError`` with a list of all lines, their
    edges and periods, where that leaves no line of the reference or more than one, or where its named line
    is silent.
    """
    stated = _stated_line(reference_edges, wired)
    own_stated = _stated_line(edges, own_wired)
    if stated is not None and len(reference_edges.of(stated)[0]) < MIN_EDGES:
        raise DataError(
            f"stream {reference_edges.stream}: line {stated} was expected to carry the sync wave, found"
            f" {len(reference_edges.of(stated)[0])} edges on it. {_describe_lines(reference_edges)}. Put the"
            ' line that carries it into the wiring file as "sync", or check the cabling'
        )
    own, reference = (
        [line] if line is not None else list(e.lines)
        for line, e in ((own_stated, edges), (stated, reference_edges))
    )
    pairs = [(a, b) for a in own for b in reference]
    if own_stated is not None and stated is not None:
        return pairs[0]
    alike = [(a, b) for a, b in pairs if _may_be_one_wave(edges, a, reference_edges, b)]
    if len(alike) == 1:
        log.info("the sync wave was found on %s of %s", alike[0][1], reference_edges.stream)
        return alike[0]
    fitting = []
    for a, b in alike:
        try:
            fit_clock(edges, reference_edges, probe=edges.stream, line=a, reference_line=b)
        except DataError as error:
            log.info("%s", error)
        else:
            fitting.append((a, b))
    if len({b for _, b in fitting}) != 1:
        found = " and ".join(f"{a} with {b}" for a, b in fitting) or "none"
        raise DataError(
            f"{edges.stream} and {reference_edges.stream}: expected one pair of lines that carry the same"
            f" sync wave, found {found}. {_describe_lines(edges)}; {_describe_lines(reference_edges)}. Put"
            f' the line of {reference_edges.stream} that carries the sync wave into the wiring file as "sync"'
        )
    log.info("the sync wave was found on %s of %s", fitting[0][1], reference_edges.stream)
    return fitting[0]


def _stated_line(edges: Edges, wired: str | None) -> str | None:
    """The line that the wiring, or else the recording's metadata, name for a stream's sync wave."""
    there = wired in edges.lines
    if wired is None or (there and (edges.sync is None or len(edges.of(wired)[0]) >= MIN_EDGES)):
        return edges.sync if wired is None else wired
    if wired != edges.sync:
        log.log(
            logging.WARNING if there else logging.INFO,
            "the wiring has the sync wave on %s, which %s in %s; %s is taken instead",
            wired,
            "is silent" if there else "is no line",
            edges.stream,
            edges.sync or "the line that fits",
        )
    return edges.sync


def _may_be_one_wave(a: Edges, line_a: str, b: Edges, line_b: str) -> bool:
    """Whether two lines have enough edges, and a period in common, or neither has one."""
    if min(len(a.of(line_a)[0]), len(b.of(line_b)[0])) < MIN_EDGES:
        return False
    tick = 1 / min(a.sampling_rate_hz, b.sampling_rate_hz)
    waves = _wave(a, line_a, 0.0), _wave(b, line_b, 0.0)
    if not any(_is_regular(wave) for wave in waves):
        return True
    return _alike(_period(waves[0]), _period(waves[1]), tick)


def pulse_rate(edges: Edges, line: str) -> tuple[float, bool] | None:
    """The most frequent time between pulses of a line (s), and whether they come at that rate throughout.

    None where it has fewer than MIN_EDGES edges.
    """
    if len(edges.of(line)[0]) < MIN_EDGES:
        return None
    wave = _wave(edges, line, 0.0)
    return _period(wave), _is_regular(wave)


def _describe_lines(edges: Edges) -> str:
    """The lines of a stream with what they carry, for a message."""
    told = []
    for line in edges.lines:
        n = len(edges.of(line)[0])
        told.append(f"{line} ({n} edges{_how_often(_wave(edges, line, 0.0)) if n >= MIN_EDGES else ''})")
    return f"Lines of {edges.stream}: {', '.join(told) or 'none'}"


def _how_often(wave: _Wave) -> str:
    return f", one pulse every {_period(wave):.4g} s" if _is_regular(wave) else ", at irregular times"


def _wave(edges: Edges, line: str, start: float) -> _Wave:
    """The edges of one line in seconds, half a sample early (see the module's docstring)."""
    if line not in edges.lines:
        known = ", ".join(edges.lines) or "none"
        raise DataError(
            f"stream {edges.stream}: no digital line {line} for the sync wave; its lines: {known}; name the"
            ' line that carries the wave as "sync" in the wiring file'
        )
    sample, polarity = edges.of(line)
    if len(sample) < MIN_EDGES:
        raise DataError(
            f"stream {edges.stream}: {len(sample)} edges on line {line}, expected the sync wave (at least"
            f" {MIN_EDGES} edges); check that the wave is connected and the recording long enough"
        )
    fs = edges.sampling_rate_hz
    return _Wave(start + (sample - 0.5) / fs, polarity > 0, start + edges.gaps / fs)


def _common_period(wave_p: _Wave, wave_r: _Wave, names: str, tick: float) -> float:
    """Period of the wave (s) on the reference.

    The two streams' must agree within 1 %: it is a check that they carry the same wave.
    """
    periods = [_period(wave) for wave in (wave_p, wave_r)]
    if not _alike(periods[0], periods[1], tick):
        raise DataError(
            f"{names}: pulses every {periods[0]:.4g} s on the one and every {periods[1]:.4g} s on the other;"
            " expected the same sync wave; check the line named as sync and the cabling"
        )
    return periods[1]


def _alike(a: float, b: float, tick: float) -> bool:
    """Whether two periods (s) agree within 1 %, and the sample by which each may be off."""
    return abs(a - b) <= 0.01 * b + tick


def _period(wave: _Wave) -> float:
    """The most frequent time between edges of one polarity (s).

    Glitches and lost pulses make other intervals, but rarely the same one.
    """
    intervals = np.sort(_intervals(wave))
    low, high = np.searchsorted(intervals, 0.995 * intervals), np.searchsorted(intervals, 1.005 * intervals)
    most = np.argmax(high - low)
    return float(np.median(intervals[low[most] : high[most]]))


def _intervals(wave: _Wave) -> np.ndarray:
    """Seconds between successive edges of one polarity, those of both."""
    return np.concatenate([np.diff(wave.t[wave.rising]), np.diff(wave.t[~wave.rising])])


def _is_regular(wave: _Wave) -> bool:
    """Whether the wave's pulses come at one rate: at least REGULAR_PART of them, for as much of the time.

    That is, in intervals of one to REGULAR_PERIODS periods, so that some pulses may be lost.
    """
    period = _period(wave)
    intervals = _intervals(wave)
    count = np.round(intervals / period)
    even = (count >= 1) & (count <= REGULAR_PERIODS) & (np.abs(intervals - count * period) <= 0.01 * period)
    recorded = np.ptp(wave.t) - np.clip(np.diff(wave.gaps, axis=1), 0, None).sum()
    # Rises and falls each cover the time.
    covered = intervals[even].sum() / 2
    return bool(covered >= REGULAR_PART * recorded and even.mean() >= REGULAR_PART)


def _nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Index into b (ascending, at least two) of the value nearest to each of a.

    The edges of a line alternate, so that any MIN_EDGES in a row hold two of each polarity.
    """
    right = np.clip(np.searchsorted(b, a), 1, len(b) - 1)
    return np.where(a - b[right - 1] <= b[right] - a, right - 1, right)


def _match(wave_p: _Wave, wave_r: _Wave, fitted: _Map, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edges of one polarity that are each other's nearest, within tolerance of the map (s).

    Returns indices into wave_p and wave_r, ascending in the probe's time.
    """
    predicted = wave_p.t + fitted.delta(wave_p.t)
    found_p, found_r = [], []
    for rising in (True, False):
        p, r = np.flatnonzero(wave_p.rising == rising), np.flatnonzero(wave_r.rising == rising)
        there = _nearest(predicted[p], wave_r.t[r])
        back = _nearest(wave_r.t[r], predicted[p])
        near = np.abs(predicted[p] - wave_r.t[r][there]) <= tolerance
        mutual = near & (back[there] == np.arange(len(p)))
        found_p.append(p[mutual])
        found_r.append(r[there[mutual]])
    i, j = np.concatenate(found_p), np.concatenate(found_r)
    order = np.argsort(i)
    return i[order], j[order]


def _off_by(wave_p: _Wave, wave_r: _Wave, fitted: _Map, period: float | None) -> np.ndarray:
    """(n,) seconds from the map to the nearest reference edge of the same polarity, for the probe's edges.

    Modulo the period, within ± half of it, so that a lost edge's neighbour tells the same; NaN where it lies
    more than one and a half periods away, so that the error of the period does not add up. As they are where
    there is no period.
    """
    predicted = wave_p.t + fitted.delta(wave_p.t)
    off = np.empty(len(predicted))
    for rising in (True, False):
        p, r = wave_p.rising == rising, wave_r.t[wave_r.rising == rising]
        off[p] = r[_nearest(predicted[p], r)] - predicted[p]
    if period is None:
        return off
    off[np.abs(off) > 1.5 * period] = np.nan
    return off - period * np.round(off / period)


def _seed(wave_p: _Wave, wave_r: _Wave, rhythm: _Rhythm, names: str) -> _Map:
    """A first line from the stretch of SEED_PERIODS where the waves agree best, modulo the period.

    Agreement: the number of probe edges whose offset to the nearest reference edge (folded to ± half a
    period) lies within the drift allowed across the stretch of the others'. The slope is the median of
    the slopes between all pairs of them (Theil–Sen).
    """
    period, width = rhythm.period, rhythm.width
    unmoved = _Map(np.array([0.0, 1.0]), np.zeros(2))
    inside = (wave_p.t > wave_r.t[0] - period) & (wave_p.t < wave_r.t[-1] + period)
    delta = _off_by(wave_p, wave_r, unmoved, period)
    inside &= np.isfinite(delta)
    t, delta = wave_p.t[inside], delta[inside]
    if len(t) < MIN_EDGES:
        raise DataError(
            f"{names}: by their counts of samples since the acquisition's start, the pulses of the first lie"
            f" at {wave_p.t[0]:.1f} to {wave_p.t[-1]:.1f} s and those of the second at {wave_r.t[0]:.1f} to"
            f" {wave_r.t[-1]:.1f} s: at least {MIN_EDGES} edges must lie in both; check that the files are of"
            " one recording"
        )
    spread = SEED_PPM * 1e-6 * width
    centres = np.linspace(t[0], t[-1], int(np.clip(2 * (t[-1] - t[0]) / width, 1, 200)) + 2)[1:-1]
    best: tuple[np.ndarray, np.ndarray, float] | None = None
    for centre in centres:
        here = slice(*np.searchsorted(t, [centre - width / 2, centre + width / 2]))
        if here.stop - here.start < 2:
            continue
        # Distance on the circle of one period between all offsets of the stretch.
        folded = delta[here][:, None] - delta[here][None, :]
        folded -= period * np.round(folded / period)
        close = np.abs(folded) <= spread
        most = int(np.argmax(close.sum(axis=1)))
        chosen = np.flatnonzero(close[most])
        if best is None or len(chosen) > len(best[0]):
            offsets = delta[here][most] + folded[chosen, most]
            best = t[here][chosen], offsets, float(centre)
    if best is None or len(best[0]) < MIN_EDGES:
        raise DataError(
            f"{names}: no stretch of {width:.0f} s in which the two sync waves agree; check that both lines"
            " carry the same wave"
        )
    at, offsets, centre = best
    a, b = np.triu_indices(len(at), 1)
    apart = np.abs(at[a] - at[b]) > period / 4
    slope = (
        float(np.median((offsets[a] - offsets[b])[apart] / (at[a] - at[b])[apart])) if apart.any() else 0.0
    )
    offset = float(np.median(offsets - slope * (at - centre)))
    offset -= period * np.round(offset / period)
    half = np.array([-width / 2, width / 2])
    return _Map(centre + half, offset + slope * half)


def _pair(
    wave_p: _Wave, wave_r: _Wave, rhythm: _Rhythm, names: str, counted: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    """Pairs of edges (indices into each wave) along the whole recording, few of them wrong.

    And what settled which of several shifts holds: "counters", or the wave's "pattern".
    """
    if rhythm.period is None:
        return _pair_irregular(wave_p, wave_r, rhythm, names, counted)
    seed = _seed(wave_p, wave_r, rhythm, names)
    i, j = _track(wave_p, wave_r, seed, rhythm)
    if len(i) < MIN_EDGES:
        raise DataError(
            f"{names}: only {len(i)} edges of the sync waves match, expected at least {MIN_EDGES}; the lines"
            " do not carry the same wave; check the cabling"
        )
    periods, doubt = _choose_period(wave_p, wave_r, i, j, rhythm, counted)
    if periods:
        i, j = _track(wave_p, wave_r, seed.moved(-periods * rhythm.period), rhythm)
    try:
        shift = _pattern_shift(wave_p, wave_r, i, j, rhythm, names, doubt)
    except DataError:
        if doubt is None:
            raise
        # Pulses that do not come quite at one rate may tell by their intervals.
        try:
            return _pair_irregular(wave_p, wave_r, rhythm, names, counted=False)
        except DataError as error:
            log.info("%s", error)
        raise
    if shift:
        i, j = _track(wave_p, wave_r, seed.moved((shift - periods) * rhythm.period), rhythm)
    return i, j, "counters" if shift is None else "pattern"


def _pair_irregular(
    wave_p: _Wave, wave_r: _Wave, rhythm: _Rhythm, names: str, counted: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    """As ``_pair``, of a wave without a period: the shift at which the edges of both coincide.

    Every shift at which some stretch of the probe's edges coincides with the reference's is followed along
    the recording. Taken is the one that has so many more pairs than any other that chance can't explain it;
    where there is none, of those that none surpasses the one by which the counters started together.
    """
    candidates = []
    for seed in _votes(wave_p, wave_r, rhythm):
        i, j = _track(wave_p, wave_r, seed, rhythm)
        if len(i) < MIN_EDGES:
            continue
        fitted = _fit(wave_p, wave_r, i, j, _most_segments(wave_p, i))
        near = np.abs(_residual(wave_p, wave_r, fitted, i, j)) <= MATCH_SAMPLES * rhythm.tick
        if near.sum() >= MIN_EDGES:
            shared = _shared(wave_p, wave_r, fitted, rhythm)
            missed = min(int(mask.sum()) for mask in shared) - int(near.sum())
            start = float(_fit(wave_p, wave_r, i[near], j[near]).delta(0.0))
            candidates.append((int(near.sum()), max(0, missed), start, i[near], j[near]))
    if not candidates:
        raise DataError(
            f"{names}: the pulses come at irregular times, and no stretch of {rhythm.width:.0f} s of the one"
            " line agrees with any of the other; check that both lines carry the same wave and that the files"
            " are of one recording"
        )
    candidates.sort(key=lambda candidate: -candidate[0])
    best = candidates[0]
    # Two seeds of one shift lead to the same pairs.
    candidates += _own_repeats(wave_p, wave_r, best, rhythm)
    rivals = [other for other in candidates if not _same(other, best) and not _surpasses(best, other)]
    if not rivals:
        if counted and abs(best[2]) > MAX_START_S:
            log.warning(
                "%s: by the pattern of pulses the counters of samples started %.3f s apart", names, best[2]
            )
        return *best[3:], "pattern"
    apart = min(abs(rival[2] - best[2]) for rival in rivals)
    nearest = min([best, *rivals], key=lambda candidate: abs(candidate[2]))
    if not counted or abs(nearest[2]) > MAX_START_PERIODS * apart:
        known = "the streams' counts of samples do not tell" if counted else "firstSample is missing"
        raise DataError(
            f"{names}: the pattern of pulses fits at {len(rivals) + 1} shifts about as well, {apart:.3f} s"
            f" and more apart, and {known} which one holds; restore firstSample in the metadata from the"
            " original recording, or record a longer wave"
        )
    return *nearest[3:], "counters"


def _own_repeats(wave_p: _Wave, wave_r: _Wave, best: tuple, rhythm: _Rhythm) -> list[tuple]:
    """Candidates that differ from the best by shifts at which the reference's wave looks like itself."""
    _, missed, start, i, j = best
    fitted = _fit(wave_p, wave_r, i, j, _most_segments(wave_p, i))
    repeats = []
    for shift in {seed.deltas[0] for seed in _votes(wave_r, wave_r, rhythm)}:
        if abs(shift) > 10 * rhythm.track:
            pairs = _match(wave_p, wave_r, fitted.moved(shift), rhythm.track)
            repeats.append((len(pairs[0]), missed, start + shift, *pairs))
    return repeats


def _same(a: tuple, b: tuple) -> bool:
    """Whether two candidates pair most of their common edges alike."""
    _, at_a, at_b = np.intersect1d(a[3], b[3], return_indices=True)
    return len(at_a) > 0 and bool(np.mean(a[4][at_a] == b[4][at_b]) > 0.5)


def _surpasses(best: tuple, other: tuple) -> bool:
    """Whether chance can't explain that one shift has that many more pairs than another.

    PATTERN_EDGES more, and four standard deviations of the number of edges that either misses.
    """
    return best[0] - other[0] >= PATTERN_EDGES + 4 * np.sqrt(best[1] + other[1])


def _votes(wave_p: _Wave, wave_r: _Wave, rhythm: _Rhythm) -> list[_Map]:
    """Shifts at which some stretch of the probe's edges coincides with the reference's, as first lines.

    Of VOTING_STRETCHES stretches of VOTING_EDGES edges, in which drift moves an edge by less than a quarter
    of the briefest intervals. In each, the shifts that most of its edges have in common with some edge of
    the reference, up to VOTED_SHIFTS of them.
    """
    by_polarity = [wave_r.t[wave_r.rising == rising] for rising in (False, True)]
    n_edges = int(np.clip(MAX_DIFFERENCES / len(wave_r.t), 2 * MIN_EDGES, VOTING_EDGES))
    longest = 10 * rhythm.track / 4 / (MAX_PPM * 1e-6)
    seeds: list[tuple[int, float, float]] = []
    starts = np.linspace(0, max(0, len(wave_p.t) - n_edges), VOTING_STRETCHES).astype(int)
    for start in np.unique(starts):
        stop = min(start + n_edges, int(np.searchsorted(wave_p.t, wave_p.t[start] + longest)))
        if stop - start < MIN_EDGES:
            continue
        t, rising = wave_p.t[start:stop], wave_p.rising[start:stop]
        spread = MAX_PPM * 1e-6 * (t[-1] - t[0]) + 2 * rhythm.tick
        shifts = np.sort(
            np.concatenate(
                [(by_polarity[int(up)][None, :] - t[rising == up][:, None]).ravel() for up in (0, 1)]
            )
        )
        votes = np.searchsorted(shifts, shifts + spread, side="right") - np.arange(len(shifts))
        for _ in range(VOTED_SHIFTS):
            # Of as many votes the one of the least shift.
            most = int(np.argmax(votes - 1e-9 * np.abs(shifts)))
            if votes[most] < max(MIN_EDGES, 0.4 * (stop - start)):
                break
            shift = float(np.median(shifts[most : most + votes[most]]))
            seeds.append((int(votes[most]), float(t.mean()), shift))
            votes[
                np.searchsorted(shifts, shift - 2 * spread) : np.searchsorted(shifts, shift + 2 * spread)
            ] = 0
    seeds.sort(reverse=True)
    kept: list[tuple[int, float, float]] = []
    for seed in seeds:
        if all(
            abs(seed[2] - k[2]) > 2 * MAX_PPM * 1e-6 * abs(seed[1] - k[1]) + 10 * rhythm.track for k in kept
        ):
            kept.append(seed)
    half = np.array([-1, 1]) * rhythm.width / 2
    return [_Map(at + half, np.full(2, shift)) for _, at, shift in kept[:MAX_CANDIDATES]]


def _track(wave_p: _Wave, wave_r: _Wave, seed: _Map, rhythm: _Rhythm) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edges on a local line, followed from the seed's to both ends of the probe's wave.

    The line is fitted to the edges on both sides of its front, as far as it moves on at a time: at first
    half the seed's width, doubled up to SEGMENT_S. Across a pause of the wave it goes straight on.
    """
    centre = seed.knots.mean()
    found = []
    for direction in (-1, 1):
        local, front, step = seed, centre, rhythm.width / 2
        while wave_p.t[0] <= front <= wave_p.t[-1]:
            low, high = np.searchsorted(wave_p.t, [front - step, front + step])
            part_p = _Wave(wave_p.t[low:high], wave_p.rising[low:high])
            near = front + local.delta(front) + np.array([-1, 1]) * (step + 4 * rhythm.slack)
            low_r, high_r = np.searchsorted(wave_r.t, near)
            part_r = _Wave(wave_r.t[low_r:high_r], wave_r.rising[low_r:high_r])
            if min(len(part_p.t), len(part_r.t)) >= MIN_EDGES:
                local, i, j = _refine(part_p, part_r, local, rhythm.track, rhythm.tick)
                ahead = direction * (part_p.t[i] - front) >= 0
                found.append((i[ahead] + low, j[ahead] + low_r))
            front += direction * step
            step = min(2 * step, max(SEGMENT_S, rhythm.width))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    i, j = (np.concatenate(indices) for indices in zip(*found, strict=True))
    i, first = np.unique(i, return_index=True)
    return i, j[first]


def _refine(
    wave_p: _Wave, wave_r: _Wave, line: _Map, tolerance: float, tick: float
) -> tuple[_Map, np.ndarray, np.ndarray]:
    """The line through the edges that match within tolerance, outliers left out until none is left.

    Returns the line and its pairs; the line as it was, and no pairs, where fewer than MIN_EDGES match.
    """
    i, j = _match(wave_p, wave_r, line, tolerance)
    if len(i) < MIN_EDGES:
        return line, i[:0], j[:0]
    keep = np.ones(len(i), dtype=bool)
    for _ in range(10):
        residual = _residual(wave_p, wave_r, line, i, j)
        residual -= np.median(residual[keep])
        limit = max(MATCH_SAMPLES * tick, 4 * 1.4826 * np.median(np.abs(residual[keep])))
        new = np.abs(residual) <= limit
        if new.sum() < MIN_EDGES:
            return line, i[:0], j[:0]
        line = _fit(wave_p, wave_r, i[new], j[new])
        if np.array_equal(new, keep):
            break
        keep = new
    return line, i[keep], j[keep]


def _fit(wave_p: _Wave, wave_r: _Wave, i: np.ndarray, j: np.ndarray, segments: int = 1) -> _Map:
    """Least-squares continuous line of straight segments, each with as many of the matched edges.

    segments: how many, from two on with those that pauses ask for (see ``_knots``). Its knots' deltas are the
    unknowns: an edge between two of them weighs on both, by its nearness.
    """
    t, delta = wave_p.t[i], wave_r.t[j] - wave_p.t[i]
    knots = _knots(t, segments)
    k, before, after = _weights(knots, t)
    observed = np.bincount(k, before * delta, len(knots)) + np.bincount(k + 1, after * delta, len(knots))
    return _Map(knots, np.linalg.solve(_normal(knots, t), observed))


def _weights(knots: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment of each t, and its weights on the knots before and after it, (n,) each."""
    k = np.searchsorted(knots[1:-1], t, side="right")
    after = (t - knots[k]) / (knots[k + 1] - knots[k])
    return k, 1 - after, after


def _normal(knots: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(k, k) matrix of the normal equations of a continuous line through the knots, of edges at t."""
    k, before, after = _weights(knots, t)
    both = np.bincount(k, before * after, len(knots) - 1)
    own = np.bincount(k, before**2, len(knots)) + np.bincount(k + 1, after**2, len(knots))
    return np.diag(own) + np.diag(both, 1) + np.diag(both, -1)


def _knots(t: np.ndarray, segments: int) -> np.ndarray:
    """Knots of a line through edges at t (s, ascending): its ends, and where the segments meet.

    Between edges that are more than SEGMENT_S apart a segment lies alone, since the clocks' rates may change
    as much there as in segments elsewhere. Each stretch between such pauses has its share of the segments, at
    least one; where it is too short for one, a single knot, at its middle.
    """
    pauses = np.flatnonzero(np.diff(t) > SEGMENT_S) + 1
    if segments == 1 or not len(pauses):
        return t[np.linspace(0, len(t) - 1, segments + 1).round().astype(int)]
    knots = []
    for here in np.split(t, pauses):
        most = int(min((here[-1] - here[0]) / SEGMENT_S, len(here) / SEGMENT_EDGES))
        if most < 1:
            knots.append(here.mean(keepdims=True))
            continue
        share = min(most, max(1, round(segments * len(here) / len(t))))
        knots.append(here[np.linspace(0, len(here) - 1, share + 1).round().astype(int)])
    return np.concatenate(knots)


def _residual(wave_p: _Wave, wave_r: _Wave, fitted: _Map, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Seconds by which each matched reference edge is later than the map says."""
    return wave_r.t[j] - wave_p.t[i] - fitted.delta(wave_p.t[i])


def _rms(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def _most_segments(wave_p: _Wave, i: np.ndarray) -> int:
    """How many segments the matched edges allow."""
    return int(max(1, min((wave_p.t[i[-1]] - wave_p.t[i[0]]) / SEGMENT_S, len(i) / SEGMENT_EDGES)))


def _fewest_segments(
    wave_p: _Wave,
    wave_r: _Wave,
    i: np.ndarray,
    j: np.ndarray,
    rhythm: _Rhythm,
    close: float,
    start_probe: float,
    names: str,
) -> tuple[_Map, np.ndarray, np.ndarray]:
    """The map of the fewest segments that follows the wave, and its pairs.

    Of those that do, the first that a finer map differs from by less than close (s, rms) or by noise only;
    where there is none, the first. Raises ``DataError`` where none follows the wave.
    """
    most = _most_segments(wave_p, i)
    first = None
    for segments in 2 ** np.arange(int(np.log2(most)) + 1):
        settled = fitted, matched_p, matched_r = _settle(wave_p, wave_r, i, j, segments, rhythm.tick)
        misfit = _misfit(wave_p, wave_r, fitted, matched_p, matched_r, rhythm, start_probe)
        if misfit:
            continue
        # Four times, because a bend that is odd about the middle does not show with twice as many.
        finer = _settle(wave_p, wave_r, i, j, min(4 * segments, most), rhythm.tick)[0]
        t = wave_p.t[matched_p]
        scatter = _rms(_residual(wave_p, wave_r, finer, matched_p, matched_r))
        noise = scatter * np.sqrt(len(finer.knots) / len(t))
        if _rms(finer.delta(t) - fitted.delta(t)) < max(close, 2 * noise):
            return settled
        first = first or settled
    if first is None:
        raise DataError(f"{names}: {misfit}{CROOKED}")
    return first


def _settle(
    wave_p: _Wave, wave_r: _Wave, i: np.ndarray, j: np.ndarray, segments: int, tick: float
) -> tuple[_Map, np.ndarray, np.ndarray]:
    """Fit the pairs, then the edges within MATCH_SAMPLES of the map until the same ones are matched again."""
    fitted = _fit(wave_p, wave_r, i, j, segments)
    for _ in range(20):
        before = i
        i, j = _match(wave_p, wave_r, fitted, MATCH_SAMPLES * tick)
        if np.array_equal(i, before) or len(i) < MIN_EDGES * segments:
            break
        fitted = _fit(wave_p, wave_r, i, j, segments)
    return fitted, i, j


def _shared(wave_p: _Wave, wave_r: _Wave, fitted: _Map, rhythm: _Rhythm) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the edges of each wave that lie in the time that both waves cover, but not in a gap."""
    predicted = wave_p.t + fitted.delta(wave_p.t)
    low = max(predicted[0], wave_r.t[0]) - rhythm.slack
    high = min(predicted[-1], wave_r.t[-1]) + rhythm.slack
    shared_p, shared_r = (predicted >= low) & (predicted <= high), (wave_r.t >= low) & (wave_r.t <= high)
    shared_p &= ~_within(predicted, wave_r.gaps, rhythm.track)
    shared_r &= ~_within(wave_r.t, wave_p.gaps + fitted.delta(wave_p.gaps), rhythm.track)
    return shared_p, shared_r


def _within(t: np.ndarray, gaps: np.ndarray, slack: float) -> np.ndarray:
    """(n,) bool: whether each of t (s) lies in one of the gaps, or within slack of it."""
    k = np.searchsorted(gaps[:, 0], t + slack, side="right") - 1
    return (k >= 0) & (t < np.append(gaps[:, 1], -np.inf)[k] + slack)


def _without_partner(wave_p: _Wave, wave_r: _Wave, fitted: _Map, rhythm: _Rhythm) -> tuple[int, int]:
    """Edges without partner, and all edges, of the time that both waves cover."""
    shared_p, shared_r = _shared(wave_p, wave_r, fitted, rhythm)
    total = int(shared_p.sum() + shared_r.sum())
    i, j = _match(wave_p, wave_r, fitted, rhythm.track)
    shared_p[i] = shared_r[j] = False
    return int(shared_p.sum() + shared_r.sum()), total


def _choose_period(
    wave_p: _Wave, wave_r: _Wave, i: np.ndarray, j: np.ndarray, rhythm: _Rhythm, counted: bool
) -> tuple[int, str | None]:
    """By how many whole periods the pairs are off those by which the counters (or files) started together.

    And why that is in doubt, None where it is not: where the counters' start lies too far from any choice.
    Before the first edge the rate may have been another by MAX_WANDER_PPM.
    """
    period = rhythm.period
    line = _fit(wave_p, wave_r, i, j)
    at_zero = float(line.delta(0.0))
    periods = int(np.round(at_zero / period))
    if not counted:
        return periods, (
            "firstSample is missing from a meta file, and the sync wave repeats itself: the streams could be"
            f" shifted by any multiple of {period:.4g} s; restore firstSample in the meta file from the"
            " original recording"
        )
    t = wave_p.t[i]
    error = 3 * rhythm.tick * np.sqrt(1 / len(t) + t.mean() ** 2 / np.sum((t - t.mean()) ** 2))
    error += MAX_WANDER_PPM * 1e-6 * t[0]
    off = abs(at_zero - periods * period)
    if off + error <= MAX_START_PERIODS * period:
        return periods, None
    return periods, (
        f"the sync wave repeats every {period:.4g} s, and by their counts of samples (firstSample) the two"
        f" streams started {off:.3f} ± {error:.3f} s off a whole number of periods; expected below"
        f" {MAX_START_PERIODS * period:.3f} s, so it is not certain which pulses belong together: they could"
        f" be shifted by any multiple of {period:.4g} s; check firstSample in both meta files"
    )


def _pattern_shift(
    wave_p: _Wave,
    wave_r: _Wave,
    i: np.ndarray,
    j: np.ndarray,
    rhythm: _Rhythm,
    names: str,
    doubt: str | None,
) -> int | None:
    """By how many more periods the pairs must be moved for the pattern of lost and sent pulses to agree.

    None where the counters settle it (doubt None) and the pattern has nothing against it. Raises
    ``DataError`` where neither settles it.
    """
    period = rhythm.period
    fitted = _fit(wave_p, wave_r, i, j, _most_segments(wave_p, i))
    reach = int(min(PATTERN_PERIODS, 1 + (np.ptp(wave_r.t) + np.ptp(wave_p.t)) / period))
    shifts = np.arange(-reach, reach + 1)
    alone = _alone_part(wave_p, wave_r, fitted, shifts * period, rhythm)

    def count(shift: int) -> tuple[int, int] | None:
        """None where the waves have too little time in common to tell anything."""
        known = _without_partner(wave_p, wave_r, fitted.moved(shift * period), rhythm)
        return known if known[1] >= 1.5 * min(len(wave_p.t), len(wave_r.t)) else None

    if doubt is None:
        chosen = _without_partner(wave_p, wave_r, fitted, rhythm)
        near = (np.abs(shifts) <= 10) | (alone < 0.5 * alone[reach])
        counts = {int(shift): count(shift) for shift in shifts[near]}
        counts = {shift: known for shift, known in counts.items() if known is not None and shift}
        if not any(_decides(other, chosen) for other in counts.values()):
            return None
        best = min(counts, key=lambda shift: counts[shift][0] / counts[shift][1])
        others = [other for shift, other in counts.items() if shift != best]
        if _decides_all(counts[best], [chosen, *others]):
            log.warning(
                "%s: by the counts of samples (firstSample) %d of %d edges of the sync wave have no partner,"
                " moved by %.4g s only %d: the counts contradict the wave, which is followed",
                names,
                *chosen,
                best * period,
                counts[best][0],
            )
            return best
        raise DataError(
            f"{names}: by the counts of samples (firstSample) {chosen[0]} of {chosen[1]} edges of the sync"
            f" wave have no partner, moved by {best * period:.4g} s only {counts[best][0]}, and about as few"
            " moved otherwise: the counts contradict the wave; check firstSample in both meta files"
        )
    # The likeliest first, so that a wave that only repeats itself is given up at once.
    order = shifts[np.argsort(alone, kind="stable")]
    best = int(order[0])
    least = count(best)
    others = (other for other in map(count, order[1:].tolist()) if other is not None)
    if least is None or not _decides_all(least, others):
        raise DataError(f"{names}: {doubt}")
    return best


def _decides_all(better: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    """Whether the pattern settles it against each of at least one other shift."""
    any_other = False
    for other in others:
        any_other = True
        if not _decides(better, other):
            return False
    return any_other


def _alone_part(
    wave_p: _Wave, wave_r: _Wave, fitted: _Map, shifts: np.ndarray, rhythm: _Rhythm
) -> np.ndarray:
    """(n,) share of the probe's edges without a reference edge near, at each of the shifts (s).

    Of SCREENED_EDGES of them, in the reference's time; 1 where fewer than half of them lie there.
    """
    some = np.unique(np.linspace(0, len(wave_p.t) - 1, SCREENED_EDGES).astype(int))
    n_inside, n_near = np.zeros(len(shifts)), np.zeros(len(shifts))
    for rising in (True, False):
        mine = some[wave_p.rising[some] == rising]
        r = wave_r.t[wave_r.rising == rising]
        predicted = (wave_p.t[mine] + fitted.delta(wave_p.t[mine]))[None, :] + shifts[:, None]
        inside = (predicted >= wave_r.t[0] - rhythm.slack) & (predicted <= wave_r.t[-1] + rhythm.slack)
        near = np.abs(r[_nearest(predicted, r)] - predicted) <= rhythm.track
        n_inside += inside.sum(axis=1)
        n_near += (inside & near).sum(axis=1)
    return np.where(n_inside >= max(MIN_EDGES, len(some) / 2), 1 - n_near / np.maximum(n_inside, 1), 1.0)


def _decides(better: tuple[int, int], worse: tuple[int, int]) -> bool:
    """Whether the pattern of pulses settles which of two shifts holds.

    better, worse: edges without partner and all edges at the two shifts.
    """
    return worse[0] >= PATTERN_EDGES and better[0] / better[1] <= PATTERN_RATIO * worse[0] / worse[1]


def _shifted(
    wave_p: _Wave,
    wave_r: _Wave,
    fitted: _Map,
    alone_p: np.ndarray,
    alone_r: np.ndarray,
    matched: np.ndarray,
) -> tuple[float, float] | None:
    """Where edges of an irregular wave that have no partner would have one if moved: (from, by), seconds.

    That is a loss of samples, after which the pattern goes on at another shift: at least half of up to
    SHIFTED_GROUP consecutive edges, and at least six, have one shift within SHIFTED_SPREAD_S in common with
    such edges of the reference up to SHIFTED_REACH_S away. At either end, where fewer are left to compare,
    already three edges of both streams beyond all matched ones.
    """
    t = wave_p.t[alone_p]
    predicted = t + fitted.delta(t)
    rising, t_r, rising_r = wave_p.rising[alone_p], wave_r.t[alone_r], wave_r.rising[alone_r]
    ends = matched[[0, -1]]
    ends_r = ends + fitted.delta(ends)
    for own, other in ((t < ends[0], t_r < ends_r[0]), (t > ends[1], t_r > ends_r[1])):
        if min(own.sum(), other.sum()) >= SHIFTED_EDGES:
            return float(t[own][0]), float(t_r[other][0] - predicted[own][0])
    for first in range(0, max(1, len(t) - SHIFTED_GROUP // 2), SHIFTED_GROUP // 2):
        group = slice(first, first + SHIFTED_GROUP)
        shifts = t_r[None, :] - predicted[group][:, None]
        shifts = np.sort(
            shifts[(rising_r[None, :] == rising[group][:, None]) & (np.abs(shifts) <= SHIFTED_REACH_S)]
        )
        if not len(shifts):
            continue
        common = np.searchsorted(shifts, shifts + SHIFTED_SPREAD_S, side="right") - np.arange(len(shifts))
        most = int(np.argmax(common))
        if common[most] >= max(6, len(t[group]) / 2):
            return float(t[first]), float(shifts[most])
    return None


def _misfit(
    wave_p: _Wave,
    wave_r: _Wave,
    fitted: _Map,
    i: np.ndarray,
    j: np.ndarray,
    rhythm: _Rhythm,
    start_probe: float,
) -> str | None:
    """What is wrong with the map; None where it follows the wave everywhere."""
    tick = rhythm.tick
    shared_p, shared_r = _shared(wave_p, wave_r, fitted, rhythm)
    fewest = min(shared_p.sum(), shared_r.sum())
    if len(i) < MIN_EDGES or len(i) < MIN_MATCHED_FRACTION * fewest:
        return (
            f"only {len(i)} of {fewest} edges of the sync wave match, expected at least {MIN_EDGES} and"
            f" {MIN_MATCHED_FRACTION:.0%} of them; check that both lines carry the same wave"
        )
    residual = _residual(wave_p, wave_r, fitted, i, j)
    rms = _rms(residual)
    if rms > MAX_RMS_SAMPLES * tick:
        return (
            f"the matched edges scatter by {rms * 1e6:.1f} µs (rms) around the fitted line, expected below"
            f" {MAX_RMS_SAMPLES * tick * 1e6:.1f} µs; check the cabling of the sync wave"
        )
    off = _off_by(wave_p, wave_r, fitted, rhythm.period)
    alone, alone_r = shared_p.copy(), shared_r
    alone[i] = alone_r[j] = False
    if rhythm.period is None:
        shifted = _shifted(wave_p, wave_r, fitted, alone, alone_r, wave_p.t[i])
        if shifted is not None:
            return (
                f"from {shifted[0] - start_probe:.1f} s the sync wave lies {shifted[1] * 1e3:+.3f} ms off the"
                " fitted line"
            )
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], alone.astype(np.int8), [0]])))
    for first, stop in bounds.reshape(-1, 2):
        for at in range(first, stop - SHIFTED_EDGES + 1):
            some = off[at : at + SHIFTED_EDGES]
            if np.ptp(some) < SHIFTED_SPREAD_S and abs(np.median(some)) > MATCH_SAMPLES * tick:
                return (
                    f"from {wave_p.t[at] - start_probe:.1f} s the sync wave lies"
                    f" {np.median(some) * 1e3:+.3f} ms (or that and whole periods) off the fitted line"
                )
    rate = len(i) / (wave_p.t[i[-1]] - wave_p.t[i[0]])
    for size, statistic, limit in (
        (max(LOCAL_EDGES, int(rate * LOCAL_S)), np.mean, MAX_LOCAL_SAMPLES),
        (max(FEW_EDGES, int(rate * FEW_S)), np.median, MAX_FEW_SAMPLES),
    ):
        starts = np.unique(np.append(np.arange(0, max(1, len(i) - size), size // 2), max(0, len(i) - size)))
        local = np.array([statistic(residual[start : start + size]) for start in starts])
        worst = int(np.argmax(np.abs(local)))
        if abs(local[worst]) > limit * tick:
            return (
                f"around {wave_p.t[i][starts[worst]] - start_probe:.1f} s the sync wave lies"
                f" {local[worst] * 1e6:+.0f} µs off the fitted line, expected below"
                f" {limit * tick * 1e6:.0f} µs"
            )
    return None


def _check_drift(fitted: _Map, matched: np.ndarray, rms: float, box: float, names: str) -> None:
    """Refuse where the clocks' rates change against each other faster or farther than crystals do.

    By what is certain of it: three standard errors, which scattered edges (matched (n,) s, rms s) leave to
    the slopes of short segments, are taken off; and half of what quantisation (box s at most) may do where it
    does not average out.
    """
    centres = 0.5 * (fitted.knots[2:] - fitted.knots[:-2])
    if not len(centres):
        return
    # The covariance of the knots' deltas is that of the normal equations; slopes are linear in them.
    spread = np.linalg.inv(_normal(fitted.knots, matched))
    widths = np.diff(fitted.knots)
    slope = np.zeros((len(widths), len(fitted.knots)))
    slope[np.arange(len(widths)), np.arange(len(widths))] = -1 / widths
    slope[np.arange(len(widths)), np.arange(len(widths)) + 1] = 1 / widths
    bend = np.diff(slope, axis=0) / centres[:, None]
    uncertain = 3 * rms * np.sqrt(np.einsum("ij,jk,ik->i", bend, spread, bend))
    uncertain += 0.5 * box / centres**2
    per_minute = float((np.abs(np.diff(fitted.slopes)) / centres - uncertain).max() * 60e6)
    fastest, slowest = int(np.argmax(fitted.slopes)), int(np.argmin(fitted.slopes))
    apart = slope[fastest] - slope[slowest]
    wander = float(np.ptp(fitted.slopes) - 3 * rms * np.sqrt(apart @ spread @ apart)) * 1e6
    if per_minute > MAX_PPM_PER_MINUTE or wander > MAX_WANDER_PPM:
        raise DataError(
            f"{names}: the clocks' rates change against each other by up to {per_minute:.1f} ppm in a minute"
            f" and by {wander:.1f} ppm in all, expected below {MAX_PPM_PER_MINUTE:.0f} and"
            f" {MAX_WANDER_PPM:.0f} ppm{CROOKED}"
        )


def _bound(
    matched: np.ndarray,
    residual: np.ndarray,
    fitted: _Map,
    probe_edges: Edges,
    fs_reference: float,
    start_probe: float,
    limit: float,
    names: str,
) -> float:
    """A bound (s) on the map's error at any time that the probe recorded.

    matched: the probe's matched edges (n,) s; residual: of each, from the map. ``DataError`` where the bound
    exceeds the limit (s). Three parts:

    * Between edges. An edge lies within the sample before the one it was seen at, on both streams: half a
      sample of each around the observed time. In a stretch of SEGMENT_S the map's error is a line, but for
      what the rate may change, and the edges leave only such lines as pass all of them that near. This holds
      too where the wave is locked to the samples, and no average tells (``_left_open``).
    * In a pause between edges a and b a straight line is off by at most change / 2 * (t - a) * (b - t), so
      most in the middle, or where that lies in a gap of the probe at one of the gap's ends.
    * At the ends, beyond the edges: three standard errors of the line through the edges of the first or last
      segment, and what a change of the rate by MAX_PPM_PER_MINUTE bends the clock.

    The change that is reckoned with in a pause, whose both sides are known: see ``_rate_change``.
    """
    fs = probe_edges.sampling_rate_hz
    inside = _inside(matched, residual, 0.5 / fs + 0.5 / fs_reference)
    found = [
        (inside, "the matched edges scatter, which leaves the map", "check the cabling of the sync wave"),
        _at_ends(matched, residual, fitted, probe_edges, fs_reference, start_probe, inside),
    ]
    gaps = start_probe + probe_edges.gaps / fs
    for pause in np.flatnonzero(np.diff(matched) > PAUSE_S):
        a, b = matched[pause], matched[pause + 1]
        middle = np.array([(a + b) / 2])
        recorded = np.append(gaps.ravel(), middle[~_within(middle, gaps, 0.0)])
        bend = _rate_change(fitted, matched, b - a) / 2 * (recorded - a) * (b - recorded)
        what = (
            f"no edges match from {a - start_probe:.1f} s on for {b - a:.1f} s, which leaves the time between"
        )
        todo = "record the sync wave throughout, and put back any file of the reference that is missing"
        found.append((inside + float(bend.max(initial=0.0)), what, todo))
    worst, what, todo = max(found)
    if worst > limit:
        raise DataError(
            f"{names}: {what} uncertain by {worst * 1e6:.0f} µs; expected below {limit * 1e6:.0f} µs; {todo},"
            " or allow more"
        )
    return worst


def _at_ends(
    matched: np.ndarray,
    residual: np.ndarray,
    fitted: _Map,
    probe_edges: Edges,
    fs_reference: float,
    start_probe: float,
    inside: float,
) -> tuple[float, str, str]:
    """The bound at the file's first and last sample, and what to say of it; see ``_bound``."""
    fs = probe_edges.sampling_rate_hz
    file_s = probe_edges.n_samples / fs
    sigma = max(_rms(residual), np.sqrt((1 / fs**2 + 1 / fs_reference**2) / 12))
    segment = fitted.segment(matched)
    worst = inside
    # A stretch between pauses may hold but a few edges: then its neighbours' count too.
    first, last = (max(MIN_EDGES, int((segment == end).sum())) for end in (0, segment[-1]))
    for end, here in ((start_probe, matched[:first]), (start_probe + file_s, matched[-last:])):
        outside = float(np.abs(end - here).min())
        spread = np.sum((here - here.mean()) ** 2)
        error = 3 * sigma * np.sqrt(1 / len(here) + (end - here.mean()) ** 2 / spread)
        bend = MAX_PPM_PER_MINUTE / 60e6 / 2 * outside**2
        worst = max(worst, max(inside, error) + bend)
    what = (
        f"{len(matched)} matched edges between {matched[0] - start_probe:.1f} and"
        f" {matched[-1] - start_probe:.1f} s of a file of {file_s:.1f} s leave its ends"
    )
    return worst, what, "record the sync wave throughout"


def _inside(matched: np.ndarray, residual: np.ndarray, box: float) -> float:
    """The largest error (s) that the edges leave to the map between them; see ``_bound``.

    box: by how much quantisation displaces an edge at most.
    """
    bend = MAX_PPM_PER_MINUTE / 60e6 / 8
    last = max(matched[0], matched[-1] - SEGMENT_S)
    begins = np.append(np.arange(matched[0], last, SEGMENT_S / 2), last)
    worst = 0.0
    for begin in begins:
        start, stop = np.searchsorted(matched, [begin, begin + SEGMENT_S + 1e-6])
        stop = min(len(matched), max(stop, start + SEGMENT_EDGES))
        here = slice(min(start, max(0, stop - SEGMENT_EDGES)), stop)
        t, off = matched[here], residual[here]
        # Halves overlap: of each stretch only the middle is asked for, but of the first and the last.
        at = t[0] + np.ptp(t) * np.array(
            [0.0 if begin == begins[0] else 0.25, 1.0 if begin == last else 0.75]
        )
        slack = bend * min(SEGMENT_S, np.ptp(t)) ** 2
        worst = max(worst, _left_open(t, off, box + slack / 2, at) + slack / 2)
    return float(worst)


def _left_open(t: np.ndarray, off: np.ndarray, box: float, at: np.ndarray) -> float:
    """How far (s) any line that passes all edges within the box can be from zero at two times.

    t, off: (n,) s. Where no line does, since edges were displaced by more than their quantisation, the box is
    widened by twice of what lacks, up to twice its size; beyond that three standard errors of the ends of the
    line through the edges.
    """
    width = max(np.ptp(t), 1e-9)
    x = (t - t.mean()) / width
    rate, level = np.polyfit(x, off, 1)
    # Of many edges the outermost of each sixtieth: fewer conditions leave more open, never less.
    part = np.minimum(((t - t[0]) / width * 60).astype(int), 59)
    order = np.lexsort((off - rate * x, part))
    first = np.flatnonzero(np.diff(part[order], prepend=-1))
    outer = np.unique(np.append(order[first], order[np.append(first[1:], len(order)) - 1]))
    # Lines that pass both ends within the box, or twice of it, differ by at most four or eight boxes in rate.
    rates = rate + box * np.linspace(-8, 8, 801)
    levels = off[outer] - rates[:, None] * x[outer]
    lowest, highest = levels.max(axis=1) - box, levels.min(axis=1) + box
    lacks = max(0.0, float((lowest - highest).min()) / 2)
    if lacks > box / 2:
        scatter = np.std(off - level - rate * x)
        return float(abs(level) + abs(rate) / 2 + 6 * scatter / np.sqrt(len(t)))
    lowest, highest = lowest - 2 * lacks, highest + 2 * lacks
    possible = lowest <= highest
    ends = rates[possible, None] * (at - t.mean()) / width
    return float(
        max(
            np.abs(lowest[possible, None] + ends).max(),
            np.abs(highest[possible, None] + ends).max(),
        )
    )


def _rate_change(fitted: _Map, matched: np.ndarray, length: float) -> float:
    """How much the clocks' rates are taken to change against each other (per second) in a pause.

    MAX_PPM_PER_MINUTE. Where the edges cover at least MEASURED_S and three times the pause
    (length, s), three times the fastest change between the map's segments, at least LEAST_PPM_PER_MINUTE:
    clocks that have been steady, or have drifted slowly, are taken to go on so.
    """
    lengths = np.diff(matched)
    measured = float(lengths[lengths <= SEGMENT_S].sum())
    if measured < max(MEASURED_S, 3 * length):
        return MAX_PPM_PER_MINUTE / 60e6
    change = np.abs(np.diff(fitted.slopes)) / (0.5 * (fitted.knots[2:] - fitted.knots[:-2]))
    observed = 3 * change.max(initial=0.0)
    return float(np.clip(observed, LEAST_PPM_PER_MINUTE / 60e6, MAX_PPM_PER_MINUTE / 60e6))
