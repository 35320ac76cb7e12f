"""What a CUDA device is made to do. These settings are torch's own and there without such a device too."""

import subprocess
import sys

import pytest
import torch

from gan_influence.devices import repeatable

GPU = torch.device("cuda")
backends = torch.backends


def precisions():
    return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("wanted", ["highest", "high"])
def test_convolutions_and_products_are_in_full_float32_and_repeat_themselves(wanted):
    torch.set_float32_matmul_precision(wanted)
    try:
        before = precisions(), backends.cudnn.deterministic, backends.cudnn.benchmark
        with repeatable(GPU):
            assert "tf32" not in precisions()
            assert not backends.cudnn.allow_tf32
            assert backends.cudnn.deterministic
            assert not backends.cudnn.benchmark
        assert (precisions(), backends.cudnn.deterministic, backends.cudnn.benchmark) == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_nothing_is_changed_for_a_cpu():
    torch.set_float32_matmul_precision("high")
    try:
        before = precisions()
        with repeatable(torch.device("cpu")):
            assert precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")


REFUSED = """
import torch
from gan_influence.devices import repeatable
torch.backends.{owner}fp32_precision = "{precision}"
try:
    with repeatable(torch.device("cuda")):
        print("passed")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(("owner", "precision"), [("", "tf32"), ("cudnn.conv.", "ieee")])
def test_a_precision_that_cannot_be_put_right_is_refused(owner, precision):
    """In a process of its own: torch does not forget these."""
    code = REFUSED.format(owner=owner, precision=precision)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "leave them at their defaults" in said
