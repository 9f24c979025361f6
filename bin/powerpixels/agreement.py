"""How far the labelling tools agree on a probe's units, pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from powerpixels.documents import Document

TOOLS = ("kilosort", "bombcell", "unitrefine", "ibl")
GOOD, UNJUDGED = "good", "unjudged"


class Pair(Document):
    """Two tools on the n units that both judged.

    counts: how many units the first calls so (outer key) and the second so (inner key). kappa: Cohen's, of
    good against all other labels, as not every tool tells those apart; None where it is not defined (no unit
    in common, or both give all units the same label).
    """

    first: str
    second: str
    n: int
    kappa: float | None
    counts: dict[str, dict[str, int]]


class Agreement(Document):
    """agreement.json: of a probe, or of all probes of a run (n_probes). judged: units by tool.

    sorting: what was sorted, the same in each of the sessions that were sorted as one: these and the probe.
    "" of all probes of a run, where such sessions count as one.
    """

    sorting: str = ""
    n_probes: int
    n_units: int
    judged: dict[str, int]
    pairs: list[Pair]


def agreement(labels: Mapping[str, Sequence[str]], sorting: str = "") -> Agreement:
    """Agreement on one probe's units. labels: by tool (all of TOOLS), one word for each unit, same order."""
    pairs = []
    for first, second in combinations(TOOLS, 2):
        both = Counter(
            (one, other)
            for one, other in zip(labels[first], labels[second], strict=True)
            if UNJUDGED not in (one, other)
        )
        pairs.append(_pair(first, second, both))
    judged = {tool: sum(word != UNJUDGED for word in labels[tool]) for tool in TOOLS}
    n_units = len(labels[TOOLS[0]])
    return Agreement(sorting=sorting, n_probes=1, n_units=n_units, judged=judged, pairs=pairs)


def combined(probes: Sequence[Agreement]) -> Agreement:
    """Agreement on the units of all probes together; of one sorting the first counts."""
    unnamed = [probe for probe in probes if not probe.sorting]
    of_sortings = {probe.sorting: probe for probe in reversed(probes) if probe.sorting}
    probes = [*unnamed, *of_sortings.values()]
    pairs = []
    for first, second in combinations(TOOLS, 2):
        both: Counter[tuple[str, str]] = Counter()
        for probe in probes:
            for pair in probe.pairs:
                if (pair.first, pair.second) == (first, second):
                    for one, row in pair.counts.items():
                        both.update({(one, other): count for other, count in row.items()})
        pairs.append(_pair(first, second, both))
    return Agreement(
        n_probes=sum(probe.n_probes for probe in probes),
        n_units=sum(probe.n_units for probe in probes),
        judged={tool: sum(probe.judged[tool] for probe in probes) for tool in TOOLS},
        pairs=pairs,
    )


def _pair(first: str, second: str, both: Counter[tuple[str, str]]) -> Pair:
    counts: dict[str, dict[str, int]] = {}
    for (one, other), count in sorted(both.items()):
        counts.setdefault(one, {})[other] = count
    return Pair(first=first, second=second, n=both.total(), kappa=_kappa(both), counts=counts)


def _kappa(both: Counter[tuple[str, str]]) -> float | None:
    table = np.zeros((2, 2))
    for (one, other), count in both.items():
        table[int(one == GOOD), int(other == GOOD)] += count
    total = table.sum()
    if not total:
        return None
    by_chance = (table.sum(axis=0) * table.sum(axis=1)).sum() / total**2
    if by_chance == 1:
        return None
    return float((np.trace(table) / total - by_chance) / (1 - by_chance))
