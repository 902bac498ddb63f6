"""The commands `vcut` and `vcut-export`: parse, build a config, call one function, show what came of it."""

from __future__ import annotations

from typing import Annotated

import typer

from vcut_trt.commands import bundles, plans, serving, videos
from vcut_trt.commands.doctor import doctor as examine
from vcut_trt.commands.streams import run
from vcut_trt.version import installed_version

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
export_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"vcut_trt {installed_version()}")
        raise typer.Exit


@app.callback()
def _without_a_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Stable Video Diffusion as TensorRT engines that switch at the cut step."""


export = export_app.command()(app.command()(bundles.export))
build = app.command()(bundles.build)
generate = app.command()(videos.generate)
plan = app.command()(plans.plan)
tune = app.command()(videos.tune)
verify = app.command()(bundles.verify)
bench = app.command()(videos.bench)
inspect = app.command()(bundles.inspect)
serve = app.command()(serving.serve)
keys = app.command()(serving.keys)
batch = app.command()(serving.batch)
triton = app.command()(serving.triton)
doctor = app.command(name="doctor")(examine)


def main() -> None:
    """Run `vcut`."""
    run(app)


def main_export() -> None:
    """Run `vcut-export`, which is `vcut export`."""
    run(export_app)


if __name__ == "__main__":
    main()
