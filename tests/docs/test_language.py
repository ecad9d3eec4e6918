"""The documentation is written in plain technical English: short sentences, named subjects, words that readers know."""

from __future__ import annotations

import pytest

from tests.support.prose import AVOIDED, LONGEST, PAGES, ROOT, avoided_words, sentences, words


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_is_too_long(page: str) -> None:
    long = [f"{words(each)}: {each}" for each in sentences((ROOT / page).read_text()) if words(each) > LONGEST]
    assert long == []


@pytest.mark.parametrize("page", PAGES)
def test_no_word_is_one_that_readers_stumble_over(page: str) -> None:
    found = [
        f"{word} (write: {AVOIDED[word]}): {each}"
        for each in sentences((ROOT / page).read_text())
        for word in avoided_words(each)
    ]
    assert found == []


def test_each_change_is_one_line() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().partition("\n## ")[2].splitlines()
    assert [line for line in lines if line.startswith(" ") or len(line) > 120] == []


def test_a_long_sentence_is_found_in_a_paragraph_an_item_and_a_cell() -> None:
    long = "one " * LONGEST + "more."
    page = f"# Heading\n\nShort. {long}\nAlso short.\n\n* {long}\n\n| a | {long} |\n|---|---|\n\n```\n{long}\n```\n"
    assert [each for each in sentences(page) if words(each) > LONGEST] == [long] * 3


def test_a_name_in_code_and_the_address_of_a_link_are_no_words_of_a_sentence() -> None:
    (sentence,) = sentences("Call `whoever and nobody` as in [the guide](https://example.com/anew/)\nnow.")
    assert (sentence, words(sentence), avoided_words(sentence)) == ("Call code as in the guide now.", 7, [])


def test_a_word_to_avoid_is_found_in_any_case_and_only_as_a_whole() -> None:
    assert avoided_words("Whoever comes is told.") == ["whoever", "is told"]
    assert avoided_words("A renewed lease is hencefree.") == []
