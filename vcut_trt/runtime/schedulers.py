"""Which of diffusers' schedulers a pipeline can run.

The step is part of the graphs, and so a scheduler gives its sigmas alone:

    c_in = 1 / √(σ² + 1)   timestep = ¼ ln σ   x₀ = x / (σ² + 1) − σ v / √(σ² + 1)   x' = x + (σ' − σ) (x − x₀) / σ

That is EulerDiscreteScheduler of a v-prediction with continuous timesteps, whatever spaces its sigmas (Karras,
exponential, beta, trailing …), and EDMEulerScheduler where the data's standard deviation is 1. Others mean other steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vcut_trt.errors import ConfigError
from vcut_trt.spec.sampling import MUST_BE

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler

EDM: Mapping[str, Any] = {"prediction_type": "v_prediction", "sigma_data": 1.0}
STEPPING = ("scale_model_input", "step")
"""What the graphs do in the place of a scheduler: a subclass that has its own means something else."""

WAY_OUT = "Make one that does: EulerDiscreteScheduler.from_config(pipe.scheduler.config, …)."


def check_scheduler(scheduler: object) -> None:
    """Refuse a scheduler whose steps the graphs do not take.

    Raises:
        ConfigError: The message names what about it does not fit.
    """
    reason = _why_not(scheduler)
    if reason is not None:
        raise ConfigError(f"this pipeline cannot run {type(scheduler).__name__}: {reason}. {WAY_OUT}")


def _why_not(scheduler: object) -> str | None:
    from diffusers import EDMEulerScheduler, EulerDiscreteScheduler

    for kind, must in ((EulerDiscreteScheduler, MUST_BE), (EDMEulerScheduler, EDM)):
        if not isinstance(scheduler, kind):
            continue
        own = [name for name in STEPPING if getattr(type(scheduler), name) is not getattr(kind, name)]
        if own:
            return f"it has a {' and a '.join(own)} of its own, and the graphs hold those of {kind.__name__}"
        wrong = [(name, scheduler.config.get(name), wanted) for name, wanted in must.items()]
        return next((f"{name} is {came!r}, not {wanted!r}" for name, came, wanted in wrong if came != wanted), None)
    return "its steps are not those of EulerDiscreteScheduler, which are part of the graphs"


def prepared(
    scheduler: EulerDiscreteScheduler, num_inference_steps: int, sigmas: list[float] | None
) -> EulerDiscreteScheduler:
    """A scheduler of one video's own, with its steps set.

    Args:
        scheduler: Copied, not changed.
        num_inference_steps: N; not looked at where there are sigmas.
        sigmas: N + 1 of them, the last one (0) included, or None.

    Raises:
        ConfigError: There is no step, or a sigma is not positive, or the scheduler makes none of them.
    """
    from diffusers import EulerDiscreteScheduler

    if sigmas is None and num_inference_steps < 1:
        raise ConfigError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
    if sigmas is not None and (len(sigmas) < 2 or any(sigma <= 0 for sigma in sigmas[:-1])):
        raise ConfigError("sigmas holds at least two numbers, positive but for the last one")
    if sigmas is not None and not isinstance(scheduler, EulerDiscreteScheduler):
        raise ConfigError(f"{type(scheduler).__name__} takes no sigmas; give num_inference_steps")
    own = copy.deepcopy(scheduler)
    try:
        if sigmas is None:
            own.set_timesteps(num_inference_steps)
        else:
            own.set_timesteps(sigmas=sigmas)
    except (ArithmeticError, ValueError) as error:
        raise ConfigError(f"the scheduler cannot make {num_inference_steps} steps: {error}") from error
    return own
