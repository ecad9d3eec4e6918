"""Replies find their owners by order alone, however they are cut, and whoever has left costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError

from redispool_app.engine.batches import Batch, Unit


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def batch(loop):
    batch = Batch(1.0)
    for number in range(3):
        batch.futures.append(loop.create_future())
        batch.packed.append(b"command %d" % number)
    return batch


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


def test_whoever_leaves_before_the_write_is_forgotten_with_the_command(batch):
    batch.decode += [True, False, True]
    assert batch.drop_leavers() == (0, 0)
    batch.futures[1].cancel()
    assert batch.drop_leavers() == (1, len(b"command 1"))
    assert (batch.packed, batch.decode, batch.due) == ([b"command 0", b"command 2"], [True, True], 2)


def test_a_unit_is_answered_when_all_its_replies_are_there_errors_among_them(loop):
    reported = []
    unit = Unit(1.0, loop.create_future(), b"packed", [True, False, True])
    assert unit.take([b"1", ResponseError("no")], 0, reported.append) == 2
    assert (unit.future.done(), unit.due, unit.decode_due) == (False, 1, [True])
    assert unit.take([b"3", b"next"], 0, reported.append) == 1
    assert [str(reply) for reply in unit.future.result()] == ["b'1'", "no", "b'3'"]
    assert len(reported) == 1


def test_a_unit_whose_caller_has_left_takes_its_replies_all_the_same(loop):
    unit = Unit(1.0, loop.create_future(), b"packed", [True, True])
    unit.future.cancel()
    assert unit.take([b"1", b"2", b"next"], 0, no_errors) == 2
    assert not unit.due


def test_a_unit_whose_caller_leaves_before_the_write_is_never_written(loop):
    unit = Unit(1.0, loop.create_future(), b"packed", [True, True])
    unit.future.cancel()
    assert unit.drop_leavers() == (2, len(b"packed"))
    assert not unit.due
