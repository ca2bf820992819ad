"""Home."""

from django.urls import path

from reviewapp.home import views

urlpatterns = [
    path("", views.home, name="home"),
]
