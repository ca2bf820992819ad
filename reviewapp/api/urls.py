from django.urls import path

from reviewapp.api import app, calibration, exports, grades, imports, outputs, pages, reward  # noqa: F401 - the calls of each subject

urlpatterns = [
    path("settings/tokens/", pages.tokens, name="tokens"),
    path("settings/tokens/<int:pk>/revoke/", pages.revoke_token, name="revoke_token"),
    *app.urls(),
]
