"""``tempoquant methods``."""

from rich.console import Console
from rich.table import Table

from tempoquant.cli import app
from tempoquant.cli.options import Json, write_json
from tempoquant.methods import METHODS


@app.command("methods")
def methods_command(json_file: Json = None) -> None:
    """List the quantization methods.

    Example: tempoquant methods
    """
    table = Table("method", "readings", "what it does", "paper", box=None)
    for method in METHODS.values():
        table.add_row(method.name, ", ".join(method.readings), method.summary, method.paper)
    Console().print(table)
    rows = [{"name": m.name, "readings": m.readings, "summary": m.summary, "paper": m.paper} for m in METHODS.values()]
    write_json(json_file, rows)
