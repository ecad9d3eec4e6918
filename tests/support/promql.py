"""Enough of PromQL to find which metrics, labels and functions an expression names.

The grammar: https://prometheus.io/docs/prometheus/latest/querying/basics/. Raises ``ValueError`` for what it does not
know, so that a typing error is found rather than overlooked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"[^"]*")
      | (?P<range>\[(?:\d+[smhd]|\$__rate_interval)\])
      | (?P<number>\d+(?:\.\d+)?)
      | (?P<name>[a-zA-Z_][a-zA-Z0-9_]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/<>=(){},])
    )""",
    re.VERBOSE,
)
AGGREGATIONS = {"sum", "max", "min", "count", "avg"}
FUNCTIONS = {"rate", "increase", "histogram_quantile", "absent", "label_replace"}
PAIRS = {")": "(", "}": "{"}


@dataclass
class Selector:
    """One use of a metric: its matchers as ``(label, operator, value)``, and whether a range follows."""

    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    has_range: bool = False


@dataclass
class Expression:
    """What an expression names.

    ``grouped``: labels that aggregations keep. ``replaced``: labels that the expression makes itself, each with the
    label that it is made from.
    """

    selectors: list[Selector] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)
    replaced: dict[str, str] = field(default_factory=dict)


def read(text):
    """Return what an expression names."""
    tokens = _tokens(text)
    found = Expression()
    calls, texts = [], []
    at = 0
    while at < len(tokens):
        kind, token = tokens[at]
        follows = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "name":
            if token in AGGREGATIONS and follows == "by":
                labels, at = _labels(tokens, at + 2)
                found.grouped |= labels
                continue
            if token not in AGGREGATIONS | FUNCTIONS:
                selector, at = _selector(tokens, at)
                found.selectors.append(selector)
                continue
            if follows != "(":
                raise ValueError(f"{token} takes an argument: {text}")
        elif kind == "string" and calls and calls[-1] == "label_replace":
            texts.append(token.strip('"'))
        elif kind in ("string", "range") or token in ("{", "}"):
            raise ValueError(f"{token} belongs to no metric: {text}")
        elif token == "(":
            calls.append(tokens[at - 1][1] if at else "")
        elif token == ")" and calls.pop() == "label_replace":
            made, _, source, pattern = texts  # a wrong number of them is a ValueError too
            re.compile(pattern)
            found.replaced[made] = source
            texts = []
        at += 1
    return found


def _tokens(text):
    tokens, at, open_signs = [], 0, []
    text = text.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"What is this? {text[at:]}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
        sign = match["sign"]
        if sign and sign in "({":
            open_signs.append(sign)
        elif sign in PAIRS and (not open_signs or open_signs.pop() != PAIRS[sign]):
            raise ValueError(f"{sign} closes nothing: {text}")
    if open_signs:
        raise ValueError(f"{open_signs[-1]} is never closed: {text}")
    return tokens


def _labels(tokens, at):
    labels = set()
    while tokens[at][1] != ")":
        if tokens[at][0] == "name":
            labels.add(tokens[at][1])
        at += 1
    return labels, at + 1


def _selector(tokens, at):
    selector = Selector(tokens[at][1])
    at += 1
    if at < len(tokens) and tokens[at][1] == "{":
        at += 1
        while tokens[at][1] != "}":
            (_, label), (_, operator), (kind, value) = tokens[at : at + 3]
            if operator not in ("=", "!=", "=~", "!~") or kind != "string":
                raise ValueError(f"{label}{operator}{value} is no matcher")
            selector.matchers.append((label, operator, value.strip('"')))
            at += 4 if tokens[at + 3][1] == "," else 3
        at += 1
    if at < len(tokens) and tokens[at][0] == "range":
        selector.has_range = True
        at += 1
    return selector, at
