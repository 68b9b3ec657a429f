"""Which runs share a device, and who goes next where they cannot."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.turns import Account, Device, Share


class Clock:
    """Time that only moves when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def device(clock):
    return Device(clock)


def claim(share, weight=1.0):
    return share._device.claim(share, weight)


def hold(clock, device, share, seconds, weight=1.0):
    """Lets a share have the device for some time; it must be free."""
    assert claim(share, weight).done()
    clock.now += seconds
    device.release(share)


@pytest.mark.parametrize(
    ("weights", "side_by_side"),
    [([1.0, 1.0], 1), ([1.0, 0.5], 2), ([1.0, 0.51], 1), ([0.5, 0.5, 0.5, 0.5], 3), ([0.1] * 9, 9)],
)
def test_runs_go_side_by_side_up_to_one_and_a_half_of_the_largest(device, weights, side_by_side):
    claims = [claim(Share(device), weight) for weight in weights]
    assert [future.done() for future in claims] == [index < side_by_side for index in range(len(weights))]


def test_a_claim_is_granted_when_room_is_given_back(device):
    first, second, third = Share(device), Share(device), Share(device)
    claim(first, 1.0)
    claim(second, 0.5)
    waiting = claim(third, 1.0)
    device.release(second)
    assert not waiting.done()
    device.release(first)
    assert waiting.done()


def test_who_had_least_time_goes_first_though_it_asked_last(device, clock):
    busy, modest, holder = Share(device), Share(device), Share(device)
    hold(clock, device, busy, 5.0)
    claim(holder)
    modest.account.had_s = holder.account.had_s = busy.account.had_s
    clock.now += 1.0
    busy.account.had_s += 3.0
    late, early = claim(busy), claim(modest)
    device.release(holder)
    assert early.done()
    assert not late.done()


def test_short_runs_get_as_much_time_as_long_ones(device, clock):
    shares = {"short": Share(device), "long": Share(device)}
    lengths = {"short": 1.0, "long": 10.0}
    claims = {name: claim(share) for name, share in shares.items()}
    order = ""
    for _ in range(33):
        name = next(name for name, future in claims.items() if future.done())
        order += name[0]
        clock.now += lengths[name]
        claims[name] = claim(shares[name])  # It has a queue, and wants the device again.
    assert order.count("l") in {3, 4}


def test_nothing_passes_the_one_whose_turn_it_is(device):
    holder, large, small = Share(device), Share(device), Share(device)
    claim(holder, 1.0)
    first, second = claim(large, 1.0), claim(small, 0.1)
    assert not second.done()
    device.release(holder)
    assert first.done()
    assert second.done()


def test_idle_time_earns_nothing(device, clock):
    busy, newcomer = Share(device), Share(device)
    hold(clock, device, busy, 1000.0)
    claim(busy)
    waiting = claim(newcomer)
    clock.now += 1.0
    device.release(busy)
    assert waiting.done()
    again = claim(busy)
    clock.now += 2.0
    device.release(newcomer)
    assert again.done()
    # The newcomer has had 2 s to the 1 s of the other since it came: not a thousand seconds before its turn ends.
    assert newcomer.account.had_s - busy.account.had_s == pytest.approx(1.0)


def test_a_claim_given_up_keeps_nobody_waiting(device):
    async def scenario():
        holder, leaving, staying = Share(device), Share(device), Share(device)
        claim(holder)

        async def use(share):
            await share.claim(1.0)
            share.release()

        tasks = [asyncio.create_task(use(leaving)), asyncio.create_task(use(staying))]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        device.release(holder)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[0].cancelled()
        assert claim(Share(device)).done()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_claim_granted_to_one_that_is_just_leaving_goes_on_to_the_next(device):
    async def scenario():
        holder, leaving = Share(device), Share(device)
        claim(holder)

        async def use():
            await leaving.claim(1.0)

        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        device.release(holder)  # Granted now, but the task has not run since.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert claim(Share(device)).done()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_run_that_passes_its_turn_on_gets_it_back(device, clock):
    tiled, other = Share(device), Share(device)
    claim(tiled)
    waiting = claim(other)
    clock.now += 1.0
    passing = threading.Thread(target=lambda: tiled.pass_on().result())
    passing.start()
    waiting.result(timeout=30)
    assert passing.is_alive()
    device.release(other)
    passing.join(30)
    assert not passing.is_alive()
    device.release(tiled)


def test_a_run_whose_turn_it_still_is_goes_on(device, clock):
    tiled, other = Share(device), Share(device)
    hold(clock, device, other, 5.0)
    tiled.account.had_s = 0.0
    claim(tiled)
    other.account.had_s += 5.0
    waiting = claim(other)
    clock.now += 1.0
    assert tiled.pass_on().done()
    assert not waiting.done()
    device.release(tiled)
    assert waiting.done()


def test_a_run_alone_passes_its_turn_on_to_itself(device):
    alone = Share(device)
    claim(alone)
    assert alone.pass_on().done()
    waiting = claim(Share(device))
    assert not waiting.done()  # It holds the device again.
    device.release(alone)
    assert waiting.done()


def test_runs_of_one_model_share_its_time(device, clock):
    """However many runs of one model wait, another one with one run at a time gets every second turn."""
    crowd = Account()
    shares = {f"crowd {number}": Share(device, crowd) for number in range(4)} | {"single": Share(device)}
    claims = {name: claim(share) for name, share in shares.items()}
    order = ""
    for _ in range(20):
        name = next(name for name, future in claims.items() if future.done())
        order += name[0]
        clock.now += 1.0
        claims[name] = claim(shares[name])
    assert order.count("s") == 10


def test_runs_side_by_side_cost_their_model_the_time_of_one(device, clock):
    model, other = Account(), Share(device)
    first, second = Share(device, model), Share(device, model)
    claim(first, 0.5)
    claim(second, 0.5)
    clock.now += 2.0
    device.release(first)
    clock.now += 1.0
    device.release(second)
    clock.now += 5.0
    claim(other)
    assert model.had_s == 3.0
    assert other.account.had_s == 0.0


def test_a_run_that_pauses_goes_on_before_others_of_its_model(device, clock):
    model, other = Account(), Share(device)
    tiled, next_one = Share(device, model), Share(device, model)
    claim(tiled)
    waiting = claim(next_one)
    clock.now += 1.0
    assert tiled.pass_on().done()
    elsewhere = claim(other)
    clock.now += 1.0
    paused = tiled.pass_on()
    assert elsewhere.done()  # Another model it lets go first.
    assert not paused.done()
    clock.now += 5.0
    device.release(other)
    assert paused.done()
    assert not waiting.done()
    device.release(tiled)
    assert waiting.done()


def test_a_pause_given_up_holds_nothing(device):
    tiled, other = Share(device), Share(device)
    claim(other)
    paused = claim(tiled)
    device.release(tiled)
    device.release(other)
    assert not paused.done()
    assert claim(Share(device)).done()
