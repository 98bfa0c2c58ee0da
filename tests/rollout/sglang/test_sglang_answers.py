"""What SGLang's answers say; tests/system/test_sglang_push.py asks a server."""

import copy

import pytest

from rlpost.errors import NoAnswer
from rlpost.rollout.sampled import VersionSpan
from rlpost.rollout.sglang.answers import sampled_in, scores_in

ANSWER = {
    "text": "one two, three",
    "output_ids": [7, 8, 2],
    "meta_info": {
        "finish_reason": {"type": "stop", "matched": 2},
        "output_token_logprobs": [[-0.5, 7, None], [-1.5, 8, None], [-0.25, 2, None]],
        "input_token_logprobs": [[None, 5, None], [-2.0, 6, None]],
        "weight_versions": [
            {"version": "default", "start": 0, "end": 1},
            {"version": "3", "start": 1, "end": 3},
        ],
    },
}


def changed(**meta):
    answer = copy.deepcopy(ANSWER)
    answer["meta_info"] |= meta
    return answer


def test_tokens_log_probs_and_versions_are_the_samplers_own():
    response = sampled_in(ANSWER, ())
    assert response.token_ids == (7, 8, 2) and response.logprobs == (-0.5, -1.5, -0.25)
    assert (response.finish_reason, response.text) == ("stop", "one two, three")
    assert response.weight_versions == (
        VersionSpan(version="default", start=0, end=1),
        VersionSpan(version="3", start=1, end=3),
    )


@pytest.mark.parametrize(
    "pairs", [[[-0.5, 7, None]], [[-0.5, 7, None], [-1.5, 9, None], [-0.25, 2, None]]]
)
def test_log_probs_of_other_tokens_are_no_answer(pairs):
    with pytest.raises(NoAnswer, match="3 tokens and log-probs of"):
        sampled_in(changed(output_token_logprobs=pairs), ())


def test_tokens_of_unknown_weights_are_no_answer():
    with pytest.raises(NoAnswer, match="not the version"):
        sampled_in(changed(weight_versions=[]), ())


def test_text_ends_with_the_stop_string():
    answer = changed(finish_reason={"type": "stop", "matched": "two"})
    assert sampled_in(answer, ("two",)).text == "one two"
    assert sampled_in(ANSWER, ("two",)).text == "one two, three"  # a token ended it


def test_a_request_that_was_ended_in_the_queue_has_no_tokens():
    answer = {
        "text": "",
        "output_ids": [],
        "meta_info": {"finish_reason": {"type": "abort"}, "weight_versions": []},
    }
    assert sampled_in(answer, ()).finish_reason == "abort"


def test_a_score_belongs_to_its_prompt():
    assert scores_in(ANSWER, [5, 6]) == [-2.0]
    with pytest.raises(NoAnswer, match="another prompt"):
        scores_in(ANSWER, [5, 7])
