"""Every fault reaches the people who look: on the status page, in the status document and in the log."""

from __future__ import annotations

import json
import logging

import pytest

from tests.support.admin_pages import PAGE, Page, client_of
from tests.support.faulty_servers import FAULTS, PASSWORD, pool_of

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", FAULTS)
def test_page_document_and_log_name(name, pool_settings, caplog):
    _, kind, words = FAULTS[name]
    caplog.set_level(logging.INFO, logger="redispool_app")
    viewer = client_of("view_redispool")
    with pool_of(name, pool_settings) as manager:
        assert manager._health_check_sync() is False
        page = Page(viewer.get(PAGE))
        document = viewer.get("/redis/status/")
    assert words in page.text
    assert "✕ Unhealthy" in page.text
    pool = document.json()["pools"]["default"]
    assert (pool["fault_kind"], words in pool["fault"]) == (kind, True)
    lines = [record.getMessage() for record in caplog.records if record.name == "redispool_app.health"]
    assert len(lines) == 1, "said once"
    assert words in lines[0]
    assert "\n" not in lines[0]
    assert PASSWORD not in page.html + json.dumps(pool) + caplog.text


def test_page_document_and_log_name_wrong_settings(settings, caplog):
    settings.REDIS_POOL = {"CONNECTION_URL": f"redis://:{PASSWORD}@localhost", "MAX_CONECTIONS": 5}
    viewer = client_of("view_redispool")
    page = Page(viewer.get(PAGE))
    document = viewer.get("/redis/status/").json()
    assert viewer.get("/redis/health/").status_code == 503
    for text in (page.text, json.dumps(document), caplog.text):
        assert "MAX_CONECTIONS" in text
        assert "MAX_CONNECTIONS" in text
        assert PASSWORD not in text
