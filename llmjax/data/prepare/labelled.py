"""The columns of labelled texts and words, where a config leaves them to the files."""

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence

from llmjax.config import (
    DataConfig,
    FieldType,
    Label,
    Labels,
    Number,
    PrepareConfig,
    RecordField,
    Spans,
    Tags,
    Text,
    Texts,
    Words,
)
from llmjax.data.files import columns, finding
from llmjax.data.prepare import record_files
from llmjax.data.prepare.sources import features_of, is_local

# usual names of columns, in any case
LABELS = ("label", "labels", "class", "category", "target", "sentiment")
TEXTS = ("text", "sentence", "content", "review", "document", "body", "comment")
SCORES = (*LABELS, "score", "rating", "stars", "similarity", "value")
# the first text of two, and the second
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "passage"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
WORDS = ("words", "tokens")
TAGS = ("tags", "ner_tags", "labels", "ner", "pos_tags")
QUESTIONS = ("question", "query")
STEMS = (*QUESTIONS, "startphrase", "context", "text")
CHOICES = ("choices", "options", "endings")
RIGHT = ("label", "answer")
CONTEXTS = ("context", "passage", "paragraph", "text", "document")
ANSWERS = ("answers", "answer", "spans")
PROMPTS = ("prompt", "question", "instruction", "query", "input")
CHOSEN = ("chosen", "preferred", "accepted")
REJECTED = ("rejected", "dispreferred", "refused")
COMPLETIONS = ("completion", "response", "answer", "output")
JUDGED = ("label", "desirable", "good")
HEADS = ("head_span", "head", "subject", "subj", "e1", "entity1")
TAILS = ("tail_span", "tail", "object", "obj", "e2", "entity2")
RELATIONS = ("relation", "predicate", *LABELS)
# of a dataset's rows, and neither text nor class
_OTHERS = ("id", "idx", "index", "split", "")


def with_columns(data: DataConfig, *, said: bool = True) -> DataConfig:
    """`data` with the columns of its texts and labels, read off a local source.

    Columns that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    prepare = data.prepare
    if data.mixture or prepare.fields or prepare.label or not is_local(data.source):
        return data
    if not finding.exists(data.source):
        return data
    there = columns.names(finding.find(data.source))
    if not there:
        return data
    label = _only(there, LABELS, data, "label")
    text = prepare.text
    if text not in there and text == PrepareConfig().text:
        rest = [c for c in there if c != label and c.lower() not in _OTHERS]
        text = rest[0] if len(rest) == 1 else _only(there, TEXTS, data, "text")
    if said:
        print(
            f"data.source={data.source!r}: texts are in the column {text!r}, their "
            f"classes in {label!r}",
            file=sys.stderr,
        )
    prepare = dataclasses.replace(prepare, text=text, label=label)
    return dataclasses.replace(data, prepare=prepare)


def with_texts(
    data: DataConfig,
    text: str,
    pair: str,
    label: str,
    kind: FieldType,
    *,
    said: bool = True,
) -> DataConfig:
    """`data` with fields for a text, a second one and a label, read off the source.

    Fields that the config names stay, and so do columns in `data.prepare.text` and
    `.label`; what is chosen is said on standard error.

    Args:
      data: of one source.
      text, pair, label: names of the fields; pair "": there is no second text.
      kind: of the label; one with `columns` is read from those.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    there = () if data.prepare.fields else columns_of(data)
    if not there:
        return data
    own = _label_columns(there, label, kind, data)
    if pair:
        both = _two_texts(there, text, pair, data)
        texts = dict(zip((text, pair), both, strict=True))
    else:
        rest = [c for c in there if c not in own and c.lower() not in _OTHERS]
        named = [c for c in (data.prepare.text, text) if c in there]
        alone = named or (rest if len(rest) == 1 else [])
        texts = {text: alone[0] if alone else _only(there, TEXTS, data, "text")}
    if said:
        words = [f"{name} in {column!r}" for name, column in texts.items()]
        words += [f"{label} in {', '.join(map(repr, own))}"]
        print(f"data.source={data.source!r}: {', '.join(words)}", file=sys.stderr)
    fields = [RecordField(name, column, Text()) for name, column in texts.items()]
    column = "" if getattr(kind, "columns", ()) else own[0]
    fields.append(RecordField(label, column, kind))
    return dataclasses.replace(
        data, prepare=dataclasses.replace(data.prepare, fields=tuple(fields))
    )


def _label_columns(
    there: Sequence[str], label: str, kind: FieldType, data: DataConfig
) -> tuple[str, ...]:
    """The columns of a label."""
    own: tuple[str, ...] = getattr(kind, "columns", ())
    if missing := [column for column in own if column not in there]:
        parts = tuple(map(str.strip, missing[0].split(",")))
        several = f'; several are written "{parts}"' if len(parts) > 1 else ""
        raise ValueError(
            f"data.source={data.source!r} has the columns {', '.join(map(repr, there))}"
            f", and task.problem.columns names {missing[0]!r}; name those that hold "
            f"{'0 or 1' if isinstance(kind, Labels) else 'numbers'}{several}"
        )
    if own:
        return own
    named = [c for c in (data.prepare.label, label) if c in there]
    usual = LABELS if isinstance(kind, Label | Labels) else SCORES
    try:
        return (named[0] if named else _only(there, usual, data, "label"),)
    except ValueError as e:
        hint = (
            ""
            if isinstance(kind, Label)
            else "; a column for each goes into task.problem.columns"
        )
        raise ValueError(f"{e}{hint}") from None


def _two_texts(
    there: Sequence[str], text: str, pair: str, data: DataConfig
) -> tuple[str, str]:
    """The columns of two texts: those of the fields' names, or of usual ones."""
    first = data.prepare.text if data.prepare.text in there else text
    if first in there and pair in there:
        return first, pair
    by_name = {column.lower(): column for column in there}
    usual = [(by_name.get(a), by_name.get(b)) for a, b in PAIRS]
    likely = [(a, b) for a, b in usual if a and b and (pair not in there or b == pair)]
    if len(likely) == 1:
        return likely[0]
    examples = ", ".join(f"{a} and {b}" for a, b in PAIRS[:3])
    reason = (
        "several could be them: " + ", ".join(f"{a} and {b}" for a, b in likely)
        if likely
        else f"none are called {examples} or the like"
    )
    raise ValueError(
        f"data.source={data.source!r} has the columns {', '.join(map(repr, there))}; "
        f"name those of the two texts in task.text_field and task.pair_field ({reason})"
    )


def columns_of(data: DataConfig) -> tuple[str, ...]:
    """The columns of a source that is there and no mixture; () where none are known."""
    if data.mixture:
        return ()
    if not is_local(data.source):
        return features_of(data, data.source)
    if not finding.exists(data.source):
        return ()
    return columns.names(finding.find(data.source))


def with_words(
    data: DataConfig, words: str, tags: str, *, said: bool = True
) -> DataConfig:
    """`data` with the columns of its words and their tags, read off the source.

    Fields that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      words, tags: names of the fields.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    if data.mixture or data.prepare.fields:
        return data
    if not is_local(data.source):
        there = features_of(data, data.source)
    elif finding.exists(data.source):
        draft = dataclasses.replace(data.prepare, fields=_fields("", "", words, tags))
        there = columns.names(record_files.with_tags(finding.find(data.source), draft))
    else:
        return data
    if not there:
        return data
    of_words = _only(there, WORDS, data, "words")
    of_tags = _only(there, TAGS, data, "tags")
    if said:
        print(
            f"data.source={data.source!r}: words are in the column {of_words!r}, their "
            f"tags in {of_tags!r}",
            file=sys.stderr,
        )
    fields = _fields(of_words, of_tags, words, tags)
    return dataclasses.replace(
        data, prepare=dataclasses.replace(data.prepare, fields=fields)
    )


def with_answers(
    data: DataConfig, question: str, context: str, answers: str, *, said: bool = True
) -> DataConfig:
    """`data` with fields for questions, texts and answers, read off the source.

    Fields that the config names stay; what is chosen is said on standard error.

    Args:
      data: of one source.
      question, context, answers: names of the fields.
      said: whether to say it.

    Raises:
      ValueError: no column, or several, could be it; with the columns that are there.
    """
    usual = {question: QUESTIONS, context: CONTEXTS, answers: ANSWERS}
    return _with_fields(data, usual, (Text(), Text(), Spans(context)), said)


def with_choices(
    data: DataConfig, question: str, choices: str, label: str, *, said: bool = True
) -> DataConfig:
    """`data` with fields for questions, choices and labels, read off the source.

    See `with_answers`.
    """
    usual = {question: STEMS, choices: CHOICES, label: RIGHT}
    return _with_fields(data, usual, (Text(), Texts(), Label()), said)


def with_relations(
    data: DataConfig,
    text: str,
    head: str,
    tail: str,
    label: str,
    *,
    said: bool = True,
) -> DataConfig:
    """`data` with fields for texts, two spans of each and their relation, read off the
    source. See `with_answers`."""
    names = {text: TEXTS, head: HEADS, tail: TAILS, label: RELATIONS}
    usual = _own_first(names, {column.lower() for column in columns_of(data)})
    kinds = Text(), Spans(text), Spans(text), Label()
    return _with_fields(data, usual, kinds, said)


def with_pairs(
    data: DataConfig,
    prompt: str,
    chosen: str,
    rejected: str,
    numbers: Sequence[str] = (),
    *,
    said: bool = True,
) -> DataConfig:
    """`data` with fields for prompts and their chosen and rejected answers, read off
    the source, and for numbers, where it has columns of these names.

    See `with_answers`.
    """
    usual: dict[str, Sequence[str]] = {
        prompt: PROMPTS,
        chosen: CHOSEN,
        rejected: REJECTED,
    }
    there = {column.lower() for column in columns_of(data)}
    more = {name: (name.lower(),) for name in numbers if name.lower() in there}
    usual = _own_first(usual, there)
    types: list[FieldType] = [Text() for _ in usual]
    types += [Number() for _ in more]
    return _with_fields(data, usual | more, types, said)


def with_judged(
    data: DataConfig, prompt: str, completion: str, label: str, *, said: bool = True
) -> DataConfig:
    """`data` with fields for prompts, answers and whether these are good, read off the
    source. See `with_answers`."""
    names = {prompt: PROMPTS, completion: COMPLETIONS, label: JUDGED}
    usual = _own_first(names, {column.lower() for column in columns_of(data)})
    return _with_fields(data, usual, (Text(), Text(), Label()), said)


def _own_first(
    usual: Mapping[str, Sequence[str]], there: Collection[str]
) -> dict[str, Sequence[str]]:
    """Usual names of columns; of a field whose own name is there, that alone."""
    return {
        name: (name.lower(),) if name.lower() in there else names
        for name, names in usual.items()
    }


def _with_fields(
    data: DataConfig,
    usual: Mapping[str, Sequence[str]],
    types: Sequence[FieldType],
    said: bool,
) -> DataConfig:
    """`data` with a field for each name, of the one column that has a usual name."""
    if data.prepare.fields or not (there := columns_of(data)):
        return data
    chosen = {k: _only(there, names, data, k) for k, names in usual.items()}
    if said:
        words = ", ".join(f"{k} in {name!r}" for k, name in chosen.items())
        print(f"data.source={data.source!r}: {words}", file=sys.stderr)
    fields = tuple(
        RecordField(name, column, kind)
        for (name, column), kind in zip(chosen.items(), types, strict=True)
    )
    return dataclasses.replace(
        data, prepare=dataclasses.replace(data.prepare, fields=fields)
    )


def _fields(
    of_words: str, of_tags: str, words: str, tags: str
) -> tuple[RecordField, RecordField]:
    """The fields `words` and `tags`, of these columns."""
    return RecordField(words, of_words, Words()), RecordField(
        tags, of_tags, Tags(words)
    )


def _only(
    there: Sequence[str], usual: Sequence[str], data: DataConfig, field: str
) -> str:
    """The one column with a usual name."""
    likely = [column for column in there if column.lower() in usual]
    if len(likely) == 1:
        return likely[0]
    reason = (
        f"several of them could be it: {', '.join(map(repr, likely))}"
        if likely
        else f"none is called {', '.join(usual[:4])} or the like"
    )
    if field not in ("label", "text"):
        raise ValueError(
            f"data.source={data.source!r} has the columns {', '.join(map(repr, there))}"
            f"; name that of the {field} in data.prepare.fields ({reason})"
        )
    what = "classes" if field == "label" else "texts"
    raise ValueError(
        f"data.source={data.source!r} has the columns {', '.join(map(repr, there))}; "
        f"name that of the {what} in data.prepare.{field} ({reason})"
    )
