"""What an NWB holds beside units and electrodes: raw and LFP traces, analog inputs, events of digital lines.

All of it is streamed from files (`Rows`, an iterator of hdmf's), so that memory does not grow with the
recording. All times are seconds on the reference clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hdmf.common import VectorData
from hdmf.data_utils import GenericDataChunkIterator
from pynwb import NWBFile, TimeSeries
from pynwb.ecephys import LFP, ElectricalSeries
from pynwb.event import DurationVectorData, EventsTable, TimestampVectorData

from powerpixels.clock import to_reference_seconds
from powerpixels.documents import CLOCK_FILE, ClockFit, PublishedClock, Stream
from powerpixels.rawdata import StreamReader
from powerpixels.wiring import ANALOG_OBJECT, TIMESTAMPS

# Of a chunk on disk: readers often want a stretch of few channels, and a chunk is decompressed as a whole.
CHUNK_BYTES = 4 * 2**20
CHUNK_CHANNELS = 64
# Read at once, and of times computed at once: some arrays of as many numbers come with it.
BUFFER_BYTES = 16 * 2**20
TIMES_AT_ONCE = 2**18
# A series whose samples lie no further than this from a constant rate is written with that rate.
SAME_RATE_S = 1e-6
EVENTS_SUMMARY = "_powerpixels_events.summary.json"


class Rows(GenericDataChunkIterator):
    """Rows of an array that is read in pieces: (n,) or (n, columns)."""

    def __init__(self, read: Callable[[int, int], np.ndarray], shape: tuple[int, ...], dtype: np.dtype | str):
        """read: (first, end) to those rows, of all columns."""
        self.read, self._shape, self._type = read, shape, np.dtype(dtype)
        columns = shape[1:]
        chunk_columns = tuple(min(CHUNK_CHANNELS, n) for n in columns)
        row = self._type.itemsize * int(np.prod(columns, dtype=int))
        chunk_row = self._type.itemsize * int(np.prod(chunk_columns, dtype=int))
        most = BUFFER_BYTES // row if columns else TIMES_AT_ONCE
        rows = max(1, min(CHUNK_BYTES // chunk_row, most, shape[0]))
        buffer_rows = min(max(1, most // rows) * rows, shape[0])
        super().__init__(buffer_shape=(buffer_rows, *columns), chunk_shape=(rows, *chunk_columns))

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray:
        columns = (slice(None), *selection[1:])
        return self.read(selection[0].start, selection[0].stop)[columns]

    def _get_maxshape(self) -> tuple[int, ...]:
        return self._shape

    def _get_dtype(self) -> np.dtype:
        return self._type


def file_rows(path: Path) -> Rows:
    """Rows of a .npy file, which is opened anew for each piece: pages of an open map count as memory."""
    array = np.load(path, mmap_mode="r")
    return Rows(lambda lo, hi: np.array(np.load(path, mmap_mode="r")[lo:hi]), array.shape, array.dtype)


def times_of(seconds: Rows, stated_hz: float, packed: Callable) -> dict:
    """Arguments of a TimeSeries: starting_time and rate where one rate holds for all, else timestamps.

    seconds: (n,) float64 of the samples. stated_hz: the rate of a series of a single sample. packed: how
    timestamps are compressed.
    """
    (n,) = seconds.maxshape
    first = float(seconds.read(0, 1)[0])
    last = float(seconds.read(n - 1, n)[0])
    rate = (n - 1) / (last - first) if n > 1 else stated_hz
    for lo in range(0, n, TIMES_AT_ONCE):
        hi = min(lo + TIMES_AT_ONCE, n)
        if np.abs(seconds.read(lo, hi) - (first + np.arange(lo, hi) / rate)).max() > SAME_RATE_S:
            return {"timestamps": packed(seconds)}
    return {"starting_time": first, "rate": rate}


def add_raw(
    nwbfile: NWBFile, stream: Stream, reader: StreamReader, clock: ClockFit, packed: Callable
) -> None:
    """Add the probe's AP stream as acquired: every recorded channel, in the order of the electrodes' rows."""
    row_of = {int(column): row for row, column in enumerate(nwbfile.electrodes["raw_column"].data)}
    channels = sorted(stream.channels, key=lambda channel: row_of[channel.raw_column])
    columns = [channel.raw_column for channel in channels]
    n = stream.n_samples
    data = Rows(lambda lo, hi: reader.read(lo, hi, columns), (n, len(columns)), "int16")
    seconds = Rows(
        lambda lo, hi: to_reference_seconds(clock, stream.acquired(np.arange(lo, hi))), (n,), "float64"
    )
    nwbfile.add_acquisition(
        ElectricalSeries(
            name="ElectricalSeriesAP",
            description="the probe's AP band as acquired"
            + ("; time in gaps of the recording is not in it" if len(stream.blocks()) > 1 else ""),
            data=packed(data),
            electrodes=_electrodes(nwbfile, [row_of[column] for column in columns]),
            **_gains(np.array([channel.gain_uv for channel in channels])),
            **times_of(seconds, stream.sampling_rate_hz, packed),
        )
    )


def add_lfp(nwbfile: NWBFile, path: Path, clock: ClockFit, packed: Callable) -> None:
    """Add the LF band that RAW_QC made (lfp.zarr) to the processing module "ecephys".

    Raises ValueError where it is on another clock or of other contacts.
    """
    import zarr

    group = zarr.open_group(str(path), mode="r")
    if group.attrs["clock"] != clock.reference:
        raise ValueError(f"{path} is on the clock of {group.attrs['clock']}, not of {clock.reference}")
    row_of = {contact: row for row, contact in enumerate(nwbfile.electrodes["contact_id"].data)}
    contacts = [str(contact) for contact in group["contact_id"][:]]
    if not row_of.keys() >= set(contacts):
        raise ValueError(
            f"{path} has contacts that are not the probe's: {sorted(set(contacts) - set(row_of))[:5]}"
        )
    traces, timestamps = group["traces"], group["timestamps"]
    rate = float(group.attrs["sampling_rate_hz"])
    series = ElectricalSeries(
        name="ElectricalSeriesLFP",
        description=f"the probe's LF band: {group.attrs['band']}",
        data=packed(Rows(lambda lo, hi: traces[lo:hi], traces.shape, traces.dtype)),
        electrodes=_electrodes(nwbfile, [row_of[contact] for contact in contacts]),
        **_gains(group["gain_uv"][:]),
        **times_of(Rows(lambda lo, hi: timestamps[lo:hi], timestamps.shape, "float64"), rate, packed),
    )
    module = nwbfile.create_processing_module("ecephys", "processed extracellular traces")
    module.add(LFP(electrical_series=series))


def _electrodes(nwbfile: NWBFile, rows: list[int]):
    return nwbfile.create_electrode_table_region(region=rows, description="the recorded channels")


def _gains(gains_uv: np.ndarray) -> dict:
    """Arguments of an ElectricalSeries: volts per count, by channel where they differ."""
    if len(set(gains_uv.tolist())) == 1:
        return {"conversion": float(gains_uv[0]) * 1e-6}
    return {"conversion": 1e-6, "channel_conversion": gains_uv}


def add_events(nwbfile: NWBFile, folder: Path, clock: ClockFit, packed: Callable) -> None:
    """Add what EVENTS wrote of the session's DAQ streams: the NIDQ's in `folder`, others' in folders below.

    A digital line with edges is an EventsTable of them (timestamp s, polarity +1 rising and -1 falling,
    duration s of the pulse that a rising edge begins, NaN where it is not complete), an analog input a
    TimeSeries in volts. Names are the wiring's, those of other streams than the NIDQ after the stream's.

    Raises ValueError where they are on another clock.
    """
    folder = Path(folder)
    for summary in sorted([*folder.glob(EVENTS_SUMMARY), *folder.glob(f"*/{EVENTS_SUMMARY}")]):
        found = json.loads(summary.read_text(encoding="utf-8"))
        own = PublishedClock.load(summary.parent / CLOCK_FILE)
        if found["clock"] != clock.reference:
            raise ValueError(f"{summary} is on the clock of {found['clock']}, not of {clock.reference}")
        prefix = "" if summary.parent == folder else f"{summary.parent.name}_"
        for line in found["digital"]:
            if line["n_edges"]:
                # Of a line without a name the stream is part of the object's.
                name = f"{prefix}{line['object']}" if line["wired"] else line["object"].lstrip("_")
                nwbfile.add_events_table(_events_table(summary.parent, line, own, name))
        _add_analog(nwbfile, summary.parent, found["analog"], own, prefix, packed)


def _events_table(folder: Path, line: dict, own: PublishedClock, name: str) -> EventsTable:
    """One digital line's edges. Its files are small: thousands of numbers."""
    times = np.load(folder / f"{line['object']}.times.npy")
    polarities = np.load(folder / f"{line['object']}.polarities.npy")
    pulses = np.load(folder / "pulses" / f"{line['object']}.intervals.npy")
    durations = np.full(len(times), np.nan)
    rising = np.flatnonzero(polarities > 0)
    # Each pulse begins with a rising edge, whose time is the same number.
    durations[rising[np.searchsorted(times[rising], pulses[:, 0])]] = pulses[:, 1] - pulses[:, 0]
    resolution = 1 / own.sampling_rate_hz
    return EventsTable(
        name=name,
        description=f"edges of the digital line {line['line']} of {own.stream}; an edge's time is that of "
        "the first sample with the new level",
        source_description=f"{own.stream} {line['line']}",
        columns=[
            TimestampVectorData(
                name="timestamp", description="time of the edge", data=times, resolution=resolution
            ),
            DurationVectorData(
                name="duration",
                description="from a rising edge to the falling one; NaN elsewhere and where a gap is between",
                data=durations,
                resolution=resolution,
            ),
            VectorData(name="polarity", description="+1 rising, -1 falling", data=polarities),
        ],
    )


def _add_analog(
    nwbfile: NWBFile, folder: Path, inputs: list[dict], own: PublishedClock, prefix: str, packed: Callable
) -> None:
    """Each analog input; where they have timestamps, all share the first one's."""
    times: dict = {}
    for entry in inputs:
        rows = file_rows(folder / entry["file"])
        if not rows.maxshape[0]:
            continue
        if not times:
            seconds = file_rows(folder / f"{ANALOG_OBJECT}.{TIMESTAMPS}.npy")
            times = times_of(seconds, entry["sampling_rate_hz"], packed)
        series = TimeSeries(
            name=f"{prefix}{Path(entry['file']).stem.removeprefix(f'{ANALOG_OBJECT}.')}",
            description=f"analog input {entry['line']} of {own.stream}",
            data=packed(rows),
            unit="volts",
            **times,
        )
        nwbfile.add_acquisition(series)
        if "timestamps" in times:
            times = {"timestamps": series}
