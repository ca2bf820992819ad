from django.urls import path

from reviewapp.datasets import views

urlpatterns = [
    path("datasets/", views.datasets, name="datasets"),
]
