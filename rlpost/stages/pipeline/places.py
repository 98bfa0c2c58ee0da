"""Where the parts of a pipeline lie below its directory.

Owns the layout. Invariants: nothing of a stage lies outside its own directory; a second attempt
has a directory of its own, so no attempt overwrites another.
"""

from dataclasses import dataclass
from pathlib import Path

from rlpost.pipeline.spec import StageSpec
from rlpost.stages.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Places:
    """The paths of a pipeline. Ids have no dot, so names with one cannot be an id.

    Example: ``Places(root=Path("runs/r1")).run("rl1", attempt=2)`` is ``runs/r1/stages/rl1.2``.
    """

    root: Path

    @property
    def stages(self) -> Path:
        """Where the runs of the stages lie: their ``run.dir``."""
        return self.root / "stages"

    @property
    def lineage(self) -> Path:
        return self.root / "lineage.json"

    @property
    def gates(self) -> Path:
        return self.root / "gates.jsonl"

    @property
    def export(self) -> Path:
        """The model that is the result, if the file publishes one."""
        return RunDirectory(root=self.root).export

    @property
    def report(self) -> Path:
        return RunDirectory(root=self.root).report

    @property
    def copy(self) -> Path:
        """The file of stages as it was read."""
        return self.root / "pipeline.yaml"

    @staticmethod
    def name(stage: str, *, attempt: int) -> str:
        """Return the ``run.name`` of an attempt, from 1."""
        return stage if attempt == 1 else f"{stage}.{attempt}"

    def run(self, stage: str, *, attempt: int = 1) -> RunDirectory:
        """Return the directory of an attempt."""
        return RunDirectory(root=self.stages / self.name(stage, attempt=attempt))

    def pruned(self, stage: str) -> Path:
        """Return where the smaller copy lies that a stage starts from."""
        return self.stages / f"{stage}.start"

    def merged(self, stage: str, *, attempt: int) -> RunDirectory:
        """Return the directory of the run that merges the adapter of an attempt into its base."""
        return RunDirectory(root=self.stages / f"{self.name(stage, attempt=attempt)}.merged")

    def output(self, stage: StageSpec, *, attempt: int, adapter: bool) -> Path:
        """Return what a stage makes: a model directory, or a directory of data."""
        run = self.run(stage.id, attempt=attempt)
        if stage.output == "dataset":
            return run.dataset
        return self.merged(stage.id, attempt=attempt).export if adapter else run.export

    def scores(self, model: str) -> Path:
        """Return where the evaluations of a model lie: their ``run.dir``."""
        return self.root / "scores" / model
