from django.urls import path

from reviewapp.outputs import actions, views

urlpatterns = [
    path("outputs/", views.outputs, name="outputs"),
    path("outputs/hide-judge", actions.hide_judge, name="hide_judge"),
    path("outputs/views", actions.save_view, name="save_view"),
    path("outputs/views/<int:pk>/delete", actions.delete_view, name="delete_view"),
    path("outputs/selection/export", actions.export_selection, name="export_selection"),
    path("outputs/selection/queue", actions.queue_selection, name="queue_selection"),
    path("outputs/selection/grade", actions.grade_selection, name="grade_selection"),
]
