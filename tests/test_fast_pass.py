"""The fast engine against SpikeInterface's: same decisions, same traces, for every reference and geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import powerpixels
import pytest
import spikeinterface.preprocessing as spre
from powerpixels.documents import (
    Channel,
    JoinedProbe,
    Piece,
    Preprocess,
    Probe,
    ProbeDocument,
    RawFile,
    Session,
    Stream,
)
from powerpixels.fast_pass import FastPass, FilteredRecording, UnitFile
from powerpixels.preprocess import (
    Settings,
    _blocks,
    _fast_shank,
    _label_session,
    filtered_chain,
    plan_shank,
    plan_shanks,
    preprocess_probe,
)
from powerpixels.raw_ap import load_raw_ap
from powerpixels.recordings import load_preprocessed
from powerpixels.spectra import Notch, notches_of_columns
from powerpixels.stage import DataError
from probe_geometries import Geometry, geometry, subset
from scipy.signal import butter, sosfilt
from spikeinterface.core import NumpyRecording
from spikeinterface.core.time_series_tools import get_random_sample_slices

RATE = 30_000
# Two chunks and a short third one of either engine; the engines' chunks lie differently.
N_SAMPLES = 61_003
EVIDENCE = {"similarity", "trend", "residual", "high_uv2_hz"}
RAW_GAIN = {"NP1": 2.34375, "NP2": 0.762939453125}


def written(
    folder: Path,
    probe: Geometry,
    n_samples: int,
    seed: int,
    gain_uv: float,
    pieces: tuple[tuple[int, int], ...] = (),
    bad: bool = True,
    tones: tuple[tuple[float, float, slice], ...] = (),
    saturated: tuple[tuple[int, int], ...] = (),
    limit_counts: int | None = None,
) -> JoinedProbe:
    """A raw file as a probe would make it: band-limited, common to a shank and each channel's own.

    tones: frequency in Hz, amplitude in µV, channels. saturated: samples at which half the channels are at
    the limit of a 1.0 probe's converter. bad: of each shank's channels number 5 is silent and number 9 has strong high frequencies.
    """
    rng = np.random.default_rng(seed)
    n_channels = len(probe.shank)
    lowpass = butter(2, 10_000, fs=RATE, output="sos")
    uv = rng.standard_normal((n_samples, n_channels), dtype=np.float32) * 8
    common = rng.standard_normal((n_samples, probe.shank.max() + 1)) * 12
    uv += common[:, probe.shank] * np.linspace(0.7, 1, n_channels)
    uv = sosfilt(lowpass, uv, axis=0)
    uv += 300 * np.sin(2 * np.pi * 6 * np.arange(n_samples)[:, None] / RATE + np.arange(n_channels))
    for sample in rng.integers(0, n_samples - 40, n_samples // 300):
        uv[sample : sample + 8, rng.integers(n_channels)] -= 150
    for shank in np.unique(probe.shank):
        rows = np.flatnonzero(probe.shank == shank)
        if bad and len(rows) > 12:
            uv[:, rows[5]] *= 0.01
            uv[:, rows[9]] += rng.standard_normal(n_samples) * 40
    for frequency_hz, amplitude_uv, rows in tones:
        uv[:, rows] += amplitude_uv * np.sin(2 * np.pi * frequency_hz * np.arange(n_samples) / RATE)[:, None]
    counts = np.zeros((n_samples, n_channels + 2), dtype="<i2")
    counts[:, 1:-1] = np.clip(np.rint(uv / gain_uv + 20), -32768, 32767)
    for start, stop in saturated:
        counts[start:stop, 1:-1:2] = 511
    folder.mkdir(parents=True, exist_ok=True)
    counts.tofile(folder / "t0.bin")
    channels = [
        Channel(
            raw_column=k + 1,
            channel_id=f"AP{k}",
            contact_id=f"s{probe.shank[k]}e{k}",
            shank=int(probe.shank[k]),
            x_um=float(probe.locations_um[k, 0]),
            y_um=float(probe.locations_um[k, 1]),
            inter_sample_shift=float(probe.shifts[k]),
            gain_uv=gain_uv,
        )
        for k in range(n_channels)
    ]
    parts, row = [], 0
    for n, first_sample in pieces or ((n_samples, 0),):
        parts.append(Piece(path="t0.bin", first_row=row, n_samples=n, first_sample=first_sample))
        row += n
    stream = Stream(
        name="imec0.ap",
        kind="ap",
        files=[RawFile(path="t0.bin", role="data", size_bytes=counts.nbytes)],
        sampling_rate_hz=float(RATE),
        n_columns=n_channels + 2,
        n_samples=n_samples,
        first_sample=0,
        pieces=parts,
        limit_counts=limit_counts,
        channels=channels,
    )
    session = Session(
        subject="s", session="1", acquisition="spikeglx", acquisition_version=None, start_time=None
    )
    described = Probe(
        name="probe00",
        part_number=None,
        serial_number=None,
        model=None,
        shanks=np.unique(probe.shank).tolist(),
        ap=stream,
        lf=None,
    )
    return JoinedProbe(recordings=[ProbeDocument(session=session, probe=described)])


def both(joined: JoinedProbe, folder: Path, **settings) -> list[tuple[np.ndarray, np.ndarray]]:
    """Run both engines; their decisions must be the same. Traces of each unit by fast and by the other."""
    results = {}
    for engine in ("fast", "spikeinterface"):
        out = folder / f"{engine}_{settings['reference']}"
        jobs = 2 if engine == "fast" else 1
        results[engine] = preprocess_probe(joined, folder, out, Settings(engine=engine, **settings), jobs)
    fast, stock = results.values()
    assert [own.model_dump(exclude=EVIDENCE) for own in fast.labels] == [
        own.model_dump(exclude=EVIDENCE) for own in stock.labels
    ]
    for one, other in zip(fast.labels, stock.labels, strict=True):
        assert (one.similarity is None) == (other.similarity is None)
        if one.similarity is None:
            continue
        for key in ("similarity", "trend", "residual"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), abs=0.002)
        assert one.high_uv2_hz == pytest.approx(other.high_uv2_hz, rel=0.02)
    decisions = [
        [step for step in result.steps if step["step"] not in ("compute", "write")]
        for result in results.values()
    ]
    assert decisions[0] == decisions[1]
    assert fast.steps[-1]["gain_uv"] == stock.steps[-1]["gain_uv"]
    assert fast.units == stock.units
    for one, other in zip(fast.levels, stock.levels, strict=True):
        assert one.raw_column == other.raw_column
        assert one.rms_uv == pytest.approx(other.rms_uv, rel=2e-3)
    pairs = []
    for unit in fast.units:
        files = [folder / f"{engine}_{settings['reference']}" / unit for engine in results]
        assert (files[0] / "recording.json").read_bytes() == (files[1] / "recording.json").read_bytes()
        pairs.append(tuple(load_preprocessed(file).get_traces().astype(int) for file in files))
    return pairs


PROBES = {
    "1.0": lambda: geometry("NP1000", 52),
    "1.0 subset": lambda: subset(geometry("NP1000", 100), 40, seed=1),
    "2.0 one shank": lambda: geometry("NP2003", 40),
    "2.0 four shanks": lambda: geometry("NP2013", 96),
    "quad-base": lambda: geometry("NP2020", 80),
}


@pytest.fixture(scope="module", params=PROBES)
def recorded(request, tmp_path_factory) -> tuple[JoinedProbe, Path]:
    folder = tmp_path_factory.mktemp("probe")
    gain_uv = RAW_GAIN["NP1" if request.param.startswith("1") else "NP2"]
    n_samples = N_SAMPLES if request.param == "1.0" else 36_001
    return written(folder, PROBES[request.param](), n_samples, 1, gain_uv), folder


@pytest.mark.parametrize("reference", ["local", "global", "destripe", "none"])
def test_both_engines_give_the_same(recorded, reference):
    joined, folder = recorded
    for fast, stock in both(joined, folder, reference=reference):
        assert np.std(stock) > 5
        difference = np.abs(fast - stock)
        # The rounding of values that lie between two counts, and nothing else.
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 0.02
    found = Preprocess.load(folder / f"fast_{reference}" / "preprocess.json").labels
    assert {label.label for label in found} == {"good", "dead", "noise"}


def test_one_file_for_all_shanks_with_a_shank_that_has_few(tmp_path):
    """Shanks of 24, 10 and 3 channels, side by side: each gets the reference that it can have."""
    four = geometry("NP2013", 96)
    kept = np.concatenate([np.flatnonzero(four.shank == k)[:n] for k, n in enumerate((24, 10, 3))])
    probe = Geometry(four.locations_um[kept], four.shifts[kept], four.shank[kept])
    joined = written(tmp_path, probe, 36_000, 2, RAW_GAIN["NP2"], bad=False)
    for reference in ("destripe", "local"):
        ((fast, stock),) = both(joined, tmp_path, reference=reference, sort_by="probe")
        assert fast.shape == (36_000, 37)
        assert np.abs(fast - stock).max() <= 1


def test_a_local_reference_that_few_channels_can_have(tmp_path, caplog):
    """Where the annulus holds too few the nearest are taken, where there is none none: and that is said."""
    probe = geometry("NP1000", 16)
    joined = written(tmp_path, probe, 33_000, 3, RAW_GAIN["NP1"], bad=False)
    ((fast, stock),) = both(joined, tmp_path, reference="local", local_radius_um=(60.0, 75.0))
    assert np.abs(fast - stock).max() <= 1
    assert any("fewer than 5 channels within 60 to 75 µm" in message for message in caplog.messages)
    ((fast, stock),) = both(joined, tmp_path, reference="local", local_radius_um=(120.0, 200.0))
    assert np.abs(fast - stock).max() <= 1
    assert any("no channel beyond 120 µm" in message for message in caplog.messages)


def test_gaps_and_short_blocks(tmp_path):
    """Blocks of 1.2 s, 0.3 s, 40 ms, 10 ms, 2 ms and 1 ms: the same as SpikeInterface's of each."""
    lengths = (36_000, 9_001, 1_200, 300, 60, 30)
    pieces = tuple((n, 50_000 * k) for k, n in enumerate(lengths))
    joined = written(tmp_path, geometry("NP1000", 32), sum(lengths), 4, RAW_GAIN["NP1"], pieces)
    for reference in ("destripe", "local"):
        ((fast, stock),) = both(joined, tmp_path, reference=reference)
        assert np.abs(fast - stock).max() <= 1
        assert not fast[-30:].any()
        assert np.all(np.std(fast[-90:-30], axis=0) > 1)


def test_the_filter_that_detection_sees_is_the_chains(tmp_path):
    """Whole or in part, all channels or some: FilteredRecording is what filtered_chain is."""
    pieces = ((20_000, 0), (5_000, 30_000))
    joined = written(tmp_path, geometry("NP1000", 24), 25_000, 5, RAW_GAIN["NP1"], pieces, bad=False)
    raw = load_raw_ap(joined, tmp_path)
    fast, stock = FilteredRecording(raw, _blocks(raw), 300.0), filtered_chain(raw, 300.0)
    for key in ("raw_column", "contact_id", "group"):
        assert np.array_equal(fast.get_property(key), stock.get_property(key))
    assert np.array_equal(fast.get_channel_locations(), stock.get_channel_locations())
    assert fast.is_filtered()
    assert [fast.get_num_samples(k) for k in range(2)] == [20_000, 5_000]
    some = raw.channel_ids[[7, 3, 20]]
    for segment, start, end in ((0, None, None), (0, 500, 9_500), (0, 12_000, 20_000), (1, 0, 700)):
        asked = {"segment_index": segment, "start_frame": start, "end_frame": end}
        expected = stock.get_traces(**asked)
        assert np.abs(fast.get_traces(**asked) - expected).max() < 0.1
        part = fast.get_traces(channel_ids=some, **asked)
        assert np.abs(part - expected[:, [7, 3, 20]]).max() < 0.1


def test_notches_of_each_channel_are_spikeinterfaces_filter(tmp_path):
    """Three kinds of channels in mixed order, in pieces and at the blocks' ends: within 0.05 µV."""
    pieces = ((40_000, 0), (2_000, 50_000))
    joined = written(tmp_path, geometry("NP1000", 24), 42_000, 12, RAW_GAIN["NP1"], pieces, False, TONES[:1])
    raw = load_raw_ap(joined, tmp_path)
    notches = [
        Notch(frequency_hz=8_900, width_hz=40, power_uv2=1, raw_columns=[1, 2, 5, 9, 24]),
        Notch(frequency_hz=4_321, width_hz=120, power_uv2=1, raw_columns=[9, 3, 24]),
    ]
    stock = filtered_chain(raw, 300.0, notches)
    of_channel = notches_of_columns(notches, raw.get_property("raw_column"))
    fast = FilteredRecording(raw, _blocks(raw), 300.0, of_channel)
    for segment, start, end in ((0, None, None), (0, 7_000, 9_500), (0, 36_000, 40_000), (1, 0, 2_000)):
        asked = {"segment_index": segment, "start_frame": start, "end_frame": end}
        assert np.abs(fast.get_traces(**asked) - stock.get_traces(**asked)).max() < 0.05
    some = raw.channel_ids[[8, 0, 7]]
    part = stock.get_traces(segment_index=1, channel_ids=some)
    assert np.array_equal(part, stock.get_traces(segment_index=1)[:, [8, 0, 7]])
    assert np.array_equal(stock.get_property("raw_column"), raw.get_property("raw_column"))


def test_a_file_that_ends_while_it_is_read_stops_the_pass(tmp_path):
    """The error names the file; it comes out of the thread that met it."""
    joined = written(tmp_path, geometry("NP1000", 16), 70_000, 6, RAW_GAIN["NP1"])
    raw = load_raw_ap(joined, tmp_path)
    with open(tmp_path / "t0.bin", "r+b") as file:
        file.truncate(40_000 * 18 * 2)
    filtered = FilteredRecording(raw, _blocks(raw), 300.0)
    channels = joined.recordings[0].probe.ap.channels
    plan = plan_shank(channels, dict.fromkeys(range(1, 17), "good"), Settings())
    (tmp_path / "traces.bin").write_bytes(b"")
    unit = UnitFile(tmp_path / "traces.bin", [_fast_shank(filtered, plan, 42)])
    with pytest.raises(DataError, match=r"t0\.bin: ended at sample 40000"):
        FastPass(_blocks(raw), [unit], 300.0, 0.3).run(2, 60, lambda result: None)


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_the_same_near_the_thresholds(tmp_path, seed):
    """Channels of random amplitude and noise, more or less like the others: both filters lead to the same."""
    joined = written(tmp_path, geometry("NP1000", 32), 36_000, seed, RAW_GAIN["NP1"], bad=False)
    counts = np.memmap(tmp_path / "t0.bin", "<i2", "r+").reshape(-1, 34)
    rng = np.random.default_rng(100 + seed)
    own = counts[:, 1:-1] + rng.standard_normal((36_000, 32)) * rng.uniform(0, 9, 32) * (rng.random(32) < 0.5)
    own *= np.where(rng.random(32) < 0.3, rng.uniform(0.1, 0.8, 32), 1)
    n_out = 4 + seed
    own[:, -n_out:] = rng.standard_normal((36_000, n_out)) * rng.uniform(1, 4)
    counts[:, 1:-1] = np.rint(own)
    counts.flush()
    raw = load_raw_ap(joined, tmp_path)
    fast, stock = Settings(engine="fast"), Settings(engine="spikeinterface")
    found, _ = _label_session(FilteredRecording(raw, _blocks(raw), 300.0), [0], fast, 2)
    expected, _ = _label_session(filtered_chain(raw, stock.highpass_hz), [0], stock, 1)
    labels = [{column: label for column, (label, _) in of.items()} for of in (found, expected)]
    assert len(set(labels[1].values())) >= 3
    assert labels[0] == labels[1]


def test_labels_are_those_of_the_plain_detector(tmp_path):
    """30 s without a gap on one shank: SpikeInterface's own chain and chunks say the same, and the evidence why.

    Channels of random amplitude and noise, some of them near the detector's thresholds.
    """
    probe, n = geometry("NP1000", 16), 31 * RATE
    joined = written(tmp_path, probe, n, 13, RAW_GAIN["NP1"])
    counts = np.memmap(tmp_path / "t0.bin", "<i2", "r+").reshape(-1, 18)
    rng = np.random.default_rng(14)
    scale = np.ones(16)
    scale[[2, 3, 7]] = 0.35, 1.9, 0.55
    counts[:, 1:-1] = np.rint(counts[:, 1:-1] * scale)
    for column, noise in ((5, 3.0), (9, 6.0)):
        counts[:, column] += np.rint(noise * rng.standard_normal(n)).astype("<i2")
    counts[:, 13:17] = np.rint(2 * rng.standard_normal((n, 4)))
    counts.flush()
    result = preprocess_probe(joined, tmp_path, tmp_path / "out", Settings(reference="none"), 2)

    plain = NumpyRecording(counts[:, 1:-1].astype("float32"), RATE)
    plain.set_channel_gains(RAW_GAIN["NP1"])
    plain.set_channel_offsets(0.0)
    plain.set_dummy_probe_from_locations(probe.locations_um)
    plain.set_property("inter_sample_shift", probe.shifts)
    filtered = spre.phase_shift(spre.highpass_filter(plain, freq_min=300.0))
    _, expected = spre.detect_bad_channels(filtered, seed=42, job_kwargs={"n_jobs": 1, "progress_bar": False})
    assert {*expected} == {"good", "dead", "noise", "out"}
    assert [own.label for own in result.labels] == expected.tolist()

    # The evidence is of a fifth of the chunks, by the detector's formula written out.
    slices = get_random_sample_slices(
        filtered, num_chunks_per_segment=100, chunk_duration=None, chunk_size=9_000, seed=42
    )
    depth = np.lexsort((probe.locations_um[:, 0], probe.locations_um[:, 1]))
    likeness = {"similarity": [], "trend": [], "residual": []}
    for k in np.linspace(0, 99, 20).astype(int):
        _, start, stop = slices[k]
        traces = filtered.get_traces(start_frame=start, end_frame=stop, return_in_uV=True)
        traces = traces - traces.mean(axis=0)
        common = np.median(traces, axis=1) - np.median(traces, axis=1).mean()
        similarity = (common @ traces / (common @ common))[depth]
        trend = np.array([np.median(similarity[max(i - 5, 0) : i + 6]) for i in range(16)])
        for key, values in (("similarity", similarity), ("trend", trend), ("residual", similarity - trend)):
            likeness[key].append(values[np.argsort(depth)])
    for key, values in likeness.items():
        stored = [getattr(own, key) for own in result.labels]
        np.testing.assert_allclose(stored, np.median(values, axis=0), atol=0.002)
    n_clear = 0
    for own in result.labels:
        # The label is the most frequent one of all chunks, which near a threshold may be another.
        edges = (own.trend - 0.25, own.residual + 0.5, own.residual - 1, np.log(own.high_uv2_hz / 0.02))
        if min(map(abs, edges)) < 0.1:
            continue
        said = "dead" if edges[1] < 0 else "good"
        said = "out" if edges[0] < 0 else "noise" if edges[2] > 0 or edges[3] > 0 else said
        assert own.label == said, own
        n_clear += 1
    assert n_clear >= 10


TONES = ((8_900.0, 6.0, slice(None)), (4_321.0, 15.0, slice(20, 24)))


def rebuilt(joined: JoinedProbe, folder: Path, record: Path, unit: str) -> np.ndarray:
    """The unit's traces from the raw files and the record alone."""
    return powerpixels.load_preprocessed(record, folder, "probe00", unit).get_traces().astype(int)


@pytest.fixture(scope="module")
def humming(tmp_path_factory) -> tuple[JoinedProbe, Path]:
    """Two tones, in all channels and in four; a gap; stretches of saturation at a chunk's and a block's end."""
    folder = tmp_path_factory.mktemp("humming")
    pieces = ((52_003, 0), (20_000, 90_000), (70, 200_000))
    saturated = ((26_000, 26_900), (27_000, 27_010), (51_900, 52_040))
    probe = geometry("NP1000", 40)
    joined = written(
        folder, probe, 72_073, 7, RAW_GAIN["NP1"], pieces, True, TONES, saturated, limit_counts=512
    )
    return joined, folder


@pytest.mark.parametrize("reference", ["local", "destripe", "none"])
def test_notches_and_mutes_are_the_same_in_both_engines(humming, reference):
    joined, folder = humming
    ((fast, stock),) = both(joined, folder, reference=reference)
    difference = np.abs(fast - stock)
    assert np.mean(difference > 0) < 0.02
    assert difference.max() <= 1
    for engine in ("fast", "spikeinterface"):
        out = folder / f"{engine}_{reference}"
        steps = {step["step"]: step for step in Preprocess.load(out / "preprocess.json").steps}
        found = steps["notch_filter"]["notches"]
        assert [notch["frequency_hz"] for notch in found] == pytest.approx([4_321, 8_900], abs=1)
        assert [len(notch["raw_columns"]) for notch in found] == [pytest.approx(4, abs=2), 40]
        assert {21, 22, 23, 24} <= set(found[0]["raw_columns"])
        assert steps["notch_filter"]["left_out"] == []
        # Less than 5 ms apart is one interval; nothing runs from one block into the next but by touching.
        expected = [[26_000, 27_010], [51_900, 52_040]]
        assert np.load(out / "shank0" / "muted.npy").tolist() == expected
        assert np.load(out / "muted.npy").tolist() == [[0, *interval] for interval in expected]
        assert steps["mute"]["n_intervals"] == 2
        assert steps["mute"]["total_s"] == pytest.approx(1_150 / RATE)
    for start, stop in expected:
        assert not fast[start:stop].any()
        assert fast[start - 31 : stop + 31].any(axis=1).sum() > 30
    again = rebuilt(joined, folder, folder / f"fast_{reference}", "shank0")
    assert np.abs(again - fast).max() <= 1 and np.mean(again != fast) < 0.03
    # The tones are gone: what is left of either is far below a µV.
    gain_uv = RAW_GAIN["NP1"] / 8
    middle = fast[30_000:50_000] * gain_uv
    for frequency_hz in (4_321, 8_900):
        phase = np.exp(-2j * np.pi * frequency_hz * np.arange(len(middle)) / RATE)
        assert np.abs(2 * phase @ middle / len(middle)).max() < 0.3


def test_notches_and_mutes_of_several_shanks(tmp_path):
    """A tone in all channels and one on one shank of four; what is muted is muted on all."""
    four = geometry("NP2013", 96)
    kept = np.concatenate([np.flatnonzero(four.shank == k)[:14] for k in range(4)])
    probe = Geometry(four.locations_um[kept], four.shifts[kept], four.shank[kept])
    tones = ((8_900.0, 6.0, slice(None)), (4_321.0, 15.0, np.flatnonzero(probe.shank == 2)))
    joined = written(
        tmp_path,
        probe,
        40_000,
        15,
        RAW_GAIN["NP2"],
        tones=tones,
        saturated=((26_000, 26_900),),
        limit_counts=512,
    )
    pairs = both(joined, tmp_path, reference="global")
    record = Preprocess.load(tmp_path / "fast_global" / "preprocess.json")
    steps = {step["step"]: step for step in record.steps}
    found = {round(n["frequency_hz"]): n["raw_columns"] for n in steps["notch_filter"]["notches"]}
    assert {*found} == {4_321, 8_900} and len(found[8_900]) == 56
    assert {probe.shank[column - 1] for column in found[4_321]} == {2}
    assert np.load(tmp_path / "fast_global" / "muted.npy").tolist() == [[0, 26_000, 26_900]]
    for k, (fast, stock) in enumerate(pairs):
        difference = np.abs(fast - stock)
        assert difference.max() <= 1 and np.mean(difference > 0) < 0.02
        assert not fast[26_000:26_900].any() and fast[25_000:25_960].any(axis=1).all()
        again = rebuilt(joined, tmp_path, tmp_path / "fast_global", f"shank{k}")
        assert np.abs(again - fast).max() <= 1 and np.mean(again != fast) < 0.03


def test_without_notches_and_mutes_nothing_is_touched(humming, tmp_path):
    joined, folder = humming
    off = Settings(notch="off", mute="none", reference="none")
    result = preprocess_probe(joined, folder, tmp_path, off, 2)
    steps = {step["step"]: step for step in result.steps}
    assert steps["notch_filter"]["notches"] == [] and steps["mute"]["n_intervals"] == 0
    assert np.load(tmp_path / "shank0" / "muted.npy").shape == (0, 2)
    traces = load_preprocessed(tmp_path / "shank0").get_traces()
    assert traces[26_100:26_110].any()
    middle = traces[30_000:50_000] * (RAW_GAIN["NP1"] / 8)
    phase = np.exp(-2j * np.pi * 8_900 * np.arange(len(middle)) / RATE)
    assert np.median(np.abs(2 * phase @ middle / len(middle))) == pytest.approx(6, abs=0.5)


def test_a_notch_threshold_above_the_tone_leaves_it(humming, tmp_path):
    joined, folder = humming
    # 6 µV: 18 µV² are 0.10 µV²/Hz in the threshold's bins; 15 µV 0.64.
    result = preprocess_probe(joined, folder, tmp_path, Settings(notch_threshold_uv2_hz=0.3), 2)
    (notch,) = next(step for step in result.steps if step["step"] == "notch_filter")["notches"]
    assert notch["frequency_hz"] == pytest.approx(4_321, abs=1)


@pytest.mark.parametrize("limit", [512, None])
def test_artifacts_are_muted_where_asked(tmp_path, limit):
    """A jump of 0.5 mV on all channels, below the converter's limit, which of Open Ephys' files is not known:
    an artifact and no saturation."""
    joined = written(tmp_path, geometry("NP1000", 24), 40_000, 8, RAW_GAIN["NP1"], limit_counts=limit)
    counts = np.memmap(tmp_path / "t0.bin", "<i2", "r+").reshape(-1, 26)
    counts[27_000:27_100, 1:-1] += 200
    counts.flush()
    for kinds, n in (("saturation", 0), ("artifacts", 1)):
        ((fast, stock),) = both(joined, tmp_path, reference="global", mute=kinds)
        assert np.abs(fast - stock).max() <= 1
        muted = np.load(tmp_path / "fast_global" / "muted.npy")
        assert len(muted) == n
        steps = Preprocess.load(tmp_path / "fast_global" / "preprocess.json").steps
        mute = next(step for step in steps if step["step"] == "mute")
        assert (mute["limit_counts"], mute["n_intervals"]) == (limit, n)
        expected = None
        if limit is None:
            expected = {"saturation": "nothing is muted: where", "artifacts": "artifacts are muted, satur"}[
                kinds
            ]
        assert expected == (mute["note"][: len(expected)] if "note" in mute else None)
        assert np.array_equal(muted, np.load(tmp_path / "spikeinterface_global" / "muted.npy"))
    # From the jump up to the jump down, less than 5 ms later.
    assert muted.tolist() == [[0, 27_000, 27_101]]
    again = rebuilt(joined, tmp_path, tmp_path / "fast_global", "shank0")
    assert np.abs(again - fast).max() <= 1


@pytest.mark.parametrize("reference", ["local", "global", "destripe"])
def test_a_reference_across_shanks(tmp_path, reference):
    """Shanks of 24, 10 and 3 channels with one reference: the three's too. Each still has its own file."""
    four = geometry("NP2013", 96)
    kept = np.concatenate([np.flatnonzero(four.shank == k)[:n] for k, n in enumerate((24, 10, 3))])
    probe = Geometry(four.locations_um[kept], four.shifts[kept], four.shank[kept])
    joined = written(tmp_path, probe, 33_000, 9, RAW_GAIN["NP2"])
    options = {"reference": reference, "reference_scope": "probe", "local_radius_um": (40.0, 600.0)}
    pairs = both(joined, tmp_path, **options)
    assert [fast.shape[1] for fast, _ in pairs] == [23, 10, 3]
    record = tmp_path / f"fast_{reference}"
    for k, (fast, stock) in enumerate(pairs):
        assert np.abs(fast - stock).max() <= 1
        again = rebuilt(joined, tmp_path, record / "preprocess.json", f"shank{k}")
        assert np.abs(again - fast).max() <= 1
    steps = [s for s in Preprocess.load(record / "preprocess.json").steps if s["step"] == "reference"]
    if reference == "destripe":
        assert [step["method"] for step in steps] == ["destripe", "global", "none"]
        assert all("scope probe does not apply" in step["note"] for step in steps)
        assert "fewer than 16" in steps[1]["note"] and "no reference" in steps[2]["note"]
    else:
        assert [(step["scope"], step["method"]) for step in steps] == [("probe", reference)] * 3


def test_probes_of_several_shanks_may_have_a_reference_of_their_own(tmp_path):
    settings = Settings(reference="local", reference_multi_shank="global")
    for name, n_shanks in (("one", 1), ("two", 2)):
        four = geometry("NP2013", 96)
        kept = np.flatnonzero(four.shank < n_shanks)
        probe = Geometry(four.locations_um[kept], four.shifts[kept], four.shank[kept])
        joined = written(tmp_path / name, probe, 31_000, 10, RAW_GAIN["NP2"], bad=False)
        result = preprocess_probe(joined, tmp_path / name, tmp_path / name / "out", settings, 2)
        methods = {step["method"] for step in result.steps if step["step"] == "reference"}
        assert methods == {"local" if n_shanks == 1 else "global"}


@pytest.mark.parametrize("scope", ["shank", "probe"])
@pytest.mark.parametrize("reference", ["local", "global", "destripe"])
def test_channels_outside_the_brain_are_in_no_reference(tmp_path, reference, scope):
    """Whatever dead and outside channels hold, the others' traces are the same to the bit."""
    four = geometry("NP2013", 96)
    joined = written(tmp_path, four, 31_000, 11, RAW_GAIN["NP2"], bad=False)
    channels = joined.recordings[0].probe.ap.channels
    labels = dict.fromkeys((channel.raw_column for channel in channels), "good")
    away = [channels[k].raw_column for k in (3, 20, 21, 22, 23, 50)]
    labels |= dict.fromkeys(away, "out") | {away[0]: "dead"}
    settings = Settings(reference=reference, reference_scope=scope)
    plans = [plan for plan in plan_shanks(channels, labels, settings).values() if plan.channels]
    found = []
    for _ in range(2):
        raw = load_raw_ap(joined, tmp_path)
        filtered = FilteredRecording(raw, _blocks(raw), 300.0)
        (tmp_path / "traces.bin").write_bytes(b"")
        unit = UnitFile(tmp_path / "traces.bin", [_fast_shank(filtered, plan, 42) for plan in plans])
        FastPass(_blocks(raw), [unit], 300.0, 0.3).run(2, 60, lambda result: None)
        found.append((tmp_path / "traces.bin").read_bytes())
        counts = np.memmap(tmp_path / "t0.bin", "<i2", "r+").reshape(-1, 98)
        counts[:, away] = np.random.default_rng(1).normal(0, 300, (len(counts), len(away)))
        counts.flush()
    assert found[0] == found[1] and any(found[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "shank7"}, "asked for shank7"),
        ({"probe": "probe01"}, "expected probe probe01, found probe00"),
        ({"record": "nowhere"}, "found none of them"),
    ],
)
def test_what_can_not_be_rebuilt_is_said(humming, tmp_path, change, message):
    joined, folder = humming
    preprocess_probe(joined, folder, tmp_path / "qc" / "probe00", Settings(reference="none", notch="off"), 2)
    asked = {"record": tmp_path, "raw_dir": folder, "probe": "probe00", "unit": "shank0"} | change
    if change.get("probe"):
        asked["record"] = tmp_path / "qc" / "probe00"
    with pytest.raises(DataError, match=message):
        powerpixels.load_preprocessed(**asked)
    ok = powerpixels.load_preprocessed(tmp_path, folder, "probe00", "shank0")
    file = load_preprocessed(tmp_path / "qc" / "probe00" / "shank0")
    assert np.array_equal(ok.channel_ids, file.channel_ids)
    for key in ("raw_column", "contact_id", "gain_to_uV", "group", "inter_sample_shift"):
        assert np.array_equal(ok.get_property(key), file.get_property(key))
    assert np.array_equal(ok.get_channel_locations(), file.get_channel_locations())
