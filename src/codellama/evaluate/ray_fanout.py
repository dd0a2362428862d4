"""fanout.FanOut over a Ray cluster (extra `cluster`): the same results on any number of machines.

`work` travels once to each worker; a task whose worker dies is run again elsewhere, which changes
nothing, since it is a pure function of its item. Every machine needs this package, bubblewrap or
util-linux and, for generating, the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from codellama.errors import NotFoundError

__all__ = ["RayFanOut"]

RETRIES = 5


class RayFanOut:
    """Tasks on a cluster.

    Args:
        address: of the cluster; None starts one on this machine, for as long as this process.
        workers: processes to start on this machine, without an address.
        cpus: of each task: an engine takes a whole machine's, a judged program one.

    Raises:
        NotFoundError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, workers: int = 2, cpus: float = 1) -> None:
        try:
            cluster: Any = import_module("ray")
        except ImportError:
            raise NotFoundError("--ray needs Ray: pip install 'codellama[cluster]'") from None
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not cluster.is_initialized():
            here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
            cluster.init(address=address, log_to_driver=False, **({} if address else here))
        self._ray = cluster
        self.cpus = cpus
        self.ahead = 4 * max(1, int(cluster.cluster_resources().get("CPU", workers)))

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        ray = self._ray
        task = ray.remote(_call).options(
            num_cpus=self.cpus, max_retries=RETRIES, retry_exceptions=False
        )
        shipped = ray.put(work)
        left = iter(items)
        running: dict[Any, Any] = {}
        while True:
            for item in left:
                running[task.remote(shipped, item)] = item
                if len(running) >= self.ahead:
                    break
            if not running:
                return
            (first, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(first), ray.get(first)


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)
