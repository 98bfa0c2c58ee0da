import pytest

from rlpost.errors import UserError
from rlpost.tracking.config import WandbMode
from rlpost.tracking.wandb.mode import resolve_mode


def _auto(home, **environ):
    return resolve_mode(WandbMode.auto, environ={"HOME": str(home), **environ})


def test_auto_is_offline_without_a_key(tmp_path):
    assert _auto(tmp_path) is WandbMode.offline
    assert _auto(tmp_path, WANDB_API_KEY="") is WandbMode.offline


def test_auto_is_online_with_a_key(tmp_path):
    assert _auto(tmp_path, WANDB_API_KEY="k") is WandbMode.online


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_auto_finds_a_netrc_entry_of_the_same_host(tmp_path, name):
    (tmp_path / name).write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / name).chmod(0o600)
    assert _auto(tmp_path) is WandbMode.online
    assert _auto(tmp_path, WANDB_BASE_URL="https://wandb.corp.example") is WandbMode.offline


def test_auto_reads_the_netrc_that_is_named(tmp_path):
    path = tmp_path / "elsewhere"
    path.write_text("machine wandb.corp.example login user password k\n")
    path.chmod(0o600)
    assert _auto(tmp_path, NETRC=str(path)) is WandbMode.offline
    base = "https://wandb.corp.example:8080"
    assert _auto(tmp_path, NETRC=str(path), WANDB_BASE_URL=base) is WandbMode.online


def test_a_damaged_netrc_is_no_key(tmp_path):
    (tmp_path / ".netrc").write_text("what is this\n")
    assert _auto(tmp_path) is WandbMode.offline


@pytest.mark.parametrize("wanted", ["online", "offline", "disabled"])
def test_auto_follows_wandb_mode(tmp_path, wanted):
    assert _auto(tmp_path, WANDB_API_KEY="k", WANDB_MODE=wanted) is WandbMode(wanted)


@pytest.mark.parametrize("mode", [WandbMode.online, WandbMode.offline, WandbMode.disabled])
def test_an_explicit_choice_wins(tmp_path, mode):
    environ = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_API_KEY": "k"}
    assert resolve_mode(mode, environ=environ) is mode


def test_online_without_a_key_is_refused_instead_of_prompting(tmp_path):
    environ = {"HOME": str(tmp_path)}
    with pytest.raises(UserError, match=r"tracking\.wandb=online needs a key"):
        resolve_mode(WandbMode.online, environ=environ)
    with pytest.raises(UserError, match="WANDB_MODE=online needs a key"):
        resolve_mode(WandbMode.auto, environ={**environ, "WANDB_MODE": "online"})
