"""The published LFP through its loader, and the example in docs/ on a field that moves by a known way."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
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
RATE, SECONDS, PITCH_UM, N_HEIGHTS = 2500, 20, 20.0, 48
MOVED_UM, TONE_HZ, TONE_UV = 60.0, 300.0, 50.0


@dataclass(frozen=True)
class Case:
    """A probe's channels: µV per count as recorded, and whether its LF band is its wide band's, decimated."""

    folder: Path
    channels: list[Channel]
    gain_uv: float
    decimated: bool

    @property
    def late_s(self) -> np.ndarray:
        """How much later than its sample each channel was taken."""
        own_hz = 30000 if self.decimated else RATE
        return np.array([channel.inter_sample_shift for channel in self.channels]) / own_hz


@pytest.fixture(scope="module", params=["1.0", "2.0 four shanks"])
def case(request, tmp_path_factory) -> Case:
    """Layers that go up and down together, from the middle on 60 µm higher; a slow and a fast wave common to all.

    Of a 1.0 probe the LF stream's counts; of a 2.0 probe what RAW_QC's decimation gives.
    """
    decimated = request.param != "1.0"
    n_shanks, gain_uv = (4, 3.03) if decimated else (1, 4.69)
    per_shank = N_HEIGHTS // n_shanks
    channels = [
        Channel(
            raw_column=k, channel_id=f"LF{k}", contact_id=f"s{k // per_shank}e{k % per_shank}", shank=k // per_shank,
            x_um=250.0 * (k // per_shank), y_um=PITCH_UM * (n_shanks * (k % per_shank) + k // per_shank),
            inter_sample_shift=k * 5 % 16 / 16, gain_uv=gain_uv,
        )
        for k in range(N_HEIGHTS)
    ]  # fmt: skip
    streams = {
        kind: Stream(
            name=f"imec0.{kind}", kind=kind, files=[], sampling_rate_hz=rate, n_columns=N_HEIGHTS + 1,
            n_samples=rate * SECONDS, first_sample=0, pieces=[], channels=channels,
        )
        for kind, rate in (("ap", 30000), ("lf", RATE))
    }  # fmt: skip
    if decimated:
        del streams["lf"]
    part_number = "NP2013" if decimated else "NP1000"
    probe = Probe(
        name="probe00", part_number=part_number, serial_number=None, model=None, shanks=[*range(n_shanks)], **streams
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("lfp") / "001"
    (folder / "alf" / "probe00").mkdir(parents=True)
    made = Case(folder, channels, gain_uv, decimated)

    rng = np.random.default_rng(1)
    fine = np.arange(-500, PITCH_UM * N_HEIGHTS + 500, PITCH_UM)
    bumps = np.exp(-(((fine[:, None] - rng.uniform(fine[0], fine[-1], 40)) / 60) ** 2))
    wave = np.fft.rfft(rng.normal(size=RATE * SECONDS))
    wave[np.abs(np.fft.rfftfreq(RATE * SECONDS, 1 / RATE) - 10) > 6] = 0
    wave = np.fft.irfft(wave)
    field = 100 * np.outer(wave / wave.std(), bumps @ rng.normal(size=40))
    depths = np.array([channel.y_um for channel in channels])
    traces = np.empty((RATE * SECONDS, N_HEIGHTS))
    half = len(traces) // 2
    for part, moved in ((slice(0, half), 0.0), (slice(half, None), MOVED_UM)):
        rows = np.searchsorted(fine, depths - moved)
        traces[part] = field[part][:, rows]
    taken_s = np.arange(len(traces))[:, None] / RATE + made.late_s
    traces += 50 * np.sin(2 * np.pi * 10 * taken_s) + TONE_UV * np.sin(2 * np.pi * TONE_HZ * taken_s)
    traces += rng.normal(0, 5, traces.shape)
    counts = (
        (traces / gain_uv).astype(np.float32) if decimated else np.round(traces / gain_uv).astype(np.int16)
    )
    writer = LfpWriter(folder / "alf" / "probe00" / "lfp.zarr", len(counts), probe, RATE, None)
    writer.add(counts, 3.0 + np.arange(len(counts)) / RATE)
    writer.close()
    np.save(folder / "microvolts.npy", counts * gain_uv)
    return made


def test_the_loader_gives_microvolts_by_contact(case):
    lfp, channels = load_lfp(case.folder, "probe00"), case.channels
    expected = np.load(case.folder / "microvolts.npy")
    assert lfp.channel_ids.tolist() == [channel.contact_id for channel in channels]
    # What was decimated is written in steps of an eighth of a count.
    step_uv = case.gain_uv / 8 if case.decimated else case.gain_uv
    assert lfp.get_channel_gains() == pytest.approx(step_uv)
    some = [channels[7].contact_id, channels[3].contact_id]
    asked = {"start_frame": 100, "end_frame": 200, "channel_ids": some, "return_in_uV": True}
    error = np.abs(lfp.get_traces(**asked) - expected[100:200, [7, 3]])
    assert error.max() <= (step_uv / 2 if case.decimated else 0) + 1e-3
    places = [[channel.x_um, channel.y_um] for channel in channels]
    assert lfp.get_channel_locations().tolist() == places
    assert lfp.get_channel_groups().astype(int).tolist() == [channel.shank for channel in channels]
    assert lfp.get_property("raw_column").tolist() == list(range(N_HEIGHTS))
    # In samples of the LFP: a twelfth of those of the wide band.
    np.testing.assert_allclose(lfp.get_property("inter_sample_shift"), case.late_s * RATE, atol=1e-12)
    assert (lfp.get_times()[0], lfp.sampling_frequency) == (3.0, RATE)
    with pytest.raises(DataError, match="found none; run the pipeline with --lfp"):
        load_lfp(case.folder, "probe01")


# It takes half a minute, and of one probe alone: that of which most can go wrong.
@pytest.mark.parametrize("case", ["2.0 four shanks"], indirect=True)
def test_the_example_finds_the_motion_and_takes_it_out(case, tmp_path):
    example = runpy.run_path(str(ROOT / "docs" / "lfp.py"))
    example["main"](case.folder, "probe00", tmp_path / "out", motion_hz=50)
    clean = si.load(tmp_path / "out" / "lfp_car").get_traces()
    # The common signal is gone with each shank's median, but for what the field itself leaves in it.
    shanks = np.array([channel.shank for channel in case.channels])
    for shank in np.unique(shanks):
        assert np.median(clean[:, shanks == shank], axis=1) == pytest.approx(0, abs=1e-3)
    # So is the fast wave, which channels that are not aligned in time would have in different phases.
    inside = clean[RATE:-RATE]
    phase = np.exp(-2j * np.pi * TONE_HZ * np.arange(len(inside)) / RATE)
    assert np.abs(2 * phase @ inside / len(inside)).max() < 0.4
    assert np.load(tmp_path / "out" / "times.npy")[0] == 3.0

    motion = Motion.load(tmp_path / "out" / "motion")
    times, found = motion.temporal_bins_s[0] - motion.temporal_bins_s[0][0], motion.displacement[0][:, 0]
    before, after = times < SECONDS / 2 - 1, times > SECONDS / 2 + 1
    assert np.median(found[after]) - np.median(found[before]) == pytest.approx(MOVED_UM, abs=5)
    # But for single moments in which the wave is near zero.
    assert all(np.ptp(np.percentile(found[part], [5, 95])) < 5 for part in (before, after))

    # Profiles along the probe of both halves agree only when the motion is taken back.
    moved = si.load(tmp_path / "out" / "lfp_motion_corrected").get_traces()
    half = len(clean) // 2
    depths = np.array([channel.y_um for channel in case.channels])
    middle = (depths >= 8 * PITCH_UM) & (depths < (N_HEIGHTS - 8) * PITCH_UM)

    def agreement(traces: np.ndarray) -> float:
        powers = [np.std(part[:, middle], axis=0) for part in (traces[: half - RATE], traces[half + RATE :])]
        return np.corrcoef(*powers)[0, 1]

    assert agreement(moved) > agreement(clean) + 0.05
