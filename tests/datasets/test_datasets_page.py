"""The datasets page: build, preview, write a snapshot, download it."""

import hashlib
import json

import pytest
from django.urls import reverse
from django.utils.html import escape

from reviewapp.jobs.work import work_on
from reviewapp.models import Job, Snapshot
from tests.conftest import signed_in
from tests.make import make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.rewards.reading import export, make_prompt

pytestmark = pytest.mark.django_db
PAGE = "/datasets/"
WRITE = "/datasets/write/"


@pytest.fixture
def graded(reviewer):
    """Six reviewed outputs and one that only the judge graded."""
    task = make_task()
    for number in range(6):
        output = make_output(task, f"Answer {number}", external_id=f"o-{number}")
        make_human_grade(output, reviewer, {"viability": 6, "upside": 8, "success": 4, "novelty": 7})
    make_judge_grade(make_output(task, "<script>alert(1)</script>", external_id="o-9"), {"viability": 5})
    return task


def write_snapshot(client, **spec):
    """Ask for a snapshot and do the worker's part."""
    response = client.post(WRITE, spec)
    snapshot = Snapshot.objects.latest("pk")
    assert response["Location"] == reverse("dataset", args=[snapshot.pk])
    work_on(snapshot.job_id)
    snapshot.refresh_from_db()
    return snapshot


def download(client, snapshot, name):
    return client.get(reverse("dataset_file", args=[snapshot.pk, name]))


# --- building


@pytest.mark.parametrize("file_format", ["scalar-jsonl", "csv"])
def test_the_preview_is_what_the_file_begins_with(as_reviewer, graded, tmp_path, file_format):
    page = as_reviewer.get(PAGE, {"format": file_format}).content.decode()
    path = next((export(tmp_path / "out", file_format=file_format) / "data").iterdir())
    lines = path.read_bytes().decode().replace("\r\n", "\n").split("\n")
    first = lines[1:6] if file_format == "csv" else lines[:5]
    assert all(escape(line) in page for line in first)
    assert page.count('class="file-row"') == 5
    assert "<script>alert" not in page


def test_the_preview_counts_labels_by_source_and_side(as_reviewer, graded):
    context = as_reviewer.get(PAGE, {"split": "0.5,0.5"}).context
    assert context["preview"].sources == [("human", 6), ("judge", 1)]
    assert sum(n for _, n in context["preview"].splits) == 7


@pytest.mark.parametrize(
    ("query", "warning"),
    [
        ({}, "6 labels are by people; fewer than 30"),
        ({}, "1 label is a judge&#x27;s own"),
        ({"split": "0.9,0.05,0.05"}, "is empty: whole prompts are put on one side"),
    ],
)
def test_the_page_warns(as_reviewer, graded, query, warning):
    assert warning in as_reviewer.get(PAGE, query).content.decode()


def test_the_page_warns_of_a_text_that_two_prompts_share(as_reviewer, graded, reviewer):
    for number in (1, 2):
        output = make_output(graded, "The very same answer, long enough to be no accident.", prompt=make_prompt(graded, str(number)))
        make_human_grade(output, reviewer, {"viability": 5})
    assert "2 prompts share an answer" in as_reviewer.get(PAGE, {"split": "0.5,0.5"}).content.decode()


def test_a_change_of_the_form_swaps_the_preview_only(as_reviewer, graded):
    page = as_reviewer.get(PAGE, {"policy": "human-only"}, headers={"HX-Request": "true"}).content.decode()
    assert page.strip().startswith('<section id="preview"') and "<html" not in page
    assert '<strong class="num">6</strong> rows' in page


@pytest.mark.parametrize(
    ("query", "because"),
    [
        ({"split": "0.9,0.2"}, "the shares sum to 1.1"),
        ({"policy": "best"}, "allowed: human-only"),
        ({"format": "verl"}, "can&#x27;t be written yet, there are: scalar-jsonl, csv, parquet"),
        ({"task": "nope"}, "Task nope is unknown"),
        ({"filter": "modle=x"}, "is no filter"),
        ({"seed": "-1"}, "greater than or equal to 0"),
        ({"license": "a b"}, "A license is named by"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_wrong(as_reviewer, graded, query, because):
    for response in (as_reviewer.get(PAGE, query), as_reviewer.get(PAGE, query, headers={"HX-Request": "true"})):
        assert response.status_code == 422
        assert because in response.content.decode()
    assert as_reviewer.post(WRITE, query).status_code == 422
    assert not Snapshot.objects.exists()


def test_an_empty_workspace_says_what_is_missing(as_reviewer, db):
    assert "No outputs here" in as_reviewer.get(PAGE).content.decode()


def test_outputs_without_a_label_send_one_to_review(as_reviewer, db):
    make_output(make_task())
    assert "No row to write" in as_reviewer.get(PAGE).content.decode()


def test_a_large_workspace_is_counted_in_part_and_says_so(as_reviewer, graded, monkeypatch):
    monkeypatch.setattr("reviewapp.datasets.preview.MAX_OUTPUTS", 6)
    page = as_reviewer.get(PAGE, {"split": "0.5,0.5"}).content.decode()
    assert "Counted on the first 6 outputs" in page and "looked for when the snapshot is written" in page


def test_the_page_takes_as_many_queries_for_many_snapshots_as_for_one(as_reviewer, graded, reviewer, django_assert_max_num_queries):
    for _ in range(30):
        job = Job.objects.create(kind="export", created_by=reviewer)
        Snapshot.objects.create(spec={"format": "csv", "tasks": [], "policy": "human-only", "split": "1"}, job=job, created_by=reviewer)
    with django_assert_max_num_queries(24):
        page = as_reviewer.get(PAGE).content.decode()
    assert "Older snapshots" in page


# --- writing


def test_a_snapshot_is_written_by_a_job_and_listed_with_its_hash(as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer, format="csv", policy="human-only", seed="7")
    assert (snapshot.rows, snapshot.spec["seed"], snapshot.created_by.username) == (6, 7, "ana")
    assert snapshot.job.state == "done" and snapshot.job.result["url"] == f"/datasets/{snapshot.pk}/"
    assert snapshot.sha256[:12] in as_reviewer.get(PAGE).content.decode()


def test_its_page_shows_files_hashes_spec_and_card(as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer, format="csv")
    page = as_reviewer.get(reverse("dataset", args=[snapshot.pk])).content.decode()
    assert all(file["sha256"] in page for file in snapshot.manifest["files"])
    assert "Know before you train" in page and "pretty_name" not in page


def test_data_that_comes_later_does_not_change_a_snapshot(as_reviewer, graded, reviewer):
    snapshot = write_snapshot(as_reviewer)
    before = b"".join(download(as_reviewer, snapshot, "data/train.jsonl"))
    make_human_grade(make_output(graded), reviewer, {"viability": 1})
    work_on(snapshot.job_id)
    assert b"".join(download(as_reviewer, snapshot, "data/train.jsonl")) == before


def test_a_second_delivery_of_the_job_writes_nothing_twice(as_reviewer, graded, settings):
    snapshot = write_snapshot(as_reviewer)
    Job.objects.filter(pk=snapshot.job_id).update(state="queued")
    work_on(snapshot.job_id)
    folders = [path.name for path in (settings.DATA_DIR / "snapshots").glob(f"{snapshot.pk}-*")]
    assert [f"snapshots/{name}" for name in folders] == [snapshot.folder]


def test_what_a_killed_worker_left_is_removed_by_the_next(as_reviewer, graded, settings):
    as_reviewer.post(WRITE, {})
    snapshot = Snapshot.objects.latest("pk")
    left = settings.DATA_DIR / "snapshots" / f"{snapshot.pk}-deadbeef"
    left.mkdir(parents=True)
    work_on(snapshot.job_id)
    snapshot.refresh_from_db()
    assert snapshot.sha256 and not left.exists()


def test_a_snapshot_without_rows_fails_and_says_why(as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer, filter="model=nobody")
    assert (snapshot.sha256, snapshot.job.state) == ("", "failed")
    page = as_reviewer.get(reverse("dataset", args=[snapshot.pk])).content.decode()
    assert "no output has a label by this spec" in page and "Try again" in page


def test_a_waiting_snapshot_polls_and_says_after_5_s_that_no_worker_runs(as_reviewer, graded, monkeypatch):
    as_reviewer.post(WRITE, {})
    url = reverse("dataset", args=[Snapshot.objects.latest("pk").pk])
    page = as_reviewer.get(url).content.decode()
    assert 'hx-trigger="every 1s"' in page and "No worker is running" not in page
    monkeypatch.setattr("reviewapp.datasets.views.SLOW_START_S", -1)
    response = as_reviewer.get(url, headers={"HX-Request": "true"})
    assert response.status_code == 200 and "make worker" in response.content.decode()


def test_polling_stops_when_the_snapshot_is_written(as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer)
    response = as_reviewer.get(reverse("dataset", args=[snapshot.pk]), headers={"HX-Request": "true"})
    assert response.status_code == 286 and "hx-trigger" not in response.content.decode()


# --- downloading


def test_a_download_is_the_file_as_an_attachment_and_is_counted(as_reviewer, as_viewer, graded):
    snapshot = write_snapshot(as_reviewer, format="parquet")
    response = download(as_viewer, snapshot, "data/train.parquet")
    content = b"".join(response)
    assert hashlib.sha256(content).hexdigest() == snapshot.manifest["files"][0]["sha256"]
    assert response["Content-Disposition"].startswith("attachment") and response["X-Content-Type-Options"] == "nosniff"
    snapshot.refresh_from_db()
    assert snapshot.downloads == 1


def test_the_manifest_can_be_downloaded_and_has_the_snapshots_hash(as_viewer, as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer)
    content = b"".join(download(as_viewer, snapshot, "manifest.json"))
    assert hashlib.sha256(content).hexdigest() == snapshot.sha256
    assert json.loads(content)["rows"] == 7


@pytest.mark.parametrize("name", ["../../secret_key", "data/../manifest.json", "/etc/passwd", "data/test.jsonl", "data"])
def test_nothing_but_the_snapshots_files_can_be_downloaded(as_reviewer, graded, name):
    snapshot = write_snapshot(as_reviewer)
    assert as_reviewer.get(f"/datasets/{snapshot.pk}/files/{name}").status_code == 404


# --- who may


def test_a_viewer_may_look_and_not_write(as_viewer, graded):
    assert "Write snapshot" not in as_viewer.get(PAGE).content.decode()
    assert as_viewer.post(WRITE, {}).status_code == 403
    assert not Snapshot.objects.exists()


def test_a_teammate_may_download(as_reviewer, graded):
    snapshot = write_snapshot(as_reviewer)
    assert download(signed_in(make_user("ben")), snapshot, "README.md").status_code == 200


@pytest.mark.parametrize("url", [PAGE, "/datasets/1/", "/datasets/1/files/manifest.json"])
def test_a_stranger_is_sent_to_sign_in(client, db, url):
    assert client.get(url)["Location"].startswith("/login/")


@pytest.mark.parametrize(("method", "url"), [("post", PAGE), ("get", WRITE), ("post", "/datasets/1/")])
def test_a_wrong_method_is_405(as_reviewer, method, url):
    assert getattr(as_reviewer, method)(url).status_code == 405


def test_a_snapshot_that_is_not_there_is_404(as_reviewer):
    assert as_reviewer.get("/datasets/999/").status_code == 404


def test_a_page_of_snapshots_that_is_no_number_is_400(as_reviewer):
    assert as_reviewer.get(PAGE, {"before": "x"}).status_code == 400
