"""`make release-check` refuses what was not run with today's sources, and nothing else."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("matrix", ROOT / "scripts" / "matrix.py")
assert spec is not None and spec.loader is not None
matrix = importlib.util.module_from_spec(spec)
sys.modules["matrix"] = matrix
spec.loader.exec_module(matrix)

SUITES = """
[runs]
what = "a program ends well"
command = "{python} source/program.py {scratch}"
sources = ["source", "lock"]
minutes = 7
"""
PROGRAM = "import pathlib, sys; assert not list(pathlib.Path(sys.argv[1]).iterdir())\n"


@pytest.fixture
def checkout(tmp_path):
    """A repository with one suite that was never run."""
    files = {
        "scripts/matrix.toml": SUITES,
        "docs/matrix.json": "{}",
        "source/program.py": PROGRAM,
        "lock": "1\n",
        "other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def check(checkout) -> int:
    return matrix.main(["check"], checkout)


def test_a_suite_counts_until_its_sources_change(checkout, capsys):
    assert check(checkout) == 1
    assert "runs: it was never run; a program ends well" in (said := capsys.readouterr().out)
    assert "make matrix SUITES=runs    # about 7 minutes" in said
    assert matrix.main(["run"], checkout) == 0
    assert check(checkout) == 0
    assert "1 of 1 suites passed" in capsys.readouterr().out
    (checkout / "other.py").write_text("changed")  # the negative control: no source of it
    (checkout / "source" / "left.log").write_text("git does not track it")
    assert check(checkout) == 0
    (checkout / "lock").write_text("2\n")
    assert check(checkout) == 1
    assert "runs: its sources changed since it was run" in capsys.readouterr().out
    (checkout / "lock").write_text("1\n")
    assert check(checkout) == 0


def test_a_moved_source_is_a_change(checkout):
    assert matrix.main(["run"], checkout) == 0
    subprocess.run(["git", "mv", "lock", "source/lock"], cwd=checkout, check=True)
    (checkout / "lock").write_text("")
    subprocess.run(["git", "add", "lock"], cwd=checkout, check=True)
    assert check(checkout) == 1


def test_a_suite_that_fails_is_recorded_and_refused(checkout, capsys):
    (checkout / "source" / "program.py").write_text("raise SystemExit(3)")
    assert matrix.main(["run", "runs"], checkout) == 1
    assert check(checkout) == 1
    assert "runs: it failed with these sources" in capsys.readouterr().out


def test_sources_that_change_during_a_run_leave_no_result(checkout, capsys):
    (checkout / "source" / "program.py").write_text("open('lock', 'w').close()")
    assert matrix.main(["run"], checkout) == 1
    assert "changed while it ran" in capsys.readouterr().out
    assert json.loads((checkout / "docs" / "matrix.json").read_text()) == {}


def test_a_wrong_name_is_refused(checkout, capsys):
    with pytest.raises(SystemExit):
        matrix.main(["run", "walks"], checkout)
    assert "no suites ['walks']; matrix.toml has ['runs']" in capsys.readouterr().err
    toml = checkout / "scripts" / "matrix.toml"
    toml.write_text(toml.read_text().replace('"lock"', '"lok"'))
    with pytest.raises(SystemExit, match=r"runs\.sources: git tracks no lok"):
        matrix.main(["run"], checkout)


def test_the_suites_of_this_checkout_exist_and_depend_on_what_they_run():
    ours = matrix.Matrix(ROOT)
    assert ours.suites and ours.results().keys() <= ours.suites.keys()
    for suite in ours.suites.values():
        words = shlex.split(" ".join(shlex.split(suite.command)))
        scripts = {word for word in words if (ROOT / word).exists()}
        assert scripts and scripts <= set(suite.sources), suite.name
        suite.sources_hash(ROOT)
