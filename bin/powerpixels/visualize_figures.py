"""The figures of a stretch step by step, and the page that shows them.

Colours are told apart by colour-blind people too: a diverging map of purple and orange for voltages, Okabe
and Ito's set (https://jfly.uni-koeln.de/color/) for lines and points; what a channel was found to be is also
said by its marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from powerpixels.visualize import Walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Channels drawn as lines, of each shank.
N_LINES = 10
# Lines of the spectrum that are drawn enlarged, the strongest ones, and how much of what is around them.
MAX_ZOOMED = 6
ZOOM_HZ = 300.0

VOLTAGES = "PuOr_r"
# Noise stays pale, spikes of 50 µV and more have nearly the full colour.
NOISE_SPAN = 5.0
# Colour and marker of each label.
LOOKS = {
    "good": ("#0072B2", "o"),
    "noise": ("#D55E00", "^"),
    "dead": ("#000000", "x"),
    "out": ("#CC79A7", "s"),
}
MEANINGS = {
    "good": "good",
    "noise": "noisy: interpolated",
    "dead": "dead: removed",
    "out": "outside the brain: removed",
}
TITLES = {
    "raw": "raw, less each channel's median",
    "high-pass": "high-passed",
    "notches": "notches",
    "phase shift": "phase-shifted: all of one moment",
    "bad channels": "bad channels out or interpolated",
    "reference": "referenced",
    "written": "as written",
}
GREY = "#B0B0B0"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; max-width: 1400px;
       padding: 1.2rem 1.5rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
table { border-collapse: collapse; font-size: .84rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e2e2e2; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
code { font-size: .85rem; overflow-wrap: anywhere; }
"""


def draw(walk: Walk, out: Path) -> Path:
    """Write the figures of a walk and the page that shows them, ``out/index.html``; returns its path.

    The figures: channels.png, spectra.png, and of each shank traces_shank<k>.png and lines_shank<k>.png.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figures = {"channels": channels_figure, "spectra": spectra_figure}
    for shank in walk.shanks:
        figures[f"traces_shank{shank}"] = lambda walk, shank=shank: traces_figure(walk, shank)
        figures[f"lines_shank{shank}"] = lambda walk, shank=shank: lines_figure(walk, shank)
    for name, make in figures.items():
        figure = make(walk)
        figure.savefig(out / f"{name}.png", dpi=120)
        plt.close(figure)
    (out / "index.html").write_text(_page(walk, list(figures)), encoding="utf-8")
    return out / "index.html"


def traces_figure(walk: Walk, shank: int) -> Figure:
    """A shank's channels by height against time, an image for each step, all of one colour scale.

    Markers beside the first image say which channels are bad; grey: removed; hatched: muted.
    """
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    own = walk.of_shank(shank)
    n_columns = (len(walk.steps) + 1) // 2
    figure, axes = plt.subplots(
        2, n_columns, figsize=(17, 9.5), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    limit_uv = colour_limit_uv(walk, own)
    colours = colormaps[VOLTAGES].with_extremes(bad=GREY)
    n_samples = len(walk.steps["raw"])
    span_ms = 1e3 * n_samples / walk.sampling_rate_hz
    for axis, (step, traces_uv) in zip(axes.flat, walk.steps.items(), strict=False):
        image = axis.imshow(
            traces_uv[:, own].T,
            aspect="auto",
            origin="lower",
            extent=(0, span_ms, -0.5, len(own) - 0.5),
            vmin=-limit_uv,
            vmax=limit_uv,
            cmap=colours,
            interpolation="auto",
        )
        axis.set_title(TITLES[step], fontsize=10)
        if step == "written":
            _mark_muted(axis, walk)
    for axis in axes.flat[len(walk.steps) :]:
        axis.remove()
    for axis in axes[:, 0]:
        rows = np.unique(np.linspace(0, len(own) - 1, min(9, len(own))).astype(int))
        axis.set_yticks(rows, [f"{walk.channels[own[row]].y_um:g}" for row in rows])
        axis.set_ylabel("height above the tip (µm)")
        axis.tick_params(axis="y", pad=9)
        _mark_bad_rows(axis, walk, own)
    for axis in figure.axes:
        if axis in axes[-1] or len(walk.steps) < axes.size and axis is axes[0, -1]:
            axis.set_xlabel(f"time (ms from {walk.start_s:.4f} s)")
            axis.tick_params(labelbottom=True)
    figure.colorbar(image, ax=figure.axes, label="voltage (µV)", extend="both", shrink=0.7, pad=0.01)
    handles = _label_handles(walk, [k for k in own if walk.labels[k].label != "good"])
    if np.isnan(walk.steps["written"][:, own]).any():
        handles.append(plt.Rectangle((0, 0), 1, 1, color=GREY, label="removed"))
    if len(walk.muted):
        handles.append(plt.Rectangle((0, 0), 1, 1, fc="none", ec="0.4", hatch="///", label="muted"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9)
    figure.suptitle(f"{walk.document.probe}, shank {shank}: {len(own)} channels, step by step")
    return figure


def colour_limit_uv(walk: Walk, own: np.ndarray) -> float:
    """End of the colour scale, µV: NOISE_SPAN times the high-passed noise of the good channels.

    The noise is what the median absolute deviation tells: neither spikes nor saturation set the scale.
    """
    good = [k for k in own if walk.labels[k].label == "good"]
    noise_uv = 1.4826 * np.median(np.abs(walk.steps["high-pass"][:, good or own]))
    return float(max(np.ceil(NOISE_SPAN * noise_uv / 5) * 5, 5.0))


def _mark_bad_rows(axis: Axes, walk: Walk, own: np.ndarray) -> None:
    """Markers left of an image's rows whose channels are bad."""
    for label, (color, marker) in LOOKS.items():
        rows = [row for row, k in enumerate(own) if walk.labels[k].label == label]
        if label != "good" and rows:
            axis.plot(
                np.full(len(rows), -0.015),
                rows,
                marker,
                color=color,
                ms=4,
                transform=axis.get_yaxis_transform(),
                clip_on=False,
                label=label,
            )


def _mark_muted(axis: Axes, walk: Walk) -> None:
    for k, (first, behind) in enumerate(1e3 * walk.muted / walk.sampling_rate_hz):
        axis.axvspan(
            first,
            behind,
            facecolor="none",
            edgecolor="0.4",
            hatch="///",
            lw=0.8,
            label="_" * (k > 0) + "muted",
        )


def _label_handles(walk: Walk, own: Sequence[int]) -> list:
    """For a legend: the labels that there are among the channels, with their numbers."""
    from matplotlib.lines import Line2D

    handles = []
    for label, (color, marker) in LOOKS.items():
        n = sum(walk.labels[k].label == label for k in own)
        if n:
            words = f"{MEANINGS[label]} ({n})"
            handles.append(Line2D([], [], ls="", marker=marker, color=color, ms=6, label=words))
    return handles


def lines_figure(walk: Walk, shank: int) -> Figure:
    """Some of a shank's channels as lines, a column for each step; colour and marker say what they are."""
    from matplotlib import pyplot as plt

    own = shown_as_lines(walk, shank)
    spacing_uv = 1.6 * colour_limit_uv(walk, walk.of_shank(shank))
    figure, axes = plt.subplots(
        1, len(walk.steps), figsize=(2.6 * len(walk.steps) + 1, 8), sharey=True, layout="constrained"
    )
    times_ms = 1e3 * np.arange(len(walk.steps["raw"])) / walk.sampling_rate_hz
    for axis, (step, traces_uv) in zip(axes, walk.steps.items(), strict=True):
        for row, k in enumerate(own):
            color = LOOKS[walk.labels[k].label][0]
            axis.plot(times_ms, traces_uv[:, k] + row * spacing_uv, color=color, lw=0.5)
            if np.isnan(traces_uv[:, k]).all():
                axis.text(
                    times_ms[-1] / 2, row * spacing_uv, "removed", ha="center", va="center", color="0.4"
                )
        axis.set_title(TITLES[step].replace(", less", ",\nless").replace(" or ", "\nor "), fontsize=9)
        axis.set_xlabel(f"ms from {walk.start_s:.4f} s", fontsize=9)
        axis.set_xlim(0, times_ms[-1])
        if step == "written":
            _mark_muted(axis, walk)
    names = [f"{walk.channels[k].channel_id}\n{walk.channels[k].y_um:g} µm" for k in own]
    axes[0].set_yticks(spacing_uv * np.arange(len(own)), names, fontsize=8)
    axes[0].set_ylim(-spacing_uv, len(own) * spacing_uv)
    for row, k in enumerate(own):
        color, marker = LOOKS[walk.labels[k].label]
        axes[0].plot(
            0.02,
            row * spacing_uv + 0.35 * spacing_uv,
            marker,
            color=color,
            ms=5,
            zorder=5,  # Above the lines.
            transform=axes[0].get_yaxis_transform(),
        )
    bar_uv = _round_down(spacing_uv)
    axes[-1].plot([0.96, 0.96], [-0.8 * spacing_uv, -0.8 * spacing_uv + bar_uv], color="black", lw=2,
                  transform=axes[-1].get_yaxis_transform())  # fmt: skip
    axes[-1].text(0.94, -0.8 * spacing_uv + bar_uv / 2, f"{bar_uv:g} µV", ha="right", va="center",
                  transform=axes[-1].get_yaxis_transform(), fontsize=9)  # fmt: skip
    figure.legend(handles=_label_handles(walk, own), loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(f"{walk.document.probe}, shank {shank}: some channels, step by step")
    return figure


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= value))


def shown_as_lines(walk: Walk, shank: int) -> list[int]:
    """Positions of N_LINES of a shank's channels, from the tip up: one of each bad label, good ones."""
    own = walk.of_shank(shank)
    shown = set()
    for label in ("noise", "dead", "out"):
        shown.update([k for k in own if walk.labels[k].label == label][:1])
    good = [k for k in own if walk.labels[k].label == "good"]
    n_more = min(N_LINES - len(shown), len(good))
    shown.update(good[k] for k in np.linspace(0, len(good) - 1, n_more).round().astype(int))
    return [int(k) for k in own if k in shown]


def spectra_figure(walk: Walk) -> Figure:
    """Median spectra before and after the notches; below, each of the strongest lines enlarged."""
    from matplotlib import pyplot as plt

    zoomed = sorted(walk.notches, key=lambda notch: -notch.power_uv2)[:MAX_ZOOMED]
    zoomed.sort(key=lambda notch: notch.frequency_hz)
    layout = [["all"] * max(len(zoomed), 1), *([list(range(len(zoomed)))] if zoomed else [])]
    figure, axes = plt.subplot_mosaic(layout, figsize=(14, 8.5 if zoomed else 5), layout="constrained")
    looks = {
        "raw": (GREY, "-", "raw"),
        "high-pass": ("#56B4E9", "-", "high-passed" + ", before the notches" * bool(walk.notches)),
        "notches": ("#000000", "-", "after the notches"),
    }
    # The wider ones show on both sides of what is drawn over them.
    widths = {"raw": 3.5, "high-pass": 2.2, "notches": 0.9}
    alive = [k for k, label in enumerate(walk.labels) if label.label != "dead"] or range(len(walk.labels))
    for step, density in walk.densities.items():
        color, style, words = looks[step]
        median = np.median(density[:, list(alive)], axis=1)
        axes["all"].loglog(walk.freqs_hz[1:], median[1:], style, color=color, lw=widths[step], label=words)
    for lines, style, words in (
        (walk.notches, "-", "line, filtered"),
        (walk.left_out, ":", "line, left alone"),
    ):
        for k, notch in enumerate(lines):
            axes["all"].axvline(
                notch.frequency_hz, color="#D55E00", ls=style, lw=1, zorder=0, label="_" * (k > 0) + words
            )
    top = max(float(np.nanmax(walk.densities["high-pass"])), 1e-6)
    axes["all"].set(
        xlabel="frequency (Hz)",
        ylabel="density (µV²/Hz)",
        xlim=(10, walk.sampling_rate_hz / 2),
        ylim=(1e-6 * top, None),
    )
    axes["all"].legend(fontsize=9)
    axes["all"].grid(alpha=0.3)
    columns = [channel.raw_column for channel in walk.channels]
    for k, notch in enumerate(zoomed):
        own = np.flatnonzero(np.isin(columns, notch.raw_columns))
        near = np.abs(walk.freqs_hz - notch.frequency_hz) <= ZOOM_HZ
        for step in ("high-pass", "notches"):
            color, style, _ = looks[step]
            median = np.median(walk.densities[step][np.ix_(near, own)], axis=1)
            axes[k].semilogy(
                walk.freqs_hz[near], median, style, color=color, marker=".", ms=4, lw=widths[step]
            )
        axes[k].axvspan(
            notch.frequency_hz - notch.width_hz / 2,
            notch.frequency_hz + notch.width_hz / 2,
            color="0.9",
            zorder=0,
        )
        axes[k].set_title(f"{notch.frequency_hz:.1f} Hz, {len(own)} of {len(columns)} channels", fontsize=9)
        axes[k].set_xlabel("frequency (Hz)")
        axes[k].grid(alpha=0.3)
    if zoomed:
        axes[0].set_ylabel("density (µV²/Hz), median of its channels")
    middle_s = walk.start_s + len(walk.steps["raw"]) / walk.sampling_rate_hz / 2
    words = f"{walk.spectrum_s:.2g} s around {middle_s:.3f} s, median of all channels that are not dead"
    figure.suptitle(f"{walk.document.probe}: spectra of {words}" + "; no notches" * (not walk.notches))
    return figure


def channels_figure(walk: Walk) -> Figure:
    """Each shank's contacts where they are, with their labels; the evidence for the labels by height."""
    from matplotlib import pyplot as plt

    shanks = walk.shanks
    figure, axes = plt.subplots(
        1,
        len(shanks) + 2,
        figsize=(6.5 + 2.6 * len(shanks), 9),
        width_ratios=[1.1] * len(shanks) + [1.6, 1.6],
        sharey=True,
        layout="constrained",
    )
    for axis, shank in zip(axes, shanks, strict=False):
        own = walk.of_shank(shank)
        x_um = np.array([walk.channels[k].x_um for k in own])
        for label, (color, marker) in LOOKS.items():
            some = [k for k in own if walk.labels[k].label == label]
            axis.plot(
                [walk.channels[k].x_um for k in some],
                [walk.channels[k].y_um for k in some],
                marker,
                color=color,
                ms=4 if label == "good" else 6,
                label=label,
            )
        for text, height in bad_names(walk, own):
            axis.annotate(text, (x_um.max() + 6, height), fontsize=7, va="center", annotation_clip=False)
        # Room for the names.
        axis.set_xlim(x_um.min() - 15, x_um.max() + 80)
        axis.set(title=f"shank {shank}", xlabel="x on the probe (µm)")
    threshold = _high_threshold()
    # Silent channels would take most of a logarithmic axis: they are drawn at its end.
    densities = [found.high_uv2_hz for found in walk.labels if found.high_uv2_hz]
    silent = 1e-3 * float(np.median(densities)) if densities else 0.0
    for axis, key, floor, words in (
        (axes[-2], "similarity", -np.inf, "likeness to the shank's median\n(1: as large)"),
        (axes[-1], "high_uv2_hz", silent, "density above 0.8 Nyquist (µV²/Hz)\n(left end: this or less)"),
    ):
        for label, (color, marker) in LOOKS.items():
            some = [
                (getattr(found, key), channel.y_um)
                for channel, found in zip(walk.channels, walk.labels, strict=True)
                if found.label == label and getattr(found, key) is not None
            ]
            values = [max(value, floor) for value, _ in some]
            axis.plot(
                values,
                [height for _, height in some],
                marker,
                color=color,
                ms=4 if label == "good" else 6,
                label=label,
            )
        axis.set_xlabel(words)
        axis.grid(alpha=0.3)
        if all(getattr(found, key) is None for found in walk.labels):
            axis.text(0.5, 0.5, "not looked at", ha="center", transform=axis.transAxes)
    axes[-1].set_xscale("log")
    axes[-1].axvline(threshold, color="0.4", ls="--", lw=1)
    axes[-1].annotate(
        f"noisy above {threshold:g}", (threshold, 1.0), xycoords=("data", "axes fraction"), fontsize=8,
        ha="right", va="top", rotation=90, xytext=(-2, -4), textcoords="offset points",
    )  # fmt: skip
    axes[0].set_ylabel("height above the tip (µm)")
    everyone = range(len(walk.channels))
    figure.legend(handles=_label_handles(walk, everyone), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"{walk.document.probe}: channels; {walk.decided_on}", fontsize=10)
    return figure


def _high_threshold() -> float:
    """Density, µV²/Hz, above which SpikeInterface's detector calls a channel noisy."""
    from inspect import signature

    from spikeinterface.preprocessing import detect_bad_channels

    return signature(detect_bad_channels).parameters["psd_hf_threshold"].default


def bad_names(walk: Walk, own: Sequence[int]) -> list[tuple[str, float]]:
    """Names of the bad ones among channels from the tip up, and the height to write each at.

    Neighbours with one label are named together by the first and the last; two at one height side by side.
    """
    runs: list[list[int]] = []
    for k in own:
        label = walk.labels[k].label
        if label == "good":
            runs.append([])
        elif runs and runs[-1] and walk.labels[runs[-1][-1]].label == label:
            runs[-1].append(k)
        else:
            runs.append([k])
    by_height: dict[float, list[str]] = {}
    for run_ in filter(None, runs):
        label, ends = walk.labels[run_[0]].label, [walk.channels[k] for k in (run_[0], run_[-1])]
        text = f"{ends[0].channel_id} {label}"
        if len(run_) > 1:
            text = f"{ends[0].channel_id} to {ends[1].channel_id}\n({len(run_)}) {label}"
        by_height.setdefault((ends[0].y_um + ends[1].y_um) / 2, []).append(text)
    return [(", ".join(texts), height) for height, texts in by_height.items()]


def _page(walk: Walk, figures: Sequence[str]) -> str:
    """The page, HTML. It shows the figures beside it."""
    session = walk.document.source.recordings[0].session
    at = f"{walk.start_s:.4f} to {walk.start_s + len(walk.steps['raw']) / walk.sampling_rate_hz:.4f} s"
    title = f"{walk.document.probe}: preprocessing step by step"
    bad = [
        (
            channel.channel_id,
            channel.contact_id,
            str(channel.shank),
            f"{channel.y_um:g}",
            MEANINGS[found.label],
            *(
                "" if value is None else f"{value:g}"
                for value in (found.similarity, found.trend, found.residual, found.high_uv2_hz)
            ),
        )
        for channel, found in zip(walk.channels, walk.labels, strict=True)
        if found.label != "good"
    ]
    heads = ["channel", "contact", "shank", "height (µm)", "label"]
    heads += ["likeness", "its trend", "less trend", "density (µV²/Hz)"]
    lines = [
        (
            f"{notch.frequency_hz:.1f}",
            f"{notch.width_hz:.0f}",
            f"{notch.power_uv2:.3g}",
            str(len(notch.raw_columns)),
            "filtered" if notch.left_out is None else f"left alone: {notch.left_out}",
        )
        for notch in [*walk.notches, *walk.left_out]
    ]
    mutes = [
        f"{walk.start_s + first / walk.sampling_rate_hz:.4f} to "
        f"{walk.start_s + behind / walk.sampling_rate_hz:.4f} s"
        for first, behind in walk.muted
    ]
    shown = "".join(
        f'<h2>{escape(_heading(name))}</h2><img src="{name}.png" alt="{escape(_heading(name))}">\n'
        for name in figures
    )
    done = "".join(
        f"<tr><td>{escape(step['step'])}</td><td><code>{escape(_parameters(step))}</code></td></tr>\n"
        for step in walk.document.steps
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>Recording started {escape(session.start_time or "at an unknown time")}; shown are {at}, in seconds
of recorded samples. Bad channels and notches: {escape(walk.decided_on)}.</p>
<p>Muted in what is shown: {", ".join(mutes) or "nothing"}.</p>
<h2>Bad channels</h2>
{_table(heads, bad)}
<h2>Lines of the spectrum</h2>
{_table(["frequency (Hz)", "width (Hz)", "power (µV²)", "channels", ""], lines)}
{shown}<h2>All steps</h2>
<table>{done}</table>
</body></html>
"""


def _heading(name: str) -> str:
    kind, _, shank = name.partition("_shank")
    words = {
        "channels": "Channels",
        "spectra": "Spectra before and after the notches",
        "traces": "Traces of all channels after each step",
        "lines": "Traces of some channels after each step",
    }[kind]
    return f"{words}, shank {shank}" if shank else words


def _parameters(step: dict) -> str:
    """A step's parameters but the lists of channels and sessions, which would fill the page."""
    return ", ".join(
        f"{key} {value}"
        for key, value in step.items()
        if key not in ("step", "notches", "left_out", "sessions")
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
