from django.urls import path

from reviewapp.review import views

urlpatterns = [
    path("outputs/<int:pk>/", views.review, name="review"),
    path("review/next", views.review_next, name="review_next"),
]
