"""The drift map: where spikes were along the shank over time, and the motion that was found in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from powerpixels.motion import MotionDocument, Peaks

# More points hide each other.
MAX_POINTS = 60_000
# Okabe and Ito's vermilion (https://jfly.uni-koeln.de/color/): told from viridis' colours by everyone.
MOTION_COLOR = "#D55E00"


def draw(folder: Path, peaks: Peaks | None) -> Path:
    """Write drift.png into DRIFT's folder, from its files and the peaks registered; returns its path.

    Peaks are coloured by amplitude (µV); lines show how the tissue around each height moved. Where the
    unit was skipped the figure says why.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder = Path(folder)
    document = MotionDocument.load(folder / "motion.json")
    figure, (axis, below) = plt.subplots(
        2, 1, figsize=(12, 9), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    figure.suptitle(f"{document.place}: {document.message}\n{document.policy_text}", fontsize=10)
    axis.set_ylabel("height above the tip (µm)")
    below.set(xlabel="time on the probe's own clock (s)", ylabel="displacement (µm)")
    below.set_xlim(0, document.duration_s)
    if peaks is not None:
        _draw_peaks(figure, axis, peaks, document.seed)
        _draw_motion(axis, below, folder)
    path = folder / "drift.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _draw_peaks(figure, axis, peaks: Peaks, seed: int) -> None:
    shown = np.arange(len(peaks.times_s))
    if shown.size > MAX_POINTS:
        shown = np.sort(np.random.default_rng(seed).choice(shown, MAX_POINTS, replace=False))
    amplitudes_uv = -peaks.amplitudes_uv[shown]
    low, high = np.percentile(amplitudes_uv, [2, 98])
    # The large ones on top: they show the motion best.
    order = np.argsort(amplitudes_uv, kind="stable")
    points = axis.scatter(
        peaks.times_s[shown][order],
        peaks.y_um[shown][order],
        c=amplitudes_uv[order],
        s=2,
        vmin=low,
        vmax=high,
        cmap="viridis_r",
        linewidths=0,
        rasterized=True,
    )
    figure.colorbar(points, ax=axis, label="amplitude (µV below zero)", extend="both")


def _draw_motion(axis, below, folder: Path) -> None:
    from matplotlib import colormaps

    times_s = np.load(folder / "temporal_bins_s.npy")
    displacement_um = np.load(folder / "displacement_um.npy")
    centres_um = np.load(folder / "spatial_bins_um.npy")
    for k, centre in enumerate(centres_um):
        axis.plot(times_s, centre + displacement_um[:, k], color="white", lw=2.5)
        axis.plot(times_s, centre + displacement_um[:, k], color=MOTION_COLOR, lw=1.2)
        shade = colormaps["viridis"](0.9 * k / max(len(centres_um) - 1, 1))
        below.plot(times_s, displacement_um[:, k], color=shade, lw=1.2, label=f"around {centre:.0f} µm")
    if len(centres_um) > 1:
        below.legend(fontsize=8, ncols=min(len(centres_um), 5), loc="upper right")
    below.grid(alpha=0.3)
