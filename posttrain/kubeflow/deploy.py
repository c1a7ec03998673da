"""Bringing a server to what a deployment says: look, compare, and change only what differs.

Nothing is remembered between deployments: what is the release's own is marked in its description. Whatever fails
half-way is mended by looking again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.artifacts.differences import ABSENT, Difference, differences, shown
from posttrain.kubeflow.connection import Server
from posttrain.kubeflow.deployment import Deployment, Package, Schedule, checked, whole_of
from posttrain.kubeflow.recurring import Change, mark, marked, remove, upsert

_DIFF = 40  # places in which a pipeline differs that are shown


class Deployer:
    """A deployment on its way to a server.

    Args:
        packages: the compiled pipelines of the deployment.
        dry: only say what would be done.

    Raises:
        ConfigError: a schedule's parameters do not fit its pipeline.
    """

    def __init__(self, server: Server, wanted: Deployment, packages: Sequence[Package], dry: bool = False) -> None:
        self._server, self._wanted, self._dry = server, wanted, dry
        self._mark = mark(wanted.release)
        self._packages = {package.name: package for package in packages}
        self._parameters = {
            name: checked(schedule.parameters, self._packages[schedule.pipeline].spec, f"schedules.{name}.parameters")
            for name, schedule in wanted.schedules.items()
        }

    def apply(self) -> Iterator[Change]:
        """Pipelines first, then what runs them, then what is not wanted any more."""
        for package in self._packages.values():
            yield self._server.settled(partial(self._pipeline, package))
        for name, schedule in self._wanted.schedules.items():
            yield self._server.settled(partial(self._recurring, name, schedule))
        yield from self._removed(set(self._wanted.schedules), set(self._packages))

    def remove(self) -> Iterator[Change]:
        """Everything of the release; runs and what they made stay."""
        yield from self._removed(set(), set())

    # --- pipelines ---

    def _pipeline(self, package: Package) -> Change:
        there = self._server.pipeline(package.name)
        versions = self._server.versions(there.pipeline_id) if there else []
        newest = versions[0] if versions else None
        if newest and _is_of(newest.display_name, package.version):
            return Change("pipeline", package.name, "same", (newest.display_name,))
        difference = _difference(whole_of(newest), package.whole) if newest else ()
        name = _unused(package.version, {version.display_name for version in versions})
        if not self._dry:
            if there is None:
                there = self._server.create_pipeline(package.name, f"{package.description}\n{self._mark}")
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / f"{package.name}.yaml"
                file.write_text(package.text, encoding="utf-8")
                self._server.create_version(there.pipeline_id, name, package.description, file)
        return Change("pipeline", package.name, "update" if newest else "create", (name, *difference))

    def _recurring(self, name: str, schedule: Schedule) -> Change:
        pipeline = self._server.pipeline(schedule.pipeline)
        placed = schedule.model_copy(
            update={"parameters": self._parameters[name], "experiment": schedule.experiment or self._wanted.experiment}
        )
        return upsert(self._server, name, placed, pipeline.pipeline_id if pipeline else "", self._mark, self._dry)

    # --- what goes ---

    def _removed(self, schedules: set[str], pipelines: set[str]) -> Iterator[Change]:
        def whole() -> list[Change]:
            gone = [each for each in marked(self._server.pipelines(), self._mark) if each.display_name not in pipelines]
            for each in gone if not self._dry else ():
                self._server.delete_pipeline(each.pipeline_id)
            return [Change("pipeline", each.display_name, "delete") for each in gone]

        do = partial(remove, self._server, self._mark, lambda name: name not in schedules, self._dry)
        yield from self._server.settled(do)
        yield from self._server.settled(whole)


def _is_of(name: str, version: str) -> bool:
    """Whether a version is called so, or so with the number that content gets when it becomes the newest again."""
    return re.fullmatch(rf"{re.escape(version)}(-\d+)?", name) is not None


def _unused(version: str, names: set[str]) -> str:
    number, name = 1, version
    while name in names:
        number += 1
        name = f"{version}-{number}"
    return name


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Where two pipelines differ, the first of the places."""
    lines = [_line(each) for each in differences(old, new)]
    more = (f"… and {len(lines) - _DIFF} more",) if len(lines) > _DIFF else ()
    return (*lines[:_DIFF], *more)


def _line(each: Difference) -> str:
    if each.old is ABSENT:
        return f"+ {each.place}: {shown(each.new)}"
    if each.new is ABSENT:
        return f"- {each.place}: {shown(each.old)}"
    return f"~ {each.place}: {shown(each.old)} → {shown(each.new)}"
