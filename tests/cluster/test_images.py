"""The images that ``make images`` builds: the packages in them, and a session run in them.

They run where ``make test-cluster`` asks for them (minutes each, a GB on disk)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from powerpixels.simulate import score_alf

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = {name: ROOT / "containers" / f"powerpixels-{name}.sif" for name in ("cpu", "gpu")}
# The launcher of the pipeline's own tests.
sys.path.insert(0, str(ROOT / "tests" / "pipeline"))
from driver import ENGINES, Launcher  # noqa: E402

pytestmark = pytest.mark.skipif(
    "POWERPIXELS_CLUSTER" not in os.environ, reason="images are tested by make test-cluster only"
)


@pytest.fixture(params=IMAGES)
def image(request) -> Path:
    return needed(request.param)


def needed(name: str) -> Path:
    """The image's file; skips where Apptainer or the image is not there."""
    if not shutil.which("apptainer"):
        pytest.skip("apptainer is not installed: tests/cluster/setup_apptainer.sh")
    if not IMAGES[name].exists():
        pytest.skip(f"no {IMAGES[name]}: make images")
    return IMAGES[name]


def inside(image: Path, *command: str, folder: Path) -> str:
    """What a command prints in the image, in a folder of its own, with nothing of this machine's environment."""
    call = [
        "apptainer",
        "exec",
        "--userns",
        "--cleanenv",
        "--no-home",
        "--pwd",
        str(folder),
        "-B",
        str(folder),
    ]
    done = subprocess.run([*call, str(image), *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(version: str) -> dict[str, str]:
    """Name and version of each package in requirements.lock for Linux and this version of Python."""
    environment = {"python_version": version, "python_full_version": f"{version}.9", "sys_platform": "linux"}
    environment |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line.split("--hash")[0].strip() for line in text.splitlines()]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonical(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def test_packages_are_the_locked_ones(image, tmp_path):
    script = (
        "import json, sys; from importlib.metadata import distributions as d; "
        "print(json.dumps(['%d.%d' % sys.version_info[:2], {x.metadata['Name']: x.version for x in d()}]))"
    )
    version, found = json.loads(inside(image, "python", "-c", script, folder=tmp_path))
    found = {canonical(name): value for name, value in found.items()}
    lock = locked(version)
    assert {name: value for name, value in found.items() if lock.get(name) != value} == {}
    # Everything that the pipeline asks for itself, but the sorter in the image for CPU work.
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {canonical(re.match(r"[\w.-]+", text).group()) for text in project["dependencies"]}
    missing = asked - set(found)
    if "cpu" in image.name:
        assert missing == {"kilosort"}
        assert not any(name.startswith(("torch", "nvidia", "triton")) for name in found)
    else:
        assert missing == set()


def test_every_stage_starts_without_a_home(image, tmp_path):
    """Libraries that write into a home or beside their code find a folder to do so, for a user with neither."""
    stages = sorted((ROOT / "bin").glob("pp_*.py"))
    for stage in stages:
        inside(image, "python", str(stage), "--help", folder=ROOT)
    inside(image, "python", "-c", "import bombcell, matplotlib.pyplot, spikeinterface.full", folder=tmp_path)


def digests(results: Path) -> dict[str, str]:
    """Digest of each published array of spikes, by its path in the results."""
    files = [path for path in results.rglob("*.npy") if "spike" in path.name]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_session_in_the_images_equals_one_in_the_local_environment(session_small, tmp_path):
    (tmp_path / "userns.config").write_text("apptainer.runOptions = '--userns'\n")
    results = {}
    for name in IMAGES:
        needed(name)
    for profile in ("local,test,apptainer", "local,test"):
        launcher = Launcher(ENGINES[0], tmp_path / profile.replace(",", "_"))
        run = launcher.run(
            *("-c", tmp_path / "userns.config", "--input", session_small / "samplesheet.csv"), profile=profile
        )
        assert run.status == 0, run.output
        results[profile] = digests(run.results)
    inside_images, local = results.values()
    assert any("spikes.times" in name for name in local)
    assert inside_images == local


def scores_of(sorter: str, session: Path, folder: Path, *more: str) -> pd.DataFrame:
    """Run a session with the sorter of an image of that name; how well probe00's neurons were found."""
    image = ROOT / "containers" / f"{sorter}.sif"
    needed("cpu")
    if not image.exists():
        pytest.skip(f"no {image}: make test-cluster")
    (folder / "userns.config").write_text("apptainer.runOptions = '--userns'\n")
    run = Launcher(ENGINES[0], folder / "run").run(
        *("-c", folder / "userns.config", "--input", session / "samplesheet.csv", "--drift", "off"),
        *("--container", IMAGES["cpu"], "--sorter", sorter, "--sorter_image", image, *more),
        profile="local,test,apptainer",
    )
    assert run.status == 0, run.output
    versions = (run.results / "pipeline_info" / "software_versions.yml").read_text()
    assert f"{sorter}.sif: sha256" in versions
    (alf,) = run.results.glob("*/*/*/alf/probe00")
    return score_alf(session, alf, "probe00")


def test_a_sorter_in_an_image_of_its_own(session_small, tmp_path):
    """MountainSort 5, which no environment of this project holds, by an image that `make sorter-image` built."""
    scores = scores_of("mountainsort5", session_small, tmp_path)
    assert len(scores) >= 3 and (scores.recall >= 0.7).all(), scores.to_string()
    assert (scores.precision >= 0.9).all(), scores.to_string()


def test_a_compiled_sorter_in_an_image_built_on_its_own(session_small, tmp_path):
    """As for MATLAB's sorters: `make sorter-image FROM=...` on an image of another Debian and Python, which has the
    sorter's program on its PATH. Both are stand-ins (compiled_sorter.def, ks2_5_compiled.py)."""
    scores = scores_of("kilosort2_5", session_small, tmp_path, "--device", "gpu")
    # Crossings of a threshold: of two neurons that fire together it takes the larger.
    assert len(scores) == 4 and (scores.precision >= 0.9).all(), scores.to_string()
    assert (scores.recall >= 0.9).sum() >= 3 and scores.recall.min() >= 0.6, scores.to_string()
