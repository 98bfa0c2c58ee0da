"""The options of ``rlpost pipeline``, and the rules between them.

Owns what can be asked for on the command line. Refuses to own the file of stages (pipeline/read.py)
and the options of the stages, which stand in it.
"""

from dataclasses import dataclass, field

from rlpost.bounds import check_config, number, option
from rlpost.config.schema import RunConfig
from rlpost.errors import UserError


@dataclass(kw_only=True)
class PipelineFileConfig:
    """Which stages there are."""

    path: str | None = option(
        None, help="YAML of the stages: a file, or the name of one that is shipped"
    )


@dataclass(kw_only=True)
class PipelineClusterConfig:
    """Where the stages run."""

    address: str | None = option(
        None, help="Ray cluster that every stage joins; null: a private one on this machine"
    )


@dataclass(kw_only=True)
class PipelineConfig:
    """Everything ``rlpost pipeline`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(
        0, at_least=0, at_most=2**31 - 1, help="of every stage, of suites and of gates"
    )
    resume: str = option(
        "auto", help="auto: go on after the stages that are done; never: refuse if there are any"
    )
    pipeline: PipelineFileConfig = field(default_factory=PipelineFileConfig)
    only: list[str] = option([], help="run these stages alone; what they need must be done")
    until: str | None = option(None, help="run no stage after this one; null: all")
    cluster: PipelineClusterConfig = field(default_factory=PipelineClusterConfig)


def check_pipeline(cfg: PipelineConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    if not (cfg.pipeline.path and cfg.pipeline.path.strip()):
        raise UserError(
            "pipeline.path must name the file of the stages; give pipeline.path=FILE.yaml, or "
            "experiment=NAME for one that is shipped"
        )
    if cfg.resume not in ("auto", "never"):
        raise UserError(f"resume must be auto or never, got {cfg.resume!a:.100}")
    if len(set(cfg.only)) < len(cfg.only):
        raise UserError(f"only must name each stage once, got {cfg.only}")
    address = cfg.cluster.address
    if address is not None and not address.strip():
        raise UserError(
            f"cluster.address names no cluster, got {address!r}; give auto or host:port, or null "
            "for a private cluster on this machine"
        )
