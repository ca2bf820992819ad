from django.urls import path

from reviewapp.queues import views

urlpatterns = [
    path("queues/", views.queues, name="queues"),
    path("queues/new", views.new_queue, name="new_queue"),
    path("queues/<int:pk>/", views.queue, name="queue"),
    path("queues/<int:pk>/next", views.queue_next, name="queue_next"),
    path("queues/<int:pk>/close", views.close_queue, name="close_queue"),
]
