"""Telling someone how far a long build has come."""

import contextlib


@contextlib.contextmanager
def reporting(progress, what):
    """Yield a function that takes the finished fraction, 0 to 1.

    Parameters
    ----------
    progress : bool or callable
        True shows a `tqdm.auto` bar named `what`; a callable is handed each fraction and may
        raise to abort; False does nothing.
    """
    if callable(progress):
        yield progress
    elif progress:
        from tqdm.auto import tqdm

        with tqdm(total=1.0, desc=what, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
            yield lambda fraction: bar.update(fraction - bar.n)
    else:
        yield lambda fraction: None
