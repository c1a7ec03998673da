"""`posttrain models` and `rollback`: what is registered, which version is the champion, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from posttrain.report.page import Cell

Registry = Annotated[str, typer.Option(metavar="URI", help="The registry: a path, file:// or s3://bucket/prefix.")]
Told = Annotated[str, typer.Option(metavar="URL", help="The Kubeflow Model Registry that lists it, to be told.")]
To = Annotated[int | None, typer.Option(metavar="N", help="This version; any that is registered, also a newer.")]
_COLUMNS = ("model", "champion", "versions", "newest")


def models(
    registry: Registry,
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Show this one's versions and champions.")] = "",
) -> None:
    """List what a registry has: models, or one's versions, what the gate said of them, and its champions."""
    from posttrain.errors import ConfigError
    from posttrain.registry import open_registry
    from posttrain.report.register import PROMOTION_COLUMNS, VERSION_COLUMNS, promotion_rows, version_rows

    there = open_registry(registry)
    if model:
        index = there.known(model)
        _show(VERSION_COLUMNS, version_rows(index))
        _show(PROMOTION_COLUMNS, promotion_rows(index))
        return
    found = [index for index in map(there.index, there.models()) if index.versions]
    if not found:
        raise ConfigError(f"{registry}: nothing is registered there; check the URI")
    champions = [f"v{index.champion}" if index.champion else "" for index in found]
    newest = [f"{index.versions[-1].registered:%Y-%m-%d %H:%M}" for index in found]
    counts = [len(index.versions) for index in found]
    _show(_COLUMNS, zip([index.model for index in found], champions, counts, newest, strict=True))


def rollback(
    model: Annotated[str, typer.Argument(help="The model's name in the registry.")],
    registry: Registry,
    to: To = None,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")] = "",
    model_registry: Told = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
) -> None:
    """Make the champion before this one the champion again, or version --to N."""
    from posttrain.registry import open_registry

    there = open_registry(registry, model_registry)
    change = there.roll_back(model, to, reason, dry_run)
    before, after = (f"v{each.version}" if each else "none" for each in (change.before, change.after))
    what = f"champion {before} → {after}" if before != after else f"champion {after} as before"
    print(f"{model}: {what} ({there.policy_uri(model, change.version.version)}){'; dry run' if dry_run else ''}")


def _show(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    from posttrain.cli.show import print_table, table

    made = table(*columns)
    for row in rows:
        made.add_row(*map(str, row))
    print_table(made)
