"""Made-up video and words, for figures that do not depend on what is seen and said."""

import torch

from swwatch.engine.source import Step

PROMPT_LEN = 30  # about that of the system text and a question


def most_square(tokens: int) -> tuple[int, int]:
    """(rows, columns) whose product is `tokens`."""
    rows = next(n for n in range(int(tokens**0.5), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


def prompt_of(model, seed: int) -> list[int]:
    """PROMPT_LEN random words, the last of them <|vision_start|>."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(20, min(200, model.config.text_config.vocab_size), (PROMPT_LEN - 1,), generator=generator)
    return [*words.tolist(), model.markup.vision_start]


def random_steps(vision_config, video_tokens: int, count: int, seed: int, device: str = "cpu") -> list[Step]:
    """Steps of so many merged tokens, on the device; a few pictures in turn, for pixels of hours would fill memory."""
    size, generator = most_square(video_tokens), torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(min(8, count)):
        pixels, grid = random_video(vision_config, 1, size, generator)
        steps.append(Step(pixels.to(device), grid, 0.0))
    return [steps[number % len(steps)] for number in range(count)]


def random_video(
    vision_config, seconds: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (patches, D) of so many steps of `size` rows and columns of merged tokens, and their grid (1, 3)."""
    merge = vision_config.spatial_merge_size
    grid = torch.tensor([[seconds, merge * size[0], merge * size[1]]])
    width = vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size**2
    return torch.randn(int(grid.prod()), width, generator=generator), grid
