"""The model behind the admin's page: permissions, no table, no rows."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from redispool_app.models import RedisPool

from .support.admin_pages import PAGE, RESET, client_of

pytestmark = pytest.mark.django_db


def test_the_migrations_are_up_to_date():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_the_model_has_its_permissions_and_no_table():
    found = Permission.objects.filter(content_type__app_label="redispool_app")
    assert {permission.codename for permission in found} == {
        "view_redispool",
        "check_redispool",
        "reset_redispool",
        "pause_redispool",
        "order_redispool",
    }
    assert RedisPool._meta.db_table not in connection.introspection.table_names()


def test_no_table_is_ever_asked_for(manager, django_assert_num_queries, capsys):
    with django_assert_num_queries(0):
        assert not RedisPool.objects.filter(alias="default").exists()
        assert list(RedisPool._base_manager.all()) == []
    for everything in (True, False):
        call_command("dumpdata", "redispool_app", use_base_manager=everything)
        assert capsys.readouterr().out.strip() == "[]"
    client = client_of(is_superuser=True)
    with CaptureQueriesContext(connection) as queries:
        client.get(PAGE)
        client.post(RESET, follow=True)
    assert queries
    assert not [query for query in queries if RedisPool._meta.db_table in query["sql"]]
