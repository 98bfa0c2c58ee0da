"""Tokens a second through a generator actor against bare ``vllm.LLM.generate``.

Same prompts, seeds, lengths, dtype and threads. Both engines stay up, each in its own
process, and the repetitions alternate, so that a drift of the machine meets both sides; the
ratio is the median of the ratios of neighbours.

    .venv/bin/python benchmarks/rollout_throughput.py --threads 2 --repetitions 8
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from rlpost.models.locate import locate_model

GROUP, MAX_TOKENS = 8, 24
READY = "RATE"


def prompts(model_path: str, count: int = 16) -> list:
    from transformers import AutoTokenizer

    from rlpost.data.dataset import DataConfig, PromptDataset

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    data = PromptDataset.load(DataConfig(), tokenizer=tokenizer)
    return [data.prompt(0, row) for row in range(count)]


def bare(args: argparse.Namespace) -> None:
    os.environ |= {
        "OMP_NUM_THREADS": str(args.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    model = locate_model(args.model)
    llm = LLM(
        model,
        dtype=args.dtype,
        max_model_len=128,
        max_num_seqs=128,
        enforce_eager=True,
        enable_chunked_prefill=False,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
    )
    inputs = [TokensPrompt(prompt_token_ids=list(p.token_ids)) for p in prompts(model)]

    def measure(repetition: int) -> float:
        params = [
            SamplingParams(n=GROUP, seed=1000 * repetition + i, max_tokens=MAX_TOKENS, logprobs=0)
            for i in range(len(inputs))
        ]
        start = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        tokens = sum(len(c.token_ids) for o in outputs for c in o.outputs)
        return tokens / (time.perf_counter() - start)

    answer_each_line(measure)


def actor(args: argparse.Namespace) -> None:
    from rlpost.cluster.generators import GeneratorFactory
    from rlpost.cluster.session import ClusterConfig, Session
    from rlpost.control.placement import ActorSpec
    from rlpost.rollout.device_defaults import with_device_defaults
    from rlpost.rollout.generator_config import GeneratorConfig, GeneratorDtype
    from rlpost.types import GenerationRequest, SamplingConfig

    model = locate_model(args.model)
    cfg = GeneratorConfig(dtype=GeneratorDtype(args.dtype), threads=args.threads, max_model_len=128)
    cfg = with_device_defaults(cfg, on_gpu=False, cores=args.threads)

    async def measure(repetition: int) -> float:
        requests = [
            GenerationRequest(
                key=f"benchmark/{repetition}/{i}",
                prompt=p,
                num_samples=GROUP,
                seed=1000 * repetition + i,
                sampling=SamplingConfig(max_tokens=MAX_TOKENS),
            )
            for i, p in enumerate(inputs)
        ]
        start = time.perf_counter()
        groups = await asyncio.gather(*(generator.generate(r) for r in requests))
        tokens = sum(len(t.response_ids) for group in groups for t in group)
        return tokens / (time.perf_counter() - start)

    inputs = prompts(model)
    with Session(ClusterConfig()) as session, asyncio.Runner() as runner:
        session.place([ActorSpec(name="generator 0", role="generator")])
        factory = GeneratorFactory(
            session,
            cfg,
            model_path=model,
            call_timeout_s=600,
            ping_timeout_s=60,
        )
        generator = factory("generator 0")
        runner.run(generator.setup())
        answer_each_line(lambda repetition: runner.run(measure(repetition)))
        runner.run(generator.close())


def answer_each_line(measure: Callable[[int], float]) -> None:
    """Run one repetition per line of input, until the input ends."""
    print(READY, flush=True)
    for line in sys.stdin:
        print(READY, measure(int(line)), flush=True)


class Side:
    """One engine in its own process."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def measure(self, repetition: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repetition}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # engines also print lines
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
        raise SystemExit(f"{self._process.args} ended early")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--only", choices=["bare", "actor"])
    args = parser.parse_args()
    if args.only:
        {"bare": bare, "actor": actor}[args.only](args)
        return
    sides = {name: Side(name) for name in ("bare", "actor")}
    rates = [
        {name: side.measure(repetition) for name, side in sides.items()}
        for repetition in range(args.repetitions + 1)
    ][1:]  # the first warms up
    for name, side in sides.items():
        side.close()
        mine = [rate[name] for rate in rates]
        print(f"{name:6} {statistics.median(mine):7.1f} tokens/s  {[round(r, 1) for r in mine]}")
    ratio = statistics.median(rate["actor"] / rate["bare"] for rate in rates)
    print(f"ratio actor/bare {ratio:.3f}")


if __name__ == "__main__":
    main()
