"""Examples that the README and the Makefile use."""
