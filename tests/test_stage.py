"""Exit codes, last words and the lock of every executable; the command line around the pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from powerpixels import cli

BIN = Path(__file__).resolve().parent.parent / "bin"


def stage(body: str, folder: Path) -> subprocess.Popen:
    """A Python process that runs `body` as a stage's main."""
    lines = "\n    ".join(body.splitlines())
    script = f"from powerpixels import stage\ndef main(argv):\n    {lines}\nstage.run_stage(main)\n"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(BIN)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "body, status, last",
    [
        ("raise stage.DataError('a.bin: expected 2, found 1')", 65, "ERROR: a.bin: expected 2, found 1"),
        ("raise stage.TemporaryError('no GPU')", 75, "ERROR: no GPU"),
        ("raise ValueError('two' + chr(10) + 'lines')", 1, "ERROR: ValueError: two lines"),
        ("raise stage.DataError('two' + chr(10) + 'lines')", 65, "ERROR: two lines"),
    ],
)
def test_exit_code_and_last_line(tmp_path, body, status, last):
    process = stage(body, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1] == last


def test_two_attempts_in_one_folder_take_turns(tmp_path):
    """What -resume of a killed head can cause: the second starts only when the first is done."""
    write = "import time\nfor k in range({}):\n    open('log', 'a').write('{}')\n    time.sleep(0.1)"
    first = stage(write.format(10, "a"), tmp_path)
    while not (tmp_path / "log").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = stage(write.format(3, "b"), tmp_path)
    _, errors = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (tmp_path / "log").read_text() == "a" * 10 + "b" * 3
    assert "an earlier attempt of this task still runs in this folder" in errors


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit) as left:
        cli.main(["simulate", str(tmp_path)])
    assert left.value.code == 65
    assert capsys.readouterr().err.startswith(f"ERROR: {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
