"""The card of an exported model: its examples run as they stand."""

import json
import re
import shlex
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from rlpost.models.card import write_model_card
from rlpost.models.embedded import HUB_ID, NAME
from rlpost.models.origin import DataUsed, ModelOrigin, export_record

ORIGIN = ModelOrigin(base="org/base", stage="rl", run="own", step=3, run_step=3)


def blocks(directory, language):
    text = (directory / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def export(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "it's here")


def write(directory, **options):
    write_model_card(directory, ORIGIN, **options)


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


def known(directory):
    """What the hub's own reader finds."""
    return ModelCard.load(directory / "README.md").data.to_dict()


DATA = (
    DataUsed(split="train", name="gsm8k", source="openai/gsm8k:main", num_rows=7473,
             fingerprint="9f2c", hub_id="openai/gsm8k"),
    DataUsed(split="heldout", name="own", source="own.jsonl", num_rows=12, fingerprint="77aa"),
)  # fmt: skip


def test_the_reader_of_the_hub_finds_base_data_licence_and_tags(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: llama3\n---\n# Base\n")
    write_model_card(tmp_path, replace(ORIGIN, base=str(base), data=DATA, config_hash="c0ffee"))
    found = known(tmp_path)
    assert found["library_name"] == "transformers" and found["tags"] == ["rlpost", "rl"]
    assert (found["license"], found["license_name"]) == ("other", "llama3")
    assert found["datasets"] == ["openai/gsm8k"]  # no local file: hubs take ids only
    assert "base_model" not in found  # nor a directory of this machine
    text = (tmp_path / "README.md").read_text()
    assert "| `openai/gsm8k:main` | train | 7,473 | `9f2c` |" in text
    assert "| `own.jsonl` | heldout | 12 | `77aa` |" in text and "`c0ffee`" in text
    assert export_record(tmp_path)["licence"] == "other"


def test_a_base_on_the_hub_is_the_base_and_a_licence_that_nobody_names_is_null(tmp_path):
    write_model_card(tmp_path, ORIGIN)
    found = known(tmp_path)
    assert found["base_model"] == "org/base" and found["base_model_relation"] == "finetune"
    assert "license" not in found
    assert (
        "Licence: unknown, because the base has no card that names one"
        in (tmp_path / "README.md").read_text()
    )
    assert export_record(tmp_path)["licence"] is None


def test_the_embedded_model_has_a_licence_and_an_id(tmp_path):
    write_model_card(tmp_path, replace(ORIGIN, base=NAME))
    assert (known(tmp_path)["license"], known(tmp_path)["base_model"]) == ("apache-2.0", HUB_ID)


def test_the_lineage_goes_back_to_the_first_base(tmp_path):
    places = [tmp_path / name for name in ("first", "second", "third")]
    origins = [replace(ORIGIN, base=NAME, stage="sft", run="first", step=1)]
    origins += [replace(ORIGIN, base=str(place), run=f"after {place.name}") for place in places[:2]]
    for place, origin in zip(places, origins, strict=True):
        place.mkdir()
        write_model_card(place, origin)
    record = export_record(places[2])
    assert [each["run"] for each in record["lineage"]] == ["after first", "first"]
    assert [each["base"] for each in record["lineage"]] == [str(places[0]), NAME]
    assert known(places[2])["base_model"] == HUB_ID
    assert known(places[2])["license"] == "apache-2.0"  # as each card before says
    text = (places[2] / "README.md").read_text()
    assert f"| `first` | 1 step of sft on `{NAME}` |" in text


def test_results_and_cost_are_on_it(tmp_path):
    results = {"sft/heldout_loss": 1.23456789}
    write_model_card(tmp_path, replace(ORIGIN, results=results, cost={"cost/gpu_s": 7200.0}))
    text = (tmp_path / "README.md").read_text()
    assert "| result at step 3 | value |" in text and "| `sft/heldout_loss` | 1.23457 |" in text
    assert "| `cost/gpu_s` | 7,200.0 |" in text
    record = export_record(tmp_path)
    assert record["results"] == results and record["cost"] == {"cost/gpu_s": 7200.0}


@pytest.mark.parametrize("metadata", [None, "[1", "- 1", "license: 3"])
def test_a_base_with_a_broken_card_has_no_licence(tmp_path, metadata):
    text = "no card" if metadata is None else f"---\n{metadata}\n---\n"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(text)
    (tmp_path / "export").mkdir()
    write_model_card(tmp_path / "export", replace(ORIGIN, base=str(tmp_path / "base")))
    assert "license" not in known(tmp_path / "export")
