"""The tables of a page."""

from types import SimpleNamespace

from tempoquant.report.entries import Entry, read_entries
from tempoquant.report.tables import GLOSSARY, stored_metrics, table


def test_every_column_is_explained_and_filled(folders):
    found = table(read_entries(folders)[0])
    for column in found["columns"][1:]:
        assert column in GLOSSARY or column.startswith("PSNR of 3 images")
    assert {len(row["cells"]) for row in found["rows"]} == {len(found["columns"])}
    assert [row["mark"] for row in found["rows"]].count("use this") == 1


def test_what_evaluations_left():
    kept = {
        "psnr": {"per_image": [20.0, 30.0]},
        "ssim": {"per_image": [None, 0.5]},
        "distribution": {
            "kid": {"name": "KID", "value": 0.01234, "std": 0.001, "generated": 512, "real": 600},
            "extractor": "inception",
        },
        "requirements": [
            {"text": "psnr>=28", "value": 25.0, "met": False, "by": 3.0},
            {"text": "sqnr>=5", "value": None, "met": True, "by": 0.0},
        ],
    }
    found = stored_metrics(
        [Entry("a", "a", SimpleNamespace(), {"evaluation": kept}), Entry("b", "b", SimpleNamespace())]
    )
    assert [(line["name"], line["value"], line["note"]) for line in found] == [
        ("PSNR", "25 dB (20 to 30)", "2 images"),
        ("KID", "0.01234 ± 0.001", "512 images against 600"),
        ("psnr>=28", "25", "missed by 3"),
        ("sqnr>=5", "infinite", "met"),
    ]
