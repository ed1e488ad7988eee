"""The command line: ``luma serve``, ``luma demo``, ``luma warmup``, ``luma verify``;
``luma keys`` and ``luma compact`` are in modules of their own, as is what a demo does.

Every command imports what it needs when it runs, so that ``luma --help`` is quick.
"""

import difflib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from luma_lab import cli_compact, cli_keys
from luma_lab.cli_demo import DEMO_K, demonstrate
from luma_lab.errors import Conflict, LumaError

DEMO_SETS = ("wordnet2k", "sift_cc0_8k", "perlfaq")
DEMO_DIRECTORY = "luma-demo"
DEMO_RECALL = 0.95
MANY_FILES = 65_536
M_ARENA_MAX, MOST_ARENAS = -8, 2  # of the C library


class Commands(TyperGroup):
    """The commands; an unknown one is an error that names the nearest."""

    def resolve_command(self, ctx, args):
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint} There are: {', '.join(known)}.")
        return super().resolve_command(ctx, args)


class ServeCommand(TyperCommand):
    """`serve`, whose help ends with the table of all settings."""

    def format_epilog(self, ctx, formatter):
        from luma_lab.config import SETTINGS

        with formatter.section("Settings (flag, else environment, else .env, else default)"):
            formatter.write_dl(
                [
                    (", ".join(row.env), f"{row.help} [default: {_shown(row.default)}]")
                    for row in SETTINGS
                ]
            )


app = typer.Typer(
    name="luma",
    cls=Commands,
    help="Luma Lab: vector search, state and events, tried out in a notebook and served unchanged.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
):
    """Show the help when no command is named."""
    if version:
        from luma_lab import __version__

        print(f"luma {__version__}")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command(cls=ServeCommand)
def serve(
    port: Annotated[str | None, typer.Option("--port", help="TCP port; 0: any free one.")] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", "--host", help="Address to listen on.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "--data", help="The lab's directory.")
    ] = None,
    auth: Annotated[
        str | None, typer.Option("--auth", help="'key', or 'open' for a laboratory.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Serve beyond loopback with the key 'dev' or no key."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="'debug', 'info', 'warning' or 'error'.")
    ] = None,
    max_body_mb: Annotated[str | None, typer.Option(help="Largest request body, MiB.")] = None,
    max_json_mb: Annotated[
        str | None, typer.Option(help="Largest value, meta or filter, MiB.")
    ] = None,
    max_vector_dim: Annotated[str | None, typer.Option(help="Most components.")] = None,
    max_k: Annotated[str | None, typer.Option(help="Most hits of one search.")] = None,
    max_key_len: Annotated[str | None, typer.Option(help="Longest state key, bytes.")] = None,
    max_collection_len: Annotated[
        str | None, typer.Option(help="Longest collection name, bytes.")
    ] = None,
    request_timeout_secs: Annotated[
        str | None, typer.Option(help="Seconds until a request is answered with 408.")
    ] = None,
    sqlite_enabled: Annotated[
        bool | None,
        typer.Option(
            "--sqlite-enabled/--no-sqlite-enabled",
            "--sqlite/--no-sqlite",
            help="Whether users may run SQL.",
        ),
    ] = None,
    workers: Annotated[str | None, typer.Option(help="Processes that serve the port.")] = None,
):
    """Serve REST, event streams and the workbench on one port."""
    from luma_lab.config import Settings

    flags = {name: value for name, value in locals().items() if name != "Settings"}
    _serve(Settings(**{name: value for name, value in flags.items() if value is not None}))


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the demo's lab lives; used again when there.")
    ] = Path(DEMO_DIRECTORY),
    port: Annotated[str | None, typer.Option(help="TCP port; 0: any free one.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Load, build and measure, but serve nothing.")
    ] = False,
):
    """Load the shipped data, build an index for each, measure recall, search, serve."""
    import luma_lab as luma
    from luma_lab.config import Settings

    flags = {"bind": "127.0.0.1", "auth": "open", "insecure": False, "data_dir": str(directory)}
    if port is not None:
        flags["port"] = port
    settings = Settings(**flags)
    with luma.open(directory) as lab:
        print(f"Lab in {directory}")
        recalls = {name: demonstrate(lab, name) for name in DEMO_SETS}
    poor = {name: value for name, value in recalls.items() if value < DEMO_RECALL}
    if poor:
        told = ", ".join(f"{name} {value:.3f}" for name, value in poor.items())
        raise Conflict(f"recall@{DEMO_K} below {DEMO_RECALL}: {told}")
    if check:
        print(f"recall@{DEMO_K} is at least {DEMO_RECALL} everywhere")
        return
    _serve(settings)


@app.command()
def warmup():
    """Compile all kernels once, so that later starts only load them."""
    import time

    from luma_lab.kernels import warm_up

    started = time.perf_counter()
    warm_up()
    print(f"kernels ready after {time.perf_counter() - started:.1f} s")


@app.command()
def verify(directory: Annotated[Path, typer.Argument(help="A lab's directory.")]):
    """Check every checksum of a lab; exit status 1 when something is damaged."""
    import luma_lab as luma
    from luma_lab.errors import NotFound

    if not (directory / "luma.db").is_file():
        raise NotFound(f"{directory} is not a lab: there is no luma.db in it")
    with luma.open(directory) as lab:
        report = lab.verify()
    print(report)
    if not report.ok:
        raise typer.Exit(1)


cli_keys.register(app)
cli_compact.register(app)


def main():
    """Run the command line; an error of the house is one line and exit status 1."""
    try:
        app()
    except LumaError as error:
        print(f"luma: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _serve(settings):
    import asyncio
    import secrets
    from importlib.util import find_spec

    import luma_lab as luma
    from luma_lab.service.app import bind
    from luma_lab.service.app import serve as serve_forever
    from luma_lab.service.logs import configure
    from luma_lab.service.workers import Workers

    configure(settings)
    _allow_many_files()
    _share_arenas()
    retention = luma.Retention(
        secs=settings.event_retention_secs,
        events=settings.event_retention_events,
        bytes=settings.event_retention_bytes,
    )
    key = _first_key(settings)
    secret = secrets.token_urlsafe(32)

    def work(sockets=None, announce=None):
        with luma.open(
            settings.data_dir,
            retention=retention,
            auto_index=settings.auto_index,
            index_memory_bytes=settings.index_memory_bytes,
        ) as lab:
            pages = _pages(lab)
            ready = announce and (lambda server: announce(server.url, bool(pages)))
            serving = serve_forever(lab, settings, pages, ready, sockets=sockets, secret=secret)
            asyncio.run(serving)

    def announce(url, has_pages):
        _announce(url, settings, has_pages, key)

    if settings.workers == 1:
        work(announce=announce)
    else:
        sockets = bind(settings)
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        url = f"http://{host}:{sockets[0].getsockname()[1]}"
        has_pages = find_spec("panel") is not None
        Workers(sockets, work).run(settings.workers, lambda: announce(url, has_pages))
    print("stopped")


def _first_key(settings):
    """Make an admin key where there is none yet; return it, to be shown this once."""
    from luma_lab.engine.keys import KeyStore

    if settings.auth == "open":
        return None
    from luma_lab.store.database import Database

    Database(settings.data_dir).close()  # a directory that can hold no lab gets no keys either
    store = KeyStore(settings.data_dir)
    try:
        return None if store.list() else store.create("Admin", "admin")[1]
    finally:
        store.close()


def _announce(url, settings, has_pages, key):
    print(f"Luma Lab serves {settings.data_dir}")
    print(f"  REST       {url}/v1  (events: /v1/stream, health: /v1/health)")
    if has_pages:
        print(f"  workbench  {url}/lab/")
    else:
        print("  workbench  not installed: pip install 'luma_lab[lab]'")
    if settings.auth == "open":
        print("  auth       open: no key is asked for")
    elif settings.unguarded:
        print("  auth       key 'dev'; set API_KEY to serve others than this machine")
    else:
        print("  auth       the configured key")
    if key is not None:
        print(f"  admin key  {key}  (shown this once; more: luma keys)")
    if settings.unguarded and settings.insecure:
        print("  WARNING    --insecure: everyone who reaches this port can read and write")
    print("Ctrl-C stops.", flush=True)


def _pages(lab):
    from importlib.util import find_spec

    if find_spec("panel") is None:
        return None
    from luma_lab.widgets import workbench

    return {"/": workbench.page(lab)}


def _share_arenas():
    """Let threads share what the C library of Linux keeps of freed memory, for each its own else.

    Where it is set otherwise in the environment (MALLOC_ARENA_MAX) it stays so.
    """
    import ctypes

    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, MOST_ARENAS)


def _allow_many_files():
    # Every stream is an open file; shells hand out far fewer than the kernel allows.
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shown(default):
    return "none" if default is None else default


if __name__ == "__main__":
    main()
