"""What a CUDA device is made to do. These settings are torch's own and there without such a device too."""

import json
import subprocess
import sys

import pytest

SETTINGS = {
    "defaults": "",
    "products in TF32": 'torch.set_float32_matmul_precision("high")',
    "no TF32": "backends.cudnn.allow_tf32 = False",
    "all in TF32": 'backends.fp32_precision = "tf32"',
    "cuDNN in TF32": 'backends.cudnn.fp32_precision = "tf32"',
    "convolutions in full": 'backends.cudnn.conv.fp32_precision = "ieee"',
    "benchmarks": "backends.cudnn.benchmark = True",
}
PROGRAM = """
import json, torch
from gan_influence.devices import repeatable
backends = torch.backends
{setting}

def shown():
    try:
        flag = backends.cudnn.allow_tf32
    except RuntimeError:
        flag = "mixed"
    precisions = backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
    return precisions, backends.cudnn.deterministic, backends.cudnn.benchmark, flag

before = shown()
with repeatable(torch.device("cpu")):
    on_a_cpu = shown()
with repeatable(torch.device("cuda")):
    inside = shown()
try:
    with repeatable(torch.device("cuda")):
        raise ValueError
except ValueError:
    pass
print(json.dumps([before, on_a_cpu, inside, shown()]))
"""


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_full_float32_that_repeats_itself_whatever_is_set(setting):
    """In a process of its own: these settings are the process's."""
    program = PROGRAM.format(setting=setting)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, on_a_cpu, inside, after = json.loads(ran.stdout)
    assert "tf32" not in inside[0]
    assert inside[1:3] == [True, False]
    assert before == on_a_cpu == after
