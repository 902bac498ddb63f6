"""Offline sets: every image of a set as a video, in this process or on Ray Data actors."""
