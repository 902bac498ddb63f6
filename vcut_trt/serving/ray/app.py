"""The server on Ray Serve: the same HTTP API, with as many GPUs behind it as Serve gives.

    serve run vcut_trt.serving.ray.app:build_app bundle=build/svd-xt data=jobs keys=keys.json max_replicas=8

    ApiIngress   one replica: the API, the jobs, and a runner for each replica that there may be
    ClipReplica  min_replicas … max_replicas: one pipeline each, one clip at a time

A runner passes its job on and waits for it. Jobs that wait are requests that Serve sees, so that it starts replicas.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
from fastapi import FastAPI
from pydantic import BeforeValidator, Field, ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend
from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.serving.api.keys import KeyFile
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.jobs.jobs import OtherBundle
from vcut_trt.serving.jobs.limits import MEBIBYTE, UserLimits
from vcut_trt.serving.jobs.service import Service, ServiceConfig
from vcut_trt.serving.ray.worker import ClipReplica, RayWorker
from vcut_trt.serving.server import LOOPBACK_HOSTS
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp

LISTENERS = 1000  # requests that the API answers at a time; whoever watches a job is one as long as it lasts
HEAD_NODE = {"node:__internal_head__": 0.001}  # Ray's name for it. The jobs lie on one disk: their server stays there
WATCH_SECONDS = 3.0  # between two looks at what Serve is about to do
END_SECONDS = 30.0  # for what is left to do once the jobs have ended


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""On the command line: with commas between them."""


class AppArguments(UserLimits):
    """What `serve run` is told, as NAME=VALUE, the limits included; the defaults are those of `vcut serve`."""

    bundle: Path  # under the same path on every node
    data: Path | None = None  # on the head node; default: BUNDLE-jobs, beside the bundle
    keys: Path | None = None
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    backend: Backend = Backend.AUTO
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU for each replica, where the cluster has one
    residency: Residency = Residency.AUTO
    cuda_graphs: bool = True
    warm_up: WarmUp = WarmUp.AUTO
    hang_timeout: float = Field(180.0, gt=0)
    drain_timeout: float = Field(600.0, ge=0)
    cors_origin: Names = ()
    other_bundle: OtherBundle = OtherBundle.WAIT
    allowed_host: Names = ()  # default: without keys this machine's names, else all

    @classmethod
    def parse(cls, args: dict[str, Any]) -> AppArguments:
        """Read what came, with paths made absolute: replicas work in folders of their own.

        Raises:
            ConfigError: An argument is unknown, missing, or not usable.
            BundleError: There is no bundle.
            ServingError: The bundle makes several videos a call, or the keys cannot be read.
        """
        try:
            came = cls.model_validate(args)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0])
            names = [*(own for own in cls.model_fields if own not in UserLimits.model_fields), *UserLimits.model_fields]
            raise ConfigError(
                f"{name}={args.get(name, '')}: {first['msg']}. Arguments are {', '.join(names)}."
            ) from None
        if came.max_replicas < came.min_replicas:
            raise ConfigError(f"max_replicas is {came.max_replicas}, below min_replicas, {came.min_replicas}")
        bundle = came.bundle.resolve()
        places = {
            "bundle": bundle,
            "data": (came.data or bundle.with_name(f"{bundle.name}-jobs")).resolve(),
            "keys": came.keys.resolve() if came.keys else None,
        }
        arguments = came.model_copy(update=places)
        assert arguments.limits()  # raises on its own behalf
        if arguments.keys is not None:
            KeyFile.read(arguments.keys)
        videos = Bundle.open(bundle).manifest.video.videos
        if videos != 1:
            raise ServingError(f"this bundle makes {videos} videos a call; a server wants one. Export with --videos 1.")
        return arguments

    def doors(self) -> Doors:
        """What is let in. Without keys, this machine's own names only: a page could make its name point here."""
        hosts = self.allowed_host or (LOOPBACK_HOSTS if self.keys is None else ())
        return Doors(upload_bytes=self.upload_mb * MEBIBYTE, cors_origins=self.cors_origin, allowed_hosts=tuple(hosts))

    def service(self) -> ServiceConfig:
        """What is served."""
        assert self.data is not None  # `parse` has filled it in
        return ServiceConfig(
            bundle=Bundle.open(self.bundle),
            data=self.data,
            keys=self.keys,
            residency=self.residency,
            limits=self.limits(),
            other_bundle=self.other_bundle,
        )


class RayService(Service):
    """A service whose workers are Serve's, and end when Serve wants them to."""

    def __init__(self, config: ServiceConfig, workers: list[RayWorker]) -> None:
        super().__init__(config, [*workers])
        self._ray_workers = workers

    def drain(self, seconds: float) -> None:
        """See `Service.drain`. A job that no replica has begun goes back to the queue at once: none may begin it."""
        for runner in self.runners:
            runner.begin_to_drain()
        for worker in self._ray_workers:
            worker.end_waiting()
        super().drain(seconds)


class ApiIngress:
    """The API and the jobs, in a replica of Ray Serve's.

    Args:
        arguments: AppArguments, as JSON.
        replicas: A DeploymentHandle of `ClipReplica`.
    """

    def __init__(self, arguments: str, replicas: Any) -> None:
        self._arguments = AppArguments.model_validate_json(arguments)
        self._workers = [
            RayWorker(replicas, silence_seconds=self._arguments.hang_timeout)
            for _ in range(self._arguments.max_replicas)
        ]
        self._service: RayService | None = None
        self._place = serve.get_replica_context()

    def __serve_build_asgi_app__(self) -> FastAPI:  # the name by which Serve asks, once the replica is made
        """The application; Serve runs its lifespan, which begins and ends the service."""
        arguments = self._arguments
        return create_app(self._begun, arguments.doors(), drain_seconds=arguments.drain_timeout)

    def check_health(self) -> None:
        """Serve asks every few seconds, and replaces an ingress that keeps answering with an error.

        Raises:
            ServingError: No runner is left: when they started, Serve had no replica that can run.
        """
        service = self._service
        if service is not None and service.is_ended and not service.is_draining:
            raise ServingError(service.runners[0].situation.reason)

    def _begun(self) -> RayService:
        self._service = RayService(self._arguments.service(), self._workers)
        watcher = threading.Thread(target=self._drain_when_stopped, args=(self._service,), daemon=True, name="watcher")
        watcher.start()
        return self._service

    def _drain_when_stopped(self, service: RayService) -> None:
        """Drain as soon as Serve wants this replica to end.

        Serve tells an application so (the end of its lifespan) when no request is left; but whoever watches a job would
        be left as long as the job, and meanwhile the next job would begin.
        """
        has_run = False
        while not service.is_draining:
            time.sleep(WATCH_SECONDS)
            try:
                application = serve.status().applications[self._place.app_name]
            except (KeyError, RayError, RayServeException):  # Serve's controller is being replaced, say
                continue
            here = application.deployments.get(self._place.deployment)
            replicas = {} if here is None else here.replica_states
            is_running = replicas.get("RUNNING", 0) > 0  # there is one ingress at a time: it is this one
            is_replaced = has_run and not is_running and replicas.get("STOPPING", 0) > 0
            has_run = has_run or is_running
            if is_replaced or application.status == "DELETING":
                service.drain(self._arguments.drain_timeout)


def build_app(args: dict[str, Any]) -> Any:
    """The Serve application: `serve run vcut_trt.serving.ray.app:build_app NAME=VALUE …`.

    Raises:
        VcutError: As `AppArguments.parse`.
    """
    arguments = AppArguments.parse(args)
    needs_gpu = arguments.device == "cuda" or (arguments.device == "auto" and _has_gpu())
    grace_seconds = arguments.drain_timeout + END_SECONDS
    replicas = serve.deployment(
        ClipReplica,
        name=ClipReplica.__name__,
        ray_actor_options={"num_gpus": int(needs_gpu)},
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": 1,
        },
        graceful_shutdown_timeout_s=grace_seconds,  # a replica that is no longer needed ends its clip first
    ).bind(
        bundle=str(arguments.bundle),
        backend=arguments.backend.value,
        device=arguments.device,
        residency=arguments.residency.value,
        cuda_graphs=arguments.cuda_graphs,
        warm_up=arguments.warm_up.value,
        silence_seconds=arguments.hang_timeout,
    )
    return serve.deployment(
        serve.ingress()(ApiIngress),
        name=ApiIngress.__name__,
        num_replicas=1,  # the jobs are in one database
        ray_actor_options={"num_cpus": 0, "resources": HEAD_NODE},
        max_ongoing_requests=LISTENERS,
        graceful_shutdown_timeout_s=grace_seconds,
    ).bind(arguments.model_dump_json(), replicas)


def _has_gpu() -> bool:
    return ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
