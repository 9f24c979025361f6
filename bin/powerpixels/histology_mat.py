"""Structs in MATLAB files, whether of the old format (version 7 and before) or HDF5 (version 7.3).

Both kinds of file are read through ``Struct``, so that readers of a tool's files see one thing. Only what is
asked for is read: such files also hold tables, graphics handles and images that nobody needs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import io

from powerpixels.stage import DataError


def variables(path: Path) -> list[str]:
    """Names of the variables in a MATLAB file; raises ``DataError`` where it is none or damaged."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return [name for name in file if not name.startswith("#")]
        return [name for name, _, _ in io.whosmat(path)]
    # Of a damaged file scipy and h5py raise nearly anything.
    except Exception as error:
        raise _broken(path, error) from None


def load_struct(path: Path, name: str) -> Struct:
    """The struct (or array of structs) that is a MATLAB file's variable.

    Raises ``DataError`` where the file is damaged, lacks the variable, or the variable is no struct.
    """
    try:
        if h5py.is_hdf5(path):
            file = h5py.File(path, "r")
            value = _from_hdf5(path, file, file[name])
        else:
            value = _from_array(path, io.loadmat(path, variable_names=[name])[name])
    except DataError:
        raise
    except Exception as error:
        raise _broken(path, error) from None
    if not isinstance(value, Struct):
        raise DataError(f"{path}: expected the variable {name} to be a struct, found none; save it again")
    return value


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: expected a MATLAB file, it can't be read ({error}); save it again, or copy it anew"
    )


class Struct:
    """An array of MATLAB structs, elements counted from 0.

    Values are float64 arrays with MATLAB's shape (logical and integer classes too), str, list (cell arrays,
    column by column), Struct, or None for anything else (tables, handles). Empty values of every class are
    arrays of size 0.
    """

    path: Path

    def __len__(self) -> int:
        """How many structs there are."""
        raise NotImplementedError

    def has(self, field: str) -> bool:
        """Whether the structs have a field."""
        raise NotImplementedError

    def _raw(self, element: int, field: str) -> Any:
        raise NotImplementedError

    def _value(self, raw: Any) -> Any:
        raise NotImplementedError

    def _size(self, raw: Any) -> tuple[int, ...]:
        raise NotImplementedError

    def get(self, element: int, field: str) -> Any:
        """A field's value; raises ``DataError`` where the structs lack the field or it can't be read."""
        return self._value(self._checked(element, field))

    def size(self, element: int, field: str) -> tuple[int, ...]:
        """MATLAB's size of a field's value, which is not read."""
        return self._size(self._checked(element, field))

    def _checked(self, element: int, field: str) -> Any:
        if not self.has(field):
            raise DataError(f"{self.path}: expected a field {field!r}, there is none; save it with its tool")
        try:
            return self._raw(element, field)
        except Exception as error:
            raise _broken(self.path, error) from None


@dataclass
class _ArrayStruct(Struct):
    """A struct array as scipy gives it: an array with named fields of objects."""

    path: Path
    array: np.ndarray

    def __post_init__(self) -> None:
        self.array = self.array.ravel(order="F")

    def __len__(self) -> int:
        return len(self.array)

    def has(self, field: str) -> bool:
        return field in self.array.dtype.names

    def _raw(self, element: int, field: str) -> Any:
        return self.array[element][field]

    def _value(self, raw: Any) -> Any:
        return _from_array(self.path, raw)

    def _size(self, raw: Any) -> tuple[int, ...]:
        return np.shape(raw)


def _from_array(path: Path, raw: Any) -> Any:
    # A struct without fields has None for its elements.
    if raw is None:
        return None
    array = np.asarray(raw)
    if array.size == 0:
        return np.zeros((0, 0))
    if array.dtype.names is not None:
        # Tables, strings and handles come as records of one opaque object.
        if isinstance(raw, io.matlab.MatlabOpaque):
            return None
        return _ArrayStruct(path, array)
    if array.dtype.kind == "U":
        return str(array.ravel()[0])
    if array.dtype.kind == "O":
        return [_from_array(path, item) for item in array.ravel(order="F")]
    return array.astype(float)


@dataclass
class _HdfStruct(Struct):
    """A struct array in an HDF5 file: a group whose fields are values, or datasets of references to them."""

    path: Path
    file: h5py.File
    group: h5py.Group

    def _is_array(self, item: h5py.Dataset | h5py.Group) -> bool:
        return (
            isinstance(item, h5py.Dataset)
            and h5py.check_ref_dtype(item.dtype) is not None
            and "MATLAB_class" not in item.attrs
        )

    def __len__(self) -> int:
        first = next(iter(self.group.values()), None)
        return first.size if first is not None and self._is_array(first) else 1

    def has(self, field: str) -> bool:
        return field in self.group

    def _raw(self, element: int, field: str) -> Any:
        item = self.group[field]
        # HDF5 keeps MATLAB's column-major data row by row: the order of elements stays the same.
        return self.file[item[()].ravel()[element]] if self._is_array(item) else item

    def _value(self, raw: Any) -> Any:
        return _from_hdf5(self.path, self.file, raw)

    def _size(self, raw: Any) -> tuple[int, ...]:
        return (0, 0) if raw.attrs.get("MATLAB_empty", 0) else raw.shape[::-1]


def _from_hdf5(path: Path, file: h5py.File, item: h5py.Dataset | h5py.Group) -> Any:
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    # An empty value is stored as its size.
    if item.attrs.get("MATLAB_empty", 0):
        return np.zeros((0, 0))
    if isinstance(item, h5py.Group):
        return _HdfStruct(path, file, item) if kind == "struct" else None
    if kind == "cell":
        return [_from_hdf5(path, file, file[reference]) for reference in item[()].ravel()]
    if kind == "char":
        return "".join(chr(code) for code in item[()].ravel(order="F"))
    if h5py.check_ref_dtype(item.dtype) is not None or "MATLAB_object_decode" in item.attrs:
        return None
    return item[()].T.astype(float)
