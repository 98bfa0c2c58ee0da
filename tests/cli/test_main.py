"""The door: what happens to a word that is no command."""

import pytest

from rlpost.cli.main import COMMANDS, main


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    assert all(f"\n    {name}" in said for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "said"),
    [("rll", "did you mean rl?"), ("plna", "did you mean plan?"), ("experiment=grpo", "rl, rft")],
)
def test_a_word_that_is_no_command_is_refused(word, said, capsys):
    assert main([word]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.startswith("error: ") and captured.out == ""
