"""The raw AP band of one or more recordings of a probe as one SpikeInterface recording.

Apart from ``powerpixels.recordings``, so that a change of how raw files are read does not run the stages
again that only read preprocessed traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from spikeinterface.core import BaseRecording, BaseRecordingSegment

from powerpixels.documents import Block, Channel, JoinedProbe, ProbeDocument
from powerpixels.rawdata import StreamReader, locate
from powerpixels.recordings import describe_channels
from powerpixels.stage import DataError

# A board's clock is calibrated now and then, and the stated rate with it: by some 10 ppm.
MAX_RATE_DIFFERENCE = 1e-4


def load_raw_ap(joined: JoinedProbe, raw_dir: Path | Sequence[Path]) -> BaseRecording:
    """The probe's AP band as its files hold it: int16 counts, lazy, only the probe's channels.

    One segment for each block (``Stream.blocks``) of each recording in order, so that nothing that is done
    to traces runs over a gap or from one session into the next. Columns are in the order of the first
    recording's channels; gains are µV per count; properties raw_column, contact_id, inter_sample_shift.
    Files are found by ``rawdata.locate`` in raw_dir, or in one folder for each recording; instead of a data
    file that is not there its compressed copy is read, where COMPRESS would have put it.

    Raises ``DataError`` where a file is missing or too short, where the probe has no channels, and where
    the recordings are not of one probe with the same channels.
    """
    documents = joined.recordings
    for other in documents[1:]:
        _check_same_probe(documents[0], other)
    streams = [document.probe.ap for document in documents]
    if isinstance(raw_dir, str | Path):
        places = locate(streams, Path(raw_dir))
    else:
        places = [locate([stream], folder)[0] for stream, folder in zip(streams, raw_dir, strict=True)]
    folders = [raw_dir] * len(streams) if isinstance(raw_dir, str | Path) else raw_dir
    for document, found, folder in zip(documents, places, folders, strict=True):
        for file in document.probe.ap.files:
            if file.role == "data" and not found[file.path].exists():
                copy = compressed_copy(Path(folder), document.probe.name, file.path)
                found[file.path] = copy or found[file.path]
    channels = streams[0].channels
    if not channels:
        raise DataError(
            f"{places[0][streams[0].files[0].path]}: the probe has no recorded channels; check the metadata "
            "file beside it"
        )
    recording = RawRecording(
        [StreamReader(stream, files) for stream, files in zip(streams, places, strict=True)],
        [channel.raw_column for channel in channels],
        [channel.channel_id for channel in channels],
    )
    describe_channels(recording, channels, [channel.gain_uv for channel in channels])
    return recording


def compressed_copy(folder: Path, probe: str, path: str) -> Path | None:
    """The copy of a raw data file (its ``RawFile.path``) that COMPRESS has made in a folder, None without."""
    places = (folder / path, folder / probe / Path(path).name)
    copies = (place.with_suffix(suffix) for place in places for suffix in (".zarr", ".cbin"))
    return next((copy for copy in copies if copy.exists()), None)


class RawRecording(BaseRecording):
    """Columns of one or more streams, a segment for each of their blocks."""

    def __init__(self, readers: list[StreamReader], columns: list[int], channel_ids: list[str]) -> None:
        """Take one reader for each stream; columns of the raw file, the same in each stream, and their names.

        The sampling rate is the first stream's.
        """
        rate = readers[0].stream.sampling_rate_hz
        BaseRecording.__init__(self, rate, channel_ids, np.dtype("<i2"))
        last = _LastRead()
        for reader in readers:
            for block in reader.stream.blocks():
                self.add_recording_segment(_BlockSegment(reader, block, np.array(columns), rate, last))
        self._serializability["json"] = False
        self._kwargs = {"readers": readers, "columns": columns, "channel_ids": channel_ids}


class SideBySide(BaseRecording):
    """Channels of several recordings of the same segments, lazy, in the order of another that has them all.

    SpikeInterface's aggregate_channels (0.105.3) gives the wrong channels' traces where they are asked for in
    another order than recording by recording.
    """

    def __init__(self, parts: Sequence[BaseRecording], like: BaseRecording) -> None:
        """parts: of one dtype, each channel in one of them. like: gives the order, and all properties."""
        BaseRecording.__init__(self, like.sampling_frequency, like.channel_ids, parts[0].get_dtype())
        like.copy_metadata(self)
        self.annotate(is_filtered=parts[0].is_filtered())
        rows = [like.ids_to_indices(part.channel_ids) for part in parts]
        for k in range(like.get_num_segments()):
            segments = [part.segments[k] for part in parts]
            self.add_recording_segment(_SideBySideSegment(segments, rows, like.sampling_frequency))
        self._serializability["json"] = False
        self._kwargs = {"parts": list(parts), "like": like}


class _SideBySideSegment(BaseRecordingSegment):
    """rows: of each part's channels in the whole."""

    def __init__(self, parts: list[BaseRecordingSegment], rows: list[np.ndarray], rate: float) -> None:
        BaseRecordingSegment.__init__(self, sampling_frequency=rate)
        self._parts = parts
        self._rows = rows

    def get_num_samples(self) -> int:
        return self._parts[0].get_num_samples()

    def get_traces(
        self,
        start_frame: int | None = None,
        end_frame: int | None = None,
        channel_indices: Sequence[int] | slice | None = None,
    ) -> np.ndarray:
        wanted = np.arange(sum(len(rows) for rows in self._rows))
        if channel_indices is not None:
            wanted = wanted[channel_indices]
        found = {}
        for part, rows in zip(self._parts, self._rows, strict=True):
            inside = np.flatnonzero(np.isin(rows, wanted))
            if inside.size:
                traces = part.get_traces(start_frame, end_frame, inside)
                found |= dict(zip(rows[inside].tolist(), traces.T, strict=True))
        return np.stack([found[row] for row in wanted.tolist()], axis=1)


class _LastRead:
    """The rows read last. A probe's shanks ask for the same samples one after the other: read once."""

    def __init__(self) -> None:
        self._rows: tuple[StreamReader, int, int, np.ndarray] | None = None

    def rows(self, reader: StreamReader, start: int, stop: int) -> np.ndarray:
        # Several threads may come here: each takes what it finds whole or replaces it whole.
        found = self._rows
        if found is None or found[0] is not reader or found[1:3] != (start, stop):
            found = self._rows = (reader, start, stop, reader.read(start, stop))
        return found[3]


class _BlockSegment(BaseRecordingSegment):
    """One block of a stream."""

    def __init__(
        self, reader: StreamReader, block: Block, columns: np.ndarray, rate: float, last: _LastRead
    ) -> None:
        BaseRecordingSegment.__init__(self, sampling_frequency=rate)
        self._reader = reader
        self._block = block
        self._columns = columns
        self._last = last

    def get_num_samples(self) -> int:
        return self._block.n_samples

    def get_traces(
        self,
        start_frame: int | None = None,
        end_frame: int | None = None,
        channel_indices: Sequence[int] | slice | None = None,
    ) -> np.ndarray:
        begin = self._block.start
        start = begin + (0 if start_frame is None else int(start_frame))
        stop = begin + (self._block.n_samples if end_frame is None else int(end_frame))
        columns = self._columns if channel_indices is None else self._columns[channel_indices]
        return self._last.rows(self._reader, start, stop)[:, columns]


def _check_same_probe(first: ProbeDocument, other: ProbeDocument) -> None:
    """Raise ``DataError`` where two recordings can't be sorted as one, with all that differs."""
    a, b = first.probe, other.probe
    differ = [
        f"the {what} is {value(a)} and {value(b)}"
        for what, value in (
            ("part number", lambda probe: probe.part_number),
            ("serial number", lambda probe: probe.serial_number),
        )
        if value(a) != value(b)
    ]
    rates = a.ap.sampling_rate_hz, b.ap.sampling_rate_hz
    if abs(rates[0] - rates[1]) > MAX_RATE_DIFFERENCE * rates[0]:
        differ.append(f"the sampling rate is {rates[0]:g} and {rates[1]:g} Hz")
    differ += _channel_differences(a.ap.channels, b.ap.channels)
    if differ:
        one, two = (f"{document.session.subject} {document.session.session}" for document in (first, other))
        raise DataError(
            f"{a.name} of {one} and {b.name} of {two}: expected the same probe with the same channels in "
            f"sessions that are sorted as one, found that (in this order) {'; '.join(differ)}; take one of "
            "the two rows out of its `concatenate` group in the samplesheet"
        )


def _channel_differences(first: Sequence[Channel], other: Sequence[Channel]) -> list[str]:
    a, b = ({channel.contact_id: channel for channel in channels} for channels in (first, other))
    differ = []
    for which, missing in (("second", a.keys() - b.keys()), ("first", b.keys() - a.keys())):
        if missing:
            names = [channel.channel_id for channel in (*first, *other) if channel.contact_id in missing]
            differ.append(f"the {which} lacks the contacts of {len(names)} channels ({_some(names)})")
    shared = [contact for contact in a if contact in b]
    properties: tuple[tuple[str, Callable[[Channel], object]], ...] = (
        ("columns in the raw file", lambda channel: channel.raw_column),
        ("positions", lambda channel: (channel.shank, channel.x_um, channel.y_um)),
        ("gains", lambda channel: channel.gain_uv),
        ("sampling moments", lambda channel: channel.inter_sample_shift),
    )
    for what, value in properties:
        names = [a[contact].channel_id for contact in shared if value(a[contact]) != value(b[contact])]
        if names:
            differ.append(f"{len(names)} channels have other {what} ({_some(names)})")
    return differ


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
