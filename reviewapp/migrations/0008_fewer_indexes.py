"""Drop indexes on foreign keys where a constraint or another index begins with the same column.

By name, and not by altering the fields: on SQLite that would make the tables anew and lose their triggers.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

INDEXES = (
    ("reviewapp_output_task_id_9a2358bb", "reviewapp_output", "task_id"),
    ("reviewapp_grade_output_id_646a23e5", "reviewapp_grade", "output_id"),
    ("reviewapp_grade_grader_id_c58b1ddd", "reviewapp_grade", "grader_id"),
    ("reviewapp_grade_rater_id_1d39e92c", "reviewapp_grade", "rater_id"),
    ("reviewapp_criterionscore_grade_id_40239132", "reviewapp_criterionscore", "grade_id"),
)


def key(to: str, related_name: str, **options: object) -> models.ForeignKey:
    return models.ForeignKey(to=to, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name=related_name, **options)


class Migration(migrations.Migration):
    dependencies = [("reviewapp", "0007_grade_by_rater_name")]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(f'DROP INDEX IF EXISTS "{name}"', f'CREATE INDEX "{name}" ON "{table}" ("{column}")')
                for name, table, column in INDEXES
            ],
            state_operations=[
                migrations.AlterField("output", "task", key("reviewapp.task", "outputs")),
                migrations.AlterField("grade", "output", key("reviewapp.output", "grades")),
                migrations.AlterField("grade", "grader", key("reviewapp.grader", "grades")),
                migrations.AlterField("grade", "rater", key(settings.AUTH_USER_MODEL, "grades", null=True, blank=True)),
                migrations.AlterField("criterionscore", "grade", key("reviewapp.grade", "criterion_scores")),
            ],
        )
    ]
