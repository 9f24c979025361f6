"""What goes into the NWB of the probe in exported_probe beside its units: metadata, raw files, LFP, events.

And what nwbinspector has to say of any file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from exported_probe import CLOCK, N_SAMPLES, RATE, SECONDS, Sorted
from powerpixels.clock import to_reference_seconds
from powerpixels.documents import AnalogLine, DigitalLine, Piece, RawFile, Session, Stream
from powerpixels.edges import extract_edges
from powerpixels.events import write_events
from powerpixels.metadata import Metadata, resolve
from powerpixels.nwb import Traces
from powerpixels.rawdata import StreamReader, locate
from powerpixels.wiring import Wiring

ZONE = "timezone: Europe/Lisbon\n"
COMPLETE = f"""{ZONE}
NWBFile:
  session_description: A mouse on a wheel.
  experiment_description: Spontaneous activity.
  experimenter: ["Doe, Jane"]
  institution: Institute of Somewhere
  lab: The lab
  keywords: [Neuropixels, wheel]
Subject:
  species: Mus musculus
  strain: C57BL/6J
  sex: F
  date_of_birth: 2025-12-01
  age: P90D
  weight: 0.025 kg
"""
NIDQ_RATE = 10000.0
# Edges of the NIDQ's line P0.1: two pulses, of which the second does not end.
LICKS = (1000, 1250, 40000)


def metadata(session: Session, folder: Path, text: str = COMPLETE) -> Metadata:
    """What the text of a lab's file and the session itself say."""
    path = folder / "lab.yaml"
    path.write_text(text)
    return resolve(session, None, path)


def raw_counts() -> np.ndarray:
    """(N_SAMPLES, 37) int16 of a.ap.bin: column in the thousands, sample below."""
    return (1000 * (np.arange(37) % 30) + (np.arange(N_SAMPLES) % 997)[:, None]).astype(np.int16)


def traces(made: Sorted, folder: Path) -> Traces:
    """The probe's raw file, its lfp.zarr and the session's events, written into the folder."""
    raw_counts().tofile(folder / "a.ap.bin")
    ap = made.document.probe.ap
    write_lfp(made, folder / "lfp.zarr")
    write_nidq_events(folder)
    return Traces(
        events=folder / "events", raw=StreamReader(ap, locate([ap], folder)[0]), lfp=folder / "lfp.zarr"
    )


def write_lfp(made: Sorted, path: Path) -> None:
    """As RAW_QC does, with steps that differ between channels."""
    channels, n = made.document.probe.ap.channels, int(SECONDS * 2500)
    group = zarr.open_group(str(path), mode="w")
    group["traces"] = (np.arange(n)[:, None] % 500 + np.arange(len(channels))).astype(np.int16)
    group["timestamps"] = to_reference_seconds(CLOCK, np.arange(n) * (RATE / 2500))
    group["gain_uv"] = 4.69 / 2.0 ** (np.arange(len(channels)) % 2)
    group["contact_id"] = np.array([channel.contact_id for channel in channels])
    group.attrs.update(sampling_rate_hz=2500.0, clock="nidq", band="AP stream, decimated")


def write_nidq_events(folder: Path) -> None:
    """events/ as EVENTS publishes it: one digital line with edges, one without, two analog inputs."""
    n = int(SECONDS * NIDQ_RATE)
    raw = np.zeros((n, 3), np.int16)
    raw[:, 0] = np.arange(n) % 20000
    raw[:, 1] = -(np.arange(n) % 300)
    for begin, end in ((LICKS[0], LICKS[1]), (LICKS[2], n)):
        raw[begin:end, 2] |= 2
    raw.tofile(folder / "a.nidq.bin")
    stream = Stream(
        name="nidq",
        kind="nidq",
        files=[RawFile(path="a.nidq.bin", role="data", size_bytes=raw.nbytes)],
        sampling_rate_hz=NIDQ_RATE,
        n_columns=3,
        n_samples=n,
        first_sample=0,
        pieces=[Piece(path="a.nidq.bin", first_row=0, n_samples=n, first_sample=0)],
        analog=[AnalogLine(raw_column=k, name=f"AI{k}", gain_v=1e-4) for k in range(2)],
        digital=[DigitalLine(raw_column=2, bit=bit, name=f"P0.{bit}") for bit in range(3)],
    )
    wiring = Wiring(digital={"P0.1": "lick", "P0.2": "laser"}, analog={"AI0": "breathing", "AI1": "pupil"})
    write_events(stream, folder, extract_edges(stream, folder), wiring, folder / "events")


def violations(path: Path, **options) -> set[str]:
    """Names of the checks of nwbinspector that a file fails, suggestions left out, with DANDI's importances."""
    from nwbinspector import Importance, inspect_nwbfile, load_config

    found = inspect_nwbfile(
        nwbfile_path=path,
        importance_threshold=Importance.BEST_PRACTICE_VIOLATION,
        config=load_config("dandi"),
        **options,
    )
    return {message.check_function_name for message in found}
