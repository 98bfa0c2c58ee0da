"""A generator of data files with one thing wrong, each with the words that it must get.

``bad_rows`` are files whose second row of three is bad: the two others stay usable.
``bad_files`` are unusable as a whole. Every file is made in a temporary directory by code.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

GOOD = {"prompt": "What is 2 * 3?", "answer": "6"}
LAST = {"prompt": "What is 3 * 3?", "answer": "9"}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ROLE = "role must be one of"
CONTENT = "content must be a string"
DEEP = "more than 100 levels deep"


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """One file and what its refusal must say.

    ``place`` follows the file's name at the start of the message, such as ``:2: ``.
    """

    name: str  # of the case
    file: str
    write: Callable[[Path], Any]
    place: str
    rule: str  # part of the message


def chat(*messages: Any) -> str:
    return json.dumps({"prompt": list(messages), "answer": "1"})


def call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, **arguments}}]}


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return f'{{"prompt": "x", "answer": "1", "extra": {opening * levels}1{closing * levels}}}'


# Valid JSON, or almost, that is no usable row: name -> (text of the row, words).
ROWS: dict[str, tuple[str, str]] = {
    # what JSON leaves open
    "depth_just_over": (nested(101), DEEP),
    "depth_3000": (nested(3000), DEEP),
    "depth_a_million": (nested(1_000_000), DEEP),
    "depth_of_objects": (nested(2000, '{"a":', "}"), DEEP),
    "depth_in_the_prompt": ('{"prompt": ' + "[" * 500 + "]" * 500 + "}", DEEP),
    "huge_integer": ('{"prompt": "x", "answer": ' + "7" * 5001 + "}", "has 5001 digits, at most"),
    "huge_negative": ('{"prompt": "x", "answer": -' + "7" * 9999 + "}", "has 9999 digits"),
    "huge_in_a_list": ('{"prompt": "x", "answer": "1", "l": [' + "7" * 4301 + "]}", "4301 digits"),
    "exponent": ('{"prompt": "x", "answer": "1", "n": 1e999}', "a number must be finite, got inf"),
    "infinity": ('{"prompt": "x", "answer": "1", "n": -Infinity}', "must be finite, got -inf"),
    "infinite_answer": ('{"prompt": "x", "answer": Infinity}', "must be finite, got inf"),
    "nan_answer": ('{"prompt": "x", "answer": NaN}', "nothing (null or NaN) in column 'answer'"),
    "nan_prompt": ('{"prompt": NaN, "answer": "1"}', "a string or a list of messages, got None"),
    "high_surrogate": (r'{"prompt": "a \ud800 b", "answer": "6"}', r"the text holds \ud800, half"),
    "low_surrogate": (r'{"prompt": "\udfff", "answer": "6"}', r"the text holds \udfff, half"),
    "surrogates_swapped": (r'{"prompt": "\ude00\ud83d", "answer": "6"}', "half of a surrogate"),
    "surrogate_in_a_key": (r'{"prompt": "x", "answer": "1", "\ud800": 1}', r"column '\ud800'"),
    "surrogate_in_an_answer": (r'{"prompt": "x", "answer": "\udc00"}', "column 'answer': the text"),
    "surrogate_in_a_message": (
        r'{"prompt": [{"role": "user", "content": "\ud83d"}], "answer": "1"}',
        "column 'prompt': the text holds",
    ),
    "key_twice": ('{"prompt": "a", "prompt": "b", "answer": "1"}', "the key 'prompt' occurs twice"),
    "nested_key_twice": ('{"prompt": "a", "answer": "1", "i": {"x": 1, "x": 2}}', "key 'x' occurs"),
    # no object, no prompt
    "number": ("3", "expected a JSON object such as"),
    "text": ('"What is 2 * 3?"', "expected a JSON object"),
    "null": ("null", "expected a JSON object"),
    "list": ('[{"prompt": "x"}]', "expected a JSON object"),
    "empty_object": ("{}", "no column 'prompt'; columns present: none"),
    "other_columns": ('{"question": "x", "answer": "1"}', "columns present: question, answer"),
    "control_characters": (
        r'{"\u001b[31m\nred": 1, "answer": "1"}',
        r"columns present: '\x1b[31m\nred', answer",
    ),
    "many_columns": (
        json.dumps({f"c{i}": i for i in range(5000)}),
        "and 4980 more; set data.prompt_column",
    ),
    "prompt_number": ('{"prompt": 7, "answer": "1"}', "list of messages, got int"),
    "prompt_bool": ('{"prompt": true, "answer": "1"}', "list of messages, got bool"),
    "prompt_null": ('{"prompt": null, "answer": "1"}', "list of messages, got NoneType"),
    "prompt_object": ('{"prompt": {"role": "user"}, "answer": "1"}', "of messages, got dict"),
    "prompt_empty": ('{"prompt": "", "answer": "1"}', "the prompt in column 'prompt' is empty"),
    "prompt_blank": (r'{"prompt": " \n\t\u3000", "answer": "1"}', "column 'prompt' is empty"),
    "prompt_no_messages": ('{"prompt": [], "answer": "1"}', "got an empty list"),
    # the answer
    "answer_absent": ('{"prompt": "x"}', "no column 'answer', which verifier=exact judges by"),
    "answer_null": ('{"prompt": "x", "answer": null}', "nothing (null or NaN) in column 'answer'"),
    "answer_empty": ('{"prompt": "x", "answer": " "}', "column 'answer' must not be empty"),
    "answer_bool": ('{"prompt": "x", "answer": true}', "must be text or a number, got True"),
    "answer_list": (
        '{"prompt": "x", "answer": ["1", "2"]}',
        "must be text or a number, got a list",
    ),
    "answer_object": ('{"prompt": "x", "answer": {"a": 1}}', "text or a number, got a dict"),
    "verl_answers_differ": (
        json.dumps({**GOOD, "ground_truth": "1", "reward_model": {"ground_truth": "2"}}),
        "columns 'ground_truth' and 'reward_model.ground_truth' differ",
    ),
    # messages
    "message_is_text": (chat("hello"), "message 0 must be an object, got str"),
    "message_is_a_list": (chat([USER]), "message 0 must be an object, got list"),
    "message_is_null": (chat(USER, None), "message 1 must be an object, got NoneType"),
    "role_absent": (chat({"content": "x"}), ROLE),
    "role_unknown": (chat({"role": "bot", "content": "x"}), ROLE),
    "role_capital": (chat({"role": "User", "content": "x"}), ROLE),
    "role_number": (chat({"role": 1, "content": "x"}), ROLE),
    "role_list": (chat({"role": ["user"], "content": "x"}), ROLE),
    "role_endless": (chat({"role": "x" * 99999, "content": "x"}), ROLE),
    "sharegpt_keys": (chat({"from": "human", "value": "x"}), ROLE),
    "content_absent": (chat({"role": "user"}), CONTENT),
    "content_null": (chat({"role": "user", "content": None}), CONTENT),
    "content_number": (chat({"role": "user", "content": 6}), CONTENT),
    "content_object": (chat({"role": "user", "content": {"text": "x"}}), CONTENT),
    "content_parts": (
        chat({"role": "user", "content": [{"type": "text", "text": "x"}]}),
        "got list; join the text of its parts",
    ),
    "content_image": (chat({"role": "user", "content": [{"type": "image"}]}), "images are not"),
    "content_empty": (chat({"role": "user", "content": ""}), "column 'prompt' is empty"),
    "assistant_last": (chat(USER, ANSWER), "the last message is the assistant's"),
    "assistant_alone": (chat(ANSWER), "remove that message, or move it into"),
    "result_without_call": (chat(USER, {"role": "tool", "content": "1"}), "must follow the assis"),
    "result_first": (chat({"role": "tool", "content": "1"}, USER), "must follow the assistant"),
    "user_calls": (chat({**USER, "tool_calls": [{}]}), "only the assistant's messages may have"),
    "calls_are_text": (chat(USER, {**ANSWER, "tool_calls": "f()"}), "tool_calls must be a list"),
    "call_is_empty": (chat(USER, {**ANSWER, "tool_calls": [{}]}), "tool call 0 must be"),
    "call_without_name": (chat(USER, call(None, {})), "tool call 0 must be"),
    "call_arguments_broken": (chat(USER, call("f", {"arguments": "{"})), "are not valid JSON"),
    "call_arguments_list": (chat(USER, call("f", {"arguments": [1]})), "must be an object, got l"),
    "system_in_the_middle": (
        chat(USER, {"role": "system", "content": "x"}, USER),
        "chat template refuses these messages: TemplateError: System message must be",
    ),
    "unlike_roles": (chat({"role": "developer", "content": "x"}), "refuses these messages: Undef"),
    # tools
    "tools_unseen": (json.dumps({**GOOD, "tools": [TOOL]}), "does not show the function 'weather'"),
    "tools_number": (json.dumps({**GOOD, "tools": 3}), "must be a list of function schemas"),
    "tools_object": (json.dumps({**GOOD, "tools": TOOL}), "must be a list of function schemas"),
    "tools_text": (json.dumps({**GOOD, "tools": "search"}), "is text that is not valid JSON"),
    "tools_names": (json.dumps({**GOOD, "tools": ["search"]}), "[0] is text that is not valid"),
    "tools_bare": (json.dumps({**GOOD, "tools": [{"name": "f"}]}), "must be a function schema"),
    "tools_unnamed": (
        json.dumps({**GOOD, "tools": [{"type": "function", "function": {}}]}),
        "function.name must be letters",
    ),
    "tools_twice": (json.dumps({**GOOD, "tools": [TOOL, TOOL]}), "has 2 functions called"),
    "tools_parameters": (
        json.dumps({**GOOD, "tools": [{"function": {"name": "f", "parameters": "x"}}]}),
        "must be a JSON schema of an object",
    ),
    # length
    "prompt_long": (json.dumps({"prompt": "x" * 5000, "answer": "1"}), "tokens, at most 600 fit"),
    "line_very_long": (json.dumps({"answer": "1", "pad": "y" * 3_000_000}), "no column 'prompt'"),
}

# Lines that are no JSON: name -> (bytes, words). In an array they cost the whole file.
LINES: dict[str, tuple[bytes, str]] = {
    "cut_off": (b'{"prompt": "x"', "column 15: not valid JSON"),
    "single_quotes": (b"{'prompt': 'x'}", "column 2: not valid JSON"),
    "trailing_comma": (b'{"prompt": "x",}', "not valid JSON"),
    "comment": (b"// a comment", "column 1: not valid JSON"),
    "two_objects": (b'{"prompt": "x"} {"prompt": "y"}', "column 17: not valid JSON: Extra data"),
    "csv": (b"What is 2 * 3?,6", "column 1: not valid JSON"),
    "yaml": (b"- prompt: x", "not valid JSON"),
    "python": (b'{"prompt": None}', "not valid JSON"),
    "unquoted": (b"{prompt: 1}", "not valid JSON"),
    "raw_nul": (b'{"prompt": "a\0b"}', "column 14: not valid JSON: Invalid control character"),
    "nuls": (b"\0" * 100, "column 1: not valid JSON"),
    "raw_tab": (b'{"prompt": "a\tb"}', "Invalid control character"),
    "bad_escape": (rb'{"prompt": "\x41"}', "not valid JSON: Invalid \\escape"),
    "latin_1": ('{"prompt": "Größe"}'.encode("latin-1"), "column 15: not UTF-8; save it as UTF-8"),
    "shift_jis": ('{"prompt": "日本"}'.encode("shift-jis"), "not UTF-8; save it as UTF-8"),
    "half_a_character": ('{"prompt": "é"}'.encode()[:13], "column 13: not UTF-8"),
    "surrogate_bytes": (b'{"prompt": "\xed\xa0\x80"}', "column 13: not UTF-8"),
    "overlong": (b'{"prompt": "\xc0\xaf"}', "not UTF-8"),
    "utf_16": ('{"prompt": "x"}'.encode("utf-16-le"), "not valid JSON"),
    "bytes": (bytes(range(128, 256)), "column 1: not UTF-8"),
    "number_with_zeros": (b'{"prompt": "x", "answer": 007}', "not valid JSON"),
    "brackets": (b'{"prompt": "x"]', "not valid JSON"),
    "deep_and_cut_off": (b'{"prompt": ' + b"[" * 500_000, DEEP),
}


def _lines(path: Path, row: bytes, *, end: bytes = b"\n", start: bytes = b"") -> None:
    good, last = (json.dumps(each).encode() for each in (GOOD, LAST))
    path.write_bytes(start + end.join([good, row, last, b""]))


def _array(path: Path, row: str) -> None:
    path.write_text(f"[{json.dumps(GOOD)},\n {row},\n {json.dumps(LAST)}]\n")


def _columns(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return
    writer = ipc.new_file if "file" in path.stem else ipc.new_stream
    with writer(str(path), table.schema) as sink:
        sink.write_table(table)


def _table(column: pa.Array, *, name: str = "extra") -> pa.Table:
    columns = {"prompt": ["What is 2 * 3?", "x", "What is 3 * 3?"], "answer": ["6", "1", "9"]}
    return pa.table({**columns, name: column})


def _text(*values: bytes) -> pa.Array:
    raw = pa.array(list(values), pa.binary())
    return pa.Array.from_buffers(pa.utf8(), len(values), raw.buffers())


# The second of three cells is bad: name -> (column, cells, words).
CELLS: dict[str, tuple[str, Callable[[], pa.Array], str]] = {
    "text_not_utf8": ("prompt", lambda: _text(b"a", b"\xff\xfe", b"b"), "column 'prompt' cannot"),
    "answer_not_utf8": ("answer", lambda: _text(b"6", b"\xe9", b"9"), "column 'answer' cannot"),
    "list_not_utf8": (
        "extra",
        lambda: pa.ListArray.from_arrays([0, 1, 2, 3], _text(b"a", b"\xc3", b"b")),
        "column 'extra' cannot be decoded",
    ),
    "bytes": ("extra", lambda: pa.array([None, b"\0", None]), "got bytes; convert the column"),
    "duration": ("extra", lambda: pa.array([None, 3, None], pa.duration("s")), "got timedelta"),
    "infinite": ("extra", lambda: pa.array([1.0, float("inf"), 2.0]), "must be finite, got inf"),
    "far_date": (
        "extra",
        lambda: pa.array([0, 2**60, 0], pa.timestamp("ms")),
        "column 'extra' cannot be decoded",
    ),
    "map_key_twice": (
        "extra",
        lambda: pa.array([[], [("a", 1), ("a", 2)], []], pa.map_(pa.string(), pa.int8())),
        "column 'extra' cannot be decoded",
    ),
    "map_of_numbers": (
        "extra",
        lambda: pa.array([[], [(1, 2)], []], pa.map_(pa.int8(), pa.int8())),
        "keys must be text, got 1",
    ),
    "prompt_none": ("prompt", lambda: pa.array(["a", None, "b"]), "of messages, got NoneType"),
    "prompt_blank": ("prompt", lambda: pa.array(["a", " ", "b"]), "column 'prompt' is empty"),
    "answer_none": ("answer", lambda: pa.array(["6", None, "9"]), "nothing (null or NaN)"),
    "answer_nan": ("answer", lambda: pa.array([6.0, float("nan"), 9.0]), "nothing (null or NaN)"),
    "role_none": (
        "prompt",
        lambda: pa.array([[USER], [{"content": "x"}], [USER]]),
        "message 0: role must be one of",
    ),
    "assistant_last": (
        "prompt",
        lambda: pa.array([[USER], [USER, ANSWER], [USER]]),
        "the last message is the assistant's",
    ),
    "tools_unseen": (
        "tools",
        lambda: pa.array([None, json.dumps([TOOL]), "[]"]),
        "does not show the function 'weather'",
    ),
}


def bad_rows() -> Iterator[BadFile]:
    """Yield files whose second row of three is bad."""
    for name, (text, rule) in ROWS.items():
        yield BadFile(
            name=f"lines-{name}",
            file="train.jsonl",
            write=lambda path, text=text: _lines(path, text.encode()),
            place=":2: ",
            rule=rule,
        )
        yield BadFile(
            name=f"array-{name}",
            file="train.json",
            write=lambda path, text=text: _array(path, text),
            place="[1]: ",
            rule=rule,
        )
    for name, (raw, rule) in LINES.items():
        for variant, end, start in (("unix", b"\n", b""), ("windows", b"\r\n", b"\xef\xbb\xbf")):
            yield BadFile(
                name=f"{variant}-{name}",
                file="train.jsonl",
                write=lambda path, raw=raw, end=end, start=start: _lines(
                    path, raw, end=end, start=start
                ),
                place=":2: ",
                rule=rule,
            )
    for name, (column, cells, rule) in CELLS.items():
        for file in ("train.parquet", "stream.arrow", "file.arrow"):
            yield BadFile(
                name=f"{file}-{name}",
                file=file,
                write=lambda path, column=column, cells=cells: _columns(
                    path, _replaced(column, cells())
                ),
                place="[1]: ",
                rule=rule,
            )


def _replaced(column: str, cells: pa.Array) -> pa.Table:
    table = _table(pa.nulls(3))
    if column in table.column_names:
        return table.set_column(table.column_names.index(column), column, cells)
    return table.append_column(column, cells)


def _good_lines() -> bytes:
    return f"{json.dumps(GOOD)}\n{json.dumps(LAST)}\n".encode()


def _damaged(table: pa.Table, *, keep: int | None = None, flip: int | None = None) -> Any:
    def write(path: Path) -> None:
        _columns(path, table)
        data = bytearray(path.read_bytes())
        if flip is not None:
            data[flip] ^= 0xFF
        path.write_bytes(bytes(data[:keep]))

    return write


def bad_files() -> Iterator[BadFile]:
    """Yield files that cannot be read at all."""
    array = f"[{json.dumps(GOOD)}, {json.dumps(LAST)}]"
    table = pa.table({"prompt": ["a"] * 50, "answer": ["1"] * 50})
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    raw: list[tuple[str, str, bytes, str, str]] = [
        ("empty", "a.jsonl", b"", ": ", "no usable prompt for data.train: it has no rows"),
        ("blank", "a.jsonl", b"\n \r\n\t\n", ": ", "it has no rows"),
        ("only_a_mark", "a.jsonl", b"\xef\xbb\xbf", ":1: ", "not valid JSON"),
        ("empty_json", "a.json", b"", ": ", "it has no rows"),
        ("empty_array", "a.json", b"[]", ": ", "it has no rows"),
        ("gzip_lines", "a.jsonl", gzip.compress(_good_lines()), ": ", "compressed with gzip"),
        ("gzip_json", "a.json", gzip.compress(array.encode()), ": ", "compressed with gzip"),
        ("zip", "a.jsonl", b"PK\x03\x04" + bytes(50), ": ", "is a zip archive; unpack it"),
        ("zstd", "a.jsonl", b"\x28\xb5\x2f\xfd" + bytes(50), ": ", "compressed with zstd"),
        ("git_lfs", "a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", ": ", "lfs pull"),
        ("utf_16", "a.jsonl", _good_lines().decode().encode("utf-16"), ": ", "is UTF-16 text"),
        ("utf_16_be", "a.json", "\ufeff[]".encode("utf-16-be"), ": ", "is UTF-16 text"),
        ("old_mac_ends", "a.jsonl", _good_lines().replace(b"\n", b"\r"), ":1: ", "Extra data"),
        ("array_in_lines", "a.jsonl", array.encode(), ":1: ", "expected a JSON object"),
        ("pretty_object", "a.jsonl", json.dumps(GOOD, indent=1).encode(), ":1: ", "not valid JSON"),
        ("array_of_numbers", "a.json", b"[1, 2]", "[0]: ", "expected a JSON object"),
        ("array_of_arrays", "a.json", b"[[]]", "[0]: ", "expected a JSON object"),
        ("array_cut_off", "a.json", array.encode()[:-9], ":1: ", "not valid JSON"),
        ("array_not_closed", "a.json", array.encode()[:-1], ":1: ", "not valid JSON"),
        ("array_and_more", "a.json", array.encode() + b"\n\n{}", ":3: ", "Extra data"),
        ("array_latin_1", "a.json", '[{"prompt": "é"}]'.encode("latin-1"), ": ", "not UTF-8"),
        ("array_no_comma", "a.json", f"[{json.dumps(GOOD)}\n{{}}]".encode(), ":2: ", "','"),
        ("array_last_comma", "a.json", f"[{json.dumps(GOOD)},\n]".encode(), ":", "not valid"),
        ("array_single_quotes", "a.json", b"[{'prompt': 'x'}]", ":1: ", "not valid JSON"),
        ("array_of_nuls", "a.json", b"[" + bytes(20), ":1: ", "not valid JSON"),
        ("array_deep_cut_off", "a.json", b"[" * 1_000_000, ":1: ", "not valid JSON"),
        ("text_as_parquet", "a.parquet", _good_lines(), ": ", "not a readable Parquet file"),
        ("text_as_arrow", "a.arrow", _good_lines(), ": ", "not a readable Arrow file"),
        ("empty_parquet", "a.parquet", b"", ": ", "not a readable Parquet file"),
        ("empty_arrow", "a.arrow", b"", ": ", "not a readable Arrow file"),
        ("parquet_frame_only", "a.parquet", b"PAR1" + bytes(40) + b"PAR1", ": ", "not a readable"),
    ]
    for name, file, data, place, rule in raw:
        yield BadFile(
            name=name,
            file=file,
            write=lambda path, data=data: path.write_bytes(data),
            place=place,
            rule=rule,
        )
    made: list[tuple[str, str, Callable[[Path], Any], str, str]] = [
        ("parquet_as_lines", "a.jsonl", lambda p: parquet.write_table(table, p), ": ", "is a Parq"),
        ("arrow_as_lines", "a.jsonl", lambda p: _arrow_file(p, table), ": ", "is an Arrow file"),
        ("arrow_as_parquet", "a.parquet", lambda p: _arrow_file(p, table), ": ", "not a readable"),
        ("parquet_as_arrow", "a.arrow", lambda p: parquet.write_table(table, p), ": ", "not a rea"),
        ("parquet_cut_off", "a.parquet", _damaged(table, keep=-100), ": ", "not a readable Parqu"),
        ("parquet_half", "a.parquet", _damaged(table, keep=200), ": ", "not a readable Parquet"),
        ("parquet_footer", "a.parquet", _damaged(table, flip=-9), ": ", "not a readable Parquet"),
        ("stream_cut_off", "a.arrow", _damaged(table, keep=-60), ": ", "not a readable Arrow"),
        ("stream_start", "a.arrow", _damaged(table, keep=60), ": ", "not a readable Arrow"),
        ("arrow_file_start", "file.arrow", _damaged(table, keep=300), ": ", "not a readable Arrow"),
        ("parquet_no_rows", "a.parquet", _damaged(table[:0]), ": ", "it has no rows"),
        ("stream_no_rows", "a.arrow", _damaged(table[:0]), ": ", "it has no rows"),
        ("parquet_columns", "a.parquet", _damaged(twice), ": ", "2 columns are called 'prompt'"),
        ("stream_columns", "a.arrow", _damaged(twice), ": ", "2 columns are called 'prompt'"),
    ]
    for name, file, write, place, rule in made:
        yield BadFile(name=name, file=file, write=write, place=place, rule=rule)


def _arrow_file(path: Path, table: pa.Table) -> None:
    with ipc.new_file(str(path), table.schema) as sink:
        sink.write_table(table)
