"""The refiner: a flow from noise to detail, inside the outline that the guide sees."""

import pytest
import torch

from cardiac_attrivae.models.networks import BetaVAE, build_network
from cardiac_attrivae.models.refiner import (
    SCALE,
    Painted,
    Refiner,
    follow,
    on_the_way,
)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def refiner(random):
    """A refiner whose guide sees a heart everywhere but in the last rows, and whose flow moves."""
    refiner = Refiner((8, 8, 16), steps=3).eval()
    for weights in refiner.flow.parameters():
        weights.data.normal_(0, 0.1, generator=random)

    def guide(picture):
        heart = torch.zeros(len(picture), 4, *picture.shape[2:])
        heart[:, 1, :24], heart[:, 0, 24:] = 9, 9
        return heart

    refiner.guide.forward = guide
    return refiner


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_straight_flow_arrives_in_any_number_of_steps(steps, random):
    noise, end = torch.randn(2, 3, 1, 4, 4, generator=random)
    torch.testing.assert_close(follow(lambda detail, time: end - noise, noise, steps), end)


def test_a_path_begins_in_the_noise_and_ends_at_the_detail(random):
    noise, end = torch.randn(2, 3, 1, 4, 4, generator=random)
    assert torch.equal(on_the_way(noise, end, torch.zeros(3)), noise)
    assert torch.equal(on_the_way(noise, end, torch.ones(3)), end)


def test_the_true_direction_paints_the_true_slice(refiner, random):
    truth, drawn, noise = torch.rand(3, 2, 1, 32, 32, generator=random)
    refiner.flow.forward = lambda *given: SCALE * (truth - drawn) - noise
    painted = refiner(drawn, noise)
    torch.testing.assert_close(painted[:, :, :24], truth[:, :, :24], atol=1e-5, rtol=0)


def test_nothing_is_painted_outside_the_heart(refiner, random):
    drawn, noise = torch.rand(2, 2, 1, 32, 32, generator=random)
    painted = refiner(drawn, noise)
    assert (painted[:, :, 24:] == 0).all()
    assert (painted[:, :, :24] != drawn[:, :, :24]).float().mean() > 0.5
    assert 0 <= painted.min() <= painted.max() <= 1


def test_pictures_and_channels_are_painted_each_by_itself(refiner, random):
    drawn, noise = torch.rand(3, 2, 32, 32, generator=random), torch.randn(1, 2, 32, 32)
    together = refiner(drawn, noise)
    for n, channel in ((0, 0), (2, 1)):
        alone = refiner(drawn[n : n + 1, channel : channel + 1], noise[:, channel : channel + 1])
        torch.testing.assert_close(together[n, channel], alone[0, 0], atol=1e-5, rtol=0)


def test_a_flow_moves_with_its_picture_by_blocks_of_its_deepest_level(refiner, random):
    """No place is special, so that nothing like a checkerboard is tied to the frame."""
    noise, drawn = torch.randn(2, 1, 1, 64, 64, generator=random)
    outline, time = torch.rand(1, 3, 64, 64, generator=random), torch.tensor([0.5])
    with torch.no_grad():
        still = refiner.flow(noise, drawn, outline, time)
        parts = (part.roll(8, dims=3) for part in (noise, drawn, outline))
        moved = refiner.flow(*parts, time).roll(-8, dims=3)
    middle = (..., slice(28, 36), slice(28, 36))
    assert float((still[middle] - moved[middle]).abs().max()) < 0.05 * float(still.std())


def test_the_guide_is_frozen_and_stays_in_eval_mode():
    refiner = Refiner((8, 8, 16)).train()
    assert refiner.flow.training
    assert not any(module.training for module in refiner.guide.modules())
    assert not any(weights.requires_grad for weights in refiner.guide.parameters())


def test_what_is_painted_over_has_the_codes_of_its_vae(refiner, random):
    vae = BetaVAE(latent_size=4, image_size=32).eval()
    painted, image = Painted(vae, refiner, torch.zeros(4), torch.ones(4)), torch.rand(2, 1, 32, 32)
    z = torch.randn(2, 4, generator=random)
    with torch.no_grad():
        assert torch.equal(painted.encode(image)[0], vae.encode(image)[0])
        assert torch.equal(painted.decode(z), refiner(vae.decode(z), painted.noise(z)))
        assert torch.equal(
            painted.decode(z), Painted(vae, refiner, torch.zeros(4), torch.ones(4)).decode(z)
        )
        other = Painted(vae, refiner, torch.zeros(4), torch.ones(4), seed=1)
        assert not torch.equal(painted.decode(z), other.decode(z))


def test_a_heart_keeps_its_noise_while_attributes_are_turned(refiner, random):
    """Free dimensions change it steadily, and hearts of other codes have another one."""
    vae = BetaVAE(latent_size=30, image_size=64).eval()
    middle, deviation = 5 * torch.randn(30, generator=random), 0.5
    scale = torch.tensor([0.0, 0.0, *[1 / deviation] * 28])
    painted = Painted(vae, refiner, middle, scale)
    z = middle + deviation * torch.randn(40, 30, generator=random)
    noise = painted.noise(z).flatten(1)
    turned, moved = z.clone(), z.clone()
    turned[:, :2] += 3
    moved[:, 2:] += 0.01
    assert torch.equal(painted.noise(turned).flatten(1), noise)
    assert 0 < float((painted.noise(moved).flatten(1) - noise).abs().mean()) < 0.02
    apart = torch.corrcoef(noise)
    assert float(apart.triu(1).abs().mean()) < 0.25
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert painted.noise(middle[None]).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"filters": [8, 8]}, "expected three numbers"),
        ({"filters": [8, 12, 16]}, "expected multiples of 8"),
        ({"filters": [8, 8, 4096]}, "expected a whole number from 8 to 1024"),
        ({"steps": 0}, "steps is 0; expected a whole number from 1 to 100"),
    ],
)
def test_a_refiner_of_a_wrong_size_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        build_network("Refiner", **arguments)


def test_the_time_changes_the_direction_once_the_flow_is_trained(refiner, random):
    noise, drawn = torch.randn(2, 1, 1, 32, 32, generator=random)
    with torch.no_grad():
        early, late = (
            refiner.flow(noise, drawn, torch.zeros(1, 3, 32, 32), torch.tensor([time]))
            for time in (0.0, 1.0)
        )
    assert not torch.allclose(early, late)
