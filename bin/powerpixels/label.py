"""LABEL: what each tool says of each unit, joined by unit id."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powerpixels.documents import SortingDocument
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

UNJUDGED = "unjudged"
# From principal components, which ANALYZE does not compute.
_NOT_COMPUTED = ("isolation_distance", "l_ratio")
_BOUNDS = ("greater", "less", "abs")

Thresholds = dict[str, dict[str, dict[str, Any]]]


def label_units(
    sorting_folder: Path, analysis_folder: Path, out: Path, overrides: dict | None = None
) -> pd.DataFrame:
    """Write out/labels.csv and out/labels.json; returns the table.

    labels.csv: a row for every unit of sorting.json, in its order: unit_id, kilosort (the sorter's own
    label), bombcell ("good", "mua", "noise", "non_soma"); "unjudged" where a tool says nothing of a unit.
    labels.json: probe, unit, thresholds and versions. overrides: as for ``bombcell_thresholds``.

    Raises DataError for an override that is unknown, and where the analysis is not of this sorting.
    """
    import pandas as pd

    out = Path(out)
    document = SortingDocument.load(Path(sorting_folder) / "sorting.json")
    analysis = json.loads((Path(analysis_folder) / "analysis.json").read_text(encoding="utf-8"))
    if (analysis["probe"], analysis["unit"]) != (document.probe, document.unit):
        raise DataError(
            f"{analysis_folder}: expected the analysis of {document.probe} {document.unit}, found that of "
            f"{analysis['probe']} {analysis['unit']}; give the folders of one sorting"
        )
    thresholds = bombcell_thresholds(overrides or {})
    bombcell = _bombcell_labels(Path(analysis_folder) / "analyzer.zarr", thresholds)
    table = pd.DataFrame(
        {
            "unit_id": document.unit_ids,
            "kilosort": [document.sorter_labels.get(unit, UNJUDGED) for unit in document.unit_ids],
            "bombcell": [bombcell.get(unit, UNJUDGED) for unit in document.unit_ids],
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "labels.csv", index=False)
    said_by = {
        "probe": document.probe,
        "unit": document.unit,
        "kilosort": {"sorter": document.sorter, "version": document.sorter_version},
        "bombcell": {
            "function": "spikeinterface.curation.bombcell_label_units",
            "version": metadata.version("spikeinterface"),
            "thresholds": thresholds,
        },
    }
    (out / "labels.json").write_text(json.dumps(said_by, indent=1) + "\n", encoding="utf-8")
    for tool in ("kilosort", "bombcell"):
        log.info("%s %s, %s: %s", document.probe, document.unit, tool, table[tool].value_counts().to_dict())
    return table


def bombcell_thresholds(overrides: dict) -> Thresholds:
    """SpikeInterface's default Bombcell thresholds with a user's in their place.

    overrides: {section: {metric: {"greater": number or null, "less": number or null}}}, any part of it;
    null for a bound, or instead of the bounds, switches it off. Sections: "noise", "mua", "non-somatic".
    The metrics from principal components are left out.

    Raises DataError for an unknown section, metric or bound (it names the nearest), and for a wrong value.
    """
    from spikeinterface.curation import bombcell_get_default_thresholds

    thresholds = copy.deepcopy(bombcell_get_default_thresholds())
    for section in thresholds.values():
        for metric in _NOT_COMPUTED:
            section.pop(metric, None)
    _expect_object(overrides, "the file")
    for section, metrics in overrides.items():
        _expect_known(section, thresholds, "section")
        _expect_object(metrics, section)
        for metric, bounds in metrics.items():
            where = f"{section}.{metric}"
            if metric in _NOT_COMPUTED:
                raise DataError(
                    f"Bombcell parameters: {where} needs principal components, which are not computed; "
                    "remove it"
                )
            _expect_known(metric, thresholds[section], f"metric of {section}")
            if bounds is None:
                thresholds[section][metric] |= {"greater": None, "less": None}
                continue
            _expect_object(bounds, where)
            for bound, value in bounds.items():
                _expect_known(bound, _BOUNDS, f"bound of {where}")
                _check_bound(where, bound, value)
                thresholds[section][metric][bound] = value
    return thresholds


def _expect_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(
            f"Bombcell parameters: expected a JSON object in {where}, found {value!r}; correct it"
        )


def _expect_known(name: str, known, what: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise DataError(
            f"Bombcell parameters: {name!r} is not a {what}; the nearest is {nearest[0]!r}. "
            f"Known: {', '.join(known)}"
        )


def _check_bound(where: str, bound: str, value: Any) -> None:
    if bound == "abs":
        fits, expected = isinstance(value, bool), "true or false"
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits, expected = value is None or number, "a number or null"
    if not fits:
        raise DataError(
            f"Bombcell parameters: {where}.{bound} must be {expected}, found {value!r}; correct it"
        )


def _bombcell_labels(analyzer_folder: Path, thresholds: Thresholds) -> dict[int, str]:
    """Bombcell's label by unit id; no entry for a unit that the analyzer does not hold."""
    if not analyzer_folder.exists():
        return {}
    from spikeinterface.core import load_sorting_analyzer
    from spikeinterface.curation import bombcell_label_units

    analyzer = load_sorting_analyzer(analyzer_folder, read_only=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = bombcell_label_units(analyzer, thresholds=thresholds)
    for message in sorted({str(warning.message) for warning in caught}):
        log.warning("%s", message)
    return {int(unit): str(label) for unit, label in labels["bombcell_label"].items()}
