import importlib.util
from pathlib import Path

import pytest


def _load(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tracking_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def runs():
    """The builder of synthetic run directories."""
    return _load("run_dirs")


@pytest.fixture(scope="session")
def browser():
    """``browser.dump(url)``: the page in headless Chromium."""
    return _load("chromium").Browser()


@pytest.fixture(scope="session")
def wandb_file():
    """Reader of offline W&B files."""
    return _load("wandb_file")


@pytest.fixture(autouse=True)
def no_wandb_account(monkeypatch, tmp_path_factory):
    for name in (
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "NETRC",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
