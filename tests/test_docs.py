"""What the documentation shows is so: every fenced block of README.md and docs/, the notebooks.

A block that can be run is run, on phantoms and with short training (`slow`); the options of all
commands are read in the quick part. What is not run stands in `NOT_RUN` with the reason. A block of
no known kind fails.

Notebooks are executed with nbconvert, ``--ExecutePreprocessor.record_timing=False``; then what is
told on standard error is taken out of them, and the pictures are made small.
"""

import ast
import itertools
import json
import re
import shlex
import shutil
import socketserver
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml
from click.testing import CliRunner

import cardiac_attrivae as ca
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.manifest import parse_manifest
from cardiac_attrivae.runtime.validation import build
from cardiac_attrivae.segmentation.onnx_network import OnnxSettings
from cardiac_attrivae.training.config import load_pipeline, shipped_pipelines

pytestmark = pytest.mark.xdist_group("docs")  # one world serves all pages

CHECKOUT = Path(__file__).parent.parent
DOCS = CHECKOUT / "docs"
PAGES = ["README.md", *sorted(str(file.relative_to(CHECKOUT)) for file in DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((CHECKOUT / "docs" / "notebooks").glob("*.ipynb"))

NOT_RUN = {
    "cardiac-attrivae demo": "minutes; tests/cli/test_main.py runs it",
    "cardiac-attrivae reproduce": "hours; tests/test_reproduce.py runs it with short training",
    "cardiac-attrivae preprocess --dataset ukbb.yaml": "needs a cluster",
    "cardiac-attrivae tune": "hours; tests/training/test_tune.py runs it with short training",
    "cardiac-attrivae train --pipeline attri_vae_fast --data /shared": "needs a cluster",
    "cardiac-attrivae train --track": "tests/training/test_trackers.py does it",
    "dask": "needs a cluster; tests/runtime/test_pool.py starts one",
    "docker": "needs a daemon and the network",
    "cardiac-attrivae diagnose": "tests/evaluation/test_diagnosis.py does it",
    "cardiac-attrivae encode": "tests/evaluation/test_encoding.py runs it",
    "cardiac-attrivae segment": "its own tests run it",
    "eval": "a shell's own; completion is tested below",
    "export": "a shell's own",
    "head": "a key is there",
    "kill": "a shell's own",
    "pip": "the network; .ci/run does it",
    "pytest": "these tests",
    "python -m monai.bundle": "tests/export/test_bundle.py runs it",
    "python benchmarks/": "minutes; that the options exist is tested below",
    "tensorboard": "a server",
    "rm": "there is nothing to remove",
    "sbatch": "needs a cluster",
    "source": "a shell's own; completion is tested below",
    "torchrun": "tests/cli/test_main.py runs it",
    "_CARDIAC_ATTRIVAE_COMPLETE=fish_source": "completion is tested below",
}
"""How a command begins -> why it is not run here; its options are still read."""

SHOWN = {
    "Patient,Image,Mask": "a table; its columns are tested below",
    "encoder.onnx: largest difference": "what export prints; tested below",
    "LICENSE   ": "what a bundle holds; tested below",
}
"""How a block begins that shows something else than commands."""

NAMES = {
    "docs/bundle.md": {"DIR": "out"},
    "docs/data-sets.md": {"DIR": "ACDC", "500": "4"},
    "docs/method.md": {"STORE": "stores/acdc"},
    "docs/scale.md": {"$SLURM_ARRAY_TASK_ID": "1"},
}
"""Page -> what stands there for a name of the reader's own."""

SHORT = ("schedule.epochs=2", "schedule.steps_per_epoch=2", "data.batch_size=4")


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def shown(self):
        return any(self.text.startswith(start) for start in SHOWN)


class Command(NamedTuple):
    """One call in a shell."""

    words: list[str]

    def __str__(self):
        return shlex.join(self.words)

    @property
    def ours(self):
        """Words after ``cardiac-attrivae`` or what stands for it; None where it is not called."""
        for start, word in enumerate(self.words):
            if self.words[0] == "pip" or "/" in word:
                continue
            if word == "cardiac_attrivae" or re.fullmatch(r"cardiac-attrivae(:\w+)?", word):
                tag = self.words[start - 1] == "--tag"
                return None if tag else self.words[start + 1 :]
        return None

    @property
    def run(self):
        return self.words[0] == "cardiac-attrivae" and not self.not_run

    @property
    def not_run(self):
        return next((why for start, why in NOT_RUN.items() if str(self).startswith(start)), None)


def blocks(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE)
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2].strip(), match[3])
        for match in found
    ]


def commands(text):
    """Commands of a block: ``[option]`` is given, and each of ``one|another`` once."""
    text = re.sub(r"\\\n", " ", text)
    found = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", re.sub(r"\[(-[^]]*)\]", r"\1", line)).strip()
        for part in filter(None, re.split(r"\s+(?:&&|\|)\s+", line)):
            words = shlex.split(part)
            choices = [
                word.split("|") if re.fullmatch(r"\w[\w|-]*", word) else [word] for word in words
            ]
            found += [Command(list(choice)) for choice in itertools.product(*choices)]
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("", "sh", "bash") and not block.shown]
COMMANDS = [(block, command) for block in SHELL for command in commands(block.text)]


def of(language):
    return [block for block in BLOCKS if block.language == language]


def read_options(words):
    """Reads the words after ``cardiac-attrivae`` as the program does, but that files exist."""
    if words[0].startswith("-"):
        return
    command = main.commands[words[0]]
    context = click.Context(command, info_name=words[0])
    given, rest, _ = command.make_parser(context).parse_args(list(words[1:]))
    assert not rest, f"{rest} follow the options"
    if "help" in given:
        return
    for option in command.params:
        assert option.name in given or not option.required, f"{option.opts} is missing"
        if option.name in given and not isinstance(option.type, click.Path):
            option.type_cast_value(context, given[option.name])


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_known_kind(block):
    if block.language == "math":  # the site's build draws it, and stops where it cannot
        return
    if block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)
    elif block.language != "text" and not block.shown:
        assert block in SHELL, f"no test knows blocks of {block.language!r}"
        for command in commands(block.text):
            assert command.run or command.not_run, f"{command} is neither run nor in NOT_RUN"


@pytest.mark.parametrize(("block", "command"), [pair for pair in COMMANDS if pair[1].ours], ids=str)
def test_every_command_has_the_options_that_are_shown(block, command):
    read_options([NAMES.get(block.page, {}).get(word, word) for word in command.ours])


def test_an_option_that_is_not_there_is_noticed():
    for words in ("train --pipelin x", "train --pipeline x", "check --dataset acdc --source . x"):
        with pytest.raises((click.UsageError, AssertionError)):
            read_options(words.split())
    (first, second) = commands("a --to one|two [--more]  # told\n")
    assert (str(first), str(second)) == ("a --to one --more", "a --to two --more")


def test_benchmarks_have_the_options_that_are_shown():
    shown = [c.words[1:] for _, c in COMMANDS if c.words[0] == "python" and "/" in c.words[1]]
    assert shown
    for script, *words in shown:
        source = (CHECKOUT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", " ".join(words)):
            assert f'"{option}"' in source, f"{script} has no {option}"


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_every_yaml_is_read_by_what_it_is_for(block, tmp_path):
    data = yaml.safe_load(block.text)
    if "spacing_mm" in data:
        assert build(OnnxSettings, data).labels == data["labels"]
    elif "labels" in data:
        assert parse_manifest(data, str(block)).name == data["name"]
    else:
        (tmp_path / "mine.yaml").write_text(block.text)
        pipeline = load_pipeline(tmp_path / "mine.yaml")
        assert data["base"] in shipped_pipelines()
        assert pipeline != load_pipeline(data["base"])


def test_the_table_of_files_has_the_columns_of_its_manifest():
    (table,) = (block for block in BLOCKS if block.text.startswith("Patient,Image,Mask"))
    before = [b for b in BLOCKS if b.language == "yaml" and b.page == table.page]
    columns = yaml.safe_load([b for b in before if b.line < table.line][-1].text)["columns"]
    assert [*columns.values()] == table.text.splitlines()[0].split(",")


def test_the_pages_name_all_there_is():
    listed = re.findall(r"^\| `([\w-]+)`", (CHECKOUT / "docs/commands.md").read_text(), re.M)
    assert sorted(listed) == sorted(main.commands)
    python = (CHECKOUT / "docs/python.md").read_text()
    for name in {*ca.__all__} - {"__version__"}:
        assert re.search(rf"^::: cardiac_attrivae(\.\w+)+\.{name}$", python, re.M), name
    site = (CHECKOUT / "mkdocs.yml").read_text()
    pages = set(re.findall(r"^ +- .*: (\S+\.md)$", site, re.M))
    written = {file.removeprefix("docs/") for file in PAGES[1:]}
    written |= {f"notebooks/{file.stem}.md" for file in NOTEBOOKS}
    assert pages == written | {"changelog.md"}


@pytest.mark.parametrize("page", [*PAGES, "cardiac_attrivae/export/templates/bundle_card.md"])
def test_nothing_is_installed_from_an_index_that_does_not_have_it_yet(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert not re.search(r"pip install[^`\n&]*cardiac-attrivae", text)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", (CHECKOUT / page).read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (CHECKOUT / page).parent / path if path else CHECKOUT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", h.lower())) for h in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_executed_small_and_tell_nothing_of_a_machine(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < 1e6
    assert not re.search(r"/(home|root|tmp|usr|Users|work)/|C:\\\\|\"execution\"|iopub", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "stream"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in str(output.get("data")) for output in outputs) >= 2


# Shell completion


def complete(*words, shell="bash"):
    """What a shell is offered where the last of the words ends."""
    given = {"COMP_WORDS": " ".join(("cardiac-attrivae", *words)), "COMP_CWORD": str(len(words))}
    environment = {"_CARDIAC_ATTRIVAE_COMPLETE": f"{shell}_complete", **given}
    done = CliRunner().invoke(main, [], prog_name="cardiac-attrivae", env=environment)
    return [tuple(line.split(",", 1)) for line in done.stdout.splitlines()]


def test_shells_are_offered_commands_options_and_values():
    assert {name for _, name in complete("")} == {*main.commands}
    assert ("plain", "--resume") in complete("train", "--")
    assert ("plain", "max-area") in complete("preprocess", "--slice", "m")
    names = [name for _, name in complete("train", "--pipeline", "attri_")]
    assert names == [name for name in shipped_pipelines() if name.startswith("attri_")]
    assert complete("check", "--dataset", "ac") == [("plain", "acdc")]
    assert complete("check", "--dataset", "./") == [("file", "./")]
    assert complete("train", "--data", "sto") == [("dir", "sto")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_of_the_page_give_a_shell_its_script(shell):
    page = (CHECKOUT / "docs/first-steps.md").read_text()
    assert f"_CARDIAC_ATTRIVAE_COMPLETE={shell}_source cardiac-attrivae" in page
    environment = {"_CARDIAC_ATTRIVAE_COMPLETE": f"{shell}_source"}
    script = CliRunner().invoke(main, [], prog_name="cardiac-attrivae", env=environment).stdout
    assert f"_CARDIAC_ATTRIVAE_COMPLETE={shell}_complete" in script


def test_completion_loads_nothing_heavy():
    program = (
        "import os, sys; from cardiac_attrivae.cli.main import main\n"
        "try: main(prog_name='cardiac-attrivae')\n"
        "except SystemExit: print('heavy', {'torch', 'monai', 'pandas', 'numpy'} & {*sys.modules})"
    )
    given = {"COMP_WORDS": "cardiac-attrivae train --pipeline beta", "COMP_CWORD": "3"}
    environment = {"_CARDIAC_ATTRIVAE_COMPLETE": "bash_complete", "PYTHONPATH": str(CHECKOUT)}
    told = subprocess.check_output(
        [sys.executable, "-c", program], env=environment | given, text=True
    )
    assert "plain,beta_vae" in told
    assert told.endswith("heavy set()\n")


# What takes long


@pytest.fixture(scope="module")
def quick(hasty_segmenters):
    """Training of a few steps, few draws and phantoms, a server that ends at once."""
    from cardiac_attrivae import api as model
    from cardiac_attrivae.data import phantom
    from cardiac_attrivae.evaluation import cross_domain
    from cardiac_attrivae.training import config

    def short(name, changes=()):
        return load_pipeline(name, [*changes, *SHORT])

    def few(dataset, output, cases=20, *more, **options):
        return phantoms(dataset, output, min(cases, 17), *more, **{**options, "cine": cases == 1})

    def rough(*folders, rounds=1000, **options):
        return evaluation(*folders, rounds=min(rounds, 20), **options)

    def end(server):
        raise KeyboardInterrupt

    phantoms, evaluation = phantom.write_phantoms, cross_domain.cross_domain_eval
    with pytest.MonkeyPatch.context() as patch:
        for room in (config, model):
            patch.setattr(room, "load_pipeline", short)
        patch.setattr(phantom, "write_phantoms", few)
        patch.setattr(cross_domain, "cross_domain_eval", rough)
        patch.setattr(socketserver.BaseServer, "serve_forever", end)
        yield


def perform(page):
    """Runs all that a page shows, in order, in this folder; returns what commands printed."""
    names, told = {}, ""
    for block in blocks(page):
        if block.language == "python":
            show(block.text, names, str(block))
        elif block in SHELL:
            for command in commands(block.text):
                if command.run:
                    words = [NAMES.get(page, {}).get(word, word) for word in command.ours]
                    done = CliRunner().invoke(main, words)
                    assert done.exit_code == 0, f"{block}: {command}\n{done.output}"
                    told += done.output
    return told


def show(source, names, where):
    """Runs code, and shows its last line where that is an expression, as a notebook does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last:
        value = eval(compile(ast.Expression(last.value), where, "eval"), names)
        assert getattr(value, "_repr_html_", value.__repr__)()


@pytest.fixture(scope="module")
def world(quick, tmp_path_factory):
    """A folder with ACDC and MNMS, of phantoms, in which all that README.md shows was done."""
    from cardiac_attrivae.data.phantom import write_phantoms

    folder = tmp_path_factory.mktemp("world")
    for dataset, name in (("acdc", "ACDC"), ("mnms", "MNMS")):
        write_phantoms(dataset, folder / name, 17, cine=False)
    (folder / "masks").mkdir()
    for mask in (folder / "ACDC").rglob("*_gt.nii.gz"):
        shutil.copy(mask, folder / "masks" / mask.name.replace("_gt", ""))
    (folder / "KEYFILE").write_bytes(bytes(range(32)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        perform("README.md")
    return folder


@pytest.mark.slow
def test_the_readme_does_what_it_shows(world):
    for file in (
        "evaluation/metrics.csv", "report/index.html", "heart/slice.png", "turned/traversal.gif",
        "explorer/index.html", "bundles/acdc/configs/metadata.json",
    ):  # fmt: skip
        assert (world / file).is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")  # README.md draws them
@pytest.mark.parametrize("page", PAGES[1:])
def test_a_page_does_what_it_shows(page, world, tmp_path, monkeypatch):
    kinds = {block.language for block in blocks(page)} - {"yaml", "math", "text"}
    # its own test runs the code of the page on Gaussians
    if page == "docs/evidence/eight-gaussians.md" or not kinds:
        return
    for name in ("ACDC", "MNMS", "masks", "stores", "runs", "evaluation"):
        shutil.copytree(world / name, tmp_path / name)
    shutil.copy(world / "KEYFILE", tmp_path)
    monkeypatch.chdir(tmp_path)
    told = perform(page)
    if page == "docs/bundle.md":
        for block in filter(lambda block: block.shown, blocks(page)):
            for line in block.text.splitlines():
                first, _, rest = line.partition(" ")
                if rest.startswith("largest"):
                    assert re.search(rf"^{first} {rest[:31]} [\d.e-]+$", told, re.M), line
                else:
                    assert (tmp_path / "bundles/acdc" / first).is_file(), line


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, cell in enumerate(json.loads(file.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            show("".join(cell["source"]), names, f"{file.name}, cell {number}")
