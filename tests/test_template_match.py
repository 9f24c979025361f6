"""The fused match against Kilosort's own function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kilosort import spikedetect
from powerpixels import template_match

STOCK = spikedetect.template_match


def problem(n_channels: int, n_samples: int, n_near2: int, seed: int):
    """Random traces with spikes in them, on two columns of contacts, and Kilosort's own geometry tensors."""
    rng = np.random.default_rng(seed)
    yc = np.repeat(np.arange(n_channels // 2) * 20.0, 2).astype(np.float32)
    xc = np.tile([0.0, 32.0], n_channels // 2).astype(np.float32)
    wTEMP = torch.from_numpy(rng.normal(size=(6, 61)).astype(np.float32))
    wTEMP = wTEMP / torch.linalg.norm(wTEMP, dim=1, keepdim=True)
    ys, xs = np.meshgrid(np.unique(yc), [0.0, 16.0, 32.0])
    ys, xs = ys.flatten(), xs.flatten()
    device = torch.device("cpu")
    iC, ds = spikedetect.nearest_chans(ys, yc, xs, xc, 10, device=device)
    iC2, _ = spikedetect.nearest_chans(ys, ys, xs, xs, min(n_near2, len(ys)), device=device)
    sizes = 10 * (1 + torch.arange(5))
    weigh = torch.exp(-torch.from_numpy(ds).float().unsqueeze(-1) / sizes**2)
    weigh = torch.permute(weigh, (2, 0, 1)).contiguous()
    weigh = weigh / (weigh**2).sum(1).unsqueeze(1) ** 0.5
    X = torch.from_numpy(rng.normal(size=(n_channels, n_samples)).astype(np.float32))
    for t in rng.integers(0, n_samples - 61, 60):
        shape = wTEMP[rng.integers(6)] * float(rng.choice([-25, 25]))
        centre = rng.integers(n_channels)
        for channel in range(max(centre - 2, 0), min(centre + 3, n_channels)):
            X[channel, t : t + 61] += shape * 0.7 ** abs(channel - centre)
    ops = {"nt": 61, "wTEMP": wTEMP, "Th_universal": 9.0, "settings": {"nt0min": 20, "n_templates": 6}}
    return X, ops, iC, iC2, weigh


@pytest.mark.parametrize("n_channels, n_near2", [(24, 100), (60, 12)])
@pytest.mark.parametrize("threads", [1, 2])
def test_equal_to_kilosorts(n_channels, n_near2, threads):
    """Same places, same template and sign; amplitudes to rounding. Samples that are no multiple of the block."""
    X, ops, iC, iC2, weigh = problem(n_channels, 7321, n_near2, seed=n_channels)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = STOCK(X, ops, iC, iC2, weigh, device=torch.device("cpu"))
        found = template_match.template_match(X, ops, iC, iC2, weigh)
    finally:
        torch.set_num_threads(before)
    assert len(expected[0]) > 30
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert (expected[3] < 0).any() and (expected[3] > 0).any()
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[3], expected[3], rtol=1e-5, atol=1e-5)


def test_nothing_above_the_threshold():
    X, ops, iC, iC2, weigh = problem(24, 3000, 100, seed=3)
    found = template_match.template_match(X * 0, ops, iC, iC2, weigh)
    assert [len(part) for part in found[:3]] == [0, 0, 0] and found[3].shape == (10, 0)


def test_only_for_versions_it_was_checked_against(monkeypatch):
    monkeypatch.setattr(spikedetect, "template_match", STOCK)
    monkeypatch.setattr(template_match, "CHECKED_VERSIONS", ("0.0",))
    assert not template_match.install() and spikedetect.template_match is STOCK
    monkeypatch.setattr(template_match, "CHECKED_VERSIONS", ("4.1.7",))
    assert template_match.install() and spikedetect.template_match is template_match.template_match
