"""A server that answers as arXiv (Atom, files) and Semantic Scholar (JSON) do, with errors and delays on demand.

with LiteratureApi() as api:
    api.add(id="2309.12307", title="LongLoRA", ...)
    Literature(api.sources(tmp_path))
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tasks.tools.config import Sources

PAUSES = {"ARXIV_PAUSE_S": "0.01", "SEMANTIC_SCHOLAR_PAUSE_S": "0.01"}
FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/"
  xmlns:arxiv="http://arxiv.org/schemas/atom">
  <id>https://arxiv.org/api/x</id><title>arXiv Query</title><updated>2026-11-25T00:00:00Z</updated>
  <opensearch:itemsPerPage>{n}</opensearch:itemsPerPage><opensearch:totalResults>{n}</opensearch:totalResults>
  <opensearch:startIndex>0</opensearch:startIndex>{entries}</feed>"""
ENTRY = """<entry><id>http://arxiv.org/abs/{id}v2</id><title>{title}</title><updated>{year}-11-02T00:00:00Z</updated>
  <link href="https://arxiv.org/abs/{id}v2" rel="alternate" type="text/html"/><summary>{abstract}</summary>
  <category term="cs.CL" scheme="http://arxiv.org/schemas/atom"/><published>{year}-09-21T17:59:11Z</published>
  <arxiv:primary_category term="cs.CL"/>{authors}</entry>"""


@dataclass
class Answer:
    """What is sent in place of the real answer; `times` requests get it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    times: int = 1


class LiteratureApi:
    def __init__(self) -> None:
        self.papers: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.instead: dict[str, Answer] = {}  # first part of the path (api, src, html, pdf, graph) -> answer
        self.dois: set[str] = set()  # given out, and unknown to Semantic Scholar
        self.asked: list[tuple[float, str]] = []
        handler = type("Handler", (_Handler,), {"api": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> LiteratureApi:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def sources(self, folder: Path, **fields: Any) -> Sources:
        places = {
            "arxiv_api": f"{self.url}/api/query",
            "arxiv_files": self.url,
            "semantic_scholar": f"{self.url}/graph/v1",
            "doi": self.url,
        }
        quick = {"arxiv_pause_s": 0.01, "semantic_scholar_pause_s": 0.01, "timeout_s": 5.0}
        return Sources(corpus=folder / "corpus.sqlite3", **{**places, **quick, **fields})

    def env(self, folder: Path) -> dict[str, str]:
        names = {
            "ARXIV_API_URL": f"{self.url}/api/query",
            "ARXIV_URL": self.url,
            "SEMANTIC_SCHOLAR_URL": f"{self.url}/graph/v1",
            "DOI_URL": self.url,
        }
        return {**names, "DATA_DIR": str(folder), "LITERATURE_NETWORK": "on", **PAUSES}

    def add(self, id: str, title: str, authors: str = "Ada Lovelace", year: int = 2023, abstract: str = "We show.", **rest: Any) -> None:
        self.papers[id] = {"id": id, "title": title, "authors": authors, "year": year, "abstract": abstract, **rest}

    def paths(self, first: str) -> list[str]:
        return [path for _, path in self.asked if path.lstrip("/").startswith(first)]

    # --- what is answered ---

    def answer(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, str, bytes]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "handles"]:
            code = 1 if "/".join(parts[2:]) in self.dois else 100
            return (200 if code == 1 else 404), "application/json", json.dumps({"responseCode": code}).encode()
        if parts[0] == "api":
            found = self._arxiv(query)
            return 200, "application/atom+xml", FEED.format(n=len(found), entries="".join(map(_entry, found))).encode()
        if parts[0] == "graph":
            return self._semantic_scholar(unquote("/".join(parts[3:])), query)
        name = "/".join(parts)
        return (
            (200, "application/octet-stream", self.files[name]) if name in self.files else (404, "text/html", b"<html>no such paper</html>")
        )

    def _arxiv(self, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        if ids := query.get("id_list", [""])[0]:
            return [self.papers[i] for i in ids.split(",") if i in self.papers]
        asked = query["search_query"][0].lower().replace('"', " ")
        words = [word.split(":")[-1] for word in asked.replace(" or ", " ").replace(" and ", " ").split()]
        fits = any if " or " in asked else all
        on_arxiv = [paper for paper in self.papers.values() if "/" not in paper["id"]]
        return [paper for paper in on_arxiv if fits(word in f"{paper['title']} {paper['abstract']}".lower() for word in words)]

    def _semantic_scholar(self, name: str, query: Mapping[str, list[str]]) -> tuple[int, str, bytes]:
        if name == "search":
            found = [_row(p) for p in self.papers.values() if query["query"][0].split()[0].lower() in p["title"].lower()]
            return 200, "application/json", json.dumps({"total": len(found), "offset": 0, "data": found}).encode()
        if name == "search/match":
            found = [_row(p) for p in self.papers.values() if p["title"].lower() == query["query"][0].lower()]
            if not found:
                return 404, "application/json", b'{"error": "Title match not found"}'
            return 200, "application/json", json.dumps({"data": [{**found[0], "matchScore": 174.2}]}).encode()
        paper = self.papers.get(name.partition(":")[2])
        if paper is None:
            return 404, "application/json", json.dumps({"error": f"Paper with id {name} not found"}).encode()
        return 200, "application/json", json.dumps(_row(paper)).encode()


def _entry(paper: Mapping[str, Any]) -> str:
    authors = "".join(f"<author><name>{escape(name)}</name></author>" for name in paper["authors"].split(", "))
    return ENTRY.format(**{**paper, "title": escape(paper["title"]), "abstract": escape(paper["abstract"]), "authors": authors})


def _row(paper: Mapping[str, Any]) -> dict[str, Any]:
    outer = {"DOI": paper["id"]} if "/" in paper["id"] else {"ArXiv": paper["id"]}
    names = [{"authorId": "1", "name": name} for name in paper["authors"].split(", ")]
    kept = {name: paper[name] for name in ("title", "year", "abstract")}
    return {"paperId": f"{abs(hash(paper['id'])):040x}"[-40:], "externalIds": outer, "authors": names, **kept}


class _Handler(BaseHTTPRequestHandler):
    api: LiteratureApi

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.api.asked.append((time.monotonic(), self.path))
        first = split.path.strip("/").split("/")[0]
        instead = self.api.instead.get(first)
        if instead and instead.times > 0:
            instead.times -= 1
            time.sleep(instead.wait_s)
            self._send(instead.status, {"content-type": "text/html", **instead.headers}, instead.body)
            return
        status, kind, body = self.api.answer(split.path, parse_qs(split.query))
        self._send(status, {"content-type": kind}, body)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


# --- files, made here ---


def tar_of(files: Mapping[str, bytes | str], *members: tarfile.TarInfo) -> bytes:
    """A gzipped tar with these files, and further members as they are given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in members:
            archive.addfile(member)
    return out.getvalue()


def gzip_of(text: str) -> bytes:
    return gzip.compress(text.encode())


QUOTED = str.maketrans({"(": "\\(", ")": "\\)", "\\": "\\\\"})


def pdf_of(*pages: str) -> bytes:
    """A PDF with a line of text for each line of each page."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    kids = []
    for page in pages:
        lines = "".join(f"({line.translate(QUOTED)}) Tj T*\n" for line in page.split("\n"))
        stream = f"BT /F1 11 Tf 14 TL 50 780 Td\n{lines}ET".encode("cp1252")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        content = len(objects)
        told = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> /Contents {content} 0 R >>"
        objects.append(told.encode())
        kids.append(len(objects))
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] /Count {len(kids)} >>".encode()
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode() + trailer.encode()
