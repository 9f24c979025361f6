"""Kilosort on one unit: called directly, through run_kilosort, and killed again and again until it is done.

    python kilosort_attempts.py UNIT OUT

A process of its own, to be started with one thread: its forks find everything imported and compiled. Results lie in
OUT/direct, whole, no_highpass and resumed; OUT/attempts.json has one entry per attempt that was broken off.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from kilosort.run_kilosort import run_kilosort as kilosorts_own
from powerpixels import checkpoint, kilosort_run, template_match
from powerpixels.documents import PreprocessedUnit

ATTEMPTS = [
    ("drift", "killed"),
    ("detection", "killed while saving"),
    ("detection", "killed"),
    ("first_clustering", "killed"),
    ("extraction", "raised"),
    ("clustering", "killed while saving"),
    ("clustering", "killed"),
]


def directly(unit_folder: Path, results: Path, parameters: dict, device: str = "cpu") -> None:
    """Kilosort's own function on the same file, with the same match in it."""
    if device == "cpu":
        template_match.install()
    unit = PreprocessedUnit.load(unit_folder / "recording.json")
    settings = kilosort_run.kilosort_settings(parameters)
    kilosorts_own(
        {**settings, "n_chan_bin": len(unit.channels), "fs": unit.sampling_rate_hz},
        probe={
            "chanMap": np.arange(len(unit.channels), dtype=np.int32),
            "xc": np.array([channel.x_um for channel in unit.channels]),
            "yc": np.array([channel.y_um for channel in unit.channels]),
            "kcoords": np.zeros(len(unit.channels), dtype=np.float32),
            "n_chan": len(unit.channels),
        },
        filename=unit_folder / "traces.bin",
        results_dir=results,
        device=torch.device(device),
        do_CAR=parameters["do_CAR"],
    )


def in_a_fork(function) -> int:
    """Call it in a child process; returns its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def broken_off(unit_folder: Path, results: Path, parameters: dict, folder: Path, step: str, how: str) -> int:
    """An attempt that ends when the step is done: "killed while saving", "killed" after that, or "raised"."""
    save = kilosort_run.Checkpoint.save

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def save_and_end(self, name, *arguments):
        if name == step and how == "killed while saving":
            checkpoint.os.replace = die
        save(self, name, *arguments)
        if name == step and how == "raised":
            raise RuntimeError("the GPU fell off the bus")
        if name == step:
            die()

    def attempt():
        with mock.patch.object(kilosort_run.Checkpoint, "save", save_and_end):
            kilosort_run.run_kilosort(unit_folder, results, parameters, "cpu", folder, 1)

    return in_a_fork(attempt)


def main(unit_folder: Path, out: Path) -> None:
    """Everything that test_kilosort_run.py looks at."""
    parameters = {"nblocks": 1, "cluster_downsampling": 5, "cluster_init_seed": 42, "do_CAR": False}
    directly(unit_folder, out / "direct", parameters)
    kilosort_run.run_kilosort(unit_folder, out / "whole", parameters, "cpu")
    unfiltered = {**parameters, "skip_kilosort_preprocessing": True}
    kilosort_run.run_kilosort(unit_folder, out / "no_highpass", unfiltered, "cpu")

    attempts = []
    folder = out / "check points" / "unit"

    def attempt(step: str, how: str, parameters: dict) -> None:
        # A retry has folders of its own, and finds the recording under another path.
        results, link = out / f"attempt {len(attempts)}", out / f"unit {len(attempts)}"
        link.symlink_to(unit_folder)
        ended = broken_off(link, results, parameters, folder, step, how)
        log = (results / "kilosort4.log").read_text()
        left = sorted(path.suffix for path in folder.iterdir())
        attempts.append({"step": step, "how": how, "ended": ended, "left": left, "log": log})

    for step, how in ATTEMPTS:
        attempt(step, how, parameters)
    shutil.copytree(folder, out / "last checkpoint")
    kilosort_run.run_kilosort(unit_folder, out / "resumed", parameters, "cpu", folder, 1)
    removed = not folder.exists()
    # The checkpoint is of another sort.
    shutil.copytree(out / "last checkpoint", folder)
    attempt("drift", "killed", {**parameters, "Th_learned": 9})
    attempts[-1]["folder_was_removed"] = removed
    (out / "attempts.json").write_text(json.dumps(attempts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
