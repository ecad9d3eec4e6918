"""The probes, the metrics and the status as JSON: ``path("redis/", include("redispool_app.urls"))``."""

from __future__ import annotations

from django.urls import path

from .views import probes
from .views.metrics import metrics
from .views.status import status

app_name = "redispool_app"
urlpatterns = [
    path("health/", probes.probe, name="probe"),
    path("health/<str:alias>/", probes.probe, name="probe"),
    path("health.json", probes.health_json, name="health_json"),
    path("live/", probes.live, name="live"),
    path("ready/", probes.ready, name="ready"),
    path("ready/<str:alias>/", probes.ready, name="ready"),
    path("metrics/", metrics, name="metrics"),
    path("status/", status, name="status"),
]
