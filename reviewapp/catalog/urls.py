from django.urls import path

from reviewapp.catalog import views

urlpatterns = [
    path("tasks/", views.tasks, name="tasks"),
    path("tasks/<slug:slug>/", views.task, name="task"),
]
