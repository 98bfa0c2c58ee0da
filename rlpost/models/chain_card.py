"""The part of a model card that tells of the pipeline that made the model.

Owns its text. Refuses to own the rest of the card (card.py) and where it is written. Invariant: a
card has this part once, at its end.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import Template

_HEADING = "\n## How a pipeline made it\n"
_SECTION = Template(
    """
The pipeline `{{ chain.pipeline.name }}`, whose file has the hash `{{ chain.pipeline.file }}`, made
this model{% if stands_for %}, the result of `{{ stands_for }}`,{% endif %} from
`{{ chain.base.path }}` (`{{ chain.base.hash }}`). Its `lineage.json` has all options.

| stage | command | outcome | options | made of | code | result |
|---|---|---|---|---|---|---|
{% for name, each in chain.stages.items() %}
| `{{ name }}` | `rlpost {{ each.recipe.command }}` | {{ each.outcome or "not judged" }} \
| `{{ each.config }}` | {% for what, hash in each.recipe.inputs.items() %}{{ what }}: `{{ hash }}`\
{{ "" if loop.last else ", " }}{% endfor %} | `{{ each.code }}` | `{{ each.result.hash }}` |
{% endfor %}

{% for name, each in chain.stages.items() %}
{% for gate in each.gates %}
- `{{ name }}`: `{{ gate.gate }}`: {{ gate.verdict }}\
{% if gate.low is not none %} ({{ "%.4g"|format(gate.left) }} against \
{{ "%.4g"|format(gate.right) }}, difference {{ "%+.4g"|format(gate.low) }} to \
{{ "%+.4g"|format(gate.high) }}){% endif %}

{% endfor %}
{% endfor %}
""",
    trim_blocks=True,
)


def with_chain(card: str, chain: Mapping[str, Any], *, stands_for: str | None = None) -> str:
    """Return a card that tells of a chain at its end.

    Args:
        card: the text of ``README.md``; it may have such a part, which is replaced.
        chain: the part of ``lineage.json`` that made the model.
        stands_for: the stage whose result it is, where the card is of a copy.
    """
    before = card.partition(_HEADING)[0].rstrip("\n")
    section = _SECTION.render(chain=chain, stands_for=stands_for).rstrip("\n")
    return f"{before}\n{_HEADING}{section}\n".lstrip("\n")
