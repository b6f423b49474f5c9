"""The table of trajectories in flight."""

import numpy as np
import pytest
import torch

from diffguard.engine.in_flight import ImageInFlight, Role
from diffguard.engine.jobs import Job
from diffguard.engine.trajectories import Trajectories


def image_of(label, mask=None):
    return ImageInFlight(Job(torch.zeros(1), label), mask)


def table_of(count, images=4, guided=True):
    """A table with the first images, each asking for a pass without the label."""
    table = Trajectories(images, 2)
    states = torch.arange(float(count)).view(-1, 1).expand(-1, 2)
    rows = [table.add(image_of(n), state, guided=guided) for n, state in enumerate(states)]
    request(table, *rows)
    return table, rows


def request(table, *rows, null=True, label=False):
    every = np.ones(len(rows), dtype=bool)
    table.request(np.array(rows), null=null & every, label=label & every)


def store(table, passes, value=1.0):
    return table.store(passes, torch.full((len(passes.rows), 2), value)).tolist()


def end(table, row):
    """End an image at its present state, as if its inversion had stopped there."""
    table.turn(row, 0)
    return table.end(row)


def test_row_of_a_finished_image_is_used_again():
    table, rows = table_of(4)
    assert not table.has_room
    image = end(table, rows[2])
    assert image.job.label == 2
    assert table.has_room
    assert table.add(image_of(9), torch.zeros(2), guided=True) == rows[2]
    assert table.label[rows].tolist() == [0, 1, 9, 3]
    assert not table.has_room


def test_oldest_images_come_first():
    table, rows = table_of(4)
    table.take(4)
    end(table, rows[0])
    newest = table.add(image_of(7), torch.zeros(2), guided=True)
    request(table, newest, *rows[1:])
    assert table.pending_count == 4
    assert table.take(3).rows.tolist() == rows[1:]
    assert table.take(3).rows.tolist() == [newest]
    assert table.pending_count == 0


def test_longest_first_takes_those_with_the_most_steps_left():
    table, (far, near, early, late) = table_of(4)
    table.take(4)
    table.step[early], table.step[late] = 1, 3
    table.turn(far, 5)
    table.turn(near, 4)
    table.branch(near)
    # The unguided synthesis is at a step of its own.
    (twin,) = np.flatnonzero(table.role == Role.UNGUIDED).tolist()
    table.step[near] = 2
    request(table, near, late, early, far)
    expected = [early, late, far, twin, near]
    assert table.take(3, longest_first=True).rows.tolist() == expected[:3]
    assert table.take(3, longest_first=True).rows.tolist() == expected[3:]


def test_step_is_ready_when_both_its_passes_are_made():
    table, (row,) = table_of(1)
    request(table, row, label=True)
    first = table.take(1)
    assert store(table, first, 1.0) == []
    second = table.take(1)
    assert store(table, second, 2.0) == [row]
    assert [first.with_label.tolist(), second.with_label.tolist()] == [[False], [True]]
    place = np.array([row])
    assert table.mixes[row]
    assert table.null_noise(place).tolist() == [[1.0, 1.0]]
    assert table.label_noise(place).tolist() == [[2.0, 2.0]]
    assert end(table, row).passes == 2


@pytest.mark.parametrize("both", [True, False])
def test_two_syntheses_share_their_first_pass_if_both_need_it(both):
    table, (row,) = table_of(1)
    store(table, table.take(8))
    table.turn(row, 2)
    request(table, row, null=both, label=True)
    table.branch(row)
    (twin,) = np.flatnonzero(table.role == Role.UNGUIDED).tolist()
    passes = table.take(8)
    # At scale 1 the guided one needs no pass without the label, so the other makes its own.
    assert passes.rows.tolist() == [row if both else twin, row]
    assert passes.with_label.tolist() == [False, True]
    assert store(table, passes, 3.0) == [row, twin]
    assert table.null_noise(np.array([twin])).tolist() == [[3.0, 3.0]]
    assert table.mixes[[row, twin]].tolist() == [True, False]
    request(table, row, label=True)
    request(table, twin)
    assert sorted(table.take(8).rows.tolist()) == [row, row, twin]


def test_image_is_finished_when_all_its_trajectories_end():
    table, (row,) = table_of(1)
    table.turn(row, 0)
    table.branch(row)
    (twin,) = np.flatnonzero(table.role == Role.UNGUIDED).tolist()
    table.move(np.array([row, twin]), torch.tensor([[5.0, 5.0], [6.0, 6.0]]))
    assert table.end(row) is None
    final = table.end(twin).final
    assert {role: float(state[0]) for role, state in final.items()} == {
        Role.INVERSION: 0.0,
        Role.GUIDED: 5.0,
        Role.UNGUIDED: 6.0,
    }


def test_reused_rows_start_afresh():
    table, rows = table_of(2)
    store(table, table.take(8))
    table.step[rows[0]] = 3
    table.turn(rows[0], 2)
    request(table, rows[0], label=True)
    table.branch(rows[0])
    (twin,) = np.flatnonzero(table.role == Role.UNGUIDED).tolist()
    store(table, table.take(8))
    table.end(twin)
    assert table.end(rows[0]).stop_index == 3
    row = table.add(image_of(5), torch.full((2,), 8.0), guided=False)
    assert row == rows[0]
    request(table, row)
    assert (table.step[row], table.role[row]) == (0, Role.INVERSION)
    assert not table.guided[row]
    assert not table.mixes[row]
    image = end(table, row)
    assert (image.passes, image.stop_index) == (0, 0)
    assert float(image.final[Role.GUIDED][0]) == 8.0
    assert Role.UNGUIDED not in image.final


def test_final_states_survive_the_reuse_of_their_row():
    table, (row,) = table_of(1)
    image = end(table, row)
    table.add(image_of(1), torch.full((2,), 9.0), guided=True)
    assert {tuple(state.tolist()) for state in image.final.values()} == {(0.0, 0.0)}


def test_rows_are_grouped_by_whether_they_have_a_mask():
    table, mask = Trajectories(4, 1), torch.tensor([True, False])
    state = torch.zeros(2)
    plain = table.add(image_of(0), state, guided=True)
    masked = table.add(image_of(1, mask), state, guided=True)
    rows = np.array([masked, plain])
    assert table.is_masked(rows).tolist() == [True, False]
    (rest, nothing), (inside, masks) = table.by_mask(rows)
    assert (rest.tolist(), nothing, inside.tolist()) == ([1], None, [0])
    assert torch.equal(masks, mask[None])
    assert len(list(table.by_mask(rows[:1]))) == len(list(table.by_mask(rows[1:]))) == 1
    assert list(table.by_mask(rows[:0])) == []
