"""Django's asynchronous test client for tests that are not coroutines: the same calls, served by the ASGI handler."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.test import AsyncClient


class AsgiClient:
    """``AsyncClient`` for sync tests."""

    def __init__(self):
        self.client = AsyncClient()

    def get(self, path, **kwargs):
        return async_to_sync(self.client.get)(path, **kwargs)

    def force_login(self, user):
        self.client.force_login(user)
