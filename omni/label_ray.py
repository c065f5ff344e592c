"""Labelling by actors of Ray Data, on this machine or on a cluster; each holds the model once.

    clips, hashed here ─► batches ─► Ray Data ─► actor: `Run`, as without Ray ─► OUT.parts/part-….parquet
                                                                             └─► its rows ─► the journal, here

An actor is a process that reads, encodes and answers the clips of one batch after the other with the code that labels
without Ray (`label.loaded`, `label_run.Run`), so its rows are the same. They are on the disk as a part before Ray Data
hands them on: if this process is killed, the next start finds them there (`label_parts.py`).

Ray Data shares out the batches, replaces actors that are lost and has their batch done again, as often as it takes.
When nothing at all has come of it for `STALL` seconds (no room for an actor, a batch that ends each of them), it gives
up.

A cluster of this machine lives as long as the run. It is reached by 127.0.0.1 alone (unless this process has imported
ray before) and with a token that nobody else has, has no dashboard and reports nothing. Where a cluster of others
listens is theirs to say.

Left out: finishing the batches in flight of all actors at Ctrl-C. The run ends with the next one that is done.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .clip import display_name
from .errors import ClipError, ModelError, OmniError, ServerError
from .journal import Row
from .label import Rows, Spread, Work, loaded
from .label_journal import Known, Todo
from .label_parts import write_part
from .label_run import BATCH, Ahead, Batches, Labeller, Run, by_clip
from .label_sources import Wanted
from .predictions import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

ACTORS = 2  # where there is no GPU: a model takes gigabytes, so their number is for the user to raise
STALL = 1800.0  # s without anything happening
FAR = "ray://"
REACH = 10.0  # s for the first connection to a cluster
OBJECTS = 100 * 2**20  # bytes that Ray shares between processes; a batch of rows is some 64 kB


class Cluster(NamedTuple):
    """What a run has of a cluster."""

    actors: int
    gpus: float  # for each
    is_far: bool = False  # it is spoken to through ray://


def actors(address: str | None = None, number: int | None = None, gpus: float | None = None) -> Spread:
    """What `omni.label.label` takes to have the clips answered by actors.

    Args:
        address: of a cluster, ray://host:port or host:port; None starts one on this machine for the run.
        number: of actors; None is one for each GPU, or `ACTORS` where there is none.
        gpus: for each actor, also a part of one; None is one if the cluster has any.

    Raises:
        OmniError: the extra is missing.
    """
    if find_spec("ray") is None:
        raise OmniError("--engine ray needs one more package: pip install 'omni-emotion[ray]'", code="no_extra")

    @contextmanager
    def spread(work: Work, known: Known, stopped: Callable[[], bool]) -> Iterator[Rows]:
        with ExitStack() as stack:

            @cache
            def start() -> Cluster:
                work.parts.mkdir(parents=True, exist_ok=True)
                return stack.enter_context(_cluster(address, number, gpus))

            yield Shared(work, known, start, stopped).rows

    return spread


@dataclass
class Shared:
    """Labelling under way, with the batches at the actors.

    Attributes:
        known: rows so far.
        start: the cluster, started or joined when it is first called.
        stopped: says whether to end after the batch that is done next.
    """

    work: Work
    known: Known
    start: Callable[[], Cluster]
    stopped: Callable[[], bool]

    def rows(self, clips: Sequence[Wanted]) -> Iterator[list[Row]]:
        """New rows of the journal as batches are done; [] for a clip whose row is known. As `Run.rows`."""
        left = by_clip(clips)
        while left:
            todos, copies, keys = [], [], set()
            for clip in left:
                if self.stopped():
                    return
                todo = self.known.todo(clip)
                if self.known.row(todo):
                    yield []
                elif todo.key in keys:
                    copies.append(clip)
                else:
                    keys |= {todo.key} if todo.key[0] else set()
                    todos.append(todo)
            yield from self._answered(todos)
            left = copies

    def _answered(self, todos: Sequence[Todo]) -> Iterator[list[Row]]:
        for rows in _handed_over(self.work, self.start(), todos) if todos else ():
            yield self.known.added(rows)
            if self.stopped():
                return
        if lost := sum(self.known.row(todo) is None for todo in todos):
            raise ServerError(f"Ray gave no rows for {lost} clips. Run the same command again.", code="ray")


class Actor:
    """Labels batches, in a process of Ray's. The model is loaded at the first of them."""

    def __init__(self, work: Work) -> None:
        self.work, self.stack = work, ExitStack()
        self.known = Known(work.limits.file_bytes)
        self.batches, self.ahead = Batches(work.batch_size), Ahead(work.task)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        """Label a batch.

        Args:
            batch: one row, with the column `clips`: a list of {path, question, sha256}.

        Returns:
            JSON in the column `said`: {"rows": rows of the journal}, or {"fault": [code, message]}, which ends the run.
        """
        said: dict[str, Any]
        try:
            said = {"rows": self._rows(batch["clips"][0].as_py())}
        except OmniError as err:  # raised in the process that waits: Ray would hand on its text alone
            said = {"fault": [err.code, str(err)]}
        return {"said": [json.dumps(said)]}

    def _rows(self, batch: Sequence[dict[str, Any]]) -> list[Row]:
        """The rows of a batch, which are on the disk as a part."""
        clips = [Wanted(Path(os.fsdecode(clip["path"])), clip["question"]) for clip in batch]
        self.known = Known(self.work.limits.file_bytes)
        self.known.hashes = {clip.path: asked["sha256"] for clip, asked in zip(clips, batch, strict=True)}
        run = Run(self.known, self.work.task, lambda: self.model, lambda: False, self.batches, self.ahead)
        rows = [row for new in run.rows(clips) for row in new]
        write_part(self.work.parts, rows)
        return rows

    @cached_property
    def model(self) -> Labeller:
        """The model of this actor.

        Raises:
            ModelError: it cannot be loaded, or is another one than where the work comes from.
        """
        with suppress(OSError):  # relative paths are of the folder where the command runs
            os.chdir(self.work.folder)
        if self.work.is_offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        task = self.work.task
        if fingerprint(task.model.name) != task.model:
            raise ModelError(
                f"{task.model.name} on the node {platform.node()} is another model than on yours. Copy it there, or "
                "put it on a disk that all nodes see.",
                code="other_model",
            )
        found = self.stack.enter_context(loaded(task, self.work.limits, self.work.timeout))

        def read(path: Path) -> Any:
            try:
                return found.read(path)
            except ClipError as err:
                if err.code != "not_found" or not self.known.hashes[path]:
                    raise
                raise _elsewhere(path) from err

        return found._replace(read=read)


def _elsewhere(path: Path) -> ClipError:
    return ClipError(
        f"{display_name(path)} is not to be found on the node {platform.node()}. Put the clips on a disk that all "
        "nodes see under the same path.",
        code="not_on_node",
    )


class There:
    """`_said` in a process of the cluster, batch by batch: Ray Data does not run at the near end of ray://."""

    def __init__(self, *what: Any) -> None:
        self.batches = _said(*what)

    def next(self) -> str | None:
        """What the next batch has brought; None after the last."""
        try:
            return next(self.batches, None)
        except OmniError as err:
            return json.dumps({"fault": [err.code, str(err)]})


def _handed_over(work: Work, cluster: Cluster, todos: Sequence[Todo]) -> Iterator[list[Row]]:
    """Rows of the journal, a batch at a time, in the order in which they are done.

    Raises:
        OmniError: what ended an actor's work and is no fault of a clip.
        ServerError: Ray gave up.
    """
    batches = (_from_there if cluster.is_far else _said)(work, cluster, todos)
    for said in map(json.loads, batches):
        if "fault" in said:
            code, message = said["fault"]
            raise OmniError(message, code=code)
        yield said["rows"]


def _from_there(*what: Any) -> Iterator[str]:
    import ray

    there = ray.remote(There).options(num_cpus=0).remote(*what)
    while (said := ray.get(there.next.remote())) is not None:
        yield said


def _said(work: Work, cluster: Cluster, todos: Sequence[Todo]) -> Iterator[str]:
    """What the actors say to each batch."""
    import ray.data

    clips = [{"path": os.fsencode(todo.path), "question": todo.key[1], "sha256": todo.key[0]} for todo in todos]
    size = min(work.batch_size or BATCH, ceil(len(clips) / cluster.actors))
    batches = [{"clips": clips[first : first + size]} for first in range(0, len(clips), size)]
    data = ray.data.from_items(batches, override_num_blocks=len(batches))
    data = data.map_batches(
        Actor,
        fn_constructor_args=(work,),
        batch_size=1,  # a row is a batch of clips already, and a block
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=cluster.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=0 if cluster.gpus else 1,
        num_gpus=cluster.gpus or None,
    )
    data.context.execution_no_progress_timeout_s = STALL
    data.context.enable_progress_bars = data.context.print_on_execution_start = False
    for batch in _told(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
        yield from batch["said"].to_pylist()


def _told(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same, with Ray's errors as ours."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    safe = "What is done is safe: run the same command again"
    try:
        yield from batches
    except ExecutionTimeoutError as err:
        why = f"No actor has done anything for {STALL:g} s. Look whether the cluster is full or its memory too small."
        raise ServerError(f"{why} {safe}.", code="stalled") from err
    except RayError as err:
        raise ServerError(f"Ray ended the work ({type(err).__name__}). {safe}, with --debug.", code="ray") from err


@contextmanager
def _cluster(address: str | None, number: int | None, gpus: float | None) -> Iterator[Cluster]:
    """A cluster while the body runs: one that this process has joined before, that of an address, or a new one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it reads these as it is imported
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # as there: 127.0.0.1 and no other address
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it keeps one in the home folder
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _join(address, number or ACTORS)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # Ray has put its own there
        found = _shares(ray.cluster_resources(), number, gpus)
        yield found._replace(is_far=(address or "").startswith(FAR))


def _join(address: str | None, cpus: int) -> None:
    """Join the cluster of an address, or start one with so many processors, by Ray's count, for actors without a GPU.

    Raises:
        ServerError: that is not possible.
    """
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        how |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECTS}
    else:
        _reach(address)
    try:
        ray.init(address or "local", **how)
    except Exception as err:
        what = f"The Ray cluster at {address} cannot be joined" if address else "Ray cannot be started here"
        raise ServerError(f"{what}: {' '.join(str(err).split())[:200]}", code="ray") from err


def _reach(address: str) -> None:
    """Find out whether anything is there: Ray itself tries for a quarter of an hour.

    Raises:
        OmniError: no address.
        ServerError: nothing there.

    >>> _reach("ray://localhost")
    Traceback (most recent call last):
    omni.errors.OmniError: --ray-address is 'ray://localhost'. Give one like ray://host:10001 or host:6379.
    """
    host, _, port = address.removeprefix(FAR).rpartition(":")
    if not host or not port.isdecimal():
        message = f"--ray-address is '{address}'. Give one like ray://host:10001 or host:6379."
        raise OmniError(message, code="bad_argument")
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as err:
        message = f"There is no Ray cluster at {address}: {err}. Start it, and run the same command again."
        raise ServerError(message, code="unreachable") from err


def _shares(has: dict[str, float], number: int | None, gpus: float | None) -> Cluster:
    """How many actors, and what of the GPUs each has.

    Args:
        has: resources of the cluster, by their names in Ray.

    >>> [_shares({"CPU": 8, "GPU": 4}, None, gpus)[:2] for gpus in (None, 0.5, 0)]
    [(4, 1.0), (8, 0.5), (2, 0)]
    >>> _shares({"CPU": 8}, None, None)[:2], _shares({"CPU": 8}, 3, None)[:2]
    ((2, 0.0), (3, 0.0))
    """
    there = has.get("GPU", 0.0)
    share = (1.0 if there else 0.0) if gpus is None else gpus
    if share > there:
        raise OmniError(f"The cluster has {there:g} GPUs, and --gpus-per-actor is {share:g}.", code="bad_argument")
    return Cluster(number or (int(there / share) if share else ACTORS), share)
