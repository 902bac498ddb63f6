"""Estimated latencies of cards that nothing was measured on."""
