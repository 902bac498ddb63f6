"""Figure 1 of the paper: how alike CLIP and DINO find the frames of a video."""
