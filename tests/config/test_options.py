"""No option is accepted and then ignored: code reads each one."""

import ast
from pathlib import Path

import rlpost
from rlpost.config.options import known_keys

PACKAGE = Path(rlpost.__file__).parent


def attributes_read() -> set[str]:
    """Names that the package reads of any object."""
    return {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def ignored(paths, read) -> list[str]:
    return [path for path in paths if path.rpartition(".")[2] not in read]


def test_code_reads_every_option():
    assert ignored(known_keys("rl"), attributes_read()) == []


def test_an_option_that_nobody_reads_is_found():
    assert ignored(["trainer.lr", "trainer.lrr"], attributes_read()) == ["trainer.lrr"]
