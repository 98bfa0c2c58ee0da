"""What a sandbox and its worker say to each other: JSON in both directions, checked on arrival.

Owns the form of every message. Refuses to own sockets and deadlines (channel.py, sandbox.py).
Invariants: nothing that crosses the process border can execute code when it is read; a reply
is accepted only when it answers the one request that was asked, number for number.

- ``{"id", "configs"}`` -> ``{"id", "refusals", "declared"}``, once
- ``{"id", "verifier", "samples": [...]}`` -> ``{"id", "replies": [...]}``, one reply a sample,
  or ``{"id", "failure"}`` when one call for all of them failed

``id`` is random, so that a worker cannot write the reply to a request it has not seen yet.
"""

import dataclasses
import secrets
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from json import dumps, loads  # bound now: what a judge later does to the module changes nothing
from math import isfinite
from typing import Any

from rlpost.errors import DataError, InfrastructureError
from rlpost.verifiers.base import Declaration, Sample, VerifierConfig
from rlpost.verifiers.kinds import verifiers
from rlpost.verifiers.kinds.build import entry_of
from rlpost.verifiers.workers.safe_call import MAX_ITEMS, MAX_TEXT, summary

MAX_REPLY_BYTES = 1 << 19  # of one sample; bounded text written as JSON escapes stays below it
_REPLY_KEYS = {"reward", "error", "info"}


class CallFailed(Exception):
    """A call for several samples failed as a whole; nobody can tell for which of them."""


class BadReply(InfrastructureError):
    """The worker said something that no reply to this request can be."""


def new_id() -> str:
    return secrets.token_hex(16)


def encode_sample(sample: Sample) -> bytes:
    """Return the sample as JSON.

    Raises:
        DataError: a column holds something that JSON has no form for.
    """
    fields = {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample)}
    try:
        _refuse_what_is_not_json(sample.prompt, "the prompt")
        for name, value in sample.columns.items():
            _refuse_what_is_not_json(value, f"column {name!r}")
        return dumps(fields | {"columns": dict(sample.columns)}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        text = str(error) if isinstance(error, DataError) else summary(error)
        raise DataError(f"the row cannot be sent to a worker: {text}") from error


def decode_sample(fields: Mapping[str, Any]) -> Sample:
    return Sample(**{**fields, "completion_ids": tuple(fields["completion_ids"])})


def encode_hello(configs: Mapping[str, VerifierConfig], *, id: str) -> bytes:
    """Return the first message to a worker: what it shall be able to judge.

    Raises:
        UserError: unknown kind, or a config of another kind.
    """
    plain = {name: _plain_config(cfg) for name, cfg in configs.items()}
    return dumps({"id": id, "configs": plain}).encode()


def decode_config(plain: Mapping[str, Any]) -> VerifierConfig:
    """Rebuild a config from its kind and its fields."""
    config = verifiers.get(plain["kind"]).config
    hints = typing.get_type_hints(config)
    rebuilt: VerifierConfig = config(
        **{name: _revived(hints[name], value) for name, value in plain.items()}
    )
    return rebuilt


def encode_request(verifier: str, samples: Sequence[bytes], *, id: str) -> bytes:
    """Return a request to judge ``samples``, which are already JSON."""
    head = dumps({"id": id, "verifier": verifier})
    return head[:-1].encode() + b', "samples": [' + b", ".join(samples) + b"]}"


def decode_ready(
    frame: bytes, *, id: str, names: Sequence[str]
) -> tuple[dict[str, str], dict[str, Declaration]]:
    """Return why verifiers could not be built, and what those that could declare.

    Raises:
        BadReply: this is no answer to the hello of that ``id``.
    """
    message = _message(frame, id=id)
    if message.keys() != {"id", "refusals", "declared"}:
        raise BadReply("its first reply does not consist of 'id', 'refusals' and 'declared'")
    refusals, declared = message["refusals"], message["declared"]
    if not isinstance(refusals, dict) or not all(
        name in names and isinstance(text, str) for name, text in refusals.items()
    ):
        raise BadReply("its list of refused verifiers is malformed")
    if not isinstance(declared, dict) or not all(name in names for name in declared):
        raise BadReply("its list of declarations is malformed")
    return refusals, {name: _declaration(fields) for name, fields in declared.items()}


def _declaration(fields: Any) -> Declaration:
    known = {"groups", "columns", "answers"}
    if not isinstance(fields, dict) or fields.keys() != known:
        raise BadReply(f"a declaration does not consist of {sorted(known)}")
    lists = fields["columns"], fields["answers"]
    if not isinstance(fields["groups"], bool) or not all(map(_is_list_of_texts, lists)):
        raise BadReply("a declaration is malformed")
    columns, answers = map(tuple, lists)
    return Declaration(groups=fields["groups"], columns=columns, answers=answers)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(each, MAX_TEXT) for each in value)


def decode_replies(frame: bytes, *, id: str, num_samples: int) -> list[dict[str, Any]]:
    """Return one ``{"reward", "error", "info"}`` per sample, in order.

    Raises:
        CallFailed: the worker could not judge the samples together.
        BadReply: this is no answer to the request of that ``id``.
    """
    message = _message(frame, id=id)
    if message.keys() == {"id", "failure"} and num_samples > 1:
        if not message["failure"] or not _is_text(message["failure"], 2 * MAX_TEXT):
            raise BadReply("a failure is not a short text")
        raise CallFailed(message["failure"])
    if message.keys() != {"id", "replies"}:
        raise BadReply("its reply does not consist of 'id' and 'replies'")
    replies = message["replies"]
    if not isinstance(replies, list) or len(replies) != num_samples:
        raise BadReply(f"it did not send one reply for each of {num_samples} samples")
    return [_checked(reply) for reply in replies]


def _message(frame: bytes, *, id: str) -> dict[str, Any]:
    try:
        message = loads(frame)
    except (ValueError, RecursionError) as error:
        raise BadReply("it did not reply in JSON") from error
    if not isinstance(message, dict) or message.get("id") != id:
        raise BadReply("its reply does not have the number of this request")
    return message


def _checked(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict) or reply.keys() != _REPLY_KEYS:
        raise BadReply(f"a reply does not consist of {sorted(_REPLY_KEYS)}")
    reward, error, info = reply["reward"], reply["error"], reply["info"]
    if (reward is None) == (error is None):
        raise BadReply("a reply must have either a reward or an error")
    if reward is not None:
        if not isinstance(reward, float) or not isfinite(reward):
            raise BadReply("a reward is not a finite number")
    elif not error or not _is_text(error, 2 * MAX_TEXT):
        raise BadReply("an error is not a short text")
    if not isinstance(info, dict) or len(info) > MAX_ITEMS or not all(map(_is_info, info.items())):
        raise BadReply("a reply's information is not a small flat object")
    return reply


def _is_info(item: tuple[str, Any]) -> bool:
    key, value = item
    if not _is_text(key, MAX_TEXT):
        return False
    if isinstance(value, float):
        return isfinite(value)
    return value is None or isinstance(value, int) or _is_text(value, MAX_TEXT)


def _is_text(value: Any, max_length: int) -> bool:
    """Whether ``value`` is a text of bounded length that any file can hold."""
    if not isinstance(value, str) or len(value) > max_length:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _plain_config(cfg: VerifierConfig) -> dict[str, Any]:
    entry_of(cfg)
    plain: dict[str, Any] = _without_enums(dataclasses.asdict(cfg))
    return plain


def _without_enums(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _without_enums(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_enums(each) for each in value]
    return value


def _revived(hint: Any, value: Any) -> Any:
    """Turn plain values back into the enums that the field's type asks for."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    arguments = typing.get_args(hint)
    if isinstance(value, list) and typing.get_origin(hint) in (list, Sequence):
        return [_revived(arguments[0], each) for each in value]
    if isinstance(value, dict) and typing.get_origin(hint) in (dict, Mapping):
        return {key: _revived(arguments[1], each) for key, each in value.items()}
    enums = [a for a in arguments if isinstance(a, type) and issubclass(a, Enum)]
    if value is not None and len(enums) == 1 and value in [each.value for each in enums[0]]:
        return enums[0](value)  # the field may also be None
    return value


def _refuse_what_is_not_json(value: Any, place: str) -> None:
    # json.dumps would write the key 1 as "1", and the judge would look for it in vain.
    if value is None or isinstance(value, str | int | float):
        return
    if isinstance(value, list | tuple):
        for each in value:
            _refuse_what_is_not_json(each, place)
    elif isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise DataError(f"{place} has the key {key!r:.80}, where JSON has only text")
            _refuse_what_is_not_json(each, place)
    else:
        raise DataError(
            f"{place} holds a {type(value).__name__}, which JSON has no form for; store it as "
            "text or as numbers"
        )
