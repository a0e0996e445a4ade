import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pysr import pictures
from pysr.pictures import Picture, PictureError

RNG = np.random.default_rng(0)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = ICC[:16] + b"GRAY" + ICC[20:]


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def png(width, height, depth, colour, rows, **chunks) -> bytes:
    """A PNG file; `rows` are its bytes, each behind the filter's, `chunks` come before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts.items():
        kind = name.encode()
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 1, 3), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_every_pixel(tmp_path, dtype, shape):
    pixels = noise(*shape, dtype=dtype)
    pictures.write(tmp_path / "a.png", Picture(pixels))
    again = pictures.read(tmp_path / "a.png").pixels
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, pixels)


def test_sixteen_bit_colour_is_read_in_rgb_order_from_a_file_made_elsewhere(tmp_path):
    pixels = noise(4, 6, 3, dtype=np.uint16)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels[..., ::-1])
        np.testing.assert_array_equal(pictures.read(tmp_path / f"a{suffix}").pixels, pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tiff_comes_upright(tmp_path, mode, orientation):
    pixels = noise(6, 9, 3)
    image = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.array(image).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.tif", exif=exif)
    given = np.array(image.convert("RGB") if mode in ("RGB", "P") else image)
    turned = np.rot90(given, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.tif").pixels, turned)


@pytest.mark.parametrize("colours", [1, 3])
def test_sixteen_bits_stay_where_one_colour_is_transparent(tmp_path, colours):
    levels = (np.arange(60).reshape(4, 5, 3)[..., :colours] * 1000).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    content = png(5, 4, 16, 0 if colours == 1 else 2, rows, tRNS=levels[1, 2].tobytes())
    (tmp_path / "a.png").write_bytes(content)
    pixels = pictures.read(tmp_path / "a.png").pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., :3], np.broadcast_to(levels, (4, 5, 3)))
    assert pixels[1, 2, 3] == 0 and (pixels[..., 3] == 65535).sum() == 19


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_one_transparent_grey_of_few_stays_transparent(tmp_path, depth):
    levels = np.array([[0, 1], [1, 0]])
    rows = bytes([0, 1 << 8 - 2 * depth, 0, 1 << 8 - depth])  # the first pixel has the upper bits
    (tmp_path / "a.png").write_bytes(png(2, 2, depth, 0, rows, tRNS=b"\0\1"))
    pixels = pictures.read(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels[..., 0], levels * 255 // (2**depth - 1))
    np.testing.assert_array_equal(pixels[..., 3], [[255, 0], [0, 255]])


@pytest.mark.parametrize("meaning", ["miniswhite", "assocalpha", "unspecified", "unassalpha"])
def test_a_tiff_means_the_same_in_16_and_in_8_bits(tmp_path, meaning):
    given = noise(64, 64, 4)
    given[:8, :, 3] = 0
    settings = {"photometric": "rgb", "extrasamples": [meaning]}
    if meaning == "miniswhite":
        given, settings = given[..., 0], {"photometric": meaning}
    tifffile.imwrite(tmp_path / "8.tif", given, **settings)
    tifffile.imwrite(tmp_path / "16.tif", given.astype(np.uint16) * 257, **settings)
    pixels, deep = (pictures.read(tmp_path / f"{bits}.tif").pixels for bits in (8, 16))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep // 257, pixels)


def test_the_levels_of_a_12_bit_tiff_span_16_bits(tmp_path):
    levels = np.array([[0, 1000], [2048, 4095]])
    data = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in levels.tolist())
    # width, height, bits a sample, compression, 0 is black, offset, rows of the strip, its bytes
    tags = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 273: 8, 278: 2, 279: len(data)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, n, 0) for tag, n in tags.items())
    folder = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + folder)
    expected = np.round(levels / 4095 * 65535)
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.tif").pixels, expected)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("extra", [[], ["assocalpha"]])
def test_16_bit_colour_in_planes_is_refused(tmp_path, compression, extra):
    """OpenCV gives memory that it has not filled, Pillow 8 bits."""
    planes = noise(3 + len(extra), 64, 96, dtype=np.uint16)
    settings = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": extra}
    tifffile.imwrite(tmp_path / "a.tif", planes, compression=compression, **settings)
    with pytest.raises(PictureError, match="a.tif: 16-bit colour .* save it interleaved$"):
        pictures.read(tmp_path / "a.tif")


def test_a_tiff_becomes_a_larger_tiff(tmp_path):
    Image.fromarray(noise(16, 20, 3)).save(tmp_path / "a.tif", compression="tiff_lzw")
    larger = pictures.read(tmp_path / "a.tif").with_pixels(noise(32, 40, 3))
    pictures.write(tmp_path / "b.tif", larger)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.tif")), larger.pixels)


def test_of_a_picture_with_a_preview_the_picture_is_read(tmp_path):
    pixels = Image.fromarray(noise(16, 16, 3))
    pixels.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[pixels.resize((4, 4))])
    assert pictures.read(tmp_path / "a.jpg").pixels.shape == (16, 16, 3)


def test_what_is_too_large_for_a_format_is_refused_before_the_work(tmp_path):
    with pytest.raises(PictureError, match="at most 16383 pixels a side, the result has 16400"):
        pictures.check_writable(tmp_path / "a.webp", Picture(noise(2, 4100, 3)), scale=4)


def test_reading_in_threads_leaves_pillows_limit_as_it_was(tmp_path):
    pictures.write(tmp_path / "a.png", Picture(noise(200, 200, 3)))
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(pictures.read, [tmp_path / "a.png"] * 64))
    assert Image.MAX_IMAGE_PIXELS == limit is not None


def test_reading_in_threads_leaves_opencvs_log_as_it_was(tmp_path):
    pictures.write(tmp_path / "a.png", Picture(noise(300, 300, 3, dtype=np.uint16)))
    level = cv2.utils.logging.getLogLevel()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(pictures.read, [tmp_path / "a.png"] * 100))
    assert cv2.utils.logging.getLogLevel() == level != cv2.utils.logging.LOG_LEVEL_SILENT


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profile_and_exif_travel(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x829D] = 2.8  # of the camera: the aperture
    exif.get_ifd(0x8769)[0xA002] = exif.get_ifd(0x8769)[0xA003] = 8  # of another picture: its size
    picture = Picture(noise(16, 16, 3), ICC, exif.tobytes())
    pictures.write(tmp_path / f"a{suffix}", picture)
    again = pictures.read(tmp_path / f"a{suffix}")
    assert again.icc == ICC
    tags = Image.Exif()
    tags.load(again.exif)
    assert tags[0x010E] == "a description" and tags.get_ifd(0x8769)[0x829D] == 2.8
    assert not {0xA002, 0xA003} & set(tags.get_ifd(0x8769))


def test_exif_gets_no_folder_that_it_did_not_have(tmp_path):
    pixels = noise(64, 64, 3)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_deflate", dpi=(300, 300))
    picture = pictures.read(tmp_path / "a.tif")
    tags = Image.Exif()
    tags.load(picture.exif)
    assert tags[0x011A] == 300 and 0x8769 not in tags
    pictures.write(tmp_path / "b.tif", picture)
    with Image.open(tmp_path / "b.tif") as again:
        assert again.info["compression"] == "tiff_adobe_deflate"
        np.testing.assert_array_equal(np.asarray(again), pixels)


def test_a_format_without_a_profile_leaves_it_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="a.bmp: colour profile and EXIF are left out"):
        pictures.write(tmp_path / "a.bmp", Picture(noise(8, 8, 3), ICC))
    assert pictures.read(tmp_path / "a.bmp").icc is None


def test_profile_and_exif_travel_in_16_bits(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "deep"
    pictures.write(
        tmp_path / "a.png", Picture(noise(8, 8, 3, dtype=np.uint16), ICC, exif.tobytes())
    )
    again = pictures.read(tmp_path / "a.png")
    assert again.icc == ICC and b"deep" in again.exif


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("block", [b"no such thing", b"II*\0"])
def test_a_picture_with_damaged_exif_is_read_without_it(tmp_path, suffix, block):
    pixels = noise(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=b"Exif\0\0" + block, lossless=True)
    with pytest.warns(match=f"a{suffix}: its EXIF is left out, it is damaged"):
        picture = pictures.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.exif is None


def too_long() -> bytes:
    exif = Image.Exif()
    exif[0x9286] = b"x" * 70000
    return exif.tobytes()


def no_number() -> bytes:
    """A resolution of 0 / 0."""
    entry = struct.pack("<HHHII", 1, 282, 5, 1, 8 + 2 + 12 + 4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + bytes(4 + 8)


@pytest.mark.parametrize(("suffix", "block"), [(".jpg", too_long), (".tif", no_number)])
def test_exif_that_a_format_does_not_take_is_left_out(tmp_path, suffix, block):
    pixels = noise(8, 8, 3)
    with pytest.warns(match=f"a{suffix}: the EXIF is left out"):
        pictures.write(tmp_path / f"a{suffix}", Picture(pixels, ICC, block()))
    again = pictures.read(tmp_path / f"a{suffix}")
    assert again.icc == ICC and again.pixels.shape == pixels.shape


def test_a_profile_that_a_16_bit_png_does_not_take_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "deep"
    picture = Picture(noise(8, 8, 3, dtype=np.uint16), bytes(200), exif.tobytes())
    with pytest.warns(match="a.png: the colour profile is left out"):
        pictures.write(tmp_path / "a.png", picture)
    again = pictures.read(tmp_path / "a.png")
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert again.icc is None and b"deep" in again.exif


def test_a_profile_of_grey_stays_with_grey(tmp_path):
    for mode, icc in (("L", GREY_ICC), ("LA", None)):  # which is read as RGBA
        Image.fromarray(noise(8, 8, 3)).convert(mode).save(tmp_path / "a.png", icc_profile=GREY_ICC)
        assert pictures.read(tmp_path / "a.png").icc == icc


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(tmp_path, orientation):
    from PIL import ImageOps

    image = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.array(ImageOps.exif_transpose(opened))
    picture = pictures.read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, expected)
    pictures.write(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as written:  # not turned a second time
        assert written.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("mode", "plain"), [("1", "L"), ("L", "L"), ("LA", "RGBA"), ("P", "RGB"), ("RGBA", "RGBA")]
)
def test_other_modes(tmp_path, mode, plain):
    image = Image.fromarray(noise(8, 8, 3)).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.array(image.convert(plain))
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.png").pixels, expected)


def test_palette_transparency_is_kept(tmp_path):
    image = Image.fromarray(noise(8, 8, 3)).convert("P")
    clear = int(np.array(image)[3, 5])
    image.save(tmp_path / "a.png", transparency=clear)
    pixels = pictures.read(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels[..., :3], np.array(image.convert("RGB")))
    np.testing.assert_array_equal(pixels[..., 3] == 0, np.array(image) == clear)


def truncated(kind) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "empty"),
        ("text.png", b"this is a letter, not a picture", "not a readable picture"),
        ("cut.png", truncated("png"), "not a readable picture"),
        ("cut.jpg", truncated("jpeg"), "not a readable picture"),
        ("bomb.png", png(60000, 60000, 8, 2, bytes(1000)), "60000x60000"),
    ],
)
def test_bad_files_get_one_line_with_their_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        pictures.read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_16_bit_files_are_refused(tmp_path):
    done, data = cv2.imencode(".png", noise(64, 64, 3, dtype=np.uint16))
    (tmp_path / "cut.png").write_bytes(data.tobytes()[: len(data) // 2])
    with pytest.raises(PictureError, match="cut.png"):
        pictures.read(tmp_path / "cut.png")


def test_missing_and_animated_and_cmyk(tmp_path):
    with pytest.raises(PictureError, match="no such file"):
        pictures.read(tmp_path / "none.png")
    with pytest.raises(PictureError, match="expected a file, this is a folder"):
        pictures.read(tmp_path)
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    frames[0].save(tmp_path / "film.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="expected one picture, the file has 3"):
        pictures.read(tmp_path / "film.webp")
    Image.fromarray(noise(8, 8, 3)).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(PictureError, match="CMYK"):
        pictures.read(tmp_path / "print.jpg")


def test_outputs_that_would_lose_something_are_refused(tmp_path):
    with pytest.raises(PictureError, match="transparency"):
        pictures.write(tmp_path / "a.jpg", Picture(noise(4, 4, 4)))
    with pytest.raises(PictureError, match="16-bit"):
        pictures.write(tmp_path / "a.jpg", Picture(noise(4, 4, 3, dtype=np.uint16)))
    with pytest.raises(PictureError, match="ending in"):
        pictures.write(tmp_path / "a.xyz", Picture(noise(4, 4, 3)))
    with pytest.raises(PictureError, match="no folder"):
        pictures.write(tmp_path / "none" / "a.png", Picture(noise(4, 4, 3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_disk_that_takes_no_more_is_told(tmp_path, suffix, capfd):
    resource = pytest.importorskip("resource")
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    picture = Picture(noise(64, 64, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(OSError, match=r"a\.\w+: cannot be written \(File too large\)$"):
            pictures.write(tmp_path / f"a{suffix}", picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_written_files_have_ordinary_permissions(tmp_path):
    pictures.write(tmp_path / "a.png", Picture(noise(4, 4, 3)))
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_listing(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in pictures.listing(tmp_path)] == ["a.JPG", "b.png"]
    with pytest.raises(PictureError, match="no such folder"):
        pictures.listing(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="no files of"):
        pictures.listing(tmp_path / "empty")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_pixels_of_another_kind_are_one_line(pixels):
    with pytest.raises(PictureError, match=r"^pixels: expected \(H, W\), [^\n]*, got "):
        Picture(pixels)
