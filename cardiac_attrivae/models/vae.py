"""What all networks share: posterior, sampling and decoder of square images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.validation import FLAG, Rule, number, one_of, require
from ..schema import HEART, VAEOutput
from .brightness import BrightnessModel
from .classifier import ClassifierHead
from .guide_network import SMALLEST, guide_network
from .most_likely import most_likely
from .precision import at_least_float32
from .shapes import COARSE, LAYERS, ShapeModel, enlarged

LARGEST = 4096
"""Largest image, and most latent dimensions, channels and filters: more is a mistake or attack."""

START = -2.0
"""Log of the variance that an encoder begins with, whose mean is read off outlines."""

LONGEST = 64
NAMES = Rule(
    f"texts of 1 to {LONGEST} printable characters, each once, none of which begins with $, @ or %",
    lambda names: (
        isinstance(names, (list, tuple))
        and all(isinstance(n, str) and 1 <= len(n) <= LONGEST and n.isprintable() for n in names)
        and not any(n[0] in "$@%" for n in names)
        and len({*names}) == len(names)
    ),
)
"""What may be names of categories, which stand on pages and in model cards; MONAI runs texts of a
bundle that begin with one of these signs."""
CLASSIFIER = Rule(
    "a mapping of classes and, perhaps, inputs",
    lambda given: isinstance(given, Mapping) and {*given} <= {"classes", "inputs"},
)


def widths(fewest: int, most: int) -> Rule:
    """Returns the rule for numbers of filters, one for each of ``fewest`` to ``most`` layers.

    Example:
        >>> widths(1, 12).expected, widths(1, 12).fits([8, 16])
        ('1 to 12 whole numbers from 1 to 4096', True)
    """
    count = number(1, LARGEST, whole=True)
    return Rule(
        f"{fewest} to {most} whole numbers from 1 to {LARGEST}",
        lambda given: (
            isinstance(given, (list, tuple))
            and fewest <= len(given) <= most
            and all(map(count.fits, given))
        ),
    )


class VAE(nn.Module):
    """Defines what every network here has: a posterior and a decoder of square images.

    A subclass sets ``decoder`` and implements `posterior_of`. The parameters of ``decoder`` are
    trained as those of the decoder, all others as those of the encoder, but for those of ``guide``.

    With ``outlines`` the encoder is shown where a frozen segmenter, the guide of the training, sees
    LV, myocardium and RV: three maps of probabilities behind each channel of the slice. Where masks
    are known, see `outlined`, it is shown those.

    With S ``shapes`` a `ShapeModel` draws outlines, a straight line in the code, and the decoder no
    more than the textures within. The mean is what the model reads off the outlines that the
    encoder is shown; the encoder adds to dimensions of attributes, and makes those without a shape.
    With B dimensions of ``brightness`` a `BrightnessModel` does the same for the brightness of
    structures.

    With M categories of a condition the network is told that of each patient, see
    `models.conditional`: as M constant channels behind those of the slice, and as M entries behind
    those of the code. A subclass that takes a condition gives its encoder and decoder so many more.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least ``smallest``.
        channels: C.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        smallest: Smallest image that the network can halve often enough.
        condition: Column of cases.csv that the network is told; empty for none.
        categories: Its M categories among the training patients, which training fills in.
        classifier: ``classes`` of a `ClassifierHead`, and its ``inputs`` if those are not all D
            dimensions, which training fills in; None for no classifier.
        outlines: Whether the encoder is shown the outlines of the guide.
        shapes: S, dimensions that are shapes, besides those of attributes; 0 for no shape model.
        brightness: B, dimensions that are brightness, beside shapes, up to 3 C; 0 for no model.

    Attributes:
        guide: The segmenter, whose weights training fills in; it stays in eval mode. None without
            outlines.
        masks: Canonical labels that are shown instead of what it sees, (N, C, H, W), or None.
        shown: Channels that the encoder takes for each channel of a slice: 1, or 4 with outlines.
        shape_model: The model, which training fills in; None without shapes.
        brightness_model: The same of brightness.
        fixed: How many of the last dimensions are brightness or shapes, which encoders leave as
            they are read: B + S.
        halvings: How often the decoder's picture is half of a slice: 2 with shapes, else 0.
        drawn: Channels that the decoder makes: C, or 4 C textures with shapes.
        told: Categories of what passes through, one-hot, see `conditional.told`; None for nothing.

    Raises:
        ValueError: If an argument is not among the accepted ones.
    """

    decoder: nn.Module
    told: Tensor | None = None
    masks: Tensor | None = None

    def __init__(
        self,
        latent_size: int,
        image_size: int,
        channels: int,
        output: str,
        smallest: int,
        condition: str = "",
        categories: Sequence[str] = (),
        classifier: Mapping[str, Any] | None = None,
        outlines: bool = False,
        shapes: int = 0,
        brightness: int = 0,
    ) -> None:
        super().__init__()
        require("outlines", outlines, FLAG)
        smallest = max(smallest, SMALLEST) if outlines else smallest
        if not smallest <= image_size <= LARGEST or image_size & (image_size - 1):
            raise ValueError(
                f"image_size is {image_size}; expected a power of two of at least {smallest}: "
                f"{smallest}, {2 * smallest}, {4 * smallest}... {LARGEST}"
            )
        require("latent_size", latent_size, number(1, LARGEST, whole=True))
        require("shapes", shapes, number(0, latent_size, whole=True))
        if shapes and not outlines:
            raise ValueError(
                f"shapes is {shapes}, and they are read off outlines; set outlines to true, too"
            )
        require("channels", channels, number(1, LARGEST, whole=True))
        require("brightness", brightness, number(0, len(HEART) * channels, whole=True))
        if brightness and not shapes:
            raise ValueError(
                f"brightness is {brightness}, and textures have it, which are drawn within shapes; "
                "set shapes, too, or brightness to 0"
            )
        if shapes + brightness > latent_size:
            raise ValueError(
                f"{shapes} shapes and {brightness} dimensions of brightness; expected at most "
                f"latent_size, {latent_size}"
            )
        require("output", output, one_of("sigmoid", "linear"))
        self.latent_size, self.image_size, self.channels = latent_size, image_size, channels
        self.output = output
        require("condition", [] if condition == "" else [condition], NAMES)
        require("categories", categories, NAMES)
        if categories and not condition:
            raise ValueError(f"categories are {categories}, but no condition says of what")
        self.condition, self.categories = condition, tuple(categories)
        self.guide = guide_network().eval().requires_grad_(False) if outlines else None
        self.shown = 1 + len(HEART) if outlines else 1
        self.shape_model = ShapeModel(latent_size, shapes, channels, image_size) if shapes else None
        self.halvings = int(math.log2(COARSE)) if shapes else 0
        self.drawn = channels * LAYERS if shapes else channels
        self.brightness_model = (
            BrightnessModel(latent_size, brightness, shapes, channels) if brightness else None
        )
        self.shapes, self.fixed = shapes, shapes + brightness
        self.classifier: ClassifierHead | None = None
        if classifier is not None:
            require("classifier", classifier, CLASSIFIER)
            require("classifier.classes", classifier.get("classes", ()), NAMES)
            whole = {"inputs": latent_size}
            self.classifier = ClassifierHead(**(whole | dict(classifier)))
            inputs = number(1, latent_size, whole=True)
            require("classifier.inputs", self.classifier.inputs, inputs)

    def _begin_untold(self, *layers: nn.Module) -> None:
        """Lets a new network ignore what it is told: its weights there are 0, and all others as
        large as if there was nothing to be told.

        Args:
            layers: Those that take the slice and the code.
        """
        count = len(self.categories)
        for layer in layers if count else ():
            weight = layer.get_parameter("weight").data
            own = weight[:, :-count]
            own *= math.sqrt(weight.shape[1] / own.shape[1])
            weight[:, -count:] = 0

    def _begin_shapes(self) -> None:
        """Lets the encoder of a new network with shapes add nothing yet."""
        if self.shape_model is None:
            return
        last, _ = self.code_layers
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.zeros_(last.get_parameter("bias"))
        nn.init.constant_(last.get_parameter("bias")[self.latent_size :], START)

    @property
    def code_layers(self) -> tuple[nn.Module, ...]:
        """The linear layer that makes the posterior, and the one that takes the code; none if the
        network has others there."""
        return ()

    def posterior_of(self, image: Tensor) -> Tensor:
        """Computes the mean and, behind it, the log of the variance, (N, 2 D)."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the posterior of each image.

        Args:
            image: Slices, (N, C, H, W).

        Returns:
            Mean and log of the variance, (N, D) each, in float32 also under autocast.

        Raises:
            ValueError: If the images are not of the size that the network was built for.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if image.ndim != 4 or image.shape[1:] != expected:  # would give several codes per image
            raise ValueError(
                f"image is {tuple(image.shape)}; expected (N, C, H, W) = (N, *{expected})"
            )
        shown = self._with_outlines(image)
        posterior = self.posterior_of(self._with_condition(shown))
        mu, logvar = at_least_float32(posterior).chunk(2, dim=1)
        if self.shape_model is not None:
            heart = shown.unflatten(1, (self.channels, -1))[:, :, 1:]
            parts = torch.cat([1 - heart.sum(dim=2, keepdim=True), heart], dim=2)
            labels = most_likely(parts, dim=2)[:, :, 0]
            read = self.shape_model.codes(labels)
            if self.brightness_model is not None:
                read = read + self.brightness_model.codes(image, labels, read)
            mu = read + F.pad(mu[:, : -self.fixed], (0, self.fixed))
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (N, D) into images (N, C, H, W), in float32 also under autocast."""
        image = at_least_float32(self.decoder(self._with_condition(z)))
        if self.shape_model is not None:  # the lattice of a bilinear one would be seen
            image = enlarged(image, self.shape_model.bicubic)
        if self.brightness_model is not None:
            image = image + self.brightness_model.logits(z)
        image = torch.sigmoid(image) if self.output == "sigmoid" else image
        return image if self.shape_model is None else self.shape_model.painted(z, image)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()
        return self

    def _with_outlines(self, image: Tensor) -> Tensor:
        """Puts outlines behind each channel of slices (N, C, H, W): of the masks that are shown, or
        as the guide sees them; no gradient passes through them."""
        if self.guide is None:
            return image
        each = image.flatten(0, 1)[:, None]
        if self.masks is None:
            heart = self.guide(each.detach()).softmax(dim=1)[:, 1:]
        else:
            heart = torch.stack([self.masks.flatten(0, 1) == part for part in HEART], dim=1)
        shown = torch.cat([each, heart.to(each)], dim=1)
        return shown.unflatten(0, (-1, self.channels)).flatten(1, 2)

    def _with_condition(self, values: Tensor) -> Tensor:
        """Puts what the network is told behind slices (N, C, H, W) or codes (N, D)."""
        count, places = len(self.categories), values.shape[2:]
        if not count:
            return values
        if self.told is None:
            return F.pad(values, (0, 0) * len(places) + (0, count))
        told = self.told.to(values)[(..., *(None for _ in places))]
        return torch.cat([values, told.expand(values.shape[0], count, *places)], dim=1)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encodes, samples, decodes.

        The caller passes the noise, so that the result never depends on train() or eval(): MONAI's
        VAE returned mu + sigma in eval mode for years.

        Args:
            image: Slices, (N, C, H, W).
            noise: Standard normal draws, (N, D). Without it, z is mu.

        Raises:
            ValueError: If image or noise have another shape.
        """
        mu, logvar = self.encode(image)
        z = mu if noise is None else reparameterise(mu, logvar, noise)
        return VAEOutput(self.decode(z), mu, logvar, z)


@contextmanager
def outlined(network: nn.Module, masks: Tensor | None) -> Iterator[None]:
    """Shows the encoder of a network these masks meanwhile, instead of what its guide sees.

    Training does so: the masks of deformed slices are known, and to look at every slice of a stack
    takes the guide longer than all the rest of a step.

    Args:
        network: The network; one that is shown no outlines is not changed.
        masks: Canonical labels of the slices that are encoded, (N, C, H, W); None changes nothing.

    Example:
        >>> from .beta_vae import BetaVAE
        >>> network, image = BetaVAE(4, 32, outlines=True), torch.zeros(1, 1, 32, 32)
        >>> with outlined(network, torch.ones(1, 1, 32, 32)):  # all LV
        ...     code, _ = network.encode(image)
        >>> torch.equal(network.encode(image)[0], code)
        False
    """
    shown = network if isinstance(network, VAE) and network.guide is not None else None
    if shown is not None:
        shown.masks = masks
    try:
        yield
    finally:
        if shown is not None:
            shown.masks = None


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Samples z = mu + exp(logvar / 2) * noise; everything is (N, D).

    Raises:
        ValueError: If the noise has another shape.

    Example:
        >>> mu, logvar = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]).log()
        >>> reparameterise(mu, logvar, noise=torch.ones(1, 2))  # standard deviations 1 and 2
        tensor([[2., 4.]])
    """
    if noise.shape != mu.shape:
        raise ValueError(f"noise is {tuple(noise.shape)}; expected (N, D) = {tuple(mu.shape)}")
    return mu + torch.exp(logvar / 2) * noise
