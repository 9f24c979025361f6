#!/usr/bin/env python3
"""Write the generated parts of docs/*.md from what the code itself knows.

    .venv/bin/python tools/docs.py

A part stands between "<!-- generated: NAME -->" and "<!-- end of generated -->". tests/test_docs.py holds the
files to what this writes.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def parameters() -> str:
    """All parameters that are not hidden, by group, from nextflow_schema.json."""
    schema = json.loads((ROOT / "nextflow_schema.json").read_text(encoding="utf-8"))
    parts = []
    for group in schema["$defs"].values():
        shown = {name: spec for name, spec in group["properties"].items() if not spec.get("hidden")}
        if not shown:
            continue
        parts.append(f"## {group['title']}\n\n{group['description']}.\n")
        for name, spec in shown.items():
            about = [spec["type"]]
            if "enum" in spec:
                about = ["one of " + ", ".join(f"`{value}`" for value in spec["enum"])]
            if "minimum" in spec:
                about.append(f"at least {spec['minimum']}")
            if "maximum" in spec:
                about.append(f"at most {spec['maximum']}")
            if name in group.get("required", []) and "default" not in spec:
                about.append("required")
            if "default" in spec:
                about.append(f"default `{json.dumps(spec['default']).strip(chr(34))}`")
            parts.append(f"### `--{name}`\n\n{spec['description']}. ({', '.join(about)})\n")
            if "help_text" in spec:
                parts.append(f"{spec['help_text']}\n")
    return "\n".join(parts)


def columns() -> str:
    """The samplesheet's columns, from assets/schema_input.json."""
    schema = json.loads((ROOT / "assets" / "schema_input.json").read_text(encoding="utf-8"))["items"]
    rows = [_row("column", "", "holds"), _row("---", "---", "---")]
    for name, spec in schema["properties"].items():
        required = "required" if name in schema["required"] else ""
        rows.append(_row(f"`{name}`", required, spec["errorMessage"].removeprefix("expected ")))
    return "\n".join(rows) + "\n"


def faults() -> str:
    """All codes of powerpixels.fault_codes."""
    from powerpixels.fault_codes import CODES

    return "\n".join(
        f"### {code}\n\n{known.meaning}\n\n**What to do:** {known.advice}\n" for code, known in CODES.items()
    )


def published() -> str:
    """What each stage publishes, from powerpixels.manifest."""
    from powerpixels.manifest import PUBLISHED

    names = {"{probe/}": "<probe>/", "{probe}": "<probe>", "{unit/}": "<unit>/", "{unit}": "<unit>"}
    rows = [_row("stage", "files", "what it is"), _row("---", "---", "---")]
    for stage, entries in PUBLISHED.items():
        for _, target, what in entries:
            for name, shown in {**names, "{sorter}": "<sorter>", r"\1": "*"}.items():
                target = target.replace(name, shown)
            rows.append(_row(stage, f"`{target}`", what))
    return "\n".join(rows) + "\n"


def commands() -> str:
    """The subcommands of powerpixels, as its own help lists them."""
    import contextlib
    import io

    from powerpixels import cli

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        cli.main(["--help"])
    text = told.getvalue().partition("COMMAND\n")[2]
    found = re.findall(r"^    ([a-z-]+)\s+(.*(?:\n {8,}.*)*)", text, re.MULTILINE)
    rows = [_row("command", "to"), _row("---", "---")]
    rows += [_row(f"`{name}`", " ".join(what.split())) for name, what in found]
    return "\n".join(rows) + "\n"


def benchmarks() -> str:
    """The scripts of benchmarks/ with the first line of each docstring."""
    rows = [_row("script", "measures"), _row("---", "---")]
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        rows.append(_row(f"`benchmarks/{path.name}`", " ".join(told.split("\n\n")[0].split())))
    return "\n".join(rows) + "\n"


PARTS = {
    "benchmarks": benchmarks,
    "columns": columns,
    "commands": commands,
    "faults": faults,
    "parameters": parameters,
    "published": published,
}


def generated(text: str) -> str:
    """The text of a page with its generated parts as they should be."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", text)


def main() -> None:
    """Write every page anew."""
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
