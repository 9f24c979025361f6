"""Medians over sets of channels against numpy's and SpikeInterface's, to the bit."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from powerpixels.medians import (
    BLOCK,
    TASK_SAMPLES,
    local_neighbours,
    median_program,
    odd_even_merge,
    subtract_medians,
)
from probe_geometries import Geometry, geometry, recording_of, subset

GEOMETRIES = {
    "1.0": lambda: geometry("NP1000"),
    "1.0 subset": lambda: subset(geometry("NP1000"), 150, seed=1),
    "2.0 one shank": lambda: geometry("NP2000"),
    "2.0 four shanks": lambda: geometry("NP2010"),
    "24 channels": lambda: geometry("NP2000", 24),
    "NHP": lambda: geometry("NP1030"),
}


def shank_of(probe: Geometry, shank: int = 0) -> np.ndarray:
    return probe.locations_um[probe.shank == shank]


def traces_like(n_channels: int, n_samples: int, seed: int) -> np.ndarray:
    """Float32 with many ties, both signs of zero and steps of size as raw counts have."""
    rng = np.random.default_rng(seed)
    traces = (rng.standard_normal((n_channels, n_samples)) * 4).round() * 2.34375
    traces[:, ::3] += rng.standard_normal((n_channels, len(traces[0, ::3])))
    return traces.astype(np.float32)


def by_numpy(traces: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    expected = traces.copy()
    for channel, row in enumerate(neighbours):
        if row.any():
            expected[channel] = traces[channel] - np.median(traces[row], axis=0)
    return expected


@pytest.mark.parametrize(("n_first", "n_second"), list(itertools.product(range(1, 8), range(1, 8))))
def test_odd_even_merge_sorts_every_pattern(n_first, n_second):
    # A network that sorts all patterns of zeros and ones sorts everything.
    pairs, order = odd_even_merge(n_first, n_second)
    for ones_first, ones_second in itertools.product(range(n_first + 1), range(n_second + 1)):
        values = [0] * (n_first - ones_first) + [1] * ones_first
        values += [0] * (n_second - ones_second) + [1] * ones_second
        for one, other in pairs:
            values[one], values[other] = sorted((values[one], values[other]))
        assert [values[wire] for wire in order] == sorted(values)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_local_reference_equals_spikeinterface(name):
    from spikeinterface.preprocessing import common_reference

    locations = shank_of(GEOMETRIES[name]())
    traces = traces_like(len(locations), 600, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = common_reference(
            recording_of(traces.T.copy(), locations), reference="local", local_radius=(40.0, 200.0)
        ).get_traces()
    program = median_program(local_neighbours(locations, (40.0, 200.0)))
    found = subtract_medians(traces.copy(), program)
    np.testing.assert_array_equal(found.T, expected)
    assert np.any(found != traces)


def test_few_and_no_neighbours_as_spikeinterface():
    from spikeinterface.preprocessing import common_reference

    # Three close contacts, four far apart, and a pair: annuli with none, some and too few.
    locations = np.array(
        [[0, 0], [0, 15], [32, 0], [0, 900], [0, 1300], [0, 1700], [0, 2100], [5, 5000], [5, 5020]],
        dtype=float,
    )
    traces = traces_like(len(locations), 300, seed=3)
    for chosen in (slice(None), slice(0, 3), slice(7, 9), slice(0, 5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = common_reference(
                recording_of(traces[chosen].T.copy(), locations[chosen]),
                reference="local",
                local_radius=(40, 200),
            ).get_traces()
        program = median_program(local_neighbours(locations[chosen], (40.0, 200.0)))
        np.testing.assert_array_equal(subtract_medians(traces[chosen].copy(), program).T, expected)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 24, 95, 384])
def test_global_reference_equals_spikeinterface(n_channels):
    from spikeinterface.preprocessing import common_reference

    traces = traces_like(n_channels, 400, seed=4)
    locations = np.c_[np.zeros(n_channels), np.arange(n_channels) * 20.0]
    expected = common_reference(recording_of(traces.T.copy(), locations), reference="global").get_traces()
    np.testing.assert_array_equal(
        subtract_medians(traces, median_program(np.ones((n_channels, n_channels), dtype=bool))).T, expected
    )


@pytest.mark.parametrize("seed", range(6))
def test_any_sets_of_channels(seed):
    rng = np.random.default_rng(seed)
    n_channels = int(rng.integers(1, 40))
    neighbours = rng.random((n_channels, n_channels)) < rng.random((n_channels, 1)) ** 2
    traces = traces_like(n_channels, 333, seed)
    found = subtract_medians(traces.copy(), median_program(neighbours))
    np.testing.assert_array_equal(found, by_numpy(traces, neighbours))


def test_ultra_dense_probe_with_hundreds_of_neighbours():
    neighbours = local_neighbours(geometry("NP1110").locations_um[:192], (40.0, 200.0))
    traces = traces_like(192, 130, seed=5)
    assert neighbours.sum(axis=1).max() > 90
    np.testing.assert_array_equal(
        subtract_medians(traces.copy(), median_program(neighbours)), by_numpy(traces, neighbours)
    )


@pytest.mark.parametrize("n_samples", [1, BLOCK - 1, BLOCK, BLOCK + 1, TASK_SAMPLES + 5, 3 * TASK_SAMPLES])
def test_lengths_and_threads_make_no_difference(n_samples):
    neighbours = local_neighbours(geometry("NP2000", 24).locations_um)
    traces = traces_like(24, n_samples, seed=6)
    program = median_program(neighbours)
    alone = subtract_medians(traces.copy(), program)
    np.testing.assert_array_equal(alone, by_numpy(traces, neighbours))
    for n_threads in (1, 3):
        with ThreadPoolExecutor(n_threads) as pool:
            np.testing.assert_array_equal(subtract_medians(traces.copy(), program, pool), alone)


def test_sharing_pays_and_planning_is_quick():
    start = time.process_time()
    neighbours = local_neighbours(geometry("NP1020").locations_um)
    program = median_program(neighbours)
    assert time.process_time() - start < 10
    # Each channel's own tree of merges would take one merge fewer than it has neighbours.
    assert program.n_merges < (neighbours.sum() - len(neighbours)) / 3


def test_refuses_what_it_cannot_do():
    program = median_program(np.ones((4, 4), dtype=bool))
    with pytest.raises(ValueError, match=r"expected \(4, samples\) float32"):
        subtract_medians(np.zeros((4, 10)), program)
    with pytest.raises(ValueError, match=r"expected \(4, samples\) float32"):
        subtract_medians(np.zeros((5, 10), dtype=np.float32), program)
    with pytest.raises(ValueError, match="square"):
        median_program(np.ones((3, 4), dtype=bool))


def test_compiled_code_is_kept_for_the_next_process(tmp_path):
    script = (
        "import time, numpy as np\n"
        "from powerpixels.medians import median_program, subtract_medians\n"
        "start = time.process_time()\n"
        "subtract_medians(np.zeros((3, 5), dtype=np.float32), median_program(np.ones((3, 3), dtype=bool)))\n"
        "print(time.process_time() - start)\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent / "bin"),
    }

    def seconds() -> float:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    first, second = seconds(), seconds()
    assert list(tmp_path.rglob("*.nbc"))
    assert first < 15
    assert second < first / 3
