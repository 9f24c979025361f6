"""Power Pixels: raw Neuropixels recordings to sorted, labelled, synchronised units."""

__version__ = "0.1.0.dev0"
