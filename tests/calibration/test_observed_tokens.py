import pytest
import torch

from tempoquant.calibration.token_observer import TokenObserver
from tempoquant.errors import InputError


def test_extremes_of_every_position_and_row():
    observer = TokenObserver("layer")
    observer.observe(0, torch.tensor([[[-1.0, 2.0], [0.5, 15.0]]]), 1, 10)
    observer.observe(0, torch.tensor([[[-3.0, 0.0], [1.0, 7.5]], [[0.0, 12.0], [0.0, 0.0]]]), 2, 10)
    observer.observe(2, torch.tensor([[[0.0, 7.5], [-5.0, 10.0]]]), 1, 10)
    by_row = observer.qparams(4, "minmax", [0, 1, 2], 3)
    # Position 0 of row 0 spans -3 to 12, of row 2 0 to 7.5; nothing was observed at row 1, which gets what all get.
    assert by_row.scale[[0, 2]].tolist() == [[1.0, 1.0], [0.5, 1.0]]
    assert by_row.zero_point[[0, 2]].tolist() == [[3, 0], [0, 5]]
    every = observer.qparams(4, "minmax", [0, 0, 0], 1)
    assert torch.equal(every.scale[0], by_row.scale[1]) and every.scale[0].tolist() == [1.0, pytest.approx(20 / 15)]
    symmetric = observer.qparams(4, "minmax", [0, 0, 0], 1, symmetric=True)
    assert symmetric.zero_point.tolist() == [[8, 8]] and (symmetric.q_min, symmetric.q_max) == (0, 15)


def test_another_number_of_tokens_is_refused():
    observer = TokenObserver("mid.to_k")
    observer.observe(0, torch.zeros(1, 4, 2), 1, 10)
    with pytest.raises(InputError, match=r"mid\.to_k takes 4 tokens and 5"):
        observer.observe(1, torch.zeros(1, 5, 2), 1, 10)
