import textwrap

import pytest

from rlpost.verifiers.kinds.function import FunctionConfig, function


@pytest.fixture
def load(tmp_path):
    """Write a reward file and build the judge of one of its functions."""

    def load(source, name="f", **settings):
        folder = tmp_path
        while (folder / "rewards.py").exists():  # a file is imported once
            folder = folder / "next"
        folder.mkdir(exist_ok=True)
        file = folder / "rewards.py"
        file.write_text(textwrap.dedent(source))
        return function(FunctionConfig(path=f"{file}:{name}", **settings))

    return load
