"""Raw AP bands from documents: the right columns, gains, identities; blocks apart; sessions of one probe."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from powerpixels.documents import (
    Channel,
    JoinedProbe,
    Piece,
    Probe,
    ProbeDocument,
    RawFile,
    Session,
    Stream,
)
from powerpixels.raw_ap import load_raw_ap
from powerpixels.stage import DataError
from used_channels import USED, used_channels

RATE = 30000.0
COLUMNS = 6  # five saved channels and the sync word


def _recording(
    pieces: list[tuple[str, int, int, int | None]], session: str = "2026-01-01", **changes
) -> ProbeDocument:
    """The document of files (path, first_row, n_samples, first_sample); changes: of the probe or its AP."""
    described = [
        Piece(path=path, first_row=row, n_samples=n, first_sample=sample) for path, row, n, sample in pieces
    ]
    stream = {
        "name": "imec0.ap",
        "kind": "ap",
        "files": [RawFile(path=piece.path, role="data", size_bytes=0) for piece in described],
        "sampling_rate_hz": RATE,
        "n_columns": COLUMNS,
        "n_samples": sum(piece.n_samples for piece in described),
        "first_sample": described[0].first_sample,
        "pieces": described,
        "channels": used_channels(),
    }
    probe = {"name": "probe00", "part_number": "NP2013", "serial_number": "1", "model": None}
    for key, value in changes.items():
        (probe if key in probe else stream)[key] = value
    return ProbeDocument(
        session=Session(
            subject="s", session=session, acquisition="spikeglx", acquisition_version=None, start_time=None
        ),
        probe=Probe(**probe, shanks=[0, 3], ap=Stream(**stream), lf=None),
    )


def _write(path: Path, n_samples: int, seed: int) -> np.ndarray:
    counts = np.random.default_rng(seed).integers(-500, 500, (n_samples, COLUMNS)).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    counts.tofile(path)
    return counts


def _segments(recording) -> list[np.ndarray]:
    return [recording.get_traces(segment_index=k) for k in range(recording.get_num_segments())]


@pytest.fixture
def raw(tmp_path):
    counts = _write(tmp_path / "run" / "probe.ap.bin", 1000, 1)
    return JoinedProbe(recordings=[_recording([("run/probe.ap.bin", 0, 1000, None)])]), counts


def test_raw_columns_are_those_of_the_document(raw, tmp_path):
    joined, counts = raw
    recording = load_raw_ap(joined, tmp_path)
    assert recording.get_num_segments() == 1
    assert recording.get_traces().dtype == np.int16
    assert np.array_equal(recording.get_traces(), counts[:, USED])
    assert np.array_equal(recording.get_traces(start_frame=7, end_frame=19), counts[7:19, USED])
    assert np.array_equal(recording.get_traces(channel_ids=["AP12", "AP14"]), counts[:, [2, 4]])
    assert np.allclose(recording.get_traces(return_in_uV=True), counts[:, USED] * 2.34375)
    assert recording.get_property("raw_column").tolist() == USED
    assert recording.get_property("contact_id").tolist() == ["s0e4", "s0e0", "s0e2"]
    assert recording.channel_ids.tolist() == ["AP14", "AP10", "AP12"]
    assert recording.get_channel_groups().tolist() == [0, 0, 3]
    assert np.allclose(recording.get_property("inter_sample_shift"), np.array(USED) / 13)
    assert np.allclose(recording.get_channel_locations(), [(0, 60), (0, 0), (750, 30)])


def test_missing_and_short_files_are_refused(raw, tmp_path):
    joined, counts = raw
    file = tmp_path / "run" / "probe.ap.bin"
    with open(file, "r+b") as handle:
        handle.truncate(counts.nbytes - 1)
    with pytest.raises(DataError, match=r"probe\.ap\.bin: expected 1000 samples .* found 999; .*copy it"):
        load_raw_ap(joined, tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"probe\.ap\.bin: the data file is missing"):
        load_raw_ap(joined, tmp_path)


def test_a_probe_without_channels_is_refused(raw, tmp_path):
    with pytest.raises(DataError, match=r"probe\.ap\.bin: the probe has no recorded channels"):
        load_raw_ap(
            JoinedProbe(recordings=[_recording([("run/probe.ap.bin", 0, 1000, None)], channels=[])]), tmp_path
        )


def test_blocks_are_segments(tmp_path):
    """t1 follows t0, t2 comes 77 samples later, t3 begins with the last 30 samples of t2."""
    lengths = (100, 50, 200, 130)
    files = [_write(tmp_path / f"t{k}.bin", n, k) for k, n in enumerate(lengths)]
    document = _recording(
        [
            ("t0.bin", 0, 100, 1000),
            ("t1.bin", 0, 50, 1100),
            ("t2.bin", 0, 200, 1150 + 77),
            ("t3.bin", 30, 100, 1150 + 77 + 200),
        ]
    )
    segments = _segments(load_raw_ap(JoinedProbe(recordings=[document]), tmp_path))
    expected = [np.concatenate(files[:2]), np.concatenate([files[2], files[3][30:]])]
    assert [len(segment) for segment in segments] == [150, 300]
    for segment, counts in zip(segments, expected, strict=True):
        assert np.array_equal(segment, counts[:, USED])


def _two_sessions(folder: Path) -> tuple[list[ProbeDocument], list[np.ndarray]]:
    """A session of two files with a gap and one of one file with an odd rate, staged as tasks do.

    A file of the first and that of the second session have one path.
    """
    documents = [
        _recording([("run/a.bin", 0, 100, 0), ("run/b.bin", 0, 60, 900)], "2026-01-01"),
        _recording([("run/b.bin", 0, 80, 5)], "2026-01-02", sampling_rate_hz=RATE + 0.7),
    ]
    staged = ("raw1/a.bin", "raw2/b.bin", "raw3/b.bin")
    return documents, [
        _write(folder / path, n, k) for k, (path, n) in enumerate(zip(staged, (100, 60, 80), strict=True))
    ]


def test_sessions_follow_each_other(tmp_path):
    documents, files = _two_sessions(tmp_path)
    recording = load_raw_ap(JoinedProbe(recordings=documents), tmp_path)
    assert recording.sampling_frequency == RATE
    for segment, counts in zip(_segments(recording), files, strict=True):
        assert np.array_equal(segment, counts[:, USED])
    # the same samples of one session after the other's
    for segment in (0, 2):
        traces = recording.get_traces(segment_index=segment, start_frame=3, end_frame=40)
        assert np.array_equal(traces, files[segment][3:40, USED])


def test_a_folder_for_each_recording(tmp_path):
    documents, _ = _two_sessions(tmp_path)
    folders = [tmp_path / "first", tmp_path / "second"]
    files = [
        _write(folder / path, n, n)
        for folder, path, n in zip(
            [folders[0], *folders], ("run/a.bin", "run/b.bin", "run/b.bin"), (100, 60, 80), strict=True
        )
    ]
    recording = load_raw_ap(JoinedProbe(recordings=documents), folders)
    for segment, counts in zip(_segments(recording), files, strict=True):
        assert np.array_equal(segment, counts[:, USED])


def _changed(k: int, **changes) -> list[Channel]:
    channels = used_channels()
    channels[k] = channels[k].model_copy(update=changes)
    return channels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serial_number": "2"}, "the serial number is 1 and 2"),
        ({"part_number": "NP2003"}, "the part number is NP2013 and NP2003"),
        ({"sampling_rate_hz": RATE * 1.0002}, "the sampling rate is 30000 and 30006 Hz"),
        ({"channels": used_channels()[:2]}, r"the second lacks the contacts of 1 channels \(AP12\)"),
        (
            {"channels": [*used_channels(), used_channels()[0].model_copy(update={"contact_id": "s0e9"})]},
            r"the first lacks the contacts of 1 channels \(AP14\)",
        ),
        ({"channels": _changed(1, raw_column=1)}, r"1 channels have other columns in the raw file \(AP10\)"),
        ({"channels": _changed(1, gain_uv=1.0)}, r"1 channels have other gains \(AP10\)"),
        ({"channels": _changed(2, inter_sample_shift=0.5)}, r"have other sampling moments \(AP12\)"),
        ({"channels": _changed(2, y_um=31.0)}, r"1 channels have other positions \(AP12\)"),
    ],
)
def test_other_probes_are_not_joined(tmp_path, changes, message):
    first = _recording([("a.bin", 0, 100, 0)], "2026-01-01")
    other = _recording([("b.bin", 0, 100, 0)], "2026-01-02_002", **changes)
    joined = JoinedProbe(recordings=[first, first, other])
    with pytest.raises(DataError, match=message) as error:
        load_raw_ap(joined, tmp_path)
    assert "probe00 of s 2026-01-01 and probe00 of s 2026-01-02_002" in str(error.value)
    assert str(error.value).endswith("out of its `concatenate` group in the samplesheet")


def test_order_and_names_of_channels_do_not_matter(tmp_path):
    """Channels are known by contact and column; the first session's order and names count."""
    documents, files = _two_sessions(tmp_path)
    renamed = [
        channel.model_copy(update={"channel_id": "x" + channel.channel_id}) for channel in used_channels()
    ]
    stream = documents[1].probe.ap.model_copy(update={"channels": renamed[::-1]})
    documents[1] = documents[1].model_copy(
        update={"probe": documents[1].probe.model_copy(update={"ap": stream})}
    )
    recording = load_raw_ap(JoinedProbe(recordings=documents), tmp_path)
    assert recording.channel_ids.tolist() == ["AP14", "AP10", "AP12"]
    assert np.array_equal(recording.get_traces(segment_index=2), files[2][:, USED])


def test_it_can_be_sent_to_other_processes(tmp_path):
    documents, files = _two_sessions(tmp_path)
    recording = load_raw_ap(JoinedProbe(recordings=documents), tmp_path)
    recording.get_traces(segment_index=0)
    sent = pickle.loads(pickle.dumps(recording))
    for segment, counts in zip(_segments(sent), files, strict=True):
        assert np.array_equal(segment, counts[:, USED])
    assert len(pickle.dumps(recording)) < 20_000  # no samples, no open files


def test_what_a_caller_does_with_traces_does_not_come_back(raw, tmp_path):
    joined, counts = raw
    recording = load_raw_ap(joined, tmp_path)
    for channels in (None, ["AP14"], ["AP14", "AP10", "AP12"]):
        recording.get_traces(start_frame=0, end_frame=50, channel_ids=channels)[:] = 9999
    assert np.array_equal(recording.get_traces(start_frame=0, end_frame=50), counts[:50, USED])


def test_threads_get_their_own_samples(tmp_path):
    documents, files = _two_sessions(tmp_path)
    recording = load_raw_ap(JoinedProbe(recordings=documents), tmp_path)
    rng = np.random.default_rng(1)
    asked = [
        (int(k), int(start))
        for k, start in zip(rng.integers(0, 3, 2000), rng.integers(0, 50, 2000), strict=True)
    ]

    def right(what: tuple[int, int]) -> bool:
        k, start = what
        traces = recording.get_traces(segment_index=k, start_frame=start, end_frame=start + 10)
        return np.array_equal(traces, files[k][start : start + 10, USED])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, asked))
