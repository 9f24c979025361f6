"""Launchers of the pipeline for the tests in this folder."""

from __future__ import annotations

import pytest
from driver import ENGINES, Launcher


@pytest.fixture(params=ENGINES)
def launcher(request, tmp_path) -> Launcher:
    """A launcher for each engine, in an empty folder."""
    return Launcher(request.param, tmp_path / "launch")


@pytest.fixture
def oldest(tmp_path) -> Launcher:
    """A launcher of the oldest supported engine, in an empty folder."""
    return Launcher(ENGINES[0], tmp_path / "launch")
