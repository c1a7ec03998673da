"""Checkpoints of a run in a store: content-checked, committed in one step, written by one run at a time.

A checkpoint exists when its manifest does, and that is made by `Store.create` after everything it refers to: no crash
leaves half of one. A run that starts to write makes a new claim; whoever sees a higher claim than his own stops.
`layout.py` says where things lie.

Why nobody can pull a file out from under a checkpoint that is being made: bytes that are sent get a name that never
was (`FileRef`), and a checkpoint shares files with the newest committed one only. So the checkpoints that refer to a
blob are ones in a row; once it is not in the newest, it will never be used again; and the newest is never pruned. Only
blobs that no manifest refers to yet need a grace time, and they are rare: an upload of a run that died.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from posttrain.artifacts.digests import digest_file
from posttrain.errors import ContractError, DataError, FencedError, StorageError
from posttrain.storage import index
from posttrain.storage.history import History
from posttrain.storage.index import side_by_side
from posttrain.storage.layout import ASIDE, CLAIMS, COMMITS, claim_name, commit_name, mark, numbers
from posttrain.storage.manifest import ALONE, FileRef, Identity, Manifest, World, decoded
from posttrain.storage.retention import USUAL, Retention
from posttrain.storage.sources import size_of
from posttrain.storage.store import Source, Store

_SMALL = 2**16  # bytes that are sent again sooner than asked after


class Checkpoints(History):
    """One run's checkpoints, as the run sees them.

    The first process of a group calls `claim`, then `newest`, and `commit` for each checkpoint; every process `restore`
    and `add`. What `newest` returned last is what the run goes on from: the later ones that it passed over as damaged
    are set aside, so that their steps can be made again. A run that never asked begins anew: its first commit sets
    aside all that was there.
    """

    def __init__(self, store: Store, identity: Identity, keep: Retention = USUAL) -> None:
        super().__init__(store, keep)
        self.identity = identity
        self.skipped: list[str] = []  # why `newest` passed over what is newer
        self._base: Manifest | None = None  # what the owner's next checkpoint comes after
        self._added: dict[str, FileRef] = {}  # SHA-256 → what this process restored, or added last
        self._since: float | None = None  # when the first file since the last commit was added
        self._left: list[int] = []  # steps to be set aside by the first commit, unless `newest` is asked
        self._loose: int | None = None  # steps in no segment of the index; None until the first commit

    # --- reading ---

    def newest(self, before: int | None = None) -> Manifest | None:
        """The newest checkpoint of this run that has all its files in their sizes; `skipped` says what was passed over.

        Args:
            before: only of earlier steps: the next to try where `restore` found one to be damaged.

        Raises:
            FencedError: later ones would have to be set aside, but another run has become the writer.
        """
        self.skipped, self._base = [], None
        steps = numbers(self.store, COMMITS)
        for step in reversed(steps):
            if before is not None and step >= before:
                continue
            manifest = self.manifest(step)
            if manifest is None:
                if step in self.unreadable:
                    self.skipped.append(self.unreadable[step])
            elif manifest.identity != self.identity:
                self.skipped.append(f"checkpoint {step}: of another run ({_told(self.identity, manifest)})")
            elif lacking := self.lacking(manifest):
                self.skipped.append(f"{self.store.uri}: checkpoint {step} is damaged: {'; '.join(lacking)}")
            else:
                self._base = manifest
                break
        if self._claim is not None:
            self._left = []
            last = self._base.step if self._base else -1
            self._set_aside([step for step in steps if step > last], last)
        return self._base

    def restore(self, manifest: Manifest, directory: Path, names: Callable[[str], bool] = lambda name: True) -> None:
        """See `History`."""
        super().restore(manifest, directory, names)
        self._added = {ref.sha256: ref for ref in manifest.files.values()}

    # --- writing ---

    def claim(self) -> None:
        """Become the writer of this prefix; who was before is told so at his next commit.

        Raises:
            ConfigError: the prefix holds something else.
            ContractError: it holds checkpoints of another run; the message names the differences.
        """
        mark(self.store)
        self._left = numbers(self.store, COMMITS)
        for step in reversed(self._left):
            if manifest := self.manifest(step):
                if manifest.identity != self.identity:
                    raise ContractError(
                        f"{self.store.uri}: holds checkpoints of another run ({_told(self.identity, manifest)}); "
                        "give this one a prefix of its own"
                    )
                break
        about = {"host": platform.node(), "process": os.getpid(), "time": datetime.now(UTC).isoformat()}
        number = max(numbers(self.store, CLAIMS), default=0) + 1
        while not self.store.create(claim_name(number), json.dumps(about).encode()):
            number += 1
        self._claim, self._base = number, None

    def add(self, files: Mapping[str, Source]) -> dict[str, FileRef]:
        """Hash files and send those that the newest checkpoint does not hold; they must stay as they are meanwhile.

        One checkpoint is made at a time: what a process adds is for the next commit.
        """
        self._since = self._since or time.monotonic()
        tag = secrets.token_hex(6)
        fresh = {name: _reference(source, tag) for name, source in files.items()}
        shared = self._shared(fresh.values())
        made = {name: shared.get(ref.sha256, ref) for name, ref in fresh.items()}
        sources = {ref.blob: files[name] for name, ref in made.items() if ref.sha256 not in shared}
        if sources:
            self.store.put(sources)
        self._added = {ref.sha256: ref for ref in made.values()}
        return made

    def _shared(self, fresh: Iterable[FileRef]) -> dict[str, FileRef]:
        """What need not be sent: it was in this process's last checkpoint, is in the newest, and is there."""
        known = [self._added[r.sha256] for r in fresh if r.sha256 in self._added and r.size >= _SMALL]
        newest = self._newest_committed() if known else None
        if newest is None:
            return {}
        held = set(newest.files.values()) & set(known)
        missing = self._misfits(held)
        return {ref.sha256: ref for ref in held if ref.blob not in missing}

    def _newest_committed(self) -> Manifest | None:
        if self._claim is not None:
            return self._base
        steps = numbers(self.store, COMMITS)
        return self.manifest(steps[-1]) if steps else None

    def commit(
        self,
        step: int,
        files: Mapping[str, FileRef],
        metrics: Mapping[str, float] | None = None,
        world: World = ALONE,
    ) -> bool:
        """Make the checkpoint of a step out of what the processes added.

        Returns:
            Whether this call made it; False where another run of the same identity had done so, which is as good.

        Raises:
            FencedError: another run has become the writer.
            StorageError: sending took so long that files may have been swept as left behind, and some were.
        """
        if self._base is None and self._loose is None:
            self._set_aside(self._left, -1)
        self._left, number = [], self._own()
        manifest = Manifest(
            step=step,
            files=dict(files),
            identity=self.identity,
            metrics=dict(metrics or {}),
            world=world,
            claim=number,
            time=datetime.now(UTC),
        )
        self._refuse_swept(manifest)
        there = self._created(manifest)
        self._base = self._known[step] = there
        self._index()
        return there == manifest

    def _refuse_swept(self, manifest: Manifest) -> None:
        """After half the grace time, see whether everything is still there."""
        since, self._since = self._since, None
        if since is None or time.monotonic() - since < self.keep.grace / 2:
            return
        if lacking := self.lacking(manifest):
            raise StorageError(
                f"{self.store.uri}: sending checkpoint {manifest.step} took so long that it was swept meanwhile "
                f"({'; '.join(lacking)}); start again: what is sent within {self.keep.grace:.0f} s is never swept"
            )

    def _created(self, manifest: Manifest) -> Manifest:
        """The checkpoint that is there in the end: this one, or another run's of the same step."""
        name, content = commit_name(manifest.step), manifest.encoded()
        while not self.store.create(name, content):
            there = self.store.read(name)
            self._own()
            if there is None:  # removed since
                continue
            try:
                other = decoded(there, name)
                if other.identity == self.identity and not self.lacking(other):
                    return other  # equal to this one if the store's answer was lost
            except DataError:
                pass
            self._set_aside([manifest.step], manifest.step - 1)
        return manifest

    def _own(self) -> int:
        """The number of this run's claim.

        Raises:
            FencedError: there is a higher one.
        """
        assert self._claim is not None, "commit without claim"
        highest = max(numbers(self.store, CLAIMS), default=0)
        if highest > self._claim:
            about = (self.store.read(claim_name(highest)) or b"").decode(errors="replace").strip()
            raise FencedError(
                f"{self.store.uri}: another run writes here now (claim {highest}, {about}; ours was {self._claim}); "
                "this one stops, and that one goes on"
            )
        return self._claim

    def _set_aside(self, steps: list[int], after: int) -> None:
        """Take manifests away that were there a moment ago, all later than a step that this run goes on from."""
        index.forget(self.store, after)
        if not steps:
            return
        number = self._own()  # had a newer run made some of them meanwhile, its claim shows
        for step in steps:
            content = self.store.read(commit_name(step))
            if content is not None:
                self.store.create(f"{ASIDE}{step:010}-{number:06}.json", content)
            self._known.pop(step, None)
        self._delete([commit_name(step) for step in steps])

    def _index(self) -> None:
        """Write a segment of the index if enough steps are in none."""
        if self._loose is not None:
            self._loose += 1
        if self._loose is None or self._loose >= index.SEGMENT:
            spans = index.segments(self.store).values()
            steps = [s for s in numbers(self.store, COMMITS) if not any(a <= s <= b for a, b in spans)]
            self._loose = len(steps)
            if len(steps) >= index.SEGMENT:
                manifests = [manifest for manifest in side_by_side(self.manifest, steps) if manifest]
                index.write_segment(self.store, manifests)
                self._loose = 0


def _reference(source: Source, tag: str) -> FileRef:
    """Hash a file or pieces; Python's lock is free meanwhile, and nothing is copied."""
    if isinstance(source, Path):
        digest = digest_file(source)
    else:
        hashed = hashlib.sha256()
        for piece in source:
            hashed.update(piece)
        digest = hashed.hexdigest()
    return FileRef(sha256=digest, size=size_of(source), tag=tag)


def _told(identity: Identity, other: Manifest) -> str:
    return ", ".join(identity.differences(other.identity))
