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
# The codes of ibllib's bad-channel detection; dead and outside channels were not sorted.
CHANNEL_CODES = {"good": 0, "dead": 1, "noise": 2, "out": 3}
# Collection of the typed copy of clusters.metrics, in the probe's folder.
TABLES = "tables"
# Of the shanks' motions there, where several shanks were sorted by themselves.
DRIFT = "drift"
# Files with times: seconds on the reference clock, or samples of the probe's AP stream.
UNITS = {
    "spikes.times.npy": "s",
    "spikes.samples.npy": "samples",
    "_powerpixels_gaps.intervals.npy": "s",
    "_powerpixels_gaps.samples.npy": "samples",
}
# Of RAW_QC, which publishes them into the same folder; those of the LF band where there is one.
RAW_QC_UNITS = {f"_iblqc_ephysTimeRms{band}.timestamps.npy": "s" for band in ("AP", "LF")}


def write_alf(export: ProbeExport, folder: Path) -> None:
    """Write `export` to `folder`, which is made; n clusters, s spikes, c recorded channels.

    spikes.times (s,) float64 s, reference clock; spikes.samples (s,) int64, the probe's AP stream (what lies
    in gaps is not counted); spikes.clusters (s,) int32; spikes.templates (s,) int32, row of templates.*;
    spikes.amps (s,) float32 V; spikes.depths (s,) float32 µm; spikes.muted (s,) bool,
    those that lie in a stretch that was muted.

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

    templates.waveforms, templates.waveformsChannels and templates.amps are the clusters' as they were sorted:
    a manual revision changes clusters and leaves the templates as they are.

    channels.localCoordinates (c, 2) float64 µm; channels.rawInd (c,) int32, column of the raw
    file; channels.shanks (c,) int32; channels.contactIds (c,) text; channels.labels (c,) int64
    (CHANNEL_CODES). As IBL's, they are all recorded channels: which shanks there are does not depend on
    what was bad.

    Only of a probe that was aligned: channels.mlapdv (c, 3) float64 µm from bregma (ML right +, AP anterior
    +, DV up +), NaN where a channel was left out; channels.brainLocationIds_ccf_2017 (c,) int64, 0 there;
    channels.brainLocationAcronyms_ccf_2017 (c,) text, "" there; and the same of clusters, which are their
    main channels'.

    Only where the motion was estimated: drift.times (t,) float64 s, reference clock; drift.um (t, d) float64
    µm, how far the tissue had moved up along the shank; drift_depths.um (d,) float64 µm. Of a probe of
    several shanks each shank's are a collection of their own, drift/shank0: an object has one of each
    attribute.

    _powerpixels_clock.fit.json: the clock that each file of times or samples is on (``PublishedClock``).

    Only where the recording has g gaps: _powerpixels_gaps.intervals (g, 2) float64 s, reference clock, last
    sample's end and next one's begin; _powerpixels_gaps.samples (g,) int64, the first sample after it;
    _powerpixels_gaps.missing (g,) int64, samples that were not recorded.

    Raises ValueError for an unknown label.
    """
    folder = Path(folder)
    clusters = export.clusters
    row_of = {channel.raw_column: row for row, channel in enumerate(export.recorded)}
    rows = np.array([row_of[channel.raw_column] for channel in export.channels], dtype=np.int32)
    arrays = {
        "spikes.times": export.spike_times,
        "spikes.samples": export.spike_samples,
        "spikes.muted": export.spike_muted,
        "spikes.clusters": export.spike_clusters,
        "spikes.templates": export.spike_clusters,
        "spikes.amps": export.spike_amps,
        "spikes.depths": export.spike_depths,
        "clusters.channels": rows[export.cluster_channels],
        "clusters.depths": export.cluster_depths,
        "clusters.amps": export.cluster_amps,
        "clusters.peakToTrough": export.cluster_peak_to_trough,
        "clusters.waveforms": export.waveforms,
        "clusters.waveformsChannels": rows[export.waveform_channels],
        "clusters.kilosortLabels": _coded(clusters["kilosort_label"], KILOSORT_CODES),
        "clusters.bombcellLabels": _coded(clusters["bombcell_label"], BOMBCELL_CODES),
        "clusters.unitrefineLabels": _coded(clusters["unitrefine_label"], UNITREFINE_CODES),
        "clusters.iblLabels": clusters["ibl_score"].fillna(-1).to_numpy(dtype=np.float64),
        "clusters.consensusLabels": _coded(clusters["consensus_label"], BOMBCELL_CODES),
        "templates.waveforms": export.waveforms,
        "templates.waveformsChannels": rows[export.waveform_channels],
        "templates.amps": export.cluster_amps,
        "channels.localCoordinates": np.array(
            [[c.x_um, c.y_um] for c in export.recorded], dtype=np.float64
        ).reshape(-1, 2),
        "channels.rawInd": np.array([c.raw_column for c in export.recorded], dtype=np.int32),
        "channels.shanks": np.array([c.shank for c in export.recorded], dtype=np.int32),
        "channels.contactIds": np.array([c.contact_id for c in export.recorded], dtype=np.str_),
        "channels.labels": _coded(
            [export.channel_labels[c.raw_column] for c in export.recorded], CHANNEL_CODES
        ),
        **_brain(export, rows),
        **_drift(export),
    }
    if len(export.gaps):
        arrays["_powerpixels_gaps.intervals"] = export.gap_intervals
        arrays["_powerpixels_gaps.samples"] = export.gaps[:, 0]
        arrays["_powerpixels_gaps.missing"] = export.gaps[:, 1]
    for name, values in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)

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
    units |= {f"{name}.npy": "s" for name in arrays if name.endswith("drift.times")}
    raw_qc = {
        name: unit
        for name, unit in RAW_QC_UNITS.items()
        if "LF" not in name or export.document.probe.lf_source is not None
    }
    write_clock(export.clock, described, {**units, **raw_qc}, folder)


def write_typed(metrics: pd.DataFrame, folder: Path) -> None:
    """Write a table of clusters.metrics as Parquet into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics.to_parquet(folder / "clusters.metrics.pqt", index=False)


def _brain(export: ProbeExport, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The files of an alignment by name; none without one. rows: of the kept channels."""
    if not export.brain:
        return {}
    n = len(export.recorded)
    of_channels = {
        "mlapdv": np.full((n, 3), np.nan),
        "brainLocationIds_ccf_2017": np.zeros(n, dtype=np.int64),
        "brainLocationAcronyms_ccf_2017": np.full(n, "", dtype=object),
    }
    for row, channel in enumerate(export.recorded):
        location = export.brain.get(channel.raw_column)
        if location is not None:
            values = (location[:3], location.atlas_id, location.acronym)
            for array, value in zip(of_channels.values(), values, strict=True):
                array[row] = value
    acronyms = of_channels["brainLocationAcronyms_ccf_2017"].astype(np.str_)
    of_channels["brainLocationAcronyms_ccf_2017"] = acronyms
    main = rows[export.cluster_channels]
    return {
        **{f"channels.{name}": values for name, values in of_channels.items()},
        **{f"clusters.{name}": values[main] for name, values in of_channels.items()},
    }


def _drift(export: ProbeExport) -> dict[str, np.ndarray]:
    """The files of the motion by path, in a folder of the unit where the probe may have others."""
    arrays = {}
    for unit, motion in export.motions.items():
        collection = "" if export.units == [unit] else f"{DRIFT}/{unit}/"
        arrays[f"{collection}drift.times"] = motion.times
        arrays[f"{collection}drift.um"] = motion.um
        arrays[f"{collection}drift_depths.um"] = motion.depths
    return arrays


def _coded(labels, codes: dict[str, int]) -> np.ndarray:
    unknown = sorted({str(label) for label in labels} - codes.keys())
    if unknown:
        raise ValueError(f"labels {unknown} have no code; known are {sorted(codes)}")
    return np.array([codes[label] for label in labels], dtype=np.int64)
