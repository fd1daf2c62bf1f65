"""The one table of data sets that a preset may name with a single word.

All of them are files on the hub that `datasets` streams without running anybody's script, each with the document in the
field `text`. Which is which was taken from public code and discussions in November 2026, not from the hub itself.
"""

from dreamlm.data_sources.sources.huggingface import HuggingFace

NAMED: dict[str, HuggingFace.Config] = {
    # Books one by one; the older `bookcorpus` has shuffled sentences and needs a script.
    "bookcorpus": HuggingFace.Config(type="hf", name="bookcorpus", dataset="lucadiliello/bookcorpusopen"),
    "c4": HuggingFace.Config(type="hf", name="c4", dataset="allenai/c4", config_name="en"),
    # Filtered and deduplicated Common Crawl; the raw crawl is mostly no text.
    "common_crawl": HuggingFace.Config(
        type="hf", name="common_crawl", dataset="HuggingFaceFW/fineweb", config_name="sample-10BT"
    ),
    "openwebtext": HuggingFace.Config(type="hf", name="openwebtext", dataset="Skylion007/openwebtext"),
    # The Pile without the parts that were taken down.
    "pile_subset": HuggingFace.Config(type="hf", name="pile_subset", dataset="monology/pile-uncopyrighted"),
    "wikipedia": HuggingFace.Config(
        type="hf", name="wikipedia", dataset="wikimedia/wikipedia", config_name="20231101.en"
    ),
}
