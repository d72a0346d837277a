import pytest
import torch

from emogen.errors import SettingsError
from emogen.models.device import choose_device


def test_devices_are_named_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingsError, match="sees no CUDA device"):
        choose_device("cuda")
    with pytest.raises(SettingsError, match="allowed is auto, cpu or cuda"):
        choose_device("gpu")
