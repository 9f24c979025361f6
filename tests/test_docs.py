"""The manual: it builds, its generated parts are the code's, its commands work, its tables are what is written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from powerpixels import cli, migrate

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import docs  # noqa: E402

PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(
    r"(<!-- run -->\n|<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL
)
# Modules of the package that are a command each: see cli.py.
COMMANDS = re.findall(r'\("[a-z-]+", "([a-z_]+)", "', (ROOT / "bin/powerpixels/cli.py").read_text())


def shell_lines() -> list[str]:
    """All lines of the manual that are typed into a shell: bash blocks, and indented lines that begin so."""
    lines = []
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block["kind"] == "bash":
                lines += block["body"].splitlines()
        lines += re.findall(r"^    ((?:nextflow run|powerpixels|make) .*)$", text, re.MULTILINE)
    return sorted({line.split(" #")[0].strip() for line in lines} - {""})


LINES = shell_lines()


def test_generated_parts_are_what_the_code_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert text == docs.generated(text), f"{path.name} is old: .venv/bin/python tools/docs.py"
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    parameters = (ROOT / "docs/parameters.md").read_text()
    for group in schema["$defs"].values():
        for name, spec in group["properties"].items():
            assert (f"### `--{name}`" in parameters) != bool(spec.get("hidden")), name
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/index.md").read_text(), re.MULTILINE))
    assert {"inspect", "migrate", "verify", "fetch-models"} <= listed and len(listed) == len(COMMANDS) + 1


def test_it_builds_without_a_warning(tmp_path):
    """Links and anchors included; nothing that the pages load lies elsewhere."""
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""},
    )  # fmt: skip
    assert made.returncode == 0 and "WARNING" not in made.stderr, made.stderr
    pages = list((tmp_path / "site").rglob("index.html"))
    assert len(pages) == len(PAGES)
    for page in pages:
        loaded = re.findall(r'<(?:script|img)[^>]*src="([^"]*)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]*)"',
                            page.read_text())  # fmt: skip
        assert not [one for pair in loaded for one in pair if one.startswith(("http", "//"))]


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"'(\w+\.md)'", str(config["nav"]))
    assert sorted(named) == [path.name for path in PAGES]


@pytest.mark.parametrize(
    "line", [line for line in LINES if "powerpixels " in line and "nextflow" not in line]
)
def test_commands_and_options_exist(line, monkeypatch):
    """Each is parsed as it stands; what it would do is left out."""
    called = []
    for name in COMMANDS:
        monkeypatch.setattr(import_module(f"powerpixels.{name}"), "run", called.append)
    monkeypatch.setattr(cli, "inspect", called.append)
    words = shlex.split(line)
    cli.main(words[1:])
    assert words[0].endswith("powerpixels") and len(called) == 1


@pytest.mark.parametrize("line", [line for line in LINES if "nextflow run" in line])
def test_parameters_and_profiles_exist(line):
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    known = {name: spec for group in schema["$defs"].values() for name, spec in group["properties"].items()}
    known |= {"help": {}, "help_all": {}}
    words = shlex.split(line)
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            assert word[2:] in known, word
            assert value in known[word[2:]].get("enum", [value])
        if word == "-profile":
            config = (ROOT / "nextflow.config").read_text()
            for profile in value.split(","):
                assert re.search(rf"^    {profile} +{{ includeConfig", config, re.MULTILINE), profile


def test_make_targets_and_scripts_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [line.split()[1] for line in LINES if line.startswith("make ")]
    assert {"demo", "test"} <= set(made) <= targets
    scripts = [re.search(r"(\S+\.py)", line)[1] for line in LINES if ".py" in line]
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_commands_that_can_be_run_here_work(session_small, tmp_path, monkeypatch, capsys):
    """The blocks marked so, in their order on a page, on the simulated session that they ask for."""
    n_run = 0
    for path in PAGES:
        folder = tmp_path / path.stem
        (folder / "config").mkdir(parents=True)
        (folder / "config" / "settings.json").write_text(json.dumps(migrate.ORIGINAL))
        monkeypatch.chdir(folder)
        for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
            if block["file"]:
                (folder / block["file"]).write_text(block["body"])
            elif block[1]:
                for line in block["body"].splitlines():
                    n_run += 1
                    words = shlex.split(line)
                    if words[1:3] == ["simulate", "tutorial"]:  # which the fixture is
                        assert words[3:] == ["--preset", "small"]
                        (folder / "tutorial").symlink_to(session_small)
                        continue
                    cli.main(words[1:])
                    assert capsys.readouterr().out
    assert n_run >= 4
    assert (tmp_path / "migrating" / "migrated" / "params.yaml").is_file()
    from powerpixels.wiring import load_wiring

    assert load_wiring(tmp_path / "tutorial" / "wiring.json").digital["P0.1"] == "lick"
    assert (tmp_path / "tutorial" / "tutorial" / "samplesheet.csv").is_file()


def test_messages_of_the_troubleshooting_page_are_given_somewhere():
    sources = [path.read_text() for name in ("bin", "subworkflows") for path in (ROOT / name).rglob("*.*")
               if path.suffix in (".py", ".nf")] + [(ROOT / "main.nf").read_text()]  # fmt: skip
    page = (ROOT / "docs/troubleshooting.md").read_text()
    first_cells = re.findall(r"^\| (.*?) \| ", page.split("## Faults")[0], re.MULTILINE)
    messages = [message for cell in first_cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 5
    for message in messages:
        for part in re.split(r" N faults:| \.\.\. has", message):
            assert any(part in source for source in sources), part


def test_the_schemas_defaults_are_the_configurations():
    """Every parameter stands in both, with one default; a switch without one is off, as nf-core writes it."""
    text = (ROOT / "nextflow.config").read_text()
    block = re.search(r"^params \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)[1]
    words = {"null": None, "true": True, "false": None}
    configured = {}
    for name, value in re.findall(r"^    (\w+) += (\S+)$", block, re.MULTILINE):
        configured[name] = words[value] if value in words else yaml.safe_load(value)
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    described = {
        name: spec.get("default")
        for group in schema["$defs"].values()
        for name, spec in group["properties"].items()
    }
    assert configured == described and len(configured) > 40


def test_the_readme_leads_to_pages_and_places_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    for page, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text):
        assert (ROOT / page).is_file(), page
        heads = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in [head.lower().replace(" ", "-") for head in heads]


def test_rates_of_the_psth_example():
    """Spikes at known distances from three events: counted by hand."""
    sys.path.append(str(ROOT / "docs"))
    from psth import rates

    events = np.array([1.0, 5.0, 9.0])
    times = np.sort(np.concatenate([events + 0.005, events[:1] - 0.015, [3.0]]))
    found = rates(times, events, np.array([-0.02, -0.01, 0.0, 0.01]))
    assert found == pytest.approx([100 / 3, 0, 100])


def test_the_project_says_one_version_and_licence():
    project = (ROOT / "pyproject.toml").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in project
    assert f'license = "{citation["license"]}"' in project
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    lock = (ROOT / "requirements.lock").read_text()
    extras = re.search(r"^docs = \[(.*)\]", project, re.MULTILINE)[1]
    for name in re.findall(r'"([\w-]+)"', extras):
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name
