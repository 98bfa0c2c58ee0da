"""`rlpost plan`: what it says of hardware that is not here."""

import json
import re
import shutil

import pytest
from chat_templates import STRICT_TURNS
from large_models import MISTRAL_7B, build_large_model
from transformers import AutoTokenizer

from rlpost.checkpoint.space import format_bytes
from rlpost.cli.plan import main
from rlpost.models.locate import parameter_count
from rlpost.models.tiny import build_tiny_llama

GPUS = ["--nodes", "2", "--gpus", "8"]


def run(capsys, *argv: str) -> tuple[int, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


@pytest.fixture
def tiny(tiny_model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")  # no cell is wrapped
    return f"model.path={tiny_model}"


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory):
    """A model that engines of 1, 2, 4 or 8 GPUs can divide."""
    return build_tiny_llama(tmp_path_factory.mktemp("models") / "eight", hidden=256)


def test_this_machine(capsys, tiny):
    code, text = run(capsys, "--mean-response", "4", "rl", "experiment=quickstart", tiny)
    assert code == 0, text
    for word in ("trainer rank 0", "generator 0: core", "KV cache 1.00", "driver", "verifiers"):
        assert word in text
    assert "Weights travel by shared_memory (weights.transport=auto)" in text
    assert "from Ray's object store" in text and "--shm-size" not in text
    huge = [
        "rollout.prompts_per_step=10000",
        "rollout.group_size=1000",
        "weights.transport=filesystem",
    ]
    _, text = run(capsys, "rl", "experiment=quickstart", tiny, *huge)
    assert "Ray's object store, which hands a step's batch to the ranks, should have" in text
    assert "--shm-size" in text
    assert "Weights travel by filesystem (weights.transport)." in text
    assert "time of a step" in text and "Times on CPUs were within 20%" in text


def test_an_evaluation(capsys, tiny, tiny_untied_model):
    asked = ["evaluate", "suites=[format]", "samples=4", "temperature=1", "max_tokens=16", tiny]
    code, text = run(capsys, *asked)
    assert code == 0, text
    for word in ("generator 0: core", "KV cache 1.00", "driver", "verifiers of format"):
        assert word in text
    assert "trainer" not in text and "checkpoint" not in text and "Weights travel" not in text
    items = int(re.search(r"makes (\d+) requests", text)[1])
    assert items >= 100 and f"{items * 4:,} responses of at most 16 tokens" in text
    assert f": {items * 64:,} tokens at most. On disk it takes up to " in text
    assert format_bytes(items * 4 * (400 + 16 * 4)) in text
    _, both = run(capsys, *asked, f"baseline.path={tiny_untied_model}")
    assert f"makes {2 * items} requests" in both
    assert both.count("generator 0: core") == 1  # they take turns
    code, text = run(capsys, "--gpus", "1", "--gpu-gib", "8", *asked)
    assert code == 0 and "generator 0 (1 GPU)" in text, text
    assert "time of all answers" in text and "as long as max_tokens, or as --mean-response" in text
    code, text = run(capsys, "--gpus", "1", "--gpu-gib", "0.01", *asked)
    assert code == 2 and "an engine of 1 x h100 has room for 0 tokens" in text, text
    code, text = run(capsys, "--node-gib", "1", *asked)
    assert code == 2 and "It would not fit: node 1: " in text and "generator.kv_cache_gib" in text


def test_the_disk_that_a_run_takes(capsys, tiny, tiny_model):
    common = ["rl", "experiment=quickstart", tiny, "trainer.dtype=float32", "rollout.max_tokens=50"]
    size = parameter_count(str(tiny_model))
    samples_bytes = 12 * 8 * 14 * (400 + 50 * 4)
    for keep in (1, 3):
        _, text = run(capsys, *common, f"checkpoint.keep={keep}")
        total = format_bytes(13 * size * (keep + 1) + 4 * size + samples_bytes)
        assert (
            f"takes up to {total}: a checkpoint {format_bytes(13 * size)}, of which {keep} " in text
        )


def test_two_nodes_apart(capsys, tiny):
    options = ["trainer.num_ranks=8", "generator.num=4", "generator.tensor_parallel_size=2"]
    code, text = run(capsys, *GPUS, "rl", "experiment=ppo_verifier", "cluster=two_nodes", tiny)
    assert code == 0, text
    assert "node 1 │ trainer rank 0 (1 GPU), critic rank 0 (1 GPU)" in text
    assert "node 2 │ generator 0 (1 GPU)" in text
    assert "Weights travel by gloo (weights.transport=auto): the trainer sends from node 1" in text
    code, text = run(capsys, *GPUS, "rl", "experiment=grpo", "cluster=two_nodes", tiny, *options)
    assert code == 0 and "node 2, GPU │ generator 0: worker 0, 8 alike" in text, text
    assert "buckets of a push" in text and "copy to go back to" in text
    assert "received weights" not in text and "weights being sent" not in text


def test_what_does_not_fit_exits_2(capsys, tiny):
    small = ["--nodes", "1", "--gpus", "1", "--gpu-gib", "0.5", "rl", "experiment=grpo", tiny]
    code, text = run(capsys, *small, "cluster=local_gpu")
    assert code == 2
    assert "It would not fit: GPU of trainer rank 0 and generator 0: " in text
    code, text = run(capsys, *GPUS, "rl", "experiment=grpo", tiny, "generator.num=20")
    assert code == 2
    assert "no node has room for generator 15" in text
    code, text = run(capsys, "--nodes", "1", "--node-gib", "1", "rl", "experiment=grpo", tiny)
    assert code == 2 and "It would not fit: node 1: " in text


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--nodes", "0", "nodes must be"),
        ("--node-gib", "nan", "node_gib"),
        ("--gpus", "-1", "gpus must be"),
    ],
)
def test_impossible_machines_are_refused(capsys, option, value, field):
    code, text = run(capsys, option, value, "rl")
    assert code == 2 and f"{field}" in text and "must be in" in text, text


@pytest.mark.parametrize(
    "stage", [("rl", "experiment=grpo"), ("evaluate", "suites=[format]", "max_tokens=16")]
)
def test_an_engine_of_more_parts_than_the_model_has_heads_is_refused(capsys, tiny, stage):
    asked = ["--gpus", "8", *stage, tiny, "generator.num=1", "generator.tensor_parallel_size=4"]
    code, text = run(capsys, *asked)
    assert code == 2 and "the model's 2 attention heads" in text and "; use 1 or 2" in text, text


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory):
    return build_large_model(tmp_path_factory.mktemp("large") / "7b", "mistral", MISTRAL_7B)


def test_a_context_of_32k_of_7b_fits_into_8_gpus(capsys, monkeypatch, seven_billion, tmp_path):
    """Divided it fits without computing activations twice; whole it does not, and says how far."""
    monkeypatch.setenv("COLUMNS", "250")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": 32_000 * "b"}]
    (tmp_path / "rows.jsonl").write_text(8 * f"{json.dumps({'messages': turns})}\n")
    asked = ["--nodes", "1", "--gpus", "8", "sft", f"model.path={seven_billion}"]
    asked += [
        f"data.train={tmp_path / 'rows.jsonl'}",
        "trainer.dtype=bfloat16",
    ]
    asked += ["trainer.num_ranks=8", "trainer.zero_stage=3", "trainer.steps=3"]
    asked += ["trainer.max_tokens_per_micro_batch=32768", "examples_per_step=8"]
    code, text = run(capsys, *asked, "trainer.sequence_parallel_size=8")
    assert code == 0 and "32,768, each divided over 8 ranks; its" in text, text
    code, text = run(capsys, *asked)
    assert code == 2 and "or divide it with a higher trainer.sequence_parallel_size" in text, text
    limit = re.search(r"fits into a GPU of 80.0 GiB with micro-batches of up to ([\d,]+) tok", text)
    assert 8192 < int(limit[1].replace(",", "")) < 16384


def test_idle_models_leave_the_gpu_for_the_host(capsys, tiny):
    options = ["rl", "experiment=ppo_verifier", "algorithm.kl.coefficient=0.01", tiny]
    for offload in ("false", "true"):
        command = ["--gpus", "1", "--gpu-gib", "1", *options, "cluster=local_gpu"]
        code, text = run(capsys, *command, f"cluster.offload_idle={offload}")
        assert code == 2 and "It would not fit" in text, text  # even libraries need more
        assert text.count("copy while asleep") == (3 if offload == "true" else 0)
        assert ("cluster.offload_idle=true" in text) is (offload == "false")


def test_wrong_options_are_refused_as_by_the_stage(capsys, tiny):
    code, text = run(capsys, "rl", "experiment=grpo", tiny, "trainer.zero_stage=5")
    assert code == 2 and "trainer.zero_stage must be in [0, 3]" in text
    with pytest.raises(SystemExit) as exit_info:
        main(["nothing"])
    assert exit_info.value.code == 2


@pytest.mark.parametrize("stage", ["rl", "preference", "evaluate"])
def test_a_run_that_would_be_refused_is_not_planned(capsys, tiny, tmp_path, stage):
    data = {"preference": "data.train=pairs:lowercase", "evaluate": "suites=[format]"}
    options = [f"run.dir={tmp_path}", f"run.name={stage}"]
    command = [stage, tiny, data.get(stage, "experiment=quickstart"), *options]
    code, text = run(capsys, *command, f"resume={tmp_path}/nowhere")
    assert code == 2 and "nowhere" in text, text
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "mine.txt").write_text("mine")
    code, text = run(capsys, *command)
    assert code == 2 and "holds what no run wrote: 'mine.txt'" in text, text


def test_what_null_means_is_printed(capsys, tiny):
    options = ["generator.max_num_seqs=64", "generator.max_model_len=null"]
    asked = ["rl", "experiment=grpo", tiny, *options]
    _, on_cpu = run(capsys, *asked)
    _, on_gpu = run(capsys, "--gpus", "8", *asked)
    assert "up to 64 responses at once, of up to 512 tokens with their prompts, eager" in on_cpu
    length = int(re.search(r"up to 64 responses at once, of up to (\d+) tokens", on_gpu)[1])
    assert length < 512 and "in steps of up to 8,192 tokens, compiled" in on_gpu


@pytest.mark.parametrize("name", ["local_cpu", "local_gpu", "node8", "two_nodes", "disaggregated"])
def test_every_shipped_cluster_holds_the_recipes(capsys, tiny, eight_heads, name):
    nodes = {"local_cpu": ("1", "0"), "local_gpu": ("1", "1"), "node8": ("1", "8")}
    num, gpus = nodes.get(name, ("4", "8"))
    hardware = ["--nodes", num, "--gpus", gpus]
    asked = ["rl", "experiment=grpo", f"cluster={name}", f"model.path={eight_heads}"]
    code, text = run(capsys, *hardware, *asked)
    assert code == 0, text


def test_a_machine_may_be_described_without_a_number_of_nodes(capsys, tiny):
    code, text = run(capsys, "--node-gib", "1", "rl", "experiment=quickstart", tiny)
    assert code == 2, text
    assert "node 1" in text and "of 1.0" in text
    assert "Times on CPUs were within 20%" in text and "h100" not in text


def test_prompts_that_a_reward_model_cannot_be_shown(capsys, tiny, tiny_reward, tmp_path):
    strict = shutil.copytree(tiny_reward, tmp_path / "strict")
    tokenizer = AutoTokenizer.from_pretrained(strict)
    tokenizer.chat_template = STRICT_TURNS
    tokenizer.save_pretrained(strict)
    rows = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 * 3?"}]
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"prompt": rows, "answer": "6"}) + "\n")
    command = ["rl", "experiment=grpo", tiny, f"data.train={train}", "verifier=exact"]
    for path, expected in ((tiny_reward, 0), (strict, 2)):
        code, text = run(capsys, *command, f"+reward_models.kind.path={path}")
        assert code == expected, text
    assert f"error: {train}:1: reward_models.kind: the model's chat template refuses" in text
    assert "System role not supported" in text


def test_engines_have_the_set_up_time_of_the_device_that_was_resolved(capsys, tiny):
    asked = ["rl", "experiment=grpo", "cluster.device=auto", "failures.stuck_after_s=2500", tiny]
    code, text = run(capsys, *asked)
    assert code == 0, text  # on this CPU 2,100 s are needed
    code, text = run(capsys, "--gpus", "2", *asked)
    assert code == 2 and "failures.stuck_after_s must be above 3000 s" in text, text


def test_the_time_of_a_step_on_a_device_that_is_not_here(capsys, tiny):
    common = ["rl", "experiment=grpo", "cluster=node8", "rl.max_staleness=1", tiny]
    code, text = run(capsys, "--gpus", "8", "--device", "h200", *common)
    for part in ("generation │", "training │", "push of new weights │", "hidden by overlap │ -"):
        assert code == 0 and part in text, text
    assert "Times are for h200" in text and "17% in the median and 145% at worst" in text
    assert f"KV cache and activations {0.85 * 141:.1f}" in text  # the device brings its memory
    for words, refusal in (
        (["--gpus", "8", "--device", "h1000", *common], "--device must be one of h100_pcie, "),
        (["--device", "b200", *common], "describe GPUs: give their number, --gpus, too"),
        (["--gpu-gib", "40", *common], "describe GPUs: give their number, --gpus, too"),
        (["--mean-response", "0", *common], "mean_response must be in (0, 1e7]"),
        (["--mean-response", "5", "pipeline"], "--mean-response has no effect on rlpost plan pi"),
    ):
        code, text = run(capsys, *words)
        assert code == 2 and refusal in text, text
