"""Any text as CONNECTION_URL: its parts or a ``ValueError`` of one line that repeats no secret.

Run it as ``python -m tests.faults.fuzz.url -runs=20000``.
"""

from __future__ import annotations

import sys
from typing import Any

SECRET = "hunter2"


def check(text: str) -> None:
    # Imported late, so that the fuzzer can look inside.
    from redispool_app.conf.url import SCHEMES, ConnectionURL

    for url in (text, f"redis://u:{SECRET}@{text}", f"{text}://u:{SECRET}@h"):
        try:
            found = ConnectionURL.parse(url)
        except ValueError as error:
            refusal = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert refusal.isprintable()
            assert SECRET not in refusal
            continue
        assert found.scheme in SCHEMES
        assert 0 < found.port < 65536
        assert found.password is None or found.password not in repr(found) or found.password in _public(found)
        assert found == ConnectionURL.parse(url)


def _public(found: Any) -> str:
    """What may be shown, in which a short password may occur by chance."""
    fields = "ConnectionURL scheme host port path name database username None redis".split()
    return f"{' '.join(fields)}='(), {[getattr(found, name, None) for name in fields]}"


def main() -> None:
    import atheris

    def one(data: bytes) -> None:
        check(atheris.FuzzedDataProvider(data).ConsumeUnicode(200))

    with atheris.instrument_imports(include=["redispool_app"]):
        check("redis://localhost")
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
