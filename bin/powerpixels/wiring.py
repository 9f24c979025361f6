"""The wiring file: what is connected to which input of the session's DAQ streams."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from powerpixels.documents import Document
from powerpixels.stage import DataError

# ALF object of the analog inputs' files, and its attribute with their times: no input may take these names.
ANALOG_OBJECT = "analog"
TIMESTAMPS = "timestamps"
# The DAQ stream that "digital" and "analog" are about.
MAIN_STREAM = "nidq"


class Inputs(Document):
    """Names of one DAQ stream's inputs: line ("P0.1", "TTL2", "AI0") to the name it is published under."""

    digital: dict[str, str] = {}
    analog: dict[str, str] = {}


class Wiring(Document):
    """wiring.json: what is connected to which DAQ input.

    sync: the reference stream's digital line with the sync wave. digital, analog: line to the name under
    which it is published, of the NIDQ stream: "P0.1" and "AI0" in SpikeGLX, "TTL1" and "AI0" in Open Ephys.
    streams: the same for any further DAQ stream by its name ("obx0", "nidq1"): lines of different streams
    have the same names. Names may repeat between streams, whose files lie in folders of their own.
    """

    sync: str = "P0.0"
    digital: dict[str, str] = {}
    analog: dict[str, str] = {}
    streams: dict[str, Inputs] = {}

    def inputs(self, stream: str) -> Inputs:
        """The names of one stream's inputs; none for a stream that the file does not speak of."""
        if stream == MAIN_STREAM:
            return Inputs(digital=self.digital, analog=self.analog)
        return self.streams.get(stream, Inputs())


def load_wiring(path: Path) -> Wiring:
    """Read and check a wiring file.

    Raises ``DataError`` where it is no JSON object of the four keys, where a name cannot be part of an ALF
    file name, or where two inputs of a stream have one name.
    """
    expected = (
        'expected {"sync": "P0.0", "digital": {"P0.1": "lick"}, "analog": {"AI0": "breathing"}} and, for'
        ' further streams, "streams": {"obx0": {"analog": {"AI0": "pupil"}}}'
    )
    try:
        wiring = Wiring.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            found = " ".join([".".join(str(part) for part in first["loc"]), first["msg"]]).strip()
        else:
            found = str(error)
        raise DataError(f"{path}: {expected}, found: {found}") from None
    if MAIN_STREAM in wiring.streams:
        raise DataError(
            f'{path}: "streams" names {MAIN_STREAM}, whose inputs are the file\'s own "digital" and "analog";'
            " move them there"
        )
    for stream in (MAIN_STREAM, *wiring.streams):
        _check_names(path, wiring.inputs(stream))
    return wiring


def _check_names(path: Path, inputs: Inputs) -> None:
    digital, analog = list(inputs.digital.values()), list(inputs.analog.values())
    for name in digital + analog:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise DataError(
                f"{path}: the name {name!r} cannot be part of an ALF file name; use letters, digits and"
                " underscores, a letter first"
            )
    for names in (digital, analog):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: {twice[0]!r} names more than one input; give each its own name")
    for name in {ANALOG_OBJECT}.intersection(digital) | {TIMESTAMPS}.intersection(analog):
        raise DataError(f"{path}: the name {name!r} is taken by the analog inputs' files; choose another")
