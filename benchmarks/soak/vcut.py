"""`python -m benchmarks.soak.vcut`: the `vcut` command of this checkout."""

from vcut_trt.cli import main

if __name__ == "__main__":
    main()
