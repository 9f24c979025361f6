"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = ROOT.parent / "shared" / "data" / "real"
# Modules whose tests start Nextflow, a sorter or a browser, read whole real recordings, or compute for long.
SLOW = {
    "test_analyze",
    "test_bombcell_labels",
    "test_checkpoint",
    "test_curate",
    "test_drift",
    "test_fast_pass",
    "test_kilosort_run",
    "test_lfp",
    "test_motion",
    "test_nwb",
    "test_real_openephys",
    "test_real_spikeglx",
    "test_real_sync",
    "test_sort",
    "test_sorters",
    "test_sorters_with_drift",
    "test_template_match",
    "test_torch_pass",
    "test_unitrefine",
    "test_visualize",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is in SLOW or in a folder of its own: tests/pipeline, tests/cluster.

    The longest files first, so that none is left to one worker at the end (with --no-loadscope-reorder).
    """
    for item in items:
        if item.path.stem in SLOW or item.path.parent != ROOT / "tests":
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.path.parent == ROOT / "tests", item.get_closest_marker("slow") is None))


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
