from hypothesis import given
from hypothesis import strategies as st

from rlpost.control.cost import DevicesInUse, RunCost, tokens_in

GPUS = DevicesInUse(unit="gpu_s", number=8)


def after(*steps):
    """The cost of a run whose steps took so many seconds and trained 10 tokens each."""
    cost = RunCost(now_s=100.0)
    for seconds in steps:
        cost.spend(
            now_s=cost.now_s + seconds,
            devices=GPUS,
            metrics={"perf/trained_tokens": 10.0, "timing_s/update_actor": seconds / 2},
        )
    return cost


def test_seconds_devices_and_tokens_add_up():
    assert after(2.0, 3.0).metrics() == {
        "cost/wall_s": 5.0,
        "cost/gpu_s": 40.0,
        "cost/phase_s/update_actor": 2.5,
        "cost/tokens/trained": 20.0,
        "cost/lost/wall_s": 0.0,
        "cost/lost/gpu_s": 0.0,
        "cost/lost/tokens/trained": 0.0,
    }


def test_another_number_of_devices_counts_from_then_on():
    cost = after(2.0)
    cost.spend(now_s=cost.now_s + 3.0, devices=DevicesInUse(unit="gpu_s", number=2))
    assert cost.metrics()["cost/gpu_s"] == 2.0 * 8 + 3.0 * 2


def test_what_came_after_the_checkpoint_is_spent_and_lost():
    cost = after(2.0)
    saved = cost.state_dict()
    cost.spend(now_s=cost.now_s + 3.0, devices=GPUS, metrics={"perf/trained_tokens": 10.0})
    cost.go_back(saved)
    metrics = cost.metrics()
    assert metrics["cost/wall_s"] == 5.0 and metrics["cost/lost/wall_s"] == 3.0
    assert metrics["cost/tokens/trained"] == 20.0 and metrics["cost/lost/tokens/trained"] == 10.0


def test_going_back_twice_to_one_checkpoint_loses_nothing_twice():
    cost = after(2.0)
    saved = cost.state_dict()
    for seconds in (3.0, 4.0):
        cost.spend(now_s=cost.now_s + seconds, devices=GPUS)
        cost.go_back(saved)
    assert cost.metrics()["cost/lost/wall_s"] == 7.0
    useful = cost.state_dict()["useful"]
    assert useful["wall_s"] == 2.0  # a checkpoint of this moment has cost no more than before


def test_a_process_that_resumes_does_not_lose_its_own_set_up():
    saved = after(2.0).state_dict()
    reached = after(2.0, 3.0).spent  # the killed process, in its record
    cost = RunCost(now_s=0.0, spent=dict(reached))
    cost.spend(now_s=30.0, devices=GPUS)  # set-up of the next one
    cost.go_back(saved, reached=reached)
    assert cost.metrics()["cost/lost/wall_s"] == 3.0 and cost.metrics()["cost/wall_s"] == 35.0


def test_the_checkpoint_stands_in_for_a_record_that_is_gone():
    cost = RunCost(now_s=0.0)
    cost.go_back(after(2.0).state_dict(), reached={})
    assert cost.metrics()["cost/wall_s"] == 2.0 and cost.metrics()["cost/lost/wall_s"] == 0.0


@given(
    st.lists(st.tuples(st.booleans(), st.floats(min_value=0, max_value=1e6)), max_size=20),
)
def test_no_sum_ever_falls_and_what_is_useful_and_lost_is_what_was_spent(events):
    cost, saved = RunCost(now_s=0.0), None
    before = cost.metrics()
    for goes_back, seconds in events:
        cost.spend(now_s=cost.now_s + seconds, devices=GPUS, metrics={"rollout/tokens": 2.0})
        if goes_back:
            cost.go_back(saved)
        else:
            saved = cost.state_dict()
        metrics = cost.metrics()
        assert all(metrics[name] >= value for name, value in before.items())
        assert 0 <= metrics["cost/lost/wall_s"] <= metrics["cost/wall_s"]
        before = metrics


def test_tokens_are_told_apart_by_what_happened_to_them_and_by_source():
    sampled = {"rollout/tokens": 30.0, "rollout/num_tokens": 130.0, "perf/trained_tokens": 25.0}
    assert tokens_in(sampled) == {"sampled": 30.0, "prompt": 100.0, "trained": 25.0}
    learned = {
        "perf/packed_tokens": 100.0,
        "perf/trained_tokens": 60.0,
        "perf/trained_tokens/chat": 45.0,
        "perf/trained_tokens/code": 15.0,
    }
    assert tokens_in(learned) == {
        "prompt": 40.0, "trained": 60.0, "trained/chat": 45.0, "trained/code": 15.0,
    }  # fmt: skip
    assert tokens_in({"perf/throughput": 3.0}) == {}
