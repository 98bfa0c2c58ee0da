"""What the parts of a pipeline that runs have in common.

Owns nothing of it. Invariant: attempts, scores and gates see the same models stand for stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rlpost.stages.pipeline.commands import Commands
from rlpost.stages.pipeline.lineage import Lineage
from rlpost.stages.pipeline.made import Made
from rlpost.stages.pipeline.plan import PipelinePlan


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A pipeline that runs."""

    plan: PipelinePlan
    commands: Commands  # runs stages and evaluations
    lineage: Lineage  # what was made, scored and decided, and of what
    made: Mapping[str, Made]  # what stands for each stage so far; it grows meanwhile
