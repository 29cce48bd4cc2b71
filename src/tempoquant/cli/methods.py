"""``tempoquant methods``."""

from rich.table import Table

from tempoquant.cli import app
from tempoquant.cli.options import Json, Overwrite, check_new, console, write_json
from tempoquant.methods import METHODS


@app.command("methods")
def methods_command(overwrite: Overwrite = False, json_file: Json = None) -> None:
    """List the quantization methods.

    Example: tempoquant methods
    """
    if json_file is not None:
        check_new(json_file, overwrite)
    table = Table("method", "readings", "what it does", "paper", box=None)
    for method in METHODS.values():
        table.add_row(method.name, ", ".join(method.readings), method.summary, method.paper)
    console().print(table)
    rows = [{"name": m.name, "readings": m.readings, "summary": m.summary, "paper": m.paper} for m in METHODS.values()]
    write_json(json_file, rows)
