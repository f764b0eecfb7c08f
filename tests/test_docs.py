"""Every command and every piece of code in README, CONTRIBUTING and docs/ runs, at toy
size; what needs more than a machine like this says so, and exists with its flags."""

import ast
import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import house
from experiments import config_files
from llmjax import config as cfg
from tests.experiments.forked import Mains
from tests.pages import ROOT, STARTS, Command, Page, pages
from tests.train import folders

PAGES = {page.name: page for page in pages()}
# What shrinks a command: any config to a toy on a small corpus.
TOY = [
    "--config.data.source=python_docs/small",
    "--config.data.tokenizer.vocab_size=512",
    "--config.model.vocab_size=512",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.num_layers=1",
    "--config.model.num_heads=2",
    "--config.model.num_kv_heads=2",
    "--config.data.batch_size=8",
    "--config.data.seq_len=32",
    "--config.train.steps=2",
    "--config.optimizer.schedule.warmup_steps=1",
    "--config.train.eval_batches=1",
]
# What shrinks one that takes its sizes from the weights that it starts from.
TOY_TUNING = [
    "--config.data.seq_len=16",
    "--config.train.steps=2",
    "--config.optimizer.schedule.warmup_steps=1",
]
MAINS = {
    "benchmark": ["--steps=1", "--repeats=1"],
    "generate": ["--max_new_tokens=2"],
    "benchmark_loader": ["--millions=1", "--rounds=1", "--batches=2"],
    "benchmark_prepare": ["--megabytes=1", "--vocab_size=300"],
    "objectives": ["--quick", "--only=next_sentence"],
}
# what is to be in the test's folder
INPUTS = (
    "FOLDER|DECODER|texts.csv|new.csv|book.txt|train.jsonl?|questions.csv"
    "|pairs.jsonl|answers.csv|searches.jsonl"
).replace(".", "\\.")
PLACES = rf"runs/(?=\w)|((?:{INPUTS})$)"
REASONS = ("needs ", "takes ", "installs ", "is mentioned")

_ALL = [command for page in PAGES.values() for command in page.commands()]
COMMANDS = list({command.line: command for command in _ALL}.values())
MENTIONS = [c for page in PAGES.values() for c in page.mentions()]
STORIES = [
    page.name
    for page in PAGES.values()
    if page.code
    and page.name != "CONTRIBUTING.md"  # tests/hub/test_contributing.py
    and page.name not in [other.earlier for other in PAGES.values()]
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, random_params):
    """Where the commands run: what README takes from its reader lies there."""
    folder = tmp_path_factory.mktemp("pages")
    folders.bert(folder / "FOLDER", random_params)
    folders.write_texts(folder / "texts.csv", 60)
    folders.write_texts(folder / "new.csv", 6)
    folders.write_questions(folder / "train.json", folder / "questions.csv")
    folders.write_choices(folder / "train.jsonl")
    folders.llama(folder / "DECODER", random_params)
    folders.write_pairs(folder / "pairs.jsonl", folder / "answers.csv")
    folders.write_searches(folder / "searches.jsonl")
    book = (
        " ".join(["on", *chapter, "they went."])
        for chapter in itertools.permutations(
            ("foot", "horse", "ships", "wheels", "wings", "trains")
        )
    )
    (folder / "book.txt").write_text("\n\n".join(book))
    return folder


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


# --- what runs -----------------------------------------------------------------------


def toy(command: Command, workdir: Path):
    """The command's words and its own environment, shrunk, with runs/ in `workdir`."""
    words, environment = command.words, {}
    while re.match(r"\w+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if "--dry_run" in words:
        return words, environment
    words = [re.sub(PLACES, rf"{workdir}/\1", word) for word in words]
    for word in words:  # what a command writes lies in runs/, not in the repository
        if word.startswith(("--workdir=", "--target=", "--output=")):
            assert str(workdir) in word, f"{command.page}: {word}; say runs/…"
    if words[0] == "llmjax":
        words = ["python", "-m", *words]
    if words[0] == "bash":
        # the script would make an environment; this one has all that it needs
        module = re.search(r"exec python -m (\S+)", (ROOT / words[1]).read_text())
        words = ["python", "-m", module[1], "--quick", f"--workdir={workdir}/quick"]
    assert words[:2] == ["python", "-m"], command.line
    name = words[2].removeprefix("experiments.")
    if any(word.startswith("--config=") for word in words):
        if any(word.startswith("--config.data.source=") for word in words):
            tuned = any(word.startswith("--config.init.path=") for word in words)
            words += TOY_TUNING if tuned else TOY[1:]  # not TOY's own source
            words.append(f"--config.data.directory={workdir}/cache")
        else:
            words += TOY
    return [*words[2:], *MAINS.get(name, [])], environment


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not c.reason], ids=lambda c: c.line
)
def test_command(command, workdir, mains):
    words, environment = toy(command, workdir)
    if not environment and "--dry_run" not in words:
        done = mains.module(*words)
        assert done.code == 0, done.err[-3000:]
        assert (done.out + done.err).strip()
        return
    done = subprocess.run(
        words if "--dry_run" in words else [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**mains.environment, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).strip()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", STORIES)
def test_code(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = [PAGES[name]]
    while story[0].earlier:
        story.insert(0, PAGES[story[0].earlier])
    scope = {"__name__": "page"}
    for page in story:
        for fence in page.code:
            code = "\n" * (fence.line - 1) + fence.text
            exec(compile(code, ROOT / page.name, "exec"), scope)


# --- what is not run -----------------------------------------------------------------


def flags_of(module: Path) -> set[str]:
    """The flags that a module and the modules of ours that it imports define."""
    names: set[str] = set()
    for path in [module, ROOT / "experiments/cli.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = getattr(node.func, "attr", "")
            first = node.args[0]
            if isinstance(first, ast.Constant) and (
                function.startswith("DEFINE_") or function == "add_argument"
            ):
                names.add(str(first.value).lstrip("-"))
    text = module.read_text()
    return names | {"help"} | set(re.findall(r'"--(\w+)" in sys\.argv', text))


def check(words: list[str]) -> None:
    """Fails unless the command exists and knows each of its flags."""
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    if words in (["llmjax", "--help"], ["python", "-m", "experiments.NAME"]):
        return
    if words[0] == "llmjax":
        name = "pretrain" if words[1] == "NAME" else words[1]  # any
        words = ["python", "-m", f"experiments.{name}", *words[2:]]
    elif words[:2] == ["python", "-m"]:
        pass
    elif words[:2] == ["pip", "install"]:
        lists = re.findall(r"\[([\w,]+)\]", " ".join(words))
        extras = ",".join(lists).split(",") if lists else []
        text = (ROOT / "setup.py").read_text()
        assert [extra for extra in extras if f'"{extra}": [' not in text] == []
        assert extras or "." in words, words
        pins = [word for word in words if word.startswith("constraints/")]
        assert [file for file in pins if not (ROOT / file).exists()] == []
        return
    else:
        check_script(words)
        return
    module = ROOT / f"{words[2].replace('.', '/')}.py"
    module = module if module.exists() else module.with_suffix("") / "__main__.py"
    names, config = flags_of(module), None
    for word in words[3:]:
        match = re.fullmatch(r"--(\w+)((?:\.\w+)*)(=.*)?", word)
        assert match, f"{word} is no flag"
        assert match[1] in names, f"{module} has no flag --{match[1]}"
        if match[1] == "config" and not match[2]:
            config = read_config(match[3][1:])
        elif match[2]:
            value = cfg.default() if config is None else config
            for key in match[2][1:].split("."):
                value = value[key]


def read_config(name: str):
    """What a config file gives."""
    file = config_files.path_of(name)
    spec = importlib.util.spec_from_file_location("page_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    cfg.parse(config)
    return config


def check_script(words: list[str]) -> None:
    """Fails unless the script exists and names each of its flags."""
    assert words[0] == "bash" and re.match(r"launch/|\.ci/", words[1]), words
    text = (ROOT / words[1]).read_text()
    sourced = re.findall(r"source (launch/\S+)", text)
    text += "".join((ROOT / name).read_text() for name in sourced)
    if module := re.search(r"python3?\S* -m (\w+(?:\.\w+)+)", text):
        path = ROOT / f"{module[1].replace('.', '/')}.py"
        text += path.read_text() if path.exists() else ""
    rest = words[2:]
    if "--" in rest:
        rest, inner = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        check(inner)
    for word in rest:
        if match := re.match(r"--(\w+)", word):
            assert match[1] in text, f"{words[1]} has no flag --{match[1]}"


NOT_RUN = [c for c in [*COMMANDS, *MENTIONS] if c.reason]


@pytest.mark.parametrize("command", NOT_RUN, ids=lambda c: c.line)
def test_a_command_that_is_not_run_exists(command):
    assert command.reason.startswith(REASONS), f"{command.reason!r} is no reason"
    check(command.words)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("python -m experiments.pretrai --workdir=x", "No such file"),
        ("python -m experiments.pretrain --wrkdir=x", "no flag --wrkdir"),
        ("python -m experiments.pretrain --config=configs/x.py", "configs/x.py"),
        ("python -m experiments.pretrain --config.model.layers=1", "layers"),
        ("bash launch/nothing.sh", "nothing.sh"),
        ("bash launch/local.sh --procs=4", "no flag --procs"),
        ("bash launch/local.sh --processes=4 -- python -m nothing", "No such file"),
        ("pip install -e '.[nothing]'", "nothing"),
        ("pip install -e . -c constraints/2.7.txt", "2.7"),
        ("make docs", "make"),
    ],
)
def test_a_wrong_command_is_seen(line, error):
    with pytest.raises((AssertionError, LookupError, OSError, ValueError), match=error):
        check(Command("page", line, "needs a TPU").words)


# --- the pages -----------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_a_page_hides_no_command(page):
    for fence in page.fences:
        if fence.language not in ("bash", "console", "python"):
            lines = fence.text.splitlines()
            hidden = [x for x in lines if re.match(rf"\s*(\$ )?({STARTS}|source )", x)]
            assert not hidden, f"line {fence.line}: give it the language bash"
    assert not re.findall(rf"^    +({STARTS}).*", page.prose, flags=re.M)


def test_a_hidden_command_is_seen():
    for text in ("```text\npip install x\n```\n", "So:\n\n    python -m x.y\n"):
        with pytest.raises(AssertionError):
            test_a_page_hides_no_command(Page("page.md", text))


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_a_fence_needs_no_scrolling(page):
    code = [fence for fence in page.fences if not fence.language.startswith("{")]
    lines = [line for fence in code for line in fence.text.splitlines()]
    assert [line for line in lines if len(line) > 90] == []


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    links = re.findall(r"\]\(([^)#]+?)\)", page.prose)
    folder = (ROOT / page.name).parent
    links = [link for link in links if "reference/" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
    rooms = "launch|configs|tests|llmjax|experiments|docs|constraints"
    paths = set(re.findall(rf"`((?:{rooms})/[\w/.-]*)`", page.prose))
    planned = {"llmjax/hub/families/starcoder2.py"}  # CONTRIBUTING's example
    assert [x for x in paths - planned if not (ROOT / x).exists()] == []


def test_every_main_is_shown():
    text = "".join(page.text for page in PAGES.values())
    files = (ROOT / "experiments").glob("[a-z]*.py")
    mains = {p.stem for p in files if "\nif __name__ ==" in p.read_text()}
    assert mains <= set(re.findall(r"(?:experiments\.|llmjax )(\w+)", text))


def test_every_script_is_shown():
    text = "".join(page.text for page in PAGES.values())
    scripts = {p.name: p.read_text() for p in (ROOT / "launch").glob("*.sh")}
    parts = {
        n for n in scripts if any(f"source launch/{n}" in s for s in scripts.values())
    }
    assert [name for name in scripts.keys() - parts if name not in text] == []


def test_readme_is_short():
    assert PAGES["README.md"].text.count("\n") <= 170


def test_the_picture_of_the_house_is_of_today():
    assert house.FILE.read_text() == house.picture(), "run python -m docs.house"


def test_every_room_is_on_the_page_of_the_house():
    rooms = {p.parent.name for p in (ROOT / "llmjax").glob("*/__init__.py")}
    text = PAGES["docs/house.md"].text
    assert {room for room in rooms if f"`llmjax/{room}/`" not in text} == set()
