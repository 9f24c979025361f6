"""The original Power Pixels' configuration as this pipeline's, from the defaults that its set-up writes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from powerpixels import bombcell_labels, cli, ibl_labels, migrate
from powerpixels.stage import DataError
from powerpixels.wiring import load_wiring

SCHEMA = json.loads((Path(__file__).resolve().parent.parent / "nextflow_schema.json").read_text())

# What powerpixels-setup of the original 0.2.0 writes (shared/design/original-powerpixels.md, 1.3 and 1.4).
BOMBCELL = {
    "extractRaw": True, "detrendWaveform": True, "computeTimeChunks": False, "computeDrift": False,
    "maxNPeaks": 2, "maxNTroughs": 1, "minWvDuration": 100, "maxWvDuration": 1150,
    "minSpatialDecaySlopeExp": 0.01, "maxSpatialDecaySlopeExp": 0.1, "maxWvBaselineFraction": 0.3,
    "maxScndPeakToTroughRatio_noise": 0.8, "maxMainPeakToTroughRatio_nonSomatic": 0.8,
    "maxPeak1ToPeak2Ratio_nonSomatic": 3, "deltaTimeChunk": 360, "maxPercSpikesMissing": 20,
    "maxRPVviolations": 0.1, "minNumSpikes": 300, "minPresenceRatio": 0.7, "maxDrift": 100,
    "minAmplitude": 40, "minSNR": 5, "isoDmin": 20, "lratioMax": 0.3,
}  # fmt: skip
IBL = {
    "acceptable_contamination": 10, "RPmax_confidence": 90, "med_amp_thresh_uv": 50,
    "noise_cutoff": {"quantile_length": 0.25, "n_bins": 100, "nc_threshold": 5, "percent_threshold": 0.10},
}  # fmt: skip
UNITREFINE = {"noise_classification": False, "sua_classifier": "AnoushkaJain3/sua_mua_classifier_lightweight"}
WIRING = {
    "SYSTEM": "3B",
    "SYNC_WIRING_DIGITAL": {"P0.0": "imec_sync", "P0.1": "lick_detector", "P0.2": "camera"},
    "SYNC_WIRING_ANALOG": {"AI0": "breathing_sensor"},
}
KILOSORT4 = {
    "batch_size": 60000, "nblocks": 1, "Th_universal": 9, "Th_learned": 8, "nt": 61, "shift": None, "scale": None,
    "batch_downsampling": 1, "artifact_threshold": float("inf"), "nskip": 25, "whitening_range": 32,
    "highpass_cutoff": 300, "binning_depth": 5, "sig_interp": 20, "drift_smoothing": [0.5, 0.5, 0.5],
    "nt0min": None, "dmin": None, "dminx": 32, "min_template_size": 10, "template_sizes": 5, "nearest_chans": 10,
    "nearest_templates": 100, "max_channel_distance": 32, "max_peels": 100, "templates_from_data": True,
    "n_templates": 6, "n_pcs": 6, "Th_single_ch": 6, "acg_threshold": 0.2, "ccg_threshold": 0.25,
    "cluster_neighbors": 10, "cluster_downsampling": 20, "max_cluster_subset": 25000, "x_centers": None,
    "cluster_init_seed": 5, "duplicate_spike_ms": 0.25, "position_limit": 100, "do_CAR": True,
    "invert_sign": False, "save_extra_vars": False, "save_preprocessed_copy": False, "torch_device": "auto",
    "bad_channels": None, "clear_cache": False, "do_correction": True, "skip_kilosort_preprocessing": False,
    "keep_good_only": False, "use_binary_file": True, "delete_recording_dat": True, "pool_engine": "process",
    "n_jobs": 1, "chunk_duration": "1s", "progress_bar": True, "mp_context": None, "max_threads_per_worker": 1,
}  # fmt: skip


@pytest.fixture
def config(tmp_path) -> Path:
    """The original's config folder, as its set-up makes it."""
    folder = tmp_path / "config"
    for name, content in {
        "settings.json": migrate.ORIGINAL,
        "bombcell_params.json": BOMBCELL,
        "ibl_qc_params.json": IBL,
        "unitrefine_params.json": UNITREFINE,
        "wiring/nidq.wiring.json": WIRING,
        "sorter_params/kilosort4_params.json": KILOSORT4,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def set_keys(config: Path, **changed) -> Path:
    path = config / "settings.json"
    path.write_text(json.dumps({**migrate.ORIGINAL, **changed}))
    return path


def check_against_schema(parameters: dict) -> None:
    """Each parameter is known and of the schema's type, value or pattern."""
    known = {name: spec for group in SCHEMA["$defs"].values() for name, spec in group["properties"].items()}
    jsonschema.validate(parameters, {"type": "object", "properties": known, "additionalProperties": False})


def test_the_originals_defaults(config, tmp_path, capsys):
    out = tmp_path / "new"
    cli.main(["migrate", str(config / "settings.json"), "--out", str(out)])
    parameters = yaml.safe_load((out / "params.yaml").read_text())
    check_against_schema(parameters)
    files = {name: parameters.pop(name) for name in ("wiring", "bombcell_params", "ibl_params")}
    assert parameters == {
        "sorter": "kilosort4",
        "reference": "local",
        "reference_multi_shank": "local",
        "local_radius_um": "40,200",
        "notch_threshold_uv2_hz": 0.0137,
        "compress": "zarr",
        "nwb": "none",
    }
    wiring = load_wiring(files["wiring"])
    assert (wiring.sync, wiring.digital) == ("P0.0", {"P0.1": "lick_detector", "P0.2": "camera"})
    assert wiring.analog == {"AI0": "breathing_sensor"}
    assert bombcell_labels.checked(json.loads(Path(files["bombcell_params"]).read_text())) == BOMBCELL
    assert ibl_labels.checked(json.loads(Path(files["ibl_params"]).read_text())) == ibl_labels.DEFAULTS

    told = capsys.readouterr().out
    # Every key of settings.json, and all of the sorter's, is spoken of.
    for key in (*migrate.ORIGINAL, *KILOSORT4, *UNITREFINE):
        assert key in told, key
    without = [line.split()[0] for line in told.splitlines() if "no equal:" in line]
    assert {"IDENTIFIER", "DATA_FOLDER", "USE_NIDAQ", "USE_DOCKER", "N_CORES"} <= set(without)
    assert "--noise-neural none" in told and f"-params-file {out / 'params.yaml'}" in told
    # The default threshold is the pipeline's own.
    own = SCHEMA["$defs"]["preprocessing"]["properties"]["notch_threshold_uv2_hz"]["default"]
    assert parameters["notch_threshold_uv2_hz"] == own


@pytest.mark.parametrize(
    ("uv", "expected"),
    # µV a count of 2.0 (prototype, commercial) and the original's own table of what 0.0025 means there
    [(0.5 / 8192 / 80 * 1e6, 0.00146), (0.62 / 2048 / 100 * 1e6, 0.0229)],
)
def test_the_threshold_is_converted_by_the_probes_gain(config, uv, expected):
    parameters = migrate.migrate(config / "settings.json", uv).parameters
    assert parameters["notch_threshold_uv2_hz"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"MULTI_SHANK": "car_global"}, {"reference_multi_shank": "global", "reference_scope": "probe"}),
        ({"LOCAL_RADIUS": [50, 300]}, {"local_radius_um": "50,300", "reference_scope": "probe"}),
        ({"SINGLE_SHANK": "destripe", "MULTI_SHANK": "destripe"}, {"reference": "destripe"}),
        ({"COMPRESS_RAW_DATA": False}, {"compress": "none"}),
        ({"COMPRESSION": "mtscomp", "NWB_EXPORT": True}, {"compress": "mtscomp", "nwb": "hdf5"}),
        ({"SPIKE_SORTER": "spykingcircus2"}, {"sorter": "spykingcircus2"}),
    ],
)
def test_other_settings(config, changed, expected):
    migrated = migrate.migrate(set_keys(config, **changed))
    check_against_schema(migrated.parameters)
    assert expected.items() <= migrated.parameters.items()
    assert ("reference_scope" in migrated.parameters) == ("reference_scope" in expected)


def test_parameters_of_sorter_and_bombcell_that_were_edited(config):
    for name, content in {
        "sorter_params/kilosort4_params.json": {**KILOSORT4, "Th_learned": 7, "gone_since": 1},
        "bombcell_params.json": {"minNumSpikes": 500, "verbose": True, "unheard_of": 1},
    }.items():
        (config / name).write_text(json.dumps(content))
    migrated = migrate.migrate(config / "settings.json")
    assert migrated.sorter == {"Th_learned": 7}
    assert migrated.bombcell == {"minNumSpikes": 500}
    without = " ".join(f"{line.key} {line.why}" for line in migrated.lines if not line.here)
    for name in ("gone_since", "verbose", "unheard_of"):
        assert name in without


def test_settings_alone(config):
    settings = set_keys(config, MY_OWN=1)
    alone = config.parent / "settings.json"
    settings.rename(alone)
    migrated = migrate.migrate(alone)
    assert (migrated.wiring, migrated.sorter, migrated.bombcell, migrated.ibl) == (None,) * 4
    assert any(line.key == "MY_OWN" and not line.here for line in migrated.lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"SINGLE_SHANK": "car"},
            "SINGLE_SHANK: expected one of car_global, car_local, destripe, found 'car'",
        ),
        ({"COMPRESSION": "zip"}, "COMPRESSION: expected zarr or mtscomp, found 'zip'"),
        ({"LOCAL_RADIUS": 200}, "LOCAL_RADIUS: expected two radii"),
        ({"PEAK_THRESHOLD": "low"}, "PEAK_THRESHOLD: expected a number"),
        ({"NWB_EXPORT": "yes"}, "NWB_EXPORT: expected true or false"),
        ({"SPIKE_SORTER": "kilosort5"}, "'kilosort5' is no sorter of SpikeInterface"),
    ],
)
def test_what_the_original_would_not_take_is_refused(config, changed, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        migrate.migrate(set_keys(config, **changed))


def test_nothing_is_written_over(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["migrate", str(config / "settings.json"), "--out", str(tmp_path)])
    assert exit_.value.code == 65
    assert "expected no such folder yet" in capsys.readouterr().err
