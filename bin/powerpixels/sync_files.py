"""What the synchronisation of a stream leaves behind for people and for IBL's tools: a figure, two tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from powerpixels.clock import to_reference_seconds
from powerpixels.documents import (
    CLOCK_FILE,
    ClockFit,
    PublishedClock,
    Session,
    Stream,
    SyncResiduals,
    TimesFile,
)
from powerpixels.edges import Edges

# Parts of a stream in which the report shows its residuals.
BINS = 200
# Okabe and Ito's colours, which people who see no red or green tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def ibl_points(fit: ClockFit, stream: Stream) -> np.ndarray:
    """(n, 2) float64: samples of the stream, and seconds on the reference clock, as IBL's tools want them.

    Straight lines between the points, and beyond them, are the fitted map: its knots, the stream's first and
    last sample, and both sides of each gap. Samples are numbered as in ``spikes.samples``, without the time
    in gaps.
    """
    fs = stream.sampling_rate_hz
    points = []
    for block in stream.blocks():
        # A knot need not lie on a sample.
        knots = np.array([own * fs - block.offset for own, _ in fit.knots])
        inside = knots[(knots > 0) & (knots < block.n_samples - 1)]
        within = np.unique(np.concatenate([[0.0], inside, [max(1.0, block.n_samples - 1.0)]]))
        seconds = to_reference_seconds(fit, block.offset + within)
        points.append(np.column_stack([block.start + within, seconds]))
    return np.concatenate(points)


def write_ibl(fit: ClockFit, stream: Stream, folder: Path) -> list[Path]:
    """Write the map as ibllib's ``sync_probes`` does; returns the files.

    ``_spikeglx_<stream>.timestamps.npy`` (n, 2): samples of the stream and reference seconds, what
    ``SpikeSortingLoader.samples2times`` interpolates; ``_spikeglx_<stream>.sync.npy`` (n, 2): the same with
    seconds on the stream's own clock, samples / nominal rate (``sync_probes.apply_sync``). Both float64.
    stream: its name, without ".ap".
    """
    points = ibl_points(fit, stream)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = stream.name.removesuffix(".ap").replace(".", "-")
    written = [folder / f"_spikeglx_{name}.{kind}.npy" for kind in ("timestamps", "sync")]
    np.save(written[0], points)
    np.save(written[1], points / [stream.sampling_rate_hz, 1.0])
    return written


def write_clock(fit: ClockFit, description: str, files: dict[str, str], folder: Path) -> None:
    """Write ``PublishedClock`` beside a folder's ALF files, as ``_powerpixels_clock.fit.json``.

    files: unit of each file that holds times: "s" on the reference clock, or "samples" of the fitted stream.
    """
    clocks = {"s": (fit.reference, fit.bound_us), "samples": (fit.stream, 0.0)}
    PublishedClock(
        **fit.model_dump(),
        description=description,
        files={
            name: TimesFile(clock=clocks[unit][0], unit=unit, bound_us=clocks[unit][1])
            for name, unit in files.items()
        },
    ).save(Path(folder) / CLOCK_FILE)


def residuals_us(fit: ClockFit, pairs: np.ndarray, reference_hz: float) -> np.ndarray:
    """(n,) µs by which each matched edge is later on the reference than the map says.

    pairs: (n, 2) seconds, see ``clock.matched_pairs``; reference_hz: the reference's nominal rate. The
    observed times are half a sample late on average on either side; the map is of the true ones.
    """
    own, on_reference = pairs.T
    mapped = to_reference_seconds(fit, own * fit.sampling_rate_hz - 0.5)
    return (on_reference - 0.5 / reference_hz - mapped) * 1e6


def binned_residuals(
    fit: ClockFit, pairs: np.ndarray, edges: Edges, reference_hz: float, session: Session, limit_us: float
) -> SyncResiduals:
    """The residuals of ``residuals_us`` in BINS parts of the fitted stream, whose edges are edges."""
    duration = edges.n_samples / edges.sampling_rate_hz
    residual = residuals_us(fit, pairs, reference_hz)
    part = np.clip((pairs[:, 0] / duration * BINS).astype(int), 0, BINS - 1)
    bins = []
    for k in np.unique(part):
        here = residual[part == k]
        bins.append(((k + 0.5) / BINS * duration, round(here.min(), 2), round(here.max(), 2)))
    return SyncResiduals(session=session, fit=fit, limit_us=limit_us, duration_s=duration, bins=bins)


def plot_residuals(
    fit: ClockFit, pairs: np.ndarray, edges: Edges, reference_hz: float, line: str, path: Path
) -> None:
    """Draw each matched edge's distance from the map against time, as a PNG.

    pairs: (n, 2) seconds, see ``clock.matched_pairs``; edges: of the fitted stream, line: the one with its
    sync wave; reference_hz: the reference's nominal rate. Marked are the map's knots, gaps of the stream, its
    edges that have no partner, and the bound.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    fs = edges.sampling_rate_hz
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes, counts = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
    own = pairs[:, 0]
    residual = residuals_us(fit, pairs, reference_hz)
    axes.plot(own / 60, residual, ".", color=BLUE, markersize=2.5, alpha=0.6, label="matched edge")
    for k, (begin, end) in enumerate(edges.gaps / fs / 60):
        axes.axvspan(begin, end, color=GREY, alpha=0.4, label="gap" if k == 0 else None)
    times = edges.of(line)[0] / fs
    alone = times[~np.isin(np.round(times * fs), np.round(own * fs))]
    if len(alone):
        height = np.full(len(alone), residual.min(initial=-1.0) * 1.15)
        axes.plot(alone / 60, height, "|", color=ORANGE, label=f"{len(alone)} edges without a partner")
    knots = np.array([knot for knot, _ in fit.knots]) / 60
    axes.plot(knots, np.zeros(len(knots)), "^", color="black", markersize=4, label="knot of the map")
    if fit.bound_us is not None:
        for k, side in enumerate((-1, 1)):
            label = f"bound on the map's error, {fit.bound_us:.0f} µs" if k == 0 else None
            axes.axhline(side * fit.bound_us, color="black", linestyle="--", linewidth=0.8, label=label)
    axes.set_xlabel(f"time on the clock of {fit.stream} (min)")
    axes.set_ylabel(f"edge on {fit.reference}\nlater than the map (µs)")
    axes.set_xlim(0, edges.n_samples / fs / 60)
    figure.legend(loc="outside lower center", fontsize=8, ncols=5)
    counts.hist(residual, bins=40, orientation="horizontal", color=BLUE)
    counts.set_xlabel("edges")
    figure.suptitle(
        f"{fit.probe}: {fit.n_edges} edges, {(fit.slope - 1) * 1e6:+.2f} ppm, rms {fit.rms_us:.1f} µs,"
        f" {len(fit.knots) - 1} segment{'s' if len(fit.knots) > 2 else ''}",
        fontsize=10,
    )
    figure.savefig(path, dpi=120, metadata={"Software": None})
