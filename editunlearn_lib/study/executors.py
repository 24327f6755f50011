"""How a study maps its work over cells: here, on a Ray cluster, or by a function of your own.

An executor is ``executor(work, cells)`` and gives an iterable with one item a cell, as cells get ready, in any order.
``work(cell)`` stores the cell itself; an executor only hands cells out.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..errors import StudyError, check_name, first_line

log = logging.getLogger(__name__)
RETRIES = 3  # of a cell whose worker or node died
STARTS = 5  # workers in a row that die before their first cell
WAIT = 30.0  # seconds without news after which the size of the cluster is looked up again
OBJECT_STORE = 100_000_000  # bytes of a cluster started here: only names of cells travel


def named(executor: str | Callable | None, **options: Any) -> Callable[[Callable, Sequence], Iterable]:
    """The executor of a name (``None`` is ``"local"``; ``options`` are those of `ray`), or the function itself."""
    if callable(executor):
        return executor
    check_name("executor", executor or "local", ("local", "ray"))
    return functools.partial(ray, **options) if executor == "ray" else map


def ray(
    work: Callable, cells: Sequence, *, address: str | None = None, num_workers: int | None = None
) -> Iterator[str]:
    """Hand cells out to workers on a Ray cluster; yields the key of each cell that is stored, or marked as failed.

    ``address`` is the cluster's (``"auto"``, ``"host:port"``, ``"ray://…"``); without one, and without ``RAY_ADDRESS``
    or a connection that is there already, Ray is started on this machine. ``num_workers`` at most; ``None``: one for
    every GPU of the cluster, or for every CPU where it has none. A worker holds one model in memory and gets cells of
    that model as long as there are any. A cell whose worker or node dies goes to another one, ``RETRIES`` times; then
    it is marked as failed. Raises `StudyError` where Ray is missing, no worker starts, or workers run another version.
    """
    if not cells:
        return
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        import ray as Ray
    except ImportError as error:
        how = "pip install 'editunlearn_lib[cluster]'"
        raise StudyError(f"executor='ray' needs Ray, which is not installed: {how}") from error
    started = not Ray.is_initialized()
    if started:
        _start(Ray, address or os.environ.get("RAY_ADDRESS"))
    try:
        yield from _Crew(Ray, work, cells, num_workers).run()
    finally:
        if started:
            Ray.shutdown()


def _start(Ray, address: str | None) -> None:
    """Reach a cluster, or start one here: a busy machine may take longer than the 30 seconds that Ray waits."""
    own = {"address": address} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    what = f"no Ray cluster can be reached at {address!r}" if address else "Ray does not start on this machine"
    for tries_left in (0,) if address else (1, 0):
        try:
            return Ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # a bare `Exception` where a node is slow
            Ray.shutdown()
            if not tries_left:
                raise StudyError(f"{what} ({first_line(error)}).") from error


class Member:
    """What runs on a worker: the work, and so the model that it has loaded."""

    def __init__(self, work: Callable, folder: str):
        self.work = work
        with contextlib.suppress(OSError):
            os.chdir(folder)  # data sets and models may be named by a path from where the driver was started

    def do(self, cell) -> str:
        return self.work(cell)


class _Crew:
    """The workers of a run, seen from the driver: who does what, what is left, and which cell has lost how many."""

    def __init__(self, ray, work: Callable, cells: Sequence, num_workers: int | None):
        self.ray, self.work, self.num_workers = ray, work, num_workers
        # no run is half on one, half on the other
        self.unit = "GPU" if ray.cluster_resources().get("GPU", 0) >= 1 else "CPU"
        self.left: dict[str, collections.deque] = collections.defaultdict(collections.deque)  # by the model they need
        for cell in cells:
            self.left[cell.model_name].append(cell)
        self.busy: dict[Any, tuple[Any, Any]] = {}  # what is awaited -> (worker, its cell or None while it starts)
        self.models: dict[Any, str | None] = {}  # worker -> the model that it has
        self.lost: collections.Counter = collections.Counter()
        self.dead_starts = 0

    def run(self) -> Iterator[str]:
        try:
            while any(self.left.values()) or any(cell for _, cell in self.busy.values()):
                self.hire()
                if not self.busy:
                    raise StudyError(f"the Ray cluster has no {self.unit} to run a cell on.")
                done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=WAIT)
                yield from filter(None, map(self.news, done))
        finally:
            for worker in list(self.models):
                self.dismiss(worker)

    def hire(self) -> None:
        """As many workers as the cluster has room for, and there is work for: it may have grown or shrunk."""
        room = int(self.ray.cluster_resources().get(self.unit, 0))
        room = room if self.num_workers is None else min(room, self.num_workers)
        enough = min(room, len(self.models) + sum(map(len, self.left.values())))
        options = {"num_cpus": 1} | ({"num_gpus": 1} if self.unit == "GPU" else {})
        while len(self.models) < enough:
            worker = self.ray.remote(max_restarts=0, **options)(Member).remote(self.work, os.getcwd())
            self.models[worker] = None
            self.busy[worker.__ray_ready__.remote()] = (worker, None)

    def dismiss(self, worker) -> None:
        del self.models[worker]
        with contextlib.suppress(Exception):  # it, its node or the cluster may be gone
            self.ray.kill(worker)

    def news(self, reference) -> str | None:
        """What came of a call; the worker gets its next cell. The key of the cell if that is settled."""
        worker, cell = self.busy.pop(reference)
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the work itself says that the run must stop
            raise getattr(error, "cause", None) or error from error
        except self.ray.exceptions.RayError as error:  # the worker, its node or the way there is gone
            self.dismiss(worker)
            return self.died(cell, " ".join(str(error).split()))
        if cell is not None and answer != cell.key:
            raise StudyError(
                f"a worker stored the cell {cell.key} as {answer}: it has another version of the library, of the "
                "model's weights or of the data. Install the same one on every node."
            )
        self.dead_starts = 0
        if following := self.choose(worker):
            self.busy[worker.do.remote(following)] = (worker, following)
        else:
            self.dismiss(worker)
        return cell and answer

    def choose(self, worker) -> Any:
        """The next cell: of the model that the worker has, else of that with most cells left a worker."""
        model = self.models[worker]
        if not self.left.get(model):
            at_it = collections.Counter(self.models.values())
            self.models[worker] = model = max(self.left, key=lambda m: len(self.left[m]) / (1 + at_it[m]))
        return self.left[model].popleft() if self.left[model] else None

    def died(self, cell, why: str) -> str | None:
        """A worker is gone: its cell is put back, or marked as failed."""
        if cell is None:
            self.dead_starts += 1
            if self.dead_starts >= STARTS:
                raise StudyError(
                    f"{STARTS} workers died one after another before their first cell: is editunlearn_lib installed on "
                    f"every node? The last one said: {why[-600:]}"
                )
            return None
        self.lost[cell] += 1
        if (died := self.lost[cell]) > RETRIES:
            self.work.gave_up(cell, f"its worker or node died {died} times: {why[:600]}")
            return cell.key
        log.warning("the worker of %s died (try %d of %d): it is run again.", cell.key, died, RETRIES + 1)
        self.left[cell.model_name].appendleft(cell)
        return None
