"""Figures of what RAW_QC wrote: levels over time and depth, spectra, channel quality along the shanks.

Everything is read from RAW_QC's own files. Colours are told apart by colour-blind people too: viridis for
maps, Okabe and Ito's set (https://jfly.uni-koeln.de/color/) for lines and points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from powerpixels.raw_qc import ChannelQuality, RawQc
from powerpixels.spectra import notch_gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Slices of a shank whose median spectra are drawn.
DEPTHS = 5
# Spectra are drawn from here on: below 1 Hz the LF band was filtered, below 50 Hz the AP band is none.
LOWEST_HZ = {"AP": 50.0, "LF": 1.0}


def draw(folder: Path) -> list[Path]:
    """Write levels.png, spectra.png and channels.png into RAW_QC's folder; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder = Path(folder)
    qc = RawQc.load(folder / "raw_qc.json")
    paths = []
    for name, figure in (
        ("levels", _levels(folder, qc)),
        ("spectra", _spectra(folder, qc)),
        ("channels", _channels(qc)),
    ):
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths


def _shanks(qc: RawQc) -> dict[int, np.ndarray]:
    """Positions of each shank's channels, from the tip up."""
    y_um = np.array([channel.y_um for channel in qc.channels])
    shank = np.array([channel.shank for channel in qc.channels])
    return {
        int(k): np.flatnonzero(shank == k)[np.argsort(y_um[shank == k], kind="stable")]
        for k in np.unique(shank)
    }


def _array(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"_iblqc_{name}.npy")


def _by_channel(folder: Path, name: str, qc: RawQc) -> np.ndarray:
    """An array with columns of the raw file, as (rows, channels of qc)."""
    return _array(folder, name)[:, [channel.raw_column for channel in qc.channels]]


def _bands(qc: RawQc) -> tuple[str, ...]:
    return ("AP",) if qc.lf_band == "none" else ("AP", "LF")


def _edges(values: np.ndarray) -> np.ndarray:
    """Borders of the cells around ascending values."""
    if len(values) == 1:
        return values[0] + np.array([-0.5, 0.5])
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])


def _heights(y_um: np.ndarray) -> np.ndarray:
    """Where to draw channels, ascending: those of one height side by side below the next."""
    depths, first, n_there = np.unique(y_um, return_index=True, return_counts=True)
    pitch = np.diff(depths).min() if len(depths) > 1 else 1.0
    rank = np.arange(len(y_um)) - np.repeat(first, n_there)
    return y_um + pitch * rank / np.repeat(n_there, n_there)


def _levels(folder: Path, qc: RawQc) -> Figure:
    """RMS by time and depth, a row for each band, a column for each shank."""
    from matplotlib import pyplot as plt

    shanks, bands = _shanks(qc), _bands(qc)
    figure, axes = plt.subplots(
        len(bands),
        len(shanks),
        figsize=(3.2 + 3.4 * len(shanks), 4 * len(bands)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    y_um = np.array([channel.y_um for channel in qc.channels])
    for row, band in enumerate(bands):
        rms_uv = 1e6 * _by_channel(folder, f"ephysTimeRms{band}.rms", qc)
        times_s = _edges(_array(folder, f"ephysTimeRms{band}.timestamps"))
        seen = rms_uv[np.isfinite(rms_uv)]
        low, high = np.percentile(seen, [1, 99]) if seen.size else (0, 1)
        for axis, (shank, members) in zip(axes[row], shanks.items(), strict=True):
            heights = _edges(_heights(y_um[members]))
            image = axis.pcolormesh(
                times_s, heights, rms_uv[:, members].T, vmin=low, vmax=high, cmap="viridis"
            )
            axis.set_title(f"{band}, shank {shank}")
        figure.colorbar(image, ax=list(axes[row]), label=f"{band} level (µV rms)", extend="both")
    for axis in axes[-1]:
        axis.set_xlabel(f"time on the clock of {qc.clock} (s)")
    for axis in axes[:, 0]:
        axis.set_ylabel("height above the tip (µm)")
    origin = f"AP {qc.ap_band}; {'no LF band' if qc.lf_band == 'none' else f'LF from {qc.lf_band}'}"
    figure.suptitle(f"{qc.probe}: levels ({origin})")
    return figure


def _spectra(folder: Path, qc: RawQc) -> Figure:
    """Median spectra of slices of depth, and maps of the spectra by depth, a row for each band."""
    from matplotlib import pyplot as plt

    bands = _bands(qc)
    figure, axes = plt.subplots(
        len(bands), 2, figsize=(13, 4.5 * len(bands)), squeeze=False, layout="constrained"
    )
    y_um = np.array([channel.y_um for channel in qc.channels])
    order = np.concatenate(list(_shanks(qc).values()))
    for (lines, image), band in zip(axes, bands, strict=True):
        freqs_hz = _array(folder, f"ephysSpectralDensity{band}.freqs").astype(float)
        first = int(np.searchsorted(freqs_hz, LOWEST_HZ[band]))
        freqs_hz = freqs_hz[first:]
        power = _by_channel(folder, f"ephysSpectralDensity{band}.power", qc)
        density = 1e12 * power[first:].astype(float)
        density[:, ~np.all(density > 0, axis=0)] = np.nan
        slices = np.array_split(np.argsort(y_um, kind="stable"), min(DEPTHS, len(y_um)))
        for color, members in zip(OKABE_ITO, slices, strict=False):
            within = f"{y_um[members].min():.0f} to {y_um[members].max():.0f} µm"
            seen = members[~np.isnan(density[0, members])]
            if seen.size:
                lines.loglog(freqs_hz, np.median(density[:, seen], axis=1), color=color, lw=1, label=within)
        if band == "AP":
            for line in qc.lines:
                filtered = line.left_out is None
                lines.axvline(line.frequency_hz, color="0.6", lw=0.8, ls="-" if filtered else ":", zorder=0)
            notched = _notched(qc, freqs_hz, density)
            if notched is not None:
                median = np.nanmedian(notched, axis=1)
                lines.loglog(freqs_hz, median, color="0.3", lw=1, ls="--", label="all, after notches")
        lines.set(xlabel="frequency (Hz)", ylabel="density (µV²/Hz)", title=f"{band}: median by height")
        if lines.get_lines():
            lines.legend(title="height", fontsize=8)
        decibel = 10 * np.log10(density[:, order].T)
        seen = decibel[np.isfinite(decibel)]
        low, high = np.percentile(seen, [1, 99]) if seen.size else (0, 1)
        mesh = image.pcolormesh(
            _edges(freqs_hz), np.arange(len(order) + 1), decibel, vmin=low, vmax=high, cmap="viridis"
        )
        _mark_shanks(image, qc, order)
        image.set(xlabel="frequency (Hz)", title=f"{band}: each channel, by shank and height")
        figure.colorbar(mesh, ax=image, label="density (dB re 1 µV²/Hz)", extend="both")
    n_lines = sum(line.left_out is None for line in qc.lines)
    figure.suptitle(f"{qc.probe}: spectra of the raw traces; grey: spectral lines ({n_lines})")
    return figure


def _notched(qc: RawQc, freqs_hz: np.ndarray, density: np.ndarray) -> np.ndarray | None:
    """The density (n_freqs, n_channels) after PREPROCESS's notches; None where there are none."""
    notches = [line for line in qc.lines if line.left_out is None]
    if not notches:
        return None
    notched = density.copy()
    for k, channel in enumerate(qc.channels):
        own = [notch for notch in notches if channel.raw_column in notch.raw_columns]
        # To zero within a notch: nothing that a logarithm can show.
        notched[:, k] *= np.maximum(notch_gain(freqs_hz, own, qc.sampling_rate_hz) ** 2, 1e-3)
    return notched


def _mark_shanks(axis: Axes, qc: RawQc, order: np.ndarray) -> None:
    """Name the shanks beside a map whose rows are the channels in this order."""
    shank = np.array([qc.channels[k].shank for k in order])
    starts = np.flatnonzero(np.diff(shank, prepend=-1))
    for start in starts[1:]:
        axis.axhline(start, color="white", lw=1)
    stops = np.append(starts[1:], len(order))
    axis.set_yticks(
        (starts + stops) / 2, [f"shank {shank[start]}" for start in starts], rotation=90, va="center"
    )


def _values(channels: Sequence[ChannelQuality], key: str, factor: float = 1.0) -> np.ndarray:
    found = [getattr(channel, key) for channel in channels]
    return np.array([np.nan if value is None else factor * value for value in found])


def _channels(qc: RawQc) -> Figure:
    """Level, high-frequency noise and saturation of each channel along the shanks; a cross: none at all."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    measures = [
        ("ap_rms_uv", 1.0, "AP level (µV rms)", "log"),
        ("lf_rms_uv", 1.0, "LF level (µV rms)", "log"),
        ("high_uv2_hz", 1.0, "density above 0.8 Nyquist (µV²/Hz)", "log"),
        ("ap_saturated", 100.0, "saturated (% of AP samples)", "linear"),
    ]
    figure, axes = plt.subplots(1, len(measures), figsize=(13, 7), sharey=True)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.09, top=0.93, wspace=0.12)
    for axis, (key, factor, label, scale) in zip(axes, measures, strict=True):
        for color, (shank, members) in zip(OKABE_ITO, _shanks(qc).items(), strict=False):
            channels = [qc.channels[k] for k in members]
            values, y_um = _values(channels, key, factor), np.array([c.y_um for c in channels])
            axis.plot(
                np.where(values > 0, values, np.nan) if scale == "log" else values,
                y_um,
                ".",
                ms=5,
                color=color,
                label=f"shank {shank}",
            )
            if scale == "log":
                # A logarithm has no place for channels without any signal: at the axis' left end.
                flat = values == 0
                at_left = axis.get_yaxis_transform()
                axis.plot(
                    np.zeros(flat.sum()), y_um[flat], "x", color=color, transform=at_left, clip_on=False
                )
        axis.set(xlabel=label, xscale=scale)
        if scale == "log":
            # A decade at least, so that the ticks' numbers have room, and channels that are alike look so.
            middle, half = (
                np.sqrt(np.prod(axis.get_xlim())),
                max(np.sqrt(np.divide(*axis.get_xlim()[::-1])), 3.2),
            )
            axis.set_xlim(middle / half, middle * half)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_xlim(left=-0.02 * max(axis.get_xlim()[1], 0.1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("height above the tip (µm)")
    axes[0].legend(fontsize=8)
    found = f"{qc.n_saturated} saturated intervals ({qc.saturated_s:.3g} s), "
    found += f"{qc.n_artifacts} artifacts ({qc.artifact_s:.3g} s) in {qc.duration_s:.0f} s"
    figure.suptitle(f"{qc.probe}: channels; {found}")
    return figure
