"""SORT: one sorting unit's preprocessed binary through a spike sorter.

Kilosort 4 runs through SpikeInterface on the binary itself, without a second copy of it.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from powerpixels.documents import PreprocessedUnit, SortingDocument
from powerpixels.stage import DataError, TemporaryError

log = logging.getLogger("powerpixels")

# Fewer channels can't tell one unit's spikes from another's by place.
MIN_CHANNELS = 4
# Kilosort's documentation advises against drift correction at around 64 channels or fewer: the depth
# histogram is too sparse to register.
MIN_DRIFT_CHANNELS = 65

# What the pipeline itself decides, not a user's parameter file.
_RESERVED = ("torch_device", "use_binary_file", "delete_recording_dat")

# How Kilosort and what it calls say that there was nothing to sort. Each is the text of an exception's
# last line: no spike for the universal templates, none for a cluster, too few clips to learn shapes from.
_NOTHING_TO_SORT = (
    "No spikes detected, cannot continue sorting.",
    "Wall is empty after `clustering_qr.run`",
    "`get_data_cpu` never found suitable channels",
    "should be >= n_clusters=",
    "a minimum of 1 is required by TruncatedSVD",
)


def sort_unit(
    unit_folder: Path,
    out: Path,
    sorter: str = "kilosort4",
    device: str = "auto",
    jobs: int = 1,
    parameters: dict[str, Any] | None = None,
    seed: int = 42,
) -> SortingDocument:
    """Sort a unit folder of PREPROCESS; write sorting.json, two arrays and the sorter's own folder.

    out/spike_samples.npy: int64, sorted, 0-based samples of the unit's recording, on the probe's clock.
    out/spike_unit_ids.npy: int64, the sorter's id of each spike's unit. out/sorter_output/: the sorter's
    files (opens in Phy), without a path of this machine. parameters: overrides of the sorter's defaults by
    name. device: "cpu", "cuda", or "auto" (cuda where there is one).

    A unit with fewer than MIN_CHANNELS channels, of no more than one batch of samples, or in which the
    sorter finds too little to work with, ends as status "skipped" with the reason, and empty arrays.

    Raises DataError for parameters that the sorter doesn't know or can't take; TemporaryError where
    device is "cuda" and there is none, or its memory is taken.
    """
    unit_folder, out = Path(unit_folder), Path(out)
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    effective = effective_parameters(len(unit.channels), parameters or {}, seed)
    out.mkdir(parents=True, exist_ok=True)

    def finish(status: str, message: str, samples, unit_ids, labels: dict[int, str]) -> SortingDocument:
        np.save(out / "spike_samples.npy", samples)
        np.save(out / "spike_unit_ids.npy", unit_ids)
        document = SortingDocument(
            probe=unit.probe,
            unit=unit.unit,
            sorter=sorter,
            sorter_version=metadata.version("kilosort"),
            status=status,
            message=message,
            parameters=effective,
            unit_ids=[int(unit_id) for unit_id in np.unique(unit_ids)],
            sorter_labels=labels,
        )
        document.save(out / "sorting.json")
        log.info("%s %s: %s. %s", unit.probe, unit.unit, status, message)
        return document

    def skip(reason: str) -> SortingDocument:
        nothing = np.empty(0, dtype=np.int64)
        return finish("skipped", reason, nothing, nothing, {})

    if len(unit.channels) < MIN_CHANNELS:
        return skip(f"{len(unit.channels)} usable channels, at least {MIN_CHANNELS} are needed")

    # Kilosort learns the whitening from all batches but the last, and drops a last one below a waveform.
    batch = effective["batch_size"] + effective["nt"]
    if unit.n_samples <= batch:
        return skip(f"{unit.n_samples} samples, more than one batch of {batch} is needed")

    device = _choose_device(device)
    effective["torch_device"] = device
    _limit_threads(jobs)
    if device == "cpu":
        from powerpixels import template_match

        template_match.install()
    if effective["nblocks"] == 0:
        log.info("drift correction off: %d channels", len(unit.channels))
    else:
        log.info("drift correction on: nblocks %s", effective["nblocks"])

    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        sorting = _run_sorter(sorter, unit_folder, work, effective)
        samples, unit_ids, n_outside = spikes_inside(sorting, unit.n_samples)
        labels = _sorter_labels(sorting, np.unique(unit_ids))
        _publish_sorter_output(work / "sorter_output", out / "sorter_output", unit_folder)
    except _NothingToSortError as nothing:
        return skip(str(nothing))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if n_outside:
        log.warning("%d spikes outside of the recording were dropped", n_outside)
    if samples.size == 0:
        return skip("the sorter found no spikes")
    n_units = np.unique(unit_ids).size
    return finish("sorted", f"{n_units} units, {samples.size} spikes", samples, unit_ids, labels)


def effective_parameters(n_channels: int, overrides: dict[str, Any], seed: int) -> dict[str, Any]:
    """All parameters of Kilosort 4 for a recording of n_channels channels, JSON-able.

    Kilosort's defaults, but: no common average reference (PREPROCESS referenced already, within
    shanks); drift correction (nblocks) off below MIN_DRIFT_CHANNELS channels; the clustering seed. Kilosort's
    other random steps have fixed seeds of their own. The user's overrides come last.

    Raises DataError for an unknown name (it names the nearest known) and for a value of a wrong kind.
    """
    from kilosort.parameters import EXTRA_PARAMETERS, MAIN_PARAMETERS
    from spikeinterface.core.job_tools import job_keys
    from spikeinterface.sorters import get_default_sorter_params

    defaults = {
        name: value
        for name, value in get_default_sorter_params("kilosort4").items()
        if name not in job_keys and name not in _RESERVED
    }
    chosen = {"do_CAR": False, "cluster_init_seed": seed}
    if n_channels < MIN_DRIFT_CHANNELS:
        chosen["nblocks"] = 0
    described = {**MAIN_PARAMETERS, **EXTRA_PARAMETERS}
    for name, value in overrides.items():
        if name not in defaults:
            raise DataError(_unknown_parameter(name, defaults))
        _check_value(name, value, defaults[name], described.get(name))
    parameters = {**defaults, **chosen, **overrides}
    # JSON has no infinity; SpikeInterface takes None for it here.
    if parameters["artifact_threshold"] == float("inf"):
        parameters["artifact_threshold"] = None
    return parameters


def _unknown_parameter(name: str, known: dict[str, Any]) -> str:
    if name in _RESERVED:
        return f"sorter parameters: {name!r} is set by the pipeline itself; remove it from the file"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return (
        f"sorter parameters: {name!r} is not a parameter of Kilosort 4; the nearest is {nearest[0]!r}. "
        f"Known: {', '.join(sorted(known))}"
    )


def _check_value(name: str, value: Any, default: Any, described: dict | None) -> None:
    """Hold a user's value against Kilosort's own description of the parameter, or against its default."""

    def wrong(expected: str) -> DataError:
        return DataError(
            f"sorter parameters: {name} must be {expected}, found {value!r}; correct it in the file"
        )

    if value is None and (default is None or name in ("artifact_threshold", "max_cluster_subset")):
        return
    kind = described["type"] if described else type(default)
    if kind is type(None):
        return
    if isinstance(value, bool) != (kind is bool):
        raise wrong(f"a {kind.__name__}")
    numeric = kind in (int, float)
    if not isinstance(value, (int, float) if kind is float else kind):
        raise wrong("a number" if kind is float else f"a value of type {kind.__name__}")
    if numeric and described:
        low, high = described["min"], described["max"]
        if not low <= value <= high or value in described["exclude"]:
            raise wrong(f"within {low} to {high}, and none of {described['exclude']}")


def _choose_device(device: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise TemporaryError("a GPU (CUDA) was asked for, and torch sees none on this machine")
    chosen = "cuda" if device == "auto" and available else "cpu" if device == "auto" else device
    name = f" ({torch.cuda.get_device_name()})" if chosen == "cuda" else ""
    log.info("sorting on %s%s", chosen, name)
    return chosen


def _limit_threads(jobs: int) -> None:
    """Keep torch, BLAS, OpenMP and numba, in this process and those it starts, to ``jobs`` threads."""
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(jobs)  # Kilosort reads it before its KMeans
    threadpool_limits(jobs)
    torch.set_num_threads(jobs)
    numba.set_num_threads(min(jobs, numba.config.NUMBA_NUM_THREADS))


class _NothingToSortError(Exception):
    """The sorter found no spikes, or too few to go on."""


def _run_sorter(sorter: str, unit_folder: Path, work: Path, parameters: dict[str, Any]):
    # The import of faiss tells at length which instruction sets it was not built for.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    from spikeinterface.sorters import read_sorter_folder, run_sorter
    from spikeinterface.sorters.utils import SpikeSortingError

    from powerpixels.recordings import load_preprocessed

    recording = load_preprocessed(unit_folder)
    # Otherwise SpikeInterface would write the whole recording anew.
    if not recording.binary_compatible_with(time_axis=0, file_paths_length=1):
        raise RuntimeError(f"{unit_folder}: the recording is not one plain binary file")
    # Kilosort prints its own progress to the console; its records would come a second time through ours.
    logging.getLogger("kilosort").propagate = False
    try:
        run_sorter(
            sorter,
            recording,
            folder=work,
            verbose=True,
            with_output=False,
            use_binary_file=True,
            **parameters,
        )
    except SpikeSortingError as error:
        trace = str(error)
        cause = _last_line(trace)
        if "out of memory" in cause and parameters["torch_device"] == "cuda":
            raise TemporaryError(f"the GPU's memory did not suffice: {cause}") from error
        if any(text in cause for text in _NOTHING_TO_SORT):
            raise _NothingToSortError(f"the sorter found too few spikes ({cause})") from error
        raise
    return read_sorter_folder(work, register_recording=False, sorting_info=False)


def _last_line(trace: str) -> str:
    """The exception at the end of a traceback that SpikeInterface's message carries."""
    lines = [line for line in trace.splitlines() if line.strip() and not line.startswith("Spike sorting")]
    return lines[-1].strip() if lines else trace


def spikes_inside(sorting, n_samples: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples and unit ids of all spikes in [0, n_samples), by sample then id, and how many were outside.

    sorting: a SpikeInterface sorting of one segment with integer unit ids. Both arrays int64.
    """
    spikes = sorting.to_spike_vector()
    samples = spikes["sample_index"].astype(np.int64)
    unit_ids = np.asarray(sorting.unit_ids).astype(np.int64)[spikes["unit_index"]]
    inside = (samples >= 0) & (samples < n_samples)
    samples, unit_ids = samples[inside], unit_ids[inside]
    order = np.lexsort((unit_ids, samples))
    return samples[order], unit_ids[order], int(np.count_nonzero(~inside))


def _sorter_labels(sorting, unit_ids: np.ndarray) -> dict[int, str]:
    """The sorter's own label by unit id, of the units in unit_ids; empty where the sorter gives none."""
    labels = sorting.get_property("KSLabel")
    if labels is None:
        return {}
    by_unit = {int(unit): str(label) for unit, label in zip(sorting.unit_ids, labels, strict=True)}
    return {int(unit): by_unit[int(unit)] for unit in unit_ids}


def _publish_sorter_output(source: Path, target: Path, unit_folder: Path) -> None:
    """Move the sorter's folder to its place, freed of this machine's paths.

    Phy takes an empty dat_path as "no raw data"; the recording's own place is no one else's concern.
    """
    if (source / "recording.dat").exists():
        raise RuntimeError(f"{source}: the sorter made a second copy of the recording")
    machine_paths = {str(path) for path in (source.parent, unit_folder)}
    machine_paths |= {str(Path(path).resolve()) for path in machine_paths}
    machine_paths |= {str(Path(path).absolute()) for path in machine_paths}
    longest_first = sorted(machine_paths, key=len, reverse=True)

    params = source / "params.py"
    lines = params.read_text().splitlines()
    params.write_text(
        "\n".join("dat_path = ''" if line.startswith("dat_path") else line for line in lines) + "\n"
    )

    ops_file = source / "ops.npy"
    ops = np.load(ops_file, allow_pickle=True).item()
    for settings in (ops, ops["settings"]):
        for key in ("filename", "data_dir", "results_dir"):
            if key in settings:
                settings[key] = ""
    np.save(ops_file, np.array(ops))

    for file in source.glob("*.log"):
        text = file.read_text()
        for path in longest_first:
            text = text.replace(path, "")
        file.write_text(text)

    shutil.rmtree(target, ignore_errors=True)
    shutil.move(source, target)
