"""The process that owns the GPU, and what it and the server tell each other."""
