"""A model repository for NVIDIA Triton, and the model in it."""
