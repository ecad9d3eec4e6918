"""The catalogues are complete and current: every text of the app is in them, translated, and compiled."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import polib
import pytest
from django.conf import settings
from django.utils.translation import override
from django.utils.translation.template import templatize

from redispool_app.status_page.strings import charts, strings
from redispool_app.status_page.tables import STATES

APP = Path(__file__).resolve().parent.parent / "redispool_app"
LANGUAGES = sorted(path.name for path in (APP / "locale").iterdir())

_CALLS = {"_", "gettext", "gettext_lazy", "gettext_noop"}
_CONTEXT_CALLS = {"pgettext", "pgettext_lazy"}


def texts_of_code(source):
    """The texts that Python code marks, as (context, text)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if not words:
                continue  # a template that was marked where it was written
            if node.func.id in _CALLS:
                yield None, words[0]
            elif node.func.id in _CONTEXT_CALLS:
                yield words[0], words[1]


def texts_of_template(source):
    """The texts that a template marks; Django turns it into something like code, as it does for makemessages."""
    for call in re.finditer(r"\bgettext\((u?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))\)", templatize(source)):
        yield None, ast.literal_eval(call[1]).replace("%%", "%")


def texts_of_the_app():
    found = set()
    for path in APP.rglob("*.py"):
        found.update(texts_of_code(path.read_text()))
    for path in APP.rglob("*.html"):
        found.update(texts_of_template(path.read_text()))
    return found


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def catalogue(language):
    return polib.pofile(str(APP / "locale" / language / "LC_MESSAGES" / "django.po"))


def test_german_and_chinese_are_there():
    assert LANGUAGES == ["de", "zh_Hans"]


def test_every_text_of_the_app_is_translated(catalogue):
    translated = {(entry.msgctxt, entry.msgid) for entry in catalogue if entry.translated() and not entry.fuzzy}
    texts = texts_of_the_app()
    assert len(texts) > 100
    assert texts - translated == set(), "run makemessages, translate, compile"


def test_nothing_is_translated_that_the_app_does_not_say(catalogue):
    assert {(entry.msgctxt, entry.msgid) for entry in catalogue} - texts_of_the_app() == set()


def test_what_is_filled_in_is_the_same_in_every_language(catalogue):
    for entry in catalogue:
        names = [sorted(re.findall(r"%\((\w+)\)s", text)) for text in (entry.msgid, entry.msgstr)]
        assert names[0] == names[1], entry.msgid


def test_the_compiled_catalogue_is_current(language, catalogue):
    compiled = polib.mofile(str(APP / "locale" / language / "LC_MESSAGES" / "django.mo"))
    wanted = {(entry.msgctxt, entry.msgid): entry.msgstr for entry in catalogue}
    assert {(entry.msgctxt, entry.msgid): entry.msgstr for entry in compiled} == wanted


def test_the_script_s_own_words_are_translated(language):
    code = dict(settings.LANGUAGES) and {"de": "de", "zh_Hans": "zh-hans"}[language]
    english = strings()
    with override(code):
        assert strings()["reconnecting"] != english["reconnecting"]
        assert charts()[0]["title"] != "Commands per second"
        assert str(STATES["unhealthy"][1]) != "Unhealthy"
