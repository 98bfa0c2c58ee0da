"""What a run writes has the permissions that the umask asks for, whoever wrote it."""

from pathlib import Path

import pytest
from cli_runs import other_modes
from forks import Forked

from rlpost.umask import follow_umask

# Writes as each of our writers does.
WRITES = """
import sys
from pathlib import Path

from rlpost.checkpoint.state import write_json
from rlpost.checkpoint.store import CheckpointStore
from rlpost.models.tiny import build_tiny_llama

root = Path(sys.argv[1])
write_json(root / "record.json", {"a": 1})
store = CheckpointStore(root / "checkpoints")
scratch = store.begin(1)
(scratch / "state.bin").write_bytes(b"x")
store.commit(scratch, step=1, config_hash="x")
build_tiny_llama(root / "models" / "tiny")
"""


# What they would leave: files of libraries that choose their own permissions.
LIBRARIES = """
import sys, tempfile
import torch
from safetensors.torch import save_file

save_file({"a": torch.zeros(1)}, f"{sys.argv[1]}/model.safetensors")
tempfile.mkdtemp(dir=sys.argv[1])
"""


def write(script: str, root: Path, mask: int) -> dict[str, str]:
    """Run ``script`` on ``root`` under ``mask``; returns what has other permissions."""
    root.mkdir(mode=0o777 & ~mask)
    root.chmod(0o777 & ~mask)
    file = root.with_name("script.py")
    file.write_text(script)
    process = Forked([str(file), str(root)], output=root.with_name("output"), umask=mask)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return other_modes(root, umask=mask)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_every_writer_follows_the_umask(tmp_path, mask):
    assert write(WRITES, tmp_path / "root", mask) == {}
    assert list(tmp_path.rglob("*.safetensors"))


def test_the_libraries_do_not(tmp_path):
    """The negative control of the test above."""
    assert len(write(LIBRARIES, tmp_path / "root", 0o022)) == 2


def test_a_directory_keeps_handing_its_group_on_and_links_are_not_followed(tmp_path):
    shared, link = tmp_path / "shared", tmp_path / "shared" / "link"
    shared.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o600)
    link.symlink_to(outside)
    shared.chmod(0o2700)
    follow_umask(shared)
    assert shared.stat().st_mode & 0o2000
    assert outside.stat().st_mode & 0o777 == 0o600
