"""A crowd of streams with filters of their own, coming and going while events are committed."""

import asyncio
import random
import time

import pytest
from followers import Follower, until

KINDS = ("told", "asked")
ROUNDS = 250


def some_filter(chance):
    """Return a stream's query and the same filter as the engine's arguments."""
    parts = {}
    if chance.random() < 0.5:
        choices = [*KINDS, "state_updated", "vector_upserted", "vector_deleted", "none"]
        parts["types"] = chance.sample(choices, chance.randint(1, 3))
    if chance.random() < 0.3:
        parts["key_prefix"] = chance.choice(["a", "b", "a1"])
    elif chance.random() < 0.4:
        parts["collection"] = chance.choice(["docs", "more"])
    query = {**parts, "types": ",".join(parts.get("types", ()))}
    return "&".join(f"{name}={text}" for name, text in query.items()), parts


def commit_something(lab, chance):
    """Commit one to some hundred events of many kinds."""
    what = chance.random()
    key = f"{chance.choice('ab')}{chance.randrange(20)}"
    points = lab.collection(chance.choice(["docs", "more"]))
    if what < 0.35:
        lab.events.publish(chance.choice(KINDS), chance.random(), key=chance.choice([key, None]))
    elif what < 0.6:
        lab.state.put(key, "x" * chance.choice([1, 10, 5000]))
    elif what < 0.85:
        points.upsert([f"p{n}" for n in chance.sample(range(9), 2)], [[1, 2], [3, 4]])
    elif what < 0.9:
        points.delete(f"p{chance.randrange(9)}")
    else:
        with lab.transaction() as tx:
            for n in range(chance.choice([5, 150])):
                tx.events.publish(chance.choice(KINDS), n, key=key)


async def come_and_go(follower, chance, breaks):
    """Follow with breaks: after some events, or suddenly, back at once or later."""
    for _ in range(chance.randint(1, breaks)):
        following = asyncio.ensure_future(follower.follow(chance.choice([1, 3, 20])))
        await asyncio.wait({following}, timeout=chance.random() * 0.3)
        following.cancel()
        await asyncio.sleep(chance.choice([0, 0, 0.05]))
    await follower.follow()


# In a crowd somebody always wants everything; few leave the fan-out empty or without points.
@pytest.mark.parametrize(("seed", "streams", "breaks"), [(0, 24, 4), (1, 24, 4), (2, 4, 40)])
def test_every_stream_hears_what_its_filter_lets_through_once_and_in_order(
    serve, monkeypatch, seed, streams, breaks
):
    chance = random.Random(seed)
    server = serve(keepalive_secs=0.1)
    lab = server.lab
    for name in ("docs", "more"):
        lab.create_collection(name, 2, "l2")
    read_frames = lab.events.read_frames

    def slow_read(*place, **options):
        found = read_frames(*place, **options)
        time.sleep(random.random() * 0.02)  # so that much happens while a page is read
        return found

    monkeypatch.setattr(lab.events, "read_frames", slow_read)
    _, scoped = server.service.keys.create(
        "scoped", "read", {"collections": ["docs"], "key_prefixes": ["a"]}
    )

    def may_see(event):
        if event.collection is not None:
            return event.collection == "docs"
        return event.key is not None and event.key.startswith("a")

    def commit_all():
        commits = random.Random(seed)
        for _ in range(ROUNDS):
            commit_something(lab, commits)
            time.sleep(commits.choice([0, 0.002, 0.01]))

    async def scenario():
        committing = asyncio.ensure_future(asyncio.to_thread(commit_all))
        crowd, tasks = [], []
        for _ in range(streams):
            query, parts = some_filter(chance)
            key, since = chance.choice([None, "test-key", scoped]), chance.choice([0, lab.head])
            follower = Follower(server.port, query, since=since, key=key or "test-key")
            crowd.append((follower, parts, since, key == scoped))
            tasks.append(
                asyncio.ensure_future(come_and_go(follower, random.Random(chance.random()), breaks))
            )
            await asyncio.sleep(chance.random() * 0.04)
        await committing
        head = lab.head
        # Streams with a filter learn from the keep-alives where the log ends.
        await until(lambda: all(follower.last >= head for follower, *_ in crowd))
        for task in tasks:
            task.cancel()
        return crowd

    for follower, parts, since, is_scoped in asyncio.run(scenario()):
        monkeypatch.undo()
        events = lab.events.read(since, limit=10**6, **parts)
        wanted = [(e.type, e.offset) for e in events if not is_scoped or may_see(e)]
        assert follower.heard == wanted, (parts, since)
