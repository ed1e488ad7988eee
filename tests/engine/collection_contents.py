"""What a lab with the collection `docs` holds, as a whole: to see that nothing changed."""


def contents(lab):
    docs = lab.collection("docs")
    points, _ = docs.scroll(limit=1000)
    return (
        [c.name for c in lab.collections()],
        [(p.id, p.vector.tolist(), p.meta) for p in points],
        docs.info(),
        lab.head,
        [h.id for h in docs.search([0, 0, 0], k=1000, exact=True)],
    )
