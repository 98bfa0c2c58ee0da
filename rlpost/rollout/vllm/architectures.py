"""Which architectures the installed vLLM can generate with, without importing it.

Owns the reading of its registry, which takes seconds to import and 30 ms to parse. Refuses to
guess: where the registry cannot be read, the engine itself decides when it boots.
"""

import ast
import functools
import importlib.util
from pathlib import Path

from rlpost.errors import UserError

_REGISTRY = Path("model_executor", "models", "registry.py")
_TABLE = "_TEXT_GENERATION_MODELS"


@functools.cache
def text_generation_models() -> frozenset[str]:
    """Return the names of vLLM's own text models; empty when they cannot be found out."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    file = Path(spec.submodule_search_locations[0]) / _REGISTRY
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == _TABLE for target in targets):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return frozenset(key.value for key in keys if isinstance(key, ast.Constant))
    return frozenset()


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
