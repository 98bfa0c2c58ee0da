"""Set-up is done once, is seen to be done, and is repaired when it was not."""

import importlib.util
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
assert spec is not None and spec.loader is not None
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def test_pins_of_a_lock_without_its_comments(tmp_path):
    lock = tmp_path / "x.lock"
    lock.write_text("# how it was made\na==1.0\n\ntorch==2.13.0+cpu  # the CPU build\n")
    assert bootstrap.pins(lock) == {"a": "1.0", "torch": "2.13.0+cpu"}


def test_the_lock_pins_everything_once():
    pins = bootstrap.pins(bootstrap.LOCK)
    lines = [x for x in bootstrap.LOCK.read_text().splitlines() if x and not x.startswith("#")]
    assert len(pins) == len(lines)
    assert {"torchvision", "torchaudio", "torchcodec"}.isdisjoint(pins)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("requirements/cpu.lock", "pyproject.toml", "setup.py", "scripts/bootstrap.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_any_input_of_the_installation_changes_the_fingerprint(project):
    first = bootstrap.fingerprint(project)
    assert bootstrap.fingerprint(project) == first
    (project / "requirements/cpu.lock").write_text("a==2.0")
    assert bootstrap.fingerprint(project) != first


def test_ready_means_stamped_and_running(tmp_path):
    environment = tmp_path / "venv"
    assert not bootstrap.runs(environment)
    venv.create(environment, with_pip=False)
    assert not bootstrap.runs(environment)  # half-made: an interpreter without pip
    # A running environment, made by pointing at this one instead of installing pip again.
    python = environment / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert bootstrap.runs(environment)
    assert not bootstrap.is_ready(environment, "abc")
    (environment / bootstrap.STAMP).write_text("abc\n")
    assert bootstrap.is_ready(environment, "abc")
    assert not bootstrap.is_ready(environment, "abd")


def test_missing_pins_are_named():
    environment = Path(sys.prefix)
    import packaging

    wanted = {"packaging": packaging.__version__, "absent-package": "1.0"}
    assert bootstrap.missing(environment, wanted) == ["absent-package==1.0"]
    assert bootstrap.missing(environment, {"packaging": "0.0"}) == ["packaging==0.0"]


class Recorder:
    """Stands for ``bootstrap.pip``: records calls, may fail or be killed at one of them."""

    def __init__(self, *, fail_at: int = 99, kill: bool = False) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.fail_at, self.kill = fail_at, kill

    def __call__(self, _environment: Path, *arguments: str, probing: bool = False) -> bool:
        self.calls.append(arguments)
        if len(self.calls) == self.fail_at and self.kill:
            raise KeyboardInterrupt
        return len(self.calls) != self.fail_at


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """``bootstrap`` on a lock with one pin, where everything counts as installed."""
    lock = tmp_path / "cpu.lock"
    lock.write_text("torch==2.13.0+cpu\n")
    monkeypatch.setattr(bootstrap, "LOCK", lock)
    monkeypatch.setattr(bootstrap.venv, "create", lambda path, **_: (path / "new").touch())
    monkeypatch.setattr(bootstrap, "runs", lambda path: (path / "new").exists())
    monkeypatch.setattr(bootstrap, "missing", lambda *_: [])
    return tmp_path / "venv"


@pytest.mark.parametrize("fail_at", [1, 2, 3])
@pytest.mark.parametrize("kill", [False, True])
def test_an_interrupted_install_is_rebuilt_by_running_again(quick, monkeypatch, fail_at, kill):
    monkeypatch.setattr(bootstrap, "pip", Recorder(fail_at=fail_at, kill=kill))
    with pytest.raises(KeyboardInterrupt if kill else bootstrap.SetupError):
        bootstrap.install(quick)
    (quick / "rest of the broken one").touch()
    monkeypatch.setattr(bootstrap, "pip", Recorder())
    bootstrap.install(quick)
    assert sorted(p.name for p in quick.iterdir()) == ["new"]


def test_a_finished_environment_is_updated_not_rebuilt(quick, monkeypatch):
    monkeypatch.setattr(bootstrap, "pip", Recorder())
    bootstrap.install(quick)
    (quick / "kept").touch()
    bootstrap.install(quick)
    assert (quick / "kept").exists()


@pytest.mark.parametrize(
    ("fail_at", "options"), [(99, []), (1, ["--extra-index-url", bootstrap.TORCH_CPU_INDEX])]
)
def test_torch_comes_from_the_first_source_that_has_it(monkeypatch, capsys, fail_at, options):
    monkeypatch.setattr(bootstrap, "pip", Recorder(fail_at=fail_at))
    assert bootstrap.torch_sources(Path("venv"), "torch==2.13.0+cpu") == options
    source = bootstrap.TORCH_CPU_INDEX if options else "pip's configured sources"
    assert source in capsys.readouterr().out


def test_torch_nowhere_says_what_to_do(monkeypatch):
    monkeypatch.setattr(bootstrap, "pip", lambda *_, **__: False)
    with pytest.raises(bootstrap.SetupError, match="PIP_FIND_LINKS"):
        bootstrap.torch_sources(Path("venv"), "torch==2.13.0+cpu")
