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

Bounds. Drift is slow, a loss of samples is sudden: the clocks' rates must agree within MAX_PPM, and change
against each other by less than MAX_PPM_PER_MINUTE from segment to segment and MAX_WANDER_PPM in all. The
residuals' means over LOCAL_S must be below MAX_LOCAL_SAMPLES, their medians over FEW_S below MAX_FEW_SAMPLES.
Where there are no edges (pauses of the wave, the ends of the file) the rate may change by MAX_PPM_PER_MINUTE,
and the error that follows must be below one sample wherever the probe recorded: a pause of two minutes, or
somewhat less than one at the ends; a gap of the probe itself may be of any length. What exceeds a bound is
refused with a ``DataError``, since the map could be off by more than one sample of the slower stream (two
for a loss of two or three samples, which hides in the quantisation of the edges beside it).

Where the wave and both clocks keep step within about 1 ppm, the edges fall on one fraction of a sample for
minutes, quantisation does not average out, and the error may exceed one sample by some tenths.

What the fit cannot see, because the wave repeats itself: counters that started more than 0.7 periods apart,
and a loss of samples that lasts a whole number of periods; and, for want of edges, a loss in the first or
last two periods of the time both record.

An edge is seen at the first sample after it, on average half a sample late. The fit takes half a sample off
both sides, so that streams of different rates (30 kHz and a slower NIDQ) are not skewed by it.
"""

from __future__ import annotations

import logging
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
    )


def fit_clock(
    probe_edges: Edges,
    reference_edges: Edges,
    *,
    probe: str,
    line: str = SYNC_LINE,
    reference_line: str = SYNC_LINE,
) -> ClockFit:
    """Fit the probe's clock to the reference's, as few straight segments as will do, from their sync lines.

    probe: name of the probe, or of the DAQ stream, whose edges probe_edges are. line, reference_line: the
    line of each with the sync wave. The reference's time zero is its first sample. Residuals are those of the
    matched edges. n_unmatched counts the edges of either stream, in the time both cover, that have no
    partner. Raises ``DataError`` wherever the result could be wrong by more than one sample (of the slower
    stream); the module's docstring says what it cannot notice.
    """
    names = f"{probe_edges.stream} ({line}) and {reference_edges.stream} ({reference_line})"
    fs_probe, fs_reference = probe_edges.sampling_rate_hz, reference_edges.sampling_rate_hz
    tick = 1 / min(fs_probe, fs_reference)
    counted = probe_edges.first_sample is not None and reference_edges.first_sample is not None
    start_probe = probe_edges.first_sample / fs_probe if counted else 0.0
    start_reference = reference_edges.first_sample / fs_reference if counted else 0.0
    wave_p = _wave(probe_edges, line, start_probe)
    wave_r = _wave(reference_edges, reference_line, start_reference)
    period = _common_period(wave_p, wave_r, names, tick)

    i, j = _pair(wave_p, wave_r, period, tick, names, counted)
    close = MAX_BEND_SAMPLES / max(fs_probe, fs_reference)
    fitted, i, j = _fewest_segments(wave_p, wave_r, i, j, period, tick, close, start_probe, names)
    straight = _fit(wave_p, wave_r, i, j)
    rate = float(straight.slopes[0])
    if abs(rate) > MAX_PPM * 1e-6:
        raise DataError(
            f"{names}: the clocks' rates differ by {rate * 1e6:.0f} ppm, expected below {MAX_PPM:.0f};"
            " check the sampling rates in the meta files"
        )
    residual = _residual(wave_p, wave_r, fitted, i, j)
    rms = _rms(residual)
    _check_drift(fitted, names)
    _check_reach(wave_p.t[i], fitted, rms, probe_edges, fs_reference, start_probe, tick, names)

    shared_p, shared_r = _shared(wave_p, wave_r, fitted, period)
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
    )
    log.info(
        "%s: %d edges, %+.2f ppm, %d segments, rms %.1f µs",
        names,
        fit.n_edges,
        rate * 1e6,
        len(fitted.slopes),
        fit.rms_us,
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


def sync_lines(edges: Edges, reference_edges: Edges, wired: str) -> tuple[str, str]:
    """The lines with the sync wave: of a stream that is to be fitted, and of the reference.

    wired: the wiring file's name for the reference's line. It is taken where the reference has it, unless it
    is silent and the recording's metadata name another; then the metadata's (``Edges.sync``); and the
    metadata's for the other stream. Where they name none, all lines of a stream are tried, and the one pair
    is taken whose waves repeat alike; of more than one, the one that can be fitted (of copies of the wave on
    the other stream, the first). Raises ``DataError`` with a list of all lines, their edges and periods,
    where that leaves no line of the reference or more than one, or where its named line is silent.
    """
    stated = wired if wired in reference_edges.lines else reference_edges.sync
    if stated == wired and reference_edges.sync is not None and len(reference_edges.of(wired)[0]) < MIN_EDGES:
        stated = reference_edges.sync
    if stated != wired:
        why = "is silent" if wired in reference_edges.lines else "is no line"
        instead = stated or "the line that fits"
        message = "the wiring has the sync wave on %s, which %s in %s; %s is taken instead"
        log.log(
            logging.WARNING if why == "is silent" else logging.INFO,
            message,
            wired,
            why,
            reference_edges.stream,
            instead,
        )
    if stated is not None and len(reference_edges.of(stated)[0]) < MIN_EDGES:
        raise DataError(
            f"stream {reference_edges.stream}: line {stated} was expected to carry the sync wave, found"
            f" {len(reference_edges.of(stated)[0])} edges on it. {_describe_lines(reference_edges)}. Put the"
            ' line that carries it into the wiring file as "sync", or check the cabling'
        )
    own, reference = (
        [line] if line is not None else list(e.lines)
        for line, e in ((edges.sync, edges), (stated, reference_edges))
    )
    pairs = [(a, b) for a in own for b in reference]
    if edges.sync is not None and stated is not None:
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


def _may_be_one_wave(a: Edges, line_a: str, b: Edges, line_b: str) -> bool:
    """Whether two lines have enough edges, and a period in common."""
    if min(len(a.of(line_a)[0]), len(b.of(line_b)[0])) < MIN_EDGES:
        return False
    tick = 1 / min(a.sampling_rate_hz, b.sampling_rate_hz)
    return _alike(_period(_wave(a, line_a, 0.0)), _period(_wave(b, line_b, 0.0)), tick)


def _describe_lines(edges: Edges) -> str:
    """The lines of a stream with what they carry, for a message."""
    told = []
    for line in edges.lines:
        n = len(edges.of(line)[0])
        period = f", one pulse every {_period(_wave(edges, line, 0.0)):.4g} s" if n >= MIN_EDGES else ""
        told.append(f"{line} ({n} edges{period})")
    return f"Lines of {edges.stream}: {', '.join(told) or 'none'}"


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
    if not _alike(*periods, tick):
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
    intervals = np.sort(np.concatenate([np.diff(wave.t[wave.rising]), np.diff(wave.t[~wave.rising])]))
    low, high = np.searchsorted(intervals, 0.995 * intervals), np.searchsorted(intervals, 1.005 * intervals)
    most = np.argmax(high - low)
    return float(np.median(intervals[low[most] : high[most]]))


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


def _off_by(wave_p: _Wave, wave_r: _Wave, fitted: _Map, period: float) -> np.ndarray:
    """(n,) seconds from the map to the nearest reference edge of the same polarity, for the probe's edges.

    Modulo the period, within ± half of it, so that a lost edge's neighbour tells the same; NaN where it lies
    more than one and a half periods away, so that the error of the period does not add up.
    """
    predicted = wave_p.t + fitted.delta(wave_p.t)
    off = np.empty(len(predicted))
    for rising in (True, False):
        p, r = wave_p.rising == rising, wave_r.t[wave_r.rising == rising]
        off[p] = r[_nearest(predicted[p], r)] - predicted[p]
    off[np.abs(off) > 1.5 * period] = np.nan
    return off - period * np.round(off / period)


def _seed(wave_p: _Wave, wave_r: _Wave, period: float, names: str) -> _Map:
    """A first line from the stretch of SEED_PERIODS where the waves agree best, modulo the period.

    Agreement: the number of probe edges whose offset to the nearest reference edge (folded to ± half a
    period) lies within the drift allowed across the stretch of the others'. The slope is the median of
    the slopes between all pairs of them (Theil–Sen).
    """
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
    width = SEED_PERIODS * period
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
    wave_p: _Wave, wave_r: _Wave, period: float, tick: float, names: str, counted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edges (indices into each wave) along the whole recording, few of them wrong."""
    seed = _seed(wave_p, wave_r, period, names)
    i, j = _track(wave_p, wave_r, seed, period, tick)
    if len(i) < MIN_EDGES:
        raise DataError(
            f"{names}: only {len(i)} edges of the sync waves match, expected at least {MIN_EDGES}; the lines"
            " do not carry the same wave; check the cabling"
        )
    periods = _choose_period(wave_p, wave_r, i, j, period, tick, names, counted)
    if periods:
        i, j = _track(wave_p, wave_r, seed.moved(-periods * period), period, tick)
    _check_pattern(wave_p, wave_r, i, j, period, names, counted)
    return i, j


def _track(
    wave_p: _Wave, wave_r: _Wave, seed: _Map, period: float, tick: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edges on a local line, followed from the seed's to both ends of the probe's wave.

    The line is fitted to the edges on both sides of its front, as far as it moves on at a time: at first
    half the seed's width, doubled up to SEGMENT_S. Across a pause of the wave it goes straight on.
    """
    centre = seed.knots.mean()
    found = []
    for direction in (-1, 1):
        local, front, step = seed, centre, SEED_PERIODS * period / 2
        while wave_p.t[0] <= front <= wave_p.t[-1]:
            low, high = np.searchsorted(wave_p.t, [front - step, front + step])
            part_p = _Wave(wave_p.t[low:high], wave_p.rising[low:high])
            near = front + local.delta(front) + np.array([-step - period, step + period])
            low_r, high_r = np.searchsorted(wave_r.t, near)
            part_r = _Wave(wave_r.t[low_r:high_r], wave_r.rising[low_r:high_r])
            if min(len(part_p.t), len(part_r.t)) >= MIN_EDGES:
                local, i, j = _refine(part_p, part_r, local, TRACK_PERIODS * period, tick)
                ahead = direction * (part_p.t[i] - front) >= 0
                found.append((i[ahead] + low, j[ahead] + low_r))
            front += direction * step
            step = min(2 * step, max(SEGMENT_S, SEED_PERIODS * period))
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
    segments = len(knots) - 1
    k = np.searchsorted(knots[1:-1], t, side="right")
    after = (t - knots[k]) / (knots[k + 1] - knots[k])
    before = 1 - after

    def sums(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.bincount(k, left, segments + 1) + np.bincount(k + 1, right, segments + 1)

    both = np.bincount(k, before * after, segments)
    normal = np.diag(sums(before**2, after**2)) + np.diag(both, 1) + np.diag(both, -1)
    return _Map(knots, np.linalg.solve(normal, sums(before * delta, after * delta)))


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
    period: float,
    tick: float,
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
        settled = fitted, matched_p, matched_r = _settle(wave_p, wave_r, i, j, segments, tick)
        misfit = _misfit(wave_p, wave_r, fitted, matched_p, matched_r, period, tick, start_probe)
        if misfit:
            continue
        # Four times, because a bend that is odd about the middle does not show with twice as many.
        finer = _settle(wave_p, wave_r, i, j, min(4 * segments, most), tick)[0]
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


def _shared(wave_p: _Wave, wave_r: _Wave, fitted: _Map, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the edges of each wave that lie in the time that both waves cover, but not in a gap."""
    predicted = wave_p.t + fitted.delta(wave_p.t)
    slack = period / 4
    low = max(predicted[0], wave_r.t[0]) - slack
    high = min(predicted[-1], wave_r.t[-1]) + slack
    shared_p, shared_r = (predicted >= low) & (predicted <= high), (wave_r.t >= low) & (wave_r.t <= high)
    slack = TRACK_PERIODS * period
    shared_p &= ~_within(predicted, wave_r.gaps, slack)
    shared_r &= ~_within(wave_r.t, wave_p.gaps + fitted.delta(wave_p.gaps), slack)
    return shared_p, shared_r


def _within(t: np.ndarray, gaps: np.ndarray, slack: float) -> np.ndarray:
    """(n,) bool: whether each of t (s) lies in one of the gaps, or within slack of it."""
    k = np.searchsorted(gaps[:, 0], t + slack, side="right") - 1
    return (k >= 0) & (t < np.append(gaps[:, 1], -np.inf)[k] + slack)


def _without_partner(wave_p: _Wave, wave_r: _Wave, fitted: _Map, period: float) -> tuple[int, int] | None:
    """Edges without partner, and all edges, of the time both waves cover; None where that is too short.

    Too short: less than three quarters of the shorter wave.
    """
    shared_p, shared_r = _shared(wave_p, wave_r, fitted, period)
    total = int(shared_p.sum() + shared_r.sum())
    if total < 1.5 * min(len(wave_p.t), len(wave_r.t)):
        return None
    i, j = _match(wave_p, wave_r, fitted, TRACK_PERIODS * period)
    shared_p[i] = shared_r[j] = False
    return int(shared_p.sum() + shared_r.sum()), total


def _choose_period(
    wave_p: _Wave,
    wave_r: _Wave,
    i: np.ndarray,
    j: np.ndarray,
    period: float,
    tick: float,
    names: str,
    counted: bool,
) -> int:
    """By how many whole periods the pairs are off those by which the counters (or files) started together.

    Refuses where the counters' start lies too far from any choice. Before the first edge the rate may have
    been another by MAX_WANDER_PPM.
    """
    line = _fit(wave_p, wave_r, i, j)
    at_zero = float(line.delta(0.0))
    periods = int(np.round(at_zero / period))
    t = wave_p.t[i]
    error = 3 * tick * np.sqrt(1 / len(t) + t.mean() ** 2 / np.sum((t - t.mean()) ** 2))
    error += MAX_WANDER_PPM * 1e-6 * t[0]
    if counted and abs(at_zero - periods * period) + error > MAX_START_PERIODS * period:
        raise DataError(
            f"{names}: the sync wave repeats every {period:.4g} s, and by their counts of samples"
            f" (firstSample) the two streams started {abs(at_zero - periods * period):.3f} ± {error:.3f} s"
            " off a whole number of periods; expected below"
            f" {MAX_START_PERIODS * period:.3f} s, so it is not certain which pulses belong together; check"
            " firstSample in both meta files"
        )
    return periods


def _check_pattern(
    wave_p: _Wave, wave_r: _Wave, i: np.ndarray, j: np.ndarray, period: float, names: str, counted: bool
) -> None:
    """Refuse where the pattern of pulses contradicts the pairs or, without counters, does not settle them."""
    fitted = _fit(wave_p, wave_r, i, j, _most_segments(wave_p, i))
    chosen = _without_partner(wave_p, wave_r, fitted, period)
    reach = 10 if counted else int(min(PATTERN_PERIODS, 1 + (wave_r.t[-1] - wave_r.t[0]) / period))
    others = {}
    for shift in range(-reach, reach + 1):
        count = _without_partner(wave_p, wave_r, fitted.moved(shift * period), period)
        if shift and count is not None:
            others[shift] = count
    if counted:
        contradicting = [shift for shift, other in others.items() if chosen and _decides(other, chosen)]
        if contradicting:
            raise DataError(
                f"{names}: by the counts of samples (firstSample) {chosen[0]} of {chosen[1]} edges of the"
                f" sync wave have no partner, moved by {contradicting[0] * period:.4g} s only"
                f" {others[contradicting[0]][0]}: the counts contradict the wave; check firstSample in both"
                " meta files"
            )
    elif not (chosen and others and all(_decides(chosen, other) for other in others.values())):
        raise DataError(
            f"{names}: firstSample is missing from a meta file, and the sync wave repeats itself: the streams"
            f" could be shifted by any multiple of {period:.4g} s; restore firstSample in the meta file from"
            " the original recording"
        )


def _decides(better: tuple[int, int], worse: tuple[int, int]) -> bool:
    """Whether the pattern of pulses settles which of two shifts holds.

    better, worse: edges without partner and all edges at the two shifts.
    """
    return worse[0] >= PATTERN_EDGES and better[0] / better[1] <= PATTERN_RATIO * worse[0] / worse[1]


def _misfit(
    wave_p: _Wave,
    wave_r: _Wave,
    fitted: _Map,
    i: np.ndarray,
    j: np.ndarray,
    period: float,
    tick: float,
    start_probe: float,
) -> str | None:
    """What is wrong with the map; None where it follows the wave everywhere."""
    shared_p, shared_r = _shared(wave_p, wave_r, fitted, period)
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
    off = _off_by(wave_p, wave_r, fitted, period)
    alone = shared_p.copy()
    alone[i] = False
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


def _check_drift(fitted: _Map, names: str) -> None:
    """Refuse where the clocks' rates change against each other faster or farther than crystals do."""
    change = np.abs(np.diff(fitted.slopes)) / (0.5 * (fitted.knots[2:] - fitted.knots[:-2]))
    per_minute, wander = change.max(initial=0.0) * 60e6, np.ptp(fitted.slopes) * 1e6
    if per_minute > MAX_PPM_PER_MINUTE or wander > MAX_WANDER_PPM:
        raise DataError(
            f"{names}: the clocks' rates change against each other by up to {per_minute:.1f} ppm in a minute"
            f" and by {wander:.1f} ppm in all, expected below {MAX_PPM_PER_MINUTE:.0f} and"
            f" {MAX_WANDER_PPM:.0f} ppm{CROOKED}"
        )


def _check_reach(
    matched: np.ndarray,
    fitted: _Map,
    rms: float,
    probe_edges: Edges,
    fs_reference: float,
    start_probe: float,
    tick: float,
    names: str,
) -> None:
    """Refuse where, for want of edges, the map may be off by more than one sample: at the ends, in a pause.

    matched: the probe's matched edges (s). At the file's first and last sample: three standard errors of the
    line through the edges of the first or last segment (rms at least the quantisation's, one sample on each
    side, uniform), and what a change of the rate by MAX_PPM_PER_MINUTE bends the clock beyond the edges.
    """
    fs = probe_edges.sampling_rate_hz
    sigma = max(rms, np.sqrt((1 / fs**2 + 1 / fs_reference**2) / 12))
    change = MAX_PPM_PER_MINUTE / 60e6
    file_s = probe_edges.n_samples / fs
    segment = fitted.segment(matched)
    # A stretch between pauses may hold but a few edges: then its neighbours' count too.
    first, last = (max(MIN_EDGES, int((segment == end).sum())) for end in (0, segment[-1]))
    for end, here in ((start_probe, matched[:first]), (start_probe + file_s, matched[-last:])):
        spread = np.sum((here - here.mean()) ** 2)
        error = 3 * sigma * np.sqrt(1 / len(here) + (end - here.mean()) ** 2 / spread)
        error += change / 2 * np.abs(end - here).min() ** 2
        if error > tick:
            raise DataError(
                f"{names}: {len(matched)} matched edges between {matched[0] - start_probe:.1f} and"
                f" {matched[-1] - start_probe:.1f} s of a file of {file_s:.1f} s leave its ends uncertain by"
                f" {error * 1e6:.0f} µs; expected below {tick * 1e6:.0f} µs; record the sync wave throughout"
            )
    # Between edges a and b a straight line is off by at most change / 2 * (t - a) * (b - t), so most in the
    # middle, or where that lies in a gap of the probe at one of the gap's ends.
    gaps = start_probe + probe_edges.gaps / fs
    for pause in np.flatnonzero(change / 8 * np.diff(matched) ** 2 > tick):
        a, b = matched[pause], matched[pause + 1]
        middle = np.array([(a + b) / 2])
        recorded = np.append(gaps.ravel(), middle[~_within(middle, gaps, 0.0)])
        error = (change / 2 * (recorded - a) * (b - recorded)).max(initial=0.0)
        if error > tick:
            raise DataError(
                f"{names}: no edges match from {a - start_probe:.1f} s on for {b - a:.1f} s, which leaves the"
                f" time between uncertain by {error * 1e6:.0f} µs; expected below {tick * 1e6:.0f} µs; record"
                " the sync wave throughout, and put back any file of the reference that is missing"
            )
