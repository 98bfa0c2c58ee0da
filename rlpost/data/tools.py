"""Checks the column ``tools``: the functions that the model may call.

Owns the shape of the schemas. Refuses to own their place in the prompt (template.py) and
what happens when one is called.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rlpost.data import json_text
from rlpost.data.plain import plain_value
from rlpost.errors import DataError

COLUMN = "tools"
_NAME = re.compile(r"[\w.-]+")
Tools = tuple[dict[str, Any], ...]
_SHAPE = (
    '{"type": "function", "function": {"name": ..., "description": ..., "parameters": '
    '{"type": "object", "properties": {...}}}}'
)


def check_tools(value: Any, *, address: str) -> Tools:
    """Return the function schemas of a row's column ``tools``; none where it is empty.

    The column is a list of schemas in OpenAI's layout. It, or each schema, may be JSON text,
    because columnar files cannot store schemas of different shapes in another way. Keys whose
    null has no meaning are removed.

    Raises:
        DataError: a schema is malformed; the error has its index and the rule.
    """
    where = f"{address}: column {COLUMN!r}"
    value = parsed_tools(value, address=address)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where} must be a list of function schemas, got {type(value).__name__}; rename the "
            "column if it means something else"
        )
    tools = tuple(_check_tool(each, where=f"{where}[{i}]") for i, each in enumerate(value))
    names = [tool["function"]["name"] for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where} has {names.count(name)} functions called {name!r}")
    return tools


def parsed_tools(value: Any, *, address: str) -> Any:
    """Return what the column holds, parsed if it is JSON text; None where it is empty.

    Raises:
        DataError: the text is not valid JSON.
    """
    return _parsed(value, where=f"{address}: column {COLUMN!r}")


def _parsed(value: Any, *, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = json_text.parse(value) if value.strip() else None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is text that is not valid JSON: {error.msg} (character {error.pos + 1})"
        ) from error
    return plain_value(parsed, where=where)


def _check_tool(value: Any, *, where: str) -> dict[str, Any]:
    tool = _parsed(value, where=where)
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise DataError(
            f"{where} must be a function schema {_SHAPE}, got {value!r:.80}; rename the column "
            "if it means something else"
        )
    tool = _without_null(tool)
    function = tool["function"]
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(
            f"{where}: function.name must be letters, digits, '_', '-' and '.', got {name!r:.80}"
        )
    if not isinstance(function.get("description", ""), str):
        raise DataError(f"{where}: function.description must be text")
    _check_parameters(function.get("parameters"), where=where)
    return {"type": "function", **tool}


def _without_null(schema: Any, *, names_follow: bool = False) -> Any:
    """Remove keys whose null has no meaning, such as those that columnar files fill in.

    In a JSON schema null is a valid value of ``default`` and ``const`` only; the keys of
    ``properties`` are names, not keywords.
    """
    if isinstance(schema, list):
        return [_without_null(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _without_null(value, names_follow=key == "properties" and not names_follow)
        for key, value in schema.items()
        if value is not None or (key in ("default", "const") and not names_follow)
    }


def _check_parameters(value: Any, *, where: str) -> None:
    if value is None:  # a function without parameters
        return
    if not isinstance(value, Mapping) or value.get("type", "object") != "object":
        raise DataError(
            f"{where}: function.parameters must be a JSON schema of an object, got {value!r:.80}"
        )
    properties = value.get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        raise DataError(
            f"{where}: function.parameters.properties must be an object, got {properties!r:.80}"
        )
    required = value.get("required")
    if required is not None and not isinstance(required, list):
        raise DataError(
            f"{where}: function.parameters.required must be a list of names, got {required!r:.80}"
        )
