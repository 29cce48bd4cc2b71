import pytest
import torch

from tempoquant.errors import FormatError, InputError
from tempoquant.numerics import pack, packed_size, unpack


def test_two_4_bit_values_a_byte_by_hand():
    assert pack(torch.tensor([1, 2, 15, 0, 7]), 4).tolist() == [0x21, 0x0F, 0x07]


def test_3_bit_stream_by_hand():
    # 5 = 101, 3 = 011, 6 = 110, little end first: bits 1,0,1 | 1,1,0 | 0,1,1
    assert pack(torch.tensor([5, 3, 6]), 3).tolist() == [0b10011101, 0b1]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1001])
def test_round_trip(bits, count):
    values = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(count))
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8 and packed.numel() == packed_size(count, bits)
    assert torch.equal(unpack(packed, bits, count).long(), values)


def test_values_that_do_not_fit():
    with pytest.raises(InputError, match="from 0 to 16 do not fit 4"):
        pack(torch.tensor([0, 16]), 4)


def test_wrong_length():
    with pytest.raises(FormatError, match="3 packed bytes where 8 values of 4 bits need 4"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, 8)
