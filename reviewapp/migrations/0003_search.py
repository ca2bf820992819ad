"""Full-text search: FTS5 tables on SQLite, GIN indexes on PostgreSQL. What they are made of stands in outputs/search.py."""

from django.db import migrations

from reviewapp.outputs.search import create_index, drop_index


class Migration(migrations.Migration):
    dependencies = [("reviewapp", "0002_append_only")]
    operations = [migrations.RunPython(lambda apps, editor: create_index(), lambda apps, editor: drop_index())]
