"""The International Brain Laboratory's unit metrics and label, computed by its own libraries.

A unit passes or fails three criteria: its sliding refractory period (slidingRP: the confidence that no more
than an acceptable share of its spikes is another neuron's), its noise cutoff (brainbox: whether the detection
threshold cuts its amplitudes) and its median amplitude. The score is the mean of the three passes. Method:
IBL et al., "Spike sorting pipeline for the International Brain Laboratory" (2022).
"""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING, Any

import numpy as np

from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

# Tested shares of contamination, %, as slidingRP has them: an acceptable one is one of these or between.
LOWEST_CONTAMINATION, HIGHEST_CONTAMINATION = 0.5, 34.5
# Refractory periods up to this are not tested, s (slidingRP's default).
SHORTEST_PERIOD_S = 0.0005
# Amplitudes are of the median's logarithm: none, or one against the unit's own direction, counts as this, V.
LEAST_AMPLITUDE_V = 1e-5

# IBL's values. acceptable_contamination and RPmax_confidence in %, med_amp_thresh_uv in µV.
DEFAULTS: dict[str, Any] = {
    "acceptable_contamination": 10,
    "RPmax_confidence": 90,
    "noise_cutoff": {"quantile_length": 0.25, "n_bins": 100, "nc_threshold": 5, "percent_threshold": 0.10},
    "med_amp_thresh_uv": 50,
}


def checked(overrides: Any) -> dict[str, Any]:
    """All IBL parameters: DEFAULTS with a user's in their place (JSON object, noise_cutoff in part or whole).

    Raises DataError for an unknown name (it names the nearest) and for a wrong value.
    """
    parameters = copy.deepcopy(DEFAULTS)
    _merge(parameters, overrides, "the file")
    share = parameters["acceptable_contamination"]
    if not LOWEST_CONTAMINATION <= share <= HIGHEST_CONTAMINATION:
        raise DataError(
            f"IBL parameters: acceptable_contamination is in percent: expected {LOWEST_CONTAMINATION} to "
            f"{HIGHEST_CONTAMINATION}, found {share}; correct it"
        )
    return parameters


def _merge(into: dict[str, Any], given: Any, where: str) -> None:
    if not isinstance(given, dict):
        raise DataError(f"IBL parameters: expected a JSON object in {where}, found {given!r}; correct it")
    for name, value in given.items():
        if name not in into:
            nearest = difflib.get_close_matches(name, into, n=1, cutoff=0)[0]
            raise DataError(
                f"IBL parameters: {name!r} is not a parameter; the nearest is {nearest!r}. "
                f"Known: {', '.join(into)}"
            )
        if isinstance(into[name], dict):
            _merge(into[name], value, name)
            continue
        whole = name == "n_bins"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            expected = "a whole number" if whole else "a number"
            raise DataError(f"IBL parameters: {name} must be {expected}, found {value!r}; correct it")
        into[name] = value


def refractory_confidence(samples: np.ndarray, unit_ids: np.ndarray, rate_hz: float) -> pd.DataFrame:
    """Confidence (%) that a unit's contamination is at most so much, over all refractory periods tested.

    samples, unit_ids: (s,) of all spikes, samples ascending; rate_hz of the samples. Index unit_id, a column
    for each tested share of contamination: its number in % as text. slidingRP's matrix, the best of its
    refractory periods above SHORTEST_PERIOD_S. Its periods are steps of 1/30000 s, whatever the rate.
    """
    import pandas as pd
    from slidingRP.metrics import computeMatrix, remove_lowrp_confmat

    grid = {"sampleRate": 30000, "binSizeCorr": 1 / 30000}
    rows, columns = {}, np.array([])
    for unit, of_unit in _by_unit(unit_ids):
        confidence, columns, periods, _, _ = computeMatrix(samples[of_unit] / rate_hz, grid)
        rows[unit] = remove_lowrp_confmat(confidence, periods, SHORTEST_PERIOD_S)[0].max(axis=1)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[f"{share:g}" for share in columns])
    return table.rename_axis("unit_id")


def _by_unit(unit_ids: np.ndarray):
    """Each unit id, ascending, with the places of its spikes in their order."""
    order = np.argsort(unit_ids, kind="stable")
    ids, first = np.unique(unit_ids[order], return_index=True)
    for unit, places in zip(ids, np.split(order, first[1:]), strict=True):
        yield int(unit), places


def amplitude_metrics(
    amplitudes_v: np.ndarray, unit_ids: np.ndarray, parameters: dict[str, Any]
) -> pd.DataFrame:
    """noise_cutoff (standard deviations, NaN where it can't be had) and amp_median (V), index unit_id.

    amplitudes_v: (s,) V, positive in the direction of the unit's peak. amp_median is the geometric median.
    """
    import pandas as pd
    from brainbox.metrics.single_units import noise_cutoff

    amplitudes = np.maximum(np.asarray(amplitudes_v, dtype=np.float64), LEAST_AMPLITUDE_V)
    rows = {}
    for unit, of_unit in _by_unit(unit_ids):
        own = amplitudes[of_unit]
        cutoff = noise_cutoff(own, **parameters["noise_cutoff"])[1]
        rows[unit] = (cutoff, 10 ** np.median(np.log10(own)))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["noise_cutoff", "amp_median"], dtype=float)
    return table.rename_axis("unit_id")


def max_confidence(confidence: pd.DataFrame, parameters: dict[str, Any]) -> np.ndarray:
    """(n,) %: the confidence at the acceptable contamination, or at the next higher one that was tested."""
    shares = confidence.columns.to_numpy(dtype=float)
    return confidence.to_numpy()[:, np.flatnonzero(shares >= parameters["acceptable_contamination"])[0]]


def score(table: pd.DataFrame, parameters: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """IBL's label of each row: score (0, 1/3, 2/3 or 1) and failures, uint8.

    table: max_confidence (%), noise_cutoff, amp_median (V). Failures: bit 0 (1) for the refractory period,
    bit 1 (2) for the noise cutoff, bit 2 (4) for the amplitude; 0 passes all. NaN fails.
    """
    from brainbox.metrics.single_units import compute_labels

    return compute_labels(table, parameters, return_bitwise=True)
