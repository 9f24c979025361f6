"""Writes a probe's units and electrodes as NWB (HDF5). Spike times equal those of the ALF bit for bit."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from hdmf.common import DynamicTableRegion, VectorData, VectorIndex
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.misc import Units

from powerpixels import __version__
from powerpixels.documents import Session
from powerpixels.export import IDENTITY_COLUMNS, SESSION_SPIKES, ProbeExport

DESCRIPTIONS = {
    "sorting_unit": "the shank (or whole probe) whose spikes were sorted together",
    "shank": "shank of the unit's main channel, counted from 0",
    "sorter_unit_id": "the sorter's own id of the unit, unique within its sorting_unit",
    "raw_column": "column of the unit's main channel in the raw binary file, counted from 0",
    "contact_id": "probeinterface's id of the unit's main contact",
    "kilosort_label": "Kilosort's own label: good, mua, or unjudged",
    "bombcell_label": "Bombcell's label: good, mua, noise, non_soma, or unjudged",
    "unitrefine_label": "UnitRefine's label: good (single unit), mua, noise, or unjudged",
    "ibl_label": "good where the unit passes IBL's three criteria, else mua; or unjudged",
    "consensus_label": "the labels in one: good, mua, noise, non_soma, or unjudged",
    "unitrefine_probability": "of UnitRefine's label by its classifier, 0 to 1; NaN where not judged",
    "ibl_score": "share of IBL's three criteria that the unit passes; NaN where not judged",
    "ibl_bitwise": (
        "sum of IBL's criteria that the unit fails: 1 refractory period, 2 noise cutoff, 4 amplitude; "
        "NaN where not judged"
    ),
}


def file_name(session: Session, probe: str) -> str:
    """`sub-<subject>_ses-<date>-<NNN>_<probe>_ecephys.nwb`."""
    return f"sub-{session.subject}_ses-{session.session.replace('_', '-')}_{probe}_ecephys.nwb"


def start_time(session: Session) -> tuple[datetime, str]:
    """The session's start as NWB wants it, and a sentence that says what of it is known.

    NWB demands a time zone and acquisition programs write none. The wall-clock time is kept as it
    was written, under a formal offset of +00:00 that is the same on every machine (pynwb alone
    would take the zone of whatever machine runs it); the sentence says so.
    """
    if session.start_time is None:
        start = datetime.strptime(session.session[:10], "%Y-%m-%d")
        known = (
            "Only the session's date is known: the time of day in session_start_time is a placeholder, "
            "as is its UTC offset."
        )
    else:
        start = datetime.fromisoformat(session.start_time)
        known = (
            "session_start_time is the local time that the acquisition program wrote; it wrote no time "
            "zone, and the UTC offset +00:00 is a placeholder."
        )
    if start.tzinfo is not None:
        return start, ""
    return start.replace(tzinfo=timezone.utc), known


def write_nwb(export: ProbeExport, folder: Path) -> Path:
    """Write `export` into `folder` (made if missing) under the name of `file_name`; returns the path.

    Electrodes: every recorded channel, also bad ones, with raw_column, contact_id, shank, position
    on the probe (µm) and bad-channel label; one group per shank. Units: spike times in s on the
    reference clock, observation intervals (the recording without its gaps), identity, labels, metrics, mean
    and standard deviation of the waveform in V on the channels of the unit's `electrodes`, in their
    order (main channel first). Gaps in the recording are its invalid_times. Unknown metadata (species,
    brain region, time zone) are not made up.

    The file's identifier follows from its content. Its bytes do not: HDF5's NWB records the true
    time of writing and gives each object a random id.
    """
    session, probe = export.document.session, export.document.probe
    start, known = start_time(session)
    program = (
        session.acquisition
        if session.acquisition_version is None
        else (f"{session.acquisition} {session.acquisition_version}")
    )
    nwbfile = NWBFile(
        session_description=" ".join(
            part
            for part in (
                f"Sorted units of probe {probe.name}, acquired with {program}.",
                f"Times are seconds on the clock of stream {export.clock.reference}, zero at that stream's "
                "first sample.",
                known,
            )
            if part
        ),
        identifier=export.identifier,
        session_start_time=start,
        file_create_date=datetime.now(timezone.utc),
        session_id=session.session,
        was_generated_by=[["powerpixels", __version__]],
    )
    # "U" is NWB's word for unknown; for the age and the species it has none, so they stay out.
    nwbfile.subject = Subject(subject_id=session.subject, sex="U")
    electrode_of = _add_electrodes(nwbfile, export)
    nwbfile.units = _units(nwbfile, export, electrode_of)
    for (start_s, stop_s), (_, missing) in zip(export.gap_intervals, export.gaps, strict=True):
        nwbfile.add_invalid_time_interval(
            start_time=start_s, stop_time=stop_s, tags=f"{probe.name}: {missing} samples were not recorded"
        )

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(session, probe.name)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwbfile)
    return path


def _add_electrodes(nwbfile: NWBFile, export: ProbeExport) -> dict[int, int]:
    """Fill the electrodes table; returns the row of each raw column."""
    probe = export.document.probe
    model = None
    if probe.model is not None:
        # A name in HDF5 can't hold a slash.
        model = nwbfile.create_device_model(
            name=probe.model.replace("/", "-"), manufacturer="imec", model_number=probe.part_number
        )
    device = nwbfile.create_device(
        name=probe.name, description="Neuropixels probe", serial_number=probe.serial_number, model=model
    )
    groups = {
        shank: nwbfile.create_electrode_group(
            name=f"{probe.name}_shank{shank}",
            description=f"shank {shank} of {probe.name}",
            location="unknown",
            device=device,
        )
        for shank in probe.shanks
    }
    for name, description in (
        ("raw_column", "column of the channel in the raw binary file, counted from 0"),
        ("channel_name", "the acquisition program's name of the channel"),
        ("contact_id", "probeinterface's id of the contact"),
        ("shank", "shank, counted from 0"),
        ("label", "bad-channel detection: good, dead, noise, or out (outside of the brain)"),
    ):
        nwbfile.add_electrode_column(name=name, description=description)
    channels = sorted(probe.ap.channels, key=lambda channel: channel.raw_column)
    for channel in channels:
        nwbfile.add_electrode(
            group=groups[channel.shank],
            location="unknown",
            rel_x=channel.x_um,
            rel_y=channel.y_um,
            raw_column=channel.raw_column,
            channel_name=channel.channel_id,
            contact_id=channel.contact_id,
            shank=channel.shank,
            label=export.channel_labels[channel.raw_column],
        )
    return {channel.raw_column: row for row, channel in enumerate(channels)}


def _units(nwbfile: NWBFile, export: ProbeExport, electrode_of: dict[int, int]) -> Units:
    """The units table, built by column: row by row would hold every spike time as a Python object."""
    clusters, clock = export.clusters, export.clock
    n = len(clusters)
    by_cluster = np.argsort(export.spike_clusters, kind="stable")
    ends = np.cumsum(np.bincount(export.spike_clusters, minlength=n)).astype(np.uint64)
    electrode_rows = np.array([electrode_of[c.raw_column] for c in export.channels], dtype=np.int64)
    width = export.waveform_channels.shape[1]

    columns: list = []

    def add(name: str, description: str, data, ends: np.ndarray | None = None, **kwargs) -> None:
        kind = DynamicTableRegion if "table" in kwargs else VectorData
        column = kind(name=name, description=description, data=data, **kwargs)
        columns.append(column)
        if ends is not None:
            columns.append(VectorIndex(name=f"{name}_index", data=ends, target=column))

    add(
        "spike_times",
        "spike times in seconds on the reference clock",
        _compressed(export.spike_times[by_cluster]),
        ends,
    )
    add(
        "obs_intervals",
        "start and end of the probe's recording on the reference clock; before and after each gap in it",
        np.tile(export.observed, (n, 1)),
        np.arange(1, n + 1, dtype=np.uint64) * len(export.observed),
    )
    add(
        "electrodes",
        "electrodes of waveform_mean and waveform_sd, in their order: main electrode first, then by distance",
        electrode_rows[export.waveform_channels].ravel(),
        np.arange(1, n + 1, dtype=np.uint64) * width,
        table=nwbfile.electrodes,
    )
    if n:  # an empty column of references can't be written as such
        groups = nwbfile.electrode_groups
        add(
            "electrode_group",
            "shank of the main electrode",
            [groups[f"{export.document.probe.name}_shank{shank}"] for shank in clusters["shank"]],
        )
    unmeasured = "; NaN on electrodes where it was not measured"
    add("waveform_mean", "mean waveform, in V" + unmeasured, _compressed(export.waveforms))
    add(
        "waveform_sd",
        "standard deviation of the waveform, in V" + unmeasured,
        _compressed(export.waveforms_sd),
    )
    for name, description in DESCRIPTIONS.items():
        values = clusters[name]
        add(name, description, values.to_numpy(dtype=np.str_ if values.dtype == object else None))
    if export.joined:
        add(
            SESSION_SPIKES, "number of the unit's spikes in this session", clusters[SESSION_SPIKES].to_numpy()
        )
    for name in clusters.columns.drop([*IDENTITY_COLUMNS, SESSION_SPIKES], errors="ignore"):
        add(name, f"metric {name} as SpikeInterface defines it", clusters[name].to_numpy(dtype=np.float64))
    return Units(
        name="units",
        description=(
            f"Units of probe {export.document.probe.name}. Spike times are seconds on the clock of stream "
            f"{clock.reference}, counted from that stream's first sample."
            + (f" {export.joined[0].upper()}{export.joined[1:]}." if export.joined else "")
        ),
        id=np.arange(n),
        columns=columns,
        waveform_rate=float(clock.sampling_rate_hz),
        waveform_unit="volts",
        waveform_time_before_peak_in_ms=float(export.waveform_before_ms),
        resolution=clock.slope / clock.sampling_rate_hz,
    )


def _compressed(values: np.ndarray):
    return H5DataIO(values, compression="gzip", compression_opts=4, shuffle=True) if values.size else values
