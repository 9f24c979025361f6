"""The wiring file: what is connected to which input of the session's DAQ streams."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import PositiveFloat, ValidationError

from powerpixels.documents import Document
from powerpixels.stage import DataError

# ALF object of the analog inputs' files, and its attribute with their times: no input may take these names.
ANALOG_OBJECT = "analog"
TIMESTAMPS = "timestamps"
# The DAQ stream that "digital" and "analog" are about.
MAIN_STREAM = "nidq"


class Inputs(Document):
    """What is connected to one DAQ stream's inputs.

    digital, analog: line ("P0.1", "TTL2", "AI0") to the name it is published under. An analog input that is
    named among the digital lines, or as sync, is read as a level, high or low; no other is. sync: the line
    with the sync wave, None where the recording's metadata tell. analog_rate_hz: the lowest rate to which the
    analog inputs may be decimated, None: not at all.
    """

    sync: str | None = None
    digital: dict[str, str] = {}
    analog: dict[str, str] = {}
    analog_rate_hz: PositiveFloat | None = None

    @property
    def levels(self) -> set[str]:
        """Names of the lines that are to be read as high or low, whatever they are."""
        return {*self.digital, *([self.sync] if self.sync is not None else [])}


class Wiring(Document):
    """wiring.json: what is connected to which DAQ input.

    sync, digital, analog, analog_rate_hz: of the NIDQ stream, see ``Inputs``; lines are named "P0.1" and
    "AI0" in SpikeGLX, "TTL1" and "AI0" in Open Ephys. streams: the same for any further DAQ stream by its
    name ("obx0", "nidq1"): lines of different streams have the same names. Names may repeat between streams,
    whose files lie in folders of their own.
    """

    sync: str = "P0.0"
    digital: dict[str, str] = {}
    analog: dict[str, str] = {}
    analog_rate_hz: PositiveFloat | None = None
    streams: dict[str, Inputs] = {}

    def inputs(self, stream: str) -> Inputs:
        """What is connected to one stream; nothing for a stream that the file does not speak of."""
        if stream == MAIN_STREAM:
            return Inputs(
                sync=self.sync,
                digital=self.digital,
                analog=self.analog,
                analog_rate_hz=self.analog_rate_hz,
            )
        return self.streams.get(stream, Inputs())


def load_wiring(path: Path) -> Wiring:
    """Read and check a wiring file.

    Raises ``DataError`` where it is no JSON object of these keys, where a name cannot be part of an ALF
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
