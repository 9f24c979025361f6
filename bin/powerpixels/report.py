"""The run's report: one page of HTML that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

from powerpixels.agreement import Agreement
from powerpixels.documents import Fault, Inventory, Stream, SyncResiduals
from powerpixels.fault_codes import CODES
from powerpixels.summary import IDENTITY, shared_warnings

# Blue and orange differ for all kinds of colour vision; the words beside them say the same.
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; max-width: 1320px;
       padding: 1.2rem 1.5rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .3rem 0; }
.totals { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
.totals div { background: #f2f4f7; border-radius: 6px; padding: .4rem .9rem; }
.totals b { display: block; font-size: 1.25rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; }
th, td { text-align: left; padding: .25rem .45rem; border-bottom: 1px solid #e2e2e2; vertical-align: top; }
th { background: #f2f4f7; vertical-align: bottom; }
th[onclick] { cursor: pointer; }
th[onclick]:hover { text-decoration: underline; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { white-space: nowrap; }
td.unusual { font-weight: 700; color: #7a3300; }
.mark { font-weight: 600; white-space: nowrap; padding: 0 .4rem; border-radius: 4px; }
.done { background: #d6e6f5; color: #0b3c66; }
.failed, .blocks { background: #fbe0c8; color: #7a3300; }
.warns { background: #f3ecc4; color: #55480a; }
code { font-size: .85rem; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.3rem; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
figure { margin: .6rem 0; }
figcaption { font-size: .88rem; }
svg { max-width: 100%; height: auto; }
"""

# A click on a column's head sorts by it; once more, the other way round.
SCRIPT = """
function sortBy(head) {
  const table = head.closest('table'), k = head.cellIndex, body = table.tBodies[0];
  const down = head.dataset.order === 'up';
  head.dataset.order = down ? 'down' : 'up';
  const value = row => row.cells[k].dataset.value ?? row.cells[k].textContent;
  const order = new Intl.Collator(undefined, {numeric: true}).compare;
  [...body.rows].sort((a, b) => {
    const x = value(a), y = value(b);
    const both = x !== '' && y !== '' && !isNaN(x) && !isNaN(y);
    return (both ? x - y : order(x, y)) * (down ? -1 : 1);
  }).forEach(row => body.append(row));
}
"""


def page(
    rows: list[dict],
    inventories: list[Inventory],
    agreement: Agreement | None = None,
    residuals: Sequence[SyncResiduals] = (),
) -> str:
    """The page for the rows of ``summary.table`` and the inventories of the sessions, as HTML.

    agreement: of the labelling tools on the units of all probes. residuals: of each stream that was fitted to
    its session's reference clock.

    The same input gives the same page: there is no date in it.
    """
    inventories = sorted(inventories, key=lambda found: (found.session.subject, found.session.session))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Power Pixels report</title><style>{STYLE}</style><script>{SCRIPT}</script></head><body>",
        "<h1>Power Pixels report</h1>",
        _totals(rows),
        _failures(rows),
        _probes(rows),
        _agreement(agreement),
        _clocks(residuals),
        _faults(rows, inventories),
        _notes(rows),
        _recordings(inventories),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _totals(rows: list[dict]) -> str:
    done = [row for row in rows if row["status"] == "done"]
    failed = {(row["subject"], row["session"], row["probe"]) for row in rows if row["status"] == "failed"}
    named = {(row["subject"], row["session"]) for row in rows}
    figures = [
        ("sessions", len(named)),
        ("probes done", len(done)),
        ("failed", len(failed)),
        ("units", sum(row["n_units"] for row in done)),
        ("spikes", sum(row["n_spikes"] for row in done)),
        ("hours recorded, all probes", f"{sum(row['duration_s'] for row in done) / 3600:.2f}"),
    ]
    cells = "".join(f"<div><b>{_number(value)}</b>{escape(name)}</div>" for name, value in figures)
    return f'<div class="totals">{cells}</div>'


def _agreement(agreement: Agreement | None, heading: str = "h2") -> str:
    """The labelling tools pair by pair; nothing where no two of them judged a unit."""
    pairs = [pair for pair in agreement.pairs if pair.n] if agreement else []
    if not pairs:
        return ""
    body = []
    for pair in pairs:
        both_good = pair.counts.get("good", {}).get("good", 0)
        counted = "; ".join(
            f"{one}, {other}: {count}" for one, row in pair.counts.items() for other, count in row.items()
        )
        kappa = "" if pair.kappa is None else f"{pair.kappa:.2f}"
        body.append(
            [
                ("name", f"{pair.first}, {pair.second}"),
                ("number", pair.n),
                ("number", both_good),
                ("number", kappa),
                ("", counted),
            ]
        )
    heads = ["tools", "judged by both", "good by both", "kappa of good", "first says, second says: units"]
    return f"<{heading}>Agreement of the labels</{heading}>" + _table(heads, body)


def _clocks(residuals: Sequence[SyncResiduals]) -> str:
    """Each stream's residuals from the map of its clock, session by session."""
    found: dict[tuple[str, str], list[SyncResiduals]] = {}
    for one in residuals:
        found.setdefault((one.session.subject, one.session.session), []).append(one)
    if not found:
        return ""
    parts = [
        "<h2>Clocks</h2><p>How far the edges of the sync wave lie off the map from each stream's clock to its"
        " session's. Blue: from the least to the largest in each part of the recording; broken lines: what"
        " the map's error can't exceed. Edges are seen at whole samples, so they scatter by about one.</p>"
    ]
    for (subject, session), streams in sorted(found.items()):
        parts.append(f"<h3>{escape(f'{subject} {session}')}</h3>")
        for one in sorted(streams, key=lambda one: one.fit.probe):
            drawn = _residual_figure(one)
            parts.append(f"<figure><figcaption>{escape(_clock_words(one))}</figcaption>{drawn}</figure>")
    return "\n".join(parts)


def _clock_words(one: SyncResiduals) -> str:
    """What the fit of a stream's clock found, in words."""
    fit = one.fit
    bound = "not known" if fit.bound_us is None else f"below {fit.bound_us:.0f} µs"
    words = (
        f"{fit.probe} on {fit.reference}: {fit.n_edges} edges, {fit.n_unmatched} without a partner,"
        f" {(fit.slope - 1) * 1e6:+.2f} ppm, rms {fit.rms_us:.1f} µs, error {bound} (allowed:"
        f" {one.limit_us:g} µs)."
    )
    if fit.settled_by == "pattern":
        words += " The pattern of pulses tells which belong together."
    elif fit.settled_by == "counters" and fit.repeats_s is not None:
        words += (
            f" The wave looks the same every {fit.repeats_s:.4g} s, so the acquisition's counts of samples"
            " tell which pulses belong together: streams whose counts began a whole number of periods apart"
            " would not be noticed."
        )
    elif fit.settled_by == "counters":
        words += " The acquisition's counts of samples tell which pulses belong together."
    return words


def _residual_figure(one: SyncResiduals) -> str:
    """The residuals against time, as SVG."""
    left, right, middle, half = 64, 760, 70, 56
    bound = one.fit.bound_us or 0.0
    top = 1.1 * max([bound, 1.0, *(abs(value) for _, *pair in one.bins for value in pair)])

    def y(us: float) -> str:
        return f"{middle - half * us / top:.1f}"

    bars = "".join(
        f"M{left + (right - left) * at / one.duration_s:.1f} {y(low - top / 40)}V{y(high + top / 40)}"
        for at, low, high in one.bins
    )
    marks = [("0", 0.0, "#999", "")]
    marks += [(f"{us:+.0f} µs", us, "#000", ' stroke-dasharray="5 4"') for us in (bound, -bound) if us]
    lines = "".join(
        f'<path d="M{left} {y(us)}H{right}" stroke="{colour}"{dashes} />'
        f'<text x="{left - 6}" y="{float(y(us)) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for text, us, colour, dashes in marks
    )
    return (
        '<svg viewBox="0 0 780 150" width="780" height="150" role="img" font-size="11">'
        f"<title>{escape(one.fit.probe)}: residuals of the sync wave</title>{lines}"
        f'<path d="{bars}" stroke="#0072B2" stroke-width="2.4" fill="none" />'
        f'<text x="{left}" y="145">0</text>'
        f'<text x="{right}" y="145" text-anchor="end">{one.duration_s / 60:.1f} min</text></svg>'
    )


def _failures(rows: list[dict]) -> str:
    failed = [row for row in rows if row["status"] == "failed"]
    if not failed:
        return ""
    body = []
    for row in failed:
        why = f"{escape(row['reason'])}<br>log: <code>{escape(row['log'])}</code>"
        body.append(
            [
                ("name", row["subject"]),
                ("name", row["session"]),
                ("name", " ".join(part for part in (row["probe"] or "all of it", row["shank"]) if part)),
                ("name", row["stage"]),
                ("number", row["exit"]),
                ("html", why),
            ]
        )
    return "<h2>What failed</h2>" + _table(["subject", "session", "probe", "stage", "exit", "why"], body)


def _probes(rows: list[dict]) -> str:
    if not rows:
        return "<p>No probe came out of this run.</p>"
    heads = ["status", "subject", "session", "probe", "model", "duration", "channels", "dead, noisy, out"]
    heads += ["units", "good by sorter", "by Bombcell", "spikes", "clock, rms µs", "drift", "faults"]
    counts = ("n_units", "n_good_kilosort", "n_good_bombcell", "n_spikes")
    medians = {name: _median_where_unusual(rows, name) for name in counts}
    body = []
    for row in rows:
        done = row["status"] == "done"
        links = (f'<a href="#{escape(code)}">{escape(code)}</a>' for code in row["faults"])
        body.append(
            [
                ("html", _mark(row["status"])),
                *(("name", row[name]) for name in IDENTITY),
                ("", row["model"]),
                ("duration", row["duration_s"]),
                ("number", row["n_channels"]),
                ("name", f"{row['n_dead']}, {row['n_noise']}, {row['n_out']}" if done else None),
                *(
                    ("unusual", (row[name], medians[name][row[name]]))
                    if row[name] in medians[name]
                    else ("number", row[name])
                    for name in counts
                ),
                ("name", f"{row['reference_clock']}, {row['sync_rms_us']:.1f}" if done else None),
                ("", row["drift"]),
                ("html", " ".join(links)),
            ]
        )
    legend = "<p>◆ is far from the run's other probes.</p>" if any(medians.values()) else ""
    return "<h2>Probes</h2>" + legend + _table(heads, body, sortable=True)


def _median_where_unusual(rows: list[dict], column: str) -> dict[int, float]:
    """Values of a column that are far from those of the run's other probes, each with the run's median.

    Far is more than 3.5 median absolute deviations, scaled to a normal distribution's standard deviation
    (Iglewicz and Hoaglin, How to detect and handle outliers, 1993). Nothing is said of fewer than six probes.
    """
    values = [row[column] for row in rows if row["status"] == "done"]
    if len(values) < 6:
        return {}
    middle = median(values)
    scale = 1.4826 * median(abs(value - middle) for value in values)
    return {value: middle for value in values if scale and abs(value - middle) > 3.5 * scale}


def _faults(rows: list[dict], inventories: list[Inventory]) -> str:
    """Each fault explained, with all its places; those known by a failure's reason alone without places."""
    found: dict[str, list[tuple[Inventory, Fault]]] = {code: [] for row in rows for code in row["faults"]}
    for inventory in inventories:
        for fault in inventory.faults:
            found.setdefault(fault.code, []).append((inventory, fault))
    if not found:
        return ""
    # what blocks first: a fault that no inventory holds kept its session from having one
    order = sorted(
        found,
        key=lambda code: (bool(found[code]) and all(f.severity == "warns" for _, f in found[code]), code),
    )
    parts = ["<h2>Faults of the input</h2>"]
    for code in order:
        parts.append(f'<h3 id="{escape(code)}">{escape(code)}</h3>')
        known = CODES.get(code)
        if known is not None:
            parts.append(f"<p>{escape(known.meaning)} <b>What to do:</b> {escape(known.advice)}</p>")
        items = []
        for inventory, fault in found[code]:
            where = [inventory.session.subject, inventory.session.session, fault.probe, fault.stream]
            who = escape(" ".join(part for part in where if part))
            items.append(f"<li>{_mark(fault.severity)} {who}: {escape(fault.message)}</li>")
        parts.append(f"<ul>{''.join(items)}</ul>" if items else "")
    return "\n".join(parts)


def _notes(rows: list[dict]) -> str:
    """What the export noted of the probes; the input's faults stand in their own place."""
    notes = [
        (f"{subject} {session} {', '.join(probes)}", warning)
        for subject, session, probes, warning in shared_warnings(rows)
        if warning.partition(": ")[0] not in CODES
    ]
    if not notes:
        return ""
    items = "".join(f"<li>{escape(who.rstrip())}: {escape(warning)}</li>" for who, warning in notes)
    return f"<h2>Notes</h2><ul>{items}</ul>"


def _recordings(inventories: list[Inventory]) -> str:
    parts = ["<h2>Recordings</h2>"] if inventories else []
    for inventory in inventories:
        session = inventory.session
        program = {"spikeglx": "SpikeGLX", "openephys": "Open Ephys"}[session.acquisition]
        about = f"{program} {session.acquisition_version or '(version unknown)'}, "
        about += f"started {session.start_time or 'at an unknown time'}"
        parts.append(f"<h3>{escape(f'{session.subject} {session.session}')}</h3><p>{escape(about)}</p>")
        body = []
        for probe in inventory.probes:
            about = " ".join(part for part in (probe.name, probe.model, probe.serial_number) if part)
            body += [
                _stream_row(about, f"{len(stream.channels)} channels", stream)
                for stream in (probe.ap, probe.lf)
                if stream is not None
            ]
        for stream in (inventory.nidq, *inventory.daqs):
            if stream is not None:
                n_lines = len(stream.digital) + len(stream.ttl)
                body.append(_stream_row("", f"{len(stream.analog)} analog, {n_lines} digital", stream))
        heads = ["probe", "stream", "holds", "rate Hz", "recorded", "pieces", "gaps", "sync wave"]
        if body:
            parts.append(_table(heads, body))
    return "\n".join(parts)


def _stream_row(probe: str, holds: str, stream: Stream) -> list[tuple[str, object]]:
    if stream.sync_line is not None:
        sync = f"line {stream.sync_line}"
    elif stream.sync_column is not None:
        sync = f"column {stream.sync_column}"
        sync += "" if stream.sync_bit is None else f", bit {stream.sync_bit}"
    else:
        sync = "by wiring" if not stream.channels else "none"
    blocks = stream.blocks()
    gaps = f"{len(blocks) - 1}"
    if len(blocks) > 1:
        gaps += f" ({(stream.n_acquired - stream.n_samples) / stream.sampling_rate_hz:.3f} s in all)"
    return [
        ("name", probe),
        ("name", stream.name),
        ("name", holds),
        ("number", f"{stream.sampling_rate_hz:g}"),
        ("duration", stream.n_samples / stream.sampling_rate_hz),
        ("number", len(stream.pieces)),
        ("number", gaps),
        ("name", sync),
    ]


def _table(heads: list[str], body: list[list[tuple[str, object]]], sortable: bool = False) -> str:
    """A table; a cell is (kind, value) with kind "", "name", "number", "duration" (s) or "html".

    "unusual" is a number that stands out, as (number, the others' median).
    """
    click = ' onclick="sortBy(this)" title="sort"' if sortable else ""
    head = "".join(f"<th{click}>{escape(name)}</th>" for name in heads)
    lines = "\n".join(f"<tr>{''.join(_cell(kind, value) for kind, value in row)}</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _cell(kind: str, value: object) -> str:
    if kind == "html":
        return f"<td>{value}</td>"
    if value is None:
        return "<td></td>"
    if kind == "duration":
        minutes, seconds = divmod(float(value), 60)
        text = f"{int(minutes // 60)}:{int(minutes % 60):02d}:{seconds:04.1f}"
        return f'<td class="number" data-value="{float(value)!r}">{text}</td>'
    if kind == "unusual":
        value, middle = value
        told = f"unusual: the median of the run's probes is {middle:g}"
        return (
            f'<td class="number unusual" data-value="{value}" title="{escape(told)}">◆ {_number(value)}</td>'
        )
    if kind == "number":
        return f'<td class="number" data-value="{escape(str(value))}">{_number(value)}</td>'
    return f'<td class="name">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _mark(word: str) -> str:
    """A status or severity: its word, with a sign and a colour that say the same."""
    kind = word.split()[0]
    sign = {"done": "✓", "failed": "✗", "blocks": "✗", "warns": "!", "stopped": "–"}[kind]
    return f'<span class="mark {kind}">{sign} {word}</span>'


def _number(value: object) -> str:
    """Whole numbers with thin spaces between thousands; anything else as it is."""
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else escape(str(value))
