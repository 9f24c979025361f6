"""Power Pixels: raw Neuropixels recordings to sorted, labelled, synchronised units."""

__version__ = "0.1.0.dev0"

_EXPORTED = {
    "load_preprocessed": "powerpixels.rebuild",
    "load_neural_data": "powerpixels.load",
    "load_lfp": "powerpixels.lfp",
    "manual_curation": "powerpixels.curate",
    "apply_curation": "powerpixels.curated",
}


def __getattr__(name: str) -> object:
    """The functions for users' own scripts; their modules are imported when they are asked for."""
    if name not in _EXPORTED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_EXPORTED[name]), name)
