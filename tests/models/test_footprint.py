"""Sums of what processes need, alone, together and in turn."""

from dataclasses import replace

import pytest

from rlpost.models.footprint import Footprint, in_turn, together_bytes

POLICY = Footprint(
    process="trainer rank 0",
    kept={"libraries": 1.0, "weights": 4.0},
    phases={"update": 3.0, "activations": 2.0},
)
CRITIC = Footprint(process="critic rank 0", kept={"libraries": 1.0, "weights": 2.0})
REFERENCE = Footprint(process="reference", kept={"libraries": 1.0, "weights": 5.0})
GENERATOR = Footprint(process="generator 0: core", kept={"weights": 6.0, "KV cache": 2.0})


def test_the_peak_is_what_is_kept_and_the_largest_phase():
    assert POLICY.peak_bytes == POLICY.asleep_bytes == 8
    assert POLICY.largest()[:2] == [("weights", 4.0), ("update", 3.0)]


def test_without_turns_peaks_add_up():
    everyone = [POLICY, CRITIC, REFERENCE, GENERATOR]
    assert together_bytes(everyone) == 8 + 3 + 6 + 8
    assert together_bytes([]) == 0


def test_pages_that_several_processes_map_count_once():
    engine = replace(GENERATOR, shared={"received weights": 4.0})
    sender = replace(POLICY, shared={"received weights": 4.0, "weights being sent": 4.0})
    assert engine.peak_bytes == 8 + 4 and engine.largest()[1] == ("received weights", 4.0)
    assert together_bytes([engine, engine]) == 8 + 8 + 4
    assert together_bytes([sender, engine, engine]) == 8 + 8 + 8 + 4 + 4
    (resting,) = in_turn([sender], "training")
    assert resting.asleep_bytes == 1 + 8  # whoever rests still maps them
    assert together_bytes([resting, engine]) == 8 + 8 + 8


def test_in_turn_only_the_largest_turn_counts():
    training = in_turn([POLICY], "training") + in_turn([CRITIC], "training")
    reference = in_turn([REFERENCE], "reference")
    assert [each.asleep_bytes for each in training + reference] == [1, 1, 1]
    # Libraries of three, the generator, and policy with critic: they have the larger turn.
    assert together_bytes([*training, *reference, GENERATOR]) == 3 + 8 + 7 + 2
    assert together_bytes([*reference, *training[1:]]) == 2 + 5


def test_a_checkpoint_is_written_while_its_trainer_rests():
    saving = replace(POLICY, phases={"update": 3.0, "copy for a checkpoint": 2.0})
    (resting,) = in_turn([saving], "training")
    assert (resting.peak_bytes, resting.asleep_bytes) == (8, 3)


def test_from_a_gpu_a_model_rests_on_the_host():
    host = Footprint(process="reference", kept={"libraries": 1.0})
    gpu = Footprint(
        process="reference",
        kept={"CUDA context": 0.5, "weights": 5.0},
        phases={"layer": 2.0},
        on_gpu=True,
    )
    resting_host, resting_gpu = in_turn([host, gpu], "reference")
    assert (resting_gpu.peak_bytes, resting_gpu.asleep_bytes) == (7.5, 0.5)
    assert resting_host.kept == {"libraries": 1.0, "copy while asleep": 5.0}
    assert resting_host.peak_bytes == resting_host.asleep_bytes == pytest.approx(6)
