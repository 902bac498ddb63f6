"""Denoisers: one step of the denoising loop, `(latents, step) → latents`. Steps count from 1.

    StepEngines     the engines of all kinds of steps, bound once to the tensors that they share
    EngineDenoiser  every step on one of them
    PlanDenoiser    each step on the engine of its kind: the loop never learns about cuts, solvers or caches

                  ┌── latents a, history a ──► unet ──► latents b, history b ──┐     the next step goes the other way:
                  └───────────────────────◄─────────────◄──────────────────────┘     a launch for each direction

    guidance residual    guided steps write it, single ones read it
    deep feature         full steps write it, shallow ones read it: (2V·F, C, h', w') for guided steps; single ones have
                         its conditional half, the second, at the same addresses

A step copies its scalars into their slots, 768 bytes on the device, and launches. No address ever moves: a CUDA graph
has its addresses baked in, and TensorRT asks for multiples of 256 bytes, which a table of scalars is not.
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
from vcut_trt.spec.step_plan import StepPlan
from vcut_trt.spec.steps import SCALARS, STEP_KINDS

PER_SLOT = ALIGNMENT_BYTES // torch.float32.itemsize  # each slot begins at a multiple of 256 bytes
SLOTS = ("scalars", "sigma", "sigma_next")
"""What a step is given anew. The graphs of bundles before format 5 take the last two, today's the first."""


class Denoiser(Protocol):
    """One step of the loop."""

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Latents (V, F, 4, h, w), fp32, before step `step` → after it; they hold until the step after the next."""


class _LoopTensors:
    """What the engines of all kinds share, and which of the two buffers holds the latents now."""

    def __init__(self, engines: Mapping[GraphName, Engine]) -> None:
        every = tuple(engines.values())
        self._workspace = every[0].workspace
        specs = {spec.name: spec for engine in every for spec in (*engine.inputs, *engine.outputs)}
        self.latents = (self._empty(specs["latents"]), self._empty(specs["latents"]))
        self.history = (self._empty(specs["latents"]), self._empty(specs["latents"]))
        self.residual = self._empty(specs["latents"])
        self.slots = self._workspace.empty((len(SLOTS), PER_SLOT), torch.float32)
        self._feature = self._feature_of(every)
        self._constants: dict[TensorSpec, Tensor] = {}
        self.side = 0

    @property
    def current(self) -> Tensor:
        """The latents that the next step reads."""
        return self.latents[self.side]

    def begin(self) -> None:
        """Forget the video before: what it left might not be finite, and 0 times that is not 0."""
        self.side = 0
        for tensor in (*self.history, self.residual):
            tensor.zero_()

    def constants(self, engine: Engine) -> dict[str, Tensor]:
        """The inputs of `engine` that stay the same for a whole video."""
        shared = {"latents", "history", "guidance_residual", "deep_feature", *SLOTS}
        own = [spec for spec in engine.inputs if spec.name not in shared]
        for spec in own:
            if spec not in self._constants:
                self._constants[spec] = self._empty(spec)
        return {spec.name: self._constants[spec] for spec in own}

    def bound(self, engine: Engine, side: int) -> dict[str, Tensor]:
        """The tensors of one launch of `engine`: from the buffers of `side` to the others, by the graph's names."""
        named = {
            "latents": self.latents[side],
            "next_latents": self.latents[1 - side],
            "history": self.history[side],
            "next_history": self.history[1 - side],
            "guidance_residual": self.residual,
            "scalars": self.slots[0, : len(SCALARS)],
            "sigma": self.slots[1, 0],
            "sigma_next": self.slots[2, 0],
            **self.constants(engine),
        }
        return {
            spec.name: self._deep_feature(spec) if spec.name == "deep_feature" else named[spec.name]
            for spec in (*engine.inputs, *engine.outputs)
        }

    def _feature_of(self, engines: tuple[Engine, ...]) -> Tensor | None:
        """One buffer for all, as large as the largest of them needs it."""
        found = {
            spec for engine in engines for spec in (*engine.inputs, *engine.outputs) if spec.name == "deep_feature"
        }
        return self._empty(max(found, key=lambda spec: spec.shape[0])) if found else None

    def _deep_feature(self, spec: TensorSpec) -> Tensor:
        assert self._feature is not None
        return self._feature[len(self._feature) - spec.shape[0] :]

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
        self._tensors = tensors
        self._constants = tensors.constants(engine)
        self._launches = tuple(engine.bind(tensors.bound(engine, side)) for side in (0, 1))

    def begin(self, constants: Mapping[str, Tensor]) -> None:
        """Take over a video's constants."""
        assert constants.keys() == self._constants.keys(), (constants.keys(), self._constants.keys())
        for name, tensor in constants.items():
            assert tensor.shape == self._constants[name].shape, (name, tensor.shape, self._constants[name].shape)
            self._constants[name].copy_(tensor)

    def rehearse(self) -> None:
        """Run a step in each direction, on zeros, all scalars 1."""
        self._tensors.begin()
        for tensor in (*self._tensors.latents, *self._constants.values()):
            tensor.zero_()
        self._tensors.slots.fill_(1.0)
        for launch in self._launches:
            launch()

    def __call__(self) -> None:
        """Run one step: from the current buffers to the others, which are then the current ones."""
        with annotate("engine: %s", self._name):
            self._launches[self._tensors.side]()
        self._tensors.side = 1 - self._tensors.side


class PlanDenoiser:
    """Follows a plan: each step on the engine of its kind, with its own scalars.

    Args:
        by_kind: What runs the kinds of steps, by their names.
        tensors: Theirs.
        plan: The video's.
        slots: The scalars of every step, on the device.
        noise: (N, V, F, 4, h, w) on the device, where the solver is stochastic: what takes the place of the history.
    """

    def __init__(
        self,
        by_kind: Mapping[str, EngineDenoiser],
        tensors: _LoopTensors,
        plan: StepPlan,
        slots: tuple[Tensor, ...],
        noise: Tensor | None,
    ) -> None:
        self._tensors = tensors
        self._slots = slots
        self._noise = noise
        self._kinds = tuple(plan.kind(step) for step in range(1, plan.num_inference_steps + 1))
        self._run = tuple(by_kind[kind.name] for kind in self._kinds)

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Run one step. Latents that are not of this loop (the first, or a callback's) are copied in."""
        tensors = self._tensors
        with annotate("step %d: %s", step, self._kinds[step - 1].stage.value):
            tensors.slots.copy_(self._slots[step - 1])
            if latents is not tensors.current:
                tensors.current.copy_(latents)
            if self._noise is not None:
                tensors.history[tensors.side].copy_(self._noise[step - 1])
            self._run[step - 1]()
            return tensors.current


class StepEngines:
    """The engines of all kinds of steps that the bundle has, ready for one video after the other.

    Raises:
        DeviceMemoryError: The GPU has no room for the loop's tensors.
    """

    def __init__(self, engines: Mapping[GraphName, Engine]) -> None:
        self._tensors = _LoopTensors(engines)
        self._kinds = tuple(kind for kind in STEP_KINDS.values() if kind.graph in engines)
        self._by_kind = {
            kind.name: EngineDenoiser(kind.graph, engines[kind.graph], self._tensors) for kind in self._kinds
        }

    @property
    def denoisers(self) -> dict[GraphName, EngineDenoiser]:
        """What runs each kind of step, by its graph."""
        return {kind.graph: self._by_kind[kind.name] for kind in self._kinds}

    def denoiser(
        self,
        conditioning: Conditioning,
        plan: StepPlan,
        guidance_scale: Tensor | None,
        noise: Tensor | None = None,
    ) -> Denoiser:
        """The denoiser of one video; it ends the one before.

        Args:
            conditioning: What the video is conditioned on.
            plan: Its steps. All its kinds have engines.
            guidance_scale: (F) fp32; None: no step is guided.
            noise: (N, V, F, 4, h, w), where the plan's solver is stochastic.
        """
        assert (noise is not None) == plan.solver.is_stochastic
        self._tensors.begin()
        for kind in plan.kinds:
            self._by_kind[kind.name].begin(conditioning.inputs(kind, guidance_scale, plan.after_cut))
        return PlanDenoiser(self._by_kind, self._tensors, plan, _slots(plan, self._tensors.slots.device), noise)


def _slots(plan: StepPlan, device: torch.device) -> tuple[Tensor, ...]:
    """The slots of every step, each (3, 64), so that one copy moves all of them.

    The whole table goes to the device at once, and the host does not wait for the encoders, which are still at work.
    """
    table = torch.zeros(plan.num_inference_steps, len(SLOTS), PER_SLOT, dtype=torch.float64)
    for index, step in enumerate(plan.steps):
        update = step.update
        scalars = (step.sigma, update.a, update.b, update.c, update.p, update.q, step.residual)
        table[index, 0, : len(scalars)] = torch.tensor(scalars, dtype=torch.float64)
        table[index, 1], table[index, 2] = step.sigma, step.sigma_next
    return upload(table.float(), device).unbind()
