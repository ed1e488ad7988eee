"""How the writer answers those who wait: threads by futures, coroutines a whole group at once."""

import asyncio
import contextlib


class LoopFuture:
    """Stands in the writer's queue for the `asyncio.Future` a coroutine awaits.

    Waking a loop costs more than a put does, so a loop is woken once for a whole group.
    """

    __slots__ = ("future", "loop")

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()

    def set_running_or_notify_cancel(self):
        """Return whether someone still wants the answer."""
        return not self.future.cancelled()


def answer_all(futures, answers):
    """Resolve futures of both kinds.

    Parameters
    ----------
    answers : list of (result, error)
        One for each; where `error` is not None it is raised to whoever waits.
    """
    by_loop = {}
    for future, (result, error) in zip(futures, answers, strict=True):
        if type(future) is LoopFuture:
            by_loop.setdefault(future.loop, []).append((future.future, result, error))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    for loop, told in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, told)


def _resolve(told):
    for future, result, error in told:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
