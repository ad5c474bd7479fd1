"""What the site needs beside its plugins; MkDocs calls the functions that begin with ``on_``.

Notebooks and the changelog become pages, equations become MathML, which browsers draw by
themselves, and a page that would load anything from elsewhere is refused.
"""

import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from pymdownx.superfences import SuperFencesException

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b[^>]*\shref=[\"']?(?:https?:)?//[^>]*>"
)
"""A tag that makes a browser ask another server."""
LOADED_BY_STYLE = re.compile(r"(?:url\(|@import )\s*[\"']?(?:https?:)?//[^)]*")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    fence = {"name": "math", "class": "math", "format": equation}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            name = file.src_uri.replace(".ipynb", ".md")
            book = json.loads(Path(file.abs_src_path).read_text(encoding="utf-8"))
            files.append(File.generated(config, name, content=notebook(book)))
            files.remove(file)
    changes = Path(config.config_file_path).with_name("CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changes))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"\.ipynb([)#])", r".md\1", markdown)  # on a code host they are notebooks


def on_post_build(config: MkDocsConfig) -> None:
    for pattern, kind in ((LOADED, "*.html"), (LOADED_BY_STYLE, "*.css")):
        for file in Path(config.site_dir).rglob(kind):
            if found := pattern.search(file.read_text(encoding="utf-8")):
                raise PluginError(f"{file.name} loads from elsewhere: {found[0]}")


def equation(source: str, language: str, *_: Any, **__: Any) -> str:
    """A fenced block of LaTeX as MathML."""
    try:
        drawn = convert(source, display="block")
    except Exception as error:  # any other error would show the source instead
        raise SuperFencesException(f"{source!r} is no equation: {error!r}") from error
    if "\\" in drawn or source.count("{") != source.count("}"):  # convert lets these pass
        raise SuperFencesException(f"{source!r} has an unknown command or an open brace")
    return f'<div class="{language}">{drawn}</div>'


def notebook(book: dict[str, Any]) -> str:
    """An executed notebook as Markdown; what it shows stands below its code."""
    parts = []
    for cell in book["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def shown(output: dict[str, Any]) -> str:
    """One output of a cell, the richest form of it."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/html" in data:
        html = re.sub(r"\s*\n\s*", " ", "".join(data["text/html"]))  # an empty line would end it
        return f'<div class="output">{html}</div>'
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
