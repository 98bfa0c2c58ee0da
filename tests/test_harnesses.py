"""The recipes for other harnesses: their files, and what they send, without the harnesses."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from harness_requests import PROMPT, REQUESTS

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs/examples/harness"


def commands():
    """The lines of the page that call a harness, as words."""
    page = (ROOT / "docs/evaluation.md").read_text()
    lines = re.findall(r"^(?:lm_eval|inspect) .*$", page, re.M)
    return [shlex.split(line) for line in lines]


def test_the_tasks_read_rows_that_are_there():
    rows = [json.loads(line) for line in (PLACE / "sums.jsonl").read_text().splitlines()]
    assert rows and all(rows[0].keys() == each.keys() for each in rows)
    assert all(sum(map(int, re.findall(r"\d+", r["prompt"]))) == int(r["answer"]) for r in rows)
    task = yaml.safe_load((PLACE / "sums.yaml").read_text())
    assert (ROOT / task["dataset_kwargs"]["data_files"][task["test_split"]]).is_file()
    columns = re.findall(r"{{(\w+)}}", task["doc_to_text"] + task["doc_to_target"])
    assert columns == ["prompt", "answer"] and set(columns) <= rows[0].keys()
    (found,) = task["filter_list"]
    pattern = found["filter"][0]["regex_pattern"]
    assert re.findall(pattern, "18 + 17 is 35.")[found["filter"][0]["group_select"]] == "35"
    names = {node.value for node in ast.walk(ast.parse((PLACE / "sums.py").read_text()))
             if isinstance(node, ast.Constant)}  # fmt: skip
    assert {"sums.jsonl", "prompt", "answer"} <= names


def test_the_commands_name_files_and_paths_that_are_there():
    found = commands()
    assert len(found) == len(REQUESTS)
    for words in found:
        files = [word for word in words if word.startswith("docs/")]
        assert files and all((ROOT / each).is_file() for each in files)
    paths = {path for path, _ in REQUESTS.values()}
    text = " ".join(word for words in found for word in words)
    urls = set(re.findall(r"base_url=http://[^/]+([^,]+)", text))
    assert urls == paths


@pytest.mark.parametrize("name", REQUESTS)
def test_the_server_takes_what_a_harness_sends(name):
    """The parameters arrive in the engine, and none is left over."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    path, body = REQUESTS[name]
    kind = ChatCompletionRequest if path.endswith("/chat/completions") else CompletionRequest
    request = kind.model_validate(body)
    assert not request.model_extra
    wanted = request.to_sampling_params(body["max_tokens"], {})
    assert (wanted.temperature, wanted.max_tokens) == (0.0, 64)
    assert wanted.seed == body.get("seed")
    assert PROMPT in (
        request.prompt if kind is CompletionRequest else request.messages[0]["content"]
    )
