"""The policy ``--drift``: who corrects a sorting unit's drift, if anyone."""

from __future__ import annotations

from typing import NamedTuple

# Kilosort's documentation advises against drift correction at around 64 channels or fewer: the depth
# histogram is too sparse to register.
MIN_DRIFT_CHANNELS = 65

POLICIES = ("auto", "sorter", "off", "dredge")


class DriftPolicy(NamedTuple):
    """Whether the sorter's own drift correction is to be on, and why."""

    correct: bool
    reason: str


def sorter_policy(policy: str, n_channels: int) -> DriftPolicy:
    """What ``--drift policy`` means for the sorter of a unit with n_channels channels.

    "auto": on from MIN_DRIFT_CHANNELS channels. "sorter": on. "off": off. "dredge": off, for the traces come
    corrected to the sorter. Raises ValueError for another policy.
    """
    if policy == "auto":
        if n_channels >= MIN_DRIFT_CHANNELS:
            return DriftPolicy(
                True, f"{n_channels} channels, at least {MIN_DRIFT_CHANNELS}: the sorter's own is on"
            )
        return DriftPolicy(
            False, f"{n_channels} channels, fewer than {MIN_DRIFT_CHANNELS}: the sorter's own is off"
        )
    if policy == "sorter":
        return DriftPolicy(True, "--drift sorter: the sorter's own is on")
    if policy == "off":
        return DriftPolicy(False, "--drift off: nothing is corrected")
    if policy == "dredge":
        return DriftPolicy(
            False, "--drift dredge: before sorting, as motion.json says; the sorter's own is off"
        )
    raise ValueError(f"{policy!r} is no drift policy; known: {', '.join(POLICIES)}")
