"""Rooms and layers: imports point down only, and some things happen in one room only."""

import ast
import subprocess
import sys
from pathlib import Path

from spread import FIRST

import luma_lab

ROOT = Path(luma_lab.__file__).parent
GROUND = {"errors", "types", "codec", "config", "files"}
LAYERS = [
    {"cli"},
    {"service", "widgets", "cluster"},
    {"bench", "client"},
    {"engine"},
    {"index", "store"},
    {"kernels"},
    GROUND,
]
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def sources():
    return [p for p in ROOT.rglob("*.py") if "_shipped" not in p.parts and p.parent != ROOT / "."]


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            if module == "luma_lab":
                yield from (a.name for a in node.names if a.name in RANK)
            elif module.startswith("luma_lab."):
                yield module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("luma_lab."))


def test_imports_point_down_only():
    for path in sources():
        room = room_of(path)
        if room == "__init__":
            continue
        for target in imported_rooms(ast.parse(path.read_text())):
            same_ground = room in GROUND and target in {"errors", "types"}
            assert target == room or RANK[target] > RANK[room] or same_ground, (
                f"{path}: {room} must not import {target}"
            )
            assert room != "kernels" or target == "kernels", f"{path}: kernels stand alone"


def test_the_layer_test_sees_a_planted_fault():
    tree = ast.parse("from luma_lab.service.app import x\nfrom luma_lab import engine")
    assert list(imported_rooms(tree)) == ["service", "engine"]
    assert RANK["service"] < RANK["engine"] < RANK["store"] < RANK["kernels"]


def test_only_the_command_line_prints():
    for path in sources():
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        assert not calls or room_of(path) == "cli", f"{path}: print"


def test_public_functions_and_classes_have_docstrings():
    missing = []
    for path in sources():
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            missing.append(f"{path}: module")
        # A method that overrides one of a library's class is documented there.
        own = [
            n
            for n in tree.body
            if isinstance(n, ast.ClassDef) and not n.bases and not n.name.startswith("_")
        ]
        holders = [tree, *own]
        for holder in holders:
            for node in holder.body:
                public = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                if public and not node.name.startswith("_") and not ast.get_docstring(node):
                    missing.append(f"{path}: {node.name}")
    assert not missing, missing


def test_files_can_be_read_in_one_sitting():
    long = {str(p): n for p in sources() if (n := len(p.read_text().splitlines())) > 450}
    assert not long, long


def test_import_stays_light():
    """Panel, pandas and numba's compiler load where they are needed, not at import."""
    heavy = ("numba", "panel", "bokeh", "pandas", "faiss", "tornado", "sklearn", "pydantic")
    code = f"import sys, luma_lab; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_a_service_loads_no_compiler_before_it_needs_one():
    """numba is 70 MB of memory, which a server that never searches vectors has no use for."""
    code = "import sys, luma_lab.service.app; print('numba' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_the_index_room_hands_out_what_it_names():
    code = """
import sys
from luma_lab import index
assert set(index.__all__) <= set(dir(index)) and "numba" not in sys.modules
assert not hasattr(index, "HashIndex") and "numba" not in sys.modules
for name in index.__all__:
    assert getattr(index, name).__name__ == name
    assert name in vars(index)
from luma_lab.index import *
print(VamanaIndex is index.VamanaIndex, index.TextIndex is index.text.TextIndex)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "True True", answer.stderr


def test_no_foreign_words_in_the_tree():
    for path in sources():
        text = path.read_text()
        for word in ("TODO", "FIXME", "XXX", "NotImplementedError("):
            assert word not in text, f"{path}: {word}"


def test_every_error_is_in_the_family_and_pickles():
    import inspect
    import pickle

    from luma_lab import errors

    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind.__module__ != errors.__name__:
            continue
        assert issubclass(kind, errors.LumaError), name
        assert kind.code and kind.__doc__
        own = next((k.__init__ for k in kind.__mro__ if "__init__" in vars(k)), None)
        takes = (
            inspect.signature(own).parameters if inspect.isfunction(own) else {"self": 0, "m": 0}
        )
        values = [["known"] if name == "known" else 1 for name in list(takes)[1:]]
        error = kind(*values)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)


def test_files_that_are_to_start_first_are_there():
    root = Path(__file__).parents[1]
    assert [name for name in FIRST if not (root / name).is_file()] == []
    assert len(set(FIRST)) == len(FIRST)
