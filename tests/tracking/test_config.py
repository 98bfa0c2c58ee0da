import pytest
from omegaconf import OmegaConf

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode


def test_it_is_a_structured_config():
    tree = OmegaConf.structured(TrackingConfig)
    tree.wandb = "offline"
    tree.console = "quiet"
    cfg = OmegaConf.to_object(tree)
    assert cfg == TrackingConfig(wandb=WandbMode.offline, console=ConsoleMode.quiet)
    check_config(cfg, "tracking")


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"sample_rows": -1}, "tracking.sample_rows"), ({"project": " "}, "tracking.project")],
)
def test_out_of_range_names_the_field(changes, field):
    with pytest.raises(UserError, match=field):
        check_config(TrackingConfig(**changes), "tracking")
