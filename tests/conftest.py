"""Shared set-up: private caches, one thread, tiny models built once."""

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # `from fakes import ...`
os.environ.setdefault("RLPOST_CACHE", str(ROOT / ".cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A suite that a shell started in the background ignores Ctrl-C, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A tiny random llama with tied embeddings."""
    from rlpost.models.tiny import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tied")


@pytest.fixture(scope="session")
def tiny_untied_model(tmp_path_factory) -> Path:
    """A tiny random llama whose ``lm_head`` has weights of its own."""
    from rlpost.models.tiny import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory, tiny_model) -> Path:
    """``tiny_model`` as a reward model with a random head."""
    from reward_models import build_reward_model

    return build_reward_model(tmp_path_factory.mktemp("models") / "reward", tiny_model)
