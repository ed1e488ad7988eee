"""The index tuner: build a graph, move the slider, see recall and latency move."""

import statistics
import threading
import time
import weakref
from functools import partial

import panel as pn
import param

from luma_lab.errors import Cancelled, InvalidArgument, WaitTimeout
from luma_lab.widgets import markup, tuner_view
from luma_lab.widgets.figure import RecallFigure
from luma_lab.widgets.notebook import load_assets
from luma_lab.widgets.subject import subject_of_collection, subject_of_dataset
from luma_lab.widgets.worker import Worker, in_words

LIST_SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # about √2 apart: an even curve
ROUNDS = 3  # medians over three: steady enough to compare, quick enough to follow a slider
BUILD_PARAMETERS = ("max_degree", "build_list_size", "alpha")
NOTHING_BUILT = {"index": None, "built": {}, "sweep": [], "current": None, "build_seconds": None}


class IndexTuner(pn.viewable.Viewer):
    """Drag the list size and see recall move, measured at that setting.

    State is `param`, numbers come from `luma_lab.bench`. Building and measuring happen in a
    thread; `wait` blocks until they are done, for use in a script.

    Parameters
    ----------
    source : Lab or luma_lab.bench.Dataset
        A lab offers its collections; a data set needs no engine.
    collection : str, optional
        The collection chosen at first; only with a lab.
    queries : array of shape (n_queries, dim), optional
        Without them a data set's own are used; from a collection up to 100 random points are
        held out of the index that is built here.

    Raises
    ------
    InvalidArgument
        If `source` is neither or holds no vectors, or `collection` is given with a data set.
    DimensionMismatch
        If `queries` do not fit the data set; with a lab the panel says so at Build.
    CollectionNotFound
        If the lab has no such collection.

    Examples
    --------
    >>> tuner = IndexTuner(lab)                                         # doctest: +SKIP
    >>> tuner.build(); tuner.wait(); tuner.current["recall"]            # doctest: +SKIP
    """

    collection = param.Selector(default=None, objects=[], allow_None=True, doc="Data to index.")
    max_degree = param.Integer(48, bounds=(8, 128), doc="R: most neighbours of a node.")
    build_list_size = param.Integer(100, bounds=(16, 400), doc="L while building.")
    alpha = param.Number(1.2, bounds=(1.0, 2.0), step=0.05, doc="Long edges kept while pruning.")
    search_list_size = param.Integer(64, bounds=(8, 256), doc="L: candidates kept in a search.")
    k = param.Integer(10, bounds=(1, 100), doc="Answers of a query.")

    phase = param.Selector(
        default="idle", objects=["idle", "building", "measuring"], doc="What the thread does."
    )
    progress = param.Number(0.0, bounds=(0.0, 1.0), doc="Of the build or of the sweep.")
    progress_text = param.String("", doc="Words under the progress bar.")
    sweep = param.List([], doc="Measurements (dict) of the present index by search_list_size.")
    current = param.Dict(None, allow_None=True, doc="Measurement at `search_list_size`.")
    index = param.Parameter(None, doc="The built VamanaIndex, or None.")
    built = param.Dict({}, doc="Build parameters of `index`.")
    build_seconds = param.Number(None, allow_None=True, doc="Wall time of the build.")
    source_note = param.String("", doc="Where the queries come from.")
    error = param.String("", doc="What went wrong last, in words.")
    applying = param.Boolean(False, doc="Whether the collection's own index is being built.")
    apply_progress = param.Number(0.0, bounds=(0.0, 1.0))
    apply_text = param.String("", doc="What applying did.")

    def __init__(self, source, *, collection=None, queries=None, **params):
        self.is_lab = hasattr(source, "collections")
        if not self.is_lab and not hasattr(source, "base"):
            raise InvalidArgument(
                f"source is a {type(source).__name__}; expected a Lab or a bench Dataset"
            )
        if not self.is_lab and collection is not None:
            raise InvalidArgument("collection is given, but the source is a data set, not a Lab")
        load_assets()
        super().__init__(**params)
        self.source = source
        self._queries = queries
        self._subject = None
        self._cancel = threading.Event()
        self._job = None
        self._figures = weakref.WeakSet()
        self._worker = Worker(self._fail, name="luma-tuner")
        self._applier = Worker(self._fail_applying, name="luma-apply")
        if self.is_lab:
            self.refresh_collections()
            if collection is not None:
                self.collection = source.collection(collection).name
        else:
            self._subject = subject_of_dataset(source, queries=queries)
            self.param.collection.objects = [source.name]
            self.param.update(collection=source.name, source_note=self._subject.note)
        self._follow_k()
        self.param.watch(self._forget_index, "collection")
        self.param.watch(self._follow_k, "k")
        self.param.watch(self._remeasure, "search_list_size")
        self.param.watch(self._draw, ["sweep", "current"])

    # -- verbs ------------------------------------------------------------------------------

    @property
    def data(self):
        """The bench `Dataset` that was measured last, or None."""
        return None if self._subject is None else self._subject.data

    def refresh_collections(self):
        """Offer the collections the lab has now."""
        if not self.is_lab:
            return
        collections = self.source.collections()
        names = [each.name for each in collections]
        if names != list(self.param.collection.objects):
            self.param.collection.objects = names
        if self.collection not in names:
            # The largest shows most: a few hundred points are found at any setting.
            largest = max(collections, key=len, default=None)
            self.collection = None if largest is None else largest.name

    def build(self):
        """Start building an index with the present parameters, then sweep the list sizes."""
        if self.collection is None:
            self.error = "There is no collection to index yet: create one first."
            return
        self._supersede()
        settings = {name: getattr(self, name) for name in BUILD_PARAMETERS}
        self.param.update(
            phase="building",
            progress=0.0,
            progress_text="Reading the vectors",
            error="",
            apply_text="",
            **NOTHING_BUILT,
        )
        self._worker.submit("build", partial(self._build, self._cancel, settings))

    def cancel(self):
        """Stop the build (no index is left) or the sweep (what was measured stays)."""
        self._cancel.set()

    def apply(self):
        """Build the lab's own index of this collection with the measured parameters.

        It is a job of the engine: it goes on when this page is closed.
        """
        if not self.is_lab or self.index is None:
            self.error = "Build and measure an index here first, then apply its parameters."
            return
        settings = {**self.built, "search_list_size": self.search_list_size}
        self.param.update(applying=True, apply_progress=0.0, apply_text="", error="")
        self._applier.submit("apply", partial(self._apply, self.collection, settings))

    def cancel_apply(self):
        """Ask the engine to stop the index build that `apply` started."""
        if self._job is not None:
            self._job.cancel()

    def wait(self, timeout=None):
        """Block until building, measuring and applying are done.

        Parameters
        ----------
        timeout : float, optional
            Seconds, for each of the two threads.

        Returns
        -------
        bool : whether nothing is left to do
        """
        return self._worker.wait(timeout) and self._applier.wait(timeout)

    def close(self):
        """Cancel what runs here and take no more work; an applied job goes on."""
        self._cancel.set()
        self._worker.close()
        self._applier.close()

    # -- in the worker's thread -------------------------------------------------------------

    def _build(self, cancel, settings):
        from luma_lab.index import VamanaIndex

        self.phase = "building"  # a sweep that just ended may have said "idle"
        try:
            self._stop_if(cancel)
            subject = self._subject = self._snapshot()
            self.source_note = subject.note
            index = VamanaIndex(dim=subject.dim, metric=subject.data.metric, **settings)
            self.progress_text = "Compiling, the first time on this machine"
            # Compiled code comes first: build time should tell of the index, not of the compiler.
            VamanaIndex(dim=subject.dim, metric=subject.data.metric).build(subject.data.base[:64])
            started = time.perf_counter()
            index.build(subject.data.base, progress=partial(self._advance, cancel, started))
            self._stop_if(cancel)
        except Cancelled as cancelled:
            if cancel is self._cancel:
                self.param.update(
                    phase="idle", progress=0.0, progress_text=str(cancelled), **NOTHING_BUILT
                )
            return
        seconds = time.perf_counter() - started
        self.param.update(
            index=index,
            built=settings,
            build_seconds=seconds,
            progress=1.0,
            progress_text=f"{markup.count(subject.n_points)} points in {markup.figures(seconds)} s",
        )
        self._start_sweep()

    def _snapshot(self):
        if not self.is_lab:
            return self._subject
        # Not kept from build to build: a collection moves on.
        return subject_of_collection(self.source.collection(self.collection), queries=self._queries)

    def _advance(self, cancel, started, fraction):
        self._stop_if(cancel)
        done = min(1.0, max(float(fraction), self.progress))
        if done - self.progress < 0.005:
            return
        elapsed = time.perf_counter() - started
        left = f", about {elapsed / done - elapsed:.0f} s left" if 0.05 < done < 1 else ""
        self.param.update(
            progress=done, progress_text=f"Building: {100 * done:.0f} %, {elapsed:.1f} s{left}"
        )

    def _stop_if(self, cancel):
        if cancel.is_set():
            raise Cancelled("The build was cancelled; no index was kept.")

    def _start_sweep(self):
        if self.index is None:
            return
        self.param.update(phase="measuring", sweep=[], error="")
        self._measure_current()
        # Round after round, not size after size: a slow moment of the machine falls on all alike.
        sizes = [size for size in LIST_SIZES if size >= self.k] * ROUNDS
        self._worker.submit("sweep", partial(self._sweep_on, self._cancel, sizes, {}))

    def _sweep_on(self, cancel, sizes, found):
        """Measure the first of `sizes` and queue the rest; so the slider goes in between.

        `found` maps a list size to its measurements so far.
        """
        if not sizes:
            # Again, now that caches are as warm as they were for the curve.
            self._measure_current()
        if cancel.is_set() or self.index is None or not sizes:
            if cancel is self._cancel:
                self.phase = "idle"
            return
        size, *rest = sizes
        measured = self._measure(size, rounds=1)
        if measured is not None:
            found = {**found, size: [*found.get(size, []), measured]}
            self.sweep = [_middle(each) for each in found.values()]
        self._worker.submit("sweep", partial(self._sweep_on, cancel, rest, found))

    def _measure_current(self):
        found = self._measure(self.search_list_size)
        if found is not None:
            self.current = found

    def _measure(self, search_list_size, *, rounds=ROUNDS):
        """Return what `bench.measure` finds, or None when the index was dropped meanwhile."""
        from luma_lab import bench

        index, data, k = self.index, self.data, self.k
        if index is None or data is None:
            return None
        found = bench.measure(index, data, k=k, rounds=rounds, search_list_size=search_list_size)
        return {**found, "k": k} if index is self.index and k == self.k else None

    def _apply(self, name, settings):
        self._job = job = self.source.collection(name).build_index(kind="vamana", **settings)
        try:
            while True:
                try:
                    job.result(timeout=0.2)
                    break
                except WaitTimeout:
                    self.apply_progress = min(1.0, max(0.0, float(job.progress)))
        finally:
            self._job = None
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        self.param.update(
            applying=False,
            apply_progress=1.0,
            apply_text=f"Collection {name!r} now searches a Vamana index: {words}.",
        )

    def _fail(self, error):
        self.param.update(phase="idle", progress_text="", error=in_words(error))

    def _fail_applying(self, error):
        self.param.update(applying=False, error=f"Not applied: {in_words(error)}")

    # -- reactions --------------------------------------------------------------------------

    def _supersede(self):
        """Stop what runs, with an event of its own: what comes next must not share its fate."""
        self._cancel.set()
        self._cancel = threading.Event()

    def _forget_index(self, _):
        self._supersede()
        self._subject = None  # only a lab has another collection to choose
        self.param.update(
            phase="idle",
            progress=0.0,
            progress_text="",
            error="",
            apply_text="",
            source_note="",
            **NOTHING_BUILT,
        )

    def _follow_k(self, *_):
        low, high = type(self).param.search_list_size.bounds
        self.param.search_list_size.bounds = (max(low, self.k), high)
        if self.search_list_size < self.k:
            self.search_list_size = self.k
        if self.index is not None:
            self._supersede()
            self._worker.submit("sweep", self._start_sweep)

    def _remeasure(self, _):
        if self.index is not None:
            self._worker.submit("measure", self._measure_current)

    def _draw(self, *_):
        for each in list(self._figures):
            each.show(self.sweep, self.current, self.k)

    def __panel__(self):
        # A figure for every display: a Bokeh model lives in one document only.
        figure = RecallFigure()
        figure.show(self.sweep, self.current, self.k)
        self._figures.add(figure)
        return tuner_view.layout(self, figure)

    def __repr__(self):
        state = "no index" if self.index is None else f"list size {self.search_list_size}"
        return f"IndexTuner({self.collection!r}, {state}, {self.phase})"


def _middle(measurements):
    """Return one measurement: the medians of the times, of what does not vary the last."""
    medians = {
        name: statistics.median(each[name] for each in measurements)
        for name in ("qps", "p50_ms", "p99_ms")
    }
    return {**measurements[-1], **medians}
