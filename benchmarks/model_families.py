"""Which model families go through a run: trained, pushed with the probe, exported, loaded, served.

Builds each family tiny and random, and plays one step of ``rlpost rl`` on it: the first push
and the push of the trained weights, both with their probes, then the export. The export is
loaded by transformers in this process, and its log-probs are compared with those of the
trained weights, taken from the run's checkpoint. A family that cannot be trained must be
refused by ``rlpost plan`` with the reason. Then a LoRA on all linear layers is trained for two
steps, pushed beside the model, and served by ``rlpost serve``; of a family that cannot be trained
peft makes one. What the server says of a prompt is compared with plain peft. The table goes to
docs/models.md. Ends with 1 if a family failed.

    python benchmarks/model_families.py                 # all, about two minutes each
    python benchmarks/model_families.py qwen3_moe gpt2  # these; the others keep their rows
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny_families import FAMILIES, build_tiny_family  # noqa: E402

DOCUMENT = ROOT / "docs" / "models.md"
RECORDS = ROOT / "benchmarks" / "model_families.json"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
REWARD = '''
def even_share(prompts, completions, completion_ids, **columns):
    """Any response earns something, so groups differ."""
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]
'''
IDS = [7, 40, 80, 120, 33, 90, 61, 200]


@dataclass(kw_only=True)
class Result:
    """One row of the table."""

    family: str
    architecture: str
    parameters: int
    seconds: float = 0.0
    refused: str = ""  # by `rlpost plan`
    failed: str = ""
    probe_diff: float | None = None  # nats, the larger of both pushes
    changed: float | None = None  # nats, what the step changed
    export_diff: float | None = None  # nats, export against the trained weights
    adapter_refused: str = ""  # by `rlpost plan`
    adapter_failed: str = ""
    adapter_changed: float | None = None  # nats, what the adapter changes
    served_diff: float | None = None  # nats, the server against plain peft


def command(stage: list[str], model: Path, place: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "rlpost.cli.main", *stage),
        *("run.name=families", f"model.path={model}", "verifier=function"),
        f"verifier.path={place / 'reward.py'}:even_share",
        *("rollout.max_tokens=8", "rollout.prompts_per_step=3", "rollout.group_size=4"),
        *("trainer.steps=1", "trainer.lr=1e-3", "trainer.dtype=float32"),
        *("data.heldout_size=2", "generator.max_model_len=256", "tracking.wandb=disabled"),
    ]


def play(family: str) -> Result:
    """Plan one family, and run it if the plan accepts it."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="families-") as scratch:
        place = Path(scratch)
        (place / "reward.py").write_text(REWARD)
        model = build_tiny_family(place / "model", family)
        state = load_file(model / "model.safetensors")
        result = Result(
            family=family,
            architecture=AutoConfig.from_pretrained(model).architectures[0],
            parameters=sum(tensor.numel() for tensor in state.values()),
        )
        plan = called(command(["plan", "rl"], model, place), place)
        if plan.returncode == 2:
            result.refused = " ".join(plan.stderr.split()).removeprefix("error: ")
        elif plan.returncode:
            result.failed = tail(plan)
        else:
            run = called(command(["rl"], model, place), place)
            if run.returncode:
                result.failed = tail(run)
            else:
                compare(result, model, place / "runs" / "families")
        if not result.failed:
            serve_adapter(result, model, place)
    result.seconds = time.perf_counter() - start
    return result


def serve_adapter(result: Result, model: Path, place: Path) -> None:
    """Train an adapter, or make one, and fill in what a server says that has it."""
    adapter = place / "runs" / "adapter" / "export"
    if result.refused:
        made_by_peft(model, adapter)
    else:
        options = ["run.name=adapter", "adapter=lora", "trainer.lr=1e-2", "trainer.steps=2"]
        run = called([*command(["rl"], model, place), *options], place)
        if run.returncode == 2:
            result.adapter_refused = " ".join(run.stderr.split()).removeprefix("error: ")
        elif run.returncode:
            result.adapter_failed = tail(run)
        if run.returncode:
            return
    server = started_server(model, place)
    try:
        while not (address := re.search(r"at (http://\S+)/v1", served_words(place))):
            if (code := server.poll()) is not None:
                said = " ".join(served_words(place).split())
                if code == 2:
                    result.adapter_refused = said.rpartition("error: ")[2]
                else:
                    result.adapter_failed = said[-600:]
                return
            time.sleep(0.2)
        base, said_of_it = (said_of_prompt(address[1], name) for name in ("base", "trained"))
        expected = peft_logprobs(model, adapter)
        result.adapter_changed = float((expected - base).abs().max())
        result.served_diff = float((expected - said_of_it).abs().max())
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)


def started_server(model: Path, place: Path) -> subprocess.Popen[bytes]:
    line = [
        *(sys.executable, "-m", "rlpost.cli.main", "serve", f"model.path={model}"),
        *("adapters={trained: adapter}", "serve.port=0", "serve.name=base", "run.name=server"),
        *("generator.dtype=float32", "generator.max_model_len=256"),
    ]
    with (place / "served").open("w") as output:
        return subprocess.Popen(line, cwd=place, stdout=output, stderr=subprocess.STDOUT)


def served_words(place: Path) -> str:
    return (place / "served").read_text(encoding="utf-8", errors="replace")


def said_of_prompt(address: str, name: str) -> torch.Tensor:
    """Return the log-prob of each of ``IDS`` after the first, as a server tells it."""
    body = {"model": name, "prompt": IDS, "max_tokens": 1, "prompt_logprobs": 0}
    request = urllib.request.Request(
        f"{address}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        positions = json.load(answer)["choices"][0]["prompt_logprobs"][1:]
    return torch.tensor(
        [each[str(token)]["logprob"] for token, each in zip(IDS[1:], positions, strict=True)]
    )


def made_by_peft(model: Path, adapter: Path) -> None:
    """Save a random LoRA on all linear layers."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(adapter)


def peft_logprobs(model: Path, adapter: Path) -> torch.Tensor:
    """Return the log-prob of each of ``IDS`` after the first, by plain peft."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        logprobs = adapted(torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)
    return logprobs[torch.arange(len(IDS) - 1), IDS[1:]]


def called(line: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=600)


def tail(process: subprocess.CompletedProcess[str]) -> str:
    return " ".join((process.stdout + process.stderr).split())[-600:]


def compare(result: Result, start: Path, run: Path) -> None:
    """Fill in what the run reported and what the export computes."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result.probe_diff = max(row["weights/probe_logprob_diff_max"] for row in rows)
    AutoTokenizer.from_pretrained(run / "export")
    exported = logprobs(run / "export")
    result.export_diff = float((exported - trained_logprobs(start, run)).abs().max())
    result.changed = float((exported - logprobs(start)).abs().max())


def logprobs(path: Path, masters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Log-probs of all tokens at each of ``IDS``, of a directory or with other weights."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if masters is not None:
        named = dict(model.named_parameters())
        assert named.keys() == masters.keys(), named.keys() ^ masters.keys()
        with torch.no_grad():
            for name, tensor in masters.items():
                named[name].copy_(tensor)
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].log_softmax(-1)


def trained_logprobs(start: Path, run: Path) -> torch.Tensor:
    """Return the log-probs of the fp32 master weights in the checkpoint, which are not exported."""
    masters: dict[str, torch.Tensor] = {}
    for file in sorted((run / "checkpoints").glob("step_*/trainer/*.safetensors")):
        masters |= {
            name.removeprefix("model.").removesuffix(".master"): tensor
            for name, tensor in load_file(file).items()
            if name.endswith(".master")
        }
    return logprobs(start, masters)


def table(results: list[Result]) -> str:
    """Render the rows."""
    lines = [
        "| model type | class | trained and pushed (largest probe difference) | exported, loaded "
        "(difference) | LoRA trained, pushed, served (difference) |",
        "|---|---|---|---|---|",
    ]
    for each in results:
        if each.refused:
            cells = [f"refused: {reason_of(each.refused)}", "", adapter_words(each)]
        elif each.failed:
            cells = [f"fails: {each.failed[-200:]}", "", ""]
        else:
            assert each.probe_diff is not None and each.export_diff is not None
            gap = f"{each.export_diff:.0e} nats" if each.export_diff else "none"
            cells = [f"yes ({each.probe_diff:.0e} nats)", f"yes ({gap})", adapter_words(each)]
        lines.append(f"| `{each.family}` | {each.architecture} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reason_of(refusal: str) -> str:
    """Return a refusal without its field and its way out."""
    return refusal.removeprefix("model.path: ").partition("; ")[0]


def adapter_words(result: Result) -> str:
    """Return how a family fared with an adapter; nothing where it was not tried."""
    if result.adapter_refused:
        return f"refused: {reason_of(result.adapter_refused)}"
    if result.adapter_failed:
        return f"fails: {result.adapter_failed[-200:]}"
    return "" if result.served_diff is None else f"yes ({result.served_diff:.0e} nats)"


def write_document(results: list[Result]) -> None:
    """Put the table between its marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types; all by default")
    chosen = parser.parse_args().families or list(FAMILIES)
    known = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for family in chosen:
        result = play(family)
        print(result, flush=True)
        known[family] = asdict(result)
        RECORDS.write_text(json.dumps(known, indent=1) + "\n")
        write_document([Result(**known[name]) for name in FAMILIES if name in known])
    return int(any(known[name][key] for name in chosen for key in ("failed", "adapter_failed")))


if __name__ == "__main__":
    sys.exit(main())
