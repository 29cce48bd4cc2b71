"""Names of export targets; one of a user's own is in tests/test_extensions.py."""

import pytest

from tempoquant.cli import main
from tempoquant.errors import InputError
from tempoquant.exporting import TARGETS, register_target


def test_names_are_taken_once_and_unknown_ones_are_refused(tmp_path, monkeypatch, capfd):
    with pytest.raises(InputError, match="export target 'onnx' exists already"):
        register_target("onnx", TARGETS["onnx"])
    monkeypatch.setattr("sys.argv", ["tempoquant", "export", "nowhere", "--to", "opnvino", "-o", str(tmp_path / "x")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "did you mean openvino" in capfd.readouterr().err
