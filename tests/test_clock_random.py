"""Random sessions with every kind of sync wave and every fault of it: right to one sample, or refused.

One sample is the probe's, 33 µs. The refusals are counted for each fault; see also benchmarks/sync.py, which
runs more of them.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from clock_streams import FAULTS, IRREGULAR, REGULAR, cases
from powerpixels.stage import DataError

N_EACH = 8
# Of the sessions with a fault, at most this part may be refused. Where the streams do not cover each other's
# time, or the wave is away for long, nobody can tell the time of what lies between. A third of the sessions has
# a NIDQ of 11.6 kHz, a quarter a wave of 0.2 Hz: most of the others' refusals are theirs.
MAX_REFUSED = {
    "none": 0.15,
    "first and last pulses lost": 0.15,
    "few pulses lost": 0.15,
    "many pulses lost": 0.15,
    "extra pulses": 0.15,
    "glitches": 0.15,
    "duplicated bursts": 0.15,
    "start and stop minutes apart": 0.7,
    "pause": 0.4,
    "gaps": 0.3,
    "counters minutes apart": 0.1,
}


@pytest.fixture(scope="module")
def outcomes():
    """(kind, fault, error in s or None, bound in s, refusal or None) of every random session."""
    found = []
    for case in cases(N_EACH, seed=5):
        try:
            fit = case.fit()
        except DataError as error:
            found.append((case.kind, case.fault, None, None, str(error)))
        else:
            found.append((case.kind, case.fault, case.error_s(fit), fit.bound_us * 1e-6, None))
    return found


def test_no_silent_error(outcomes):
    assert len(outcomes) >= 500
    assert {outcome[1] for outcome in outcomes} == set(FAULTS)
    wrong = [outcome for outcome in outcomes if outcome[2] is not None and outcome[2] >= 1 / 30000]
    assert wrong == []


def test_the_error_keeps_its_bound(outcomes):
    """The bound is one: no error exceeds it, though it is not much larger than errors are."""
    fitted = [outcome for outcome in outcomes if outcome[2] is not None]
    assert [outcome for outcome in fitted if outcome[2] > outcome[3]] == []
    assert np.median([outcome[3] for outcome in fitted]) < 40e-6


def test_refusals_are_few(outcomes):
    n = Counter((kind in REGULAR, fault) for kind, fault, *_ in outcomes)
    refused = Counter((kind in REGULAR, fault) for kind, fault, *_, error in outcomes if error)
    for fault, part in MAX_REFUSED.items():
        total = n[True, fault] + n[False, fault]
        assert (refused[True, fault] + refused[False, fault]) / total <= part, fault


def test_a_wave_that_repeats_itself_is_settled_by_counters_only(outcomes):
    """Without them it is refused, with the size of the ambiguity; an irregular wave tells by itself."""
    unknown = [outcome for outcome in outcomes if outcome[1] == "counter unknown"]
    for kind, _, _, _, error in unknown:
        if kind in REGULAR:
            size = float(re.search(r"shifted by any multiple of ([\d.]+) s", error)[1])
            assert size == pytest.approx(1 / float(kind.split()[0]), rel=1e-3)
    told = [outcome for outcome in unknown if outcome[0] in IRREGULAR and outcome[4] is None]
    assert len(told) >= 0.8 * len([outcome for outcome in unknown if outcome[0] in IRREGULAR])
