from django.urls import path

from reviewapp.queues import views

urlpatterns = [
    path("queues/", views.queues, name="queues"),
    path("queues/new", views.new_queue, name="new_queue"),
    path("queues/adjudicate", views.new_adjudication, name="new_adjudication"),
    path("queues/<int:pk>/", views.queue, name="queue"),
    path("queues/<int:pk>/next", views.queue_next, name="queue_next"),
    path("queues/<int:pk>/close", views.close_queue, name="close_queue"),
    path("outputs/<int:pk>/gold", views.gold_answer, name="gold_answer"),
]
