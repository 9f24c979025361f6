"""What every executable of the pipeline shares: its log, its exit codes, its version record.

Exit codes (read by ``conf/base.config``):

* 0   done
* 65  the input data are at fault (``DataError``): never retried, the message names the file
* 75  the machine is at fault for now (``TemporaryError``): retried
* 76  a GPU's memory did not suffice (``GpuMemoryError``): retried with less need of it
* 1   anything else: a defect of ours
"""

from __future__ import annotations

import fcntl
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

EXIT_DATA_ERROR = 65
EXIT_TEMPORARY = 75
EXIT_GPU_MEMORY = 76

log = logging.getLogger("powerpixels")


class DataError(Exception):
    """The input is broken. The message says which file, what was expected, what was found, what to do."""


class TemporaryError(Exception):
    """The machine could not do it now (no GPU, a stale file handle); another attempt may succeed."""


class GpuMemoryError(TemporaryError):
    """The GPU's memory did not suffice; an attempt that needs less, or on a larger GPU, may succeed."""


def run_stage(main: Callable[[Sequence[str]], None]) -> None:
    """Run ``main(argv)`` as a process of the pipeline and exit with the code that fits its outcome.

    Every failure ends with one line on stderr that starts with ``ERROR:``; the pipeline's
    summary quotes that line.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        with alone_in_folder():
            main(sys.argv[1:])
    except DataError as error:
        _leave(str(error), EXIT_DATA_ERROR)
    except GpuMemoryError as error:
        _leave(str(error), EXIT_GPU_MEMORY)
    except TemporaryError as error:
        _leave(str(error), EXIT_TEMPORARY)
    except Exception as error:
        traceback.print_exc()
        _leave(f"{type(error).__name__}: {error}", 1)


def _leave(message: str, status: int) -> NoReturn:
    """Exit, with the message on one line as the last of stderr."""
    print(f"ERROR: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def alone_in_folder() -> Iterator[None]:
    """Hold the working folder for this process; wait while another holds it.

    When Nextflow's head is killed its tasks run on, and Nextflow 24.10.0 to .3 resume such a task in the
    folder where the first one still writes. Two writers would mix their outputs, so the second waits for
    the first. File systems without locks go without.
    """
    with open(".powerpixels.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("an earlier attempt of this task still runs in this folder: waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.info("this file system has no locks (%s)", error)
        yield


def read_json(path: Path) -> Any:
    """What a user's JSON file holds; raises ``DataError`` where it is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected a JSON file, found otherwise ({error}); correct it") from None


def write_versions(path: Path, *packages: str) -> None:
    """Write ``{"python": …, "powerpixels": …, package: version, …}`` as JSON to ``path``.

    Only packages that the stage really uses are named; the run's software versions are their union.
    """
    from powerpixels import __version__

    versions = {
        "powerpixels": __version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }
    for package in packages:
        versions[package] = metadata.version(package)
    Path(path).write_text(json.dumps(dict(sorted(versions.items())), indent=1) + "\n")
