"""`python -m benchmarks.soak.vcut`: the `vcut` command of this checkout."""

from vcut_trt.commands.app import main

if __name__ == "__main__":
    main()
