"""Replies find their owners by order alone, however they are cut, and whoever has left costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError

from redispool_app.engine.multiplex.request_async import Batch, PipelineRequest, drop_cancelled, pipelines_in, sealed


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def batch(loop):
    return Batch(1.0, gathered(loop))


def gathered(loop):
    return [each for number in range(3) for each in (loop.create_future(), b"command %d" % number, number != 1)]


def results(batch):
    return [future.result() for future in batch.futures if future.done() and not future.cancelled()]


def no_errors(error):
    raise AssertionError(error)


def test_replies_go_out_in_order_and_the_rest_is_left_for_the_next(batch):
    assert batch.take([b"a", b"b", b"c", b"next"], 0, no_errors) == 3
    assert (results(batch), batch.due) == ([b"a", b"b", b"c"], 0)


def test_replies_that_come_in_pieces_go_on_where_the_last_piece_ended(batch):
    assert batch.take([b"a"], 0, no_errors) == 1
    assert (results(batch), batch.due) == ([b"a"], 2)
    assert batch.take([b"other", b"b", b"c"], 1, no_errors) == 3
    assert (results(batch), batch.due) == ([b"a", b"b", b"c"], 0)


@pytest.mark.parametrize("leaver", range(3))
def test_the_reply_of_a_caller_that_has_left_is_thrown_away(batch, leaver):
    batch.futures[leaver].cancel()
    assert batch.take([0, 1, 2], 0, no_errors) == 3
    assert results(batch) == [number for number in range(3) if number != leaver]


def test_an_error_fails_its_caller_only_and_is_reported(batch):
    reported = []
    batch.futures[0].cancel()
    assert batch.take([b"a", ResponseError("no"), [b"c"]], 0, reported.append) == 3
    assert [str(error) for error in reported] == ["no"]
    assert isinstance(batch.futures[1].exception(), ResponseError)
    assert batch.futures[2].result() == [b"c"]


def test_a_caller_that_leaves_before_the_write_is_forgotten_with_the_command(loop):
    commands = gathered(loop)
    commands[3].cancel()
    (batch,) = sealed(1.0, commands)
    assert (batch.packed, batch.decode, batch.due) == ([b"command 0", b"command 2"], [True, True], 2)


def test_what_is_held_back_is_written_without_those_who_have_left_meanwhile(loop):
    batch = Batch(2.0, gathered(loop))
    units = [PipelineRequest(3.0, loop.create_future(), b"packed", [True, True]) for _ in range(2)]
    batch.futures[0].cancel()
    units[0].future.cancel()
    kept, unit = drop_cancelled([batch, *units])
    assert (kept.packed, kept.due, kept.started, unit) == ([b"command 1", b"command 2"], 2, 2.0, units[1])


def test_units_and_single_commands_leave_in_the_order_in_which_they_were_gathered(loop):
    unit = PipelineRequest(0.0, loop.create_future(), b"unit", [True, False])
    commands = gathered(loop)
    commands[3:3] = [unit.future, b"unit", unit]
    first, between, last = sealed(5.0, commands)
    assert (first.packed, between, last.packed) == ([b"command 0"], unit, [b"command 1", b"command 2"])
    assert (first.started, between.started, between.due, pipelines_in(commands)) == (5.0, 5.0, 2, 1)


def test_a_unit_is_answered_when_all_its_replies_are_there_errors_among_them(loop):
    reported = []
    unit = PipelineRequest(1.0, loop.create_future(), b"packed", [True, False, True])
    assert unit.take([b"1", ResponseError("no")], 0, reported.append) == 2
    assert (unit.future.done(), unit.due, unit.decode_due) == (False, 1, [True])
    assert unit.take([b"3", b"next"], 0, reported.append) == 1
    assert [str(reply) for reply in unit.future.result()] == ["b'1'", "no", "b'3'"]
    assert len(reported) == 1


def test_a_unit_whose_caller_has_left_takes_its_replies_all_the_same(loop):
    unit = PipelineRequest(1.0, loop.create_future(), b"packed", [True, True])
    unit.future.cancel()
    assert unit.take([b"1", b"2", b"next"], 0, no_errors) == 2
    assert not unit.due


def test_a_unit_whose_caller_leaves_before_the_write_is_never_written(loop):
    unit = PipelineRequest(1.0, loop.create_future(), b"packed", [True, True])
    unit.future.cancel()
    assert sealed(1.0, [unit.future, b"packed", unit]) == []
