"""The probes, the metrics and the status as JSON: ``path("redis/", include("redispool_app.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import health_views, views
from .metrics.views import metrics

app_name = "redispool_app"
urlpatterns = [
    path("health/", health_views.probe, name="probe"),
    path("health/<str:alias>/", health_views.probe, name="probe"),
    path("health.json", health_views.health_json, name="health_json"),
    path("live/", health_views.live, name="live"),
    path("ready/", health_views.ready, name="ready"),
    path("ready/<str:alias>/", health_views.ready, name="ready"),
    path("metrics/", metrics, name="metrics"),
    path("status/", views.status, name="status"),
]
