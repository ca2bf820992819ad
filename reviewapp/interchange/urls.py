from django.urls import path

from reviewapp.interchange import views

urlpatterns = [
    path("import/", views.import_page, name="import"),
]
