"""The first hour on a machine with a GPU: what is right, what is fast, and what could not run.

Each section runs in a process of its own with a deadline of two minutes, in the order of what would
hurt most. A section that fails, hangs or cannot run stops no other; the record is written after
each. Nothing is downloaded: models are random and built by code. Ends with 1 if a check failed.

    .venv/bin/python benchmarks/gpu_check.py
    .venv/bin/python benchmarks/gpu_check.py --only synchronisations speed_2k
    .venv/bin/python benchmarks/gpu_check.py --device cpu --tiny    # the same code without a GPU
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu_correctness
import gpu_device
import gpu_engine
import gpu_ipc
import gpu_speed
import torch
from gpu_section import CannotRun, Models, Section
from trainer_throughput import build_llama, find_model
from transformers.utils.logging import disable_progress_bar

from rlpost.training.model import attention_varlen
from rlpost.training.model.attention_segment import Scoring
from rlpost.training.precision import compute_device

SECTION_S = 120
SECTIONS: dict[str, Section] = {
    "logprobs": gpu_correctness.check_logprobs,
    "entropy": gpu_correctness.check_entropy,
    "gradients": gpu_correctness.check_gradients,
    "quickstart": gpu_engine.quickstart,
    "synchronisations": gpu_device.synchronisations,
    "speed_2k": gpu_speed.speed_2k,
    "speed_8k": gpu_speed.speed_8k,
    "speed_16k": gpu_speed.speed_16k,
    "overlap": gpu_device.overlap,
    "cuda_ipc": gpu_ipc.cuda_ipc,
    "sleep": gpu_device.sleep,
    "pinned_slots": gpu_device.pinned_slots,
    "publishing": gpu_correctness.check_publishing,
    "checkpoint": gpu_correctness.check_checkpoint,
    "nonfinite": gpu_correctness.check_nonfinite,
    "bfloat16_gradient": gpu_correctness.check_bfloat16_gradient,
    "stages": gpu_speed.stages,
    "padded": gpu_speed.padded,
    "attention": gpu_speed.attention,
}


def in_child(name: str, arguments: list[str], *, timeout_s: float) -> dict[str, Any]:
    """Run one section; DeepSpeed's stage 3 leaves memory behind, and a kernel may hang."""
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [sys.executable, __file__, *arguments, "--section", name, "--json", answer.name]
        child = subprocess.Popen(command, start_new_session=True)
        try:
            code = child.wait(timeout_s)
            told = Path(answer.name).read_text()
            record = json.loads(told) if told else {"failed": f"ended with {code}", "findings": []}
        except subprocess.TimeoutExpired:
            record = {"failed": f"did not end in {timeout_s:g} s", "findings": []}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return {**record, "seconds": round(time.perf_counter() - start, 1)}


def run_section(name: str, models: Models) -> dict[str, Any]:
    """Run one section here and print what it finds."""
    disable_progress_bar()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for determinism; read once
    torch.backends.cuda.matmul.allow_tf32 = False
    found: list[dict[str, Any]] = []
    try:
        for finding in SECTIONS[name](models):
            print(finding, flush=True)
            found.append({**asdict(finding), "passed": finding.passed})
    except CannotRun as error:
        return {"findings": found, "could_not": str(error)}
    return {"findings": found}


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few samples")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--timeout-s", type=float, default=SECTION_S, help="of a section")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "rlpost-gpu")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    return parser.parse_args(argv)


def main() -> None:
    args = arguments_of()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        sys.exit("no CUDA device is visible; --device cpu --tiny runs the same code on a CPU")
    models = Models(
        small=str(build_llama(args.scratch / "small", **gpu_correctness.SMALL)),
        large=find_model("build:tiny" if args.tiny else "build:1b", args.scratch),
        tiny=args.tiny,
        repetitions=args.repetitions,
        scratch=args.scratch,
    )
    if args.section:
        args.json.write_text(json.dumps(run_section(args.section, models)))
        return
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    query = torch.empty(1, 1, 1, 64, dtype=torch.bfloat16, device=compute_device())
    kernel = attention_varlen.kernel_for(query, Scoring())
    how = "one flash call" if kernel else "one call a sequence"
    print(f"{device}, torch {torch.__version__}, bfloat16 attention: {how}", flush=True)
    record: dict[str, Any] = {"device": device, "torch": torch.__version__, "sections": {}}
    passed_on = ["--device", args.device, "--scratch", str(args.scratch)]
    passed_on += ["--repetitions", str(args.repetitions), *(["--tiny"] if args.tiny else [])]
    for name in args.only:
        print(f"\n{name}", flush=True)
        record["sections"][name] = in_child(name, passed_on, timeout_s=args.timeout_s)
        args.json.write_text(json.dumps(record, indent=1))
    sys.exit(summary(record["sections"]))


def summary(sections: dict[str, dict[str, Any]]) -> str | int:
    """Print what did not run; returns why the exit code is 1, or 0."""
    bad = []
    print()
    for name, section in sections.items():
        if "could_not" in section:
            print(f"{name} could not run: {section['could_not']}")
        if "failed" in section:
            bad.append(f"{name} {section['failed']}")
        bad += [f"{name}: {each['check']}" for each in section["findings"] if not each["passed"]]
    return "failed:\n" + "\n".join(bad) if bad else 0


if __name__ == "__main__":
    main()
