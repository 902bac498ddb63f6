"""`python -m vcut_trt` is `vcut`."""

from vcut_trt.commands.app import main

if __name__ == "__main__":
    main()
