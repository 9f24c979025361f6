"""Agreement of the labels: kappa as scikit-learn has it, counts by hand, probes together as one."""

from __future__ import annotations

import numpy as np
import pytest
from powerpixels.agreement import TOOLS, agreement, combined
from sklearn.metrics import cohen_kappa_score

LABELS = {
    "kilosort": ["good", "good", "mua", "good", "mua", "good"],
    "bombcell": ["good", "non_soma", "noise", "good", "good", "unjudged"],
    "unitrefine": ["unjudged"] * 6,
    "ibl": ["good", "mua", "mua", "good", "mua", "good"],
}


def _random(seed: int, n: int) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    words = ["good", "mua", "noise", "unjudged"]
    return {tool: rng.choice(words, n, p=[0.5, 0.2, 0.2, 0.1]).tolist() for tool in TOOLS}


def test_counts_leave_out_the_unjudged():
    found = agreement(LABELS)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert len(pairs) == 6 and found.n_units == 6
    assert found.judged == {"kilosort": 6, "bombcell": 5, "unitrefine": 0, "ibl": 6}
    pair = pairs["kilosort", "bombcell"]
    assert pair.counts == {"good": {"good": 2, "non_soma": 1}, "mua": {"good": 1, "noise": 1}}
    assert pair.n == 5
    nothing = pairs["kilosort", "unitrefine"]
    assert (nothing.n, nothing.kappa, nothing.counts) == (0, None, {})


def test_kappa_is_scikit_learns():
    labels = _random(3, 200)
    for pair in agreement(labels).pairs:
        both = [
            (one == "good", other == "good")
            for one, other in zip(labels[pair.first], labels[pair.second], strict=True)
            if "unjudged" not in (one, other)
        ]
        assert pair.n == len(both)
        assert pair.kappa == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)), abs=1e-12)


def test_kappa_of_one_label_only_is_not_defined():
    found = agreement({tool: ["good", "good"] for tool in TOOLS})
    assert {pair.kappa for pair in found.pairs} == {None}


def test_probes_together_are_as_one():
    parts = [_random(seed, n) for seed, n in ((0, 40), (1, 7), (2, 0))]
    whole = agreement({tool: sum((part[tool] for part in parts), []) for tool in TOOLS})
    assert combined([agreement(part) for part in parts]) == whole.model_copy(update={"n_probes": 3})
    nothing = combined([])
    assert (nothing.n_probes, nothing.n_units, {pair.kappa for pair in nothing.pairs}) == (0, 0, {None})
