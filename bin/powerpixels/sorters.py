"""Parameters of the sorters: what each knows, what the pipeline chooses for it, what a user's file replaces.

Names, defaults and descriptions are those of SpikeInterface's wrapper of the sorter; none is listed here but
the few that the pipeline itself must choose.
"""

from __future__ import annotations

import difflib
import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

from powerpixels.stage import DataError, read_json

# A key of a parameter file that starts so is a remark.
REMARK = "//"

# Spikes as snippets are no recording.
_NO_RECORDING = ("waveclus_snippets",)

# What the pipeline itself decides, not a user's parameter file: where and how a sorter runs.
_RESERVED = ("torch_device", "use_binary_file", "delete_recording_dat", "job_kwargs")

# Off, for PREPROCESS has done it: the reference, and the high-pass filter where a sorter has a switch for it
# that leaves its whitening alone. [] is a chain of no steps before the whitening.
_DONE_ALREADY: dict[str, dict[str, Any]] = {
    "kilosort2": {"car": False},
    "kilosort2_5": {"car": False},
    "kilosort3": {"car": False},
    "kilosort4": {"do_CAR": False},
    "lupin": {"preprocessing_dict": []},
    "mountainsort5": {"filter": False},
    "simple": {"apply_preprocessing": False},
    "spykingcircus2": {"apply_preprocessing": False},
    "tridesclous2": {"preprocessing_dict": []},
}

# Further choices: the same input gives the same spikes; nothing is left behind that nobody reads. A cache in
# memory is measured by the whole node's, not by what the task was given.
_CHOSEN: dict[str, dict[str, Any]] = {
    "kilosort2": {"delete_tmp_files": True},
    "kilosort2_5": {"delete_tmp_files": True},
    "kilosort3": {"delete_tmp_files": True},
    "lupin": {"save_array": False, "cache_preprocessing_mode": "no-cache"},
    "spykingcircus2": {
        "deterministic_peaks_detection": True,
        "cache_preprocessing": {"mode": "no-cache"},
    },
    "tridesclous2": {"save_array": False, "cache_preprocessing_mode": "no-cache"},
}

# The name under which a sorter takes its seed.
_SEEDS = {
    "kilosort4": "cluster_init_seed",
    "lupin": "seed",
    "mountainsort5": "whitening_seed",
    "pykilosort": "seed",
    "simple": "seed",
    "spykingcircus2": "seed",
    "tridesclous2": "seed",
}

# The parameter that turns a sorter's drift correction on and off, and its values for both.
_DRIFT: dict[str, tuple[str, Any, Any]] = {
    "kilosort2_5": ("do_correction", True, False),
    "kilosort3": ("do_correction", True, False),
    "kilosort4": ("nblocks", 1, 0),
    "lupin": ("apply_motion_correction", True, False),
    "pykilosort": ("perform_drift_registration", True, False),
    "spykingcircus2": ("apply_motion_correction", True, False),
    "tridesclous2": ("apply_motion_correction", True, False),
}

# A switch without which that correction is left out, whatever the parameter above says.
_DRIFT_NEEDS = {
    "kilosort4": "do_correction",
    "lupin": "apply_preprocessing",
    "tridesclous2": "apply_preprocessing",
}

# Dicts whose keys SpikeInterface hands on to functions that know more of them than it lists.
_OPEN_ENDED = ("kwargs", "general", "detection", "matching", "whitening", "motion_correction", "merging")


class Parameter(NamedTuple):
    """One parameter of a sorter: SpikeInterface's default and description ("" where it has none)."""

    default: Any
    description: str


def known_sorters() -> list[str]:
    """Names of SpikeInterface's sorters that take a recording, sorted."""
    from spikeinterface.sorters import available_sorters

    return sorted(name for name in available_sorters() if name not in _NO_RECORDING)


def check_sorter(sorter: str) -> None:
    """Raise ``DataError`` with the nearest name where SpikeInterface has no such sorter."""
    # The import of faiss, which Kilosort uses, tells at length which instruction sets it was not built for.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    from spikeinterface.sorters import installed_sorters

    known = known_sorters()
    if sorter in known:
        return
    nearest = difflib.get_close_matches(sorter.lower(), known, n=1, cutoff=0)[0]
    raise DataError(
        f"{sorter!r} is no sorter of SpikeInterface; the nearest is {nearest!r}. Installed: "
        f"{', '.join(sorted(set(installed_sorters()) & set(known)))}. Known: {', '.join(known)}"
    )


def uses_gpu(sorter: str) -> bool:
    """Whether the sorter can or must run on a GPU, by SpikeInterface's own word."""
    from spikeinterface.sorters import sorter_dict

    return sorter_dict[sorter].gpu_capability in ("nvidia-optional", "nvidia-required")


def needs_gpu(sorter: str) -> bool:
    """Whether the sorter has no way to run without a GPU, by SpikeInterface's own word."""
    from spikeinterface.sorters import sorter_dict

    return sorter_dict[sorter].gpu_capability == "nvidia-required"


def parameters_of(sorter: str) -> dict[str, Parameter]:
    """All that a user may set of a sorter, by name. Raises ``DataError`` for an unknown sorter."""
    from spikeinterface.core.job_tools import job_keys
    from spikeinterface.sorters import get_default_sorter_params, get_sorter_params_description

    check_sorter(sorter)
    described = get_sorter_params_description(sorter)
    return {
        name: Parameter(_plain(value), " ".join(str(described.get(name) or "").split()))
        for name, value in get_default_sorter_params(sorter).items()
        if name not in job_keys and name not in _RESERVED
    }


def _plain(value: Any) -> Any:
    """The value as JSON has it: lists for tuples, None for infinity (as SpikeInterface takes it too)."""
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return None if value == float("inf") else value


def read_parameter_file(path: Path) -> dict[str, Any]:
    """A user's parameters by name, remarks left out. Raises ``DataError`` where it is no JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object of parameters by name; correct it")
    return {name: value for name, value in found.items() if not name.startswith(REMARK)}


class Effective(NamedTuple):
    """Parameters a sorter runs with, JSON-able, and what became of the drift policy (a sentence, or "")."""

    parameters: dict[str, Any]
    drift_note: str


def effective_parameters(sorter: str, correct_drift: bool, overrides: dict[str, Any], seed: int) -> Effective:
    """All parameters of a sorter: its defaults, the pipeline's choices over them, the user's last.

    The choices: steps that PREPROCESS has done are off (the common reference; the high-pass filter where
    that can be had without losing the whitening), the seed, drift correction as correct_drift says. A dict
    of the user's replaces the members that it names. drift_note says where a policy can't be followed, or
    was overruled.

    Raises DataError for an unknown sorter, an unknown name (with the nearest known) and a value of a wrong
    kind.
    """
    known = parameters_of(sorter)
    _check(sorter, overrides, known)
    parameters = {name: parameter.default for name, parameter in known.items()}
    chosen = {**_DONE_ALREADY.get(sorter, {}), **_CHOSEN.get(sorter, {})}
    if sorter in _SEEDS:
        chosen[_SEEDS[sorter]] = seed
    note = ""
    if sorter in _DRIFT:
        name, on, off = _DRIFT[sorter]
        chosen[name] = on if correct_drift else off
        needs = _DRIFT_NEEDS.get(sorter)
        if name in overrides and overrides[name] != chosen[name]:
            note = f"the parameter file overrules it: {name} {overrides[name]}"
        elif correct_drift and overrides.get(needs) is False:
            chosen[name] = off
            note = f"the parameter file overrules it: {needs} False"
        # The correction reads each sample's neighbours at every pass: worth one copy in the task's folder.
        if sorter in ("lupin", "tridesclous2") and overrides.get(name, chosen[name]):
            chosen["cache_preprocessing_mode"] = "folder"
    elif correct_drift:
        note = f"{sorter} has no drift correction of its own: none is done"
    # This wrapper's defaults differ between versions of SpikeInterface: what it does not know is left out.
    parameters.update({name: value for name, value in chosen.items() if name in known})
    for name, value in overrides.items():
        parameters[name] = _merged(parameters[name], _plain(value))
    return Effective(parameters, note)


def drift_left_out(sorter: str, parameters: dict[str, Any], recording) -> str:
    """Why a sorter leaves out the drift correction that its parameters ask for; "" where it does not.

    recording: SpikeInterface's, with the contacts' places. SpykingCircus 2 passes over it, and says so on its
    console alone, on few channels and on contacts that lie wide across, as those of several shanks do.
    """
    if sorter != "spykingcircus2" or not parameters["apply_motion_correction"]:
        return ""
    from spikeinterface.sortingcomponents.tools import check_probe_for_drift_correction

    if check_probe_for_drift_correction(recording):
        return ""
    across = recording.get_channel_locations()[:, 0]
    width_um = across.max() - across.min()
    place = f"{len(across)} channels that lie {width_um:.0f} µm across"
    return f"{sorter} does not correct drift on {place}: none is done"


def _merged(default: Any, value: Any) -> Any:
    if not (isinstance(default, dict) and isinstance(value, dict)):
        return value
    return {**default, **{name: _merged(default.get(name), member) for name, member in value.items()}}


def _check(sorter: str, overrides: dict[str, Any], known: dict[str, Parameter]) -> None:
    from spikeinterface.core.job_tools import job_keys

    described = _kilosort_description() if sorter == "kilosort4" else {}
    for name, value in overrides.items():
        if name in _RESERVED:
            raise DataError(
                f"sorter parameters: {name!r} is set by the pipeline itself; remove it from the file"
            )
        if name in job_keys:
            raise DataError(
                f"sorter parameters: {name!r} says how many processes work, which the task's cpus do; remove "
                "it from the file"
            )
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"; the nearest is {nearest[0]!r}. Known: {', '.join(sorted(known))}" if nearest else ""
            raise DataError(f"sorter parameters: {name!r} is not a parameter of {sorter}{hint}")
        if name in described:
            _check_described(name, value, described[name])
        else:
            _check_kind(name, value, known[name].default)


def _kilosort_description() -> dict[str, dict]:
    """Kilosort 4's own description of its parameters: type, min, max, exclude by name."""
    from kilosort.parameters import EXTRA_PARAMETERS, MAIN_PARAMETERS

    return {**MAIN_PARAMETERS, **EXTRA_PARAMETERS}


def _wrong(name: str, expected: str, value: Any) -> DataError:
    return DataError(f"sorter parameters: {name} must be {expected}, found {value!r}; correct it in the file")


def _check_described(name: str, value: Any, described: dict) -> None:
    """Hold a value against Kilosort's own description of the parameter."""
    if value is None and (
        described["default"] is None or name in ("artifact_threshold", "max_cluster_subset")
    ):
        return
    kind = described["type"]
    if isinstance(value, bool) != (kind is bool):
        raise _wrong(name, f"a {kind.__name__}", value)
    if not isinstance(value, (int, float) if kind is float else kind):
        raise _wrong(name, "a number" if kind is float else f"a value of type {kind.__name__}", value)
    if kind in (int, float):
        low, high = described["min"], described["max"]
        if not low <= value <= high or value in described["exclude"]:
            raise _wrong(name, f"within {low} to {high}, and none of {described['exclude']}", value)


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Hold a value against the kind of the parameter's default, and a dict's members likewise."""
    if default is None:
        return
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "a bool (true or false)"
    elif isinstance(default, (int, float)):
        fits, expected = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    elif isinstance(default, dict):
        fits, expected = isinstance(value, dict), "an object of parameters by name"
    elif isinstance(default, list):
        fits, expected = isinstance(value, (list, bool)), "a list"
    else:
        fits, expected = isinstance(value, str), "a text"
    if not fits:
        raise _wrong(name, expected, value)
    if isinstance(default, dict):
        for member, inner in value.items():
            path = f"{name}.{member}"
            if member in default:
                if inner is not None:
                    _check_kind(path, inner, default[member])
                continue
            open_ended = name.rsplit(".")[-1].endswith(_OPEN_ENDED)
            nearest = difflib.get_close_matches(member, default, n=1, cutoff=0.75 if open_ended else 0)
            if nearest or not open_ended:
                hint = f"; the nearest is {name}.{nearest[0]!s}" if nearest else ""
                raise DataError(f"sorter parameters: {path!r} is not known{hint}")


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels sorter-params``."""
    parser.add_argument("sorter", metavar="SORTER", help="SpikeInterface's name of it, as kilosort4")


def run(args: Namespace) -> None:
    """Body of ``powerpixels sorter-params``: a parameter file with remarks, on stdout."""
    print(parameter_file(args.sorter))


def parameter_file(sorter: str) -> str:
    """A file for ``--sorter_params`` (JSON) with every parameter at the value that the pipeline gives it.

    Descriptions stand above in keys that begin with "//"; what the pipeline chooses by --drift and --seed
    stands there as a remark alone, so that the saved file does not overrule these.
    """
    known = parameters_of(sorter)
    values = effective_parameters(sorter, True, {}, seed=1).parameters
    by_option = {}
    if sorter in _DRIFT:
        by_option[_DRIFT[sorter][0]] = "--drift"
    if sorter in _SEEDS:
        by_option[_SEEDS[sorter]] = "--seed"
    document: dict[str, Any] = {REMARK: f"Parameters of {sorter}. Keys that begin with // are remarks."}
    for name, parameter in known.items():
        if name in by_option:
            document[f"{REMARK} {name}"] = f"chosen by {by_option[name]}. {parameter.description}".strip()
            continue
        default = f"(the sorter's own default: {json.dumps(parameter.default)})"
        remark = [parameter.description, default if parameter.default != values[name] else ""]
        if any(remark):
            document[f"{REMARK} {name}"] = " ".join(part for part in remark if part)
        # What depends on the drift policy is not pinned either.
        if name != "cache_preprocessing_mode":
            document[name] = values[name]
    return json.dumps(document, indent=1, ensure_ascii=False)
