"""Which file the stages of a pipeline stand in.

Owns the ways in which it can be named. Refuses to own what it says (pipeline/read.py).
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlpost.config.search_path import config_dir
from rlpost.errors import UserError
from rlpost.pipeline.read import read_name


def name_of(composed: DictConfig) -> str:
    """Return the name of a pipeline's run that is given none: that in its file."""
    path = OmegaConf.select(composed, "pipeline.path")
    name = read_name(find_file(str(path))) if path else None
    return name or "pipeline"


def find_file(path: str) -> Path:
    """Return the file that ``pipeline.path`` names: there, or shipped under that name."""
    shipped = config_dir() / "pipeline" / f"{path}.yaml"
    local = Path(path).expanduser()
    return shipped if not local.exists() and "/" not in path and shipped.is_file() else local


def existing_file(path: str) -> Path:
    """Return the file that ``pipeline.path`` names.

    Raises:
        UserError: there is none.
    """
    file = find_file(path)
    if not file.is_file():
        shipped = sorted(each.stem for each in (config_dir() / "pipeline").glob("*.yaml"))
        raise UserError(
            f"pipeline.path: {path!a:.200} does not exist; give a file, or one of "
            f"{', '.join(shipped)}, which are shipped"
        )
    return file
