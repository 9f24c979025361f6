"""SORT: one sorting unit's preprocessed binary through a spike sorter.

Any of SpikeInterface's sorters, by its name there. Kilosort 4 reads the binary itself, without a second copy
of it, step by step (kilosort_run); the others run through SpikeInterface.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from powerpixels import sorters
from powerpixels.documents import DriftChoice, PreprocessedUnit, SortingDocument
from powerpixels.drift import sorter_policy
from powerpixels.recordings import load_preprocessed
from powerpixels.stage import DataError, GpuMemoryError, TemporaryError

log = logging.getLogger("powerpixels")

# Fewer channels can't tell one unit's spikes from another's by place.
MIN_CHANNELS = 4
# Less is no recording to learn templates from. Kilosort needs more than one of its batches.
MIN_SECONDS = 2.0

# How a sorter, and what it calls, say that there was nothing to sort: text at the end of the traceback. No
# spike for the universal templates, none for a cluster, too few clips to learn shapes from.
_NOTHING_TO_SORT = (
    "No spikes detected, cannot continue sorting.",
    "Wall is empty after `clustering_qr.run`",
    "`get_data_cpu` never found suitable channels",
    "should be >= n_clusters=",
    "a minimum of 1 is required by TruncatedSVD",
    # SpikeInterface's own sorters: no peaks for a prototype, no peaks at all, none left after the clustering.
    "Prototype should have a negative peak",
    "all_peaks.size / peaks.size",
    "peaks.size / selected_peaks.size",
)

# What a sorter's folder may hold that nobody reads later: copies of the traces and descriptions of where
# the recording lay.
_LEFT_OVERS = (
    "cache_preprocessing",
    "preprocessed_recording.json",
    "preprocessed_recording.pickle",
    "recording.dat",
)


class SorterError(Exception):
    """The sorter failed, and not for want of spikes."""


class _NothingToSortError(Exception):
    """The sorter found no spikes, or too few to go on."""


def sort_unit(
    unit_folder: Path,
    out: Path,
    sorter: str = "kilosort4",
    device: str = "auto",
    jobs: int = 1,
    parameters: dict[str, Any] | None = None,
    seed: int = 42,
    drift: str = "auto",
    memory_step: int = 0,
    keep_binary: bool = False,
    checkpoint_dir: Path | None = None,
) -> SortingDocument:
    """Sort a unit folder of PREPROCESS; write sorting.json, two arrays and the sorter's own folder.

    out/spike_samples.npy: int64, sorted, 0-based samples of the unit's recording, on the probe's clock.
    out/spike_unit_ids.npy: int64, the sorter's id of each spike's unit. out/sorter_output/: the sorter's
    files without a path of this machine; where it holds a params.py it opens in Phy. With keep_binary the
    unit's traces lie beside it as out/traces.bin, and params.py points to them.

    sorter: SpikeInterface's name. parameters: overrides of the defaults by name. device: "cpu", "cuda", or
    "auto" (cuda where there is one); a sorter that has no use for a GPU runs on the CPU whatever it says.
    drift: the policy (``drift.sorter_policy``). memory_step: how often a GPU's memory was short before
    (``lowered_for_memory``). checkpoint_dir: this unit's own folder for Kilosort 4's checkpoints.

    A unit with fewer than MIN_CHANNELS channels, of less than MIN_SECONDS or one batch of samples, or in
    which the sorter finds too little to work with, ends as status "skipped" with the reason, and empty
    arrays.

    Raises DataError for an unknown sorter, one that is not installed, parameters that it doesn't know or
    can't take, and traces of a wrong size; TemporaryError where device is "cuda" and there is none;
    GpuMemoryError where its memory did not suffice; SorterError where the sorter fails otherwise: its log is
    then out/sorter.log.
    """
    unit_folder, out = Path(unit_folder), Path(out)
    sorters.check_sorter(sorter)
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    policy = sorter_policy(drift, len(unit.channels))
    effective, note = sorters.effective_parameters(sorter, policy.correct, parameters or {}, seed)
    lowered = lowered_for_memory(sorter, effective, memory_step)
    effective.update(lowered)
    _check_installed(sorter)
    out.mkdir(parents=True, exist_ok=True)

    def finish(status: str, message: str, samples, unit_ids, labels: dict[int, str]) -> SortingDocument:
        np.save(out / "spike_samples.npy", samples)
        np.save(out / "spike_unit_ids.npy", unit_ids)
        document = SortingDocument(
            probe=unit.probe,
            unit=unit.unit,
            sorter=sorter,
            sorter_version=_version(sorter),
            status=status,
            message=message,
            parameters=effective,
            unit_ids=[int(unit_id) for unit_id in np.unique(unit_ids)],
            sorter_labels=labels,
            drift=DriftChoice(
                policy=drift, reason=", but ".join(part for part in (policy.reason, note) if part)
            ),
            lowered_for_memory=lowered,
        )
        document.save(out / "sorting.json")
        log.info("%s %s: %s. %s", unit.probe, unit.unit, status, message)
        return document

    def skip(reason: str) -> SortingDocument:
        nothing = np.empty(0, dtype=np.int64)
        return finish("skipped", reason, nothing, nothing, {})

    if len(unit.channels) < MIN_CHANNELS:
        return skip(f"{len(unit.channels)} usable channels, at least {MIN_CHANNELS} are needed")
    if sorter == "kilosort4":
        # It learns the whitening from all batches but the last, and drops a last one below a waveform.
        batch = effective["batch_size"] + effective["nt"]
        if unit.n_samples <= batch:
            return skip(f"{unit.n_samples} samples, more than one batch of {batch} is needed")
    elif unit.n_samples < MIN_SECONDS * unit.sampling_rate_hz:
        return skip(f"{unit.n_samples / unit.sampling_rate_hz:.2f} s, at least {MIN_SECONDS} s are needed")

    device = _choose_device(sorter, device)
    if sorter == "kilosort4":
        effective["torch_device"] = device
    _limit_threads(jobs)
    left_out = sorters.drift_left_out(sorter, effective, load_preprocessed(unit_folder))
    if left_out:
        effective["apply_motion_correction"] = False
        note = left_out
    log.info("%s %s on %d channels, drift: %s", sorter, _version(sorter), len(unit.channels), policy.reason)
    if note:
        log.warning("drift: %s", note)

    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        with _seeded(seed):
            sorting = _run_sorter(sorter, unit_folder, work, effective, device, jobs, checkpoint_dir)
        samples, unit_ids, n_outside = spikes_inside(sorting, unit.n_samples)
        labels = _sorter_labels(sorting, np.unique(unit_ids))
        _publish_sorter_output(work / "sorter_output", out / "sorter_output", unit_folder, keep_binary)
    except _NothingToSortError as nothing:
        return skip(str(nothing))
    except SorterError as error:
        (out / "sorter.log").write_text(_logs(work, error))
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if n_outside:
        log.warning("%d spikes outside of the recording were dropped", n_outside)
    if samples.size == 0:
        return skip("the sorter found no spikes")
    n_units = np.unique(unit_ids).size
    return finish("sorted", f"{n_units} units, {samples.size} spikes", samples, unit_ids, labels)


def lowered_for_memory(sorter: str, parameters: dict[str, Any], step: int) -> dict[str, Any]:
    """What the step-th retry after a GPU's memory was short changes: new values by name, {} for step 0.

    Kilosort 4: first its cache is cleared between steps, which costs time and changes no spike. Then the
    batches are halved at each step, to a quarter at most: that is what its memory grows with, and spikes near
    a batch's edges can differ. Other sorters have no such ladder here: {}.
    """
    if step == 0 or sorter != "kilosort4":
        if step:
            log.warning("%s: no parameter is known that lowers its use of a GPU's memory", sorter)
        return {}
    changed: dict[str, Any] = {"clear_cache": True}
    if step > 1:
        changed["batch_size"] = parameters["batch_size"] // 2 ** min(step - 1, 2)
    for name, value in changed.items():
        log.warning("the GPU's memory was short before: %s %s, not %s", name, value, parameters[name])
    return changed


def _check_installed(sorter: str) -> None:
    from spikeinterface.sorters import sorter_dict

    if not sorter_dict[sorter].is_installed():
        raise DataError(
            f"{sorter} is not installed where this task runs; give --sorter_image an image file that holds "
            "it and this pipeline's package (made ahead of time: a job downloads nothing), or choose another "
            "sorter"
        )


def _version(sorter: str) -> str:
    from spikeinterface.sorters import sorter_dict

    return str(sorter_dict[sorter].get_sorter_version())


def _choose_device(sorter: str, device: str) -> str:
    """Return "cuda" or "cpu"; the CPU for a sorter that has no use for a GPU."""
    if not sorters.uses_gpu(sorter):
        log.info("%s has no use for a GPU: sorting on the CPU", sorter)
        return "cpu"
    name = None if device == "cpu" else _gpu_name()
    if device == "cuda" and name is None:
        raise TemporaryError("a GPU (CUDA) was asked for, and this machine shows none")
    if name is None and sorters.needs_gpu(sorter):
        raise DataError(
            f"{sorter} runs on a GPU only, and the device is {device}; give --device gpu or another sorter"
        )
    log.info("sorting on %s", f"cuda ({name})" if name else "cpu")
    return "cuda" if name else "cpu"


def _gpu_name() -> str | None:
    """The GPU's name by torch, or in an image without it by the driver's own tool; None for no GPU."""
    if importlib.util.find_spec("torch"):
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if shutil.which("nvidia-smi") is None:
        return None
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.stdout.splitlines()[0] if listed.returncode == 0 and listed.stdout else None


def _limit_threads(jobs: int) -> None:
    """Keep torch, BLAS, OpenMP and numba, in this process and those it starts, to ``jobs`` threads."""
    import numba
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(jobs)  # Kilosort reads it before its KMeans
    threadpool_limits(jobs)
    # An image of a MATLAB sorter has no torch.
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(jobs)
    numba.set_num_threads(min(jobs, numba.config.NUMBA_NUM_THREADS))


@contextmanager
def _seeded(fallback: int) -> Iterator[None]:
    """Seed numpy's generators that are made without a seed, as some of SpikeInterface's steps make them."""
    unseeded = np.random.default_rng

    def seeded(seed=None):
        return unseeded(fallback if seed is None else seed)

    np.random.seed(fallback)
    np.random.default_rng = seeded
    try:
        yield
    finally:
        np.random.default_rng = unseeded


def _run_sorter(
    sorter: str,
    unit_folder: Path,
    work: Path,
    parameters: dict[str, Any],
    device: str,
    jobs: int,
    checkpoint_dir: Path | None,
):
    """The sorter's SpikeInterface sorting; its files are in work/sorter_output."""
    from spikeinterface.sorters.utils import SpikeSortingError

    recording = load_preprocessed(unit_folder)
    # Otherwise SpikeInterface would write the whole recording anew.
    if not recording.binary_compatible_with(time_axis=0, file_paths_length=1):
        raise RuntimeError(f"{unit_folder}: the recording is not one plain binary file")
    try:
        if sorter == "kilosort4":
            return _run_kilosort4(
                unit_folder, work / "sorter_output", parameters, device, jobs, checkpoint_dir
            )
        return _run_by_spikeinterface(sorter, recording, work, parameters, jobs)
    except (DataError, TemporaryError):
        raise
    except Exception as error:
        trace = str(error) if isinstance(error, SpikeSortingError) else f"{type(error).__name__}: {error}"
        last = _last_lines(trace)
        cause = last[-1] if last else type(error).__name__
        if device == "cuda" and "out of memory" in _logs(work, error).lower():
            raise GpuMemoryError(f"{sorter}: the GPU's memory did not suffice: {cause}") from error
        if any(text in line for text in _NOTHING_TO_SORT for line in last[-3:]):
            raise _NothingToSortError(f"{sorter} found too few spikes ({cause})") from error
        raise SorterError(f"{sorter} failed: {cause}; its log is {work.parent / 'sorter.log'}") from error


def _run_kilosort4(
    unit_folder: Path, results: Path, parameters: dict, device: str, jobs: int, checkpoint_dir: Path | None
):
    from powerpixels.kilosort_run import run_kilosort

    run_kilosort(unit_folder, results, parameters, device, checkpoint_dir, jobs)
    from spikeinterface.extractors.extractor_classes import KiloSortSortingExtractor

    return KiloSortSortingExtractor(results, keep_good_only=parameters["keep_good_only"])


def _run_by_spikeinterface(sorter: str, recording, work: Path, parameters: dict, jobs: int):
    from spikeinterface.core.job_tools import job_keys
    from spikeinterface.sorters import get_default_sorter_params, read_sorter_folder, run_sorter

    # Threads: the traces are one memory map, and the processes of a pool would each map and import anew.
    workers = {"n_jobs": jobs, "pool_engine": "thread", "progress_bar": False}
    defaults = get_default_sorter_params(sorter)
    if "job_kwargs" in defaults:
        own = {"job_kwargs": workers}
    else:
        own = {name: value for name, value in workers.items() if name in job_keys and name in defaults}
    run_sorter(sorter, recording, folder=work, verbose=True, with_output=False, **parameters, **own)
    return read_sorter_folder(work, register_recording=False, sorting_info=False)


def _last_lines(trace: str) -> list[str]:
    """The lines of a traceback, without what SpikeInterface adds below."""
    lines = [line.strip() for line in trace.splitlines()]
    return [line for line in lines if line and not line.startswith("Spike sorting")]


def _logs(work: Path, error: BaseException) -> str:
    """What the sorter left to say, as text: its own logs, then the whole chain of exceptions."""
    import traceback

    logs = [path.read_text(errors="replace") for path in sorted(work.glob("sorter_output/*.log"))]
    return "\n".join([*logs, *traceback.format_exception(error)])


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


def _publish_sorter_output(source: Path, target: Path, unit_folder: Path, keep_binary: bool) -> None:
    """Move the sorter's folder to its place, freed of this machine's paths and of what nobody reads.

    Phy's params.py then names the traces that lie beside the folder, the preprocessed copy that Kilosort was
    asked for, or, empty, "no raw data"; the recording's own place is no one else's concern.
    """
    for name in _LEFT_OVERS:
        left = source / name
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    traces = target.parent / "traces.bin"
    traces.unlink(missing_ok=True)
    if keep_binary:
        _link_or_copy(unit_folder / "traces.bin", traces)

    params = source / "params.py"
    if params.exists():
        copy = "temp_wh.dat" if (source / "temp_wh.dat").exists() else ""
        values = {"dat_path": repr("../traces.bin" if keep_binary else copy)}
        if keep_binary or copy:
            values["hp_filtered"] = "True"
        lines = [line for line in params.read_text().splitlines() if line.split("=")[0].strip() not in values]
        lines += [f"{name} = {value}" for name, value in values.items()]
        params.write_text("\n".join(lines) + "\n")

    machine_paths = {str(path) for path in (source.parent, unit_folder)}
    machine_paths |= {str(Path(path).resolve()) for path in machine_paths}
    machine_paths |= {str(Path(path).absolute()) for path in machine_paths}
    longest_first = sorted(machine_paths | {str(Path.cwd())}, key=len, reverse=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        _free_of_paths(file, [path for path in longest_first if os.path.isabs(path)])
    shutil.move(source, target)


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where both lie on one file system, else a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _free_of_paths(file: Path, paths: list[str]) -> None:
    """Take the paths out of a text, or of the settings that Kilosort keeps in ops.npy; remove other files."""
    if file.name == "ops.npy":
        ops = np.load(file, allow_pickle=True).item()
        for settings in (ops, ops["settings"]):
            settings.update({key: "" for key in ("filename", "data_dir", "results_dir") if key in settings})
        np.save(file, np.array(ops))
        return
    if file.suffix in (".npy", ".dat", ".bin", ".png") and not _holds_objects(file):
        return
    content = file.read_bytes()
    if not any(path.encode() in content for path in paths):
        return
    if b"\0" in content:
        log.warning("%s is not published: it names places of this machine", file.name)
        file.unlink()
        return
    for path in paths:
        content = content.replace(path.encode(), b"")
    file.write_bytes(content)


def _holds_objects(file: Path) -> bool:
    """Whether an npy file holds Python objects and not numbers."""
    if file.suffix != ".npy":
        return False
    try:
        np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return True
    return False
