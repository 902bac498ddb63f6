"""What is measured of a bundle: parity, quality, seconds."""
