"""What the site's build adds to the pages in docs/: the notebooks, and a learner's own progress."""

from __future__ import annotations

import os
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from grader.notebooks import NOTEBOOKS, all_notebooks
from grader.progress import PROGRESS
from grader.status import progress_table

PLACE = "<!-- progress -->"
# Outputs as blocks of their own, so that they have no copy button's prompt and no indentation.
TEMPLATE = """\
{%- extends 'markdown/index.md.j2' -%}
{%- block stream -%}
```text
{{ output.text.rstrip() }}
```
{% endblock stream %}
{%- block data_text -%}
```text
{{ output.data['text/plain'].rstrip() }}
```
{% endblock data_text %}
{%- block data_svg -%}
{%- set svg = 'image/svg+xml' -%}
![{{ output.metadata.get(svg, {}).get('alt', '') }}]({{ output.metadata.filenames[svg] }})
{% endblock data_svg %}
"""
ORIGIN = """\
!!! note "A notebook"

    This page shows the notebook `notebooks/{name}` as it was last run. `./course notebooks` opens
    it on your machine, to predict, run and change.

"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Without the address of a repository there is nothing that an edit link could lead to."""
    if not config.repo_url:
        config.edit_uri = None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and its pictures."""
    exporter = MarkdownExporter(raw_template=TEMPLATE)
    for path in all_notebooks():
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:  # whatever a half-saved file can be
            raise PluginError(f"{path.name} is no notebook: {error}") from None
        text, resources = exporter.from_notebook_node(
            notebook,
            resources={"unique_key": path.stem, "output_files_dir": path.stem},
        )
        head, _, body = text.lstrip().partition("\n")
        page = f"{head}\n\n{ORIGIN.format(name=path.name)}{body}"
        made = File.generated(config, f"notebooks/{path.stem}.md", content=page)
        made.edit_uri = f"../notebooks/{path.name}"
        files.append(made)
        for name, data in resources.get("outputs", {}).items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the learner's progress on the home page, where `./course serve` shows it."""
    if PLACE not in markdown:
        return markdown
    shown = progress_table() if os.environ.get("COURSE_PROGRESS") else ""
    return markdown.replace(PLACE, shown)


def on_serve(server: LiveReloadServer, **_: Any) -> LiveReloadServer:
    """Build again when a notebook has been run or a lab graded."""
    server.watch(str(NOTEBOOKS))
    PROGRESS.parent.mkdir(parents=True, exist_ok=True)
    server.watch(str(PROGRESS.parent))
    return server
