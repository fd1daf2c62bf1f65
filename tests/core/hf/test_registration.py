"""transformers knows the model type, in whatever order the two packages are imported."""

import subprocess
import sys

import pytest

KNOWN = """
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("dreamlm", num_layers=1)
assert type(config) in AutoModelForCausalLM._model_mapping, "the model is not registered"
"""
ORDERS = {
    "dreamlm first, and without transformers": (
        "import sys, dreamlm; assert not {'torch', 'transformers', 'pydantic'} & sys.modules.keys()"
    ),
    "transformers first": "from transformers import AutoModelForCausalLM; import dreamlm",
    "one table before, one after": "from transformers import AutoConfig; import dreamlm, transformers.trainer",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_the_model_in_any_order_of_imports(order: str) -> None:
    program = f"{ORDERS[order]}\n{KNOWN}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
