"""Widgets for a notebook cell or a page: the index tuner and the workbench.

Useful for: seeing and turning what `bench`, `engine` and `index` do. Not useful for: doing it
without panel; nothing else of the house imports this room, so nothing else needs panel.
"""

from luma_lab.widgets.tuner import IndexTuner
from luma_lab.widgets.workbench import Workbench, page

__all__ = ["IndexTuner", "Workbench", "page"]
