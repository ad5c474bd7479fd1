"""The most likely class is the one that argmax finds."""

import pytest
import torch

from cardiac_attrivae.models.most_likely import most_likely


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_what_argmax_finds(layout):
    scores = torch.randn(3, 4, 17, 9, generator=torch.Generator().manual_seed(0))
    scores = scores.to(memory_format=layout)
    assert torch.equal(most_likely(scores), scores.argmax(1, keepdim=True))
    assert torch.equal(most_likely(scores, dim=2), scores.argmax(2, keepdim=True))


def test_of_equal_scores_the_first_is_taken():
    assert torch.equal(most_likely(torch.zeros(1, 4, 50, 50)), torch.zeros(1, 1, 50, 50).long())
