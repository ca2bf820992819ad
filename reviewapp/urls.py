"""Every page's address; each screen's folder holds its own list."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("reviewapp.home.urls")),
    path("", include("reviewapp.outputs.urls")),
    path("", include("reviewapp.review.urls")),
    path("", include("reviewapp.queues.urls")),
    path("", include("reviewapp.datasets.urls")),
    path("", include("reviewapp.catalog.urls")),
    path("", include("reviewapp.interchange.urls")),
    path("", include("reviewapp.jobs.urls")),
    path("", include("reviewapp.calibration.urls")),
    path("", include("reviewapp.runs.urls")),
    path("", include("reviewapp.judges.urls")),
    path("", include("reviewapp.help.urls")),
    path("", include("reviewapp.accounts.urls")),
    path("", include("reviewapp.api.urls")),
    path("admin/", admin.site.urls),
]
