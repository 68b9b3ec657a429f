"""Recordings by shape. The recorder here is like CUDA's: it keeps tensors of its own and answers in one of them."""

from __future__ import annotations

import pytest
import torch

from app.replays import Replays


class Recorder:
    """Records stages, and counts what it records and what runs as it is."""

    def __init__(self, error=None):
        self.error = error
        self.recorded = []
        self.eager = 0

    def stage(self, inputs):
        self.eager += 1
        return inputs["a"] + inputs["b"]

    def record(self, stage, inputs):
        self.recorded.append(tuple(inputs["a"].shape))
        if self.error is not None:
            raise self.error
        held = {name: value.clone() for name, value in inputs.items()}
        result = held["a"] + held["b"]

        def replay(fresh):
            for name, value in fresh.items():
                held[name].copy_(value)
            return torch.add(held["a"], held["b"], out=result)

        return replay


def pair(side, batch=1):
    return {name: torch.rand(batch, 1, side, side) for name in "ab"}


def run(replays, recorder, inputs):
    result = replays.run("fuse", recorder.stage, inputs)
    assert torch.equal(result, inputs["a"] + inputs["b"])


def test_a_shape_is_recorded_when_it_comes_again():
    recorder = Recorder()
    replays = Replays(recorder.record)
    for _ in range(4):
        run(replays, recorder, pair(32))
    assert recorder.recorded == [(1, 1, 32, 32)]
    assert recorder.eager == 1


def test_batch_size_stage_and_codes_make_shapes_of_their_own():
    recorder = Recorder()
    replays = Replays(recorder.record)
    for inputs in (pair(32), pair(32, batch=2), pair(32) | {"code_a": torch.rand(1, 3, 4, 4)}):
        run(replays, recorder, inputs)
    replays.run("other", recorder.stage, pair(32))
    assert recorder.recorded == []


def test_the_least_recently_used_shape_is_forgotten():
    recorder = Recorder()
    replays = Replays(recorder.record, most_shapes=2)
    for side in (32, 32, 48, 48, 32, 64, 64, 32, 32, 48):
        run(replays, recorder, pair(side))
    # 64 takes the place of 48, which is new then when it comes back.
    assert [shape[2] for shape in recorder.recorded] == [32, 48, 64]
    assert recorder.eager == 4


def test_the_pixels_of_all_recordings_are_bounded():
    recorder = Recorder()
    replays = Replays(recorder.record, most_in_all=32**2 + 48**2)
    for side in (32, 32, 48, 48, 32, 40, 40, 32, 48, 48):
        run(replays, recorder, pair(side))
    # 40 has room once 48 is forgotten; 48 has room again without 40, or without 32: 40 was used longer ago.
    assert [shape[2] for shape in recorder.recorded] == [32, 48, 40, 48]
    run(replays, recorder, pair(32))
    assert len(recorder.recorded) == 4
    run(replays, recorder, pair(40))
    assert recorder.eager == 5


def test_shapes_that_came_once_make_no_room():
    recorder = Recorder()
    replays = Replays(recorder.record, most_in_all=32**2 + 48**2)
    for side in (56, 32, 32, 48, 48, 40, 40):
        run(replays, recorder, pair(side))
    assert recorder.eager == 4
    run(replays, recorder, pair(48))  # Forgotten: without it only is there room for 40.
    assert recorder.eager == 5


def test_large_images_are_never_recorded():
    recorder = Recorder()
    replays = Replays(recorder.record, most_pixels=32 * 32)
    for _ in range(3):
        run(replays, recorder, pair(32, batch=2))
    assert recorder.recorded == []
    for _ in range(2):  # The codes of an image may be larger than itself.
        run(replays, recorder, pair(32) | {"code_a": torch.rand(1, 768, 4, 4)})
    assert len(recorder.recorded) == 1


def test_what_cannot_be_recorded_runs_as_it_is(caplog):
    recorder = Recorder(RuntimeError("operation not permitted when stream is capturing"))
    replays = Replays(recorder.record)
    for side in (32, 32, 32, 48, 48):
        run(replays, recorder, pair(side))
    assert len(recorder.recorded) == 1
    assert recorder.eager == 5
    assert [record.message for record in caplog.records] == ["stage cannot be recorded; it runs as it is"]


def test_a_recording_without_memory_is_the_callers_matter():
    recorder = Recorder(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    replays = Replays(recorder.record)
    run(replays, recorder, pair(32))
    with pytest.raises(RuntimeError, match="out of memory"):
        run(replays, recorder, pair(32))
    recorder.error = None
    replays.clear()
    for _ in range(3):
        run(replays, recorder, pair(32))
    assert len(recorder.recorded) == 2
    assert recorder.eager == 2
