"""Sign in, sign out, and the style guide."""

from django.contrib.auth import views as auth
from django.urls import path

from reviewapp.accounts import views

urlpatterns = [
    path("login/", auth.LoginView.as_view(template_name="accounts/login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", auth.LogoutView.as_view(), name="logout"),
    path("styleguide/", views.styleguide, name="styleguide"),
]
