"""A session's page: everything that its results hold is on it, in itself, small, and the same each time."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from browser import browser, check_page
from PIL import Image
from powerpixels import cli
from powerpixels.manifest import ADDED
from powerpixels.session_report import autocorrelogram, page
from powerpixels.status import duration_s
from test_report import DONE, NASTY, Page, inventory

N_UNITS, N_SPIKES, N_CHANNELS = 6, 50_000, 40
WORDS = ["good", "good", "mua", "noise", "mua", "good"]
TRACE = """process\ttag\tstatus\texit\tattempt\tsubmit\tstart\trealtime\tcpus\tworkdir
NEUROPIXELS:SORT\tmouse01/2026-03-01_001/probe00/shank0\tCOMPLETED\t0\t1\t2026-03-02 10:00:00\t2026-03-02 10:30:00\t1h 30m\t4\t/w/a
NEUROPIXELS:SORT\tmouse01/2026-03-01_001/probe00/shank0\tCACHED\t0\t1\t2026-03-02 10:00:00\t2026-03-02 10:30:00\t1h 30m\t4\t/w/a
NEUROPIXELS:SORT\tmouse01/2026-03-02_001/probe00/shank0\tCOMPLETED\t0\t1\t2026-03-02 10:00:00\t2026-03-02 10:30:00\t9h\t4\t/w/b
NEUROPIXELS:LABEL\tmouse01/2026-03-01_001/probe00/shank0\tCOMPLETED\t0\t1\t2026-03-02 12:00:00\t2026-03-02 12:00:00\t6m\t1\t/w/c
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    """Published results of one probe of two, without the science: arrays of the right shape."""
    rng = np.random.default_rng(3)
    outdir = tmp_path_factory.mktemp("results")
    folder = outdir / "mouse01" / "2026-03-01" / "001"
    qc, alf = folder / "qc" / "probe00", folder / "alf" / "probe00"
    for place in (qc / "preprocessing", qc / "drift" / "shank0", alf, outdir / "pipeline_info"):
        place.mkdir(parents=True)
    found = inventory()
    found.model_copy(
        update={"probes": [found.probes[0], found.probes[0].model_copy(update={"name": "probe01"})]}
    ).save(folder / "qc" / "inventory.json")
    DONE.model_copy(update={"n_units": N_UNITS}).save(qc / "summary.json")
    arrays = {
        "spikes.times": np.sort(rng.uniform(0, 4000, N_SPIKES)),
        "spikes.amps": rng.uniform(2e-5, 2e-4, N_SPIKES).astype(np.float32),
        "spikes.depths": rng.uniform(0, 380, N_SPIKES).astype(np.float32),
        "spikes.clusters": rng.integers(0, N_UNITS, N_SPIKES).astype(np.int32),
        "clusters.depths": np.linspace(0, 380, N_UNITS).astype(np.float32),
        "clusters.amps": np.full(N_UNITS, 1e-4, np.float32),
        "clusters.waveforms": rng.normal(0, 1e-5, (N_UNITS, 90, 32)).astype(np.float32),
        "channels.localCoordinates": np.column_stack([np.arange(N_CHANNELS) % 2 * 32.0, np.arange(N_CHANNELS) * 10.0]),
        "channels.labels": np.arange(N_CHANNELS) % 4,
        "channels.shanks": np.zeros(N_CHANNELS, np.int32),
        "channels.brainLocationAcronyms_ccf_2017": np.array(["CA1"] * 15 + ["VISp6a"] * 25),
    }  # fmt: skip
    for name, values in arrays.items():
        np.save(alf / f"{name}.npy", values)
    rows = [f"{k},{word},{word},,{word},{word},{100 * k}" for k, word in enumerate(WORDS)]
    heads = "cluster_id,ks2_label,bombcell_label,unitrefine_label,ibl_label,consensus_label,num_spikes"
    (alf / "clusters.metrics.csv").write_text("\n".join([heads, *rows]) + "\n")
    for k in (1, 2):
        (qc / "drift" / f"shank{k}").mkdir()
        Image.new("RGB", (400, 300)).save(qc / "drift" / f"shank{k}" / "drift.png")
    noise = Image.fromarray(rng.integers(0, 255, (600, 1500, 3), dtype=np.uint8))
    for name in (
        "preprocessing/traces_shank0",
        "preprocessing/spectra",
        "drift/shank0/drift",
        "sync_residuals",
    ):
        noise.save(qc / f"{name}.png", compress_level=1)
    (qc / "manifest.json").write_text(
        json.dumps(
            {"parameters": {"drift": "dredge", "seed": 42}, "software": {"SORT": [{"kilosort": "4.1.7"}]}}
        )
    )
    lines = [
        {"frequency_hz": 8900.2, "left_out": None},
        {"frequency_hz": 13000.4, "left_out": "broader than 60 Hz"},
    ]
    counted = {
        "n_saturated": 2,
        "saturated_s": 0.25,
        "n_artifacts": 3,
        "artifact_s": 1.5,
        "duration_s": 4000.0,
    }
    limit = {"limit_counts": 512, "limit_source": "header"}
    (qc / "raw_qc.json").write_text(json.dumps({**counted, **limit, "lines": lines, "lf_band": "none"}))
    (outdir / "pipeline_info" / "trace_1.tsv").write_text(TRACE)
    return folder


@pytest.fixture(scope="module")
def html(session) -> str:
    return page(session)


def test_it_is_whole_small_and_by_itself(session, html):
    shown = Page(html)
    addresses = [value for name, value in shown.attributes if name in ("src", "href")]
    assert all(address.startswith(("#", "data:image/webp;base64,", "qc/probe00/")) for address in addresses)
    pictures = [address for address in addresses if address.startswith("data:")]
    assert len(pictures) == 8  # three drawn here, five of the stages
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
        assert 300 < image.width <= 1300
    # Pictures of noise are the worst case of a figure.
    assert len(html) < 10e6


def test_what_it_says(html):
    shown = Page(html)
    text = " ".join(shown.text.split())
    assert "6 units: 2 good by the sorter, 1 by Bombcell; 12,345,678 spikes in 66.7 min" in text
    assert (
        "Raw bands: 2 saturated stretches (0.25 s; the converter's limit is 512 counts), 3 artifacts (1.5 s) in "
        "66.7 min. Spectral lines fit for a notch: 8900 Hz. Spectral lines left alone: 13000 Hz (broader than 60 "
        "Hz). There is no LF band."
    ) in text
    # The probe without results, and why; faults with what they mean.
    assert "✗ failed No units: ALL_ZERO: all is 0" in text
    assert "Copy the file again from the acquisition PC." in text and f"gap {NASTY}" in shown.text
    assert "Of the other shanks: qc/probe00/drift/shank2/drift.png" in text
    tables = {table[0][0]: table for table in shown.tables}
    assert tables["tool"] == [
        ["tool", "good", "mua", "noise", "unjudged"],
        *([tool, "3", "2", "1", "0"] for tool in ("kilosort", "bombcell")),
        ["unitrefine", "0", "0", "0", "6"],
        *([tool, "3", "2", "1", "0"] for tool in ("ibl", "consensus")),
    ]
    confusion = "good, good: 3; mua, mua: 2; noise, noise: 1"
    assert tables["tools"][1:] == [
        [pair, "6", "3", "1.00", confusion]
        for pair in ("kilosort, bombcell", "kilosort, ibl", "bombcell, ibl")
    ]
    assert tables["shank"][1:] == [["0", "VISp6a", "150 to 390 µm"], ["0", "CA1", "0 to 140 µm"]]
    assert tables["parameter"][1:] == [["--drift", '"dredge"', '"auto"']]
    assert tables["package"][1:] == [["kilosort", "4.1.7"]]
    assert tables["stage"][1:] == [
        ["LABEL", "1", "0.100", "0.100", "0.000"],
        ["SORT", "1", "1.500", "6.000", "0.500"],
        ["all", "2", "1.600", "6.100", "0.500"],
    ]


def test_the_command_writes_it_where_verify_lets_it_be(session, html, tmp_path, capsys):
    cli.main(["session-report", str(session.parent.parent.parent)])
    assert capsys.readouterr().out.split() == [str(session / "report.html")]
    assert (session / "report.html").read_text(encoding="utf-8") == html
    assert ADDED.fullmatch("report.html")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["session-report", str(tmp_path)])
    assert exit_.value.code == 65 and "qc/inventory.json" in capsys.readouterr().err


def test_autocorrelogram_counts_every_pair():
    times = np.sort(np.random.default_rng(1).uniform(0, 10, 800))
    apart = 1000 * (times[:, None] - times[None, :])[np.triu_indices(800, 1)[::-1]]
    expected = np.histogram(apart[apart < 50], np.arange(51))[0]
    middles, counts = autocorrelogram(times)
    assert counts[50:].tolist() == expected.tolist() == counts[:50][::-1].tolist()
    assert middles[[0, 50, 99]].tolist() == [-49.5, 0.5, 49.5]


def test_durations_of_the_trace():
    assert [duration_s(text) for text in ("350ms", "8.3s", "1h 2m 3s", "1d 1h")] == pytest.approx(
        [0.35, 8.3, 3723, 90000]
    )


def test_in_a_browser(html, tmp_path):
    """Nothing asked of any other place, no complaint, all pictures shown."""
    if browser() is None:
        pytest.skip("no browser is installed")
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    assert "Software" in check_page(path, tmp_path / "profile", n_images=8)
