"""What people add by names of their own gets its type, and is refused with its full path."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlpost.config.compose import compose_stage
from rlpost.config.convert import _type_named
from rlpost.config.explain import unknown_option
from rlpost.config.options import named_options
from rlpost.config.recipes import general, with_plus
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.errors import UserError


@dataclass
class Learning:
    """A configuration that has nothing but the data of a supervised stage."""

    data: SupervisedDataConfig = field(default_factory=SupervisedDataConfig)


def composed(*overrides: str) -> DictConfig:
    ConfigStore.instance().store("learning", Learning)
    with initialize(None, version_base="1.3"):
        return compose("learning", [*map(with_plus, overrides)])


def data_of(*overrides: str) -> SupervisedDataConfig:
    found = composed(*overrides)
    for place, kind in named_options(Learning).items():
        _type_named(found, place, kind)
    config: Any = OmegaConf.to_object(found)
    return config.data


@pytest.mark.parametrize(
    "words",
    [
        ["data.sources.chat.path=a.jsonl", "data.sources.chat.weight=2"],
        ["+data.sources.chat.path=a.jsonl", "+data.sources.chat.weight=2"],
        ["data.sources={chat: {path: a.jsonl, weight: 2}}"],
    ],
)
def test_sources_are_added_by_name(words: list[str]) -> None:
    assert data_of(*words).sources == {"chat": SourceConfig(path="a.jsonl", weight=2.0)}


def test_columns_are_added_by_name() -> None:
    data = data_of("data.columns.completion=answer", "data.sources.a.columns.text=info.body")
    assert data.columns == {"completion": "answer"}
    assert data.sources["a"].columns == {"text": "info.body"}


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("data.sources.a=b.jsonl", "give data.sources.a.path=PATH"),
        ("data.sources.a.wieght=3", "full_key: data.sources.a.wieght"),
        ("data.sources.a.weight=much", "full_key: data.sources.a.weight"),
    ],
)
def test_wrong_sources_are_refused_with_their_path(word: str, rule: str) -> None:
    with pytest.raises((UserError, OmegaConfBaseException), match=re.escape(rule)):
        data_of(word)


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("data.sources.chat.path", "data.sources.NAME.path"),
        ("data.sources.chat.columns.text", "data.sources.NAME.columns"),
        ("data.columns.text", "data.columns"),
        ("reward_models.rm.path", "reward_models.NAME.path"),
        ("data.train", "data.train"),
    ],
)
def test_names_of_ones_choice_are_those_of_an_option(key: str, option: str) -> None:
    assert general(key) == option


def test_only_what_is_empty_at_first_gets_a_plus() -> None:
    assert with_plus("data.train=a") == "data.train=a"
    assert with_plus("data.sources_of=a") == "data.sources_of=a"
    assert with_plus("+data.columns.text=a") == "+data.columns.text=a"
    assert with_plus("data.columns.text=a") == "++data.columns.text=a"


def test_sft_takes_sources_and_names_what_is_meant() -> None:
    cfg, resolved = compose_stage(
        ["data.sources.chat.path=a.jsonl", "data.sources.chat.columns.text=body"], stage="sft"
    )
    assert cfg.data.sources == {"chat": SourceConfig(path="a.jsonl", columns={"text": "body"})}
    assert resolved["data"]["sources"]["chat"]["path"] == "a.jsonl"
    assert "did you mean data.sources.NAME.weight?" in unknown_option(
        "data.sources.chat.wieght", stage="sft"
    )
