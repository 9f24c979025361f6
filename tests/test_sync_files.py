"""The files that IBL's tools read, by those tools; and the figure."""

from __future__ import annotations

import numpy as np
import pytest
from brainbox.io.one import SpikeSortingLoader
from clock_streams import session, with_gaps
from one.alf import spec
from one.alf.cache import make_parquet_db
from one.api import One
from powerpixels import clock, report, sync_files
from powerpixels.documents import Piece, RawFile, Session, Stream


@pytest.fixture(scope="module")
def case():
    """A session whose probe paused twice, its stream, its fit."""
    one = session(np.random.default_rng(11), "1 Hz", "gaps")
    bounds = [0, *one.probe_edges.gaps.ravel().tolist(), one.probe_edges.n_samples]
    pieces = [
        Piece(
            path=f"{k}.bin", first_row=0, n_samples=end - begin, first_sample=one.probe.first_sample + begin
        )
        for k, (begin, end) in enumerate(zip(bounds[::2], bounds[1::2], strict=True))
    ]
    stream = Stream(
        name="imec0.ap",
        kind="ap",
        files=[RawFile(path=piece.path, role="data", size_bytes=0) for piece in pieces],
        sampling_rate_hz=30000.0,
        n_columns=385,
        n_samples=sum(piece.n_samples for piece in pieces),
        first_sample=one.probe.first_sample,
        pieces=pieces,
    )
    return one, stream, one.fit()


def test_ibl_points_are_the_map(case):
    one, stream, fit = case
    points = sync_files.ibl_points(fit, stream)
    assert len(stream.blocks()) == 3 and (np.diff(points[:, 0]) > 0).all()
    samples = np.unique(np.concatenate([np.linspace(0, stream.n_samples - 1, 5001).round(), points[:, 0]]))
    samples = samples.astype(np.int64)
    expected = clock.to_reference_seconds(fit, stream.acquired(samples))
    np.testing.assert_allclose(np.interp(samples, *points.T), expected, rtol=0, atol=1e-9)


def test_spike_sorting_loader_puts_samples_on_the_reference_clock(case, tmp_path):
    _, stream, fit = case
    path = tmp_path / "mouse01" / "2026-03-01" / "001"
    written = sync_files.write_ibl(fit, stream, path / "raw_ephys_data" / "probe00")
    assert [file.name for file in written] == [
        "_spikeglx_imec0.timestamps.npy",
        "_spikeglx_imec0.sync.npy",
    ]
    assert all(spec.is_valid(file.name) for file in written)
    make_parquet_db(tmp_path, hash_files=False)
    one = One(cache_dir=tmp_path, mode="local")
    loader = SpikeSortingLoader(eid=one.to_eid(path), pname="probe00", one=one, atlas=object())
    samples = np.linspace(0, stream.n_samples - 1, 1001).astype(np.int64)
    seconds = clock.to_reference_seconds(fit, stream.acquired(samples))
    np.testing.assert_allclose(loader.samples2times(samples), seconds, rtol=0, atol=1e-9)
    np.testing.assert_allclose(loader.samples2times(seconds, direction="reverse"), samples, rtol=0, atol=1e-4)


def test_the_figure_shows_every_matched_edge_in_its_place(case, tmp_path, monkeypatch):
    one, _, fit = case
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    pairs = clock.matched_pairs(fit, one.probe_edges, one.reference_edges, reference_line="P0.0")
    hz = one.reference.nominal_hz
    sync_files.plot_residuals(fit, pairs, one.probe_edges, hz, "sync", tmp_path / "r.png")
    axes = drawn[0].axes[0]
    assert "µs" in axes.get_ylabel() and "min" in axes.get_xlabel()
    edges, knots = axes.lines[0], axes.lines[-3]
    assert len(edges.get_xdata()) == fit.n_edges
    assert np.sqrt(np.mean(edges.get_ydata() ** 2)) == pytest.approx(fit.rms_us, rel=1e-6)
    assert np.abs(edges.get_ydata()).max() == pytest.approx(fit.max_us, rel=1e-6)
    np.testing.assert_allclose(knots.get_xdata() * 60, [own for own, _ in fit.knots])
    assert len(axes.patches) == len(one.probe_edges.gaps) == 2


def test_with_gaps_is_what_it_says(case):
    """The simulation itself: no edge of the probe lies in a gap."""
    one, *_ = case
    again = with_gaps(one.probe_edges, one.probe, [])
    for begin, end in one.probe_edges.gaps:
        assert not ((again.sample > begin) & (again.sample < end)).any()


def test_the_report_draws_the_residuals_with_their_bound(case):
    """What stands on the page is the fit's: least and largest residual of each part, bound and doubt."""
    one, _, fit = case
    pairs = clock.matched_pairs(fit, one.probe_edges, one.reference_edges, reference_line="P0.0")
    session_of = Session(
        subject="mouse <01>",
        session="2026-03-01_001",
        acquisition="spikeglx",
        acquisition_version=None,
        start_time=None,
    )
    hz = one.reference_edges.sampling_rate_hz
    told = sync_files.binned_residuals(fit, pairs, one.probe_edges, hz, session_of, 100.0)
    residual = sync_files.residuals_us(fit, pairs, hz)
    assert np.sqrt(np.mean(residual**2)) == pytest.approx(fit.rms_us, rel=1e-6)
    assert min(low for _, low, _ in told.bins) == round(residual.min(), 2)
    assert max(high for *_, high in told.bins) == round(residual.max(), 2) <= round(fit.max_us, 2)
    # Nothing is drawn where nothing was recorded.
    for begin, end in one.probe_edges.gaps / one.probe_edges.sampling_rate_hz:
        width = told.duration_s / sync_files.BINS
        assert not any(begin + width < at < end - width for at, *_ in told.bins)
    page = report.page([], [], None, [told])
    assert page.count("<svg") == 1 and "mouse &lt;01&gt; 2026-03-01_001" in page
    assert f"error below {fit.bound_us:.0f} µs (allowed: 100 µs)" in page
    assert "looks the same every 1 s" in page and page.count("stroke-dasharray") == 2
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert len(drawn) < 12_000 and drawn.count("V") == len(told.bins)
    told = told.model_copy(update={"fit": fit.model_copy(update={"settled_by": "pattern"})})
    assert "looks the same" not in report.page([], [], None, [told])
