"""The README is tested: settings, commands, the two command lines, the code it shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_every_setting_is_in_the_readme_with_its_default():
    from luma_lab.config import SETTINGS

    for row in SETTINGS:
        line = next((x for x in README.splitlines() if x.startswith(f"| `{row.env[0]}`")), None)
        assert line, f"README lacks {row.env[0]}"
        assert all(f"`{name}`" in line for name in row.env), line
        assert f"| {row.default} |" in line, f"{line}: the code's default is {row.default!r}"


def test_every_command_is_in_the_readme():
    import typer.main

    from luma_lab import cli

    for name in typer.main.get_command(cli.app).commands:
        assert f"`luma {name}" in README, name


def test_ci_runs_exactly_the_second_command_line():
    lines = [b.strip() for b in blocks("sh") if b.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("luma demo")
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(lines[1])


def test_the_python_of_the_readme_runs(capsys):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "saved" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["LICENSE", "py.typed"])
def test_the_package_carries(name):
    import luma_lab

    assert (Path(luma_lab.__file__).parent / name).exists()


def test_what_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:notebooks|luma_lab|tests|datasets)[\w./-]*)`", README):
        if path.startswith(("luma_lab.",)):
            continue
        assert (ROOT / path).exists(), path


def test_the_front_door_is_documented():
    import luma_lab

    for name in luma_lab.__all__:
        assert getattr(luma_lab, name).__doc__ or name == "__version__", name
    doctest = __import__("doctest")
    assert doctest.testmod(luma_lab).failed == 0
