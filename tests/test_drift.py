"""The policy of drift correction: what each value of --drift means for the sorter, by number of channels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from exported_probe import motion_of
from powerpixels.documents import DriftChoice
from powerpixels.drift import POLICIES, sorter_policy
from powerpixels.export import _drift


@pytest.mark.parametrize(
    ("policy", "n_channels", "correct"),
    [
        ("auto", 95, True),
        ("auto", 65, True),
        ("auto", 64, False),
        ("auto", 24, False),
        ("sorter", 24, True),
        ("sorter", 384, True),
        ("off", 384, False),
        ("dredge", 384, False),
    ],
)
def test_who_corrects(policy, n_channels, correct):
    choice = sorter_policy(policy, n_channels)
    assert choice.correct is correct
    # The log and the report say why.
    assert (str(n_channels) in choice.reason) == (policy == "auto")
    assert policy == "auto" or f"--drift {policy}" in choice.reason


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=", ".join(POLICIES)):
        sorter_policy("yes", 384)


def unit(name: str, n_channels: int | None, policy: str = "auto"):
    made = n_channels is not None
    choice = DriftChoice(policy=policy, reason=sorter_policy(policy, n_channels).reason) if made else None
    return SimpleNamespace(sorting=SimpleNamespace(unit=name, drift=choice))


def test_the_summary_says_each_reason_once():
    """By sorting unit; a sorting from before the choice says nothing."""
    units = [unit("shank0", 96), unit("shank1", 24), unit("shank2", 96), unit("shank3", None)]
    assert _drift(units) == (
        "shank0, shank2: 96 channels, at least 65: the sorter's own is on; "
        "shank1: 24 channels, fewer than 65: the sorter's own is off"
    )
    assert _drift([unit("probe", None)]) == ""


def test_the_summary_says_whether_traces_were_corrected_before_sorting(tmp_path):
    units = [unit(f"shank{k}", 96, "dredge") for k in range(3)]
    skipped = "no motion was estimated: 12 channels, at least 16 are needed"
    motions = [
        motion_of(tmp_path / "0", "shank0", policy="dredge", corrected=True, message="9.0 µm up and down"),
        motion_of(tmp_path / "1", "shank1", estimated=False, policy="dredge", message=skipped),
    ]
    own = "--drift dredge: before sorting, as motion.json says; the sorter's own is off"
    assert _drift(units, motions) == (
        f"shank0: {own}; corrected: 9.0 µm up and down; shank1: {own}; not corrected: {skipped}; shank2: {own}"
    )
    # Of a unit of several shanks, of each.
    told = {"policy": "dredge", "message": "2.0 µm"}
    (tmp_path / "probe").mkdir()
    motion_of(tmp_path / "probe" / "shank0", "probe", shank=0, corrected=True, **told)
    motion_of(tmp_path / "probe" / "shank2", "probe", shank=2, **told)
    assert _drift([unit("probe", 96, "dredge")], [tmp_path / "probe"]) == (
        f"probe: {own}; shank 0 corrected: 2.0 µm; shank 2 not corrected: 2.0 µm"
    )
