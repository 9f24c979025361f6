"""The fast engine against SpikeInterface's: same decisions, same traces, for every reference and geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
    preprocess_probe,
)
from powerpixels.raw_ap import load_raw_ap
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from probe_geometries import Geometry, geometry, subset
from scipy.signal import butter, sosfilt

RATE = 30_000
# Two chunks and a short third one of either engine; the engines' chunks lie differently.
N_SAMPLES = 61_003
RAW_GAIN = {"NP1": 2.34375, "NP2": 0.762939453125}


def written(
    folder: Path,
    probe: Geometry,
    n_samples: int,
    seed: int,
    gain_uv: float,
    pieces: tuple[tuple[int, int], ...] = (),
    bad: bool = True,
) -> JoinedProbe:
    """A raw file as a probe would make it: band-limited, common to a shank and each channel's own.

    bad: of each shank's channels number 5 is silent and number 9 has strong high frequencies.
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
    counts = np.zeros((n_samples, n_channels + 2), dtype="<i2")
    counts[:, 1:-1] = np.clip(np.rint(uv / gain_uv + 20), -32768, 32767)
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
    assert fast.labels == stock.labels
    decisions = [
        [step for step in result.steps if step["step"] not in ("compute", "write")]
        for result in results.values()
    ]
    assert decisions[0] == decisions[1]
    assert fast.steps[-1]["gain_uv"] == stock.steps[-1]["gain_uv"]
    assert fast.units == stock.units
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
    fast, stock = FilteredRecording(raw, _blocks(raw), 300.0), filtered_chain(raw, Settings())
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
    unit = UnitFile(tmp_path / "traces.bin", [_fast_shank(filtered, plan, Settings())])
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
    expected, _ = _label_session(filtered_chain(raw, stock), [0], stock, 1)
    assert len(set(expected.values())) >= 3
    assert found == expected
