"""Search by example: take a stored point, see what lies nearest to it."""

import json
import random

import panel as pn
import param

from luma_lab.errors import InvalidArgument, PointNotFound
from luma_lab.widgets import markup
from luma_lab.widgets.notebook import load_assets
from luma_lab.widgets.tuner_view import card, html
from luma_lab.widgets.worker import Worker, in_words

PAGE = 100
TEXT_FIELDS = ("text", "title", "question", "definition", "name")  # what to read first in a meta


class ExampleSearch(pn.viewable.Viewer):
    """Choose a collection and a stored point; its nearest points appear with their meta.

    Parameters
    ----------
    lab : Lab
    collection : str, optional
        The collection chosen at first.
    """

    collection = param.Selector(default=None, objects=[], allow_None=True, doc="Where to look.")
    id = param.String("", doc="The stored point to search with.")
    k = param.Integer(10, bounds=(1, 100), doc="Neighbours to show.")
    point = param.Parameter(None, doc="The Point of `id`, or None.")
    hits = param.List([], doc="Nearest points, the point itself left out, best first.")
    receipt = param.Dict(None, allow_None=True, doc="How the search was answered.")
    error = param.String("", doc="What went wrong last, in words.")

    def __init__(self, lab, *, collection=None, **params):
        load_assets()
        super().__init__(**params)
        self.lab = lab
        self._random = random.Random()
        self._worker = Worker(self._fail, name="luma-example")
        self.refresh_collections()
        if collection is not None:
            self.collection = lab.collection(collection).name
        self.param.watch(self._forget, "collection")
        self.param.watch(self._ask, ["id", "k"])

    def refresh_collections(self):
        """Offer the collections the lab has now."""
        names = [each.name for each in self.lab.collections()]
        if names != list(self.param.collection.objects):
            self.param.collection.objects = names
        if self.collection not in names:
            self.collection = names[0] if names else None

    def pick(self):
        """Choose a stored point by chance and search with it."""
        self._worker.submit("pick", self._pick)

    def wait(self, timeout=None):
        """Block until the search is answered; return whether nothing is left to do."""
        return self._worker.wait(timeout)

    def close(self):
        """Take no more work."""
        self._worker.close()

    def _pick(self):
        if self.collection is None:
            raise InvalidArgument("there is no collection to pick a point from yet")
        collection = self.lab.collection(self.collection)
        if not len(collection):
            raise InvalidArgument(f"collection {collection.name!r} holds no points yet")
        # A random direction, then one of the points that lie there: reaches all over the
        # collection without reading all its ids.
        info = collection.info()
        direction = [self._random.gauss(0, 1) for _ in range(info.dim)]
        near = collection.search(direction, k=min(PAGE, info.live_count))
        choice = self._random.choice(near).id
        if choice == self.id:
            self._search()
        else:
            self.id = choice

    def _ask(self, _):
        if self.id:
            self._worker.submit("search", self._search)

    def _search(self):
        id, k = self.id, self.k
        if not id or self.collection is None:
            return
        collection = self.lab.collection(self.collection)
        point = collection.get(id)
        if point is None:
            raise PointNotFound(self.collection, id)
        found = collection.search(point.vector, k=k + 1, explain=True)
        others = [hit for hit in found if hit.id != id][:k]
        self.param.update(point=point, hits=others, receipt=found.receipt, error="")

    def _fail(self, error):
        self.param.update(point=None, hits=[], receipt=None, error=in_words(error))

    def _forget(self, _):
        self.param.update(id="", point=None, hits=[], receipt=None, error="")

    def __panel__(self):
        p = self.param
        chance = pn.widgets.Button(
            name="Random point", button_type="primary", width=115, margin=(22, 0, 8, 0)
        )
        chance.on_click(lambda _: self.pick())
        small = {"margin": (2, 10, 8, 0)}
        return card(
            html(
                markup.heading(
                    "Search by example", "The nearest neighbours of a point that is stored."
                )
            ),
            pn.FlexBox(
                pn.widgets.Select.from_param(p.collection, name="Collection", width=160, **small),
                pn.widgets.TextInput.from_param(
                    p.id, name="Point id", placeholder="an id, then Enter", width=150, **small
                ),
                pn.widgets.IntInput.from_param(p.k, name="k", width=70, **small),
                chance,
                margin=0,
            ),
            html(
                pn.bind(lambda text: markup.note(text, "bad"), p.error),
                visible=pn.bind(bool, p.error),
            ),
            html(pn.bind(_chosen, p.point), visible=pn.bind(_there, p.point)),
            html(pn.bind(_answer, p.hits, p.receipt), margin=0),
        )


def _there(point):
    return point is not None


def _chosen(point):
    if point is None:
        return ""
    return markup.note(f"{point.id}: {meta_text(point.meta)}" if point.meta else point.id)


def _answer(hits, receipt):
    if receipt is None:
        return markup.hint("Pick a random point, or type the id of one.")
    if not hits:
        return markup.hint("It is the only point of this collection.")
    columns = [("", "number"), ("id", "mono"), ("score", "number"), ("meta", "text")]
    rows = [
        (str(rank), hit.id, _score(hit.score), meta_text(hit.meta))
        for rank, hit in enumerate(hits, 1)
    ]
    times = receipt.get("times_ms", {})
    how = "exact scan" if receipt["exact"] else f"{receipt['kind']} index ({receipt['strategy']})"
    words = (
        f"{how}, {markup.count(receipt['comparisons'])} comparisons, "
        f"{markup.count(receipt['hops'])} hops, {markup.figures(sum(times.values()))} ms"
    )
    return markup.table(columns, rows) + markup.hint(words)


def _score(score):
    return f"{score:.4f}" if abs(score) < 100 else f"{score:.6g}"


def meta_text(meta, limit=220):
    """Return what a person would read of a point's meta, at most `limit` characters."""
    if isinstance(meta, dict):
        read = [str(meta[name]) for name in TEXT_FIELDS if isinstance(meta.get(name), str)]
        text = " · ".join(read) or json.dumps(meta, ensure_ascii=False)
    elif meta is None:
        text = ""
    else:
        text = meta if isinstance(meta, str) else json.dumps(meta, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
