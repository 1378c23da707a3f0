"""The house keeps to its plan: docs/architecture.md has the tables, and the imports are held against them."""

from __future__ import annotations

import ast
import fnmatch
import functools
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lora_train"
PLAN = ROOT / "docs" / "architecture.md"
SETTINGS = ROOT / "docs" / "settings.md"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
LINES, FUNCTION = 400, 60
STANDARD = sys.stdlib_module_names | {"tomllib"}  # since Python 3.11


def named(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the plan, without its head."""
    text = PLAN.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def floors() -> dict[str, int]:
    """File -> its floor. A file stands where the plan's longest pattern for it says."""
    patterns = {glob: int(row[0]) for row in table("Floors") for glob in quoted(row[2])}
    found = {}
    for path in FILES:
        fitting = [glob for glob in patterns if fnmatch.fnmatchcase(named(path), glob)]
        if fitting:
            found[named(path)] = patterns[max(fitting, key=len)]
    return found


@functools.cache
def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """(module imported, whether when the file is loaded), wherever in the file it stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{named(path)}: a relative import hides who knows whom"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(name, id(node) not in inner) for name in names]
    return found


def ours(module: str) -> str | None:
    """The file of the package that an imported name comes from."""
    words = module.split(".")
    if words[0] != "lora_train":
        return None
    for end in (len(words), len(words) - 1):  # a module, or a name in one
        path = PACKAGE.joinpath(*words[1:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if end > 1 and file.is_file():
                return named(file)
    return "__init__.py"


@functools.cache
def known() -> dict[str, set[str]]:
    """File -> the files it imports, for annotations and inside functions too: to name is to know."""
    return {named(p): {file for m, _ in imports(p) if (file := ours(m))} - {named(p)} for p in FILES}


def test_every_file_stands_on_a_floor():
    homeless = [named(path) for path in FILES if named(path) not in floors()]
    assert not homeless, f"add them to the table of floors in {PLAN.name}: {homeless}"


def test_every_pattern_of_the_plan_has_a_file():
    empty = [
        glob
        for row in table("Floors")
        for glob in quoted(row[2])
        if not any(fnmatch.fnmatchcase(named(path), glob) for path in FILES)
    ]
    assert not empty, f"the table of floors in {PLAN.name} names what is not there: {empty}"


def test_imports_go_only_downward():
    upward = [
        f"{file} (floor {floors()[file]}) imports {other} (floor {floors()[other]})"
        for file, others in known().items()
        for other in others
        if floors()[other] > floors()[file]
    ]
    assert not upward, "\n".join(upward)


def test_no_circle_of_imports():
    left = {file: set(others) for file, others in known().items()}
    while free := [file for file, others in left.items() if not others & left.keys()]:
        for file in free:
            del left[file]
    assert not left, f"these know each other: {sorted(left)}"


def test_foreign_packages_only_in_their_rooms():
    """`in functions`: optional, so that the file loads where the package is not installed."""
    rooms = {name: (quoted(row[1]), row[2]) for row in table("Rooms") for name in quoted(row[0])}
    wrong = []
    for path in FILES:
        for module, at_load in imports(path):
            package = module.split(".")[0]
            if package in STANDARD or package == "lora_train":
                continue
            homes, how = rooms.get(package, ([], ""))
            if not any(fnmatch.fnmatchcase(named(path), glob) for glob in homes):
                wrong.append(f"{named(path)} imports {package}; its rooms are {homes}")
            elif how == "in functions" and at_load:
                wrong.append(f"{named(path)} imports {package} when it is loaded; import it where it is used")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["knobs.py", "values.py", "errors.py"])
def test_the_declarations_need_only_the_standard_library(name):
    outside = {m.split(".")[0] for m, _ in imports(PACKAGE / name)} - STANDARD
    assert outside <= {"lora_train"}


def test_no_file_is_longer_than_a_person_reads():
    long = {named(path): n for path in FILES if (n := len(path.read_text("utf-8").splitlines())) > LINES}
    assert not long, f"over {LINES} lines: {long}"


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{named(path)}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION
    ]
    assert not long, f"over {FUNCTION} lines: {long}"


def test_every_file_says_what_it_owns():
    silent = [
        named(path)
        for path in FILES
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, f"without a first line: {silent}"


def test_every_knob_has_help_and_a_group():
    from lora_train.job import Job, Output, Place
    from lora_train.knobs import settings

    every = [setting for part in (Job, Output, Place) for setting in settings(part)]
    assert every
    bare = [s.path for s in every if not s.help.strip() or not s.group.strip()]
    assert not bare, f"without help or group: {bare}"
    unfinished = [s.path for s in every if not s.help.rstrip().endswith((".", "?", ")"))]
    assert not unfinished, f"help is sentences: {unfinished}"


@pytest.mark.skipif(not SETTINGS.exists(), reason="docs/settings.md is not written yet")
def test_the_page_of_settings_is_fresh():
    from lora_train.cli import main

    assert main(["settings", "--check", str(SETTINGS)]) == 0, "run: lora-train settings > docs/settings.md"
