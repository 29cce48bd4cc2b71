"""Gradient rules against closed forms of the papers, finite differences, and float64 automatic differentiation."""

import pytest
import torch

from tempoquant.learned.rules import scaled_gradient, shown_as, straight_round
from tempoquant.learned.schemes import SCHEMES, Reach
from tempoquant.numerics import QParams

X = torch.tensor([-3.0, -0.9, 0.0, 0.26, 0.74, 1.3, 9.0])
LOW, HIGH = torch.tensor(2.0), torch.tensor(5.0)
REACH = Reach(LOW, HIGH)
Q_MIN, Q_MAX, ZERO = torch.tensor(0.0), torch.tensor(7.0), torch.tensor(2.0)


def quantized(name, values, x=X, draws=None, zero=ZERO):
    """The scheme's output at a 3-bit grid that goes two steps below zero."""
    scheme = SCHEMES[name]
    s_in, s_out = scheme.scales(values, REACH)
    real = scheme.zero(values, s_in)
    zero = zero if real is None else straight_round(real)
    return scheme.fake_quantize(x, QParams(s_in, zero, Q_MIN, Q_MAX, s_out), draws)


def gradients(name, start, x=X, **options):
    """By input and by every value, one output element at a time: (K, N)."""
    found = []
    for i in range(len(x)):
        values = tuple(torch.tensor(v, requires_grad=True) for v in start)
        inputs = x.clone().requires_grad_()
        quantized(name, values, inputs, **options)[i].backward()
        rest = [torch.zeros(()) if v.grad is None else v.grad for v in values]
        found.append(torch.stack([inputs.grad[i], *rest]))
    return torch.stack(found, 1)


def test_all_schemes_start_as_the_calibrated_interval():
    scale = torch.tensor(0.5)
    expected = torch.tensor([-1.0, -1.0, 0.0, 0.5, 0.5, 1.5, 2.5])
    for name, scheme in SCHEMES.items():
        torch.testing.assert_close(quantized(name, scheme.start(scale, REACH)), expected)


def test_lsq_by_its_closed_form():
    # x / s = -6, -1.8, 0, 0.52, 1.48, 2.6, 18: v - x / s inside, the grid's ends outside (equation 3).
    by_x, by_s = gradients("lsq", (0.5,))
    assert by_x.tolist() == [0, 1, 1, 1, 1, 1, 0]
    torch.testing.assert_close(by_s, torch.tensor([-2, -0.2, 0, 0.48, -0.48, 0.4, 5.0]), atol=1e-6, rtol=0)


def test_lsq_plus_offsets_move_what_is_clipped():
    # x_hat = s (q - z), z = round(-b / s): dx_hat/db is 1 where x is clipped and 0 inside (LSQ+, equation 6).
    found = []
    for x in X:
        offset, s = torch.tensor(-1.1, requires_grad=True), torch.tensor(0.5, requires_grad=True)
        interval = QParams(s, straight_round(-offset / s), Q_MIN, Q_MAX)
        SCHEMES["lsq+"].fake_quantize(x, interval, None).backward()
        found.append([float(offset.grad), float(s.grad)])
    by_b, by_s = torch.tensor(found).T
    assert by_b.tolist() == [1, 0, 0, 0, 0, 0, 1]
    # Outside, the paper's n and p (0 and 7) up to the rounding of the offset: 0.2 steps here.
    assert float(by_s[0]) == pytest.approx(0.2, abs=1e-5) and float(by_s[-1]) == pytest.approx(7.2, abs=1e-5)


def test_pact_moves_its_clip_where_inputs_are_clipped():
    # Grid of steps -2..5 with a = 2.5: dx_hat/da = 1 above, -2/5 below, 0 inside (equation 3, with both ends moving).
    by_x, by_a = gradients("pact", (2.5,))
    assert by_x.tolist() == [0, 1, 1, 1, 1, 1, 0]
    torch.testing.assert_close(by_a, torch.tensor([-0.4, 0, 0, 0, 0, 0, 1.0]))


def test_pact_as_published_for_inputs_without_sign():
    x, a = torch.tensor([0.3, 0.9, 1.2, 4.0]), torch.tensor(1.0, requires_grad=True)
    reach = Reach(torch.tensor(0.0), torch.tensor(7.0))
    s, _ = SCHEMES["pact"].scales((a,), reach)
    out = SCHEMES["pact"].fake_quantize(x, QParams(s, torch.tensor(0.0), Q_MIN, Q_MAX), None)
    torch.testing.assert_close(out, torch.round(x.clamp(max=1.0) * 7) / 7)
    out.sum().backward()
    assert float(a.grad) == 2.0


def test_duq_learns_input_and_output_ranges_apart():
    # a = c = 2.5, p = 5: x_hat = (c / 5) v: by c v / 5, by a -(c / 5) x 5 / a^2 = -x / a inside.
    by_x, by_a, by_c = gradients("duq", (2.5, 2.5))
    assert by_x.tolist() == [0, 1, 1, 1, 1, 1, 0]
    torch.testing.assert_close(by_c, torch.tensor([-2, -2, 0, 1, 1, 3, 5.0]) / 5)
    inside = torch.tensor([0, 1, 1, 1, 1, 1, 0.0])
    torch.testing.assert_close(by_a, -inside * X / 2.5)
    assert quantized("duq", (torch.tensor(2.5), torch.tensor(5.0)))[5] == 3.0


def test_qil_intervals_against_float64_automatic_differentiation():
    start = (0.9, 2.6, 3.1)
    weights = torch.arange(1.0, len(X) + 1).double()
    ours = tuple(torch.tensor(v, requires_grad=True) for v in start)
    (quantized("qil", ours).double() * weights).sum().backward()
    low, high, out = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in start)

    def rounded(value):
        return value + (value.round() - value).detach()

    step = (low + high) / 7
    zero = rounded(low / step)
    q = (rounded(X.double() / step) + zero).clamp(0, 7)
    ((out / 7) * (q - zero) * weights).sum().backward()
    for mine, exact in zip(ours, (low, high, out), strict=True):
        assert float(mine.grad) == pytest.approx(float(exact.grad), rel=1e-5)


def test_the_derivative_is_that_of_finite_differences_where_all_is_clipped():
    x = torch.tensor([-50.0, -20.0, 30.0, 44.0])
    for name, start in {"lsq": (0.5,), "pact": (2.5,), "duq": (2.5, 2.0), "nipq": (2.5,)}.items():
        values = tuple(torch.tensor(v, requires_grad=True) for v in start)
        quantized(name, values, x).square().sum().backward()
        for k, value in enumerate(values):
            moved = [[v + (i == k) * d for i, v in enumerate(start)] for d in (1e-3, -1e-3)]
            high, low = (quantized(name, tuple(map(torch.tensor, m)), x).double().square().sum() for m in moved)
            assert float(value.grad or 0) == pytest.approx(float(high - low) / 2e-3, rel=1e-3, abs=1e-3), (name, k)


def test_nipq_trains_on_the_rounding_errors_of_its_own_input():
    draws = torch.Generator().manual_seed(0)
    x, a = torch.rand(2000, generator=draws) * 3 - 1, torch.tensor(2.5, requires_grad=True)
    out = quantized("nipq", (a,), x, draws)
    with torch.no_grad():
        plain = quantized("nipq", (a,), x)
    inside = (x > -1) & (x < 2.5)
    noise, errors = (out.detach() - x)[inside] / 0.5, (plain - x)[inside] / 0.5
    # The same distribution, element by element another error; nothing moves beyond half a step.
    assert float(noise.abs().max()) <= 0.5 + 1e-5 and not torch.allclose(noise, errors)
    tenths = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(noise.quantile(tenths), errors.quantile(tenths), atol=0.05, rtol=0)
    out[inside].sum().backward()
    assert float(a.grad) == pytest.approx(float(noise.sum()) / 5, abs=1e-2)
    assert out.detach()[~inside].tolist() == x[~inside].clamp(-1, 2.5).tolist()


def test_qil_prunes_and_clips_weights():
    # c = 0.5, d = 0.3: |w| below 0.2 is pruned, above 0.8 clipped; between, linear, then to the power of gamma.
    scheme, w = SCHEMES["qil"], torch.tensor([[0.1, -0.2, 0.5, -0.65, 0.9, -3.0]])
    values = tuple(torch.tensor([v]) for v in (0.5, 0.3, 1.0, 2.0))
    torch.testing.assert_close(
        scheme.transformed(w, values), torch.tensor([[0, 0, 0.25, -0.5625, 1, -1.0]]), atol=1e-7, rtol=0
    )


def test_values_stay_positive_and_keep_learning():
    for scheme in SCHEMES.values():
        value = torch.tensor([0.25, 3.0])
        torch.testing.assert_close(scheme.value(scheme.raw(value)), value)
        raw = torch.tensor([-0.1], requires_grad=True)
        out = scheme.value(raw)
        out.sum().backward()
        assert float(out.detach()) > 0 and float(raw.grad) > 0


def test_rules_by_hand():
    x = torch.tensor([0.4, 1.7], requires_grad=True)
    assert straight_round(x).tolist() == [0, 2]
    (straight_round(x) * torch.tensor([3.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [3, 5]
    x.grad = None
    scaled_gradient(x, 0.25).sum().backward()
    assert x.grad.tolist() == [0.25, 0.25] and torch.equal(scaled_gradient(x, 0.25), x)
    assert shown_as(x, torch.ones(2)).tolist() == [1, 1]
