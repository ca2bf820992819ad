from django.urls import path

from reviewapp.outputs import views

urlpatterns = [
    path("outputs/", views.outputs, name="outputs"),
]
