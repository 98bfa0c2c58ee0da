"""Boundaries between the packages: what importing each one really loads, and unique class names.

import-linter (pyproject.toml) reads the source; this file runs it, because a third party or an
indirect import can load packages that no line of ours names.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlpost

PACKAGE = Path(rlpost.__file__).parent
PURE = (
    "checkpoint", "config", "control", "data", "doctor", "errors", "evaluation", "registry",
    "tracking", "types", "verifiers",
)  # fmt: skip
HEAVY = ("deepspeed", "ray", "torch", "vllm")
# A name of these in the path of a file is the permission to use it.
NAMED = ("deepspeed", "vllm")


def modules(*rooms: str) -> Iterator[str]:
    """Dotted names of every module of ``rooms``; all of rlpost when none is named."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("rlpost", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        if not rooms or (name.split(".")[1:2] and name.split(".")[1] in rooms):
            yield name


def loaded_by(imports: list[str]) -> set[str]:
    """Which heavy packages a fresh interpreter holds after importing ``imports``."""
    code = (
        "import importlib, sys\n"
        f"for name in {imports!r}: importlib.import_module(name)\n"
        f"print(*[n for n in {HEAVY!r} if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def culprits(names: list[str], forbidden: set[str]) -> dict[str, set[str]]:
    """Each module of ``names`` that loads something forbidden when imported alone."""
    found = {name: loaded_by([name]) & forbidden for name in names}
    return {name: heavy for name, heavy in found.items() if heavy}


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_loads_nothing_heavy(room):
    names = list(modules(room))
    # config composes dataclasses of every room, so it may meet torch; never the engines.
    forbidden = set(HEAVY) - ({"torch"} if room == "config" else set())
    if loaded_by(names) & forbidden:
        pytest.fail(f"importing these loads: {culprits(names, forbidden)}")


def test_no_module_loads_an_engine_unless_named_for_it():
    names = [name for name in modules() if not any(word in name for word in NAMED)]
    forbidden = {"ray", "vllm", "deepspeed"}
    if loaded_by(names) & forbidden:
        pytest.fail(f"importing these loads: {culprits(names, forbidden)}")


def test_the_measure_sees_what_it_forbids():
    assert loaded_by(["torch"]) == {"torch"}
    assert loaded_by(["json"]) == set()


def imported(source: str) -> set[str]:
    """Top-level packages that ``source`` imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("engine", NAMED)
def test_engines_are_imported_only_in_files_and_folders_named_for_them(engine):
    users = [p for p in PACKAGE.rglob("*.py") if engine in imported(p.read_text())]
    paths = [str(path.relative_to(PACKAGE)) for path in users]
    assert not [path for path in paths if engine not in path]


def test_imports_inside_functions_are_seen():
    assert imported("def f():\n    from vllm.config import x\n    import os.path") == {"vllm", "os"}


# Arguments that let loaded data run code; ruff's rules (pyproject.toml) know more functions.
EXECUTES = {("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True)}


def executing_calls(source: str) -> list[str]:
    """Calls in ``source`` that let what they load run code."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        words = {
            (word.arg, word.value.value)
            for word in call.keywords
            if isinstance(word.value, ast.Constant)
        }
        unsafe = ast.unparse(call.func) == "torch.load" and ("weights_only", True) not in words
        if unsafe or words & EXECUTES:
            found.append(ast.unparse(call))
    return found


def test_nothing_that_is_loaded_can_run_code():
    found = {str(path): executing_calls(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("np.load(path, allow_pickle=True)", True),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", True),
        ("AutoModel.from_pretrained(path)", False),
    ],
)
def test_calls_that_let_data_run_code_are_seen(call, found):
    assert bool(executing_calls(call)) is found


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle\npickle.loads(b'')", "S301"),
        ("import yaml\nyaml.load('x', yaml.Loader)", "S506"),
        ("import marshal\nmarshal.loads(b'')", "S302"),
        ("eval('1')", "S307"),
        ("exec('1')", "S102"),
    ],
)
def test_the_linter_refuses_loads_that_run_code(source, rule):
    place = PACKAGE / "data" / "some_file.py"
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", str(place), "-"]
    result = subprocess.run(
        command, input=source, capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert rule in result.stdout


def test_every_directory_is_a_package():
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


def test_package_inits_stay_nearly_empty():
    for path in PACKAGE.rglob("__init__.py"):
        assert len(path.read_text().splitlines()) <= 20, path


HELP = """
import contextlib, io, sys
before = set(sys.modules)
from rlpost.cli.main import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])
{more}
packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*packages - set(sys.stdlib_module_names))
"""


@pytest.mark.parametrize("more", ["", "import yaml"])
def test_help_waits_for_no_package(more):
    result = subprocess.run(
        [sys.executable, "-c", HELP.format(more=more)],
        capture_output=True, text=True, check=True, cwd=PACKAGE.parent,
    )  # fmt: skip
    assert (set(result.stdout.split()) == {"rlpost"}) is (not more), result.stdout


def repeated_classes(sources: list[str]) -> set[str]:
    """Names of public classes that ``sources`` define more than once."""
    names = Counter(
        node.name
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name for name, count in names.items() if count > 1}


def test_a_class_name_has_one_meaning():
    assert not repeated_classes([path.read_text() for path in PACKAGE.rglob("*.py")])


def test_a_class_name_with_two_meanings_is_seen():
    assert repeated_classes(["class Span: pass", "class Span: pass\nclass _Side: pass"]) == {"Span"}
