"""The table and what its exit code means."""

from rich.console import Console

from rlpost.cli import doctor
from rlpost.doctor.checks import Finding, Level

GOOD = Finding(name="cores", level=Level.OK, found="2")
POOR = Finding(name="processor", level=Level.WARN, found="AVX2", advice="slower")
BAD = Finding(name="memory", level=Level.BLOCK, found="4 GB", advice="use a larger machine")


def show(*findings: Finding) -> tuple[int, str]:
    console = Console(record=True, width=120)
    code = doctor.report(findings, console=console)
    return code, console.export_text()


def test_warnings_do_not_block():
    code, text = show(GOOD, POOR)
    assert code == 0
    assert "slower" in text
    assert "can run here" in text


def test_something_lacking_is_exit_code_2():
    code, text = show(GOOD, BAD, POOR)
    assert code == 2
    assert "cannot run here; lacking: memory" in text
    assert "use a larger machine" in text


def test_the_command_runs_on_this_machine(capsys):
    assert doctor.main([]) in (0, 2)
    assert "shared memory" in capsys.readouterr().out
