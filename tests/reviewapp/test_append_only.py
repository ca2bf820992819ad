"""Grades are facts: nothing can change or delete one."""

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_migrate

from reviewapp.models import CriterionScore, Grade
from reviewapp.models.append_only import AppendOnlyError, remove_triggers
from tests.make import make_human_grade, make_output

SCORES = {"viability": 6, "upside": 8, "success": 4, "novelty": 7}


@pytest.fixture
def grade(reviewer):
    return make_human_grade(make_output(), reviewer, SCORES)


def test_the_weighted_overall_is_6_05(grade):
    assert grade.overall == 6.05
    assert grade.passed is False


def test_a_grade_cannot_be_saved_again(grade):
    grade.overall = 9
    with pytest.raises(AppendOnlyError, match="can't be changed"):
        grade.save()


@pytest.mark.parametrize("model", [Grade, CriterionScore])
def test_query_sets_neither_update_nor_delete(grade, model):
    with pytest.raises(AppendOnlyError):
        model.objects.all().update(rationale="other")
    with pytest.raises(AppendOnlyError):
        model.objects.all().delete()
    with pytest.raises(AppendOnlyError):
        model.objects.first().delete()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE reviewapp_grade SET overall = 9",
        "DELETE FROM reviewapp_criterionscore",
        "UPDATE reviewapp_criterionscore SET score = 9",
    ],
)
def test_raw_sql_is_refused_by_the_database(grade, sql):
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


def test_the_same_key_again_returns_the_first_grade(grade, reviewer):
    again = make_human_grade(grade.output, reviewer, {**SCORES, "novelty": 1}, key=grade.key)
    assert again.pk == grade.pk


def test_an_override_must_name_what_it_overrides(grade, reviewer):
    with pytest.raises(DatabaseError), transaction.atomic():
        make_human_grade(grade.output, reviewer, SCORES, mode="override")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_the_database(grade, value):
    with pytest.raises(DatabaseError), transaction.atomic():
        Grade.objects.create(output=grade.output, grader=grade.grader, rubric=grade.rubric, mode="automatic", overall=value, key="odd")


def test_a_grade_without_a_score_must_say_why(grade):
    with pytest.raises(DatabaseError), transaction.atomic():
        Grade.objects.create(output=grade.output, grader=grade.grader, rubric=grade.rubric, mode="automatic", key="silent")


@pytest.mark.django_db
def test_a_migration_that_makes_a_table_anew_leaves_it_append_only(grade):
    remove_triggers(connection)  # what SQLite does to a table that is altered
    emit = apps.get_app_config("reviewapp")
    post_migrate.send(sender=emit, app_config=emit, using="default", plan=[(None, False)], verbosity=0, interactive=False)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM reviewapp_grade")
