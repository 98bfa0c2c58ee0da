import logging
import warnings

from rlpost.tracking.run_log import read_warnings, run_log


def test_log_and_python_warnings_go_to_the_file_only(tmp_path, capsys):
    path = tmp_path / "run.log"
    terminal = logging.StreamHandler()
    logging.getLogger().addHandler(terminal)
    try:
        with run_log(path):
            logging.getLogger("rlpost.stages.rl").info("step %d", 1)
            logging.getLogger("rlpost.weights").warning("slow push: 3 s")
            logging.getLogger("urllib3").info("chatter")
            warnings.warn("old option", UserWarning, stacklevel=1)
        assert terminal in logging.getLogger().handlers  # put back
    finally:
        logging.getLogger().removeHandler(terminal)
    text = path.read_text()
    assert "INFO rlpost.stages.rl: step 1" in text
    assert "old option" in text and "chatter" not in text
    assert capsys.readouterr().err == ""
    logging.getLogger("rlpost").warning("after the run")
    assert "after the run" not in path.read_text()


def test_warnings_are_read_back(tmp_path):
    path = tmp_path / "run.log"
    with run_log(path):
        logging.getLogger("rlpost.a").info("fine: nothing")
        logging.getLogger("rlpost.a").warning("slow: really")
        logging.getLogger("rlpost.b").error("broken\nsecond line WARNING x: y")
    found = read_warnings(path)
    assert [(level, message) for _, level, message in found] == [
        ("warning", "slow: really"),
        ("error", "broken"),
    ]
    assert read_warnings(tmp_path / "absent.log") == []
