"""Grades, criterion scores and retractions can't be changed or deleted, not even by raw SQL."""

from django.db import migrations

from reviewapp.models.append_only import install_triggers, remove_triggers


class Migration(migrations.Migration):
    dependencies = [("reviewapp", "0001_initial")]
    operations = [
        migrations.RunPython(
            lambda apps, editor: install_triggers(editor.connection),
            lambda apps, editor: remove_triggers(editor.connection),
        )
    ]
