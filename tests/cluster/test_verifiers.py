"""The driver's end of the verifiers: what a service is asked."""

from dataclasses import replace

from episodes import episode, trajectory

from rlpost.cluster.verifiers import RemoteVerifiers
from rlpost.types import Group, Prompt, Verdict
from rlpost.verifiers.kinds.function import Call, FunctionConfig

PROMPT = Prompt(uid="0:0", token_ids=(1, 2), text="2+3?", columns={"answer": "5"})
EPISODE = episode(trajectory((7,)), text="5")
GROUP = Group(prompt=PROMPT, episodes=(EPISODE,) * 4)


class Service:
    """Answers like a service in an actor; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    async def call(self, method, samples, *, timeout_s):
        self.calls.append((method, samples, timeout_s))
        verdicts = (Verdict(verifier="f", reward=1.0), Verdict(verifier="g", reward=0.5))
        return [verdicts for _ in samples]


def _verifiers(service, *, call=Call.group, timeout_s=5.0):
    configs = {
        name: FunctionConfig(path=f"r.py:{name}", call=call, timeout_s=timeout_s) for name in "fg"
    }
    return RemoteVerifiers(
        [service],
        configs=configs,
        decode=lambda ids: f"<{ids}>",
        timeout_s=300.0,
    )


async def test_samples_carry_what_the_model_read():
    service = Service()
    await _verifiers(service).judge(GROUP)
    [(method, samples, _)] = service.calls
    assert method == "judge" and len(samples) == 4
    assert samples[0].prompt_text == "<(1, 2)>" and samples[0].prompt == "2+3?"


async def test_every_response_has_the_verdicts_of_every_verifier():
    judged = await _verifiers(Service()).judge(GROUP)
    assert [[v.verifier for v in verdicts] for verdicts in judged] == [["f", "g"]] * 4


async def test_a_service_has_time_for_every_call_of_a_group():
    service = Service()
    await _verifiers(service).judge(GROUP)
    await _verifiers(service, timeout_s=30.0).judge(GROUP)
    await _verifiers(service, timeout_s=30.0).judge(replace(GROUP, episodes=(EPISODE,)))
    await _verifiers(service, timeout_s=30.0, call=Call.sample).judge(GROUP)
    assert [timeout_s for _, _, timeout_s in service.calls] == [300.0, 360.0, 300.0, 300.0]
