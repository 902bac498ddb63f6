"""A miniature of SVD, trained from nothing on two CPU cores. `world` draws its videos, with exact ground truth."""
