"""Streams with clocks of their own that record one wave, so that the truth about their clocks is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from powerpixels import clock
from powerpixels.documents import ClockFit
from powerpixels.edges import Edges


@dataclass
class Recorder:
    """A stream's clock. zero_s: true time at which its counter started; true_hz: its true rate."""

    name: str
    nominal_hz: float
    ppm: float
    zero_s: float
    first_sample: int
    n_samples: int
    line: str = "sync"

    @property
    def true_hz(self):
        return self.nominal_hz * (1 + self.ppm * 1e-6)

    def true_time(self, sample):
        return self.zero_s + (self.first_sample + np.asarray(sample, dtype=np.longdouble)) / self.true_hz

    def own_seconds(self, true_time):
        return ((true_time - self.zero_s) * self.true_hz - self.first_sample) / self.nominal_hz

    def record(self, toggles):
        """Edges of a line that toggles at the given true times: first sample at or after each."""
        toggles = np.sort(toggles)
        sample = np.ceil((toggles - self.zero_s) * self.true_hz).astype(np.int64) - self.first_sample
        rising = np.arange(len(toggles)) % 2 == 0
        # Two toggles within one sample are not seen.
        for keep in (np.diff(sample, append=sample[-1] + 9) > 0, np.diff(sample, prepend=sample[0] - 9) > 0):
            if not keep.all():
                double = ~keep
                pair = double | np.roll(double, 1)
                sample, rising = sample[~pair], rising[~pair]
                break
        inside = (sample >= 1) & (sample < self.n_samples)
        return Edges(
            stream=self.name,
            sampling_rate_hz=self.nominal_hz,
            n_samples=self.n_samples,
            first_sample=self.first_sample,
            lines=(self.line,),
            sample=sample[inside],
            line=np.zeros(inside.sum(), np.int16),
            polarity=np.where(rising[inside], 1, -1).astype(np.int8),
            sync="sync" if self.line == "sync" else None,
        )


@dataclass
class Drifting(Recorder):
    """A clock whose rate wanders: drift(true seconds) is what it gains, in seconds."""

    drift: Callable = np.zeros_like

    def counted(self, true_time):
        return (true_time - self.zero_s) * (1 + self.ppm * 1e-6) + self.drift(true_time)

    def true_time(self, sample):
        counted = (self.first_sample + np.asarray(sample, dtype=np.longdouble)) / self.nominal_hz
        time = self.zero_s + counted
        for _ in range(5):  # the error shrinks 10000 times each
            time = time + (counted - self.counted(time))
        return time

    def own_seconds(self, true_time):
        return self.counted(true_time) - self.first_sample / self.nominal_hz

    def record(self, toggles):
        """As a steady clock records toggles of the times at which it counts as much."""
        return super().record(self.zero_s + self.counted(np.sort(toggles)) / (1 + self.ppm * 1e-6))


def sinusoid(ppm, period_s, phase=0.0):
    """Drift of a rate that swings by ± ppm."""
    turn = 2 * np.pi / period_s
    return lambda t: ppm * 1e-6 / turn * np.sin(turn * t + phase)


def warming_up(ppm, constant_s, start_s):
    """Drift of a rate that falls by ppm, exponentially from start_s on."""
    return lambda t: -ppm * 1e-6 * constant_s * np.exp(-np.maximum(t - start_s, -30) / constant_s)


def wave(end_s, phase_s=0.0, period_s=1.0):
    """(n, 2) true times of the rising and the falling edge of each pulse."""
    rise = np.arange(-5, end_s + 5, period_s) + phase_s
    return np.column_stack([rise, rise + period_s / 2])


def largest_error(fit, probe, reference):
    """Largest error of the fitted map over the probe's whole file, seconds."""
    samples = np.linspace(0, probe.n_samples - 1, 2001).round()
    truth = reference.own_seconds(probe.true_time(samples))
    return float(np.abs(clock.to_reference_seconds(fit, samples) - truth).max())


def pair(rng, duration_s, *, reference_hz=30000.0, start_jitter_s=0.02, before_s=600.0, ppm=100.0):
    """A probe and a reference that record about the same stretch, after up to before_s of acquisition."""
    begin = rng.uniform(1, before_s)
    recorders = []
    for name, hz in (("imec0.ap", 30000.0), ("nidq", reference_hz)):
        zero = rng.uniform(-start_jitter_s, start_jitter_s) if name == "nidq" else 0.0
        late = rng.uniform(0, 3)
        recorders.append(
            Recorder(
                name=name,
                nominal_hz=hz,
                ppm=rng.uniform(-ppm, ppm),
                zero_s=zero,
                first_sample=int((begin + late) * hz),
                n_samples=int((duration_s - late) * hz),
                line="sync" if name == "imec0.ap" else "P0.0",
            )
        )
    return recorders[0], recorders[1], begin + duration_s


def damaged(rng, pulses, begin_s, end_s, lost, glitches):
    """Toggles of a stream that lost some pulses of the wave and saw glitches (10 µs to 5 ms wide)."""
    kept = np.delete(pulses, rng.choice(len(pulses), lost, replace=False), axis=0)
    toggles = [kept.ravel()]
    for _ in range(glitches):
        at = rng.uniform(begin_s, end_s)
        width = 10 ** rng.uniform(-5, np.log10(5e-3))
        nearest = np.abs(kept.ravel() - at).min()
        if nearest > 2 * width:
            toggles.append(np.array([at, at + width]))
    return np.concatenate(toggles)


def with_gaps(edges, recorder, gaps):
    """The edges of a recording that paused between true times; its counter went on."""
    own = np.array([recorder.own_seconds(np.array(gap)) for gap in gaps], float).reshape(-1, 2)
    own = (own * recorder.nominal_hz).round().astype(np.int64)
    kept = np.ones(len(edges.sample), bool)
    for begin, end in own:
        # The level of the first sample after a gap is no edge.
        kept &= (edges.sample < begin) | (edges.sample > end)
    return replace(
        edges, sample=edges.sample[kept], line=edges.line[kept], polarity=edges.polarity[kept], gaps=own
    )


def largest_recorded_error(fit, probe, reference, gaps):
    """As ``largest_error``, over what the probe recorded, up to the gaps' very ends."""
    samples = np.linspace(0, probe.n_samples - 1, 4001).round()
    for begin, end in gaps:
        samples = samples[(samples < begin) | (samples >= end)]
    samples = np.concatenate([samples, gaps[:, 0] - 1, gaps[:, 1]])
    truth = reference.own_seconds(probe.true_time(samples))
    return float(np.abs(clock.to_reference_seconds(fit, samples) - truth).max())


# What may be wrong with a session, and what the sync wave may be: see ``session``.
REGULAR = ("1 Hz", "7 Hz", "0.2 Hz")
IRREGULAR = ("random", "barcode", "jittered")
FAULTS = (
    "none",
    "first and last pulses lost",
    "few pulses lost",
    "many pulses lost",
    "extra pulses",
    "glitches",
    "duplicated bursts",
    "start and stop minutes apart",
    "pause",
    "gaps",
    "counters minutes apart",
    "counter unknown",
)


@dataclass
class Case:
    """A simulated session: two streams, their edges, and what is wrong with it."""

    kind: str
    fault: str
    probe: Recorder
    reference: Recorder
    probe_edges: Edges
    reference_edges: Edges
    refusable: bool = field(default=False)

    def fit(self) -> ClockFit:
        """The fit under test."""
        return clock.fit_clock(
            self.probe_edges, self.reference_edges, probe="probe00", reference_line=self.reference.line
        )

    def error_s(self, fit: ClockFit) -> float:
        """Largest error of the fit at any time that the probe recorded."""
        return largest_recorded_error(fit, self.probe, self.reference, self.probe_edges.gaps)


def pulses_of(rng, kind: str, begin_s: float, end_s: float) -> np.ndarray:
    """(n, 2) true times of rise and fall of each pulse of a wave.

    Barcodes: every 5 s, not to the ms, a pulse of 10 ms and 16 random bits of 30 ms, as of a small computer.
    """
    if kind in REGULAR:
        period = 1 / float(kind.split()[0])
        rise = np.arange(begin_s, end_s, period) + rng.uniform(0, period)
        return np.column_stack([rise, rise + period / 2])
    if kind == "random":
        toggles = begin_s + np.cumsum(rng.uniform(0.1, 1.5, int(2 * (end_s - begin_s))))
    elif kind == "jittered":
        toggles = begin_s + np.cumsum(0.5 + rng.normal(0, 0.02, int(2 * (end_s - begin_s))))
    else:
        toggles = []
        for at in np.arange(begin_s, end_s, 5.0):
            levels = np.concatenate([[0, 1, 0], np.repeat(rng.integers(0, 2, 16), 3), [0, 1, 0]])
            toggles.append(at + rng.uniform(0, 0.02) + 0.01 * np.flatnonzero(np.diff(levels)))
        toggles = np.concatenate(toggles)
    toggles = toggles[toggles < end_s]
    return toggles[: len(toggles) // 2 * 2].reshape(-1, 2)


def _spoiled(rng, fault: str, pulses: np.ndarray, begin_s: float, end_s: float) -> np.ndarray:
    """Toggles as one stream saw them: of the pulses that it did not lose, and of others."""
    duration = end_s - begin_s
    inside = np.flatnonzero((pulses[:, 0] > begin_s) & (pulses[:, 1] < end_s))
    if fault == "first and last pulses lost":
        lost = np.concatenate([inside[: rng.integers(0, 4)], inside[len(inside) - rng.integers(0, 4) :]])
    else:
        part = {"few pulses lost": 0.02, "many pulses lost": 0.25}.get(fault, 0.0)
        lost = rng.choice(inside, rng.binomial(len(inside), part), replace=False)
    kept = np.delete(pulses, lost, axis=0)
    added = []
    if fault in ("extra pulses", "glitches"):
        for _ in range(rng.poisson(0.1 * duration)):
            width = 10 ** (rng.uniform(-2, -1) if fault == "extra pulses" else rng.uniform(-5, -2.5))
            added.append(np.array([0, width]) + rng.uniform(begin_s, end_s))
    if fault == "duplicated bursts":
        for _ in range(rng.integers(1, 4)):
            first = rng.integers(0, max(1, len(kept) - 8))
            late = rng.uniform(0.002, 0.02)
            added += list(kept[first : first + 8] + late)
    free = []
    taken = kept
    for one in added:
        # A line is high or low: what is added lies between pulses, or as a fault of level within one.
        touching = (taken[:, 0] < one[1] + 1e-4) & (taken[:, 1] > one[0] - 1e-4)
        if not touching.any():
            taken = np.vstack([taken, one])
            free.append(one)
        elif touching.sum() == 1:
            around = taken[touching][0]
            if around[0] + 1e-4 < one[0] and one[1] + 1e-4 < around[1]:
                taken = np.vstack([taken[~touching], [around[0], one[0]], [one[1], around[1]]])
    return np.sort(taken.ravel())


def session(rng, kind: str, fault: str) -> Case:
    """One random session of 2 to 25 minutes with a fault, of either stream or both.

    Clocks: up to ± 100 ppm off, with rates that swing and settle by ppm within tens of minutes. Faults of
    the pulses are of each stream on its own.
    """
    duration = 10 ** rng.uniform(np.log10(120), np.log10(1500))
    begin = rng.uniform(5, 600)
    late = rng.uniform(0, 3, 2)
    early = rng.uniform(0, 3, 2)
    if fault == "start and stop minutes apart":
        late[rng.integers(2)] = rng.uniform(0, min(300, duration / 3))
        early[rng.integers(2)] = rng.uniform(0, min(300, duration / 3))
    recorders = []
    for k, (name, hz) in enumerate(
        (("imec0.ap", 30000.0), ("nidq", float(rng.choice([30003.0003, 32000.0, 11574.074074]))))
    ):
        swing = sinusoid(rng.uniform(0, 0.8), rng.uniform(1200, 3600), rng.uniform(0, 7))
        warm = warming_up(rng.uniform(-2, 2), rng.uniform(500, 1500), begin)
        recorders.append(
            Drifting(
                name=name,
                nominal_hz=hz,
                ppm=rng.uniform(-100, 100),
                zero_s=rng.uniform(-0.02, 0.02) if name == "nidq" else 0.0,
                first_sample=int((begin + late[k]) * hz),
                n_samples=int((duration - late[k] - early[k]) * hz),
                line="sync" if name == "imec0.ap" else "P0.0",
                drift=lambda t, a=swing, b=warm: a(t) + b(t),
            )
        )
    end = begin + duration
    pulses = pulses_of(rng, kind, begin - 10, end + 10)
    if fault == "pause":
        at, length = rng.uniform(begin, end), rng.uniform(5, 100)
        pulses = pulses[(pulses[:, 0] < at) | (pulses[:, 0] > at + length)]
    edges = [r.record(_spoiled(rng, fault, pulses, begin, end)) for r in recorders]
    if fault == "gaps":
        at = np.sort(rng.uniform(begin + 10, end - 10, 4)).reshape(2, 2)
        who = rng.integers(1, 3)
        for k in range(2):
            # Of both; or of the probe alone, since nobody knows what the reference's clock did in a long one.
            if who == 2 or k == 0:
                edges[k] = with_gaps(edges[k], recorders[k], at + rng.uniform(-0.05, 0.05, (2, 2)))
    if fault == "counters minutes apart":
        off = int(rng.uniform(-300, 300) * recorders[0].nominal_hz)
        edges[0] = replace(edges[0], first_sample=edges[0].first_sample + max(off, -edges[0].first_sample))
    if fault == "counter unknown":
        which = rng.integers(2)
        edges[which] = replace(edges[which], first_sample=None)
    refusable = fault == "counter unknown" and kind in REGULAR
    return Case(kind, fault, *recorders, *edges, refusable)


def cases(n_each: int, seed: int):
    """n_each sessions of each kind of wave with each fault, seeded.

    Without those with no answer: a regular wave looks the same when the counters are periods apart.
    """
    rng = np.random.default_rng(seed)
    for kind in REGULAR + IRREGULAR:
        for fault in FAULTS:
            if kind in REGULAR and fault == "counters minutes apart":
                continue
            for _ in range(n_each):
                yield session(rng, kind, fault)
