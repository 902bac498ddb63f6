"""What a scheduler's configuration must say for its steps to be the graphs' own."""

from __future__ import annotations

from collections.abc import Mapping

MUST_BE: Mapping[str, str] = {"prediction_type": "v_prediction", "timestep_type": "continuous"}
"""Of diffusers' EulerDiscreteScheduler: SVD's parametrisation. Export and the pipeline's `scheduler` ask for it."""
