"""The published LFP through its loader, and the example in docs/ on a field that moves by a known way."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import spikeinterface as si
from powerpixels import load_lfp
from powerpixels.documents import Channel, Probe, Stream
from powerpixels.raw_qc import LfpWriter
from powerpixels.stage import DataError
from spikeinterface.core.motion import Motion

ROOT = Path(__file__).resolve().parents[1]
RATE, SECONDS, N, PITCH_UM = 2500, 20, 48, 20.0
MOVED_UM = 60.0


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    """A 1.0 probe's LF stream: layers that go up and down together, from the middle on 60 µm higher; 50 µV common."""
    channels = [
        Channel(
            raw_column=k, channel_id=f"LF{k}", contact_id=f"e{k}", shank=0, x_um=0.0, y_um=PITCH_UM * k,
            inter_sample_shift=0.0, gain_uv=4.69,
        )
        for k in range(N)
    ]  # fmt: skip
    streams = {
        kind: Stream(
            name=f"imec0.{kind}", kind=kind, files=[], sampling_rate_hz=rate, n_columns=N + 1, n_samples=rate * SECONDS,
            first_sample=0, pieces=[], channels=channels,
        )
        for kind, rate in (("ap", 30000), ("lf", RATE))
    }  # fmt: skip
    probe = Probe(name="probe00", part_number=None, serial_number=None, model=None, shanks=[0], **streams)

    rng = np.random.default_rng(1)
    fine = np.arange(-500, PITCH_UM * N + 500, PITCH_UM)
    bumps = np.exp(-(((fine[:, None] - rng.uniform(fine[0], fine[-1], 40)) / 60) ** 2))
    wave = np.fft.rfft(rng.normal(size=RATE * SECONDS))
    wave[np.abs(np.fft.rfftfreq(RATE * SECONDS, 1 / RATE) - 10) > 6] = 0
    wave = np.fft.irfft(wave)
    field = 100 * np.outer(wave / wave.std(), bumps @ rng.normal(size=40))
    depths = PITCH_UM * np.arange(N)
    traces = np.empty((RATE * SECONDS, N))
    half = len(traces) // 2
    for part, moved in ((slice(0, half), 0.0), (slice(half, None), MOVED_UM)):
        rows = np.searchsorted(fine, depths - moved)
        traces[part] = field[part][:, rows]
    common = 50 * np.sin(2 * np.pi * 10 * np.arange(len(traces)) / RATE)
    traces += common[:, None] + rng.normal(0, 5, traces.shape)
    counts = np.round(traces / 4.69).astype(np.int16)

    folder = tmp_path_factory.mktemp("lfp") / "001"
    (folder / "alf" / "probe00").mkdir(parents=True)
    writer = LfpWriter(folder / "alf" / "probe00" / "lfp.zarr", len(counts), probe, RATE, None)
    writer.add(counts, 3.0 + np.arange(len(counts)) / RATE)
    writer.close()
    np.save(folder / "counts.npy", counts)
    return folder


def test_the_loader_gives_microvolts_by_contact(session):
    lfp = load_lfp(session, "probe00")
    counts = np.load(session / "counts.npy")
    assert lfp.channel_ids.tolist() == [f"e{k}" for k in range(N)]
    assert np.array_equal(
        lfp.get_traces(start_frame=100, end_frame=200, channel_ids=["e7", "e3"]), counts[100:200, [7, 3]]
    )
    assert lfp.get_traces(end_frame=50, return_in_uV=True) == pytest.approx(counts[:50] * 4.69, rel=1e-6)
    assert lfp.get_channel_locations().tolist() == [[0.0, PITCH_UM * k] for k in range(N)]
    assert lfp.get_property("raw_column").tolist() == list(range(N))
    assert (lfp.get_times()[0], lfp.sampling_frequency) == (3.0, RATE)
    with pytest.raises(DataError, match="found none; run the pipeline with --lfp"):
        load_lfp(session, "probe01")


def test_the_example_finds_the_motion_and_takes_it_out(session, tmp_path):
    example = runpy.run_path(str(ROOT / "docs" / "lfp.py"))
    example["main"](session, "probe00", tmp_path / "out", motion_hz=50)
    clean = si.load(tmp_path / "out" / "lfp_car").get_traces()
    # The common signal is gone with the median, but for what the field itself leaves in it.
    assert np.median(clean, axis=1) == pytest.approx(0, abs=1e-3)
    assert np.load(tmp_path / "out" / "times.npy")[0] == 3.0

    motion = Motion.load(tmp_path / "out" / "motion")
    times, found = motion.temporal_bins_s[0] - motion.temporal_bins_s[0][0], motion.displacement[0][:, 0]
    before, after = times < SECONDS / 2 - 1, times > SECONDS / 2 + 1
    assert np.median(found[after]) - np.median(found[before]) == pytest.approx(MOVED_UM, abs=5)
    assert np.ptp(found[before]) < 5 and np.ptp(found[after]) < 5

    # Profiles along the probe of both halves agree only when the motion is taken back.
    moved = si.load(tmp_path / "out" / "lfp_motion_corrected").get_traces()
    half = len(clean) // 2

    def agreement(traces: np.ndarray) -> float:
        powers = [np.std(part[:, 8:-8], axis=0) for part in (traces[: half - RATE], traces[half + RATE :])]
        return np.corrcoef(*powers)[0, 1]

    assert agreement(moved) > agreement(clean) + 0.05
