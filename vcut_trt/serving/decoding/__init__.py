"""Strangers' pictures, decoded in processes that have little time and little memory.

routes ──turn──► decoders ──► decoder ──picture──► main: a process of its own, which can be killed at any moment
                    fair among clients       ◄──PNG──
"""
