"""Which differences between nodes keep a job from starting, and who is named."""

from dataclasses import replace

import pytest

from rlpost.doctor import node_checks
from rlpost.doctor.checks import Level
from rlpost.doctor.machine import Gpu
from rlpost.doctor.node_reading import NodeReading

GB = 10**9
H100 = Gpu(name="NVIDIA H100", memory_mib=81_559, used_mib=300, driver="580.95.05")
GOOD = NodeReading(
    name="n1",
    versions={"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"},
    disks={"/tmp": 50 * GB},
    taken_ports=[],
    interface="ib0",
    gpus=[H100],
    torch_cuda="13.0",
    promised_gpus=1,
)


def two(**differences) -> dict[str, NodeReading]:
    return {"n1": GOOD, "n2": replace(GOOD, name="n2", **differences)}


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (node_checks.presence(["n1", "n2"], two()), Level.OK, ""),
        (node_checks.presence(["n1", "n2", "n3"], two()), Level.BLOCK, "--exclude=n3"),
        (node_checks.versions(two()), Level.OK, ""),
        (
            node_checks.versions(two(versions={**GOOD.versions, "torch": "2.12.0"})),
            Level.BLOCK,
            "torch 2.12.0 on n2, 2.13.0 on n1",
        ),
        (
            node_checks.versions(two(versions={"python": "3.11.7", "torch": "2.13.0"})),
            Level.BLOCK,
            "ray 2.60.0 on n1, absent on n2",
        ),
        (node_checks.disks(two()), Level.OK, ""),
        (node_checks.disks(two(disks={"/tmp": 5 * GB})), Level.WARN, "n2:/tmp"),
        (node_checks.disks(two(disks={"/tmp": 1 * GB})), Level.BLOCK, "n2:/tmp"),
        (node_checks.ports(two()), Level.OK, ""),
        (node_checks.ports(two(taken_ports=[20_006])), Level.BLOCK, "n2:20006"),
        (node_checks.network(two()), Level.OK, ""),
        (
            node_checks.network(two(interface="", network_error="no route")),
            Level.BLOCK,
            "n2 (no route)",
        ),
        (node_checks.gpus(two()), Level.OK, ""),
        (node_checks.gpus(two(gpus=[])), Level.BLOCK, "n2: 0 of 1 promised"),
        (node_checks.gpus(two(gpus=[], promised_gpus=0)), Level.OK, ""),
        (node_checks.gpus(two(gpus=[], gpu_error="GPU is lost")), Level.BLOCK, "n2: nvidia-smi"),
        (
            node_checks.gpus(two(gpus=[replace(H100, uncorrected_errors=2)])),
            Level.BLOCK,
            "2 memory",
        ),
        (node_checks.gpus(two(gpus=[replace(H100, used_mib=9_000)])), Level.WARN, "9000 MiB"),
        (node_checks.gpus(two(torch_cuda=None)), Level.WARN, "n2: torch is a build for CPUs"),
        (
            node_checks.gpus(two(gpus=[replace(H100, driver="550.54.15")])),
            Level.WARN,
            "n2: torch is built for CUDA 13.0, which needs a driver of the 580 series",
        ),
        (node_checks.collective(["n1", "n2"], {"n1": "3.0", "n2": "3.0"}, two()), Level.OK, ""),
        (
            node_checks.collective(["n1", "n2"], {"n1": "3.0"}, two()),
            Level.BLOCK,
            "over ib0 failed on n2 (no answer)",
        ),
        (
            node_checks.collective(["n1", "n2"], {"n1": "3.0", "n2": "1.0"}, two()),
            Level.BLOCK,
            "(1.0)",
        ),
        (node_checks.clocks({"n1": 100.0, "n2": 100.5}), Level.OK, ""),
        (node_checks.clocks({"n1": 100.0, "n2": 103.5}), Level.WARN, "n2 is 3.5 s ahead of n1"),
        (node_checks.clocks({"n1": 200.0, "n2": 100.0}), Level.BLOCK, "n1 is 100.0 s ahead of n2"),
    ],
)
def test_levels(finding, level, words):
    assert finding.level is level, finding
    assert words in finding.advice
    assert (finding.advice == "") == (level is Level.OK)


def test_what_was_not_tried_is_not_judged():
    findings = list(node_checks.judge(["n1", "n2"], {"n1": GOOD}, sums={}, clocks_s={}))
    assert [each.name for each in node_checks.lacking(findings)] == ["nodes"]
    assert not {"collective", "clocks"} & {each.name for each in findings}
