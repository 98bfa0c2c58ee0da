"""A stranger in an empty directory, with nothing but the README's section "Your own task".

Files are written and commands run as they stand there, in one shell; the embedded model is used.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_COMMANDS = 5


def section(title: str) -> str:
    text = (ROOT / "README.md").read_text()
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files(text: str) -> dict[str, str]:
    """Contents of the data and Python blocks, by the file that was named last before each."""
    found = {}
    for block in re.finditer(r"```(?:json|python)\n(.*?)```", text, re.S):
        named = re.findall(r"`([\w.]+\.(?:jsonl|py))`", text[: block.start()])
        found[named[-1]] = block[1]
    return found


def commands(text: str) -> list[str]:
    """The commands of the bash blocks, each with the lines it goes on over."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    return re.findall(r"(?:.*\\\n)*.*\n", blocks)


@pytest.mark.timeout(900)
def test_the_own_task_of_the_readme(tmp_path):
    text = section("Your own task")
    export_path, *own = commands(text)
    assert export_path.startswith("export PATH=") and len(own) <= MAX_COMMANDS
    assert files(text).keys() == {"train.jsonl", "heldout.jsonl", "rewards.py"}
    for name, content in files(text).items():
        (tmp_path / name).write_text(content)
    # Into files: the server, which the shell leaves running, would hold a pipe open.
    said, complained = tmp_path / "stdout", tmp_path / "stderr"
    with said.open("w") as out, complained.open("w") as err:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "".join(own)],
            cwd=tmp_path,
            env=stranger_environment(),
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout=800)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert code == 0, complained.read_text()[-3000:]
    check_run(tmp_path / "runs" / "own")
    output = said.read_text()
    answer = json.loads(output[output.index('{"id"') :].splitlines()[0])
    assert answer["choices"][0]["message"]["content"].strip()


def stranger_environment() -> dict[str, str]:
    """Nothing of the suite's: no variable of ours or of Python's."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}


def check_run(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for name in ("correct", "short"):
        assert all(f"verifier/{name}/mean" in row for row in rows[1:])
    assert any(key.startswith("val-core/heldout/") for key in rows[0])
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "export" / "model.safetensors").is_file()
