"""Every shell script of the project is read by ShellCheck."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for folder in ("launch", "scripts", "docker", ".ci")
    for pattern in ("*.sh", "*.sbatch", "run")
    for path in (ROOT / folder).rglob(pattern)
)

pytestmark = pytest.mark.skipif(
    shutil.which("shellcheck") is None,
    reason="ShellCheck is missing here (Debian: apt-get install shellcheck)",
)


def shellcheck(path: Path) -> subprocess.CompletedProcess[str]:
    command = ["shellcheck", "--external-sources", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_finds_nothing(path):
    result = shellcheck(path)
    assert result.returncode == 0, result.stdout


def test_the_scripts_that_start_jobs_are_among_them():
    names = {path.name for path in SCRIPTS}
    assert {"train.sbatch", "sweep.sbatch", "lib.sh", "setup.sh", "test_deps.sh"} <= names


def test_a_fault_would_be_found(tmp_path):
    (tmp_path / "bad.sh").write_text("#!/bin/sh\nrm -rf $1/*\n")
    assert shellcheck(tmp_path / "bad.sh").returncode == 1
