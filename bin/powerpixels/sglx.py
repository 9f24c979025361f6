"""SpikeGLX headers: the .meta text, and the stream of samples that one header and its data file hold.

Keys and their meaning: SpikeGLX's metadata guides (https://billkarsh.github.io/SpikeGLX/#metadata-guides).
Probe geometry, contact ids and the order in which the ADCs sample the channels come from
probeinterface, which carries IMEC's own table of probes (https://github.com/billkarsh/ProbeTable);
the probe's part number decides, never the type number, which several models share.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from powerpixels.documents import AnalogLine, Channel, DigitalLine, Piece, RawFile, Stream
from powerpixels.headers import HeaderError, read_bytes
from powerpixels.rawdata import BYTES_PER_SAMPLE, open_rows
from powerpixels.stage import DataError

# Suffixes of a data file, in the order of preference: as recorded, compressed by mtscomp, by this pipeline.
DATA_SUFFIXES = (".bin", ".cbin", ".zarr")

# Bit of the SY word that carries the sync wave, on all hardware since phase 3B.
SYNC_BIT = 6

# A OneBox's digital word: its 12 analog inputs, each compared with a threshold.
ONEBOX_LINES = 12

# Options of CatGT that are gone since version 2.2.
RETIRED_BY_CATGT = {"aphipass", "aplopass", "lfhipass", "lflopass", "gbldmx"}

# ONE, the archive of the International Brain Laboratory, puts a data set's number before the last suffix.
UUID = re.compile(r"\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)

# Phase 3A headers have no part number. Its 384-channel options have the geometry and the ADC
# order that probeinterface files under this one (its own reader takes the same).
PHASE3A_GEOMETRY = "NP1010"


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


def stem_of(path: Path) -> str:
    """The part of a file's name that a stream's header, data and index have in common.

    Without the last extension and the number that IBL's archive puts before it, which differs between them.
    """
    return UUID.sub("", Path(path).stem)


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
    own = parse_name(stem_of(meta_path))
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
    content = read_bytes(path, name)
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
    """ "ap", "lf", "nidq" or "obx", from the header alone.

    Raises ``HeaderError``: UNSUPPORTED_STREAM for every other kind (AP and LF in one file), META_UNREADABLE
    where the header does not say.
    """
    source = meta.text("typeThis")
    if source in ("nidq", "obx"):
        return source
    if source != "imec":
        raise HeaderError(
            "UNSUPPORTED_STREAM",
            f"{meta.name}: a stream of type imec, nidq or obx was expected, this one is of type {source!r}, "
            "which is not supported.",
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
        model = _model(part_number)
    except KeyError:
        raise HeaderError(
            "UNKNOWN_PROBE",
            f"{meta.name}: the part number of a Neuropixels probe was expected in imDatPrb_pn, found "
            f"{part_number!r}, which this version's probe table does not have. Correct it if it is a slip; "
            "otherwise a newer probeinterface is needed.",
        ) from None
    return ProbeIdentity(part_number, serial, model)


@lru_cache(maxsize=16)
def _model(part_number: str) -> str:
    """What the probe table calls the model; raises ``KeyError`` where it does not have it."""
    from probeinterface.neuropixels_tools import build_neuropixels_probe

    model = build_neuropixels_probe(part_number).description.strip()
    if model.startswith("duplicate of "):  # two part numbers of one probe in the table
        model = build_neuropixels_probe(model.removeprefix("duplicate of ")).description.strip()
    return model


def sampling_rate(meta: SglxMeta) -> float:
    """Samples per second of the stream, as the header states it (Hz)."""
    keys = {"imec": "imSampRate", "nidq": "niSampRate", "obx": "obSampRate"}
    return meta.positive(keys[meta.text("typeThis")])


def data_files(meta_path: Path) -> list[Path]:
    """The data files that lie beside a header, the one to be used first: as recorded, .cbin, .zarr."""
    return _beside(meta_path, DATA_SUFFIXES)


def _beside(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of the same stream in the same folder that end in one of ``suffixes``, in that order.

    Names with a number of IBL's archive are looked for where there are none without: that takes a listing
    of the folder, which may hold thousands of triggers.
    """
    stem = stem_of(path)
    plain = [Path(path).with_name(stem + suffix) for suffix in suffixes]
    found = [other for other in plain if other.exists()]
    if found and stem == Path(path).stem:
        return found
    others = [other for other in sorted(Path(path).parent.iterdir()) if stem_of(other) == stem]
    return [other for suffix in suffixes for other in others if other.suffix == suffix]


def read_stream(meta_path: Path, raw_root: Path, name: str | None = None) -> Stream:
    """Read one header and its data file's size into the stream that they are; no sample is read.

    meta_path: an AP, LF, NIDQ or OneBox .meta file somewhere under raw_root, to which the stream's file
    paths are relative. name: the stream's name, by default from the files' names. files: the data file
    (see ``data_files``), its index where it is a .cbin, the header. The stream is one piece. n_samples
    counts the whole samples of the data file; where there is none the piece has the path of the missing
    .bin, and n_samples is what the header states.
    ``raw_column`` is the column of the file as saved, whatever subset of the acquired channels that
    is. Positions in µm (probeinterface's probe coordinates), gains in µV (DAQ streams: V) per count,
    inter_sample_shift in sample periods, 0 where CatGT has already aligned the channels; LF channels
    have that of their AP channel, as in SpikeInterface. A NIDQ's sync_column and sync_bit are the
    line that the header names for the sync wave; sync_bit is None where that line is analog.

    Raises ``HeaderError`` (META_UNREADABLE, UNKNOWN_PROBE, UNSUPPORTED_STREAM; INDEX_MISSING and
    DATA_UNREADABLE for a compressed data file).
    """
    meta_path = Path(meta_path)
    meta = read_meta(meta_path, raw_root)
    kind = stream_kind(meta)
    n_columns = meta.integer("nSavedChans")
    if n_columns < 1:
        raise meta.fault("nSavedChans", f"at least one channel was expected, found {n_columns}")
    device = stream_name(meta_path, meta).device
    if kind == "nidq":
        fields = _nidq_fields(meta, n_columns)
        own_name = device or "nidq"
    elif kind == "obx":
        fields = _obx_fields(meta, n_columns)
        own_name = device or "obx0"
    else:
        fields = _probe_fields(meta, kind, n_columns)
        own_name = f"{device or 'imec'}.{kind}"

    files, n_samples = _data(meta_path, raw_root, n_columns)
    if n_samples is None:
        n_samples = (expected_size(meta) or 0) // (BYTES_PER_SAMPLE * n_columns)
    data_path = meta_path.with_name(stem_of(meta_path) + ".bin").relative_to(raw_root).as_posix()
    first_sample = meta.integer("firstSample") if "firstSample" in meta else None
    return Stream(
        name=name or own_name,
        kind=kind,
        files=[*files, _raw_file(meta_path, raw_root, "meta")],
        sampling_rate_hz=sampling_rate(meta),
        n_columns=n_columns,
        n_samples=n_samples,
        first_sample=first_sample,
        pieces=[
            Piece(
                path=files[0].path if files else data_path,
                first_row=0,
                n_samples=n_samples,
                first_sample=first_sample,
            )
        ],
        **fields,
    )


def _data(meta_path: Path, raw_root: Path, n_columns: int) -> tuple[list[RawFile], int | None]:
    """The data file beside a header with its index, and its number of rows; ``([], None)`` where none is."""
    path = next(iter(data_files(meta_path)), None)
    if path is None:
        return [], None
    file = _raw_file(path, raw_root, "data")
    if path.suffix == ".bin":
        return [file], file.size_bytes // (BYTES_PER_SAMPLE * n_columns)
    index = None
    if path.suffix == ".cbin":
        index = next(iter(_beside(meta_path, (".ch",))), None)
        if index is None:
            raise HeaderError(
                "INDEX_MISSING",
                f"{file.path}: its index {stem_of(path)}.ch was expected beside it, there is none. Copy it "
                "from where the file was compressed; the data cannot be decompressed without.",
            )
    try:
        n_rows = open_rows(path, index, n_columns).n_rows
    except DataError as error:
        raise HeaderError("DATA_UNREADABLE", str(error).replace(f"{raw_root}/", "")) from None
    return [file] + ([] if index is None else [_raw_file(index, raw_root, "index")]), n_rows


def _raw_file(path: Path, raw_root: Path, role: str) -> RawFile:
    """A file, or a zarr folder with the size of all that is in it."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    return RawFile(path=path.relative_to(raw_root).as_posix(), role=role, size_bytes=size)


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
            f"{meta.name}: an LF stream that the probe itself recorded was expected, but acqApLfSy says that "
            "it has none; one that was computed afterwards is not supported.",
        )
    if _is_inverted(meta):
        raise HeaderError(
            "UNSUPPORTED_STREAM",
            f"{meta.name}: voltages in their own sign were expected, but recordings of "
            f"{meta.text('imDatPrb_pn')} by versions of SpikeGLX with imDatApi {meta.text('imDatApi')} have "
            "them inverted, which is not supported. Use CatGT's output of it: CatGT turns them round.",
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
    max_int = _max_int(meta, probe)
    gains = _gains_uv(meta, probe, kind, max_int)
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
        "limit_counts": round(max_int),
        "sync_column": sync_column,
        "sync_bit": None if sync_column is None else phase3a_line,
    }


def _is_inverted(meta: SglxMeta) -> bool:
    """Whether the signals are stored upside down: NXT probes before version 4.0.2 of IMEC's interface.

    Source: CatGT's code, which turns them round as it reads them.
    """
    part = re.fullmatch(r"NP(3\d{3})", meta.values.get("imDatPrb_pn", ""))
    if part is None or int(part[1]) <= 3000 or any(key.startswith("catGT") for key in meta.values):
        return False
    version = re.findall(r"\d+", meta.values.get("imDatApi", ""))
    return bool(version) and tuple(map(int, version)) < (4, 0, 2)


def _probe(meta: SglxMeta, n_channels: int):
    """The probe with all its acquired contacts, in the order of the readout channels.

    probeinterface reads only files, and of those only AP headers in the encoding of the locale: it
    is given a header with the few keys that it needs, in which all channels are saved.
    """
    identity = probe_identity(meta)
    try:
        return _build_probe(identity.part_number or PHASE3A_GEOMETRY, n_channels, meta.text("imroTbl"))
    except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise meta.fault("imroTbl", f"it does not fit the probe ({type(error).__name__}: {error})") from None


@lru_cache(maxsize=16)
def _build_probe(part_number: str, n_channels: int, imro: str):
    """probeinterface's probe; remembered, since a run may have thousands of headers with the same table."""
    from probeinterface import read_spikeglx

    lines = [
        f"imDatPrb_pn={part_number}",
        f"nSavedChans={n_channels}",
        f"snsSaveChanSubset=0:{n_channels - 1}",
        f"~imroTbl={imro}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder) / "probe.meta"
        header.write_text("\n".join(lines) + "\n", encoding="ascii", errors="replace")
        return read_spikeglx(header)


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
    commands = [value for key, value in meta.values.items() if key.startswith("catGTCmdline")]
    if any(_aligns(command) for command in commands):  # to shift the channels again would undo that
        return np.zeros(order.size)
    return order / n_turns


def _aligns(command: str) -> bool:
    """Whether CatGT, called so, aligned the channels in time.

    It does unless told not to; before version 2.2 it did only when told to. Options that were retired with
    that version tell of an older one. Source: the change log in CatGT's manual.
    """
    options = set(re.findall(r"(?<=\s)-([a-z_]+)", command))
    if "tshift" in options:
        return True
    return "no_tshift" not in options and not options & RETIRED_BY_CATGT


def _max_int(meta: SglxMeta, probe) -> float:
    """Counts at the converter's limit: imMaxInt, where the header has none that of the probe's ADC."""
    if "imMaxInt" in meta:
        return meta.positive("imMaxInt")
    return 2.0 ** (probe.annotations["adc_bit_depth"] - 1)


def _gains_uv(meta: SglxMeta, probe, kind: str, max_int: float) -> np.ndarray:
    """µV per count of each acquired channel, float64 (n_acquired,).

    volts = count * imAiRangeMax / imMaxInt / gain. Gains are per channel in the imro table (1.0 probes), for
    all channels in its header (NP1110), or fixed by the model (2.0 probes, newer headers state it).
    """
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


def _obx_fields(meta: SglxMeta, n_columns: int) -> dict:
    """Analog and digital lines of a OneBox's own stream, and its sync wave.

    Columns are analog inputs (XA), at most one digital word (XD), sync words (SY), named as in SpikeGLX's
    channel map: "XA3" is the fourth analog input that was acquired, "XD0.3" bit 3 of the digital word.
    volts = count * obAiRangeMax / obMaxInt.
    """
    saved = meta.counts("snsXaDwSy", 3)
    acquired = meta.counts("acqXaDwSy", 3)
    n_xa, n_words, _ = acquired
    max_int = meta.positive("obMaxInt") if "obMaxInt" in meta else 32768.0
    gain_v = meta.positive("obAiRangeMax") / max_int
    analog, digital, sync_column = [], [], None
    for column, number in enumerate(_saved_ids(meta, acquired, saved, n_columns)):
        if number < n_xa:
            analog.append(AnalogLine(raw_column=column, name=f"XA{number}", gain_v=gain_v))
        elif number < n_xa + n_words:
            digital += [
                DigitalLine(raw_column=column, bit=bit, name=f"XD{number - n_xa}.{bit}")
                for bit in range(ONEBOX_LINES)
            ]
        elif sync_column is None:
            sync_column = column
    return {
        "analog": analog,
        "digital": digital,
        "sync_column": sync_column,
        "sync_bit": None if sync_column is None else SYNC_BIT,
    }
