"""Two of the 20 newsgroups, prepared as for SGD-influence (Hara et al. 2019, section 7.1)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from gan_influence.datasets.pixels import check_dtype
from gan_influence.datasets.tables import Table, content, located

__all__ = ["newsgroups"]

_FILES = "20news/train.json", "20news/test.json"
_SOURCE = (
    "each is a list of {label, text}, from 20news-bydate's comp.sys.ibm.pc.hardware (0) and comp.sys.mac.hardware (1) "
    "without headers, footers and quotes"
)


def newsgroups(folder: str | os.PathLike[str] | None = None, *, dtype: torch.dtype = torch.float64) -> Table:
    """Texts about IBM's hardware (0) and Apple's (1): tf-idf of their words, training texts first; not standardised.

    Scikit-learn's ``TfidfVectorizer``, fitted to the training texts, without English stop words and words that are in
    more than 20 % or less than .1 % of them. Read from ``20news/train.json`` and ``20news/test.json``, or the same with
    ``.gz``.

    Args:
        folder: that holds ``20news/``; by default the one that the variable GAN_INFLUENCE_DATA names.
        dtype: of the inputs.

    Returns:
        Inputs ``(n, words)``, labels ``(n,)``.

    Raises:
        FileNotFoundError: a file is not there.
        ImportError: scikit-learn is not installed.
        TypeError: ``dtype`` is no floating-point type.
        ValueError: a file is no such list.
    """
    check_dtype(dtype)
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError('newsgroups needs scikit-learn: pip install "gan-influence[images]"') from error
    train, test = (_texts(located(folder, file, _SOURCE)) for file in _FILES)
    vectorizer = TfidfVectorizer(stop_words="english", min_df=0.001, max_df=0.20)
    fitted = vectorizer.fit_transform([text for text, _ in train]).toarray()
    inputs = np.concatenate([fitted, vectorizer.transform([text for text, _ in test]).toarray()])
    return Table(torch.from_numpy(inputs).to(dtype), torch.tensor([label for _, label in train + test]))


def _texts(path: Path) -> list[tuple[str, int]]:
    try:
        items = json.loads(content(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    found = []
    for k, item in enumerate(items if isinstance(items, list) else [items]):
        holds = isinstance(item, dict) and isinstance(item.get("text"), str) and item.get("label") in (0, 1)
        if not holds:
            raise ValueError(f"{path}: item {k} must be {{label: 0 or 1, text: ...}}, got {str(item)[:60]!r}")
        found.append((item["text"], int(item["label"])))
    return found
