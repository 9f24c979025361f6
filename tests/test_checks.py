"""The checks of the samples: each planted fault is found and named, and sound data give none."""

from __future__ import annotations

import errno
import re
import threading
import time
from pathlib import Path

import mtscomp
import numpy as np
import pytest
from powerpixels import checks
from powerpixels.documents import (
    AnalogLine,
    Channel,
    DigitalLine,
    Fault,
    Findings,
    Piece,
    Probe,
    RawFile,
    Stream,
    TtlLine,
)
from powerpixels.stage import TemporaryError

RATE = 30000.0
GAIN_UV = 2.34375
N_CHANNELS = 40
SYNC_BIT = 6


# -- recordings that the tests write --------------------------------------------------------------------


def square_wave(n_samples: int, rate: float = RATE) -> np.ndarray:
    """A 1 Hz wave in the sync bit, int16 (n_samples,)."""
    return ((np.arange(n_samples) / rate * 2 + 0.3).astype(int) % 2 << SYNC_BIT).astype("<i2")


def voltages(
    seconds: float, noise_uv: float = 8.0, seed: int = 0, n_channels: int = N_CHANNELS
) -> np.ndarray:
    """White noise in counts with the sync word as last column, int16 (samples, channels + 1)."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((round(seconds * RATE), n_channels)) * noise_uv / GAIN_UV
    return np.column_stack([noise.round().clip(-512, 511).astype("<i2"), square_wave(len(noise))])


def write_stream(raw: Path, name: str, *data: np.ndarray, kind: str = "ap", **changes) -> Stream:
    """Write data files, one for each array, and the document of the stream that they make up."""
    files, pieces, first = [], [], 0
    for k, values in enumerate(data):
        path = f"run_g0/run_g0_t{k}.{name}.bin"
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        np.ascontiguousarray(values, dtype="<i2").tofile(raw / path)
        files.append(RawFile(path=path, role="data", size_bytes=values.nbytes))
        pieces.append(Piece(path=path, first_row=0, n_samples=len(values), first_sample=first))
        first += len(values)
    n_columns = data[0].shape[1]
    fields = {
        "name": name,
        "kind": kind,
        "files": files,
        "sampling_rate_hz": RATE,
        "n_columns": n_columns,
        "n_samples": first,
        "first_sample": 0,
        "pieces": pieces,
        "sync_column": n_columns - 1,
        "sync_bit": SYNC_BIT,
    }
    if kind in ("ap", "lf"):
        fields["channels"] = [
            Channel(
                raw_column=k,
                channel_id=f"AP{k}",
                contact_id=f"e{k}",
                shank=0,
                x_um=0.0,
                y_um=20.0 * k,
                inter_sample_shift=0.0,
                gain_uv=GAIN_UV,
            )
            for k in range(n_columns - 1)
        ]
    return Stream(**{**fields, **changes})


def probe_of(ap: Stream, lf: Stream | None = None, name: str = "probe00") -> Probe:
    return Probe(name=name, part_number=None, serial_number=None, model=None, shanks=[0], ap=ap, lf=lf)


def findings_of(
    *probes: Probe, nidq: Stream | None = None, daqs: tuple[Stream, ...] = (), faults: tuple[Fault, ...] = ()
) -> Findings:
    return Findings(
        acquisition="spikeglx",
        headers={"": (None, None)},
        probes=list(probes),
        nidq=nidq,
        daqs=list(daqs),
        faults=list(faults),
    )


def found(findings: Findings, raw: Path) -> list[tuple[str, str, str | None, str | None]]:
    return [(f.code, f.severity, f.probe, f.stream) for f in checks.check_findings(findings, raw)]


def only(findings: Findings, raw: Path) -> Fault:
    """The one fault that is found; its message names the file and says what to do."""
    [fault] = checks.check_findings(findings, raw)
    assert re.match(r"run_g0/\S+\.c?bin( and \d+ more)?: .* expected", fault.message), fault.message
    assert fault.message.endswith(".")
    return fault


def nidq_of(raw: Path, seconds: float = 4.0, wave: bool = True) -> Stream:
    """A NIDQ with a quiet analog line and a digital word, sync on bit 0."""
    n = round(seconds * 10000)
    generator = np.random.default_rng(7)
    word = (np.arange(n) // 5000 % 2 if wave else np.zeros(n)).astype("<i2")
    quiet = generator.integers(-1, 2, n).astype("<i2")
    return write_stream(
        raw,
        "nidq",
        np.column_stack([quiet, word]),
        kind="nidq",
        sampling_rate_hz=10000.0,
        sync_bit=0,
        analog=[AnalogLine(raw_column=0, name="AI0", gain_v=1e-4)],
        digital=[DigitalLine(raw_column=1, bit=k, name=f"P0.{k}") for k in range(8)],
    )


# -- sound data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.05, 0.11, 1.0, 2.1, 5.0])
def test_noise_is_sound(tmp_path, seconds):
    ap = write_stream(tmp_path, "imec0.ap", voltages(seconds))
    assert found(findings_of(probe_of(ap), nidq=nidq_of(tmp_path)), tmp_path) == []


def test_sound_in_several_files(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(1.0), voltages(1.3, seed=1), voltages(0.9, seed=2))
    assert found(findings_of(probe_of(ap), nidq=nidq_of(tmp_path)), tmp_path) == []


def test_noise_finer_than_a_count_is_sound(tmp_path):
    """Gain 50 of a 1.0 probe: a count is four times the noise."""
    data = voltages(3.0)
    generator = np.random.default_rng(1)
    data[:, :-1] = (generator.standard_normal((len(data), N_CHANNELS)) * 6.0 / 23.4).round()
    ap = write_stream(tmp_path, "imec0.ap", data)
    channels = [channel.model_copy(update={"gain_uv": 23.4}) for channel in ap.channels]
    assert found(findings_of(probe_of(ap.model_copy(update={"channels": channels}))), tmp_path) == []


def test_mains_and_offsets_are_sound(tmp_path):
    """A large sine on all channels alike, and channels that are far from zero, are at no converter's "
    "limit."""
    data = voltages(3.0)
    sine = 3000 * np.sin(2 * np.pi * 50 * np.arange(len(data)) / RATE)
    data[:, :-1] += (sine[:, None] + np.arange(N_CHANNELS) * 50).round().astype("<i2")
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == []


def test_a_few_dead_channels_are_sound(tmp_path):
    data = voltages(3.0)
    data[:, [3, 17, 30]] = [0, 511, -3]
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == []


def test_blocked_streams_are_not_read(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(2.0) * 0)
    blocks = Fault(code="TRUNCATED", severity="blocks", message="x", probe="probe00", stream="imec0.ap")
    assert found(findings_of(probe_of(ap), faults=(blocks,)), tmp_path) == []
    blocks = Fault(code="MULTIPLE_RUNS", severity="blocks", message="x")
    assert found(findings_of(probe_of(ap), faults=(blocks,)), tmp_path) == []
    warns = blocks.model_copy(update={"severity": "warns"})
    assert found(findings_of(probe_of(ap), faults=(warns,)), tmp_path) != []


def test_raw_files_are_only_read(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(2.0) * 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found(findings_of(probe_of(ap)), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# -- voltages --------------------------------------------------------------------------------------------


def test_all_zero(tmp_path):
    data = voltages(3.0)
    data[:, :-1] = 0
    ap = write_stream(tmp_path, "imec0.ap", data)
    lf = write_stream(tmp_path, "imec0.lf", data, kind="lf")
    assert found(findings_of(probe_of(ap, lf)), tmp_path) == [
        ("ALL_ZERO", "blocks", "probe00", "imec0.ap"),
        ("ALL_ZERO", "warns", "probe00", "imec0.lf"),
    ]


def test_one_probe_does_not_block_another(tmp_path):
    sound = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    broken = write_stream(tmp_path, "imec1.ap", voltages(3.0) * 0)
    findings = findings_of(probe_of(sound), probe_of(broken, name="probe01"))
    assert found(findings, tmp_path) == [("ALL_ZERO", "blocks", "probe01", "imec1.ap")]


def test_constant_data(tmp_path):
    data = voltages(3.0)
    data[:, :-1] = np.arange(N_CHANNELS)
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == [("CONSTANT_DATA", "blocks", "probe00", "imec0.ap")]


def test_constant_channels(tmp_path):
    data = voltages(3.0)
    data[:, 4:12] = 7
    ap = write_stream(tmp_path, "imec0.ap", data)
    fault = only(findings_of(probe_of(ap)), tmp_path)
    assert (fault.code, fault.severity) == ("CONSTANT_CHANNELS", "warns")
    assert "all 40 channels, 8 stay at one value (AP4, AP5, AP6, AP7, AP8, …)" in fault.message


@pytest.mark.parametrize("begin_s", [3.217, 4.79, 1.3])
def test_zeros_at_the_end(tmp_path, begin_s):
    """A copy that was cut and filled up; where the zeros begin is told to a hundredth of a second."""
    data = voltages(5.0)
    data[round(begin_s * RATE) :] = 0
    ap = write_stream(tmp_path, "imec0.ap", data)
    fault = only(findings_of(probe_of(ap)), tmp_path)
    assert (fault.code, fault.severity) == ("ZERO_STRETCH", "blocks" if begin_s < 2.5 else "warns")
    told = float(re.search(r"values from ([\d.]+) s to the end at 5.00 s", fault.message)[1])
    assert told == pytest.approx(begin_s, abs=0.011)


def test_short_zeros_at_the_end_are_not_all_zero(tmp_path):
    """Less zeros than a window: nothing is said, as nothing that matters is lost."""
    data = voltages(5.0)
    data[round(4.95 * RATE) :] = 0
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == []


def test_zeros_within(tmp_path):
    data = voltages(8.0)
    data[round(2.0 * RATE) : round(4.0 * RATE), :-1] = 0
    ap = write_stream(tmp_path, "imec0.ap", data)
    fault = only(findings_of(probe_of(ap)), tmp_path)
    assert (fault.code, fault.severity) == ("ZERO_STRETCH", "warns")
    first = float(re.search(r"first at ([\d.]+) s", fault.message)[1])
    assert 2.0 <= first <= 4.0


@pytest.mark.parametrize("limits", [(-512, 511), (-2048, 2047), (-8192, 8191), (-6154, 6142)])
def test_saturated_throughout(tmp_path, limits):
    """Clipped to both limits of a 10, 12 or 14 bit converter, or of one that Open Ephys has scaled."""
    data = voltages(3.0)
    swing = np.sign(np.sin(2 * np.pi * 3 * np.arange(len(data)) / RATE))[:, None] * 20000
    data[:, :-1] = (data[:, :-1] + swing).clip(*limits)
    ap = write_stream(tmp_path, "imec0.ap", data)
    fault = only(findings_of(probe_of(ap)), tmp_path)
    assert (fault.code, fault.severity) == ("SATURATED", "blocks")
    assert "100% of all sampled values" in fault.message


def test_saturated_at_one_limit(tmp_path):
    data = voltages(3.0)
    data[:, :-1] = 511
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == [("SATURATED", "blocks", "probe00", "imec0.ap")]


def test_saturated_now_and_then(tmp_path):
    data = voltages(8.0)
    data[round(3.0 * RATE) : round(4.5 * RATE), :-1] = 511
    ap = write_stream(tmp_path, "imec0.ap", data)
    fault = only(findings_of(probe_of(ap)), tmp_path)
    assert (fault.code, fault.severity) == ("SATURATED", "warns")
    assert 3.0 <= float(re.search(r"first at ([\d.]+) s", fault.message)[1]) <= 4.5


def test_channels_at_a_limit_do_not_block(tmp_path):
    """Sites outside the bath hang at a limit for the whole recording; the others are sound."""
    data = voltages(3.0)
    data[:, :12] = 511
    ap = write_stream(tmp_path, "imec0.ap", data)
    assert found(findings_of(probe_of(ap)), tmp_path) == [
        ("SATURATED", "warns", "probe00", "imec0.ap"),
        ("CONSTANT_CHANNELS", "warns", "probe00", "imec0.ap"),
    ]


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(1.0, None), (5.0, None), (10.0, "warns"), (0.1, "warns"), (1000.0, "blocks"), (0.001, "blocks")],
)
def test_wrong_gain(tmp_path, factor, severity):
    """Noise of 8 µV whose header tells µV per count that are ``factor`` times the true ones."""
    ap = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    channels = [channel.model_copy(update={"gain_uv": GAIN_UV * factor}) for channel in ap.channels]
    findings = findings_of(probe_of(ap.model_copy(update={"channels": channels})))
    if severity is None:
        assert found(findings, tmp_path) == []
        return
    fault = only(findings, tmp_path)
    assert (fault.code, fault.severity) == ("WRONG_GAIN", severity)
    told = float(re.search(r"found ([\d.e+-]+) µV", fault.message)[1])
    assert told == pytest.approx(8.0 * factor, rel=0.02)


@pytest.mark.parametrize("noise_uv", [0.7, 2.0, 8.0, 30.0])
def test_noise_is_measured(tmp_path, noise_uv):
    """In counts of 2.3 µV, from a third of a count up; artifacts and dead channels do not change it."""
    data = voltages(3.0, noise_uv)
    data[:, :5] = 0
    data[1000:1300, :-1] = 300
    seen = checks._Seen(6000)
    for start in checks.window_starts(len(data), 6000):
        seen.add(start, data[start : start + 6000, :-1])
    used = np.ones(len(seen.starts), dtype=bool)
    expected = np.std(data[5000:, 20].astype(float)) * GAIN_UV
    assert seen.noise_uv(used, np.full(N_CHANNELS, GAIN_UV)) == pytest.approx(expected, rel=0.1)


# -- sync wave -------------------------------------------------------------------------------------------


def no_wave(seconds: float = 3.0) -> np.ndarray:
    """Noise with a sync word in which other bits change."""
    data = voltages(seconds)
    data[:, -1] = np.arange(len(data)) // 7000 % 2 << 3
    return data


def test_no_sync_edges(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", no_wave())
    alone = only(findings_of(probe_of(ap)), tmp_path)
    assert (alone.code, alone.severity, alone.stream) == ("SYNC_NO_EDGES", "warns", "imec0.ap")
    assert "column 40, bit 6" in alone.message
    nidq = nidq_of(tmp_path)
    expected = [("SYNC_NO_EDGES", "blocks", "probe00", "imec0.ap")]
    assert found(findings_of(probe_of(ap), nidq=nidq), tmp_path) == expected
    obx = nidq.model_copy(update={"name": "obx0", "kind": "obx"})
    assert found(findings_of(probe_of(ap), daqs=(obx,)), tmp_path) == expected
    other = write_stream(tmp_path, "imec1.ap", voltages(3.0))
    assert found(findings_of(probe_of(ap), probe_of(other, name="probe01")), tmp_path) == expected


def test_no_sync_edges_on_the_nidq(tmp_path):
    """The wiring file may name another line, so it warns, and the probe goes on."""
    ap = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    findings = findings_of(probe_of(ap), nidq=nidq_of(tmp_path, wave=False))
    assert found(findings, tmp_path) == [("SYNC_NO_EDGES", "warns", None, "nidq")]


def test_no_lf_sync_edges_warn(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    lf = write_stream(tmp_path, "imec0.lf", no_wave(), kind="lf")
    findings = findings_of(probe_of(ap, lf), nidq=nidq_of(tmp_path))
    assert found(findings, tmp_path) == [("SYNC_NO_EDGES", "warns", "probe00", "imec0.lf")]


def test_stream_without_sync_is_not_asked_for_it(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", no_wave(), sync_column=None, sync_bit=None)
    assert found(findings_of(probe_of(ap), nidq=nidq_of(tmp_path)), tmp_path) == []


@pytest.mark.parametrize("pulse_ms", [1000.0, 1.0])
def test_rare_sync_pulses_are_seen(tmp_path, pulse_ms):
    """A barcode's or a pulse every 30 s: most samples show no wave, and windows fall between."""
    seconds, rate = 100.0, 3000.0
    n = round(seconds * rate)
    word = np.zeros(n, dtype="<i2")
    for at_s in (11.0, 41.0, 71.0):
        word[round(at_s * rate) : round((at_s + pulse_ms / 1000) * rate)] = 1 << SYNC_BIT
    noise = np.random.default_rng(0).integers(-9, 10, (n, 4)).astype("<i2")
    ap = write_stream(tmp_path, "imec0.ap", np.column_stack([noise, word]), sampling_rate_hz=rate)
    assert found(findings_of(probe_of(ap), nidq=nidq_of(tmp_path)), tmp_path) == []


@pytest.mark.parametrize(("volts", "found_codes"), [(3.3, []), (0.1, ["SYNC_NO_EDGES"])])
def test_analog_sync_line(tmp_path, volts, found_codes):
    """Noise alone is no logic level."""
    nidq = nidq_of(tmp_path)
    values = np.fromfile(tmp_path / nidq.files[0].path, "<i2").reshape(-1, 2)
    values[:, 0] += (values[:, 1] * volts / 1e-4).astype("<i2")
    nidq = write_stream(
        tmp_path,
        "nidq",
        values,
        kind="nidq",
        sampling_rate_hz=10000.0,
        sync_column=0,
        sync_bit=None,
        analog=nidq.analog,
    )
    ap = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    assert [code for code, *_ in found(findings_of(probe_of(ap), nidq=nidq), tmp_path)] == found_codes


@pytest.mark.parametrize(
    ("lines", "found_codes"),
    [([3, -3, 1, -1], []), ([3, -3], ["SYNC_NO_EDGES"]), ([1, 3, -3], ["SYNC_NO_EDGES"])],
)
def test_ttl_sync_line(tmp_path, lines, found_codes):
    """Open Ephys: the wave's edges are events; those of other lines and a first state alone do not count."""
    ap = write_stream(tmp_path, "ProbeA.ap", voltages(3.0), sync_column=None, sync_bit=None, sync_line="sync")
    np.save(tmp_path / "states.npy", np.array(lines, dtype="<i2"))
    states = RawFile(path="states.npy", role="states", size_bytes=1)
    ap = ap.model_copy(
        update={
            "files": [*ap.files, states],
            "ttl": [TtlLine(line=1, name="sync"), TtlLine(line=3, name="TTL3")],
        }
    )
    findings = findings_of(probe_of(ap), nidq=nidq_of(tmp_path))
    assert [code for code, *_ in found(findings, tmp_path)] == found_codes
    (tmp_path / "states.npy").write_bytes(b"\x93NUMPY")
    assert [code for code, *_ in found(findings, tmp_path)] == ["READ_ERROR"]


# -- files that change or cannot be read ------------------------------------------------------------------

UNFINISHED = Fault(code="META_UNFINISHED", severity="warns", message="x", probe="probe00", stream="imec0.ap")


def test_growing_file(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(3.0))
    path = tmp_path / ap.files[0].path
    findings = findings_of(probe_of(ap), nidq=nidq_of(tmp_path), faults=(UNFINISHED,))

    def acquire():
        time.sleep(0.8)
        with open(path, "ab") as file:
            file.write(b"\0" * 820)

    acquisition = threading.Thread(target=acquire)
    acquisition.start()
    fault = only(findings, tmp_path)
    acquisition.join()
    assert (fault.code, fault.severity, fault.probe) == ("STILL_ACQUIRING", "blocks", "probe00")
    size = ap.files[0].size_bytes
    assert f"of {size} bytes was expected, a moment later it had {size + 820}" in fault.message


def test_unfinished_file_that_rests_is_used(tmp_path, monkeypatch):
    """SpikeGLX crashed: the header's own warning is enough. It is watched for two seconds, no other is."""
    ap = write_stream(tmp_path, "imec0.ap", voltages(1.0))
    start = time.monotonic()
    assert found(findings_of(probe_of(ap), faults=(UNFINISHED,)), tmp_path) == []
    assert time.monotonic() - start > 1.9

    def wait(seconds):
        raise AssertionError("a finished file is not watched")

    monkeypatch.setattr(checks.time, "sleep", wait)
    assert found(findings_of(probe_of(ap)), tmp_path) == []


def test_file_that_is_written_to(tmp_path, monkeypatch):
    ap = write_stream(tmp_path, "imec0.ap", voltages(1.0))
    nidq = nidq_of(tmp_path)
    look = checks._Check.faults

    def look_and_touch(check):
        (tmp_path / check.stream.files[0].path).touch()
        return look(check)

    monkeypatch.setattr(checks._Check, "faults", look_and_touch)
    assert found(findings_of(probe_of(ap), nidq=nidq), tmp_path) == [
        ("STILL_ACQUIRING", "blocks", "probe00", "imec0.ap"),
        ("STILL_ACQUIRING", "blocks", None, "nidq"),
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_unreadable_file(tmp_path, monkeypatch, number):
    ap = write_stream(tmp_path, "imec0.ap", voltages(2.0))
    nidq = nidq_of(tmp_path)
    read = checks.StreamReader.read

    def failing(reader, start, stop, columns=None):
        if reader.stream.name in broken and start > 0:
            raise OSError(number, "cannot", str(tmp_path / ap.files[0].path))
        return read(reader, start, stop, columns)

    monkeypatch.setattr(checks.StreamReader, "read", failing)
    broken = ["imec0.ap"]
    fault = only(findings_of(probe_of(ap), nidq=nidq), tmp_path)
    assert (fault.code, fault.severity, fault.probe) == ("READ_ERROR", "blocks", "probe00")
    assert ("account that runs" in fault.message) == (number == errno.EACCES)
    # the session's clock
    broken = ["nidq"]
    fault = only(findings_of(probe_of(ap), nidq=nidq), tmp_path)
    assert (fault.code, fault.severity, fault.probe) == ("READ_ERROR", "blocks", None)


def test_stale_handle_is_no_fault_of_the_data(tmp_path, monkeypatch):
    ap = write_stream(tmp_path, "imec0.ap", voltages(2.0))

    def failing(reader, start, stop, columns=None):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(checks.StreamReader, "read", failing)
    with pytest.raises(TemporaryError, match=r"imec0\.ap\.bin: Stale file handle"):
        checks.check_findings(findings_of(probe_of(ap)), tmp_path)


def test_missing_and_cut_files(tmp_path):
    ap = write_stream(tmp_path, "imec0.ap", voltages(2.0))
    path = tmp_path / ap.files[0].path
    with open(path, "r+b") as file:
        file.truncate(82 * 1000)
    assert found(findings_of(probe_of(ap)), tmp_path) == [("READ_ERROR", "blocks", "probe00", "imec0.ap")]
    path.unlink()
    assert found(findings_of(probe_of(ap)), tmp_path) == [("READ_ERROR", "blocks", "probe00", "imec0.ap")]


def compressed(raw: Path, ap: Stream) -> Stream:
    """The stream with its data file compressed by mtscomp, the plain one gone."""
    path = raw / ap.files[0].path
    cbin, index = path.with_suffix(".cbin"), path.with_suffix(".ch")
    mtscomp.compress(
        path,
        cbin,
        index,
        sample_rate=RATE,
        n_channels=ap.n_columns,
        dtype="int16",
        check_after_compress=False,
    )
    path.unlink()
    names = [file.relative_to(raw).as_posix() for file in (cbin, index)]
    files = [
        RawFile(path=name, role=role, size_bytes=(raw / name).stat().st_size)
        for name, role in zip(names, ("data", "index"), strict=True)
    ]
    pieces = [ap.pieces[0].model_copy(update={"path": names[0]})]
    return ap.model_copy(update={"files": files, "pieces": pieces})


def test_compressed_files(tmp_path):
    """Sound ones and faults alike, read in windows; a damaged chunk cannot be read."""
    sound = compressed(tmp_path, write_stream(tmp_path, "imec0.ap", voltages(3.0)))
    nidq = nidq_of(tmp_path)
    assert found(findings_of(probe_of(sound), nidq=nidq), tmp_path) == []
    still = compressed(tmp_path, write_stream(tmp_path, "imec1.ap", no_wave()))
    findings = findings_of(probe_of(sound), probe_of(still, name="probe01"), nidq=nidq)
    assert found(findings, tmp_path) == [("SYNC_NO_EDGES", "blocks", "probe01", "imec1.ap")]
    path = tmp_path / sound.files[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1000] = bytes(1000)
    path.write_bytes(content)
    fault = only(findings_of(probe_of(sound), nidq=nidq), tmp_path)
    assert (fault.code, fault.severity, fault.probe) == ("READ_ERROR", "blocks", "probe00")
    assert str(tmp_path) not in fault.message


# -- how much is read -------------------------------------------------------------------------------------


def test_little_is_read_of_a_long_recording(tmp_path, monkeypatch):
    """Two hours: at most ten windows and a thousand samples of each stream, the first and last included."""
    n = round(7200 * RATE)
    ap = write_stream(tmp_path, "imec0.ap", voltages(0.1))
    piece = ap.pieces[0].model_copy(update={"n_samples": n})
    ap = ap.model_copy(update={"n_samples": n, "pieces": [piece]})
    with open(tmp_path / piece.path, "r+b") as file:
        file.truncate(n * 82)
    pattern = voltages(0.5)
    asked = []

    def noise(reader, start, stop, columns=None):
        asked.append((start, stop))
        rows = np.arange(start, stop)
        values = pattern[rows % len(pattern)]
        # the wave is high where only the last of the single samples lies
        values[:, -1] = 1 << SYNC_BIT if stop - start == 1 and start > 0.999 * n else 0
        return values

    monkeypatch.setattr(checks.StreamReader, "read", noise)
    assert found(findings_of(probe_of(ap)), tmp_path) == []
    assert (0, 6000) in asked and (n - 6000, n) in asked
    assert sum(stop - start == 6000 for start, stop in asked) == 10
    assert len(asked) == 1010
    assert sum(stop - start for start, stop in asked) <= 61000


def test_windows_do_not_overlap():
    for n_samples in (1, 59, 60, 61, 600, 719, 720, 721, 5000, 10**9):
        starts = checks.window_starts(n_samples, 60)
        assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == max(0, n_samples - 60)
        assert len(starts) <= 10
        assert n_samples < 600 or np.diff(starts).min() >= 60


# -- simulated and real recordings ------------------------------------------------------------------------


def stream_of(meta_path: Path, raw: Path) -> Stream:
    """A stream by the text of its SpikeGLX header: as little as the checks need."""
    text = meta_path.read_text(encoding="latin-1")
    meta = dict(line.rstrip("\r").split("=", 1) for line in text.split("\n") if "=" in line)
    data = meta_path.with_suffix(".bin")
    n_columns = int(meta["nSavedChans"])
    n_samples = data.stat().st_size // (2 * n_columns)
    path = data.relative_to(raw).as_posix()
    fields = {
        "files": [RawFile(path=path, role="data", size_bytes=data.stat().st_size)],
        "n_columns": n_columns,
        "n_samples": n_samples,
        "first_sample": 0,
        "pieces": [Piece(path=path, first_row=0, n_samples=n_samples, first_sample=0)],
    }
    if meta["typeThis"] == "nidq":
        *_, n_analog, n_words = map(int, meta["snsMnMaXaDw"].split(","))
        gain = float(meta["niAiRangeMax"]) / 32768
        return Stream(
            name="nidq",
            kind="nidq",
            sampling_rate_hz=float(meta["niSampRate"]),
            analog=[AnalogLine(raw_column=k, name=f"AI{k}", gain_v=gain) for k in range(n_columns - n_words)],
            sync_column=n_columns - 1 if n_words else None,
            sync_bit=0 if n_words else None,
            **fields,
        )
    n_ap, n_lf, n_sync = map(int, meta["snsApLfSy"].split(","))
    kind = "ap" if n_ap else "lf"
    bits = int(meta.get("imMaxInt", 512))
    if bits == 512:
        gain = float(re.search(r"\)\(\d+ \d+ \d+ (\d+) (\d+)", meta["~imroTbl"])[1 if n_ap else 2])
    else:
        gain = 80.0 if bits == 8192 else 100.0
    gain_uv = 1e6 * float(meta["imAiRangeMax"]) / bits / gain
    channels = [
        Channel(
            raw_column=k,
            channel_id=f"{kind.upper()}{k}",
            contact_id=f"e{k}",
            shank=0,
            x_um=0.0,
            y_um=0.0,
            inter_sample_shift=0.0,
            gain_uv=gain_uv,
        )
        for k in range(n_ap + n_lf)
    ]
    return Stream(
        name=re.search(r"imec\d\.(ap|lf)", meta_path.name)[0],
        kind=kind,
        sampling_rate_hz=float(meta["imSampRate"]),
        channels=channels,
        sync_column=n_columns - 1 if n_sync else None,
        sync_bit=SYNC_BIT if n_sync else None,
        **fields,
    )


def session_of(raw: Path) -> Findings:
    """Findings of all streams under ``raw``."""
    streams = [
        stream_of(path, raw) for path in sorted(raw.rglob("*.meta")) if path.with_suffix(".bin").exists()
    ]
    by_name = {stream.name: stream for stream in streams}
    probes = [
        probe_of(stream, by_name.get(stream.name.replace(".ap", ".lf")), f"probe0{stream.name[4]}")
        for stream in streams
        if stream.kind == "ap"
    ]
    return findings_of(*probes, nidq=by_name.get("nidq"))


def test_simulated_session_is_sound(session_small):
    findings = session_of(session_small)
    assert len(findings.probes) == 2 and findings.nidq is not None
    assert found(findings, session_small) == []


REAL = "neuroconv_ephy_testing_data/spikeglx"


@pytest.mark.parametrize(
    "folder",
    [
        f"{REAL}/Noise4Sam_g0",
        f"{REAL}/TEST_20210920_0_g0",
        f"{REAL}/NP2_no_sync",
        f"{REAL}/multi_trigger_multi_gate/CatGT/CatGT-C/catgt_5-19-2022-CI0_g0/5-19-2022-CI0_g0_imec1",
    ],
)
def test_real_recordings_are_sound(real_data, monkeypatch, folder):
    """Real voltages: cut to some 30 ms by those who published them, so the checks are asked to judge that."""
    monkeypatch.setattr(checks, "JUDGED_S", 0.01)
    assert (real_data / folder).is_dir()
    faults = found(session_of(real_data / folder), real_data / folder)
    # the NIDQ of Noise4Sam, 2 s long, has no edge in its digital word
    assert [fault for fault in faults if fault != ("SYNC_NO_EDGES", "warns", None, "nidq")] == []


@pytest.mark.parametrize(
    ("data", "n_channels"),
    [
        (
            "neuroconv_ephy_testing_data/openephysbinary/v0.6.x_neuropixels_multiexp_multistream/Record "
            "Node 101/experiment1/recording1/continuous/Neuropix-PXI-100.ProbeB/continuous.dat",
            384,
        ),
        (
            "spikewrap/example_tiny_data/openephys/rawdata/sub-001/ses-001/ephys/Record Node "
            "104/experiment1/recording1/continuous/Neuropix-PXI-100.ProbeA-AP/continuous.dat",
            385,
        ),
    ],
)
def test_real_open_ephys_noise_is_plausible(real_data, data, n_channels):
    """0.195 µV per count in both structure.oebin; a fault of the gain's unit would show."""
    values = np.fromfile(real_data / data, "<i2").reshape(-1, n_channels)[:, :384]
    seen = checks._Seen(len(values))
    seen.add(0, values)
    least, greatest = checks.PLAUSIBLE_UV["ap"]
    assert least < seen.noise_uv(np.array([True]), np.full(384, 0.195)) < greatest
    assert seen.saturation()[0].max() == 0
