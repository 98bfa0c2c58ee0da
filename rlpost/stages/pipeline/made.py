"""What a stage of a pipeline made.

Owns what later stages, scores and gates need to know of a result.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Made:
    """What stands for a stage: its own result, or after a rollback that of another one."""

    key: str  # under which it is scored: base, an attempt of a stage, or a pruned start
    path: Path
    digest: str
    made_of: str = ""  # of a pruned start: how many layers of what
    called: str = ""  # as the file names it; empty: it has no name but its path

    @property
    def name(self) -> str:
        """What ``model.path`` is given."""
        return self.called or str(self.path)
