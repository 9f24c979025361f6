"""SpikeGLX headers: the .meta text, and the stream of samples that it describes.

Keys and their meaning: SpikeGLX's metadata guides (https://billkarsh.github.io/SpikeGLX/#metadata-guides).
Probe geometry, contact ids and the order in which the ADCs sample the channels come from
probeinterface, which carries IMEC's own table of probes (https://github.com/billkarsh/ProbeTable);
the probe's part number decides, never the type number, which several models share.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from powerpixels.documents import AnalogLine, Channel, DigitalLine, RawFile, Stream
from powerpixels.stage import DataError, TemporaryError

BYTES_PER_SAMPLE = 2

# Bit of the SY word that carries the sync wave, on all hardware since phase 3B.
SYNC_BIT = 6

# Phase 3A headers have no part number. Its 384-channel options have the geometry and the ADC
# order that probeinterface files under this one (its own reader takes the same).
PHASE3A_GEOMETRY = "NP1010"


class HeaderError(DataError):
    """A header that cannot be used; ``code`` is the fault's stable name.

    META_UNREADABLE, UNKNOWN_PROBE or UNSUPPORTED_STREAM.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class SglxMeta:
    """The keys of one .meta file, as text; the methods read them with their type.

    name: how messages call the file. Tables (keys written ``~key``, by some programs without the
    tilde) are found under the bare key. Every method raises ``HeaderError`` (META_UNREADABLE)
    that names the file and the key where the key is missing or its value is not of that type.
    """

    name: str
    values: dict[str, str]

    def __contains__(self, key: str) -> bool:
        """Whether ``key`` is there and not empty."""
        return self.values.get(key, "") != ""

    def text(self, key: str) -> str:
        """Value of ``key`` as it is written."""
        if key not in self:
            raise self.fault(key, "it is missing or empty")
        return self.values[key]

    def integer(self, key: str) -> int:
        """Value of ``key`` as a whole number."""
        try:
            return int(self.text(key))
        except ValueError:
            raise self.fault(key, f"a whole number was expected, found {self._quote(key)}") from None

    def positive(self, key: str) -> float:
        """Value of ``key`` as a finite number above zero."""
        try:
            value = float(self.text(key))
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise self.fault(key, f"a number above 0 was expected, found {self._quote(key)}")
        return value

    def counts(self, key: str, n: int) -> tuple[int, ...]:
        """Value of ``key`` as ``n`` whole numbers, none negative, with commas between."""
        parts = self.text(key).split(",")
        if len(parts) != n or not all(part.strip().isdigit() for part in parts):
            raise self.fault(key, f"{n} numbers with commas were expected, found {self._quote(key)}")
        return tuple(int(part) for part in parts)

    def ranges(self, key: str) -> list[int]:
        """Value of ``key``, such as ``0:3,8``, as the numbers that it names; ``[]`` where it is empty."""
        numbers: list[int] = []
        for part in self.values.get(key, "").split(","):
            match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
            if match:
                numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
            elif part.strip():
                raise self.fault(key, f"ranges such as 0:3,8 were expected, found {self._quote(key)}")
        return numbers

    def fault(self, key: str, problem: str) -> HeaderError:
        """The error to raise for ``key`` of this file."""
        return HeaderError(
            "META_UNREADABLE",
            f"{self.name}: {key}: {problem}. Restore the .meta file as SpikeGLX wrote it.",
        )

    def _quote(self, key: str) -> str:
        value = self.values[key]
        return repr(value if len(value) <= 60 else value[:57] + "...")


@dataclass(frozen=True)
class StreamName:
    """What SpikeGLX puts in a file's name; None for what the name does not say.

    run_g<gate>_t<trigger>.<device>.<kind>: trigger is text ("0", "cat"); device "imec0", "imec"
    (phase 3A), "nidq", "obx0"; kind "ap", "lf", or None.
    """

    run: str | None
    gate: int | None
    trigger: str | None
    device: str | None
    kind: str | None


def parse_name(stem: str) -> StreamName:
    """Take a SpikeGLX file name, without its last extension, apart; never fails."""
    name, kind, device = stem, None, None
    parts = re.fullmatch(r"(.*)\.(ap|lf|obx)", name)
    if parts:
        name, kind = parts[1], parts[2] if parts[2] != "obx" else None
    parts = re.fullmatch(r"(.*)\.(imec\d*|nidq|obx\d+)", name)
    if parts:
        name, device = parts[1], parts[2]
    parts = re.fullmatch(r"(.+)_g(\d+)_t(\d+|cat)(?:\.exported)?", name)
    if parts:
        return StreamName(parts[1], int(parts[2]), parts[3], device, kind)
    return StreamName(None, None, None, device, kind)


def stream_name(meta_path: Path, meta: SglxMeta) -> StreamName:
    """Parts of a stream's name: from the file's own name, and where that does not say, from the header.

    SpikeGLX notes in ``fileName`` what it called the data file, which outlives a renamed copy.
    """
    own = parse_name(Path(meta_path).stem)
    original = parse_name(re.split(r"[/\\]", meta.values.get("fileName", ""))[-1].removesuffix(".bin"))
    device = original.device if own.device is None else own.device
    if own.device == "imec" and original.device is not None and original.device.startswith("imec"):
        device = original.device
    run = own if own.gate is not None else original
    return StreamName(run.run, run.gate, run.trigger, device, own.kind or original.kind)


def read_meta(path: Path, raw_root: Path | None = None) -> SglxMeta:
    """Read a .meta file.

    Messages call the file by its path relative to ``raw_root``, or as ``path`` where none is given.
    Raises ``HeaderError`` (META_UNREADABLE) where the file is no SpikeGLX header, and
    ``TemporaryError`` where the file system does not let it be read now.
    """
    path = Path(path)
    name = path.as_posix() if raw_root is None else path.relative_to(raw_root).as_posix()
    advice = "Restore the .meta file as SpikeGLX wrote it."
    try:
        content = path.read_bytes()
    except PermissionError:
        raise HeaderError(
            "META_UNREADABLE", f"{name}: no permission to read it. Give read access to the raw folder."
        ) from None
    except OSError as error:
        raise TemporaryError(f"{name}: cannot be read now ({error.strerror})") from error
    if not content.strip():
        raise HeaderError("META_UNREADABLE", f"{name}: key=value text was expected, it is empty. {advice}")
    if b"\0" in content:
        raise HeaderError("META_UNREADABLE", f"{name}: text was expected, found binary data. {advice}")
    values = {}
    # Only the operator's notes can hold other than ASCII, in whatever encoding that PC had.
    for line in content.decode("utf-8", errors="replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values[key.strip().removeprefix("~")] = value.strip()
    meta = SglxMeta(name, values)
    if "typeThis" not in meta:
        raise meta.fault("typeThis", "every SpikeGLX header has it, this file does not")
    return meta


def stream_kind(meta: SglxMeta) -> str:
    """ "ap", "lf" or "nidq", from the header alone.

    Raises ``HeaderError``: UNSUPPORTED_STREAM for every other kind (OneBox analog inputs, AP and LF
    in one file), META_UNREADABLE where the header does not say.
    """
    source = meta.text("typeThis")
    if source == "nidq":
        return "nidq"
    if source != "imec":
        known = {"obx": "a OneBox's analog inputs"}.get(source, f"a stream of type {source!r}")
        raise HeaderError(
            "UNSUPPORTED_STREAM",
            f"{meta.name}: imec or nidq streams were expected, this is {known}, which is not supported yet.",
        )
    n_ap, n_lf, _ = meta.counts("snsApLfSy", 3)
    if (n_ap > 0) == (n_lf > 0):
        raise HeaderError(
            "UNSUPPORTED_STREAM",
            f"{meta.name}: either AP or LF channels were expected, snsApLfSy says {n_ap} AP and {n_lf} LF.",
        )
    return "ap" if n_ap else "lf"


def start_time(meta: SglxMeta) -> str | None:
    """When the recording's file was created, ISO 8601 in the acquisition PC's local time.

    CatGT and SpikeGLX's export move the acquisition's own time to ``fileCreateTime_original``.
    """
    return meta.values.get("fileCreateTime_original") or meta.values.get("fileCreateTime") or None


def expected_size(meta: SglxMeta) -> int | None:
    """Bytes of the data file as the header states; None where SpikeGLX never closed the file."""
    size = meta.integer("fileSizeBytes") if "fileSizeBytes" in meta else 0
    return size if size > 0 else None


@dataclass(frozen=True)
class ProbeIdentity:
    """Which probe it is; part_number None for phase 3A, whose headers have none."""

    part_number: str | None
    serial_number: str | None
    model: str


def probe_identity(meta: SglxMeta) -> ProbeIdentity:
    """Part number, serial number and model of the probe that an AP or LF header describes.

    Raises ``HeaderError`` (UNKNOWN_PROBE) for a probe that probeinterface does not know.
    """
    from probeinterface.neuropixels_tools import build_neuropixels_probe

    serial = meta.values.get("imDatPrb_sn") or meta.values.get("imProbeSN") or None
    if "imDatPrb_pn" not in meta and "imProbeOpt" in meta:
        option = meta.integer("imProbeOpt")
        if option not in (1, 2, 3):
            # Option 4 has 276 channels and banks of that size, for which there is no table.
            raise HeaderError(
                "UNKNOWN_PROBE",
                f"{meta.name}: a phase 3A probe of option 1, 2 or 3 was expected, found option {option}, "
                "which is not supported.",
            )
        return ProbeIdentity(None, serial, f"Neuropixels phase 3A option {option}")
    part_number = meta.values.get("imDatPrb_pn", "")
    try:
        model = build_neuropixels_probe(part_number).description.strip()
        if model.startswith("duplicate of "):  # two part numbers of one probe in the table
            model = build_neuropixels_probe(model.removeprefix("duplicate of ")).description.strip()
    except KeyError:
        raise HeaderError(
            "UNKNOWN_PROBE",
            f"{meta.name}: the part number of a Neuropixels probe was expected in imDatPrb_pn, found "
            f"{part_number!r}, which this version's probe table does not have. Correct it if it is a "
            "slip; otherwise a newer probeinterface is needed.",
        ) from None
    return ProbeIdentity(part_number, serial, model)


def read_stream(meta_path: Path, raw_root: Path) -> Stream:
    """Read one header into the stream that it describes; the samples themselves are not read.

    meta_path: an AP, LF or NIDQ .meta file somewhere under raw_root, to which the stream's file
    paths are relative. n_samples counts the whole samples of the data file beside the header; where
    there is none the stream has only its meta file, and n_samples is what the header states.
    ``raw_column`` is the column of the file as saved, whatever subset of the acquired channels that
    is. Positions in µm (probeinterface's probe coordinates), gains in µV (NIDQ: V) per count,
    inter_sample_shift in sample periods, 0 where CatGT has already aligned the channels; LF channels
    have that of their AP channel, as in SpikeInterface. A NIDQ's sync_column and sync_bit are the
    line that the header names for the sync wave; sync_bit is None where that line is analog.

    Raises ``HeaderError`` (META_UNREADABLE, UNKNOWN_PROBE, UNSUPPORTED_STREAM).
    """
    meta = read_meta(meta_path, raw_root)
    kind = stream_kind(meta)
    n_columns = meta.integer("nSavedChans")
    if n_columns < 1:
        raise meta.fault("nSavedChans", f"at least one channel was expected, found {n_columns}")
    names = stream_name(meta_path, meta)
    if kind == "nidq":
        fields = _nidq_fields(meta, n_columns)
        name, rate_key = names.device or "nidq", "niSampRate"
    else:
        fields = _probe_fields(meta, kind, n_columns)
        name, rate_key = f"{names.device or 'imec'}.{kind}", "imSampRate"

    files = []
    size = expected_size(meta) or 0
    data_path = Path(meta_path).with_suffix(".bin")
    if data_path.exists():
        size = data_path.stat().st_size
        files.append(_raw_file(data_path, raw_root, "data"))
    files.append(_raw_file(Path(meta_path), raw_root, "meta"))
    return Stream(
        name=name,
        kind=kind,
        files=files,
        sampling_rate_hz=meta.positive(rate_key),
        n_columns=n_columns,
        n_samples=size // (BYTES_PER_SAMPLE * n_columns),
        first_sample=meta.integer("firstSample") if "firstSample" in meta else None,
        **fields,
    )


def _raw_file(path: Path, raw_root: Path, role: str) -> RawFile:
    return RawFile(path=path.relative_to(raw_root).as_posix(), role=role, size_bytes=path.stat().st_size)


def _saved_ids(
    meta: SglxMeta, acquired: tuple[int, ...], saved: tuple[int, ...], n_columns: int
) -> list[int]:
    """Acquired channel numbers in the order of the file's columns.

    SpikeGLX numbers the acquired channels type after type (``acquired`` of each) and saves any
    subset in ascending order (``saved`` of each type).
    """
    starts = np.concatenate([[0], np.cumsum(acquired)])
    if meta.text("snsSaveChanSubset") == "all":
        ids = [
            number
            for start, n_acquired, n_saved in zip(starts, acquired, saved, strict=False)
            if n_saved
            for number in range(start, start + n_acquired)
        ]
    else:
        ids = meta.ranges("snsSaveChanSubset")
    counts = tuple(
        sum(start <= number < stop for number in ids) for start, stop in zip(starts, starts[1:], strict=False)
    )
    if counts != saved or len(ids) != n_columns or sum(counts) != n_columns or len(set(ids)) != n_columns:
        raise meta.fault(
            "snsSaveChanSubset",
            f"it names {len(ids)} channels ({','.join(map(str, counts))} by type), but nSavedChans is "
            f"{n_columns} ({','.join(map(str, saved))} by type)",
        )
    return ids


def _probe_fields(meta: SglxMeta, kind: str, n_columns: int) -> dict:
    """Channels and sync column of an AP or LF stream."""
    saved = meta.counts("snsApLfSy", 3)
    acquired = meta.counts("acqApLfSy", 3)
    n_ap, n_lf, _ = acquired
    if kind == "lf" and n_lf == 0:
        raise HeaderError(
            "UNSUPPORTED_STREAM",
            f"{meta.name}: an LF stream that the probe itself recorded was expected, but acqApLfSy says "
            "that it has none; one that was computed afterwards is not supported.",
        )
    ids = _saved_ids(meta, acquired, saved, n_columns)
    first = 0 if kind == "ap" else n_ap
    n_acquired = n_ap if kind == "ap" else n_lf

    probe = _probe(meta, n_ap)
    if probe.get_contact_count() != n_acquired:
        raise meta.fault(
            "imroTbl",
            f"it lists {probe.get_contact_count()} channels, but acqApLfSy says that {n_acquired} were "
            "acquired",
        )
    if len(set(probe.contact_ids)) != n_acquired:
        raise meta.fault("imroTbl", "it assigns one electrode to two channels")
    positions = probe.contact_positions
    one_shank = probe.shank_ids is None or probe.get_shank_count() == 1
    shanks = [0] * n_acquired if one_shank else [int(shank) for shank in probe.shank_ids]
    shifts = _sample_shifts(meta, probe)
    gains = _gains_uv(meta, probe, kind)
    channels = []
    sync_column = None
    for column, number in enumerate(ids):
        if number >= n_ap + n_lf:
            # Quad-base probes have a sync word per shank, all with the same wave: the first serves.
            sync_column = column if sync_column is None else sync_column
            continue
        k = number - first
        channels.append(
            Channel(
                raw_column=column,
                channel_id=f"{kind.upper()}{k}",
                contact_id=str(probe.contact_ids[k]),
                shank=shanks[k],
                x_um=float(positions[k, 0]),
                y_um=float(positions[k, 1]),
                inter_sample_shift=float(shifts[k]),
                gain_uv=float(gains[k]),
            )
        )
    # In phase 3A the sync wave came on any of 16 digital inputs, which the header names.
    phase3a_line = meta.integer("syncImChan") if meta.values.get("syncImChanType") == "0" else SYNC_BIT
    return {
        "channels": channels,
        "sync_column": sync_column,
        "sync_bit": None if sync_column is None else phase3a_line,
    }


def _probe(meta: SglxMeta, n_channels: int):
    """The probe with all its acquired contacts, in the order of the readout channels.

    probeinterface reads only files, and of those only AP headers in the encoding of the locale: it
    is given a header with the few keys that it needs, in which all channels are saved.
    """
    from probeinterface import read_spikeglx

    identity = probe_identity(meta)
    lines = [
        f"imDatPrb_pn={identity.part_number or PHASE3A_GEOMETRY}",
        f"nSavedChans={n_channels}",
        f"snsSaveChanSubset=0:{n_channels - 1}",
        f"~imroTbl={meta.text('imroTbl')}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder) / "probe.meta"
        header.write_text("\n".join(lines) + "\n", encoding="ascii", errors="replace")
        try:
            return read_spikeglx(header)
        except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
            raise meta.fault(
                "imroTbl", f"it does not fit the probe ({type(error).__name__}: {error})"
            ) from None


def _sample_shifts(meta: SglxMeta, probe) -> np.ndarray:
    """Time of each acquired channel's sampling within the sample period, float64 (n_acquired,).

    An ADC samples its channels one after the other; probes with an LF band spend one more turn per
    period on it (12 channels in 13 turns on 1.0 probes, 16 in 16 on 2.0 probes).
    Source: https://github.com/billkarsh/ProbeTable/issues/3, and the probe table's ADC order.
    """
    n_turns = probe.annotations["num_channels_per_adc"]
    if probe.annotations["lf_sample_frequency_hz"] > 0:
        n_turns += 1
    order = np.asarray(probe.contact_annotations["adc_sample_order"], dtype="float64")
    # CatGT aligns the channels unless it is told not to; to shift them again would undo that.
    commands = [value for key, value in meta.values.items() if key.startswith("catGTCmdline")]
    if any("-no_tshift" not in command for command in commands):
        return np.zeros(order.size)
    return order / n_turns


def _gains_uv(meta: SglxMeta, probe, kind: str) -> np.ndarray:
    """µV per count of each acquired channel, float64 (n_acquired,).

    volts = count * imAiRangeMax / imMaxInt / gain. Where the header has no imMaxInt it is that of
    the probe's ADC. Gains are per channel in the imro table (1.0 probes), for all channels in its
    header (NP1110), or fixed by the model (2.0 probes, newer headers state it).
    """
    if "imMaxInt" in meta:
        max_int = meta.positive("imMaxInt")
    else:
        max_int = 2.0 ** (probe.annotations["adc_bit_depth"] - 1)
    per_channel = probe.contact_annotations.get(f"{kind}_gains")
    fixed = probe.annotations.get(f"{kind}_gain")
    if per_channel is not None:
        gains = np.asarray(per_channel, dtype="float64")
    elif kind == "ap" and probe.annotations["lf_sample_frequency_hz"] == 0 and "imChan0apGain" in meta:
        gains = np.full(probe.get_contact_count(), meta.positive("imChan0apGain"))
    elif fixed is not None:
        gains = np.full(probe.get_contact_count(), float(fixed))
    else:
        raise meta.fault("imroTbl", f"no {kind.upper()} gain is stated")
    if not np.all(gains > 0):
        raise meta.fault("imroTbl", f"{kind.upper()} gains above 0 were expected, found {gains.min():g}")
    return meta.positive("imAiRangeMax") / max_int / gains * 1e6


def _nidq_fields(meta: SglxMeta, n_columns: int) -> dict:
    """Analog and digital lines of a NIDQ stream, and the line with the sync wave.

    Columns are muxed neural and auxiliary channels (MN, MA: no lines of a NIDQ's own), analog
    inputs (XA), 16-bit words of digital inputs (XD); within a type the second device follows the
    first. A device's digital lines take whole bytes: bit = line number, after the first device's.
    """
    saved = meta.counts("snsMnMaXaDw", 4)
    acquired = meta.counts("acqMnMaXaDw", 4)
    n_mn, n_ma, n_xa, n_words = acquired
    ids = _saved_ids(meta, acquired, saved, n_columns)
    column_of = {number: column for column, number in enumerate(ids)}
    max_int = meta.positive("niMaxInt") if "niMaxInt" in meta else 32768.0
    gain_v = meta.positive("niAiRangeMax") / max_int

    analog, digital = [], []
    analog_number, first_byte = n_mn + n_ma, 0
    for device in (1, 2):
        suffix = "" if device == 1 else f"_dev{device}"
        for k in meta.ranges(f"niXAChans{device}"):
            if analog_number in column_of:
                analog.append(
                    AnalogLine(raw_column=column_of[analog_number], name=f"AI{k}{suffix}", gain_v=gain_v)
                )
            analog_number += 1
        lines = meta.ranges(f"niXDChans{device}")
        for line in lines:
            word, byte = divmod(first_byte + line // 8, 2)
            column = column_of.get(n_mn + n_ma + n_xa + word) if word < n_words else None
            if column is not None:
                digital.append(
                    DigitalLine(raw_column=column, bit=8 * byte + line % 8, name=f"P0.{line}{suffix}")
                )
        if f"niXDBytes{device}" in meta:
            first_byte += meta.integer(f"niXDBytes{device}")
        elif lines:
            first_byte += max(lines) // 8 + 1
    if analog_number != n_mn + n_ma + n_xa:
        raise meta.fault(
            "niXAChans1",
            f"it names {analog_number - n_mn - n_ma} analog channels, but acqMnMaXaDw says {n_xa}",
        )
    if (first_byte + 1) // 2 != n_words:
        raise meta.fault(
            "niXDChans1", f"its lines need {(first_byte + 1) // 2} words, but acqMnMaXaDw says {n_words}"
        )
    fields = {"analog": analog, "digital": digital}
    if "syncNiChan" in meta:
        # numbered over all acquired analog channels, or over the bits of all digital words
        number, bit = meta.integer("syncNiChan"), None
        if meta.values.get("syncNiChanType") != "1":
            word, bit = divmod(number, 16)
            number = n_mn + n_ma + n_xa + word
        column = column_of.get(number)
        if bit is None or any((line.raw_column, line.bit) == (column, bit) for line in digital):
            fields.update(sync_column=column, sync_bit=None if column is None else bit)
    return fields
