"""Files of others are refused in one line before anything is made of them."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from tempoquant.bench.experiment import load_experiment
from tempoquant.bench.records import Records
from tempoquant.documents import LARGEST_JSON, parse_yaml, read_json, read_yaml
from tempoquant.errors import FormatError, InputError
from tempoquant.recipe import Recipe, read_fragment

TENFOLD = "".join(f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in pairwise("abcdefghi"))
MERGED = "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{b}'] * 10)}]}}\n" for b, n in pairwise("abcdefghi"))
YAML = {
    "a billion entries of aliases": (f"a: &a [x]\n{TENFOLD}".encode(), "more than 100000 entries"),
    "a billion entries of merges": (f"a: &a {{k: v}}\n{MERGED}".encode(), "more than 100000 entries"),
    "an alias of itself": (b"a: &a [*a]", "an alias stands within"),
    "deep lists": (b"[" * 100_000, "more than 64 levels"),
    "deep mappings": (b"{a: " * 5_000, "more than 64 levels"),
    "deep through aliases": (
        "".join(f"a{i}: &a{i} {'[' * 40}*a{i - 1}{']' * 40}\n" if i else "a0: &a0 x\n" for i in range(9)).encode(),
        "more than 64 levels|64 levels, with aliases",
    ),
    "not UTF-8": ("method: \u00e9".encode("latin-1"), "can't decode byte 0xe9"),
    "no such day": (b"seed: 2001-99-99", "month must be"),
    "a number of 5000 digits": (b"seed: " + b"9" * 5_000, "4300 digits"),
    "no date": (b"seed: !!timestamp x", "has no attribute"),
    "an object": (b"seed: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "too large": (b"a: 1\n" * 40_000, "200000 bytes, where at most 131072 are read"),
    "a list": (b"- 1", "no mapping"),
}


@pytest.mark.parametrize(("content", "why"), YAML.values(), ids=YAML)
def test_yaml_that_is_refused(content, why, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    for read in (Recipe.from_file, read_fragment, load_experiment):
        with pytest.raises(InputError, match=why) as caught:
            read(str(path))
        text = str(caught.value)
        assert "\n" not in text and "file.yaml" in text and len(text) < 400


def test_yaml_reads_as_before(tmp_path):
    text = "a: &a {x: 1, y: [1, 2.5, null, true, 'no']}\nb: {<<: *a, x: 2}\nc: *a\n"
    (tmp_path / "file.yaml").write_text(text)
    a = {"x": 1, "y": [1, 2.5, None, True, "no"]}
    assert read_yaml(tmp_path / "file.yaml", "it") == {"a": a, "b": {**a, "x": 2}, "c": a}
    assert parse_yaml("4") == 4 and parse_yaml("") is None


JSON = {
    "deep": (b'{"a": ' * 100_000, "more than 64 levels"),
    "deep but closed": (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "more than 64 levels"),
    "not UTF-8": (b'{"a": "\xe9"}', "can't decode byte 0xe9"),
    "a number of 5000 digits": (b'{"a": ' + b"9" * 5_000 + b"}", "4300 digits"),
    "a list": (b"[1]", "no JSON object"),
    "empty": (b"", "Expecting value"),
}


@pytest.mark.parametrize(("content", "why"), JSON.values(), ids=JSON)
def test_json_that_is_refused(content, why, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=why) as caught:
        read_json(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{path} cannot be read: ") and len(text) < 400


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "file.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(FormatError, match=f"at most {LARGEST_JSON} are read"):
        read_json(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path, why in ((tmp_path / "pipe", "no regular file"), (tmp_path / "endless", "no regular file")):
        with pytest.raises(FormatError, match=why):
            read_json(path)
        with pytest.raises(InputError, match=why):
            read_yaml(path, str(path))
    # Files of the kernel have no size, and some of them no end.
    with pytest.raises(FormatError, match="cannot be read"):
        read_json(Path("/proc/self/mounts"))
    with pytest.raises(FormatError, match="name too long"):
        read_json(tmp_path / ("a" * 300))


def test_a_deep_line_among_records(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"id": ' + b"[" * 100_000 + b"\n")
    with pytest.raises(FormatError, match="line 1 is no record"):
        Records(path)
