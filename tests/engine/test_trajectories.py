"""The book-keeping of trajectories in flight."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diffguard.engine.trajectories import Pool


@dataclass(frozen=True)
class Job:
    label: int


def filled(count, capacity=4, guided=True):
    """A pool with the first jobs admitted, each asking for a pass without label."""
    pool = Pool(capacity)
    states = torch.arange(float(count)).view(-1, 1).expand(-1, 2)
    slots = [pool.admit(Job(n), state, None, guided=guided) for n, state in enumerate(states)]
    request(pool, *slots)
    return pool, slots


def request(pool, *slots, null=True, label=False):
    every = np.ones(len(slots), dtype=bool)
    pool.request(np.array(slots), null=null & every, label=label & every)


def noise(passes, value=1.0):
    return torch.full((len(passes), 2), value)


def test_slots_are_used_again():
    pool, slots = filled(4)
    assert sorted(slots) == [0, 1, 2, 3]
    assert not pool.has_room
    done = pool.finish(slots[2])
    assert done.job == Job(2)
    assert pool.has_room
    assert not pool.inverts(np.array(slots))[2]
    assert pool.admit(Job(9), torch.zeros(2), None, guided=True) == slots[2]
    assert pool.label[slots].tolist() == [0, 1, 9, 3]


def test_the_oldest_images_come_first():
    pool, slots = filled(4)
    pool.take(4)
    pool.finish(slots[0])
    newest = pool.admit(Job(7), torch.zeros(2), None, guided=True)
    request(pool, newest, *slots[1:])
    assert pool.pending_count == 4
    assert pool.take(3).tolist() == slots[1:]
    assert pool.take(3).tolist() == [newest]
    assert pool.pending_count == 0


def test_those_with_the_most_left_come_first_where_asked():
    pool, (far, near, early, late) = filled(4)
    pool.take(4)
    for slot, start in ((far, 5), (near, 2)):
        pool.begin_synthesis(slot, start, unguided=True)
    pool.index[early], pool.index[late] = 1, 3
    # The unguided synthesis is at a step of its own.
    pool.index[pool.capacity + near] = 4
    request(pool, near, late, early, far)
    pool.request_auxiliary(np.array([near]))
    expected = [early, late, far, pool.capacity + near, near]
    assert pool.take(3, longest_first=True).tolist() == expected[:3]
    assert pool.take(3, longest_first=True).tolist() == expected[3:]


def test_a_trajectory_goes_on_when_both_its_passes_are_there():
    pool, (slot, *_) = filled(1)
    request(pool, slot, label=True)
    first = pool.take(1)
    assert pool.store(first, noise(first, 1.0)).tolist() == []
    second = pool.take(1)
    assert pool.store(second, noise(second, 2.0)).tolist() == [slot]
    assert {pool.sees_label(passes).item() for passes in (first, second)} == {False, True}
    where = np.array([slot])
    assert {float(n[0, 0]) for n in (pool.null_noise(where), pool.label_noise(where))} == {1.0, 2.0}
    assert pool.finish(slot).passes == 2


@pytest.mark.parametrize("both", [True, False])
def test_two_syntheses_share_their_first_pass_where_they_can(both):
    pool, (slot, *_) = filled(1)
    auxiliary, labelled = pool.capacity + slot, 2 * pool.capacity + slot
    passes = pool.take(8)
    pool.store(passes, noise(passes))
    pool.begin_synthesis(slot, 2, unguided=True)
    request(pool, slot, null=both, label=True)
    passes = pool.take(8)
    # Where the main one needs no pass without label, at scale 1, the other asks for its own.
    assert sorted(passes.tolist()) == [slot if both else auxiliary, labelled]
    assert pool.rows(np.array([slot, auxiliary, labelled])).tolist() == [slot, auxiliary, slot]
    assert sorted(pool.store(passes, noise(passes, 3.0)).tolist()) == [slot, auxiliary]
    assert pool.null_noise(np.array([auxiliary])).tolist() == [[3.0, 3.0]]
    request(pool, slot, label=True)
    pool.request_auxiliary(np.array([slot]))
    assert sorted(pool.take(8).tolist()) == [slot, auxiliary, labelled]


def test_an_image_is_done_when_all_its_trajectories_are():
    pool, (slot, *_) = filled(1)
    pool.begin_synthesis(slot, 0, unguided=True)
    auxiliary = pool.capacity + slot
    pool.move(np.array([slot, auxiliary]), torch.tensor([[5.0, 5.0], [6.0, 6.0]]))
    assert pool.finish(slot) is None
    done = pool.finish(auxiliary)
    assert (done.guided[0], done.unguided[0], done.latent[0]) == (5.0, 6.0, 0.0)


def test_without_guidance_one_trajectory_is_both():
    pool, (slot, *_) = filled(1, guided=False)
    pool.begin_synthesis(slot, 0, unguided=True)
    pool.x[slot] = 5.0
    done = pool.finish(slot)
    assert torch.equal(done.guided, done.unguided)


def test_a_used_slot_remembers_nothing():
    pool, slots = filled(2)
    passes = pool.take(8)
    pool.store(passes, noise(passes))
    pool.index[slots[0]] = 3
    pool.begin_synthesis(slots[0], 3, unguided=True)
    assert not pool.inverts(np.array(slots[:1])).any()
    pool.finish(slots[0])
    assert pool.finish(pool.capacity + slots[0]).stop_index == 3
    slot = pool.admit(Job(5), torch.full((2,), 8.0), None, guided=False)
    assert pool.index[[slot, pool.capacity + slot]].tolist() == [0, 0]
    assert pool.inverts(np.array([slot, pool.capacity + slot])).tolist() == [True, False]
    done = pool.finish(slot)
    assert (done.passes, done.guided[0]) == (0, 8.0)
    assert torch.equal(done.guided, done.unguided)


def test_what_is_handed_out_is_not_overwritten():
    pool, (slot, *_) = filled(1)
    done = pool.finish(slot)
    pool.admit(Job(1), torch.full((2,), 9.0), None, guided=True)
    assert done.guided.tolist() == [0.0, 0.0]


def test_slots_are_parted_by_their_masks():
    pool, mask = Pool(4), torch.tensor([True, False])
    state = torch.zeros(2)
    plain = pool.admit(Job(0), state, None, guided=True)
    masked = pool.admit(Job(1), state, mask, guided=True)
    slots = np.array([masked, plain])
    assert pool.is_masked(slots).tolist() == [True, False]
    (rest, none), (inside, masks) = pool.by_mask(slots)
    assert (rest.tolist(), none, inside.tolist()) == ([1], None, [0])
    assert torch.equal(masks, mask[None])
    assert len(list(pool.by_mask(slots[:1]))) == len(list(pool.by_mask(slots[1:]))) == 1
    assert list(pool.by_mask(slots[:0])) == []
