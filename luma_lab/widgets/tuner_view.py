"""How the index tuner looks: widgets bound to its parameters, in one card."""

import panel as pn

from luma_lab.widgets import markup

CARD = """
:host {
  background: white; border: 1px solid #e3e8ef; border-radius: 14px; padding: 18px 20px;
  /* Widgets take these from the notebook's theme, and a dark one writes white on our white. */
  color-scheme: light; color: #1f2733; --text-color: #1f2733;
  --design-background-color: white; --design-background-text-color: #1f2733;
  --design-surface-color: #f6f8fb; --design-surface-text-color: #1f2733;
}
"""


def html(content, **params):
    """Return an HTML pane in the house style; `content` may be bound to parameters."""
    params = {"sizing_mode": "stretch_width", "margin": (0, 0, 10, 0), **params}
    return pn.pane.HTML(content, stylesheets=[markup.STYLE], **params)


def card(*items, **params):
    """Return a white box with rounded corners around `items`."""
    return pn.Column(*items, stylesheets=[CARD], sizing_mode="stretch_width", margin=0, **params)


def layout(tuner, figure):
    """Return the tuner's panel, with fresh widgets for this display.

    Parameters
    ----------
    tuner : IndexTuner
    figure : RecallFigure
    """
    p = tuner.param
    busy = pn.bind(lambda phase: phase != "idle", p.phase)
    what = "Collection" if tuner.is_lab else "Data set"
    wide = {"sizing_mode": "stretch_width", "margin": (2, 0, 8, 0)}
    build = pn.widgets.Button(
        name="Build", button_type="primary", disabled=busy, width=130, margin=(4, 10, 10, 0)
    )
    cancel = pn.widgets.Button(
        name="Cancel",
        disabled=pn.bind(lambda phase: phase == "idle", p.phase),
        width=90,
        margin=(4, 0, 10, 0),
    )
    build.on_click(lambda _: tuner.build())
    cancel.on_click(lambda _: tuner.cancel())
    controls = pn.Column(
        pn.widgets.Select.from_param(p.collection, name=what, disabled=busy, **wide),
        html(pn.bind(markup.hint, p.source_note)),
        html(markup.label("Build parameters"), margin=(6, 0, 6, 0)),
        pn.widgets.IntSlider.from_param(p.max_degree, name="max_degree (R)", step=4, **wide),
        pn.widgets.IntSlider.from_param(
            p.build_list_size, name="build_list_size (L)", step=4, **wide
        ),
        pn.widgets.FloatSlider.from_param(p.alpha, name="alpha", **wide),
        pn.Row(build, cancel, margin=0),
        html(pn.bind(_progress, p.progress, p.progress_text)),
        html(pn.bind(_stale, p.built, p.max_degree, p.build_list_size, p.alpha)),
        width=290,
        margin=(0, 28, 0, 0),
    )
    results = pn.Column(
        pn.Row(
            pn.widgets.IntSlider.from_param(
                p.search_list_size,
                name="search_list_size (L)",
                sizing_mode="stretch_width",
                margin=(2, 20, 8, 0),
                css_classes=["search-list-size"],
            ),
            pn.widgets.IntInput.from_param(p.k, name="k", width=80, margin=(0, 0, 8, 0)),
            sizing_mode="stretch_width",
            margin=0,
        ),
        html(pn.bind(_tiles, p.current, p.build_seconds, p.index, p.k), margin=(4, 0, 10, 0)),
        figure,
        sizing_mode="stretch_width",
        min_width=360,
        margin=0,
    )
    parts = [
        html(
            markup.heading(
                "Index tuner",
                "Build a Vamana graph, then drag search_list_size: the orange point is measured "
                "at that setting, with one query at a time against exact answers.",
            )
        ),
        html(
            pn.bind(lambda text: markup.note(text, "bad"), p.error), visible=pn.bind(bool, p.error)
        ),
        pn.Row(controls, results, sizing_mode="stretch_width", margin=0),
    ]
    if tuner.is_lab:
        parts.append(_apply_row(tuner))
    return card(*parts)


def _apply_row(tuner):
    p = tuner.param
    apply = pn.widgets.Button(
        name="Apply to collection",
        button_type="success",
        width=170,
        margin=(4, 10, 4, 0),
        disabled=pn.bind(lambda index, applying: index is None or applying, p.index, p.applying),
    )
    stop = pn.widgets.Button(
        name="Stop", width=70, margin=(4, 16, 4, 0), visible=pn.bind(bool, p.applying)
    )
    apply.on_click(lambda _: tuner.apply())
    stop.on_click(lambda _: tuner.cancel_apply())
    return pn.Column(
        pn.Row(
            apply,
            stop,
            html(
                pn.bind(_apply_hint, p.built, p.search_list_size, p.collection),
                margin=(6, 0, 0, 0),
            ),
            sizing_mode="stretch_width",
            margin=0,
        ),
        html(
            pn.bind(
                lambda done: markup.bar(done, f"The engine builds: {100 * done:.0f} %"),
                p.apply_progress,
            ),
            visible=pn.bind(bool, p.applying),
        ),
        html(
            pn.bind(lambda text: markup.note(text, "good"), p.apply_text),
            visible=pn.bind(bool, p.apply_text),
        ),
        sizing_mode="stretch_width",
        margin=(8, 0, 0, 0),
    )


def _progress(progress, text):
    return markup.bar(progress, text or "Nothing built yet")


def _stale(built, max_degree, build_list_size, alpha):
    now = {"max_degree": max_degree, "build_list_size": build_list_size, "alpha": alpha}
    if not built or built == now:
        return ""
    words = ", ".join(f"{name} {value}" for name, value in built.items())
    return markup.note(f"The plot shows {words}. Build again for the new parameters.")


def _apply_hint(built, search_list_size, collection):
    if not built:
        return markup.hint("Build and measure first; then the same parameters can be applied.")
    settings = {**built, "search_list_size": search_list_size}
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    return markup.hint(f"Builds the index of {collection!r} in the engine, all points: {words}.")


def _tiles(current, build_seconds, index, k):
    def written(name, digits=3):
        return "–" if current is None else markup.figures(current[name], digits)

    milliseconds = "" if current is None else "ms"
    recall = "–" if current is None else f"{current['recall']:.4f}"
    memory, unit = ("–", "") if index is None else markup.size(index.memory_bytes)
    built = "–" if build_seconds is None else markup.figures(build_seconds)
    qps = "–" if current is None else markup.count(round(current["qps"]))
    comparisons = "–" if current is None else markup.count(round(current["comparisons"]))
    return markup.tiles(
        [
            (f"recall@{current['k'] if current else k} vs exact", recall, ""),
            ("p50 latency", written("p50_ms"), milliseconds),
            ("p99 latency", written("p99_ms"), milliseconds),
            ("queries a second", qps, ""),
            ("hops a query", written("hops"), ""),
            ("comparisons a query", comparisons, ""),
            ("build time", built, "" if build_seconds is None else "s"),
            ("index memory", memory, unit),
        ],
        lead=True,
    )
