"""The command `llmjax`: what it lists, what it refuses, and a wheel away from here."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import llmjax.__main__ as command
from experiments import config_files
from tests.experiments.forked import Mains

ROOT = Path(__file__).parents[2]
MAINS = command.mains(ROOT / "experiments")
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def llmjax(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "llmjax", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_every_main_is_a_command_and_nothing_else(tmp_path):
    launched = {
        path.parent.name if path.stem == "__main__" else path.stem
        for path in (ROOT / "experiments").rglob("*.py")
        if re.search(r"^    cli\.launch\(", path.read_text(), re.MULTILINE)
    }
    assert set(MAINS) == launched and next(iter(MAINS)) == "prepare_data"
    done = llmjax("--help", cwd=tmp_path)
    assert done.returncode == 0 and "  pretrain/    llama2_70b" in done.stdout
    for name, text in MAINS.items():
        assert re.search(rf"^  {name} +{re.escape(text[:20])}", done.stdout, re.M), name
    assert max(map(len, done.stdout.splitlines())) <= 88


def test_the_overview_imports_nothing_but_python():
    code = (
        "import sys; sys.argv = ['llmjax']; import llmjax.__main__ as m; m.main();"
        "print(*{'absl', 'jax', 'numpy', 'ml_collections'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.endswith("\n\n"), done


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretran"], ["'pretran'", "did you mean pretrain", "llmjax --help"]),
        (["help", "xyz"], ["no command 'xyz'; `llmjax --help` lists"]),
        (["--config=x.py"], ["no command '--config=x.py'"]),
    ],
)
def test_an_unknown_name(arguments, words):
    done = llmjax(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("print_", "code"),
    [
        ("print('line\\n' * 10**5)", "141"),
        (
            "[print('line', flush=True) or time.sleep(0.001) for _ in range(9999)]",
            "141",
        ),
        ("[sys.stderr.write('line\\n' * 10) for _ in SOME]", "141"),
        ("print('line')", "0"),
        ("os.write(broken(), b'x')", "1"),
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(print_, code, tmp_path):
    """As `llmjax convert … | head`; a broken pipe of the program's own is a failure."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "from experiments import cli\n"
        "SOME = range(10**4)\n"
        "def broken():\n"
        "    read, write = os.pipe()\n"
        "    os.close(read)\n"
        "    return write\n"
        f"cli.launch(lambda: {print_} and None)\n"
    )
    pipe = f"{sys.executable} {program} 2>&1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", pipe],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, *others = done.stdout.splitlines()
    assert others == [code] and not done.stderr, done
    assert first == "line" or code == "1"


def docstring(name: str) -> str:
    file = ROOT / "experiments" / f"{name}.py"
    if not file.exists():
        file = ROOT / "experiments" / name / "__main__.py"
    return ast.get_docstring(ast.parse(file.read_text())) or ""


@pytest.mark.parametrize("name", sorted(MAINS))
def test_a_docstring_shows_a_command_and_keeps_its_lines(name):
    text = docstring(name)
    shown = f"python -m experiments.{name} ", f"bash launch/{name[8:]}.sh "
    assert any(f"{start}" in f"{text} ".replace("\n", " \n") for start in shown)
    assert max(map(len, text.splitlines())) <= 88  # no line goes on in the next


@pytest.mark.parametrize("name", ["pretrain", "finetune", "generate", "plan"])
def test_help_has_the_docstring_and_the_flags(name, mains):
    done = mains.run(name, "--help")
    assert done.code == 0 and not done.err, done.err
    assert done.out.startswith(docstring(name))
    assert "  --workdir=...\n" in done.out
    assert ("  --config=...\n" in done.out) == (name != "generate")
    assert ("  --profile=...\n" in done.out) == (name in ("pretrain", "finetune"))
    required = re.findall(r"  --(\w+)=\S+\n(?:      .*\n)*?.*\(required\)", done.out)
    needed = {"generate": ["run"], "plan": []}.get(name, ["config", "workdir"])
    assert required == needed
    assert max(map(len, done.out.splitlines())) <= 88


def test_a_config_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = ROOT / "configs" / "pretrain" / "python_docs.py"
    for name in ("configs/pretrain/python_docs.py", "pretrain/python_docs"):
        assert config_files.path_of(name) == str(ours)
        argv = ["x", "--config", name, "--workdir=y"]
        assert config_files.with_paths(argv) == ["x", f"--config={ours}", "--workdir=y"]
    (tmp_path / "pretrain").mkdir()
    mine = tmp_path / "pretrain" / "python_docs.py"
    mine.write_text("def get_config():\n    return {}\n")
    # what is here comes first
    assert (
        config_files.path_of("pretrain/python_docs.py:7") == "pretrain/python_docs.py:7"
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("pretrain/pyton_docs", None, ["is not there", "pretrain/python_docs.py"]),
        ("my_confg.py", None, ["is not there; did you mean my_config.py"]),
        (".", None, ["is a folder; did you mean my_config.py"]),
        ("x.py", "def get_config(:", ["x.py, line 1: invalid syntax"]),
        ("x.py", "config = 1", ["x.py has no function get_config"]),
    ],
)
def test_what_is_no_config_file(name, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_config.py").write_text("from configs.x import get_config")
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(ValueError) as error:
        config_files.path_of(name)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    return None", ["gives None", "return config"]),
        ("    return open('/no/such/file')", ["--config can't be read", "/no/such/f"]),
        ("    c = cfg.default()\n    c.train.steps = 'a'", ["x.py, line 4: TypeError"]),
        ("    c = cfg.default()\n    c.train.stps = 1", ["did you mean 'train.steps'"]),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--config.train.steps=3"]])
def test_a_mistake_inside_a_config_file(text, words, flags, mains, tmp_path):
    head = "from llmjax import config as cfg\ndef get_config():\n"
    (tmp_path / "x.py").write_text(head + text)
    done = mains.run(
        "pretrain", f"--config={tmp_path}/x.py", f"--workdir={tmp_path}/run", *flags
    )
    assert done.code == 2
    *_, line = done.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.slow
def test_a_wheel_brings_mains_and_configs_and_no_package_of_their_name(tmp_path):
    """Built and installed as pip does, beside the packages that are here."""
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in ("llmjax", "experiments", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, *built, str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", str(wheel)],
        check=True,
        timeout=300,
    )
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "texts").mkdir()
    for k in range(40):
        text = f"The text number {k} of forty, which says {k * k} and no more. " * 3
        (tmp_path / "texts" / f"{k}.txt").write_text(text)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*words, code=0):
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    llmjax = str(venv / "bin" / "llmjax")
    assert f"Configs, in {packages}/llmjax/share/configs." in run(llmjax, "--help")
    assert "No module named 'exp" in run(python, "-c", "import experiments", code=1)
    assert "No module named 'con" in run(python, "-c", "import configs", code=1)
    run(
        llmjax,
        "prepare_data",
        "--config=pretrain/python_docs",
        "--config.data.source=texts",
        "--config.data.directory=cache",
        "--config.data.tokenizer.vocab_size=300",
        "--config.data.prepare.near_duplicates=False",
        "--config.data.prepare.workers=2",
        "--workdir=prepared",
    )
    assert (tmp_path / "prepared" / "result.json").is_file()
