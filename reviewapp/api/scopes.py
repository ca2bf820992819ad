"""What a token may be for, and the role that its member must have when it is used."""

from __future__ import annotations

from dataclasses import dataclass

from reviewapp.models import User


@dataclass(frozen=True)
class Scope:
    name: str
    role: str
    text: str


SCOPES = {
    scope.name: scope
    for scope in (
        Scope("read", User.Role.VIEWER, "read outputs, grades, calibration and exports"),
        Scope("grade", User.Role.REVIEWER, "add grades in your name"),
        Scope("export", User.Role.REVIEWER, "have exports written, and download them"),
        Scope("import", User.Role.ADMIN, "import outputs and grades"),
        Scope("reward", User.Role.ADMIN, "have completions graded, which runs code and asks the judge's model"),
    )
}


def scopes_for(user: User) -> list[Scope]:
    """Those that this member's role allows."""
    return [scope for scope in SCOPES.values() if user.has_role(scope.role)]
