"""ANALYZE: a sorting unit's SortingAnalyzer with its metrics."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from powerpixels import bombcell_labels, ibl_labels
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
# SpikeInterface's, that UnitRefine's full models read; of the waveforms' principal components.
PCA_METRICS = ("mahalanobis", "d_prime", "nearest_neighbor", "silhouette")
# Both read every spike's traces: one pass over the recording serves them.
ONE_PASS = ("spike_amplitudes", "spike_locations")
# SpikeInterface's recipe for pairs that one neuron's spikes may have been split into.
MERGE_PRESET = "similarity_correlograms"


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


class Suggestions(Document):
    """suggestions.json: units that may be one neuron's; nothing is done about them.

    redundant: pairs that share most of their spikes (SpikeInterface's ``find_redundant_units``). merges:
    groups whose templates and correlograms fit together (``compute_merge_unit_groups`` with that preset).
    Unit ids are the sorter's.
    """

    redundant: list[tuple[int, int]]
    merges: list[list[int]]
    merge_preset: str


def analyze_unit(
    unit_folder: Path,
    sorting_folder: Path,
    out: Path,
    jobs: int = 1,
    seed: int = 42,
    pca_metrics: bool = False,
    bombcell: dict[str, Any] | None = None,
) -> AnalysisDocument:
    """Write out/analyzer.zarr, out/metrics.csv, out/analysis.json and what LABEL needs of one sorting unit.

    unit_folder: of PREPROCESS. sorting_folder: of SORT. analyzer.zarr: SpikeInterface's SortingAnalyzer,
    sparse, in µV, unit ids those of the sorter (int64), with the unit property "sorter_label"; it holds no
    path and opens without its recording. metrics.csv: a row per unit, index unit_id, template and quality
    metrics by SpikeInterface's names (NaN empty); without units only the header "unit_id". pca_metrics: those
    of principal components too. bombcell: parameters by which Bombcell measures in place of its defaults.

    Where there are units also bombcell.csv and bombcell.json (``bombcell_labels.measure``),
    ibl_confidence.csv (``ibl_labels.refractory_confidence``) and suggestions.json (``Suggestions``).

    Raises DataError where the sorting is not of this unit, and for wrong Bombcell parameters.
    """
    bombcell = bombcell_labels.checked(bombcell or {})
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
    parameters = extension_parameters(seed, pca_metrics)
    # Computed as plain arrays on disk and packed once at the end: what is gathered into Zarr while the
    # recording is read packs the last chunk of each array anew at every second of it.
    with (
        warnings.catch_warnings(record=True) as caught,
        tempfile.TemporaryDirectory(dir=out, prefix="analyzer_") as work,
    ):
        analyzer = create_sorting_analyzer(
            sorting,
            recording,
            format="binary_folder",
            folder=Path(work) / "analyzer",
            sparse=True,
            return_in_uV=True,
            seed=seed,
            sparsity_kwargs={"method": "radius", "radius_um": SPARSITY_RADIUS_UM},
            job_kwargs=job_kwargs,
        )
        _similarity_in_numpy()
        for name in parameters:
            if analyzer.has_extension(name):
                continue
            log.info("%s %s: %s", document.probe, document.unit, name)
            together = ONE_PASS if name in ONE_PASS else (name,)
            analyzer.compute({one: parameters[one] for one in together}, **job_kwargs)
        metrics = analyzer.get_metrics_extension_data()
        log.info("%s %s: Bombcell's metrics", document.probe, document.unit)
        bombcell_labels.measure(unit_folder, sorting_folder, analyzer, out, bombcell, jobs)
        log.info("%s %s: IBL's refractory periods", document.probe, document.unit)
        _refractory_confidence(analyzer).to_csv(out / "ibl_confidence.csv")
        log.info("%s %s: analyzer.zarr", document.probe, document.unit)
        analyzer.save_as(format="zarr", folder=folder)
        # Last: it changes the correlograms of the analyzer that it is given.
        log.info("%s %s: redundant units and merges", document.probe, document.unit)
        suggest(analyzer).save(out / "suggestions.json")
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


def extension_parameters(seed: int, pca_metrics: bool = False) -> dict[str, dict]:
    """The analyzer's extensions in the order they are computed, each with its parameters."""
    components = {"principal_components": {"n_components": 5, "mode": "by_channel_local"}}
    names = [*QUALITY_METRICS, *(PCA_METRICS if pca_metrics else ())]
    return {
        "random_spikes": {"method": "uniform", "max_spikes_per_unit": MAX_SPIKES_PER_UNIT, "seed": seed},
        "noise_levels": {"random_slices_kwargs": {"seed": seed}},
        "waveforms": {"ms_before": 1.0, "ms_after": 2.0},
        "templates": {"operators": ["average", "std"], "ms_before": 1.0, "ms_after": 2.0},
        # Its fast mode, of many units, counts in threads that get in each other's way.
        "correlograms": {"window_ms": 100.0, "bin_ms": 1.0, "fast_mode": "off"},
        "unit_locations": {"method": "monopolar_triangulation"},
        "spike_amplitudes": {},
        "spike_locations": {"method": "center_of_mass"},
        "template_similarity": {"method": "l1"},
        "template_metrics": {"include_multi_channel_metrics": True},
        **(components if pca_metrics else {}),
        "quality_metrics": {"metric_names": names},
    }


def suggest(analyzer) -> Suggestions:
    """Redundant units and merges of an analyzer with templates, locations, similarity and correlograms."""
    from spikeinterface.curation import compute_merge_unit_groups, find_redundant_units

    redundant, merges = [], []
    if len(analyzer.unit_ids) > 1:
        redundant = find_redundant_units(analyzer.sorting)
        merges = compute_merge_unit_groups(analyzer, preset=MERGE_PRESET, force_copy=False)
    return Suggestions(
        redundant=sorted(tuple(sorted(int(unit) for unit in pair)) for pair in redundant),
        merges=sorted(sorted(int(unit) for unit in group) for group in merges),
        merge_preset=MERGE_PRESET,
    )


def _similarity_in_numpy() -> None:
    """Have SpikeInterface take its numpy function for the templates' similarity.

    The same sums, without half a minute of compiling in each task.
    """
    from spikeinterface.postprocessing import template_similarity

    template_similarity._compute_similarity_matrix = template_similarity._compute_similarity_matrix_numpy


def _refractory_confidence(analyzer) -> pd.DataFrame:
    vector = analyzer.sorting.to_spike_vector()
    ids = np.asarray(analyzer.unit_ids, dtype=np.int64)[vector["unit_index"]]
    return ibl_labels.refractory_confidence(vector["sample_index"], ids, analyzer.sampling_frequency)


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
