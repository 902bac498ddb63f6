"""A miniature of SVD: its world, its training from nothing on two CPU cores, its evaluation.

`world` draws videos with exact ground truth, `train` trains the three parts on them, `evaluate` measures the clips.
"""
