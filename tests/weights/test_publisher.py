"""What the trainer's ranks do in a push: who gathers when, and what is sent late."""

from dataclasses import dataclass, field

import pytest
import torch
from fakes import seat

from rlpost.errors import WeightPushError
from rlpost.weights.publisher import WeightPublisher
from rlpost.weights.transports.choice import Senders
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.shared_memory import SharedMemorySender, shared_memory_id

HERE, AWAY = seat(shared_memory_id()), seat("another host")


class Weights:
    """What is served: two tensors of one value, gathered together by every rank."""

    adapter = None
    merge_error = None
    value = 1.0
    gathered = 0

    def shapes(self):
        return [("a", torch.float32, (2,)), ("b", torch.float32, (3,))]

    def tensors(self):
        for name, _, shape in self.shapes():
            self.gathered += 1
            yield name, torch.full(shape, self.value)
        self.merge_error = 0.25


@dataclass
class Stream:
    """See ``protocol.StreamingSender``."""

    breaks: bool = False
    sent: list[dict[str, list[float]]] = field(default_factory=list)

    def announce(self, manifest, *, seats):
        return Locator(transport="fake", manifest=manifest.to_dict(), repeatable=False)

    def send(self, tensors):
        if self.breaks:
            next(tensors)
            raise WeightPushError("a receiver is gone")
        self.sent.append({name: tensor.tolist() for name, tensor in tensors})

    def close(self):
        """Nothing is open."""


def ranks(stream: Stream, *, staged=None):
    """Rank 0 and another one."""
    own, other = Weights(), Weights()
    first = WeightPublisher(lambda: own, senders=Senders(staged=staged, stream=stream))
    return first, own, WeightPublisher(lambda: other, senders=None), other


def test_what_is_streamed_is_gathered_by_every_rank_while_it_is_sent():
    stream = Stream()
    first, own, second, other = ranks(stream)
    assert first.stages(seats=[HERE]) is False and second.stages(seats=[HERE]) is None
    locator = first.stage(1, seats=[HERE], written=False)
    assert locator.live and second.stage(1, seats=[HERE], written=False) is None
    assert own.gathered == other.gathered == 0
    assert first.send(live=True) == 0.25
    second.send(live=True)
    assert own.gathered == other.gathered == 2
    assert stream.sent == [{"a": [1.0] * 2, "b": [1.0] * 3}]


def test_what_is_written_down_is_gathered_by_every_rank_when_it_is_staged(tmp_path):
    staged = SharedMemorySender(run_id=tmp_path.name)
    first, own, second, other = ranks(Stream(), staged=staged)
    try:
        assert first.stages(seats=[HERE]) and not first.stages(seats=[HERE, AWAY])
        locator = first.stage(1, seats=[HERE], written=True)
        second.stage(1, seats=[HERE], written=True)
        assert own.gathered == other.gathered == 2 and not locator.live
        assert first.send(live=False) == 0.25
        second.send(live=False)
        assert own.gathered == other.gathered == 2
    finally:
        first.close()


def test_who_comes_late_gets_the_same_weights_or_none():
    stream = Stream()
    first, own, *_ = ranks(stream)
    first.stage(1, seats=[AWAY], written=False)
    first.send(live=True)
    assert first.announce_again(seats=[HERE]).live
    own.value = 2.0
    first.changed()
    with pytest.raises(WeightPushError, match="the trainer has learned since"):
        first.send(live=True)
    assert first.announce_again(seats=[HERE]) is None
    assert len(stream.sent) == 1
    assert first.stage(2, seats=[AWAY], written=False).live
    first.send(live=True)
    assert stream.sent[1]["a"] == [2.0, 2.0]


def test_who_comes_late_from_another_host_gets_what_was_written_down(tmp_path):
    stream, staged = Stream(), SharedMemorySender(run_id=tmp_path.name)
    first, own, second, other = ranks(stream, staged=staged)
    try:
        first.stage(1, seats=[HERE], written=True)
        second.stage(1, seats=[HERE], written=True)
        own.value = 2.0
        first.changed()
        second.changed()
        locator = first.announce_again(seats=[AWAY])
        assert not locator.live and not locator.repeatable
        first.send(live=locator.live)
        second.send(live=locator.live)
        assert stream.sent == [{"a": [1.0] * 2, "b": [1.0] * 3}]
        assert own.gathered == other.gathered == 2  # once, for version 1
        assert first.announce_again(seats=[HERE]).transport == "shared_memory"
    finally:
        first.close()


def test_a_rank_whose_stream_breaks_goes_on_gathering_with_the_others():
    first, own, *_ = ranks(Stream(breaks=True))
    first.stage(1, seats=[AWAY], written=False)
    with pytest.raises(WeightPushError, match="a receiver is gone"):
        first.send(live=True)
    assert own.gathered == 2


class Full(SharedMemorySender):
    """There is no room for a payload, or from its first tensor on."""

    def __init__(self, *, run_id: str, room: int | None) -> None:
        super().__init__(run_id=run_id)
        self.room = room

    def buffer(self, size_bytes, *, version):
        if self.room is None:
            raise WeightPushError("shared memory has no room")
        return super().buffer(self.room, version=version)


@pytest.mark.parametrize("room", [None, 10])
def test_weights_that_cannot_be_written_down_are_gathered_and_never_sent_as_others(room, tmp_path):
    """The other ranks gather all the same, and the version before is not what the model is now."""
    staged = Full(run_id=tmp_path.name, room=1000)
    first, own, *_ = ranks(Stream(), staged=staged)
    try:
        first.stage(1, seats=[HERE], written=True)
        assert own.gathered == 2 and first.announce_again(seats=[AWAY]) is not None
        own.value, staged.room = 2.0, room
        first.changed()
        with pytest.raises(WeightPushError, match=r"no room|ends inside"):
            first.stage(2, seats=[HERE], written=True)
        assert own.gathered == 4
        assert first.announce_again(seats=[AWAY]) is None
    finally:
        first.close()
