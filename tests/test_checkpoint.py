"""Checkpoint files: what comes back is what went in, or an error; nothing half-written is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from powerpixels.checkpoint import UnreadableCheckpointError, load_checkpoint, save_checkpoint


def same(a, b) -> None:
    """The same kinds, values, types and order of axes in memory, all the way down."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and (a.strides == b.strides or not a.size)
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and (a.stride() == b.stride() or not a.numel())
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype
        np.testing.assert_equal(a, b)
    else:
        assert a == b


def test_everything_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    cube = rng.normal(size=(3, 4, 5)).astype(np.float32)
    state = {
        "plain": [None, True, 3, -0.1, float("inf"), "µm", (1, [2.5])],
        "scalars": [np.float32(0.1), np.float64(np.nan), np.int64(2**40), np.bool_(True)],
        "arrays": {"": cube, "turned": cube.transpose(2, 0, 1), "none": np.empty((0, 4)), "one": np.array(7)},
        "tensors": [
            torch.from_numpy(cube).transpose(1, 2),
            torch.tensor([1.5, float("nan")]).double(),
            torch.get_rng_state(),
            torch.zeros((2, 0), dtype=torch.int32),
            torch.tensor(3),
        ],
        "random": np.random.RandomState(3).get_state(),
    }
    size = save_checkpoint(tmp_path / "a b.npz", state)
    assert [path.name for path in tmp_path.iterdir()] == ["a b.npz"]
    assert size == (tmp_path / "a b.npz").stat().st_size
    same(state, load_checkpoint(tmp_path / "a b.npz"))


@pytest.mark.parametrize(
    "value", [{1: 2}, {"a": {3}}, np.array([None]), object()], ids=["key", "set", "objects", "object"]
)
def test_what_it_cannot_hold_is_an_error_and_leaves_the_file_alone(tmp_path, value):
    save_checkpoint(tmp_path / "c.npz", {"a": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "c.npz", value)
    assert load_checkpoint(tmp_path / "c.npz") == {"a": 1}


def test_any_damage_is_told(tmp_path):
    path = tmp_path / "c.npz"
    save_checkpoint(path, {"a": np.arange(5000.0), "b": torch.arange(300)})
    whole = path.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableCheckpointError):
            load_checkpoint(path)
    for at in range(200, 40_000, 1999):
        changed = bytearray(whole)
        changed[at] ^= 16
        path.write_bytes(changed)
        with pytest.raises(UnreadableCheckpointError):
            load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none")


def test_a_failed_writing_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.npz", {"a": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / "c.npz", {"a": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "c.npz") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1
