"""The composition root: the only place that knows every folder.

preset -> corpus -> tokenizer, model, stream -> backend -> trainer, with its store and hooks around it.
"""

from dreamlm.wiring.corpora import prepare_corpus
from dreamlm.wiring.loading import Loaded, load
from dreamlm.wiring.training import train

__all__ = ["Loaded", "load", "prepare_corpus", "train"]
