import pytest

from tempoquant.errors import InputError
from tempoquant.evaluation import check_measured, judge, parse_requirements

RESULT = {
    "psnr": {"mean": 22.5},
    "ssim": {"mean": 0.9},
    "sqnr": {"db": None},
    "cosine": {"mean": 0.9995, "min": 0.99},
    "temporal_mismatch": 0.0,
    "size": {"ratio": 7.4},
    "distribution": {"fd": {"value": 3.5}, "pr": {"precision": 0.8, "recall": 0.5}},
}


def test_bounds_and_distances():
    wanted = "psnr>=25, temporal_cosine>=0.999,temporal_mismatch<=0,ssim>0.9,size_ratio<7.5,fd<=3,recall>=0.5,sqnr>=40"
    found = {o.text: (o.met, o.by) for o in judge(parse_requirements(wanted, ("fd", "pr")), RESULT)}
    assert found == {
        "psnr>=25": (False, 2.5),
        "temporal_cosine>=0.999": (True, 0),
        "temporal_mismatch<=0": (True, 0),
        "ssim>0.9": (False, 0),
        "size_ratio<7.5": (True, 0),
        "fd<=3": (False, 0.5),
        "recall>=0.5": (True, 0),
        # Equal predictions have no noise: JSON says null.
        "sqnr>=40": (True, 0),
    }
    (infinite,) = judge(parse_requirements("sqnr>=40"), RESULT)
    assert infinite.to_dict() == {"text": "sqnr>=40", "value": None, "met": True, "by": 0.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("psnr", "requirement 'psnr': a metric and its bound"),
        ("psnr>=high", "requirement 'psnr>=high': a metric and its bound"),
        ("psnr=>25", "a metric and its bound"),
        ("psnr>=25,,ssim>0", "requirement '': a metric"),
        ("psn>=25", "unknown metric of a requirement 'psn': did you mean psnr"),
        ("fd<=3", "fd is not measured without --metrics fd"),
        ("recall>=0.5", "recall is not measured without --metrics pr"),
    ],
)
def test_refusals(text, said):
    with pytest.raises(InputError, match=said):
        parse_requirements(text)


def test_a_result_without_the_metric():
    with pytest.raises(InputError, match="no temporal_mismatch"):
        judge(parse_requirements("temporal_mismatch<=0.1"), {**RESULT, "temporal_mismatch": None})
    # That the samples are no images is not that they are equal.
    with pytest.raises(InputError, match="no psnr"):
        judge(parse_requirements("psnr>=25"), {**RESULT, "psnr": None})
    (equal,) = judge(parse_requirements("psnr>=25"), {**RESULT, "psnr": {"mean": None}})
    assert equal.met


def test_requirements_that_samples_do_not_have():
    wanted = parse_requirements("sqnr>=20,relative_error<=0.1")
    check_measured(wanted, (3, 16))
    assert [o.met for o in judge(wanted, {**RESULT, "relative_error": {"mean": 0.2}})] == [True, False]
    for text, shape, said in (
        ("psnr>=25", (3, 16), r"psnr>=25: samples of \(3, 16\) have no PSNR or SSIM, which need images"),
        ("ssim>=0.5", (4, 12, 12), "have no PSNR or SSIM"),
        ("ssim>=0.5", (1, 10, 12), r"samples of \(1, 10, 12\) have no SSIM, which need images \(sides of at least 11"),
    ):
        with pytest.raises(InputError, match=said):
            check_measured(parse_requirements(text), shape)
    check_measured(parse_requirements("psnr>=25"), (1, 10, 12))
