"""The options of ``rlpost serve``, and the rules between them.

Owns what can be asked for, and the rule on names. Refuses to own what files decide (plan.py) and
the secret itself (access.py). Invariant: no option holds a secret, because options are visible in
process lists and written to disk.
"""

import re
from dataclasses import dataclass, field

from rlpost.bounds import WEEK_S, check_config, number, option
from rlpost.config.schema import RunConfig, WholeModelConfig
from rlpost.errors import UserError
from rlpost.network import LOOPBACK
from rlpost.rollout.generator_config import EngineConfig
from rlpost.training.adapters.serving import ENGINE_RANKS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,199}")
# vLLM applies an adapter that is called like a part of a message to requests to the base that have
# such a part.
_PARTS = ("audio", "custom", "file", "image", "input", "output", "refusal", "text", "thinking",
          "tool", "video")  # fmt: skip


@dataclass(kw_only=True)
class ServeSettings:
    """Where the server listens, who may ask, and what it has room for."""

    host: str = option(LOOPBACK, help="address to listen on; beyond this machine with a token only")
    port: int = number(8000, at_least=0, at_most=65535, help="TCP port; 0 takes a free one")
    name: str | None = option(
        None, help="what clients call the base; null: as model.path is written"
    )
    token_env: str | None = option(
        None, help="environment variable with the token that clients must send; null: none"
    )
    token_file: str | None = option(
        None, help="file with that token, readable by its owner alone; null: none"
    )
    chat_template: str | None = option(
        None, help="file with the chat template of base and adapters; null: the base's own"
    )
    max_adapters: int = number(
        8, at_least=0, at_most=1000, help="adapters that can be loaded at once; 0: the base alone"
    )
    max_rank: int | None = number(
        None,
        at_least=1,
        at_most=ENGINE_RANKS[-1],
        help="largest rank of an adapter; null: of those given, at least 16",
    )
    load_from: str | None = option(
        None, help="directory below which adapters may lie that clients load; null: run.dir"
    )
    load_timeout_s: float = number(
        600.0, above=0, at_most=WEEK_S, help="deadline of checking and loading an adapter"
    )
    drain_s: float = number(
        60.0,
        at_least=0,
        at_most=WEEK_S,
        help="how long requests may go on when their adapter is unloaded, then they are aborted",
    )

    def check(self, path: str) -> None:
        """Raises UserError: two tokens, or a name or host that is none."""
        if self.token_env is not None and self.token_file is not None:
            raise UserError(f"{path}.token_env and {path}.token_file both name a token; give one")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UserError(f"{path}.name {_RULE}, got {self.name!a:.100}")
        if not self.host.strip():
            raise UserError(f"{path}.host must be an address of this machine, such as {LOOPBACK}")


@dataclass(kw_only=True)
class ServeConfig:
    """Everything ``rlpost serve`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    model: WholeModelConfig = field(default_factory=WholeModelConfig)
    adapters: dict[str, str] = option(
        {}, help="what clients call each adapter: its directory, or its run, or the run's name"
    )
    serve: ServeSettings = field(default_factory=ServeSettings)
    generator: EngineConfig = field(default_factory=EngineConfig)

    @property
    def base_name(self) -> str:
        """What clients call the base."""
        return self.serve.name or self.model.path


_RULE = (
    "must be a name of letters, digits and . _ @ : / + -, beginning with a letter or digit, at "
    "most 200 characters long"
)


def check_serve(cfg: ServeConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    for name in cfg.adapters:
        require_adapter_name(name, field="adapters")
        if name == cfg.base_name:
            raise UserError(
                f"adapters.{name} has the name of the base; give the adapter another one, or call "
                "the base something else with serve.name=NAME"
            )
    if len(cfg.adapters) > cfg.serve.max_adapters:
        raise UserError(
            f"serve.max_adapters must be at least the number of adapters, {len(cfg.adapters)}, got "
            f"{cfg.serve.max_adapters}; raise it"
        )
    if cfg.serve.max_adapters == 0:
        for name in ("max_rank", "load_from"):
            if getattr(cfg.serve, name) is not None:
                raise UserError(
                    f"serve.{name} has no effect with serve.max_adapters=0; leave one of them out"
                )


def require_adapter_name(name: str, *, field: str) -> None:
    """Refuse what cannot be the name of an adapter.

    Raises:
        UserError: says the rule.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{field}: the name of an adapter {_RULE}, got {name!a:.100}")
    if name in _PARTS:
        raise UserError(
            f"{field}: {name!r} is also what a part of a message is called, and the engine would "
            "apply the adapter to other requests that have one; give it another name"
        )
