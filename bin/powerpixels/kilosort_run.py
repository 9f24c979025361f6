"""Kilosort 4 step by step on a sorting unit's own binary file, with checkpoints between its steps.

The steps are Kilosort's own functions, called in the order of ``kilosort.run_kilosort`` with its seeds, so
the spikes are those that it would find. Two things are added: after each long step the state that the next
ones need goes to a checkpoint, from which a task that was preempted continues; and Kilosort's high-pass
filter can be left out where the binary is filtered already, without losing the whitening.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from powerpixels.checkpoint import UnreadableCheckpointError, load_checkpoint, save_checkpoint
from powerpixels.documents import PreprocessedUnit

log = logging.getLogger("powerpixels")

# After which a checkpoint is written. Preprocessing before them reads one batch in 25: it is done again.
STEPS = ("drift", "detection", "first_clustering", "extraction", "clustering")

CHECKPOINT_FILE = "state.npz"
# Raised when the content of a checkpoint changes its meaning, or the code that makes it its results.
_FORMAT = 1
# Parameters that change memory or what is written, not the spikes: a retry may change them and continue.
_WITHOUT_EFFECT = ("clear_cache", "save_extra_vars", "save_preprocessed_copy", "keep_good_only")
# Of one attempt's machine, not of the recording.
_PATHS = ("filename", "data_dir", "results_dir")
_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


def run_kilosort(
    unit_folder: Path,
    results: Path,
    parameters: dict[str, Any],
    device: str,
    checkpoint_dir: Path | None = None,
    jobs: int = 1,
) -> None:
    """Sort a unit folder of PREPROCESS with Kilosort 4; write Kilosort's own files into ``results``.

    The files are those of ``kilosort.run_kilosort``, and timings.json: "steps", seconds by step, of the
    attempt that did it; "resumed_after", the step whose checkpoint this attempt began with, or null;
    "checkpoints_s" and "total_s", this attempt's seconds for writing checkpoints and for everything; on a GPU
    "gpu_peak_bytes", the most of its memory that torch held for this attempt.
    traces.bin is read where it lies.

    parameters: Kilosort's settings and the arguments of its ``run_kilosort`` by name, as from
    ``sort.effective_parameters``; names that are neither are ignored. ``skip_kilosort_preprocessing`` leaves
    out the high-pass filter alone: detection and drift correction rest on the whitening, so that stays.
    device: "cpu" or "cuda". jobs: threads of torch.

    checkpoint_dir: this unit's own folder, made where it is missing. Each step's state replaces the one
    before; the folder is removed once the results are written. A checkpoint of other traces, parameters,
    versions or another kind of device is ignored, and so is one that can't be read. Kilosort's generators of
    random numbers are part of the state, so on the CPU an interrupted run gives the same bytes as one that
    was not interrupted.

    Raises whatever Kilosort raises, unchanged: ValueError where there is too little to sort,
    torch.cuda.OutOfMemoryError.
    """
    # The import of faiss tells at length which instruction sets it was not built for.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    import torch
    from kilosort.run_kilosort import close_logger, logger, setup_logger

    timings: dict[str, Any] = {"steps": {}}
    _use_packaged_templates()
    torch.set_num_threads(jobs)
    if device == "cpu":
        from powerpixels import template_match

        template_match.install()
    began = time.perf_counter()
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True)
    # Kilosort prints its own progress to the console; its records would come a second time through ours.
    logging.getLogger("kilosort").propagate = False
    setup_logger(results)
    try:
        _sort(Path(unit_folder), results, parameters, torch.device(device), checkpoint_dir, timings)
        timings["total_s"] = time.perf_counter() - began
        if device == "cuda":
            timings["gpu_peak_bytes"] = torch.cuda.max_memory_reserved()
        (results / "timings.json").write_text(json.dumps(timings, indent=1) + "\n")
    except Exception:
        logger.exception("Kilosort ended with an error")
        raise
    finally:
        close_logger()


def _use_packaged_templates() -> None:
    """With templates_from_data off, Kilosort would download a file that its package brings along."""
    import kilosort
    from kilosort import utils

    utils.DOWNLOADS_DIR = Path(kilosort.__file__).parent


def _sort(unit_folder: Path, results: Path, parameters: dict, device, checkpoint_dir, timings: dict) -> None:
    """All of Kilosort's steps, from the checkpoint on where there is one; fills timings."""
    import torch
    from kilosort.run_kilosort import logger

    started = time.time()
    skip_highpass = bool(parameters.get("skip_kilosort_preprocessing"))
    ops = _initial_ops(unit_folder, results, parameters, device)
    checkpoint = None
    resumed = None
    if checkpoint_dir is not None:
        checkpoint = Checkpoint(checkpoint_dir, _identity(unit_folder, parameters, device.type))
        resumed = checkpoint.load(device)
    timings["resumed_after"] = resumed["step"] if resumed else None
    timings["checkpoints_s"] = 0.0
    logger.info(f"Kilosort version {metadata.version('kilosort')}, {device.type}")

    if resumed:
        state = resumed["state"]
        state["ops"] = _with_paths(state["ops"], ops)
        timings["steps"] = resumed["timings"]
        _restore_files(results, resumed["files"])
        _set_random_state(resumed["random"])
        logger.info(f"Continued after step {resumed['step']} from its checkpoint")
        log.info("continued from the checkpoint after step %s", resumed["step"])
        todo = STEPS[STEPS.index(resumed["step"]) + 1 :]
    else:
        todo = STEPS
        begin = time.perf_counter()
        state = {"ops": _preprocessing(ops, device, started, skip_highpass)}
        timings["steps"]["preprocessing"] = time.perf_counter() - begin
        np.random.seed(1)
        torch.cuda.manual_seed_all(1)
        torch.random.manual_seed(1)

    run = _Run(device, results, started, parameters)
    for step in todo:
        begin = time.perf_counter()
        state = getattr(run, step)(state)
        timings["steps"][step] = time.perf_counter() - begin
        log.info("kilosort: %s took %.1f s", step, timings["steps"][step])
        if checkpoint is not None:
            begin = time.perf_counter()
            checkpoint.save(step, state, timings["steps"], _small_files(results), device)
            timings["checkpoints_s"] += time.perf_counter() - begin

    begin = time.perf_counter()
    run.save(state, skip_highpass)
    timings["steps"]["saving"] = time.perf_counter() - begin
    if checkpoint is not None:
        checkpoint.remove()


def _initial_ops(unit_folder: Path, results: Path, parameters: dict[str, Any], device) -> dict:
    """Kilosort's dictionary of settings and state as it is before the first step."""
    from kilosort.parameters import DEFAULT_SETTINGS
    from kilosort.run_kilosort import initialize_ops, set_files

    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    channels = unit.channels
    probe = {
        "chanMap": np.arange(len(channels), dtype=np.int32),
        "xc": np.array([channel.x_um for channel in channels], dtype=np.float32),
        "yc": np.array([channel.y_um for channel in channels], dtype=np.float32),
        "kcoords": np.array([channel.shank for channel in channels], dtype=np.float32),
        "n_chan": len(channels),
    }
    settings = {**DEFAULT_SETTINGS, **kilosort_settings(parameters)}
    settings["n_chan_bin"] = len(channels)
    settings["fs"] = unit.sampling_rate_hz
    *_, probe = set_files(
        settings,
        filename=unit_folder / "traces.bin",
        probe=probe,
        probe_name=None,
        data_dir=None,
        results_dir=results,
        bad_channels=parameters.get("bad_channels"),
        shank_idx=None,
    )
    ops, _ = initialize_ops(
        settings,
        probe,
        "int16",
        bool(parameters.get("do_CAR", True)),
        bool(parameters.get("invert_sign", False)),
        device,
        bool(parameters.get("save_preprocessed_copy", False)),
    )
    if not parameters.get("do_correction", True):
        ops["nblocks"] = 0
    return ops


def kilosort_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those of ``parameters`` that are Kilosort's settings; an artifact_threshold of None is infinity."""
    from kilosort.parameters import DEFAULT_SETTINGS

    settings = {name: value for name, value in parameters.items() if name in DEFAULT_SETTINGS}
    if settings.get("artifact_threshold", np.inf) is None:
        settings["artifact_threshold"] = np.inf
    return settings


def _traces(ops: dict, device, **more):
    """Kilosort's reader of the binary file, with the filters that ``ops`` and ``more`` name."""
    from kilosort import io

    settings = ops["settings"]
    return io.BinaryFiltered(
        ops["filename"],
        settings["n_chan_bin"],
        settings["fs"],
        settings["batch_size"],
        settings["nt"],
        settings["nt0min"],
        ops["probe"]["chanMap"],
        device=device,
        do_CAR=ops["do_CAR"],
        invert_sign=ops["invert_sign"],
        dtype=ops["data_dtype"],
        tmin=settings["tmin"],
        tmax=settings["tmax"],
        artifact_threshold=settings["artifact_threshold"],
        shift=settings["shift"],
        scale=settings["scale"],
        batch_downsampling=settings["batch_downsampling"],
        **more,
    )


def _preprocessing(ops: dict, device, started: float, skip_highpass: bool) -> dict:
    """The high-pass filter and the whitening matrix, into ops."""
    from kilosort import preprocessing
    from kilosort.run_kilosort import compute_preprocessing, logger
    from kilosort.utils import get_performance

    if not skip_highpass:
        return compute_preprocessing(ops, device, tic0=started)
    begin = time.time()
    traces = _traces(ops, device, hp_filter=None)
    whitening = preprocessing.get_whitening_matrix(
        traces,
        ops["probe"]["xc"],
        ops["probe"]["yc"],
        nskip=ops["settings"]["nskip"],
        nrange=ops["settings"]["whitening_range"],
    )
    ops["Nbatches"] = traces.n_batches
    ops["preprocessing"] = {"whiten_mat": whitening, "hp_filter": None}
    ops["Wrot"], ops["fwav"] = whitening, None
    ops["runtime_preproc"] = time.time() - begin
    ops["usage_preproc"] = get_performance()
    logger.info("High-pass filter left out: the recording is filtered already. Whitening computed.")
    return ops


class _Run:
    """Kilosort's steps of one attempt. Each takes the state of the step before and returns its own."""

    def __init__(self, device, results: Path, started: float, parameters: dict[str, Any]):
        """started: ``time.time()`` when the attempt began, for Kilosort's log."""
        self.device, self.results, self.started = device, results, started
        self.clear_cache = bool(parameters.get("clear_cache"))
        self.save_extra_vars = bool(parameters.get("save_extra_vars"))

    def _traces(self, ops: dict):
        """The recording high-passed, whitened, and corrected for drift where ops has a drift."""
        filters = ops["preprocessing"]
        return _traces(
            ops,
            self.device,
            hp_filter=filters["hp_filter"],
            whiten_mat=filters["whiten_mat"],
            dshift=ops["dshift"],
        )

    @contextmanager
    def _timed(self, ops: dict, name: str, what: str) -> Iterator[None]:
        """Run time and use of memory into ops, under the names that Kilosort's summary reads."""
        import torch
        from kilosort.run_kilosort import logger
        from kilosort.utils import get_performance

        logger.info(what)
        begin = time.time()
        yield
        ops[f"runtime_{name}"] = time.time() - begin
        ops[f"usage_{name}"] = get_performance()
        if torch.cuda.is_available():
            ops[f"cuda_{name}"] = dict(torch.cuda.memory_stats(self.device))
        logger.info(f"{what}: {ops[f'runtime_{name}']:.2f} s; total {time.time() - self.started:.2f} s")

    def drift(self, state: dict) -> dict:
        """Drift by batch and depth, into ops; its two figures."""
        from kilosort import plots
        from kilosort.run_kilosort import compute_drift_correction

        ops, _, spikes = compute_drift_correction(
            state["ops"],
            self.device,
            tic0=self.started,
            clear_cache=self.clear_cache,
        )
        if spikes is not None:
            plots.plot_drift_amount(ops, self.results, tmin=ops["settings"]["tmin"])
            plots.plot_drift_scatter(spikes, self.results, tmin=ops["settings"]["tmin"])
        return {"ops": ops}

    def detection(self, state: dict) -> dict:
        """Spikes by the universal templates: st0 (spikes, 6) float64, tF0 (spikes, channels, pcs) float32."""
        import torch
        from kilosort import spikedetect

        with self._timed(state["ops"], "st0", "detection by universal templates"):
            spikes, features, ops = spikedetect.run(
                state["ops"],
                self._traces(state["ops"]),
                device=self.device,
                clear_cache=self.clear_cache,
            )
        if len(spikes) == 0:
            raise ValueError("No spikes detected, cannot continue sorting.")
        return {"ops": ops, "st0": spikes, "tF0": torch.from_numpy(features)}

    def first_clustering(self, state: dict) -> dict:
        """Templates of the recording itself: U (templates, pcs, channels) float32; a figure of them."""
        from kilosort import clustering_qr, plots, template_matching

        ops, spikes, features = state["ops"], state["st0"], state["tF0"]
        with self._timed(ops, "clu0", "first clustering"):
            clusters, templates = clustering_qr.run(
                ops,
                spikes,
                features,
                mode="spikes",
                device=self.device,
                clear_cache=self.clear_cache,
            )
            U = template_matching.postprocess_templates(
                templates,
                ops,
                clusters,
                spikes,
                features,
                device=self.device,
            )
        plots.plot_diagnostics(templates, clusters, ops, self.results)
        return {"ops": ops, "U": U}

    def extraction(self, state: dict) -> dict:
        """Spikes by these templates: st (spikes, 3) float64, tF (spikes, channels, pcs) float32."""
        from kilosort import template_matching

        with self._timed(state["ops"], "st", "extraction by learned templates"):
            spikes, features, ops = template_matching.extract(
                state["ops"],
                self._traces(state["ops"]),
                state["U"],
                device=self.device,
            )
        return {"ops": ops, "st": spikes, "tF": features}

    def clustering(self, state: dict) -> dict:
        """Units, merged: clu (spikes,) int32, Wall (units, channels, pcs); st and tF of the merged units."""
        from kilosort.run_kilosort import cluster_spikes

        ops = state["ops"]
        clusters, templates, spikes, features = cluster_spikes(
            state["st"],
            state["tF"],
            ops,
            self.device,
            self._traces(ops),
            tic0=self.started,
            clear_cache=self.clear_cache,
        )
        return {"ops": ops, "st": spikes, "tF": features, "clu": clusters, "Wall": templates}

    def save(self, state: dict, skip_highpass: bool) -> None:
        """Kilosort's files."""
        import torch
        from kilosort import io, plots
        from kilosort.run_kilosort import logger, save_sorting
        from kilosort.utils import log_sorting_summary

        ops = state["ops"]
        if ops["save_preprocessed_copy"]:
            io.save_preprocessing(self.results / "temp_wh.dat", ops, self._traces(ops))
        if skip_highpass:
            # Kilosort saves a tensor here: the filter that changes nothing.
            unit_impulse = torch.zeros(30122)
            unit_impulse[15061] = 1
            ops["preprocessing"]["hp_filter"] = ops["fwav"] = unit_impulse
        ops, _, refractory, _, kept = save_sorting(
            ops,
            self.results,
            state["st"],
            state["clu"],
            state["tF"],
            state["Wall"],
            self._traces(ops).imin,
            self.started,
            save_extra_vars=self.save_extra_vars,
            save_preprocessed_copy=ops["save_preprocessed_copy"],
        )
        plots.plot_spike_positions(state["clu"][kept], refractory, self.results)
        log_sorting_summary(ops, log=logger, level="info")


class Checkpoint:
    """The state after one unit's last finished step, in a folder that outlives the task's attempts."""

    def __init__(self, folder: Path, identity: dict[str, Any]):
        """identity: JSON-able; only a checkpoint that was saved under the same one is ever loaded."""
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))
        self.path = self.folder / CHECKPOINT_FILE

    def load(self, device) -> dict[str, Any] | None:
        """The saved step: "step", "state", "timings", "files", "random"; None if none fits."""
        for partial in self.folder.glob("*.partial"):  # of an attempt that was killed while it wrote
            partial.unlink(missing_ok=True)
        try:
            saved = load_checkpoint(self.path, device)
            identity = saved.pop("identity")
        except FileNotFoundError:
            return None
        except (UnreadableCheckpointError, KeyError, AttributeError) as error:
            log.warning("%s can't be used (%s): the sort begins anew", CHECKPOINT_FILE, error)
            return None
        if identity != self.identity:
            other = [name for name, value in self.identity.items() if identity.get(name) != value]
            log.warning(
                "%s is of another sort (%s differ): this one begins anew",
                CHECKPOINT_FILE,
                ", ".join(other),
            )
            return None
        return saved

    def save(self, step: str, state: dict, timings: dict, files: dict[str, np.ndarray], device) -> None:
        """Put this state in the place of the one before. A folder that can't be written stops nothing."""
        saved = {
            "identity": self.identity,
            "step": step,
            "state": {**state, "ops": _without_paths(state["ops"])},
            "timings": timings,
            "files": files,
            "random": _random_state(device),
        }
        begin = time.perf_counter()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            size = save_checkpoint(self.path, saved)
        except OSError as error:
            log.warning("the checkpoint after %s could not be written (%s): without it on", step, error)
            return
        seconds = time.perf_counter() - begin
        log.info("checkpoint after %s: %.1f MB in %.1f s", step, size / 1e6, seconds)

    def remove(self) -> None:
        """Remove the folder: the sort is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _identity(unit_folder: Path, parameters: dict[str, Any], device_kind: str) -> dict[str, Any]:
    """What a checkpoint must share with the sort that continues from it, JSON-able."""
    return {
        "format": _FORMAT,
        "traces": traces_digest(unit_folder),
        "parameters": {name: value for name, value in parameters.items() if name not in _WITHOUT_EFFECT},
        "device": device_kind,
        "versions": {name: metadata.version(name) for name in ("kilosort", "torch", "numpy")},
    }


def traces_digest(unit_folder: Path) -> str:
    """Digest of recording.json, and of size and 64 blocks of 64 KiB of traces.bin, evenly over the file.

    Hours of traces take long to read whole, and other preprocessing changes nearly every sample. Neither
    path nor time of change is part of it: a retry finds the same file under another path.
    """
    unit_folder = Path(unit_folder)
    digest = hashlib.blake2b((unit_folder / "recording.json").read_bytes(), digest_size=20)
    path = unit_folder / "traces.bin"
    size = path.stat().st_size
    digest.update(str(size).encode())
    with open(path, "rb") as file:
        for start in np.linspace(0, max(size - _BLOCK_BYTES, 0), _BLOCKS).astype(np.int64):
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _without_paths(ops: dict) -> dict:
    """A copy of ops that names no file."""
    kept = {name: value for name, value in ops.items() if name not in _PATHS}
    kept["settings"] = {name: value for name, value in ops["settings"].items() if name not in _PATHS}
    return kept


def _with_paths(saved: dict, fresh: dict) -> dict:
    """The saved ops with the paths of this attempt, and what the retry may choose anew."""
    for own, new in ((saved, fresh), (saved["settings"], fresh["settings"])):
        own.update({name: new[name] for name in _PATHS if name in new})
    saved["save_preprocessed_copy"] = fresh["save_preprocessed_copy"]
    return saved


def _random_state(device) -> dict[str, Any]:
    """State of the generators that Kilosort draws from: numpy's, torch's, the GPU's."""
    import torch

    return {
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    import torch

    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def _small_files(results: Path) -> dict[str, np.ndarray]:
    """Figures and log so far, by name, as bytes: a later attempt publishes them too."""
    return {
        path.name: np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for path in sorted(results.iterdir())
        if path.suffix in (".png", ".log")
    }


def _restore_files(results: Path, files: dict[str, np.ndarray]) -> None:
    """Put these files back; the earlier attempts' log goes ahead of this one's."""
    for name, content in files.items():
        if name.endswith(".log"):
            for handler in logging.getLogger("kilosort").handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.stream.write(content.tobytes().decode())
        else:
            (results / name).write_bytes(content.tobytes())
