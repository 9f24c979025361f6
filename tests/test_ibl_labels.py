"""IBL's label: its published table, its own functions, and simulated contamination and cut amplitudes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from powerpixels import ibl_labels
from powerpixels.stage import DataError

TABLE = (
    Path(__file__).resolve().parents[2]
    / "shared/data/real/paper-reproducible-ephys/fig_data_quality/tables/clusters_re_147.pqt"
)
RATE = 30_000.0


def _train(rng: np.random.Generator, rate_hz: float, seconds: float, refractory_s: float) -> np.ndarray:
    """Samples of a Poisson neuron with a refractory period."""
    gaps = refractory_s + rng.exponential(1 / rate_hz - refractory_s, int(rate_hz * seconds * 1.2))
    times = np.cumsum(gaps)
    return np.rint(times[times < seconds] * RATE).astype(np.int64)


@pytest.fixture(scope="module")
def spikes():
    """(samples, unit ids, amplitudes in V) of simulated units, by their ids below."""
    rng = np.random.default_rng(11)
    trains = {
        3: _train(rng, 10, 600, 0.004),  # alone
        7: np.concatenate([_train(rng, 7, 600, 0.004), _train(rng, 3, 600, 0.004)]),  # 30 % another's
        12: np.array([5000]),
        20: _train(rng, 10, 600, 0.004),  # cut by the threshold
        31: _train(rng, 10, 600, 0.004),  # small
    }
    amplitudes = {unit: rng.normal(120e-6, 15e-6, train.size) for unit, train in trains.items()}
    amplitudes[31] *= 0.3
    kept = amplitudes[20] > 125e-6
    trains[20], amplitudes[20] = trains[20][kept], amplitudes[20][kept]
    samples = np.concatenate(list(trains.values()))
    ids = np.repeat(list(trains), [train.size for train in trains.values()])
    order = np.argsort(samples, kind="stable")
    return samples[order], ids[order], np.concatenate(list(amplitudes.values()))[order]


def _scored(spikes, **overrides) -> pd.DataFrame:
    samples, ids, amplitudes = spikes
    parameters = ibl_labels.checked(overrides)
    table = ibl_labels.amplitude_metrics(amplitudes, ids, parameters)
    confidence = ibl_labels.refractory_confidence(samples, ids, RATE)
    table["max_confidence"] = ibl_labels.max_confidence(confidence, parameters)
    table["score"], table["failed"] = ibl_labels.score(table, parameters)
    return table


@pytest.mark.skipif(not TABLE.exists(), reason=f"{TABLE.name}, IBL's table of metrics, is not here")
def test_published_labels_are_reproduced():
    """All 122,885 units. The table has slidingRP's verdict, not its confidence, and a label of 0 or 1."""
    table = pd.read_parquet(TABLE, columns=["slidingRP_viol", "noise_cutoff", "amp_median", "label"])
    table["max_confidence"] = 100.0 * table["slidingRP_viol"]
    score, failed = ibl_labels.score(table, ibl_labels.DEFAULTS)
    assert len(table) == 122_885
    assert np.array_equal(score == 1, table["label"] == 1)
    assert np.array_equal(failed == 0, score == 1)


def test_simulated_units_fail_what_they_should(spikes):
    table = _scored(spikes)
    assert table["failed"].to_dict() == {3: 0, 7: 1, 12: 3, 20: 2, 31: 4}
    assert table["score"].to_dict() == pytest.approx({3: 1, 7: 2 / 3, 12: 1 / 3, 20: 2 / 3, 31: 2 / 3})


def test_equal_to_brainbox(spikes):
    """Its own entry, which knows the default parameters only."""
    from brainbox.metrics.single_units import quick_unit_metrics

    samples, ids, amplitudes = spikes
    theirs = quick_unit_metrics(ids, samples / RATE, amplitudes, np.zeros(samples.size))
    mine = _scored(spikes)
    assert mine.index.tolist() == theirs["cluster_id"].tolist()
    for name in ("max_confidence", "noise_cutoff", "amp_median"):
        assert np.allclose(mine[name], theirs[name], rtol=1e-9, equal_nan=True), name
    assert mine["score"].tolist() == theirs["label"].tolist()
    assert mine["failed"].tolist() == theirs["bitwise_fail"].tolist()


def test_acceptable_contamination_is_used(spikes):
    assert _scored(spikes, acceptable_contamination=34)["failed"][7] == 0
    assert _scored(spikes, acceptable_contamination=0.5, RPmax_confidence=95)["failed"][3] == 1
    assert _scored(spikes, acceptable_contamination=10, RPmax_confidence=95)["failed"][3] == 0
    # As slidingRP takes it itself, between the shares that it tests too.
    from slidingRP.metrics import slidingRP_all

    samples, ids, _ = spikes
    grid = {"sampleRate": 30000, "binSizeCorr": 1 / 30000}
    for share in (3, 10.2, 34.5):
        theirs = slidingRP_all(samples / RATE, ids, cont_thresh=share, **grid)["max_confidence"]
        found = _scored(spikes, acceptable_contamination=share)["max_confidence"]
        assert found.tolist() == pytest.approx(theirs, rel=1e-12)


def test_other_criteria_are_used(spikes):
    assert _scored(spikes, med_amp_thresh_uv=20)["failed"][31] == 0
    assert _scored(spikes, noise_cutoff={"nc_threshold": 1000})["failed"][20] == 0
    assert _scored(spikes, RPmax_confidence=100.1)["failed"][3] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"acceptable_contaminations": 5}, "nearest is 'acceptable_contamination'"),
        ({"acceptable_contamination": 0.1}, "in percent: expected 0.5 to 34.5, found 0.1"),
        ({"noise_cutoff": {"n_bin": 5}}, "nearest is 'n_bins'"),
        ({"noise_cutoff": {"n_bins": 5.5}}, "n_bins must be a whole number, found 5.5"),
        ({"noise_cutoff": 5}, "JSON object in noise_cutoff, found 5"),
        ({"RPmax_confidence": True}, "must be a number, found True"),
        ([], "JSON object in the file"),
    ],
)
def test_wrong_parameters_are_named(overrides, message):
    with pytest.raises(DataError, match=message):
        ibl_labels.checked(overrides)


def test_defaults_are_ibls():
    from brainbox.metrics.single_units import METRICS_PARAMS

    for name in ("noise_cutoff", "med_amp_thresh_uv", "RPmax_confidence"):
        assert ibl_labels.DEFAULTS[name] == METRICS_PARAMS[name]
    assert ibl_labels.DEFAULTS["acceptable_contamination"] == 100 * METRICS_PARAMS["acceptable_contamination"]
    ibl_labels.checked({"noise_cutoff": {"n_bins": 7}})
    assert ibl_labels.DEFAULTS["noise_cutoff"]["n_bins"] == 100
