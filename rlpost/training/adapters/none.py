"""The choice of no adapter, which is the default."""

from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.adapters.registry import Method, adapters


@adapters.register("none", NoAdapterConfig)
def none(cfg: NoAdapterConfig) -> Method:
    """Every weight is trained, so there is nothing to put in."""
    raise AssertionError("adapter=none puts nothing into a model")
