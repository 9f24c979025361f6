"""The wiring file: what is connected to which NIDQ input."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from powerpixels.documents import Document
from powerpixels.stage import DataError

# ALF object of the analog inputs' files, and its attribute with their times: no input may take these names.
ANALOG_OBJECT = "analog"
TIMESTAMPS = "timestamps"


class Wiring(Document):
    """wiring.json: what is connected to which NIDQ input.

    sync: the digital line with the sync wave. digital, analog: line ("P0.1", "AI0") to the name under which
    it is published.
    """

    sync: str = "P0.0"
    digital: dict[str, str] = {}
    analog: dict[str, str] = {}


def load_wiring(path: Path) -> Wiring:
    """Read and check a wiring file.

    Raises ``DataError`` where it is no JSON object of the three keys, where a name cannot be part of an ALF
    file name, or where two inputs have one name.
    """
    expected = 'expected {"sync": "P0.0", "digital": {"P0.1": "lick"}, "analog": {"AI0": "breathing"}}'
    try:
        wiring = Wiring.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            found = " ".join([".".join(str(part) for part in first["loc"]), first["msg"]]).strip()
        else:
            found = str(error)
        raise DataError(f"{path}: {expected}, found: {found}") from None
    digital, analog = list(wiring.digital.values()), list(wiring.analog.values())
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
    return wiring
