from django.urls import path

from reviewapp.calibration import compare, views

urlpatterns = [
    path("calibration/", views.calibration_index, name="calibration_index"),
    path("calibration/<slug:slug>/", views.calibration, name="calibration"),
    path("calibration/<slug:slug>/compare/", compare.calibration_compare, name="calibration_compare"),
    path("calibration/<slug:slug>/outputs/", views.calibration_outputs, name="calibration_outputs"),
    path("calibration/<slug:slug>/labels/", views.calibration_labels, name="calibration_labels"),
    path("calibration/<slug:slug>/rates/", views.calibration_rates, name="calibration_rates"),
]
