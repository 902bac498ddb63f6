"""Score one dimension with VBench. Runs in VBench's own environment, so it imports nothing of ours.

    ENVIRONMENT/bin/python -I worker.py --videos … --suite … --output … --dimension … --ratio … --device …

-I keeps this file's folder out of the import path: `vbench.py` in it would hide the package of that name. VBench reads
the suite's images relative to the working folder: vbench2_beta_i2v/data/crop/{ratio}/{image_name}. It leaves
{dimension}_eval_results.json in the output folder.
"""

import argparse
from importlib import import_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("videos", "suite", "output", "dimension", "ratio", "device"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    suite = import_module("vbench2_beta_i2v").VBenchI2V(arguments.device, arguments.suite, arguments.output)
    suite.evaluate(
        videos_path=arguments.videos,
        name=arguments.dimension,
        dimension_list=[arguments.dimension],
        resolution=arguments.ratio,
    )


if __name__ == "__main__":
    main()
