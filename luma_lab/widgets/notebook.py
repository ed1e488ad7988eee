"""Rendering in a notebook without a network."""

import panel as pn


def load_assets():
    """Load Panel's scripts into the notebook from this machine, once; elsewhere do nothing.

    A user's own `pn.extension(...)` before this call wins. Without ``inline=True`` a notebook
    takes the scripts from a CDN, and offline its cells stay blank.
    """
    if pn.extension._loaded or not _in_kernel():
        return
    pn.extension(inline=True)


def _in_kernel():
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
