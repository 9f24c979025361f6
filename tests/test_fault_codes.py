"""Every fault code that the package gives is explained, and none besides."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from powerpixels.fault_codes import CODES

PACKAGE = Path(__file__).resolve().parent.parent / "bin" / "powerpixels"
# Reads no input of users: it makes some.
NOT_READERS = {"layouts.py", "simulate.py"}
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def parameters_called_code(trees: list[ast.Module]) -> dict[str, int]:
    """Functions and classes that take a fault's code: the place of that argument in a call."""
    places = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
                if "code" in fields:
                    places[node.name] = fields.index("code")
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                        names = [argument.arg for argument in item.args.args][1:]
                        if "code" in names:
                            places[node.name] = names.index("code")
            elif isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args]
                names = names[1:] if names[:1] == ["self"] else names
                if "code" in names:
                    places[node.name] = names.index("code")
    return places


def constants(node: ast.AST) -> set[str]:
    found = (item.value for item in ast.walk(node) if isinstance(item, ast.Constant))
    return {value for value in found if isinstance(value, str) and CODE.fullmatch(value)}


def codes_given() -> dict[str, str]:
    """Each code that is passed to a Fault, an error or a helper of theirs, and a file that does.

    A variable named code counts as passed.
    """
    files = [path for path in sorted(PACKAGE.glob("*.py")) if path.name not in NOT_READERS]
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    places = parameters_called_code(list(trees.values()))
    given = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
                given.update(dict.fromkeys(constants(node.value), name))
            if not isinstance(node, ast.Call):
                continue
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            arguments = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if function in places and len(node.args) > places[function]:
                arguments.append(node.args[places[function]])
            for argument in arguments:
                given.update(dict.fromkeys(constants(argument), name))
    return given


def test_every_code_is_explained_and_none_besides():
    given = codes_given()
    # the search itself works: codes by keyword, by a helper's argument and by an error's
    assert {"ALL_ZERO", "NO_PROBE", "META_UNREADABLE", "UNKNOWN_PROBE"} <= given.keys()
    assert {code: file for code, file in given.items() if code not in CODES} == {}
    assert CODES.keys() - given.keys() == set()


def test_explanations_are_sentences():
    assert list(CODES) == sorted(CODES)
    for code, (meaning, advice) in CODES.items():
        assert CODE.fullmatch(code)
        for text in (meaning, advice):
            assert re.fullmatch(r"[A-Z].*[^.]\.", text), (code, text)
