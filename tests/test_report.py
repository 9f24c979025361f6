"""The report's page: all that a run has to say is on it, escaped, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from browser import browser, check_page, opened
from powerpixels import report, summary
from powerpixels.documents import Channel, Fault, Inventory, Piece, Probe, ProbeSummary, Session, Stream

NASTY = '<script>alert("&")</script>'


class Page(HTMLParser):
    """What a browser makes of a page: elements in balance, tables as text, ids and links."""

    VOID = {"meta", "br", "img"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def links(self) -> list[str]:
        return [value for name, value in self.attributes if name == "href"]


def stream(name: str, kind: str, pieces: list[tuple[int, int]], **changes) -> Stream:
    """A stream with pieces of (n_samples, first_sample) at 1000 Hz."""
    return Stream(
        **{
            "name": name,
            "kind": kind,
            "files": [],
            "sampling_rate_hz": 1000.0,
            "n_columns": 3,
            "n_samples": sum(n for n, _ in pieces),
            "first_sample": pieces[0][1],
            "pieces": [Piece(path="x", first_row=0, n_samples=n, first_sample=first) for n, first in pieces],
            **changes,
        }
    )


def inventory(**changes) -> Inventory:
    channel = Channel(
        raw_column=0,
        channel_id="AP0",
        contact_id="e0",
        shank=0,
        x_um=0.0,
        y_um=0.0,
        inter_sample_shift=0.0,
        gain_uv=2.3,
    )
    ap = stream(
        "imec0.ap", "ap", [(4000000, 0), (1000, 4002500)], channels=[channel], sync_column=2, sync_bit=6
    )
    probe = Probe(
        name="probe00", part_number=None, serial_number="18", model="Neuropixels 1.0", shanks=[0], ap=ap
    )
    return Inventory(
        session=Session(
            subject="mouse01",
            session="2026-03-01_001",
            acquisition="spikeglx",
            acquisition_version=NASTY,
            start_time="2026-03-01T10:35:10",
        ),
        probes=[probe],
        nidq=stream("nidq", "nidq", [(4000, 0)]),
        faults=[
            Fault(code="GAP", severity="warns", message=f"gap {NASTY}", probe="probe00", stream="imec0.ap"),
            Fault(code="ALL_ZERO", severity="blocks", message="all is 0", probe="probe01"),
            Fault(code="SYNC_MISSING", severity="warns", message="no line", stream="nidq"),
        ],
    ).model_copy(update=changes)


DONE = ProbeSummary(
    subject="mouse01",
    session="2026-03-01_001",
    probe="probe00",
    model="Neuropixels 1.0",
    duration_s=4001.0,
    n_shanks=1,
    n_channels=384,
    n_dead=1,
    n_noise=2,
    n_out=40,
    n_units=1234,
    n_good_kilosort=2,
    n_good_bombcell=1,
    n_spikes=12345678,
    reference_clock="nidq",
    sync_rms_us=3.14159,
    sync_max_us=33.0,
    drift="shank0: 24 channels, fewer than 65",
    warnings=["shank0: a note"],
)
FAILED = {
    "subject": "mouse01",
    "session": "2026-03-01_001",
    "probe": "probe01",
    "shank": "",
    "stage": "REFUSE",
    "exit": "65",
    "reason": f"ALL_ZERO: all is 0 {NASTY}",
    "log": "/scratch/ab/cdef/.command.log",
}


def page_of(summaries: list, failures: list, inventories: list) -> tuple[str, Page]:
    html = report.page(summary.table(summaries, failures, inventories), inventories)
    return html, Page(html)


def test_everything_is_on_the_page():
    _, page = page_of([DONE], [FAILED], [inventory()])
    failures, probes, streams = page.tables
    assert failures[1] == [
        *("mouse01", "2026-03-01_001", "probe01", "REFUSE", "65"),
        f"ALL_ZERO: all is 0 {NASTY}log: /scratch/ab/cdef/.command.log",
    ]
    assert probes[1] == [
        *("✓ done", "mouse01", "2026-03-01_001", "probe00", "Neuropixels 1.0", "1:06:41.0"),
        *("384", "1, 2, 40", "1\u2009234", "2", "1", "12\u2009345\u2009678", "nidq, 3.1"),
        *("shank0: 24 channels, fewer than 65", "GAP SYNC_MISSING"),
    ]
    assert probes[2][0] == "✗ failed"
    assert probes[2][3] == "probe01"
    assert probes[2][-1] == "ALL_ZERO SYNC_MISSING"
    assert streams[1:] == [
        [
            *("probe00 Neuropixels 1.0 18", "imec0.ap", "1 channels", "1000", "1:06:41.0", "2"),
            *("1 (2.500 s in all)", "column 2, bit 6"),
        ],
        ["", "nidq", "0 analog, 0 digital", "1000", "0:00:04.0", "1", "0", "by wiring"],
    ]
    for said in ("gap <script>", "no line", "shank0: a note", "started 2026-03-01T10:35:10"):
        assert said in page.text
    # each fault is explained
    assert summary.CODES["GAP"].meaning in page.text and summary.CODES["ALL_ZERO"].advice in page.text


def test_links_lead_to_the_explanations():
    _, page = page_of([DONE], [FAILED], [inventory()])
    assert len(page.ids) == len(set(page.ids))
    assert page.links() and all(link.startswith("#") and link[1:] in page.ids for link in page.links())


def test_faults_known_only_by_a_reason_are_explained_too():
    failure = {**FAILED, "probe": "", "stage": "INSPECT", "reason": "NO_RECORDING: nothing there"}
    _, page = page_of([], [failure], [])
    assert page.links() == ["#NO_RECORDING"] and page.ids == ["NO_RECORDING"]
    assert summary.CODES["NO_RECORDING"].advice in page.text


def test_a_note_is_given_once_and_faults_are_no_notes():
    other = DONE.model_copy(update={"probe": "probe02"})
    _, page = page_of([DONE, other], [], [inventory()])
    assert page.text.count("a note") == 1
    assert "mouse01 2026-03-01_001 probe00, probe02: shank0: a note" in page.text
    assert page.text.count("no line") == 1


def test_nothing_is_fetched_and_text_is_escaped():
    html, page = page_of([DONE], [FAILED], [inventory()])
    assert html.count("<script>") == 1 and NASTY not in html
    assert not page.tags & {"link", "img", "iframe", "object"}
    assert not any(name == "src" for name, _ in page.attributes)
    assert not re.search(r"https?:|url\(|@import", html)


def test_same_page_in_any_order():
    other = inventory()
    other = other.model_copy(update={"session": other.session.model_copy(update={"subject": "mouse00"})})
    first, _ = page_of([DONE], [FAILED], [inventory(), other])
    second, _ = page_of([DONE], [FAILED], [other, inventory()])
    assert first == second


def test_empty_runs():
    _, page = page_of([], [], [])
    assert "No probe came out of this run" in page.text
    bare = inventory(probes=[], nidq=None, faults=[])
    _, page = page_of([DONE], [], [bare])
    assert "What failed" not in page.text and "Faults of the input" not in page.text


def test_a_probe_that_stands_out_is_marked():
    """Nine probes of about 100 units and one of 3; too few to tell where there are five."""
    units = [98, 100, 101, 99, 102, 100, 97, 103, 100, 3]
    summaries = [
        DONE.model_copy(update={"probe": f"probe{k:02d}", "n_units": n, "n_spikes": 1000 * n})
        for k, n in enumerate(units)
    ]
    html, page = page_of(summaries, [], [])
    assert re.findall(r'<td class="number unusual"[^>]*>([^<]*)</td>', html) == ["◆ 3", "◆ 3\u2009000"]
    assert "unusual: the median of the run&#x27;s probes is 100" in html
    assert "unusual:" not in page_of(summaries[-5:], [], [])[0]


def test_in_a_browser(tmp_path):
    """A click on a column's head sorts by its numbers, another the other way; nothing is asked of other places."""
    if browser() is None:
        pytest.skip("no browser is installed")
    units = [9, 100, 30]
    summaries = [
        DONE.model_copy(update={"probe": f"probe{k:02d}", "n_units": n}) for k, n in enumerate(units)
    ]
    html, _ = page_of(summaries, [FAILED], [inventory()])
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    assert "Recordings" in check_page(path, tmp_path / "checked")
    column = """(() => {
      const table = [...document.querySelectorAll("table")].find(t => t.querySelector("th[onclick]"));
      const head = [...table.rows[0].cells].find(cell => cell.textContent === "units");
      CLICK
      return [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex].textContent).filter(Boolean).join(" ");
    })()"""
    with opened(path.as_uri(), tmp_path / "profile") as shown:
        shown.wait_for("Recordings", seconds=30)
        assert shown.run(column.replace("CLICK", "")) == "9 100 30"
        assert shown.run(column.replace("CLICK", "head.click();")) == "9 30 100"
        assert shown.run(column.replace("CLICK", "head.click();")) == "100 30 9"
