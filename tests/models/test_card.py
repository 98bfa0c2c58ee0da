"""The card of an exported model: its examples run as they stand."""

import json
import re
import shlex
import shutil

import pytest

from rlpost.models.card import export_record, write_model_card


def blocks(directory, language):
    text = (directory / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def export(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "it's here")


def write(directory, **options):
    write_model_card(directory, base="org/base", stage="rl", step=3, run="own", **options)


@pytest.mark.parametrize("system_prompt", [None, 'Say "it\'s" in\n\\n ``` 数 🙂.'])
def test_the_transformers_example_runs(export, system_prompt, capsys):
    write(export, system_prompt=system_prompt)
    (example,) = blocks(export, "python")
    scope = {}
    exec(example, scope)
    assert scope["output"].shape[1] > scope["inputs"]["input_ids"].shape[1]
    prompt = scope["tokenizer"].decode(scope["inputs"]["input_ids"][0])
    assert prompt.endswith("What is 7 * 8?<|im_end|>\n<|im_start|>assistant\n")
    assert ("system" in prompt) == (system_prompt is not None)
    assert system_prompt is None or system_prompt in prompt


def test_a_model_without_a_chat_template_is_asked_as_text(export, capsys):
    for path in (export / "chat_template.jinja", export / "tokenizer_config.json"):
        if path.suffix == ".json":
            config = json.loads(path.read_text())
            config.pop("chat_template", None)
            path.write_text(json.dumps(config))
        else:
            path.unlink(missing_ok=True)
    write(export)
    (example,) = blocks(export, "python")
    scope = {}
    exec(example, scope)
    assert scope["tokenizer"].decode(scope["inputs"]["input_ids"][0]) == "What is 7 * 8?"
    _, ask = blocks(export, "bash")
    assert "/v1/completions" in ask and '"prompt": "What is 7 * 8?"' in ask


def test_the_server_example_is_one_command_and_one_question(export, tmp_path):
    final = tmp_path / "runs" / "it's own" / "export"
    write(export, location=final, system_prompt="It's short.")
    serve, ask = (shlex.split(block.replace("\\\n", "")) for block in blocks(export, "bash"))
    assert serve[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    assert serve.pop() == "--enforce-eager"
    options = dict(zip(serve[3::2], serve[4::2], strict=True))
    assert options == {
        "--model": str(final),
        "--served-model-name": "own",
        "--port": "8000",
        "--max-model-len": "512",  # the tiny model's context
        "--kv-cache-memory-bytes": "2G",
    }
    body = json.loads(ask[-1])
    assert body["model"] == "own" and body["messages"][0]["content"] == "It's short."


def test_what_was_measured_and_the_step_are_on_it(tmp_path):
    write(tmp_path, measured="held-out accuracy 0.111 at step 0, 0.889 at step 3")
    text = (tmp_path / "README.md").read_text()
    assert "after 3 steps of `rlpost rl`: held-out accuracy 0.111 at step 0" in text
    assert text.startswith("---\n") and "base_model: org/base" in text  # what hubs read
    assert export_record(tmp_path)["step"] == 3
