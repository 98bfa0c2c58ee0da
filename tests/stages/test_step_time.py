"""Times of the stages beside ``rl``: each is what the roofline says of the tokens that it draws."""

import json
from dataclasses import replace

import pytest

from rlpost.cli.plan import prepared
from rlpost.control.placement import Node, assign_slots
from rlpost.errors import UserError
from rlpost.models.shape import model_shape
from rlpost.models.tiny import build_tiny_llama
from rlpost.roofline.communication import Layout, reduce_s
from rlpost.roofline.decoding import Engines
from rlpost.roofline.devices import BY_NAME, cpu
from rlpost.roofline.efficiency import CPU_EFFICIENCY, EFFICIENCY
from rlpost.roofline.generation import Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.training import forward_s, update_s
from rlpost.stages.registry import STAGES
from rlpost.stages.roles import actors_of
from rlpost.stages.step_time import PlannedOn

H100 = BY_NAME["h100"]
ON = PlannedOn(slots=[], gpu=H100, cores=64, features=())
ROWS = 16
QUIET = ("data.workers=0", "examples_per_step=4", "trainer.steps=8")


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model):
    """Rows of two lengths, pairs of one, and a teacher that is larger."""
    place = tmp_path_factory.mktemp("rows")
    turns = [("user", "q" * 8), ("assistant", "a")]

    def messages(times: int) -> list[dict[str, str]]:
        return [{"role": role, "content": text * times} for role, text in turns]

    contents = {
        "rows": [{"messages": messages(4 if i % 2 else 1)} for i in range(ROWS)],
        "pairs": [{"prompt": "q" * 8, "chosen": "a" * 9, "rejected": "b" * 9}] * ROWS,
        "docs": [{"text": f"{i:2} words"} for i in range(ROWS)],
    }
    for name, rows in contents.items():
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_tiny_llama(place / "teacher", hidden=256)
    return place


def planned(stage: str, tiny_model, *words: str):
    return prepared(stage, [f"model.path={tiny_model}", *words])


def timed(stage: str, plan, on: PlannedOn = ON, *, mean_response: float | None = None):
    return STAGES[stage].part("timing")(plan, on, mean_response=mean_response)


def layout_of(plan) -> Layout:
    cfg = plan.cfg.trainer
    return Layout(
        devices=cfg.num_ranks,
        micro_batch_tokens=cfg.max_tokens_per_micro_batch * EFFICIENCY.filled,
        zero_stage=cfg.zero_stage,
        recomputed=float(cfg.gradient_checkpointing),
        gradient_bytes=cfg.reduce_dtype.size_bytes,
        reduces_each=cfg.zero_stage == 2,
    )


def test_a_step_of_fine_tuning_learns_what_it_draws(files, tiny_model):
    plan = planned("sft", tiny_model, f"data.train={files}/rows.jsonl", *QUIET)
    lengths_N = plan.splits.train.corpora["rows"].lengths_N
    short, long = sorted(set(lengths_N.tolist()))
    expected = update_s(
        model_shape(str(tiny_model)),
        H100,
        layout_of(plan),
        tokens=4 * (short + long) / 2,
        length=(short**2 + long**2) / (short + long),  # most tokens are in long rows
        overhead_s=EFFICIENCY.micro_batch_s,
    )
    found = timed("sft", plan)
    assert found.total_s == found.training_s == pytest.approx(expected)
    assert found.run_s == pytest.approx(8 * expected)
    with pytest.raises(UserError, match="--mean-response has no effect: nothing is sampled"):
        timed("sft", plan, mean_response=5.0)


def test_ranks_wait_for_gradients_in_the_format_that_they_reduce(files, tiny_model):
    words = (f"data.train={files}/rows.jsonl", *QUIET, "trainer.num_ranks=4")
    plans = [
        planned("sft", tiny_model, *words, f"trainer.reduce_dtype={dtype}")
        for dtype in ("float32", "bfloat16")
    ]
    wide, narrow = (timed("sft", plan).training_s for plan in plans)
    reduced = reduce_s(model_shape(str(tiny_model)), H100, layout_of(plans[1]), EFFICIENCY)
    assert wide - narrow == pytest.approx(2 * reduced)  # one micro-batch, to all ranks


def test_on_a_cpu_ranks_have_their_threads(files, tiny_model):
    words = (f"data.train={files}/rows.jsonl", *QUIET, "trainer.dtype=float32")
    one = planned("sft", tiny_model, *words, "trainer.threads=1")
    on = replace(ON, gpu=None, cores=8)
    expected = cpu(cores=1, features=(), bfloat16=False)
    assert on.trainer(one.cfg.trainer) == expected and on.efficiency is CPU_EFFICIENCY
    four = replace(one.cfg.trainer, threads=4)
    assert on.trainer(four).matmul_flops == 4 * expected.matmul_flops
    assert on.trainer(replace(four, threads=64)).matmul_flops == 8 * expected.matmul_flops


def test_a_reference_is_asked_before_or_in_each_step(files, tiny_model):
    words = ("preference", tiny_model, f"data.train={files}/pairs.jsonl", *QUIET)
    live = timed("preference", planned(*words, "reference.mode=live"))
    assert live.scoring_s > 0 and live.first_s == 0
    stored = timed("preference", planned(*words))
    assert stored.scoring_s == 0
    # 8 steps of 4 rows are two epochs of 16: each row is scored once.
    assert stored.first_s == pytest.approx(4 * live.scoring_s)
    alone = timed("preference", planned(*words, "loss=simpo"))
    assert alone.scoring_s == alone.first_s == 0
    assert alone.training_s == live.training_s


def test_a_divided_frozen_model_waits_for_its_gathers(files, tiny_model):
    def scoring_s(stage: str, *words: str, trained: int) -> float:
        ranks = ("trainer.num_ranks=2", f"trainer.zero_stage={trained}")
        plan = planned(stage, tiny_model, f"data.train={files}/rows.jsonl", *QUIET, *ranks, *words)
        return timed(stage, plan).scoring_s

    reference = ("sft", "kl.coefficient=0.1", "reference.num_ranks=2", "reference.zero_stage=")
    teacher = ("distill", f"teacher.path={files}/teacher", "teacher.zero_stage=")
    for *words, stage in (reference, teacher):
        divided, whole = (scoring_s(*words, f"{stage}{number}", trained=2) for number in (3, 0))
        assert divided > whole
        # What the trainer's ranks divide of theirs is another matter.
        assert scoring_s(*words, f"{stage}0", trained=3) == whole


def test_a_teacher_reads_what_the_student_learns(files, tiny_model):
    words = ("distill", tiny_model, f"data.train={files}/rows.jsonl", *QUIET)
    plan = planned(*words, f"teacher.path={files}/teacher")
    found = timed("distill", plan)
    lengths_N = plan.splits.train.corpora["rows"].lengths_N
    expected = forward_s(
        model_shape(str(files / "teacher")),
        H100,
        layout_of(plan),
        tokens=4 * lengths_N.mean(),
        length=float((lengths_N**2).sum() / lengths_N.sum()),
    )
    assert found.scoring_s == pytest.approx(expected)


OWN = (
    "data.online=true", "data.train=arithmetic", "data.size=32", "rollout.max_tokens=8",
    "examples_per_step=4", "trainer.steps=8", "weights.transport=filesystem",
)  # fmt: skip


@pytest.mark.parametrize("stage", ["distill", "preference"])
def test_own_samples_are_generated_and_pushed(files, tiny_model, stage):
    judge = {"distill": f"teacher.path={files}/teacher", "preference": "verifier=exact"}
    plan = planned(stage, tiny_model, *OWN, judge[stage])
    here = Node(id="0", name="here", cpus=64, gpus=0)
    slots = assign_slots(actors_of(plan.roles), [here], placement=plan.cfg.cluster.placement)
    on = replace(ON, slots=slots)
    found = timed(stage, plan, on)
    cfg, prompt = plan.cfg, plan.sampling.mean_prompt
    assert found.push_s == push_s(plan.roles[0].export_bytes, "filesystem")
    assert found.generation_s > 0 and found.overlaps == (cfg.rl.max_staleness > 0)
    learned = cfg.rollout.group_size if stage == "distill" else 2
    prompts = learned if stage == "distill" or not cfg.trainer.share_prompts else 1
    expected = update_s(
        model_shape(str(tiny_model)),
        H100,
        layout_of(plan),
        tokens=4 * (prompts * prompt + learned * 8),
        length=prompt + 8,
        overhead_s=EFFICIENCY.micro_batch_s,
    )
    assert found.training_s == pytest.approx(expected)
    assert (found.scoring_s > 0) == (stage == "distill" or cfg.loss.needs_reference)
    assert timed(stage, plan, on, mean_response=4.0).generation_s < found.generation_s


def test_documents_see_their_window(files, tiny_model):
    words = ("pretrain", tiny_model, f"data.train={files}/docs.jsonl", *QUIET)
    wide, narrow = (
        timed("pretrain", planned(*words, f"data.window={window}")) for window in (256, 16)
    )
    assert wide.training_s > narrow.training_s


def test_an_evaluation_is_all_its_answers(tiny_model):
    words = ["suites=[format]", "samples=2", "temperature=1", "max_tokens=16"]
    plan = planned("evaluate", tiny_model, *words)
    (examinee,) = plan.examinees
    (dataset,) = examinee.prompts.values()
    seen = [len(dataset.prompt(0, row).token_ids) for row in range(min(64, len(dataset)))]
    requests = Requests(
        prompts=len(dataset),
        samples=2,
        prompt_tokens=sum(seen) / len(seen),
        lengths=Lengths(mean=16, longest=16),
    )
    cfg = examinee.generator
    engines = Engines(
        number=cfg.num,
        tensor=1,
        most_sequences=cfg.max_num_seqs,
        memory_share=cfg.gpu_memory_utilization,
        value_bytes=4.0 if cfg.dtype.value == "float32" else 2.0,
    )
    found = timed("evaluate", plan)
    expected = generation_s(model_shape(str(tiny_model)), H100, engines, requests)
    assert found.run_s == pytest.approx(expected) and found.of == "all answers"
    assert timed("evaluate", plan, mean_response=4.0).run_s < expected
