"""All of TensorRT: which one is installed, building plans, choosing them, running them."""
