"""Labelling by actors of Ray: the table of this process, whoever is killed.

One cluster of this machine serves all tests but those that kill the process it belongs to. The model is the tiny random
one of `omni/tiny.py`; an actor loads it as it would any other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

from omni import label_ray
from omni.cli import main
from omni.clip import Limits
from omni.emotions import label_space
from omni.errors import OmniError, ServerError
from omni.label import Work, label
from omni.label_journal import Todo
from omni.label_parts import parts_of, write_part
from omni.label_row import Task
from omni.predictions import ModelId, fingerprint
from omni.tiny import tiny
from tests.fake_labeller import Fake, folder_of, journal_of, lines_of, run, table_of
from tests.kill_labeller import make_clips, rows_without_time

ROOT = Path(__file__).parent.parent
COUNT = 44  # clips, every tenth of them damaged

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes as POSIX does")


# ---- parts, which need no Ray ----


def some_rows(tmp_path: Path) -> tuple[Path, list[dict]]:
    """A folder of four clips, one of them bad, and the rows of their journal, of which nothing else is left."""
    folder, out = folder_of(tmp_path, "a", "b", "c", "bad"), tmp_path / "out.jsonl"
    run(folder, out, Fake())
    rows = lines_of(out)
    for path in (out, journal_of(out)):
        path.unlink()
    parts_of(out).mkdir()
    return folder, rows


def test_labelling_goes_on_from_the_parts_of_a_run_that_was_killed(tmp_path: Path) -> None:
    folder, rows = some_rows(tmp_path)
    fake, out = Fake(), tmp_path / "out.jsonl"
    for _ in range(2):  # a batch that is answered again writes over its part
        write_part(parts_of(out), [row for row in rows if row["status"] == "error" or row["text"] in "ab"])
    assert len(list(parts_of(out).iterdir())) == 1
    assert run(folder, out, fake)[:3] == (1, 1, 2)
    assert fake.answered == ["c"] and len(lines_of(out)) == len(table_of(out)) == 4
    known = [row for row in lines_of(out) if row["text"] != "c"]
    assert sorted(map(json.dumps, known)) == sorted(json.dumps(row) for row in rows if row["text"] != "c")
    assert not parts_of(out).exists()


def test_an_error_in_a_part_is_tried_again_only_when_asked_for(tmp_path: Path) -> None:
    folder, rows = some_rows(tmp_path)
    out = tmp_path / "out.jsonl"
    write_part(parts_of(out), rows)
    (folder / "3.mp4").write_text("good now")
    assert run(folder, out, Fake(), retry_errors=True)[:3] == (1, 0, 3)


def test_parts_of_another_kind_of_answer_are_refused(tmp_path: Path) -> None:
    folder, rows = some_rows(tmp_path)
    out = tmp_path / "out.jsonl"
    write_part(parts_of(out), rows)
    with pytest.raises(OmniError, match=r"part-\w+.parquet was made with think True, not with False"):
        run(folder, out, Fake(), think=False)
    assert list(parts_of(out).iterdir())


# ---- options ----


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(label_ray, "find_spec", lambda name: None)
    assert main(["label", str(tmp_path), "--out", str(tmp_path / "t.csv"), "--engine", "ray"]) == 2
    assert "pip install 'omni-emotion[ray]'" in capsys.readouterr().err


def test_options_of_ray_are_refused_without_it(tmp_path: Path, capsys) -> None:
    for option in (["--actors", "2"], ["--ray-address", "h:1"], ["--gpus-per-actor", "0.5"]):
        assert main(["label", str(tmp_path), "--out", str(tmp_path / "t.csv"), *option]) == 2
        assert "for --engine ray" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address, said in ((f"127.0.0.1:{port}", "no Ray cluster at"), ("here", "Give one like ray://host:10001")):
        with pytest.raises(OmniError, match=said):
            label_ray._reach(address)


# ---- one actor, here ----


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clips`, one of them under two names, a `model`, and `calm.jsonl`, their table made without Ray."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "clips").mkdir()
    make_clips(folder / "clips", COUNT)
    shutil.copy(folder / "clips/00.mp4", folder / "clips/copy.mp4")
    for part in tiny():
        part.save_pretrained(folder / "model")
    options = {"model": str(folder / "model"), "dtype": "float32", "batch_size": 4, "progress": False}
    label([folder / "clips"], folder / "calm.jsonl", **options)
    return folder


def plan(work: Path, parts: Path, model: ModelId) -> Work:
    parts.mkdir(exist_ok=True)
    task = Task(label_space("happy,sad"), model, False)
    return Work(task, Limits(), 30.0, 4, parts, work, True)


def one(path: Path, sha256: str = "0" * 64) -> pa.Table:
    return pa.Table.from_pylist([{"clips": [{"path": os.fsencode(path), "question": None, "sha256": sha256}]}])


def test_a_clip_that_the_node_does_not_see_is_a_row_that_says_so(work: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    actor = label_ray.Actor(plan(work, tmp_path / "p", fingerprint(str(work / "model"))))
    with actor.stack:
        [seen] = json.loads(actor(one(tmp_path / "gone.mp4"))["said"][0])["rows"]
        [never] = json.loads(actor(one(tmp_path / "gone.mp4", ""))["said"][0])["rows"]
    assert seen["error"]["code"] == "not_on_node" and "a disk that all nodes see" in seen["error"]["message"]
    assert never["error"]["code"] == "not_found"
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_an_actor_with_another_model_than_ours_answers_nothing(work: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    actor = label_ray.Actor(plan(work, tmp_path / "p", ModelId(str(work / "model"), "1" * 64)))
    code, message = json.loads(actor(one(work / "clips/00.mp4"))["said"][0])["fault"]
    assert code == "other_model" and "another model than on yours" in message


# ---- actors of a cluster ----


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if find_spec("ray") is None:  # it is not imported here: its environment has to be there first
        pytest.skip("the extra ray is not installed")
    with label_ray._cluster(None, 2, None) as cluster:
        assert cluster == (2, 0.0, False)
        yield


def command(work: Path, out: Path, *more: str) -> list[str]:
    where = [str(work / "clips"), "--out", str(out), "--model", str(work / "model")]
    return ["label", *where, "--dtype", "float32", "--batch-size", "4", "--engine", "ray", *more]


def processes() -> dict[int, str]:
    """Processes below this one, with their names."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout.splitlines()
    found = {int(pid): (int(parent), args) for pid, parent, args in (line.split(None, 2) for line in lines)}

    def is_ours(pid: int) -> bool:
        return pid in found and (found[pid][0] == os.getpid() or is_ours(found[pid][0]))

    return {pid: args for pid, (_, args) in found.items() if is_ours(pid)}


def actors() -> set[int]:
    return {pid for pid, args in processes().items() if "MapBatches(Actor)" in args}


def test_a_killed_actor_is_replaced_and_the_table_is_that_without_ray(work: Path, tmp_path: Path, cluster) -> None:
    out, seen, killed = tmp_path / "t.jsonl", set(), []

    def kill() -> None:
        while not done.wait(0.02):
            seen.update(now := actors())
            if not killed and journal_of(out).exists() and journal_of(out).stat().st_size and len(now) == 2:
                os.kill(min(now), signal.SIGKILL)
                killed.append(len(lines_of(out)))

    done = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert main(command(work, out, "--actors", "2")) == 3  # damaged clips
    finally:
        done.set()
        thread.join()
    assert killed and 0 < killed[0] < COUNT and len(seen) == 3
    rows = rows_without_time(out)
    assert rows == rows_without_time(work / "calm.jsonl") and len({row["clip"] for row in rows}) == COUNT + 1
    assert len(lines_of(out)) == COUNT  # a content is answered once, whatever its names
    assert not parts_of(out).exists()


def test_a_cluster_that_is_full_is_an_error_and_no_hang(work: Path, tmp_path: Path, cluster, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(label_ray, "STALL", 3.0)
    group = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(group.ready(), timeout=60)
    try:
        with pytest.raises(ServerError, match="Look whether the cluster is full"):
            label([work / "clips"], tmp_path / "t.jsonl", spread=label_ray.actors(), limit=1, progress=False)
    finally:
        ray.util.remove_placement_group(group)


def test_what_ends_the_work_is_told_from_within_a_cluster(work: Path, tmp_path: Path, cluster) -> None:
    other = plan(work, tmp_path / "p", ModelId(str(work / "model"), "1" * 64))
    for is_far in (False, True):
        with pytest.raises(OmniError, match="another model than on yours"):
            here = label_ray.Cluster(1, 0.0, is_far)
            list(label_ray._handed_over(other, here, [Todo(work / "clips/00.mp4", ("0" * 64, None))]))


def test_a_cluster_of_this_machine_listens_to_no_other(cluster) -> None:
    inodes = set()
    for pid in processes():
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            link = os.readlink(file) if file.exists() or file.is_symlink() else ""
            inodes |= {link[8:-1]} if link.startswith("socket:[") else set()
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    open_to = [line[1].rpartition(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes]
    assert len(open_to) > 3
    assert {address[-8:] for address in open_to} == {"0100007F"}  # 127.0.0.1, also as an address of IPv6


# ---- the process that shares out ----


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_labelling_goes_on_after_its_process_was_killed(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-m", "omni.cli", *command(work, out, "--actors", "2")]
    with subprocess.Popen(call, cwd=ROOT, env=environment) as process:
        while not list(parts_of(out).glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    time.sleep(5)
    found = subprocess.run(["pgrep", "-f", "ray::.*MapBatches.Actor"], capture_output=True, text=True).stdout.split()
    assert not found  # actors end with their cluster
    known = sum(len(table_of(path)) for path in parts_of(out).glob("*.parquet"))
    assert 0 < known < COUNT and not out.exists()
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert rows_without_time(out) == rows_without_time(work / "calm.jsonl") and len(lines_of(out)) == COUNT
    assert int(done.stderr.split(" in the table already")[0].split()[-1]) > 0


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The two addresses of a cluster with two processors, as others start it."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports.append(server.getsockname()[1])
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment |= {"PYTHONPATH": str(ROOT), "GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    start += ["--num-gpus=1", "--include-dashboard=false"]  # a GPU by count alone
    start += ["--min-worker-port=0", "--max-worker-port=0"]
    start += [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    with subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and any("Ray runtime started" in line for line in process.stdout)
            yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_a_cluster_of_others_is_joined_from_within_and_through_a_client(work: Path, tmp_path: Path, joined) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for address, share in zip(joined, ("0", "0.5"), strict=True):
        out = tmp_path / f"{share}.jsonl"
        call = [sys.executable, "-m", "omni.cli", *command(work, out, "--ray-address", address)]
        call += ["--gpus-per-actor", share]
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        assert rows_without_time(out) == rows_without_time(work / "calm.jsonl")
