"""Writes a probe as ALF, the file format of the International Brain Laboratory's tools.

Names and units follow https://docs.internationalbrainlab.org; every name satisfies `one.alf.spec`
and the folder loads with `one.alf.io.load_object`. Amplitudes and waveforms are in volts, positions
in µm, peak-to-trough in ms, times in seconds on the reference clock.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from powerpixels.export import ProbeExport
from powerpixels.sync_files import write_clock

KILOSORT_CODES = {"mua": 0, "good": 1, "unjudged": -1}
BOMBCELL_CODES = {"noise": 0, "good": 1, "mua": 2, "non_soma": 3, "unjudged": -1}
UNITREFINE_CODES = {"noise": 0, "good": 1, "mua": 2, "unjudged": -1}
# The codes of ibllib's bad-channel detection; dead and outside channels are not among the kept.
CHANNEL_CODES = {"good": 0, "dead": 1, "noise": 2, "out": 3}
# Collection of the typed copy of clusters.metrics, in the probe's folder.
TABLES = "tables"
# Files with times: seconds on the reference clock, or samples of the probe's AP stream.
UNITS = {
    "spikes.times.npy": "s",
    "spikes.samples.npy": "samples",
    "_powerpixels_gaps.intervals.npy": "s",
    "_powerpixels_gaps.samples.npy": "samples",
}
# Of RAW_QC, which publishes them into the same folder.
RAW_QC_UNITS = {f"_iblqc_ephysTimeRms{band}.timestamps.npy": "s" for band in ("AP", "LF")}


def write_alf(export: ProbeExport, folder: Path) -> None:
    """Write `export` to `folder`, which is made; n clusters, s spikes, c kept channels.

    spikes.times (s,) float64 s, reference clock; spikes.samples (s,) int64, the probe's AP stream (what lies
    in gaps is not counted); spikes.clusters (s,) int32; spikes.amps (s,) float32 V; spikes.depths (s,)
    float32 µm.

    clusters.channels (n,) int32, row of channels.*; clusters.depths float32 µm; clusters.amps
    float32 V; clusters.peakToTrough float64 ms; clusters.waveforms (n, samples, w) float32 V, main
    channel first; clusters.waveformsChannels (n, w) int32; clusters.kilosortLabels, clusters.bombcellLabels
    and clusters.unitrefineLabels (n,) int64 (KILOSORT_CODES, BOMBCELL_CODES, UNITREFINE_CODES);
    clusters.consensusLabels (n,) int64 (BOMBCELL_CODES); clusters.iblLabels (n,) float64, IBL's score (1
    passes its three criteria), -1 where not judged;
    clusters.uuids.csv; clusters.metrics.csv: identity, labels as text, metrics. In it ks2_label (Kilosort's
    word) and label (IBL's score, empty where not judged) have the names that the IBL tools look for.
    tables/clusters.metrics.pqt: the same, typed; a collection of its own, as ``load_object`` refuses a folder
    with both.

    channels.localCoordinates (c, 2) float64 µm; channels.rawInd (c,) int32, column of the raw
    file; channels.shanks (c,) int32; channels.contactIds (c,) text; channels.labels (c,) int64
    (CHANNEL_CODES).

    _powerpixels_clock.fit.json: the clock that each file of times or samples is on (``PublishedClock``).

    Only where the recording has g gaps: _powerpixels_gaps.intervals (g, 2) float64 s, reference clock, last
    sample's end and next one's begin; _powerpixels_gaps.samples (g,) int64, the first sample after it;
    _powerpixels_gaps.missing (g,) int64, samples that were not recorded.

    Raises ValueError for an unknown label.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clusters = export.clusters
    arrays = {
        "spikes.times": export.spike_times,
        "spikes.samples": export.spike_samples,
        "spikes.clusters": export.spike_clusters,
        "spikes.amps": export.spike_amps,
        "spikes.depths": export.spike_depths,
        "clusters.channels": export.cluster_channels,
        "clusters.depths": export.cluster_depths,
        "clusters.amps": export.cluster_amps,
        "clusters.peakToTrough": export.cluster_peak_to_trough,
        "clusters.waveforms": export.waveforms,
        "clusters.waveformsChannels": export.waveform_channels,
        "clusters.kilosortLabels": _coded(clusters["kilosort_label"], KILOSORT_CODES),
        "clusters.bombcellLabels": _coded(clusters["bombcell_label"], BOMBCELL_CODES),
        "clusters.unitrefineLabels": _coded(clusters["unitrefine_label"], UNITREFINE_CODES),
        "clusters.iblLabels": clusters["ibl_score"].fillna(-1).to_numpy(dtype=np.float64),
        "clusters.consensusLabels": _coded(clusters["consensus_label"], BOMBCELL_CODES),
        "channels.localCoordinates": np.array(
            [[c.x_um, c.y_um] for c in export.channels], dtype=np.float64
        ).reshape(-1, 2),
        "channels.rawInd": np.array([c.raw_column for c in export.channels], dtype=np.int32),
        "channels.shanks": np.array([c.shank for c in export.channels], dtype=np.int32),
        "channels.contactIds": np.array([c.contact_id for c in export.channels], dtype=np.str_),
        "channels.labels": _coded(
            [export.channel_labels[c.raw_column] for c in export.channels], CHANNEL_CODES
        ),
    }
    if len(export.gaps):
        arrays["_powerpixels_gaps.intervals"] = export.gap_intervals
        arrays["_powerpixels_gaps.samples"] = export.gaps[:, 0]
        arrays["_powerpixels_gaps.missing"] = export.gaps[:, 1]
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)

    metrics = clusters.rename(columns={"kilosort_label": "ks2_label", "ibl_score": "label"})
    metrics.to_csv(folder / "clusters.metrics.csv", index=False, lineterminator="\n")
    write_typed(metrics, folder / TABLES)
    (folder / "clusters.uuids.csv").write_text("\n".join(["uuids", *export.cluster_uuids]) + "\n")
    counts = "spikes.samples"
    if len(export.gaps):
        counts = "(spikes.samples + all _powerpixels_gaps.missing up to there)"
    described = (
        f"spikes.times are seconds on the clock of stream {export.clock.reference!r}, zero at that "
        f"stream's first sample: linear between the knots [{counts} / sampling_rate_hz, seconds]"
    )
    units = {name: unit for name, unit in UNITS.items() if name.removesuffix(".npy") in arrays}
    write_clock(export.clock, described, {**units, **RAW_QC_UNITS}, folder)


def write_typed(metrics: pd.DataFrame, folder: Path) -> None:
    """Write a table of clusters.metrics as Parquet into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics.to_parquet(folder / "clusters.metrics.pqt", index=False)


def _coded(labels, codes: dict[str, int]) -> np.ndarray:
    unknown = sorted({str(label) for label in labels} - codes.keys())
    if unknown:
        raise ValueError(f"labels {unknown} have no code; known are {sorted(codes)}")
    return np.array([codes[label] for label in labels], dtype=np.int64)
