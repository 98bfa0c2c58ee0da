"""What the hardware can do at best: the numbers of makers' data sheets, and what was measured.

Owns the table. Refuses to own how much of it a run reaches (efficiency.py).

Sources: data sheets of NVIDIA (A100, H100, H200, B200, GB200, L40S) and AMD (MI300X) for the dense
bfloat16 peak, memory and links; H20 by the public reports of its users, because NVIDIA has no data
sheet of it. ``matmul_flops`` is the best product of two large matrices that anybody measured
("maximum achievable matmul FLOPS" in S. Bekman's Machine Learning Engineering,
compute/accelerator, 2026-08: A100 271, H100 794.5, "H200 is the same", B200 1745, GB200 1822,
MI300X 668 TFLOP/s); of L40S and H20 nobody listed one, so they get the H100's share of the peak.
CPUs: docs/benchmarks.md.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

GB, GIB = 10**9, 2**30
_H100_SHARE = 0.80
_H100_ATTENTION = 335 / 794.5


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """One accelerator, or the cores of one machine together; rates are per second."""

    name: str
    pattern: str  # regular expression that a driver's name of it holds, in whole words
    peak_flops: float  # bfloat16, dense
    matmul_flops: float  # that a product of large matrices reaches
    attention_flops: float  # that attention reaches, forwards and backwards
    memory_bytes: float
    memory_bandwidth: float  # bytes
    link_bandwidth: float  # bytes one way to others of its node
    network_bandwidth: float  # bytes one way to other nodes
    per_link_domain: int = 8  # devices that the fast link joins
    fp8: bool = True  # its products in fp8 have twice the rate
    power_bound: bool = True  # long rows of products run into its limit of power, and clocks fall
    on_gpu: bool = True


def _gpu(name: str, pattern: str, peak: float, matmul: float, gib: float, *, tbps: float,
         link: float, network: float = 50, domain: int = 8,
         attention: float | None = None, fp8: bool = True,
         power_bound: bool = True) -> DeviceSpec:  # fmt: skip
    """Peaks in TFLOP/s, memory in GiB, links in GB/s one way."""
    return DeviceSpec(
        name=name,
        pattern=pattern,
        peak_flops=peak * 1e12,
        matmul_flops=matmul * 1e12,
        attention_flops=1e12 * (_H100_ATTENTION * matmul if attention is None else attention),
        memory_bytes=gib * GIB,
        memory_bandwidth=tbps * 1e12,
        link_bandwidth=link * GB,
        network_bandwidth=network * GB,
        per_link_domain=domain,
        fp8=fp8,
        power_bound=power_bound,
    )


def _ampere(name: str, pattern: str, *, gib: float, tbps: float, link: float) -> DeviceSpec:
    """One of the chips of an A100, which keep their clock at 400 W."""
    return _gpu(
        name, pattern, 312, 271, gib, tbps=tbps, link=link, network=25, attention=200,
        fp8=False, power_bound=False,
    )  # fmt: skip


# The first whose pattern occurs, in whole words, decides.
DEVICES = (
    _gpu("h100_pcie", "H100 PCIe", 756, 605, 80, tbps=2.0, link=64),
    _gpu("h100_nvl", "H100 NVL", 835, 668, 94, tbps=3.9, link=300),
    _gpu("h100", "H100", 989, 794.5, 80, tbps=3.35, link=450),
    _gpu("h200", "H200", 989, 794.5, 141, tbps=4.8, link=450),
    _gpu("h800", "H800", 989, 794.5, 80, tbps=3.35, link=200),
    _gpu("h20", "H20", 148, 148 * _H100_SHARE, 96, tbps=4.0, link=450, power_bound=False),
    _gpu("gb200", "GB200", 2500, 1822, 186, tbps=8.0, link=900, domain=72),
    _gpu("b200", "B200", 2250, 1745, 180, tbps=8.0, link=900),
    _ampere("a100_40gb", r"A100-\w+-40GB", gib=40, tbps=1.555, link=300),
    _ampere("a100", "A100", gib=80, tbps=2.0, link=300),
    _ampere("a800", "A800", gib=80, tbps=2.0, link=200),
    _gpu("l40s", "L40S", 362, 362 * _H100_SHARE, 48, tbps=0.864, link=32, network=12.5),
    _gpu("l40", "L40", 181, 181 * _H100_SHARE, 48, tbps=0.864, link=32, network=12.5),
    _gpu("l4", "L4", 121, 121 * _H100_SHARE, 24, tbps=0.3, link=32, network=12.5),
    _gpu("a10g", "A10G", 70, 56, 24, tbps=0.6, link=32, network=12.5, fp8=False),
    _gpu("a10", "A10", 125, 100, 24, tbps=0.6, link=32, network=12.5, fp8=False),
    _gpu("rtx4090", "RTX 4090", 165, 132, 24, tbps=1.008, link=32, network=1.25),
    _gpu("mi300x", "MI300X", 1307, 668, 192, tbps=5.3, link=448),
)
BY_NAME = {each.name: each for each in DEVICES}


def device_named(name: str) -> DeviceSpec | None:
    """Return the device that a driver's name means; None: it is not in the table.

    Example: ``device_named("NVIDIA H100 80GB HBM3").name == "h100"``
    """
    return next((d for d in DEVICES if re.search(rf"\b{d.pattern}\b", name)), None)


# Operations a second of one core of a CPU, in this trainer and this engine as a whole, by what its
# processor features and the format of the weights allow: docs/benchmarks.md, two cores of EPYC with
# avx512_bf16 (5.3 processor seconds for 1.24e12 operations), of Xeon with AMX, and in float32.
_CORE_FLOPS = (("avx512_bf16", 230e9), ("amx_bf16", 165e9))
_CORE_FLOPS_FLOAT32 = 55e9
_CPU_BANDWIDTH = 10e9  # bytes a second, of one virtual machine


def cpu(*, cores: float, features: Collection[str], bfloat16: bool) -> DeviceSpec:
    """Return ``cores`` of a CPU as one device.

    Args:
        cores: that work together.
        features: instruction sets of the processor, as in ``/proc/cpuinfo``.
        bfloat16: weights and values are in bfloat16; else in float32.
    """
    rates = [rate for name, rate in _CORE_FLOPS if bfloat16 and name in features]
    flops = cores * (rates[-1] if rates else _CORE_FLOPS_FLOAT32)
    return DeviceSpec(
        name=f"{cores:g} cores",
        pattern="",
        peak_flops=flops,
        matmul_flops=flops,
        attention_flops=flops,
        memory_bytes=0.0,
        memory_bandwidth=_CPU_BANDWIDTH,
        link_bandwidth=_CPU_BANDWIDTH,
        network_bandwidth=1.25 * GB,
        fp8=False,
        on_gpu=False,
    )
