from django.urls import path

from reviewapp.runs import ablation_views, new_views, views

urlpatterns = [
    path("runs/", views.runs, name="runs"),
    path("runs/new/", new_views.new_run, name="new_run"),
    path("runs/ablations/", ablation_views.ablations, name="ablations"),
    path("runs/ablations.json", ablation_views.ablations_json, name="ablations_json"),
    path("runs/<int:pk>/", views.run, name="run"),
    path("runs/<int:pk>/<slug:action>/", views.change_run, name="change_run"),
]
