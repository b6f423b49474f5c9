"""The book-keeping of trajectories in flight."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diffguard.pool import AUX, MAIN, Phase, Pool


@dataclass(frozen=True)
class Job:
    label: int


def filled(count, capacity=4, guided=True):
    """A pool with the first jobs admitted, each asking for a pass without label."""
    pool = Pool(capacity)
    states = torch.arange(float(count)).view(-1, 1).expand(-1, 2)
    slots = [pool.admit(Job(n), state, None, guided=guided) for n, state in enumerate(states)]
    for slot in slots:
        pool.request(slot, null=True, label=False)
    return pool, slots


def taken(units):
    return sorted(zip(units.role.tolist(), units.slot.tolist(), units.label.tolist(), strict=True))


def noise(units, value=1.0):
    return torch.full((len(units.slot), 2), value)


def test_slots_are_used_again():
    pool, slots = filled(4)
    assert sorted(slots) == [0, 1, 2, 3]
    assert not pool.has_room
    done = pool.release(slots[2])
    assert done.job == Job(2)
    assert pool.has_room
    assert pool.phase[slots[2]] == Phase.FREE
    assert pool.admit(Job(9), torch.zeros(2), None, guided=True) == slots[2]
    assert pool.labels(np.array(slots)).tolist() == [0, 1, 9, 3]


def test_the_oldest_images_come_first():
    pool, slots = filled(4)
    pool.take(4)
    pool.release(slots[0])
    newest = pool.admit(Job(7), torch.zeros(2), None, guided=True)
    for slot in (newest, *slots[1:]):
        pool.request(slot, null=True, label=False)
    assert pool.pending_count == 4
    assert pool.take(3).slot.tolist() == slots[1:]
    assert pool.take(3).slot.tolist() == [newest]
    assert pool.pending_count == 0


def test_a_trajectory_goes_on_when_both_its_passes_are_there():
    pool, (slot, *_) = filled(1)
    pool.request(slot, null=True, label=True)
    first = pool.take(1)
    main, aux = pool.store(first, noise(first, 1.0))
    assert main.tolist() == aux.tolist() == []
    second = pool.take(1)
    main, _ = pool.store(second, noise(second, 2.0))
    assert main.tolist() == [slot]
    assert {first.label.item(), second.label.item()} == {False, True}
    found = {float(pool.noise[MAIN, slot, 0]), float(pool.noise_label[slot, 0])}
    assert found == {1.0, 2.0}
    assert pool.release(slot).passes == 2


@pytest.mark.parametrize("both", [True, False])
def test_two_syntheses_share_their_first_pass_where_they_can(both):
    pool, (slot, *_) = filled(1)
    units = pool.take(8)
    pool.store(units, noise(units))
    pool.begin_synthesis(slot, 2, unguided=True)
    pool.request(slot, null=both, label=True)
    units = pool.take(8)
    # Where the main one needs no pass without label, at scale 1, the other asks for its own.
    other = (MAIN, slot, False) if both else (AUX, slot, False)
    assert taken(units) == sorted([other, (MAIN, slot, True)])
    main, aux = pool.store(units, noise(units, 3.0))
    assert main.tolist() == aux.tolist() == [slot]
    assert pool.noise[AUX, slot].tolist() == [3.0, 3.0]
    pool.request(slot, null=True, label=True)
    pool.request_aux(slot)
    assert taken(pool.take(8)) == [(MAIN, slot, False), (MAIN, slot, True), (AUX, slot, False)]


def test_an_image_is_done_when_all_its_trajectories_are():
    pool, (slot, *_) = filled(1)
    pool.begin_synthesis(slot, 0, unguided=True)
    pool.x[MAIN, slot], pool.x[AUX, slot] = 5.0, 6.0
    assert not pool.finish(slot, MAIN)
    assert pool.finish(slot, AUX)
    done = pool.release(slot)
    assert (done.guided[0], done.unguided[0], done.latent[0]) == (5.0, 6.0, 0.0)


def test_without_guidance_one_trajectory_is_both():
    pool, (slot, *_) = filled(1, guided=False)
    pool.begin_synthesis(slot, 0, unguided=True)
    pool.x[MAIN, slot] = 5.0
    assert pool.finish(slot, MAIN)
    done = pool.release(slot)
    assert torch.equal(done.guided, done.unguided)


def test_a_used_slot_remembers_nothing():
    pool, slots = filled(2)
    units = pool.take(8)
    pool.store(units, noise(units))
    pool.index[MAIN, slots[0]] = 3
    pool.begin_synthesis(slots[0], 3, unguided=True)
    pool.finish(slots[0], MAIN)
    pool.finish(slots[0], AUX)
    assert pool.release(slots[0]).stop_index == 3
    slot = pool.admit(Job(5), torch.full((2,), 8.0), None, guided=False)
    assert (pool.phase[slot], pool.index[MAIN, slot]) == (Phase.INVERT, 0)
    assert pool.finish(slot, MAIN)
    done = pool.release(slot)
    assert (done.passes, done.guided[0]) == (0, 8.0)
    assert torch.equal(done.guided, done.unguided)


def test_what_is_handed_out_is_not_overwritten():
    pool, (slot, *_) = filled(1)
    pool.finish(slot, MAIN)
    done = pool.release(slot)
    pool.admit(Job(1), torch.full((2,), 9.0), None, guided=True)
    assert done.guided.tolist() == [0.0, 0.0]


def test_guided_rows_are_parted_by_their_masks():
    pool, mask = Pool(4), torch.tensor([True, False])
    state = torch.zeros(2)
    plain = pool.admit(Job(0), state, None, guided=True)
    masked = pool.admit(Job(1), state, mask, guided=True)
    unguided = pool.admit(Job(2), state, mask, guided=False)
    rows = list(pool.guided_rows(np.array([unguided, masked, plain])))
    assert [positions.tolist() for positions, _ in rows] == [[2], [1]]
    assert rows[0][1] is None
    assert torch.equal(rows[1][1], mask[None])
