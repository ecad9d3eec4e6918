"""The documentation is written in plain technical English: short sentences, named subjects, words that readers know."""

from __future__ import annotations

import pytest

from tests.support import prose
from tests.support.prose import AVOIDED, LONGEST, ROOT, avoided_words, sentences, words

_OLDER = "SECURITY docs/acl docs/cache docs/faults docs/health docs/logging docs/metrics docs/pause docs/performance "
_OLDER += "docs/signals docs/status-page docs/switching docs/workers"
PAGES = [page for page in prose.PAGES if page.removesuffix(".md") not in _OLDER.split()]


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
