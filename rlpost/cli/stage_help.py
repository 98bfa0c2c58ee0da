"""``rlpost <stage> --help [section ...]``: the options of a stage, one line each.

Owns which sections are shown and their layout. Refuses to own what the options are
(config/options.py). Invariant: on a terminal lines fit its width; into a pipe each option is one
plain line, for grep.
"""

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from rlpost.cli.declarations import without_torch
from rlpost.errors import UserError
from rlpost.stages.registry import Stage

if TYPE_CHECKING:
    from rlpost.config.options import Option, Section

HELP = ("-h", "--help")
_FLAGS = {
    "--cfg job": "print the resolved configuration and end",
    "-m": "sweep: an option with several values, such as seed=1,2,3, makes a run of each",
    "--config-dir DIR": "look for files of choices in DIR, too, such as DIR/experiment/mine.yaml",
    "--help SECTION ...": "show these sections, options or groups only",
}
# Flags of hydra that are followed by a value.
_WITH_VALUE = {"-c", "--cfg", "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path"}
_LONGEST_NAME = 44  # a longer one has its line to itself


def main(argv: Sequence[str], stage: Stage) -> int:
    """Print the options of ``stage``, as far as ``argv`` asks for them; returns 0.

    Raises:
        UserError, HydraException, OmegaConfBaseException: a word of ``argv`` means nothing.
    """
    words = [each for each in argv if each not in HELP]
    wanted = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if "=" not in word and word[:1] not in ("-", "+", "~") and before not in _WITH_VALUE
    ]
    if len(wanted) == len(words):
        with without_torch():
            from rlpost.config.stage_yaml import yaml_defaults

            pages = _pages(stage, *yaml_defaults(stage.name))
    else:
        pages = _pages(stage, *_as_composed(stage, words, wanted))
    text = _Layout.of_stdout().page(stage, pages, wanted)
    try:
        print("\n".join(text), flush=True)
    except BrokenPipeError:  # of `| head`: it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# -- what is shown --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Pages:
    """All that can be shown of a stage."""

    sections: "list[Section]"
    files: "dict[str, tuple[Option, dict[str, str]]]"  # group -> its option and its choices


def _pages(stage: Stage, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> _Pages:
    from rlpost.config.groups import FILES
    from rlpost.config.options import Option, sections_of
    from rlpost.config.recipes import fitting

    files = {}
    for group, line in FILES.items():
        names = fitting(group, stage=stage.name)
        if not names:
            continue
        default = chosen.get(group) or "NAME"
        choice = Option(path=group, kind="|".join(names), default=default, help=line)
        files[group] = choice, dict(names)
    sections = [
        replace(
            section,
            options=tuple(
                replace(each, default=values.get(each.path, each.default))
                for each in section.options
            ),
        )
        for section in sections_of(stage.name, chosen)
    ]
    return _Pages(sections=sections, files=files)


def _as_composed(
    stage: Stage, words: Sequence[str], wanted: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values and choices to which overrides lead."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from rlpost.config.command_line import read_command_line
    from rlpost.config.compose import compose_command
    from rlpost.config.groups import COMPOSABLE, registries
    from rlpost.config.stage_yaml import flat

    args = read_command_line([each for each in words if each not in wanted], stage=stage.name)
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    single = [
        each.input_line for each in parsed if each.input_line and not each.is_sweep_override()
    ]
    composed = compose_command(args, single, stage=stage.name, with_hydra=True)
    chosen = {str(group): name for group, name in composed.hydra.runtime.choices.items()}
    tree = OmegaConf.to_container(composed, enum_to_str=True)
    for group in registries(stage.name):
        node = OmegaConf.select(composed, group.replace("/", "."))
        chosen[group] = list(node) if group in COMPOSABLE else getattr(node, "kind", None)
    return flat(tree), chosen


def _selected(pages: _Pages, wanted: Sequence[str]) -> _Pages:
    """Return what ``wanted`` names.

    Raises:
        UserError: one of the words names nothing.
    """
    if not wanted:
        return pages
    names = [each.replace("/", ".").removesuffix(".") for each in wanted]
    sections = []
    for section in pages.sections:
        whole = any(_is_below(section.name, name) for name in names)
        options = tuple(
            each
            for each in section.options
            if whole or any(_is_below(each.path.replace("/", "."), name) for name in names)
        )
        if options:
            sections.append(replace(section, options=options))
    shown = {each.path.replace("/", ".") for section in sections for each in section.options}
    for name, word in zip(names, wanted, strict=True):
        if name not in pages.files and not any(_is_below(path, name) for path in shown):
            raise UserError(_unknown(word, pages))
    files = {group: found for group, found in pages.files.items() if group in names}
    return _Pages(sections=sections, files=files)


def _is_below(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _unknown(word: str, pages: _Pages) -> str:
    sections = [*pages.files, *(each.name for each in pages.sections if each.name)]
    every = [*sections, *(each.path for section in pages.sections for each in section.options)]
    close = difflib.get_close_matches(word, every, n=1) or [
        path for path in every if path.rpartition(".")[2] == word
    ]
    hint = f"; did you mean {close[0]}?" if close else "."
    tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in sections))
    return f"--help {word}: there is no such section or option{hint} The sections are {tops}"


def _example(stage: Stage, pages: _Pages) -> str | None:
    """Return a recipe to name as an example: the first of the stage's own, else any."""
    _, recipes = pages.files.get("experiment", (None, {}))
    own = [name for name in recipes if name == stage.name or name.startswith(f"{stage.name}_")]
    general = [name for name in recipes if name == "quickstart"]
    return next(iter([*own, *general, *recipes]), None)


# -- how it is shown ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How wide the lines are, and whether they have colors."""

    width: int | None  # None: lines have any length
    color: bool

    @classmethod
    def of_stdout(cls) -> "_Layout":
        terminal = sys.stdout.isatty()
        width = max(40, shutil.get_terminal_size().columns) if terminal else None
        return cls(width=width, color=terminal and "NO_COLOR" not in os.environ)

    def page(self, stage: Stage, pages: _Pages, wanted: Sequence[str]) -> Iterator[str]:
        """Yield the lines of the sections that ``wanted`` names, or of all with an introduction.

        Raises:
            UserError: a word of ``wanted`` names nothing.
        """
        selected = _selected(pages, wanted)
        if wanted:
            for name, (choice, described) in selected.files.items():
                yield from self._table(f"{name}=NAME: {choice.help}", described)
        else:
            yield from self._introduction(stage, _example(stage, pages))
            choices = dict(_row(choice) for choice, _ in selected.files.values())
            yield from self._table("Files of choices, in configs/", choices)
        for section in selected.sections:
            title = f"{section.name}: {section.help}" if section.name else section.help
            yield from self._table(title, dict(map(_row, section.options)))
            if wanted and section.group in {each.path for each in section.options}:
                yield from self._table(f"{section.group}=NAME", section.choices)

    def _introduction(self, stage: Stage, recipe: str | None) -> Iterator[str]:
        run = f"rlpost {stage.name}"
        chosen = "seed=1" if recipe is None else f"experiment={recipe}"
        for text in (
            f"usage: {run} [option=value ...] [flag ...]",
            f"{stage.help[:1].upper()}{stage.help[1:]}.",
            f"The options are shown as `{run}` has them by default; with choices in front, as in "
            f"`{run} {chosen} --help`, as these set them.",
        ):
            yield from self._wrapped(text)
            yield ""
        yield from self._table("Flags", _FLAGS)

    def _wrapped(self, text: str, *, beside: int = 0) -> list[str]:
        if self.width is None:
            return [text]
        room = self.width - beside
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)

    def _table(self, title: str, rows: Mapping[str, str]) -> Iterator[str]:
        yield from (self._styled("1", line) for line in self._wrapped(title))
        longest = _LONGEST_NAME if self.width is None else min(_LONGEST_NAME, self.width * 2 // 5)
        column = max((len(name) for name in rows if len(name) <= longest), default=0) + 4
        for name, text in rows.items():
            yield from self._row(name, text, column)
        yield ""

    def _row(self, name: str, text: str, column: int) -> Iterator[str]:
        lines = self._wrapped(text, beside=column)
        gap = column - 2 - len(name)
        if self.width is None:
            gap = max(gap, 2)
        first = f"{' ' * gap}{lines.pop(0)}" if gap >= 2 and lines else ""
        yield f"  {self._styled('36', name)}{first}"
        yield from (" " * column + line for line in lines)

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text


def _row(option: "Option") -> tuple[str, str]:
    """Example: ``("trainer.lr=1e-06", "learning rate; float in (0, 1]")``."""
    kind = option.kind.replace("|", " | ") if "|" in option.kind else option.kind
    return f"{option.path}={_shown(option.default)}", f"{option.help} ({kind})"


def _shown(value: Any) -> str:
    """Return a value as one types it."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)
