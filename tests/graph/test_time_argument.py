"""Which argument carries the time step."""

import pytest
from torch import Tensor

from graph_models import Plain, probe_of
from tempoquant.errors import InputError
from tempoquant.graph import TimeArgument, read_denoiser


class Renamed(Plain):
    """Takes its time step first, under another name."""

    def forward(self, noise_level: Tensor, picture: Tensor) -> Tensor:
        return super().forward(picture, noise_level)


class Scaled(Plain):
    """Takes a value derived from the time step before the time step itself."""

    def forward(self, x: Tensor, fraction: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) * fraction[:, None, None, None]


class Open(Plain):
    """Has no named arguments at all."""

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return super().forward(args[0], kwargs["when"])


def found(module: Plain, run) -> TimeArgument:
    return read_denoiser(probe_of(module, run=run)).time_argument


def test_positional():
    module = Plain()
    assert found(module, lambda x, t: module(x, t)) == TimeArgument(1, "t")


def test_keyword_has_the_position_of_its_signature():
    module = Plain()
    assert found(module, lambda x, t: module(t=t, x=x)) == TimeArgument(1, "t")


def test_another_name_at_another_place():
    module = Renamed()
    assert found(module, lambda x, t: module(t, x)) == TimeArgument(0, "noise_level")


def test_the_time_step_itself_is_preferred_to_what_is_derived_from_it_and_to_a_usual_name():
    class Named(Plain):
        def forward(self, x: Tensor, sigma: Tensor, level: Tensor) -> Tensor:
            return super().forward(x, level) * sigma[:, None, None, None]

    module = Named()
    assert found(module, lambda x, t: module(x, t / 1000, t)) == TimeArgument(2, "level")


def test_keyword_outside_the_signature():
    module = Open()
    assert found(module, lambda x, t: module(x, when=t)) == TimeArgument(None, "when")


def test_a_usual_name_breaks_a_tie():
    module = Scaled()
    assert found(module, lambda x, t: module(x, t / 1000, t / 10)) == TimeArgument(2, "t")


def test_an_embedded_time_step_is_no_time_step():
    class Embedded(Plain):
        def forward(self, x: Tensor, emb: Tensor) -> Tensor:
            return self.conv(x) + self.b(self.a(emb))[:, :, None, None]

    module = Embedded()
    with pytest.raises(InputError, match="no argument of the denoiser's module carries the time step"):
        found(module, lambda x, t: module(x, module.sines(t)))
