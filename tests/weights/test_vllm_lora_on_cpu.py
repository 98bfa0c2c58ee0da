"""Every row gets its own request's adapter, at the price of one product per adapter."""

import pytest
import torch
from vllm.lora.layers.utils import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from rlpost.weights.vllm_lora_on_cpu import LoRAOnCPU

RANK, D_IN, WIDTHS, SLOTS = 4, 24, (16, 8, 8), 3
IDS = (5, 7, 9)  # of the adapters in the slots


def wrapper(of: type[PunicaWrapperCPU], ids: list[int]) -> PunicaWrapperCPU:
    made = of(max_num_batched_tokens=64, max_batches=8, device="cpu")
    mapping = LoRAMapping(index_mapping=tuple(ids), prompt_mapping=tuple(ids), is_prefill=True)
    made.update_metadata(mapping, list(IDS), SLOTS + 1, 320)
    return made


def matrices() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, D_IN) for _ in WIDTHS)
    return a, tuple(torch.randn(SLOTS, 1, width, RANK) for width in WIDTHS)


def token_by_token(x, y, ids, a, b, scale):
    out = y.double()
    for row, adapter in enumerate(ids):
        if adapter:
            slot = IDS.index(adapter)
            parts = [
                bb[slot, 0].double() @ (aa[slot, 0].double() @ x[row].double())
                for aa, bb in zip(a, b, strict=True)
            ]
            out[row] += scale * torch.cat(parts)
    return out


@pytest.mark.parametrize(
    "ids", [[7] * 6, [0] * 6, [5, 0, 7, 7, 0, 9], [9, 9, 9, 0], [5]], ids=lambda ids: str(ids)
)
def test_a_row_gets_the_adapter_of_its_request_and_no_other(ids):
    a, b = matrices()
    x, y = torch.randn(len(ids), D_IN), torch.randn(len(ids), sum(WIDTHS))
    expected = token_by_token(x, y, ids, a, b, 0.5)
    wrapper(LoRAOnCPU, ids).add_lora_linear(y, x, a, b, 0.5, WIDTHS)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_it_agrees_with_vllm_where_every_row_has_an_adapter():
    ids, (a, b) = [5, 7, 7, 9], matrices()
    x, y = torch.randn(4, D_IN), torch.randn(4, sum(WIDTHS))
    theirs = y.clone()
    wrapper(PunicaWrapperCPU, ids).add_lora_linear(theirs, x, a, b, 1.0, WIDTHS)
    wrapper(LoRAOnCPU, ids).add_lora_linear(y, x, a, b, 1.0, WIDTHS)
    torch.testing.assert_close(y, theirs, rtol=1e-5, atol=1e-5)


def test_a_batch_that_changes_forgets_the_one_before():
    a, b = matrices()
    made = wrapper(LoRAOnCPU, [5, 5])
    mapping = LoRAMapping(index_mapping=(0, 9), prompt_mapping=(0, 9), is_prefill=True)
    made.update_metadata(mapping, list(IDS), SLOTS + 1, 320)
    x, y = torch.randn(2, D_IN), torch.zeros(2, sum(WIDTHS))
    expected = token_by_token(x, y, [0, 9], a, b, 1.0)
    made.add_lora_linear(y, x, a, b, 1.0, WIDTHS)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_no_more_than_its_own_products():
    a, b = (tuple(t.bfloat16() for t in each) for each in matrices())
    x, y = torch.randn(3, D_IN).bfloat16(), torch.zeros(3, sum(WIDTHS)).bfloat16()
    theirs = y.clone()
    wrapper(PunicaWrapperCPU, [5, 7, 7]).add_lora_linear(theirs, x, a, b, 1.0, WIDTHS)
    wrapper(LoRAOnCPU, [5, 7, 7]).add_lora_linear(y, x, a, b, 1.0, WIDTHS)
    torch.testing.assert_close(y, theirs, rtol=2e-2, atol=2e-1)


def test_vllm_asks_for_it_where_there_is_no_gpu():
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

    from rlpost.weights.vllm_plugin import register

    register()
    assert type(get_punica_wrapper(64, max_batches=8, device="cpu")) is LoRAOnCPU
