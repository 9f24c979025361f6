"""Where a probe's channels lie in the brain: what IBL's alignment tool wrote, joined to the probe's channels.

Coordinates are IBL's: µm from bregma, x ML (right +), y AP (anterior +), z DV (up +), in the Allen CCF of
2017. The regions' names are those of the ontology table that iblatlas ships. Importing this module needs
numpy alone, so that `powerpixels.load_neural_data` works with little installed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from powerpixels.stage import DataError

if TYPE_CHECKING:
    from powerpixels.documents import Channel

# A brain location belongs to the channel that lies within this of where it says that it lies.
SAME_PLACE_UM = 1.0


class BrainLocation(NamedTuple):
    """A channel's place: µm from bregma (ML right +, AP anterior +, DV up +) and the region there.

    atlas_id: of the Allen CCF's structure, negative in the left hemisphere where the alignment told the
    hemispheres apart. acronym: that structure's ("CA1"; "void" is outside of the brain).
    """

    x_um: float
    y_um: float
    z_um: float
    atlas_id: int
    acronym: str


def load_channel_locations(
    paths: Sequence[Path | str], channels: Sequence[Channel]
) -> dict[int, BrainLocation]:
    """Brain locations of a probe's channels by raw file column; empty where there are no paths.

    paths: the probe's channel_locations.json, or one channel_locations_shank<k>.json for each aligned shank.
    channels: those that were published for the alignment, in the order of ALF's channels.* (ascending in
    raw_column). Channels that the alignment leaves out, such as those of a shank that was not aligned, are
    not in the result.

    Raises ``DataError`` for a file that is no alignment, one of other channels (their positions on the probe
    differ), a channel in two files, and a region that the ontology does not have or names otherwise.
    """
    positions = np.array([[c.x_um, c.y_um] for c in channels], dtype=float).reshape(-1, 2)
    columns = [channel.raw_column for channel in channels]
    found = read_locations(paths, positions)
    acronyms = region_acronyms() if found else {}
    for row, location in found.items():
        name = acronyms.get(abs(location.atlas_id))
        if name != location.acronym:
            raise DataError(
                f"{', '.join(str(path) for path in paths)}: expected regions of the Allen CCF's ontology, "
                f"found {location.acronym!r} with the id {location.atlas_id}, "
                + (f"which is {name!r} there" if name is not None else "which it does not have")
                + f", for the channel of raw column {columns[row]}; align with the Allen atlas"
            )
    return {columns[row]: location for row, location in sorted(found.items())}


@cache
def region_acronyms() -> dict[int, str]:
    """Acronym of each structure id of the Allen CCF 2017, as iblatlas ships the table; 0 is "void"."""
    table = resources.files("iblatlas") / "allen_structure_tree.csv"
    with table.open(encoding="utf-8", newline="") as file:
        return {int(row["id"]): row["acronym"] for row in csv.DictReader(file)}


def read_locations(paths: Sequence[Path | str], positions: np.ndarray) -> dict[int, BrainLocation]:
    """Locations by row of channels.*, as the files have them.

    positions: (c, 2) float µm, lateral and axial, of the rows. Raises ``DataError`` as
    ``load_channel_locations``, but takes any region.
    """
    found: dict[int, BrainLocation] = {}
    seen: dict[int, str] = {}
    for path in map(Path, paths):
        for row, entry in _entries(path, positions):
            if row in seen:
                raise DataError(
                    f"{path}: expected channels that no other file has, found channel {row} in "
                    f"{seen[row]}, too; leave only the files of this probe"
                )
            seen[row] = path.name
            try:
                x, y, z = (float(entry[axis]) for axis in "xyz")
                found[row] = BrainLocation(x, y, z, int(entry["brain_region_id"]), str(entry["brain_region"]))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: expected x, y, z, brain_region and brain_region_id of each channel, found "
                    f"otherwise ({error!r}); save the alignment again"
                ) from None
    return found


def _entries(path: Path, positions: np.ndarray) -> list[tuple[int, dict]]:
    """(row of channels, location) of each entry of a channel_locations file.

    A contact's position on the probe is its own, and the tool writes it: it tells the row. The tool's own
    numbers do not, as it counts the channels of one shank anew; programs have also written the raw file's
    column as original_channel_idx. Numbers count only where a file has no positions.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        # The tool names bregma "origin" beside the channels.
        entries = {
            int(match.group(1)): entry
            for name, entry in entries.items()
            if (match := re.fullmatch(r"channel_(\d+)", name))
        }
        rows = [_row(entry, k, positions) for k, entry in entries.items()]
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}: expected an alignment's channel locations, found otherwise ({error})"
        ) from None
    if not entries:
        raise DataError(
            f"{path}: expected entries channel_0, channel_1, ..., found none; align the probe again"
        )
    if None in rows:
        raise DataError(
            f"{path}: expected the positions of this probe's channels, found others ({len(entries)} channels "
            f"of {len(positions)}); was it aligned with another probe's or an earlier export's files?"
        )
    return list(zip(rows, entries.values(), strict=True))


def _row(entry: dict, number: int, positions: np.ndarray) -> int | None:
    """The row of the channel that lies where the entry says that it does; None where there is none."""
    if "lateral" in entry and "axial" in entry:
        away = np.abs(positions - [float(entry["lateral"]), float(entry["axial"])]).max(axis=1, initial=0.0)
        near = np.flatnonzero(away <= SAME_PLACE_UM)
        return int(near[0]) if len(near) == 1 else None
    row = int(entry.get("original_channel_idx", number))
    return row if 0 <= row < len(positions) else None
