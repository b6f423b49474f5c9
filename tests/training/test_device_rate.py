"""How fast a device computes."""

import torch

from diffguard.training.device_rate import matrix_product_rate


def test_the_rate_of_matrix_products_is_plausible():
    rate = matrix_product_rate(torch.device("cpu"), torch.float32, seconds=0.02)
    assert 1e8 < rate < 1e15
