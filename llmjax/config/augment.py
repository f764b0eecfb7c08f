"""Small changes of labelled texts while they are learned from."""

from llmjax.config.checks import Share, checked


@checked
class Augmentation:
    """Easy data augmentation (Wei & Zou 2019, arXiv:1901.11196), drawn anew each epoch.

    A share of the texts is changed, each by one of the four operations whose rate is
    not 0, all equally likely. A rate is the share of a text's words, at least one of
    them; deletion leaves at least one.

    Attributes:
      share: of the texts.
      synonyms: words replaced by a synonym, for each of them all its occurrences.
      insertion: synonyms of words put at random places.
      swap: pairs of words that change places.
      deletion: chance of each word to be left out.
      wordnet: folder of WordNet's `index.noun`, `data.noun` and so on, as Debian's
        wordnet-base puts into /usr/share/wordnet; synonyms and insertion read it.
    """

    share: Share = 0.5
    synonyms: Share = 0.0
    insertion: Share = 0.0
    swap: Share = 0.0
    deletion: Share = 0.0
    wordnet: str = ""

    @property
    def rates(self) -> dict[str, float]:
        """Operation -> its rate, of those that are done."""
        names = ("synonyms", "insertion", "swap", "deletion")
        rates = {name: getattr(self, name) for name in names}
        return (
            {name: rate for name, rate in rates.items() if rate} if self.share else {}
        )
