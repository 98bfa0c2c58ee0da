"""Feeds hydra's groups from the registries, so that a registered variant has an option.

Refuses to own the names of groups (groups.py), defaults (dataclasses) and recipes (YAML).
"""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from rlpost.config.groups import option_path, registries
from rlpost.config.schema import AlgorithmConfig
from rlpost.stages.registry import STAGES

# The stage whose groups the store holds, and what is in them; and the schemas that it holds.
_stored: tuple[Any, ...] | None = None
_schemas: dict[str, Any] = {}

# Each composition copies hydra's sources, and with them the whole store, which takes two fifths of
# its time. Nobody writes into that copy, and what is read from the store is copied by itself.
setattr(ConfigStore, "__deepcopy__", lambda store, memo: store)  # noqa: B010  # mypy knows none


def register_configs(stage: str) -> None:
    """Put a stage's schema and registered variants into hydra's store; idempotent.

    Stages have groups of the same name with other variants in them, such as ``loss``, so what
    another stage registered before is taken out. Nothing is done for the stage that the store
    already holds, with the variants that it has: hydra copies each of them, which takes longer
    than composing.
    """
    global _stored, _schemas
    variants = tuple(
        (group, entry.name, entry.config)
        for group, registry in registries(stage).items()
        for entry in registry
    )
    store = ConfigStore.instance()
    if (stored := (stage, tuple(STAGES), variants)) == _stored:
        return
    for group in {group for each in STAGES.values() for group in each.groups}:
        _forget(store.repo, group)
    schemas = {each.name: each.part("config") for each in STAGES.values()}
    if schemas != _schemas:
        for name, config in schemas.items():
            store.store(name=f"{name}_schema", node=config)
        _schemas = schemas
    store.store(group="algorithm", name="schema", node=AlgorithmConfig)
    for group, name, config in variants:
        store.store(group=group, name=name, node=config, package=option_path(group, name))
    # An option below hydra's own default, None, would fail in hydra without words.
    Plugins.instance()  # whose search for plugins would put the default back
    sweeper = BasicSweeperConf(params={})
    store.store(group="hydra/sweeper", name="basic", node=sweeper, provider="hydra")
    _stored = stored


def _forget(repo: dict[str, Any], group: str) -> None:
    *above, last = group.split("/")
    for each in above:
        repo = repo.get(each, {})
    repo.pop(last, None)
