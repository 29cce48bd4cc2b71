"""What all parts of a recipe share: strictness, widths, counts, and names that others register."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from tempoquant.extension import Names
from tempoquant.limits import MOST

FLOAT_BITS = 32
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, FLOAT_BITS)
Count = Annotated[int, Field(ge=1, le=MOST)]


class Part(BaseModel):
    """Base of all recipe parts: frozen, unknown keys refused, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_bits(bits: int | None) -> int | None:
    """``bits`` itself, if it is a supported width or None.

    Raises:
        ValueError: it is not supported.
    """
    if bits is not None and bits not in WIDTHS:
        raise ValueError(f"bits = {bits} is not supported: valid are 2 to 8, 16, and 32 for float")
    return bits


def registered(registry: Names) -> AfterValidator:
    """A name of ``registry``. One read from a quantized folder may be unknown: its work is done."""

    def check(name: str, info: ValidationInfo) -> str:
        return name if (info.context or {}).get("stored") else registry.check(name)

    return AfterValidator(check)
