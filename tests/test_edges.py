"""Edge extraction against independent unpackings of the digital word, and against IBL's and neo's readers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ibldsp.utils
import numpy as np
import pytest
import spikeglx
from ibllib.io.extractors import ephys_fpga
from one.alf import spec
from one.alf.io import load_object
from powerpixels import edges, rawdata
from powerpixels.documents import (
    AnalogLine,
    DigitalLine,
    Piece,
    Probe,
    ProbeDocument,
    RawFile,
    Session,
    Stream,
    StreamDocument,
    TtlLine,
)
from powerpixels.edges import Edges
from powerpixels.stage import DataError
from powerpixels.wiring import Wiring

BIN = Path(__file__).resolve().parent.parent / "bin"
SESSION = Session(
    subject="m", session="2026-03-01", acquisition="spikeglx", acquisition_version=None, start_time=None
)


def stream_of(path, n_columns, kind="ap", digital=(), **fields):
    """A stream's document for a raw file that is there."""
    size = path.stat().st_size
    return Stream(
        **{
            "name": "nidq" if kind == "nidq" else "imec0.ap",
            "kind": kind,
            "files": [RawFile(path=path.name, role="data", size_bytes=size)],
            "sampling_rate_hz": 30000.0,
            "n_columns": n_columns,
            "n_samples": size // (2 * n_columns),
            "first_sample": 77,
            "pieces": [
                Piece(path=path.name, first_row=0, n_samples=size // (2 * n_columns), first_sample=77)
            ],
            "digital": [
                DigitalLine(raw_column=column, bit=bit, name=f"P{column}.{bit}") for column, bit in digital
            ],
            **fields,
        }
    )


def write(path, columns):
    np.column_stack(columns).astype("<i2").tofile(path)
    return path


def random_words(rng, n, change=0.05):
    """(n,) int16 words that hold their value for some samples; all 16 bits are used, so some are negative."""
    values = rng.integers(-32768, 32768, n)
    return values[np.maximum.accumulate(np.where(rng.random(n) < change, np.arange(n), 0))].astype(np.int16)


def unpacked_edges(words):
    """[(sample, bit, polarity)] by numpy's unpackbits on the word's bytes, little endian."""
    bits = np.unpackbits(words.astype("<i2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    step = np.diff(bits.astype(np.int8), axis=0)
    sample, bit = np.nonzero(step)
    return [(int(s) + 1, int(b), int(step[s, b])) for s, b in zip(sample, bit, strict=True)]


def as_list(found, names):
    return [
        (int(s), names[found.lines[line]], int(p))
        for s, line, p in zip(found.sample, found.line, found.polarity, strict=True)
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 900, 32 * 2**20])
def test_all_bits_of_the_imec_word_across_pieces(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    words = random_words(rng, 3000)
    path = write(tmp_path / "x.ap.bin", [rng.integers(-99, 99, 3000), words])
    found = edges.extract_edges(stream_of(path, 2, sync_column=1, sync_bit=6), tmp_path)
    names = {("sync" if bit == 6 else f"bit{bit}"): bit for bit in range(16)}
    assert as_list(found, names) == unpacked_edges(words)
    assert set(found.lines) == set(names)
    assert found.sample.dtype == np.int64 and found.polarity.dtype == np.int8
    assert (found.stream, found.n_samples, found.first_sample) == ("imec0.ap", 3000, 77)
    sample, polarity = found.of("sync")
    expected = [(s, p) for s, b, p in unpacked_edges(words) if b == 6]
    assert list(zip(sample.tolist(), polarity.tolist(), strict=True)) == expected


def test_nidq_lines_of_two_words_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 700)
    rng = np.random.default_rng(1)
    one, two = random_words(rng, 2000), random_words(rng, 2000)
    path = write(tmp_path / "x.nidq.bin", [np.zeros(2000), one, two])
    lines = [(2, 15), (1, 0), (1, 15), (2, 3)]
    found = edges.extract_edges(stream_of(path, 3, "nidq", lines), tmp_path)
    assert found.lines == ("P2.15", "P1.0", "P1.15", "P2.3")
    expected = sorted(
        (s, lines.index((column, b)), p)
        for column, words in ((1, one), (2, two))
        for s, b, p in unpacked_edges(words)
        if (column, b) in lines
    )
    assert list(zip(found.sample, found.line, found.polarity, strict=True)) == expected


def test_a_high_level_at_the_start_is_no_edge(tmp_path):
    path = write(tmp_path / "x.ap.bin", [[64, 64, 0, 64]])
    found = edges.extract_edges(stream_of(path, 1, sync_column=0, sync_bit=6), tmp_path)
    sample, polarity = found.of("sync")
    assert (sample.tolist(), polarity.tolist()) == ([2, 3], [-1, 1])


def test_stream_without_digital_lines_has_no_edges(tmp_path):
    path = write(tmp_path / "x.ap.bin", [[1, 2, 3]])
    found = edges.extract_edges(stream_of(path, 1), tmp_path)
    assert found.lines == () and len(found.sample) == 0
    with pytest.raises(KeyError):
        found.of("sync")


def in_pieces(stream, pieces):
    """The stream as pieces (file, first_row, n_samples, first_sample) of files that are there."""
    names = dict.fromkeys(name for name, *_ in pieces)
    return stream.model_copy(
        update={
            "files": [RawFile(path=name, role="data", size_bytes=0) for name in names],
            "pieces": [
                Piece(path=name, first_row=row, n_samples=n, first_sample=first)
                for name, row, n, first in pieces
            ],
            "n_samples": sum(n for _, _, n, _ in pieces),
            "first_sample": pieces[0][3],
        }
    )


@pytest.mark.parametrize("chunk_bytes", [1, 130, 32 * 2**20])
def test_gaps_keep_their_time_and_hide_changes(tmp_path, monkeypatch, chunk_bytes):
    """One recording in files: contiguous, after a gap, overlapping; the edges are those of the whole word."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", chunk_bytes)
    words = random_words(np.random.default_rng(5), 1000, 0.2)
    pieces = [("a", 0, 300, 77), ("b", 0, 200, 377), ("c", 20, 180, 677), ("d", 0, 1, 900), ("e", 0, 99, 950)]
    for name, row, n, first in pieces:
        write(tmp_path / name, [words[first - 77 - row : first - 77 + n]])
    whole = write(tmp_path / "whole", [words])
    stream = in_pieces(stream_of(whole, 1, sync_column=0, sync_bit=6), pieces)
    found = edges.extract_edges(stream, tmp_path)
    names = {name: bit for bit, name in enumerate(found.lines)}
    recorded = [(0, 500), (600, 780), (823, 824), (873, 972)]
    expected = [e for e in unpacked_edges(words) if any(start < e[0] < stop for start, stop in recorded)]
    assert as_list(found, names) == expected
    assert found.n_samples == 972 and found.first_sample == 77
    assert found.gaps.tolist() == [[500, 600], [780, 823], [824, 873]]


def test_sync_wave_as_a_level(tmp_path):
    """A noisy wave on an analog column of a NIDQ, beside a digital word; the level is no bit."""
    rng = np.random.default_rng(6)
    level = np.arange(2000) // 250 % 2
    analog = -300 + 20000 * level + rng.integers(-900, 900, 2000)
    path = write(tmp_path / "x.nidq.bin", [analog, np.arange(2000) // 700])
    stream = stream_of(path, 2, "nidq", [(1, 0), (1, 1)], sync_column=0)
    found = edges.extract_edges(stream, tmp_path)
    assert found.lines == ("P1.0", "P1.1", "sync") and found.sync == "sync"
    assert found.of("sync")[0].tolist() == list(range(250, 2000, 250))
    assert found.of("sync")[1].tolist() == [1, -1, 1, -1, 1, -1, 1]
    assert found.of("P1.0")[0].tolist() == [700, 1400] and found.of("P1.1")[0].tolist() == [1400]
    parts = in_pieces(stream, [("a", 0, 900, 0), ("b", 0, 900, 1100)])
    for name, rows in (("a", slice(0, 900)), ("b", slice(1100, 2000))):
        write(tmp_path / name, [analog[rows], np.zeros(900)])
    assert edges.extract_edges(parts, tmp_path).of("sync")[0].tolist() == [250, 500, 750, 1250, 1500, 1750]


def test_a_constant_level_has_no_edges(tmp_path):
    path = write(tmp_path / "x.ap.bin", [np.full(50, -7)])
    found = edges.extract_edges(stream_of(path, 1, sync_column=0), tmp_path)
    assert found.lines == ("sync",) and len(found.sample) == 0


def analog_wave(rng, n, period, high, rise=3, noise=200, artifacts=0):
    """(samples of (n,) int16, [(sample, polarity)]) of a noisy square wave with slopes of some samples."""
    ideal = np.zeros(n)
    truth = []
    for begin in range(period // 3, n - high - 20, period):
        ideal[begin : begin + high] = 1
        truth += [(begin, 1), (begin + high, -1)]
    slope = np.convolve(ideal, np.ones(rise) / rise)[:n]
    counts = 1000 + 12000 * slope + rng.normal(0, noise, n)
    # Far from the edges, single samples of the recording's full range.
    free = np.flatnonzero(np.abs(np.gradient(slope)) == 0)[:: max(1, n // (artifacts + 1))][1:]
    counts[free] = rng.choice([-32768, 32767], len(free))
    return counts.astype(np.int16), truth


@pytest.mark.parametrize("chunk_bytes", [6000, 32 * 2**20])
@pytest.mark.parametrize("high", [25, 2500])
def test_analog_sync_line_of_a_nidq(tmp_path, monkeypatch, chunk_bytes, high):
    """The header's analog sync line, noise at its threshold and artifacts; the digital lines still there."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(2)
    wave, truth = analog_wave(rng, 200_000, 5000, high, noise=400, artifacts=5)
    words = random_words(rng, 200_000, 0.001) & 3
    breathing = 3000 * np.sin(np.arange(200_000) / 900)
    path = write(tmp_path / "x.nidq.bin", [breathing, wave, words])
    analog = [AnalogLine(raw_column=c, name=f"AI{c}", gain_v=1e-4) for c in (0, 1)]
    stream = stream_of(path, 3, "nidq", [(2, 0), (2, 1)], analog=analog, sync_column=1)
    found = edges.extract_edges(stream, tmp_path)
    assert (found.lines, found.sync) == (("P2.0", "P2.1", "AI1"), "AI1")
    sample, polarity = found.of("AI1")
    artifact = 2 * len(np.flatnonzero(np.abs(wave.astype(int)) > 32000))
    kept = [
        k for k in range(len(sample)) if np.abs(wave[sample[k] - 1 : sample[k] + 1].astype(int)).max() < 32000
    ]
    assert len(sample) - len(kept) <= artifact
    assert polarity[kept].tolist() == [p for _, p in truth]
    # Half way up a slope of three samples, to a sample of noise.
    assert np.abs(sample[kept] - [s + 1 for s, _ in truth]).max() <= 1
    expected = [(s, b, p) for s, b, p in unpacked_edges(words.astype(np.int16)) if b < 2]
    digital = [e for e in as_list(found, {"P2.0": 0, "P2.1": 1, "AI1": 9}) if e[1] < 2]
    assert digital == expected


def test_analog_lines_are_levels_only_where_wired_so(tmp_path):
    rng = np.random.default_rng(3)
    wave, truth = analog_wave(rng, 50_000, 5000, 2500, rise=1, noise=100)
    path = write(tmp_path / "x.nidq.bin", [wave, rng.normal(0, 3000, 50_000), np.zeros(50_000)])
    analog = [AnalogLine(raw_column=c, name=f"AI{c}", gain_v=1e-4) for c in (0, 1)]
    stream = stream_of(path, 3, "nidq", [(2, 0)], analog=analog)
    assert edges.extract_edges(stream, tmp_path).lines == ("P2.0",)
    wiring = Wiring(sync="AI0", digital={"P2.0": "lick"})
    found = edges.extract_edges(stream, tmp_path, wiring.inputs("nidq").levels)
    assert found.lines == ("P2.0", "AI0") and found.sync is None
    assert list(zip(*(a.tolist() for a in found.of("AI0")), strict=True)) == truth


def test_noise_has_no_two_levels(tmp_path, caplog):
    rng = np.random.default_rng(4)
    path = write(tmp_path / "x.nidq.bin", [rng.normal(0, 3000, 50_000), np.full(50_000, 7)])
    analog = [AnalogLine(raw_column=c, name=f"AI{c}", gain_v=1e-4) for c in (0, 1)]
    stream = stream_of(path, 2, "nidq", analog=analog)
    found = edges.extract_edges(stream, tmp_path, ["AI0", "AI1"])
    assert found.lines == ("AI0", "AI1") and len(found.sample) == 0
    assert "line AI0 has no two levels" in caplog.text and "AI1 has" not in caplog.text


def test_a_level_that_hesitates_or_crosses_a_gap(tmp_path, monkeypatch):
    """Up to just above the middle and back is no edge; nor is what changed in a gap."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 6)
    level = edges.Level(0, 100)
    values = np.array([0, 0, 55, 45, 55, 100, 100, 58, 48, 52, 90, 41, 0, 0], np.int16)
    for step in (1, 3, 14):
        level = edges.Level(0, 100)
        found = []
        for first in range(0, 14, step):
            where, polarity = level.edges(values[first : first + step], first, first > 0)
            found += list(zip(where.tolist(), polarity.tolist(), strict=True))
        assert found == [(4, 1), (11, -1)] or found == [(2, 1), (11, -1)]
    where, _ = level.edges(np.array([100, 100, 0], np.int16), 50, False)
    assert where.tolist() == [52]


@pytest.mark.parametrize("part", ["", "probe00"])
def test_ibl_sync_files_are_those_of_ibllib(tmp_path, part):
    """Read by ONE, and equal to what ibldsp extracts from the same words."""
    rng = np.random.default_rng(6)
    words = random_words(rng, 30_000, 0.01)
    path = write(tmp_path / "x.ap.bin", [rng.integers(-99, 99, 30_000), words])
    stream = stream_of(path, 2, sync_column=1, sync_bit=6)
    found = edges.extract_edges(stream, tmp_path)
    written = edges.write_ibl_sync(stream, found, tmp_path / "raw_ephys_data", part)
    assert [spec.is_valid(file.name) for file in written] == [True] * 3
    sync = load_object(tmp_path / "raw_ephys_data", "sync", namespace="spikeglx", short_keys=True)
    assert sync.check_dimensions == 0
    index, fronts = ibldsp.utils.fronts(spikeglx.split_sync(words), axis=0)
    order = np.lexsort((index[1], index[0]))
    np.testing.assert_array_equal(sync["times"], index[0][order] / 30000.0)
    np.testing.assert_array_equal(sync["channels"], index[1][order])
    np.testing.assert_array_equal(sync["polarities"], fronts[order])
    own = ephys_fpga.get_sync_fronts(sync, 6)
    np.testing.assert_array_equal(own["times"], found.of("sync")[0] / 30000.0)


def test_ibl_channels_of_analog_lines_follow_the_words(tmp_path):
    rng = np.random.default_rng(7)
    wave, _ = analog_wave(rng, 50_000, 5000, 2500, rise=1, noise=100)
    path = write(tmp_path / "x.nidq.bin", [np.zeros(50_000), wave, np.zeros(50_000)])
    analog = [AnalogLine(raw_column=c, name=f"AI{c}", gain_v=1e-4) for c in (0, 1)]
    stream = stream_of(path, 3, "nidq", [(2, 0)], analog=analog, sync_column=1)
    found = edges.extract_edges(stream, tmp_path)
    files = edges.write_ibl_sync(stream, found, tmp_path)
    assert set(np.load(files[1])) == {17.0} and len(np.load(files[0])) == len(found.sample) > 10


def test_obx_has_named_lines_and_its_sync_word(tmp_path):
    path = write(tmp_path / "x.obx.bin", [[0, 2, 2, 3], [0, 64, 0, 1]])
    stream = stream_of(path, 2, "obx", [(0, 1)], sync_column=1, sync_bit=6)
    found = edges.extract_edges(stream, tmp_path)
    assert found.lines[0] == "P0.1" and found.lines[7] == "sync" and found.sync == "sync"
    assert [found.of(line)[0].tolist() for line in ("P0.1", "sync", "bit0")] == [[1], [1, 2], [3]]


@pytest.fixture
def open_ephys(tmp_path):
    """(stream, events) of two recordings with TTL lines 1 and 3; events: [(sample number, signed line)]."""
    events = [
        # Line 3 is high when the recording begins; line 9 is no digital input; 700 lies behind the data.
        [(0, -1), (100, 3), (150, 1), (160, -3), (170, 9), (199, -1), (700, 1)],
        [(0, -1), (0, -3), (500, 1), (520, -1), (510, 3)],
    ]
    files, pieces = [], []
    for k, (found, (first, n)) in enumerate(zip(events, [(100, 100), (500, 50)], strict=True), start=1):
        folder = tmp_path / f"recording{k}"
        folder.mkdir()
        write(folder / "continuous.dat", [np.zeros(n)])
        np.save(folder / "sample_numbers.npy", np.array([s for s, _ in found], np.int64))
        np.save(folder / "states.npy", np.array([line for _, line in found], np.int16))
        for name, role in (
            ("continuous.dat", "data"),
            ("sample_numbers.npy", "samples"),
            ("states.npy", "states"),
        ):
            files.append(RawFile(path=f"recording{k}/{name}", role=role, size_bytes=0))
        pieces.append(
            Piece(path=f"recording{k}/continuous.dat", first_row=0, n_samples=n, first_sample=first)
        )
    return Stream(
        name="ProbeA.ap",
        kind="ap",
        files=files,
        sampling_rate_hz=30000.0,
        n_columns=1,
        n_samples=150,
        first_sample=100,
        pieces=pieces,
        sync_column=0,
        sync_line="sync",
        ttl=[TtlLine(line=1, name="sync"), TtlLine(line=3, name="TTL3")],
    )


def test_ttl_events_of_two_recordings(open_ephys, tmp_path):
    found = edges.extract_edges(open_ephys, tmp_path)
    assert found.lines == ("sync", "TTL3") and found.sync == "sync"
    assert [values.tolist() for values in found.of("sync")] == [[50, 99, 420], [1, -1, -1]]
    assert [values.tolist() for values in found.of("TTL3")] == [[60, 410], [-1, 1]]
    assert found.n_samples == 450 and found.gaps.tolist() == [[100, 400]]
    assert found.sample.dtype == np.int64 and found.polarity.dtype == np.int8


def test_ttl_files_where_a_task_stages_them(open_ephys, tmp_path):
    staged = tmp_path / "staged"
    for k, file in enumerate(open_ephys.files, start=1):
        (staged / f"raw{k}").mkdir(parents=True)
        shutil.copy(tmp_path / file.path, staged / f"raw{k}")
    found = edges.extract_edges(open_ephys, staged)
    np.testing.assert_array_equal(found.sample, edges.extract_edges(open_ephys, tmp_path).sample)


def test_ttl_files_of_a_crashed_recording_are_read_to_their_end(open_ephys, tmp_path, caplog):
    """The header tells of no event, since the program died before it wrote the number."""
    path = tmp_path / "recording1" / "sample_numbers.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (7,)", b"'shape': (0,)") + np.int64(450).tobytes())
    found = edges.extract_edges(open_ephys, tmp_path)
    assert found.of("sync")[0].tolist() == [50, 99, 420]
    assert "recording1/sample_numbers.npy was not closed" in caplog.text


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("states.npy", lambda b: b[:-2], "expected 7 events as its header tells, found 6"),
        ("sample_numbers.npy", lambda b: b"", "expected an npy file of events"),
        ("sample_numbers.npy", lambda b: b.replace(b"<i8", b"<f8"), "expected a list of whole numbers"),
    ],
)
def test_broken_ttl_files_are_refused(open_ephys, tmp_path, name, damage, message):
    path = tmp_path / "recording1" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"recording1/{name}: {message}"):
        edges.extract_edges(open_ephys, tmp_path)


def test_ttl_files_of_unequal_lengths_are_refused(open_ephys, tmp_path):
    np.save(tmp_path / "recording2" / "states.npy", np.array([1, -1], np.int16))
    with pytest.raises(DataError, match=r"recording2/sample_numbers.npy: 5 sample numbers .* 2 states"):
        edges.extract_edges(open_ephys, tmp_path)


@pytest.mark.parametrize("first_sample", [0, 123456789012, None])
def test_save_and_load_without_pickles(tmp_path, first_sample):
    saved = Edges(
        stream="nidq",
        sampling_rate_hz=30003.0003,
        n_samples=10**10,
        first_sample=first_sample,
        lines=("P0.0", "P0.10"),
        sample=np.array([5, 3 * 10**9], np.int64),
        line=np.array([1, 0], np.int16),
        polarity=np.array([1, -1], np.int8),
        sync="P0.0" if first_sample else None,
        gaps=np.array([[7, 9], [11, 5 * 10**9]], np.int64),
    )
    saved.save(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as data:
        assert all(data[key].dtype != object for key in data.files)
    loaded = Edges.load(tmp_path / "e.npz")
    for field in ("stream", "sampling_rate_hz", "n_samples", "first_sample", "lines", "sync"):
        assert getattr(loaded, field) == getattr(saved, field)
    for field in ("sample", "line", "polarity", "gaps"):
        assert getattr(loaded, field).dtype == getattr(saved, field).dtype
        np.testing.assert_array_equal(getattr(loaded, field), getattr(saved, field))


def test_short_and_missing_files_are_refused(tmp_path):
    path = write(tmp_path / "x.ap.bin", [np.zeros(100), np.zeros(100)])
    stream = stream_of(path, 2, sync_column=1, sync_bit=6)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"x.ap.bin: expected 100 samples .* found 99"):
        edges.extract_edges(stream, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"x.ap.bin.*missing"):
        edges.extract_edges(stream, tmp_path)


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """32 MB in pieces of 1 MB: below 8 MB at any time."""
    monkeypatch.setattr(rawdata, "CHUNK_BYTES", 2**20)
    words = np.zeros((2**21, 8), np.int16)
    words[::30000, 7] = 64
    words.tofile(tmp_path / "x.ap.bin")
    stream = stream_of(tmp_path / "x.ap.bin", 8, sync_column=7, sync_bit=6)
    tracemalloc.start()
    found = edges.extract_edges(stream, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.sample) == 2 * 70 - 1
    assert peak < 8 * 2**20


NIDQ = Path("neuroconv_ephy_testing_data/spikeglx/Noise4Sam_g0/Noise4Sam_g0_t0.nidq.bin")


def test_real_nidq_file_as_ibl_unpacks_it(real_data):
    """The real file's own digital word is silent, so its noisy analog column is taken as one too."""
    spikeglx = pytest.importorskip("spikeglx")
    path = real_data / NIDQ
    raw = np.fromfile(path, "<i2").reshape(-1, 9)
    for column in (8, 0):
        lines = [(column, bit) for bit in range(16)]
        found = edges.extract_edges(stream_of(path, 9, "nidq", lines), path.parent)
        assert as_list(found, {f"P{column}.{bit}": bit for bit in range(16)}) == unpacked_edges(
            raw[:, column]
        )
        step = np.diff(spikeglx.split_sync(raw[:, column]).astype(int), axis=0)
        assert len(found.sample) == np.abs(step).sum()
        for bit in range(16):
            sample, polarity = found.of(f"P{column}.{bit}")
            np.testing.assert_array_equal(sample, np.flatnonzero(step[:, bit]) + 1)
            np.testing.assert_array_equal(polarity, step[sample - 1, bit])
    assert len(found.sample) > 10000


def test_real_header_read_by_neo_and_ibl(real_data, tmp_path):
    """A digital word under a real NIDQ header: the same edges as neo's events and IBL's sync reader."""
    spikeglx = pytest.importorskip("spikeglx")
    from neo.rawio import SpikeGLXRawIO

    raw = np.fromfile(real_data / NIDQ, "<i2").reshape(-1, 9)
    raw[:, 8] = random_words(np.random.default_rng(4), len(raw), 0.001) & 0xFF
    path = tmp_path / "Noise4Sam_g0_t0.nidq.bin"
    raw.tofile(path)
    shutil.copy((real_data / NIDQ).with_suffix(".meta"), tmp_path)
    found = edges.extract_edges(stream_of(path, 9, "nidq", [(8, bit) for bit in range(8)]), tmp_path)

    with spikeglx.Reader(path) as reader:
        step = np.diff(reader.read_sync_digital(slice(None)).astype(int), axis=0)
    neo = SpikeGLXRawIO(dirname=str(tmp_path))
    neo.parse_header()
    for bit in range(8):
        sample, polarity = found.of(f"P8.{bit}")
        assert len(sample) > 10
        np.testing.assert_array_equal(sample, np.flatnonzero(step[:, bit]) + 1)
        np.testing.assert_array_equal(polarity, step[sample - 1, bit])
        events, _, labels = neo.get_event_timestamps(0, 0, bit)
        is_on = np.array([label.endswith("ON") for label in labels])
        np.testing.assert_array_equal(sample[polarity > 0], events[is_on])
        np.testing.assert_array_equal(sample[polarity < 0], events[~is_on])


def test_executable_for_a_probe_and_for_nidq(tmp_path):
    word = np.zeros(1000, np.int16)
    word[300:600] = 64
    path = write(tmp_path / "x.ap.bin", [np.zeros(1000), word])
    ap = stream_of(path, 2, sync_column=1, sync_bit=6)
    probe = Probe(name="probe00", part_number=None, serial_number=None, model=None, shanks=[0], ap=ap)
    ProbeDocument(session=SESSION, probe=probe).save(tmp_path / "probe.json")
    nidq = stream_of(path, 2, "nidq", [(1, 6)])
    StreamDocument(session=SESSION, stream=nidq).save(tmp_path / "nidq.json")
    for option, document, line in (("--probe", "probe.json", "sync"), ("--stream", "nidq.json", "P1.6")):
        command = [
            sys.executable,
            str(BIN / "pp_edges.py"),
            option,
            document,
            "--raw-dir",
            ".",
            "--out",
            "e.npz",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        assert Edges.load(tmp_path / "e.npz").of(line)[0].tolist() == [300, 600]
        assert "numpy" in json.loads((tmp_path / "versions.json").read_text())
    path.write_bytes(b"")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 65
    assert done.stderr.splitlines()[-1].startswith("ERROR: x.ap.bin: expected 1000 samples")


def test_ibllib_numbers_the_bits_of_one_word_only():
    """Of two words it makes twice as many samples of 16 lines, so there is no numbering of its to follow."""
    words = np.array([[0b1, 0b0], [0b1, 0b100]], np.int16)
    one = spikeglx.split_sync(words[:, :1])
    assert one.shape == (2, 16) and one[:, 0].tolist() == [1, 1]
    assert spikeglx.split_sync(words).shape == (4, 16)
