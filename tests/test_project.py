"""pyproject.toml, the lock and the wheel say the same thing."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlpost
from rlpost.config.search_path import config_dir
from rlpost.doctor.machine import lock_pins, normalized

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = lock_pins(ROOT / "requirements" / "cpu.lock")


def cpu_requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    chosen = [text for name in ("cpu", "sweep", "tracking", "dev") for text in extras[name]]
    texts = [*PROJECT["project"]["dependencies"], *chosen]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", cpu_requirements(), ids=lambda r: r.name)
def test_the_lock_satisfies_every_declared_range(requirement):
    version = LOCK[normalized(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True), version


# Modules of a distribution of another name, and those that come with one that is declared.
BROUGHT_BY = {
    "fastapi": "vllm", "flash_attn": None, "hydra": "hydra-core", "hydra_plugins": None,
    "latex2sympy2_extended": "math-verify", "markupsafe": "jinja2", "prometheus_client": "vllm",
    "pydantic": "vllm", "yaml": "pyyaml",
}  # fmt: skip


def imported() -> set[str]:
    """Top-level names of other packages' modules that the package imports anywhere."""
    found = set()
    for path in Path(rlpost.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"rlpost"}


def test_whatever_is_imported_is_declared():
    extras = PROJECT["project"]["optional-dependencies"].values()
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]
    declared = {normalized(Requirement(text).name) for text in texts}
    needed = {module: BROUGHT_BY.get(module, module) for module in imported()}
    assert len(needed) > 20  # negative control: the search finds something
    assert {m: by for m, by in needed.items() if by and normalized(by) not in declared} == {}


def test_rooms_named_in_the_contracts_are_the_rooms_there_are():
    linter = {c["id"]: c for c in PROJECT["tool"]["importlinter"]["contracts"]}
    there = {f"rlpost.{p.stem}" for p in Path(rlpost.__file__).parent.iterdir()
             if p.suffix == ".py" or (p / "__init__.py").is_file()}  # fmt: skip
    there.discard("rlpost.__init__")
    assert set(linter["ray"]["source_modules"]) == there - {"rlpost.cluster", "rlpost.launch"}
    pure = set(linter["torch"]["source_modules"])
    checked = set(PROJECT["tool"]["mypy"]["packages"]) | set(PROJECT["tool"]["mypy"]["modules"])
    assert pure <= checked <= there


def test_configs_are_found_in_the_checkout():
    assert config_dir() == ROOT / "configs"
    assert (config_dir() / "experiment").is_dir()


def test_a_wheel_carries_the_configs_and_finds_them(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", str(tmp_path), copy_of_checkout(tmp_path)],
        check=True, capture_output=True, timeout=120, text=True,
    )  # fmt: skip
    assert "is absent from the `packages` configuration" not in built.stdout + built.stderr
    (wheel,) = tmp_path.glob("rlpost-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    tree = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    assert {f"rlpost/{name}" for name in tree} <= names
    package = Path(rlpost.__file__).parent
    files = [p for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert {f"rlpost/{p.relative_to(package).as_posix()}" for p in files} <= names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)
    found = subprocess.run(
        [sys.executable, "-c", "from rlpost.config.search_path import config_dir as c; print(c())"],
        env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path, text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site" / "rlpost" / "configs")


def copy_of_checkout(target: Path) -> str:
    """What a build needs, copied, so that building leaves nothing in the checkout."""
    import shutil

    source = target / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("rlpost", "hydra_plugins", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    return str(source)


def test_entry_points_name_things_that_exist():
    scripts = PROJECT["project"]["scripts"]
    plugins = PROJECT["project"]["entry-points"]["vllm.general_plugins"]
    for target in [*scripts.values(), *plugins.values()]:
        module, _, function = target.partition(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert f"def {function}(" in source


def test_readme_is_short_and_its_commands_exist():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    makefile = (ROOT / "Makefile").read_text()
    for target in ("quickstart", "test"):
        assert f"make {target}" in text
        assert f"\n{target}: " in makefile


PRELUDE = """
from dataclasses import dataclass
from rlpost.algorithms.losses import *
from rlpost.algorithms.losses import ratio, ratio_diagnostics
from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.preference import *
from torch import Tensor
from rlpost.bounds import number
from rlpost.verifiers.base import *
"""
USE = """
import torch
lp = torch.tensor([-1.0, -2.0])
inputs = PolicyLossInputs(policy_logprobs_R=lp, anchor_logprobs_R=lp,
    advantages_R=torch.tensor([1.0, -2.0]), item_R=torch.zeros(2, dtype=torch.int64))
entry = losses.get("squared")
assert entry.target(inputs, entry.config()).values_R.tolist() == [0.5, 2.0]
entry = preference_losses.get("target")
objective = PreferenceObjective(loss=entry.config())
answers = Outputs(scores_R=torch.tensor([-1.0, -3.0]))
columns = {"weight_U": torch.ones(1), "ref_logprobs_R": torch.tensor([-2.0, -2.0])}
numbers = {"item_R": torch.tensor([0, 1]), "unit_I": torch.tensor([0, 0])}
pair = LossBatch(**numbers, num_items=2, num_units=1, columns=columns)
assert abs(objective(answers, pair).total(pair).item() - (0.1 * 2 - 1) ** 2) < 1e-6
entry = verifiers.get("starts")
judge = entry.target(entry.config())
assert [judge(Sample(prompt="", text=t, columns={"answer": "6"})) for t in ("6!", "5")] == [1, 0]
"""


def test_the_readmes_examples_work_as_printed():
    text = (ROOT / "README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    rewards, *blocks = blocks  # run by tests/operations/test_own_task.py
    assert "def correct" in rewards and len(blocks) == 3
    code = "\n".join([PRELUDE, *blocks, USE])
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
