"""A run multiplies matrices the faster way."""

import torch

from lora_train.train.arithmetic import EXACT, error, quick
from lora_train.train.events import Watcher


def test_a_run_computes_with_it_and_gives_it_back(trained):
    seen, before = [], torch.get_float32_matmul_precision()
    with quick(torch.device("cpu")):
        expected = torch.get_float32_matmul_precision()
        assert expected == ("medium" if error() <= EXACT else before)

    class Look(Watcher):
        def stepped(self, progress):
            seen.append(torch.get_float32_matmul_precision())

    trained("a", training__max_train_steps=2, watchers=[Look()])
    assert seen == [expected] * 2
    assert torch.get_float32_matmul_precision() == before
