"""The paper's protocol: VBench, image to video."""
