"""Still pictures as a viewer shows them."""

import io

import numpy as np
import pytest
from PIL import Image

from swwatch.data.stills import rgb_of
from swwatch.data.turns.dataset import _image
from swwatch.data.video import VideoError


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1:3, 1:3] = 200, 200, 200, 255
    shown = rgb_of(stored(Image.fromarray(pixels, "RGBA").convert(mode)))
    assert shown.shape == (4, 4, 3) and (shown[0, 0] == 255).all() and np.abs(shown[1, 1].astype(int) - 200).max() < 3


def test_half_transparent_is_half_white():
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert rgb_of(stored(image)).tolist() == [[[255, 127, 127]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    turned = rgb_of(stored(Image.fromarray(picture), exif=exif))
    wanted = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: picture.transpose(1, 0, 2)[:, ::-1],
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: picture.transpose(1, 0, 2)[::-1],
    }
    assert np.array_equal(turned, wanted[orientation])


def test_sixteen_bits_are_scaled():
    ramp = np.arange(65536).reshape(256, 256).astype(np.uint16)
    shown = rgb_of(stored(Image.fromarray(ramp)))
    assert np.array_equal(shown, (ramp >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_a_picture_of_a_chat_sample_is_read_so_and_a_bad_one_is_told(tmp_path):
    Image.new("RGBA", (6, 4)).save(tmp_path / "a.png")
    assert (_image(tmp_path / "a.png") == np.full((2, 4, 6, 3), 255)).all()
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(VideoError, match="no picture that can be read"):
        _image(tmp_path / "b.png")
    Image.new("F", (6, 4)).save(tmp_path / "c.tiff")
    with pytest.raises(VideoError, match="floating-point"):
        _image(tmp_path / "c.tiff")
