"""What the readers of both programs' headers share: their error, and the reading of a small file."""

from __future__ import annotations

from pathlib import Path

from powerpixels.stage import DataError, TemporaryError


class HeaderError(DataError):
    """A header (or what it describes) that cannot be used; ``code`` is the fault's stable name."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


def read_bytes(path: Path, name: str) -> bytes:
    """A header's content; messages call it ``name``.

    Raises ``HeaderError`` (META_UNREADABLE) without permission, ``TemporaryError`` where the file
    system does not let it be read now.
    """
    try:
        return path.read_bytes()
    except PermissionError:
        raise HeaderError(
            "META_UNREADABLE", f"{name}: no permission to read it. Give read access to the raw folder."
        ) from None
    except OSError as error:
        raise TemporaryError(f"{name}: cannot be read now ({error.strerror})") from error
