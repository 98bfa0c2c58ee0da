"""What is written beside an exported model: its card, and of which step it is."""

import json
from pathlib import Path

from jinja2 import Template

_CARD = Template(
    """---
library_name: transformers
base_model: {{ base }}
tags: [rlpost, {{ stage }}]
---
# {{ run }}

`{{ base }}` after {{ step }} steps of `rlpost {{ stage }}`. The run's configuration, curves and
samples are in `config.yaml` and `report.html` beside this directory.
"""
)


def write_model_card(directory: Path, *, base: str, stage: str, step: int, run: str) -> None:
    """Write ``README.md`` with the metadata that model hubs read, and ``rlpost.json``."""
    text = _CARD.render(base=base, stage=stage, step=step, run=run)
    (directory / "README.md").write_text(text, encoding="utf-8")
    origin = {"base": base, "stage": stage, "step": step, "run": run}
    (directory / "rlpost.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")


def exported_step(directory: Path) -> int | None:
    """Return the step whose weights ``directory`` holds, None when it holds no export."""
    try:
        return int(json.loads((directory / "rlpost.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
