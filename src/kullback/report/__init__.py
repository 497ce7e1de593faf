"""Reports of results: terminal, HTML pages, figures."""
