"""Trainers in this process that push adapters: one of plain peft, and one as a run has it."""

from dataclasses import asdict
from enum import Enum
from typing import Any

import torch
from pushed_models import TorchPublisher

from rlpost.weights.manifest import payload_size_bytes, write_payload
from rlpost.weights.publisher import WeightPublisher
from rlpost.weights.transports.choice import Senders


class AdapterPublisher(TorchPublisher):
    """A ``PeftModel`` behind the bus's protocol; a fresh adapter changes nothing.

    Args:
        path: of the base.
        run_id: names its payloads.
        config: peft's ``LoraConfig``.
    """

    def __init__(self, path: Any, run_id: str, config: Any) -> None:
        from peft import get_peft_model

        super().__init__(path, run_id)
        torch.manual_seed(0)
        self.model = get_peft_model(self.model, config).eval()
        self.scale = 1.0  # what is sent scales the adapter by this, what is computed does not
        self.only: str | None = None  # send the layers alone whose name ends so

    def tensors(self) -> dict[str, torch.Tensor]:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.model)
        return {n: t for n, t in state.items() if self.only is None or f"{self.only}." in n}

    def served(self) -> dict[str, Any]:
        config = asdict(self.model.peft_config["default"])
        plain = {k: v.value if isinstance(v, Enum) else v for k, v in config.items()}
        plain["target_modules"] = sorted(plain["target_modules"])
        plain["lora_alpha"] *= self.scale
        keys = ("r", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
        return {key: plain[key] for key in ("lora_alpha", *keys)}

    async def stage(self, version, *, seats):
        tensors = self.tensors()
        shapes = [(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()]
        buffer = self.sender.buffer(payload_size_bytes(shapes), version=version)
        manifest = write_payload(
            iter(tensors.items()), buffer, version=version, adapter=self.served()
        )
        locator = self.sender.announce(manifest, seats=seats)
        if self.flip_byte is not None:
            buffer[self.flip_byte] ^= 1
        return locator

    @torch.no_grad()
    def perturb(self, seed: int) -> None:
        """Change the adapter as a step would, only far more."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if "lora_" in name
        }

    @torch.no_grad()
    def become(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


class TrainerPublisher(TorchPublisher):
    """What a run pushes of a real engine; ``model`` is its export in plain peft on the base.

    Args:
        path: of the base.
        run_id: names its payloads.
        built: a ``DeepSpeedTrainer`` of a policy with an adapter.
    """

    def __init__(self, path: Any, run_id: str, built: Any) -> None:
        super().__init__(path, run_id)
        self._built = built
        self.scale = 1.0  # what is sent adds so much of what was trained
        self._publisher = WeightPublisher(lambda: self, senders=Senders(staged=self.sender))

    def load_export(self, directory: Any) -> None:
        """Have ``model`` be what the trainer exports."""
        from peft import PeftModel

        self._built.export(directory)
        self.model = PeftModel.from_pretrained(self.model, directory).eval()

    @property
    def adapter(self) -> Any:
        return self._built.served.adapter

    merge_error = None

    def shapes(self) -> Any:
        return self._built.served.shapes()

    def tensors(self) -> Any:
        for name, tensor in self._built.served.tensors():
            yield name, tensor * self.scale if "lora_B" in name else tensor

    async def stage(self, version, *, seats):
        return self._publisher.stage(version, seats=seats, written=True)

    async def probe_logprobs(self, sequences):
        return self._built.probe_logprobs(sequences)
