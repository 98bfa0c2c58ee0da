"""A pipeline of two stages of fine-tuning, for tests of what starts it."""

from pathlib import Path

import yaml
from supervised_runs import write_rows


def write_two_stages(place: Path, model: Path, *, steps: int) -> None:
    """Write ``chain.yaml`` and its data: stages ``one`` and ``two`` of ``steps`` each."""
    rows = ({"prompt": f"{n} + {n}?", "completion": str(2 * n)} for n in range(16))
    write_rows(place / "train.jsonl", rows)
    trained = {
        "trainer.dtype": "float32", "trainer.threads": 1, "trainer.lr": 1e-3, "data.workers": 0,
        "trainer.steps": steps, "examples_per_step": 4, "tracking.wandb": "disabled",
    }  # fmt: skip
    chain = {
        "name": "chain",
        "base": {"path": str(model)},
        "common": {"sft": trained},
        "stages": [
            {"id": "one", "run": "sft", "data": {"train": "train.jsonl"}},
            {"id": "two", "run": "sft", "from": "one", "data": {"train": "train.jsonl"}},
        ],
        "publish": {"from": "two"},
    }
    (place / "chain.yaml").write_text(yaml.safe_dump(chain))
