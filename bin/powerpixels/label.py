"""LABEL: what each tool says of each unit, joined by unit id."""

from __future__ import annotations

import json
import logging
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from powerpixels import bombcell_labels, ibl_labels, unitrefine
from powerpixels.agreement import GOOD, TOOLS, UNJUDGED
from powerpixels.documents import SortingDocument
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

# What each tool can say; the consensus can say all of them.
WORDS = ("good", "mua", "noise", "non_soma", UNJUDGED)
# The tools that look at the waveform's shape, so that they can tell noise from a neuron.
SHAPE_TOOLS = ("bombcell", "unitrefine")
COLUMNS = (
    "unit_id",
    *TOOLS,
    "consensus",
    "unitrefine_probability",
    "ibl_score",
    "ibl_bitwise",
)


def label_units(
    sorting_folder: Path,
    analysis_folder: Path,
    out: Path,
    bombcell: dict[str, Any] | None = None,
    ibl: dict[str, Any] | None = None,
    models: Path | None = None,
) -> pd.DataFrame:
    """Write out/labels.csv, out/labels.json and out/phy/cluster_*.tsv; returns the table.

    bombcell, ibl: parameters in place of the defaults. models: UnitRefine's folder; without it UnitRefine
    judges nothing.

    labels.csv: a row for every unit of sorting.json, in its order, with COLUMNS. kilosort (the sorter's own
    label), bombcell, unitrefine, ibl and consensus are words: "good", "mua", "noise", "non_soma", and
    "unjudged" where a tool says nothing of a unit. Kilosort and IBL know "good" and "mua" only: IBL's is
    "good" where its score is 1. Numbers, empty where not judged: unitrefine_probability (of its label, 0 to
    1), ibl_score (share of IBL's three criteria that the unit passes), ibl_bitwise (the failed ones, see
    ``ibl_labels.score``). labels.json: probe, unit, and each tool's version and parameters. phy/: each tool's
    words by cluster_id, as Phy reads them beside the sorter's files.

    Raises DataError for wrong parameters or models, and where the analysis is not of this sorting.
    """
    import pandas as pd

    out, analysis_folder = Path(out), Path(analysis_folder)
    document = SortingDocument.load(Path(sorting_folder) / "sorting.json")
    analysis = json.loads((analysis_folder / "analysis.json").read_text(encoding="utf-8"))
    if (analysis["probe"], analysis["unit"]) != (document.probe, document.unit):
        raise DataError(
            f"{analysis_folder}: expected the analysis of {document.probe} {document.unit}, found that of "
            f"{analysis['probe']} {analysis['unit']}; give the folders of one sorting"
        )
    bombcell = bombcell_labels.checked(bombcell or {})
    ibl = ibl_labels.checked(ibl or {})
    said_by: dict[str, Any] = {
        "probe": document.probe,
        "unit": document.unit,
        "kilosort": {"sorter": document.sorter, "version": document.sorter_version},
        "bombcell": {"version": metadata.version("bombcell"), "parameters": bombcell},
        "unitrefine": {"version": metadata.version("spikeinterface"), "models": {}},
        "ibl": {"version": metadata.version("ibllib"), "parameters": ibl},
    }
    own = {unit: word if word in WORDS else UNJUDGED for unit, word in document.sorter_labels.items()}
    parts = [pd.DataFrame({"kilosort": pd.Series(own, dtype=object)})]
    if (analysis_folder / "analyzer.zarr").exists():
        words, measured, parameters = _bombcell(analysis_folder, bombcell)
        said_by["bombcell"] = {
            "version": measured.version,
            "source": measured.source,
            "parameters": parameters,
        }
        parts.append(pd.DataFrame({"bombcell": pd.Series(words, dtype=object)}))
        analyzer = _analyzer(analysis_folder)
        if models is not None:
            judged, said_by["unitrefine"]["models"] = unitrefine.label(analyzer, Path(models))
            parts.append(judged)
        parts.append(_ibl(analysis_folder, analyzer, ibl))
    elif models is not None:
        unitrefine.verified(Path(models))
    if models is None:
        log.info("UnitRefine: no models given (--unitrefine_models), all units are unjudged")

    table = pd.DataFrame(index=pd.Index(document.unit_ids, name="unit_id", dtype="int64"))
    for part in parts:
        table = table.join(part)
    for tool in TOOLS:
        words = table[tool] if tool in table else pd.Series(np.nan, table.index)
        table[tool] = words.astype(object).where(words.notna(), UNJUDGED)
    table["consensus"] = [consensus(dict(zip(TOOLS, row, strict=True))) for row in table[list(TOOLS)].values]
    table = table.reset_index().reindex(columns=list(COLUMNS))
    table["ibl_bitwise"] = table["ibl_bitwise"].astype("Int64")
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "labels.csv", index=False)
    (out / "labels.json").write_text(json.dumps(said_by, indent=1) + "\n", encoding="utf-8")
    _write_for_phy(table, out / "phy")
    for tool in (*TOOLS, "consensus"):
        log.info("%s %s, %s: %s", document.probe, document.unit, tool, table[tool].value_counts().to_dict())
    return table


def consensus(words: dict[str, str]) -> str:
    """One word for a unit from those of the TOOLS that judged it.

    "noise" where all SHAPE_TOOLS that judged say so: the others see spike times and amplitudes only, which
    noise can have as a neuron does. Else "good" where more than half of the tools that judged say so; else
    "non_soma" where Bombcell does; else "mua". "unjudged" where no tool judged it.
    """
    judged = [words[tool] for tool in TOOLS if words[tool] != UNJUDGED]
    shape = [words[tool] for tool in SHAPE_TOOLS if words[tool] != UNJUDGED]
    if not judged:
        return UNJUDGED
    if shape and all(word == "noise" for word in shape):
        return "noise"
    if 2 * judged.count(GOOD) > len(judged):
        return GOOD
    return "non_soma" if words["bombcell"] == "non_soma" else "mua"


def _analyzer(analysis_folder: Path):
    from spikeinterface.core import load_sorting_analyzer

    return load_sorting_analyzer(analysis_folder / "analyzer.zarr", lazy=True, read_only=True)


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(file, index_col="unit_id", float_precision="round_trip")


def _bombcell(analysis_folder: Path, overrides: dict[str, Any]):
    measured = bombcell_labels.BombcellDocument.load(analysis_folder / "bombcell.json")
    words, parameters = bombcell_labels.classify(_read(analysis_folder / "bombcell.csv"), measured, overrides)
    return words, measured, parameters


def _ibl(analysis_folder: Path, analyzer, parameters: dict[str, Any]) -> pd.DataFrame:
    """Columns ibl, ibl_score and ibl_bitwise of all units of the analyzer, index unit_id."""
    import pandas as pd

    vector = analyzer.sorting.to_spike_vector()
    index = np.asarray(vector["unit_index"])
    amplitudes = np.asarray(analyzer.get_extension("spike_amplitudes").get_data(), dtype=np.float64)
    # The way in which most of a unit's spikes point is positive.
    downward = pd.Series(amplitudes).groupby(index).median() < 0
    direction = np.ones(len(analyzer.unit_ids))
    direction[downward.index[downward]] = -1
    ids = np.asarray(analyzer.unit_ids, dtype=np.int64)
    table = ibl_labels.amplitude_metrics(amplitudes * direction[index] * 1e-6, ids[index], parameters)
    confidence = _read(analysis_folder / "ibl_confidence.csv").loc[table.index]
    table["max_confidence"] = ibl_labels.max_confidence(confidence, parameters)
    score, failed = ibl_labels.score(table, parameters)
    return pd.DataFrame(
        {"ibl": np.where(score == 1, GOOD, "mua"), "ibl_score": score, "ibl_bitwise": failed},
        index=table.index,
    )


def _write_for_phy(table: pd.DataFrame, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for tool in (*TOOLS[1:], "consensus"):
        table[["unit_id", tool]].rename(columns={"unit_id": "cluster_id"}).to_csv(
            folder / f"cluster_{tool}.tsv", sep="\t", index=False
        )
