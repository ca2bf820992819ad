from django.urls import path

from reviewapp.review import actions, views

urlpatterns = [
    path("outputs/<int:pk>/", views.review, name="review"),
    path("outputs/<int:pk>/raw", views.raw, name="review_raw"),
    path("outputs/<int:pk>/draft", actions.draft, name="review_draft"),
    path("outputs/<int:pk>/submit", actions.submit, name="review_submit"),
    path("outputs/<int:pk>/agree", actions.agree, name="review_agree"),
    path("outputs/<int:pk>/mode", actions.mode, name="review_mode"),
    path("outputs/<int:pk>/evidence", actions.evidence, name="review_evidence"),
    path("outputs/<int:pk>/skip", actions.skip, name="review_skip"),
    path("outputs/<int:pk>/flag", actions.flag, name="review_flag"),
    path("review/next", views.review_next, name="review_next"),
    path("review/undo", actions.undo, name="review_undo"),
]
