from urllib.parse import unquote

from django.urls import path, register_converter

from reviewapp.judges import views


class NameConverter:
    """A name of any characters as one part of an address: an import may call its judge "meta/llama", or "..".

    A slash would end the part, and dots alone lead up: both are escaped once more than addresses are.
    """

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        return unquote(value)

    def to_url(self, value: str) -> str:
        escaped = value.replace("%", "%25").replace("/", "%2F")
        return escaped.replace(".", "%2E") if value in (".", "..") else escaped


register_converter(NameConverter, "name")

urlpatterns = [
    path("judges/", views.judges, name="judges"),
    path("judges/new/", views.new_judge, name="new_judge"),
    path("judges/promotions/<int:pk>/undo/", views.undo_promotion, name="undo_promotion"),
    path("judges/<name:name>/<name:version>/", views.judge, name="judge"),
    path("judges/<name:name>/<name:version>/calibrators/", views.judge_calibrators, name="judge_calibrators"),
    path("judges/<name:name>/<name:version>/try/", views.try_judge, name="try_judge"),
    path("judges/<name:name>/<name:version>/promote/", views.promote_judge, name="promote_judge"),
]
