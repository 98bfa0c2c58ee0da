"""Groups of choices: ``loss=NAME``, ``experiment=NAME`` and the like.

Owns their names and what may be chosen from each. Refuses to own hydra's store (store.py).
"""

from rlpost.config.search_path import config_dir
from rlpost.registry import Registry

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


def files_of(group: str) -> dict[str, str]:
    """Return the names of a group's YAML files, each with the first sentence of its comment."""
    described = {}
    for path in sorted((config_dir() / group).glob("*.yaml")):
        comment = []
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            if not line.startswith("# @package"):
                comment.append(line.removeprefix("#").strip())
        described[path.stem] = " ".join(comment).partition(". ")[0].rstrip(".:")
    return described
