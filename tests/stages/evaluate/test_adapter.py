"""A model with an adapter: what answers, and what is refused before anything is written."""

import asyncio

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from peft_adapters import adapted, base_model, logits, save

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.stages.evaluate.boot import _whole_model
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture
def plan(tiny_model, tmp_path):
    def make(*overrides):
        given = [f"model.path={tiny_model}", "suites=[format]", "max_tokens=8"]
        cfg, _ = compose_stage([*given, *overrides], stage="evaluate")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return make


def test_the_base_with_its_adapter_merged_in_answers_and_is_removed(plan, tiny_model, tmp_path):
    model = adapted(tiny_model, "dora")  # which no engine serves as an adapter
    wanted = logits(model)
    adapter = save(model, tmp_path / "adapter")
    made = plan(f"model.adapter={adapter}", f"baseline.path={tiny_model}")
    assert made.cfg.answered_by == f"{tiny_model} with {adapter}"
    examinee, baseline = made.examinees
    scratch = tmp_path / ".model-merged"
    (scratch / "left").mkdir(parents=True)  # by an evaluation that was killed

    async def answers():
        async with _whole_model(baseline, tmp_path / "none") as path:
            assert path == str(tiny_model)
        async with _whole_model(examinee, scratch) as path:
            assert not (scratch / "left").exists()
            return logits(base_model(path))

    torch.testing.assert_close(asyncio.run(answers()), wanted, atol=1e-4, rtol=1e-4)
    assert not scratch.exists()


def test_adapters_that_cannot_be_merged_are_refused(plan, tiny_model, tiny_untied_model, tmp_path):
    adapter = save(adapted(tiny_model, "lora"), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"was trained on|of another base"):
        plan(f"baseline.path={tiny_untied_model}", f"baseline.adapter={adapter}")
    with pytest.raises(UserError, match=r"model\.adapter: .* is neither an adapter's directory"):
        plan(f"model.adapter={tiny_model}")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prompts = save(get_peft_model(base_model(tiny_model), config), tmp_path / "prompts")
    with pytest.raises(UserError, match=r"model\.adapter: PROMPT_TUNING .* changes no weight"):
        plan(f"model.adapter={prompts}")
