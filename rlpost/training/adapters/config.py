"""How an adapter is configured, whatever its kind.

Owns the options that kinds share and their rules. Refuses to own each kind's own (one file a kind)
and what they become (adapt.py). Imports neither torch nor peft, so that a command line is checked
in an instant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Self

from rlpost.bounds import number, option
from rlpost.errors import UserError

ALL_LINEAR = "all-linear"
MOST_RANK = 8192
MOST_ALPHA = 10**6


class Served(Enum):
    """How generators get a trained adapter.

    ``adapter``: the engine adds its tensors to the base. ``merged``: whole weights are pushed, the
    adapter's product added to them.
    """

    adapter = "adapter"
    merged = "merged"


@dataclass(kw_only=True)
class NoAdapterConfig:
    """No adapter: every weight is trained."""

    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    kind: str = "none"


@dataclass(kw_only=True)
class AdapterConfig:
    """Options of an adapter of any kind.

    ``served`` says in what form generators take it, ``is_converted`` whether the adapter that they
    take is the plain LoRA that it equals, ``moves_base`` whether the adapter begins by changing the
    base's own weights, ``zero_stages`` at which it can be trained (``stage_reason``
    says why not at others), ``supervised_only`` whether it is for stages that compare no
    log-probs, ``no_muon`` why Muon cannot train it, if so.
    """

    served: ClassVar[Served] = Served.adapter
    is_converted: ClassVar[bool] = False
    moves_base: ClassVar[bool] = False
    supervised_only: ClassVar[bool] = False
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    stage_reason: ClassVar[str] = ""
    no_muon: ClassVar[str] = ""

    kind: str = "none"

    @property
    def served_rank(self) -> int:
        """Rank of the plain LoRA that generators get, where they get one."""
        raise NotImplementedError(f"{self.kind} has no rank")

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        """Return the options of an ``adapter_config.json`` of this kind; None: it is of another."""
        return None


def is_own_reference(config: Any, *, start: str | None) -> bool:
    """Whether a model without its adapter is what training starts from.

    Args:
        config: the adapter's options.
        start: adapter directory that training starts from, if there is one.
    """
    return start is None and isinstance(config, AdapterConfig) and not config.moves_base


def require_comparable(config: Any, *, why: str) -> None:
    """Refuse an adapter in a stage that compares log-probs, where it cannot be compared.

    Args:
        config: the adapter's options.
        why: what compares log-probs, as the beginning of a sentence.

    Raises:
        UserError: two passes over the same tokens would differ, or engines know no such adapter.
    """
    dropout = getattr(config, "dropout", 0.0)
    if dropout > 0:
        raise UserError(
            f"adapter.dropout={dropout:g} cannot be used here: {why}, and with drop-out two passes "
            "over the same tokens differ; leave it out"
        )
    refuse_supervised_only(config, why=why)


def refuse_supervised_only(config: Any, *, why: str) -> None:
    """Raises UserError: an adapter is for ``sft`` and ``pretrain``, and ``why`` this is not."""
    if getattr(config, "supervised_only", False):
        raise UserError(
            f"adapter={config.kind} cannot be used here: {why}, and such an adapter is for "
            "supervised stages; use adapter=lora"
        )


@dataclass(kw_only=True)
class TargetedConfig(AdapterConfig):
    """Options of an adapter that is put on linear layers."""

    target_modules: Any = option(
        ALL_LINEAR, help="layers that get it: all-linear, or a list such as [q_proj,v_proj]"
    )
    dropout: float = number(
        0.0,
        at_least=0,
        below=1,
        hint="0.05 is usual where it is used",
        help="drop-out before the adapter; only where log-probs are not compared",
    )
    modules_to_save: list[str] = option(
        [], help="modules that are trained as a whole beside it, such as [embed_tokens]"
    )

    def check(self, path: str) -> None:
        """Raises UserError: the modules are no list of names."""
        targets = self.target_modules
        named = isinstance(targets, list) and bool(targets) and all(map(_is_name, targets))
        if targets != ALL_LINEAR and not named:
            raise UserError(
                f"{path}.target_modules must be {ALL_LINEAR}, or a list of names of linear layers "
                f"such as [q_proj,v_proj], got {targets!r:.200}"
            )
        if not all(map(_is_name, self.modules_to_save)):
            raise UserError(
                f"{path}.modules_to_save must be a list of names of modules such as "
                f"[embed_tokens], got {self.modules_to_save!r:.200}"
            )


def _is_name(name: object) -> bool:
    """Whether it may be a dotted name of a module; numbers of layers are parts of such names."""
    if not isinstance(name, str) or not name:
        return False
    return all(part.isidentifier() or part.isdecimal() for part in name.split("."))


@dataclass(kw_only=True)
class LoRAConfig(TargetedConfig):
    """Two thin matrices beside each linear layer, arXiv 2106.09685.

    ``switches`` are those of peft's configuration by which the kinds of this family differ.
    ``no_diagnosis`` says why the update is not the product of the two matrices, where it is not.
    """

    switches: ClassVar[Mapping[str, bool]] = {}
    no_diagnosis: ClassVar[str] = ""

    kind: str = "lora"
    rank: int = number(
        16,
        at_least=1,
        at_most=MOST_RANK,
        hint="8 to 64 is usual",
        help="width of the thin matrices",
    )
    alpha: float = number(
        32.0,
        above=0,
        at_most=MOST_ALPHA,
        hint="once or twice the rank is usual",
        help="scale: the product of the matrices is multiplied by alpha / rank",
    )
    diagnose_every: int = number(
        0,
        at_least=0,
        at_most=10**8,
        hint="50 is usual, 0 never measures",
        help="updates between two measurements of whether the adapter is large enough; 0: never",
    )

    def check(self, path: str) -> None:
        """Raises UserError: the modules are no names, or such an adapter cannot be measured."""
        super().check(path)
        if self.diagnose_every and self.no_diagnosis:
            raise UserError(
                f"{path}.diagnose_every={self.diagnose_every} has no meaning with adapter="
                f"{self.kind}: {self.no_diagnosis}; leave it out, or use adapter=lora"
            )

    @property
    def served_rank(self) -> int:
        return self.rank

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        switches = {name: bool(fields.get(name)) for name in ("use_rslora", "use_dora")}
        own = {"use_rslora": False, "use_dora": False, **cls.switches}
        if fields.get("peft_type") != "LORA" or switches != own:
            return None
        if fields.get("bias") not in (None, "none") or fields.get("lora_bias"):
            return None
        ranks = [fields.get("r"), *(fields.get("rank_pattern") or {}).values()]
        targets = fields.get("target_modules")
        return cls(
            rank=max(ranks),
            alpha=float(fields.get("lora_alpha", 1.0)),
            target_modules=targets if isinstance(targets, str) else sorted(targets or []),
            modules_to_save=list(fields.get("modules_to_save") or []),
        )
