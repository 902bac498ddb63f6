"""Denoisers: one step of the denoising loop, `(latents, step) → latents`. Steps count from 1.

    StepEngines     the engines of all kinds of steps, bound once to the tensors that they share
    EngineDenoiser  every step on one of them
    CutDenoiser     each step on the engine of its kind: the loop never learns about cuts

                  ┌── latents a ──► unet ──► latents b ──┐        the next step goes the other way: each engine has one
                  └───────────◄─────────────◄────────────┘        launch for each direction

A step copies its two sigmas into their slots, 512 bytes on the device, and launches. No address ever moves: a CUDA
graph has its addresses baked in, and TensorRT asks for multiples of 256 bytes, which a table of sigmas is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from vcut_trt.engines.base import Engine
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, upload
from vcut_trt.runtime.conditioning import Conditioning
from vcut_trt.runtime.ranges import annotate
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.steps import SINGLE, STEP_KINDS

PER_SLOT = ALIGNMENT_BYTES // torch.float32.itemsize  # each sigma begins at a multiple of 256 bytes
PER_STEP = ("latents", "next_latents", "sigma", "sigma_next")


class Denoiser(Protocol):
    """One step of the loop."""

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Latents (V, F, 4, h, w), fp32, before step `step` → after it; they hold until the step after the next."""


class _LoopTensors:
    """What the UNet engines share: latents, sigmas, and the constants of the same name and shape."""

    def __init__(self, engine: Engine) -> None:
        specs = {spec.name: spec for spec in engine.inputs}
        self._workspace = engine.workspace
        self.latents = (self._empty(specs["latents"]), self._empty(specs["latents"]))
        self.sigmas = engine.workspace.empty((2, PER_SLOT), torch.float32)
        self._constants: dict[TensorSpec, Tensor] = {}

    def constants(self, engine: Engine) -> dict[str, Tensor]:
        """The inputs of `engine` that stay the same for a whole video."""
        for spec in engine.inputs:
            if spec.name not in PER_STEP and spec not in self._constants:
                self._constants[spec] = self._empty(spec)
        return {spec.name: self._constants[spec] for spec in engine.inputs if spec.name not in PER_STEP}

    def _empty(self, spec: TensorSpec) -> Tensor:
        return self._workspace.empty_like_spec(spec)


class EngineDenoiser:
    """Runs every step on one UNet engine.

    Args:
        name: The graph of its kind of step.
        engine: Its engine.
        tensors: Shared with the other kinds.
    """

    def __init__(self, name: GraphName, engine: Engine, tensors: _LoopTensors) -> None:
        self._name = name.value
        self._latents = tensors.latents
        self._slots = tensors.sigmas
        self._constants = tensors.constants(engine)
        self._sigmas: tuple[Tensor, ...] = ()
        bound = {**self._constants, "sigma": tensors.sigmas[0, 0], "sigma_next": tensors.sigmas[1, 0]}
        a, b = tensors.latents
        self._forth = engine.bind({**bound, "latents": a, "next_latents": b})
        self._back = engine.bind({**bound, "latents": b, "next_latents": a})

    def begin(self, constants: Mapping[str, Tensor], sigmas: tuple[Tensor, ...]) -> EngineDenoiser:
        """Take over a video's constants, and the pairs of sigmas of its steps."""
        assert constants.keys() == self._constants.keys(), (constants.keys(), self._constants.keys())
        for name, tensor in constants.items():
            assert tensor.shape == self._constants[name].shape, (name, tensor.shape, self._constants[name].shape)
            self._constants[name].copy_(tensor)
        self._sigmas = sigmas
        return self

    def rehearse(self) -> None:
        """Run a step in each direction, on zeros at σ = 1."""
        for tensor in (*self._latents, *self._constants.values()):
            tensor.zero_()
        self._slots.fill_(1.0)
        self._forth()
        self._back()

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Run one step. Latents that are not of this loop (the first, or a callback's) are copied in."""
        a, b = self._latents
        with annotate("engine: %s", self._name):
            self._slots.copy_(self._sigmas[step - 1])
            if latents is b:
                self._back()
                return a
            if latents is not a:
                a.copy_(latents)
            self._forth()
            return b


class CutDenoiser:
    """Hands each step to the denoiser of its kind, by the kind's name."""

    def __init__(self, by_kind: Mapping[str, Denoiser], schedule: CutSchedule) -> None:
        self._by_kind = by_kind
        self._schedule = schedule

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Run one step on what runs its kind."""
        kind = self._schedule.kind(step)
        with annotate("step %d: %s", step, kind.stage.value):
            return self._by_kind[kind.name](latents, step)


class StepEngines:
    """The engines of all kinds of steps that the bundle has, ready for one video after the other.

    Raises:
        DeviceMemoryError: The GPU has no room for the loop's tensors.
    """

    def __init__(self, engines: Mapping[GraphName, Engine]) -> None:
        tensors = _LoopTensors(next(iter(engines.values())))
        self._device = tensors.sigmas.device
        self._kinds = tuple(kind for kind in STEP_KINDS.values() if kind.graph in engines)
        self._by_kind = {kind.name: EngineDenoiser(kind.graph, engines[kind.graph], tensors) for kind in self._kinds}

    @property
    def denoisers(self) -> dict[GraphName, EngineDenoiser]:
        """What runs each kind of step, by its graph."""
        return {kind.graph: self._by_kind[kind.name] for kind in self._kinds}

    def denoiser(
        self, conditioning: Conditioning, sigmas: Tensor, schedule: CutSchedule, guidance_scale: Tensor | None
    ) -> Denoiser:
        """The denoiser of one video; it ends the one before.

        Args:
            conditioning: What the video is conditioned on.
            sigmas: (N + 1,) on the host; the scheduler's, the last one included.
            schedule: Which engine runs which step.
            guidance_scale: (F) fp32; None: no step is guided.
        """
        pairs = _sigma_pairs(sigmas, self._device)
        if guidance_scale is None:
            return self._by_kind[SINGLE.name].begin(conditioning.inputs(SINGLE, None), pairs)
        for kind in self._kinds:
            self._by_kind[kind.name].begin(conditioning.inputs(kind, guidance_scale), pairs)
        return CutDenoiser(self._by_kind, schedule)


def _sigma_pairs(sigmas: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """σ and σ' of every step, each (2, 64): in the layout of the slots, so that one copy moves both.

    The whole table goes to the device at once, and the host does not wait for the encoders, which are still at work.
    """
    pairs = torch.stack([sigmas[:-1], sigmas[1:]], dim=1).float()
    return upload(pairs.unsqueeze(2).repeat(1, 1, PER_SLOT), device).unbind()
