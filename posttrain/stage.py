"""A stage: what it needs, what it makes, and the one way in which every stage is run.

`execute` does what all stages share, in this order: settings, parents, contracts, work, record, page. A stage's own
room (`components/<stage>/stage.py`) holds its settings, its checks and its work, and nothing of this.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic

from posttrain import reuse
from posttrain.artifacts import provenance
from posttrain.artifacts.artifact import Artifact, file_entries, whole_or_nothing
from posttrain.artifacts.contracts import enough_room
from posttrain.artifacts.digests import digest_of
from posttrain.artifacts.provenance import Trace
from posttrain.artifacts.record import Environment, ParentRef, Record
from posttrain.errors import ConfigError, ContractError, nearest
from posttrain.progress import Progress, Silence
from posttrain.settings import AnySettings, parse_settings
from posttrain.storage.references import check_store, obtain
from posttrain.taxonomy import METHODS, Kind
from posttrain.training.settings import CHECKPOINT_SETTINGS, TrainSettings

IMAGE_VARIABLE = "POSTTRAIN_IMAGE"
# Settings that a record says elsewhere, or that change nothing of what is made.
NOT_PARAMETERS = {"name", "role", "also", *CHECKPOINT_SETTINGS}
_RECORDED_LIBRARIES = (
    "posttrain",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "numpy",
    "vllm",
)


@dataclass(frozen=True)
class ParentSpec:
    """A parent that a stage takes: its kind, how many at most, and whether it can do without.

    A `shared` one may be what another parent is, too (`Settings.also`): then a component is not given it twice.
    Without an `awaited` one a stage can do if none was given, but not if the one that was given is absent.
    Of an `unread` one the record is enough: files that lie in a store stay there.
    """

    kind: Kind
    most: int = 1
    required: bool = True
    help: str = ""
    shared: bool = False
    awaited: bool = False
    unread: bool = False


class Parents:
    """A stage's opened parents, by role; absent ones are left out of optional roles."""

    def __init__(self, by_role: Mapping[str, Sequence[Artifact]]) -> None:
        self._by_role = {role: list(artifacts) for role, artifacts in by_role.items()}

    def absence(self, stage: Stage[Any]) -> str:
        """Why the stage has nothing to do: a parent that it requires was not given; empty if all are there."""
        needed = [role for role, spec in stage.parents.items() if spec.required or spec.awaited]
        given = [artifact.record for role in needed for artifact in self._by_role[role]]
        return next((record.absent for record in given if record.absent), "")

    def present(self) -> Parents:
        """Without the absent ones."""
        return Parents({role: [a for a in given if not a.record.absent] for role, given in self._by_role.items()})

    def one(self, role: str) -> Artifact:
        """The parent in a required role."""
        return self._by_role[role][0]

    def maybe(self, role: str) -> Artifact | None:
        """The parent in an optional role, or None."""
        return next(iter(self._by_role.get(role, [])), None)

    def all(self, role: str) -> list[Artifact]:
        """Every parent in a role."""
        return self._by_role.get(role, [])

    def items(self) -> list[tuple[str, Artifact]]:
        """Every (role, parent), in the order of the stage's declaration."""
        return [(role, artifact) for role, artifacts in self._by_role.items() for artifact in artifacts]


@dataclass
class Work:
    """What a stage's own code hands back: what was learned from, and what there is to say about it."""

    trace: Trace | None = None
    facts: dict[str, str | int | float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    absent: str = ""
    before: float = 0.0  # seconds that others worked on what this process went on from
    made: Record | None = None  # by a stage that ran others: what the last of them made, and says of itself
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    blocks: list[Any] = field(default_factory=list)  # of posttrain.report, for the stage's page
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries, where other processes loaded them


@dataclass(frozen=True)
class Stage(Generic[AnySettings]):
    """A stage's declaration; each room has one, named STAGE.

    `check_settings` raises what settings alone show to be wrong, so a recipe is refused when it is compiled; `check`
    what the parents show, before anything expensive; `run` writes the artifact's content into its directory.
    `image` is the image it needs: "control" (no torch), "train", or "sample" (as "train", and with vLLM if asked for).
    """

    name: str
    output: str  # the name of the KFP output: it labels the node in the UI's graph
    makes: Kind | Callable[[AnySettings], Kind]
    parents: Mapping[str, ParentSpec]
    settings: type[AnySettings]
    run: Callable[[AnySettings, Parents, Path, Progress], Work]
    check_settings: Callable[[AnySettings], None] = lambda settings: None
    check: Callable[[AnySettings, Parents], None] = lambda settings, parents: None
    method: str | Callable[[AnySettings], str] = ""  # in the catalogue; empty = the stage's own name
    image: str = "train"
    size: Callable[[Parents], int] = lambda parents: 2**20  # bytes that the artifact may need on disk
    measures: bool = True  # it has numbers of its own to compare runs by; else its component has no output `metrics`
    outside: bool = False  # it reads or changes what lies outside its parents: its settings do not say what it makes
    foreign: Mapping[str, str] = field(default_factory=dict)  # a parent that it never takes → what to do instead
    contract: int = 1  # raised when its training changes so that older checkpoints no longer lead to the same end

    @property
    def trains(self) -> bool:
        """Whether its work can be shared by processes and nodes, and kept on the way."""
        return issubclass(self.settings, TrainSettings)

    def kind_of(self, settings: AnySettings) -> Kind:
        """The kind of artifact that these settings lead to."""
        return self.makes if isinstance(self.makes, Kind) else self.makes(settings)

    def method_of(self, settings: AnySettings) -> str:
        """The catalogue's name for what these settings do."""
        return self.method(settings) if callable(self.method) else self.method or self.name

    def remedy(self, role: str) -> str:
        """What to do about a parent that it does not take."""
        return f"; {self.foreign[role]}" if role in self.foreign else nearest(role, self.parents)


def execute(
    stage: Stage[AnySettings],
    parents: Mapping[str, Sequence[Path]],
    settings: Mapping[str, Any],
    out: Path,
    page: Path | None = None,
) -> Record:
    """Run a stage: nothing is at `out` unless everything went well.

    A recipe's optional input that is left empty becomes an absent artifact, and so does whatever requires it: a
    pipeline's graph is fixed when it is compiled, before anybody knows what a user will give.

    Args:
        parents: role → paths of finished artifacts.
        settings: validated against the stage's settings; None = unset.
        out: where the artifact goes; must not exist or be an empty directory.
        page: where the stage's HTML page goes, if anywhere.

    Raises:
        PosttrainError: a setting, a parent or a contract is wrong, or storage failed.
    """
    from posttrain.training.launch import run_work
    from posttrain.training.tracking import write_events

    started, clock = datetime.now(UTC), time.monotonic()
    chosen, opened, absent = checked(stage, parents, settings, out)
    progress = Progress(chosen.name or stage.name)
    progress.event("start")
    wanted = {**_made_by(stage, chosen, opened), "absent": absent}
    if not stage.outside and (found := reuse.take_over(out, page, wanted, progress)):
        progress.event("done", seconds=time.monotonic() - clock, metrics=found.metrics, reused=True)
        return found
    with whole_or_nothing(out) as scratch:
        work = Work(absent=absent) if absent else run_work(stage, chosen, opened, scratch, progress)
        if work.trace:
            provenance.agree(stage.method_of(chosen), work.trace, chosen.accept_provenance)
        if work.curves:
            write_events(scratch, work.curves)
        record = work.made or _record(stage, chosen, opened, work, scratch, started, time.monotonic() - clock)
        record.write(scratch)
    if page is not None:
        from posttrain.report.stage_page import stage_page

        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(stage_page(record, work.blocks), encoding="utf-8")
    from_step = record.counts.get("resumed_from_step", 0)
    progress.event("done", seconds=time.monotonic() - clock, metrics=record.metrics, from_step=from_step)
    return record


def join(stage: Stage[AnySettings], parents: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]) -> None:
    """Take part in a stage that the first of several nodes runs by `execute`: the same checks and work, nothing kept.

    Raises:
        PosttrainError: as in `execute`.
    """
    from posttrain.training.launch import run_work

    with tempfile.TemporaryDirectory(prefix="posttrain-node-") as scratch:
        chosen, opened, absent = checked(stage, parents, settings, Path(scratch))
        if not absent:
            run_work(stage, chosen, opened, Path(scratch), Silence(stage.name))


def checked(
    stage: Stage[AnySettings], parents: Mapping[str, Sequence[Path]], settings: Mapping[str, Any], out: Path
) -> tuple[AnySettings, Parents, str]:
    """The settings, the parents that are there, and why there is nothing to do; contracts hold if there is.

    Raises:
        PosttrainError: as in `execute`.
    """
    chosen = parse_settings(stage.settings, settings, stage.name)
    stage.check_settings(chosen)
    opened = open_parents(stage, _shared(stage, parents, chosen.also))
    absent, opened = opened.absence(stage), opened.present()
    if not absent:
        enough_room(out, stage.size(opened))
        stage.check(chosen, opened)
        check_store(stage.kind_of(chosen))
    return chosen, opened, absent


def _shared(
    stage: Stage[Any], parents: Mapping[str, Sequence[Path]], also: Mapping[str, str]
) -> dict[str, Sequence[Path]]:
    """The parents with those that were given in another role: `{teacher_2: init}` makes the init the second teacher.

    Raises:
        ConfigError: a role is unknown, or nothing was given in the other role.
    """
    shared = {role: list(paths) for role, paths in parents.items()}
    for place, other in sorted(also.items()):
        role, _, number = place.rpartition("_") if place.rpartition("_")[2].isdigit() else (place, "", "1")
        for name in (role, other):
            if name not in stage.parents:
                raise ConfigError(f"{stage.name}: also.{place}={other}: no parent is called {name!r}")
        if not parents.get(other):
            raise ConfigError(f"{stage.name}: also.{place}={other}: no parent {other!r} was given")
        shared.setdefault(role, []).insert(int(number) - 1, parents[other][0])
    return dict(shared)


def open_parents(stage: Stage[Any], parents: Mapping[str, Sequence[Path]]) -> Parents:
    """Open and verify every parent that the stage declares.

    Raises:
        ContractError: a role is unknown, missing, or has too many parents.
        DataError: a parent is not whole.
    """
    for role in parents:
        if role not in stage.parents:
            raise ContractError(f"{stage.name}: no parent is called {role!r}{stage.remedy(role)}")
    opened: dict[str, list[Artifact]] = {}
    for role, spec in stage.parents.items():
        paths = parents.get(role, [])
        if spec.required and not paths:
            raise ContractError(f"{stage.name}: needs a parent {role!r} ({spec.kind}): {spec.help}")
        if len(paths) > spec.most:
            raise ContractError(f"{stage.name}: {len(paths)} parents {role!r}, at most {spec.most}")
        opened[role] = [obtain(Path(path), spec.kind, not spec.unread) for path in paths]
    return Parents(opened)


def _made_by(stage: Stage[Any], settings: Any, parents: Parents) -> dict[str, Any]:
    """The part of a record that is known before the work: what an artifact is a function of."""
    method = METHODS[stage.method_of(settings)]
    return {
        "kind": stage.kind_of(settings),
        "stage": stage.name,
        "method": method.name,
        "name": settings.name or stage.name,
        "interface": method.interface,
        "role": settings.role or method.role,
        "parents": [
            ParentRef(role=role, kind=parent.record.kind, id=parent.record.id, digest=parent.digest)
            for role, parent in parents.items()
        ],
        "parameters": settings.model_dump(mode="json", exclude=NOT_PARAMETERS),
    }


def _record(
    stage: Stage[Any], settings: Any, parents: Parents, work: Work, directory: Path, started: datetime, seconds: float
) -> Record:
    files = file_entries(directory)
    return Record(
        **_made_by(stage, settings, parents),
        digest=digest_of({name: entry.sha256 for name, entry in files.items()}),
        files=files,
        trace=work.trace,
        facts=work.facts,
        metrics=work.metrics,
        counts=work.counts,
        curves=work.curves,
        absent=work.absent,
        environment=Environment(versions=versions() | work.versions, image=os.environ.get(IMAGE_VARIABLE, "")),
        started=started,
        seconds=work.before + seconds,
        ancestors={key: old for _, parent in parents.items() for key, old in parent.record.family().items()},
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that this process really loaded."""
    loaded = [name for name in _RECORDED_LIBRARIES if name in sys.modules]
    return {"python": sys.version.split()[0], **{name: _version(name) for name in loaded}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # vLLM's build for CPUs is distributed under another name
        return str(getattr(sys.modules[name], "__version__", "unknown"))
