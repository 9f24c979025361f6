"""What IBL's alignment tool does with a probe's folder, as its local loader and plots were seen to (iblapps 75adc10).

In our own words: how it finds the shanks, which of the folder's files it takes for one, in which units, and what
it writes for it in the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from one.alf.io import load_object

OBJECTS = ("spikes", "clusters", "channels", "ephysTimeRmsAP", "ephysTimeRmsLF", "ephysSpectralDensityLF")


class AlignmentTool:
    """Its view of a folder. n_shanks: gaps of more than 100 µm between the channels' x, and one."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.positions = np.load(self.folder / "channels.localCoordinates.npy")
        self.x = np.unique(self.positions[:, 0])
        self.n_shanks = int((np.diff(self.x) > 100).sum()) + 1

    def rows(self, shank: int) -> np.ndarray:
        """Rows of channels of its shank, counted from 0: those between the shank's two columns of contacts."""
        if self.n_shanks == 1:
            return np.arange(len(self.positions))
        low, high = self.x[2 * shank], self.x[2 * shank + 1]
        return np.flatnonzero((self.positions[:, 0] >= low) & (self.positions[:, 0] <= high))

    def picks(self, shank: int) -> np.ndarray:
        """The track it starts from, metres; there must be exactly one file of that name."""
        name = "*xyz_picks.json" if self.n_shanks == 1 else f"*xyz_picks_shank{shank + 1}.json"
        (path,) = self.folder.glob(name)
        return np.array(json.loads(path.read_text())["xyz_picks"]) / 1e6

    def data(self) -> dict:
        """All objects, as ALF loads them; what is not there it leaves out with a warning."""
        return {name: load_object(self.folder, name) for name in OBJECTS}

    def seen(self, name: str, key: str) -> np.ndarray:
        """What it draws of an object's array (rows, columns): the columns that the channels' rawInd name."""
        return load_object(self.folder, name)[key][:, load_object(self.folder, "channels")["rawInd"]]

    def save(self, shank: int, region_ids: np.ndarray, acronyms: list[str], xyz: np.ndarray) -> Path:
        """Write a shank's channel locations: its channels counted anew, xyz in metres from bregma."""
        rows = self.rows(shank)
        entries = {
            f"channel_{k}": {
                "x": float(xyz[k, 0] * 1e6),
                "y": float(xyz[k, 1] * 1e6),
                "z": float(xyz[k, 2] * 1e6),
                "axial": float(self.positions[row, 1]),
                "lateral": float(self.positions[row, 0]),
                "brain_region_id": int(region_ids[k]),
                "brain_region": acronyms[k],
            }
            for k, row in enumerate(rows)
        }
        entries["origin"] = {"bregma": [5739.0, 5400.0, 332.0]}
        name = "channel_locations.json" if self.n_shanks == 1 else f"channel_locations_shank{shank + 1}.json"
        path = self.folder / name
        path.write_text(json.dumps(entries, indent=2))
        return path
