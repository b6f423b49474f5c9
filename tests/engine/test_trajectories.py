"""The table of trajectories in flight."""

import numpy as np
import pytest
import torch

from diffguard.engine.jobs import Job, Reach, Source
from diffguard.engine.trajectories import ImageInFlight, Trajectories


def add(table, label, state, step=0):
    """Take in an image with one trajectory, in phase 0; returns its row."""
    image = ImageInFlight(Source(Job(torch.zeros(1), label), state, Reach.EVERYWHERE))
    table.enter()
    row = table.add(image, state)
    table.begin(row, 0, step)
    return row


def table_of(count, images=4, memory=0):
    """A table with the first images, each asking for a pass without the label."""
    table = Trajectories(images, 2, memory)
    states = torch.arange(float(count)).view(-1, 1).expand(-1, 2)
    rows = [add(table, label, state) for label, state in enumerate(states)]
    request(table, *rows)
    return table, rows


def request(table, *rows, null=True, label=False):
    every = np.ones(len(rows), dtype=bool)
    table.request(np.array(rows), null=null & every, label=label & every)


def store(table, passes, value=1.0):
    return table.store(passes, torch.full((len(passes.rows), 2), value)).tolist()


def test_row_of_a_finished_image_is_used_again():
    table, rows = table_of(4)
    assert not table.has_room
    assert table.end(rows[2]).source.job.label == 2
    assert table.has_room
    assert add(table, 9, torch.zeros(2)) == rows[2]
    assert table.label[rows].tolist() == [0, 1, 9, 3]
    assert not table.has_room


def test_oldest_images_come_first():
    table, rows = table_of(4)
    table.take(4)
    table.end(rows[0])
    newest = add(table, 7, torch.zeros(2))
    request(table, newest, *rows[1:])
    assert table.pending_count == 4
    assert table.take(3).rows.tolist() == rows[1:]
    assert table.take(3).rows.tolist() == [newest]
    assert table.pending_count == 0


def test_those_with_the_most_steps_left_come_first_if_these_are_given():
    table, rows = table_of(4)
    left = np.zeros(8, dtype=np.int64)
    left[rows] = [2, 5, 3, 5]
    assert table.take(3, left).rows.tolist() == [rows[1], rows[3], rows[2]]
    assert table.take(3, left).rows.tolist() == [rows[0]]


def test_step_is_ready_when_both_its_passes_are_made():
    table, (row,) = table_of(1)
    request(table, row, label=True)
    first = table.take(1)
    assert store(table, first, 1.0) == []
    second = table.take(1)
    assert store(table, second, 2.0) == [row]
    assert [first.with_label.tolist(), second.with_label.tolist()] == [[False], [True]]
    place = np.array([row])
    assert table.null_noise(place).tolist() == [[1.0, 1.0]]
    assert table.label_noise(place).tolist() == [[2.0, 2.0]]
    assert table.end(row).passes_for.total() == 2


@pytest.mark.parametrize("both", [True, False])
def test_trajectories_of_one_state_share_a_pass_that_both_need(both):
    table, (row,) = table_of(1)
    store(table, table.take(8))
    request(table, row, null=both, label=True)
    twin = table.fork(row)
    request(table, twin)
    table.share(twin, row)
    passes = table.take(8)
    # At scale 1 the guided one needs no pass without the label, so the other makes its own.
    assert passes.rows.tolist() == [row if both else twin, row]
    assert passes.with_label.tolist() == [False, True]
    assert store(table, passes, 3.0) == [row, twin]
    assert table.null_noise(np.array([twin])).tolist() == [[3.0, 3.0]]
    request(table, row, label=True)
    request(table, twin)
    assert sorted(table.take(8).rows.tolist()) == [row, row, twin]


def test_both_kinds_of_passes_serve_several_trajectories():
    table, (row,) = table_of(1, memory=1)
    table = Trajectories(1, 3)
    row = add(table, 0, torch.zeros(2))
    twins = [table.fork(row), table.fork(row)]
    request(table, row, *twins, label=True)
    for number, twin in enumerate(twins):
        for leader in [row, *twins[:number]]:
            table.share(twin, leader)
    first = table.take(1)
    assert store(table, first, 1.0) == []
    second = table.take(8)
    assert [*first.rows, *second.rows] == [row, row]
    assert store(table, second, 2.0) == sorted([row, *twins])
    assert table.label_noise(np.array(twins)).tolist() == [[2.0, 2.0]] * 2


def test_image_is_finished_when_all_its_trajectories_end():
    table, (row,) = table_of(1)
    twin = table.fork(row)
    table.move(np.array([row, twin]), torch.tensor([[5.0, 5.0], [6.0, 6.0]]))
    assert table.states(np.array([twin, row]))[0].tolist() == [[6.0, 6.0], [5.0, 5.0]]
    assert table.end(row) is None
    assert table.end(twin).source.job.label == 0


def test_reused_rows_start_afresh():
    table, rows = table_of(2, memory=1)
    store(table, table.take(8))
    place = np.array([rows[0]])
    table.move(place, torch.ones(1, 2), torch.ones(1, 1, 2))
    table.step[rows[0]], table.count[rows[0]], table.phase_step[rows[0]], table.part[rows[0]] = (
        3,
        3,
        3,
        1,
    )
    table.end(rows[0])
    row = add(table, 5, torch.full((2,), 8.0), step=2)
    assert row == rows[0]
    assert [c[row] for c in (table.step, table.count, table.phase_step, table.part)] == [2, 0, 0, 0]
    x, memory = table.states(place)
    assert (x.tolist(), memory.tolist()) == ([[8.0, 8.0]], [[[0.0, 0.0]]])
    assert not table.image[row].passes_for


@pytest.mark.parametrize("keeps", [True, False])
def test_memory_and_count_are_kept_in_the_next_phase_if_the_solver_says_so(keeps):
    table, (row,) = table_of(1, memory=1)
    table.move(np.array([row]), torch.ones(1, 2), torch.ones(1, 1, 2))
    table.count[row] = table.phase_step[row] = 3
    twin = table.fork(row)
    for place in (row, twin):
        table.begin(place, 1, 2, keeps_memory=keeps)
    assert table.count[[row, twin]].tolist() == [3 * keeps] * 2
    assert table.phase_step[[row, twin]].tolist() == [0, 0]
    assert table.states(np.array([row, twin]))[1].unique().tolist() == [float(keeps)]
