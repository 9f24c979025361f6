"""A sorting unit's folder whose neurons drift along the shank, and how well a sorting found them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from powerpixels.documents import SortingDocument
from simulated_unit import RATE, neuropixels_columns, write_unit
from spikeinterface.core import BaseSorting, NumpySorting

SHANK_PITCH_UM = 250.0


def write_drifting_unit(
    folder: Path,
    n_channels: int,
    duration_s: float,
    spacing_um: float,
    drift_um: float,
    n_shanks: int = 1,
    rate_hz: float = 15.0,
) -> BaseSorting:
    """A unit folder of n_shanks times n_channels channels; returns the true spikes.

    Neurons sit about every spacing_um along each shank, at the same depths on all shanks, and move together:
    once up and once down by drift_um, peak to peak, at constant speed.
    """
    import probeinterface
    from spikeinterface.generation import generate_drifting_recording

    column = neuropixels_columns(n_channels)
    shanks = np.repeat(np.arange(n_shanks), n_channels)
    positions = np.tile(column, (n_shanks, 1)) + np.outer(shanks, [SHANK_PITCH_UM, 0.0])
    depths = np.arange(30.0, column[:, 1].max() - 29.0, spacing_um)
    # Evenly spaced neurons would look the same when shifted by one: no depth histogram tells that drift.
    depths += np.random.default_rng(3).uniform(-0.35, 0.35, len(depths)) * spacing_um
    neurons = np.array(
        [
            (SHANK_PITCH_UM * shank + (8.0, 24.0)[index % 2], depth, 10.0)
            for shank in range(n_shanks)
            for index, depth in enumerate(depths)
        ]
    )
    probe = probeinterface.Probe(ndim=2, si_units="um")
    probe.set_contacts(positions, shapes="square", shape_params={"width": 12})
    probe.set_device_channel_indices(np.arange(len(positions)))
    _, recording, truth = generate_drifting_recording(
        num_units=len(neurons),
        duration=duration_s,
        sampling_frequency=RATE,
        probe=probe,
        unit_locations=neurons,
        generate_displacement_vector_kwargs={
            "displacement_sampling_frequency": 5.0,
            "drift_start_um": [0, -drift_um / 2],
            "drift_stop_um": [0, drift_um / 2],
            "drift_step_um": 1,
            "motion_list": [
                {
                    "drift_mode": "zigzag",
                    "non_rigid_gradient": None,
                    "t_start_drift": 0.0,
                    "t_end_drift": None,
                    "period_s": duration_s,
                }
            ],
        },
        generate_templates_kwargs={
            "ms_before": 1.5,
            "ms_after": 3.0,
            "mode": "ellipsoid",
            "unit_params": {
                "alpha": (300.0, 500.0),
                "spatial_decay": (20.0, 30.0),
                "ellipse_shrink": (0.8, 1.0),
                "ellipse_angle": (0.0, 2 * np.pi),
            },
        },
        generate_sorting_kwargs={"firing_rates": rate_hz, "refractory_period_ms": 4.0},
        generate_noise_kwargs={"noise_levels": 6.0, "spatial_decay": 25.0},
        seed=8,
    )
    unit = "shank0" if n_shanks == 1 else "probe"
    write_unit(folder, recording.get_traces(), positions, unit, shanks)
    return truth


def found_neurons(folder: Path, truth: BaseSorting):
    """SpikeInterface's comparison of a SORT folder with the true spikes, matched within 0.4 ms."""
    from spikeinterface.comparison import compare_sorter_to_ground_truth

    document = SortingDocument.load(folder / "sorting.json")
    unit_ids = np.load(folder / "spike_unit_ids.npy")
    sorting = NumpySorting.from_samples_and_labels(
        [np.load(folder / "spike_samples.npy")], [unit_ids], RATE, unit_ids=document.unit_ids
    )
    return compare_sorter_to_ground_truth(truth, sorting, exhaustive_gt=True, delta_time=0.4)


def least_accuracy(comparison) -> float:
    """The least accuracy of any neuron: hits over hits, misses and false spikes of its best unit."""
    return float(comparison.get_performance()["accuracy"].min())
