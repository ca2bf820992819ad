"""Full-text search: FTS5 tables on SQLite, GIN indexes on PostgreSQL. What they are made of stands in outputs/search.py."""

from django.db import migrations

from reviewapp.outputs.search import create_index, drop_index


class Migration(migrations.Migration):
    dependencies = [("reviewapp", "0002_append_only")]
    # The first workspaces were made in nine steps; one of those counts as migrated.
    replaces = [
        ("reviewapp", name)
        for name in (
            "0003_review_order",
            "0004_jobs_by_state",
            "0005_outputs_list",
            "0006_search",
            "0007_grade_by_rater_name",
            "0008_fewer_indexes",
            "0009_members_work_blind",
        )
    ]
    operations = [migrations.RunPython(lambda apps, editor: create_index(), lambda apps, editor: drop_index())]
