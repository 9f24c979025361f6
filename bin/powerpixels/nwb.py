"""Writes a probe's units, electrodes and traces as NWB. Spike times equal those of the ALF bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from hdmf.common import DynamicTableRegion, VectorData, VectorIndex
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.misc import Units

from powerpixels import __version__
from powerpixels.brain import BrainLocation
from powerpixels.documents import Channel, Session
from powerpixels.export import IDENTITY_COLUMNS, SESSION_SPIKES, ProbeExport
from powerpixels.metadata import Metadata
from powerpixels.nwb_edit import OF_ALF, dandi_label
from powerpixels.nwb_series import Rows, add_events, add_lfp, add_raw
from powerpixels.rawdata import StreamReader

Backend = Literal["hdf5", "zarr"]
UNKNOWN = "unknown"

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


# Of electrodes in the brain: IBL's coordinates, as ALF's channels.mlapdv has them.
BRAIN_COLUMNS = {
    "ml_um": "mediolateral position in the Allen CCF of 2017, in µm from bregma, right positive",
    "ap_um": "anteroposterior position, in µm from bregma, anterior positive",
    "dv_um": "dorsoventral position, in µm from bregma, up positive",
    "ccf_id": (
        "id of the structure in the Allen CCF of 2017, negative in the left hemisphere where the alignment "
        "told them apart; 0 where the place is not known, or outside of the brain"
    ),
}


# Structures that IBL's table abbreviates otherwise than Allen's ontology, whose terms NWB's tools want. It
# has none for what lies outside of the brain: "root" is all that the atlas holds, and ccf_id stays 0 there.
ALLEN_ACRONYMS = {
    0: "root",
    732: "MMme",
    606826647: "MMl",
    606826651: "MMm",
    606826655: "MMp",
    606826659: "MMd",
    1091: "CUL4, 5",
    10722: "CUL4, 5mo",
    10721: "CUL4, 5pu",
    10720: "CUL4, 5gr",
}


@dataclass(frozen=True)
class Traces:
    """What goes into an NWB beside units and electrodes; None: not.

    events: folder that EVENTS wrote of the session. raw: of the probe's AP stream. lfp: lfp.zarr of RAW_QC.
    """

    events: Path | None = None
    raw: StreamReader | None = None
    lfp: Path | None = None


def file_name(session: Session, probe: str, backend: Backend = "hdf5") -> str:
    """DANDI's: `sub-<subject>_ses-<date>-<NNN>_probe-<probe>_ecephys.nwb`, ending in .nwb.zarr as Zarr.

    DANDI parts names at "_" and allows few other signs in them: a hyphen takes their place.
    """
    subject, number, name = map(dandi_label, (session.subject, session.session, probe))
    return f"sub-{subject}_ses-{number}_probe-{name}_ecephys.nwb" + (".zarr" if backend == "zarr" else "")


def write_nwb(
    export: ProbeExport,
    metadata: Metadata,
    folder: Path,
    backend: Backend = "hdf5",
    traces: Traces | None = None,
) -> Path:
    """Write `export` into `folder` (made if missing) under the name of `file_name`; returns the path.

    Electrodes: every recorded channel, also bad ones, with raw_column, contact_id, shank, position
    on the probe (µm) and bad-channel label; one group per shank. Of an aligned probe also their regions
    (Allen's acronyms, see ALLEN_ACRONYMS; "unknown" of channels that the alignment leaves out), positions
    from bregma in IBL's axes (ml_um, ap_um, dv_um) and in NWB's (x posterior, y inferior, z right). Units:
    spike times in s on the reference clock, also below zero; observation intervals (the recording without its
    gaps), identity, labels, metrics, ALF's amplitude, depth and peak-to-trough; mean and standard deviation
    of the waveform in V on the channels of the unit's `electrodes`, in their order (main channel first). Gaps
    in the recording are its invalid_times. traces: what else to write, see `powerpixels.nwb_series`. What
    metadata do not say (species, …) is not made up. Memory does not grow with the recording but by its
    spikes.

    The file's identifier follows from its content. Its bytes do not: NWB records the true time of writing and
    gives each object a random id.

    Raises ValueError where the metadata lack what NWB demands (``Metadata.missing``), or the traces are not
    the export's.
    """
    if metadata.start is None:
        raise ValueError(f"the metadata lack {'; '.join(metadata.missing)}")
    session, probe = export.document.session, export.document.probe
    program = (
        session.acquisition
        if session.acquisition_version is None
        else (f"{session.acquisition} {session.acquisition_version}")
    )
    described = [
        metadata.nwb_file.get("session_description", ""),
        f"Sorted units of probe {probe.name}, acquired with {program}.",
        f"Times are seconds on the clock of stream {export.clock.reference}, zero at that stream's first "
        "sample.",
        _early_spikes(export),
    ]
    nwbfile = NWBFile(
        **{
            **metadata.nwb_file,
            "session_description": " ".join(part for part in described if part),
            "identifier": export.identifier,
            "session_start_time": metadata.start,
            "file_create_date": datetime.now(timezone.utc),
            "was_generated_by": [["powerpixels", __version__]],
        }
    )
    nwbfile.subject = Subject(**metadata.subject)
    packed = {"hdf5": _packed_hdf5, "zarr": _packed_zarr}[backend]
    electrode_of = _add_electrodes(nwbfile, export)
    nwbfile.units = _units(nwbfile, export, electrode_of, packed)
    for (start_s, stop_s), (_, missing) in zip(export.gap_intervals, export.gaps, strict=True):
        nwbfile.add_invalid_time_interval(
            start_time=start_s, stop_time=stop_s, tags=f"{probe.name}: {missing} samples were not recorded"
        )
    traces = traces or Traces()
    if traces.events is not None:
        add_events(nwbfile, traces.events, export.clock, packed)
    if traces.lfp is not None:
        add_lfp(nwbfile, traces.lfp, export.clock, packed)
    if traces.raw is not None:
        add_raw(nwbfile, probe.ap, traces.raw, export.clock, packed)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(session, probe.name, backend)
    with _writing(path, backend) as io:
        io.write(nwbfile)
    return path


def _early_spikes(export: ProbeExport) -> str:
    """How many spikes lie before time zero, and why, in a sentence; "" where none does.

    NWB's tools complain of negative times. They stay: ALF, the session's other probes and its events count
    from the same zero, and a shift of one file alone would part it from them.
    """
    n = int((export.spike_times < 0).sum())
    if not n:
        return ""
    return (
        f"{n} spike{'s have negative times' if n > 1 else ' has a negative time'}: the probe's recording "
        f"began {-export.observed[0, 0]:.3g} s before that of {export.clock.reference}, whose first sample "
        "is zero."
    )


def _writing(path: Path, backend: Backend):
    if backend == "hdf5":
        return NWBHDF5IO(path, "w")
    import numcodecs
    from hdmf_zarr import ZarrIO
    from pynwb import get_manager

    # NWBZarrIO writes references as pickles, which numcodecs refuses to read.
    return ZarrIO(str(path), manager=get_manager(), mode="w", object_codec_class=numcodecs.JSON)


def _packed_hdf5(values):
    """An array or iterator as HDF5 is to compress it."""
    if isinstance(values, Rows):
        return H5DataIO(
            values, compression="gzip", compression_opts=4, shuffle=True, chunks=values.chunk_shape
        )
    return H5DataIO(values, compression="gzip", compression_opts=4, shuffle=True) if values.size else values


def _packed_zarr(values):
    """The same for Zarr."""
    from hdmf_zarr import ZarrDataIO
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    if isinstance(values, Rows):
        return ZarrDataIO(values, compressor=codec, chunks=values.chunk_shape)
    return ZarrDataIO(values, compressor=codec) if values.size else values


def _add_electrodes(nwbfile: NWBFile, export: ProbeExport) -> dict[int, int]:
    """Fill the electrodes table; returns the row of each raw column."""
    probe, brain = export.document.probe, export.brain
    model = None
    if probe.model is not None:
        # A name in HDF5 can't hold a slash.
        model = nwbfile.create_device_model(
            name=probe.model.replace("/", "-"),
            description="Neuropixels probe",
            manufacturer="imec",
            model_number=probe.part_number,
        )
    device = nwbfile.create_device(
        name=probe.name, description="Neuropixels probe", serial_number=probe.serial_number, model=model
    )
    channels = sorted(probe.ap.channels, key=lambda channel: channel.raw_column)
    groups = {
        shank: nwbfile.create_electrode_group(
            name=f"{probe.name}_shank{shank}",
            description=f"shank {shank} of {probe.name}",
            location=_regions(channels, shank, brain),
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
    if brain:
        for name, description in BRAIN_COLUMNS.items():
            nwbfile.add_electrode_column(name=name, description=description)
    for channel in channels:
        place = brain.get(channel.raw_column)
        nwbfile.add_electrode(
            group=groups[channel.shank],
            location=UNKNOWN if place is None else allen_acronym(place),
            rel_x=channel.x_um,
            rel_y=channel.y_um,
            raw_column=channel.raw_column,
            channel_name=channel.channel_id,
            contact_id=channel.contact_id,
            shank=channel.shank,
            label=export.channel_labels[channel.raw_column],
            **(_in_brain(place) if brain else {}),
        )
    return {channel.raw_column: row for row, channel in enumerate(channels)}


def _regions(channels: list[Channel], shank: int, brain: dict[int, BrainLocation]) -> str:
    """The regions that a shank passes, from its tip up. Allen's abbreviations may have a comma."""
    along = sorted((c for c in channels if c.shank == shank), key=lambda channel: channel.y_um)
    passed = [allen_acronym(brain[c.raw_column]) for c in along if c.raw_column in brain]
    return "; ".join(dict.fromkeys(passed)) or UNKNOWN


def allen_acronym(place: BrainLocation) -> str:
    """The region as Allen's own ontology abbreviates it; "root" outside of the brain."""
    return ALLEN_ACRONYMS.get(abs(place.atlas_id), place.acronym)


def _in_brain(place: BrainLocation | None) -> dict:
    """A channel's values of BRAIN_COLUMNS and of NWB's own x, y, z."""
    if place is None:
        return {**dict.fromkeys(("x", "y", "z", *BRAIN_COLUMNS), np.nan), "ccf_id": 0}
    return {
        "x": -place.y_um,
        "y": -place.z_um,
        "z": place.x_um,
        "ml_um": place.x_um,
        "ap_um": place.y_um,
        "dv_um": place.z_um,
        "ccf_id": place.atlas_id,
    }


def _units(nwbfile: NWBFile, export: ProbeExport, electrode_of: dict[int, int], packed: Callable) -> Units:
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
        packed(export.spike_times[by_cluster]),
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
    of_alf = {
        "amplitude_v": ("mean amplitude of its spikes, in V", export.cluster_amps),
        "depth_um": ("place up the probe, in µm from its origin", export.cluster_depths),
        "peak_to_trough_ms": (
            "time of the mean waveform's maximum minus that of its minimum, in ms",
            export.cluster_peak_to_trough,
        ),
    }
    for name, (description, values) in of_alf.items():
        add(name, f"{description}; ALF's {OF_ALF[name]}", values)
    unmeasured = "; NaN on electrodes where it was not measured"
    add("waveform_mean", "mean waveform, in V" + unmeasured, packed(export.waveforms))
    add(
        "waveform_sd",
        "standard deviation of the waveform, in V" + unmeasured,
        packed(export.waveforms_sd),
    )
    for name, description in DESCRIPTIONS.items():
        values = clusters[name]
        add(name, description, values.to_numpy(dtype=np.str_ if values.dtype == object else None))
    add(
        "uuid", "of the unit; the same in ALF's clusters.uuids", np.array(export.cluster_uuids, dtype=np.str_)
    )
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
