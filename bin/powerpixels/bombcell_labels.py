"""Bombcell, the package: its metrics of a sorting unit (slow, in ANALYZE) and its labels (in LABEL).

Bombcell reads a folder of Kilosort's and a file of samples. It gets the sorter's own folder where that is
Kilosort 4's, and one in the same form from the SortingAnalyzer for every other sorter. The samples are the
very binary that the sorter read, so that channel_map.npy says the columns of that file.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from powerpixels.documents import Document, PreprocessedUnit, SortingDocument
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

# Bombcell's codes; it has 4 (non-somatic mua) only where asked to split, which is not offered.
WORDS = {0: "noise", 1: "good", 2: "mua", 3: "non_soma"}
# Of units with fewer spikes Bombcell measures nothing, and then calls them noise.
MIN_SPIKES = 50
RPV_METHODS = ("hill", "llobet", "ibl_sliding")

# What changes the metrics, not what is made of them: a change of one measures anew. The workflow hands
# ANALYZE these (subworkflows/neuropixels.nf has the same list, held equal by a test).
MEASURING = (
    "detrendWaveform",
    "nRawSpikesToExtract",
    "extractRaw",
    "rpv_method",
    "tauR_values",
    "tauC",
    "tauR_reject",
    "contamination_values",
    "confidence_threshold",
    "computeTimeChunks",
    "deltaTimeChunk",
    "presenceRatioBinSize",
    "computeDrift",
    "driftBinSize",
    "minThreshDetectPeaksTroughs",
    "normalizeSpDecay",
    "spDecayLinFit",
    "computeSpatialDecay",
    "computeDistanceMetrics",
    "nChannelsIsoDist",
    "removeDuplicateSpikes",
    "duplicateSpikeWindow_s",
)
THRESHOLDS = (
    "maxNPeaks",
    "maxNTroughs",
    "minWvDuration",
    "maxWvDuration",
    "minSpatialDecaySlope",
    "minSpatialDecaySlopeExp",
    "maxSpatialDecaySlopeExp",
    "maxWvBaselineFraction",
    "maxScndPeakToTroughRatio_noise",
    "minTroughToPeak2Ratio_nonSomatic",
    "minWidthFirstPeak_nonSomatic",
    "minWidthMainTrough_nonSomatic",
    "maxPeak1ToPeak2Ratio_nonSomatic",
    "maxMainPeakToTroughRatio_nonSomatic",
    "maxPercSpikesMissing",
    "minNumSpikes",
    "maxRPVviolations",
    "minPresenceRatio",
    "minAmplitude",
    "minSNR",
    "maxDrift",
    "isoDmin",
    "lratioMax",
)
# Thresholds that take part in measuring too, in choosing the stretches of the recording to be used.
CHUNK_THRESHOLDS = ("maxPercSpikesMissing", "maxRPVviolations")

_KILOSORT_FILES = (
    "spike_times.npy",
    "spike_templates.npy",
    "spike_clusters.npy",
    "amplitudes.npy",
    "templates.npy",
    "whitening_mat_inv.npy",
    "channel_map.npy",
    "channel_positions.npy",
)
_COMPONENT_FILES = ("pc_features.npy", "pc_feature_ind.npy")
# Kilosort 4's templates, as Bombcell expects them: samples, and those before the spike's.
_TEMPLATE_SAMPLES, _SAMPLES_BEFORE = 61, 20


class BombcellDocument(Document):
    """bombcell.json beside bombcell.csv: how Bombcell's metrics were measured.

    source: "sorter" (Kilosort's own templates) or "analyzer" (mean waveforms in their place). parameters: all
    of Bombcell's that a user can set, with their values.
    """

    version: str
    source: Literal["sorter", "analyzer"]
    parameters: dict[str, Any]


def checked(overrides: Any) -> dict[str, Any]:
    """A user's Bombcell parameters, by name; all but those in MEASURING and THRESHOLDS are refused.

    Raises DataError for an unknown name (it names the nearest) and for a value of a wrong kind.
    """
    from bombcell.default_parameters import get_default_parameters

    if not isinstance(overrides, dict):
        raise DataError(
            f"Bombcell parameters: expected a JSON object in the file, found {overrides!r}; correct it"
        )
    known = (*MEASURING, *THRESHOLDS)
    defaults = get_default_parameters("")
    for name, value in overrides.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise DataError(
                f"Bombcell parameters: {name!r} is not a parameter of Bombcell that can be set here; the "
                f"nearest is {nearest!r}. Known: {', '.join(known)}"
            )
        _check_kind(name, value, defaults[name])
    return overrides


def _check_kind(name: str, value: Any, default: Any) -> None:
    def is_number(item: Any) -> bool:
        return isinstance(item, (int, float)) and not isinstance(item, bool)

    if name == "rpv_method":
        fits, expected = value in RPV_METHODS, f"one of {', '.join(RPV_METHODS)}"
    elif name in ("tauR_values", "contamination_values"):
        fits = isinstance(value, list) and bool(value) and all(is_number(item) for item in value)
        expected = "a list of numbers"
    elif isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    else:
        fits, expected = is_number(value), "a number"
    if not fits:
        raise DataError(f"Bombcell parameters: {name} must be {expected}, found {value!r}; correct it")


def measure(
    unit_folder: Path,
    sorting_folder: Path,
    analyzer,
    out: Path,
    overrides: dict[str, Any],
    jobs: int = 1,
) -> BombcellDocument:
    """Write out/bombcell.csv and out/bombcell.json: Bombcell's metrics of every unit.

    unit_folder: of PREPROCESS. sorting_folder: of SORT. analyzer: with templates and spike amplitudes, used
    where the sorter's folder is not Kilosort 4's. bombcell.csv: index unit_id (the sorter's), columns
    by Bombcell's names; NaN for all but nSpikes where a unit has fewer than MIN_SPIKES. rawAmplitude (µV,
    peak to peak) and signalToNoiseRatio are of the preprocessed traces, at nRawSpikesToExtract spikes spread
    evenly over the recording.

    Raises DataError for wrong overrides, and for drift or distance metrics without the sorter's components.
    """
    import pandas as pd

    unit_folder, sorting_folder, out = Path(unit_folder), Path(sorting_folder), Path(out)
    checked(overrides)
    sorting = SortingDocument.load(sorting_folder / "sorting.json")
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    with tempfile.TemporaryDirectory(dir=out, prefix="bombcell_") as work:
        phy, results = Path(work) / "phy", Path(work) / "results"
        phy.mkdir()
        results.mkdir()
        kilosort = sorting_folder / "sorter_output"
        components = bool(overrides.get("computeDrift") or overrides.get("computeDistanceMetrics"))
        if sorting.sorter == "kilosort4" and all((kilosort / name).exists() for name in _KILOSORT_FILES):
            source = "sorter"
            ids = _link_kilosort(kilosort, phy, components, len(unit.channels))
        else:
            source = "analyzer"
            ids = phy_folder(analyzer, phy)
        if components and not all((phy / name).exists() for name in _COMPONENT_FILES):
            raise DataError(
                f"{sorting_folder}: Bombcell's computeDrift and computeDistanceMetrics need the sorter's "
                f"principal components ({', '.join(_COMPONENT_FILES)}), which {sorting.sorter} has not left; "
                "remove them from the Bombcell parameters"
            )
        parameters = _parameters(phy, unit_folder / "traces.bin", unit, overrides, jobs)
        units, counts = np.unique(np.load(sorting_folder / "spike_unit_ids.npy"), return_counts=True)
        if counts.max() >= MIN_SPIKES:
            metrics = _run(phy, results, parameters)
            units = ids[metrics.pop("phy_clusterID").astype(int)]
        else:  # Bombcell fails where it can measure no unit at all
            metrics = {"nSpikes": counts.astype(np.float64)}
    table = pd.DataFrame(metrics, index=pd.Index(units, name="unit_id"))
    table.loc[table.index.isin(sorting.unit_ids)].to_csv(out / "bombcell.csv")
    document = BombcellDocument(
        version=metadata.version("bombcell"), source=source, parameters=_settable(parameters)
    )
    document.save(out / "bombcell.json")
    return document


def _link_kilosort(kilosort: Path, phy: Path, components: bool, n_channels: int) -> np.ndarray:
    """Kilosort's folder, less what Bombcell would load for nothing; returns each template's unit id."""
    names = [*_KILOSORT_FILES, "ops.npy", *(_COMPONENT_FILES if components else ())]
    for name in names:
        if (kilosort / name).exists():
            (phy / name).symlink_to((kilosort / name).resolve())
    columns = np.load(phy / "channel_map.npy").ravel()
    if columns.size != n_channels or not np.array_equal(np.sort(columns), np.arange(n_channels)):
        raise DataError(
            f"{kilosort}/channel_map.npy: expected the {n_channels} columns of the sorted recording, found "
            f"{columns.size} from {columns.min()} to {columns.max()}; it is of another recording: sort again"
        )
    return np.arange(np.load(phy / "templates.npy", mmap_mode="r").shape[0])


def phy_folder(analyzer, folder: Path) -> np.ndarray:
    """Write an analyzer's units in the form of Kilosort 4's output; returns the unit id of each template.

    Templates are the mean waveforms (µV, not whitened), 20 samples before the spike and 40 after; amplitudes
    the spikes', positive, in µV. No principal components.
    """
    templates = analyzer.get_extension("templates")
    mean = templates.get_data(operator="average")
    first = templates.nbefore - _SAMPLES_BEFORE
    if first < 0 or first + _TEMPLATE_SAMPLES > mean.shape[1]:
        raise ValueError(f"waveforms of {templates.nbefore} + {mean.shape[1]} samples are too short")
    vector = analyzer.sorting.to_spike_vector()
    index = vector["unit_index"].astype(np.int64)
    n_channels = mean.shape[2]
    arrays = {
        "spike_times": vector["sample_index"].astype(np.int64),
        "spike_templates": index,
        "spike_clusters": index,
        "amplitudes": np.abs(analyzer.get_extension("spike_amplitudes").get_data()).astype(np.float64),
        "templates": mean[:, first : first + _TEMPLATE_SAMPLES].astype(np.float32),
        "whitening_mat_inv": np.eye(n_channels, dtype=np.float32),
        "channel_map": np.arange(n_channels),
        "channel_positions": analyzer.get_channel_locations(),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return np.asarray(analyzer.unit_ids, dtype=np.int64)


def _parameters(
    phy: Path, traces: Path, unit: PreprocessedUnit, overrides: dict[str, Any], jobs: int
) -> dict[str, Any]:
    """Bombcell's parameters for a unit's own binary: every column is a channel, none a sync word."""
    from bombcell.default_parameters import get_default_parameters

    parameters = get_default_parameters(phy, raw_file=traces, kilosort_version=4, gain_to_uV=unit.gain_uv) | {
        "plotGlobal": False,
        "plotDetails": False,
        "savePlots": False,
        "verbose": False,
        "saveAsTSV": False,
        "unit_type_for_phy": False,
        "reextractRaw": True,
        "nChannels": len(unit.channels),
        "nSyncChannels": 0,
        "ephys_sample_rate": unit.sampling_rate_hz,
        "joblib_n_jobs": jobs,
        # A pool of processes needs a large /dev/shm, which containers lack.
        "joblib_backend_preference": "threads",
    }
    parameters |= overrides
    for name in ("tauR_values", "contamination_values"):
        if isinstance(parameters[name], list):
            parameters[name] = np.array(parameters[name], dtype=np.float64)
    return parameters


def _run(phy: Path, results: Path, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
    """Bombcell's metrics by its names, one value for each template."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        from bombcell.helper_functions import run_bombcell

        metrics, used, _, _ = run_bombcell(str(phy), str(results), parameters)
    parameters.update(tauC=used["tauC"], extractRaw=used["extractRaw"])
    return {name: np.asarray(values) for name, values in metrics.items() if np.ndim(values) == 1}


def _settable(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a user can set, as JSON takes them."""
    values = {name: parameters[name] for name in (*MEASURING, *THRESHOLDS)}
    return {
        name: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        for name, value in values.items()
    }


def classify(
    metrics: pd.DataFrame, measured: BombcellDocument, overrides: dict[str, Any]
) -> tuple[dict[int, str], dict[str, Any]]:
    """Bombcell's labels by unit id, and all parameters that they follow from.

    metrics: bombcell.csv, index unit_id. Units with fewer than MIN_SPIKES spikes have no entry. The rule is
    the package's own (``get_quality_unit_type``).

    Raises DataError for wrong overrides, and for one that asks for other metrics than were measured.
    """
    checked(overrides)
    parameters = measured.parameters | overrides
    fixed = MEASURING + (CHUNK_THRESHOLDS if measured.parameters["computeTimeChunks"] else ())
    changed = [name for name in fixed if parameters[name] != measured.parameters[name]]
    if changed:
        raise DataError(
            f"Bombcell parameters: {changed[0]} is {overrides[changed[0]]!r}, but Bombcell's metrics were "
            f"measured with {measured.parameters[changed[0]]!r}; analyze again with these parameters"
        )
    known = metrics.loc[metrics["nSpikes"] >= MIN_SPIKES]
    if known.empty:
        return {}, parameters
    from bombcell.quality_metrics import get_quality_unit_type

    full = parameters | {"splitGoodAndMua_NonSomatic": False, "keepUncertainRPVUnits": False}
    columns = {name: known[name].to_numpy() for name in known}
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
        codes, _ = get_quality_unit_type(full, columns)
    return {int(unit): WORDS[int(code)] for unit, code in zip(known.index, codes, strict=True)}, parameters
