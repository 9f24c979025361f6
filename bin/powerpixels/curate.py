"""Manual curation of a probe's units in SpikeInterface's own GUI, on the published files.

What a person decides is kept in ``curation/<probe>/<sorting unit>.json`` beside the results, in the curation
format of SpikeInterface. No process of the pipeline publishes there, so it survives a run anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from powerpixels.documents import Preprocess
from powerpixels.load import LABELS, load_neural_data
from powerpixels.stage import DataError, read_json

if TYPE_CHECKING:
    from spikeinterface.core import BaseRecording

log = logging.getLogger("powerpixels")

# In the GUI's table of units, beside the labels; those that the analyzer has.
METRICS = ("firing_rate", "snr", "amplitude_median", "presence_ratio", "rp_violations")
WORDS = {-1: "unjudged", 0: "noise", 1: "good", 2: "mua", 3: "non_soma"}
KILOSORT_WORDS = {**WORDS, 0: "mua"}
# Beside SpikeInterface's keys in a curation file, which its reader passes over.
SORTING_KEY = "sorting_sha256"
INSTALL = "install it with: pip install 'powerpixels[curation]'"


@dataclass(frozen=True)
class CuratedUnit:
    """One sorting unit's places: its analyzer, and its curation file, which may not be there yet."""

    name: str
    analyzer: Path
    curation: Path


def add_probe_arguments(parser: ArgumentParser) -> None:
    """Arguments that ``curate`` and ``apply-curation`` share."""
    parser.add_argument(
        "results",
        type=Path,
        metavar="RESULTS",
        help="a session's results, <outdir>/<subject>/<date>/<NNN>, or those of sessions sorted as one",
    )
    parser.add_argument("--probe", help="default: the only one")


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels curate``."""
    add_probe_arguments(parser)
    parser.add_argument("--shank", type=int, metavar="K", help="default: the only sorted one")
    parser.add_argument(
        "--raw",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="the session's raw folder (one for each of sessions sorted as one), to see traces; default: the "
        "compressed copies among the results, if there are any",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--web", dest="mode", action="store_const", const="web", help="in the browser (default)"
    )
    mode.add_argument("--desktop", dest="mode", action="store_const", const="desktop", help="in a window")
    parser.add_argument("--port", type=int, default=0, help="of --web; default: any free one")
    parser.add_argument("--no-browser", action="store_true", help="with --web: serve, open no browser here")
    parser.set_defaults(mode="web")


def run(args: Namespace) -> None:
    """Body of ``powerpixels curate``."""
    unit = None if args.shank is None else f"shank{args.shank}"
    path = manual_curation(
        args.results, args.probe, unit, args.mode, args.raw, args.port, not args.no_browser
    )
    log.info("kept in %s; apply it with: powerpixels apply-curation", path)


def manual_curation(
    results_path: Path | str,
    probe: str | None = None,
    unit: str | None = None,
    mode: Literal["web", "desktop"] = "web",
    raw: Path | str | Sequence[Path | str] | None = None,
    port: int = 0,
    show: bool = True,
) -> Path:
    """Open SpikeInterface's GUI on a sorting unit; returns the curation file when the GUI is closed.

    results_path: folder with ``analyzers/``. probe, unit ("shank0", "probe"): may be left out where there is
    one. raw: the session's raw folder (of sessions sorted as one theirs, in order), from which the traces are
    rebuilt as they are looked at; None: the compressed copies that a run with --compress published, and
    without these the GUI shows no traces. The GUI's button "Save curation" writes the
    file; an earlier one is gone on with.

    Raises DataError where the results are not there or the file is of another sorting.
    """
    results_path = Path(results_path)
    probe, units = sorting_units(results_path, probe)
    if unit is None and len(units) == 1:
        unit = next(iter(units))
    if unit not in units:
        found = f"found {unit}" if unit else "none was named"
        raise DataError(
            f"{results_path}: {probe} has the sorting units {', '.join(units)}, {found}; name one of them"
        )
    needed = {"web": ("panel",), "desktop": ("PySide6", "PyQt5")}[mode]
    if find_spec("spikeinterface_gui") is None or not any(map(find_spec, needed)):
        raise DataError(
            "curation needs SpikeInterface's GUI"
            + (f" ({INSTALL})" if mode == "web" else f" for the desktop ({INSTALL} PyQt5 pyqtgraph)")
        )
    from spikeinterface_gui import run_mainwindow

    place = units[unit]
    arguments = gui_arguments(results_path, probe, place)
    recording = _traces(results_path, raw, probe, unit)
    if recording is not None:
        arguments |= {"recording": recording, "with_traces": True}
    if mode == "web":
        _shortcuts_without_network()
        arguments |= {"port": port, "panel_start_server_kwargs": {"show": show}}
    log.info("%s %s: press 'Save curation' to keep what you decide", probe, unit)
    run_mainwindow(mode=mode, **arguments)
    return place.curation


def _traces(
    results_path: Path, raw: Path | str | Sequence[Path | str] | None, probe: str, unit: str
) -> BaseRecording | None:
    """The traces that were sorted, lazy, from raw or the published copies; None without either.

    As PREPROCESS made them, and with the motion taken back where that was done before sorting.
    """
    from spikeinterface.preprocessing import astype

    from powerpixels.motion import motions_taken_back, moved_back
    from powerpixels.rebuild import find_record, load_preprocessed, published_copies

    if raw is None:
        try:
            record, _ = find_record(results_path, probe)
        except DataError as error:
            log.warning("traces are not shown: %s", error)
            return None
        if published_copies(record, results_path) is None:
            log.info("traces are not shown: the results have no compressed copies; --raw names the raw files")
            return None
    recording = load_preprocessed(results_path, raw, probe, unit)
    drift = results_path / "qc" / probe / "drift" / ("" if unit == "probe" else unit)
    motions = motions_taken_back(drift, recording.get_channel_groups())
    if motions:
        recording = astype(moved_back(recording, motions), "int16", round=True)
    return recording


def _shortcuts_without_network() -> None:
    """Let the web GUI's keyboard shortcuts do without React, which it would fetch from the internet.

    Without network that request fails, and with it the whole page stays empty.
    """
    import param
    from panel.custom import JSComponent
    from spikeinterface_gui import utils_panel

    class KeyboardShortcuts(JSComponent):
        shortcuts = param.List(item_type=dict)

        _esm = """
        export function render({ model }) {
          const onKeyDown = event => {
            const pressed = model.shortcuts.find(s =>
              s.key === event.key && !!s.altKey === event.altKey && !!s.shiftKey === event.shiftKey
              && !!s.ctrlKey === (event.ctrlKey || event.metaKey));
            if (pressed) {
              event.preventDefault();
              event.stopPropagation();
              model.send_msg(pressed.name);
            }
          };
          window.addEventListener("keydown", onKeyDown);
          model.on("remove", () => window.removeEventListener("keydown", onKeyDown));
          return document.createElement("span");
        }
        """

    # Its views take the class from there when they are made.
    utils_panel.KeyboardShortcuts = KeyboardShortcuts


def gui_arguments(results_path: Path, probe: str, place: CuratedUnit) -> dict[str, Any]:
    """Arguments of ``spikeinterface_gui.run_mainwindow`` for a sorting unit, without traces."""
    from spikeinterface.core import load_sorting_analyzer

    analyzer = load_sorting_analyzer(place.analyzer, load_extensions=True, read_only=True)
    labels = _labels(results_path, probe, place.name, [int(unit_id) for unit_id in analyzer.unit_ids])
    return {
        "analyzer": analyzer,
        "with_traces": False,
        "curation": True,
        "curation_dict": read_curation(place, analyzer),
        "displayed_unit_properties": [*METRICS],
        "extra_unit_properties": labels or None,
        "curation_callback": _saver(place, sorting_digest(analyzer)),
    }


def sorting_units(results_path: Path, probe: str | None) -> tuple[str, dict[str, CuratedUnit]]:
    """The probe's name and its sorting units by name; raises DataError naming the probes that are there."""
    analyzers = results_path / "analyzers"
    probes = sorted(path.parent.name for path in analyzers.glob("*/*.zarr"))
    probes = list(dict.fromkeys(probes))
    if probe is None and len(probes) == 1:
        probe = probes[0]
    if probe not in probes:
        found = f"those of {', '.join(probes)}" if probes else "none"
        raise DataError(
            f"{analyzers}: expected analyzers of {probe or 'one probe'}, found {found}; name a "
            "probe whose units are there, or the folder of the sessions that were sorted as one"
        )
    return probe, {
        path.stem: CuratedUnit(path.stem, path, results_path / "curation" / probe / f"{path.stem}.json")
        for path in sorted((analyzers / probe).glob("*.zarr"))
    }


def session_folders(results_path: Path, probe: str) -> list[Path]:
    """Folders of the sessions that were sorted together, in their order: results_path itself where it is one.

    By qc/<probe>/preprocess.json; raises DataError where it is not there.
    """
    path = results_path / "qc" / probe / "preprocess.json"
    if not path.is_file():
        raise DataError(
            f"{path}: expected what PREPROCESS says of the sessions, found none; run the pipeline again"
        )
    parts = Preprocess.load(path).parts
    if len(parts) == 1:
        return [results_path]
    return [results_path.parent / part.session.replace("_", "/") for part in parts]


def sorting_digest(analyzer) -> str:
    """SHA-256 of an analyzer's spikes and their units: whether a curation is of this sorting."""
    spikes = analyzer.sorting.to_spike_vector()
    ids = np.asarray([int(unit_id) for unit_id in analyzer.unit_ids], dtype="<i8")[spikes["unit_index"]]
    samples = spikes["sample_index"].astype("<i8")
    order = np.lexsort((ids, samples))
    return hashlib.sha256(samples[order].tobytes() + ids[order].tobytes()).hexdigest()


def read_curation(place: CuratedUnit, analyzer) -> dict | None:
    """A unit's curation file in SpikeInterface's current format, None where there is none yet.

    A file that another program wrote has no digest of the sorting: its unit ids must do. Raises DataError
    where it is no curation, or not of this analyzer.
    """
    if not place.curation.is_file():
        return None
    from spikeinterface.curation.curation_model import Curation

    found = read_json(place.curation)
    try:
        curation = Curation(**found).model_dump(mode="json")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{place.curation}: expected a curation in SpikeInterface's format, found otherwise "
            f"({error}); correct it or take it away"
        ) from None
    ids = {int(unit_id) for unit_id in analyzer.unit_ids}
    if set(curation["unit_ids"]) != ids or found.get(SORTING_KEY, sorting_digest(analyzer)) != sorting_digest(
        analyzer
    ):
        raise DataError(
            f"{place.curation}: expected a curation of {place.analyzer.name}, found one of another "
            "sorting (this one "
            f"has {len(ids)} units, the file {len(curation['unit_ids'])}); move it away and curate again"
        )
    return curation


def _saver(place: CuratedUnit, digest: str) -> Callable[[dict], None]:
    def save(curation: dict) -> None:
        place.curation.parent.mkdir(parents=True, exist_ok=True)
        partial = place.curation.with_suffix(".partial")
        partial.write_text(json.dumps({**curation, SORTING_KEY: digest}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, place.curation)
        log.info("saved %s", place.curation)

    return save


def _labels(results_path: Path, probe: str, unit: str, unit_ids: list[int]) -> dict[str, np.ndarray]:
    """The tools' labels in words, in the order of unit_ids; empty where nothing was exported."""
    try:
        session = session_folders(results_path, probe)[0]
        _, clusters, _ = load_neural_data(session, probe, revision="")
    except DataError as error:
        log.warning("labels are not shown: %s", error)
        return {}
    mine = clusters["sorting_unit"] == unit
    row_of = {
        int(i): row for row, i in zip(np.flatnonzero(mine), clusters["sorter_unit_id"][mine], strict=True)
    }
    if row_of.keys() != set(unit_ids):
        log.warning("labels are not shown: the exported units are not those of the analyzer")
        return {}
    rows = [row_of[unit_id] for unit_id in unit_ids]
    words = {tool: KILOSORT_WORDS if tool == "kilosort" else WORDS for tool in LABELS}
    # IBL's label is a score, the fraction of its tests that the unit passed.
    words["ibl"] = {-1: "unjudged", 0: "0/3", 1: "3/3"}
    return {
        tool: np.array(
            [words[tool].get(code, f"{3 * code:.0f}/3") for code in clusters[f"{tool}_label"][rows].tolist()]
        )
        for tool in LABELS
        if tool != "manual" and f"{tool}_label" in clusters
    }
