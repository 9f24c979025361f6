"""Saturated and artifact intervals: planted ones are found to the sample, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from powerpixels import artifacts
from powerpixels.artifacts import Detector, Interval, merge_intervals, mute, scan
from scipy import signal

RATE = 30000.0
GAIN = 2.34375
N = 40
# A column more, between the channels, that is no channel.
COLUMNS = np.array([*range(0, 25), *range(26, 41)])


def recording(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Counts (samples, 41) of noise with an offset of each channel; column 25 is a digital word."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 3, (int(seconds * RATE), N + 1)) + rng.integers(-60, 60, N + 1)
    rows[:, 25] = np.where(np.arange(len(rows)) // 15000 % 2, 64, 30000)
    return np.rint(rows).astype(np.int16)


def detector(limit: int | None = 512) -> Detector:
    return Detector(COLUMNS, np.full(N, GAIN), RATE, limit)


def in_chunks(rows: np.ndarray, size: int, using: Detector) -> list[artifacts.Scan]:
    found = []
    for start in range(0, len(rows), size):
        n_before = min(start, using.n_before)
        found.append(scan(rows[start - n_before : start + size], n_before, start, using))
    return found


def intervals(scans: list[artifacts.Scan]) -> list[Interval]:
    return merge_intervals([i for found in scans for i in found.intervals], round(artifacts.MERGE_S * RATE))


def test_nothing_is_found_in_noise_and_spikes():
    rows = recording()
    rng = np.random.default_rng(1)
    for start in 290 * rng.permutation(200):
        # 1 mV on five channels: larger than any neuron's, on fewer than a fifth.
        first = rng.integers(0, 20)
        rows[start : start + 12, first : first + 5] -= 427
    assert intervals(in_chunks(rows, 20000, detector())) == []


@pytest.mark.parametrize("rail", [511, -512])
def test_saturation_is_found_to_the_sample(rail):
    rows = recording()
    channels = COLUMNS[5:25]
    rows[20011:20345, channels] = rail
    # On eight of forty channels, a fifth, it is no saturation; the channels' part of samples counts it.
    rows[40000:40300, COLUMNS[:8]] = rail
    scans = in_chunks(rows, 20100, detector())
    found = [i for i in intervals(scans) if i.kind == "saturation"]
    assert found == [Interval(20011, 20345, "saturation", 20)]
    part = sum(s.at_limit for s in scans)
    expected = np.zeros(N)
    expected[5:25] += 334
    expected[:8] += 300
    np.testing.assert_array_equal(part, expected)


def test_saturation_from_the_first_to_the_last_sample():
    rows = recording(0.5)
    rows[:, :40] = 510
    found = [i for i in intervals(in_chunks(rows, 4000, detector())) if i.kind == "saturation"]
    assert found == [Interval(0, len(rows), "saturation", 39)]


def test_an_unknown_limit_is_the_greatest_value_looked_at():
    rows = recording()
    rows[20011:20345, COLUMNS[5:25]] = 1700
    found = scan(rows, 0, 0, detector(limit=None))
    assert found.level == 1700 and found.n_at_level == 334 * 20
    assert [i for i in found.intervals if i.kind == "saturation"] == [
        Interval(20011, 20345, "saturation", 20)
    ]
    # Not the digital word's.
    assert scan(recording(), 0, 0, detector(limit=None)).level < 100


def test_a_common_artifact_is_found():
    """1.5 mV that rings at 800 Hz for 20 ms; it begins to the sample, and ends as the filter dies away."""
    rows = recording().astype(float)
    start, t = 31007, np.arange(600) / RATE
    rows[start : start + 600, COLUMNS[:30]] += (1500 / GAIN * np.cos(2 * np.pi * 800 * t))[:, None]
    (found,) = intervals(in_chunks(np.rint(rows).astype(np.int16), 31100, detector(limit=2048)))
    # The jump to it is of the sample before to its first.
    assert found.kind == "artifact" and found.start == start and found.n_channels >= 30
    assert start + 590 <= found.stop <= start + 600 + 0.002 * RATE


def test_a_slow_swing_is_no_artifact():
    rows = recording().astype(float)
    rows[:, :41] += (800 / GAIN * np.sin(2 * np.pi * 8 * np.arange(len(rows)) / RATE))[:, None]
    rows = np.clip(np.rint(rows), -512, 511).astype(np.int16)
    assert intervals(in_chunks(rows, 20000, detector(limit=1024))) == []


def test_chunks_change_nothing():
    rows = recording()
    rows[9990:10080, :41] = 511
    rows[30000:30003, COLUMNS] += 400
    whole, parts = scan(rows, 0, 0, detector()), in_chunks(rows, 5000, detector())
    assert intervals([whole]) == intervals(parts) != []
    for key in ("at_limit", "raw_sum", "raw_squares", "highpassed_squares"):
        summed = sum(getattr(part, key) for part in parts)
        np.testing.assert_allclose(summed, getattr(whole, key), rtol=1e-5)
    assert sum(part.n_at_level for part in parts) == whole.n_at_level


def test_sums_are_numpys_and_scipys():
    rows = recording(1.0)
    found = scan(rows, 900, 900, detector())
    values = rows[900:, COLUMNS].astype(float)
    np.testing.assert_allclose(found.raw_sum, values.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.raw_squares, (values**2).sum(axis=0), rtol=1e-6)
    shifted = rows[:, COLUMNS] - rows[0, COLUMNS].astype(float)
    filtered = signal.sosfilt(artifacts.highpass_sos(RATE), shifted, axis=0)[900:]
    np.testing.assert_allclose(found.highpassed_squares, (filtered**2).sum(axis=0), rtol=1e-5)
    # And what the filter takes from before its warm-up is nothing.
    alone = scan(rows[10000:], 900, 10900, detector())
    np.testing.assert_allclose(alone.highpassed_squares, (filtered[10000:] ** 2).sum(axis=0), rtol=1e-5)


def test_saturation_agrees_with_ibl():
    """By level only, as where IBL leaves speed out; ibldsp is in volts, (channels, samples)."""
    voltage = pytest.importorskip("ibldsp.voltage")
    rows = recording(1.0, seed=5)
    rng = np.random.default_rng(6)
    for start in rng.integers(0, len(rows) - 500, 12):
        channels = rng.permutation(COLUMNS)[: rng.integers(4, 30)]
        rows[start : start + rng.integers(20, 400), channels] = rng.choice([511, -512, 500, 480])
    volts = rows[:, COLUMNS].T * GAIN * 1e-6
    theirs, _ = voltage.saturation(volts, 512 * GAIN * 1e-6, v_per_sec=None, fs=RATE, proportion=0.2)
    found = scan(rows, 0, 0, detector())
    ours = np.zeros(len(rows), dtype=bool)
    for interval in found.intervals:
        if interval.kind == "saturation":
            ours[interval.start : interval.stop] = True
    # Ours closes gaps of up to 5 ms.
    assert theirs.sum() > 1000 and np.all(ours[theirs])
    starts = np.flatnonzero(np.diff(theirs.astype(int), prepend=0) == 1)
    assert {i.start for i in found.intervals if i.kind == "saturation"} <= set(starts)


def test_jumps_are_ibls():
    """Steps below and above 300 µV within a sample, IBL's default, on few and many channels; level left out."""
    voltage = pytest.importorskip("ibldsp.voltage")
    rows, rng = recording(1.0, seed=7), np.random.default_rng(8)
    for k, start in enumerate(range(1000, 29_000, 1000)):
        channels = rng.permutation(COLUMNS)[: (6, 12, 30)[k % 3]]
        rows[start : start + 400, channels] += rng.choice([-1, 1]) * (107, 149)[k % 2]  # 250 and 350 µV
    volts = rows[:, COLUMNS].T * GAIN * 1e-6
    theirs, _ = voltage.saturation(volts, 1.0, fs=RATE)
    # Theirs is the sample before the step, ours the first behind it; each step goes back after 400 samples.
    ours = [i.start for i in intervals([scan(rows, 0, 0, detector(4096))]) if i.kind == "artifact"]
    assert ours == (np.flatnonzero(theirs) + 1).tolist() and len(ours) > 10


def test_merging_keeps_kinds_apart():
    given = [
        Interval(500, 600, "saturation", 9),
        Interval(100, 200, "saturation", 10),
        Interval(150, 160, "artifact", 20),
        Interval(350, 360, "saturation", 12),
        Interval(210, 300, "artifact", 30),
    ]
    assert merge_intervals(given, 150) == [
        Interval(100, 600, "saturation", 12),
        Interval(150, 300, "artifact", 30),
    ]
    assert len(merge_intervals(given, 10)) == 5
    assert len(merge_intervals(given, 50)) == 4


def test_mute_fades_and_is_the_same_in_any_chunk():
    given = [
        Interval(1000, 1100, "artifact", 40),
        Interval(1120, 1121, "saturation", 40),
        Interval(0, 5, "artifact", 9),
    ]
    whole = mute(given, 0, 3000, RATE)
    assert whole.dtype == np.float32
    assert np.all(whole[1000:1100] == 0) and whole[1120] == 0 and np.all(whole[:5] == 0)
    assert np.all(whole[1151:] == 1) and np.all(whole[35:970] == 1)
    assert np.all(np.diff(whole[969:1001]) < 0) and np.all(np.diff(whole[1120:1152]) > 0)
    # Neither a step of the fade is more than a tenth.
    assert np.abs(np.diff(whole[969:1001])).max() < 0.1
    for size in (1, 7, 1000, 1015):
        parts = [mute(given, start, min(start + size, 1300), RATE) for start in range(0, 1300, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[:1300])
    assert np.all(mute([], 5, 10, RATE) == 1)
