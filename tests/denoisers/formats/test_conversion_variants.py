"""Variants of guided-diffusion that no stored checkpoint covers, against a network written here.

The reference runs on the tensors under their original names, without any of our classes.
"""

import pytest
import torch
from torch.nn import functional as F

from diffguard.denoisers.adm_unet import ADMUNet2DModel
from diffguard.denoisers.formats import CheckpointOptions, convert_tensors
from diffguard.denoisers.formats.folder import load_folder
from diffguard.denoisers.formats.openai_names import OpenAILayout
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError

CLASSES = 5


class Maker:
    """Random tensors of a U-Net in guided-diffusion's layout."""

    def __init__(self, channels, width, attention, *, layers=1, residual=True, scale_shift=True):
        self.generator = torch.Generator().manual_seed(0)
        self.tensors, self.time = {}, 4 * width
        self.residual, self.scale_shift = residual, scale_shift
        self.linear("time_embed.0", width, self.time)
        self.linear("time_embed.2", self.time, self.time)
        self.add("label_emb.weight", CLASSES, self.time)
        self.linear("input_blocks.0.0", 3, channels[0], 3, 3)
        skips, entry, last = [channels[0]], 1, channels[0]
        for level, outputs in enumerate(channels):
            for _ in range(layers):
                self.block(f"input_blocks.{entry}", last, outputs, attention=attention[level])
                entry, last = entry + 1, outputs
                skips.append(last)
            if level < len(channels) - 1:
                self.resample(f"input_blocks.{entry}.0", last, "op")
                entry += 1
                skips.append(last)
        self.block("middle_block", last, last, attention=True)
        self.residual_block("middle_block.2", last, last)
        entry = 0
        for level, outputs in reversed(list(enumerate(channels))):
            for n in range(layers + 1):
                name = f"output_blocks.{entry}"
                self.block(name, last + skips.pop(), outputs, attention=attention[level])
                last = outputs
                if n == layers and level:
                    self.resample(f"{name}.{2 if attention[level] else 1}", last, "conv")
                entry += 1
        self.norm("out.0", last)
        self.linear("out.2", last, 6, 3, 3)

    def add(self, name, *shape, around=0.0):
        value = torch.randn(shape, generator=self.generator)
        self.tensors[name] = around + 0.2 * value

    def norm(self, name, channels):
        self.add(f"{name}.weight", channels, around=1.0)
        self.add(f"{name}.bias", channels)

    def linear(self, name, inputs, outputs, *kernel):
        self.add(f"{name}.weight", outputs, inputs, *kernel)
        self.add(f"{name}.bias", outputs)

    def residual_block(self, name, inputs, outputs):
        self.norm(f"{name}.in_layers.0", inputs)
        self.linear(f"{name}.in_layers.2", inputs, outputs, 3, 3)
        self.linear(f"{name}.emb_layers.1", self.time, outputs * (1 + self.scale_shift))
        self.norm(f"{name}.out_layers.0", outputs)
        self.linear(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            self.linear(f"{name}.skip_connection", inputs, outputs, 1, 1)

    def resample(self, name, channels, conv):
        if self.residual:
            self.residual_block(name, channels, channels)
        else:
            self.linear(f"{name}.{conv}", channels, channels, 3, 3)

    def block(self, name, inputs, outputs, *, attention):
        self.residual_block(f"{name}.0", inputs, outputs)
        if attention:
            self.norm(f"{name}.1.norm", outputs)
            self.linear(f"{name}.1.qkv", outputs, 3 * outputs, 1)
            self.linear(f"{name}.1.proj_out", outputs, outputs, 1)


class ReferenceUNet:
    """The forward pass of guided-diffusion, written from the names of the tensors."""

    def __init__(self, tensors, heads_of, *, new_order=False):
        self.tensors, self.heads_of, self.new_order = tensors, heads_of, new_order
        self.count = len({n.split(".")[1] for n in tensors if n.startswith("input_blocks.")})
        self.downs = {
            f"input_blocks.{n + 1}"
            for n in range(self.count)
            if {f"output_blocks.{n}.{k}.in_layers.0.weight" for k in (1, 2)} & set(tensors)
        }

    def __call__(self, x, t, y):
        emb = self.embedding(t, y, x.dtype)
        h = F.conv2d(x, *self.get("input_blocks.0.0"), padding=1)
        skips = [h]
        for n in range(1, self.count):
            h = self.entry(h, f"input_blocks.{n}", lambda v: F.avg_pool2d(v, 2), emb)
            skips.append(h)
        h = self.residual_block(h, "middle_block.0", lambda v: v, emb)
        h = self.attention(h, "middle_block.1")
        h = self.residual_block(h, "middle_block.2", lambda v: v, emb)
        for n in range(self.count):
            h = torch.cat([h, skips.pop()], dim=1)
            h = self.entry(
                h, f"output_blocks.{n}", lambda v: F.interpolate(v, scale_factor=2.0), emb
            )
        return F.conv2d(F.silu(self.norm(h, "out.0")), *self.get("out.2"), padding=1)

    def embedding(self, t, y, dtype):
        half = self.tensors["time_embed.0.weight"].shape[1] // 2
        angles = t[:, None] * torch.exp(-torch.arange(half) / half * torch.tensor(10000.0).log())
        emb = torch.cat([angles.cos(), angles.sin()], 1).to(dtype)
        emb = F.linear(emb, *self.get("time_embed.0"))
        emb = F.linear(F.silu(emb), *self.get("time_embed.2"))
        return emb + self.tensors["label_emb.weight"][y]

    def get(self, name):
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def norm(self, h, name):
        return F.group_norm(h, 32, *self.get(name), eps=1e-5)

    def residual_block(self, h, name, change, emb):
        hidden = change(F.silu(self.norm(h, f"{name}.in_layers.0")))
        hidden = F.conv2d(hidden, *self.get(f"{name}.in_layers.2"), padding=1)
        e = F.linear(F.silu(emb), *self.get(f"{name}.emb_layers.1"))[:, :, None, None]
        if e.shape[1] == hidden.shape[1]:
            hidden = self.norm(hidden + e, f"{name}.out_layers.0")
        else:
            scale, shift = e.chunk(2, dim=1)
            hidden = self.norm(hidden, f"{name}.out_layers.0") * (1 + scale) + shift
        hidden = F.conv2d(F.silu(hidden), *self.get(f"{name}.out_layers.3"), padding=1)
        h = change(h)
        if f"{name}.skip_connection.weight" in self.tensors:
            h = F.conv2d(h, *self.get(f"{name}.skip_connection"))
        return h + hidden

    def attention(self, h, name):
        n, c, height, width = h.shape
        heads = self.heads_of(c)
        qkv = F.conv1d(self.norm(h, f"{name}.norm").flatten(2), *self.get(f"{name}.qkv"))
        if self.new_order:
            q, k, v = (p.reshape(n * heads, c // heads, -1) for p in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(n * heads, 3 * c // heads, -1).chunk(3, dim=1)
        weight = (torch.einsum("bct,bcs->bts", q, k) / (c // heads) ** 0.5).softmax(-1)
        out = torch.einsum("bts,bcs->bct", weight, v).reshape(n, c, -1)
        return h + F.conv1d(out, *self.get(f"{name}.proj_out")).reshape(n, c, height, width)

    def entry(self, h, name, change, emb):
        """The layers of one entry in order; a second residual block resamples."""
        for n in range(3):
            layer = f"{name}.{n}"
            if f"{layer}.in_layers.0.weight" in self.tensors:
                resampling = change if n or name in self.downs else lambda v: v
                h = self.residual_block(h, layer, resampling, emb)
            elif f"{layer}.qkv.weight" in self.tensors:
                h = self.attention(h, layer)
            elif f"{layer}.op.weight" in self.tensors:
                h = F.conv2d(h, *self.get(f"{layer}.op"), stride=2, padding=1)
            elif f"{layer}.conv.weight" in self.tensors:
                h = F.conv2d(change(h), *self.get(f"{layer}.conv"), padding=1)
        return h


VARIANTS = {
    "256": (
        {"channels": (32, 64), "width": 32, "attention": (False, True)},
        {"num_head_channels": 16},
    ),
    "two blocks": (
        {"channels": (32, 32, 64), "width": 32, "attention": (False, True, True), "layers": 2},
        {"num_head_channels": 16},
    ),
    "64, new order": (
        {"channels": (32, 64), "width": 32, "attention": (True, True)},
        {"num_head_channels": 16, "new_attention_order": True},
    ),
    "128, fixed heads": (
        {"channels": (32, 64), "width": 32, "attention": (True, True)},
        {"num_heads": 4},
    ),
    "512, wide embedding": (
        {"channels": (32, 64), "width": 64, "attention": (False, True)},
        {"num_head_channels": 16},
    ),
    "plain resampling": (
        {"channels": (32, 64), "width": 32, "attention": (False, True), "residual": False},
        {"num_heads": 1},
    ),
    "added embedding": (
        {"channels": (32, 32), "width": 32, "attention": (False, True), "scale_shift": False},
        {"num_heads": 2},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_variants_agree_with_the_reference(name, tmp_path):
    shape, heads = VARIANTS[name]
    tensors = Maker(**shape).tensors
    converted = convert_tensors(tensors, CheckpointOptions(image_size=16, **heads))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    t, y = torch.tensor([3, 700]), torch.tensor([1, 4])
    fixed = heads.get("num_heads")
    reference = ReferenceUNet(
        {n: v.double() for n, v in tensors.items()},
        lambda channels: fixed or channels // heads["num_head_channels"],
        new_order=heads.get("new_attention_order", False),
    )
    expected = reference(x.double(), t, y)
    result = converted.network.double()(x.double(), t, class_labels=y).sample
    # The sinusoidal embedding is float32 in both.
    assert (result - expected).abs().max() < 1e-4 * expected.abs().max()
    converted.network.float()
    save_folder(converted, tmp_path / "model")
    again = load_folder(tmp_path / "model", CheckpointOptions())
    assert type(again.network) is type(converted.network)
    same = again.network(x, t, class_labels=y).sample
    assert torch.equal(same, converted.network(x, t, class_labels=y).sample)


def test_own_network_is_used_only_if_diffusers_has_none():
    for name, (shape, heads) in VARIANTS.items():
        converted = convert_tensors(
            Maker(**shape).tensors, CheckpointOptions(image_size=16, **heads)
        )
        ours = isinstance(converted.network, ADMUNet2DModel)
        assert ours == (name in ("128, fixed heads", "512, wide embedding")), name


def test_layout_is_read_from_names_and_shapes():
    shape, _ = VARIANTS["two blocks"]
    layout = OpenAILayout.read(Maker(**shape).tensors)
    assert layout.channels == (32, 32, 64)
    assert layout.attention == (False, True, True)
    assert (layout.layers, layout.classes) == (2, CLASSES)


def test_cosine_schedule_survives_conversion():
    shape, heads = VARIANTS["256"]
    options = CheckpointOptions(image_size=16, noise_schedule="cosine", **heads)
    scheduler = convert_tensors(Maker(**shape).tensors, options).scheduler
    result = schedule_from_config(scheduler).alphas_cumprod
    assert torch.equal(result, NoiseSchedule.cosine().alphas_cumprod)
    options = CheckpointOptions(image_size=16, noise_schedule="sigmoid", **heads)
    with pytest.raises(UserError, match="noise_schedule 'sigmoid' is not known"):
        convert_tensors(Maker(**shape).tensors, options)
