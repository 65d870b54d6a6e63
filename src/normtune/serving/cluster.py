"""The same application as replicas of a Ray Serve deployment, which share a folder of deltas.

Every replica has the base model and follows the folder: a delta that is put there, replaced or taken away is noticed by
each of them when its task is next asked for, within the recheck time. Calls that change tasks are refused, since one
replica cannot answer them for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normtune.deltas.bank import Bank
from normtune.errors import ConfigError
from normtune.models.base import load_base
from normtune.models.device import accelerator
from normtune.serving.application import application
from normtune.serving.catalogue import Catalogue
from normtune.serving.folder import DeltaFolder
from normtune.serving.service import Service
from normtune.serving.settings import Settings

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
        model: The base model, found under this name by every replica.
        folder: The folder of deltas, which every replica reaches under this path.
        replicas: How many replicas.
        cpus: Processors of each, which are also its threads.
        gpus: Accelerators of each, or a share of one.
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
    limits = (settings or Settings()).model_copy(update={"fixed": True})
    threads = max(1, int(cpus))

    def build() -> FastAPI:  # called by each replica; Serve takes a plain function only
        return replica(model, str(folder), threads, limits)

    return serve.deployment(
        name="normtune",
        num_replicas=replicas,
        max_ongoing_requests=limits.max_requests,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=60,
    )(serve.ingress(build)()).bind()


def replica(model: str, folder: str, threads: int, settings: Settings) -> FastAPI:
    """The application of one replica, with a base model of its own."""
    import torch

    torch.set_num_threads(threads)
    base = load_base(model)
    base.model.to(accelerator("auto").device)
    bank = Bank(base, max_batch=settings.max_batch)
    catalogue = Catalogue(
        bank,
        DeltaFolder(Path(folder)),
        follow=True,
        cache_bytes=settings.cache_bytes,
        recheck=settings.recheck,
        apart=settings.apart,
    )
    return application(Service(catalogue, settings))
