"""Muon for matrices and kernels, Adam for the rest; and the average of the weights that is kept.

Muon orthogonalises the update of a matrix; a kernel (out, in, …) counts as the matrix (out, in · …). Norms, biases and
the layers at a model's ends, which are no maps between features, go to Adam.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.99)
LARGEST_NORM = 1.0  # of a step's gradients


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a part learns."""

    muon: float
    adam: float
    ends: tuple[str, ...]  # parts of the names of the layers that go to Adam although they are matrices
    average: float  # decay of the average of the weights, a step
    warm_up: int = 20  # steps
    full_until: float = 0.5  # share of the training after which the rates fall linearly to 1 %


class Optimiser:
    """Both optimisers and the average of the weights, over the parameters that are trained."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], rates: Rates) -> None:
        self.rates = rates
        self.parameters = dict(parameters)
        self._matrices = [
            parameter
            for name, parameter in self.parameters.items()
            if parameter.ndim > 1 and not any(end in name for end in rates.ends)
        ]
        chosen = {id(parameter) for parameter in self._matrices}
        rest = [parameter for parameter in self.parameters.values() if id(parameter) not in chosen]
        self._flat = [parameter.detach().flatten(1) for parameter in self._matrices]  # views: Muon writes through them
        self._muon: torch.optim.Optimizer = torch.optim.Muon(
            self._flat, lr=rates.muon, momentum=MOMENTUM, weight_decay=0.0
        )
        self._adam: torch.optim.Optimizer = torch.optim.Adam(rest, lr=rates.adam, betas=ADAM_BETAS)
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def step(self, loss: Tensor, progress: float, step: int) -> None:
        """Go down the gradient of `loss`; `progress` is the share of the training that is done."""
        for parameter in self.parameters.values():
            parameter.grad = None
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_NORM)
        for flat, parameter in zip(self._flat, self._matrices, strict=True):
            flat.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        scale = self._scale(progress, step)
        for optimiser, rate in ((self._muon, self.rates.muon), (self._adam, self.rates.adam)):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
            optimiser.step()
        decay = min(self.rates.average, (1 + step) / (10 + step))
        now = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_([*self.average.values()], now, 1 - decay)

    def _scale(self, progress: float, step: int) -> float:
        falling = (1 - progress) / (1 - self.rates.full_until)
        return min(1.0, (step + 1) / self.rates.warm_up) * (0.99 * min(1.0, max(0.0, falling)) + 0.01)

    def swap_average(self) -> None:
        """Exchange the weights with their average; a second call exchanges them back."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                kept = parameter.detach().clone()
                parameter.copy_(self.average[name])
                self.average[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed training needs, by name."""
        tensors = {f"weight.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for title, optimiser in (("muon", self._muon), ("adam", self._adam)):
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"{title}.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state again."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
        for title, optimiser in (("muon", self._muon), ("adam", self._adam)):
            _load_slots(optimiser, title, tensors)


def _load_slots(optimiser: torch.optim.Optimizer, title: str, tensors: Mapping[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        words: Sequence[str] = name.split(".")
        if words[0] == title:
            slots.setdefault(int(words[1]), {})[words[2]] = value.clone()
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
