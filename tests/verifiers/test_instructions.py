"""The verifier `instructions`: a row for each constraint, what is complained of, and IFEval's own rows."""

import re

import pytest

from posttrain.errors import VerifierError
from posttrain.verifiers import instructions, validate, verify
from posttrain.verifiers.constraints import CONSTRAINTS, IFEVAL

# id, its parameters, a text that follows, one that does not
ROWS = [
    ("word_count", {"at_least": 3}, "one two three", "one, two"),
    ("word_count", {"at_most": 2}, "one two", "one two three"),
    ("sentence_count", {"exactly": 3}, "Is it? It is (so.) Good!", "It is 3.5 or so."),
    ("paragraph_count", {"exactly": 2}, "a\n \nb\n\n\n", "a\nb"),
    ("paragraph_count", {"exactly": 2, "separator": "***"}, "a\n***\nb", "a\n\nb"),
    ("bullet_count", {"exactly": 2}, "- a\n  * b\n**c**", "- a\nb"),
    ("section_count", {"marker": "PART", "at_least": 2}, "PART 1\na\nPART 2", "PART 1 PART two"),
    ("highlight_count", {"at_least": 2}, "*a* and **b c**", "*a* and * and ** **"),
    ("placeholder_count", {"at_least": 2}, "[name] [[address]]", "[name] ["),
    ("keyword_count", {"keyword": "rain", "exactly": 2}, "Rain, rain.", "rain"),
    ("letter_count", {"letter": "e", "at_most": 1}, "Eat", "Eel"),
    ("capital_word_count", {"at_least": 2}, "so BIG and A", "so BIG"),
    ("keywords_present", {"keywords": ["sun", "rain"]}, "rain and Sun", "rain"),
    ("keywords_absent", {"keywords": ["sun", "rain"]}, "sunny raining", "the Sun!"),
    ("one_of", {"options": ["yes.", "no."]}, "It is no.", "It is No."),
    ("starts_with", {"text": "Dear"}, " dear all", "Oh dear"),
    ("ends_with", {"text": "Any more?"}, "That is it. any more? ", "Any more? No."),
    ("repeat_prompt", {}, "say it. it", "it"),
    ("repeat_prompt", {"text": "first"}, "First, it", "say it. it"),
    ("paragraph_starts_with", {"place": 2, "word": "Then"}, "a\n\n'then' b", "then\n\na"),
    ("paragraph_starts_with", {"place": 1, "word": "a", "paragraphs": 2}, "a\n\nb", "a\n\nb\n\nc"),
    ("postscript", {}, "Bye.\np. s. more", "Bye. PS"),
    ("postscript", {"marker": "P.P.S"}, "P.P.S more", "P.S. more"),
    ("json", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("title", {}, "x\n<<A title>>\ny", "<< >>"),
    ("all_capitals", {}, "A 1!", "A b"),
    ("all_lowercase", {}, "a 1!", "A b"),
    ("no_commas", {}, "a; b", "a, b"),
    ("quotation", {}, ' "a" ', '"a" b'),
    ("two_responses", {}, "a\n******\nb", "a\n******\na"),
]


def judged(text, *constraints, **options):
    return instructions.verify(text, {"constraints": list(constraints), **options}, "say it.")


@pytest.mark.parametrize(("name", "parameters", "right", "wrong"), ROWS, ids=[row[0] for row in ROWS])
def test_each_constraint_is_followed_and_is_not(name, parameters, right, wrong):
    row = {"id": name, **parameters}
    assert instructions.validate({"constraints": [row]}) is None
    assert judged(right, row) == instructions.Verdict(1.0, name)
    assert judged(wrong, row) == instructions.Verdict(0.0, None)
    assert judged(" \n", row).score == 0 and judged("", row, strict=False).score == 0


def test_every_constraint_has_a_row_and_is_one_of_ifevals_or_ours():
    assert {row[0] for row in ROWS} == set(CONSTRAINTS)
    assert {theirs.id for theirs in IFEVAL.values()} == set(CONSTRAINTS) - {"starts_with"}


def test_the_score_is_the_share_that_is_followed_or_all_or_nothing():
    rows = [{"id": "no_commas"}, {"id": "keyword_count", "keyword": "a", "exactly": 1}, {"id": "all_lowercase"},
            {"id": "keyword_count", "keyword": "b", "exactly": 1}]  # fmt: skip
    assert judged("a, b B", *rows) == instructions.Verdict(0.25, "keyword_count[0]")
    assert judged("a, b", *rows).score == 0.75
    assert judged("a, b", *rows, all=True).score == 0 and judged("a b", *rows, all=True).score == 1
    assert verify("a b", "instructions", {"constraints": rows[:1]}).score == 1


def test_loosely_a_preamble_a_last_line_and_asterisks_may_be_left_out():
    json, quotation = {"id": "json"}, {"id": "quotation"}
    for text, row in (("Sure:\n[1]", json), ("[1]\nThere!", json), ("Sure:\n[1]\nThere!", json), ('*"a"*', quotation)):
        assert (judged(text, row).score, judged(text, row, strict=False).score) == (0, 1)
    assert judged("a\nb\nc\n[1]", json, strict=False).score == 0


# IFEval's fields → a text that follows, one that does not
THEIRS = {
    "keywords:existence": ({"keywords": ["rain"]}, "rain", "sun"),
    "keywords:frequency": ({"keyword": "rain", "frequency": 2, "relation": "less than"}, "rain", "rain rain"),
    "keywords:forbidden_words": ({"forbidden_words": ["rain"]}, "sun", "rain"),
    "keywords:letter_frequency": ({"letter": "a", "let_frequency": 2, "let_relation": "at least"}, "aA", "a"),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, "A. B.", "A."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a"),
    "length_constraints:number_words": ({"num_words": 2.0, "relation": "less than"}, "one", "one two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"}, "a\n\nB", "b\n\na",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 1}, "[a]", "a"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "P.S. a", "a"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 1}, "* a", "a"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 1}, "*a*", "a"),
    "detectable_format:multiple_sections": ({"section_spliter": "Section", "num_sections": 1}, "Section 1", "1"),
    "detectable_format:json_format": ({}, "{}", "a"),
    "detectable_format:title": ({}, "<<a>>", "a"),
    "combination:two_responses": ({}, "a******b", "a"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say"}, "say", "a"),
    "startend:end_checker": ({"end_phrase": "Bye."}, "So, bye.", "Bye. So"),
    "change_case:capital_word_frequency": ({"capital_frequency": 1, "capital_relation": "at least"}, "A b", "a"),
    "change_case:english_capital": ({}, "A", "a"),
    "change_case:english_lowercase": ({}, "a", "A"),
    "punctuation:no_comma": ({}, "a", ","),
    "startend:quotation": ({}, '"a"', "a"),
}  # fmt: skip


def test_rows_of_ifeval_are_judged_as_they_are():
    assert set(THEIRS) == set(IFEVAL)
    absent = dict.fromkeys(["num_words", "relation", "keywords"])  # as its published file has them
    for name, (kwargs, right, wrong) in THEIRS.items():
        reference = {"instruction_id_list": [name], "kwargs": [{**absent, **kwargs}]}
        assert instructions.validate(reference) is None
        assert [instructions.verify(text, reference).score for text in (right, wrong)] == [1, 0], name


COMPLAINTS = [
    (None, "must be an object with constraints"),
    ({"constraints": []}, "constraints must be a list"),
    ({"constraint": [{"id": "json"}]}, "did you mean 'constraints'"),
    ({"constraints": ["json"]}, r"constraints\[0\] must be an object with an id"),
    ({"constraints": [{"id": "json"}, {"id": "word_counts"}]}, r"constraints\[1\]: .*did you mean 'word_count'"),
    ({"constraints": [{"id": "json"}], "strict": 1}, "strict must be true or false, not 1"),
    ({"constraints": [{"id": "word_count"}]}, "say how many: at_least, at_most, exactly"),
    ({"constraints": [{"id": "word_count", "at_least": 0}]}, "asks for nothing"),
    ({"constraints": [{"id": "word_count", "at_least": "3"}]}, "at_least must be a number from 0, not '3'"),
    ({"constraints": [{"id": "word_count", "at_least": True}]}, "at_least must be a number"),
    ({"constraints": [{"id": "word_count", "at_least": 3, "at_most": 2}]}, "at_least=3 is more than at_most=2"),
    ({"constraints": [{"id": "word_count", "exactly": 3, "at_most": 2}]}, "exactly leaves no room for at_most"),
    ({"constraints": [{"id": "json", "at_least": 1}]}, r"\(json\): unknown key 'at_least'"),
    ({"constraints": [{"id": "keyword_count", "at_least": 1}]}, "lacks 'keyword'"),
    ({"constraints": [{"id": "letter_count", "letter": "ab", "at_least": 1}]}, "letter must be one character"),
    ({"constraints": [{"id": "keywords_absent", "keywords": "rain"}]}, "keywords must be a list of non-empty texts"),
    ({"constraints": [{"id": "paragraph_starts_with", "word": "a", "place": 0}]}, "place must be a number from 1"),
    ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "lists of the same length"),
    ({"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}, "did you mean 'punctuation:no_comma'"),
    ({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]}, "is not checked"),
    ({"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, r"kwargs\[0\] .*lacks 'keywords'"),
    ({"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 3, "relation": "over"}]},
     "relation must be 'at least' or 'less than', not 'over'"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "message"), COMPLAINTS)
def test_it_complains_of_references_in_one_line_and_refuses_to_judge_by_them(reference, message):
    complaint = validate("instructions", reference)
    assert complaint.startswith("instructions: ") and "\n" not in complaint
    assert re.search(message, complaint), complaint
    with pytest.raises(VerifierError):
        instructions.verify("a", reference)


def test_no_completion_takes_long():
    """Each of these, 100,000 characters long, is a trap for some pattern, which would take minutes."""
    rows = [{"id": name, **parameters} for name, parameters, _, _ in ROWS]
    for part in ("[", "]", "*", "**a", "<<", ">>", "-", "\n", " ", ".", "\n\n", "p. ", "PART ", "```", '"', "a", "[a "):
        assert judged((part * instructions.MAX_LENGTH)[: instructions.MAX_LENGTH], *rows).score is not None
    assert judged("a" * (instructions.MAX_LENGTH + 1), *rows).score is None


@pytest.mark.parametrize(
    ("name", "kwargs", "wrong"),
    [
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\n***\nb"),
        ("combination:two_responses", {}, "a\n******\n******\nb"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "self"},
            "Self-help is good.",
        ),
    ],
)
def test_what_ifeval_does_not_accept_is_not_accepted(name, kwargs, wrong):
    assert instructions.verify(wrong, {"instruction_id_list": [name], "kwargs": [kwargs]}).score == 0
