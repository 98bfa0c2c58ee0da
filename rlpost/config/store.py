"""Feeds hydra's groups from the registries, so that a registered variant has an option.

Refuses to own the names of groups (groups.py), defaults (dataclasses) and recipes (YAML).
"""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from rlpost.config.groups import option_path, registries
from rlpost.config.schema import AlgorithmConfig
from rlpost.stages.registry import STAGES


def register_configs() -> None:
    """Put schemas and registered variants into hydra's store; idempotent."""
    store = ConfigStore.instance()
    for stage in STAGES.values():
        store.store(name=f"{stage.name}_schema", node=stage.part("config"))
    store.store(group="algorithm", name="schema", node=AlgorithmConfig)
    for group, registry in registries().items():
        for entry in registry:
            package = option_path(group, entry.name)
            store.store(group=group, name=entry.name, node=entry.config, package=package)
    # An option below hydra's own default, None, would fail in hydra without words.
    Plugins.instance()  # whose search for plugins would put the default back
    sweeper = BasicSweeperConf(params={})
    store.store(group="hydra/sweeper", name="basic", node=sweeper, provider="hydra")
