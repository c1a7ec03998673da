"""Everything that determines the rest of a training run, taken between two optimizer steps and put back exactly.

Transformers can resume, but its trainers and TRL's forget what they hold in memory: batches that were sampled and are
to be trained on again, the place of TRL's sampler in its second pass, metrics since the last log. Here the whole state
is kept: weights, optimizer, schedule, random numbers, the place in the data, and of the trainer, its mixins and its
callbacks the attributes that their classes name in `KEPT`, and in `SHARES` if each process counts its own share.

Transformers' own loop still does the resuming: it counts the steps that are done, and skips their batches.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from posttrain.storage.joining import own
from posttrain.training.ranks import is_main

_TRAINER = "trainer_state.json"  # Transformers' file and format: by it the trainer knows which step is next
_COMMON, _OPTIMIZER, _ZERO = "training.json", "optimizer.safetensors", "zero"
# What goes into the next log. Transformers sets it to nothing after it has loaded a checkpoint.
_LOGGED = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "current_flos")

Tensors = dict[str, Any]


class ResumesExactly:
    """Mixin for any trainer of Transformers, outermost; `saver.between_steps(self)` is called after each step.

    `train(resume_from_checkpoint=directory)` goes on from a directory of the files that `snapshot` says.
    """

    KEPT: ClassVar[tuple[str, ...]] = (
        *_LOGGED,
        # TRL's: batches that are trained on again, what goes into the next log, and what adapts
        *("_step", "_buffered_inputs", "_metrics", "_stored_metrics", "_logs", "_total_train_tokens"),
        *("_pending_metrics", "_pending_extra_logs", "entropy_coef", "_last_world_entropy"),
        # what its saves count, and a reference that follows the policy
        *("_saves", "_moving_reference"),
    )
    SHARES: ClassVar[tuple[str, ...]] = ("counted", "judged")  # what the stage and its verifiers count
    saver: Any = None
    elsewhere = False  # what is resumed was made by another number of processes, or they had other shares of a batch
    counted: Any = None
    judged: Any = None
    _resumed = False
    _saved_after = -1

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensors]]:
        """The run between two steps: JSON values by file, and tensors by file, which are not copied.

        What is alike in every process is in the first one's files alone; of what is spread, each has its part.

        Raises:
            TypeError: something in it cannot be kept.
        """
        from posttrain.training.parts import split
        from posttrain.training.plain import packed
        from posttrain.training.zero import state_of

        trainer: Any = self
        plain: dict[str, Any] = {}
        tensors: dict[str, Tensors] = {}
        mine = own(trainer.args.process_index)
        here = {
            "kept": {name: values for name, _, values in self._kept()},
            "random": _random_state(),
            "sampler": _sampler_state(self._loader),
            "epoch": self._epoch,
        }
        plain[f"{mine}.json"] = packed(here, tensors.setdefault(f"{mine}.safetensors", {}), "own")
        if trainer.is_deepspeed_enabled:
            partition = tensors.setdefault(f"{mine}.{_ZERO}.safetensors", {})
            plain[f"{mine}.{_ZERO}.json"] = packed(state_of(trainer.deepspeed), partition, "zero")
        optimizer = Tensors()
        common = packed({name: part.state_dict() for name, part in self._stateful()}, optimizer, "all")
        for file, held in ((_OPTIMIZER, optimizer), weights_of(self._policy)):
            whole, parts = split(held)
            tensors |= {f"{mine}.{file}": parts} if parts else {}
            tensors |= {file: whole} if whole and is_main() else {}
        if is_main():
            plain |= {_COMMON: common, _TRAINER: dataclasses.asdict(trainer.state)}
        return plain, tensors

    def _restore(self, directory: Path) -> None:
        from posttrain.training.parts import Stored
        from posttrain.training.plain import unpacked
        from posttrain.training.zero import restore_state

        trainer: Any = self
        device = trainer.args.device
        restore_weights(self._policy, directory)
        optimizer = Stored(_with_parts(directory, _OPTIMIZER), spread_one(self._policy))
        common = unpacked(_read(directory / _COMMON), optimizer, None, device)
        for name, part in self._stateful():
            part.load_state_dict(common[name])
        trainer.model.train()  # TRL logs what was measured in training where it trains, which it may not any more
        mine = own(0 if self.elsewhere else trainer.args.process_index)
        if trainer.is_deepspeed_enabled:
            partition = Stored([directory / f"{mine}.{_ZERO}.safetensors"])
            restore_state(
                trainer.deepspeed, unpacked(_read(directory / f"{mine}.{_ZERO}.json"), partition, None, device)
            )
        tensors = Stored(sorted(directory.glob(f"{'rank-?????' if self.elsewhere else mine}.safetensors")))
        before = {name: values for name, _, values in self._kept()}
        self._here = unpacked(_read(directory / f"{mine}.json"), tensors, {"kept": before}, device)
        if self.elsewhere:
            self._deal_anew(directory)
        for name, holder, _ in self._kept():
            for attribute, value in self._here["kept"][name].items():
                if value is not getattr(holder, attribute, None):
                    setattr(holder, attribute, value)

    def _deal_anew(self, directory: Path) -> None:
        """Make of what the first of other processes kept what this one is to have.

        What all had alike stays; the first gets all shares of a count, added up; passes and random numbers begin anew.
        """
        from posttrain.training.parts import Stored
        from posttrain.training.plain import unpacked

        trainer: Any = self
        others = [_read(file) for file in sorted(directory.glob("rank-?????.json"))[1:]]
        for name, holder, _ in self._kept():
            kept = self._here["kept"][name]
            for attribute in kept.keys() & _named(holder, "SHARES"):
                theirs = [unpacked(_at(other, "kept", name, attribute), Stored([]), None, "cpu") for other in others]
                kept[attribute] = _added(kept[attribute], theirs) if is_main() else _none(kept[attribute])
        passes = {
            "_step": trainer.state.global_step * trainer.args.gradient_accumulation_steps,
            "_buffered_inputs": None,
        }
        kept = self._here["kept"]["trainer"]
        kept |= {attribute: value for attribute, value in passes.items() if attribute in kept}

    @property
    def has_rollouts(self) -> bool:
        """Whether some that were sampled are to be trained on after this step."""
        trainer: Any = self
        if getattr(trainer, "_buffered_inputs", None) is None or trainer.state.global_step >= trainer.state.max_steps:
            return False
        every = getattr(trainer.args, "steps_per_generation", None) or trainer.args.gradient_accumulation_steps
        return bool(trainer._step % (every * getattr(trainer, "num_iterations", 1)))

    def _kept(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """The trainer, and each callback: a name, the object, and its attributes that are kept."""
        holders = {"trainer": self} | {type(each).__name__: each for each in self.callback_handler.callbacks}  # type: ignore[attr-defined]
        for name, holder in holders.items():
            names = _named(holder, "KEPT") | _named(holder, "SHARES")
            yield name, holder, {each: getattr(holder, each) for each in sorted(names) if hasattr(holder, each)}

    def _stateful(self) -> Iterator[tuple[str, Any]]:
        """What has a state of its own that is alike in every process, or spread over them by FSDP2."""
        trainer: Any = self
        yield "scheduler", trainer.lr_scheduler
        if not trainer.is_deepspeed_enabled:
            yield "optimizer", trainer.optimizer
        if trainer.accelerator.scaler is not None:
            yield "scaler", trainer.accelerator.scaler

    @property
    def _policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]

    @property
    def _moving_reference(self) -> Any:
        """The reference of the KL term, where TRL moves it towards the policy."""
        moves = getattr(self.args, "sync_ref_model", False)  # type: ignore[attr-defined]
        return self.accelerator.unwrap_model(self.ref_model) if moves else None  # type: ignore[attr-defined]

    @property
    def _saves(self) -> dict[str, Any]:
        return self.saver.tally()

    @_saves.setter
    def _saves(self, tally: dict[str, Any]) -> None:
        self.saver.go_on(tally)

    def _prepare_for_training(self, max_steps: int, loader: Any, checkpoint: str | None) -> Any:
        """When everything is built and nothing has begun, all is restored, and by nobody else."""
        prepared = super()._prepare_for_training(max_steps, loader, None)  # type: ignore[misc]
        if checkpoint is not None:
            self._restore(Path(checkpoint))
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        pass

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called before the first batch of an epoch is fetched, or after the batches that are done are skipped."""
        if checkpoint is None:
            return
        if not self.elsewhere:
            _set_random_state(self._here["random"])
            return
        from transformers import set_seed

        args: Any = self.args  # type: ignore[attr-defined]
        told = f"{args.seed} {self.state.global_step} {args.process_index}"  # type: ignore[attr-defined]
        set_seed(random.Random(told).getrandbits(32))

    def _run_epoch(self, **run: Any) -> Any:
        trainer: Any = self
        self._loader = run["train_dataloader"]
        if run["resume_from_checkpoint"] and not self._resumed:
            self._resumed = True
            for name in _LOGGED:
                setattr(self, name, self._here["kept"]["trainer"][name])
            # In the middle of an epoch its order is drawn again first, from the random numbers that it began with.
            began = self._here["epoch"] if run["steps_trained_in_current_epoch"] else self._here
            _set_random_state(began["random"])
            _set_sampler_state(self._loader, began["sampler"])
            if trainer.state.global_step >= trainer.state.max_steps:  # Transformers would train one step more
                trainer.control.should_training_stop = True
                return None
        self._epoch = {"random": _random_state(), "sampler": _sampler_state(self._loader)}
        return super()._run_epoch(**run)  # type: ignore[misc]

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        step = self.state.global_step  # type: ignore[attr-defined]
        if step != self._saved_after:  # an epoch's end comes here, too, after its last step
            self._saved_after = step
            self.saver.between_steps(self)


def weights_of(model: Any) -> tuple[str, Tensors]:
    """The file of the weights that training changes, as Hugging Face's libraries name both, and what is here of it."""
    from posttrain.training.plain import own_tensors

    held = own_tensors(model)
    if not hasattr(model, "peft_config"):
        return "model.safetensors", held
    from peft import get_peft_model_state_dict

    return "adapter_model.safetensors", get_peft_model_state_dict(model, held, save_embedding_layers=False)


def restore_weights(model: Any, directory: Path) -> None:
    """Put back what `weights_of` gave."""
    from posttrain.training.parts import Stored
    from posttrain.training.plain import restore_tensors

    file, held = weights_of(model)
    restore_tensors(held, Stored(_with_parts(directory, file)))


def spread_one(model: Any) -> Any:
    """A tensor of a model that FSDP2 has spread, or None."""
    from torch.distributed.tensor import DTensor

    return next((tensor for tensor in model.state_dict().values() if isinstance(tensor, DTensor)), None)


def _with_parts(directory: Path, file: str) -> list[Path]:
    """What there is of a file that all processes share: itself, and their parts of it."""
    return sorted(directory.glob(f"rank-*.{file}")) + [each for each in (directory / file,) if each.exists()]


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _at(value: Any, *path: str) -> Any:
    """What is in dicts of dicts that were packed, still packed."""
    for key in path:
        value = dict(value["items"])[key]
    return value


def _named(holder: Any, names: str) -> set[str]:
    """All that an object's classes name in `KEPT` or `SHARES`."""
    return {attribute for cls in type(holder).__mro__ for attribute in vars(cls).get(names, ())}


def _added(mine: Any, theirs: list[Any]) -> Any:
    """A count with others' added to it; counters stay the same objects, and what is not counted (None) stays so."""
    if isinstance(mine, Counter):
        for each in theirs:
            mine.update(each)
    elif isinstance(mine, dict):
        for name, count in mine.items():
            _added(count, [each[name] for each in theirs if name in each])
    else:
        return mine if mine is None else sum(theirs, mine)
    return mine


def _none(mine: Any) -> Any:
    """A count of nothing; counters stay the same objects."""
    if isinstance(mine, Counter):
        mine.clear()
    elif isinstance(mine, dict):
        for count in mine.values():
            _none(count)
    else:
        return mine if mine is None else 0
    return mine


def _random_state() -> dict[str, Any]:
    """The random numbers that are to come, of every library that a trainer draws from."""
    import numpy as np
    import torch

    legacy = np.random.get_state()  # noqa: NPY002  # what libraries draw from
    state = {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _generator(loader: Any) -> Any:
    """The generator of a data loader's sampler, if it has one that runs on from epoch to epoch, as TRL's has."""
    batches = getattr(loader, "batch_sampler", None)
    batches = getattr(batches, "batch_sampler", batches)  # Accelerate's shard of a batch sampler
    return getattr(getattr(batches, "sampler", None), "generator", None)


def _sampler_state(loader: Any) -> Any:
    generator = _generator(loader)
    return None if generator is None else generator.get_state()


def _set_sampler_state(loader: Any, state: Any) -> None:
    generator = _generator(loader)
    if generator is not None and state is not None:
        generator.set_state(state)
