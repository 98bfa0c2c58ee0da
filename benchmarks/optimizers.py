"""What each optimizer keeps of the embedded model, and what it learns beside AdamW.

    .venv/bin/python benchmarks/optimizers.py sizes
    .venv/bin/python benchmarks/optimizers.py learn --kinds adamw galore --items 1000

``sizes`` asks the model without weights, which is what `rlpost plan` counts. ``learn`` trains one
model with each and prints the state that its ranks had, and the scores on the same held-out items
as AdamW's, paired, with intervals: an answer's form, which the model does not know before. Runs lie
in ``--dir`` and are continued if they exist.
"""

import argparse
import json
import sys
from pathlib import Path

from supervised_learning import FORM, rlpost, sums, write_rows

from rlpost.models.directory.config_file import ModelKind
from rlpost.models.locate import locate_model
from rlpost.training.optimizers import optimizers
from rlpost.training.optimizers.planned import planned_bytes
from rlpost.training.settings import TrainerConfig

MODEL = "smollm2-135m-instruct"
# Of full weights; rates at which AdamW's 2e-5 is matched: GaLore's is scaled by 0.25.
SETTINGS = {
    "adamw": [],
    "adamw_8bit": [],
    "adafactor": [],
    "galore": ["optimizer.rank=64", "optimizer.gap=20", "trainer.lr=2.4e-4"],
    "adam_mini": [],
    "muon": ["trainer.lr=1e-4"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["sizes", "learn"])
    parser.add_argument("--kinds", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--items", type=int, default=1000, help="held-out items")
    parser.add_argument("--dir", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--overrides", nargs="*", default=[], help="hydra overrides of training")
    args = parser.parse_args()
    {"sizes": sizes, "learn": learn}[args.what](args)
    return 0


def sizes(args: argparse.Namespace) -> None:
    """Print the state of each optimizer, and its part of AdamW's."""
    found = {}
    for kind in ["adamw", *(each for each in args.kinds if each != "adamw")]:
        config = optimizers.get(kind).config(**({"rank": 64} if kind == "galore" else {}))
        found[kind] = planned_bytes(
            config, TrainerConfig(), model_path=locate_model(MODEL), kind=ModelKind.policy
        )
        print(f"{kind:12}{found[kind] / 1e6:8.1f} MB{found[kind] / found['adamw']:8.1%}")


def learn(args: argparse.Namespace) -> None:
    """Train with each, and compare each with AdamW."""
    args.dir.mkdir(parents=True, exist_ok=True)
    rows = sums(800 + args.items)
    train, heldout = args.dir / "train.jsonl", args.dir / "heldout.jsonl"
    write_rows(train, rows[:800])
    write_rows(heldout, rows[800:])
    judge = args.dir / "form.py"
    judge.write_text(FORM)
    for kind in ["adamw", *(each for each in args.kinds if each != "adamw")]:
        run = args.dir / kind
        rlpost(
            *("sft", f"data.train={train}", "data.train_on=last", "examples_per_step=16"),
            *("trainer.steps=40", "trainer.zero_stage=0", f"optimizer={kind}", *SETTINGS[kind]),
            *(f"run.dir={args.dir}", f"run.name={kind}", *args.overrides),
        )
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        print(f"{kind}: {last['perf/optimizer_state_gb'] * 1e3:.1f} MB, {last['time_s']:.0f} s")
        if kind != "adamw":
            rlpost(
                *("evaluate", f"model.path={run / 'export'}", f"data.heldout={heldout}"),
                *(f"baseline.path={args.dir / 'adamw' / 'export'}", "max_tokens=24"),
                *("verifier=function", f"verifier.path={judge}:form"),
                *(f"run.dir={args.dir}", f"run.name={kind}-scores"),
            )


if __name__ == "__main__":
    sys.exit(main())
