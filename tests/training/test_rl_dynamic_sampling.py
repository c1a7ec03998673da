"""Dynamic sampling: batches of contrast, every rollout accounted for, and TRL's own batch where none is replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.training.dynamic_sampling import SamplesDynamically, groups_of, has_contrast
from tests.training.jobs import base, prepared, record, run, same_weights

GROUP = 4
# One token: two problems that are sometimes right, one that always is, and one that never is.
MIXED = [
    {"prompt": f"{number}:", "verifier": "exact", "reference": reference}
    for number, reference in enumerate(["a", "b", [*"ab0123:"], "z"] * 2)
]
BRIEF: dict[str, Any] = {"batch_size": 8, "group_size": GROUP, "max_new_tokens": 1, "logging_steps": 1, "max_steps": 4}


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, Path]:
    init = base(tmp_path / "init", "llama", characters="ab0123:", initializer_range=0.02)
    return {"init": init, "problems": prepared(tmp_path / "problems", MIXED, "problems")}


def mean(curve: list[list[float]]) -> float:
    return sum(value for _, value in curve) / len(curve)


@pytest.mark.parametrize(
    ("schedule", "samplings", "staleness"),
    [
        ({}, 4, {0: 32}),
        ({"accumulation": 2}, 4, {0: 64}),
        ({"accumulation": 2, "trainer_args": {"steps_per_generation": 1}}, 8, {0: 64}),
        ({"trainer_args": {"steps_per_generation": 2}, "max_staleness": 1}, 2, {0: 16, 1: 16}),
    ],
    ids=["plain", "accumulated", "sampled by the pass", "reused"],
)
def test_every_rollout_is_trained_on_or_counted(
    tmp_path: Path, parents: dict[str, Path], schedule: dict[str, Any], samplings: int, staleness: dict[int, int]
) -> None:
    made = record(run("rl", tmp_path / "rl", BRIEF | {"dynamic_sampling": "always"} | schedule, **parents))
    assert made.trace is not None
    assert made.trace.staleness == staleness
    assert made.trace.provenance == "on-policy"
    assert made.counts["discarded_rollouts"] > 0
    assert made.counts["rollouts"] == made.trace.rows + made.counts["discarded_rollouts"]
    plain = record(run("rl", tmp_path / "plain", BRIEF | schedule, **parents))
    assert "discarded_rollouts" not in plain.counts
    alike = "frac_reward_zero_std"
    assert mean(made.curves[alike]) < mean(plain.curves[alike]) - 0.2


def test_a_batch_that_needs_no_replacement_is_trls_own(tmp_path: Path, parents: dict[str, Path]) -> None:
    one = [{"prompt": f"{n}:", "verifier": "exact", "reference": [*"ab01"]} for n in range(4)]
    parents |= {"problems": prepared(tmp_path / "half", one, "problems")}
    settings = BRIEF | {"group_size": 8, "batch_size": 16, "learning_rate": 1e-3}
    with_it, without = (
        run("rl", tmp_path / str(on), settings | {"dynamic_sampling": on}, **parents) for on in ("always", "never")
    )
    assert mean(record(with_it).curves["kept_groups"]) == 1
    assert same_weights(with_it, without)


def test_dapo_has_it_unless_it_is_set_off(tmp_path: Path, parents: dict[str, Path]) -> None:
    settings = BRIEF | {"method": "dapo", "max_steps": 1}
    made = [
        record(run("rl", tmp_path / str(more), settings | more, **parents))
        for more in ({}, {"dynamic_sampling": "never"})
    ]
    assert ["kept_groups" in each.curves for each in made] == [True, False]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, parents: dict[str, Path]) -> None:
    settings = BRIEF | {"method": "dapo", "learning_rate": 1e-3}
    seeds = {"a": 1, "b": 1, "c": 2}
    first, again, other = (
        run("rl", tmp_path / name, settings | {"seed": seed}, **parents) for name, seed in seeds.items()
    )
    assert same_weights(first, again)
    assert not same_weights(first, other)


class Accelerator:
    device = "cpu"

    def gather(self, values: Any) -> Any:
        return values

    def reduce(self, values: Any, reduction: str) -> Any:
        return values


class FakeTrainer:
    """Samples what it is told: a problem's rewards, and completions as long as its number."""

    def __init__(self, rewards: dict[int, list[float]], rows: int, problems: int, shuffled: bool = True) -> None:
        self.args = SimpleNamespace(
            per_device_train_batch_size=rows, steps_per_generation=1, seed=0, process_index=0, world_size=1
        )
        self.num_generations, self.shuffle_dataset, self.accelerator = 2, shuffled, Accelerator()
        self.train_dataset = [{"problem": number} for number in range(problems)]
        self._tokenizer = SimpleNamespace(pad_token_id=9)
        self._metrics: Any = {"train": {"kept_groups": [], "frac_reward_zero_std": []}}
        self._told, self.asked = rewards, []

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        asked = [row["problem"] for row in inputs]
        self.asked.append(asked[::2])
        self._metrics["train"]["frac_reward_zero_std"].append(0.5)
        width = max(asked) + 1
        ids = torch.tensor([[number] * (number + 1) + [9] * (width - number - 1) for number in asked])
        return {
            "prompt_ids": ids.flip(1),
            "completion_ids": ids,
            "completion_mask": (ids != 9).long(),
            "rewards": torch.tensor([self._told[number][side % 2] for side, number in enumerate(asked)]),
            "num_items_in_batch": (ids != 9).sum(),
        }


class Fake(SamplesDynamically, FakeTrainer):
    pass


def ask(trainer: Fake, *problems: int) -> Any:
    return trainer._generate_and_score_completions([{"problem": n} for n in problems for _ in range(2)])


def test_groups_are_replaced_by_other_prompts_and_padded_as_trl_pads() -> None:
    trainer = Fake({0: [0, 1], 1: [1, 1], 2: [0, 0], 3: [1, 0]}, 4, 4, max_resampling=5, shuffled=False)
    batch = ask(trainer, 0, 1)
    assert trainer.asked == [[0, 1], [2], [3]], "one group at a time, in the data's order"
    assert batch["completion_ids"].tolist() == [[0, 9, 9, 9]] * 2 + [[3, 3, 3, 3]] * 2
    assert batch["prompt_ids"].tolist() == [[9, 9, 9, 0]] * 2 + [[3, 3, 3, 3]] * 2
    assert batch["rewards"].tolist() == [0, 1, 1, 0]
    assert batch["num_items_in_batch"] == 2 * 1 + 2 * 4
    assert trainer.discarded == 4
    assert trainer._metrics["train"] == {"kept_groups": [0.5], "frac_reward_zero_std": [0.0]}


def test_when_the_rounds_are_spent_the_batch_is_whole_all_the_same() -> None:
    trainer = Fake({number: [1.0, 1.0] for number in range(6)}, 4, 6, max_resampling=2)
    batch = ask(trainer, 0, 1)
    assert len(batch["rewards"]) == 4
    assert [len(asked) for asked in trainer.asked] == [2, 2, 2]
    assert len({number for asked in trainer.asked for number in asked}) == 6, "others as long as there are any"
    assert trainer.discarded == 8
    assert trainer._metrics["train"]["frac_reward_zero_std"] == [1.0]


def test_contrast_is_between_scored_rollouts() -> None:
    nan = float("nan")
    for rewards, contrast in (([0, 1], True), ([1, 1], False), ([nan, 1], False), ([nan, 1, 0], True)):
        assert has_contrast(torch.tensor([float(reward) for reward in rewards])) is contrast
    assert [len(group["rewards"]) for group in groups_of({"rewards": torch.zeros(6)}, 3)] == [3, 3]


def test_a_group_over_two_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs whole groups in each process, but one samples 3 rollouts"):
        Fake({}, 3, 4, max_resampling=1)
