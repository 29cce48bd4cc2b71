"""The tables of a page."""

from types import SimpleNamespace

from tempoquant.report.entries import Entry, read_entries
from tempoquant.report.tables import GLOSSARY, notes, stored_metrics, table


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
        "data_range": 2.0,
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


def test_a_data_range_other_than_that_of_images_is_said():
    for facts, said in (({}, 0), ({"data_range": 2.0}, 0), ({"data_range": 41.26}, 1)):
        found = notes([Entry("a", "a", SimpleNamespace(facts=facts))])
        assert len(found) == said and all("data range, 41.3" in line for line in found)
    kept = {"psnr": {"per_image": [20.0, 30.0]}, "ssim": None, "data_range": 41.26}
    (line,) = stored_metrics([Entry("a", "a", SimpleNamespace(), {"evaluation": kept})])
    assert line["note"] == "2 images, data range 41.3"
    # Samples that are no images have neither.
    assert stored_metrics([Entry("a", "a", SimpleNamespace(), {"evaluation": {"psnr": None, "ssim": None}})]) == []
