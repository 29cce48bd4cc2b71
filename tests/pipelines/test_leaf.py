import ast
from pathlib import Path

import pytest

import tempoquant

ROOT = Path(tempoquant.__file__).parent


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("pipelines", {"documents", "errors", "precision", "predictions", "progress", "randomness", "sharing"}),
        ("evaluation", {"caches", "documents", "errors", "files", "outputs", "pipelines", "progress", "randomness"}),
    ],
)
def test_leaf_rooms_import_none_of_the_others(room, allowed):
    for path in (ROOT / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("tempoquant."):
                assert module.split(".")[1] in allowed | {room}, f"{path.name} imports {module}"
