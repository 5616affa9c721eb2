"""RAFT-small: dense optical flow by a recurrent network (Teed & Deng, ECCV 2020), inference only.

Written from the paper and the layout of the published weights. Maps are [B, C, h, w] at 1/8 of the
image; flow has channels (u, v) in px.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slam.camera import pixel_grid
from slam.networks.weights import load_weights

CELL = 8  # px of the image to one of the feature maps
LEVELS = 4  # of the correlation pyramid
RADIUS = 3  # of the window looked up in each, cells
HIDDEN, INPUT = 96, 64  # channels of the recurrent state and of the context it is fed
SMALLEST = CELL * 2 ** (LEVELS - 1)  # px: the coarsest level keeps one cell


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the network keeps of one image, to match it with any other."""

    features: Tensor  # [B, 128, h, w] float32, to be correlated
    context: Tensor  # [B, 160, h, w] float32: the first state and the input of the updates
    height: int  # px of the image, before padding
    width: int  # px


@dataclass(frozen=True, slots=True)
class DenseFlow:
    """Flow of one image to another."""

    low: Tensor  # [B, 2, h, w] float32, in cells: what `start` takes
    flow: Tensor  # [B, 2, H, W] float32 px


class Bottleneck(nn.Module):
    """Residual block: 1x1 to a quarter of the channels, 3x3 with the stride, 1x1 back."""

    def __init__(self, channels: int, planes: int, stride: int, *, normalised: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes // 4, 1)
        self.conv2 = nn.Conv2d(planes // 4, planes // 4, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(planes // 4, planes, 1)
        self.norm = _norm(normalised)
        self.downsample = nn.Sequential(nn.Conv2d(channels, planes, 1, stride), self.norm)
        if stride == 1:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] -> [B, planes, h / stride, w / stride]."""
        branch = x
        for layer in (self.conv1, self.conv2, self.conv3):
            branch = self.norm(layer(branch)).relu_()
        return (self.downsample(x) + branch).relu_()


class Encoder(nn.Module):
    """Image to a map at 1/8 of its size."""

    def __init__(self, channels: int, *, normalised: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.norm = _norm(normalised)
        self.layer1 = _stage(32, 32, 1, normalised)
        self.layer2 = _stage(32, 64, 2, normalised)
        self.layer3 = _stage(64, 96, 2, normalised)
        self.conv2 = nn.Conv2d(96, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, channels, H / 8, W / 8]."""
        x = self.norm(self.conv1(image)).relu_()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations and the flow they were looked up with to 82 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 96, 1)
        self.convf1 = nn.Conv2d(2, 64, 7, padding=3)
        self.convf2 = nn.Conv2d(64, 32, 3, padding=1)
        self.conv = nn.Conv2d(128, 80, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """[B, 2, h, w] and [B, 196, h, w] -> [B, 82, h, w]; the flow itself comes last."""
        motion = self.convf2(self.convf1(flow).relu_()).relu_()
        both = torch.cat([self.convc1(correlation).relu_(), motion], 1)
        return torch.cat([self.conv(both).relu_(), flow], 1)


class RecurrentUnit(nn.Module):
    """Convolutional gated recurrent unit."""

    def __init__(self) -> None:
        super().__init__()
        channels = HIDDEN + INPUT + 82
        self.convz = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.convr = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.convq = nn.Conv2d(channels, HIDDEN, 3, padding=1)

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """[B, 96, h, w] and [B, 146, h, w] -> the next state."""
        both = torch.cat([state, x], 1)
        update, reset = self.convz(both).sigmoid_(), self.convr(both).sigmoid_()
        proposal = self.convq(torch.cat([reset * state, x], 1)).tanh_()
        return torch.lerp(state, proposal, update)


class FlowHead(nn.Module):
    """The state to a step of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 128, 3, padding=1)
        self.conv2 = nn.Conv2d(128, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """[B, 96, h, w] -> [B, 2, h, w] cells."""
        return self.conv2(self.conv1(state).relu_())


class UpdateBlock(nn.Module):
    """One iteration: correlations at the flow to a better flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = RecurrentUnit()
        self.flow_head = FlowHead()

    def forward(
        self, state: Tensor, context: Tensor, correlation: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state and the step of the flow."""
        state = self.gru(state, torch.cat([context, self.encoder(flow, correlation)], 1))
        return state, self.flow_head(state)


class RaftSmall(nn.Module):
    """The whole network. Weights only fit the names used here."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(128, normalised=True)
        self.cnet = Encoder(HIDDEN + INPUT, normalised=False)
        self.update_block = UpdateBlock()

    def forward(
        self, image_1: Tensor, image_2: Tensor, iterations: int, start: Tensor | None = None
    ) -> DenseFlow:
        """Flow of image 1 to image 2.

        Args:
            image_1, image_2: [B, 3, H, W] RGB, 0..255, of one size.
            iterations: updates; 4 to 12 are usual.
            start: [B, 2, h, w] flow in cells to start from; None = zero.
        """
        return self.match(self.encode(image_1), self.encode(image_2), iterations, start)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Encoding:
        """Both encoders on an image [B, 3, H, W], padded by its border to whole cells."""
        height, width = image.shape[-2:]
        x = 2 / 255 * image.float() - 1
        x = F.pad(x, (0, _missing(width), 0, _missing(height)), mode="replicate")
        return Encoding(self.fnet(x), self.cnet(x), height, width)

    @torch.inference_mode()
    def match(
        self, first: Encoding, second: Encoding, iterations: int, start: Tensor | None = None
    ) -> DenseFlow:
        """Flow of the first image to the second (see `forward`)."""
        volume = correlate(first.features, second.features)
        low = self._iterate(first.context, volume, iterations, start)
        return DenseFlow(low, upsample(low, first.height, first.width))

    @torch.inference_mode()
    def match_both(
        self, first: Encoding, second: Encoding, iterations: int, start: Tensor | None = None
    ) -> DenseFlow:
        """Flow of the first image to the second and back, [2, ...]: one volume for both.

        Args: first, second: of single images. start: [2, 2, h, w] cells.
        """
        volume = correlate(first.features, second.features)
        back = volume.permute(0, 3, 4, 1, 2)
        context = torch.cat([first.context, second.context])
        low = self._iterate(context, torch.cat([volume, back]), iterations, start)
        return DenseFlow(low, upsample(low, first.height, first.width))

    def _iterate(
        self, context: Tensor, volume: Tensor, iterations: int, start: Tensor | None
    ) -> Tensor:
        state, given = context.split([HIDDEN, INPUT], 1)
        state, given = state.tanh(), given.relu()
        levels = pyramid(volume)
        flow = torch.zeros_like(context[:, :2]) if start is None else start
        origin = cell_coordinates(*flow.shape[-2:]).to(flow)
        for _ in range(iterations):
            found = look_up(levels, origin + flow)
            state, step = self.update_block(state, given, found, flow)
            flow = flow + step
        return flow


def correlate(first: Tensor, second: Tensor) -> Tensor:
    """All pairs of features [B, C, h, w] -> [B, h, w, h, w]: of the first image, of the second."""
    batch, channels, height, width = first.shape
    volume = first.flatten(2).mT @ second.flatten(2) / channels**0.5
    return volume.view(batch, height, width, height, width)


def pyramid(volume: Tensor) -> list[Tensor]:
    """The volume [B, h, w, h, w] with its last axes halved again and again: [B h w, h_l, w_l]."""
    levels = [volume.flatten(0, 2)]
    while len(levels) < LEVELS:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def look_up(levels: list[Tensor], position: Tensor) -> Tensor:
    """Correlations around `position` [B, 2, h, w] (cells) -> [B, 196, h, w], levels one by one.

    A window of 7 x 7 is listed column by column, interpolated; what lies outside is zero.
    """
    batch, _, height, width = position.shape
    steps = torch.arange(-RADIUS, RADIUS + 1).to(position)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    centre = position.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for n, level in enumerate(levels):
        size = position.new_tensor([level.shape[2], level.shape[1]])
        place = (2 * (centre / 2**n + window) + 1) / size - 1  # -1 and 1 are the outer edges
        found.append(F.grid_sample(level[:, None], place, align_corners=False).flatten(1))
    return torch.cat(found, 1).view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()


def upsample(low: Tensor, height: int, width: int) -> Tensor:
    """Flow in cells to flow in px of the image before padding."""
    full = F.interpolate(low, scale_factor=CELL, mode="bilinear", align_corners=True)
    return CELL * full[..., :height, :width]


def to_cells(flow: Tensor) -> Tensor:
    """Flow [B, 2, H, W] px -> [B, 2, h, w] cells, to start from."""
    height, width = flow.shape[-2:]
    padded = F.pad(flow, (0, _missing(width), 0, _missing(height)), mode="replicate")
    size = (padded.shape[-2] // CELL, padded.shape[-1] // CELL)
    return F.interpolate(padded, size, mode="bilinear", align_corners=True) / CELL


def cell_coordinates(height: int, width: int) -> Tensor:
    """[1, 2, h, w] float32: (x, y) of every cell."""
    return pixel_grid(height, width, dtype=torch.float32).permute(2, 0, 1)[None].contiguous()


def load_raft_small(path: str | Path) -> RaftSmall:
    """The network with its published weights, as `torch.save` wrote them (names `module.*`).

    Raises FileNotFoundError where there is no such file, ValueError where it holds other weights.
    """
    network = RaftSmall()
    load_weights(network, Path(path), prefix="module.", name="RAFT-small")
    return network.eval().requires_grad_(False)


def _norm(normalised: bool) -> nn.Module:
    """Each channel to mean 0 and variance 1 over the image; it has no weights."""
    return _InstanceNorm() if normalised else nn.Identity()


class _InstanceNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x)


def _stage(channels: int, planes: int, stride: int, normalised: bool) -> nn.Sequential:
    return nn.Sequential(
        Bottleneck(channels, planes, stride, normalised=normalised),
        Bottleneck(planes, planes, 1, normalised=normalised),
    )


def _missing(size: int) -> int:
    """Cells are whole and the coarsest level is not empty: px to add to `size`."""
    return max(SMALLEST, -(-size // CELL) * CELL) - size
