"""Stages of a pipeline without models: what each command would leave behind, made in no time."""

import hashlib
import json
from pathlib import Path

from rlpost.config.compose import compose_stage
from rlpost.evaluation.answer import Answer
from rlpost.stages.loop import Interrupted
from rlpost.stages.pipeline.drive import run_pipeline
from rlpost.stages.registry import STAGES

ITEMS = 60


class PlainChildren:
    """Stands for ``Children``: a model is a number, its quality, which training changes.

    ``trainer.lr`` is added to it, up to 0.3; more does harm, and is subtracted. ``die_at``: the
    command in which the pipeline is interrupted, with the stage half done.
    """

    def __init__(self, *, die_at: int | None = None) -> None:
        self.commands: list[tuple[str, dict[str, str]]] = []
        self._die_at = die_at

    def run(self, argv):
        command, *words = argv
        options = {key: value.strip("'") for key, value in (word.split("=", 1) for word in words)}
        self.commands.append((command, options))
        root = Path(options["run.dir"]) / options["run.name"]
        root.mkdir(parents=True, exist_ok=True)
        if self._die_at == len(self.commands):
            (root / "run.log").write_text("half done\n")
            raise Interrupted
        if command == "evaluate" and "data.heldout" in options and "suites" in options:
            self._answer(root, quality_of(Path(options["model.path"])))
        elif command == "merge":
            write_model(root / "export", quality_of(Path(options["adapter"])))
        else:
            lr = float(options["trainer.lr"])
            gained = lr if lr <= 0.3 else -lr
            write_model(root / "export", quality_of(Path(options["model.path"])) + gained)
        return 0

    def heed(self):
        """Nobody asks it to end while it waits."""

    @staticmethod
    def _answer(root: Path, quality: float) -> None:
        rows = []
        for number in range(ITEMS):
            answer = Answer(
                model="model", dataset="heldout", part="", uid=f"0:{number}", sample=0, seed=1,
                prompt=f"question {number}", response="", answer=None,
                reward=float(number < quality * ITEMS), error=None, verdicts=(),
                finish_reason="stop", num_tokens=1,
            )  # fmt: skip
            rows.append(answer.to_json() + "\n")
        (root / "evaluation.jsonl").write_text("".join(rows))


def write_model(path: Path, quality: float) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(f"{quality:.6f}")
    (path / "rlpost.json").write_text(json.dumps({"step": 1, "base": "base"}))
    (path / "README.md").write_text(f"# A model\n\nIt is in {path}.\n")
    return path


def quality_of(path: Path) -> float:
    return float((path / "model.safetensors").read_text())


def pipeline(text: str, *overrides: str, children=None):
    """Run a pipeline, here, whose file says ``text``; return its outcome and the commands."""
    write_model(Path("tiny"), 0.5)
    rows = (f'{{"prompt": "question {n}", "answer": "{n}"}}\n' for n in range(ITEMS))
    Path("heldout.jsonl").write_text("".join(rows))
    Path("train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("file.yaml").write_text(text)
    children = children or PlainChildren()
    cfg, resolved = compose_stage(["pipeline.path=file.yaml", *overrides], stage="pipeline")
    outcome = run_pipeline(STAGES["pipeline"], cfg, resolved, children=children)
    return outcome, children.commands


def tree_of(root: Path) -> dict[str, str]:
    """Return the hash of everything that decides below a pipeline's directory."""
    kept = ("lineage.json", "gates.jsonl", "model.safetensors", "evaluation.jsonl")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.name in kept
    }
