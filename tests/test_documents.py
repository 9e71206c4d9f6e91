# SPDX-License-Identifier: Apache-2.0
"""Every code block of the documents runs: Python in one namespace a page, commands one by one.

Blocks in `text` are pictures and data. What cannot run here is listed with its reason, and a reason
that no block needs is an error.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import fsspec.config
import pytest
import zarr
from doc_blocks import BEFORE, ELSEWHERE, NOT_RUN, NOT_RUN_COMMANDS, PACKAGES, REPLACED
from sybil.document import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md")
    if "```" in path.read_text(encoding="utf-8")
)
LANGUAGES = ("python", "sh", "text", "mermaid")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # workers of a DataLoader
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
]


def blocks(page: str, folder: Path):
    """The document's code blocks in order, with the folders of its examples moved."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for place in ELSEWHERE:
        text = text.replace(f'"{place}', f'"{folder}{place}')
        text = text.replace(f"//{place}", f"//{folder}{place}")
    document = Document(text, str(ROOT / page))
    for language in LANGUAGES:
        for region in CodeBlockParser(language, lambda _: None)(document):
            document.add(region)
    found = list(document.examples())
    assert len(found) == len(re.findall(r"^```", text, re.MULTILINE)) / 2, (
        f"{page}: a block has a language that is none of {LANGUAGES}"
    )
    return document, found


def of_block(table, page: str, block) -> str | None:
    """What a table says of a block, which it knows by some of its words."""
    return next((v for (p, words), v in table.items() if p == page and words in block.parsed), None)


def commands_of(block) -> list[str]:
    return block.parsed.replace("\\\n", " ").splitlines()


def run_command(line: str) -> None:
    from cli_cases import run

    words = [REPLACED.get(word, word) for word in shlex.split(line, comments=True)]
    if not words:
        return
    command = shlex.join(words)
    if any(command.startswith(start) for start in NOT_RUN_COMMANDS):
        return
    if words[0] == "gpucodec":
        run(*words[1:])
    elif words[0] == "python":
        words = [sys.executable, str(ROOT / words[1]), *words[2:]]
        subprocess.run(words, check=True, capture_output=True)
    else:
        pytest.fail(f"{command}: neither run nor said why not")


@pytest.fixture
def bucket(s3_options, monkeypatch):
    """A bucket of the name that examples use, on a server of this machine."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_options)
    fs = s3fs.S3FileSystem(**s3_options)
    fs.makedirs("bucket", exist_ok=True)
    yield
    fs.rm("bucket", recursive=True)


@pytest.fixture
def configuration():
    """Blocks may configure zarr, for themselves."""
    key = "codec_pipeline.path"
    with zarr.config.set({key: zarr.config.get(key)}):
        yield


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("bucket", "configuration")
def test_every_block_runs(page, tmp_path, monkeypatch):
    for package in ("torch", *PACKAGES.get(page, ())):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    document, found = blocks(page, tmp_path)
    python = PythonEvaluator()
    for block in found:
        before = of_block(BEFORE, page, block) or ""
        for place in ELSEWHERE:
            before = before.replace(f'"{place}', f'"{tmp_path}{place}')
            before = before.replace(f"//{place}", f"//{tmp_path}{place}")
        exec(before, document.namespace)
        if of_block(NOT_RUN, page, block):
            continue
        language = next(
            name for name in LANGUAGES if document.text[block.start :].startswith(f"```{name}")
        )
        if language == "python":
            python(block)
        elif language == "sh":
            for line in commands_of(block):
                run_command(line)


def test_every_reason_has_its_block():
    commands = []
    for page in PAGES:
        _, found = blocks(page, Path("/tmp"))
        for name, words in (*BEFORE, *NOT_RUN):
            assert name != page or any(words in block.parsed for block in found), words
        commands += [line for block in found for line in commands_of(block)]
    assert {page for page, _ in (*BEFORE, *NOT_RUN)} <= set(PAGES)
    for start in NOT_RUN_COMMANDS:
        assert any(line.startswith(start) for line in commands), start


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name}" in index, path.name
    for path in (ROOT / "docs" / "examples").glob("*.py"):
        assert f"](examples/{path.name})" in index, path.name


def test_the_reference_is_what_the_docstrings_say():
    """`make fix` writes it again."""
    pytest.importorskip("griffe")
    sys.path.append(str(ROOT / "docs"))
    import make_reference

    assert make_reference.PAGE.read_text(encoding="utf-8") == make_reference.page()
