"""Pictures from strangers: sized before they are decoded, damaged ones told, nothing else raised."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from swwatch.client.codes import ProtocolError
from swwatch.errors import UserError
from swwatch.serve.limits import TokenBucket, decode
from swwatch.serve.settings import Limits
from tests.helpers.hostile_clients import exif


def picture(form: str, height: int = 40, width: int = 60, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def refusal(data: bytes, max_pixels: int = 10_000) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode(data, max_pixels)
    assert not caught.value.fatal
    return caught.value.code


@pytest.mark.parametrize("form, options", [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {})])
def test_the_three_forms_become_rgb(form, options):
    pixels = decode(picture(form, **options), 10_000)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_other_colour_modes_become_rgb(mode):
    out = io.BytesIO()
    Image.new(mode, (30, 20)).save(out, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(out.getvalue(), 10_000).shape == (20, 30, 3)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_forms_are_refused(form):
    assert refusal(picture(form)) == "bad_frame"


@pytest.mark.parametrize("form, options", [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {})])
def test_a_picture_with_too_many_pixels_is_refused_by_its_header(form, options):
    data = picture(form, 101, 100, **options)
    assert refusal(data) == "too_many_pixels"
    assert decode(data, 10_100).shape == (101, 100, 3)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    """A PNG of 900 Mpixel in a few hundred bytes, a WebP animation with the largest canvas."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    assert refusal(png) == "too_many_pixels"
    canvas = b"\x02\0\0\0" + (16_382).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + bytes(10)
    webp = b"RIFF" + struct.pack("<I", len(webp)) + webp
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow saw it"))
    assert refusal(webp) == "too_many_pixels"


def test_a_picture_whose_parts_cost_more_than_its_pixels_is_refused_before_pillow_sees_it(monkeypatch):
    """Each of these two megabytes kept Pillow at work for one to sixty seconds."""
    whole = picture("JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    png, chunk = picture("PNG"), bytes(4) + b"abCd" + zlib.crc32(b"abCd").to_bytes(4)
    inflating = zlib.compress(bytes(1_000_000))
    inflating = b"iCCP" + b"x\0\0" + inflating
    inflating = (len(inflating) - 4).to_bytes(4) + inflating + zlib.crc32(inflating).to_bytes(4)
    empty = bytes(4) + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4)
    hostile = [
        whole[:-2] + 99_177 * last + whole[-2:],
        whole[:2] + 400_000 * b"\xff\xfe\0\2" + whole[2:],
        whole[:2] + 1_900_000 * b"\xff" + whole[2:],
        png[:33] + 150_000 * chunk + png[33:],
        png[:33] + 1500 * inflating + png[33:],
        png[:33] + 150_000 * empty + png[33:],
    ]
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was given it"))
    for data in hostile:
        assert refusal(data) == "bad_frame"


def test_pictures_with_the_usual_parts_are_taken():
    options = {"icc_profile": bytes(200_000), "comment": "x", "exif": b"Exif\0\0" + bytes(1000), "progressive": True}
    assert decode(picture("JPEG", **options), 10_000).shape == (40, 60, 3)
    assert decode(picture("PNG", icc_profile=bytes(200_000)), 10_000).shape == (40, 60, 3)


@settings(max_examples=150)
@given(st.data())
def test_damage_is_told_and_nothing_else_happens(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    whole = bytearray(picture(form))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        assert decode(bytes(whole[:cut]), 10_000).ndim == 3
    except ProtocolError as error:
        assert error.code in ("bad_frame", "too_many_pixels")


def test_the_rate_limit_allows_bursts_of_a_second_and_no_more():
    now = [0.0]
    bucket = TokenBucket(5, lambda: now[0])
    assert sum(bucket.take() for _ in range(20)) == 5
    now[0] += 0.4
    assert sum(bucket.take() for _ in range(20)) == 2
    now[0] += 100
    assert sum(bucket.take() for _ in range(20)) == 5


def test_limits_must_be_above_zero():
    with pytest.raises(UserError, match="--max-pixels"):
        Limits(max_pixels=0)
    assert Limits(grace_s=0).grace_s == 0


def with_exif(form: str, data: bytes) -> bytes:
    """A picture with it, in as many parts as it takes."""
    whole = picture(form)
    if form == "JPEG":
        parts = [b"Exif\0\0" + data[at : at + 65_000] for at in range(0, len(data), 65_000)]
        return whole[:2] + b"".join(b"\xff\xe1" + (len(part) + 2).to_bytes(2) + part for part in parts) + whole[2:]
    out = io.BytesIO()
    Image.open(io.BytesIO(whole)).save(out, form, exif=b"Exif\0\0" + data)
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_with_more_exif_than_a_camera_writes_is_refused_before_pillow_reads_it(form, monkeypatch):
    assert decode(with_exif(form, exif(60_000)), 10_000).shape == (40, 60, 3)
    hostile = with_exif(form, exif(700_000))
    monkeypatch.setattr(Image.Exif, "load", lambda *_: pytest.fail("Pillow read it"))
    assert refusal(hostile) == "bad_frame"
