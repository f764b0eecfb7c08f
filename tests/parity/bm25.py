"""Writes tests/goldens/bm25.json: the scores that bm25s gives to made-up documents.

    pip install --target FOLDER bm25s==0.3.16
    PYTHONPATH=FOLDER:. python -m tests.parity.bm25

bm25s is needed for nothing else; the words are those that the suite's own BM25 counts.
"""

import json
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer

FILE = Path(__file__).parents[1] / "goldens" / "bm25.json"
DOCUMENTS = [
    "A small red bird of the western hills",
    "The king of the western town and the king of the sea",
    "A town near the sea, with a red tower and a small harbour",
    "Songs on birds, and a bird that sings near the town",
    "Stone",
    "A book on stone towers of the hills, of towns and of the sea",
]
QUERIES = ["red bird", "king of a town by the sea", "stone towers towers", "nothing"]


def main() -> None:
    import bm25s  # type: ignore[import-not-found]

    words = CountVectorizer(stop_words="english").build_analyzer()
    known = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    known.index([words(d) for d in DOCUMENTS], show_progress=False)
    vocabulary = {w for d in DOCUMENTS for w in words(d)}
    asked = [sorted({*words(q)} & vocabulary) for q in QUERIES]
    scores = [
        known.get_scores(own).tolist() if own else [0.0] * len(DOCUMENTS)
        for own in asked
    ]
    content = {"documents": DOCUMENTS, "queries": QUERIES, "scores": scores}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
