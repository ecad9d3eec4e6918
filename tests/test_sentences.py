"""What the app says of itself is English text that knows itself in other languages."""

from __future__ import annotations

import copy
import json

from django.utils.translation import gettext_noop, override

from redispool_app.translation import Sentence, listed, translated


def closed():
    return Sentence(gettext_noop("The pool is closed."))


def test_a_sentence_is_its_english_text():
    sentence = Sentence(gettext_noop("%(n)s connections"), n=2)
    assert sentence == "2 connections"
    assert json.dumps([sentence]) == '["2 connections"]'
    with override("de"):
        assert f"{sentence}" == "2 connections"


def test_it_is_translated_when_it_is_asked_to_be():
    sentence = Sentence(gettext_noop("%(n)s connections"), n=2)
    with override("de"):
        assert sentence.translated() == "2 Verbindungen"
        assert translated([closed(), "Redis said so."]) == ["Der Pool ist geschlossen.", "Redis said so."]
    assert translated(None) is None


def test_sentences_within_a_sentence_are_translated_with_it():
    reason = Sentence(gettext_noop("%(reason)s Only this process is shown."), reason=closed())
    assert reason == "The pool is closed. Only this process is shown."
    with override("de"):
        assert translated(reason) == "Der Pool ist geschlossen. Nur dieser Prozess wird gezeigt."


def test_parts_in_a_row_are_set_as_the_language_sets_them():
    row = listed([Sentence(gettext_noop("%(n)s connections"), n=n) for n in (2, 3)])
    assert row == "2 connections, 3 connections"
    with override("zh-hans"):
        assert translated(row) == "2 个连接、3 个连接"


def test_what_is_filled_in_is_no_template():
    sentence = Sentence(gettext_noop("%(n)s named %(name)s"), n=1, name="100%s %(n)s")
    assert sentence == "1 named 100%s %(n)s"
    with override("de"):
        assert sentence.translated() == "1 namens 100%s %(n)s"


def test_a_copy_is_a_sentence_too():
    for sentence in (Sentence(gettext_noop("%(n)s connections"), n=2), closed()):
        again = copy.deepcopy(sentence)
        assert again == sentence
        with override("de"):
            assert again.translated() == sentence.translated()
