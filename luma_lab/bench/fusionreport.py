"""What the fusion lab found, in words, as a table and as a figure."""

import html
from collections import Counter
from dataclasses import dataclass

import numpy as np

from luma_lab.bench.judge import verdict

TUNED = "tuned fusion, held out"
WORDS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


@dataclass(frozen=True, eq=False, repr=False)
class FusionReport:
    """Result of :func:`luma_lab.bench.fusion_lab`.

    Attributes
    ----------
    dataset, by : str
    measures, branches : tuple of str
    settings : list of dict
        Arguments of `luma_lab.engine.fusion.fuse`, the usual RRF first.
    values : dict of str to float array
        Per measure the mean of each branch, then of each setting, over all queries.
    held_out : dict of str to float
        Per measure the mean of the tuned fusion over queries it was not tuned on.
    picked : list of dict
        The setting chosen in each fold.
    against : dict of str to dict
        Per branch: columns of `compared`, for branches, settings and the tuned fusion.
    best_branch : str
        The best of the branches alone, on all queries.
    """

    dataset: str
    by: str
    measures: tuple
    branches: tuple
    settings: list
    confidence: float
    folds: int
    values: dict
    held_out: dict
    picked: list
    against: dict
    best_branch: str
    n_queries: int

    @property
    def best(self):
        """The setting with the highest mean over all queries: what to use, if fusing pays."""
        return self.settings[int(self.values[self.by][len(self.branches) :].argmax())]

    @property
    def pays(self):
        """Whether the tuned fusion is better than the best branch, beyond luck."""
        return self._standing(self.best_branch, -1)[0] == "better"

    @property
    def table(self):
        """A DataFrame: branches alone, the tuned fusion (held out), then every setting.

        Columns: name, method, k, a weight a branch, the measures; of `by` ``low`` and ``high``,
        and ``difference``, ``difference_low``, ``difference_high``, ``verdict`` against the best
        branch. Figures of settings are of all queries, so the highest of them flatters.
        """
        import pandas

        columns = self.against[self.best_branch]
        rows = []
        n = len(self.branches)
        for place in [*range(n), -1, *range(n, n + len(self.settings))]:
            setting = self.settings[place - n] if place >= n else {}
            weights = setting.get("weights", {})
            if 0 <= place < n:
                weights = {self.branches[place]: 1.0}
            means = self.held_out if place < 0 else {m: v[place] for m, v in self.values.items()}
            rows.append(
                {
                    "name": self._name(place),
                    "method": setting.get("method", "alone" if place >= 0 else "tuned"),
                    "k": setting.get("k"),
                    **{f"weight_{name}": weights.get(name) for name in self.branches},
                    **{measure: float(means[measure]) for measure in self.measures},
                    **{name: values[place] for name, values in columns.items()},
                }
            )
        table = pandas.DataFrame(rows)
        table.attrs = {"dataset": self.dataset, "by": self.by, "best_branch": self.best_branch}
        return table

    @property
    def verdict(self):
        """What was found, in words."""
        best = max(self.values[self.by][: len(self.branches)])
        said = [
            f"{self.dataset}, {self.n_queries} judged queries: {self.best_branch} alone has "
            f"{self.by} {best:.3f}.",
            self._sentence("The usual fusion (RRF k=60, equal weights)", len(self.branches)),
            self._sentence(
                f"The tuned fusion, scored in {self.folds} folds on queries it was not tuned on,",
                -1,
            ),
        ]
        for name in self.branches:
            if name != self.best_branch:
                found, difference, low, high = self._standing(name, -1)
                said.append(
                    f"It is {WORDS[found]} {name} alone ({difference:+.3f}, {low:+.3f} to "
                    f"{high:+.3f})."
                )
        if self.pays:
            said.append(f"Fusing pays: use {describe(self.best)}.")
        else:
            said.append(f"Fusing is not shown to pay here: {self.best_branch} alone will do.")
        return " ".join(said)

    def plot(self, *, width=700, height=420):
        """Return a Bokeh figure: a line a method over the weight of the first branch.

        The dashed line is the best branch alone, the band its interval, and the diamond with
        whiskers the tuned fusion on queries it was not tuned on. With more than two branches
        the settings are points over that weight.
        """
        from luma_lab.bench.plots import plot_fusion

        return plot_fusion(self, width=width, height=height)

    def lines(self):
        """Yield (label, x, y) of each method: weights of the first branch, means of `by`."""
        groups = {}
        n, first = len(self.branches), self.branches[0]
        for place, setting in enumerate(self.settings, n):
            label = describe({**setting, "weights": {"": 1}}).split(",")[0]
            mean = float(self.values[self.by][place])
            groups.setdefault(label, []).append((setting["weights"][first], mean))
        for label, points in groups.items():
            x, y = np.array(sorted(points)).T
            yield label, x, y

    def standing(self, branch):
        """Return (verdict, difference, low, high) of the tuned fusion against a branch."""
        return self._standing(branch, -1)

    def _standing(self, branch, place):
        found = self.against[branch]
        difference, low, high = (
            float(found[name][place])
            for name in ("difference", "difference_low", "difference_high")
        )
        return verdict(low, high), difference, low, high

    def _sentence(self, what, place):
        mean = self.held_out[self.by] if place < 0 else self.values[self.by][place]
        said, difference, low, high = self._standing(self.best_branch, place)
        return (
            f"{what} has {mean:.3f}: {WORDS[said]} {self.best_branch} alone "
            f"({difference:+.3f}, {self.confidence:.0%} interval {low:+.3f} to {high:+.3f})."
        )

    def _name(self, place):
        if place < 0:
            return TUNED
        n = len(self.branches)
        return f"{self.branches[place]} alone" if place < n else describe(self.settings[place - n])

    def __repr__(self):
        return f"FusionReport({self.verdict})"

    def _repr_html_(self):
        n = len(self.branches)
        best = n + self.settings.index(self.best)
        columns = self.against[self.best_branch]
        rows = []
        for place in dict.fromkeys((*range(n), n, -1, best)):
            means = self.held_out if place < 0 else {m: v[place] for m, v in self.values.items()}
            name = self._name(place) + (" (best of all, flatters)" if place == best else "")
            cells = [f"{means[measure]:.3f}" for measure in self.measures]
            low, high = columns["difference_low"][place], columns["difference_high"][place]
            cells.append(
                f"{columns['difference'][place]:+.3f} ({low:+.3f} to {high:+.3f})"
                if self._name(place) != f"{self.best_branch} alone" else ""
            )  # fmt: skip
            rows.append(
                f"<tr><td>{html.escape(name)}</td>"
                + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
            )  # fmt: skip
        heads = ["", *self.measures, f"{self.by} against {self.best_branch} alone"]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
        tally = Counter(map(describe, self.picked)).most_common()
        chosen = ", ".join(f"{name} ({count}x)" for name, count in tally)
        return (
            f"<p>{html.escape(self.verdict)}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p>Chosen in the folds: {html.escape(chosen)}.</p>"
        )


def describe(setting):
    """Return a setting in a few words."""
    weights = setting["weights"]
    if len(set(weights.values())) == 1:
        told = "equal weights"
    else:
        told = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    method = f"RRF k={setting['k']:g}" if setting["method"] == "rrf" else setting["method"]
    return f"{method}, {told}"
