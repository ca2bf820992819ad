"""Tools of the literature task, and the corpus of papers behind them. Plain Python, no Django.

literature  web_search, get_paper_introduction, get_paper_results; look-ups     corpus   papers in SQLite, BM25
arxiv_api, semantic_scholar, doi  the services                                  web      polite HTTP
extract     a paper's file to its parts, in a process with limits               archive, latex, html, pdf, sections
tool        what an agent may call                                              papers   a paper and its identifiers
"""
