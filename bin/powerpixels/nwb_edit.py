"""Changes datasets of an NWB in place, whichever way it is stored: HDF5 or Zarr.

pynwb can add to a file but not replace what is in it.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# Columns of units that hold the same as a file of ALF.
OF_ALF = {
    "amplitude_v": "clusters.amps",
    "depth_um": "clusters.depths",
    "peak_to_trough_ms": "clusters.peakToTrough",
}


def dandi_label(text: str) -> str:
    """A subject, session or probe as part of a DANDI file name."""
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


@contextmanager
def edited_copy(source: Path, target: Path) -> Iterator[HDF5Edit | ZarrEdit]:
    """A copy of an NWB to edit, which has the target's name once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    if source.is_dir():
        import zarr

        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        yield ZarrEdit(zarr.open_group(str(partial), mode="r+"))
        zarr.consolidate_metadata(str(partial))
    else:
        import h5py

        shutil.copyfile(source, partial)
        with h5py.File(partial, "r+") as file:
            yield HDF5Edit(file)
    partial.rename(target)


class HDF5Edit:
    """An open HDF5 file."""

    def __init__(self, root) -> None:
        """root: the open file's group."""
        self.root = root

    def columns(self, table: str) -> list[str]:
        """Names of a table's datasets."""
        return sorted(self.root[table])

    def is_text(self, path: str) -> bool:
        """Whether a dataset holds texts."""
        import h5py

        return h5py.check_string_dtype(self.root[path].dtype) is not None

    def read(self, path: str) -> np.ndarray:
        """A dataset's values; texts as str."""
        found = self.root[path].asstr() if self.is_text(path) else self.root[path]
        return np.atleast_1d(found[()])

    def replace(self, path: str, values: np.ndarray) -> None:
        """Put values in a dataset's place; its attributes and kind of values stay."""
        old = self.root[path]
        attributes, packed = dict(old.attrs), {}
        if values.size and old.compression:
            packed = {name: getattr(old, name) for name in ("compression", "compression_opts", "shuffle")}
        dtype = old.dtype if values.dtype.kind in "OU" else values.dtype
        shape = () if old.shape == () else values.shape
        del self.root[path]
        self.root.create_dataset(path, data=np.reshape(values, shape), dtype=dtype, **packed)
        self.root[path].attrs.update(attributes)

    def point_at(self, index: str, target: str) -> None:
        """Let an index's reference be to the dataset that took the target's place."""
        self.root[index].attrs["target"] = self.root[target].ref

    def add_texts(self, table: str, name: str, values: list[str], like: str, description: str) -> None:
        """A further column of texts."""
        import h5py

        column = self.root[table].create_dataset(
            name, data=np.array(values, dtype=object), dtype=h5py.string_dtype()
        )
        column.attrs.update(dict(self.root[table][like].attrs))
        column.attrs.update({"description": description, "object_id": str(uuid.uuid4())})
        names = self.root[table].attrs["colnames"]
        self.root[table].attrs["colnames"] = np.array([*names, name], dtype=object)


class ZarrEdit:
    """An open Zarr group, with the same methods. References are paths: what is replaced stays meant."""

    def __init__(self, root) -> None:
        """root: the open file's group."""
        self.root = root

    def columns(self, table: str) -> list[str]:
        """Names of a table's datasets."""
        return sorted(self.root[table].array_keys())

    def is_text(self, path: str) -> bool:
        """Whether a dataset holds texts."""
        return any("VLenUTF8" in repr(codec) for codec in self.root[path].filters or ())

    def read(self, path: str) -> np.ndarray:
        """A dataset's values; texts as str."""
        return np.atleast_1d(self.root[path][...])

    def replace(self, path: str, values: np.ndarray) -> None:
        """Put values in a dataset's place; its attributes and kind of values stay."""
        old = self.root[path]
        attributes, codec = old.attrs.asdict(), (old.filters or [None])[0]
        of_objects = values.dtype.kind in "OU"
        values = values.astype(object) if of_objects else values
        self._write(path, values, old.compressor, codec if of_objects else None)
        self.root[path].attrs.put(attributes)

    def _write(self, path: str, values: np.ndarray, compressor, object_codec) -> None:
        packed = {"compressor": compressor}
        if object_codec is not None:
            packed["object_codec"] = object_codec
        self.root.create_dataset(path, shape=values.shape, dtype=values.dtype, overwrite=True, **packed)
        if values.size:
            self.root[path][...] = values

    def point_at(self, index: str, target: str) -> None:
        """Nothing is to be done."""

    def add_texts(self, table: str, name: str, values: list[str], like: str, description: str) -> None:
        """A further column of texts."""
        example, path = self.root[table][like], f"{table}/{name}"
        self._write(path, np.array(values, dtype=object), example.compressor, example.filters[0])
        own = {"description": description, "object_id": str(uuid.uuid4())}
        self.root[path].attrs.put({**example.attrs.asdict(), **own})
        self.root[table].attrs["colnames"] = [*self.root[table].attrs["colnames"], name]
