"""What a run puts on its base, decided before anything starts.

Owns the decision, the checks against a base without weights and the count of what is trained.
Refuses to own the layers (adapt.py). Invariant: what passes can be put into the base that it was
checked with.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.fingerprint import fingerprint_of
from rlpost.training.adapters.config import (
    NoAdapterConfig,
    Served,
    is_own_reference,
    refuse_supervised_only,
)
from rlpost.training.adapters.directory import FIELD, AdapterDirectory
from rlpost.training.adapters.serving import serves_as


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Example: ``Adaptation.plan(cfg.adapter, start=cfg.model.adapter, base=directory, ...)``"""

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

    @classmethod
    def plan(
        cls,
        config: Any,
        *,
        start: str | None,
        base: ModelDirectory,
        name: str,
        kind: ModelKind = ModelKind.policy,
    ) -> "Adaptation | None":
        """Return what is put on ``base``; None: nothing, every weight is trained.

        Args:
            config: options of the kind that the user chose.
            start: adapter directory to start from.
            base: the model.
            name: what the user called it.
            kind: what it is used for.

        Raises:
            UserError: the adapter does not fit the base.
        """
        is_new = not isinstance(config, NoAdapterConfig)
        if start is None and not is_new:
            return None
        fingerprint = fingerprint_of(base.tensors)
        directory = None
        if start is not None:
            directory = AdapterDirectory.read(start, field=FIELD)
            directory.require_base(base.path, fingerprint, name=name)
        from rlpost.training.adapters.adapt import rehearse_adapter

        if directory is not None:
            read = directory.options()
            if is_new:
                why = (
                    f"{FIELD}={start} would be merged into the base, whose weights it leaves alone"
                )
                refuse_supervised_only(read, why=why)
            rehearse_adapter(read, directory=directory, base=base, kind=kind)
            directory.require_finite()
            config = config if is_new else read
        is_hub_id = not Path(name).expanduser().exists() and "/" in name
        return cls(
            config=config,
            base=fingerprint,
            base_name=name if is_hub_id else str(base.path),
            num_trainable=rehearse_adapter(
                config, directory=None if is_new else directory, base=base, kind=kind
            ),
            continues=None if directory is None or is_new else str(directory.path),
            merges=str(directory.path) if directory is not None and is_new else None,
        )
