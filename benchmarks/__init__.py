"""Measurements of vcut_trt: each module is a command, `python -m benchmarks.NAME`; what they found is in results/."""
