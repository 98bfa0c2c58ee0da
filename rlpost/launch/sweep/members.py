"""The members of a sweep as its command line lists them, checked before the first one starts.

Owns which overrides each member has and the refusal of a sweep with a wrong one. Refuses to own
what a search chooses later (hydra's sweeper), of which it knows examples only. Invariant: a sweep
without a search starts only if every member can be composed and passes the checks of its stage.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Glob

from rlpost.errors import UserError
from rlpost.launch.sweep.names import varying

_MOST_EXAMPLES = 64  # members of a search, before one of which none can run is left to say so


def members_of(texts: Sequence[str], parsed: Sequence[Any], *, stage: str) -> Iterator[list[str]]:
    """Yield the overrides of each member; an interval is represented by its middle.

    ``parsed`` are hydra's readings of ``texts``. As with hydra, of two overrides of one option the
    later one counts.
    """
    choices: dict[str, list[str]] = {}
    for text, each in zip(texts, parsed, strict=True):
        choices[each.get_key_element()] = _choices(text, each, stage=stage)
    return map(list, itertools.product(*choices.values()))


def _choices(text: str, override: Any, *, stage: str) -> list[str]:
    from rlpost.config.explain import known_choices

    key = override.get_key_element()
    if not override.is_sweep_override():
        return [text]
    if override.is_interval_sweep():
        low, high = override.value().start, override.value().end
        return [f"{key}={(low + high) // 2 if isinstance(low + high, int) else (low + high) / 2}"]
    if isinstance(override.value(), Glob):
        names = override.value().filter(known_choices(override.key_or_group, stage=stage))
        return [f"{key}={name}" for name in names]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def refuse_wrong_members(
    members: Sequence[list[str]],
    check: Callable[[list[str]], object],
    *,
    keys: Sequence[str],
    stage: str,
) -> None:
    """Refuse a sweep over ``keys`` of which ``check`` refuses a member, or that has one twice.

    Raises:
        UserError: names the first such member, or no member where all are refused alike.
    """
    seen: set[tuple[str, ...]] = set()
    for member in members:
        if tuple(member) in seen:
            named = ", ".join(varying(member, keys=keys))
            raise UserError(f"the sweep has the member {named} twice; give each value once")
        seen.add(tuple(member))
    refused = [(member, said) for member in members if (said := _refusal(member, check, stage))]
    if not refused:
        return
    member, said = refused[0]
    if len(refused) == len(members) and all(each == said for _, each in refused):
        raise UserError(said)
    raise UserError(
        f"{len(refused)} of the {len(members)} members of the sweep cannot run, so none was "
        f"started; {', '.join(varying(member, keys=keys))}: {said}"
    )


def refuse_hopeless_search(
    examples: Iterator[list[str]], check: Callable[[list[str]], object], *, stage: str
) -> None:
    """Refuse a search of which ``check`` refuses every example.

    Raises:
        UserError: what is wrong with the first one.
    """
    first = None
    for member in itertools.islice(examples, _MOST_EXAMPLES):
        if (said := _refusal(member, check, stage)) is None:
            return
        first = first or said
    if first is not None:
        raise UserError(first)


def _refusal(member: list[str], check: Callable[[list[str]], object], stage: str) -> str | None:
    """Return why a member cannot run; None: it can."""
    from rlpost.config.explain import COMPOSITION_ERRORS, explain

    try:
        check(member)
    except UserError as error:
        return str(error)
    except COMPOSITION_ERRORS as error:
        return explain(error, stage=stage)
    return None
