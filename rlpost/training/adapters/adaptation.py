"""What a run puts on its base.

Owns the decision as it is handed around. Refuses to own how it is made and checked (planning.py)
and the layers (adapt.py).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from rlpost.training.adapters.config import (
    NoAdapterConfig,
    Served,
    is_own_reference,
)
from rlpost.training.adapters.serving import serves_as


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Example: ``plan_adaptation(cfg.adapter, start=cfg.model.adapter, base=directory, ...)``"""

    config: Any  # an ``AdapterConfig``: of the kind that is trained
    base: str  # fingerprint of the base's weights
    base_name: str  # what adapter_config.json calls the base
    num_trainable: int  # parameters, those of a head aside
    continues: str | None = None  # adapter directory whose weights are trained on
    merges: str | None = None  # adapter directory that is merged into the base first

    @property
    def draws(self) -> bool:
        """Whether it has drop-out."""
        return self.continues is None and getattr(self.config, "dropout", 0.0) > 0

    @property
    def is_own_reference(self) -> bool:
        """Whether the model without the adapter is what training starts from."""
        return is_own_reference(self.config, start=self.continues or self.merges)

    @property
    def served(self) -> Served:
        """How generators get it: they hold the base as it lies on disk, into which nothing was
        merged.
        """
        return Served.merged if self.merges is not None else serves_as(self.config)

    def frozen(self) -> "Adaptation | None":
        """Return what a model has that stays as it is before the first step; None: nothing."""
        if self.continues is not None:
            return self
        return None if self.merges is None else replace(self, config=NoAdapterConfig())

    def identity(self) -> dict[str, Any]:
        """Return what a state of the adapter is worthless without, as plain data."""
        merged = {} if self.merges is None else {"merges": self.merges}
        options = asdict(self.config)
        options.pop("diagnose_every", None)  # what is measured on the way changes no number
        return {"base": self.base, "options": options, **merged}
