"""``tempoquant methods``."""

from tempoquant.cli import app
from tempoquant.cli.options import Json, Overwrite, Plugins, check_json, check_overwrite, console, write_json
from tempoquant.methods import METHODS, load_plugins

COLUMNS = ("method", "readings", "what it does", "needs", "integer engine", "paper")


@app.command("methods")
def methods_command(plugin: Plugins = None, overwrite: Overwrite = False, json_file: Json = None) -> None:
    """List the quantization methods, installed plugins' included.

    Example: tempoquant methods
    """
    check_overwrite(overwrite, json=json_file)
    check_json(json_file, overwrite)
    load_plugins(plugin or ())
    from rich.table import Table

    table = Table(*COLUMNS, box=None)
    for m in METHODS.values():
        table.add_row(m.name, ", ".join(m.readings), m.summary, m.needs, m.engine, m.paper)
    console().print(table)
    names = ("name", "readings", "summary", "needs", "engine", "paper")
    write_json(json_file, [{name: getattr(m, name) for name in names} for m in METHODS.values()])
