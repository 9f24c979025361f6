"""UnitRefine: classifiers that curated recordings trained, from a local folder whose files are pinned.

A models folder has noise_neural_classifier/ and sua_mua_classifier/, at least one of them, each with one
.skops file and model_info.json, and models.json with the sha256 of every file. ``powerpixels fetch-models``
makes it. Nothing is fetched while the pipeline runs.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from powerpixels.documents import Document
from powerpixels.stage import DataError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("powerpixels")

NOISE, SUA = "noise_neural_classifier", "sua_mua_classifier"
MANIFEST = "models.json"
# The models' labels, as the words of labels.csv. A model of noise alone says "neural", which is none of them.
WORDS = {"noise": "noise", "sua": "good", "mua": "mua"}
AMPLITUDE = "amplitude_median"
# What ANALYZE leaves out, whatever the parameters.
LEFT_OUT = "sd_ratio"
_LABELS = {NOISE: {"noise", "neural"}, SUA: {"sua", "mua"}}
# All that a scikit-learn pipeline of imputer, scaler and forest holds besides what skops trusts by itself.
TRUSTED = (
    "numpy.dtype",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
    "sklearn.tree._tree.Tree",
)


class ModelFiles(Document):
    """Where a model came from, as a text, and the sha256 of each of its files by name."""

    source: str
    sha256: dict[str, str]


class ModelsDocument(Document):
    """models.json of a models folder."""

    models: dict[str, ModelFiles]


def sha256_of(path: Path) -> str:
    """A file's sha256, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verified(folder: Path) -> ModelsDocument:
    """The folder's manifest, every file of it checked.

    Raises DataError where the manifest or a file is missing, differs, or is not one of the manifest's.
    """
    folder = Path(folder)
    remedy = "make the folder anew with powerpixels fetch-models"
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{folder}: expected {MANIFEST} with the models' hashes, found none; {remedy}")
    try:
        document = ModelsDocument.load(manifest)
    except ValidationError as error:
        raise DataError(f"{manifest}: expected the hashes of UnitRefine models ({error}); {remedy}") from None
    if not document.models or not set(document.models) <= {NOISE, SUA}:
        raise DataError(
            f"{manifest}: expected the models {NOISE} and {SUA}, found {sorted(document.models)}; {remedy}"
        )
    for name, model in document.models.items():
        present = {path.name for path in (folder / name).glob("*") if path.is_file()}
        if present != set(model.sha256):
            raise DataError(
                f"{folder / name}: expected the files {sorted(model.sha256)} of {MANIFEST}, found "
                f"{sorted(present)}; {remedy}"
            )
        for file, expected in model.sha256.items():
            found = sha256_of(folder / name / file)
            if found != expected:
                raise DataError(
                    f"{folder / name / file}: expected the sha256 {expected} of {MANIFEST}, found {found}; "
                    f"the file was changed: {remedy}"
                )
    return document


def check_model(folder: Path) -> tuple[list[str], bool]:
    """The metrics that a model reads, by SpikeInterface's present names, and whether amplitudes have a sign.

    folder: with one .skops file and model_info.json. A sign: its training had negative median amplitudes, as
    SpikeInterface has computed them since it has SortingAnalyzers; before that, and in all curated recordings
    that UnitRefine published, they are positive. Raises DataError where there is no such file or several, it
    holds a type that is not trusted, is no pipeline, or says other labels than its name promises.
    """
    import pandas as pd
    import skops.io
    from spikeinterface.curation.model_based_curation import get_required_metrics_from_model, load_model

    folder = Path(folder)
    files = sorted(path.name for path in folder.glob("*.skops"))
    if len(files) != 1 or not (folder / "model_info.json").is_file():
        raise DataError(
            f"{folder}: expected one .skops file and model_info.json, found "
            f"{sorted(path.name for path in folder.glob('*'))}; give a folder of one model"
        )
    file = folder / files[0]
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED))
    except Exception as error:  # whatever a damaged archive makes of skops
        raise DataError(f"{file}: expected a skops file, found otherwise ({error}); fetch it again") from None
    if untrusted:
        raise DataError(
            f"{file}: expected a scikit-learn pipeline only, found the types {', '.join(untrusted)}, which "
            "could run code of their own; use another model"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = load_model(model_folder=folder, trusted=list(TRUSTED))
    said = set((info.get("label_conversion") or {}).values())
    if folder.name in _LABELS and said != _LABELS[folder.name]:
        raise DataError(
            f"{folder}: expected a model that says {' or '.join(sorted(_LABELS[folder.name]))}, found "
            f"{sorted(said)} in model_info.json; give the models their right places"
        )
    read = get_required_metrics_from_model(model=model)
    signed = False
    # The version in model_info.json is that of the training, not that of the metrics, which can be older. The
    # model itself tells: what its imputer puts in place of an unknown amplitude is typical of those it knows.
    if AMPLITUDE in model.feature_names_in_ and hasattr(model[:1], "transform"):
        names = list(model.feature_names_in_)
        unknown = pd.DataFrame(np.full((1, len(names)), np.nan, dtype=np.float32), columns=names)
        filled = np.asarray(model[:1].transform(unknown))
        signed = filled.shape == (1, len(names)) and bool(filled[0, names.index(AMPLITUDE)] < 0)
    return read, signed


class _Given:
    """Of a SortingAnalyzer what SpikeInterface's labelling asks for, with metrics in the model's form."""

    def __init__(self, analyzer, metrics: pd.DataFrame) -> None:
        self.unit_ids = analyzer.unit_ids
        self.get_extension = analyzer.get_extension
        self._metrics = metrics

    def get_metrics_extension_data(self) -> pd.DataFrame:
        return self._metrics


def label(analyzer, models: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """UnitRefine's word and probability of each unit, index unit_id, and the models' sources and hashes.

    analyzer: with template and quality metrics. Columns "unitrefine" (WORDS; no row for a unit without an
    answer) and "unitrefine_probability" (of that answer, 0 to 1). By SpikeInterface's
    ``unitrefine_label_units``, of each model on what ``given_to`` gives: noise where that model says so, the
    rest single (good) or multi-unit.

    Raises DataError for models that are not whole or need metrics that were not computed.
    """
    from spikeinterface.curation import unitrefine_label_units

    models = Path(models)
    document = verified(models)
    computed = analyzer.get_metrics_extension_data()
    said = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in document.models:
            metrics = given_to(models / name, computed)
            said[name] = unitrefine_label_units(_Given(analyzer, metrics), **{name: str(models / name)})
    for message in sorted({" ".join(str(warning.message).split()) for warning in caught}):
        log.info("UnitRefine: %s", message)
    table = said.get(SUA, said.get(NOISE))
    if NOISE in said:
        table = table.where(said[NOISE]["unitrefine_label"] != "noise", said[NOISE])
    table = table.rename(columns={"unitrefine_label": "unitrefine"}).rename_axis("unit_id")
    table["unitrefine"] = table["unitrefine"].map(WORDS)
    table["unitrefine_probability"] = table["unitrefine_probability"].astype(float)
    return table.dropna(subset="unitrefine"), document.model_dump()["models"]


def given_to(model: Path, computed: pd.DataFrame) -> pd.DataFrame:
    """An analyzer's metrics as the model in the folder ``model`` knows them; renaming is SpikeInterface's.

    amplitude_median is without its sign unless the model's training had signs. amplitude_cutoff is
    SpikeInterface's present, corrected one, which the training had otherwise (its issue 4352): models of
    the curated recordings hardly use it. Raises DataError naming the metrics that were not computed.
    """
    read, signed = check_model(model)
    missing = sorted(set(read) - set(computed.columns))
    if missing:
        if LEFT_OUT in missing:
            remedy = f"{LEFT_OUT} is never computed here, so use a model without it"
        else:
            remedy = "those of principal components come with --pca_metrics, else use a model without these"
        raise DataError(
            f"{model}: the model reads metrics that were not computed: {', '.join(missing)}; {remedy}"
        )
    if AMPLITUDE not in read or signed:
        return computed
    log.info("UnitRefine: %s is given to %s without its sign, as in its training", AMPLITUDE, model.name)
    return computed.assign(**{AMPLITUDE: computed[AMPLITUDE].abs()})
