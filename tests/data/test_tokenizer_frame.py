"""Special tokens around a text, and around two: as the library puts them."""

import json
import pathlib

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from llmjax.config import data as config
from llmjax.data.tokenizers import tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.data.tokenizers.vocabulary import PlainVocabulary, Vocabulary

FIRST, SECOND = "the cat", "a mat"
LETTERS = "theca m"


def byte_level(specials: list[str], post_processor) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(specials)
    inner.post_processor = post_processor
    return inner


def template(single: str, pair: str, **ids: int) -> processors.TemplateProcessing:
    names = {"cls": "[CLS]", "sep": "[SEP]", "bos": "<s>", "eos": "</s>"}
    tokens = [(names[name], i) for name, i in ids.items()]
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=tokens
    )


def bert() -> tokenizers.Tokenizer:
    """The shape of bert-base-uncased's file."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, "the", "cat", "a", "m", "##at"]
    model = models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(specials)
    inner.post_processor = template(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", cls=2, sep=3
    )
    return inner


def old_bert() -> tokenizers.Tokenizer:
    inner = bert()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return inner


def roberta() -> tokenizers.Tokenizer:
    ends = processors.RobertaProcessing(("</s>", 257), ("<s>", 256))
    return byte_level(["<s>", "</s>", "<pad>", "<unk>", "<mask>"], ends)


def llama3() -> tokenizers.Tokenizer:
    ends = template("<s>:0 $A:0", "<s>:0 $A:0 <s>:1 $B:1", bos=256)
    ends = processors.Sequence([processors.ByteLevel(trim_offsets=False), ends])
    return byte_level(["<s>", "</s>"], ends)


def t5() -> tokenizers.Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(c, -3.0) for c in ("▁", *LETTERS.replace(" ", ""))]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, 2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.add_special_tokens(["<pad>", "</s>", "<unk>"])
    inner.post_processor = template("$A:0 </s>:0", "$A:0 </s>:0 $B:0 </s>:0", eos=1)
    return inner


def gpt2() -> tokenizers.Tokenizer:
    return byte_level(["<|endoftext|>"], processors.ByteLevel())


def unsaid() -> tokenizers.Tokenizer:
    return byte_level(["<s>", "</s>"], None)


MADE = {f.__name__: f for f in (bert, old_bert, roberta, llama3, t5, gpt2, unsaid)}
NUM_SPECIALS = {"bert": 2, "old_bert": 2, "roberta": 2, "llama3": 1, "t5": 1}


@pytest.mark.parametrize("name", MADE)
def test_the_specials_are_the_librarys(name: str) -> None:
    inner = MADE[name]()
    t = Tokenizer(inner)
    first, second = t.encode(FIRST), t.encode(SECOND)
    assert t.num_specials == NUM_SPECIALS.get(name, 0)
    for text, ids in ((FIRST, first), (SECOND, second), ("", t.encode(""))):
        framed = t.with_specials(ids)
        assert framed.tolist() == inner.encode(text).ids
        assert framed.dtype == np.int32
        assert len(framed) == len(ids) + t.num_specials
        assert t.encode(text, special_tokens=True).tolist() == framed.tolist()
    pair, types = t.pair_with_specials(first, second)
    theirs = inner.encode(FIRST, SECOND)
    assert pair.tolist() == theirs.ids
    assert types.tolist() == theirs.type_ids
    assert pair.dtype == types.dtype == np.int32


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        (config.BPE(270), ("<bos>", "<eos>")),
        (config.Bytes(), ("<bos>", "<eos>")),
        (config.Unigram(290), ("<bos>", "<eos>")),
        (config.WordPiece(40), ("[CLS]", "[SEP]")),
    ],
)
def test_ours_begin_and_end(kind, ends: tuple[str, str], tmp_path) -> None:
    learned = tokenizer.make(kind, [FIRST, SECOND] * 20)
    learned.save(tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer_config.json").exists()
    for t in (learned, tokenizer.load(tmp_path)):
        bos, eos = ends
        ids = t.encode(FIRST, special_tokens=True)
        text = t.decode(ids, special_tokens=True)
        assert text.replace(" ", "") == f"{bos}thecat{eos}"
        assert t.num_specials == 2
        pair, types = t.pair_with_specials(t.encode(FIRST), t.encode(SECOND))
        text = t.decode(pair, special_tokens=True).replace(" ", "")
        assert text == f"{bos}thecat{eos}amat{eos}"
        assert types.sum() == len(t.encode(SECOND)) + 1


def test_a_plain_vocabulary_begins_and_ends() -> None:
    plain: Vocabulary = PlainVocabulary(30)
    assert plain.with_specials(np.array([7, 8], np.int32)).tolist() == [1, 7, 8, 2]
    assert plain.num_specials == 2
    ids, types = plain.pair_with_specials(np.array([7]), np.array([8, 9]))
    assert ids.tolist() == [1, 7, 2, 8, 9, 2]
    assert types.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "config_file", "text"),
    [
        ("llama3", {"add_bos_token": False}, "the cat"),
        ("llama3", {"add_bos_token": True}, "<s>the cat"),
        ("llama3", {"add_eos_token": True}, "<s>the cat</s>"),
        ("llama3", {"add_bos_token": False, "add_eos_token": True}, "the cat</s>"),
        ("unsaid", {"add_bos_token": True, "add_eos_token": False}, "<s>the cat"),
        ("gpt2", {"add_bos_token": True}, "<|endoftext|>the cat"),
        ("roberta", {"add_bos_token": None}, "<s>the cat</s>"),
    ],
)
def test_a_folder_has_the_last_word(
    name: str, config_file: dict, text: str, tmp_path: pathlib.Path
) -> None:
    MADE[name]().save(str(tmp_path / "tokenizer.json"), pretty=False)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config_file))
    read = tokenizer.load(tmp_path)
    (tmp_path / "again").mkdir()
    read.save(tmp_path / "again/tokenizer.json")
    for t in (read, tokenizer.load(tmp_path / "again")):
        ids = t.encode(FIRST, special_tokens=True)
        assert t.decode(ids, special_tokens=True) == text
        assert t.fingerprint == Tokenizer(MADE[name]()).fingerprint
        if text.startswith("<s>the") and not text.endswith("</s>"):
            pair, types = t.pair_with_specials(t.encode(FIRST), t.encode(SECOND))
            decoded = t.decode(pair, special_tokens=True)
            assert decoded == "<s>the cat<s>a mat"
            assert types.tolist() == [0] * 8 + [1] * 6


def test_a_template_sees_the_specials_that_the_files_name(
    tmp_path: pathlib.Path,
) -> None:
    gpt2().save(str(tmp_path / "tokenizer.json"))
    beside = {"chat_template": "{{ bos_token }}x{{ eos_token }}"}
    config_file = tmp_path / "tokenizer_config.json"
    config_file.write_text(json.dumps(beside | {"eos_token": "<|endoftext|>"}))
    assert tokenizer.load(tmp_path).apply_chat_template([]) == "x<|endoftext|>"
