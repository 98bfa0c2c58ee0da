"""Feeds hydra's groups from the registries, so that a registered variant has an option.

Owns the names of groups. Refuses to own defaults (dataclasses) and recipes (YAML).
"""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.registry import Registry

# Groups of which several may be chosen: ``algorithm/corrections=[tis,veto]``.
COMPOSABLE = {"algorithm/corrections"}


def registries() -> dict[str, Registry]:
    """Return hydra group -> registry, with every built-in variant registered."""
    from rlpost.algorithms.advantages import estimators
    from rlpost.algorithms.corrections import corrections
    from rlpost.algorithms.losses import losses
    from rlpost.verifiers.kinds import verifiers

    return {
        "loss": losses,
        "algorithm/advantage": estimators,
        "algorithm/corrections": corrections,
        "verifier": verifiers,
    }


def option_path(group: str, name: str) -> str:
    """Return where the fields of a registered variant lie in the configuration."""
    path = group.replace("/", ".")
    return f"{path}.{name}" if group in COMPOSABLE else path


def register_configs() -> None:
    """Put schemas and registered variants into hydra's store; idempotent."""
    store = ConfigStore.instance()
    store.store(name="rl_schema", node=RLConfig)
    store.store(group="algorithm", name="schema", node=AlgorithmConfig)
    for group, registry in registries().items():
        for entry in registry:
            package = option_path(group, entry.name)
            store.store(group=group, name=entry.name, node=entry.config, package=package)
    # An option below hydra's own default, None, would fail in hydra without words.
    Plugins.instance()  # whose search for plugins would put the default back
    sweeper = BasicSweeperConf(params={})
    store.store(group="hydra/sweeper", name="basic", node=sweeper, provider="hydra")
