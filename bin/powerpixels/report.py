"""The run's report: one page of HTML that needs nothing but itself."""

from __future__ import annotations

from html import escape

from powerpixels.documents import Fault, Inventory, Stream
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
.mark { font-weight: 600; white-space: nowrap; padding: 0 .4rem; border-radius: 4px; }
.done { background: #d6e6f5; color: #0b3c66; }
.failed, .blocks { background: #fbe0c8; color: #7a3300; }
.warns { background: #f3ecc4; color: #55480a; }
code { font-size: .85rem; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.3rem; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
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


def page(rows: list[dict], inventories: list[Inventory]) -> str:
    """The page for the rows of ``summary.table`` and the inventories of the sessions, as HTML.

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
    heads += ["units", "good by sorter", "by Bombcell", "spikes", "clock, rms µs", "faults"]
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
                *(("number", row[name]) for name in ("n_units", "n_good_kilosort", "n_good_bombcell")),
                ("number", row["n_spikes"]),
                ("name", f"{row['reference_clock']}, {row['sync_rms_us']:.1f}" if done else None),
                ("html", " ".join(links)),
            ]
        )
    return "<h2>Probes</h2>" + _table(heads, body, sortable=True)


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
    """A table; a cell is (kind, value) with kind "", "name", "number", "duration" (s) or "html"."""
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
    if kind == "number":
        return f'<td class="number" data-value="{escape(str(value))}">{_number(value)}</td>'
    return f'<td class="name">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _mark(word: str) -> str:
    """A status or severity: its word, with a sign and a colour that say the same."""
    sign = {"done": "✓", "failed": "✗", "blocks": "✗", "warns": "!"}[word]
    return f'<span class="mark {word}">{sign} {word}</span>'


def _number(value: object) -> str:
    """Whole numbers with thin spaces between thousands; anything else as it is."""
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else escape(str(value))
