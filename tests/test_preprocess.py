"""PREPROCESS: the file is SpikeInterface's chain; planted bad channels are found; identity survives.

What depends on how traces are computed is tested with both engines; test_fast_pass compares the two.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import powerpixels
import pytest
import scipy.signal
import spikeinterface.preprocessing as spre
import zarr
from powerpixels import preprocess
from powerpixels.compress import compress_stream
from powerpixels.documents import (
    Channel,
    JoinedProbe,
    Piece,
    Preprocess,
    PreprocessedUnit,
    Probe,
    ProbeDocument,
    RawFile,
    Session,
    Stream,
    StreamDocument,
)
from powerpixels.preprocess import Settings, _random_chunks, output_gain_uv, preprocess_probe
from powerpixels.raw_ap import load_raw_ap
from powerpixels.rawdata import locate
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError
from spikeinterface.core import (
    NumpyRecording,
    NumpySorting,
    create_sorting_analyzer,
    get_noise_levels,
    get_random_data_chunks,
)

ROOT = Path(__file__).resolve().parent.parent
RATE = 30000
N_SAMPLES = 2 * RATE + 1234  # no whole number of chunks
GAIN_UV = 2.34375
PER_SHANK = 20
DEAD, NOISE, OUT = 3, 9, (14, 15, 16, 17, 18, 19)  # rows of the second shank


def _signal(seed: int) -> np.ndarray:
    """Counts of two shanks: noise common to a shank's good channels, and some of each channel's own.

    First shank: all good. Second: one silent, one with strong high frequencies, the six topmost
    without the common part.
    """
    rng = np.random.default_rng(seed)
    # Band-limited as a probe's own filters leave it; a shift by part of a sample is only defined so.
    lowpass = scipy.signal.butter(8, 8000, fs=RATE, output="sos")

    def noise(spread: float, n: int) -> np.ndarray:
        white = scipy.signal.sosfilt(lowpass, rng.normal(size=(N_SAMPLES, n)), axis=0)
        return spread * white / np.std(white)

    common = noise(6, 2)
    own = noise(1.5, 2 * PER_SHANK)
    slow = 100 * np.sin(np.arange(N_SAMPLES) * 2 * np.pi * 5 / RATE)
    counts = np.repeat(common, PER_SHANK, axis=1) + own + slow[:, None] + 20
    counts[:, PER_SHANK + DEAD] = own[:, DEAD]
    counts[:, PER_SHANK + NOISE] += rng.normal(0, 25, N_SAMPLES)
    for row in OUT:
        counts[:, PER_SHANK + row] = 1.5 * own[:, PER_SHANK + row]
    return np.rint(counts)


def _channels() -> list[Channel]:
    """Column 3 is not saved for the probe and the columns of the two shanks alternate."""
    saved = [column for column in range(2 * PER_SHANK + 1) if column != 3]
    channels = []
    for index, column in enumerate(saved):
        row, shank = divmod(index, 2)
        channels.append(
            Channel(
                raw_column=column,
                channel_id=f"AP{100 + column}",
                contact_id=f"s{shank + 1}e{row}",
                shank=shank + 1,
                x_um=250.0 * shank + 32.0 * (row % 2),
                y_um=15.0 * (row // 2 * 2) + 700,
                inter_sample_shift=(index % 12) / 13,
                gain_uv=GAIN_UV,
            )
        )
    return channels


def _document(
    folder: Path,
    counts: np.ndarray,
    channels: list[Channel],
    n_columns: int,
    pieces: tuple[tuple[int, int], ...] = (),
    session: str = "2026-01-01",
) -> JoinedProbe:
    """Write counts below folder and describe them; pieces: (n_samples, first_sample) of each file, all if ()."""
    columns = np.zeros((len(counts), n_columns), dtype="<i2")
    for channel in channels:
        row = int(channel.contact_id[3:])
        columns[:, channel.raw_column] = counts[:, (channel.shank - 1) * PER_SHANK + row]
    folder.mkdir(parents=True, exist_ok=True)
    files, parts, start = [], [], 0
    for k, (n_samples, first_sample) in enumerate(pieces or ((len(counts), None),)):
        name = f"t{k}.ap.bin"
        columns[start : start + n_samples].tofile(folder / name)
        files.append(RawFile(path=name, role="data", size_bytes=n_samples * n_columns * 2))
        parts.append(Piece(path=name, first_row=0, n_samples=n_samples, first_sample=first_sample))
        start += n_samples
    assert start == len(counts)
    stream = Stream(
        name="imec0.ap",
        kind="ap",
        files=files,
        sampling_rate_hz=float(RATE),
        n_columns=n_columns,
        n_samples=len(counts),
        first_sample=parts[0].first_sample,
        pieces=parts,
        channels=channels,
    )
    described = Session(
        subject="s", session=session, acquisition="spikeglx", acquisition_version=None, start_time=None
    )
    shanks = sorted({channel.shank for channel in channels})
    probe = Probe(
        name="probe00", part_number=None, serial_number=None, model=None, shanks=shanks, ap=stream, lf=None
    )
    return JoinedProbe(recordings=[ProbeDocument(session=described, probe=probe)])


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> tuple[JoinedProbe, Path]:
    folder = tmp_path_factory.mktemp("raw")
    return _document(folder, _signal(3), _channels(), 2 * PER_SHANK + 2), folder


@pytest.fixture(scope="module", params=["fast", "spikeinterface"])
def engine(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def local(raw, engine, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("local")
    preprocess_probe(*raw, out, Settings(engine=engine), jobs=2)
    return out


def _expected_labels() -> dict[str, str]:
    labels = {f"s{shank}e{row}": "good" for shank in (1, 2) for row in range(PER_SHANK)}
    return labels | {f"s2e{DEAD}": "dead", f"s2e{NOISE}": "noise"} | {f"s2e{row}": "out" for row in OUT}


def test_planted_bad_channels_are_found(local):
    document = Preprocess.load(local / "preprocess.json")
    assert {label.contact_id: label.label for label in document.labels} == _expected_labels()
    # every recorded channel, by both of its names
    assert [label.raw_column for label in document.labels] == [channel.raw_column for channel in _channels()]


def test_identity_survives_removal(local):
    document = Preprocess.load(local / "preprocess.json")
    assert document.units == ["shank1", "shank2"]
    by_contact = {channel.contact_id: channel for channel in _channels()}
    for unit, removed in (("shank1", set()), ("shank2", {DEAD, *OUT})):
        saved = PreprocessedUnit.load(local / unit / "recording.json").channels
        shank = unit[-1]
        kept = [f"s{shank}e{row}" for row in range(PER_SHANK) if row not in removed]
        assert saved == [by_contact[contact] for contact in kept]
        recording = load_preprocessed(local / unit)
        assert recording.get_property("contact_id").tolist() == kept
        assert recording.get_property("raw_column").tolist() == [by_contact[k].raw_column for k in kept]


def _lazy_chain(document: JoinedProbe, folder: Path, shank: int, reference) -> np.ndarray:
    """The shank's chain by SpikeInterface, in counts from the file to float64 µV in one piece."""
    raw = load_raw_ap(document, folder)
    contacts = raw.get_property("contact_id")
    recording = raw.select_channels(raw.channel_ids[raw.get_channel_groups() == shank])
    recording = spre.highpass_filter(recording, freq_min=300, dtype="float64")
    recording = spre.phase_shift(recording)
    label = _expected_labels()
    contacts = recording.get_property("contact_id")
    kept = [
        ident
        for ident, contact in zip(recording.channel_ids, contacts, strict=True)
        if label[contact] in ("good", "noise")
    ]
    noisy = [
        ident
        for ident, contact in zip(recording.channel_ids, contacts, strict=True)
        if label[contact] == "noise"
    ]
    recording = recording.select_channels(kept)
    if noisy:
        recording = spre.interpolate_bad_channels(recording, noisy)
    return reference(recording).get_traces() * GAIN_UV


REFERENCES = {
    "local": lambda recording: spre.common_reference(recording, reference="local", local_radius=(40, 200)),
    "global": lambda recording: spre.common_reference(recording, reference="global"),
    "destripe": lambda recording: spre.highpass_spatial_filter(
        recording,
        n_channel_pad=recording.get_num_channels(),
        random_slice_kwargs={"random_slices_kwargs": {"seed": 42}},
    ),
    "none": lambda recording: recording,
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_written_counts_are_the_lazy_chain(raw, engine, local, tmp_path, reference):
    out = local
    if reference != "local":
        out = tmp_path
        preprocess_probe(*raw, out, Settings(engine=engine, reference=reference))
    for shank in (1, 2):
        recording = load_preprocessed(out / f"shank{shank}")
        gain = recording.get_channel_gains()[0]
        written = recording.get_traces().astype(float)
        # the second shank's 13 channels are too few to destripe
        applied = "global" if (reference, shank) == ("destripe", 2) else reference
        expected = _lazy_chain(*raw, shank, REFERENCES[applied]) / gain
        assert written.shape == expected.shape
        assert np.std(expected) > 3  # there is something to compare
        error = np.abs(written - expected)
        # Half a count of rounding; a little more at borders of chunks, where the phase shift's margins end.
        assert np.max(error) < 0.6
        assert np.mean(error > 0.505) < 0.01


def test_levels_are_those_of_what_was_written(local):
    """RMS of every sample; the noise level within 8 % of SpikeInterface's, which looks at other chunks."""
    levels = Preprocess.load(local / "preprocess.json").levels
    by_column = {level.raw_column: level for level in levels}
    assert len(by_column) == len(levels) == 2 * PER_SHANK - 1 - len(OUT)
    for unit in ("shank1", "shank2"):
        recording = load_preprocessed(local / unit)
        columns = recording.get_property("raw_column")
        own = [by_column[column] for column in columns]
        assert [level.contact_id for level in own] == recording.get_property("contact_id").tolist()
        rms = np.sqrt(np.mean(recording.get_traces(return_in_uV=True).astype(float) ** 2, axis=0))
        assert [level.rms_uv for level in own] == pytest.approx(rms, rel=1e-4, abs=1e-4)
        noise = get_noise_levels(recording, return_in_uV=True, force_recompute=True)
        assert [level.noise_uv for level in own] == pytest.approx(noise, rel=0.08)


def test_jobs_do_not_change_the_output(raw, engine, local, tmp_path):
    preprocess_probe(*raw, tmp_path, Settings(engine=engine), jobs=1)
    for file in ("shank1/traces.bin", "shank2/traces.bin", "preprocess.json", "shank2/recording.json"):
        assert (tmp_path / file).read_bytes() == (local / file).read_bytes(), file


def test_killed_and_repeated_in_the_same_folder(raw, engine, local, tmp_path, monkeypatch):
    """SIGKILL when the first chunk is written; what lies there then changes nothing."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(preprocess._Progress, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        preprocess_probe(*raw, tmp_path, Settings(engine=engine), jobs=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "shank1/traces.bin").exists()
    assert not (tmp_path / "preprocess.json").exists()
    preprocess_probe(*raw, tmp_path, Settings(engine=engine), jobs=1)
    for file in ("shank1/traces.bin", "shank2/traces.bin", "preprocess.json", "muted.npy"):
        assert (tmp_path / file).read_bytes() == (local / file).read_bytes(), file


def test_sort_by_probe_puts_the_same_shanks_side_by_side(raw, engine, local, tmp_path):
    document = preprocess_probe(*raw, tmp_path, Settings(engine=engine, sort_by="probe"))
    assert document.units == ["probe"]
    together = load_preprocessed(tmp_path / "probe").get_traces()
    apart = [load_preprocessed(local / unit).get_traces() for unit in ("shank1", "shank2")]
    assert np.array_equal(together, np.hstack(apart))
    groups = load_preprocessed(tmp_path / "probe").get_channel_groups()
    assert groups.tolist() == [1] * PER_SHANK + [2] * (PER_SHANK - 1 - len(OUT))


def test_channels_of_different_gain_meet_in_microvolts(tmp_path):
    """The same voltages through halved gain on every other channel give the same µV."""
    counts = 2 * np.rint(_signal(3)[:RATE] / 2)
    equal = _channels()
    mixed = [
        channel.model_copy(update={"gain_uv": 2 * GAIN_UV}) if int(channel.contact_id[3:]) % 2 else channel
        for channel in equal
    ]
    coarse = counts.copy()
    coarse[:, 1::2] /= 2
    settings = Settings(reference="global")
    for name, channels, values in (("equal", equal, counts), ("mixed", mixed, coarse)):
        document = _document(tmp_path / name, values, channels, 2 * PER_SHANK + 2)
        preprocess_probe(document, tmp_path / name, tmp_path / name / "out", settings)
    for unit in ("shank1", "shank2"):
        one, other = (load_preprocessed(tmp_path / name / "out" / unit) for name in ("equal", "mixed"))
        assert np.max(np.abs(one.get_traces().astype(int) - other.get_traces())) <= 1


def test_shank_without_good_channels_is_still_described(tmp_path):
    """Shank 2 is only noise: its unit has no channels and an empty binary, shank 1 is as ever."""
    counts = _signal(3)[:RATE]
    counts[:, PER_SHANK:] = np.random.default_rng(5).normal(0, 60, (RATE, PER_SHANK)).round()
    document = _document(tmp_path / "raw", counts, _channels(), 2 * PER_SHANK + 2)
    result = preprocess_probe(document, tmp_path / "raw", tmp_path / "out", Settings())
    assert {label.label for label in result.labels if label.shank == 2} <= {"noise", "out", "dead"}
    assert "shank 2: more than a third of the channels are bad" in _notes(result)["detect_bad_channels"]
    assert PreprocessedUnit.load(tmp_path / "out" / "shank2" / "recording.json").channels == []
    assert (tmp_path / "out" / "shank2" / "traces.bin").stat().st_size == 0
    assert len(PreprocessedUnit.load(tmp_path / "out" / "shank1" / "recording.json").channels) == PER_SHANK


@pytest.mark.parametrize("n_rows", [1, 3, 4, 9])
@pytest.mark.parametrize("reference", ["local", "global", "destripe"])
def test_small_shanks_pass(tmp_path, n_rows, reference):
    few = [channel for channel in _channels() if channel.shank == 1 and int(channel.contact_id[3:]) < n_rows]
    document = _document(tmp_path, _signal(3)[:RATE], few, 2 * PER_SHANK + 2)
    result = preprocess_probe(document, tmp_path, tmp_path / "out", Settings(reference=reference))
    assert {label.label for label in result.labels} == {"good"}
    note = f"shank 1: too few channels ({n_rows}) to look for bad ones"
    assert _notes(result).get("detect_bad_channels") == (note if n_rows < 8 else None)
    traces = load_preprocessed(tmp_path / "out" / "shank1").get_traces()
    assert traces.shape == (RATE, n_rows)
    # the common noise of 6 counts is still there where no reference could be taken, and gone elsewhere
    # (not all of it: it was drawn without the shifts between channels that the chain takes out)
    spread = np.std(traces) * output_gain_uv([GAIN_UV]) / GAIN_UV
    assert spread > 5 if n_rows < 4 else spread < 3.5


def test_clipped_samples_are_counted(tmp_path, caplog):
    counts = _signal(3)  # long enough that so short a fault does not make the channel a noisy one
    counts[10_000:10_003, 4] = 30_000  # 70 mV: no probe records that, a broken file may
    document = _document(tmp_path, counts, _channels(), 2 * PER_SHANK + 2)
    result = preprocess_probe(document, tmp_path, tmp_path / "out", Settings())
    n_clipped = result.steps[-1]["n_clipped"]
    traces = load_preprocessed(tmp_path / "out" / "shank1").get_traces()
    assert n_clipped > 0
    assert n_clipped == np.count_nonzero(np.abs(traces) == 32767)
    assert _notes(result)["write"].startswith(f"{n_clipped} samples were beyond the range of ±9.6 mV")
    assert _notes(result)["write"] in caplog.messages


@pytest.mark.parametrize(
    ("gains", "expected"),
    [([2.34375], 0.29296875), ([0.762939453125], 0.3814697265625), ([4.6875, 0.3], 0.3)],
)
def test_output_gain_is_a_power_of_two_of_the_raw(gains, expected):
    assert output_gain_uv(gains) == expected


def test_too_short_recording_is_refused(tmp_path):
    document = _document(tmp_path, _signal(3)[: RATE // 2], _channels(), 2 * PER_SHANK + 2)
    with pytest.raises(DataError, match=r"t0\.ap\.bin.*at least 1 s.*0\.5"):
        preprocess_probe(document, tmp_path, tmp_path / "out", Settings())


def _run(joined: JoinedProbe, raw_dir, out: Path, settings: Settings, jobs: int = 1) -> Preprocess:
    """Preprocess; every unit's recording.json must fit its traces."""
    result = preprocess_probe(joined, raw_dir, out, settings, jobs)
    n_samples = sum(document.probe.ap.n_samples for document in joined.recordings)
    for unit in result.units:
        assert load_preprocessed(out / unit).get_num_samples() == n_samples
    return result


def _bytes(out: Path) -> list[bytes]:
    return [(out / unit / "traces.bin").read_bytes() for unit in ("shank1", "shank2")]


def _notes(result: Preprocess) -> dict[str, str]:
    """What the summary will say, by step."""
    return {step["step"]: step["note"] for step in result.steps if "note" in step}


def _labels(result: Preprocess) -> dict[str, str]:
    return {label.contact_id: label.label for label in result.labels}


COLUMNS = 2 * PER_SHANK + 2
FIRST = 31_000
GAP = 45_000
SECOND = N_SAMPLES - FIRST


@pytest.mark.parametrize("reference", ["local", "destripe"])
def test_nothing_runs_over_a_gap(tmp_path, engine, reference):
    """The traces on both sides of a gap are those of each side alone."""
    settings = Settings(engine=engine, reference=reference)
    counts = _signal(3)
    pieces = ((FIRST, 1000), (SECOND, 1000 + FIRST + GAP))
    joined = _document(tmp_path / "raw", counts, _channels(), COLUMNS, pieces)
    result = _run(joined, tmp_path / "raw", tmp_path / "out", settings, jobs=2)
    assert _labels(result) == _expected_labels()
    assert result.steps[0] == {
        "step": "read",
        "sessions": [
            {
                "session": "2026-01-01",
                "blocks": [
                    {"n_samples": FIRST, "gap_before": 0},
                    {"n_samples": SECOND, "gap_before": GAP},
                ],
            }
        ],
    }
    alone = []
    for k, part in enumerate((counts[:FIRST], counts[FIRST:])):
        folder = tmp_path / f"alone{k}"
        single = _run(_document(folder, part, _channels(), COLUMNS), folder, folder / "out", settings)
        assert _labels(single) == _expected_labels()
        alone.append(_bytes(folder / "out"))
    if reference == "local":
        assert _bytes(tmp_path / "out") == [one + other for one, other in zip(*alone, strict=True)]
    else:
        # The gain control's floor is of the channels' levels, which are a little different in each part.
        for unit, one, other in zip(_bytes(tmp_path / "out"), *alone, strict=True):
            together, apart = (np.frombuffer(data, "<i2").astype(int) for data in (unit, one + other))
            assert np.max(np.abs(together - apart)) <= 1
            assert np.mean(together != apart) < 1e-3


def test_files_without_a_gap_are_one_recording(raw, engine, local, tmp_path, caplog):
    caplog.set_level("INFO", "powerpixels")
    pieces = ((FIRST, 1000), (SECOND, 1000 + FIRST))
    joined = _document(tmp_path, _signal(3), _channels(), COLUMNS, pieces)
    _run(joined, tmp_path, tmp_path / "out", Settings(engine=engine))
    assert _bytes(tmp_path / "out") == _bytes(local)
    written = [message for message in caplog.messages if message.startswith("written ")]
    assert len(written) >= 3 and written[-1] == "written 100 % (2 s of the recording)"


def test_the_seed_decides_what_is_looked_at(raw, local, tmp_path):
    """Other chunks and windows give other evidence, here for the same decisions."""
    first = Preprocess.load(local / "preprocess.json")
    other = preprocess_probe(*raw, tmp_path, Settings(engine=first.steps[1]["engine"], seed=43))
    assert _labels(first) == _labels(other)
    similarities = [[own.similarity for own in one.labels] for one in (first, other)]
    assert np.count_nonzero(np.diff(similarities, axis=0)) > len(first.labels) / 2
    seeds = [[step["seed"] for step in one.steps if "seed" in step] for one in (first, other)]
    assert seeds == [[42, 42], [43, 43]]


@pytest.mark.parametrize("reference", REFERENCES)
def test_short_blocks(tmp_path, engine, reference):
    """Files of 40 ms to one sample: what can be filtered is, the rest is zeros, the others do not suffer."""
    lengths = (FIRST, 1200, 300, 61, 59, 18, 1)
    counts = _signal(3)[: sum(lengths)]
    starts = np.cumsum([0, *lengths])
    pieces = tuple((n, 1000 + 40_000 * k) for k, n in enumerate(lengths))
    joined = _document(tmp_path / "raw", counts, _channels(), COLUMNS, pieces)
    settings = Settings(engine=engine, reference=reference)
    result = _run(joined, tmp_path / "raw", tmp_path / "out", settings, jobs=2)
    assert _labels(result) == _expected_labels()
    assert [block.get("zeros", False) for block in result.steps[0]["sessions"][0]["blocks"]] == (
        [False] * 4 + [True] * 3
    )
    assert _notes(result)["read"] == "3 blocks between gaps are too short to be filtered: zeros"
    for shank in (1, 2):
        recording = load_preprocessed(tmp_path / "out" / f"shank{shank}")
        traces = recording.get_traces()
        gain = recording.get_channel_gains()[0] / GAIN_UV
        for k in range(4):
            spread = np.std(traces[starts[k] : starts[k + 1]]) * gain
            assert 0.5 < spread < 12, (k, spread)
        assert not traces[starts[4] :].any()


def test_only_short_blocks(tmp_path, caplog):
    """Nothing is long enough to look for bad channels in: none is found, and that is said."""
    counts = _signal(3)[: 11 * 2900]
    joined = _document(tmp_path, counts, _channels(), COLUMNS, tuple((2900, 5000 * k) for k in range(11)))
    result = _run(joined, tmp_path, tmp_path / "out", Settings())
    assert set(_labels(result).values()) == {"good"}
    notes = _notes(result)
    assert notes["detect_bad_channels"] == "no stretch of 0.1 s without a gap: bad channels can't be found"
    assert notes["detect_bad_channels"] in caplog.messages


def test_many_short_blocks_are_looked_at(tmp_path):
    """Blocks shorter than a detection chunk of the usual length: the planted channels are found in them."""
    n = 6000
    pieces = tuple((n, 9000 * k) for k in range(10)) + ((N_SAMPLES - 10 * n, 100_000),)
    joined = _document(tmp_path, _signal(3), _channels(), COLUMNS, pieces)
    result = _run(joined, tmp_path, tmp_path / "out", Settings())
    assert _labels(result) == _expected_labels()


def _two_sessions(folder: Path, second: np.ndarray) -> tuple[JoinedProbe, list[Path]]:
    """The usual signal in a session of two files with a gap, then ``second`` in one of another day."""
    first = _document(
        folder / "a", _signal(3), _channels(), COLUMNS, ((FIRST, 0), (SECOND, FIRST + GAP)), "2026-01-01"
    )
    other = _document(folder / "b", second, _channels(), COLUMNS, (), "2026-01-02")
    joined = JoinedProbe(recordings=[*first.recordings, *other.recordings])
    return joined, [folder / "a", folder / "b"]


def test_joined_sessions_are_each_by_itself(tmp_path, engine):
    second = _signal(7)[: RATE + 5]
    joined, folders = _two_sessions(tmp_path, second)
    settings = Settings(engine=engine)
    result = _run(joined, folders, tmp_path / "out", settings, jobs=2)
    assert [(part.subject, part.session, part.start, part.n_samples) for part in result.parts] == [
        ("s", "2026-01-01", 0, N_SAMPLES),
        ("s", "2026-01-02", N_SAMPLES, RATE + 5),
    ]
    assert _labels(result) == _expected_labels()
    alone = []
    for k, folder in enumerate(folders):
        single = JoinedProbe(recordings=[joined.recordings[k]])
        _run(single, folder, tmp_path / f"alone{k}", settings)
        alone.append(_bytes(tmp_path / f"alone{k}"))
    assert _bytes(tmp_path / "out") == [one + other for one, other in zip(*alone, strict=True)]
    for unit, written in zip(("shank1", "shank2"), _bytes(tmp_path / "out"), strict=True):
        again = powerpixels.load_preprocessed(tmp_path / "out", folders, "probe00", unit).get_traces()
        difference = np.abs(again.astype(int) - np.frombuffer(written, "<i2").reshape(again.shape))
        assert difference.max() <= 1 and np.mean(difference) < 0.02

    # Published and moved, with compressed copies only: without any raw folder.
    results, methods = tmp_path / "moved results", ("zarr", "mtscomp")
    (results / "together" / "qc" / "probe00").mkdir(parents=True)
    shutil.copy(tmp_path / "out" / "preprocess.json", results / "together" / "qc" / "probe00")
    asked = (results / "together", None, "probe00", "shank2")
    with pytest.raises(DataError, match="expected compressed copies of the AP band"):
        powerpixels.load_preprocessed(*asked)
    for recording, folder, method in zip(joined.recordings, folders, methods, strict=True):
        document = StreamDocument(session=recording.session, stream=recording.probe.ap)
        copies = results / recording.session.session / "raw_ephys_data"
        (places,) = locate([document.stream], folder)
        compress_stream(document, places, copies, method, 1, folder="probe00")
        shutil.rmtree(folder)
    copied = powerpixels.load_preprocessed(*asked)
    assert np.array_equal(copied.get_traces(), again)
    # The analyzer, which knows no recording, takes it for its own.
    sorting = NumpySorting.from_unit_dict({3: np.array([500, 900])}, RATE)
    analyzer = create_sorting_analyzer(
        sorting, load_preprocessed(tmp_path / "out" / "shank2"), sparse=False, main_channel_indices=[0]
    )
    analyzer.set_temporary_recording(copied)
    stretch = analyzer.recording.get_traces(start_frame=450, end_frame=550)
    assert np.abs(stretch - again[450:550]).max() <= 2 < np.abs(stretch).max()  # two near a stretch's ends


def test_a_line_above_12_khz_makes_no_channel_a_noisy_one(tmp_path, engine):
    """15 µV at 13 kHz on all channels, above the detector's limit for noise: the notch comes first."""
    tone = 15 / GAIN_UV * np.cos(2 * np.pi * 13_000 * np.arange(N_SAMPLES) / RATE)
    joined = _document(tmp_path, np.rint(_signal(3) + tone[:, None]), _channels(), COLUMNS)
    found = {}
    for notch in ("off", "auto"):
        result = preprocess_probe(joined, tmp_path, tmp_path / notch, Settings(engine=engine, notch=notch))
        found[notch] = _labels(result)
    good = {contact for contact, label in _expected_labels().items() if label == "good"}
    assert {found["off"][contact] for contact in good} == {"noise"}
    assert found["auto"] == _expected_labels()
    names = [step["step"] for step in result.steps]
    assert names[3:7] == ["highpass_filter", "notch_filter", "phase_shift", "detect_bad_channels"]
    assert [round(notch["frequency_hz"]) for notch in result.steps[4]["notches"]] == [13_000]


def test_a_channel_bad_in_one_session_is_bad_in_all(tmp_path):
    """A channel dies before the second session, which is much shorter than the first."""
    second = _signal(7)[: RATE + 5]
    second[:, 5] = _signal(8)[: RATE + 5, PER_SHANK + DEAD]
    joined, folders = _two_sessions(tmp_path, second)
    result = _run(joined, folders, tmp_path / "out", Settings())
    assert _labels(result) == _expected_labels() | {"s1e5": "dead"}
    step = next(step for step in result.steps if step["step"] == "detect_bad_channels")
    assert [session["found"]["dead"] for session in step["sessions"]] == [1, 2]
    contacts = load_preprocessed(tmp_path / "out" / "shank1").get_property("contact_id")
    assert contacts.tolist() == [f"s1e{row}" for row in range(PER_SHANK) if row != 5]


def test_too_short_sessions_may_be_joined(tmp_path):
    """Half a second is refused alone, and taken with another session."""
    joined, folders = _two_sessions(tmp_path, _signal(7)[: RATE // 2])
    result = _run(joined, folders, tmp_path / "out", Settings())
    assert _labels(result) == _expected_labels()
    with pytest.raises(DataError, match=r"t0\.ap\.bin.*at least 1 s.*0\.5"):
        preprocess_probe(JoinedProbe(recordings=joined.recordings[1:]), folders[1], tmp_path, Settings())


def _of_lengths(*lengths: int) -> NumpyRecording:
    """Traces whose values are their segment and sample."""
    return NumpyRecording(
        [np.arange(n, dtype="int32")[:, None] + 1_000_000 * k for k, n in enumerate(lengths)], float(RATE)
    )


def test_random_chunks_of_one_segment_are_spikeinterfaces():
    recording = _of_lengths(70_000)
    chunks = _random_chunks(recording, 25, 0.3, seed=42)
    own = np.concatenate([chunks.get_traces(segment_index=k) for k in range(chunks.get_num_segments())])
    drawn = get_random_data_chunks(recording, num_chunks_per_segment=25, chunk_size=9000, seed=42)
    assert np.array_equal(own, drawn)


def test_random_chunks_lie_in_blocks_by_their_length():
    chunks = _random_chunks(_of_lengths(100, 12_000, 8_999, 39_000, 9000), 2000, 0.3, seed=1)
    starts = []
    for k in range(chunks.get_num_segments()):
        traces = chunks.get_traces(segment_index=k)[:, 0]
        assert traces.size == 9000
        assert np.all(np.diff(traces) == 1)  # within one block
        starts.append(traces[0])
    block = np.array(starts) // 1_000_000
    assert set(block) <= {1, 3, 4}
    # 3001, 30001 and 1 possible starts
    assert np.mean(block == 1) == pytest.approx(3001 / 33_003, abs=0.02)
    assert np.min(np.array(starts)[block == 3] % 1_000_000) < 200
    assert np.max(np.array(starts)[block == 3] % 1_000_000) > 29_800


@pytest.mark.parametrize("form", ["cbin", "zarr"])
def test_compressed_files_give_the_same_traces(raw, engine, local, tmp_path, form):
    joined, folder = raw
    document = joined.recordings[0]
    stream = document.probe.ap
    if form == "cbin":
        mtscomp = pytest.importorskip("mtscomp")
        mtscomp.compress(
            folder / "t0.ap.bin",
            tmp_path / "t0.ap.cbin",
            tmp_path / "t0.ap.ch",
            sample_rate=RATE,
            n_channels=COLUMNS,
            dtype=np.int16,
            check_after_compress=False,
        )
        files = [("t0.ap.cbin", "data"), ("t0.ap.ch", "index")]
    else:
        counts = np.fromfile(folder / "t0.ap.bin", "<i2").reshape(-1, COLUMNS)
        zarr.open_group(tmp_path / "t0.ap.zarr", mode="w").create_dataset(
            "traces_seg0", data=counts, chunks=(7000, 10)
        )
        files = [("t0.ap.zarr", "data")]
    compressed = stream.model_copy(
        update={
            "files": [RawFile(path=path, role=role, size_bytes=0) for path, role in files],
            "pieces": [stream.pieces[0].model_copy(update={"path": files[0][0]})],
        }
    )
    probe = document.probe.model_copy(update={"ap": compressed})
    joined = JoinedProbe(recordings=[document.model_copy(update={"probe": probe})])
    _run(joined, tmp_path, tmp_path / "out", Settings(engine=engine), jobs=2)
    assert _bytes(tmp_path / "out") == _bytes(local)


def test_simulated_session(session_small, tmp_path):
    """The simulator's planted channels on both probes, through the executable, from a read-only view."""
    from powerpixels.inventory import inspect_documents, stage_documents
    from powerpixels.simulate import Truth

    truth = Truth.load(session_small)
    documents = stage_documents(inspect_documents(session_small / "raw", "sim01", "2026-03-01_001"))
    for name in ("probe00", "probe01"):
        JoinedProbe(recordings=[documents[f"{name}.json"]]).save(tmp_path / f"{name}.json")
        subprocess.run(
            [sys.executable, ROOT / "bin" / "pp_preprocess.py", "--probe", f"{name}.json"]
            + ["--raw-dir", session_small / "raw", "--out", name, "--jobs", "2", "--reference", "global"]
            + ["--preprocessing", {"probe00": "fast", "probe01": "spikeinterface"}[name], "--seed", "7"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        document = Preprocess.load(tmp_path / name / "preprocess.json")
        assert document.steps[1]["engine"] == {"probe00": "fast", "probe01": "spikeinterface"}[name]
        assert {step["seed"] for step in document.steps if "seed" in step} == {7}
        assert document.steps[1]["versions"]["powerpixels"] == powerpixels.__version__
        planted = {channel.raw_column: channel.label for channel in truth.probe(name).channels}
        assert {label.raw_column: label.label for label in document.labels} == planted
    assert {"numpy", "python", "spikeinterface"} <= json.loads(
        (tmp_path / "versions.json").read_text()
    ).keys()
