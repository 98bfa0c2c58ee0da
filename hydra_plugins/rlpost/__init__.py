"""What hydra finds of ours: it admits plugins from the package ``hydra_plugins`` alone.

Owns their names in hydra's groups. Refuses to own what they do (rlpost/launch/sweep/). Invariant:
nothing heavy is imported, as every program that uses hydra in this environment looks in here.
"""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from rlpost.launch.sweep import launcher, optuna


class ProcessLauncher(launcher.ProcessLauncher):
    """``hydra/launcher=processes``."""


class RayJobLauncher(launcher.RayJobLauncher):
    """``hydra/launcher=ray_jobs``."""


class OptunaSweeper(optuna.OptunaSweeper):
    """``hydra/sweeper=optuna``."""


def register() -> None:
    """Make them known where hydra's own search fails: it does not see editable installations."""
    for each in (ProcessLauncher, RayJobLauncher, OptunaSweeper):
        Plugins.instance().register(each)


_store = ConfigStore.instance()
_store.store(
    group="hydra/launcher",
    name="processes",
    node=launcher.ProcessesConfig(_target_=f"{__name__}.ProcessLauncher"),
)
_store.store(
    group="hydra/launcher",
    name="ray_jobs",
    node=launcher.RayJobsConfig(_target_=f"{__name__}.RayJobLauncher"),
)
_store.store(
    group="hydra/sweeper",
    name="optuna",
    node=optuna.OptunaConfig(_target_=f"{__name__}.OptunaSweeper"),
)
