"""Feeds hydra's groups from the registries, so that a registered variant has an option.

Owns the names of groups. Refuses to own defaults (dataclasses) and recipes (YAML).
"""

from hydra.core.config_store import ConfigStore

from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.registry import Registry


def registries() -> dict[str, Registry]:
    """Return hydra group -> registry, with every built-in variant registered."""
    from rlpost.algorithms.advantages import estimators
    from rlpost.algorithms.losses import losses
    from rlpost.verifiers.kinds import verifiers

    return {"loss": losses, "algorithm/advantage": estimators, "verifier": verifiers}


def register_configs() -> None:
    """Put schemas and registered variants into hydra's store; idempotent."""
    store = ConfigStore.instance()
    store.store(name="rl_schema", node=RLConfig)
    store.store(group="algorithm", name="schema", node=AlgorithmConfig)
    for group, registry in registries().items():
        for entry in registry:
            store.store(group=group, name=entry.name, node=entry.config)
