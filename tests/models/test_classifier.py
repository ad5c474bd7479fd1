"""The classifier and its objective equal their formulas, written in numpy."""

import math

import numpy as np
import pytest
import torch

from cardiac_attrivae.models.classifier import ClassifierHead, cross_entropy
from cardiac_attrivae.models.classifier_loss import ClassifierLoss
from cardiac_attrivae.models.losses import AttriVAELoss
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.schema import Keys, VAEOutput

EXACT = 1e-10
CLASSES = ["DCM", "HCM", "NOR"]


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def one_hot(*labels):
    """None is unknown."""
    return torch.tensor([[float(label == k) for k in range(3)] for label in labels])


def by_hand(logits, labels):
    terms = [
        math.log(sum(math.exp(x - row[label]) for x in row))
        for row, label in zip(logits.tolist(), labels, strict=True)
        if label is not None
    ]
    return sum(terms) / len(terms)


def test_cross_entropy_is_the_mean_over_the_rows_whose_class_is_known():
    logits, labels = numbers(5, 3), (0, None, 2, 2, None)
    found = cross_entropy(logits, one_hot(*labels).double())
    assert float(found) == pytest.approx(by_hand(logits, labels), rel=EXACT)
    known = [0, 2, 3]
    expected = torch.nn.functional.cross_entropy(logits[known], torch.tensor([0, 2, 2]))
    assert float(found) == pytest.approx(float(expected), rel=EXACT)


def test_rows_of_unknown_class_move_nothing():
    logits = numbers(4, 3).requires_grad_()
    classes = one_hot(None, 1, None, None).double()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, classes), logits)
    assert gradient[1].abs().sum() > 0.1
    assert gradient[[0, 2, 3]].abs().sum() == 0
    assert float(cross_entropy(logits, classes * 0).detach()) == 0


def test_the_head_is_layers_with_relu_between_and_reads_the_first_codes():
    head = ClassifierHead(CLASSES, inputs=2, hidden=(4,)).double()
    codes = numbers(6, 5)
    first, _, last = head.layers
    hidden = np.maximum(codes[:, :2].numpy() @ first.weight.detach().numpy().T
                        + first.bias.detach().numpy(), 0)  # fmt: skip
    expected = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(head(codes).detach(), expected, rtol=EXACT, atol=EXACT)


def test_the_objective_is_that_of_attri_vae_and_alpha_times_the_cross_entropy():
    labels = (0, 1, None, 2, 1, 0)
    z, mu, logvar = numbers(6, 4, seed=1), numbers(6, 4, seed=2), numbers(6, 4, seed=3)
    image = numbers(6, 1, 4, 4, seed=4)
    output = VAEOutput(image * 0.9, mu=mu, logvar=logvar, z=z)
    weights = {"beta": 2.0, "gamma": 3.0, "delta": 1.5}
    head = ClassifierHead(CLASSES, inputs=4).double()
    loss = ClassifierLoss(alpha=7.0, **weights)
    loss.see(type("Network", (), {"classifier": head}), {Keys.CLASS: one_hot(*labels)})
    attributes = numbers(6, 2, seed=5)
    found = {name: float(term.detach()) for name, term in loss(output, image, attributes).items()}
    expected = {k: float(v) for k, v in AttriVAELoss(**weights)(output, image, attributes).items()}
    expected["classification"] = 7 * by_hand(head(z).detach(), labels)
    assert found == pytest.approx(expected, rel=EXACT)
    assert list(found) == list(expected)


def test_a_loss_that_was_shown_no_classes_says_what_to_call():
    image, code = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"call see\(network, batch\) before"):
        ClassifierLoss(beta=1.0)(VAEOutput(image, code, code, code), image)


@pytest.mark.parametrize("name", ["BetaVAE", "SoftIntroVAE"])
def test_a_network_has_a_classifier_if_it_is_asked_for(name):
    plain = build_network(name, latent_size=4, image_size=64)
    assert plain.classifier is None
    some = build_network(name, latent_size=4, image_size=64, classifier={"classes": CLASSES})
    more = some.state_dict().keys() - plain.state_dict().keys()
    assert more == {
        f"classifier.layers.{k}.{what}" for k in (0, 2, 4) for what in ("weight", "bias")
    }
    assert some.classifier(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("classifier", "why"),
    [
        ({"classes": ["DCM", "DCM"]}, "each once"),
        ({"classes": ["a\nb", "NOR"]}, "printable"),
        ({"classes": []}, "width of the classifier is 0"),
        ({"classes": CLASSES, "inputs": 0}, "width of the classifier is 0"),
        ({"classes": CLASSES, "inputs": 5}, "classifier.inputs is 5"),
        ({"classes": CLASSES, "layers": 3}, "expected a mapping of classes and, perhaps, inputs"),
        ({"classes": 3}, "classifier.classes is 3; expected texts"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_sentence(classifier, why):
    with pytest.raises(ValueError, match=why):
        build_network("BetaVAE", latent_size=4, image_size=16, classifier=classifier)
