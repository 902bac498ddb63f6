"""From a checkpoint to a bundle: load, fold, trace, write. Nothing here imports TensorRT or ONNX Runtime."""
