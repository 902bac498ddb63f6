"""From an image to a video: conditioning, the denoising loop, decoding, MP4. Nothing here imports export or ONNX."""
