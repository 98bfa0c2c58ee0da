"""Tokens a second of the DeepSpeed trainer beside plain torch loops on the same samples.

Sides: `deepspeed` is the trainer; `independent` is the fastest loop for a CPU that we know, which
shares no code with rlpost (independent_loop.py; responses of one length); `bare` is torch alone on
the same packed micro-batches, with the same model code, loss and AdamW on fp32 masters; `padded` is
transformers' own forward pass on padded rows, one group a pass. On a CPU the sides take their steps
in turn, which cancels a drift of the machine; on a GPU each is alone in memory.

    .venv/bin/python benchmarks/trainer_throughput.py --repetitions 9
    .venv/bin/python benchmarks/trainer_throughput.py --sides bare padded deepspeed \
        --model build:1b --prompts 16 --prompt-tokens 200 --response-tokens 200 1000 --budget 16384

MFU counts useful work only: matrix products and visible attention pairs of real tokens, forward
once and backward twice, no recomputation, no padding, the head on response tokens alone.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from compared_models import lone_trainer, packed_policy, plain_policy
from independent_loop import Samples, independent_step
from torch import nn
from transformers.utils.logging import disable_progress_bar

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.loss import Outputs
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.cache import publish_directory
from rlpost.models.locate import locate_model
from rlpost.models.tiny import build_tiny_llama, byte_tokenizer
from rlpost.stages.rl.units import Packing, pack_to_train
from rlpost.training.model.attention import PackedLayout
from rlpost.training.model.packed_model import ModelInputs, loss_batch
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.precision import compute_device, resolve_dtype
from rlpost.training.settings import DType, TrainerConfig
from rlpost.types import Episode, Group, Prompt, Span, Trajectory

OBJECTIVE = PolicyObjective(loss=ClipConfig(), kl=KLConfig())
PEAK_TFLOPS = {  # dense bfloat16, from the data sheets
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H200": 989.4,
}
Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Random groups. Example: ``Mix(prompts=16, response_tokens=(200, 1000))``"""

    prompts: int = 8
    samples: int = 8
    prompt_tokens: int = 40
    response_tokens: tuple[int, int] = (20, 20)  # shortest and longest

    def groups(self, vocabulary: int) -> tuple[list[Group], np.ndarray]:
        rng = np.random.default_rng(0)

        def ids(count: int) -> tuple[int, ...]:
            return tuple(rng.integers(0, vocabulary, count).tolist())

        groups = []
        for p in range(self.prompts):
            prompt_ids = ids(self.prompt_tokens)
            lengths = rng.integers(*self.response_tokens, size=self.samples, endpoint=True)
            sampled = (
                Trajectory(
                    prompt_ids=prompt_ids,
                    response_ids=ids(length),
                    spans=(Span(start=0, end=length, version=1),),
                    rollout_logprobs=(-float(np.log(vocabulary)),) * length,
                )
                for length in lengths.tolist()
            )
            episodes = tuple(
                Episode(
                    uid=f"0:{p}",
                    sample=s,
                    trajectories=(trajectory,),
                    finish_reason="stop",
                    text="",
                    seed=0,
                    reward=0.0,
                )
                for s, trajectory in enumerate(sampled)
            )
            prompt = Prompt(uid=f"0:{p}", token_ids=prompt_ids, text="")
            groups.append(Group(prompt=prompt, episodes=episodes))
        return groups, rng.normal(size=(self.prompts, self.samples))

    def batches(
        self, vocabulary: int, *, budget: int, share_prompts: bool = True
    ) -> list[MicroBatch]:
        groups, advantages = self.groups(vocabulary)
        packing = Packing(num_ranks=1, max_tokens=budget, share_prompts=share_prompts)
        (found,) = pack_to_train(
            groups, advantages[:, :, None], packing=packing, reduction=ReductionConfig()
        ).batches
        return found


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one side did."""

    side: str
    step_s: float  # median of an optimizer step
    cpu_s: float  # the same in seconds of all cores, which a busy machine changes less
    packed_tokens_per_s: float  # padding not counted
    response_tokens_per_s: float
    mfu: float | None  # None: the device's peak is not known
    peak_gb: float | None  # None on a CPU


def model_flops(batches: Sequence[MicroBatch], config: object) -> float:
    """Useful operations of one optimizer step; ``config`` is a Llama's."""
    width, heads = config.hidden_size, config.num_attention_heads
    attention = config.head_dim * (2 * heads + 2 * config.num_key_value_heads) * width
    layer = attention + 3 * width * config.intermediate_size
    total = 0.0
    for batch in batches:
        layout = PackedLayout.of(batch.blocks, device=torch.device("cpu"))
        pairs = 0.0
        for segment in layout.segments:
            queries = segment.queries[1] - segment.queries[0]
            pairs += queries * (segment.span - queries) + queries * (queries + 1) / 2
        scores = 4 * pairs * heads * config.head_dim
        per_layer = 2 * layer * batch.num_tokens + scores
        head = 2 * width * config.vocab_size * len(batch.target_R)
        total += 3 * (config.num_hidden_layers * per_layer + head)
    return total


def build_llama(directory: Path, **shape: object) -> Path:
    """Write a random Llama in bfloat16, with a byte tokenizer; an existing one is kept."""
    from transformers import LlamaConfig, LlamaForCausalLM

    defaults = {
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }

    def write(target: Path) -> None:
        torch.manual_seed(0)
        with compute_device():
            model = LlamaForCausalLM(LlamaConfig(**defaults | shape))
        model.bfloat16().save_pretrained(target)
        byte_tokenizer().save_pretrained(target)

    return publish_directory(directory, write)


LLAMA_1B = {  # the shape of Llama 3.2 1B: 1.24 billion parameters
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
}


def find_model(name: str, scratch: Path) -> str:
    """Resolve ``build:tiny``, ``build:1b`` or what ``model.path`` takes."""
    if name == "build:tiny":
        return str(build_tiny_llama(scratch / "tiny", max_positions=4096))
    if name == "build:1b":
        return str(build_llama(scratch / "llama_1b", **LLAMA_1B))
    return locate_model(name)


class MasterAdam:
    """AdamW on fp32 masters of a low-precision model, clipped to norm 1."""

    def __init__(self, model: nn.Module) -> None:
        self._params = list(model.parameters())
        self._masters = [p.detach().float().clone() for p in self._params]
        self._adam = torch.optim.AdamW(self._masters, lr=1e-6, weight_decay=0.0, fused=True)

    def step(self) -> None:
        for master, param in zip(self._masters, self._params, strict=True):
            master.grad = param.grad.float()
            param.grad = None
        nn.utils.clip_grad_norm_(self._masters, 1.0)
        self._adam.step()
        self._adam.zero_grad()
        torch._foreach_copy_([p.data for p in self._params], self._masters)


@contextmanager
def bare_side(model_path: str, cfg: TrainerConfig, batches: list[MicroBatch]) -> Iterator[Step]:
    device = compute_device()
    policy = packed_policy(model_path, cfg)
    adam = MasterAdam(policy)

    def step() -> None:
        for batch in batches:
            outputs = Outputs.of(policy(ModelInputs.of(batch, device=device)))
            there = loss_batch(batch, device=device)
            OBJECTIVE(outputs, there).total(there).backward()
        adam.step()

    yield step


@contextmanager
def independent_side(
    model_path: str, cfg: TrainerConfig, groups: list[Group], advantages: np.ndarray
) -> Iterator[Step]:
    responses = [episode.response_ids for group in groups for episode in group.episodes]
    # At ratio 1 the clipped loss and its gradient are those of -A * log-prob.
    weights = advantages.flatten() / sum(map(len, responses))
    samples = Samples(
        prompt_PA=torch.tensor([group.prompt.token_ids for group in groups]),
        response_SB=torch.tensor(responses),
        weight_S=torch.tensor(weights, dtype=torch.float32),
    )
    yield independent_step(model_path, samples, resolve_dtype(cfg.dtype))


@contextmanager
def padded_side(
    model_path: str, cfg: TrainerConfig, groups: list[Group], advantages: np.ndarray
) -> Iterator[Step]:
    device = compute_device()
    model = plain_policy(model_path, resolve_dtype(cfg.dtype)).train()
    if cfg.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    adam = MasterAdam(model)
    total = sum(len(e.response_ids) for g in groups for e in g.episodes)

    def step() -> None:
        for group, row in zip(groups, advantages, strict=True):
            rows = [[*group.prompt.token_ids, *e.response_ids] for e in group.episodes]
            longest, prompt = max(map(len, rows)), len(group.prompt.token_ids)
            padded = [ids + [0] * (longest - len(ids)) for ids in rows]
            ids_ST = torch.tensor(padded, device=device)
            lengths_S1 = torch.tensor([[len(ids)] for ids in rows], device=device)
            mask_ST = torch.arange(longest, device=device) < lengths_S1
            logits = model(input_ids=ids_ST, attention_mask=mask_ST.long(), use_cache=False).logits
            chosen = logits[:, prompt - 1 : -1].float().log_softmax(-1)
            chosen = chosen.gather(2, ids_ST[:, prompt:, None]).squeeze(2)
            weight = mask_ST[:, prompt:] * torch.tensor(row, device=device).float()[:, None] / total
            # At ratio 1 the clipped loss and its gradient are those of -A * log-prob.
            (-weight * chosen).sum().backward()
        adam.step()

    yield step


@contextmanager
def deepspeed_side(
    model_path: str, cfg: TrainerConfig, batches: list[MicroBatch]
) -> Iterator[Step]:
    steps = iter(range(1, 2**31))
    with lone_trainer(model_path, cfg) as trainer:

        def step() -> None:
            trainer.forward_backward(batches, OBJECTIVE)
            trainer.optim_step(next(steps))

        yield step


def measure(step: Step, repetitions: int) -> tuple[float, float | None]:
    """Median seconds and peak memory of a step, after one that warms up."""
    step()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(step)[0] for _ in range(repetitions))
    return seconds, torch.cuda.max_memory_allocated() / 1e9 if cuda else None


def timed(step: Step) -> tuple[float, float]:
    """Run a step; returns its seconds and those of all cores."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    start, start_cpu = time.perf_counter(), time.process_time()
    step()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - start_cpu


def compare(
    model_path: str, mix: Mix, variants: Sequence[tuple[str, TrainerConfig]], *, repetitions: int
) -> Iterator[Speed]:
    """Measure ``(side, options)``, their steps in turn; on a GPU each side alone."""
    if torch.cuda.is_available():
        for variant in variants:
            yield from in_turn(model_path, mix, [variant], repetitions=repetitions)
            gc.collect()
            torch.cuda.empty_cache()
    else:
        yield from in_turn(model_path, mix, variants, repetitions=repetitions)


def in_turn(
    model_path: str, mix: Mix, variants: Sequence[tuple[str, TrainerConfig]], *, repetitions: int
) -> Iterator[Speed]:
    """Measure sides that are in memory together."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path)
    cuda = torch.cuda.is_available()
    with ExitStack() as stack:
        work = [batches_of(name, mix, cfg, config.vocab_size) for name, cfg in variants]
        steps = [
            stack.enter_context(open_side(model_path, mix, cfg, name, batches, config.vocab_size))
            for (name, cfg), batches in zip(variants, work, strict=True)
        ]
        for step in steps:
            step()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        rounds = [[timed(step) for step in steps] for _ in range(repetitions)]
        peak_gb = torch.cuda.max_memory_allocated() / 1e9 if cuda else None
    peak = PEAK_TFLOPS.get(torch.cuda.get_device_name()) if cuda else None
    for (name, _), batches, times in zip(variants, work, zip(*rounds, strict=True), strict=True):
        seconds, cpu_s = (statistics.median(each) for each in zip(*times, strict=True))
        flops = model_flops(batches, config)
        yield Speed(
            side=name,
            step_s=seconds,
            cpu_s=cpu_s,
            packed_tokens_per_s=sum(b.num_tokens for b in batches) / seconds,
            response_tokens_per_s=sum(len(b.target_R) for b in batches) / seconds,
            mfu=None if peak is None else flops / seconds / peak / 1e12,
            peak_gb=peak_gb,
        )


def batches_of(name: str, mix: Mix, cfg: TrainerConfig, vocabulary: int) -> list[MicroBatch]:
    """Return the micro-batches of a side; a padded row has its own copy of the prompt."""
    return mix.batches(
        vocabulary,
        budget=cfg.max_tokens_per_micro_batch,
        share_prompts=cfg.share_prompts and not name.startswith("padded"),
    )


def open_side(
    model_path: str,
    mix: Mix,
    cfg: TrainerConfig,
    name: str,
    batches: list[MicroBatch],
    vocabulary: int,
) -> AbstractContextManager[Step]:
    match name.split(",")[0]:
        case "padded":
            return padded_side(model_path, cfg, *mix.groups(vocabulary))
        case "independent":
            return independent_side(model_path, cfg, *mix.groups(vocabulary))
        case "bare":
            return bare_side(model_path, cfg, batches)
        case _:
            return deepspeed_side(model_path, cfg, batches)


def show(speed: Speed) -> None:
    mfu = "-" if speed.mfu is None else f"{speed.mfu:.1%}"
    peak = "-" if speed.peak_gb is None else f"{speed.peak_gb:.1f}"
    print(
        f"| {speed.side} | {speed.step_s:.3f} | {speed.cpu_s:.2f} | "
        f"{speed.packed_tokens_per_s:,.0f} | {speed.response_tokens_per_s:,.0f} | {mfu} | {peak} |",
        flush=True,
    )


HEADER = (
    "| side | s/step | CPU s | tokens/s | response tokens/s | MFU | peak GB |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--sides", nargs="+", default=["independent", "deepspeed"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dtype", choices=[d.value for d in DType], default="auto")
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=40)
    parser.add_argument("--response-tokens", type=int, nargs=2, default=(20, 20))
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/rlpost-models"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    mix = Mix(
        prompts=args.prompts,
        samples=args.samples,
        prompt_tokens=args.prompt_tokens,
        response_tokens=tuple(args.response_tokens),
    )
    cfg = TrainerConfig(
        dtype=DType(args.dtype),
        threads=args.threads,
        zero_stage=args.zero_stage,
        max_tokens_per_micro_batch=args.budget,
    )
    torch.set_num_threads(cfg.threads_per_rank())
    sides = [(side, cfg) for side in args.sides]
    disable_progress_bar()
    print(HEADER)
    speeds = []
    path = find_model(args.model, args.scratch)
    for speed in compare(path, mix, sides, repetitions=args.repetitions):
        speeds.append(speed)
        show(speed)
    first, last = speeds[0], speeds[-1]
    print(f"{last.side} / {first.side}: {first.step_s / last.step_s:.3f} of its tokens/s")
    if args.json:
        args.json.write_text(json.dumps([asdict(speed) for speed in speeds], indent=1))


if __name__ == "__main__":
    main()
