"""A sorting unit's folder as PREPROCESS writes it, from SpikeInterface's generator with known spikes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from powerpixels.documents import Channel, PreprocessedUnit, SortingDocument
from spikeinterface.core import BaseSorting, generate_ground_truth_recording

RATE = 30000.0
GAIN_UV = 0.29296875


def write_unit(
    folder: Path,
    traces_uv: np.ndarray,
    locations: np.ndarray,
    unit: str = "shank0",
    shanks: np.ndarray | None = None,
) -> Path:
    """Write traces.bin and recording.json; raw columns and contacts are not the columns' positions.

    shanks: each channel's shank; all 0 where it is missing.
    """
    if shanks is None:
        shanks = np.zeros(len(locations), dtype=int)
    folder.mkdir(parents=True)
    np.rint(traces_uv / GAIN_UV).astype("<i2").tofile(folder / "traces.bin")
    channels = [
        Channel(
            raw_column=2 * index + 5,
            channel_id=f"AP{2 * index + 5}",
            contact_id=f"e{100 + index}",
            shank=int(shank),
            x_um=float(x),
            y_um=float(y),
            inter_sample_shift=0.0,
            gain_uv=2.34375,
        )
        for index, ((x, y), shank) in enumerate(zip(locations, shanks, strict=True))
    ]
    PreprocessedUnit(
        probe="probe00",
        unit=unit,
        sampling_rate_hz=RATE,
        n_samples=len(traces_uv),
        gain_uv=GAIN_UV,
        channels=channels,
    ).save(folder / "recording.json")
    return folder


def neuropixels_columns(n_channels: int) -> np.ndarray:
    """Positions in µm of the lowest contacts of a 2.0 shank: two columns, 15 µm rows."""
    rows, columns = np.divmod(np.arange(n_channels), 2)
    return np.stack([32.0 * columns, 15.0 * rows], axis=1)


def write_ground_truth(
    folder: Path, n_channels: int, duration_s: float, n_units: int, spacing_um: float
) -> BaseSorting:
    """A unit folder with simulated neurons, no two nearer than spacing_um; returns the true spikes."""
    import probeinterface

    probe = probeinterface.Probe(ndim=2, si_units="um")
    probe.set_contacts(neuropixels_columns(n_channels), shapes="square", shape_params={"width": 12})
    probe.set_device_channel_indices(np.arange(n_channels))
    recording, sorting = generate_ground_truth_recording(
        durations=[duration_s],
        sampling_frequency=RATE,
        num_channels=n_channels,
        num_units=n_units,
        probe=probe,
        generate_sorting_kwargs={"firing_rates": 15.0, "refractory_period_ms": 4.0},
        noise_kwargs={"noise_levels": 6.0, "strategy": "on_the_fly"},
        generate_unit_locations_kwargs={
            "minimum_z": 5.0,
            "maximum_z": 15.0,
            "minimum_distance": spacing_um,
            "margin_um": 0.0,
        },
        seed=8,
    )
    write_unit(folder, recording.get_traces(), recording.get_channel_locations())
    return sorting


def write_sorting(
    folder: Path, trains: dict[int, np.ndarray], labels: dict[int, str], unit: str = "shank0"
) -> Path:
    """A SORT folder of given spikes (samples by unit id)."""
    folder.mkdir(parents=True)
    samples = np.concatenate([*trains.values(), np.empty(0)]).astype(np.int64)
    unit_ids = np.repeat(list(trains), [len(train) for train in trains.values()]).astype(np.int64)
    order = np.lexsort((unit_ids, samples))
    np.save(folder / "spike_samples.npy", samples[order])
    np.save(folder / "spike_unit_ids.npy", unit_ids[order])
    SortingDocument(
        probe="probe00",
        unit=unit,
        sorter="kilosort4",
        sorter_version="4.1.7",
        status="sorted" if trains else "skipped",
        message="" if trains else "2 usable channels, at least 4 are needed",
        parameters={},
        unit_ids=sorted(trains),
        sorter_labels=labels,
    ).save(folder / "sorting.json")
    return folder
