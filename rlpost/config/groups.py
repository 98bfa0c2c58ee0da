"""Groups of choices: ``loss=NAME``, ``experiment=NAME`` and the like.

Owns their names and what may be chosen from each. Refuses to own hydra's store (store.py).
"""

from dataclasses import fields

from rlpost.registry import Registry
from rlpost.stages.registry import STAGES

# Groups whose choices are YAML files -> what a file holds.
FILES = {
    "experiment": "recipe: settings of a paper or an example that belong together",
    "algorithm": "estimator of advantages with the settings of its paper",
    "task": "data set with the settings that suit it",
    "cluster": "machines: how many ranks and engines there are, and who shares what",
    "sweep": "search over several runs, with -m",
}
# Groups of which several may be chosen: ``algorithm/corrections=[tis,veto]``.
COMPOSABLE = {"algorithm/corrections"}


def registries(stage: str) -> dict[str, Registry]:
    """Return a stage's hydra groups -> registry, with every built-in variant registered."""
    return STAGES[stage].registries()


def option_path(group: str, name: str) -> str:
    """Return where the fields of a registered variant lie in the configuration."""
    path = group.replace("/", ".")
    return f"{path}.{name}" if group in COMPOSABLE else path


def owners_of(key: str, *, stage: str) -> list[str]:
    """Return the choices that have an option, as in ``["loss=cpo", "loss=rpo"]``."""
    return [
        f"{group}={entry.name}"
        for group, registry in registries(stage).items()
        if group not in COMPOSABLE
        for entry in registry
        if key in {f"{option_path(group, entry.name)}.{each.name}" for each in fields(entry.config)}
    ]
