"""Spectra against SciPy's, notches against planted lines and against noise without any."""

from __future__ import annotations

import numpy as np
import pytest
from powerpixels import spectra
from powerpixels.documents import Block
from powerpixels.spectra import (
    THRESHOLD_UV2_HZ,
    Notch,
    Spectrum,
    Welch,
    find_notches,
    notch_gain,
    sample_windows,
)
from scipy import signal

RATE = 30000.0
# 1.0 probe, gain 500.
THRESHOLD = THRESHOLD_UV2_HZ


def noise(seed: int, seconds: float, n_channels: int, pink: float = 0.0) -> np.ndarray:
    """(samples, channels) µV: 6 µV of white noise a part of which all share, and pink of that many µV."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    traces = rng.normal(0, 5, (n, n_channels)) + rng.normal(0, 3, (n, 1))
    if pink:
        transform = np.fft.rfft(rng.normal(0, 1, (n, n_channels)), axis=0)
        transform[1:] /= np.sqrt(np.arange(1, len(transform)))[:, None]
        slow = np.fft.irfft(transform, n, axis=0)
        traces += pink * slow / slow.std()
    return traces


def tone(hz: float, uv: float, n: int, phase: float = 0.3) -> np.ndarray:
    """(samples, 1) of amplitude uv."""
    return uv * np.cos(2 * np.pi * hz * np.arange(n) / RATE + phase)[:, None]


def spectrum_of(traces: np.ndarray, segment_samples: int = spectra.SEGMENT_SAMPLES) -> Spectrum:
    welch = Welch(RATE, traces.shape[1], segment_samples)
    welch.add(*welch.periodograms(traces))
    return welch.spectrum()


def search(traces: np.ndarray, threshold: float = THRESHOLD, **options) -> tuple[list[Notch], list[Notch]]:
    return find_notches(spectrum_of(traces), np.arange(traces.shape[1]) + 100, threshold, **options)


@pytest.mark.parametrize("segment_samples", [1024, 1001])
def test_welch_in_pieces_equals_scipy(segment_samples):
    traces = noise(0, 1.0, 5, pink=100) + 1e3
    welch = Welch(RATE, 5, segment_samples)
    pieces = [traces[:12000], traces[12000 : 12000 + segment_samples - 1], traces[15000:]]
    for piece in pieces:
        welch.add(*welch.periodograms(piece))
    found = welch.spectrum()
    expected, n_segments = 0, 0
    for piece in (pieces[0], pieces[2]):
        freqs_hz, density = signal.welch(
            piece, RATE, nperseg=segment_samples, noverlap=segment_samples - segment_samples // 2, axis=0
        )
        n = (len(piece) - segment_samples) // (segment_samples // 2) + 1
        expected, n_segments = expected + n * density, n_segments + n
    np.testing.assert_allclose(found.freqs_hz, freqs_hz)
    np.testing.assert_allclose(found.power[1:], expected[1:] / n_segments, rtol=2e-5)
    assert found.n_segments == n_segments


def test_welch_of_nothing_is_an_error():
    welch = Welch(RATE, 2)
    welch.add(*welch.periodograms(np.zeros((100, 2))))
    with pytest.raises(ValueError, match="4096"):
        welch.spectrum()


def test_sampled_windows_lie_in_blocks_and_all_over():
    blocks = [Block(0, 5000, 0), Block(5000, 90, 9000), Block(5090, 100000, 20000)]
    starts = sample_windows(blocks, 100, 50, seed=3)
    assert len(starts) == 50 and np.all(np.diff(starts) > 0)
    for start in starts:
        assert any(b.start <= start and start + 100 <= b.start + b.n_samples for b in blocks)
    assert starts[0] < 2200 and starts[-1] > 105090 - 2200
    assert np.array_equal(starts, sample_windows(blocks, 100, 50, seed=3))
    assert not np.array_equal(starts, sample_windows(blocks, 100, 50, seed=4))
    # No more than the recording holds side by side, none where no block is long enough.
    assert len(sample_windows(blocks, 40000, 50, seed=3)) == 2
    assert len(sample_windows(blocks, 200000, 50, seed=3)) == 0


# In the middle of a bin, between two, close to the lower and the upper end.
@pytest.mark.parametrize("hz", [30000 / 4096 * 800, 30000 / 4096 * 800.5, 2011.3, 14953.1])
def test_a_line_is_found_wherever_it_lies(hz):
    traces = noise(1, 10, 8)
    kept, left_out = search(traces + tone(hz, 3.0, len(traces)))
    assert left_out == []
    (notch,) = kept
    assert notch.frequency_hz == pytest.approx(hz, abs=1.0)
    assert notch.power_uv2 == pytest.approx(4.5, rel=0.1)
    assert notch.raw_columns == list(range(100, 108))
    assert notch.width_hz == pytest.approx(spectra.MIN_NOTCH_HZ, abs=5)


def test_a_lines_power_does_not_depend_on_the_bins():
    traces = noise(2, 20, 4)
    traces += tone(5432.1, 3.0, len(traces))
    for segment_samples in (1024, 4096, 16384):
        (notch,), _ = find_notches(spectrum_of(traces, segment_samples), range(4), THRESHOLD)
        assert notch.power_uv2 == pytest.approx(4.5, rel=0.1), segment_samples


def test_threshold_decides_and_is_that_of_the_originals_bins():
    traces = noise(3, 10, 16)
    # The amplitude whose density in bins of the original is just the threshold.
    just_uv = np.sqrt(2 * THRESHOLD * 1.5 * 30000 / 256)
    n = len(traces)
    below, _ = search(traces + tone(7000.0, 0.9 * just_uv, n))
    above, _ = search(traces + tone(7000.0, 1.1 * just_uv, n))
    assert [len(below), len(above)] == [0, 1]
    # SciPy, with the original's segments, in the middle of one of its bins.
    hz = 60 * 30000 / 256
    x = tone(hz, just_uv, n)[:, 0]
    density = signal.welch(x, RATE, nperseg=256)[1].max()
    assert density == pytest.approx(THRESHOLD, rel=0.01)


def test_a_line_of_one_channel_is_that_channels():
    traces = noise(4, 10, 48)
    traces[:, [17]] += tone(4111.0, 4.0, len(traces))
    traces[:, 30:34] += tone(9001.5, 4.0, len(traces))
    traces[:, 40] = 0
    kept, _ = search(traces)
    assert [notch.raw_columns for notch in kept] == [[117], [130, 131, 132, 133]]


def test_a_channel_without_line_or_signal_is_not_among_all():
    traces = noise(5, 10, 12)
    traces += tone(8000.0, 4.0, len(traces))
    traces[:, 3] = 0
    (notch,), _ = search(traces)
    assert notch.raw_columns == [c for c in range(100, 112) if c != 103]


def test_a_strong_line_is_one_line():
    traces = noise(6, 10, 8)
    traces += tone(6543.2, 300.0, len(traces))
    kept, left_out = search(traces)
    assert len(kept) == 1 and left_out == []
    assert kept[0].frequency_hz == pytest.approx(6543.2, abs=0.5)


def test_multiples_are_marked_and_fainter_ones_found():
    traces = noise(7, 20, 4)
    n = len(traces)
    for hz, uv in ((3123.7, 5.0), (6247.4, 2.0), (12494.8, 0.13), (5000.0, 3.0)):
        traces += tone(hz, uv, n)
    # Too faint to be found anywhere, but not at a known line's multiple.
    kept, _ = search(traces, threshold=1e-5)
    planted = (3124, 5000, 6247, 12495)
    assert [min(planted, key=lambda hz: abs(hz - notch.frequency_hz)) for notch in kept] == list(planted)
    assert kept[-1].frequency_hz == pytest.approx(12494.8, abs=3)
    by_hz = dict(zip(planted, (notch.harmonic_of_hz for notch in kept), strict=True))
    assert by_hz[3124] is None and by_hz[5000] is None
    assert by_hz[6247] == pytest.approx(3123.7, abs=1) and by_hz[12495] == pytest.approx(3123.7, abs=1)
    alone = noise(7, 20, 4) + tone(12494.8, 0.13, n)
    assert search(alone, threshold=1e-5)[0] == []


def test_noise_has_no_lines():
    """None in 20 spectra of 24 channels whose noise is white, or pink below: threshold of no account."""
    for seed in range(20):
        found = search(noise(1000 + seed, 3, 24, pink=60 * (seed % 2)), threshold=1e-9)
        assert found == ([], []), seed


def test_noise_has_no_lines_in_many_seeds():
    """Nor in 60 spectra of 24 channels drawn as periodograms, of few segments and of many.

    (Nor in 300 of 64 channels, two minutes.)
    """
    freqs_hz = np.fft.rfftfreq(4096, 1 / RATE)
    shape = 0.003 * (1 + (800 / np.maximum(freqs_hz, 1)) ** 1.5)[:, None]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n_segments = int(rng.choice([8, 40, 800]))
        power = shape * rng.gamma(n_segments, 1 / n_segments, (2049, 24))
        assert find_notches(Spectrum(freqs_hz, power, n_segments), range(24), 1e-9) == ([], []), seed


def test_spikes_and_steep_slopes_are_no_lines():
    rng = np.random.default_rng(8)
    traces = noise(8, 10, 6)
    template = -200 * np.exp(-0.5 * (np.arange(-15, 30) / 4) ** 2)
    # A unit that fires like a clock has lines at multiples of its rate; below LOWEST_HZ they stay alone.
    for start in np.arange(500, len(traces) - 500, 600) + rng.integers(-60, 60, 499):
        traces[start : start + 45, :3] += template[:, None]
    sos = signal.butter(5, 6000, "lowpass", fs=RATE, output="sos")
    assert search(signal.sosfilt(sos, traces, axis=0), threshold=1e-9) == ([], [])


def test_a_broad_peak_is_named_and_not_filtered():
    rng = np.random.default_rng(9)
    traces = noise(9, 20, 8)
    sos = signal.butter(2, [5900, 6090], "bandpass", fs=RATE, output="sos")
    traces += 60 * signal.sosfilt(sos, rng.normal(0, 1, traces.shape), axis=0)
    kept, left_out = search(traces)
    assert kept == []
    assert left_out and all("broader" in notch.left_out for notch in left_out)


def test_a_wandering_line_gets_a_wider_notch():
    n = int(10 * RATE)
    t = np.arange(n) / RATE
    phase = 2 * np.pi * (5000 * t - 20 / (2 * np.pi * 0.5) * np.cos(2 * np.pi * 0.5 * t))
    (notch,), _ = search(noise(10, 10, 4) + 6 * np.cos(phase)[:, None])
    assert notch.frequency_hz == pytest.approx(5000, abs=5)
    # The frequency swings by 20 Hz, so stands 14 Hz from its mean in the mean.
    assert notch.width_hz == pytest.approx(40 + 4 * 20 / np.sqrt(2), abs=12)
    assert notch.power_uv2 == pytest.approx(18, rel=0.1)


def test_no_spectrum_loses_more_than_the_bound():
    traces = noise(11, 10, 6)
    lines_hz = 2200 + 311.7 * np.arange(40)
    for k, hz in enumerate(lines_hz):
        traces += tone(hz, 5.0 + 0.2 * k, len(traces), phase=k)
    kept, left_out = search(traces)
    assert sum(notch.width_hz for notch in kept) <= 0.03 * RATE / 2
    assert len(kept) <= spectra.MAX_NOTCHES and len(kept) >= 10
    assert len(kept) + len(left_out) == 40 and all(notch.left_out for notch in left_out)
    # The strongest were filtered.
    assert min(notch.power_uv2 for notch in kept) > max(notch.power_uv2 for notch in left_out) * 0.95
    gain = notch_gain(np.linspace(300, 15000, 100000), kept, RATE)
    assert np.mean(gain < 0.499) * (15000 - 300) <= 0.03 * RATE / 2


def test_notch_gain_is_scipys_notch_run_both_ways():
    notch = Notch(frequency_hz=3123.7, width_hz=40.0, power_uv2=1.0, raw_columns=[0])
    other = notch.model_copy(update={"frequency_hz": 12000.0, "width_hz": 70.0})
    freqs_hz = np.linspace(0, 15000, 30001)
    expected = 1.0
    for each in (notch, other):
        b, a = signal.iirnotch(each.frequency_hz, each.frequency_hz / each.width_hz, fs=RATE)
        expected = expected * np.abs(signal.freqz(b, a, freqs_hz, fs=RATE)[1]) ** 2
    np.testing.assert_allclose(notch_gain(freqs_hz, [notch, other], RATE), expected, atol=1e-9)
    np.testing.assert_array_equal(notch_gain(freqs_hz, [], RATE), 1.0)
    assert notch_gain(np.array([3123.7 + 20, 3123.7]), [notch], RATE) == pytest.approx([0.5, 0.0], abs=2e-3)


def test_a_line_is_gone_after_its_notch():
    traces = noise(12, 10, 4)
    with_line = traces + tone(5123.4, 10.0, len(traces))
    kept, _ = search(with_line)
    transform = np.fft.rfft(with_line, axis=0)
    gain = notch_gain(np.fft.rfftfreq(len(traces), 1 / RATE), kept, RATE)
    filtered = np.fft.irfft(transform * gain[:, None], len(traces), axis=0)
    assert search(filtered) == ([], [])
    # What else there was stays: 40 Hz of 15 kHz are gone.
    assert filtered.std() == pytest.approx(traces.std(), rel=0.005)
