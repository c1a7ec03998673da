"""A training run that is kept where `checkpoint_uri` says, and goes on from there when it is started again.

What a run is, its identity says: the stage, its parents, the settings that change what it makes, the size of a batch
over all processes, and the libraries. Runs of the same identity find each other's checkpoints, whoever starts them, and
with however many processes; others lie beside them, and how they differ is said.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.errors import ContractError, DamagedError, Preempted
from posttrain.progress import Progress
from posttrain.stage import NOT_PARAMETERS, Parents, Stage
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.joining import files_of
from posttrain.storage.layout import mark
from posttrain.storage.manifest import Identity, Manifest, World, decoded
from posttrain.storage.retention import Retention
from posttrain.storage.store import Source, open_store
from posttrain.training.hardware import global_batch, processes_in_all
from posttrain.training.policy import copy_tokenizer
from posttrain.training.ranks import Group, is_main, rank
from posttrain.training.saving import Cadence, Saver, told_to_end
from posttrain.training.settings import TrainSettings

# How a batch is dealt out to processes; `processes` may be 0, for as many as there are GPUs.
_DEALT = ("batch_size", "accumulation", "processes")
# Settings that change nothing of what is trained.
_NOT_IDENTITY = {*NOT_PARAMETERS, *_DEALT, "accept_provenance", "logging_steps", "track", "run_name"}
_VERSIONS = ("torch", "transformers", "trl")
_CURRENT: ContextVar[Run | None] = ContextVar("run", default=None)
_GRACE = 60.0  # seconds that a save under way is given when training fails


@dataclass
class Run:
    """The run of a stage that is kept, for `posttrain.training.run.fit` to find."""

    settings: TrainSettings
    identity: Identity
    counts: Counter[str] = field(default_factory=Counter)
    before: float = 0.0  # seconds for which others trained what this process went on from

    def train(self, trainer: Any, init: Artifact, progress: Progress) -> None:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            trainer: with `ResumesExactly`.

        Raises:
            ContractError: `resume=must`, and there is nothing to go on from; or nothing that these processes can.
            Preempted: the process was told to end; everything it did is kept.
            FencedError: another process keeps this run now.
            StorageError: the store failed for too long.
        """
        group = Group()
        place, checkpoints = self._opened()
        if is_main():
            checkpoints.claim()
        with tempfile.TemporaryDirectory(prefix="posttrain-resume-") as scratch:
            found, trainer.elsewhere = self._fetched(checkpoints, Path(scratch), group, progress)
            plain = policy_files(trainer, init, Path(scratch) / "policy")
            cadence = Cadence(
                self.settings.checkpoint_steps, self.settings.checkpoint_seconds, self.settings.checkpoint_patience
            )
            saver = Saver(checkpoints, cadence, self._world, plain, progress, group)
            trainer.saver = saver
            try:
                with told_to_end(saver.tell_to_end):
                    trainer.train(resume_from_checkpoint=found)
                    saver.finish()
            finally:
                saver.wait(_GRACE)
                self.counts.update(saver.counts)
                self.before = saver.before
        if saver.stopped_at is not None:
            raise Preempted(
                f"told to end after step {saver.stopped_at} of {trainer.state.max_steps}: all of them are kept in "
                f"{place}; start it again to go on"
            )

    def _opened(self) -> tuple[str, Checkpoints]:
        settings = self.settings
        place = f"{settings.checkpoint_uri.rstrip('/')}/{self._prefix}{self.identity.digest[:12]}"
        metric = settings.keep_metric
        keep = Retention(
            last=settings.keep_last,
            best=settings.keep_best,
            metric=metric.removeprefix("-") if settings.keep_best else "",
            lower=metric.startswith("-"),
            every=settings.keep_every,
        )
        return place, Checkpoints(open_store(place), self.identity, keep)

    @property
    def _prefix(self) -> str:
        return f"{self.settings.name or self.identity.stage}-"

    @property
    def _world(self) -> World:
        settings = self.settings
        return World(
            size=processes_in_all(settings),
            strategy=settings.strategy,
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
        )

    def _fetched(
        self, checkpoints: Checkpoints, scratch: Path, group: Group, progress: Progress
    ) -> tuple[str | None, bool]:
        """Where the newest checkpoint is fetched to that these processes can go on from, and whether others made it.

        One that is damaged, or that they cannot go on from, is named, and passed over.
        """
        looks = is_main() and self.settings.resume != "never"
        if looks:
            self._refuse_unfit(checkpoints.manifests())
        manifest = group.first(checkpoints.newest() if looks else None)
        while manifest:
            for skipped in checkpoints.skipped:
                progress.say(f"{skipped}; trying the one before it")
            directory = _of_node(scratch / str(manifest.step), group)
            unlike = self._world.unlike(manifest.world)
            wrong = self._unfit(manifest)
            if not wrong:
                fetched = group.gathered(_fetch(checkpoints, manifest, directory, bool(unlike)))
                wrong = next((each for each in fetched if each), "")
            if not wrong:
                how = f", with {unlike}: not to the bit" if unlike else ""
                progress.say(f"going on from step {manifest.step}{how}")
                self.counts["resumed_from_step"] = manifest.step
                return str(directory), bool(unlike)
            progress.say(f"{wrong}; trying the one before it")
            manifest = group.first(checkpoints.newest(before=manifest.step) if looks else None)
        if looks:
            self._answer_for_none(progress)
        return None, False

    def _unfit(self, manifest: Manifest) -> str:
        """Why these processes cannot go on from a checkpoint of this run that others made; nothing if they can."""
        step, world, unlike = manifest.step, manifest.world, self._world.unlike(manifest.world)
        if unlike and world.strategy.startswith("zero"):
            return (
                f"checkpoint {step}, {unlike}: with strategy={world.strategy} each holds a partition of DeepSpeed's own"
            )
        if unlike and world.rollouts:
            return f"checkpoint {step}, {unlike}: each of {world.size} holds rollouts that are still to be trained on"
        return ""

    def _refuse_unfit(self, manifests: list[Manifest]) -> None:
        """Refuse before anything is set aside, if these processes can go on from none.

        Raises:
            ContractError: they cannot; those that made them can.
        """
        unfit = [self._unfit(manifest) for manifest in manifests if manifest.identity == self.identity]
        if unfit and all(unfit):
            raise ContractError(
                f"{unfit[-1]}; start as many as there were, with the same batch_size, or anew with resume=never"
            )

    def _answer_for_none(self, progress: Progress) -> None:
        """There is nothing to go on from: say how the runs that are kept here differ, or refuse.

        Raises:
            ContractError: `resume=must`.
        """
        uri = self.settings.checkpoint_uri
        others = {place: self.identity.differences(other) for place, other in self._others().items()}
        nearest = min(others, key=lambda place: len(others[place]), default="")
        why = f"{uri}/{nearest} is of another run ({'; '.join(others[nearest])})" if nearest else f"{uri} holds no run"
        if self.settings.resume == "must":
            raise ContractError(
                f"resume=must, but there is no whole checkpoint of this run: {why}; give it the same parents and "
                "settings, or start anew with resume=auto"
            )
        if nearest:
            progress.say(f"starting anew: {why}")

    def _others(self) -> dict[str, Identity]:
        """Runs of this stage that are kept beside this one, by where they are."""
        store = open_store(self.settings.checkpoint_uri)
        last: dict[str, str] = {}
        for entry in store.list(self._prefix):
            place, _, name = entry.name.partition("/")
            if name.startswith("commits/"):
                last[place] = entry.name
        read = {place: store.read(name) for place, name in last.items()}
        return {place: decoded(content, place).identity for place, content in read.items() if content}


def check_place(settings: TrainSettings) -> None:
    """See that checkpoints can be kept where the settings say, if they do, before anything is loaded.

    Raises:
        ConfigError: something else lies there.
        RefusedError: there is no such place, or no right to it.
        StorageError: the store failed for too long.
    """
    if settings.checkpoint_uri:
        mark(open_store(settings.checkpoint_uri))


@contextmanager
def kept(stage: Stage[Any], settings: Any, parents: Parents) -> Iterator[Run | None]:
    """Within it, the stage's training is kept, if its settings say where."""
    if not isinstance(settings, TrainSettings) or not settings.checkpoint_uri:
        yield None
        return
    run = Run(settings, identity_of(stage, settings, parents))
    token = _CURRENT.set(run)
    try:
        yield run
    finally:
        _CURRENT.reset(token)


def current_run() -> Run | None:
    """The run that training belongs to, if it is kept."""
    return _CURRENT.get()


def identity_of(stage: Stage[Any], settings: TrainSettings, parents: Parents) -> Identity:
    """What makes a run the run it is."""
    seen, digests = Counter[str](), dict[str, str]()
    for role, artifact in parents.items():
        seen[role] += 1
        digests[role if seen[role] == 1 else f"{role}_{seen[role]}"] = artifact.digest
    chosen = settings.model_dump(mode="json", exclude=_NOT_IDENTITY)
    if settings.counts_by_device:
        chosen |= {"batch_size": settings.batch_size, "processes": processes_in_all(settings)}
    return Identity(
        stage=stage.name,
        contract=stage.contract,
        parents=digests,
        parameters=chosen | {"global_batch": global_batch(settings)},
        versions={library: metadata.version(library) for library in _VERSIONS},
    )


def policy_files(trainer: Any, init: Artifact, scratch: Path) -> dict[str, Source]:
    """What a checkpoint needs beside the weights to be a policy: its config, and its tokenizer."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapters = getattr(model, "peft_config", {})
    plain = model.get_base_model() if adapters else model
    config = copy.deepcopy(plain.config)
    config.architectures = [type(plain).__name__.removeprefix("FSDP")]  # as FSDP2 renames the class
    config.save_pretrained(scratch)  # which makes the directory
    for adapter in adapters.values():
        adapter.save_pretrained(scratch)
    copy_tokenizer(init.path, scratch)
    return {file.name: file for file in sorted(scratch.iterdir())}


def _fetch(checkpoints: Checkpoints, manifest: Manifest, directory: Path, everything: bool) -> str:
    """Fetch what the processes of this node read, by the first of them; returns what is wrong with it.

    Args:
        everything: what is in each process's files is to be dealt out anew.
    """
    first = _first_of_node()
    read = [files_of(first + each) for each in range(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))]
    try:
        if first == rank():
            checkpoints.restore(manifest, directory, lambda name: everything or any(reads(name) for reads in read))
    except DamagedError as error:
        return str(error)
    return ""


def _of_node(mine: Path, group: Group) -> Path:
    """The path that the first process of this node has for it."""
    return Path(group.gathered(mine)[_first_of_node()])


def _first_of_node() -> int:
    return rank() - int(os.environ.get("LOCAL_RANK", 0))
