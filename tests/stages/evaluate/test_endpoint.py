"""What an evaluation of a model elsewhere plans, and what it refuses."""

import json

import pytest

from rlpost.config.compose import compose_stage
from rlpost.errors import UserError
from rlpost.stages.evaluate.estimate import estimate
from rlpost.stages.evaluate.plan import prepare
from rlpost.stages.run_directory import RunDirectory

GIVEN = ("endpoint.url=http://127.0.0.1:9/v1", "endpoint.model=teacher", "data.heldout=rows.jsonl",
         "verifier=numeric")  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "1 + 1?", "answer": "2", "tools": [TOOL]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))

    def plan(*overrides):
        cfg, _ = compose_stage([*GIVEN, *overrides], stage="evaluate")
        return prepare(cfg, directory=RunDirectory(root=tmp_path / "run"))

    return plan


def test_no_model_is_loaded_and_judges_see_the_conversation(planned):
    plan = planned("data.system_prompt=Be brief.")
    assert plan.roles == [] and estimate(plan, gpu_bytes=None).footprints == []
    (examinee,) = plan.examinees
    prompt = examinee.prompts["rows"].prompt(0, 0)
    assert [each["role"] for each in prompt.conversation] == ["system", "user"]
    assert len(prompt.tools) == 1
    shown = examinee.decode(prompt.token_ids)
    assert shown.endswith("system: Be brief.\nuser: 1 + 1?\nassistant: ") and "add" in shown


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.path=elsewhere", "model.path=elsewhere has no effect with endpoint.url"),
        ("baseline.path=b", "baseline.path=b has no effect with endpoint.url"),
        ("generator.num=2", r"generator\.\* has no effect with endpoint.url"),
        ("data.on_long_prompt=skip", "data.on_long_prompt=skip has no effect"),
        ("+data.chat_template_kwargs.x=1", "data.chat_template_kwargs has no effect"),
        ("endpoint.url=null", r"endpoint\.\* has no effect without endpoint.url"),
        ("endpoint.model=null", "endpoint.model must be what"),
    ],
)
def test_options_of_local_models_are_refused(planned, override, said):
    with pytest.raises(UserError, match=said):
        planned(override)
