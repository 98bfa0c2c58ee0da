"""Write docs/algorithms.md: every estimator, loss and correction, from the registries.

Owns the reading of what lies beside the code: formula (first sentence of the registered
function's docstring), source (docstring of its config), options (fields and their line of help),
needs (traits), ``use`` and ``watch``. The prose is in algorithms.md.j2. Refuses to know any
variant by name, so a new one appears by itself (``make docs``).
"""

import dataclasses
import inspect
import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import jinja2

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.kl_controller import AdaptiveKLConfig
from rlpost.algorithms.losses.weighted import ROLLOUT_RATIO
from rlpost.algorithms.preference import preference_losses
from rlpost.algorithms.reduce import ReductionConfig
from rlpost.algorithms.reward import reward_losses
from rlpost.algorithms.shaping import DynamicSamplingConfig, ShapingConfig
from rlpost.bounds import help_of
from rlpost.config.groups import COMPOSABLE, option_path, registries
from rlpost.control.staleness import StalenessConfig
from rlpost.registry import Entry, Registry
from rlpost.rollout.interruption import InterruptionConfig
from rlpost.training.reward.settings import RewardModelConfig

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "algorithms.md"
TEMPLATE = "algorithms.md.j2"
SECTIONS = {
    "algorithm.kl": KLConfig,
    "algorithm.kl.adaptive": AdaptiveKLConfig,
    "algorithm.reduction": ReductionConfig,
    "algorithm.shaping": ShapingConfig,
    "algorithm.dynamic_sampling": DynamicSamplingConfig,
    "reward_models.NAME": RewardModelConfig,
    "rl": StalenessConfig,
    "rollout.interruption": InterruptionConfig,
}
OTHERS = ("verifier", "adapter", "optimizer")  # groups that are no algorithms
# Trait -> what it asks of the user. A trait that is missing here is a KeyError.
NEEDS = {
    "needs_group": "`rollout.group_size` of at least {min_group}{by_default}",
    "needs_critic": "a critic (`critic.enabled=true`)",
    "needs_greedy": "a greedy response per prompt (sampled for you)",
    "needs_components": "two or more rewards (functions of `verifier.path`, reward models)",
    "needs_selection": "tokens chosen from the whole batch (done for you)",
    "needs_proximal": "`algorithm.anchor=proximal`",
    "needs_reference": "the start's log-probs (a reference)",
    "needs_kl": "judged responses, or pairs, each of which is two of them",
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One field of a config, as it is typed on the command line."""

    path: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One registered variant, in Markdown that fits into a cell of a table."""

    name: str
    typed: str
    formula: str
    source: str
    needs: str
    takes: str
    use: str
    watch: str
    options: list[Option]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """The variants of one module, which calls itself ``title``."""

    title: str
    variants: list[Variant]


def render() -> str:
    """Return the document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(TEMPLATE).render(
        chapters={section: chapters(group, registry) for section, group, registry in documented()},
        options={path: list(options(config, path)) for path, config in SECTIONS.items()},
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def documented() -> Iterator[tuple[str, str, Registry]]:
    """Yield the section of the document, hydra's group and the registry of what it describes."""
    for group, registry in registries("rl").items():
        if group not in OTHERS:
            yield group, group, registry
    yield "preference", "loss", preference_losses
    yield "reward", "loss", reward_losses


def chapters(group: str, registry: Registry) -> list[Chapter]:
    """Describe the variants of a registry, module by module."""
    entries = sorted(registry, key=_module)
    return [
        Chapter(
            title=_chapter_title(sys.modules[module].__doc__),
            variants=[describe(group, entry) for entry in members],
        )
        for module, members in itertools.groupby(entries, key=_module)
    ]


def describe(group: str, entry: Entry) -> Variant:
    """Collect what the document says about one variant."""
    choice = f"[{entry.name}]" if group in COMPOSABLE else entry.name
    return Variant(
        name=entry.name,
        typed=f"`{group}={choice}`",
        formula=cell(_first_sentence(_docstring(entry.target))),
        source=cell(_docstring(entry.config)),
        needs=cell("; ".join(_needs(entry))),
        takes="`algorithm.kl.placement=reward`" if _trait(entry, "token_level") else "",
        use=cell(entry.config.use),
        watch=cell(entry.config.watch),
        options=list(options(entry.config, option_path(group, entry.name))),
    )


def options(config: type, path: str) -> Iterator[Option]:
    """Yield the fields of a config dataclass that a user sets; nested configs are left out."""
    for field, value in ((f, getattr(config(), f.name)) for f in dataclasses.fields(config)):
        if field.name == "kind" or dataclasses.is_dataclass(value):
            continue
        choices = ", ".join(f"`{x.name}`" for x in type(value)) if isinstance(value, Enum) else ""
        meaning = "; ".join(filter(None, [choices, help_of(field)]))
        yield Option(path=f"{path}.{field.name}", default=_default(value), meaning=cell(meaning))


def cell(text: str) -> str:
    """Return ``text`` for a cell: one line, pipes escaped, sources linked, RST code as Markdown."""
    text = " ".join(text.split()).replace("``", "`").replace("|", r"\|")
    text = re.sub(r"https?://([^\s,;]*[\w/])", r"[\1](\g<0>)", text)
    return re.sub(
        r"(?:arXiv )?(?<![\w./])(\d{4}\.\d{5})\b", r"[arXiv \1](https://arxiv.org/abs/\1)", text
    )


def _needs(entry: Entry) -> Iterator[str]:
    for trait in dir(entry.config):
        if trait.startswith("needs_") and _trait(entry, trait):
            depends = " with the default options" if "min_group" in vars(entry.config) else ""
            yield NEEDS[trait].format(min_group=_trait(entry, "min_group"), by_default=depends)
    if entry.config in ROLLOUT_RATIO:
        weighing = [
            x.name for x in registries("rl")["algorithm/corrections"] if _trait(x, "weighs")
        ]
        yield f"no correction that weighs ({', '.join(weighing)})"
    if _trait(entry, "weighs"):
        losses = [x.name for x in registries("rl")["loss"] if x.config in ROLLOUT_RATIO]
        yield f"a loss other than {', '.join(losses)}"


def _trait(entry: Entry, name: str) -> Any:
    """Return what a variant says of itself, with its default options; None if nothing."""
    return getattr(entry.config(), name, None)


def _module(entry: Entry) -> str:
    return str(entry.target.__module__)


def _docstring(thing: Any) -> str:
    text = inspect.getdoc(thing)
    assert text, f"{thing.__name__} has no docstring"
    return text


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s|\n\n", text)[0].removesuffix(".")


def _chapter_title(docstring: str | None) -> str:
    assert docstring is not None
    return re.split(r"[:.]\s", docstring)[0]


def _default(value: object) -> str:
    return value.name if isinstance(value, Enum) else json.dumps(value)


if __name__ == "__main__":
    DOCUMENT.write_text(render())
