"""The dtype that ``auto`` picks follows the processor's flags."""

import pytest
import torch

from rlpost.training.precision import has_cuda, has_native_bfloat16, resolve_dtype
from rlpost.training.settings import DType


@pytest.mark.skipif(has_cuda(), reason="CUDA decides before the processor's flags")
@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu amx_bf16", True),
        ("fpu avx2 avx512f avx512_bf16_not", False),
        ("", False),
    ],
)
def test_native_bfloat16_is_read_from_the_flags(tmp_path, flags, native):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert has_native_bfloat16(cpuinfo) is native


def test_explicit_dtypes_are_taken_and_auto_asks_the_hardware():
    assert resolve_dtype(DType.float32) is torch.float32
    assert resolve_dtype(DType.bfloat16) is torch.bfloat16
    expected = torch.bfloat16 if has_native_bfloat16() else torch.float32
    assert resolve_dtype(DType.auto) is expected
