from django.urls import path

from reviewapp.judges import views

urlpatterns = [
    path("judges/", views.judges, name="judges"),
    path("judges/new/", views.new_judge, name="new_judge"),
    path("judges/promotions/<int:pk>/undo/", views.undo_promotion, name="undo_promotion"),
    path("judges/<str:name>/<str:version>/", views.judge, name="judge"),
    path("judges/<str:name>/<str:version>/try/", views.try_judge, name="try_judge"),
    path("judges/<str:name>/<str:version>/promote/", views.promote_judge, name="promote_judge"),
]
