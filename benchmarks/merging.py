"""Memory and time of `rlpost merge` on synthetic models of 1 GB, beside mergekit if it is there.

    .venv/bin/python benchmarks/merging.py DIR --mergekit ENV/bin/mergekit-yaml

Writes two fine-tunes of one base into DIR, which must not exist, needs 5 GB and is removed. Each
command is run on tiny models first: what it takes there is the baseline. `peak` is the kernel's
(VmHWM), pages of mapped files included; `anonymous` is the most that was the process's own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from rlpost.merging.weights_file import PlannedTensor, write_weights
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.tiny import byte_tokenizer

MIB = 2**20
NAMES = ("base", "a", "b")
RECIPES = {
    "linear": {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("a", "b")],
    },
    "ties": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": name, "parameters": {"weight": 0.5, "density": 0.3}} for name in ("a", "b")
        ],
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": 0.5},
    },
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one command."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    anonymous_mib: float


def build(place: Path, *, layers: int, width: int) -> None:
    """Write the base and its fine-tunes, bfloat16, in parts of 200 MB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"], dtype="bfloat16", bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in LlamaForCausalLM(config).named_parameters()}
    planned = [PlannedTensor(name=n, dtype=torch.bfloat16, shape=s) for n, s in shapes.items()]
    start = 0.02 * torch.randn(2**20)
    learned = [0.0, *(0.001 * torch.randn(2**20) for _ in NAMES[1:])]
    blocks = [(start + change).bfloat16() for change in learned]
    for number, name in enumerate(NAMES):
        target = place / name
        target.mkdir(parents=True)
        config.save_pretrained(target)
        byte_tokenizer().save_pretrained(target)

        def value(tensor: str, number: int = number) -> torch.Tensor:
            size = torch.Size(shapes[tensor]).numel()
            times = -(-size // len(blocks[0]))
            return blocks[number].repeat(times)[:size].reshape(shapes[tensor])

        write_weights(target, planned, value, part_bytes=200 * 10**6)


def measured(command: list[str], place: Path) -> Cost:
    """Run a command to its end."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = anonymous = 0
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            continue
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        peak = max(peak, int(found.get("VmHWM", 0)))
        anonymous = max(anonymous, int(found.get("RssAnon", 0)))
        time.sleep(0.01)
    assert process.stderr is not None
    if status:
        raise SystemExit(f"{command} failed: {process.stderr.read().decode()[-2000:]}")
    return Cost(
        seconds=time.monotonic() - start,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_mib=peak / 1024,
        anonymous_mib=anonymous / 1024,
    )


def command_of(program: str, recipe: str, target: str) -> list[str]:
    if program == "rlpost":
        return [
            sys.executable, "-m", "rlpost.cli.main", "merge", f"merge.config={recipe}.yaml",
            "run.dir=.", f"run.name={target}",
        ]  # fmt: skip
    return [program, "--no-write-model-card", f"{recipe}.yaml", target]  # which asks the hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=Path)
    parser.add_argument(
        "--mergekit", default=None, help="its mergekit-yaml, of another environment"
    )
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    args = parser.parse_args()
    sizes = {"tiny": (1, 64), "whole": (args.layers, args.width)}
    programs = ["rlpost", *([args.mergekit] if args.mergekit else [])]
    args.dir.mkdir(parents=True)
    try:
        for name, (layers, width) in sizes.items():
            build(args.dir / name, layers=layers, width=width)
            for recipe, tree in RECIPES.items():
                whole = tree | {"dtype": "float32", "out_dtype": "bfloat16"}  # in both programs
                (args.dir / name / f"{recipe}.yaml").write_text(yaml.safe_dump(whole))
        tensors = ModelDirectory.read(args.dir / "whole/a").tensors.values()
        size, largest = sum(t.end - t.start for t in tensors), max(t.numel for t in tensors)
        print(
            f"{size / MIB:.0f} MiB a model, largest tensor {4 * largest / MIB:.0f} MiB in float32"
        )
        print(
            "| method | program | s | CPU s | peak MiB | anonymous MiB |\n|---|---|---|---|---|---|"
        )
        for recipe in args.methods:
            for program in programs:
                base = measured(command_of(program, recipe, "out"), args.dir / "tiny")
                shutil.rmtree(args.dir / "tiny/out")
                for _ in range(args.rounds):
                    cost = measured(command_of(program, recipe, "out"), args.dir / "whole")
                    shutil.rmtree(args.dir / "whole/out")
                    figures = [
                        f"{value:.{digits}f} ({value - least:.{digits}f})"
                        for value, least, digits in (
                            (cost.seconds, base.seconds, 1),
                            (cost.cpu_seconds, base.cpu_seconds, 1),
                            (cost.peak_mib, base.peak_mib, 0),
                            (cost.anonymous_mib, base.anonymous_mib, 0),
                        )
                    ]
                    print("|", " | ".join([recipe, Path(program).name, *figures]), "|", flush=True)
    finally:
        shutil.rmtree(args.dir)


if __name__ == "__main__":
    main()
