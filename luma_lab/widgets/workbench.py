"""The workbench: what a lab holds, what happens in it, search by example, the tuner."""

import threading
import time
import weakref

import panel as pn
import param

from luma_lab.errors import LumaError
from luma_lab.widgets import markup
from luma_lab.widgets.example import ExampleSearch, meta_text
from luma_lab.widgets.notebook import load_assets
from luma_lab.widgets.tuner import IndexTuner
from luma_lab.widgets.tuner_view import card, html
from luma_lab.widgets.worker import Worker, in_words

EVENTS = 20
PAUSE_SECS = 0.25  # at most four refreshes a second, however fast others write


class Workbench(pn.viewable.Viewer):
    """A lab at a glance: collections, latest events, search by example and the index tuner.

    It follows the lab: every commit, of any process, refreshes it. Works in a notebook cell
    and as a page; `page` makes one for each visitor.

    Parameters
    ----------
    lab : Lab
    """

    overview = param.Dict({}, doc="Path, head, epoch, number of collections and points.")
    collections = param.List([], doc="One dict for each collection.")
    events = param.List([], doc="The latest `Event`s, newest first.")
    error = param.String("", doc="What went wrong last, in words.")

    def __init__(self, lab, **params):
        load_assets()
        super().__init__(**params)
        self.lab = lab
        self.example = ExampleSearch(lab)
        self.tuner = IndexTuner(lab)
        self._closed = threading.Event()
        self._worker = Worker(self._fail, name="luma-workbench")
        self.refresh()
        # Weak: a lab must not keep alive every workbench a notebook ever showed.
        self._unsubscribe = _follow(lab, weakref.ref(self))

    def refresh(self):
        """Read the lab again, now."""
        names, points, rows = [], 0, []
        for collection in self.lab.collections():
            names.append(collection.name)
            row = _row(collection)
            points += row.get("points", 0)
            rows.append(row)
        head = self.lab.head
        since = max(self.lab.first_offset - 1, head - EVENTS, 0)
        latest = self.lab.events.read(since, limit=EVENTS)[::-1]
        self.param.update(
            overview={
                "path": str(self.lab.path),
                "head": head,
                "epoch": self.lab.epoch,
                "collections": len(rows),
                "points": points,
            },
            collections=rows,
            events=latest,
            error="",
        )
        if names != list(self.tuner.param.collection.objects):
            self.tuner.refresh_collections()
            self.example.refresh_collections()

    def close(self):
        """Stop following the lab and cancel what runs here."""
        self._closed.set()
        self._unsubscribe()
        self._worker.close()
        self.example.close()
        self.tuner.close()

    def wait(self, timeout=None):
        """Block until the last refresh is done; return whether nothing is left to do."""
        return self._worker.wait(timeout)

    def _noticed(self):
        self._worker.submit("refresh", self._refresh)

    def _refresh(self):
        self.refresh()
        self._closed.wait(PAUSE_SECS)

    def _fail(self, error):
        self.error = in_words(error)

    def __panel__(self):
        p = self.param
        left = card(
            html(markup.heading("Collections")),
            html(pn.bind(_collections_table, p.collections), margin=0),
        )
        right = card(
            html(markup.heading("Latest events", "The last 20 changes, as they are committed.")),
            html(
                pn.bind(_events_table, p.events),
                margin=0,
                styles={"max-height": "420px", "overflow-y": "auto"},
            ),
        )
        return pn.Column(
            html(
                pn.bind(lambda text: markup.note(text, "bad"), p.error),
                visible=pn.bind(bool, p.error),
            ),
            html(pn.bind(_overview_tiles, p.overview), margin=(16, 0, 14, 0)),
            left,
            pn.Spacer(height=14),
            pn.Column(
                self.tuner,
                sizing_mode="stretch_width",
                margin=(0, 0, 14, 0),
                visible=pn.bind(bool, p.collections),
            ),
            pn.Row(
                pn.Column(
                    self.example,
                    sizing_mode="stretch_width",
                    margin=(0, 14, 0, 0),
                    visible=pn.bind(bool, p.collections),
                ),
                pn.Column(right, sizing_mode="stretch_width", margin=0),
                sizing_mode="stretch_width",
                margin=0,
            ),
            sizing_mode="stretch_width",
            margin=0,
        )

    def __repr__(self):
        return f"Workbench({self.lab!r})"


def page(lab):
    """Return a function that builds the workbench page anew for each visitor.

    Parameters
    ----------
    lab : Lab

    Returns
    -------
    callable() -> panel_material_ui.Page
        For `panel.io.server` and `BokehTornado`; asks no other host for anything.
    """

    # Known to this process from now on: another may have sent the page that asks it for them.
    import panel_material_ui  # noqa: F401

    def build():  # Panel calls plain functions only; a partial it would print
        return _build_page(lab)

    return build


def _build_page(lab):
    from panel.io.resources import LOCAL_DIST
    from panel_material_ui import Page

    if pn.state.curdoc is not None:
        # Panel notes this where it sends the page. Where another process did, it would ask a CDN.
        pn.state.curdoc.template_variables.setdefault("dist_url", LOCAL_DIST)
    try:
        main = workbench = Workbench(lab)
    except LumaError as error:
        main = html(markup.note(f"The workbench can't open: {error}", "bad"))
    else:
        if pn.state.curdoc is not None and pn.state.curdoc.session_context is not None:
            pn.state.on_session_destroyed(lambda _: workbench.close())
    return Page(
        title="Luma Lab",
        main=[pn.Column(main, sizing_mode="stretch_width", margin=(0, 20, 24, 20))],
        main_width=1280,
        theme_toggle=False,
        theme_config={"palette": {"primary": {"main": "#17324f"}}},
        busy_indicator=None,
    )


def _follow(lab, reference):
    def noticed():
        workbench = reference()
        if workbench is not None:
            workbench._noticed()

    unsubscribe = lab.on_commit(noticed)
    weakref.finalize(reference(), unsubscribe)
    return unsubscribe


def _row(collection):
    try:
        info, status = collection.info(), collection.index_status()
    except LumaError as error:
        return {"name": collection.name, "status": str(error)}
    return {
        "name": info.name,
        "dim": info.dim,
        "metric": info.metric,
        "points": info.live_count,
        "bytes": info.file_bytes,
        "index": status["kind"],
        "status": _index_words(status),
    }


def _index_words(status):
    if status["progress"] < 1:
        return f"building, {100 * status['progress']:.0f} %"
    if not status["available"]:
        return "every search is exact"
    waiting = status["points"] - status["indexed_points"]
    tail = "all points" if waiting <= 0 else f"{markup.count(waiting)} newer points scanned"
    list_size = status["params"].get("search_list_size")
    return f"{tail}, list size {list_size}" if list_size else tail


def _overview_tiles(overview):
    if not overview:
        return ""
    return markup.tiles(
        [
            ("collections", markup.count(overview["collections"]), ""),
            ("points", markup.count(overview["points"]), ""),
            ("head of the log", markup.count(overview["head"]), ""),
            ("epoch", markup.count(overview["epoch"]), ""),
        ]
    )


def _collections_table(rows):
    if not rows:
        return (
            '<div class="empty">This lab holds no collections yet. Create one in Python:'
            "<pre>docs = lab.create_collection(&quot;docs&quot;, dim=384)\n"
            "docs.upsert(ids, vectors, metas)</pre>"
            "or load the shipped data sets from a terminal:<pre>luma demo</pre></div>"
        )
    columns = [
        ("name", "name"),
        ("points", "number"),
        ("dim", "number"),
        ("metric", "text"),
        ("vectors on disk", "number"),
        ("index", "text"),
        ("status", "text"),
    ]
    return markup.table(columns, [_cells(row) for row in rows])


def _cells(row):
    if "dim" not in row:
        return (row["name"], "–", "–", "–", "–", "–", row["status"])
    return (
        row["name"],
        markup.count(row["points"]),
        str(row["dim"]),
        row["metric"],
        " ".join(markup.size(row["bytes"])),
        row["index"],
        row["status"],
    )


def _events_table(events):
    if not events:
        return '<div class="empty">Nothing has happened yet. Every write appears here.</div>'
    columns = [("offset", "number"), ("time", "mono"), ("type", "name"), ("of what", "text")]
    return markup.table(
        columns,
        [
            (
                str(event.offset),
                time.strftime("%H:%M:%S", time.localtime(event.ts_ms / 1000)),
                event.type,
                _subject(event),
            )
            for event in events
        ],
    )


def _subject(event):
    data = event.data if isinstance(event.data, dict) else {}
    job = data.get("job") if isinstance(data.get("job"), dict) else {}
    named = (
        event.key
        or data.get("id")
        or " ".join(str(job[name]) for name in ("kind", "state") if name in job)
    )
    where = event.collection or ""
    if named:
        return f"{where} / {named}" if where else str(named)
    return where or meta_text(event.data, limit=80)
