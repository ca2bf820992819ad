from django.urls import path

from reviewapp.help import views

urlpatterns = [
    path("help/", views.help_index, name="help_index"),
    path("help/<slug:name>/", views.help_page, name="help"),
]
