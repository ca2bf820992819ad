"""The whole schema of the first release, each model after what it points to, so that no table is made twice."""

import django.contrib.auth.models
import django.contrib.auth.validators
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("password", models.CharField(max_length=128, verbose_name="password")),
                ("last_login", models.DateTimeField(blank=True, null=True, verbose_name="last login")),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        error_messages={"unique": "A user with that username already exists."},
                        help_text="Required. 150 characters or fewer. Letters, digits and @/./+/-/_ only.",
                        max_length=150,
                        unique=True,
                        validators=[django.contrib.auth.validators.UnicodeUsernameValidator()],
                        verbose_name="username",
                    ),
                ),
                ("first_name", models.CharField(blank=True, max_length=150, verbose_name="first name")),
                ("last_name", models.CharField(blank=True, max_length=150, verbose_name="last name")),
                ("email", models.EmailField(blank=True, max_length=254, verbose_name="email address")),
                (
                    "is_staff",
                    models.BooleanField(
                        default=False, help_text="Designates whether the user can log into this admin site.", verbose_name="staff status"
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Designates whether this user should be treated as active. Unselect this instead of deleting accounts.",
                        verbose_name="active",
                    ),
                ),
                ("date_joined", models.DateTimeField(default=django.utils.timezone.now, verbose_name="date joined")),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("viewer", "Viewer: reads"),
                            ("reviewer", "Reviewer: grades outputs"),
                            ("adjudicator", "Adjudicator: settles disagreements"),
                            ("admin", "Admin: imports, runs graders, manages members"),
                        ],
                        default="reviewer",
                        max_length=16,
                    ),
                ),
                ("works_blind", models.BooleanField(default=True)),
                ("saw_judges_at", models.DateTimeField(blank=True, null=True)),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
            ],
            options={
                "verbose_name": "user",
                "verbose_name_plural": "users",
                "abstract": False,
            },
            managers=[
                ("objects", django.contrib.auth.models.UserManager()),
            ],
        ),
        migrations.CreateModel(
            name="LlmBatch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("batch_id", models.CharField(max_length=200, unique=True)),
                ("scope", models.CharField(blank=True, max_length=100)),
                ("request_hashes", models.JSONField(default=list)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "verbose_name_plural": "llm batches",
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="RateBucket",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200, unique=True)),
                ("free_at", models.FloatField()),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="SpendingHold",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=32, unique=True)),
                ("scope", models.CharField(db_index=True, max_length=100)),
                ("holder", models.CharField(max_length=36)),
                ("usd", models.FloatField()),
                ("is_lost", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="Grader",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("version", models.CharField(default="1", max_length=64)),
                ("sha256", models.CharField(max_length=64)),
                (
                    "kind",
                    models.CharField(choices=[("llm_judge", "LLM judge"), ("code", "Code grader"), ("human", "Human")], max_length=16),
                ),
                ("is_sample", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["name", "id"],
                "constraints": [
                    models.UniqueConstraint(fields=("name", "version", "sha256"), name="grader_content_once"),
                    models.CheckConstraint(condition=models.Q(("kind__in", ["llm_judge", "code", "human"])), name="grader_kind_known"),
                ],
            },
        ),
        migrations.CreateModel(
            name="JudgeVersion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("model", models.CharField(max_length=200)),
                ("effort", models.CharField(blank=True, max_length=10)),
                ("thinking", models.BooleanField(default=True)),
                ("votes", models.PositiveIntegerField(default=3)),
                ("max_tokens", models.PositiveIntegerField(default=16000)),
                ("template", models.TextField()),
                ("note", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "grader",
                    models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name="judge_version", to="reviewapp.grader"),
                ),
            ],
            options={
                "ordering": ["id"],
                "abstract": False,
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="LlmCall",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("request_sha256", models.CharField(blank=True, max_length=64)),
                ("scope", models.CharField(blank=True, max_length=100)),
                ("model", models.CharField(max_length=200)),
                ("reply", models.JSONField()),
                ("request_id", models.CharField(blank=True, max_length=200)),
                ("input_tokens", models.PositiveBigIntegerField(default=0)),
                ("output_tokens", models.PositiveBigIntegerField(default=0)),
                ("cache_read_tokens", models.PositiveBigIntegerField(default=0)),
                ("cache_write_tokens", models.PositiveBigIntegerField(default=0)),
                ("thinking_tokens", models.PositiveBigIntegerField(default=0)),
                ("cost_usd", models.FloatField(blank=True, null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["id"],
                "indexes": [
                    models.Index(fields=["request_sha256", "id"], name="llm_call_by_request"),
                    models.Index(fields=["scope", "cost_usd"], name="llm_call_by_scope"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("cost_usd__isnull", True), models.Q(("cost_usd__gte", 0), ("cost_usd__lte", 1000000000.0)), _connector="OR"
                        ),
                        name="llm_call_cost_sane",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Run",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[("import", "Import"), ("sample", "Samples"), ("rollout", "Rollouts"), ("grade", "Gradings")], max_length=16
                    ),
                ),
                ("title", models.CharField(max_length=200)),
                ("arguments", models.JSONField(blank=True, default=dict)),
                ("scope", models.CharField(blank=True, max_length=100)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="SavedView",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("query", models.CharField(max_length=2000)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "owner",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="saved_views", to=settings.AUTH_USER_MODEL),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [models.UniqueConstraint(fields=("owner", "name"), name="saved_view_name_once")],
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("slug", models.CharField(max_length=63, unique=True)),
                ("title", models.CharField(max_length=200)),
                ("description", models.TextField(blank=True)),
                ("output_format", models.CharField(default="markdown", max_length=16)),
                ("tools", models.JSONField(blank=True, default=list)),
                ("graders", models.JSONField(blank=True, default=list)),
                ("primary_grader", models.CharField(blank=True, max_length=200)),
                ("band_low", models.FloatField(default=0.05)),
                ("band_high", models.FloatField(default=0.3)),
                ("revision", models.PositiveBigIntegerField(default=0)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["slug"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("band_high__lte", 1), ("band_low__gte", 0), ("band_low__lt", models.F("band_high"))),
                        name="task_band_is_a_range",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Prompt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("sha256", models.CharField(max_length=64)),
                ("text", models.TextField()),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="prompts", to="reviewapp.task")),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("task", "sha256"), name="prompt_content_once")],
            },
        ),
        migrations.CreateModel(
            name="Rubric",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version", models.PositiveIntegerField(default=1)),
                ("sha256", models.CharField(max_length=64)),
                ("scale_low", models.FloatField(default=0)),
                ("scale_high", models.FloatField(default=10)),
                ("pass_rule", models.CharField(choices=[("overall", "overall"), ("count", "count")], default="overall", max_length=16)),
                ("pass_threshold", models.FloatField(blank=True, null=True)),
                ("min_passed", models.PositiveIntegerField(blank=True, null=True)),
                ("requires_run", models.BooleanField(default=False)),
                ("judge_instructions", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="rubrics", to="reviewapp.task")),
            ],
            options={
                "ordering": ["task_id", "version"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("scale_low__lt", models.F("scale_high"))), name="rubric_scale_is_a_range"),
                    models.CheckConstraint(condition=models.Q(("pass_rule__in", ["overall", "count"])), name="rubric_pass_rule_known"),
                    models.UniqueConstraint(fields=("task", "version"), name="rubric_version_once"),
                    models.UniqueConstraint(fields=("task", "sha256"), name="rubric_content_once"),
                ],
            },
        ),
        migrations.AddField(
            model_name="task",
            name="rubric",
            field=models.ForeignKey(
                blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="reviewapp.rubric"
            ),
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("sample", "Sample"), ("adjudication", "Adjudication")], default="sample", max_length=16),
                ),
                ("title", models.CharField(max_length=200)),
                (
                    "policy",
                    models.CharField(
                        choices=[
                            ("random", "Random"),
                            ("stratified", "Stratified"),
                            ("active", "Active"),
                            ("disagreement", "Disagreement"),
                        ],
                        default="random",
                        max_length=16,
                    ),
                ),
                ("filter", models.CharField(blank=True, max_length=2000)),
                ("seed", models.PositiveBigIntegerField()),
                ("size", models.PositiveIntegerField()),
                ("population", models.PositiveIntegerField()),
                ("overlap", models.PositiveIntegerField(default=1)),
                ("cuts", models.JSONField(blank=True, default=list)),
                ("gold_share", models.PositiveSmallIntegerField(default=0)),
                ("tells_gold", models.BooleanField(default=False)),
                ("max_difference", models.FloatField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "judge",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="queues", to="reviewapp.grader"
                    ),
                ),
                (
                    "source",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="adjudications",
                        to="reviewapp.queue",
                    ),
                ),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="queues", to="reviewapp.task")),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("policy__in", ["random", "stratified", "active", "disagreement"])), name="queue_policy_known"
                    ),
                    models.CheckConstraint(condition=models.Q(("overlap__gte", 1)), name="queue_overlap_at_least_one"),
                    models.CheckConstraint(condition=models.Q(("gold_share__lte", 50)), name="queue_gold_share"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("kind", "sample"),
                            models.Q(("gold_share", 0), ("kind", "adjudication"), ("max_difference__gte", 0)),
                            _connector="OR",
                        ),
                        name="queue_kind_known",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Criterion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=63)),
                ("title", models.CharField(max_length=200)),
                ("description", models.TextField(blank=True)),
                ("weight", models.FloatField(default=1.0)),
                (
                    "kind",
                    models.CharField(
                        choices=[("numeric", "numeric"), ("binary", "binary"), ("categorical", "categorical")],
                        default="numeric",
                        max_length=16,
                    ),
                ),
                ("scale_low", models.FloatField(default=0)),
                ("scale_high", models.FloatField(default=10)),
                ("values", models.JSONField(blank=True, default=list)),
                ("position", models.PositiveIntegerField(default=0)),
                ("rubric", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="criteria", to="reviewapp.rubric")),
            ],
            options={
                "verbose_name_plural": "criteria",
                "ordering": ["rubric_id", "position"],
                "constraints": [
                    models.UniqueConstraint(fields=("rubric", "key"), name="criterion_key_once"),
                    models.CheckConstraint(condition=models.Q(("weight__gte", 0)), name="criterion_weight_not_negative"),
                    models.CheckConstraint(
                        condition=models.Q(("scale_low__lt", models.F("scale_high"))), name="criterion_scale_is_a_range"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Promotion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("primary_grader", models.CharField(blank=True, max_length=200)),
                ("before", models.CharField(blank=True, max_length=200)),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "undoes",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="undone_by",
                        to="reviewapp.promotion",
                    ),
                ),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="promotions", to="reviewapp.task")),
            ],
            options={
                "ordering": ["id"],
                "abstract": False,
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="Calibrator",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("judge_name", models.CharField(max_length=100)),
                ("judge_version", models.CharField(max_length=64)),
                ("map", models.JSONField()),
                ("report", models.JSONField(default=dict)),
                ("sha256", models.CharField(max_length=64)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="calibrators", to="reviewapp.task"
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "abstract": False,
                "base_manager_name": "objects",
                "constraints": [
                    models.UniqueConstraint(fields=("task", "judge_name", "judge_version", "sha256"), name="calibrator_content_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="Variant",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("version", models.PositiveIntegerField(default=1)),
                ("sha256", models.CharField(max_length=64)),
                ("title", models.CharField(blank=True, max_length=200)),
                ("description", models.TextField(blank=True)),
                ("prompt", models.TextField(blank=True)),
                ("starter", models.TextField(blank=True)),
                ("position", models.PositiveIntegerField(default=0)),
                ("is_current", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="variants", to="reviewapp.task")),
            ],
            options={
                "ordering": ["task_id", "position", "id"],
                "constraints": [
                    models.UniqueConstraint(fields=("task", "name", "version"), name="variant_version_once"),
                    models.UniqueConstraint(fields=("task", "name", "sha256"), name="variant_content_once"),
                    models.UniqueConstraint(condition=models.Q(("is_current", True)), fields=("task", "name"), name="variant_one_current"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Output",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("external_id", models.CharField(max_length=255)),
                ("version", models.PositiveIntegerField(default=1)),
                ("is_latest", models.BooleanField(default=True)),
                ("content_hash", models.CharField(max_length=64)),
                ("model", models.CharField(blank=True, max_length=200)),
                ("format", models.CharField(default="text", max_length=16)),
                ("length", models.PositiveIntegerField(default=0)),
                ("content_missing", models.CharField(blank=True, max_length=500)),
                ("is_sample", models.BooleanField(default=False)),
                ("metadata", models.JSONField(blank=True, default=dict)),
                ("created_at", models.DateTimeField()),
                ("judge_score", models.FloatField(blank=True, null=True)),
                ("judge_passed", models.BooleanField(blank=True, null=True)),
                ("human_score", models.FloatField(blank=True, null=True)),
                ("human_passed", models.BooleanField(blank=True, null=True)),
                ("human_count", models.PositiveIntegerField(default=0)),
                (
                    "label_state",
                    models.CharField(
                        choices=[
                            ("none", "Not labelled"),
                            ("labelled", "Labelled"),
                            ("conflict", "Raters disagree"),
                            ("adjudicated", "Adjudicated"),
                        ],
                        default="none",
                        max_length=16,
                    ),
                ),
                ("label_source", models.CharField(blank=True, max_length=20)),
                ("label_score", models.FloatField(blank=True, null=True)),
                ("label_passed", models.BooleanField(blank=True, null=True)),
                ("disagreement", models.FloatField(blank=True, null=True)),
                ("failure_category", models.CharField(blank=True, max_length=100)),
                (
                    "prompt",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="outputs", to="reviewapp.prompt"
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="outputs", to="reviewapp.run"
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="outputs", to="reviewapp.task"
                    ),
                ),
                ("variant", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="outputs", to="reviewapp.variant")),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("is_latest", True)), fields=["judge_score", "id"], name="output_by_judge_score"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["human_score", "id"], name="output_by_human_score"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["disagreement", "id"], name="output_by_disagreement"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["length", "id"], name="output_by_length"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["created_at", "id"], name="output_by_created"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["model", "id"], name="output_by_model"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["failure_category", "id"], name="output_by_failure"),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["task", "id"], name="output_by_task"),
                    models.Index(
                        condition=models.Q(("is_latest", True)), fields=["task", "judge_score", "id"], name="output_by_task_judge"
                    ),
                    models.Index(
                        condition=models.Q(("is_latest", True)), fields=["task", "human_score", "id"], name="output_by_task_human"
                    ),
                    models.Index(
                        condition=models.Q(("is_latest", True)), fields=["task", "disagreement", "id"], name="output_by_task_differ"
                    ),
                    models.Index(condition=models.Q(("is_latest", True)), fields=["task", "length", "id"], name="output_by_task_length"),
                    models.Index(
                        condition=models.Q(("is_latest", True)), fields=["task", "created_at", "id"], name="output_by_task_created"
                    ),
                    models.Index(
                        condition=models.Q(("is_latest", True)), fields=["task", "label_state", "id"], name="output_by_task_label"
                    ),
                    models.Index(
                        condition=models.Q(("is_latest", True)),
                        fields=["task", "human_count", "content_hash"],
                        name="output_by_review_order",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("format__in", ["markdown", "python", "text"])), name="output_format_known"),
                    models.UniqueConstraint(fields=("task", "external_id", "version"), name="output_version_once"),
                    models.UniqueConstraint(
                        condition=models.Q(("is_latest", True)), fields=("task", "external_id"), name="output_one_latest"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Grade",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "mode",
                    models.CharField(
                        choices=[
                            ("automatic", "Automatic"),
                            ("blind", "Blind"),
                            ("assisted", "Assisted"),
                            ("override", "Override"),
                            ("adjudication", "Adjudication"),
                        ],
                        max_length=16,
                    ),
                ),
                ("rater_name", models.CharField(blank=True, max_length=150)),
                ("overall", models.FloatField(blank=True, null=True)),
                ("passed", models.BooleanField(blank=True, null=True)),
                ("runs", models.BooleanField(blank=True, null=True)),
                ("unscored_reason", models.CharField(blank=True, max_length=40)),
                ("rationale", models.TextField(blank=True)),
                ("failure_category", models.CharField(blank=True, max_length=100)),
                ("run_log", models.JSONField(blank=True, default=dict)),
                ("cost_usd", models.FloatField(blank=True, null=True)),
                ("duration_s", models.FloatField(blank=True, null=True)),
                ("key", models.CharField(max_length=64)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "rater",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="grades",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "supersedes",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="superseded_by",
                        to="reviewapp.grade",
                    ),
                ),
                (
                    "grader",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="grades", to="reviewapp.grader"
                    ),
                ),
                (
                    "output",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="grades", to="reviewapp.output"
                    ),
                ),
                ("rubric", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="grades", to="reviewapp.rubric")),
            ],
            options={
                "ordering": ["id"],
                "abstract": False,
                "base_manager_name": "objects",
                "indexes": [
                    models.Index(fields=["grader", "rubric", "passed"], name="grade_by_grader"),
                    models.Index(fields=["rater_name", "output"], name="grade_by_rater_name"),
                    models.Index(condition=models.Q(("rater__isnull", False)), fields=["rater", "created_at"], name="grade_by_rater"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("output", "key"), name="grade_key_once"),
                    models.CheckConstraint(
                        condition=models.Q(("mode__in", ["automatic", "blind", "assisted", "override", "adjudication"])),
                        name="grade_mode_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("mode", "automatic"), models.Q(("rater_name", ""), _negated=True), _connector="OR"),
                        name="grade_by_a_person_names_them",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(models.Q(("mode", "override"), _negated=True), ("supersedes__isnull", False), _connector="OR"),
                        name="grade_override_names_what",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("overall__isnull", True),
                            models.Q(("overall__gte", -1000000000000.0), ("overall__lte", 1000000000000.0)),
                            _connector="OR",
                        ),
                        name="grade_overall_finite",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("overall__isnull", False), models.Q(("unscored_reason", ""), _negated=True), _connector="OR"),
                        name="grade_unscored_says_why",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="OutputBody",
            fields=[
                (
                    "output",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="body",
                        serialize=False,
                        to="reviewapp.output",
                    ),
                ),
                ("content", models.TextField(blank=True)),
                ("reference", models.TextField(blank=True)),
                ("transcript", models.JSONField(blank=True, default=list)),
            ],
        ),
        migrations.CreateModel(
            name="QueueItem",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("position", models.PositiveIntegerField()),
                ("probability", models.FloatField(blank=True, null=True)),
                ("is_gold", models.BooleanField(default=False)),
                (
                    "output",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="queue_items", to="reviewapp.output"),
                ),
                (
                    "queue",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="items", to="reviewapp.queue"
                    ),
                ),
            ],
            options={
                "ordering": ["queue_id", "position"],
                "constraints": [
                    models.UniqueConstraint(fields=("queue", "position"), name="queue_item_position_once"),
                    models.UniqueConstraint(fields=("queue", "output", "is_gold"), name="queue_item_output_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("probability__isnull", True), models.Q(("probability__gt", 0), ("probability__lte", 1)), _connector="OR"
                        ),
                        name="queue_item_probability",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Claim",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("until", models.DateTimeField()),
                (
                    "reviewer",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="claims", to=settings.AUTH_USER_MODEL),
                ),
                (
                    "grade",
                    models.OneToOneField(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="claim", to="reviewapp.grade"
                    ),
                ),
                (
                    "item",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="claims", to="reviewapp.queueitem"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("item", "reviewer"), name="claim_once")],
            },
        ),
        migrations.CreateModel(
            name="Retraction",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("by", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL)),
                (
                    "grade",
                    models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name="retraction", to="reviewapp.grade"),
                ),
            ],
            options={
                "abstract": False,
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("grade", "Grading"),
                            ("import", "Import"),
                            ("export", "Export"),
                            ("rollout", "Rollout"),
                            ("reward", "Reward"),
                        ],
                        max_length=16,
                    ),
                ),
                ("queue", models.CharField(blank=True, max_length=20)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                            ("paused", "Paused"),
                        ],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("unit", models.CharField(blank=True, max_length=400)),
                ("attempt", models.PositiveIntegerField(default=1)),
                ("arguments", models.JSONField(blank=True, default=dict)),
                ("result", models.JSONField(blank=True, default=dict)),
                ("lease_token", models.CharField(blank=True, max_length=36)),
                ("lease_until", models.DateTimeField(blank=True, null=True)),
                ("claims", models.PositiveIntegerField(default=0)),
                ("max_claims", models.PositiveIntegerField(default=5)),
                ("woken_at", models.DateTimeField(blank=True, null=True)),
                ("stage", models.CharField(blank=True, max_length=200)),
                ("done_units", models.PositiveBigIntegerField(default=0)),
                ("total_units", models.PositiveBigIntegerField(default=0)),
                ("error", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("started_at", models.DateTimeField(blank=True, null=True)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "grade",
                    models.OneToOneField(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="job", to="reviewapp.grade"
                    ),
                ),
                (
                    "grader",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="jobs", to="reviewapp.grader"
                    ),
                ),
                (
                    "output",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="jobs", to="reviewapp.output"
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="jobs",
                        to="reviewapp.run",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("state__in", ["queued", "running"])), fields=["state", "lease_until"], name="job_open"
                    ),
                    models.Index(fields=["output", "-id"], name="job_by_output"),
                    models.Index(fields=["state", "-id"], name="job_by_state"),
                    models.Index(condition=models.Q(("run__isnull", False)), fields=["run", "state"], name="job_by_run"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("kind", "grade")), fields=("output", "grader", "attempt"), name="job_grading_once"
                    ),
                    models.UniqueConstraint(condition=models.Q(("unit", ""), _negated=True), fields=("run", "unit"), name="job_unit_once"),
                    models.UniqueConstraint(condition=models.Q(("kind", "reward")), fields=("grader", "unit"), name="job_reward_once"),
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ["queued", "running", "done", "failed", "cancelled", "paused"])),
                        name="job_state_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(models.Q(("state", "running"), _negated=True), ("lease_until__isnull", False), _connector="OR"),
                        name="job_running_has_lease",
                    ),
                    models.CheckConstraint(condition=models.Q(("claims__lte", models.F("max_claims"))), name="job_claims_bounded"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Skip",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reason", models.CharField(max_length=500)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("output", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="skips", to="reviewapp.output")),
                (
                    "reviewer",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="skips", to=settings.AUTH_USER_MODEL),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("output", "reviewer"), name="skip_once_per_reviewer")],
            },
        ),
        migrations.CreateModel(
            name="Snapshot",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("spec", models.JSONField()),
                ("manifest", models.JSONField(blank=True, default=dict)),
                ("sha256", models.CharField(blank=True, max_length=64)),
                ("folder", models.CharField(blank=True, max_length=500)),
                ("rows", models.PositiveBigIntegerField(default=0)),
                ("downloads", models.PositiveIntegerField(default=0)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "job",
                    models.OneToOneField(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="snapshot", to="reviewapp.job"
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="JudgedPair",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("winner", models.CharField(blank=True, max_length=10)),
                ("is_consistent", models.BooleanField(default=False)),
                ("by_order", models.JSONField(default=list)),
                ("criteria", models.JSONField(default=dict)),
                ("rationale", models.TextField(blank=True)),
                ("unscored_reason", models.CharField(blank=True, max_length=40)),
                ("cost_usd", models.FloatField(blank=True, null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "grader",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="pairs", to="reviewapp.grader"
                    ),
                ),
                ("first", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="+", to="reviewapp.output")),
                ("second", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="+", to="reviewapp.output")),
                ("task", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="judged_pairs", to="reviewapp.task")),
            ],
            options={
                "ordering": ["id"],
                "abstract": False,
                "base_manager_name": "objects",
                "constraints": [models.UniqueConstraint(fields=("grader", "first", "second"), name="judged_pair_once")],
            },
        ),
        migrations.CreateModel(
            name="ToolResult",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=100)),
                ("text", models.TextField(blank=True)),
                ("is_error", models.BooleanField(default=False)),
                (
                    "job",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="tool_results", to="reviewapp.job"
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [models.UniqueConstraint(fields=("job", "key"), name="tool_result_once")],
            },
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=60)),
                ("scopes", models.JSONField(default=list)),
                ("sha256", models.CharField(max_length=64, unique=True)),
                ("hint", models.CharField(max_length=4)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("last_used_at", models.DateTimeField(blank=True, null=True)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="api_tokens", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [models.UniqueConstraint(fields=("user", "name"), name="api_token_name_once")],
            },
        ),
        migrations.CreateModel(
            name="CriterionScore",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("score", models.FloatField(blank=True, null=True)),
                ("value", models.CharField(blank=True, max_length=100)),
                ("passed", models.BooleanField(blank=True, null=True)),
                ("unscored_reason", models.CharField(blank=True, max_length=40)),
                ("rationale", models.TextField(blank=True)),
                ("evidence", models.JSONField(blank=True, default=list)),
                (
                    "criterion",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="scores", to="reviewapp.criterion"),
                ),
                (
                    "grade",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="criterion_scores", to="reviewapp.grade"
                    ),
                ),
            ],
            options={
                "ordering": ["grade_id", "id"],
                "abstract": False,
                "base_manager_name": "objects",
                "constraints": [
                    models.UniqueConstraint(fields=("grade", "criterion"), name="criterion_score_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("score__isnull", True),
                            models.Q(("score__gte", -1000000000000.0), ("score__lte", 1000000000000.0)),
                            _connector="OR",
                        ),
                        name="criterion_score_finite",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("score__isnull", False),
                            models.Q(("value", ""), _negated=True),
                            models.Q(("unscored_reason", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="criterion_unscored_says_why",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="GoldAnswer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("overall", models.FloatField(blank=True, null=True)),
                ("passed", models.BooleanField(blank=True, null=True)),
                ("note", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "set_by",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "output",
                    models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name="gold_answer", to="reviewapp.output"),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("overall__isnull", False), ("passed__isnull", False), _connector="OR"),
                        name="gold_answer_says_something",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("overall__isnull", True),
                            models.Q(("overall__gte", -1000000000000.0), ("overall__lte", 1000000000000.0)),
                            _connector="OR",
                        ),
                        name="gold_answer_finite",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Flag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("note", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("resolved_at", models.DateTimeField(blank=True, null=True)),
                (
                    "reviewer",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="flags", to=settings.AUTH_USER_MODEL),
                ),
                ("output", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="flags", to="reviewapp.output")),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("resolved_at__isnull", True)), fields=("output", "reviewer"), name="flag_one_open"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Draft",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "mode",
                    models.CharField(
                        choices=[
                            ("automatic", "Automatic"),
                            ("blind", "Blind"),
                            ("assisted", "Assisted"),
                            ("override", "Override"),
                            ("adjudication", "Adjudication"),
                        ],
                        default="blind",
                        max_length=16,
                    ),
                ),
                ("answers", models.JSONField(blank=True, default=dict)),
                ("note", models.TextField(blank=True)),
                ("active_ms", models.PositiveBigIntegerField(default=0)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "reviewer",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="drafts", to=settings.AUTH_USER_MODEL),
                ),
                (
                    "seen_grade",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="reviewapp.grade"
                    ),
                ),
                (
                    "supersedes",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="reviewapp.grade"
                    ),
                ),
                ("output", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="drafts", to="reviewapp.output")),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("output", "reviewer"), name="draft_one_per_reviewer")],
            },
        ),
    ]
