import pytest
import torch

from datamodules.config import DataConfig, IDSets
from diffguard.batching import fixed_batch_size, in_fixed_batches, most_rows, padded
from diffguard.errors import UserError


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 8), (7, 8), (8, 8), (9, 16), (64, 64), (65, 72)]
)
def test_batch_sizes_are_rounded_up_to_multiples_of_eight(size, expected):
    assert fixed_batch_size(size) == expected


def test_batches_of_large_images_are_bounded():
    assert most_rows(3, 2048, 2048) == 10
    assert most_rows(3, 10**6, 10**6) == 8
    with pytest.raises(UserError, match=r"data\.batch_size 64 .* 2,048 pixels .* at most 10"):
        DataConfig(IDSets(), image_size=2048, channels=3, train_batch_size=8)
    DataConfig(IDSets(), image_size=2048, channels=3, train_batch_size=8, batch_size=8)


def test_padding_repeats_the_first_row():
    x = torch.arange(6).view(3, 2)
    result = padded(x, 5)
    assert torch.equal(result, torch.cat([x, x[:1], x[:1]]))
    assert padded(x, 3) is x


@pytest.mark.parametrize("count", [1, 3, 4, 5, 12, 13])
def test_all_calls_have_the_same_shape_and_no_row_is_lost(count):
    x, shapes = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)), []

    def double(rows):
        shapes.append(tuple(rows.shape))
        return 2 * rows

    assert torch.equal(in_fixed_batches(double, x, 4), 2 * x)
    assert shapes == [(4, 2)] * -(-count // 4)


def test_output_of_a_row_does_not_depend_on_the_other_rows():
    torch.manual_seed(0)
    # Multiples of the vector width, as in networks: products over 29 depend on the row.
    network = torch.nn.Sequential(torch.nn.Linear(40, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5))
    x = torch.randn(21, 40)
    with torch.no_grad():
        together = in_fixed_batches(network, x, fixed_batch_size(5))
        order = torch.randperm(21)
        assert torch.equal(in_fixed_batches(network, x[order], 8), together[order])
        for row in range(21):
            assert torch.equal(in_fixed_batches(network, x[row : row + 1], 8)[0], together[row])
