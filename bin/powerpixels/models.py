"""``powerpixels fetch-models``: UnitRefine's classifiers, once, into a folder that the pipeline can read.

The only part of the product that uses the network, and only for a model that is named by its Hugging Face
repository; a local folder or file is copied.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from powerpixels.stage import DataError
from powerpixels.unitrefine import MANIFEST, NOISE, SUA, ModelFiles, ModelsDocument, check_model, sha256_of

log = logging.getLogger("powerpixels")

# The lightweight ones need no principal components.
REPOSITORIES = {
    NOISE: "SpikeInterface/UnitRefine_noise_neural_classifier_lightweight",
    SUA: "AnoushkaJain3/sua_mua_classifier_lightweight",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``powerpixels fetch-models``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to make; give it as --unitrefine_models")
    for name, option in ((NOISE, "--noise-neural"), (SUA, "--sua-mua")):
        parser.add_argument(
            option,
            dest=name,
            default=REPOSITORIES[name],
            metavar="MODEL",
            help="folder with a .skops file and model_info.json, or that file beside its model_info.json, "
            "Hugging Face repository (or repository@revision), or 'none' (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> None:
    """Make the folder; nothing of it is left where that fails."""
    sources = {name: getattr(args, name) for name in (NOISE, SUA)}
    document = fetch_models(args.folder, {name: model for name, model in sources.items() if model != "none"})
    for name, model in document.models.items():
        print(f"{name}: {model.source}")
        for file, digest in model.sha256.items():
            print(f"  {digest}  {file}")


def fetch_models(folder: Path, sources: dict[str, str]) -> ModelsDocument:
    """Copy or download the models (by name: NOISE, SUA) into ``folder`` and write their hashes.

    Raises DataError where the folder exists, no model is asked for, or one can't be had or is none.
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder}: expected no such folder yet, found one; remove it or name another")
    if not sources:
        raise DataError("fetch-models: expected at least one model, found both set to 'none'; name one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        models = {}
        for name, model in sources.items():
            (made / name).mkdir(parents=True)
            local = Path(model)
            source = _copy(local, made / name) if local.exists() else _download(model, made / name)
            check_model(made / name)
            files = sorted((made / name).iterdir())
            models[name] = ModelFiles(source=source, sha256={file.name: sha256_of(file) for file in files})
        document = ModelsDocument(models=models)
        document.save(made / MANIFEST)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return document


def _wanted(name: str) -> bool:
    return name.endswith((".skops", ".json")) and "/" not in name


def _copy(source: Path, target: Path) -> str:
    """Copy a model's files; returns the source's name, which is no path of this machine.

    source: a folder, or a .skops file, of which only it and the model_info.json beside it are taken.
    """
    if source.is_dir():
        files = [file for file in sorted(source.iterdir()) if file.is_file() and _wanted(file.name)]
    elif source.suffix == ".skops":
        files = [source, source.with_name("model_info.json")]
    else:
        raise DataError(f"{source}: expected a folder with a model or a .skops file, found another file")
    for file in files:
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    return f"{'folder' if source.is_dir() else 'file'} {source.resolve().name}"


def _download(repository: str, target: Path) -> str:
    """Download a model's files; returns repository@commit."""
    from huggingface_hub import HfApi, hf_hub_download

    name, _, revision = repository.partition("@")
    try:
        found = HfApi().model_info(name, revision=revision or None)
        for file in found.siblings or []:
            if _wanted(file.rfilename):
                log.info("%s: %s", name, file.rfilename)
                hf_hub_download(name, file.rfilename, revision=found.sha, local_dir=target)
    except Exception as error:  # of the network, of the hub, of a wrong name: all the same to the user
        raise DataError(
            f"{repository}: expected a folder or a Hugging Face repository, and could not fetch it "
            f"({type(error).__name__}: {error}); fetch it on a machine with a network, or give a folder"
        ) from None
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return f"{name}@{found.sha}"
