"""``powerpixels visualize``: what is drawn is what the files hold, and planted bad channels are named."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from powerpixels import cli, visualize, visualize_figures
from powerpixels.documents import JoinedProbe, Piece, Preprocess, ProbeDocument
from powerpixels.inventory import inspect_documents
from powerpixels.preprocess import Settings, preprocess_probe
from powerpixels.recordings import load_preprocessed
from powerpixels.simulate import TruthDocument
from powerpixels.stage import DataError
from powerpixels.visualize import TRACES_S, Walk, collect
from scipy.signal import butter, sosfiltfilt

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RATE = 30000
MUTED = (150_000, 150_060)
TONE_HZ = 8900.0


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def truth(session_small) -> TruthDocument:
    return TruthDocument.load(session_small / "truth" / "truth.json")


@pytest.fixture(scope="module")
def raw(session_small, tmp_path_factory) -> Path:
    """The session in a folder with a space in its path, 2 ms of the 1.0 probe's AP band saturated."""
    folder = tmp_path_factory.mktemp("visualize") / "raw data"
    shutil.copytree(session_small / "raw", folder)
    counts(folder, "imec0", "r+")[slice(*MUTED), :-1] = 511
    return folder


def counts(raw: Path, device: str, mode: str = "r") -> np.memmap:
    path = next(raw.rglob(f"*.{device}.ap.bin"))
    found = re.search(r"nSavedChans=(\d+)", path.with_suffix(".meta").read_text())
    return np.memmap(path, "<i2", mode).reshape(-1, int(found[1]))


def described(raw: Path, name: str) -> ProbeDocument:
    found = inspect_documents(raw, "m", "s", look_at_data=False)
    probe = next(probe for probe in found.inventory.probes if probe.name == name)
    return ProbeDocument(session=found.sessions[name], probe=probe)


@pytest.fixture(scope="module")
def record(raw, tmp_path_factory) -> Path:
    """What PREPROCESS wrote of the whole 1.0 probe."""
    out = tmp_path_factory.mktemp("record") / "qc" / "probe00"
    preprocess_probe(JoinedProbe(recordings=[described(raw, "probe00")]), raw, out, Settings(), 2)
    return out


@pytest.fixture(scope="module")
def walk(raw, record) -> Walk:
    """Around the saturation, by the record."""
    document = Preprocess.load(record / "preprocess.json")
    return collect(document, [raw], np.mean(MUTED) / RATE, "decided elsewhere")


def stretch(at_s: float) -> slice:
    start = round(at_s * RATE) - round(TRACES_S * RATE) // 2
    return slice(start, start + round(TRACES_S * RATE))


def test_the_traces_are_those_of_the_files(raw, record, walk):
    where = stretch(np.mean(MUTED) / RATE)
    assert walk.start_s == where.start / RATE
    gain_uv = np.array([channel.gain_uv for channel in walk.channels])
    columns = [channel.raw_column for channel in walk.channels]
    volts = counts(raw, "imec0")[:, columns] * gain_uv
    assert np.allclose(walk.steps["raw"], volts[where] - np.median(volts[where], axis=0), atol=1e-3)

    # Far from the ends of what is filtered, SciPy's own filter gives the same.
    sos = butter(5, 300, "highpass", fs=RATE, output="sos")
    around = slice(where.start - 6000, where.stop + 6000)
    expected = sosfiltfilt(sos, volts[around] - volts[around].mean(axis=0), axis=0)[6000:-6000]
    assert np.allclose(walk.steps["high-pass"], expected, atol=0.1)

    unit = load_preprocessed(record / "shank0")
    written = unit.get_traces(start_frame=where.start, end_frame=where.stop) * unit.get_channel_gains()
    kept = [columns.index(column) for column in unit.get_property("raw_column")]
    shown = walk.steps["written"]
    # The engines differ by their rounding, most where a step makes the traces broader than the probe's band.
    apart = np.abs(shown[:, kept] - written) / unit.get_channel_gains()
    assert apart.max() < 2.01 and np.mean(apart > 1.5) < 0.01
    removed = np.setdiff1d(np.arange(len(columns)), kept)
    assert removed.size and np.isnan(shown[:, removed]).all() and not np.isnan(shown[:, kept]).any()
    # The steps in between do something each.
    steps = list(walk.steps)
    assert steps == ["raw", "high-pass", "notches", "phase shift", "bad channels", "reference", "written"]
    for before, after in zip(steps[:-2], steps[1:-1], strict=True):
        assert not np.allclose(walk.steps[before], walk.steps[after], atol=0.5, equal_nan=True), after


def test_every_image_has_one_scale_and_the_steps_values_from_the_tip_up(walk):
    figure = visualize_figures.traces_figure(walk, 0)
    own = walk.of_shank(0)
    assert np.all(np.diff([walk.channels[k].y_um for k in own]) >= 0)
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == len(walk.steps)
    for image, traces_uv in zip(images, walk.steps.values(), strict=True):
        drawn = np.ma.filled(image.get_array().astype(float), np.nan)
        assert np.array_equal(drawn, traces_uv[:, own].T.astype(float), equal_nan=True)
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high and 20 <= high <= 120


def test_muted_stretches_are_marked(walk):
    start = round(walk.start_s * RATE)
    assert walk.muted.tolist() == [[MUTED[0] - start, MUTED[1] - start]]
    kept = ~np.isnan(walk.steps["written"]).any(axis=0)
    assert not walk.steps["written"][slice(*walk.muted[0]), kept].any()
    for figure in (visualize_figures.traces_figure(walk, 0), visualize_figures.lines_figure(walk, 0)):
        spans = [patch for axis in figure.axes for patch in axis.patches if patch.get_hatch()]
        (span,) = spans
        drawn_ms = span.get_x(), span.get_x() + span.get_width()
        assert drawn_ms == pytest.approx(tuple(1e3 * walk.muted[0] / RATE))
    unmuted = replace(walk, muted=np.empty((0, 2), dtype=np.int64))
    figure = visualize_figures.traces_figure(unmuted, 0)
    assert not [patch for axis in figure.axes for patch in axis.patches if patch.get_hatch()]


def test_the_notch_takes_the_planted_tone_out_and_nothing_else(walk):
    assert [notch.frequency_hz for notch in walk.notches] == [pytest.approx(TONE_HZ, abs=2)]
    alive = [k for k, label in enumerate(walk.labels) if label.label == "good"]
    ratio = (walk.densities["notches"] / walk.densities["high-pass"])[:, alive]
    at_tone = np.argmin(np.abs(walk.freqs_hz - TONE_HZ))
    away = (walk.freqs_hz > 600) & (np.abs(walk.freqs_hz - TONE_HZ) > 300)
    assert ratio[at_tone].max() < 0.01
    assert np.median(ratio[away], axis=1) == pytest.approx(1, abs=0.02)
    axes = visualize_figures.spectra_figure(walk).axes
    drawn = {line.get_label(): line for line in axes[0].lines}
    for step, name in (("high-pass", "high-passed, before the notches"), ("notches", "after the notches")):
        not_dead = [k for k, label in enumerate(walk.labels) if label.label != "dead"]
        median = np.median(walk.densities[step][1:, not_dead], axis=1)
        assert np.array_equal(drawn[name].get_ydata(), median)
    assert len(axes) == 2 and axes[1].get_xlim()[0] < TONE_HZ < axes[1].get_xlim()[1]
    without = replace(
        walk, notches=[], densities={"raw": walk.densities["raw"], "high-pass": walk.densities["high-pass"]}
    )
    assert len(visualize_figures.spectra_figure(without).axes) == 1


def planted(truth: TruthDocument, name: str) -> dict[str, str]:
    """Labels of a probe's channels that are not good, by contact."""
    probe = next(probe for probe in truth.probes if probe.name == name)
    return {channel.contact_id: channel.label for channel in probe.channels if channel.label != "good"}


def test_the_command_without_a_record_names_the_planted_bad_channels(raw, truth, tmp_path, monkeypatch):
    bad = planted(truth, "probe01")
    assert len(set(bad.values())) == 3
    walks = []
    monkeypatch.setattr(visualize, "collect", lambda *given: walks.append(collect(*given)) or walks[0])
    out = tmp_path / "my figures"
    cli.main(["visualize", str(raw), "--probe", "probe01", "--at", "8", "--out", str(out)])
    (walk,) = walks
    assert {found.contact_id: found.label for found in walk.labels if found.label != "good"} == bad
    assert walk.decided_on == "decided on 3.0 to 13.0 s, with default settings"

    page = (out / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'src="([^"]+)"', page)
    traces = [f"{kind}_shank{shank}.png" for shank in (2, 3) for kind in ("traces", "lines")]
    assert shown == ["channels.png", "spectra.png", *traces]
    assert sorted(path.name for path in out.iterdir()) == sorted([*shown, "index.html"])
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in shown)
    for contact, label in bad.items():
        assert re.search(rf"<td>{contact}</td>.*{visualize_figures.MEANINGS[label]}", page), contact
    assert page.count("outside the brain") == list(bad.values()).count("out")
    assert str(tmp_path) not in page and str(raw) not in page

    figure = visualize_figures.channels_figure(walk)
    markers = {label: marker for label, (_, marker) in visualize_figures.LOOKS.items()}
    for axis, shank in zip(figure.axes, walk.shanks, strict=False):
        for line in axis.lines:
            label = line.get_label()
            assert line.get_marker() == markers[label]
            drawn = sorted(zip(line.get_xdata(), line.get_ydata(), strict=True))
            assert drawn == sorted(
                (channel.x_um, channel.y_um)
                for channel in walk.channels
                if channel.shank == shank and bad.get(channel.contact_id, "good") == label
            )
        alone = [
            channel.channel_id
            for channel in walk.channels
            if channel.shank == shank and bad.get(channel.contact_id) in ("dead", "noise")
        ]
        text = " ".join(text.get_text() for text in axis.texts)
        assert alone and all(name in text for name in alone)
    evidence = {line.get_label(): line.get_xdata() for line in figure.axes[-1].lines}
    assert min(evidence["noise"]) > 0.02 > max(evidence["good"])


def test_a_record_is_taken_at_its_word(raw, record, tmp_path, monkeypatch):
    monkeypatch.setattr(visualize_figures, "draw", lambda walk, out: walk)
    document = Preprocess.load(record / "preprocess.json")
    # Another decision than would be made anew.
    labels = [label.model_copy(update={"label": "good"}) for label in document.labels]
    labels[7] = labels[7].model_copy(update={"label": "dead"})
    document.model_copy(update={"labels": labels}).save(tmp_path / "preprocess.json")
    walk = visualize.visualize([raw], "probe00", tmp_path, 5.001, tmp_path / "out")
    assert walk.labels == labels
    gone = np.isnan(walk.steps["written"]).all(axis=0)
    assert [walk.channels[k].contact_id for k in np.flatnonzero(gone)] == [labels[7].contact_id]
    page = visualize_figures._page(walk, [])
    bad = page[page.index("Bad channels</h2>") : page.index("Lines of")]
    assert re.findall(r"<tr><td>[^<]+</td><td>([^<]+)", bad) == [labels[7].contact_id]
    assert "Muted in what is shown: 5.0000 to 5.0020 s." in page


def test_lines_show_every_kind_of_bad_channel(walk, truth):
    shown = visualize_figures.shown_as_lines(walk, 0)
    kinds = {walk.labels[k].label for k in shown}
    assert kinds == {"good", *planted(truth, "probe00").values()}
    assert len(shown) == visualize_figures.N_LINES == len(set(shown))
    axes = visualize_figures.lines_figure(walk, 0).axes
    names = [text.get_text().split("\n")[0] for text in axes[0].get_yticklabels()]
    assert names == [walk.channels[k].channel_id for k in shown]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at_s": 20.5}, r"within the recording's 20\.\d+ s, asked for 20.5 s"),
        ({"at_s": -0.1}, "asked for -0.1 s"),
        ({"at_s": float("nan")}, "asked for nan s"),
        ({"probe": "probe07"}, "expected a probe of probe00, probe01, asked for probe07"),
        ({"record": "empty"}, "found none of them"),
        ({"record": "broken/preprocess.json"}, "expected what PREPROCESS wrote, found otherwise"),
        ({"raw_dirs": 2}, "expected one raw folder without --preprocess-json, found 2"),
        ({"raw_dirs": 2, "record": "record"}, "expected 1 raw folders"),
        ({"raw_dirs": 0, "record": "record"}, "expected 1 raw folders"),
    ],
)
def test_what_can_not_be_shown_is_said(raw, record, tmp_path, change, message):
    places = {"empty": tmp_path, "broken/preprocess.json": tmp_path / "preprocess.json", "record": record}
    asked = {"raw_dirs": 1, "probe": "probe00", "record": None, "at_s": None} | change
    if "broken" in str(asked["record"]):
        (tmp_path / "preprocess.json").write_text("{}")
    asked["record"] = places.get(asked["record"])
    asked["raw_dirs"] = [raw] * asked["raw_dirs"]
    with pytest.raises(DataError, match=message):
        visualize.visualize(**asked, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_probe_must_be_named_where_there_are_more(raw):
    with pytest.raises(DataError, match="--probe: probe00, probe01"):
        visualize._only_probe(raw)


@pytest.mark.parametrize("seed", range(3))
def test_cut_pieces_hold_the_same_samples(seed):
    rng = np.random.default_rng(seed)
    pieces = [
        Piece(
            path=f"{k}",
            first_row=int(rng.integers(5)),
            n_samples=int(rng.integers(1, 30)),
            first_sample=first,
        )
        for k, first in enumerate((100, 140, None, 300))
    ]

    def rows(pieces):
        return [
            (piece.path, piece.first_row + k, None if piece.first_sample is None else piece.first_sample + k)
            for piece in pieces
            for k in range(piece.n_samples)
        ]

    everything = rows(pieces)
    for start in range(len(everything)):
        for stop in range(start + 1, len(everything) + 1):
            assert rows(visualize._cut(pieces, start, stop)) == everything[start:stop]


def test_a_stretch_lies_within_one_block():
    lengths = [1000, 30, 5000]
    assert visualize._window(lengths, 1000, None, 0.1, "f") == (2, 2450, 2550)
    assert visualize._window(lengths, 1000, 0.0, 0.1, "f") == (0, 0, 100)
    assert visualize._window(lengths, 1000, 0.999, 0.1, "f") == (0, 900, 1000)
    assert visualize._window(lengths, 1000, 1.0, 0.1, "f") == (1, 0, 30)
    assert visualize._window(lengths, 1000, 1.03, 0.1, "f") == (2, 0, 100)
    assert visualize._window(lengths, 1000, 6.029, 0.1, "f") == (2, 4900, 5000)
