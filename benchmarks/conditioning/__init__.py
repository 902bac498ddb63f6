"""The CLIP image embedding at some steps only: Figure 2 of the VCUT paper."""
