"""The pass by torch against the pass by numba, on torch's CPU device: both follow one plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from powerpixels import torch_pass
from powerpixels.artifacts import Detector, Muting
from powerpixels.documents import Block
from powerpixels.fast_pass import FastPass, ShankPass, UnitFile
from powerpixels.stage import TemporaryError
from powerpixels.torch_pass import TorchPass

RATE = 30000.0
N_SAMPLES = 100_000
COLUMNS = 50
GAIN_UV = 0.2


class Reader:
    """What FastPass asks of a StreamReader, of an array."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        self.stream = type("Stream", (), {"sampling_rate_hz": RATE})

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.rows[start:stop]


@pytest.fixture(scope="module")
def reader() -> Reader:
    """Band-limited noise that neighbours share, offsets, a line at 9 kHz and spikes."""
    rng = np.random.default_rng(5)
    own = rng.normal(size=(N_SAMPLES, COLUMNS)) + rng.normal(size=(N_SAMPLES, 1))
    smooth = (own + np.roll(own, 1, axis=0) + np.roll(own, 2, axis=0)) * 4
    smooth += 5 * np.sin(2 * np.pi * 9000 / RATE * np.arange(N_SAMPLES))[:, None]
    smooth[rng.integers(N_SAMPLES, size=300), rng.integers(COLUMNS, size=300)] -= 80
    return Reader(np.rint(smooth + rng.integers(-300, 300, size=COLUMNS)).astype(np.int16))


def shank(columns: np.ndarray, method: str) -> ShankPass:
    """Two staggered columns of contacts, two of them noisy, every third with a notch."""
    n = len(columns)
    weights = np.zeros((n - 2, 2))
    weights[[2, 3], [0, 1]], weights[[4, 5], [0, 1]] = 0.25, 0.75
    return ShankPass(
        columns=columns,
        gains_uv=np.linspace(2.0, 2.6, n),
        shifts=(columns % 12) / 13,
        locations_um=np.column_stack([(columns % 2) * 32.0, (columns // 2) * 20.0]),
        noisy=np.array([3, 7]),
        weights=weights,
        method=method,
        notches=[((9000.0, 60.0),) if k % 3 == 0 else () for k in range(n)],
        local_radius_um=(40.0, 200.0),
        depth_order=np.arange(n),
        levels_uv=np.linspace(8.0, 12.0, n),
        pad_channels=min(n, 20),
    )


def counts(chain: type[FastPass], reader: Reader, shanks: list[ShankPass], path, muting=None) -> np.ndarray:
    n = sum(len(one.columns) for one in shanks)
    with open(path, "wb") as file:
        file.truncate(N_SAMPLES * n * 2)
    # In two blocks, so that blocks have ends within the file.
    blocks = [(reader, Block(0, 70_000, 0))]
    blocks.append((reader, Block(70_000, 30_000, 90_000)))
    chain(blocks, [UnitFile(path, shanks)], 300.0, GAIN_UV, muting).run(2, 60, lambda written: None)
    return np.fromfile(path, dtype=np.int16).reshape(N_SAMPLES, n)


@pytest.mark.parametrize("methods", [("local", "global"), ("destripe", "local"), ("none", "destripe")])
def test_both_passes_write_the_same(reader, tmp_path, monkeypatch, methods):
    monkeypatch.setattr(torch_pass, "DEVICE", "cpu")
    # Small enough that the neighbours are sorted in several parts.
    monkeypatch.setattr(torch_pass, "SORT_VALUES", 2**22)
    order = np.random.default_rng(1).permutation(COLUMNS)
    shanks = [shank(np.sort(order[:29])[::-1].copy(), methods[0]), shank(np.sort(order[29:]), methods[1])]
    expected = counts(FastPass, reader, shanks, tmp_path / "fast.bin")
    found = counts(TorchPass, reader, shanks, tmp_path / "torch.bin")
    assert expected.std() > 30
    apart = np.abs(found.astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 2e-3
    # The blocks' ends are the same code's.
    np.testing.assert_array_equal(found[:1000], expected[:1000])
    np.testing.assert_array_equal(found[-1000:], expected[-1000:])


def test_muted_samples_are_the_same(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pass, "DEVICE", "cpu")
    rows = reader.rows.copy()
    rows[40_000:40_300] = 511
    saturated = Reader(rows)
    shanks = [shank(np.arange(COLUMNS), "local")]
    muting = Muting(Detector(np.arange(COLUMNS), np.full(COLUMNS, 2.3), RATE, 511), "saturation")
    expected = counts(FastPass, saturated, shanks, tmp_path / "fast.bin", muting)
    found = counts(TorchPass, saturated, shanks, tmp_path / "torch.bin", muting)
    assert not expected[40_010:40_290].any()
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_gpu_is_said(reader, tmp_path):
    with pytest.raises(TemporaryError, match="GPU"):
        counts(TorchPass, reader, [shank(np.arange(COLUMNS), "local")], tmp_path / "torch.bin")
