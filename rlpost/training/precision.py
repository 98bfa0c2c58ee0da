"""Which dtype and device a process computes with.

Owns the reading of the hardware. Refuses to own the engine.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlpost.training.settings import DType

_NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def compute_device() -> torch.device:
    """Return this process's GPU (Ray shows each actor its own), or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if has_cuda() else torch.device("cpu")


def has_cuda() -> bool:
    return torch.cuda.is_available()


def on_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy to ``device`` without waiting for the work that is queued there."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def has_native_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the hardware multiplies in bfloat16; where it does not, float32 is faster."""
    if has_cuda():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(_NATIVE_BF16_FLAGS & _cpu_flags(cpuinfo))


def has_avx512(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has AVX-512."""
    return "avx512f" in _cpu_flags(cpuinfo)


def _cpu_flags(cpuinfo: Path) -> set[str]:
    if not cpuinfo.is_file():
        return set()
    flags = (line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    return set(next(flags, "").split())


def resolve_dtype(dtype: DType) -> torch.dtype:
    """Turn the configured dtype into torch's; ``auto`` asks this machine."""
    match dtype:
        case DType.float32:
            return torch.float32
        case DType.bfloat16:
            return torch.bfloat16
        case DType.auto:
            return torch.bfloat16 if has_native_bfloat16() else torch.float32
