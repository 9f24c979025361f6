"""``powerpixels migrate settings.json``: the original Power Pixels' configuration as this pipeline's files.

Read are settings.json (version 0.2.0) and what the original keeps beside it: bombcell_params.json,
ibl_qc_params.json, unitrefine_params.json, wiring/nidq.wiring.json, sorter_params/<sorter>_params.json. What
has no equal here is named with the reason; nothing is dropped without a word.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

from powerpixels.stage import DataError, read_json

# The original's settings.json with its own defaults.
ORIGINAL: dict[str, Any] = {
    "SPIKE_SORTER": "kilosort4",
    "IDENTIFIER": "",
    "DATA_FOLDER": "C:\\path\\to\\data",
    "SINGLE_SHANK": "car_local",
    "MULTI_SHANK": "car_local",
    "LOCAL_RADIUS": [40, 200],
    "PEAK_THRESHOLD": 0.0025,
    "USE_NIDAQ": True,
    "USE_DOCKER": False,
    "COMPRESS_RAW_DATA": True,
    "COMPRESSION": "zarr",
    "NWB_EXPORT": False,
    "N_CORES": -1,
}
REFERENCES = {"car_global": "global", "car_local": "local", "destripe": "destripe"}
# Of a 1.0 probe at gain 500, for which the original's threshold was chosen: 1.2 V / 1024 / 500.
UV_PER_COUNT = 2.34375
# Neighbouring shanks' contacts are no closer, µm: within it a channel's annulus is on its own shank.
BETWEEN_SHANKS_UM = 218.0
# The name that the original's wiring gives the sync wave.
SYNC = "imec_sync"
# What the original's Bombcell is told about drawing and printing.
BOMBCELL_OUTPUT = (
    "plotGlobal",
    "plotDetails",
    "verbose",
    "saveAsTSV",
    "saveMatFileForGUI",
    "unitType_for_phy",
)


class Line(NamedTuple):
    """What became of one key: the file and key, what it is here ("" where it has no equal), and why."""

    key: str
    here: str
    why: str = ""


class Migrated(NamedTuple):
    """The converted configuration.

    parameters: for -params-file, without the files below. wiring, sorter, bombcell, ibl: contents of the
    files of --wiring, --sorter_params, --bombcell_params, --ibl_params; None where none is needed.
    lines: what became of each key.
    """

    parameters: dict[str, Any]
    wiring: dict[str, Any] | None
    sorter: dict[str, Any] | None
    bombcell: dict[str, Any] | None
    ibl: dict[str, Any] | None
    lines: list[Line]


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels migrate``."""
    parser.add_argument("settings", type=Path, metavar="SETTINGS", help="the original's config/settings.json")
    parser.add_argument(
        "--out", type=Path, default=Path("migrated"), metavar="FOLDER", help="to make (default: %(default)s)"
    )
    parser.add_argument(
        "--uv-per-count",
        type=float,
        default=UV_PER_COUNT,
        metavar="UV",
        help="microvolts of one ADC count of the probe that PEAK_THRESHOLD was chosen for, by which it is"
        " converted (default: %(default)s, a 1.0 probe at gain 500)",
    )


def run(args: Namespace) -> None:
    """Body of ``powerpixels migrate``: writes the files, and says of each key what became of it."""
    migrated = migrate(args.settings, args.uv_per_count)
    path = write(migrated, args.out)
    width = max(len(line.key) for line in migrated.lines)
    for line in migrated.lines:
        why = f"({line.why})" if line.here and line.why else line.why
        print(f"{line.key:{width}}  {line.here or 'no equal:'} {why}".rstrip())
    print(f"\nnextflow run . -params-file {path} --input samplesheet.csv --outdir results -resume")


def migrate(settings: Path, uv_per_count: float = UV_PER_COUNT) -> Migrated:
    """Convert the original's settings.json and the files beside it.

    uv_per_count: microvolts of one count, of the probe that PEAK_THRESHOLD (counts²/Hz) was chosen for.
    Raises ``DataError`` where a file is no JSON object or holds a value that the original would not take.
    """
    given = _object(settings)
    lines: list[Line] = []
    parameters: dict[str, Any] = {}
    sorter = _sorter(settings, given, parameters, lines)
    _preprocessing(settings, given, parameters, lines, uv_per_count)
    _output(settings, given, parameters, lines)
    lines += [
        Line(key, "", "no key of settings.json of the original 0.2.0; left out")
        for key in given
        if key not in ORIGINAL
    ]
    folder = settings.parent
    return Migrated(
        parameters,
        _wiring(folder / "wiring" / "nidq.wiring.json", lines),
        _sorter_parameters(folder / "sorter_params" / f"{sorter}_params.json", sorter, lines),
        _bombcell(folder / "bombcell_params.json", lines),
        _ibl(folder / "ibl_qc_params.json", lines),
        lines + _unitrefine(folder / "unitrefine_params.json"),
    )


def write(migrated: Migrated, out: Path) -> Path:
    """Write params.yaml and the files that it names into the new folder ``out``; returns params.yaml's path.

    Raises ``DataError`` where the folder is there already: nothing is written over.
    """
    import yaml

    if out.exists():
        raise DataError(
            f"{out}: expected no such folder yet, found one; remove it or name another with --out"
        )
    out.mkdir(parents=True)
    parameters = dict(migrated.parameters)
    for name, parameter in (
        ("wiring", "wiring"),
        ("sorter", "sorter_params"),
        ("bombcell", "bombcell_params"),
        ("ibl", "ibl_params"),
    ):
        content = getattr(migrated, name)
        if content is not None:
            path = out.resolve() / f"{parameter}.json"
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            parameters[parameter] = str(path)
    remarks = [f"# {line.key}: {line.why}" for line in migrated.lines if not line.here]
    text = "\n".join(
        ["# Of the original Power Pixels' settings; not in them for want of an equal:", *remarks]
    )
    path = out / "params.yaml"
    path.write_text(f"{text}\n{yaml.safe_dump(parameters, sort_keys=False)}", encoding="utf-8")
    return path


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: expected the original's settings.json, found no such file; correct the path"
        )
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, found otherwise; give a file of the original's")
    return found


def _wrong(path: Path, key: str, expected: str, value: Any) -> DataError:
    return DataError(
        f"{path}: {key}: expected {expected}, found {value!r}; correct it as the original needs it"
    )


def _truth(settings: Path, given: dict[str, Any], key: str) -> bool:
    if not isinstance(given[key], bool):
        raise _wrong(settings, key, "true or false", given[key])
    return given[key]


def _sorter(settings: Path, given: dict[str, Any], parameters: dict[str, Any], lines: list[Line]) -> str:
    from powerpixels.sorters import check_sorter

    sorter = given.get("SPIKE_SORTER", ORIGINAL["SPIKE_SORTER"])
    if not isinstance(sorter, str):
        raise _wrong(settings, "SPIKE_SORTER", "a sorter's name", sorter)
    check_sorter(sorter)
    parameters["sorter"] = sorter
    if "SPIKE_SORTER" in given:
        lines.append(Line("SPIKE_SORTER", f"sorter: {sorter}"))
    if "USE_DOCKER" in given:
        used = _truth(settings, given, "USE_DOCKER")
        advice = "name an image made ahead of time with --sorter_image" if used else "none was asked for"
        lines.append(
            Line(
                "USE_DOCKER",
                "",
                f"images are Apptainer's, by -profile apptainer; nothing is downloaded; {advice}",
            )
        )
    return sorter


def _preprocessing(
    settings: Path,
    given: dict[str, Any],
    parameters: dict[str, Any],
    lines: list[Line],
    uv_per_count: float,
) -> None:
    for key, parameter in (("SINGLE_SHANK", "reference"), ("MULTI_SHANK", "reference_multi_shank")):
        if key in given:
            if given[key] not in REFERENCES:
                raise _wrong(settings, key, f"one of {', '.join(REFERENCES)}", given[key])
            parameters[parameter] = REFERENCES[given[key]]
            lines.append(Line(key, f"{parameter}: {parameters[parameter]}"))
    if "LOCAL_RADIUS" in given:
        radii = given["LOCAL_RADIUS"]
        if not (isinstance(radii, list) and len(radii) == 2 and all(_is_number(r) and r >= 0 for r in radii)):
            raise _wrong(settings, "LOCAL_RADIUS", "two radii in µm", radii)
        parameters["local_radius_um"] = f"{radii[0]:g},{radii[1]:g}"
        lines.append(
            Line("LOCAL_RADIUS", f"local_radius_um: {parameters['local_radius_um']}", "radii, as there")
        )
    outer = given.get("LOCAL_RADIUS", ORIGINAL["LOCAL_RADIUS"])[1]
    several = given.get("MULTI_SHANK")
    if several == "car_global" or (several == "car_local" and outer > BETWEEN_SHANKS_UM):
        parameters["reference_scope"] = "probe"
        lines.append(
            Line(
                "MULTI_SHANK",
                "reference_scope: probe",
                "the original's reference is made of all shanks' channels",
            )
        )
    if "PEAK_THRESHOLD" in given:
        threshold = given["PEAK_THRESHOLD"]
        if not _is_number(threshold) or threshold < 0:
            raise _wrong(settings, "PEAK_THRESHOLD", "a number in counts²/Hz", threshold)
        microvolts = float(f"{threshold * uv_per_count**2:.3g}")
        parameters["notch_threshold_uv2_hz"] = microvolts
        lines.append(
            Line(
                "PEAK_THRESHOLD",
                f"notch_threshold_uv2_hz: {microvolts:g}",
                f"{threshold:g} counts²/Hz at {uv_per_count:g} µV a count; the same on every probe here",
            )
        )


def _output(settings: Path, given: dict[str, Any], parameters: dict[str, Any], lines: list[Line]) -> None:
    if "COMPRESS_RAW_DATA" in given or "COMPRESSION" in given:
        wanted = {**ORIGINAL, **given}
        compresses, method = _truth(settings, wanted, "COMPRESS_RAW_DATA"), wanted["COMPRESSION"]
        if compresses and method not in ("zarr", "mtscomp"):
            raise _wrong(settings, "COMPRESSION", "zarr or mtscomp", method)
        parameters["compress"] = method if compresses else "none"
        lines.append(
            Line(
                "COMPRESS_RAW_DATA, COMPRESSION",
                f"compress: {parameters['compress']}",
                "copies, in the results; the raw files are never removed" if compresses else "",
            )
        )
    if "NWB_EXPORT" in given:
        parameters["nwb"] = "hdf5" if _truth(settings, given, "NWB_EXPORT") else "none"
        lines.append(Line("NWB_EXPORT", f"nwb: {parameters['nwb']}"))
    reasons = {
        "IDENTIFIER": "results of another setting go into another folder, --outdir",
        "DATA_FOLDER": "the samplesheet lists the recordings: powerpixels samplesheet"
        f" {given.get('DATA_FOLDER', 'FOLDER')} writes it from the folders with process_me.flag",
        "USE_NIDAQ": "a NIDQ stream is used where the recording has one; --reference_clock probe00 takes a"
        " probe's clock in its place",
        "N_CORES": "each task has its own cpus: conf/base.config, or a site's file given with -c",
    }
    lines += [Line(key, "", reason) for key, reason in reasons.items() if key in given]


def _wiring(path: Path, lines: list[Line]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    given, about = _object(path), f"wiring/{path.name}"
    wiring: dict[str, Any] = {"sync": "P0.0", "digital": {}, "analog": {}}
    found_sync = False
    for key, kind in (("SYNC_WIRING_DIGITAL", "digital"), ("SYNC_WIRING_ANALOG", "analog")):
        for line, name in (given.get(key) or {}).items():
            if not name:
                continue
            if name == SYNC:
                wiring["sync"], found_sync = line, True
                lines.append(Line(f"{about} {line}", f"sync: {line}"))
                continue
            plain = re.sub(r"\W+", "_", str(name), flags=re.ASCII).lstrip("_0123456789") or "input"
            wiring[kind][line] = plain
            why = "" if plain == name else f"{name!r} can't be part of an ALF file name"
            lines.append(Line(f"{about} {line}", f"{kind} {line}: {plain}", why))
    if not found_sync:
        lines.append(
            Line(f"{about}", "sync: P0.0", f"no line is named {SYNC}, so the default; correct it if wrong")
        )
    lines += [
        Line(f"{about} {key}", "", "the recording's own header says it")
        for key in given
        if key not in ("SYNC_WIRING_DIGITAL", "SYNC_WIRING_ANALOG")
    ]
    return wiring


def _sorter_parameters(path: Path, sorter: str, lines: list[Line]) -> dict[str, Any] | None:
    """What differs from the sorter's own defaults; the rest is the pipeline's choice, as of the reference."""
    if not path.is_file():
        return None
    from spikeinterface.core.job_tools import job_keys

    from powerpixels.sorters import effective_parameters, parameters_of

    about, known, kept = f"sorter_params/{path.name}", parameters_of(sorter), {}
    gone: dict[str, list[str]] = {}
    for name, value in _object(path).items():
        value = None if value == float("inf") else value
        if name in job_keys:
            gone.setdefault("how many processes work is the task's cpus", []).append(name)
        elif name in ("torch_device", "use_binary_file", "delete_recording_dat"):
            gone.setdefault("set by the pipeline (--device, --keep_binary)", []).append(name)
        elif name not in known:
            gone.setdefault(f"not a parameter of {sorter} in this SpikeInterface", []).append(name)
        elif value != known[name].default:
            kept[name] = value
            lines.append(Line(f"{about} {name}", f"{name}: {json.dumps(value)}"))
        else:
            gone.setdefault("the sorter's own default, so the pipeline's choice stands", []).append(name)
    # A value that the sorter would not take is refused here rather than in the job.
    effective_parameters(sorter, True, kept, seed=1)
    lines += [Line(f"{about} {', '.join(names)}", "", why) for why, names in gone.items()]
    return kept or None


def _bombcell(path: Path, lines: list[Line]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    from powerpixels.bombcell_labels import MEASURING, THRESHOLDS, checked

    about, kept = path.name, {}
    for name, value in _object(path).items():
        if name in (*MEASURING, *THRESHOLDS):
            kept[name] = value
        elif name in BOMBCELL_OUTPUT:
            lines.append(Line(f"{about} {name}", "", "Bombcell draws and prints nothing in a job"))
        else:
            lines.append(Line(f"{about} {name}", "", "no parameter of Bombcell 0.94 that can be set here"))
    lines.append(Line(about, f"bombcell_params: {len(checked(kept))} parameters by the same names"))
    return kept or None


def _ibl(path: Path, lines: list[Line]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    from powerpixels.ibl_labels import DEFAULTS, checked

    about, kept = path.name, {}
    for name, value in _object(path).items():
        if name in DEFAULTS:
            kept[name] = value
        else:
            lines.append(Line(f"{about} {name}", "", "no criterion of IBL's labels here"))
    checked(kept)
    if kept:
        lines.append(
            Line(about, "ibl_params: " + ", ".join(kept), "acceptable_contamination takes effect here")
        )
    return kept or None


def _unitrefine(path: Path) -> list[Line]:
    if not path.is_file():
        return []
    given = _object(path)
    model = given.get("sua_classifier")
    command = "powerpixels fetch-models FOLDER" + (f" --sua-mua {model}" if model else "")
    command += "" if given.get("noise_classification") else " --noise-neural none"
    return [
        Line(
            f"{path.name} {', '.join(given)}",
            "",
            f"models are fetched once, where there is internet: {command}; then --unitrefine_models FOLDER",
        )
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
