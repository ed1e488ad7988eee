import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import luma_lab as luma
from luma_lab import cli, cli_demo
from luma_lab.config import SETTINGS
from luma_lab.errors import Conflict

ROOT = Path(luma.__file__).parents[1]
COMMANDS = ("serve", "demo", "warmup", "verify")


@pytest.fixture
def environment(tmp_path):
    """The environment of a child process: no setting in it, the package importable."""
    variables = {variable for row in SETTINGS for variable in row.env}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@pytest.fixture
def run(environment, tmp_path):
    def run(*arguments, timeout=120, **variables):
        return subprocess.run(
            [sys.executable, "-m", "luma_lab.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**environment, **variables},
        )

    return run


@pytest.fixture
def start(environment, tmp_path):
    """A function that starts a serving command and returns (process, url)."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **variables):
            process = subprocess.Popen(
                [sys.executable, "-m", "luma_lab.cli", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env={**environment, **variables},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            url = re.search(r"http://[\d.]+:\d+", said).group()
            return process, url, said

        yield start


def end(process):
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest


def test_no_words_and_help_show_the_commands(run):
    for arguments in ((), ("--help",), ("-h",)):
        shown = run(*arguments)
        assert shown.returncode == 0
        assert all(f"  {command} " in shown.stdout for command in COMMANDS)


def test_the_version_is_shown(run):
    assert run("--version").stdout.strip() == f"luma {luma.__version__}"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["sevre"], "Did you mean 'serve'?"),
        (["Demo"], "Did you mean 'demo'?"),
        (["xyz"], "There are: serve, demo, warmup, verify"),
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "extra"], "extra"),
        (["--nope"], "--nope"),
        (["verify"], "directory"),
    ],
)
def test_unknown_words_are_errors_that_help(run, words, part):
    refused = run(*words)
    assert refused.returncode == 2 and part in refused.stderr
    assert "Traceback" not in refused.stderr and not refused.stdout


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["--port", "x"], {}, "--port is 'x': expected an integer from 0 to 65535"),
        ([], {"MAX_K": "none"}, "MAX_K is 'none': expected an integer from 1"),
        (["--auth", "never"], {}, "--auth is 'never': expected 'key' or 'open'"),
        (["--bind", "0.0.0.0"], {}, "expected a loopback address"),
        (["--auth", "open", "--bind", "0.0.0.0"], {"API_KEY": "real"}, "AUTH is 'open'"),
        (["--data-dir", "/proc/nope"], {}, "/proc/nope"),
    ],
)
def test_a_start_that_can_not_be_is_one_clear_line(run, words, variables, message):
    refused = run("serve", "--port", "0", *words, **variables)
    assert refused.returncode == 1
    assert refused.stderr.startswith("luma: ") and refused.stderr.count("\n") == 1
    assert message in refused.stderr


def test_a_taken_port_is_one_clear_line(run, start, tmp_path):
    _, url, _ = start("serve", "--port", "0", "--data-dir", "one")
    port = url.rpartition(":")[2]
    refused = run("serve", "--port", port, "--data-dir", "two")
    assert refused.returncode == 1 and f"port {port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_serve_serves_until_it_is_told_to_stop(start, tmp_path):
    process, url, said = start("serve", "--port", "0", API_KEY="real-key")
    assert "real-key" not in said and "./data" in said
    assert httpx.get(f"{url}/v1/health").json()["status"] == "ok"
    assert httpx.get(f"{url}/v1/state").status_code == 401
    headers = {"Authorization": "Bearer real-key"}
    put = httpx.put(f"{url}/v1/state/a", json={"value": 1}, headers=headers)
    assert put.status_code == 200
    limits = Path(f"/proc/{process.pid}/limits")
    if limits.exists():
        line = next(row for row in limits.read_text().splitlines() if "open files" in row)
        soft, hard = line.split()[3:5]
        assert soft == hard
    with httpx.stream("GET", f"{url}/v1/stream", headers=headers) as stream:
        next(stream.iter_raw())
        status, rest = end(process)
    assert status == 0 and "Traceback" not in rest
    with luma.open(tmp_path / "data") as lab:
        assert lab.state["a"] == 1


def test_serve_shows_every_setting_with_its_default(run):
    shown = " ".join(run("serve", "--help").stdout.split())
    for row in SETTINGS:
        assert ", ".join(row.env) in shown
        assert " ".join(row.help.split()) in shown
        if row.flag is not None:
            assert row.flag in shown


def test_the_flags_of_serve_are_those_of_the_table():
    (command,) = [c for c in cli.app.registered_commands if c.callback is cli.serve]
    parameters = command.callback.__annotations__
    rows = {row.name: row.flag for row in SETTINGS if row.flag is not None}
    assert set(parameters) == set(rows)
    for name, flag in rows.items():
        assert flag == "--" + {"bind": "bind"}.get(name, name).replace("_", "-")


def test_importing_the_command_line_imports_nothing_slow():
    code = "import sys, luma_lab.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()
    assert not {"numba", "pydantic", "tornado", "panel", "pandas", "faiss"} & set(loaded)


def test_warmup_says_how_long_it_took(run):
    done = run("warmup", timeout=300)
    assert done.returncode == 0 and re.search(r"kernels ready after [\d.]+ s", done.stdout)


def test_verify_tells_a_sound_lab_from_a_damaged_one(run, tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        lab.state["a"] = 1
        lab.create_collection("docs", 4, "l2").upsert(["a", "b"], np.eye(4)[:2])
    sound = run("verify", tmp_path / "lab")
    assert sound.returncode == 0 and "no damage found" in sound.stdout
    (matrix,) = (tmp_path / "lab").rglob("*.f32")
    content = bytearray(matrix.read_bytes())
    content[0] ^= 1
    matrix.write_bytes(content)
    damaged = run("verify", tmp_path / "lab")
    assert damaged.returncode == 1 and "docs" in damaged.stdout
    assert "Traceback" not in damaged.stderr


def test_verify_creates_no_lab_where_there_is_none(run, tmp_path):
    (tmp_path / "other").mkdir()
    refused = run("verify", tmp_path / "other")
    assert refused.returncode == 1 and "not a lab" in refused.stderr
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("name", ["compact", "vacuum"])
def test_compact_gives_back_what_dead_rows_take_while_a_lab_is_open(run, tmp_path, name):
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", 4, "l2")
        docs.upsert(["a", "b", "c"], np.eye(4)[:3])
        lab.create_collection("other", 4)
        docs.delete("b")
        only = run(name, tmp_path / "lab", "--collection", "other")
        assert (only.returncode, only.stdout) == (0, "other  0 dead rows, 0.0 MB freed\n")
        done = run(name, tmp_path / "lab")
        assert done.returncode == 0, done.stderr
        assert "docs  1 dead rows" in done.stdout and "luma.db  left as it is" in done.stdout
        assert docs.info().total_rows == 2
        assert [hit.id for hit in docs.search([0, 0, 1, 0], k=2)] == ["c", "a"]
    missing = run(name, tmp_path / "nothing")
    assert missing.returncode == 1 and "not a lab" in missing.stderr
    unknown = run(name, tmp_path / "lab", "--collection", "nope")
    assert unknown.returncode == 1 and "'nope'" in unknown.stderr


def test_the_demo_measures_every_set_and_can_be_run_again(run, tmp_path):
    first = run("demo", "--check", timeout=300)
    assert first.returncode == 0, first.stderr
    recalls = [float(value) for value in re.findall(r"recall@10 (\d\.\d+) over", first.stdout)]
    assert len(recalls) == len(cli.DEMO_SETS) and min(recalls) >= cli.DEMO_RECALL
    assert "strategy walk" in first.stdout and "What is Perl?" in first.stdout
    with luma.open(tmp_path / "luma-demo") as lab:
        head = lab.head
        assert [len(lab.collection(name)) for name in cli.DEMO_SETS] == [1800, 8000, 305]
    again = run("demo", "--check", timeout=300)
    assert again.returncode == 0 and again.stdout.count("already loaded") == 3
    with luma.open(tmp_path / "luma-demo") as lab:
        assert lab.head == head


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(cli, "DEMO_SETS", ("perlfaq",))


def test_the_recall_of_the_demo_is_that_of_brute_force(small_demo, tmp_path):
    from luma_lab import bench

    shown = CliRunner().invoke(cli.app, ["demo", "--check", "--dir", str(tmp_path / "lab")])
    assert shown.exit_code == 0, shown.output
    data = bench.load("perlfaq")
    with luma.open(tmp_path / "lab") as lab:
        collection = lab.collection("perlfaq")
        found = [{hit.id for hit in collection.search(query, k=10)} for query in data.queries]
    products = data.queries @ data.base.T
    best = np.argsort(-products, axis=1)[:, :10]
    wanted = [{data.ids[row] for row in rows} for rows in best]
    share = np.mean([len(a & b) / 10 for a, b in zip(found, wanted, strict=True)])
    told = float(re.search(r"recall@10 (\d\.\d+) over", shown.output).group(1))
    assert told == pytest.approx(share, abs=0.002)


def test_a_demo_with_poor_recall_fails(small_demo, monkeypatch, tmp_path):
    monkeypatch.setattr("luma_lab.bench.recall", lambda rows, data, k: 0.94)
    with pytest.raises(Conflict, match=r"perlfaq 0\.940"):
        CliRunner().invoke(
            cli.app, ["demo", "--check", "--dir", str(tmp_path / "lab")], catch_exceptions=False
        )


def test_a_demo_whose_answers_are_wrong_has_poor_recall(small_demo, monkeypatch, tmp_path):
    rows = cli_demo._rows
    monkeypatch.setattr(cli_demo, "_rows", lambda found, ids: rows(found, ids[1:] + ids[:1]))
    with pytest.raises(Conflict, match="below"):
        CliRunner().invoke(
            cli.app, ["demo", "--check", "--dir", str(tmp_path / "lab")], catch_exceptions=False
        )


def test_a_demo_does_not_touch_a_collection_of_another_shape(small_demo, tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        lab.create_collection("perlfaq", 2, "l2").upsert("mine", [1, 2])
    with pytest.raises(Conflict, match="--dir"):
        CliRunner().invoke(
            cli.app, ["demo", "--check", "--dir", str(tmp_path / "lab")], catch_exceptions=False
        )
    with luma.open(tmp_path / "lab") as lab:
        assert len(lab.collection("perlfaq")) == 1


def test_the_demo_ends_by_serving_openly_on_loopback(start, tmp_path):
    process, url, said = start("demo", "--port", "0", "--dir", "lab")
    assert "open: no key is asked for" in said and f"{url}/lab/" in said
    found = httpx.post(
        f"{url}/v1/vector/perlfaq/search", json={"vector": [1.0] + [0.0] * 383, "k": 3}
    )
    assert len(found.json()["hits"]) == 3
    assert httpx.get(url + "/", follow_redirects=True).status_code == 200
    assert httpx.get(url + "/v1/state", headers={"Host": "evil.example"}).status_code == 403
    status, rest = end(process)
    assert status == 0 and "Traceback" not in rest
