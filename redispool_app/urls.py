"""The probes and the status as JSON: ``path("redis/", include("redispool_app.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "redispool_app"
urlpatterns = [
    path("health/", views.probe, name="probe"),
    path("health/<str:alias>/", views.probe, name="probe"),
    path("status/", views.status, name="status"),
]
