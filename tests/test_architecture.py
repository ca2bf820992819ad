"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("reviewapp", "graders", "tasks", "llm")
SKIPPED = ("migrations", "samples")


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if not any(part in SKIPPED for part in path.parts) and path.name != "starter.py"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("reviewapp", {"anthropic"}),
        ("graders", {"reviewapp", "django", "celery", "anthropic"}),
        ("tasks", {"reviewapp", "graders", "django", "anthropic"}),
        ("llm", {"reviewapp", "graders", "tasks", "django"}),
    ],
)
def test_imports_point_one_way(package, forbidden):
    wrong = {str(p.relative_to(ROOT)): imports_of(p) & forbidden for p in modules() if p.is_relative_to(ROOT / package)}
    assert not {path: names for path, names in wrong.items() if names}


def test_torch_is_imported_only_inside_the_sandbox():
    users = [str(p.relative_to(ROOT)) for p in modules() if "torch" in imports_of(p)]
    assert all("probes" in path for path in users), users


def test_no_function_is_longer_than_60_lines():
    long = []
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False)
                length = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length}")
    assert not long


@pytest.mark.parametrize(("pattern", "limit"), [("*.py", 450), ("*.html", 250)])
def test_no_file_is_too_long(pattern, limit):
    files = modules() if pattern == "*.py" else sorted((ROOT / "templates").rglob(pattern))
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text(encoding="utf-8").splitlines())) > limit}
    assert not long


def test_colours_and_sizes_are_literal_only_in_the_tokens():
    literal = re.compile(r"#[0-9a-fA-F]{3,8}\b(?=[^{}]*[;}])|rgba?\(|hsla?\(")
    for path in (ROOT / "static" / "css").glob("*.css"):
        if path.name != "tokens.css":
            found = literal.findall(re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S))
            assert not found, f"{path.name}: {found[:5]}"


def test_templates_have_no_inline_script_or_style():
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|hx-on|javascript:", text), path
        for script in re.findall(r"<script[^>]*>", text):
            assert "src=" in script or "application/json" in script, f"{path}: {script}"


def test_every_setting_from_the_environment_is_in_env_example():
    read = set(re.findall(r'env_(?:text|flag|list)\(\s*"([A-Z_]+)"', (ROOT / "reviewapp/settings.py").read_text()))
    # What models need is read without Django: llm/config.py and graders/judge/judge.py.
    read |= set(re.findall(r'"(LLM_[A-Z_]+)"', (ROOT / "llm/config.py").read_text()))
    read |= {f"JUDGE_{name}" for name in re.findall(r'"([A-Z_]{5,})"', (ROOT / "graders/judge/judge.py").read_text())}
    # Where papers are looked up.
    read |= set(re.findall(r'"([A-Z]{3,}_[A-Z_]+)"', (ROOT / "tasks/tools/config.py").read_text())) - {"DATA_DIR"}
    told = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.M))
    assert read == told


def test_models_and_migrations_agree():
    command = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_production_settings_pass_the_deploy_check(tmp_path):
    key = "x1y2" * 20 + "abcdefghijklmnop"
    env = {"PATH": "/usr/bin:/bin", "DATA_DIR": str(tmp_path), "SECRET_KEY": key, "ALLOWED_HOSTS": "example.org"}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_secret_key_production_does_not_start(tmp_path):
    env = {"PATH": "/usr/bin:/bin", "DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "manage.py", "check"], cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode != 0
    assert "SECRET_KEY is not set" in done.stderr
