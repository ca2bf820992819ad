"""A paper's introduction and results come out of its LaTeX, HTML or PDF; hostile files come to nothing."""

from __future__ import annotations

import gzip
import tarfile

import pytest

from tasks.tools.errors import ExtractError
from tasks.tools.extract import extract
from tests.literature_api import gzip_of, pdf_of, tar_of

MAIN = r"""
\documentclass{article}
\newcommand{\ours}{MemNet}
\title{\ours: Reading with $2\times$ Memory}
\begin{document}
\maketitle
\begin{abstract}We present \ours. % \section{Results} in a comment
\end{abstract}
\input{parts/intro}
\section{Method}
The state is $S_t = S_{t-1} + v k^\top$.
\input{parts/results.tex}
\subsection{Ablation}
Without the gate accuracy falls to 71.3\%.
\section{Conclusion}
Done.
\begin{thebibliography}{9}\bibitem{a} A. Author. Paper of 1234 pages.\end{thebibliography}
\end{document}
"""
INTRO = (
    r"\section{Introduction}\label{sec:intro}" + "\nEarlier work \\cite{a} stops at 4{,}096 tokens.\n\\subsection{Contributions}\nWe go on."
)
RESULTS = r"""\section{Experiments and \emph{Results}}
\ours{} reaches \textbf{92.5\%} at 1M tokens, a $22.2\times$ speed-up.
\begin{table}\begin{tabular}{lc}\toprule Model & PPL \\ \midrule \ours & 18.3 \\ \bottomrule\end{tabular}\end{table}
"""
FILES = {"main.tex": MAIN, "parts/intro.tex": INTRO, "parts/results.tex": RESULTS, "fig.png": b"\x89PNG"}


def test_latex_gives_introduction_and_results_across_its_files():
    parts = extract("latex", tar_of(FILES))
    assert parts.title == "MemNet: Reading with 2× Memory"
    assert "stops at 4,096 tokens" in parts.introduction
    assert "We go on." in parts.introduction
    assert "state is" not in parts.introduction
    assert "MemNet reaches 92.5% at 1M tokens, a 22.2× speed-up" in " ".join(parts.results.split())
    assert "18.3" in parts.results
    assert "71.3%" in parts.results


def test_latex_in_one_gzipped_file_is_read_too():
    assert "falls to 71.3%" in extract("latex", gzip_of(MAIN)).results


def test_comments_and_the_bibliography_are_no_text_of_the_paper():
    text = extract("latex", tar_of(FILES)).full_text
    assert "in a comment" not in text
    assert "1234 pages" not in text


def test_html_of_latexml_gives_introduction_results_and_formulas():
    page = """<html><head><title>x</title><script>var n = 99.9;</script></head><body><h1 class="ltx_title ltx_title_document">MemNet</h1>
    <div class="ltx_abstract"><h6>Abstract</h6><p>We present it.</p></div>
    <section class="ltx_section"><h2><span>1 </span>Introduction</h2><p>Windows of 4,096 tokens.</p></section>
    <section class="ltx_section"><h2>2 Method</h2><p>A gate.</p></section>
    <section class="ltx_section"><h2>3 Results</h2><p>A <math alttext="22.2\\times"><mi>noise</mi></math> speed-up.</p>
      <section><h3>3.1 Passkey</h3><table><tr><th>Model</th><th>Acc.</th></tr><tr><td>ours</td><td>92.5</td></tr></table></section>
      </section>
    <section class="ltx_bibliography"><h2>References</h2><p>In 1234 pages.</p></section></body></html>"""
    parts = extract("html", page.encode())
    assert parts.title == "MemNet"
    assert parts.introduction == "Windows of 4,096 tokens."
    assert "A 22.2× speed-up" in parts.results
    assert "ours | 92.5" in parts.results
    assert "gate" not in parts.results
    assert "1234" not in parts.full_text
    assert "99.9" not in parts.full_text


def test_pdf_gives_introduction_and_results_and_joins_broken_words():
    first = "A Title\nAbstract\nWe present it.\n1 Introduction\nWindows of 4,096 tokens limit trans-\nformers.\n2 Method\nA gate."
    second = "3 Results\nWe reach 92.5% on 3 tasks.\n3.1 Ablation Study\nWithout it 71.3%.\nReferences\n[1] A book of 1234 pages."
    parts = extract("pdf", pdf_of(first, second))
    assert parts.introduction == "Windows of 4,096 tokens limit transformers."
    assert "92.5% on 3 tasks" in parts.results
    assert "71.3%" in parts.results
    assert "1234" not in parts.full_text


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def test_members_that_point_outside_are_never_read():
    files = {**FILES, "../../evil.tex": r"\section{Results} 66.6", "/etc/evil.tex": r"\section{Results} 66.6"}
    data = tar_of(files, link("secret.tex", "/etc/passwd"), link("hard.tex", "/etc/passwd", tarfile.LNKTYPE))
    text = extract("latex", data).full_text + str(extract("latex", tar_of({"a.tex": MAIN.replace("parts/intro", "/etc/passwd")})))
    assert "66.6" not in text
    assert "root:" not in text


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        ("latex", tar_of({"a.png": b"x"}), "no TeX file"),
        ("latex", gzip.compress(b"%PDF-1.4 ..."), "is a PDF"),
        ("latex", b"\x1f\x8b broken", "damaged"),
        ("latex", b"\\def\\a{\\b\\b}\\def\\b{\\a\\a}\\begin{document}\\end{document}", "no text"),
        ("html", b"", "can't be read"),
        ("html", b"<html><body><script>x</script></body></html>", "no text"),
        ("pdf", b"%PDF-1.4\nnothing", "can't be read"),
        ("pdf", pdf_of(""), "no text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # data holds the time that it was packed at
)
def test_a_file_that_is_no_paper_is_refused_with_the_reason(kind, data, why):
    with pytest.raises(ExtractError, match=why):
        extract(kind, data)


def test_an_archive_that_unpacks_to_too_much_is_refused():
    with pytest.raises(ExtractError, match="unpacks to more than"):
        extract("latex", gzip.compress(bytes(200 << 20), 9))


def test_files_that_include_each_other_come_to_an_end():
    files = {
        "main.tex": MAIN,
        "parts/intro.tex": r"\input{parts/results} \section{Introduction} Hello.",
        "parts/results.tex": r"\input{parts/intro}",
    }
    assert "Hello." in extract("latex", tar_of(files)).introduction


def test_macros_that_multiply_each_other_do_not_fill_the_memory():
    bomb = "".join(rf"\newcommand{{\x{chr(97 + n)}}}{{{(chr(92) + 'x' + chr(98 + n)) * 20}}}" for n in range(20))
    parts = extract("latex", gzip_of(MAIN.replace(r"\maketitle", bomb + r"\xa")))
    assert "71.3%" in parts.results


def test_latex_and_html_nested_without_end_are_read_or_refused():
    deep = MAIN.replace("Done.", "{" * 20_000 + "x" + "}" * 20_000)
    assert "71.3%" in extract("latex", gzip_of(deep)).results
    page = b"<h2>Results</h2>" + b"<div>" * 50_000 + b"42.5" + b"</div>" * 50_000
    try:
        extract("html", page)
    except ExtractError:
        pass
