from django.urls import path

from reviewapp.runs import ablation_views, views

urlpatterns = [
    path("runs/", views.runs, name="runs"),
    path("runs/new/", views.new_run, name="new_run"),
    path("runs/ablations/", ablation_views.ablations, name="ablations"),
    path("runs/ablations.json", ablation_views.ablations_json, name="ablations_json"),
]
