"""The vision tower runs another way than upstream's, to the same end."""

import torch
from torch import nn

from swwatch.model.vision_attention import LinearPatchEmbed


def test_patches_are_embedded_as_by_the_convolution_and_learn_the_same(load_tiny):
    ours = load_tiny("group").model.model.visual.patch_embed.proj
    assert type(ours) is LinearPatchEmbed
    theirs = nn.Conv3d(3, ours.out_channels, ours.kernel_size, stride=ours.stride, bias=False)
    theirs.load_state_dict(ours.state_dict())
    patches, found = torch.randn(5, 3, 2, 14, 14, generator=torch.Generator().manual_seed(0)), []
    for module in (ours, theirs):
        weight = module.weight.detach().clone().requires_grad_()
        output = torch.func.functional_call(module, {"weight": weight}, (patches,))
        found.append((output.detach(), *torch.autograd.grad(output.square().sum(), weight)))
    for mine, reference in zip(*found, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5 * scale)
