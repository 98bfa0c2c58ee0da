"""A recipe: which models, or layers of them, are merged by which method with which parameters.

Owns mergekit's YAML, of which every key is either understood or refused by name. Refuses to own
the models' files (comparison.py, several.py) and what a method makes of its parameters.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlpost.errors import UserError
from rlpost.merging.parameter import RecipeParameter

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
_NOT_HERE = {  # keys of mergekit -> the way out
    "tokenizer": "all models must have one vocabulary; name the model whose tokenizer is kept as "
    "tokenizer_source",
    "chat_template": "the template of the model that tokenizer_source names is kept",
    "modules": "only language models are merged, which are one module",
}
_KEYS = (
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype",
    "tokenizer_source",
)  # fmt: skip
# Settings of mergekit that change its memory and never a number.
_WITHOUT_EFFECT = ("int8_mask",)

Parameters = Mapping[str, RecipeParameter]


@dataclass(frozen=True, kw_only=True)
class MergeSource:
    """A model of a slice, or some of its layers."""

    model: str  # as the user called it
    parameters: Parameters = field(default_factory=dict)
    layers: tuple[int, int] | None = None  # first and one after the last; None: all


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Layers of the result; one slice without ``layers`` is the whole model."""

    sources: tuple[MergeSource, ...]
    parameters: Parameters = field(default_factory=dict)
    place: str = "models"  # for messages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Example: ``read_recipe({"merge_method": "linear", "models": [{"model": "a"}, ...]},
    place="soup.yaml")``
    """

    method: str
    base: str | None
    slices: tuple[Slice, ...]
    parameters: Parameters
    dtype: str | None  # of the result
    tokenizer: str | None  # the model whose tokenizer is kept
    place: str  # file, or prefix of the options

    @property
    def models(self) -> list[str]:
        """Every model that is merged, the base apart, in the order in which they are named."""
        named = [source.model for each in self.slices for source in each.sources]
        return list(dict.fromkeys(named))

    def settings(
        self, part: Slice, source: MergeSource | None = None
    ) -> Iterator[tuple[str, Parameters]]:
        """Yield the parameters that hold there, with their places, the nearest first."""
        if source is not None:
            yield f"{self.place}: parameters of {source.model}", source.parameters
        yield f"{self.place}: {part.place}.parameters", part.parameters
        yield f"{self.place}: parameters", self.parameters


def load_recipe(file: str) -> Recipe:
    """Read a YAML file.

    Raises:
        UserError: there is none, or a key cannot be understood.
    """
    path = Path(file).expanduser()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"merge.config: {path} cannot be read{line}: {reason:.200}") from error
    return read_recipe(raw, place=str(path))


def read_recipe(raw: Any, *, place: str) -> Recipe:
    """Read what YAML holds.

    Raises:
        UserError: names the key, and the way out.
    """
    tree = _mapping(raw, place, known=_KEYS)
    method = tree.get("merge_method")
    if not isinstance(method, str):
        raise UserError(f"{place}: merge_method must name a method, got {method!r:.100}")
    if ("models" in tree) == ("slices" in tree):
        raise UserError(f"{place}: give either models or slices")
    own = _parameters(tree.get("parameters"), f"{place}: parameters")
    if "models" in tree:
        slices = [Slice(sources=_sources(tree["models"], f"{place}: models", sliced=False))]
    else:
        slices = [
            _slice(each, f"{place}: slices[{index}]", name=f"slices[{index}]")
            for index, each in enumerate(_list(tree["slices"], f"{place}: slices"))
        ]
    return Recipe(
        method=method,
        base=_model(tree["base_model"], f"{place}: base_model") if tree.get("base_model") else None,
        slices=tuple(slices),
        parameters=own,
        dtype=_dtype(tree, place),
        tokenizer=_tokenizer(tree.get("tokenizer_source"), place),
        place=place,
    )


def _mapping(raw: Any, place: str, *, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{place} must hold keys and values, got {raw!r:.100}")
    for key in map(str, raw):
        if key not in known:
            reason = _NOT_HERE.get(key, f"known are {', '.join(known)}")
            raise UserError(f"{place}: {key} is not supported: {reason}")
    return {str(key): value for key, value in raw.items()}


def _list(raw: Any, place: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{place} must be a list, got {raw!r:.100}")
    return raw


def _slice(raw: Any, place: str, *, name: str) -> Slice:
    tree = _mapping(raw, place, known=("sources", "parameters"))
    sources = _sources(tree.get("sources"), f"{place}.sources", sliced=True)
    sizes = {each.layers[1] - each.layers[0] for each in sources if each.layers}
    if len(sizes) > 1:
        raise UserError(f"{place}.sources must have the same number of layers, got {sorted(sizes)}")
    parameters = _parameters(tree.get("parameters"), f"{place}.parameters")
    return Slice(sources=sources, parameters=parameters, place=name)


def _sources(raw: Any, place: str, *, sliced: bool) -> tuple[MergeSource, ...]:
    known = ("model", "parameters", *(("layer_range",) if sliced else ()))
    found = []
    for index, each in enumerate(_list(raw, place)):
        here = f"{place}[{index}]"
        tree = _mapping(each, here, known=known)
        found.append(
            MergeSource(
                model=_model(tree.get("model"), f"{here}.model"),
                parameters=_parameters(tree.get("parameters"), f"{here}.parameters"),
                layers=_layers(tree.get("layer_range"), f"{here}.layer_range") if sliced else None,
            )
        )
    names = [each.model for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{place} names {twice} twice; give it once, with the sum of the weights")
    return tuple(found)


def _layers(raw: Any, place: str) -> tuple[int, int]:
    whole = isinstance(raw, list) and len(raw) == 2 and all(type(each) is int for each in raw)
    if not whole or not 0 <= raw[0] < raw[1]:
        raise UserError(
            f"{place} must be [FIRST, ONE_AFTER_THE_LAST], such as [0, 12], got {raw!r:.100}"
        )
    return raw[0], raw[1]


def _model(raw: Any, place: str) -> str:
    if isinstance(raw, dict):
        raise UserError(
            f"{place}: {', '.join(map(str, raw))} is not supported; give a path or a name. An "
            "adapter is merged into its base first, with rlpost merge adapter=DIR"
        )
    if not isinstance(raw, str) or not raw.strip():
        raise UserError(f"{place} must name a model, got {raw!r:.100}")
    if "+" in raw and not Path(raw).expanduser().exists():
        raise UserError(
            f"{place}: {raw!r:.200} is mergekit's way to put an adapter into a base, which is not "
            "supported; merge it first, with rlpost merge adapter=DIR"
        )
    return raw


def _parameters(raw: Any, place: str) -> Parameters:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{place} must hold keys and values, got {raw!r:.100}")
    idle = [name for name in _WITHOUT_EFFECT if name in raw]
    for name in idle:
        log.info("%s.%s saves memory of mergekit's and changes no number", place, name)
    return {
        str(name): RecipeParameter.read(value, f"{place}.{name}")
        for name, value in raw.items()
        if name not in idle
    }


def _dtype(tree: Mapping[str, Any], place: str) -> str | None:
    for key in ("out_dtype", "dtype"):
        named = tree.get(key)
        if named is not None:
            if named not in DTYPES:
                raise UserError(
                    f"{place}: {key} must be one of {', '.join(DTYPES)}, got {named!r:.100}"
                )
            return str(named)
    return None


def _tokenizer(raw: Any, place: str) -> str | None:
    if raw == "union":
        raise UserError(
            f"{place}: tokenizer_source: union is not supported, because rows of embeddings would "
            "be invented: all models must have one vocabulary; name the model whose tokenizer is "
            "kept, or leave it out"
        )
    return None if raw is None else _model(raw, f"{place}: tokenizer_source")
