"""Steps are cut between the tokens of the whole solution, and sampling goes on from exactly these tokens."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.errors import DataError
from posttrain.generation.decoding import Decoding
from posttrain.generation.steps import AGGREGATES, join_steps, separating_tokens, split_steps
from posttrain.generation.tokenizer import render, render_all
from posttrain.generation.transformers import load_policy, sample, sample_tokens
from tests.tiny import tiny_policy, tiny_tokenizer


@pytest.fixture(scope="module")
def merging() -> Any:
    """A tokenizer to which two newlines are one token."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    newline = byte_level.pre_tokenize_str("\n")[0][0]
    words = {word: index for index, word in enumerate(["<eos>", "<unk>", *"abcé?", newline, newline * 2])}
    raw = Tokenizer(models.BPE(words, merges=[(newline, newline)], unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = byte_level, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", unk_token="<unk>")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    directory = tiny_policy(tmp_path_factory.mktemp("steps") / "model", "llama", characters="abc;?", chat_template=True)
    return load_policy(directory)


def test_a_step_ends_with_the_token_that_its_separator_ends_in(merging: Any) -> None:
    steps = split_steps(merging, "?", "a\n\nb\nc", "\n")
    assert steps.texts == ["a\n\n", "b\n", "c"]
    whole = merging("?a\n\nb\nc")["input_ids"]
    assert (steps.ids, steps.ends[-1]) == (whole, len(whole))
    assert [steps.prefix(depth) for depth in range(4)] == [whole[:end] for end in (1, 3, 5, 6)]
    assert merging("?a\n")["input_ids"] != whole[:3], "a prefix tokenised by itself is another one"


@pytest.mark.parametrize("completion", ["", "a", "\n", "a\n", "\n\n\n", "a\n\n\nb", "é\né\n", "abc\nabc\nabc"])
def test_steps_make_up_the_completion(merging: Any, completion: str) -> None:
    steps = split_steps(merging, "?", completion, "\n")
    assert "".join(steps.texts) == completion
    assert all(steps.texts)
    assert len(steps.ends) == len(steps.texts)
    assert steps.ends == sorted(set(steps.ends))
    assert steps.shortened(len(steps.ends)) == steps


def test_given_steps_keep_their_places(merging: Any) -> None:
    steps = join_steps(merging, "?", ["a", "b\n", "c"], "\n")
    assert (steps.texts, steps.ends) == (["a\n", "b\n", "c"], [3, 5, 6])
    assert join_steps(merging, "?", ["a\n", "\n", "b"], "\n").ends == [3, 3, 4], "two steps in one token"
    with pytest.raises(DataError, match="without a token"):
        join_steps(merging, "?", [""], "\n")


def test_a_conversation_goes_on_from_the_generation_prompt() -> None:
    tokenizer = tiny_tokenizer(chat_template=True)
    prompt = [{"role": "user", "content": "2?"}]
    steps = split_steps(tokenizer, prompt, "a;b", ";")
    assert steps.prefix(0) == render(tokenizer, prompt)
    assert tokenizer.decode(steps.prefix(1)) == "user: 2?\nassistant: a;"


def test_sampling_from_a_prefix_goes_on_as_the_sample_did(policy: tuple[Any, Any]) -> None:
    greedy = Decoding(samples=1, max_new_tokens=12, temperature=0)
    for prompt in ("ab?", "c?", "?"):
        [[whole]] = sample(*policy, [prompt], greedy)
        begun = render_all(policy[1], [prompt])[0]
        for cut in range(1, len(whole.tokens)):
            [[rest]] = sample_tokens(*policy, [begun + whole.tokens[:cut]], greedy)
            assert rest.tokens[: 12 - cut] == whole.tokens[cut:]


def test_it_stops_at_the_end_of_a_step(policy: tuple[Any, Any]) -> None:
    stops = separating_tokens(policy[1], ";")
    assert policy[1].decode(stops) == ";"
    drawn = Decoding(samples=64, max_new_tokens=8, seed=1)
    [free], [stopped] = (sample_tokens(*policy, render_all(policy[1], ["a?"]), drawn, stops=s) for s in ([], stops))
    assert {each.finish for each in stopped} == {"stop", "eos", "length"}
    for long, short in zip(free, stopped, strict=True):
        assert long.tokens[: len(short.tokens)] == short.tokens, "the same draws"
        assert short.text == long.text[: len(short.text)]
        assert (short.finish == "stop") == short.text.endswith(";")
        assert ";" not in short.text[:-1]


def test_a_separator_that_no_token_holds_is_refused(policy: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"no token of the policy holds the separator '\\n'"):
        separating_tokens(policy[1], "\n")


def test_aggregates() -> None:
    scores = [0.9, 0.5, 0.8]
    found = {name: round(combine(scores), 6) for name, combine in AGGREGATES.items()}
    assert found == {"min": 0.5, "product": 0.36, "mean": 0.733333, "last": 0.8}
