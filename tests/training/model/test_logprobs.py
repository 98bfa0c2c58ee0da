"""Log-probs in chunks: the same numbers and gradients, without the memory."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlpost.algorithms import rows
from rlpost.training.model import logprobs
from rlpost.training.model.logprobs import _gradient, _gradient_in_one, _score, token_logprobs

TOKENS, WIDTH, VOCABULARY, ROWS = 12, 6, 50, 20


def case() -> tuple[torch.Tensor, torch.nn.Linear, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = torch.nn.Linear(WIDTH, VOCABULARY)
        hidden_TE = torch.randn(TOKENS, WIDTH, requires_grad=True)
        read_R = torch.randint(0, TOKENS, (ROWS,))
        target_R = torch.randint(0, VOCABULARY, (ROWS,))
        target_R[::2] = head(hidden_TE[read_R])[::2].argmax(1)  # so that some are the likeliest
        return hidden_TE, head, read_R, target_R


def plain(hidden_TE, head, read_R, target_R, temperature):
    log_RV = (head(hidden_TE[read_R]) / temperature).log_softmax(-1)
    logprobs_R = log_RV.gather(1, target_R[:, None]).squeeze(1)
    return logprobs_R, -(log_RV.exp() * log_RV).sum(-1), log_RV.argmax(-1) == target_R


def gradients(logprobs_R, entropy_R, is_top_R, case_, *, entropy_weight):
    hidden_TE, head, *_ = case_
    weight_R = torch.linspace(-1, 2, ROWS)
    loss = (weight_R * logprobs_R).sum()
    if entropy_weight:
        loss = loss + entropy_weight * (weight_R.cos() * entropy_R).sum()
    return torch.autograd.grad(loss, [hidden_TE, *head.parameters()])


@pytest.mark.parametrize("chunk", [1, 7, 20, 512])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_values_and_gradients_equal_the_plain_computation(chunk, temperature, entropy_weight):
    hidden_TE, head, read_R, target_R = parts = case()
    ours = token_logprobs(
        hidden_TE,
        head,
        read_R=read_R,
        target_R=target_R,
        temperature=temperature,
        chunk=chunk,
    )
    expected = plain(*parts, temperature)
    torch.testing.assert_close(ours, expected)
    found = gradients(*ours, parts, entropy_weight=entropy_weight)
    torch.testing.assert_close(
        found, gradients(*expected, parts, entropy_weight=entropy_weight), atol=1e-5, rtol=1e-5
    )


def test_the_entropy_alone_has_a_gradient():
    hidden_TE, head, read_R, target_R = parts = case()
    where = {"read_R": read_R, "target_R": target_R, "temperature": 1.0, "chunk": 8}
    _, entropy_R, _ = token_logprobs(hidden_TE, head, **where)
    (ours,) = torch.autograd.grad(entropy_R.sum(), hidden_TE)
    (expected,) = torch.autograd.grad(plain(*parts, 1.0)[1].sum(), hidden_TE)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("given", [(True, False), (False, True), (True, True)])
def test_the_fused_form_of_the_gradient_is_the_same(temperature, given):
    """It runs on CUDA alone; its arithmetic is checked here, without a compiler."""
    generator = torch.Generator().manual_seed(0)
    logits_CV = torch.randn(ROWS, VOCABULARY, generator=generator)
    target_C = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    _, entropy_C, _, normaliser_C1 = _score(logits_CV, target_C, temperature)
    upstream = [torch.randn(ROWS, generator=generator) if is_given else None for is_given in given]
    parts = (logits_CV, target_C, normaliser_C1, entropy_C, temperature, *upstream)
    torch.testing.assert_close(_gradient_in_one(*parts), _gradient(*parts), atol=1e-7, rtol=1e-5)


def test_a_few_rows_at_a_time_give_the_same_bits(monkeypatch):
    """As a large vocabulary has it; the whole is one call here."""
    hidden_TE, head, read_R, target_R = parts = case()

    def run(values_at_once: int) -> list[torch.Tensor]:
        calls = []
        monkeypatch.setattr(rows, "_CACHED_VALUES", values_at_once)
        monkeypatch.setattr(logprobs, "_score", lambda *args: calls.append(args) or _score(*args))
        ours = token_logprobs(
            hidden_TE,
            head,
            read_R=read_R,
            target_R=target_R,
            temperature=0.6,
            chunk=ROWS,
        )
        assert len(calls) == -(-ROWS * VOCABULARY // values_at_once)
        return [*ours, *gradients(*ours, parts, entropy_weight=0.3)]

    for whole, in_parts in zip(run(ROWS * VOCABULARY), run(3 * VOCABULARY), strict=True):
        assert torch.equal(whole, in_parts)


class PeakBytes(TorchDispatchMode):
    """Measures the largest total size of storages allocated while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self._record, result)
        return result

    def _record(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        weakref.finalize(storage, self._alive.pop, key, None)
        self.peak = max(self.peak, sum(self._alive.values()))


def peak_of_backward(chunk: int, rows: int = 512, vocabulary: int = 4096) -> float:
    """Peak of forward and backward, in units of one full fp32 logits matrix."""
    head = torch.nn.Linear(8, vocabulary, bias=False)
    hidden_TE = torch.randn(rows, 8, requires_grad=True)
    with PeakBytes() as memory:
        logprobs_R, *_ = token_logprobs(
            hidden_TE,
            head,
            read_R=torch.arange(rows),
            target_R=torch.zeros(rows, dtype=torch.long),
            temperature=0.9,
            chunk=chunk,
        )
        logprobs_R.sum().backward()
    return memory.peak / (rows * vocabulary * 4)


def test_the_peak_is_a_few_chunks_and_never_the_full_logits():
    assert peak_of_backward(32) < 0.35  # one chunk is 0.0625; five of them fit
    assert peak_of_backward(512) > 2  # negative control: the meter sees whole matrices


def test_the_head_is_called_as_a_module_also_in_the_recomputation():
    """ZeRO-3 gathers the weight in the module's hooks; a bare matmul would see a stub."""
    hidden_TE, head, read_R, target_R = case()
    calls = []
    head.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    logprobs_R, *_ = token_logprobs(
        hidden_TE, head, read_R=read_R, target_R=target_R, temperature=1.0, chunk=8
    )
    assert calls == [8, 8, 4]
    logprobs_R.sum().backward()
    assert sorted(calls) == [4, 8, 8, 8, 8]  # the last chunk needs no second pass
