"""The kernels of preprocessing against SpikeInterface's steps, with the bounds that their docstrings state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from powerpixels.kernels import (
    FFT_SAMPLES,
    INT16_MAX,
    destripe,
    destripe_margin,
    filter_chunk,
    filter_plan,
    interpolate,
    quantise,
)
from probe_geometries import geometry, recording_of, subset

RATE = 30_000.0
GAIN = 2.34375


def raw_like(n_samples: int, n_channels: int, seed: int, band_limited: bool = True) -> np.ndarray:
    """int16 counts: slow waves of millivolts, offsets of millivolts, noise of 10 µV, a few spikes.

    The noise ends at 10 kHz as a probe's does, or goes on up to half the sampling rate, which no probe's does.
    """
    from scipy.signal import butter, sosfilt

    rng = np.random.default_rng(seed)
    time_s = np.arange(n_samples)[:, None] / RATE
    uv = 2000 * np.sin(2 * np.pi * rng.uniform(4, 30, n_channels) * time_s + rng.uniform(0, 6, n_channels))
    uv += np.linspace(-3000, 3000, n_channels)
    noise = rng.standard_normal((n_samples, n_channels)) * 10
    if band_limited:
        noise = sosfilt(butter(2, 10_000, fs=RATE, output="sos"), noise, axis=0)
    uv += noise
    for sample in rng.integers(0, n_samples, n_samples // 300):
        uv[sample : sample + 8, rng.integers(n_channels)] -= 150
    return np.clip(np.rint(uv / GAIN), -32768, 32767).astype(np.int16)


def reference(raw: np.ndarray, shifts: np.ndarray, gains=GAIN):
    """SpikeInterface's chain over raw counts, lazy, as preprocess.filtered_chain builds it."""
    from spikeinterface.core import NumpyRecording
    from spikeinterface.preprocessing import highpass_filter, phase_shift, scale

    recording = NumpyRecording([raw], RATE)
    recording.set_channel_gains(gains)
    recording.set_channel_offsets(0.0)
    scaled = scale(recording, gain=recording.get_channel_gains(), dtype="float32")
    return phase_shift(highpass_filter(scaled, freq_min=300.0), margin_ms=40.0, inter_sample_shift=shifts)


def plan_of(shifts: np.ndarray, gains=GAIN):
    n_channels = len(shifts)
    return filter_plan(RATE, 300.0, np.arange(n_channels), np.broadcast_to(gains, n_channels), shifts)


def in_chunks(raw: np.ndarray, plan, borders, pool=None) -> np.ndarray:
    parts = []
    for start, stop in zip(borders[:-1], borders[1:], strict=True):
        left, right = min(plan.margin, start), min(plan.margin, len(raw) - stop)
        parts.append(filter_chunk(raw[start - left : stop + right], left, right, plan, pool))
    return np.concatenate(parts, axis=1).T


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@pytest.mark.parametrize(
    "borders",
    [
        [0, 30_000, 60_000, 70_000],
        [0, 70_000],
        [0, 7, 600, 1_199, 1_200, 1_201, 5_000, 40_111, 68_700, 68_801, 69_990, 70_000],
    ],
)
def test_filter_equals_spikeinterface_wherever_chunks_lie(borders):
    shifts = geometry("NP1000").shifts[:26]
    raw = raw_like(70_000, len(shifts), seed=1)
    expected = reference(raw, shifts).get_traces()
    found = in_chunks(raw, plan_of(shifts), borders)
    assert rms(expected) > 5
    difference = found - expected
    assert rms(difference) < 0.005
    assert np.abs(difference).max() < 0.05


def test_filter_on_noise_up_to_half_the_sampling_rate():
    # The worst case: what is left out is what SpikeInterface's own chunks leave out.
    shifts = geometry("NP1000").shifts[:24]
    raw = raw_like(70_000, len(shifts), seed=2, band_limited=False)
    lazy = reference(raw, shifts)
    expected = lazy.get_traces()
    borders = [0, 30_000, 60_000, 70_000]
    of_chunks = np.concatenate(
        [lazy.get_traces(start_frame=a, end_frame=b) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    )
    found = in_chunks(raw, plan_of(shifts), borders)
    assert rms(found - expected) < min(0.06, 1.1 * rms(of_chunks - expected))
    assert np.abs(found - expected).max() < 0.6


@pytest.mark.parametrize("n_samples", [19, 20, 300, 1_199, 1_200, 1_201, 2_500, 4_800, 4_801, 9_000])
def test_filter_of_short_recordings(n_samples):
    shifts = geometry("NP2000").shifts[:32]
    raw = raw_like(20_000, len(shifts), seed=3)[5_000 : 5_000 + n_samples]
    expected = reference(raw, shifts).get_traces()
    for borders in ([0, n_samples], [0, n_samples // 2, n_samples]):
        found = in_chunks(raw, plan_of(shifts), borders)
        assert np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("n_samples", [1, 2, 18])
def test_filter_of_a_few_samples_gives_numbers(n_samples):
    raw = raw_like(100, 4, seed=4)[:n_samples]
    found = filter_chunk(raw, 0, 0, plan_of(np.zeros(4)))
    assert found.shape == (4, n_samples)
    assert np.isfinite(found).all()


def test_filter_takes_columns_gains_and_shifts_by_channel():
    # Kept channels in any order, of several gains, without partners of the same shift, a sync column beside.
    rng = np.random.default_rng(5)
    raw = raw_like(33_000, 60, seed=5)
    columns = rng.permutation(59)[:37]
    gains = rng.choice([2.34375, 4.6875, 0.7629], 60).astype(np.float32)
    shifts = rng.integers(0, 13, 60) / 13
    expected = reference(raw, shifts, gains).get_traces()[:, columns]
    plan = filter_plan(RATE, 300.0, columns, gains[columns], shifts[columns])
    found = in_chunks(raw, plan, [0, 20_000, 33_000])
    assert np.abs(found - expected).max() < 0.1
    as_floats = in_chunks(raw.astype(np.float32), plan, [0, 20_000, 33_000])
    np.testing.assert_array_equal(as_floats, found)


def test_filter_removes_offset_and_keeps_a_tone():
    time_s = np.arange(60_000) / RATE
    shifts = np.array([0.0, 0.5])
    tone = 100 * np.sin(2 * np.pi * 3_000 * time_s)
    raw = np.repeat((8_000 + tone / GAIN)[:, None], 2, axis=1).astype(np.float32)
    found = in_chunks(raw, plan_of(shifts), [0, 30_000, 60_000])
    inside = slice(3_000, -3_000)
    np.testing.assert_allclose(found[inside, 0], tone[inside], atol=0.05)
    # The second channel is sampled half a sample later than its values are to stand.
    late = 100 * np.sin(2 * np.pi * 3_000 * (time_s - 0.5 / RATE))
    np.testing.assert_allclose(found[inside, 1], late[inside], atol=0.05)


def test_results_do_not_depend_on_threads():
    shifts = geometry("NP1000").shifts[:70]
    raw = raw_like(FFT_SAMPLES + 9_000, 70, seed=6)
    plan = plan_of(shifts)
    margin = destripe_margin(RATE)
    results = []
    for n_threads in (1, 2, 5):
        with ThreadPoolExecutor(n_threads) as pool:
            traces = filter_chunk(raw, 0, plan.margin, plan, pool)
            interpolate(traces, [0, 1, 3], [2], np.array([[0.2], [0.3], [0.5]]), pool)
            striped = destripe(traces, 0, margin, RATE, np.arange(70), np.full(70, 9.0), 60, pool)
            counts = np.zeros((striped.shape[1], 70), dtype=np.int16)
            quantise(striped, 0.3, counts, 0, pool)
            results.append((traces, striped, counts))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_result_goes_where_it_is_wanted():
    raw = raw_like(5_000, 6, seed=7)
    plan = plan_of(np.zeros(6))
    out = np.full((6, 5_000), np.nan, dtype=np.float32)
    assert filter_chunk(raw, 0, 0, plan, out=out) is out
    np.testing.assert_array_equal(out, filter_chunk(raw, 0, 0, plan))
    with pytest.raises(ValueError, match="contiguous float32"):
        filter_chunk(raw, 0, 0, plan, out=out[:, :100])


def test_interpolation_equals_spikeinterface():
    from spikeinterface.preprocessing import interpolate_bad_channels
    from spikeinterface.preprocessing.preprocessing_tools import get_kriging_channel_weights

    probe = subset(geometry("NP1000"), 60, seed=8)
    traces = np.random.default_rng(8).standard_normal((700, 60)).astype(np.float32) * 20
    noisy = np.array([3, 4, 59])
    good = np.setdiff1d(np.arange(60), noisy)
    recording = recording_of(traces, probe.locations_um)
    expected = interpolate_bad_channels(
        recording, recording.channel_ids[noisy], sigma_um=20.0, p=1.3
    ).get_traces()
    weights = get_kriging_channel_weights(probe.locations_um[good], probe.locations_um[noisy], 20.0, 1.3)
    found = interpolate(np.ascontiguousarray(traces.T), good, noisy, weights)
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[good].T, traces[:, good])
    assert np.all(found[noisy].T != traces[:, noisy])


@pytest.mark.parametrize(
    ("part_number", "n_channels", "n_pad", "n_samples"),
    [
        ("NP1000", 384, 60, 7_001),
        ("NP2000", 96, 60, 7_001),
        ("NP2000", 24, 24, 7_001),
        ("NP2000", 16, 0, 7_001),
        ("NP1030", 50, 50, 7_001),
        ("NP2000", 24, 24, 3_100),
        ("NP2000", 24, 24, 300),
        ("NP2000", 24, 24, 1),
    ],
)
def test_destripe_equals_spikeinterface(part_number, n_channels, n_pad, n_samples):
    from spikeinterface.preprocessing import highpass_spatial_filter

    rng = np.random.default_rng(9)
    stripe = rng.standard_normal((n_samples, 1)) * 30 * np.linspace(0.2, 1, n_channels)
    traces = (rng.standard_normal((n_samples, n_channels)) * 8 + stripe).astype(np.float32)
    traces[:, 5] = 0
    traces[2_000:6_500, 6] *= 1e-4
    level = np.sqrt(np.mean(np.square(traces), axis=0))
    locations = geometry(part_number).locations_um[:n_channels]
    order = np.lexsort((locations[:, 0], locations[:, 1]))
    np.testing.assert_array_equal(locations[order, 1], locations[:, 1])
    expected = highpass_spatial_filter(
        recording_of(traces, locations), n_channel_pad=n_pad, rms_values=level
    ).get_traces()
    margin = destripe_margin(RATE)
    parts = []
    borders = [0, 3_000, 3_070, n_samples] if n_samples > 3_070 else [0, n_samples]
    for start, stop in zip(borders[:-1], borders[1:], strict=True):
        left, right = min(margin, start), min(margin, n_samples - stop)
        chunk = np.ascontiguousarray(traces[start - left : stop + right].T)
        parts.append(destripe(chunk, left, right, RATE, np.arange(n_channels), level, n_pad))
    found = np.concatenate(parts, axis=1).T
    assert n_samples == 1 or rms(expected) < 0.8 * rms(traces)
    assert np.abs(found - expected).max() < 1e-4


def test_destripe_by_depth_not_by_file_order():
    rng = np.random.default_rng(10)
    traces = rng.standard_normal((40, 900)).astype(np.float32)
    level = np.ones(40)
    shuffled = rng.permutation(40)
    straight = destripe(traces, 0, 0, RATE, np.arange(40), level, 40)
    found = destripe(traces[shuffled], 0, 0, RATE, np.argsort(shuffled), level, 40)
    np.testing.assert_allclose(found, straight[shuffled], atol=1e-6)
    assert np.abs(destripe(traces[shuffled], 0, 0, RATE, np.arange(40), level, 40) - found).max() > 0.01


@pytest.mark.parametrize(("n_channels", "n_samples", "first"), [(384, 3_000, 0), (37, 2_049, 3), (1, 1, 5)])
def test_quantise_rounds_and_counts_what_it_clips(n_channels, n_samples, first):
    rng = np.random.default_rng(11)
    gain = 0.29296875
    traces = (rng.standard_normal((n_channels, n_samples)) * 30).astype(np.float32)
    traces[:, ::7] = np.float32(gain) * (rng.integers(-200, 200, traces[:, ::7].shape) + 0.5)
    beyond = rng.random(traces.shape) < 0.01
    traces[beyond] = rng.choice([-1, 1], beyond.sum()) * 9_700
    counts = np.full((n_samples, n_channels + first + 2), 77, dtype=np.int16)
    n_clipped = quantise(traces, gain, counts, first)
    exact = np.rint(traces / np.float32(gain))
    expected = np.clip(exact, -INT16_MAX, INT16_MAX).astype(np.int16)
    np.testing.assert_array_equal(counts[:, first : first + n_channels], expected.T)
    assert n_clipped == beyond.sum() == np.count_nonzero(np.abs(exact) > INT16_MAX)
    assert np.all(counts[:, :first] == 77)
    assert np.all(counts[:, first + n_channels :] == 77)


def test_kernels_refuse_what_does_not_fit():
    plan = plan_of(np.zeros(4))
    raw = np.zeros((3_000, 4), dtype=np.int16)
    with pytest.raises(ValueError, match="margins of 1500 and 0"):
        filter_chunk(raw, 1_500, 0, plan)
    with pytest.raises(ValueError, match="margins of 0 and 0"):
        filter_chunk(raw[:0], 0, 0, plan)
    with pytest.raises(ValueError, match="of 2 columns"):
        filter_chunk(raw[:, :2], 0, 0, plan)
    with pytest.raises(ValueError, match="as many"):
        filter_plan(RATE, 300.0, np.arange(3), np.ones(4), np.zeros(4))
    with pytest.raises(ValueError, match="cutoff 20000"):
        filter_plan(RATE, 20_000.0, np.arange(4), np.ones(4), np.zeros(4))
    traces = np.zeros((4, 100), dtype=np.float32)
    with pytest.raises(ValueError, match="both good and noisy"):
        interpolate(traces, [0, 1], [1], np.ones((2, 1)))
    with pytest.raises(ValueError, match="weights of shape"):
        interpolate(traces, [0, 2], [1], np.ones((3, 1)))
    with pytest.raises(ValueError, match="cannot destripe 4 channels"):
        destripe(traces, 0, 0, RATE, np.arange(4), np.ones(4), 5)
    with pytest.raises(ValueError, match="cannot write"):
        quantise(traces, 1.0, np.zeros((100, 3), dtype=np.int16))


def test_filter_of_a_real_recording(real_data):
    path = (
        real_data
        / "neuroconv_ephy_testing_data/spikeglx/Noise4Sam_g0/Noise4Sam_g0_imec0/Noise4Sam_g0_t0.imec0.ap.bin"
    )
    if not path.is_file():
        pytest.skip(f"no {path}")
    raw = np.fromfile(path, dtype="<i2").reshape(-1, 385)
    shifts = geometry("NP1000").shifts
    expected = reference(raw[:, :384], shifts).get_traces()
    found = in_chunks(raw, plan_of(shifts), [0, 500, len(raw)])
    assert rms(expected) > 1
    assert np.abs(found - expected).max() < 0.05
