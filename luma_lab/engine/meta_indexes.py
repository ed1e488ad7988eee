"""Declared meta indexes: paths into meta that filters find by a SQLite index of their own.

SQLite takes an index on an expression only where a query repeats that expression, and a partial
index only where the query implies its condition; both are made here and nowhere else.
"""

from luma_lab.engine import filters
from luma_lab.errors import InvalidArgument
from luma_lab.store import mappings

MAX_INDEXES = 16


def is_looked_up(tree, declared):
    """Return whether an index on one of the `declared` paths finds all that a filter matches."""
    if isinstance(tree, filters.Test):
        values = tree.value if tree.operator == "in" else (tree.value,)
        return (
            tree.path in {filters.split_path(path) for path in declared}
            and (tree.operator in ("eq", "in") or tree.operator in filters.RANGES.values())
            and all(isinstance(v, (str, int, float)) and not isinstance(v, bool) for v in values)
        )
    if isinstance(tree, filters.Group):
        found = [is_looked_up(child, declared) for child in tree.children]
        return bool(found) and (any(found) if tree.joint == "AND" else all(found))
    return False


def where_points(tree, row):
    """Return (sql, bindings): the condition that finds the points of a collection.

    Parameters
    ----------
    tree : what `filters.parse` returned, not None
    row : luma_lab.store.catalog.CollectionRow
    """
    condition, bindings = filters.compile_filter(tree, "meta", scope_of(row.uid))
    if is_looked_up(tree, row.meta_indexes):
        # Without the range of rows, which SQLite would hold to be the better way.
        return f"{scope_of(row.uid)} AND {condition}", bindings
    return f"{mappings.points_range(row.uid)} AND {condition}", bindings


def scope_of(uid):
    """Return the SQL that confines a condition to the points of one collection."""
    # As an expression: of a bare column in every alternative SQLite makes one search by uid,
    # and passes over the declared indexes.
    return f"uid+0={uid}"


def check_paths(paths):
    """Return declared paths as a tuple of str.

    Raises
    ------
    InvalidArgument, InvalidFilter
        Not a list, more than 16, one twice, or none that `filters.split_path` understands.
    """
    if isinstance(paths, str) or not isinstance(paths, (list, tuple)):
        raise InvalidArgument(f"meta_indexes is {paths!r}: expected a list of dotted paths")
    if len(paths) > MAX_INDEXES:
        raise InvalidArgument(f"{len(paths)} meta_indexes: expected at most {MAX_INDEXES}")
    seen = set()
    for path in paths:
        if not isinstance(path, str):
            raise InvalidArgument(f"meta_indexes holds {path!r}: expected a dotted path")
        segments = filters.split_path(path)
        if segments in seen:
            raise InvalidArgument(f"meta_indexes names {path!r} twice")
        seen.add(segments)
    return tuple(paths)


def index_statements(uid, paths):
    """Yield the SQL that makes the declared indexes of a collection.

    Two for each path: one by value, and a small one of the rows whose field is an array, for
    an array also equals each of its elements.
    """
    for number, path in enumerate(paths):
        literal = filters.json_path(filters.split_path(path))
        value, kind = f"json_extract(meta, {literal})", f"json_type(meta, {literal})"
        name = f"luma_meta_{uid}_{number}"
        yield f"CREATE INDEX {name} ON luma_points ({value}, {kind}) WHERE {scope_of(uid)}"
        arrays = f"{scope_of(uid)} AND {kind} = 'array'"
        yield f"CREATE INDEX {name}_array ON luma_points ({kind}) WHERE {arrays}"


def drop_statements(uid, paths):
    """Yield the SQL that removes what :func:`index_statements` made."""
    for number in range(len(paths)):
        yield f"DROP INDEX luma_meta_{uid}_{number}"
        yield f"DROP INDEX luma_meta_{uid}_{number}_array"
