"""The simulated session against independent readers, real files' conventions, and its own truth."""

from __future__ import annotations

import hashlib
import re
import warnings
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from powerpixels.metadata import read_metadata
from powerpixels.simulate import (
    PROBE_MODELS,
    SimulationConfig,
    Truth,
    acquired_channel,
    add_arguments,
    run,
    score_alf,
    score_sorting,
    simulate_session,
)
from powerpixels.stage import DataError

PROBES = ("probe00", "probe01")


@pytest.fixture(scope="module")
def truth(session_small: Path) -> Truth:
    return Truth.load(session_small)


@pytest.fixture(scope="module")
def filtered(truth: Truth) -> dict:
    """SpikeInterface's own reading of each probe, high-passed and phase-shifted."""
    import spikeinterface.extractors as se
    import spikeinterface.preprocessing as spre

    recordings = {}
    for name in PROBES:
        raw = se.read_spikeglx(truth.run_folder, stream_id=truth.probe(name).ap.name)
        recordings[name] = spre.phase_shift(spre.highpass_filter(raw, freq_min=300.0))
    return recordings


def read_meta(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def read_raw(truth: Truth, stream) -> np.ndarray:
    """(n_samples, n_columns) of the stream's file."""
    return np.memmap(truth.folder / stream.file, dtype="<i2", mode="r").reshape(-1, stream.n_columns)


def streams_of(truth: Truth):
    probes = truth.document.probes
    return [s for p in probes for s in (p.ap, p.lf) if s is not None] + [truth.document.nidq]


def first_at_or_after(true_s: np.ndarray, stream) -> np.ndarray:
    """The sample of a stream that is the first to see what happens at true_s."""
    return np.ceil((true_s - stream.start_s) * stream.true_rate_hz).astype(int)


def tiny(**changes) -> SimulationConfig:
    """4 s, few channels."""
    probes = [p.model_dump() for p in SimulationConfig.small().probes]
    probes[0] |= dict(n_channels=16, n_outside=4, n_units=1, n_small_units=0)
    probes[1] |= dict(n_channels=16, n_outside=4, n_units=1, n_small_units=0)
    return SimulationConfig(**{"duration_s": 4.0, "probes": probes, **changes})


# --- the files are SpikeGLX's ---------------------------------------------------------------------------


def test_raw_folder_holds_what_spikeglx_writes_and_no_more(truth):
    run_name = truth.document.config.run
    found = {p.relative_to(truth.folder / "raw").as_posix() for p in (truth.folder / "raw").rglob("*.*")}
    stem = f"{run_name}_g0/{run_name}_g0"
    expected = {f"{stem}_imec{i}/{run_name}_g0_t0.imec{i}.ap" for i in (0, 1)}
    expected |= {f"{stem}_imec0/{run_name}_g0_t0.imec0.lf", f"{stem}_t0.nidq"}
    assert found == {f"{name}.{extension}" for name in expected for extension in ("bin", "meta")}


def test_metadata_state_the_files_size_duration_and_digest(truth):
    for stream in streams_of(truth):
        data = truth.folder / stream.file
        meta = read_meta(data.with_suffix(".meta"))
        assert int(meta["fileSizeBytes"]) == data.stat().st_size == 2 * stream.n_samples * stream.n_columns
        assert float(meta["fileTimeSecs"]) == pytest.approx(stream.n_samples / stream.sampling_rate_hz)
        assert meta["fileSHA1"] == hashlib.sha1(data.read_bytes()).hexdigest().upper()
        assert meta["fileName"].endswith(data.relative_to(truth.folder / "raw").as_posix())
        assert int(meta["nSavedChans"]) == stream.n_columns


@pytest.mark.parametrize(
    ("stream", "real"),
    [
        ("imec1.ap", "ibl-neuropixel/fixtures/sampleNP2.4_4shanks_appVersion20230905.ap.meta"),
        ("imec0.ap", "ibl-neuropixel/fixtures/sample3B_version202304.ap.meta"),
        ("nidq", "ibl-neuropixel/fixtures/sample3B_g0_t0.nidq.meta"),
    ],
)
def test_metadata_have_every_field_that_real_ones_have(truth, real_data, stream, real):
    simulated = next(s for s in streams_of(truth) if s.name == stream)
    ours = read_meta((truth.folder / simulated.file).with_suffix(".meta"))
    theirs = read_meta(real_data / real)
    assert set(theirs) <= set(ours)
    # One entry per acquired channel in imroTbl and muxTbl, and per saved channel in the others, as there.
    for field in set(theirs) & {"~imroTbl", "~muxTbl"}:
        assert ours[field].count("(") == theirs[field].count("(")
        assert len(re.split(r"[ )(]+", ours[field])) == len(re.split(r"[ )(]+", theirs[field]))


def test_wiring_of_the_4_shank_probe_is_that_of_real_imro_tables(real_data):
    n_entries = 0
    for path in sorted(real_data.rglob("*.ap.meta")):
        table = re.search(r"~imroTbl=\((?:24|2013),384\)(.*)", path.read_text())
        for entry in re.findall(r"\(([\d ]+)\)", table[1]) if table else ():
            channel, shank, _, _, electrode = map(int, entry.split())
            assert acquired_channel("2.0-4shank", shank, electrode) == channel, (path, entry)
            n_entries += 1
    assert n_entries >= 384


def test_columns_are_neither_channel_numbers_nor_grouped_by_shank(truth):
    """Or a mistake of one for the other would go unseen."""
    for name in PROBES:
        channels = truth.probe(name).channels
        assert all(c.raw_column != c.acquired_channel for c in channels)
        assert [c.raw_column for c in channels] == list(range(len(channels)))
    shanks = [c.shank for c in truth.probe("probe01").channels]
    assert set(shanks) == {2, 3}
    assert np.count_nonzero(np.diff(shanks)) > 1


# --- independent readers agree ----------------------------------------------------------------------------


def test_spikeinterface_reads_volts_geometry_shifts_and_rates(truth):
    import spikeinterface.extractors as se

    for name in PROBES:
        probe = truth.probe(name)
        for stream, gain_uv in ((probe.ap, probe.gain_uv), (probe.lf, probe.lf_gain_uv)):
            if stream is None:
                continue
            recording = se.read_spikeglx(truth.run_folder, stream_id=stream.name)
            assert recording.sampling_frequency == stream.sampling_rate_hz
            assert recording.get_num_samples() == stream.n_samples
            uv = recording.get_traces(start_frame=1000, end_frame=1500, return_in_uV=True)
            np.testing.assert_allclose(uv, read_raw(truth, stream)[1000:1500, :-1] * gain_uv, rtol=1e-5)
            contacts = recording.get_probe()
            assert list(contacts.contact_ids) == [c.contact_id for c in probe.channels]
            shanks = [0] * len(probe.channels) if contacts.shank_ids is None else contacts.shank_ids
            assert [int(shank) for shank in shanks] == [c.shank for c in probe.channels]
            positions = [(c.x_um, c.y_um) for c in probe.channels]
            np.testing.assert_allclose(recording.get_channel_locations(), positions)
            shifts = [c.inter_sample_shift for c in probe.channels]
            np.testing.assert_allclose(recording.get_property("inter_sample_shift"), shifts)
            assert contacts.annotations["part_number"] == probe.part_number
            assert contacts.annotations["serial_number"] == probe.serial_number
    nidq = se.read_spikeglx(truth.run_folder, stream_id="nidq")
    assert nidq.sampling_frequency == truth.document.nidq.sampling_rate_hz
    assert list(nidq.channel_ids) == ["nidq#XA0", "nidq#XD0"]


def test_ibl_neuropixel_reads_volts_geometry_and_sync(truth):
    import spikeglx

    for stream in streams_of(truth):
        with spikeglx.Reader(truth.folder / stream.file, sort=False) as reader:
            assert reader.shape == (stream.n_samples, stream.n_columns)
            assert reader.fs == stream.sampling_rate_hz
            raw = read_raw(truth, stream)
            sync = reader.read_sync_digital(slice(0, 90000))
            expected = raw[:90000, stream.sync_column] >> stream.sync_bit & 1
            np.testing.assert_array_equal(sync[:, stream.sync_bit], expected)
            if stream.name == "nidq":
                volts = reader.read(slice(0, 2000), slice(0, 1), sync=False)[:, 0]
                true_s = truth.to_true_seconds(stream, np.arange(2000))
                np.testing.assert_allclose(volts, truth.analog_v(true_s), atol=5.0 / 32768)
                continue
            probe = truth.probe(stream.name.split(".")[0])
            gain_uv = probe.gain_uv if stream.name.endswith("ap") else probe.lf_gain_uv
            volts = reader.read(slice(0, 500), slice(None), sync=False)[:, :-1]
            np.testing.assert_allclose(volts, 1e-6 * gain_uv * raw[:500, :-1], rtol=1e-5)
            # That library mirrors x of a 1.0 probe and counts x from the shank's edge, y from the tip.
            pitch = 250 if probe.device == "imec1" else 0
            x_um = np.array([c.x_um - pitch * c.shank for c in probe.channels])
            x_um = x_um + 27 if probe.device == "imec1" else 70 - (x_um + 11)
            np.testing.assert_allclose(reader.geometry["x"], x_um)
            np.testing.assert_allclose(reader.geometry["y"], [c.y_um + 20 for c in probe.channels])
            np.testing.assert_array_equal(reader.geometry["shank"], [c.shank for c in probe.channels])


def test_ibl_neuropixel_has_the_same_adc_timing(truth):
    import neuropixel

    for name, version in zip(PROBES, (1, 2.4), strict=True):
        shift, _ = neuropixel.adc_shifts(version=version)
        for channel in truth.probe(name).channels:
            assert channel.inter_sample_shift == pytest.approx(shift[channel.acquired_channel])


def test_neo_reads_the_nidq_lines_as_events(truth):
    from neo.rawio import SpikeGLXRawIO

    reader = SpikeGLXRawIO(dirname=str(truth.run_folder))
    reader.parse_header()
    names = [str(name) for name in reader.header["event_channels"]["name"]]
    nidq = truth.document.nidq
    for line in truth.document.lines:
        samples, _, labels = reader.get_event_timestamps(
            block_index=0, seg_index=0, event_channel_index=names.index(f"XD{line.bit}")
        )
        events = truth.events(line.name)
        for state, times in (("ON", events["on_s"]), ("OFF", events["off_s"])):
            found = np.sort(samples[np.char.endswith(labels, state)])
            np.testing.assert_array_equal(found, first_at_or_after(times, nidq))
        assert line.n_events == events["on_s"].size > 20


# --- clocks -----------------------------------------------------------------------------------------------


def test_every_stream_sees_the_sync_wave_on_its_own_clock(truth):
    config = truth.document.config
    drifts = {"imec0": config.probes[0].drift_ppm, "imec1": config.probes[1].drift_ppm}
    for stream in streams_of(truth):
        level = read_raw(truth, stream)[:, stream.sync_column] >> stream.sync_bit & 1
        edges = np.flatnonzero(np.diff(level)) + 1
        np.testing.assert_array_equal(edges, first_at_or_after(truth.sync_edges_s(stream), stream))
        # Edges are half a second of true time apart: their spacing in samples shows the drift, to a sample.
        drift = drifts.get(stream.name.split(".")[0], config.nidq_drift_ppm)
        rate = 2 * np.polyfit(np.arange(edges.size), edges, 1)[0]
        assert rate / stream.sampling_rate_hz - 1 == pytest.approx(1e-6 * drift, abs=1 / stream.n_samples)


def test_first_samples_agree_with_the_start_times(truth):
    """All streams count from the same start of acquisition."""
    starts = [s.start_s - s.first_sample / s.true_rate_hz for s in streams_of(truth)]
    np.testing.assert_allclose(starts, starts[0], atol=12 / 30000)
    for stream in streams_of(truth):
        meta = read_meta((truth.folder / stream.file).with_suffix(".meta"))
        assert int(meta["firstSample"]) == stream.first_sample


def test_spike_times_on_the_nidq_clock_follow_from_the_files_sync_edges(truth):
    """A line through the edges found in the files maps spikes to the times that the truth states."""
    nidq = truth.document.nidq

    def edge_times(stream):
        level = read_raw(truth, stream)[:, stream.sync_column] >> stream.sync_bit & 1
        # An edge happened between the sample that shows it and the one before: half a sample earlier.
        return (np.flatnonzero(np.diff(level)) + 0.5) / stream.sampling_rate_hz

    reference = edge_times(nidq)
    for name in PROBES:
        own = edge_times(truth.probe(name).ap)
        # All streams start within 0.2 s, before the first edge, and the NIDQ runs longest.
        slope, offset = np.polyfit(own, reference[: own.size], 1)
        spikes = truth.spikes(name)
        fitted = offset + slope * spikes["sample"] / 30000.0
        assert np.abs(fitted - spikes["nidq_s"]).max() < 1 / 30000
        # Without a fit the clocks are many samples apart at the end.
        assert np.abs(slope - 1) * 20 > 5 / 30000


# --- signals ------------------------------------------------------------------------------------------------


def test_phase_shift_brings_all_channels_to_the_same_time(truth):
    """The tone is in phase over channels after SpikeInterface's correction, and is not before."""
    import spikeinterface.extractors as se
    import spikeinterface.preprocessing as spre

    for name in PROBES:
        probe = truth.probe(name)
        raw = se.read_spikeglx(truth.run_folder, stream_id=probe.ap.name)
        alive = np.array([c.label in ("good", "out") for c in probe.channels])
        n = 5 * 30000
        wave = np.exp(-2j * np.pi * truth.document.tone_hz * truth.to_true_seconds(probe.ap, np.arange(n)))
        amplitudes = []
        for recording in (raw, spre.phase_shift(raw, dtype="float32")):
            uv = recording.get_traces(start_frame=0, end_frame=n, return_in_uV=True)[:, alive]
            amplitudes.append(2 * (wave @ uv) / n)
        before, after = amplitudes
        shifts = np.array([c.inter_sample_shift for c in probe.channels])[alive]
        delayed = 2 * np.pi * truth.document.tone_hz * shifts / 30000.0
        assert np.abs(np.angle(before * np.exp(-1j * delayed))).max() < 0.06
        assert np.abs(np.angle(before)).max() > 1.0
        assert np.abs(np.angle(after)).max() < 0.06
        np.testing.assert_allclose(np.abs(before), truth.document.tone_uv, rtol=0.06)


def test_spikes_are_where_the_truth_says(truth, filtered):
    """Averages over each unit's spikes have their trough at the sample, channel and depth of the truth."""
    for name in PROBES:
        probe, spikes = truth.probe(name), truth.spikes(name)
        assert np.all(np.diff(spikes["sample"]) >= 0)
        traces = filtered[name].get_traces(return_in_uV=True)
        good = np.array([c.label == "good" for c in probe.channels])
        inside = np.array([c.label != "out" for c in probe.channels])
        isolated = [unit for unit in probe.units if unit.well_isolated]
        assert len(isolated) >= 4
        for unit in isolated:
            samples = spikes["sample"][spikes["unit"] == unit.unit]
            assert samples.size == unit.n_spikes
            assert np.diff(samples).min() >= 0.003 * 30000
            samples = samples[(samples > 100) & (samples < traces.shape[0] - 100)]
            average = traces[samples[:, None] + np.arange(-10, 11)].mean(axis=0)
            # Two channels may be nearly as deep as each other; the truth's is one of them.
            assert average[10, unit.raw_column] < 0.9 * average[10, good].min()
            assert int(np.argmin(average[:, unit.raw_column])) == 10
            # The high-pass filter takes some of it.
            assert 0.8 < -average[10, unit.raw_column] / unit.peak_uv < 1.0
            assert np.abs(average[:, ~inside]).max() < 5.0
            assert probe.channels[unit.raw_column].shank == unit.shank
            assert probe.channels[unit.raw_column].contact_id == unit.contact_id


@pytest.mark.parametrize("name", PROBES)
def test_spikeinterface_finds_the_planted_channels(truth, filtered, name):
    """On the whole probe and on each shank alone."""
    from spikeinterface.preprocessing import detect_bad_channels

    planted = np.array([c.label for c in truth.probe(name).channels])
    shank = np.array([c.shank for c in truth.probe(name).channels])
    assert {"good", "dead", "noise", "out"} == set(planted)
    selections = [np.arange(planted.size)]
    if np.unique(shank).size > 1:
        selections += [np.flatnonzero(shank == number) for number in np.unique(shank)]
    for columns in selections:
        part = filtered[name].select_channels(filtered[name].channel_ids[columns])
        _, labels = detect_bad_channels(part, method="coherence+psd", num_random_chunks=30, seed=0)
        np.testing.assert_array_equal(labels, planted[columns])


def test_lfp_is_in_the_brain_and_in_the_right_band(truth):
    for name in PROBES:
        probe = truth.probe(name)
        label = np.array([c.label for c in probe.channels])
        if probe.lf is not None:
            uv = read_raw(truth, probe.lf)[: 5 * 2500, :-1] * probe.lf_gain_uv
            ap_uv = read_raw(truth, probe.ap)[: 5 * 30000, :-1] * probe.gain_uv
            # The AP band's own filter leaves little of it.
            assert ap_uv[:, label == "good"].std(axis=0).max() < 40
        else:
            uv = read_raw(truth, probe.ap)[: 5 * 30000, :-1] * probe.gain_uv
        spread = uv.std(axis=0)
        assert spread[label == "good"].min() > 80
        assert spread[label == "out"].max() < 30
        assert np.corrcoef(uv[:, label == "good"].T).min() > 0.8
        assert np.all(uv[:, label == "dead"] == 0)


def test_artifacts_are_on_all_living_channels_at_once(truth):
    assert len(truth.document.artifact_s) == 5
    for name in PROBES:
        probe = truth.probe(name)
        alive = np.array([c.label in ("good", "out") for c in probe.channels])
        raw = read_raw(truth, probe.ap)
        for time_s in truth.document.artifact_s:
            start = int(first_at_or_after(np.array(time_s), probe.ap))
            # The onset is the largest step of the neighbourhood on every channel.
            uv = raw[start - 30 : start + 30, :-1][:, alive] * probe.gain_uv
            onset = np.argmax(np.diff(uv, axis=0), axis=0) - 29
            assert np.abs(onset).max() <= 1
            assert np.all(np.max(uv, axis=0) - np.median(uv, axis=0) > 200)


def test_counts_saturate_at_the_adcs_range(tmp_path):
    simulate_session(tmp_path / "s", tiny(artifact_uv=20000.0))
    truth = Truth.load(tmp_path / "s")
    for name, model in zip(PROBES, PROBE_MODELS.values(), strict=True):
        stream = truth.probe(name).ap
        traces = read_raw(truth, stream)[:, :-1]
        assert (traces.min(), traces.max()) == (-model.max_int, model.max_int - 1)
        clipped = np.flatnonzero(np.any(traces == model.max_int - 1, axis=1)) / stream.true_rate_hz
        near = np.abs(clipped + stream.start_s - truth.document.artifact_s[0])
        assert clipped.size > 0 and near.max() < 0.02


def test_same_config_same_bytes(tmp_path):
    def digests(folder, config):
        simulate_session(folder, config)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv")
        return {p.relative_to(folder): hashlib.sha1(p.read_bytes()).hexdigest() for p in files}

    first, again = digests(tmp_path / "a", tiny()), digests(tmp_path / "b", tiny())
    other = digests(tmp_path / "c", tiny(seed=2))
    assert first == again
    assert all(first[p] != other[p] for p in first if p.name.endswith(("ap.bin", "lf.bin")))


def test_an_interrupted_simulation_leaves_nothing(tmp_path, monkeypatch):
    from powerpixels import simulate

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "_write_nidq", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulate_session(tmp_path / "s", tiny(duration_s=2.0))
    assert list(tmp_path.iterdir()) == []


# --- scores -------------------------------------------------------------------------------------------------


def test_scores_count_what_was_lost_and_what_was_added():
    rng = np.random.default_rng(0)
    trains = {unit: np.sort(rng.choice(600000, 200, replace=False)) for unit in (3, 8, 9)}
    added = np.sort(np.concatenate([trains[8], np.arange(50) * 7919 + 5]))
    found = {40: trains[3][20:] + 2, 41: added}
    table = score_sorting(trains, found, 30000.0)
    assert table["matched_unit"].to_dict() == {3: 40, 8: 41, 9: -1}
    assert table.loc[3, "recall"] == pytest.approx(0.9)
    assert table.loc[3, "precision"] == pytest.approx(1.0)
    assert table.loc[8, "recall"] == pytest.approx(1.0)
    assert table.loc[8, "precision"] == pytest.approx(0.8)
    assert table.loc[9, ["recall", "precision", "accuracy"]].tolist() == [0.0, 0.0, 0.0]
    nothing = score_sorting(trains, {}, 30000.0)
    assert nothing["recall"].tolist() == [0.0, 0.0, 0.0]


def test_alf_of_the_truth_itself_scores_one(truth, tmp_path):
    for name in PROBES:
        spikes, units = truth.spikes(name), truth.probe(name).units
        # Published cluster numbers are not the simulated ones.
        np.save(tmp_path / "spikes.samples.npy", spikes["sample"])
        np.save(tmp_path / "spikes.clusters.npy", 100 - spikes["unit"])
        table = score_alf(truth.folder, tmp_path, name)
        assert table.index.tolist() == [unit.unit for unit in units if unit.well_isolated]
        assert table["matched_unit"].tolist() == [100 - unit for unit in table.index]
        assert np.all(table[["recall", "precision"]] == 1.0)


# --- command line -------------------------------------------------------------------------------------------


def parse(*argv: str):
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def test_command_writes_a_session_and_its_samplesheet(tmp_path, capsys):
    folder = tmp_path / "s"
    run(parse(str(folder), "--preset", "small", "--duration", "2", "--start-time", "2025-12-31T23:59:58"))
    lines = (folder / "samplesheet.csv").read_text().splitlines()
    assert capsys.readouterr().out.strip() == str(folder / "samplesheet.csv")
    assert lines[0] == "subject,session,raw,metadata"
    subject, session, raw, metadata = lines[1].split(",")
    assert read_metadata(folder / metadata)["", "timezone"] == "UTC"
    assert (subject, session) == ("sim01", "2025-12-31_001")
    assert Path(raw).is_dir() and Path(raw) == Truth.load(folder).run_folder
    assert Truth.load(folder).probe("imec0").ap.n_samples == 60000
    with pytest.raises(DataError, match="expected an empty or new folder"):
        run(parse(str(folder), "--preset", "small"))


def test_command_writes_a_layout_and_a_fault(tmp_path, monkeypatch, capsys):
    config = tiny()
    monkeypatch.setattr(SimulationConfig, "small", lambda: config)
    folder = tmp_path / "s"
    run(parse(str(folder), "--preset", "small", "--layout", "openephys", "--fault", "truncated:ProbeB"))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    truth = Truth.load(folder)
    raw = (folder / "samplesheet.csv").read_text().splitlines()[1].split(",")[2]
    assert Path(raw) == truth.run_folder and (truth.run_folder / "Record Node 101" / "settings.xml").exists()
    for probe, part in (("ProbeA", 1.0), ("ProbeB", 0.8)):
        ap = truth.probe(probe).ap
        assert (folder / ap.file).stat().st_size == 2 * ap.n_columns * round(part * ap.n_samples)
    with pytest.raises(DataError, match="expected an empty or new folder"):
        run(parse(str(folder), "--preset", "small", "--layout", "flat"))


def test_command_writes_another_session_of_the_same_units(tmp_path, monkeypatch, capsys):
    config = tiny()
    monkeypatch.setattr(SimulationConfig, "small", lambda: config)
    for seed in ("2", "3"):
        run(parse(str(tmp_path / seed), "--preset", "small", "--session-seed", seed, "--fault", "empty_file"))
    first, second = (Truth.load(tmp_path / seed) for seed in ("2", "3"))
    assert first.document.config.run != second.document.config.run
    assert first.probe("imec1").channels == second.probe("imec1").channels
    assert not np.array_equal(first.spikes("imec1")["sample"], second.spikes("imec1")["sample"])
    assert (first.folder / first.probe("imec0").ap.file).stat().st_size == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--duration", "1"), "duration_s"),
        (("--start-time", "yesterday"), "start_time"),
        (("--session-seed", "-1"), "session_seed"),
    ],
)
def test_command_refuses_impossible_sizes_and_times(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        run(parse(str(tmp_path / "s"), *arguments))
    assert not (tmp_path / "s").exists()


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
