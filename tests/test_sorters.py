"""Parameters of any sorter: names, kinds, the pipeline's choices over them, the file that shows them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from powerpixels.cli import main
from powerpixels.sorters import (
    check_sorter,
    drift_left_out,
    effective_parameters,
    known_sorters,
    parameter_file,
    parameters_of,
    read_parameter_file,
    uses_gpu,
)
from powerpixels.stage import DataError

OURS = ("kilosort4", "spykingcircus2", "tridesclous2", "lupin", "simple")
MATLAB = ("kilosort2_5", "kilosort3", "pykilosort")


@pytest.mark.parametrize("sorter", OURS + MATLAB)
def test_steps_done_already_are_off_and_the_seed_is_set(sorter):
    parameters, _ = effective_parameters(sorter, False, {}, seed=7)
    off = {"kilosort4": ("do_CAR", False), "kilosort2_5": ("car", False), "kilosort3": ("car", False),
           "spykingcircus2": ("apply_preprocessing", False), "simple": ("apply_preprocessing", False),
           "tridesclous2": ("preprocessing_dict", []), "lupin": ("preprocessing_dict", [])}  # fmt: skip
    if sorter in off:
        name, value = off[sorter]
        assert parameters[name] == value
    for name in ("seed", "cluster_init_seed"):
        assert parameters.get(name, 7) == 7
    assert not {"job_kwargs", "n_jobs", "torch_device", "delete_recording_dat"} & set(parameters)
    # whitening remains the sorter's
    assert parameters.get("apply_whitening", True) and parameters.get("do_whitening", True)
    assert json.loads(json.dumps(parameters, allow_nan=False)) == parameters


@pytest.mark.parametrize(
    ("sorter", "name", "on", "off"),
    [
        ("kilosort4", "nblocks", 1, 0),
        ("kilosort2_5", "do_correction", True, False),
        ("pykilosort", "perform_drift_registration", True, False),
        ("spykingcircus2", "apply_motion_correction", True, False),
        ("tridesclous2", "apply_motion_correction", True, False),
    ],
)
def test_drift_correction_follows_the_policy(sorter, name, on, off):
    for correct, value in ((True, on), (False, off)):
        parameters, note = effective_parameters(sorter, correct, {}, 1)
        assert (parameters[name], note) == (value, "")
    parameters, note = effective_parameters(sorter, True, {name: off}, 1)
    assert parameters[name] == off
    assert note == f"the parameter file overrules it: {name} {off}"


def test_a_sorter_without_drift_correction_says_so():
    assert "no drift correction of its own" in effective_parameters("simple", True, {}, 1).drift_note
    assert effective_parameters("simple", False, {}, 1).drift_note == ""


@pytest.mark.parametrize(
    ("sorter", "switch"), [("kilosort4", "do_correction"), ("tridesclous2", "apply_preprocessing")]
)
def test_a_switch_that_turns_drift_correction_off_is_in_the_record(sorter, switch):
    parameters, note = effective_parameters(sorter, True, {switch: False}, 1)
    assert parameters["nblocks" if sorter == "kilosort4" else "apply_motion_correction"] in (0, False)
    assert note == f"the parameter file overrules it: {switch} False"
    assert effective_parameters(sorter, False, {switch: False}, 1).drift_note == ""


@pytest.mark.parametrize(
    ("n_channels", "n_shanks", "reason"),
    [
        (24, 1, "spykingcircus2 does not correct drift on 24 channels that lie 32 µm across: none is done"),
        (40, 2, "spykingcircus2 does not correct drift on 80 channels that lie 282 µm across: none is done"),
        (40, 1, ""),
    ],
)
def test_what_spykingcircus2_leaves_out(n_channels, n_shanks, reason):
    from probeinterface import Probe
    from simulated_unit import neuropixels_columns
    from spikeinterface.core import NumpyRecording

    shanks = [neuropixels_columns(n_channels) + [250.0 * shank, 0.0] for shank in range(n_shanks)]
    probe = Probe(ndim=2, si_units="um")
    probe.set_contacts(np.concatenate(shanks), shapes="circle", shape_params={"radius": 6})
    probe.set_device_channel_indices(np.arange(n_channels * n_shanks))
    recording = NumpyRecording([np.zeros((9, n_channels * n_shanks), "int16")], 30000.0)
    recording.set_probe(probe)
    parameters, _ = effective_parameters("spykingcircus2", True, {}, 1)
    assert drift_left_out("spykingcircus2", parameters, recording) == reason
    assert drift_left_out("spykingcircus2", {"apply_motion_correction": False}, recording) == ""
    assert drift_left_out("tridesclous2", {"apply_motion_correction": True}, recording) == ""


def test_members_of_a_dict_are_replaced_one_by_one():
    given = {"detection": {"method_kwargs": {"detect_threshold": 4}, "exclude_sweep_ms": 1.0}}
    parameters, _ = effective_parameters("spykingcircus2", False, given, 1)
    assert parameters["detection"] == {
        "method": "matched_filtering",
        "method_kwargs": {"peak_sign": "neg", "detect_threshold": 4},
        "pipeline_kwargs": {},
        "exclude_sweep_ms": 1.0,
    }


@pytest.mark.parametrize(
    ("sorter", "overrides", "message"),
    [
        ("kilosort4", {"Th_universl": 9}, "'Th_universl' is not .* nearest is 'Th_universal'"),
        ("kilosort4", {"torch_device": "cpu"}, "'torch_device' is set by the pipeline"),
        ("kilosort4", {"n_jobs": 4}, "'n_jobs' .* task's cpus"),
        ("kilosort4", {"nblocks": "1"}, "nblocks must be .*int.*'1'"),
        ("kilosort4", {"nblocks": 1.5}, "nblocks must be .*int.*1.5"),
        ("kilosort4", {"nblocks": True}, "nblocks must be"),
        ("kilosort4", {"do_CAR": 1}, "do_CAR must be a bool"),
        ("kilosort4", {"Th_learned": None}, "Th_learned must be a number, found None"),
        ("kilosort4", {"Th_learned": 0}, "Th_learned must be within 0 to inf, and none of"),
        ("kilosort4", {"cluster_init_seed": 0}, "cluster_init_seed must be within 1"),
        ("lupin", {"detect_treshold": 4}, "nearest is 'detect_threshold'"),
        ("lupin", {"detect_threshold": "4"}, "detect_threshold must be a number"),
        ("lupin", {"debug": 1}, "debug must be a bool"),
        ("lupin", {"job_kwargs": {"n_jobs": 4}}, "'job_kwargs' is set by the pipeline"),
        ("spykingcircus2", {"filtering": {"freqmin": 150}}, "filtering.freqmin.* nearest is filtering.freq_min"),
        ("spykingcircus2", {"detection": {"methd": "x"}}, "detection.methd.* nearest is detection.method"),
        ("spykingcircus2", {"detection": 5}, "detection must be an object"),
        ("spykingcircus2", {"cleaning": {"min_snr": "5"}}, "cleaning.min_snr must be a number"),
        ("kilosort3", {"projection_threshold": 9}, "projection_threshold must be a list"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(sorter, overrides, message):
    with pytest.raises(DataError, match=message):
        effective_parameters(sorter, True, overrides, 1)


def test_an_unknown_sorter_suggests_the_nearest():
    with pytest.raises(
        DataError, match="'kilosort5' is no sorter .*'kilosort.*Installed: kilosort4.*Known: "
    ) as error:
        check_sorter("kilosort5")
    assert "mountainsort5" in str(error.value)
    check_sorter("kilosort4")


@pytest.mark.parametrize("sorter", OURS + MATLAB)
def test_the_printed_file_changes_nothing(sorter, tmp_path):
    """Saved and given back it is what the pipeline does anyway, under every drift policy and seed."""
    (tmp_path / "p.json").write_text(parameter_file(sorter))
    given = read_parameter_file(tmp_path / "p.json")
    for correct, seed in ((True, 1), (False, 9)):
        plain = effective_parameters(sorter, correct, {}, seed)
        assert effective_parameters(sorter, correct, given, seed) == plain
    printed = json.loads((tmp_path / "p.json").read_text())
    assert {name.removeprefix("// ") for name in printed} >= set(parameters_of(sorter)) - {
        "cache_preprocessing_mode"
    }


def test_command(capsys):
    main(["sorter-params", "tridesclous2"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["detect_threshold"] == 5.0
    assert printed["// detect_threshold"] == "Treshold for peak detection"
    with pytest.raises(SystemExit) as stopped:
        main(["sorter-params", "kilosrt4"])
    assert stopped.value.code == 65
    assert "the nearest is 'kilosort4'" in capsys.readouterr().err


def test_the_pipelines_lists_of_sorters_are_spikeinterfaces():
    """The parameter's and the samplesheet's names, and which of them ask for a GPU."""
    import re
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    schema = json.loads((root / "nextflow_schema.json").read_text())
    assert schema["$defs"]["sorting"]["properties"]["sorter"]["enum"] == known_sorters()
    sheet = json.loads((root / "assets" / "schema_input.json").read_text())["items"]["properties"]
    assert sheet["sorter"]["pattern"] == f"^({'|'.join(known_sorters())})$"
    listed = re.search(r"return sorter in \[(.*)\]", (root / "modules" / "resources.nf").read_text()).group(1)
    assert re.findall(r"'(\w+)'", listed) == [name for name in known_sorters() if uses_gpu(name)]
