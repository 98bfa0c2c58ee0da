"""How long an SGLang server is waited for; tests/system/test_sglang_push.py asks one."""

from pathlib import Path

from rlpost.rollout.generator_config import Backend, GeneratorConfig
from rlpost.rollout.http_client import HttpAnswer
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.sglang.engine import SglangEngine
from rlpost.weights.deadline import CALL_S

ANSWER = '[{"meta_info": {"input_token_logprobs": [[null, 1], [-2.0, 2]]}}]'


class Noted:
    """Answers everything, and notes with which deadline it was asked."""

    def __init__(self):
        self.deadlines_s = {}

    async def ask(self, method, path, body=None, *, timeout_s=None):
        self.deadlines_s[path] = timeout_s
        return HttpAnswer(status=200, text=ANSWER if path == "/generate" else '{"success": true}')


async def test_a_push_may_take_longer_than_a_request():
    """The deadline of a group's responses is short where a large model takes minutes to load."""
    cfg = GeneratorConfig(backend=Backend.sglang, request_timeout_s=5.0)
    engine = SglangEngine(cfg, model_path="nowhere")
    engine._server = server = Noted()
    engine._payloads._received = Path("v1")
    await engine.begin_update()
    await engine.load_model(1)
    await engine.resume()
    assert await engine.score([1, 2], Admitted(request_id="r1", version=0)) == [-2.0]
    assert server.deadlines_s.pop("/generate") is None  # that of the client: request_timeout_s
    assert set(server.deadlines_s.values()) == {CALL_S}
