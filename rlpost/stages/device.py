"""What ``auto`` means in the options of a stage, on the device that it will run on.

Owns what the driver decides for processes that may run on other hosts than its own. Refuses to own
what a host has (cluster/session.py, training/precision.py).
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from rlpost.cluster.session import Device, resolve_device
from rlpost.training.precision import has_cuda


def on_its_device(cfg: Any, device: Device | None = None) -> tuple[Any, Device]:
    """Return the options and where models will run.

    A GPU that is not on this host computes in bfloat16 if ``dtype`` is auto: this host's own
    hardware says nothing about it.

    Args:
        cfg: options of a stage that has a ``cluster``.
        device: where models will run; None: what this machine or the cluster has.

    Raises:
        UserError: there is no such device, or no cluster answers.
    """
    device = device or resolve_device(cfg.cluster)
    if device is Device.cuda and not has_cuda():
        cfg = _in_bfloat16(cfg)
    return cfg, device


def _in_bfloat16(cfg: Any) -> Any:
    parts = {each.name: getattr(cfg, each.name) for each in fields(cfg)}
    auto = {
        name: replace(part, dtype=type(part.dtype).bfloat16)
        for name, part in parts.items()
        if is_dataclass(part)
        and any(each.name == "dtype" and part.dtype.name == "auto" for each in fields(part))
    }
    return replace(cfg, **auto)
