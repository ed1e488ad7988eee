"""``luma compact``, also called ``luma vacuum``: give back the space of what was deleted."""

from pathlib import Path
from typing import Annotated

import typer

MB = 1 << 20


def register(app):
    """Add both names of the command to the command line."""
    app.command("compact")(compact)
    app.command("vacuum", help="The same as compact.")(compact)


def compact(
    directory: Annotated[Path, typer.Argument(help="A lab's directory.")],
    collection: Annotated[
        str | None, typer.Option(help="Only this collection, and not the database file.")
    ] = None,
):
    """Rewrite collections without dead rows and the database without free pages.

    A server may be running on the directory: searches and writes go on.
    """
    import luma_lab as luma
    from luma_lab.errors import NotFound

    if not (directory / "luma.db").is_file():
        raise NotFound(f"{directory} is not a lab: there is no luma.db in it")
    with luma.open(directory, auto_index=False) as lab:
        if collection is not None:
            _tell(collection, lab.collection(collection).compact().result())
            return
        result = lab.compact().result()
        for name, told in result["collections"].items():
            _tell(name, told)
        database = result["database"]
        if "kept" in database:
            print(f"luma.db  left as it is: {database['kept']}")
        else:
            print(f"luma.db  {database['bytes_freed'] / MB:.1f} MB freed")


def _tell(name, result):
    dead = result["rows_before"] - result["rows"]
    index = f", index {result['index']}" if result["index"] else ""
    print(f"{name}  {dead} dead rows, {result['bytes_freed'] / MB:.1f} MB freed{index}")
