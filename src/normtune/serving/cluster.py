"""The same application as replicas of a Ray Serve deployment, which share a folder of deltas.

Each replica has the base model and follows the folder. It notices an added, replaced or removed delta when a request
next needs its task, within the recheck time. Calls that change tasks are refused, since one replica cannot answer them
for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normtune.errors import ConfigError
from normtune.models.base import load_base
from normtune.models.device import accelerator
from normtune.serving.app import application
from normtune.serving.batcher import Batcher
from normtune.serving.folder import DeltaFolder
from normtune.serving.settings import Settings
from normtune.serving.tasks import Catalogue

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application


def deployment(
    model: str,
    folder: Path,
    *,
    replicas: int = 2,
    cpus: float = 1,
    gpus: float = 0,
    settings: Settings | None = None,
) -> Application:
    """A Ray Serve application for ``ray.serve.run``.

    Args:
        model: The base model; every replica must find it under this name.
        folder: The folder of deltas; every replica must reach it under this path.
        replicas: How many replicas.
        cpus: Processors a replica, which are also its threads.
        gpus: Accelerators a replica, or a share of one.
        settings: The limits of each replica.

    Returns:
        The application, to be run or written into a Serve configuration.

    Raises:
        ConfigError: If Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ConfigError(
            "A cluster needs Ray Serve; install it with: pip install 'normtune[cluster,serve]'."
        ) from error
    limits = (settings or Settings()).model_copy(update={"fixed": True, "hosts": None})

    def replica() -> FastAPI:  # called by each replica; Serve takes nothing but a plain function
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        base = load_base(model)
        base.model.to(accelerator("auto").device)
        return application(Batcher(Catalogue(base, limits, DeltaFolder(folder), follow=True)))

    return serve.deployment(
        name="normtune",
        num_replicas=replicas,
        max_ongoing_requests=limits.max_requests,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=60,
    )(serve.ingress(replica)()).bind()
