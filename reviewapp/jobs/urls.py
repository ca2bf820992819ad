from django.urls import path

from reviewapp.jobs import views

urlpatterns = [
    path("jobs/", views.jobs, name="jobs"),
    path("jobs/running/", views.jobs_running, name="jobs_running"),
    path("jobs/<int:pk>/", views.job, name="job"),
    path("jobs/<int:pk>/retry/", views.retry_job, name="retry_job"),
    path("jobs/<int:pk>/cancel/", views.cancel_job, name="cancel_job"),
    path("outputs/<int:pk>/grade/", views.grade_output, name="grade_output"),
]
