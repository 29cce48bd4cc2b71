import json

import pytest

from tempoquant.bench.bench import _prepared
from tempoquant.bench.records import Records, is_records
from tempoquant.errors import FormatError, InputError


def test_records_come_back_and_are_appended(tmp_path):
    path = tmp_path / "results.jsonl"
    first = Records(path)
    assert first.records == [] and not path.exists()
    first.append({"id": "a", "value": 1})
    second = Records(path)
    second.append({"id": "b", "value": 2})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert Records(path).by_id == {"a": {"id": "a", "value": 1}, "b": {"id": "b", "value": 2}}


@pytest.mark.parametrize("torn", ['{"id": "b", "val', '{"id": "b", "value": 2}', "{", "\ufffd"])
def test_a_half_written_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "results.jsonl"
    path.write_text('{"id": "a"}\n' + torn)
    found = Records(path)
    assert found.records == [{"id": "a"}] and path.read_text() == '{"id": "a"}\n'
    found.append({"id": "b"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n'


@pytest.mark.parametrize("line", ["{", "[1]", '{"name": "x"}', "", "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"id": "a"}}\n{line}\n{{"id": "b"}}\n')
    with pytest.raises(FormatError, match="line 2 is no record"):
        Records(path)


def test_what_json_has_no_number_for_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Records(tmp_path / "r.jsonl").append({"id": "a", "value": float("nan")})
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    "content", ["my own notes, without an end of line", "1 2 3\n", '{"name": "no record"}\n', "[]\n"]
)
def test_somebody_elses_results_are_not_taken_for_a_benchs(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    assert not is_records(path)
    with pytest.raises(InputError, match="is no bench's folder"):
        _prepared(tmp_path)
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["", '{"id": "a"}\n', '{"id": "a"}\n{"id": "b", "torn', '{"id": "torn'])
def test_a_benchs_own_results_are_continued(tmp_path, content):
    (tmp_path / "results.jsonl").write_text(content)
    assert is_records(tmp_path / "results.jsonl") and _prepared(tmp_path) == tmp_path
