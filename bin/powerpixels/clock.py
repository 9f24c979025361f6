"""The map from a probe's clock to the session's reference clock, from the sync wave both recorded.

Edges are matched by time, never by their order, so that a lost or an extra pulse costs that pulse only.

1. Both streams count samples from the start of the acquisition (first_sample). The two counters are taken
   to have started together; that gives each edge a coarse common time.
2. In the stretch of some periods where the two waves agree best, the offset between them modulo the wave's
   period is found; a line through it is grown over the whole recording, doubling its reach each time.
3. The line fixes the offset only up to whole periods. The whole period is the one for which the counters
   started together: the line, followed back to the counters' zero, must come within MAX_START_PERIODS of a
   period of it. Following the fitted line back takes the drift before the file's start into account.
4. Edges within two samples of the line are fitted by least squares until nothing changes.

What the fit cannot see, because the wave repeats itself: counters that started more than 0.7 periods apart,
and a loss of samples that lasts a whole number of periods; and, for want of edges, a loss in the first or
last two periods of the time both record. Everything else that could put the fit off by more than one sample
of the slower stream is refused with a ``DataError`` (two for a loss of two or three samples, which hides in
the quantisation of the edges beside it).

An edge is seen at the first sample after it, on average half a sample late. The fit takes half a sample off
both sides, so that streams of different rates (30 kHz and a slower NIDQ) are not skewed by it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from powerpixels.documents import ClockFit, Probe
from powerpixels.edges import SYNC_LINE, Edges
from powerpixels.stage import DataError

log = logging.getLogger("powerpixels")

MIN_EDGES = 5
MAX_PPM = 500.0
MAX_START_PERIODS = 0.3
# An edge is quantised to one sample on each side, so an undisturbed one lies within one sample of the line;
# the second sample is for what the clocks may deviate from the line.
MATCH_SAMPLES = 2.0
# Largest mean residual of LOCAL_EDGES consecutive edges, and largest median of a few of them.
LOCAL_EDGES = 20
MAX_LOCAL_SAMPLES = 0.75
FEW_EDGES = 6
MAX_FEW_SAMPLES = 1.0
MAX_RMS_SAMPLES = 1.0
MIN_MATCHED_FRACTION = 0.5
# Seed: stretches of this many periods, edges within this much of drift across one.
SEED_PERIODS = 20
SEED_PPM = 2000.0
GROW_TOLERANCE_PERIODS = 0.02
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
    "; no straight line maps the one clock to the other: samples were lost, or the clocks drift unevenly;"
    " look for gaps in the acquisition's log"
)


@dataclass(frozen=True, eq=False)
class _Wave:
    """Edges of one line: t (n,) float64 seconds, ascending; rising (n,) bool."""

    t: np.ndarray
    rising: np.ndarray


@dataclass(frozen=True)
class _Line:
    """reference = t + offset + slope * (t - centre), all in seconds."""

    centre: float
    offset: float
    slope: float

    def delta(self, t):
        return self.offset + self.slope * (t - self.centre)


def to_reference_seconds(fit: ClockFit, samples: np.ndarray) -> np.ndarray:
    """Seconds (float64) on the reference clock of samples (any shape, 0-based) of the probe's stream."""
    return fit.offset_s + fit.slope * (np.asarray(samples, dtype=np.float64) / fit.sampling_rate_hz)


def check_probe(edges: Edges, probe: Probe) -> None:
    """Raise ``DataError`` where the edges are not those of the probe's AP stream."""
    if edges.stream != probe.ap.name:
        raise DataError(
            f"{probe.name}: the edges are of stream {edges.stream}, expected {probe.ap.name}; extract them"
            " again"
        )


def identity_fit(edges: Edges, probe: str) -> ClockFit:
    """The fit of a probe that is itself the reference: exact over its whole length."""
    return ClockFit(
        probe=probe,
        stream=edges.stream,
        reference=edges.stream,
        sampling_rate_hz=edges.sampling_rate_hz,
        offset_s=0.0,
        slope=1.0,
        n_edges=len(edges.of(SYNC_LINE)[0]) if SYNC_LINE in edges.lines else 0,
        n_unmatched=0,
        rms_us=0.0,
        max_us=0.0,
        first_edge_s=0.0,
        last_edge_s=edges.n_samples / edges.sampling_rate_hz,
    )


def fit_clock(
    probe_edges: Edges, reference_edges: Edges, *, probe: str, reference_line: str = SYNC_LINE
) -> ClockFit:
    """Fit the probe's clock to the reference's, offset and slope, from the edges of their sync lines.

    The reference's time zero is the first sample of its file. Residuals are those of the matched edges.
    n_unmatched counts the edges of either stream, in the time both cover, that have no partner. Raises
    ``DataError`` wherever the result could be wrong by more than one sample (of the slower stream); the
    module's docstring says what it cannot notice.
    """
    names = f"{probe_edges.stream} ({SYNC_LINE}) and {reference_edges.stream} ({reference_line})"
    fs_probe, fs_reference = probe_edges.sampling_rate_hz, reference_edges.sampling_rate_hz
    tick = 1 / min(fs_probe, fs_reference)
    counted = probe_edges.first_sample is not None and reference_edges.first_sample is not None
    start_probe = probe_edges.first_sample / fs_probe if counted else 0.0
    start_reference = reference_edges.first_sample / fs_reference if counted else 0.0
    wave_p = _wave(probe_edges, SYNC_LINE, start_probe)
    wave_r = _wave(reference_edges, reference_line, start_reference)
    period = _common_period(wave_p, wave_r, names, tick)

    line = _grow(wave_p, wave_r, _seed(wave_p, wave_r, period, names), period, tick)
    line = _choose_period(wave_p, wave_r, line, period, tick, names, counted)
    line, i, j = _settle(wave_p, wave_r, line, tick)

    shared_p, shared_r = _shared(wave_p, wave_r, line, period)
    fewest = min(shared_p.sum(), shared_r.sum())
    if len(i) < MIN_EDGES or len(i) < MIN_MATCHED_FRACTION * fewest:
        raise DataError(
            f"{names}: only {len(i)} of {fewest} edges of the sync wave match; expected at least {MIN_EDGES}"
            f" and {MIN_MATCHED_FRACTION:.0%} of them; the lines do not carry the same wave, or samples were"
            " lost, or the clocks drift unevenly; check the cabling and the acquisition's log"
        )
    if abs(line.slope) > MAX_PPM * 1e-6:
        raise DataError(
            f"{names}: the clocks' rates differ by {line.slope * 1e6:.0f} ppm, expected below {MAX_PPM:.0f};"
            " check the sampling rates in the meta files"
        )
    _check_straight(wave_p, wave_r, line, i, j, shared_p, period, tick, names, start_probe)
    residual = wave_r.t[j] - wave_p.t[i] - line.delta(wave_p.t[i])
    rms = float(np.sqrt(np.mean(residual**2)))
    if rms > MAX_RMS_SAMPLES * tick:
        raise DataError(
            f"{names}: the matched edges scatter by {rms * 1e6:.1f} µs (rms) around the fitted line, expected"
            f" below {MAX_RMS_SAMPLES * tick * 1e6:.1f} µs; check the cabling of the sync wave"
        )
    _check_reach(wave_p.t[i], rms, probe_edges, fs_reference, start_probe, tick, names)

    n_unmatched = int(shared_p.sum() - len(i) + shared_r.sum() - len(j))
    if n_unmatched:
        log.warning("%s: %d edges of the sync wave have no partner", names, n_unmatched)
    # From acquisition time back to each file's own: t_r + start_r = (t_p + start_p)(1 + slope) + ...
    offset = start_probe - start_reference + line.delta(start_probe)
    matched_s = wave_p.t[i] - start_probe
    fit = ClockFit(
        probe=probe,
        stream=probe_edges.stream,
        reference=reference_edges.stream,
        sampling_rate_hz=fs_probe,
        offset_s=float(offset),
        slope=float(1 + line.slope),
        n_edges=len(i),
        n_unmatched=n_unmatched,
        rms_us=rms * 1e6,
        max_us=float(np.abs(residual).max() * 1e6),
        first_edge_s=float(matched_s[0]),
        last_edge_s=float(matched_s[-1]),
    )
    log.info("%s: %d edges, %+.2f ppm, rms %.1f µs", names, fit.n_edges, (fit.slope - 1) * 1e6, fit.rms_us)
    return fit


def matched_pairs(
    fit: ClockFit, probe_edges: Edges, reference_edges: Edges, reference_line: str = SYNC_LINE
) -> np.ndarray:
    """(n, 2) float64: seconds on the probe's and on the reference's own clock of each matched edge.

    The observed times, sample / rate: the half sample that the fit takes off both is not in them.
    """
    fs_probe, fs_reference = probe_edges.sampling_rate_hz, reference_edges.sampling_rate_hz
    wave_p = _wave(probe_edges, SYNC_LINE, 0.0)
    wave_r = _wave(reference_edges, reference_line, 0.0)
    line = _Line(0.0, fit.offset_s, fit.slope - 1)
    i, j = _match(wave_p, wave_r, line, MATCH_SAMPLES / min(fs_probe, fs_reference))
    return np.column_stack([wave_p.t[i] + 0.5 / fs_probe, wave_r.t[j] + 0.5 / fs_reference])


def own_pairs(edges: Edges) -> np.ndarray:
    """(n, 2) float64: the sync edges of a probe that is itself the reference, twice (seconds)."""
    samples = edges.of(SYNC_LINE)[0] if SYNC_LINE in edges.lines else np.empty(0)
    return np.repeat(samples[:, None] / edges.sampling_rate_hz, 2, axis=1)


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
    return _Wave(start + (sample - 0.5) / edges.sampling_rate_hz, polarity > 0)


def _common_period(wave_p: _Wave, wave_r: _Wave, names: str, tick: float) -> float:
    """Period of the wave (s) on the reference.

    The two streams' must agree within 1 %: it is a check that they carry the same wave.
    """
    periods = [_period(wave) for wave in (wave_p, wave_r)]
    if abs(periods[0] - periods[1]) > 0.01 * periods[1] + tick:
        raise DataError(
            f"{names}: pulses every {periods[0]:.4g} s on the one and every {periods[1]:.4g} s on the other;"
            " expected the same sync wave; check the line named as sync and the cabling"
        )
    return periods[1]


def _period(wave: _Wave) -> float:
    """The most frequent time between edges of one polarity (s).

    Glitches and lost pulses make other intervals, but rarely the same one.
    """
    intervals = np.sort(np.concatenate([np.diff(wave.t[wave.rising]), np.diff(wave.t[~wave.rising])]))
    low, high = np.searchsorted(intervals, 0.995 * intervals), np.searchsorted(intervals, 1.005 * intervals)
    most = np.argmax(high - low)
    return float(np.median(intervals[low[most] : high[most]]))


def _nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Index into b (ascending, not empty) of the value nearest to each of a."""
    right = np.clip(np.searchsorted(b, a), 1, max(1, len(b) - 1))
    if len(b) == 1:
        return np.zeros(len(a), dtype=np.intp)
    return np.where(a - b[right - 1] <= b[right] - a, right - 1, right)


def _match(wave_p: _Wave, wave_r: _Wave, line: _Line, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of edges of one polarity that are each other's nearest, within tolerance of the line (s).

    Returns indices into wave_p and wave_r, ascending in the probe's time.
    """
    predicted = wave_p.t + line.delta(wave_p.t)
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


def _off_by(wave_p: _Wave, wave_r: _Wave, line: _Line, period: float) -> np.ndarray:
    """Seconds from the line to the nearest reference edge of the same polarity, within ± half a period.

    (n,) for the probe's edges. Modulo the period, so that a lost edge's neighbour tells the same.
    """
    predicted = wave_p.t + line.delta(wave_p.t)
    off = np.empty(len(predicted))
    for rising in (True, False):
        p, r = wave_p.rising == rising, wave_r.t[wave_r.rising == rising]
        off[p] = r[_nearest(predicted[p], r)] - predicted[p]
    return off - period * np.round(off / period)


def _seed(wave_p: _Wave, wave_r: _Wave, period: float, names: str) -> _Line:
    """A first line from the stretch of SEED_PERIODS where the waves agree best, modulo the period.

    Agreement: the number of probe edges whose offset to the nearest reference edge (folded to ± half a
    period) lies within the drift allowed across the stretch of the others'. The slope is the median of
    the slopes between all pairs of them (Theil–Sen).
    """
    inside = (wave_p.t > wave_r.t[0] - period) & (wave_p.t < wave_r.t[-1] + period)
    t, delta = wave_p.t[inside], _off_by(wave_p, wave_r, _Line(0.0, 0.0, 0.0), period)[inside]
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
    return _Line(centre, offset, slope)


def _fit(wave_p: _Wave, wave_r: _Wave, i: np.ndarray, j: np.ndarray) -> _Line:
    """Least-squares line through matched edges (centred, so that hours of seconds keep their digits)."""
    t, delta = wave_p.t[i], wave_r.t[j] - wave_p.t[i]
    centre = t.mean()
    spread = np.sum((t - centre) ** 2)
    slope = np.sum((t - centre) * (delta - delta.mean())) / spread if spread else 0.0
    return _Line(float(centre), float(delta.mean()), float(slope))


def _refine(wave_p: _Wave, wave_r: _Wave, line: _Line, tolerance: float, tick: float) -> _Line:
    """The line through the edges that match within tolerance, outliers left out until none is left."""
    i, j = _match(wave_p, wave_r, line, tolerance)
    keep = np.ones(len(i), dtype=bool)
    for _ in range(10):
        residual = wave_r.t[j] - wave_p.t[i] - line.delta(wave_p.t[i])
        residual -= np.median(residual[keep])
        limit = max(MATCH_SAMPLES * tick, 4 * 1.4826 * np.median(np.abs(residual[keep])))
        new = np.abs(residual) <= limit
        line = _fit(wave_p, wave_r, i[new], j[new])
        if np.array_equal(new, keep):
            break
        keep = new
    return line


def _grow(wave_p: _Wave, wave_r: _Wave, line: _Line, period: float, tick: float) -> _Line:
    """Extend the seed's line over the whole recording, doubling its reach each time."""
    centre, reach = line.centre, SEED_PERIODS * period / 2
    while True:
        near = np.abs(wave_p.t - centre) <= reach
        part = _Wave(wave_p.t[near], wave_p.rising[near])
        if len(_match(part, wave_r, line, GROW_TOLERANCE_PERIODS * period)[0]) >= MIN_EDGES:
            line = _refine(part, wave_r, line, GROW_TOLERANCE_PERIODS * period, tick)
        if near.all():
            return line
        reach *= 2


def _settle(wave_p: _Wave, wave_r: _Wave, line: _Line, tick: float) -> tuple[_Line, np.ndarray, np.ndarray]:
    """Fit the edges within MATCH_SAMPLES of the line until the same ones are matched again."""
    i, j = _match(wave_p, wave_r, line, MATCH_SAMPLES * tick)
    for _ in range(20):
        if len(i) < MIN_EDGES:
            break
        line = _fit(wave_p, wave_r, i, j)
        before = i
        i, j = _match(wave_p, wave_r, line, MATCH_SAMPLES * tick)
        if np.array_equal(i, before):
            break
    return line, i, j


def _shared(wave_p: _Wave, wave_r: _Wave, line: _Line, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the edges of each wave that lie in the time that both waves cover."""
    predicted = wave_p.t + line.delta(wave_p.t)
    slack = period / 4
    low = max(predicted[0], wave_r.t[0]) - slack
    high = min(predicted[-1], wave_r.t[-1]) + slack
    return (predicted >= low) & (predicted <= high), (wave_r.t >= low) & (wave_r.t <= high)


def _shifted(line: _Line, periods: int, period: float) -> _Line:
    return _Line(line.centre, line.offset + periods * period, line.slope)


def _without_partner(wave_p: _Wave, wave_r: _Wave, line: _Line, period: float) -> tuple[int, int] | None:
    """Edges without partner, and all edges, of the time both waves cover; None where that is too short.

    Too short: less than three quarters of the shorter wave.
    """
    shared_p, shared_r = _shared(wave_p, wave_r, line, period)
    total = int(shared_p.sum() + shared_r.sum())
    if total < 1.5 * min(len(wave_p.t), len(wave_r.t)):
        return None
    return total - 2 * len(_match(wave_p, wave_r, line, GROW_TOLERANCE_PERIODS * period)[0]), total


def _choose_period(
    wave_p: _Wave, wave_r: _Wave, line: _Line, period: float, tick: float, names: str, counted: bool
) -> _Line:
    """The line moved by the whole number of periods for which the counters (or files) started together.

    Refuses where that is not clear: the counters' start lies too far from any choice, the pattern of
    pulses contradicts the choice, or, without counters, does not decide it by itself.
    """
    i, j = _match(wave_p, wave_r, line, GROW_TOLERANCE_PERIODS * period)
    if len(i) < MIN_EDGES:
        return line
    at_zero = float(line.delta(0.0))
    periods = int(np.round(at_zero / period))
    spread = np.sum((wave_p.t[i] - line.centre) ** 2)
    error = tick * np.sqrt(1 / len(i) + line.centre**2 / spread) if spread else np.inf
    if counted and abs(at_zero - periods * period) + 3 * error > MAX_START_PERIODS * period:
        raise DataError(
            f"{names}: the sync wave repeats every {period:.4g} s, and by their counts of samples"
            f" (firstSample) the two streams started {abs(at_zero - periods * period):.3f} ±"
            f" {3 * error:.3f} s off a whole number of periods; expected below"
            f" {MAX_START_PERIODS * period:.3f} s, so it is not certain which pulses belong together; check"
            " firstSample in both meta files"
        )
    line = _refine(wave_p, wave_r, _shifted(line, -periods, period), GROW_TOLERANCE_PERIODS * period, tick)

    chosen = _without_partner(wave_p, wave_r, line, period)
    reach = 10 if counted else int(min(PATTERN_PERIODS, 1 + (wave_r.t[-1] - wave_r.t[0]) / period))
    others = {}
    for shift in range(-reach, reach + 1):
        count = _without_partner(wave_p, wave_r, _shifted(line, shift, period), period)
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
    return line


def _decides(better: tuple[int, int], worse: tuple[int, int]) -> bool:
    """Whether the pattern of pulses settles which of two shifts holds.

    better, worse: edges without partner and all edges at the two shifts.
    """
    return worse[0] >= PATTERN_EDGES and better[0] / better[1] <= PATTERN_RATIO * worse[0] / worse[1]


def _check_straight(wave_p, wave_r, line, i, j, shared_p, period, tick, names, start_probe) -> None:
    """Refuse where part of the recording leaves the line: samples lost, or a drift that is not linear."""
    off = _off_by(wave_p, wave_r, line, period)
    alone = shared_p.copy()
    alone[i] = False
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], alone.astype(np.int8), [0]])))
    for first, stop in bounds.reshape(-1, 2):
        for at in range(first, stop - SHIFTED_EDGES + 1):
            some = off[at : at + SHIFTED_EDGES]
            if np.ptp(some) < SHIFTED_SPREAD_S and abs(np.median(some)) > MATCH_SAMPLES * tick:
                raise DataError(
                    f"{names}: from {wave_p.t[at] - start_probe:.1f} s the sync wave lies"
                    f" {np.median(some) * 1e3:+.3f} ms (or that and whole periods) off the fitted line"
                    + CROOKED
                )
    residual = wave_r.t[j] - wave_p.t[i] - line.delta(wave_p.t[i])
    for size, statistic, limit in (
        (LOCAL_EDGES, np.mean, MAX_LOCAL_SAMPLES),
        (FEW_EDGES, np.median, MAX_FEW_SAMPLES),
    ):
        starts = np.unique(np.append(np.arange(0, max(1, len(i) - size), size // 2), max(0, len(i) - size)))
        local = np.array([statistic(residual[start : start + size]) for start in starts])
        worst = int(np.argmax(np.abs(local)))
        if abs(local[worst]) > limit * tick:
            raise DataError(
                f"{names}: around {wave_p.t[i][starts[worst]] - start_probe:.1f} s the sync wave lies"
                f" {local[worst] * 1e6:+.0f} µs off the fitted line, expected below"
                f" {limit * tick * 1e6:.0f} µs" + CROOKED
            )


def _check_reach(matched, rms, probe_edges, fs_reference, start_probe, tick, names) -> None:
    """Refuse where the line, at either end of the probe's file, may be off by more than one sample.

    Three standard errors of the fitted line (rms at least the quantisation's, one sample on each side,
    uniform) at the file's first and last sample.
    """
    fs = probe_edges.sampling_rate_hz
    sigma = max(rms, np.sqrt((1 / fs**2 + 1 / fs_reference**2) / 12))
    ends = start_probe + np.array([0.0, probe_edges.n_samples / fs])
    spread = np.sum((matched - matched.mean()) ** 2)
    error = 3 * sigma * np.sqrt(1 / len(matched) + (ends - matched.mean()) ** 2 / spread)
    if error.max() > tick:
        raise DataError(
            f"{names}: {len(matched)} matched edges between {matched[0] - start_probe:.1f} and"
            f" {matched[-1] - start_probe:.1f} s of a file of {probe_edges.n_samples / fs:.1f} s leave its"
            f" ends uncertain by {error.max() * 1e6:.0f} µs; expected below {tick * 1e6:.0f} µs; record the"
            " sync wave throughout"
        )
