"""ANALYZE: a sorting unit's SortingAnalyzer with its metrics."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from powerpixels.documents import Document, PreprocessedUnit, SortingDocument
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

MAX_SPIKES_PER_UNIT = 500
SPARSITY_RADIUS_UM = 100.0

# All of SpikeInterface's metrics that need no principal components, less sd_ratio: it reads the whole
# recording once more for a number that no label uses.
QUALITY_METRICS = (
    "num_spikes",
    "firing_rate",
    "presence_ratio",
    "snr",
    "isi_violation",
    "rp_violation",
    "sliding_rp_violation",
    "synchrony",
    "firing_range",
    "amplitude_cv",
    "amplitude_cutoff",
    "amplitude_median",
    "noise_cutoff",
    "drift",
)


class AnalysisDocument(Document):
    """analysis.json beside metrics.csv and, where status is "analyzed", analyzer.zarr.

    status "skipped" (message says why) where the sorting has no units.
    """

    probe: str
    unit: str
    status: Literal["analyzed", "skipped"]
    message: str
    n_units: int
    seed: int
    extensions: dict[str, dict]


def analyze_unit(
    unit_folder: Path, sorting_folder: Path, out: Path, jobs: int = 1, seed: int = 42
) -> AnalysisDocument:
    """Write out/analyzer.zarr, out/metrics.csv and out/analysis.json of one sorting unit.

    unit_folder: of PREPROCESS. sorting_folder: of SORT. analyzer.zarr: SpikeInterface's SortingAnalyzer,
    sparse, in µV, unit ids those of the sorter (int64), with the unit property "sorter_label"; it holds no
    path and opens without its recording. metrics.csv: a row per unit, index unit_id, template and quality
    metrics by SpikeInterface's names (NaN empty); without units only the header "unit_id".

    Raises DataError where the sorting is not of this unit.
    """
    sorting_folder, out = Path(sorting_folder), Path(out)
    document = SortingDocument.load(sorting_folder / "sorting.json")
    unit = PreprocessedUnit.load(Path(unit_folder) / "recording.json")
    if (unit.probe, unit.unit) != (document.probe, document.unit):
        raise DataError(
            f"{sorting_folder}: expected the sorting of {unit.probe} {unit.unit}, found that of "
            f"{document.probe} {document.unit}; give the folders of one sorting unit"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not document.unit_ids:
        import pandas as pd

        _write_metrics(pd.DataFrame(index=pd.Index([], dtype="int64")), out)
        result = AnalysisDocument(
            probe=document.probe,
            unit=document.unit,
            status="skipped",
            message=document.message,
            n_units=0,
            seed=seed,
            extensions={},
        )
        result.save(out / "analysis.json")
        log.info("%s %s: nothing to analyze: %s", document.probe, document.unit, document.message)
        return result

    from spikeinterface.core import create_sorting_analyzer

    from powerpixels.recordings import load_preprocessed

    recording = load_preprocessed(unit_folder)
    sorting = load_sorting(sorting_folder, recording.sampling_frequency, recording.get_num_samples())
    folder = out / "analyzer.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    job_kwargs = {"n_jobs": jobs, "chunk_duration": "1s", "progress_bar": False}
    parameters = extension_parameters(seed)
    with warnings.catch_warnings(record=True) as caught:
        analyzer = create_sorting_analyzer(
            sorting,
            recording,
            format="zarr",
            folder=folder,
            sparse=True,
            return_in_uV=True,
            seed=seed,
            sparsity_kwargs={"method": "radius", "radius_um": SPARSITY_RADIUS_UM},
            job_kwargs=job_kwargs,
        )
        for name, extension in parameters.items():
            log.info("%s %s: %s", document.probe, document.unit, name)
            analyzer.compute({name: extension}, **job_kwargs)
        metrics = analyzer.get_metrics_extension_data()
    # Mostly metrics that units with few spikes can't have, and that are then NaN.
    for message in sorted({str(warning.message) for warning in caught}):
        log.info("%s", " ".join(message.split()))
    _forget_recording(folder)
    _write_metrics(metrics, out)
    result = AnalysisDocument(
        probe=document.probe,
        unit=document.unit,
        status="analyzed",
        message=f"{len(document.unit_ids)} units",
        n_units=len(document.unit_ids),
        seed=seed,
        extensions=parameters,
    )
    result.save(out / "analysis.json")
    return result


def extension_parameters(seed: int) -> dict[str, dict]:
    """The analyzer's extensions in the order they are computed, each with its parameters."""
    return {
        "random_spikes": {"method": "uniform", "max_spikes_per_unit": MAX_SPIKES_PER_UNIT, "seed": seed},
        "noise_levels": {"random_slices_kwargs": {"seed": seed}},
        "waveforms": {"ms_before": 1.0, "ms_after": 2.0},
        "templates": {"operators": ["average", "std"], "ms_before": 1.0, "ms_after": 2.0},
        "correlograms": {"window_ms": 100.0, "bin_ms": 1.0},
        "unit_locations": {"method": "monopolar_triangulation"},
        "spike_amplitudes": {},
        "spike_locations": {"method": "center_of_mass"},
        "template_similarity": {"method": "l1"},
        "template_metrics": {"include_multi_channel_metrics": True},
        "quality_metrics": {"metric_names": list(QUALITY_METRICS)},
    }


def load_sorting(sorting_folder: Path, sampling_rate_hz: float, n_samples: int):
    """SORT's spikes as a SpikeInterface sorting: unit ids int, property "sorter_label" (text).

    Raises DataError where the arrays, sorting.json and the recording's length do not agree.
    """
    from spikeinterface.core import NumpySorting

    sorting_folder = Path(sorting_folder)
    document = SortingDocument.load(sorting_folder / "sorting.json")
    samples = np.load(sorting_folder / "spike_samples.npy")
    unit_ids = np.load(sorting_folder / "spike_unit_ids.npy")
    if samples.shape != unit_ids.shape or sorted(document.unit_ids) != np.unique(unit_ids).tolist():
        raise DataError(
            f"{sorting_folder}: expected spikes of the {len(document.unit_ids)} units in sorting.json, found "
            f"those of {np.unique(unit_ids).size}; its files are not of one sorting: sort again"
        )
    if samples.size and not 0 <= samples[0] <= samples[-1] < n_samples:
        raise DataError(
            f"{sorting_folder}: expected spikes within the recording's {n_samples} samples, found "
            f"{samples[0]} to {samples[-1]}; sorting and recording do not belong together"
        )
    sorting = NumpySorting.from_samples_and_labels([samples], [unit_ids], sampling_rate_hz, document.unit_ids)
    labels = [document.sorter_labels.get(unit_id, "") for unit_id in document.unit_ids]
    sorting.set_property("sorter_label", np.array(labels, dtype=str))
    return sorting


def _write_metrics(metrics: pd.DataFrame, out: Path) -> None:
    metrics.rename_axis("unit_id").to_csv(out / "metrics.csv")


def _forget_recording(folder: Path) -> None:
    """Take the preprocessed recording's place, a path of the work folder, out of the analyzer.

    Where the recording's attributes are kept (channels, probe, rate) the analyzer opens without it.
    """
    import zarr

    root = zarr.open(str(folder), mode="r+")
    if "recording" in root:
        del root["recording"]
    root["sorting"].attrs["provenance"] = None
    zarr.consolidate_metadata(root.store)
