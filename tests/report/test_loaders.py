"""The shares of processes in test loaders."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from diffguard.report.loaders import share_of_process


@pytest.mark.parametrize("count", [1, 4, 5])
def test_repeated_images_are_not_counted(count):
    def share(rank):
        data = TensorDataset(torch.arange(count))
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=False)
        batches = DataLoader(data, batch_size=2, sampler=sampler)
        positions = torch.cat([batch[0] for batch in batches])
        return positions[: share_of_process(batches)].tolist()

    assert sorted(share(0) + share(1)) == list(range(count))
