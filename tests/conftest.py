"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data" / "real"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings' files beside the checkout; tests that need it skip without it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real recordings are not here: no folder {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def session_small(tmp_path_factory) -> Path:
    """The small simulated session (powerpixels.simulate), made once for all tests; read it, never write."""
    from powerpixels.simulate import SimulationConfig, simulate_session

    folder = tmp_path_factory.mktemp("simulated") / "small"
    simulate_session(folder, SimulationConfig.small())
    return folder
