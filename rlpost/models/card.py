"""The model card of an exported model."""

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
    """Write ``README.md`` with the metadata that model hubs read."""
    text = _CARD.render(base=base, stage=stage, step=step, run=run)
    (directory / "README.md").write_text(text, encoding="utf-8")
