"""What forks.py has imported before it forks: all that commands and ranks on tiny models need.

Invariant: no thread is started, for a fork would not have it; jemalloc's, which pyarrow brings, is
begun anew in each by jemalloc itself.
"""

import importlib
from pathlib import Path

from rlpost.stages.registry import STAGES

MODULES = (
    *("datasets", "deepspeed", "peft", "ray", "torch", "wandb"),
    "rlpost.cli.run",
    "rlpost.config.compose",
    "rlpost.training.zero.deepspeed_trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
PARTS = ("config", "check", "plan", "boot", "drive")

for name in MODULES:
    importlib.import_module(name)
for stage in STAGES.values():
    for part in PARTS:
        if getattr(stage, part) is not None:
            stage.part(part)
    stage.registries()

threads = {each.read_text().strip() for each in Path("/proc/self/task").glob("*/comm")}
assert threads - {"jemalloc_bg_thd"} == {Path("/proc/self/comm").read_text().strip()}, threads
