"""The import page: upload, preview or every bad line, import, result."""

import os
import time

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from reviewapp.interchange import uploads
from reviewapp.jobs.work import work_on
from reviewapp.models import Job, Output, Run
from tests.interchange.files import RUBRIC, counts, grade, jsonl, line

pytestmark = pytest.mark.django_db(transaction=True)


def upload(client: Client, tmp_path, *lines, rubric: str = RUBRIC, work: bool = True) -> Job:
    """Upload these lines, and have the preview's job done."""
    data = {"file": SimpleUploadedFile("study.jsonl", jsonl(tmp_path, *lines).read_bytes())}
    if rubric:
        data["rubric"] = SimpleUploadedFile("rubric.toml", rubric.encode())
    response = client.post("/import/", data)
    assert response.status_code == 302, response.content.decode()
    job = Job.objects.get(pk=int(response.url.strip("/").split("/")[-1]))
    return work_on(job.pk) if work else job


def page(client: Client, job: Job, **headers: str) -> str:
    return client.get(f"/import/{job.pk}/", headers=headers).content.decode()


def start(client: Client, preview: Job) -> Job:
    response = client.post(f"/import/{preview.pk}/start/")
    return Job.objects.get(pk=int(response.url.strip("/").split("/")[-1]))


def files_of(job: Job) -> list[str]:
    folder = uploads.folder_of(job.arguments["upload"])
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_file_is_previewed_then_imported(as_admin, admin, tmp_path):
    preview = upload(as_admin, tmp_path, line("a", grades=[grade()]), line("b", content_missing="none given", content=""))
    shown = page(as_admin, preview)
    assert "Import 2 outputs" in shown
    assert "A summary." in shown
    assert "none given" in shown
    assert not Output.objects.exists()
    done = work_on(start(as_admin, preview).pk)
    run = Run.objects.get()
    assert (Output.objects.count(), run.title, run.created_by) == (2, "study.jsonl", admin)
    assert f"/outputs/?run={run.pk}" in page(as_admin, done)
    assert files_of(done) == []


def test_bad_lines_are_listed_and_nothing_can_be_imported(as_admin, tmp_path):
    before = counts()
    preview = upload(as_admin, tmp_path, line("a"), line("b", grades=[grade(overall=9)]), b"{")
    shown = page(as_admin, preview)
    assert "2 problems in 2 lines" in shown
    assert "grades[0].overall" in shown
    assert "is 9, allowed: 1 to 5" in shown
    assert as_admin.post(f"/import/{preview.pk}/start/").status_code == 400
    assert (counts(), files_of(preview)) == (before, [])


def test_the_problems_are_there_as_text(as_admin, tmp_path):
    preview = upload(as_admin, tmp_path, b"{")
    response = as_admin.get(f"/import/{preview.pk}/problems.txt")
    assert response["Content-Disposition"] == f'attachment; filename="import-{preview.pk}-problems.txt"'
    assert "line 1: is not valid JSON at column 2" in response.content.decode()


def test_a_good_file_has_no_problems_to_download(as_admin, tmp_path):
    assert as_admin.get(f"/import/{upload(as_admin, tmp_path, line()).pk}/problems.txt").status_code == 404


def test_what_is_here_already_needs_no_import(as_admin, tmp_path):
    work_on(start(as_admin, upload(as_admin, tmp_path, line())).pk)
    again = page(as_admin, upload(as_admin, tmp_path, line()))
    assert "Everything in this file is here already" in again
    assert "/start/" not in again


def test_only_more_grades_are_offered_as_grades(as_admin, tmp_path):
    work_on(start(as_admin, upload(as_admin, tmp_path, line())).pk)
    assert "Import 1 grade<" in page(as_admin, upload(as_admin, tmp_path, line(grades=[grade()])))


def test_pressing_import_twice_is_one_import(as_admin, tmp_path):
    preview = upload(as_admin, tmp_path, line())
    assert start(as_admin, preview) == start(as_admin, preview)
    assert "To its import" in page(as_admin, preview)


def test_a_task_that_changed_after_the_preview_is_told_at_the_import(as_admin, tmp_path):
    first = upload(as_admin, tmp_path, line(content="One."))
    work_on(start(as_admin, upload(as_admin, tmp_path, line(content="Two."))).pk)
    done = work_on(start(as_admin, first).pk)
    assert done.result["report"]["outputs_new_version"] == 1


def test_a_discarded_file_is_deleted(as_admin, tmp_path):
    preview = upload(as_admin, tmp_path, line())
    assert files_of(preview) == ["outputs.jsonl", "rubric.toml"]
    shown = as_admin.post(f"/import/{preview.pk}/discard/", follow=True).content.decode()
    assert "study.jsonl was discarded. Nothing was imported." in shown
    assert files_of(preview) == []
    assert "was discarded" in page(as_admin, preview)


def test_an_import_whose_file_is_gone_says_so(as_admin, tmp_path):
    preview = upload(as_admin, tmp_path, line())
    job = start(as_admin, preview)
    uploads.remove_upload(preview.arguments["upload"])
    assert "The uploaded file is not here any more: upload it again." in page(as_admin, work_on(job.pk))


def test_uploads_that_nobody_imported_go_after_a_week(as_admin, tmp_path):
    old = upload(as_admin, tmp_path, line(), work=False)
    long_ago = time.time() - uploads.KEPT_S - 1
    os.utime(uploads.folder_of(old.arguments["upload"]), (long_ago, long_ago))
    upload(as_admin, tmp_path, line(), work=False)
    assert files_of(old) == []


def test_the_page_polls_until_the_job_has_ended(as_admin, tmp_path):
    job = upload(as_admin, tmp_path, line(), work=False)
    assert 'hx-trigger="every 1s"' in page(as_admin, job)
    assert as_admin.get(f"/import/{job.pk}/", headers={"HX-Request": "true"}).status_code == 200
    work_on(job.pk)
    response = as_admin.get(f"/import/{job.pk}/", headers={"HX-Request": "true"})
    assert response.status_code == 286
    assert "hx-trigger" not in response.content.decode()
    assert "<html" not in response.content.decode()


@pytest.mark.parametrize(("data", "said"), [({}, "Choose a file"), ({"file": SimpleUploadedFile("a.jsonl", b"")}, "The file is empty")])
def test_no_file_or_an_empty_one(as_admin, data, said):
    response = as_admin.post("/import/", data)
    assert response.status_code == 422
    assert said in response.content.decode()


def test_a_rubric_file_that_is_too_large(as_admin):
    files = {"file": SimpleUploadedFile("a.jsonl", b"{}"), "rubric": SimpleUploadedFile("r.toml", b"#" * (2**20 + 1))}
    response = as_admin.post("/import/", files)
    assert response.status_code == 422
    assert "1,048,577 bytes, allowed: at most 1 MiB" in response.content.decode()


def test_text_from_the_file_is_never_markup(as_admin, tmp_path):
    shown = page(as_admin, upload(as_admin, tmp_path, line("<b>x</b>", model="<script>", content="<img onerror=1>")))
    assert "<b>x</b>" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("path", ["/import/", "/import/{pk}/", "/import/{pk}/problems.txt"])
def test_only_admins_and_only_signed_in(as_admin, as_reviewer, tmp_path, path):
    path = path.format(pk=upload(as_admin, tmp_path, line(), work=False).pk)
    assert as_reviewer.get(path).status_code == 403
    assert Client().get(path).url.startswith("/login/")


def test_wrong_methods_and_missing_jobs(as_admin, tmp_path):
    job = upload(as_admin, tmp_path, line(), work=False)
    assert as_admin.put("/import/").status_code == 405
    assert as_admin.get(f"/import/{job.pk}/start/").status_code == 405
    assert as_admin.get(f"/import/{job.pk}/discard/").status_code == 405
    assert as_admin.get("/import/999999/").status_code == 404
    assert as_admin.post("/import/999999/start/").status_code == 404


def test_uploads_lie_in_the_data_folder_under_a_random_name(as_admin, tmp_path):
    job = upload(as_admin, tmp_path, line(), work=False)
    assert (settings.DATA_DIR / "uploads" / job.arguments["upload"] / "outputs.jsonl").is_file()
    with pytest.raises(ValueError, match="hexadecimal"):
        uploads.folder_of("../../etc")


def test_the_import_page_reads_a_bounded_number_of_rows(as_admin, tmp_path, django_assert_max_num_queries):
    for _ in range(5):
        upload(as_admin, tmp_path, line())
    with django_assert_max_num_queries(6):
        as_admin.get("/import/")
