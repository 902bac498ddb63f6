"""The proof that vcut_trt works on this card, in one command: `python -m benchmarks.gpu_proof`."""
