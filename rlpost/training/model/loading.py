"""From a model directory to a model that trains on packed tokens.

Owns what is loaded (``TrainedModel``), the order of loading and its checks. Refuses to own the
heads (heads.py) and the forward pass (packed_model.py). Invariants: drop-out is off (a ratio of
1 must stay 1); a model that packed training would compute wrongly is refused when it is loaded,
by comparing it with its own plain forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import POLICY_FIELD, ModelDirectory
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.vocabulary import require_same_vocabulary
from rlpost.training.adapters.adapt import adapt
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.base_weights import BaseWeights, HeldWeights
from rlpost.training.model.attention import ATTENTION, register_packed_attention
from rlpost.training.model.classifier_heads import VALUE_HEAD, ClassifierHead
from rlpost.training.model.dropout import is_random, switch_off_dropout
from rlpost.training.model.heads import LogprobHead, TrainedHead
from rlpost.training.model.hollow import HollowModel, find_weights
from rlpost.training.model.packed_model import ModelInputs, PackedModel
from rlpost.training.model.rehearsal import rehearse
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Unit
from rlpost.training.precision import compute_device
from rlpost.training.settings import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How metrics and errors call what is trained."""

    metrics: str  # prefix: ``actor``, ``critic`` or a stage
    memory: str  # prefix below ``perf/``
    options: str  # where its learning rate is configured
    field: str  # where its model is configured


POLICY = Labels(metrics="actor", memory="", options="trainer", field=POLICY_FIELD)
CRITIC = Labels(metrics="critic", memory="critic_", options="critic", field="critic.init_from")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A located model directory and the head it is trained with.

    Example: ``TrainedModel.policy("models/Qwen3-0.6B", cfg.trainer)``
    """

    path: str
    tokenizer_path: str  # the model whose tokens it reads
    head: TrainedHead
    labels: Labels
    frozen: tuple["TrainedModel", ...] = ()  # that the head asks, in the same process
    adapter: Adaptation | None = None  # what is put on it; None: nothing
    is_divided: bool = False  # a frozen model whose weights the ranks that ask it divide

    @classmethod
    def policy(
        cls,
        path: str,
        cfg: TrainerConfig,
        *,
        metrics: str = POLICY.metrics,
        adapter: Adaptation | None = None,
    ) -> "TrainedModel":
        """Return a causal language model that gives log-probs.

        ``metrics`` is the prefix of what is measured of it: ``actor``, or the name of the stage.
        """
        head = LogprobHead(chunk=cfg.logprob_chunk)
        labels = replace(POLICY, metrics=metrics)
        return cls(path=path, tokenizer_path=path, head=head, labels=labels, adapter=adapter)

    @classmethod
    def critic(cls, path: str, *, policy_path: str) -> "TrainedModel":
        """Return a value model of the policy's responses; ``path`` may be the policy's own."""
        return cls(path=path, tokenizer_path=policy_path, head=VALUE_HEAD, labels=CRITIC)

    @classmethod
    def reward(
        cls, path: str, *, head: ClassifierHead, metrics: str, adapter: Adaptation | None = None
    ) -> "TrainedModel":
        """Return a reward model that starts from a causal language model or a classifier."""
        labels = replace(POLICY, metrics=metrics)
        return cls(path=path, tokenizer_path=path, head=head, labels=labels, adapter=adapter)

    @property
    def at_start(self) -> "TrainedModel":
        """The model that training starts from, for a copy that stays as it is."""
        return self if self.adapter is None else replace(self, adapter=self.adapter.frozen())

    @property
    def is_own_reference(self) -> bool:
        """Whether it is what training starts from once its adapter is left out."""
        return self.adapter is not None and self.adapter.is_own_reference

    def require_vocabulary(self) -> None:
        """Raises UserError: a model does not read the tokens of ``tokenizer_path``."""
        for each in (self, *self.frozen):
            if each.path != each.tokenizer_path:
                require_same_vocabulary(each.path, each.tokenizer_path, field=each.labels.field)

    def load(
        self,
        *,
        dtype: torch.dtype,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        total_steps: int = 1,
        load_frozen: "LoadFrozen | None" = None,
    ) -> PackedModel:
        """Load onto the CPU, in training mode; what is frozen onto the device, for good.

        Args:
            dtype: of the weights.
            gradient_checkpointing: compute activations twice and keep few.
            seed: of a new adapter's values; the same on every rank.
            total_steps: optimizer updates of the run.
            load_frozen: loads what the head asks; None: ``load_whole``.

        Raises:
            UserError: there is no such model there, or its architecture cannot be packed.
        """
        field = self.labels.field
        self._looked_at()
        module = self._made(dtype=dtype, hollow=False)
        _refuse_broken_weights(module.model, field=field)
        switch_off_dropout(module.model)
        verify_packing(module, self.head, field=field)
        return self.complete(
            module,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            total_steps=total_steps,
            load_frozen=load_frozen,
        )

    def load_hollow(self, *, dtype: torch.dtype) -> HollowModel | None:
        """Return the model without its weights; None: it has to be loaded as a whole.

        Whoever gives it weights calls ``verify_packing`` and then ``complete``.

        Raises:
            UserError: see ``load``.
        """
        directory = self._looked_at()
        module = self._made(dtype=dtype, hollow=True)
        switch_off_dropout(module.model)
        return find_weights(module, directory, self.head.shell(Path(self.path), dtype=dtype))

    def complete(
        self,
        module: PackedModel,
        *,
        dtype: torch.dtype,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        total_steps: int = 1,
        weights: BaseWeights | None = None,
        load_frozen: "LoadFrozen | None" = None,
    ) -> PackedModel:
        """Make of a base with weights, whose packing was verified, what is trained.

        Args:
            module: the base.
            dtype: see ``load``.
            gradient_checkpointing: see ``load``.
            seed: see ``load``.
            total_steps: see ``load``.
            weights: access to those of the base; None: this process has them all.
            load_frozen: see ``load``.

        Raises:
            UserError: a file of an adapter, or a frozen model, cannot be read.
        """
        if self.adapter is not None:
            adapt(
                module,
                self.adapter,
                kind=self.head.kind,
                names=self.head.shell(Path(self.path), dtype=dtype).prefixes,
                seed=seed,
                total_steps=total_steps,
                weights=weights or HeldWeights(),
            )
        if gradient_checkpointing:
            # Recomputes each layer's activations in the backward pass; an adapter's drop-out must
            # draw the same numbers again.
            draws = self.adapter is not None and self.adapter.draws
            module.model.gradient_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": draws}
            )
        load_one = load_frozen or load_whole
        module.frozen = tuple(load_one(each, dtype=dtype) for each in self.frozen)
        return module.train()  # layers checkpoint only in training mode; nothing else differs

    def _looked_at(self) -> ModelDirectory:
        field = self.labels.field
        register_packed_attention()
        directory = ModelDirectory.read(self.path, field=field, kind=self.head.kind)
        rehearse(directory.shell(), field=field)
        return directory

    def _made(self, *, dtype: torch.dtype, hollow: bool) -> PackedModel:
        field = self.labels.field
        with reading_model(f"{field}: {self.path} cannot be loaded {self.head.purpose}"):
            return self.head.load(self.path, dtype=dtype, field=field, hollow=hollow)


LoadFrozen = Callable[..., Any]  # given a ``TrainedModel`` and ``dtype``; like ``load_whole``


def load_whole(model: TrainedModel, *, dtype: torch.dtype) -> PackedModel:
    """Load a frozen model onto the device, all of it.

    Raises:
        UserError: see ``TrainedModel.load``.
    """
    return model.load(dtype=dtype).to(compute_device()).eval().requires_grad_(False)


@torch.no_grad()
def verify_packing(module: PackedModel, head: TrainedHead, *, field: str) -> None:
    """Compare the packed forward pass with the model's own on two short sequences.

    The packed pass is in training mode, as in training, and the other one is not: both must
    give the same. Finds models that ignore the packed attention (tokens leak), that are random,
    or that do more than apply a head to the last hidden state. Cost: a few tokens.

    Raises:
        UserError: two packed passes differ, or packed and plain differ by more than rounding.
    """
    model, name = module.model, type(module.model).__name__
    embedding = model.get_input_embeddings().weight
    vocabulary = getattr(embedding, "ds_shape", embedding.shape)[0]  # it may be divided
    prompt, first, second = ([(7 * i + k) % vocabulary for i in range(4)] for k in (1, 3, 5))
    batch = one_batch([Unit.sharing(prompt, {0: first, 1: second})])
    inputs = ModelInputs.of(batch, device=model.device)
    training = module.training
    module.train()
    _refuse_random(name, lambda: head.packed(module, inputs), field=field)
    packed = head.packed(module, inputs)
    module.eval()
    model.set_attn_implementation("eager")  # the only one that caps scores
    plain = torch.cat([head.plain(model, prompt, response) for response in (first, second)])
    model.set_attn_implementation(ATTENTION)
    module.train(training)
    difference = head.difference(packed, plain).item()
    exact, rounded = head.bounds
    bound = exact if model.dtype is torch.float32 else rounded
    if not difference < bound:
        raise UserError(
            f"{field}: {name} gives other {head.compared} on packed tokens than on single "
            f"sequences ({head.unit.format(difference)}, bound {bound}), so it cannot be trained "
            "here; use a model of a plain decoder architecture such as Llama or Qwen"
        )


def _refuse_broken_weights(model: nn.Module, *, field: str) -> None:
    """Raises UserError: a parameter holds something that is not a finite number."""
    for name, param in model.named_parameters():
        if param.numel() and not torch.isfinite(torch.stack(param.detach().aminmax())).all():
            raise UserError(
                f"{field}: {name} holds values that are not finite numbers, so the model was "
                "damaged when it was trained or written; use another copy of it"
            )


def _refuse_random(name: str, forward: Callable[[], Tensor], *, field: str) -> None:
    """Raises UserError: two forward passes in training mode differ."""
    if is_random(forward):
        raise UserError(
            f"{field}: two forward passes of {name} over the same tokens differ in training "
            "mode, although every drop-out was switched off, so log-probs could not be compared "
            "between policies; use a model of a plain decoder architecture such as Llama or Qwen"
        )
