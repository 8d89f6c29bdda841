"""The documentation: every page is reachable, every link, file, command and option exists, the examples build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from tests.conftest import ROOT
from tests.layers import LAYERS

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "configs/README.md", *(ROOT / "logfile").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _prose(name: str) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S | re.M)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page.relative_to(ROOT).as_posix()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _navigation() -> list[str]:
    """The pages that the site's navigation names."""

    class Loader(yaml.SafeLoader):
        """Reads ``!ENV NAME`` as the name."""

    Loader.add_constructor("!ENV", lambda _, node: node.value)
    pages: list[str] = []

    def collect(part: object) -> None:
        if isinstance(part, str):
            pages.append(part)
        else:
            for inner in part.values() if isinstance(part, dict) else part:  # type: ignore[attr-defined]
                collect(inner)

    collect(yaml.load((ROOT / ".mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    return pages


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(name)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.resolve()), link


def test_every_page_is_in_the_navigation():
    assert sorted(_navigation()) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_page_is_linked_from_the_home_page():
    links = re.findall(r"\]\(([^)#\s]+\.md)\)", _prose("docs/README.md"))
    assert {*links, "README.md"} == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


# The others name files as they were, those of the authors' repository, or quote errors of the libraries.
CURRENT = [name for name in NAMES if not name.startswith(("logfile", "CHANGELOG", "docs/published", "docs/zoo_sweep"))]


@pytest.mark.parametrize("name", CURRENT)
def test_named_files_exist(name):
    """Tests the paths outside links: * stands for any text, {a,b} for either."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/<>.-])((?:configs|tools|cankd|tests|requirements)/[\w./*{},-]*[\w*/}])", text):
        braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", path)
        choices = [f"{braces[1]}{choice}{braces[3]}" for choice in braces[2].split(",")] if braces else [path]
        for choice in choices:
            assert any(ROOT.glob(choice.rstrip("/"))), path


def test_the_map_of_the_package_is_the_tested_one():
    section = _prose("docs/contributing.md").split("## The package and its imports")[1].split("## ")[0]
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    assert list(map(sorted, rows)) == list(map(sorted, LAYERS))


def test_readme_is_short_enough_to_read():
    assert len(README.splitlines()) < 200


def test_the_own_pair_builds(tmp_path):
    example = re.search(r"<!-- own pair -->\n```python\n(.*?)```", README, re.S)
    assert example
    file = tmp_path / "my_pair.py"
    file.write_text(example.group(1).replace('"configs/', f'"{ROOT}/configs/'))
    cfg = Config.fromfile(file)
    init_default_scope(cfg.default_scope)
    built = MODELS.build({**cfg.model, "teacher_ckpt": None})
    assert (built.student.backbone.depth, built.teacher.backbone.depth) == (18, 50)
    assert len(built.distiller.distill_losses) == 4
