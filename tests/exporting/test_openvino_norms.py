"""Group norms as OpenVINO is given them: torch's numbers, from operators that keep channels last."""

import pytest
import torch
from torch import nn

from tempoquant.exporting.openvino import norm_by_channel


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "channels"), [(4, 12), (1, 6), (6, 6)])
def test_the_numbers_are_those_of_float64(groups, channels, affine):
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, channels, eps=1e-6, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    # Far from zero, where the square of the mean would swallow the variance.
    x = torch.randn(3, channels, 5, 7) + 300
    weight, bias = (p.double() if affine else None for p in (norm.weight, norm.bias))
    wanted = nn.functional.group_norm(x.double(), groups, weight, bias, norm.eps)
    with torch.no_grad():
        torch.testing.assert_close(norm_by_channel(norm, x).double(), wanted, rtol=1e-4, atol=1e-4)


def test_tokens_have_torchs_own_norm():
    norm, x = nn.GroupNorm(2, 6), torch.randn(2, 6, 9)
    assert torch.equal(norm_by_channel(norm, x), norm(x))
