"""A teacher is asked of every row, in whatever micro-batches, and nothing is half stored."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from supervised_runs import write_rows
from transformers import AutoModelForCausalLM

from rlpost.cluster.reference import ReferenceGroup
from rlpost.cluster.scorers import Copies
from rlpost.config.compose import compose_stage
from rlpost.errors import NoAnswer, UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.distill.modes import estimate, prepare
from rlpost.stages.distill.store import TeacherStore
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.model.scorer import FrozenScorer

K = 5


class Local:
    """A scorer in this process; it may fail after some calls."""

    def __init__(self, scorer, *, calls=1000):
        self.scorer, self.calls = scorer, calls

    async def call(self, method, *args, **options):
        if self.calls == 0:
            raise NoAnswer("it hangs")
        self.calls -= 1
        return getattr(self.scorer, method)(*args, **options)


class Here:
    """Holds batches in this process."""

    def parts(self, packed):
        return packed.batches


@pytest.fixture
def planned(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlpost.stages.distill.storing.VALUES_PER_CALL", K * 30)
    build_tiny_llama(tmp_path / "teacher", layers=3, vocabulary=384, seed=7)
    rows = [{"prompt": f"{n}?", "completion": "a" * (1 + n % 3)} for n in range(7)]
    write_rows(tmp_path / "rows.jsonl", [*rows, rows[0]])
    write_rows(tmp_path / "held.jsonl", [{"prompt": "held?", "completion": "b"}])

    def plan(*overrides):
        given = [f"model.path={tiny_model}", "teacher.store=stored", "data.train=rows.jsonl"]
        given += ["data.workers=0", "data.heldout=held.jsonl", "trainer.dtype=float32"]
        cfg, _ = compose_stage([*given, *overrides], stage="distill")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return plan


def run():
    return SimpleNamespace(stop=asyncio.Event(), progress=lambda what: None)


MAKING = ("teacher.path=teacher", f"teacher.top_k={K}", "trainer.num_ranks=2")


async def test_what_is_stored_is_what_a_plain_model_says(planned, tmp_path):
    plan = planned(*MAKING)
    assert plan.teacher is None and plan.stored.store is None
    needs = {each.process: each for each in estimate(plan, gpu_bytes=None).footprints}
    assert needs["teacher of trainer rank 1"].turn == "storing"
    assert "frozen teacher" not in needs["trainer rank 1"].kept
    scorers = [FrozenScorer(plan.cfg.trainer, model=plan.stored.teacher.model)] * 2
    failing = ReferenceGroup(Copies([Local(each, calls=1) for each in scorers]), store=Here())
    packer = ExamplePacker(num_ranks=2, max_tokens=64)
    with pytest.raises(NoAnswer):
        await plan.stored.fill(failing, run(), packer, plan.splits)
    stopped = run()
    stopped.stop.set()
    group = ReferenceGroup(Copies([Local(each) for each in scorers]), store=Here())
    with pytest.raises(asyncio.CancelledError):
        await plan.stored.fill(group, stopped, packer, plan.splits)
    left = {each.name for each in tmp_path.iterdir()}
    assert not any("stored" in name for name in left)
    await plan.stored.fill(group, run(), packer, plan.splits)
    store = TeacherStore.open(tmp_path / "stored")
    assert len(store) == 8  # seven rows that differ, and the one held out
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher", dtype=torch.float32)
    corpora = (*plan.splits.train.corpora.values(), *plan.splits.heldout.values())
    for each in [example for corpus in corpora for example in corpus.all_examples()]:
        with torch.no_grad():
            logits_TV = teacher(torch.from_numpy(each.ids)[None].long()).logits[0, :-1, :259]
        probs_RV = logits_TV[torch.from_numpy(each.trained[1:])].softmax(-1)
        kept = probs_RV.topk(K)
        found = store.of(each)
        assert found.ids_RK.tolist() == kept.indices.tolist()
        logs_RB = torch.cat([kept.values, 1 - kept.values.sum(1, keepdim=True)], 1).log()
        torch.testing.assert_close(torch.from_numpy(found.logs_RB), logs_RB, rtol=1e-4, atol=1e-5)
    again = planned(*MAKING)
    assert again.stored.store is not None and again.stored.teacher is None
    alone = planned()
    columns = alone.stored.store.columns(alone.splits.train.take(3))
    assert [column.shape[1] for column in columns["teacher_logs_RB"].values()] == [K + 1] * 3
    with pytest.raises(UserError, match=r"teacher\.path with teacher\.top_k=6 asks for others"):
        planned("teacher.path=teacher", "teacher.top_k=6")
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "4?", "completion": "aa"}])
    assert planned().stored.store is not None  # a part of the rows
