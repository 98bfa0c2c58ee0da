"""What can be checked of docker/ without a container engine."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from rlpost.config.compose import compose_stage

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"


def commands() -> list[str]:
    """Every `rlpost ...` that a file of docker/ would run."""
    compose_file = (DOCKER / "compose.yaml").read_text()
    found = re.findall(r"rlpost rl experiment=\S+(?: \S+=\S+)*", compose_file)
    for document in yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text()):
        if document["kind"] == "RayJob":
            found.append(document["spec"]["entrypoint"])
    for dockerfile in DOCKER.glob("*.Dockerfile"):
        found += re.findall(r"rlpost rl experiment=\S+", dockerfile.read_text())
    return found


def test_every_command_composes():
    assert len(commands()) == 4
    for command in commands():
        _, stage, *overrides = shlex.split(command)
        compose_stage(overrides, stage=stage)


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda p: p.name)
def test_images_take_the_steps_of_make(dockerfile):
    text = dockerfile.read_text()
    targets = re.findall(r"make (setup\S*)", text.split("FROM", 1)[1])
    assert targets
    for target in targets:
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", ".cache", "runs", ".git"} <= set(ignored)


def test_the_cluster_has_three_nodes_and_one_secret():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert 1 + services["worker"]["deploy"]["replicas"] == 3
    for service in services.values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN:?" in service["environment"]["RAY_AUTH_TOKEN"]


def test_the_manifest_asks_for_the_ray_that_is_locked():
    (job,) = (
        document
        for document in yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
        if document["kind"] == "RayJob"
    )
    locked = re.search(r"^ray==(\S+)$", (ROOT / "requirements/cpu.lock").read_text(), re.M)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked[1]
    pods = [job["spec"]["rayClusterSpec"]["headGroupSpec"]]
    pods += job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = [
        int(pod["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for pod in pods
    ]
    assert gpus == [8, 8]  # trainer.num_ranks and generator.num of the entrypoint
