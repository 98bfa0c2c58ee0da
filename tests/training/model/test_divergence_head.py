"""A student beside its teacher: what is compared, whose gradient it is, and what sleeps."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from plain_distill import divergence

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.algorithms.distill.top_tokens import IDS, LOGS
from rlpost.algorithms.loss import Outputs
from rlpost.config.schema import ModelConfig
from rlpost.errors import UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.distill.teacher import Teacher
from rlpost.stages.distill.teacher_settings import TeacherConfig
from rlpost.stages.policy import check_policy
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import ModelInputs, PackedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.packing.pack import one_batch, pack
from rlpost.training.packing.units import Unit
from rlpost.training.parking import Parking
from rlpost.training.settings import DType, TrainerConfig

CPU = torch.device("cpu")
SEQUENCES = ([5, 9, 11, 40], [7, 90, 91, 2, 8, 100, 3])  # of which the first two are the prompt


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "teacher"
    return build_tiny_llama(path, layers=3, vocabulary=384, seed=7)


def beside(student, teacher, *, chunk=3, **divergence_options):
    cfg = TrainerConfig(logprob_chunk=chunk)
    policy = check_policy(ModelConfig(path=str(student)), NoAdapterConfig(), template_variables={})
    found = Teacher.of(TeacherConfig(path=str(teacher)), cfg, student=policy)
    return found.beside(policy, cfg, DivergenceConfig(**divergence_options))


def outputs(module: PackedModel) -> Outputs:
    units = [Unit.sharing(ids[:2], {n: ids[2:]}) for n, ids in enumerate(SEQUENCES)]
    return Outputs.of(module(ModelInputs.of(one_batch(units), device=CPU)))


def logits_of(model) -> torch.Tensor:
    parts = [model(input_ids=torch.tensor([ids])).logits[0, 1:-1] for ids in SEQUENCES]
    return torch.cat(parts)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_both_are_read_where_a_token_is_predicted(tiny_untied_model, teacher_path, chunk):
    module = beside(tiny_untied_model, teacher_path, chunk=chunk, beta=0.3).load(
        dtype=torch.float32
    )
    found = outputs(module)
    (teacher,) = module.frozen
    with torch.no_grad():
        for model in (module.model, teacher.model):
            model.set_attn_implementation("sdpa")
        student_NV, teacher_NV = logits_of(module.model), logits_of(teacher.model)
    expected = divergence(student_NV[:, :259], teacher_NV[:, :259], beta=0.3)
    torch.testing.assert_close(found.divergence_R.double(), expected, rtol=1e-4, atol=1e-6)
    targets = torch.tensor([token for ids in SEQUENCES for token in ids[2:]])
    of_all = student_NV.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(found.scores_R, of_all, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_no_part_of_what_is_trained(tiny_untied_model, teacher_path):
    module = beside(tiny_untied_model, teacher_path).load(dtype=torch.float32)
    (teacher,) = module.frozen
    names = {id(parameter) for parameter in module.parameters()}
    assert not names & {id(parameter) for parameter in teacher.parameters()}
    outputs(module).divergence_R.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not teacher.training
    assert not any(name.startswith("frozen") for name in module.state_dict())


def test_the_teacher_sleeps_with_the_student(tiny_untied_model, teacher_path):
    module = beside(tiny_untied_model, teacher_path).load(dtype=torch.float32)
    before = outputs(module).divergence_R.detach()
    for each in (module, *module.frozen):  # loaded weights lie in mapped files, which stay
        for parameter in each.parameters():
            parameter.data = parameter.data.clone()
    parking = Parking(module, device=CPU)
    size = sum(p.nbytes for each in (module, *module.frozen) for p in each.parameters())
    assert parking.park() >= 0.9 * size
    parking.wake()
    torch.testing.assert_close(outputs(module).divergence_R.detach(), before, rtol=0, atol=0)


def test_a_teacher_that_reads_other_tokens_is_refused_where_it_is_loaded(
    tiny_untied_model, teacher_path, tmp_path
):
    model = beside(tiny_untied_model, teacher_path)
    model.require_vocabulary()
    other = shutil.copytree(teacher_path, tmp_path / "other")
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    wrong = replace(model, frozen=(replace(model.frozen[0], path=str(other)),))
    with pytest.raises(UserError, match=r"teacher\.path"):
        wrong.require_vocabulary()


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_stored_teacher_says_what_one_beside_the_student_does(
    tiny_untied_model, teacher_path, chunk
):
    module = beside(tiny_untied_model, teacher_path, chunk=chunk, beta=0.3).load(
        dtype=torch.float32
    )
    live = outputs(module)
    scorer = FrozenScorer(
        TrainerConfig(logprob_chunk=chunk, dtype=DType.float32, threads=1),
        model=TrainedModel.policy(str(teacher_path), TrainerConfig()),
    )
    units = [Unit.sharing(ids[:2], {n: ids[2:]}) for n, ids in enumerate(SEQUENCES)]
    packed = pack(units, num_ranks=1, max_tokens=64)

    def stored(k):
        ((ids, logs),) = scorer.top_tokens(packed.batches[0], k=k, vocabulary=259, temperature=1.0)
        columns = {IDS: packed.by_item([[ids]]), LOGS: packed.by_item([[logs]])}
        ((batch,),) = packed.attach(**columns).batches
        return Outputs.of(module(ModelInputs.of(batch, device=CPU)))

    module.frozen = ()
    order = torch.argsort(torch.from_numpy(packed.batches[0][0].number_I))
    assert order.tolist() == [0, 1], "the items are in another order than those of one_batch"
    every, few = stored(259), stored(4)
    for name in ("divergence_R", "scores_R", "entropy_R", "agrees_R"):
        torch.testing.assert_close(getattr(every, name), getattr(live, name), rtol=1e-4, atol=1e-5)
    assert (live.divergence_R - few.divergence_R).min() > -1e-6
    assert (live.divergence_R - few.divergence_R).max() > 1e-4
    assert outputs(module).divergence_R is None  # nobody teaches
