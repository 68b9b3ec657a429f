"""The command line: serve, fuse, fuse-dir, models, settings."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from app.color import CHANNELS
from app.errors import ProblemError, StartupError
from app.folder import EXTENSIONS, PAIRS_AT_ONCE, Pair, fuse_file, fuse_pairs, match_pairs, running, same_options
from app.logs import configure_logs
from app.options import FuseOptions, read_options
from app.service import Service, build_service
from app.settings import Settings, settings_table

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Fuses an aligned pair of images into one.")

ModelOption = Annotated[str | None, typer.Option(help="Name of a model; see `pairfuse models`.")]
StrengthOption = Annotated[str | None, typer.Option(help="Strength of all edit slots, from 0.")]
SharpenOption = Annotated[str | None, typer.Option(help="Strength of the slot `sharpen`.")]
SmoothOption = Annotated[str | None, typer.Option(help="Strength of the slot `smooth`.")]
SlotOption = Annotated[list[str] | None, typer.Option("--slot", help="NAME=VALUE for any other edit slot.")]
ColorOption = Annotated[
    str | None, typer.Option(help="Where colour comes from: auto, a, b or none; rgb fuses each channel.")
]
QualityOption = Annotated[str | None, typer.Option(help="1–100, for jpeg and webp.")]
EffortOption = Annotated[str | None, typer.Option(help="Time to spend on fewer bytes: fast, small or smallest.")]
RangeOption = Annotated[str | None, typer.Option(help="Scale of 16-bit images: stretch or full.")]
SideOption = Annotated[str | None, typer.Option(help="Longest side at which the model sees the pair; 0: as it is.")]


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; over PAIRFUSE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; over PAIRFUSE_PORT.")] = None,
) -> None:
    """Starts the HTTP service."""
    # Imported here: the other commands need no web framework, and start faster without.
    from app.server import serve as run_server  # noqa: PLC0415
    from app.supervisor import run_workers  # noqa: PLC0415

    settings = Settings(**_given(host=host, port=port))
    configure_logs(settings.log_level, settings.log_format)
    if settings.workers == 1:
        run_server(settings)
    elif code := run_workers(settings):
        raise typer.Exit(code)


@cli.command()
def fuse(
    image_a: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="First image.")],
    image_b: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Second image, of the same size.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Result; its suffix chooses the format.")],
    *,
    model: ModelOption = None,
    strength: StrengthOption = None,
    sharpen: SharpenOption = None,
    smooth: SmoothOption = None,
    slot: SlotOption = None,
    color: ColorOption = None,
    quality: QualityOption = None,
    effort: EffortOption = None,
    range16: RangeOption = None,
    max_side: SideOption = None,
) -> None:
    """Fuses one pair of image files."""
    fields = _given(strength=strength, sharpen=sharpen, smooth=smooth, color=color, quality=quality, range16=range16)
    fields |= _given(effort=effort, max_side=max_side, format=_format_of(output))
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    service, options = _prepare(model, fields | _slots(slot))
    asyncio.run(_fuse_one(service, Pair(image_a, image_b, output), options))


@cli.command()
def fuse_dir(
    dir_a: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of first images.")],
    dir_b: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of second images.")],
    output: Annotated[Path, typer.Option("-o", "--output", file_okay=False, help="Folder for the results.")],
    *,
    model: ModelOption = None,
    strength: StrengthOption = None,
    sharpen: SharpenOption = None,
    smooth: SmoothOption = None,
    slot: SlotOption = None,
    color: ColorOption = None,
    quality: QualityOption = None,
    effort: EffortOption = None,
    range16: RangeOption = None,
    max_side: SideOption = None,
    file_format: Annotated[str, typer.Option("--format", help="png, jpeg, webp or tiff.")] = "png",
) -> None:
    """Fuses all pairs of two folders that have the same name. Results that exist already are skipped."""
    fields = _given(strength=strength, sharpen=sharpen, smooth=smooth, color=color, quality=quality, range16=range16)
    fields |= _given(effort=effort, max_side=max_side, format=file_format)
    if output.resolve() in {dir_a.resolve(), dir_b.resolve()}:
        raise typer.BadParameter("the results need a folder of their own", param_hint="--output")
    service, options = _prepare(model, fields | _slots(slot))
    output.mkdir(parents=True, exist_ok=True)
    if not same_options(output, options):
        raise typer.BadParameter(f"{output} holds results of other options; name another folder", param_hint="--output")
    pairs, faults = match_pairs(dir_a, dir_b, output, EXTENSIONS[options.format])
    todo = [pair for pair in pairs if not pair.output.exists()]
    faults += _fuse_all(service, todo, options)
    for fault in faults:
        typer.echo(fault, err=True)
    typer.echo(f"{len(todo)} to do, {len(pairs) - len(todo)} were done before, {len(faults)} failed")
    if faults or not pairs:
        raise typer.Exit(1)


@cli.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False) -> None:
    """Lists the models of the weights folder."""
    service = build_service(Settings())
    catalog = service.catalog
    if as_json:
        cards = [engine.card.model_dump(mode="json") for engine in catalog]
        typer.echo(json.dumps({"default": catalog.default, "models": cards, "refused": catalog.refused}, indent=2))
        return
    table = Table("name", "title", "edit slots", "backend", "device", "default")
    for engine in catalog:
        card, backend = engine.card, engine.backend
        is_default = "yes" if card.name == catalog.default else ""
        table.add_row(card.name, card.title, ", ".join(card.slots), backend.kind, backend.device, is_default)
    Console().print(table)
    for name, reason in catalog.refused.items():
        typer.echo(f"refused {name}: {reason}", err=True)


@cli.command(name="settings")
def show_settings() -> None:
    """Prints the table of all settings as Markdown."""
    typer.echo(settings_table())


def main() -> None:
    """Runs the command line; errors that a user can cure end it with one line and exit code 1 or 2."""
    try:
        cli()
    except (StartupError, ProblemError, OSError) as error:
        typer.echo(f"pairfuse: {error}", err=True)
        sys.exit(1)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            name = "_".join(str(part) for part in fault["loc"]).upper()
            typer.echo(f"pairfuse: PAIRFUSE_{name}: {fault['msg']}, not {fault['input']!r}", err=True)
        sys.exit(2)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _slots(pairs: list[str] | None) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--slot")
        fields[name] = value
    return fields


def _format_of(output: Path) -> str:
    suffix = output.suffix.lower()
    formats = {extension: name for name, extension in EXTENSIONS.items()} | {".jpeg": "jpeg", ".tif": "tiff"}
    if suffix not in formats:
        raise typer.BadParameter(f"suffix {suffix!r} is none of {', '.join(sorted(formats))}", param_hint="--output")
    return formats[suffix]


def _prepare(model: str | None, fields: dict[str, str]) -> tuple[Service, FuseOptions]:
    # Limits of one request among many make no sense here: the user waits for the pair, or watches the progress.
    settings = Settings()
    planes = PAIRS_AT_ONCE * CHANNELS
    bounds = {"max_inflight_pixels": 2 * planes * settings.max_pixels, "max_queue": planes}
    service = build_service(settings.model_copy(update={"deadline_s": 86_400.0} | bounds))
    return service, read_options(settings.request_defaults | fields | _given(model=model), service.catalog)


async def _fuse_one(service: Service, pair: Pair, options: FuseOptions) -> None:
    async with running(service) as pipeline:
        await fuse_file(pipeline, pair, options)


def _fuse_all(service: Service, pairs: list[Pair], options: FuseOptions) -> list[str]:
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("fusing", total=len(pairs))
        return asyncio.run(fuse_pairs(service, pairs, options, lambda: progress.advance(task)))
