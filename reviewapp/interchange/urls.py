from django.urls import path

from reviewapp.interchange import views

urlpatterns = [
    path("import/", views.import_page, name="import"),
    path("import/<int:pk>/", views.import_job, name="import_job"),
    path("import/<int:pk>/start/", views.start_import, name="start_import"),
    path("import/<int:pk>/discard/", views.discard_upload, name="discard_upload"),
    path("import/<int:pk>/problems.txt", views.import_problems, name="import_problems"),
]
