"""``powerpixels session-report FOLDER``: one page of HTML for a session, made of what a run published of it.

It needs nothing but itself: figures are within it, small enough that the page stays below 10 MB. Those that
the stages drew are taken as they are, at the page's width; the others are drawn here from the probe's ALF, of
which a regular share of the spikes is drawn, whatever their number.
"""

from __future__ import annotations

import base64
import io
import json
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from powerpixels import report
from powerpixels.agreement import agreement
from powerpixels.documents import Inventory, ProbeSummary
from powerpixels.fault_codes import CODES
from powerpixels.stage import DataError, read_json
from powerpixels.status import read_traces

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAME = "report.html"
# Spikes drawn in the scatter, and read for a unit's correlogram.
MAX_SPIKES, MAX_UNIT_SPIKES = 20_000, 20_000
# Width in pixels that a stage's figure is brought down to.
WIDTH_PX = 1300
# The palette of Okabe and Ito, which all kinds of colour vision tell apart; marks differ too.
LOOKS = {
    "good": ("#0072B2", "o"),
    "mua": ("#E69F00", "s"),
    "non_soma": ("#CC79A7", "D"),
    "noise": ("#777777", "x"),
    "unjudged": ("#000000", "+"),
}
CHANNELS = {
    0: ("good", "#0072B2", "s"),
    1: ("dead", "#000000", "x"),
    2: ("noisy", "#D55E00", "^"),
    3: ("out of the brain", "#56B4E9", "o"),
}
TOOLS = {
    "kilosort": "ks2_label",
    "bombcell": "bombcell_label",
    "unitrefine": "unitrefine_label",
    "ibl": "ibl_label",
    "consensus": "consensus_label",
}
# Figures of the stages, in the order of the page: where they lie in qc/<probe>/, and what they show.
STAGES = (
    ("preprocessing/traces_*.png", "Traces in the middle of the recording, raw and after each step"),
    ("preprocessing/spectra.png", "Spectra before and after preprocessing"),
    ("spectra.png", "Spectra of the raw bands"),
    ("levels.png", "Levels of the raw bands along the recording"),
    ("drift/**/drift.png", "Drift map and the estimated motion"),
    ("sync_residuals.png", "Distance of the sync edges from the fitted clock"),
)
# Of several shanks this many have their figures on the page; the others are named.
SHOWN_SHANKS = 2
STYLE = """
figure img { max-width: 100%; height: auto; border: 1px solid #e2e2e2; }
.status { font-size: 1.05rem; background: #f2f4f7; border-radius: 6px; margin: .6rem 0;
  padding: .5rem .9rem; }
nav a { margin-right: 1rem; }
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of ``powerpixels session-report``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a session's results, or of a run's")


def run(args: Namespace) -> None:
    """Body of ``powerpixels session-report``: writes each session's report.html and names it."""
    for session in sessions_below(args.folder):
        path = session / NAME
        path.write_text(page(session), encoding="utf-8")
        print(path)


def sessions_below(folder: Path) -> list[Path]:
    """The session's folder itself, or all of a run's results. Raises ``DataError`` where there is none."""
    found = [path.parent.parent for path in sorted(folder.glob("*/*/*/qc/inventory.json"))]
    if (folder / "qc" / "inventory.json").is_file():
        found = [folder]
    if not found:
        raise DataError(
            f"{folder}: expected results with qc/inventory.json of a session, found none; give the folder of"
            " the results, or of a session in them"
        )
    return found


def page(session: Path, record: dict[str, Any] | None = None) -> str:
    """The session's page, as HTML. session: <outdir>/<subject>/<date>/<NNN>.

    record: "parameters" and "software" of the run, where the folder has no manifests that say so. The same
    files give the same page. A probe without results has only what is known of its input.
    """
    inventory = Inventory.load(session / "qc" / "inventory.json")
    name = f"{inventory.session.subject} {inventory.session.session}"
    manifests = (
        [record] if record else [read_json(path) for path in sorted(session.glob("qc/*/manifest.json"))]
    )
    links = "".join(f'<a href="#{escape(p.name)}">{escape(p.name)}</a>' for p in inventory.probes)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(name)}</title><style>{report.STYLE}{STYLE}</style>",
        f"<script>{report.SCRIPT}</script></head><body>",
        f"<h1>{escape(name)}</h1><nav>{links}</nav>",
        *(_probe(session, inventory, probe.name) for probe in inventory.probes),
        _warnings(session, inventory),
        report._recordings([inventory]),
        _resources(session, inventory),
        _parameters(manifests),
        _software(manifests),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _probe(session: Path, inventory: Inventory, probe: str) -> str:
    qc, alf = session / "qc" / probe, session / "alf" / probe
    parts = [f'<h2 id="{escape(probe)}">{escape(probe)}</h2>']
    if not (qc / "summary.json").is_file():
        blocked = [f for f in inventory.faults if f.probe in (None, probe) and f.severity == "blocks"]
        why = "; ".join(f"{fault.code}: {fault.message}" for fault in blocked)
        why = why or "it failed or was not asked for; the run's report.html says which"
        return parts[0] + f'<p class="status">{report._mark("failed")} No units: {escape(why)}</p>'
    parts.append(_status(ProbeSummary.load(qc / "summary.json")))
    if (alf / "clusters.metrics.csv").is_file():
        import pandas as pd

        rates = {p.name: p.ap.sampling_rate_hz for p in inventory.probes}
        units = pd.read_csv(alf / "clusters.metrics.csv")
        units[list(TOOLS.values())] = units[list(TOOLS.values())].fillna("unjudged").astype(str)
        parts += [
            _figure(_draw_probe(alf), "Channels where they are on the probe, by what was found of them"),
            _regions(alf),
            _figure(
                _draw_scatter(alf, units), "Amplitude and depth: spikes, and units by the consensus of labels"
            ),
            _yield(units),
            _figure(
                _draw_examples(alf, units, rates[probe]),
                "Typical units of each label: the one of middle spike count",
            ),
        ]
    parts.append(_raw_bands(qc / "raw_qc.json"))
    for pattern, caption in STAGES:
        found = sorted(qc.glob(pattern))
        for path in found[:SHOWN_SHANKS]:
            part = path.parent.name if path.name == "drift.png" else path.stem.partition("_shank")[2]
            where = f", {part}" if part and len(found) > 1 else ""
            parts.append(_picture(path, caption + where))
        if found[SHOWN_SHANKS:]:
            rest = ", ".join(escape(str(path.relative_to(session))) for path in found[SHOWN_SHANKS:])
            parts.append(f"<p>Of the other shanks: <code>{rest}</code></p>")
    if (qc / "preprocessing" / "index.html").is_file():
        link = f"qc/{probe}/preprocessing/index.html"
        parts.append(f'<p>Each step of preprocessing, all shanks: <a href="{link}">{link}</a></p>')
    return "\n".join(part for part in parts if part)


def _status(one: ProbeSummary) -> str:
    """The line that says how a probe is."""
    bound = "" if one.sync_bound_us is None else f", error below {one.sync_bound_us:.0f} µs"
    noise = "" if one.noise_uv is None else f", median noise {one.noise_uv:.1f} µV"
    words = (
        f"{one.n_units} units: {one.n_good_kilosort} good by the sorter, {one.n_good_bombcell} by Bombcell;"
        f" {one.n_spikes:,} spikes in {one.duration_s / 60:.1f} min. {one.model or 'Probe of unknown model'},"
        f" {one.n_channels} channels ({one.n_dead} dead, {one.n_noise} noisy, {one.n_out} out of the brain)"
        f"{noise}. Times on {one.reference_clock}, rms {one.sync_rms_us:.1f} µs{bound}."
    )
    drift = f" Drift: {one.drift}." if one.drift else ""
    return f'<p class="status">{report._mark("done")} {escape(words + drift)}</p>'


def _raw_bands(path: Path) -> str:
    """What RAW_QC found in the raw bands: saturation, artifacts, spectral lines."""
    if not path.is_file():
        return ""
    found = read_json(path)
    known = {
        "header": f"the converter's limit is {found['limit_counts']} counts",
        "data": f"the converter's limit, {found['limit_counts']} counts, was seen in the data",
        "unknown": "where the converter saturates is not known",
    }[found["limit_source"]]
    words = [
        f"Raw bands: {found['n_saturated']} saturated stretches ({found['saturated_s']:.3g} s; {known}), "
        f"{found['n_artifacts']} artifacts ({found['artifact_s']:.3g} s) in "
        f"{found['duration_s'] / 60:.1f} min.",
    ]
    for kind, of in (("fit for a notch", True), ("left alone", False)):
        lines = [
            f"{line['frequency_hz']:.0f} Hz" + ("" if of else f" ({line['left_out']})")
            for line in found["lines"]
            if (line["left_out"] is None) is of
        ]
        if lines:
            words.append(f"Spectral lines {kind}: {', '.join(lines)}.")
    if found["lf_band"] == "none":
        words.append("There is no LF band.")
    return f"<p>{escape(' '.join(words))}</p>"


def _draw_probe(alf: Path) -> Figure:
    plt = _pyplot()
    places, labels, shanks = (
        np.load(alf / f"channels.{name}.npy") for name in ("localCoordinates", "labels", "shanks")
    )
    figure, axis = plt.subplots(figsize=(2.2 + 1.2 * len(np.unique(shanks)), 6), layout="constrained")
    for code, (word, colour, marker) in CHANNELS.items():
        of = labels == code
        if of.any():
            axis.scatter(*places[of].T, s=14, c=colour, marker=marker, label=f"{word}: {int(of.sum())}")
    axis.set(xlabel="across (µm)", ylabel="up the probe (µm)")
    axis.margins(x=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=2)
    return figure


def _draw_scatter(alf: Path, units: pd.DataFrame) -> Figure:
    plt = _pyplot()
    spikes = {
        name: np.load(alf / f"spikes.{name}.npy", mmap_mode="r") for name in ("times", "amps", "depths")
    }
    step = -(-len(spikes["times"]) // MAX_SPIKES) or 1
    times, amps, depths = (np.array(values[::step]) for values in spikes.values())
    unit_depths, unit_amps = (np.load(alf / f"clusters.{name}.npy") for name in ("depths", "amps"))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 5), sharey=True, layout="constrained", width_ratios=(2, 1)
    )
    if len(times):
        shown = left.scatter(
            times, depths, s=2, c=1e6 * amps, cmap="viridis", vmax=np.percentile(1e6 * amps, 99), linewidths=0
        )
        figure.colorbar(shown, ax=left, label="amplitude (µV)")
    left.set(xlabel="time on the session's clock (s)", ylabel="up the probe (µm)")
    left.set_title("spikes" if step == 1 else f"one spike in {step}", fontsize="medium")
    for word, (colour, marker) in LOOKS.items():
        of = (units["consensus_label"] == word).to_numpy()
        if of.any():
            label = f"{word}: {int(of.sum())}"
            right.scatter(1e6 * unit_amps[of], unit_depths[of], c=colour, marker=marker, s=28, label=label)
    right.set(xlabel="mean amplitude (µV)")
    right.set_title("units by consensus", fontsize="medium")
    if len(units):
        right.legend(fontsize="small")
    return figure


def _yield(units: pd.DataFrame) -> str:
    """How many units each tool gives each label, and how far two tools agree."""
    words = [word for word in LOOKS if any((units[column] == word).any() for column in TOOLS.values())]
    body = [
        [("name", tool), *(("number", int((units[column] == word).sum())) for word in words)]
        for tool, column in TOOLS.items()
    ]
    parts = ["<h3>Units by label and tool</h3>", report._table(["tool", *words], body)]
    judged = {tool: units[column].tolist() for tool, column in TOOLS.items()}
    parts.append(report._agreement(agreement(judged), heading="h3"))
    return "\n".join(parts)


def _draw_examples(alf: Path, units: pd.DataFrame, rate_hz: float) -> Figure | None:
    """Waveform, autocorrelogram and amplitudes of one unit of each label that there is."""
    chosen = {}
    for word in ("good", "mua", "noise"):
        ranked = units[units["consensus_label"] == word].sort_values(["num_spikes", "cluster_id"])
        if len(ranked):
            chosen[word] = int(ranked["cluster_id"].iloc[len(ranked) // 2])
    if not chosen:
        return None
    plt = _pyplot()
    clusters = np.load(alf / "spikes.clusters.npy", mmap_mode="r")
    waveforms = np.load(alf / "clusters.waveforms.npy", mmap_mode="r")
    figure, rows = plt.subplots(
        len(chosen), 3, figsize=(12, 2.6 * len(chosen)), layout="constrained", squeeze=False
    )
    for (wave, correlogram, amplitude), (word, unit) in zip(rows, chosen.items(), strict=True):
        colour = LOOKS[word][0]
        of = np.flatnonzero(clusters == unit)[:MAX_UNIT_SPIKES]
        times = np.load(alf / "spikes.times.npy", mmap_mode="r")[of]
        amps = np.load(alf / "spikes.amps.npy", mmap_mode="r")[of]
        ms = 1000 * np.arange(waveforms.shape[1]) / rate_hz
        wave.plot(ms, 1e6 * waveforms[unit, :, 0], color=colour)
        wave.set(xlabel="time within the waveform (ms)", ylabel=f"{word}, unit {unit}\nmain channel (µV)")
        correlogram.bar(*autocorrelogram(times), width=1.0, color=colour)
        correlogram.set(xlabel="lag (ms)", ylabel="spike pairs")
        amplitude.plot(times, 1e6 * amps, ".", markersize=2, color=colour)
        amplitude.set(xlabel="time (s)", ylabel="amplitude (µV)")
    return figure


def autocorrelogram(times: np.ndarray, window_ms: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Middles (ms) of bins of 1 ms up to the window, and how many pairs of spikes are so far apart.

    times: (n,) s, ascending. Both halves, without a spike's pair with itself.
    """
    counts, lag = np.zeros(window_ms, dtype=np.int64), 1
    while lag < len(times):
        apart = 1000 * (times[lag:] - times[:-lag])
        apart = apart[apart < window_ms]
        if not len(apart):
            break
        counts += np.bincount(apart.astype(np.int64), minlength=window_ms)
        lag += 1
    middles = np.arange(window_ms) + 0.5
    return np.concatenate([-middles[::-1], middles]), np.concatenate([counts[::-1], counts])


def _regions(alf: Path) -> str:
    """Regions along the probe from the top, of a probe that was aligned."""
    path = alf / "channels.brainLocationAcronyms_ccf_2017.npy"
    if not path.is_file():
        return ""
    acronyms, places, shanks = (
        np.load(alf / f"channels.{name}.npy")
        for name in ("brainLocationAcronyms_ccf_2017", "localCoordinates", "shanks")
    )
    body: list[list[tuple[str, object]]] = []
    for shank in np.unique(shanks):
        of = np.flatnonzero(shanks == shank)
        of = of[np.argsort(-places[of, 1], kind="stable")]
        ends = np.flatnonzero(acronyms[of][1:] != acronyms[of][:-1]) + 1
        for part in np.split(of, ends):
            low, high = places[part, 1].min(), places[part, 1].max()
            name = str(acronyms[part[0]]) or "not aligned"
            body.append([("number", int(shank)), ("name", name), ("name", f"{low:g} to {high:g} µm")])
    return "<h3>Brain regions, from the top</h3>" + report._table(["shank", "region", "up the probe"], body)


def _warnings(session: Path, inventory: Inventory) -> str:
    """All faults with their meaning, then what the export noted."""
    items = []
    for fault in inventory.faults:
        known = CODES.get(fault.code)
        about = f" {known.meaning} <b>What to do:</b> {escape(known.advice)}" if known else ""
        who = escape(" ".join(part for part in (fault.probe, fault.stream) if part))
        mark = report._mark(fault.severity)
        items.append(f"<li>{mark} {who} <b>{escape(fault.code)}</b>: {escape(fault.message)}.{about}</li>")
    for path in sorted(session.glob("qc/*/summary.json")):
        summary = ProbeSummary.load(path)
        items += [f"<li>{escape(summary.probe)}: {escape(warning)}</li>" for warning in summary.warnings]
    return f"<h2>Warnings</h2><ul>{''.join(items)}</ul>" if items else "<h2>Warnings</h2><p>None.</p>"


def _resources(session: Path, inventory: Inventory) -> str:
    """What the run's own traces say of the session's tasks, by stage; nothing where they are not there."""
    place = (inventory.session.subject, inventory.session.session)
    # What ran anew counts each time, what was cached once.
    tasks = [
        task
        for task in read_traces(session.parent.parent.parent, [])
        if task.state == "done" and not task.cached and task.place[:2] == place
    ]
    if not tasks:
        return ""
    by_stage = defaultdict(list)
    for task in tasks:
        by_stage[task.stage].append(task)
    body = []
    for stage, own in [*sorted(by_stage.items()), ("all", tasks)]:
        hours = sum(task.realtime_s for task in own) / 3600
        held = sum(task.realtime_s * task.cpus for task in own) / 3600
        waited = sum(task.start - task.submit for task in own if task.start and task.submit) / 3600
        body.append(
            [("name", stage), ("number", len(own)), *(("number", f"{h:.3f}") for h in (hours, held, waited))]
        )
    heads = ["stage", "tasks", "hours of running", "core-hours held", "hours of waiting"]
    told = "<p>SORT's hours of running are those in which a GPU was held, where the site has one.</p>"
    return "<h2>Resources</h2>" + told + report._table(heads, body)


def _parameters(manifests: list[dict[str, Any]]) -> str:
    """What differs from the defaults, where the package lies in the pipeline's folder beside its schema."""
    schema = Path(__file__).resolve().parent.parent.parent / "nextflow_schema.json"
    if not manifests or not schema.is_file():
        return ""
    groups = read_json(schema)["$defs"].values()
    known = {name: spec.get("default") for group in groups for name, spec in group["properties"].items()}
    given = {name: value for manifest in manifests for name, value in manifest["parameters"].items()}
    body = [
        [("name", f"--{name}"), ("", json.dumps(value)), ("", json.dumps(known.get(name)))]
        for name, value in sorted(given.items())
        if name in known and value != known[name] and not (value is None or value is False)
    ]
    title = "<h2>Parameters that are not the default</h2>"
    return title + (report._table(["parameter", "value", "default"], body) if body else "<p>None.</p>")


def _software(manifests: list[dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for entries in manifest["software"].values():
            for entry in entries:
                for package, version in entry.items():
                    found.setdefault(package, set()).add(version)
    body = [[("name", package), ("", ", ".join(sorted(found[package])))] for package in sorted(found)]
    return "<h2>Software</h2>" + report._table(["package", "version"], body) if body else ""


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _figure(figure: Figure | None, caption: str) -> str:
    """A figure drawn here, within the page."""
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, metadata={"Software": None})
    _pyplot().close(figure)
    return _embedded(buffer, caption)


def _picture(path: Path, caption: str) -> str:
    """A stage's figure, within the page."""
    with path.open("rb") as file:
        return _embedded(io.BytesIO(file.read()), caption)


def _embedded(picture: io.BytesIO, caption: str) -> str:
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    if image.width > WIDTH_PX:
        image = image.resize(
            (WIDTH_PX, round(image.height * WIDTH_PX / image.width)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img alt="{escape(caption)}" width="{image.width}" height="{image.height}"'
        f' src="data:image/webp;base64,{data}"></figure>'
    )
