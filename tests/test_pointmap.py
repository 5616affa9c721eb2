"""The two-view pointmap network: the published architectures' own outputs, and its parts."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slam.frame import PointmapView
from slam.networks.heads import Fusion, double, to_map, to_points
from slam.networks.pointmap import PointmapNetwork
from slam.networks.pointmap_sizes import PointmapSizes, TransformerSizes, read_heads
from tests.pointmap_networks import DUST3R, SIZES, random_images, random_network
from tests.pointmap_reference import Reference

pytestmark = pytest.mark.usefixtures("one_thread")

# --- the published architectures -----------------------------------------------------------------

CASES = [
    ("mast3r_tiny", (64, 96)),
    ("mast3r_tiny", (96, 64)),
    ("mast3r_tiny", (48, 48)),
    ("dust3r_dpt_tiny", (64, 96)),
    ("dust3r_linear_tiny", (64, 96)),
]
FIELDS = {
    "pts3d": "X",
    "conf": "confidence",
    "desc": "descriptor",
    "desc_conf": "descriptor_confidence",
}


@pytest.fixture(scope="module")
def golden(slam_data: Path) -> Path:
    folder = slam_data.parent / "golden"
    if not (folder / "mast3r_tiny.npz").is_file():
        pytest.skip(f"no golden outputs of the pointmap networks in {folder}")
    return folder


@pytest.fixture(scope="module")
def recipe(golden: Path) -> Any:
    """The script that made the weights and images of the goldens."""
    spec = importlib.util.spec_from_file_location("golden_fill", golden / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden_network(golden: Path, recipe: Any) -> Callable[[str], PointmapNetwork]:
    made: dict[str, PointmapNetwork] = {}

    def get(name: str) -> PointmapNetwork:
        if name not in made:
            spec = json.loads((golden / f"{name}.json").read_text())
            shapes = {k: s for k, s in spec["params"].items() if not re.search(r"layer\d_rn", k)}
            tensors = {k: torch.from_numpy(recipe.fill(k, s)) for k, s in shapes.items()}
            heads = (spec["dims"]["enc_num_heads"], spec["dims"]["dec_num_heads"])
            made[name] = PointmapNetwork.from_state_dict(tensors, heads)
        return made[name]

    return get


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_golden_outputs_are_those_of_the_published_architecture(
    golden: Path,
    recipe: Any,
    golden_network: Callable[[str], PointmapNetwork],
    name: str,
    size: tuple[int, int],
) -> None:
    """`python -m pytest tests/test_pointmap.py -k golden -rP` prints the errors."""
    network, label = golden_network(name), f"{size[0]}x{size[1]}"
    images = [torch.from_numpy(recipe.image(f"{name}/{label}/{i}", *size))[None] for i in (1, 2)]
    tokens = [network.encode(image) for image in images]
    views = network.decode(tokens[0], tokens[1], size)
    with np.load(golden / f"{name}.npz") as file:
        wanted = {k: torch.from_numpy(file[k]) for k in file.files if k.startswith(f"{label}/")}
    errors, largest = {}, {}  # in norm; of an element, over the root of the mean square
    for key, value in wanted.items():
        kind, view = key.split("/")[1][:-1], int(key[-1]) - 1
        got = tokens[view] if kind == "feat" else getattr(views[view], FIELDS[kind])
        assert got[0].shape == value.shape, key
        errors[key] = float((got[0] - value).norm() / value.norm())
        largest[key] = float((got[0] - value).abs().max() / value.square().mean().sqrt())
        print(f"{name} {key}: relative error {errors[key]:.1e}, largest {largest[key]:.1e}")
    print(f"{name} {label}: at most {max(errors.values()):.1e}, {max(largest.values()):.1e}")
    assert max(errors.values()) < 1e-5
    assert len(wanted) == (10 if network.sizes.descriptors else 6)


# --- a network of its own ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> PointmapNetwork:
    return random_network()


def largest_difference(a: PointmapView, b: PointmapView) -> float:
    """Relative to the norm of each output, over all of them."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in FIELDS.values()]
    return max(float((p - q).norm() / q.norm()) for p, q in pairs if q is not None)


@pytest.mark.parametrize(
    "sizes",
    [SIZES, replace(SIZES, head="dpt"), replace(DUST3R, patch=8)],
    ids=["linear", "dpt", "patch 8"],
)
@pytest.mark.parametrize("size", [(48, 80), (80, 32)], ids=str)
def test_outputs_are_those_of_a_float64_reference(
    sizes: PointmapSizes, size: tuple[int, int]
) -> None:
    network, images = random_network(sizes), random_images(2, *size)
    reference = Reference(network.state_dict(), sizes)
    tokens, wanted = network.encode(images), [reference.encode(image) for image in images]
    for got, value in zip(tokens, wanted, strict=True):
        assert float((got - value).norm() / value.norm()) < 1e-5
    views = network.decode(tokens[:1], tokens[1:], size)
    for view, values in zip(views, reference.decode(*wanted, size), strict=True):
        assert len(values) == (4 if sizes.descriptors else 2)
        for name, value in values.items():
            assert float((getattr(view, name)[0] - value).norm() / value.norm()) < 1e-5, name


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (16, 16), (112, 16)])
@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_every_size_gives_every_pixel_its_values(head: str, size: tuple[int, int]) -> None:
    network = random_network(replace(SIZES, head=head))
    tokens = network.encode(random_images(2, *size))
    assert tokens.shape == (2, size[0] * size[1] // 256, 32)
    for view in network.decode(tokens, tokens.flip(0), size):
        assert view.X.shape == (2, *size, 3) and view.X.isfinite().all()
        assert view.confidence.shape == (2, *size) and float(view.confidence.min()) > 1
        assert view.descriptor is not None and view.descriptor_confidence is not None
        assert view.descriptor.shape == (2, *size, 24)
        assert (view.descriptor.norm(dim=-1) - 1).abs().max() < 1e-5
        assert view.descriptor_confidence.shape == (2, *size)
        assert float(view.descriptor_confidence.min()) > 0
        assert all(getattr(view, name).is_contiguous() for name in FIELDS.values())


def test_dust3r_has_no_descriptors() -> None:
    network = random_network(DUST3R)
    tokens = network.encode(random_images(1, 32, 32))
    for view in network.decode(tokens, tokens, (32, 32)):
        assert view.descriptor is None and view.descriptor_confidence is None


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_a_batch_of_edges_equals_one_by_one_in_both_directions(head: str) -> None:
    """Edges (0, 1), (1, 0) and (2, 0) at once; the two directions are not the same."""
    network, size = random_network(replace(SIZES, head=head)), (32, 48)
    tokens = network.encode(random_images(3, *size))
    for image, kept in zip(random_images(3, *size), tokens, strict=True):
        assert (network.encode(image[None])[0] - kept).abs().max() < 1e-5
    first, second = [0, 1, 2], [1, 0, 0]
    batch = network.decode(tokens[first], tokens[second], size)
    for n, (i, j) in enumerate(zip(first, second, strict=True)):
        alone = network.decode(tokens[i][None], tokens[j][None], size)
        for together, single in zip(batch, alone, strict=True):
            assert largest_difference(edge(together, n), single) < 1e-5
    assert largest_difference(edge(batch[0], 0), edge(batch[1], 1)) > 1e-2


def edge(view: PointmapView, n: int) -> PointmapView:
    fields = (getattr(view, name) for name in FIELDS.values())
    return PointmapView(*(x if x is None else x[n : n + 1] for x in fields))


def test_both_views_depend_on_both_images(network: PointmapNetwork) -> None:
    tokens = network.encode(random_images(3, 32, 32))
    a, b, c = (tokens[n : n + 1] for n in range(3))
    before, other_second = network.decode(a, b, (32, 32)), network.decode(a, c, (32, 32))
    other_first = network.decode(c, b, (32, 32))
    for n in (0, 1):
        assert largest_difference(before[n], other_second[n]) > 1e-3
        assert largest_difference(before[n], other_first[n]) > 1e-3


def test_each_layer_reads_what_the_other_view_was_before_it(network: PointmapNetwork) -> None:
    """Equal views and equal decoders stay equal; one that ran ahead would not be."""
    tensors = dict(network.state_dict())
    for name in list(tensors):
        for first, second in (("dec_blocks.", "dec_blocks2."), ("_head1.", "_head2.")):
            if first in name:
                tensors[name.replace(first, second)] = tensors[name]
    twin = PointmapNetwork.from_state_dict(tensors, (2, 3))
    tokens = network.encode(random_images(1, 32, 48))
    one, two = twin.decode(tokens, tokens, (32, 48))
    assert largest_difference(one, two) == 0


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_half_precision_is_close_and_leaves_the_heads(head: str) -> None:
    sizes, size = replace(SIZES, head=head), (32, 48)
    exact, half = random_network(sizes), random_network(sizes).place("cpu", half=True)
    images = random_images(2, *size)
    tokens, halved = exact.encode(images), half.encode(images)
    assert halved.dtype == torch.float32
    assert 1e-6 < float((halved - tokens).norm() / tokens.norm()) < 2e-3
    views = exact.decode(tokens[:1], tokens[1:], size)
    for view, other in zip(views, half.decode(halved[:1], halved[1:], size), strict=True):
        assert other.X.dtype == torch.float32
        assert largest_difference(other, view) < 1e-2
    types = {name: value.dtype for name, value in half.state_dict().items()}
    for name, dtype in types.items():
        layer = "norm" not in name and "head" not in name
        assert dtype == (torch.float16 if layer else torch.float32), name
    assert all(value.dtype == torch.float32 for value in exact.place("cpu").parameters())


@pytest.mark.slow
def test_compiled_parts_give_the_same() -> None:
    """Traced in whole, without a code generator, which not every machine has."""
    plain, traced = random_network(), random_network().compile_parts("eager")
    images = random_images(2, 32, 48)
    tokens = traced.encode(images)
    assert torch.allclose(tokens, plain.encode(images), atol=1e-6)
    views = plain.decode(tokens[:1], tokens[1:], (32, 48))
    for view, other in zip(views, traced.decode(tokens[:1], tokens[1:], (32, 48)), strict=True):
        assert largest_difference(other, view) < 1e-5


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32, 32), r"wanted \[B, 3, H, W\], got \[3, 32, 32\]"),
        ((1, 1, 32, 32), r"wanted \[B, 3, H, W\]"),
        ((1, 3, 32, 40), "whole patches of 16 x 16 px, got 32 x 40 px"),
        ((1, 3, 0, 32), "whole patches"),
    ],
)
def test_an_image_of_another_shape_is_refused(
    network: PointmapNetwork, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network.encode(torch.zeros(shape))


def test_tokens_of_another_size_are_refused(network: PointmapNetwork) -> None:
    tokens = torch.zeros(2, 6, 32)
    for one, two, size in (
        (tokens, tokens, (32, 32)),
        (tokens, tokens[:1], (32, 48)),
        (tokens[..., :16], tokens, (32, 48)),
        (tokens, tokens[:, :4], (32, 48)),
    ):
        with pytest.raises(ValueError, match=r"tokens_[12]: wanted \[2, "):
            network.decode(one, two, size)


# --- its parts -----------------------------------------------------------------------------------


def test_a_point_keeps_its_direction_and_its_length_grows_exponentially() -> None:
    v = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -1e-4], [0.0, 0.0, 0.0]])
    points = to_points(v)
    assert points[0].tolist() == pytest.approx([0.6 * math.expm1(5), 0.8 * math.expm1(5), 0], 1e-6)
    assert float(points[1, 2]) == pytest.approx(math.expm1(1e-4) * -1, rel=1e-5)
    assert points[2].tolist() == [0, 0, 0]


def test_tokens_become_a_map_row_by_row_and_a_token_its_patch(network: PointmapNetwork) -> None:
    tokens = torch.arange(6.0)[None, :, None]
    assert to_map(tokens, 2)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    values = torch.arange(6 * 512.0).view(1, 6, 512)  # two channels of 16 x 16 px
    pixels = network.downstream_head1._to_pixels(values, (32, 48))
    assert pixels.shape == (1, 2, 32, 48)
    assert float(pixels[0, 1, 16 + 3, 32 + 5]) == 512 * 5 + 256 + 16 * 3 + 5


def test_a_fusion_in_the_cheaper_order_is_the_published_one() -> None:
    torch.manual_seed(2)
    layer = Fusion(skips=True)
    path, skip = torch.rand(2, 1, 256, 3, 4)
    residual = layer.resConfUnit2(path + layer.resConfUnit1(skip))
    assert torch.allclose(layer(path, skip), layer.out_conv(double(residual)), atol=1e-5)


# --- sizes ---------------------------------------------------------------------------------------


def test_sizes_are_read_from_the_tensors() -> None:
    for sizes in (SIZES, DUST3R, replace(SIZES, head="dpt"), replace(SIZES, patch=8)):
        assert random_network(sizes).sizes == sizes
    wide = replace(SIZES, encoder=TransformerSizes(128, 1, 2), decoder=TransformerSizes(64, 1, 1))
    assert PointmapNetwork.from_state_dict(PointmapNetwork(wide).state_dict()).sizes == wide
    assert (SIZES.family, DUST3R.family) == ("MASt3R", "DUSt3R")
    assert replace(SIZES, head="dpt", decoder=TransformerSizes(24, 12, 3)).hooks == (0, 6, 9, 12)


def test_heads_of_attention_are_said_or_of_64_channels(network: PointmapNetwork) -> None:
    with pytest.raises(ValueError, match="heads of 64 channels, got 32"):
        PointmapNetwork.from_state_dict(network.state_dict())
    with pytest.raises(ValueError, match="split 32 channels in fours, got 3"):
        PointmapNetwork.from_state_dict(network.state_dict(), (3, 3))
    call = "AsymmetricMASt3R(pos_embed='RoPE100', depth_mode=('exp', -inf, inf), "
    assert read_heads(call + "enc_num_heads=16, dec_num_heads=12)") == (16, 12)
    assert read_heads(call + "enc_embed_dim=1024)") is None
    assert read_heads("Network(enc_num_heads=f(), dec_num_heads=2)") is None  # nothing is run
    with pytest.raises(ValueError, match="got 'cosine' and "):
        read_heads("CroCoNet(pos_embed='cosine')")
    with pytest.raises(ValueError, match="wanted a constructor call"):
        read_heads("not a call")


def test_a_second_decoder_that_is_missing_is_the_first(network: PointmapNetwork) -> None:
    state = network.state_dict()
    shared = {name: value for name, value in state.items() if not name.startswith("dec_blocks2.")}
    twin = PointmapNetwork.from_state_dict(shared, (2, 3))
    for name, value in twin.dec_blocks2.state_dict().items():
        assert torch.equal(value, state[f"dec_blocks.{name}"])


def test_names_of_published_files_that_nobody_reads_are_known() -> None:
    network = random_network(replace(DUST3R, head="dpt"))
    state = dict(network.state_dict())
    for head in (1, 2):
        scratch = f"downstream_head{head}.dpt.scratch"
        for level in range(4):
            value = state.pop(f"{scratch}.layer_rn.{level}.weight")
            state[f"{scratch}.layer{level + 1}_rn.weight"] = value
        state[f"{scratch}.refinenet4.resConfUnit1.conv1.weight"] = torch.zeros(1)
    state["mask_token"] = torch.zeros(1, 1, 24)
    twin = PointmapNetwork.from_state_dict(state, (2, 3))
    for name, value in network.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value)


def test_tensors_that_do_not_fit_are_named(network: PointmapNetwork) -> None:
    state = dict(network.state_dict())
    state["enc_blocks.1.attn.proj.bias"] = torch.zeros(3)
    state["pose_head.weight"] = state.pop("dec_norm.bias")
    with pytest.raises(ValueError) as caught:
        PointmapNetwork.from_state_dict(state, (2, 3), source="a.pth")
    message = str(caught.value)
    assert message.startswith("a.pth: wanted the ") and "\n" not in message
    assert "1 missing (dec_norm.bias)" in message
    assert "1 unknown (pose_head.weight)" in message
    assert "1 of another shape (enc_blocks.1.attn.proj.bias)" in message
    blind = {name: value for name, value in network.state_dict().items() if "enc_bl" not in name}
    with pytest.raises(ValueError, match=r"got no tensors enc_blocks\.\*"):
        PointmapNetwork.from_state_dict(blind, (2, 3))
    with pytest.raises(ValueError, match=r"a two-view pointmap network .* got 1 tensors, the fi"):
        PointmapNetwork.from_state_dict({"fc.weight": torch.zeros(2, 2)})


def test_a_network_is_for_inference(network: PointmapNetwork) -> None:
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert isinstance(network, nn.Module)
