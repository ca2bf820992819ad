from django.urls import path

from reviewapp.datasets import views

urlpatterns = [
    path("datasets/", views.datasets, name="datasets"),
    path("datasets/write/", views.write_dataset, name="write_dataset"),
    path("datasets/<int:pk>/", views.dataset, name="dataset"),
    path("datasets/<int:pk>/files/<path:name>", views.dataset_file, name="dataset_file"),
]
