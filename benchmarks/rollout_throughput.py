"""Tokens a second through a generator actor against bare ``vllm.LLM.generate``.

Same prompts, seeds, lengths, dtype and threads; each in its own process, in turn, several
repetitions after a warm-up; the ratio is taken of the medians.

    .venv/bin/python benchmarks/rollout_throughput.py --threads 2 --repetitions 3
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

from rlpost.models.locate import locate_model

GROUP, MAX_TOKENS = 8, 24


def prompts(model_path: str, count: int = 16) -> list:
    from transformers import AutoTokenizer

    from rlpost.data.dataset import DataConfig, PromptDataset

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    data = PromptDataset.load(DataConfig(), tokenizer=tokenizer)
    return [data.prompt(0, row) for row in range(count)]


def bare(args: argparse.Namespace) -> list[float]:
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
    rates = []
    for repetition in range(args.repetitions + 1):
        params = [
            SamplingParams(n=GROUP, seed=1000 * repetition + i, max_tokens=MAX_TOKENS, logprobs=0)
            for i in range(len(inputs))
        ]
        start = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        tokens = sum(len(c.token_ids) for o in outputs for c in o.outputs)
        rates.append(tokens / (time.perf_counter() - start))
    return rates[1:]


def actor(args: argparse.Namespace) -> list[float]:
    from rlpost.cluster.generators import spawn_generators
    from rlpost.cluster.session import ClusterConfig, Device, Session
    from rlpost.rollout.vllm_generator import GeneratorConfig, GeneratorDtype
    from rlpost.types import GenerationRequest, SamplingConfig

    model = locate_model(args.model)
    cfg = GeneratorConfig(dtype=GeneratorDtype(args.dtype), threads=args.threads, max_model_len=128)

    async def measure(session: Session) -> list[float]:
        generators = spawn_generators(
            session, cfg, model_path=model, device=Device.cpu, call_timeout_s=600
        )
        (generator,) = generators.values()
        await generator.setup()
        rates = []
        for repetition in range(args.repetitions + 1):
            requests = [
                GenerationRequest(
                    prompt=p,
                    num_samples=GROUP,
                    seed=1000 * repetition + i,
                    sampling=SamplingConfig(max_tokens=MAX_TOKENS),
                )
                for i, p in enumerate(prompts(model))
            ]
            start = time.perf_counter()
            groups = await asyncio.gather(*(generator.generate(r) for r in requests))
            tokens = sum(len(t.response_ids) for group in groups for t in group)
            rates.append(tokens / (time.perf_counter() - start))
        await generator.close()
        return rates[1:]

    with Session(ClusterConfig()) as session:
        return asyncio.run(measure(session))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=["bare", "actor"])
    args = parser.parse_args()
    if args.only:
        print("RATES", json.dumps({"bare": bare, "actor": actor}[args.only](args)))
        return
    medians = {}
    for side in ("bare", "actor"):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", side]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        (line,) = (each for each in output.splitlines() if each.startswith("RATES "))
        rates = json.loads(line.removeprefix("RATES "))
        medians[side] = statistics.median(rates)
        print(f"{side:6} {medians[side]:7.1f} tokens/s  {[round(r, 1) for r in rates]}")
    print(f"ratio actor/bare {medians['actor'] / medians['bare']:.3f}")


if __name__ == "__main__":
    main()
