"""RAW_QC against IBL's and SciPy's own functions, exact decimation, and planted signals."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from alignment_tool import AlignmentTool
from powerpixels import load_lfp
from powerpixels import raw_qc as module
from powerpixels.documents import Block, ClockFit, ProbeDocument
from powerpixels.inventory import inspect_documents, stage_documents
from powerpixels.raw_qc import RawQc, decimate, decimating_filter, raw_qc
from powerpixels.raw_qc_figures import draw
from powerpixels.stage import DataError
from scipy import signal
from sglx_files import np1_header, np2_header, write_recording

AP_GAIN_V = 0.6 / 512 / 500
LF_GAIN_V = 0.6 / 512 / 250
NP2_GAIN_V = 0.62 / 2048 / 100
N = 24


def documents(raw: Path) -> dict[str, ProbeDocument]:
    staged = stage_documents(inspect_documents(raw, "mouse01", "2026-03-01_001"))
    return {name: d for name, d in staged.items() if isinstance(d, ProbeDocument)}


def subset(header: dict, kind: str, columns: range) -> dict:
    """The header of a file with some channels only, and the sync word."""
    first = {"ap": 0, "lf": 384}[kind]
    counts = {"ap": f"{len(columns)},0,1", "lf": f"0,{len(columns)},1"}[kind]
    sync = sum(int(count) for count in header["acqApLfSy"].split(",")[:2])
    saved = f"{columns[0] + first}:{columns[-1] + first},{sync}"
    return {**header, "nSavedChans": str(len(columns) + 1), "snsApLfSy": counts, "snsSaveChanSubset": saved}


def slow_and_fast(seed: int, n: int, rate: float, n_channels: int = N) -> np.ndarray:
    """(n, n_channels) float64 V: an LFP of 3 to 90 Hz, more of it the higher the channel, and 8 µV of noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    size = 60e-6 * (1 + np.arange(n_channels) / n_channels)
    lfp = sum(np.cos(2 * np.pi * hz * t + rng.uniform(0, 6)) for hz in (3.1, 7.7, 33.3, 88.8))
    return lfp[:, None] * size + rng.normal(0, 8e-6, (n, n_channels))


def counts(volts: np.ndarray, gain_v: float) -> np.ndarray:
    """With a sync word as last column."""
    sync = 64 * (np.arange(len(volts)) // 1250 % 2)
    return np.column_stack([np.rint(volts / gain_v), sync]).astype(np.int16)


@pytest.fixture(scope="module")
def np1(tmp_path_factory) -> dict:
    """A 1.0 probe of 12.3 s: AP with a saturated and an artifact interval, a tone and a flat channel, LF."""
    folder = tmp_path_factory.mktemp("np1") / "run_g0"
    rng = np.random.default_rng(1)
    n = int(12.3 * 30000)
    ap = rng.normal(20e-6, 8e-6, (n, N)) + 4e-6 * np.cos(2 * np.pi * 9111 * np.arange(n) / 30000)[:, None]
    ap[:, 20] = 0
    ap = counts(ap, AP_GAIN_V)
    ap[100000:100120, :15] = 511
    ap[200000:200090, :20] += (400 * np.cos(np.arange(90) / 3))[:, None].astype(np.int16)
    lf = counts(slow_and_fast(2, n // 12, 2500), LF_GAIN_V)
    lf[5000:6000, 3] = -512
    channels = range(10, 10 + N)
    write_recording(
        folder / "run_g0_t0.imec0.ap.meta",
        subset(np1_header("ap", firstSample="1000"), "ap", channels),
        samples=ap,
    )
    # Two LF samples (24 of AP) later; a channel fewer below, two more above.
    lf_columns = range(11, 12 + N)
    wide = np.column_stack([lf[:, 1:N], lf[:, :2], lf[:, N]])
    write_recording(
        folder / "run_g0_t0.imec0.lf.meta",
        subset(np1_header("lf", firstSample="85"), "lf", lf_columns),
        samples=wide,
    )
    (document,) = documents(folder).values()
    out = folder.parent / "out"
    qc = raw_qc(document, folder, out, jobs=2, lfp=True)
    return {"folder": folder, "document": document, "out": out, "qc": qc, "ap": ap, "lf": wide}


@pytest.fixture(scope="module")
def np2(tmp_path_factory) -> dict:
    """A 2.0 probe of 9.4 s, its band wide; two triggers 2 s apart."""
    folder = tmp_path_factory.mktemp("np2") / "run_g0"
    volts = slow_and_fast(3, int(9.4 * 30000), 30000)
    rows = counts(volts, NP2_GAIN_V)
    header = subset({**np2_header(), "syncSourceIdx": "3"}, "ap", range(N))
    first = 5 * 30000 + 7
    write_recording(
        folder / "run_g0_t0.imec1.ap.meta", {**header, "firstSample": "1000"}, samples=rows[:first]
    )
    later = {**header, "firstSample": str(1000 + first + 60000)}
    write_recording(folder / "run_g0_t1.imec1.ap.meta", later, samples=rows[first:])
    (document,) = documents(folder).values()
    out = folder.parent / "out"
    qc = raw_qc(document, folder, out, jobs=2, lfp=True)
    return {"folder": folder, "document": document, "out": out, "qc": qc, "rows": rows, "first": first}


def array(out: Path, name: str) -> np.ndarray:
    return np.load(out / f"_iblqc_ephys{name}.npy")


class Samples:
    """What ``rmsmap`` asks of IBL's reader, which can't read headers of channel subsets without geometry."""

    def __init__(self, rows: np.ndarray, gain_v: float, fs: float):
        self.volts = (rows * gain_v).astype(np.float32)
        self.ns, self.nc = rows.shape
        self.fs, self.nsync = fs, 1

    def __getitem__(self, item):
        return self.volts[item]

    def close(self):
        """Nothing is open."""


def ibl(rows: np.ndarray, gain_v: float, fs: float) -> dict:
    """``ibllib.ephys.ephysqc.rmsmap`` of counts, whose last column is the sync word."""
    ephysqc = pytest.importorskip("ibllib.ephys.ephysqc")
    return ephysqc.rmsmap(Samples(rows, gain_v, fs))


def test_lf_band_is_ibls(np1):
    theirs, out = ibl(np1["lf"], LF_GAIN_V, 2500), np1["out"]
    rms = array(out, "TimeRmsLF.rms")
    # 12.3 s: three windows of 3.2768 s and one of 2.5 s. Channel 10 is not in the LF file.
    assert rms.shape == (4, N) and rms.dtype == np.float32
    assert np.all(np.isnan(rms[:, 0]))
    # To what IBL's single precision and its double transform differ.
    np.testing.assert_allclose(rms[:, 1:], theirs["TRMS"][:, : N - 1], rtol=1e-4)
    # IBL's is the sum over windows, of different length; SciPy's mean over the segments of whole windows.
    power, freqs_hz = array(out, "SpectralDensityLF.power"), array(out, "SpectralDensityLF.freqs")
    np.testing.assert_allclose(freqs_hz, theirs["fscale"], rtol=1e-6)
    windows = [np1["lf"][start : start + 8192, : N - 1] * LF_GAIN_V for start in range(0, 30750, 8192)]
    n_segments = np.array([len(window) // 512 - 1 for window in windows])
    from ibldsp import fourier

    densities = [
        signal.welch(fourier.hp(window.T, 1 / 2500, [0, 1]), 2500, nperseg=1024)[1].T for window in windows
    ]
    np.testing.assert_allclose(theirs["spectral_density"][:, : N - 1], sum(densities), rtol=1e-3)
    expected = np.average(densities, axis=0, weights=n_segments)
    np.testing.assert_allclose(power[1:, 1:], expected[1:], rtol=1e-3)


def test_ap_level_is_ibls(np1):
    theirs, out = ibl(np1["ap"], AP_GAIN_V, 30000), np1["out"]
    rms = array(out, "TimeRmsAP.rms")
    assert rms.shape == (3, N) and rms.dtype == np.float32
    # IBL takes off what is slower than 1 Hz, here the mean: to a part in ten thousand the same where there is no
    # such thing; the first window has 4 ms at the converter's limit.
    np.testing.assert_allclose(rms[1:], theirs["TRMS"][1:, :N], rtol=5e-4, atol=1e-9)
    np.testing.assert_allclose(rms[0], theirs["TRMS"][0, :N], rtol=3e-3, atol=1e-9)
    times = array(out, "TimeRmsAP.timestamps")
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, theirs["tscale"], atol=1e-9)


def test_ap_spectrum_is_scipys(np1):
    power, freqs_hz = (
        array(np1["out"], "SpectralDensityAP.power"),
        array(np1["out"], "SpectralDensityAP.freqs"),
    )
    expected_hz, expected = signal.welch(np1["ap"][:, :N] * AP_GAIN_V, 30000, nperseg=4096, axis=0)
    np.testing.assert_allclose(freqs_hz, expected_hz, rtol=1e-6)
    # Eleven windows of about a second, chosen at random, of twelve: the saturated interval weighs differently.
    high = (freqs_hz > 8000) & (np.abs(freqs_hz - 9111) > 40)
    np.testing.assert_allclose(power[high].mean(axis=0), expected[high].mean(axis=0), rtol=0.02)
    at_tone = np.abs(freqs_hz - 9111) < 20
    tone = power[at_tone].sum(axis=0) * freqs_hz[1]
    np.testing.assert_allclose(tone[:20], (4e-6) ** 2 / 2, rtol=0.1)


def test_times_are_the_probes_own(np1):
    # The LF file's first sample is number 85 * 12 = 1020, the AP file's 1000.
    lf_times = array(np1["out"], "TimeRmsLF.timestamps")
    np.testing.assert_allclose(lf_times[0], (20 + 12 * 8191 / 2) / 30000, atol=1e-9)
    lfp = zarr.open_group(str(np1["out"] / "lfp.zarr"), mode="r")
    np.testing.assert_allclose(lfp["timestamps"][:], (20 + 12 * np.arange(30750)) / 30000, atol=1e-9)
    assert lfp.attrs["clock"] == "imec0.ap" == np1["qc"].clock


def test_reference_clock_is_applied(np1, tmp_path):
    fit = {
        "probe": "probe00",
        "stream": "imec0.ap",
        "reference": "nidq",
        "sampling_rate_hz": 30000.0,
        "offset_s": 5.0,
        "slope": 1.001,
        "knots": [(0.0, 5.0), (10.0, 15.01)],
    }
    required = ClockFit.model_fields
    fit |= {key: 1.0 for key in required if key not in fit and required[key].annotation is float}
    fit |= {key: 1 for key in required if key not in fit and required[key].annotation is int}
    fit = {key: value for key, value in fit.items() if key in required}
    qc = raw_qc(np1["document"], np1["folder"], tmp_path, fit=ClockFit(**fit), lfp=True)
    assert qc.clock == "nidq"
    for name in ("TimeRmsAP.timestamps", "TimeRmsLF.timestamps"):
        np.testing.assert_allclose(array(tmp_path, name), 5 + 1.001 * array(np1["out"], name), atol=1e-9)
    np.testing.assert_array_equal(array(tmp_path, "TimeRmsAP.rms"), array(np1["out"], "TimeRmsAP.rms"))
    lfp, own = (zarr.open_group(str(out / "lfp.zarr"), mode="r") for out in (tmp_path, np1["out"]))
    assert lfp.attrs["clock"] == "nidq"
    np.testing.assert_allclose(lfp["timestamps"][:], 5 + 1.001 * own["timestamps"][:], rtol=0, atol=1e-9)


def test_planted_events_are_found_and_no_others(np1):
    qc = np1["qc"]
    with open(np1["out"] / "artifacts.csv", newline="") as file:
        found = list(csv.DictReader(file))
    saturated = [row for row in found if row["kind"] == "saturation"]
    assert [(row["start_sample"], row["stop_sample"], row["n_channels"]) for row in saturated] == [
        ("100000", "100120", "15")
    ]
    assert float(saturated[0]["start_s"]) == pytest.approx(100000 / 30000, abs=1e-6)
    assert float(saturated[0]["stop_s"]) == pytest.approx(100120 / 30000, abs=1e-6)
    artifacts = [row for row in found if row["kind"] == "artifact"]
    # The step to the limit is one too.
    assert [int(row["start_sample"]) // 1000 for row in artifacts] == [100, 200]
    assert int(artifacts[1]["start_sample"]) == 200000
    assert 200080 <= int(artifacts[1]["stop_sample"]) <= 200150
    assert (qc.n_saturated, qc.n_artifacts) == (1, 2)
    assert qc.saturated_s == pytest.approx(120 / 30000)
    assert (qc.limit_counts, qc.limit_source) == (512, "header")
    part = np.array([channel.ap_saturated for channel in qc.channels])
    np.testing.assert_allclose(part[:15], 120 / len(np1["ap"]), rtol=0.1)
    assert part[20] < 1e-4


def test_each_channel_by_its_identity(np1):
    qc = np1["qc"]
    assert RawQc.load(np1["out"] / "raw_qc.json") == qc
    channels = np1["document"].probe.ap.channels
    assert [(c.raw_column, c.contact_id) for c in qc.channels] == [
        (c.raw_column, c.contact_id) for c in channels
    ]
    # LF column k is AP column k + 1.
    assert qc.channels[0].lf_rms_uv is None and qc.channels[0].lf_saturated is None
    saturated = {k for k, channel in enumerate(qc.channels) if channel.lf_saturated}
    assert saturated == {3}
    assert qc.channels[3].lf_saturated == pytest.approx(1000 / 30750)
    flat = qc.channels[20]
    assert flat.ap_rms_uv < min(c.ap_rms_uv for k, c in enumerate(qc.channels) if k != 20) / 3
    (line,) = qc.lines
    assert line.frequency_hz == pytest.approx(9111, abs=1)
    assert line.raw_columns == [k for k in range(N) if k != 20]


def test_lfp_of_a_probe_with_lf_stream_is_the_stream(np1):
    lfp = zarr.open_group(str(np1["out"] / "lfp.zarr"), mode="r")
    np.testing.assert_array_equal(lfp["traces"][:], np1["lf"][:, :-1])
    np.testing.assert_allclose(lfp["gain_uv"][:], 1e6 * LF_GAIN_V)
    lf = np1["document"].probe.lf.channels
    assert list(lfp["contact_id"][:]) == [channel.contact_id for channel in lf]
    assert list(lfp["raw_column"][:]) == [channel.raw_column for channel in lf]
    assert lfp.attrs["sampling_rate_hz"] == 2500.0
    assert np1["qc"].lfp_clipped == 0


def test_a_probe_of_two_bands_without_its_lf_stream_has_no_lf_band(np1, tmp_path):
    """Its AP band was high-passed before it was digitised: nothing in it is an LFP."""
    folder, out = tmp_path / "run_g0", tmp_path / "session" / "alf" / "probe00"
    folder.mkdir()
    for path in np1["folder"].glob("*.ap.*"):
        (folder / path.name).symlink_to(path)
    (document,) = documents(folder).values()
    assert (document.probe.lf, document.probe.lf_source) == (None, None)
    qc = raw_qc(document, folder, out, jobs=2, lfp=True)
    assert (qc.ap_band, qc.lf_band, qc.lfp_clipped) == ("as recorded", "none", None)
    assert {(c.lf_rms_uv, c.lf_saturated) for c in qc.channels} == {(None, None)}
    assert not [path for path in out.iterdir() if "LF" in path.name or path.name == "lfp.zarr"]
    with pytest.raises(DataError, match="a 1.0 probe without its LF stream has none"):
        load_lfp(tmp_path / "session", "probe00")
    # What is of the AP band is as it is beside the LF stream.
    for path in out.glob("*AP*"):
        np.testing.assert_array_equal(np.load(path), np.load(np1["out"] / path.name))
    assert all(path.stat().st_size > 10000 for path in draw(out))


@pytest.mark.parametrize("part_number", ["NP1000", "NP2013", "NP2020", "NP3010", None])
def test_where_the_lf_band_is_by_the_part_number(np1, np2, part_number):
    """None is phase 3A, whose LF stream may be missing as any other's."""
    alone = np2["document"].probe.model_copy(update={"part_number": part_number})
    assert alone.lf_source is (None if part_number in ("NP1000", None) else alone.ap)
    both = np1["document"].probe.model_copy(update={"part_number": part_number})
    assert both.lf_source is both.lf


def test_the_alignment_tool_finds_channels_behind_a_column_that_is_none(np2, tmp_path):
    """Open Ephys saves columns of channels without an electrode among the others."""
    ap = np2["document"].probe.ap
    kept = [channel for channel in ap.channels if channel.raw_column != 5]
    probe = np2["document"].probe.model_copy(update={"ap": ap.model_copy(update={"channels": kept})})
    raw_qc(np2["document"].model_copy(update={"probe": probe}), np2["folder"], tmp_path, jobs=2)
    positions = np.array([(channel.x_um, channel.y_um) for channel in kept])
    np.save(tmp_path / "channels.localCoordinates.npy", positions)
    np.save(tmp_path / "channels.rawInd.npy", np.array([channel.raw_column for channel in kept]))
    tool = AlignmentTool(tmp_path)
    for name, key in (
        ("ephysTimeRmsAP", "rms"),
        ("ephysTimeRmsLF", "rms"),
        ("ephysSpectralDensityAP", "power"),
        ("ephysSpectralDensityLF", "power"),
    ):
        whole = array(np2["out"], f"{name.removeprefix('ephys')}.{key}")
        np.testing.assert_array_equal(tool.seen(name, key), np.delete(whole, 5, axis=1))
        assert np.isnan(array(tmp_path, f"{name.removeprefix('ephys')}.{key}")[:, 5]).all()


def exact_decimation(volts: np.ndarray, ratio: int) -> np.ndarray:
    """Everything from the new Nyquist frequency on taken out of the transform of the whole."""
    transform = np.fft.rfft(volts, axis=0)
    transform[len(volts) // (2 * ratio) :] = 0
    return np.fft.irfft(transform, len(volts), axis=0)[::ratio]


def test_decimation_of_the_wide_band_is_exact(np2):
    lfp = zarr.open_group(str(np2["out"] / "lfp.zarr"), mode="r")
    traces = lfp["traces"][:] * lfp["gain_uv"][:] * 1e-6
    rows, first = np2["rows"][:, :N], np2["first"]
    n_lf = [-(-first // 12), -(-(len(rows) - first) // 12)]
    assert traces.shape == (sum(n_lf), N)
    starts = [0, n_lf[0]]
    below_hz = signal.butter(4, 600, "lowpass", fs=2500, output="sos")
    for block, start, n in zip((rows[:first], rows[first:]), starts, n_lf, strict=True):
        exact = exact_decimation(block * NP2_GAIN_V, 12)
        # Below the edge of the pass band, and away from the ends of the block.
        difference = signal.sosfiltfilt(below_hz, traces[start : start + n] - exact, axis=0)[200:-200]
        step_v = lfp["gain_uv"][0] * 1e-6
        assert np.sqrt(np.mean(difference**2)) < step_v / 3
        assert np.abs(difference).max() < 2 * step_v
    assert np2["qc"].lfp_clipped == 0 and lfp["gain_uv"][0] <= 0.4


def test_times_of_decimated_samples_skip_the_gap(np2):
    lfp = zarr.open_group(str(np2["out"] / "lfp.zarr"), mode="r")
    times, first = lfp["timestamps"][:], np2["first"]
    n = -(-first // 12)
    np.testing.assert_allclose(times[:n], 12 * np.arange(n) / 30000, atol=1e-9)
    np.testing.assert_allclose(times[n:], (first + 60000 + 12 * np.arange(len(times) - n)) / 30000, atol=1e-9)
    # Windows of 4.37 s in blocks of 5 and 4.4 s: the second begins after the gap; 0.6 s make none.
    windows = array(np2["out"], "TimeRmsAP.timestamps")
    np.testing.assert_allclose(windows, [131071 / 2 / 30000, (first + 60000 + 131071 / 2) / 30000], atol=1e-9)


def test_levels_of_the_wide_band(np2):
    rows, first, out = np2["rows"][:, :N], np2["first"], np2["out"]
    above = signal.butter(5, 300, "highpass", fs=30000, output="sos")
    filtered = signal.sosfilt(above, (rows - rows[0]) * NP2_GAIN_V, axis=0)[: 2**17]
    rms = array(out, "TimeRmsAP.rms")
    np.testing.assert_allclose(rms[0], np.sqrt(np.mean(filtered**2, axis=0)), rtol=1e-4)
    # 8 µV of white noise and 0.9 µV of rounding, less 300 of 15000 Hz: nothing is left of the LFP.
    np.testing.assert_allclose(
        rms, np.sqrt(0.98 * 64 + 0.98 * (NP2_GAIN_V * 1e6) ** 2 / 12) * 1e-6, rtol=0.01
    )
    lf_rms = array(out, "TimeRmsLF.rms")
    exact = exact_decimation(rows[:first] * NP2_GAIN_V, 12)[:8192]
    np.testing.assert_allclose(
        lf_rms[0], np.sqrt(np.mean((exact - exact.mean(axis=0)) ** 2, axis=0)), rtol=5e-3
    )
    # Four cosines of 60 to 120 µV.
    planted = 60e-6 * (1 + np.arange(N) / N) * np.sqrt(4 / 2)
    np.testing.assert_allclose(np.median(lf_rms, axis=0), planted, rtol=0.05)
    assert (np2["qc"].ap_band, np2["qc"].lf_band) == ("above 300 Hz", "AP stream decimated by 12")


def test_the_filter_passes_and_stops():
    taps = decimating_filter(30000, 12)
    assert len(taps) % 2 == 1 and np.array_equal(taps, taps[::-1])
    hz, response = signal.freqz(taps, worN=20000, fs=30000)
    assert np.abs(np.abs(response[hz <= 1000]) - 1).max() < 1e-3
    assert 20 * np.log10(np.abs(response[hz >= 1500]).max()) < -79


def test_decimate_is_a_convolution():
    rng = np.random.default_rng(0)
    rows = rng.integers(-2000, 2000, (1000, 3)).astype(np.int16)
    taps = decimating_filter(30000, 12)
    half = len(taps) // 2
    padded = np.pad(rows.astype(float), ((half, half), (0, 0)), mode="edge")
    full = np.stack([np.convolve(padded[:, c], taps, mode="valid") for c in range(3)], axis=1)
    np.testing.assert_allclose(decimate(rows, 5, 80, 12, taps), full[5 : 5 + 80 * 12 : 12], atol=0.01)
    np.testing.assert_allclose(decimate(rows, 400, 3, 12, taps), full[400:436:12], atol=0.01)


def test_jobs_and_repetition_change_nothing(np2, tmp_path, monkeypatch):
    raw_qc(np2["document"], np2["folder"], tmp_path, jobs=1, lfp=True)
    for path in np2["out"].glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / path.name), err_msg=path.name)
    assert (tmp_path / "raw_qc.json").read_text() == (np2["out"] / "raw_qc.json").read_text()
    # Nor does it matter how many rows are read at a time.
    monkeypatch.setattr(module, "ROWS", 5000)
    raw_qc(np2["document"], np2["folder"], tmp_path, jobs=2, lfp=True)
    for name in ("TimeRmsAP.rms", "TimeRmsLF.rms"):
        np.testing.assert_allclose(array(tmp_path, name), array(np2["out"], name), rtol=1e-5)
    lfp = [zarr.open_group(str(out / "lfp.zarr"), mode="r")["traces"][:] for out in (tmp_path, np2["out"])]
    np.testing.assert_array_equal(*lfp)


def without_limit(document: ProbeDocument) -> ProbeDocument:
    ap = document.probe.ap.model_copy(update={"limit_counts": None})
    return document.model_copy(update={"probe": document.probe.model_copy(update={"ap": ap})})


def test_an_unknown_limit_is_found_in_the_data(np1, tmp_path, caplog):
    caplog.set_level("INFO", "powerpixels")
    document = without_limit(np1["document"])
    qc = raw_qc(document, np1["folder"], tmp_path)
    assert (qc.limit_counts, qc.limit_source, qc.n_saturated) == (511, "data", 1)
    assert qc.channels[3].ap_saturated == pytest.approx(np1["qc"].channels[3].ap_saturated, rel=0.05)
    # How far it is, of either stream.
    for name, n in (("imec0.ap", 369_000), ("imec0.lf", 30_750)):
        said = [message for message in caplog.messages if message.startswith(f"{name}: ")]
        assert len(said) >= 4 and said[-1] == f"{name}: 100 % of {n} samples looked at"
    assert not (tmp_path / "lfp.zarr").exists()
    # Without a limit in the data nothing is said of it.
    assert qc.channels[3].lf_saturated is None


def test_without_saturation_no_limit_is_made_up(np2, tmp_path):
    qc = raw_qc(without_limit(np2["document"]), np2["folder"], tmp_path)
    assert (qc.limit_counts, qc.limit_source, qc.n_saturated) == (None, "unknown", 0)
    assert qc.channels[0].ap_saturated is None


def test_raw_files_that_do_not_do(np2, tmp_path):
    with pytest.raises(DataError, match="missing"):
        raw_qc(np2["document"], tmp_path, tmp_path / "out")
    ap = np2["document"].probe.ap
    piece = ap.pieces[0].model_copy(update={"n_samples": 2000})
    short = ap.model_copy(update={"pieces": [piece], "n_samples": 2000})
    probe = np2["document"].probe.model_copy(update={"ap": short})
    with pytest.raises(DataError, match=r"at least 0.1 s .* found 0.067 s"):
        raw_qc(np2["document"].model_copy(update={"probe": probe}), np2["folder"], tmp_path / "out")
    bare = np2["document"].probe.model_copy(update={"ap": ap.model_copy(update={"channels": []})})
    with pytest.raises(DataError, match="no recorded channels"):
        raw_qc(np2["document"].model_copy(update={"probe": bare}), np2["folder"], tmp_path / "out")


def test_windows_begin_anew_after_gaps():
    blocks = [Block(0, 25000, 0), Block(25000, 1000, 40000), Block(26000, 8192, 90000)]
    windows = module._windows(blocks, 2500.0)
    # 25000 = 3 * 8192 + 424: the rest is shorter than a second; the second block's only window is, too.
    assert [(w.start, w.stop) for w in windows] == [
        (0, 8192),
        (8192, 16384),
        (16384, 24576),
        (25000, 26000),
        (26000, 34192),
    ]
    assert windows[3].middle == 40000 + 999 / 2


@pytest.mark.parametrize("name", ["Noise4Sam_g0", "TEST_20210920_0_g0", "NP2_no_sync"])
def test_real_recordings(real_data, tmp_path, monkeypatch, name):
    """They are too short to be measured, and said to be; measured all the same they agree with NumPy."""
    raw = real_data / "neuroconv_ephy_testing_data" / "spikeglx" / name
    (document,) = documents(raw).values()
    with pytest.raises(DataError, match="at least 0.1 s without a gap"):
        raw_qc(document, raw, tmp_path)
    monkeypatch.setattr(module, "MIN_BLOCK_S", 0.02)
    qc = raw_qc(document, raw, tmp_path)
    ap = document.probe.ap
    data = next(raw.rglob(Path(ap.pieces[0].path).name))
    rows = np.fromfile(data, dtype="<i2").reshape(-1, ap.n_columns)
    volts = rows[:, [c.raw_column for c in ap.channels]] * [c.gain_uv * 1e-6 for c in ap.channels]
    if document.probe.lf_source is ap:
        above = signal.butter(5, 300, "highpass", fs=ap.sampling_rate_hz, output="sos")
        volts = signal.sosfilt(above, volts - volts[0], axis=0)
        expected = np.sqrt(np.mean(volts**2, axis=0))
    else:
        expected = volts.std(axis=0)
    np.testing.assert_allclose(array(tmp_path, "TimeRmsAP.rms")[0], expected, rtol=1e-3, atol=1e-9)
    levels = [channel.ap_rms_uv for channel in qc.channels]
    assert 1 < np.median(levels) < 100
    assert qc.limit_source == "header" and qc.n_saturated == 0


def test_simulated_session(session_small, tmp_path):
    """Planted: the tone at 8900 Hz, one dead and one noisy channel a probe; nothing saturates."""
    truth = json.loads((session_small / "truth" / "truth.json").read_text())
    raw = session_small / "raw"
    for name, document in documents(raw).items():
        qc = raw_qc(document, raw, tmp_path / name, jobs=2)
        label = {
            c["raw_column"]: c["label"]
            for p in truth["probes"]
            if p["name"] == document.probe.name
            for c in p["channels"]
        }
        (line,) = qc.lines
        assert line.frequency_hz == pytest.approx(truth["tone_hz"], abs=1)
        assert line.power_uv2 == pytest.approx(truth["tone_uv"] ** 2 / 2, rel=0.05)
        dead = {column for column, said in label.items() if said == "dead"}
        assert dead and set(line.raw_columns) == set(label) - dead
        assert qc.n_saturated == 0
        # The simulation's transients are all that may be taken for artifacts.
        assert qc.n_artifacts <= len(truth["artifact_s"])
        noisy = [c.ap_rms_uv for c in qc.channels if label[c.raw_column] == "noise"]
        others = [c.ap_rms_uv for c in qc.channels if label[c.raw_column] != "noise"]
        assert noisy and min(noisy) > 2 * max(others)
        # The LFP is in the brain only.
        lf = {c.raw_column: c.lf_rms_uv for c in qc.channels}
        inside = [lf[column] for column, said in label.items() if said in ("good", "noise")]
        outside = [lf[column] for column, said in label.items() if said in ("out", "dead")]
        assert min(inside) > 5 * max(outside)


@pytest.mark.filterwarnings("error")
def test_figures_of_channels_without_lf_and_without_signal(np1):
    paths = draw(np1["out"])
    assert [path.name for path in paths] == ["levels.png", "spectra.png", "channels.png"]
    assert all(path.stat().st_size > 10000 for path in paths)


def test_executable(np2, tmp_path):
    np2["document"].save(tmp_path / "probe.json")
    executable = Path(module.__file__).resolve().parent.parent / "pp_raw_qc.py"
    arguments = ["--probe", "probe.json", "--raw-dir", str(np2["folder"]), "--out", "raw_qc", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(executable.parent)}
    command = [sys.executable, str(executable), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        array(tmp_path / "raw_qc", "TimeRmsAP.rms"), array(np2["out"], "TimeRmsAP.rms")
    )
    for name in ("levels", "spectra", "channels"):
        assert (tmp_path / "raw_qc" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "matplotlib" in json.loads((tmp_path / "versions.json").read_text())
    missing = subprocess.run(
        [*command[:-4], "--out", "other", "--raw-dir", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert missing.returncode == 65
    assert missing.stderr.splitlines()[-1].startswith("ERROR: ") and "missing" in missing.stderr
