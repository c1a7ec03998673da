"""Everything that determines the rest of a training run, taken between two optimizer steps and put back exactly.

Transformers can resume, but its trainers and TRL's forget what they hold in memory: batches that were sampled and are
to be trained on again, the place of TRL's sampler in its second pass, metrics since the last log. Here the whole state
is kept: weights, optimizer, schedule, random numbers, the place in the data, and of the trainer, its mixins and its
callbacks the attributes that their classes name in `KEPT`.

Transformers' own loop still does the resuming: it counts the steps that are done, and skips their batches.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from posttrain.training.ranks import is_main

_TRAINER = "trainer_state.json"  # Transformers' file and format: by it the trainer knows which step is next
_COMMON, _OPTIMIZER = "training.json", "optimizer.safetensors"
# What goes into the next log. Transformers sets it to nothing after it has loaded a checkpoint.
_LOGGED = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "current_flos")

Tensors = dict[str, Any]


def files_of(rank: int) -> Callable[[str], bool]:
    """Which files of a checkpoint a process reads: what all share, and its own."""
    mine = f"rank-{rank:05d}."
    return lambda name: not name.startswith("rank-") or name.startswith(mine)


class ResumesExactly:
    """Mixin for any trainer of Transformers, outermost; `saver.between_steps(self)` is called after each step.

    `train(resume_from_checkpoint=directory)` goes on from a directory of the files that `snapshot` says.
    """

    KEPT: ClassVar[tuple[str, ...]] = (
        *_LOGGED,
        # TRL's: batches that are trained on again, what goes into the next log, and what adapts
        *("_step", "_buffered_inputs", "_metrics", "_stored_metrics", "_logs", "_total_train_tokens"),
        *("_pending_metrics", "_pending_extra_logs", "entropy_coef", "_last_world_entropy"),
        # what the stage, its verifiers and its saves count, and a reference that follows the policy
        *("counted", "judged", "_saves", "_moving_reference"),
    )
    saver: Any = None
    counted: Any = None
    judged: Any = None
    _resumed = False
    _saved_after = -1

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensors]]:
        """The run between two steps: JSON values by file, and tensors by file, which are not copied.

        What is alike in every process is in the first one's files alone.

        Raises:
            TypeError: something in it cannot be kept.
        """
        from posttrain.training.plain import packed

        trainer: Any = self
        mine, own = f"rank-{trainer.args.process_index:05d}", Tensors()
        here = {
            "kept": {name: values for name, _, values in self._kept()},
            "random": _random_state(),
            "sampler": _sampler_state(self._loader),
            "epoch": self._epoch,
        }
        plain = {f"{mine}.json": packed(here, own, "own")}
        tensors = {f"{mine}.safetensors": own}
        if is_main():
            optimizer = Tensors()
            common = {name: part.state_dict() for name, part in self._parts()}
            plain |= {_COMMON: packed(common, optimizer, "all"), _TRAINER: dataclasses.asdict(trainer.state)}
            file, weights = weights_of(self._policy)
            tensors |= {_OPTIMIZER: optimizer, file: weights}
        return plain, tensors

    def _restore(self, directory: Path) -> None:
        from safetensors.torch import load_file

        from posttrain.training.plain import unpacked

        trainer: Any = self
        device = trainer.args.device
        optimizer = load_file(directory / _OPTIMIZER)
        common = unpacked(_read(directory / _COMMON), optimizer, None, "cpu")
        for name, part in self._parts():
            part.load_state_dict(common[name])
        restore_weights(self._policy, directory)
        trainer.model.train()  # TRL logs what was measured in training where it trains, which it may not any more
        mine = directory / f"rank-{trainer.args.process_index:05d}"
        tensors = load_file(mine.with_suffix(".safetensors"))
        before = {name: values for name, _, values in self._kept()}
        self._here = unpacked(_read(mine.with_suffix(".json")), tensors, {"kept": before}, device)
        for name, holder, _ in self._kept():
            for attribute, value in self._here["kept"][name].items():
                if value is not getattr(holder, attribute, None):
                    setattr(holder, attribute, value)

    def _kept(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """The trainer, and each callback: a name, the object, and its attributes that are kept."""
        holders = {"trainer": self} | {type(each).__name__: each for each in self.callback_handler.callbacks}  # type: ignore[attr-defined]
        for name, holder in holders.items():
            names = {attribute for cls in type(holder).__mro__ for attribute in vars(cls).get("KEPT", ())}
            yield name, holder, {each: getattr(holder, each) for each in sorted(names) if hasattr(holder, each)}

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """What has a state of its own that every process shares."""
        trainer: Any = self
        yield from (("optimizer", trainer.optimizer), ("scheduler", trainer.lr_scheduler))
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

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when everything is built and nothing has begun: all is restored here, and by no other of these."""
        if checkpoint is not None:
            self._restore(Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        pass

    def _load_scaler(self, checkpoint: str | None) -> None:
        pass

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called before the first batch of an epoch is fetched, or after the batches that are done are skipped."""
        if checkpoint is not None:
            _set_random_state(self._here["random"])

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
    """The file of the weights that training changes, as Hugging Face's libraries name both, and its tensors."""
    from posttrain.training.plain import own_tensors

    if not hasattr(model, "peft_config"):
        return "model.safetensors", own_tensors(model)
    from peft import get_peft_model_state_dict

    return "adapter_model.safetensors", get_peft_model_state_dict(model, save_embedding_layers=False)


def restore_weights(model: Any, directory: Path) -> None:
    """Put back what `weights_of` gave."""
    from safetensors.torch import load_file

    from posttrain.training.plain import restore_tensors

    if not hasattr(model, "peft_config"):
        restore_tensors(model, load_file(directory / "model.safetensors"))
        return
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(directory / "adapter_model.safetensors"))


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


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
