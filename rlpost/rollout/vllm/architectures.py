"""Which architectures the installed vLLM can generate with, without importing it.

Owns the reading of its registry, which takes seconds to import and 30 ms to parse, and of the
classes in it. Refuses to guess: what cannot be read the engine itself decides when it boots.
"""

import ast
import functools
import importlib.util
from pathlib import Path

from rlpost.errors import UserError

_MODELS = Path("model_executor", "models")
_ABSOLUTE = "vllm.model_executor.models."  # as some of them import each other
_TABLE = "_TEXT_GENERATION_MODELS"
_HOLDS_ADAPTERS = "SupportsLoRA"


def text_generation_models() -> frozenset[str]:
    """Return the names of vLLM's own text models; empty when they cannot be found out."""
    return frozenset(_registered())


def holds_adapters(name: str) -> bool:
    """Whether engines of an architecture can hold adapters, or nobody knows.

    Those that vLLM runs through transformers can.
    """
    known = _registered().get(name)
    return known is None or _is_one(*known)


@functools.cache
def _registered() -> dict[str, tuple[str, str]]:
    """Return module and class of vLLM's own text models, by architecture."""
    for node in _parsed("registry").body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == _TABLE for target in targets):
            return {name: (at[0], at[1]) for name, at in ast.literal_eval(node.value).items()}
    return {}


@functools.cache
def _parsed(module: str) -> ast.Module:
    """Return the syntax of one of vLLM's modules of models; empty where it cannot be read."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return ast.Module(body=[], type_ignores=[])
    place = Path(spec.submodule_search_locations[0]) / _MODELS / module.replace(".", "/")
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        try:
            return ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError):
            continue
    return ast.Module(body=[], type_ignores=[])


@functools.cache
def _is_one(module: str, name: str) -> bool:
    """Whether a class, or a class that it is derived from, says that it can hold adapters."""
    nodes = _parsed(module).body
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return any(base == _HOLDS_ADAPTERS or _is_one(module, base) for base in bases)
    for node in nodes:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        for each in node.names:
            if name == (each.asname or each.name):
                origin = node.module.removeprefix(_ABSOLUTE)
                return origin != "interfaces" and _is_one(origin, each.name)
    return not nodes  # nobody knows of what cannot be read


def require_vllm_architecture(name: str, *, field: str) -> None:
    """Check that generators can run an architecture: their own, or through transformers.

    Raises:
        UserError: they cannot.
    """
    import transformers

    known = text_generation_models()
    implementation = getattr(transformers, name, None)
    through_transformers = implementation is not None and implementation.is_backend_compatible()
    if known and name not in known and not through_transformers:
        raise UserError(
            f"{field}: the installed vLLM has no {name} and cannot run it through transformers "
            "either, so nothing could be generated; use a model of an architecture that vLLM "
            "supports"
        )


def require_vllm_adapters(
    name: str, *, has_experts: bool, on_gpu: bool, field: str, way_out: str
) -> None:
    """Check that engines of an architecture can hold an adapter beside it.

    vLLM prepares routed experts for adapters wherever it holds any, also for those that leave the
    experts alone, and of its kernels for experts only those of GPUs can be prepared.

    Raises:
        UserError: they cannot.
    """
    if not holds_adapters(name):
        raise UserError(f"{field}: the installed vLLM can hold no adapter beside {name}; {way_out}")
    if has_experts and not on_gpu:
        raise UserError(
            f"{field}: on a CPU the installed vLLM can hold no adapter beside the experts of "
            f"{name}, for its kernel of experts knows none; {way_out}"
        )
