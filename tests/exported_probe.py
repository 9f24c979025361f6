"""A small sorted probe as EXPORT receives it, made from SpikeInterface's ground truth without a sorter.

Three shanks: "shank0" (negative spikes, one dead channel removed, one noisy channel kept), "shank1"
(skipped: all channels outside of the brain), "shank2" (positive spikes, two channels removed, columns in
descending raw order). Unit ids have gaps, repeat across shanks, and stand in another order in every file.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import spikeinterface as si
from powerpixels.documents import (
    Channel,
    ChannelLabel,
    ClockFit,
    Part,
    Piece,
    Preprocess,
    PreprocessedUnit,
    Probe,
    ProbeDocument,
    RawFile,
    Session,
    SortingDocument,
    Stream,
)
from powerpixels.export import UnitFolders
from powerpixels.motion import MotionDocument
from probeinterface import Probe as Geometry
from spikeinterface.core.generate import generate_ground_truth_recording
from spikeinterface.preprocessing import scale

RATE = 30000.0
SECONDS = 5.0
N_SAMPLES = int(RATE * SECONDS)
UNIT_IDS = {0: [2, 7, 11], 2: [0, 7]}
LABELS = {
    (0, 2): ("good", "good"),
    (0, 7): ("mua", "noise"),
    (0, 11): ("good", "mua"),
    (2, 0): ("unjudged", "unjudged"),
    (2, 7): ("good", "non_soma"),
}
# unitrefine, its probability, IBL's score and bitwise field, consensus; of unit 0 on shank 2 nothing is known.
OTHER_LABELS = {
    (0, 2): ("good", 0.75, 1.0, 0, "good"),
    (0, 7): ("noise", 1 / 3, 2 / 3, 4, "noise"),
    (0, 11): ("mua", 0.5, 1 / 3, 3, "mua"),
    (2, 0): ("unjudged", None, None, None, "unjudged"),
    (2, 7): ("good", 0.875, 1.0, 0, "good"),
}
BAD = {(0, 4): "dead", (0, 7): "noise", (2, 10): "out", (2, 11): "out", **{(1, k): "out" for k in range(12)}}
CLOCK = ClockFit(
    probe="probe00",
    stream="imec0.ap",
    reference="nidq",
    sampling_rate_hz=RATE,
    offset_s=1.234567,
    slope=1 + 31e-6,
    n_edges=10,
    n_unmatched=0,
    rms_us=5.25,
    max_us=11.5,
    first_edge_s=0.5,
    last_edge_s=4.5,
    knots=[(t, 1.234567 + (1 + 31e-6) * t) for t in (0.5, 4.5)],
)
EXTENSIONS = {
    "random_spikes": {"seed": 1},
    "waveforms": {},
    "templates": {"operators": ["average", "std"]},
    "spike_amplitudes": {},
    # A radius so small that neighbouring main channels see different channels.
    "spike_locations": {"method": "center_of_mass", "method_kwargs": {"radius_um": 20.0}},
    "unit_locations": {},
}


@dataclass
class Sorted:
    """The folder and documents of the probe, and per sorted shank its recording and spikes."""

    folder: Path
    document: ProbeDocument
    preprocess: Preprocess
    units: list[UnitFolders]
    recordings: dict[int, si.BaseRecording] = field(default_factory=dict)
    sortings: dict[int, si.BaseSorting] = field(default_factory=dict)
    metrics: dict[int, pd.DataFrame] = field(default_factory=dict)

    def arguments(self, out: Path) -> list[str]:
        """The command line of pp_export.py."""
        return [
            *("--probe", str(self.folder / "probe00.json")),
            *("--preprocess", str(self.folder / "preprocess.json")),
            *("--sync", str(self.folder / "sync.json")),
            *("--sorting", *(str(unit.sorting) for unit in self.units)),
            *("--analysis", *(str(unit.analysis) for unit in self.units)),
            *("--labels", *(str(unit.labels) for unit in self.units)),
            *("--recording", *(str(unit.recording) for unit in self.units)),
            *("--out", str(out)),
        ]


_FOLDERS = tempfile.TemporaryDirectory(prefix="exported_probe_")


@cache
def built(sorted_shanks: tuple[int, ...] = (0, 2)) -> Sorted:
    """The probe of `build`, made once for all test modules: not to be changed."""
    return build(Path(_FOLDERS.name) / "_".join(["probe", *map(str, sorted_shanks)]), sorted_shanks)


def session_of(
    made: Sorted, session: str, *pieces: tuple[int, int], sampling_rate_hz: float = RATE
) -> ProbeDocument:
    """The probe's document in a session of other length: pieces are (n_samples, first_sample) of its files."""
    described = [
        Piece(path=f"{session}_{k}.bin", first_row=0, n_samples=n_samples, first_sample=first_sample)
        for k, (n_samples, first_sample) in enumerate(pieces)
    ]
    stream = made.document.probe.ap.model_copy(
        update={
            "files": [RawFile(path=piece.path, role="data", size_bytes=0) for piece in described],
            "pieces": described,
            "n_samples": sum(piece.n_samples for piece in described),
            "first_sample": described[0].first_sample,
            "sampling_rate_hz": sampling_rate_hz,
        }
    )
    return ProbeDocument(
        session=made.document.session.model_copy(update={"session": session}),
        probe=made.document.probe.model_copy(update={"ap": stream}),
    )


def channel(shank: int, contact: int) -> Channel:
    """The channel of a contact: raw columns run across the shanks, as on the real probes."""
    return Channel(
        raw_column=3 * contact + shank,
        channel_id=f"AP{3 * contact + shank}",
        contact_id=f"s{shank}e{contact}",
        shank=shank,
        x_um=250.0 * shank + 32.0 * (contact % 2),
        y_um=15.0 * (contact // 2) + 100.0,
        inter_sample_shift=0.0,
        gain_uv=2.34,
    )


def build(folder: Path, sorted_shanks: tuple[int, ...] = (0, 2)) -> Sorted:
    """Write the probe's documents and folders under `folder`; other shanks than sorted_shanks are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = sorted(
        (channel(shank, contact) for shank in range(3) for contact in range(12)), key=lambda c: c.raw_column
    )
    labels = {
        c.raw_column: "out" if c.shank not in sorted_shanks else BAD.get((c.shank, c.raw_column // 3), "good")
        for c in channels
    }
    document = ProbeDocument(
        session=Session(
            subject="mouse01",
            session="2026-03-01_001",
            acquisition="spikeglx",
            acquisition_version="20230905",
            start_time="2026-03-01T12:34:56",
        ),
        probe=Probe(
            name="probe00",
            part_number="NP2013",
            serial_number="123456",
            model="Neuropixels 2.0 4-shank",
            shanks=[0, 1, 2],
            ap=Stream(
                name="imec0.ap",
                kind="ap",
                files=[RawFile(path="a.ap.bin", role="data", size_bytes=N_SAMPLES * 74)],
                sampling_rate_hz=RATE,
                n_columns=37,
                n_samples=N_SAMPLES,
                first_sample=0,
                pieces=[Piece(path="a.ap.bin", first_row=0, n_samples=N_SAMPLES, first_sample=0)],
                channels=channels,
            ),
        ),
    )
    preprocess = Preprocess(
        probe="probe00",
        parts=[Part(subject="mouse01", session="2026-03-01_001", start=0, n_samples=N_SAMPLES)],
        labels=[
            ChannelLabel(
                raw_column=c.raw_column, contact_id=c.contact_id, shank=c.shank, label=labels[c.raw_column]
            )
            for c in channels
        ],
        steps=[],
        units=["shank0", "shank1", "shank2"],
    )
    document.save(folder / "probe00.json")
    preprocess.save(folder / "preprocess.json")
    CLOCK.save(folder / "sync.json")

    made = Sorted(folder, document, preprocess, [])
    # Staged in another order than the shanks'.
    for position, shank in enumerate((2, 0, 1), start=1):
        unit = UnitFolders(
            folder / f"sorting{position}",
            folder / f"analysis{position}",
            folder / f"labels{position}",
            folder / f"recording{position}.json",
        )
        made.units.append(unit)
        kept = [c for c in channels if c.shank == shank and labels[c.raw_column] in ("good", "noise")]
        _write_unit(made, unit, shank, kept[::-1] if shank == 2 else kept)
    return made


def _write_unit(made: Sorted, unit: UnitFolders, shank: int, kept: list[Channel]) -> None:
    for folder in (unit.sorting, unit.analysis, unit.labels):
        folder.mkdir()
    ids = UNIT_IDS[shank] if kept else []
    who = {"probe": "probe00", "unit": f"shank{shank}"}
    PreprocessedUnit(**who, sampling_rate_hz=RATE, n_samples=N_SAMPLES, gain_uv=1.0, channels=kept).save(
        unit.recording
    )
    SortingDocument(
        **who,
        sorter="kilosort4",
        sorter_version="4.1.7",
        status="sorted" if kept else "skipped",
        message="" if kept else f"no channel of shank {shank} is in the brain",
        parameters={},
        unit_ids=ids,
        sorter_labels={},
    ).save(unit.sorting / "sorting.json")
    status = {**who, "status": "analyzed" if kept else "skipped", "n_units": len(ids)}
    for path in (unit.analysis / "analysis.json", unit.labels / "labels.json"):
        path.write_text(json.dumps(status))
    pd.DataFrame(
        {
            "unit_id": ids[::-1],
            "kilosort": [LABELS[shank, i][0] for i in ids[::-1]],
            "bombcell": [LABELS[shank, i][1] for i in ids[::-1]],
            "unitrefine": [OTHER_LABELS[shank, i][0] for i in ids[::-1]],
            "ibl": [
                "unjudged" if score is None else "good" if score == 1 else "mua"
                for _, _, score, _, _ in (OTHER_LABELS[shank, i] for i in ids[::-1])
            ],
            "consensus": [OTHER_LABELS[shank, i][4] for i in ids[::-1]],
            "unitrefine_probability": [OTHER_LABELS[shank, i][1] for i in ids[::-1]],
            "ibl_score": [OTHER_LABELS[shank, i][2] for i in ids[::-1]],
            "ibl_bitwise": [OTHER_LABELS[shank, i][3] for i in ids[::-1]],
        }
    ).to_csv(unit.labels / "labels.csv", index=False)
    if not kept:
        np.save(unit.sorting / "spike_samples.npy", np.zeros(0, np.int64))
        np.save(unit.sorting / "spike_unit_ids.npy", np.zeros(0, np.int64))
        return

    geometry = Geometry(ndim=2)
    geometry.set_contacts([[c.x_um, c.y_um] for c in kept], shape_params={"radius": 6})
    geometry.set_device_channel_indices(np.arange(len(kept)))
    truth, sorting = generate_ground_truth_recording(
        durations=[SECONDS],
        sampling_frequency=RATE,
        num_units=len(ids),
        probe=geometry,
        generate_unit_locations_kwargs={
            "margin_um": 0.0, "minimum_z": 5.0, "maximum_z": 15.0, "minimum_distance": 10
        },
        noise_kwargs={"noise_levels": 4.0, "strategy": "on_the_fly"},
        seed=10 + shank,
    )  # fmt: skip
    recording = scale(truth, gain=-1.0) if shank == 2 else truth
    recording.set_channel_gains(1.0)
    recording.set_channel_offsets(0.0)
    recording = recording.rename_channels([c.channel_id for c in kept])
    recording.set_property("raw_column", np.array([c.raw_column for c in kept]))
    recording.set_property("contact_id", np.array([c.contact_id for c in kept]))
    # Without the truth's properties: SpikeInterface would take the main channels from them.
    trains = [sorting.get_unit_spike_train(unit_id) for unit_id in sorting.unit_ids]
    # Spikes of two units at the same sample: only their unit tells them apart.
    trains[0] = np.union1d(trains[0], trains[1][::5])
    by_id = dict(zip(ids, trains, strict=True))
    sorting = si.NumpySorting.from_unit_dict(by_id, RATE)
    made.recordings[shank], made.sortings[shank] = recording, sorting

    vector = sorting.to_spike_vector()
    np.save(unit.sorting / "spike_samples.npy", vector["sample_index"])
    np.save(unit.sorting / "spike_unit_ids.npy", np.asarray(ids)[vector["unit_index"]])
    analyzer = si.create_sorting_analyzer(
        si.NumpySorting.from_unit_dict({i: by_id[i] for i in ids[::-1]}, RATE),
        recording,
        format="zarr",
        folder=unit.analysis / "analyzer.zarr",
        sparse=True,
        sparsity_kwargs={"method": "radius", "radius_um": 40.0},
        return_in_uV=True,
    )
    analyzer.compute(EXTENSIONS)
    order = ids[1:] + ids[:1] if len(ids) > 2 else ids
    metrics = pd.DataFrame(
        {
            "unit_id": order,
            "firing_rate": [sorting.get_unit_spike_train(i).size / SECONDS for i in order],
            "snr": [np.pi * (shank + 1) / (i + 1) for i in order],
        }
    ).set_index("unit_id")
    metrics.to_csv(unit.analysis / "metrics.csv")
    made.metrics[shank] = metrics


def motion_of(folder: Path, unit: str, estimated: bool = True, **stated) -> Path:
    """A folder of DRIFT: bins at 0.5, 1.5, ... 4.5 s and two depths; or one of a unit that was left out."""
    folder.mkdir()
    document = MotionDocument(
        probe="probe00",
        unit=unit,
        status="estimated" if estimated else "skipped",
        message="",
        policy="auto",
        policy_text="",
        corrected=False,
        method="dredge_ap",
        version="",
        parameters={},
        seed=1,
        n_channels=12,
        duration_s=N_SAMPLES / RATE,
        read_s=5.0,
        n_peaks=100,
        bin_s=1.0,
        n_temporal_bins=5,
        n_spatial_bins=2,
        range_um=9.0,
        alignment=None,
    )
    document.model_copy(update=stated).save(folder / "motion.json")
    if estimated:
        np.save(folder / "temporal_bins_s.npy", np.arange(5) + 0.5)
        np.save(folder / "spatial_bins_um.npy", np.array([100.0, 180.0]))
        np.save(folder / "displacement_um.npy", np.arange(10.0).reshape(5, 2))
    return folder
