"""MkDocs hooks: addresses of the repository for links that leave the folder, and plain names for Sphinx roles."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
ROLE = re.compile(r":(?:class|func|mod|meth):(?=<code>|`)")
IN_SITE = (".md", ".png")


def on_config(config: Any) -> Any:
    """Takes git's origin as the repository's address if ``REPOSITORY_URL`` is not set and origin is a web address."""
    command = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
    origin = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not config["repo_url"] and origin.startswith("https://"):
        config["repo_url"] = origin[: -len(".git")] if origin.endswith(".git") else origin
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrites the links of a page; without a repository's address they lead to the files of the checkout."""
    docs, folder = Path(config["docs_dir"]), Path(page.file.abs_src_path).parent

    def rewritten(match: re.Match) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if docs in target.parents and target.suffix in IN_SITE:
            return match[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_path}: got a link to {match[2]}, expected an existing file.")
        address = target.as_uri()
        if config["repo_url"]:
            kind = "tree" if target.is_dir() else "blob"
            address = f"{config['repo_url'].rstrip('/')}/{kind}/main/{target.relative_to(ROOT).as_posix()}"
        return f"{match[1]}{address}{match[3]}"

    return LINK.sub(rewritten, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Leaves out the roles that docstrings put before a name, as in ``:class:`NLKDINLoss```."""
    return ROLE.sub("", html)
