"""``luma keys``: the API keys of a lab's directory, whether or not a server is running on it."""

from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(
    name="keys", help="Create, list, rotate and revoke API keys; a running server follows at once."
)
DataDir = Annotated[Path, typer.Option("--data-dir", "--data", help="The lab's directory.")]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[str, typer.Option(help="'read', 'write' or 'admin'.")] = "write",
    collections: Annotated[
        str | None, typer.Option(help="Comma list it is confined to; 'b*' is a prefix.")
    ] = None,
    key_prefixes: Annotated[
        str | None, typer.Option(help="Comma list of prefixes of state keys.")
    ] = None,
    data_dir: DataDir = Path("data"),
):
    """Create a key and print it, this once."""
    scopes = {"collections": collections, "key_prefixes": key_prefixes}
    permissions = {name: text.split(",") for name, text in scopes.items() if text is not None}
    with _store(data_dir) as store:
        id, key = store.create(name, role, permissions)
    print(f"id   {id}\nkey  {key}")


@keys.command("list")
def list_keys(data_dir: DataDir = Path("data")):
    """List the keys, newest first; the keys themselves are not stored."""
    with _store(data_dir) as store:
        for key in store.list():
            print(f"{key.id}  {key.role:5}  {key.name}  {key.permissions or ''}".rstrip())


@keys.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="As listed.")], data_dir: DataDir = Path("data")
):
    """Revoke a key at once; its open streams end."""
    with _store(data_dir) as store:
        store.revoke(id)
    print(f"revoked {id}")


@keys.command("rotate")
def rotate_key(
    id: Annotated[str, typer.Argument(help="As listed.")], data_dir: DataDir = Path("data")
):
    """Give a key a new secret and print it; the old one stops at once."""
    with _store(data_dir) as store:
        print(f"key  {store.rotate(id)}")


def _store(data_dir):
    from contextlib import closing

    from luma_lab.engine.keys import KeyStore

    data_dir.mkdir(parents=True, exist_ok=True)
    return closing(KeyStore(data_dir))


def register(app):
    """Add the commands to the command line."""
    app.add_typer(keys)
