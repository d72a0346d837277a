"""What every test shares: one CPU thread, and a fixed random state."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("emogen", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("emogen")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
