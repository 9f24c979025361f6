"""The wiring file: the default one, and every fault in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from powerpixels.stage import DataError
from powerpixels.wiring import Inputs, Wiring, load_wiring

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def test_default_and_full_wiring(tmp_path):
    assert load_wiring(ASSETS / "wiring.json") == Wiring(sync="P0.0", digital={}, analog={})
    path = tmp_path / "wiring.json"
    path.write_text('{"sync": "P1.3", "digital": {"P0.1": "lick"}, "analog": {"AI0": "pupil_2"}}')
    assert load_wiring(path) == Wiring(sync="P1.3", digital={"P0.1": "lick"}, analog={"AI0": "pupil_2"})


def test_inputs_of_each_stream(tmp_path):
    """Lines of different streams have the same names, and may get the same ones."""
    path = tmp_path / "wiring.json"
    path.write_text('{"digital": {"P0.1": "lick"}, "streams": {"obx0": {"digital": {"P0.1": "lick"}}}}')
    wiring = load_wiring(path)
    assert wiring.inputs("nidq") == Inputs(sync="P0.0", digital={"P0.1": "lick"})
    assert wiring.inputs("obx0") == Inputs(digital={"P0.1": "lick"})
    assert wiring.inputs("nidq").levels == {"P0.0", "P0.1"} and wiring.inputs("obx0").levels == {"P0.1"}
    assert wiring.inputs("nidq1") == Inputs()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "found: "),
        ('{"digitl": {}}', "digitl"),
        ('{"digital": {"P0.1": 3}}', r"digital.P0.1"),
        ('{"digital": {"P0.1": "my lick"}}', "'my lick' cannot be part"),
        ('{"analog": {"AI0": "a.b"}}', "'a.b' cannot be part"),
        ('{"digital": {"P0.1": "lick", "P0.2": "lick"}}', "'lick' names more than one"),
        ('{"digital": {"P0.1": "analog"}}', "'analog' is taken"),
        ('{"analog": {"AI0": "timestamps"}}', "'timestamps' is taken"),
        ('{"streams": {"obx0": {"snyc": "P0.1"}}}', r"streams.obx0.snyc"),
        ('{"analog_rate_hz": 0}', "analog_rate_hz .*greater than 0"),
        ('{"streams": {"obx0": {"analog_rate_hz": "fast"}}}', r"streams.obx0.analog_rate_hz"),
        ('{"streams": {"obx0": {"digital": {"P0.1": "a b"}}}}', "'a b' cannot be part"),
        ('{"streams": {"nidq": {}}}', "names nidq"),
    ],
)
def test_faulty_wiring_is_refused(tmp_path, content, message):
    path = tmp_path / "wiring.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"wiring.json: .*{message}"):
        load_wiring(path)
