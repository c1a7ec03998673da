"""A run's checkpoints as anybody may see, fetch, check and thin them out, also while the run goes on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import digest_files
from posttrain.errors import ContractError, DamagedError, DataError
from posttrain.storage import index
from posttrain.storage.index import side_by_side
from posttrain.storage.joining import join
from posttrain.storage.layout import ASIDE, BLOBS, CLAIMS, COMMITS, claim_name, commit_name, numbers, store_time
from posttrain.storage.manifest import FileRef, Manifest, decoded
from posttrain.storage.retention import USUAL, Retention, kept
from posttrain.storage.store import Entry, Store, checked_name

EXPORTED = "checkpoint.json"
_TRIES = 3  # of fetching a file whose bytes are wrong: the way may be to blame, not the store
_BATCH = 500  # objects that are removed by one request; S3 takes 1000, but several requests at once are quicker
_ASIDE = 23  # times `grace` longer stays what was set aside: a day by default, for a person to look
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_POLICY_FILES = (
    *("config.json", "generation_config.json", "model*.safetensors", "model*.safetensors.index.json"),
    *("adapter_config.json", "adapter_model*.safetensors"),
    *(f"rank-*.{file}" for file in _WEIGHTS),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*"),
)


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, or would: steps, and the blobs that were theirs alone, with their bytes."""

    steps: list[int]
    blobs: int
    size: int


class History:
    """The checkpoints below a prefix.

    Every method raises StorageError if the store failed or refused.
    """

    def __init__(self, store: Store, keep: Retention = USUAL) -> None:
        self.store, self.keep = store, keep
        self.unreadable: dict[int, str] = {}  # step → why its manifest cannot be read
        self._known: dict[int, Manifest] = {}
        self._claim: int | None = None

    def manifests(self) -> list[Manifest]:
        """The checkpoints, in the order of steps; those that cannot be read are in `unreadable` instead."""
        steps = set(numbers(self.store, COMMITS))
        self.unreadable = {}
        self._known = {step: manifest for step, manifest in self._known.items() if step in steps}
        unknown = steps - self._known.keys()
        if len(unknown) > index.SEGMENT // 4:
            self._known |= {step: m for step, m in index.read_index(self.store).items() if step in unknown}
        side_by_side(self.manifest, sorted(unknown - self._known.keys()))
        return [self._known[step] for step in sorted(self._known)]

    def manifest(self, step: int) -> Manifest | None:
        """The manifest of a step; None, and an entry in `unreadable` if it is there, where it cannot be had."""
        name = commit_name(step)
        content = self.store.read(name)
        if content is None:  # removed since
            return None
        try:
            self._known[step] = decoded(content, f"{self.store.uri}/{name}")
        except DataError as error:
            self.unreadable[step] = str(error)
            return None
        return self._known[step]

    def lacking(self, manifest: Manifest) -> list[str]:
        """The files of a checkpoint that are missing or of a wrong size; their bytes are not read."""
        return named(manifest.files, self._misfits(manifest.files.values()))

    def _misfits(self, refs: Iterable[FileRef]) -> dict[str, str]:
        """What is wrong with the objects, looked at from outside: blob → what."""

        def misfit(ref: FileRef) -> str:
            size = next((entry.size for entry in self.store.list(ref.blob) if entry.name == ref.blob), None)
            if size is None:
                return "is missing"
            return "" if size == ref.size else f"{size} bytes instead of {ref.size}"

        looked = list({ref.blob: ref for ref in refs}.values())
        wrong = side_by_side(misfit, looked)
        return {ref.blob: what for ref, what in zip(looked, wrong, strict=True) if what}

    def restore(self, manifest: Manifest, directory: Path, names: Callable[[str], bool] = lambda name: True) -> None:
        """Fetch a checkpoint's files into a directory, each checked by its size and SHA-256.

        Args:
            names: which of the files; all of them by default.

        Raises:
            DamagedError: a file is missing or not what it was; what the directory holds then is of no use.
        """
        wanted = {name: file for name, file in manifest.files.items() if names(name)}
        wrong = named(wanted, self._fetch(wanted, directory))
        if wrong:
            raise DamagedError(f"{self.store.uri}: checkpoint {manifest.step} is damaged: {'; '.join(wrong)}")

    def _fetch(self, files: Mapping[str, FileRef], directory: Path) -> dict[str, str]:
        """Fetch files; returns what is wrong with which blob."""
        paths = {name: directory / checked_name(name, self.store.uri) for name in files}
        first = {ref.blob: (ref, paths[name]) for name, ref in reversed(list(files.items()))}
        todo, wrong = dict(first), {}
        for _ in range(_TRIES):
            try:
                self.store.get({blob: path for blob, (_, path) in todo.items()})
            except DataError:
                wrong = self._misfits(ref for ref, _ in todo.values())
                if not wrong:
                    raise
                return wrong
            wrong = _differing(todo)
            todo = {blob: first[blob] for blob in wrong}
            if not todo:
                break
        for name, ref in files.items():
            if paths[name] != first[ref.blob][1] and ref.blob not in wrong:
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(first[ref.blob][1], paths[name])
        return wrong

    def verify(self, manifest: Manifest) -> list[str]:
        """Fetch everything and say what is damaged: `model.safetensors: is missing`."""
        wrong = self.damaged_blobs(manifest.files.values())
        return named(manifest.files, wrong)

    def damaged_blobs(self, refs: Iterable[FileRef]) -> dict[str, str]:
        """Fetch blobs, each once, and say what is wrong with which; on the disk is one at a time."""
        wrong: dict[str, str] = {}
        for blob, ref in {ref.blob: ref for ref in refs}.items():
            with tempfile.TemporaryDirectory(prefix="posttrain-verify-") as scratch:
                wrong |= self._fetch({blob.removeprefix(BLOBS): ref}, Path(scratch))
        return wrong

    def export(self, manifest: Manifest, directory: Path) -> None:
        """Write the policy in a checkpoint as a plain Hugging Face directory, weights that are kept in parts joined.

        It gets no record: no stage has finished it, and what it learned from was not computed. The manifest lies
        beside it as `.checkpoint.json`, which is no part of its content.

        Raises:
            ContractError: there is no whole policy in it, or something is at `directory` already.
            DamagedError: see `restore`.
        """
        wanted = {name for name in manifest.files if any(fnmatch(name, known) for known in _POLICY_FILES)}
        wanted = {name for name in wanted if "/" not in name}
        if "config.json" not in wanted or not any(name.endswith(".safetensors") for name in wanted):
            held = ", ".join(sorted(manifest.files)[:5])
            raise ContractError(
                f"{self.store.uri}: checkpoint {manifest.step} holds no policy by itself ({held}, …); "
                "resume the run, whose result will be one"
            )
        with whole_or_nothing(directory) as scratch:
            self.restore(manifest, scratch, wanted.__contains__)
            for file in _WEIGHTS:
                join(scratch, file)
            (scratch / f".{EXPORTED}").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def prune(self, dry: bool = False) -> Pruned:
        """Remove the checkpoints that `keep` does not keep, and the blobs that were theirs alone.

        Of these no later checkpoint can become a user: a writer shares the blobs of the newest checkpoint alone,
        which stays. What a crash leaves behind is without a manifest, and `sweep` finds it.

        Args:
            dry: say what would be removed, and leave it.
        """
        if self.keep.last is None:
            return Pruned([], 0, 0)
        manifests = {manifest.step: manifest for manifest in self.manifests()}
        whole = next((step for step in sorted(manifests, reverse=True) if self._is_whole(manifests[step])), -1)
        stay = kept({step: m.metrics for step, m in manifests.items() if step <= whole}, self.keep)
        gone = [manifest for step, manifest in manifests.items() if step <= whole and step not in stay]
        used = {ref.blob for step, m in manifests.items() if step > whole or step in stay for ref in m.files.values()}
        # What an unreadable manifest refers to is unknown, so nothing but manifests can be removed beside it.
        freed = {} if self.unreadable else {ref.blob: ref.size for m in gone for ref in m.files.values()}
        freed = {blob: size for blob, size in freed.items() if blob not in used}
        if gone and not dry:
            self._remove(gone, freed.keys())
        return Pruned([manifest.step for manifest in gone], len(freed), sum(freed.values()))

    def _remove(self, gone: list[Manifest], freed: Collection[str]) -> None:
        """Remove checkpoints and their blobs, but none before every manifest that refers to it.

        The blobs of one batch alone follow at once: a store works on two folders quicker than on one after the other.
        """
        batches = [gone[at : at + _BATCH] for at in range(0, len(gone), _BATCH)]
        theirs = [{ref.blob for m in batch for ref in m.files.values()}.intersection(freed) for batch in batches]
        users = Counter(blob for blobs in theirs for blob in blobs)

        def remove(number: int) -> None:
            self.store.delete([commit_name(manifest.step) for manifest in batches[number]])
            self.store.delete([blob for blob in theirs[number] if users[blob] == 1])

        side_by_side(remove, range(len(batches)))
        self._delete([blob for blob, batches_of in users.items() if batches_of > 1])

    def _delete(self, names: list[str]) -> None:
        """Remove many objects, in batches side by side; returns when all are gone."""
        side_by_side(self.store.delete, [names[at : at + _BATCH] for at in range(0, len(names), _BATCH)])

    def _is_whole(self, manifest: Manifest) -> bool:
        return manifest.claim == self._claim or not self.lacking(manifest)

    def sweep(self, dry: bool = False) -> int:
        """Remove what writers that died left behind longer than `keep.grace` ago; returns how many objects.

        These are half-written uploads, blobs of checkpoints that were never committed, checkpoints that were set
        aside, and claims that a newer one has ended.
        """
        before = (time.time() if dry else store_time(self.store)) - self.keep.grace
        blobs = list(self.store.list(BLOBS))  # before the manifests: what is committed meanwhile must count as used
        aside = {entry.name: entry for entry in self.store.list(ASIDE)}
        old = [name for name, entry in aside.items() if entry.modified < before - _ASIDE * self.keep.grace]
        old += [entry.name for entry in _old_claims(self.store) if entry.modified < before]
        old += self._orphans(blobs, [name for name in aside if name not in old], before)
        if not dry:
            self._delete(old + index.empty(self.store, self._known.keys()))
        return len(old) + (0 if dry else self.store.sweep(self.keep.grace))

    def _orphans(self, blobs: list[Entry], aside: list[str], before: float) -> list[str]:
        """Old blobs that no manifest refers to; none if a manifest cannot be read, for it may refer to any."""
        manifests = self.manifests()
        contents = side_by_side(self.store.read, aside)
        try:
            manifests += [decoded(content, self.store.uri) for content in contents if content is not None]
        except DataError:
            return []
        if self.unreadable:
            return []
        used = {ref.blob for manifest in manifests for ref in manifest.files.values()}
        return [entry.name for entry in blobs if entry.modified < before and entry.name not in used]


def _old_claims(store: Store) -> list[Entry]:
    entries = {entry.name: entry for entry in store.list(CLAIMS)}
    return [entries[name] for number in numbers(store, CLAIMS)[:-1] if (name := claim_name(number)) in entries]


def named(files: Mapping[str, FileRef], wrong: Mapping[str, str]) -> list[str]:
    """What is wrong with which file, of what is wrong with which blob."""
    return [f"{name}: {wrong[ref.blob]}" for name, ref in files.items() if ref.blob in wrong]


def _differing(fetched: Mapping[str, tuple[FileRef, Path]]) -> dict[str, str]:
    """What is wrong with files that were fetched: blob → what."""
    wrong = {}
    digests = digest_files([path for _, path in fetched.values()])
    for (blob, (ref, path)), digest in zip(fetched.items(), digests, strict=True):
        if (size := path.stat().st_size) != ref.size:
            wrong[blob] = f"{size} bytes instead of {ref.size}"
        elif digest != ref.sha256:
            wrong[blob] = "other bytes than those whose SHA-256 is recorded"
    return wrong
