"""Configs of the tasks that learn to write answers, and of how they are written."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import Count, Natural, Range, checked, require

TextMetric = Literal["exact_match", "f1", "bleu", "chrf", "rouge"]


@checked
class Decoding:
    """How answers are written: the likeliest token at a time, or by beam search.

    Attributes:
      max_new_tokens: of an answer, at most.
      beams: texts that a search goes on with; 1: no search.
      length_penalty, early_stopping: see `llmjax.infer.beam.beam_search`.
    """

    max_new_tokens: Count = 128
    beams: Count = 1
    length_penalty: Annotated[float, Range(-10.0, 10.0)] = 1.0
    early_stopping: Literal["heuristic", "always", "never"] = "heuristic"


@checked
class Chat:
    """Write the answers of conversations: instruction tuning, dialogue.

    Only the answers' tokens are predicted, each end of turn among them.

    Attributes:
      messages_field: field of the records that is read.
      roles, template, thinking, faulty: see `Messages`; of the field that is made where
        `data.prepare.fields` names none.
      overlong: sequences longer than a row: their end is cut, which is counted, and one
        that has no answer left is an error; or all of them are left out and counted.
      decoding: of the answers that an evaluation writes.
      metrics: of these answers; "bleu", "chrf" and "rouge" need the extra `eval`.
    """

    kind: ClassVar[str] = "chat"
    messages_field: str = "messages"
    roles: tuple[str, ...] = ("assistant",)
    template: str = ""
    thinking: bool | None = None
    faulty: Literal["refuse", "drop"] = "refuse"
    overlong: Literal["cut", "drop"] = "cut"
    decoding: Decoding = Decoding()
    metrics: tuple[TextMetric, ...] = ("exact_match", "f1")

    def __post_init__(self):
        require(len(self.roles) > 0, "roles is empty; name at least one: 'assistant'")


@checked
class TextToText:
    """Write a text for a text: summaries, translations (Raffel et al. 2020, 2.4).

    Attributes:
      source_field, target_field: fields of the records that are read.
      prefix, suffix: what stands before and behind each source ("summarize: ").
      max_target: tokens of a target that are learned; None: what a row holds, of a
        decoder's row half.
      decoder_start: id that the decoder of an encoder-decoder begins with; None: that
        of the weights at `init.path`, or the tokenizer's beginning.
      decoding, metrics: see `Chat`.
    """

    kind: ClassVar[str] = "text_to_text"
    source_field: str = "source"
    target_field: str = "target"
    prefix: str = ""
    suffix: str = ""
    max_target: Count | None = None
    decoder_start: Natural | None = None
    decoding: Decoding = Decoding()
    metrics: tuple[TextMetric, ...] = ("exact_match", "f1")
