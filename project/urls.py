"""URLs of the demo project."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("limited/", views.limited, name="limited"),
    path("leaderboard/", views.leaderboard, name="leaderboard"),
    path("session/", views.session, name="session"),
    path("session/async/", views.session_async, name="session-async"),
    path("cached/", views.cached_page, name="cached-page"),
    path("cached/fragment/", views.cached_fragment, name="cached-fragment"),
    path("redis/", include("redispool_app.urls")),
    path("admin/", admin.site.urls),
    path("favicon.ico", RedirectView.as_view(url=static("project/icon.svg"))),
]
