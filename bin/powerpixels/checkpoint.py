"""One file that holds the state of a long computation: nested dictionaries of arrays, tensors and numbers.

A numpy .npz archive (nothing in it is code), with the structure as JSON beside the arrays. A file appears
under its name when it is whole; the archive's checksums tell a torn or altered one.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_STRUCTURE = "structure"


class UnreadableCheckpointError(Exception):
    """The file is torn, altered, or not a checkpoint."""


def save_checkpoint(path: Path, state: Any) -> int:
    """Replace the file at ``path`` by ``state`` at once; returns its bytes.

    state: dictionaries with str keys, lists, tuples, None, bool, int, float, str, numpy scalars and arrays,
    torch tensors. Arrays and tensors come back with the order of their axes in memory: sums over them
    round as before. Raises TypeError for anything else, and OSError where it can't be written.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(_encode(state, arrays))
    arrays[_STRUCTURE] = np.frombuffer(structure.encode(), dtype=np.uint8)
    # Two attempts of one task may overlap: each has a name of its own until it is done.
    partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        size = partial.stat().st_size
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return size


def load_checkpoint(path: Path, device=None) -> Any:
    """What ``save_checkpoint`` wrote; tensors that were on an accelerator go to ``device``.

    Raises FileNotFoundError, and UnreadableCheckpointError for a file that is not whole.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            structure = json.loads(arrays[_STRUCTURE].tobytes().decode())
            return _decode(structure, arrays, device)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, TypeError) as error:
        raise UnreadableCheckpointError(f"{type(error).__name__}: {error}") from error


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for value; its arrays go to ``arrays``, by a name of their own."""
    if isinstance(value, np.generic):
        return {"scalar": value.dtype.str, "value": value.item()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys of a checkpoint are text, found {list(value)}")
        return {"dict": {key: _encode(item, arrays) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, arrays) for item in value]}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {"array": _store(value, arrays), "axes": _memory_order(value.strides)}
    if type(value).__module__ == "torch" and hasattr(value, "stride"):
        on = "cpu" if value.device.type == "cpu" else "accelerator"
        array = value.detach().cpu().numpy()
        return {"tensor": _store(array, arrays), "axes": _memory_order(array.strides), "on": on}
    raise TypeError(f"a checkpoint can't hold a {type(value).__module__}.{type(value).__name__}")


def _memory_order(strides: tuple[int, ...]) -> list[int]:
    """Axes from the one with the longest stride to that with the shortest."""
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def _store(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = f"a{len(arrays)}"
    arrays[name] = array.transpose(_memory_order(array.strides))
    return name


def _decode(structure: Any, arrays, device) -> Any:
    if isinstance(structure, dict):
        if "scalar" in structure:
            return np.dtype(structure["scalar"]).type(structure["value"])
        if "dict" in structure:
            return {key: _decode(item, arrays, device) for key, item in structure["dict"].items()}
        if "list" in structure:
            return [_decode(item, arrays, device) for item in structure["list"]]
        if "tuple" in structure:
            return tuple(_decode(item, arrays, device) for item in structure["tuple"])
        back = np.argsort(structure["axes"]).tolist() if structure["axes"] else ()
        if "array" in structure:
            return arrays[structure["array"]].transpose(back)
        import torch

        # Cloned: memory of torch's own alignment, as before.
        tensor = torch.from_numpy(arrays[structure["tensor"]]).clone()
        if structure["on"] != "cpu":
            tensor = tensor.to(device)
        return tensor.permute(*back) if back else tensor
    return structure
