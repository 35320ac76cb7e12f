import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=10, database=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def threads():
    """One, or as many as ``on_every_machine.py`` asks for."""
    torch.set_num_threads(int(os.environ.get("GAN_INFLUENCE_TEST_THREADS", "1")))


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


def pytest_runtest_setup(item):
    if item.get_closest_marker("data") and not os.environ.get("GAN_INFLUENCE_DATA"):
        pytest.skip("needs the data folder: set GAN_INFLUENCE_DATA")
