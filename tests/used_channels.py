"""A probe's channels in columns of the raw file that are neither contiguous nor ascending, for tests."""

from __future__ import annotations

from powerpixels.documents import Channel

USED = [4, 0, 2]


def used_channels() -> list[Channel]:
    """One channel for each of USED, on two shanks, 750 µm apart."""
    return [
        Channel(
            raw_column=column,
            channel_id=f"AP{10 + column}",
            contact_id=f"s{column % 2}e{column}",
            shank=3 * (column % 4 // 2),
            x_um=750.0 * (column % 4 // 2),
            y_um=15.0 * column,
            inter_sample_shift=column / 13,
            gain_uv=2.34375,
        )
        for column in USED
    ]
