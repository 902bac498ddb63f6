"""Engines: run one graph, whatever executes it, and build TensorRT plans. Nothing here imports diffusers or export."""
