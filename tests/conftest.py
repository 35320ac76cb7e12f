import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=10, database=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
