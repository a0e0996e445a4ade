import math
import pickle
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe, get_all_start_methods, get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

import pysr
from pysr import arrays, blur, engines
from pysr.consistency import consistency
from pysr.degrade import classical, imresize, to_8bit
from pysr.evaluate import psnr
from pysr.nets import DAN, SHIPPED, ModelError, load_model
from pysr.upscaler import Upscaler, informative_crops, out_of_memory


@pytest.fixture(scope="module")
def upscaler():
    return pysr.load("dan-lite-x2", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def photograph():
    return photographs.astronaut()


def small(photograph, *shape, dtype=np.uint8):
    h, w = shape[:2]
    pixels = photograph[100 : 100 + h, 200 : 200 + w]
    if len(shape) == 2:
        pixels = pixels[..., 1]
    elif shape[2] == 4:
        pixels = np.concatenate((pixels, pixels[..., :1]), 2)
    if dtype == np.uint16:
        return pixels.astype(np.uint16) * 257
    return pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float16, np.float64])
@pytest.mark.parametrize("shape", [(20, 31), (20, 31, 3), (20, 31, 4)])
def test_what_comes_back_is_what_went_in(upscaler, photograph, dtype, shape):
    result = upscaler(small(photograph, *shape, dtype=dtype))
    assert isinstance(result.image, np.ndarray)
    assert result.image.dtype == dtype
    assert result.image.shape == (40, 62, *shape[2:])
    assert result.kernel.shape == (21, 21) and result.kernel.dtype == np.float32
    assert result.kernel.sum() == pytest.approx(1) and (result.kernel >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_torch_batches(upscaler, photograph, dtype):
    first = torch.from_numpy(small(photograph, 24, 20, 3)).permute(2, 0, 1)[None] / 255
    second = first.flip(-1)
    result = upscaler(torch.cat((first, second)).to(dtype))
    assert result.image.dtype == dtype and result.image.shape == (2, 3, 48, 40)
    assert result.kernel.shape == (2, 21, 21)
    alone = upscaler(second.to(dtype))
    torch.testing.assert_close(result.image[1:], alone.image)
    assert alone.kernel.shape == (21, 21)


class Foreign:
    """An array of another library, as far as DLPack goes."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return self

    def from_dlpack(self, other):
        return Foreign(np.from_dlpack(other))


class Bare:
    """One that says nothing of its library."""

    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


def test_anything_that_speaks_dlpack(upscaler, photograph):
    pixels = small(photograph, 20, 20, 3, dtype=np.float32)
    for view in (pixels, pixels[::-1]):  # at which torch aborts the process
        result = upscaler(Foreign(view)).image
        assert isinstance(result, Foreign)
        np.testing.assert_array_equal(result.array, upscaler(view).image)
        bare = upscaler(Bare(view)).image
        assert torch.is_tensor(bare)
        np.testing.assert_array_equal(bare, upscaler(view).image)


def in_a_fork(work) -> str:
    """What `work` raises in a fork of this process, or "nothing"."""
    receiving, sending = Pipe(duplex=False)

    def report():
        try:
            work()
            sending.send("nothing")
        except RuntimeError as error:
            sending.send(str(error))

    child = get_context("fork").Process(target=report)
    child.start()
    try:
        assert receiving.poll(60), "it hangs"
        return receiving.recv()
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_in_a_fork_it_says_that_it_would_hang(upscaler, photograph):
    lr, threads = small(photograph, 64, 64, 3), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = upscaler(lr).image
        model = load_model("dan-lite-x2")
        for work in (lambda: upscaler(lr), lambda: Upscaler(model, device="cpu")):
            assert "expected a process started by spawn, got a fork" in in_a_fork(work)

        def with_one_thread():
            torch.set_num_threads(1)
            np.testing.assert_array_equal(upscaler(lr).image, expected)

        assert in_a_fork(with_one_thread) == "nothing"
    finally:
        torch.set_num_threads(threads)


def test_it_travels_to_another_process(upscaler, photograph):
    lr, kernel = small(photograph, 20, 24, 3), blur.isotropic(1.2, 15).numpy()
    again = pickle.loads(pickle.dumps(upscaler))
    assert again.engine.describe() == upscaler.engine.describe()
    np.testing.assert_array_equal(again(lr).image, upscaler(lr).image)
    assuming = Upscaler(upscaler.model, kernel=kernel, device="cpu", engine="torch")
    again = pickle.loads(pickle.dumps(assuming))
    assert again.engine.describe() == assuming.engine.describe()
    np.testing.assert_array_equal(again(lr).kernel, kernel)
    np.testing.assert_array_equal(again(lr).image, assuming(lr).image)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (5, 200)])
def test_any_size(upscaler, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    result = upscaler(pixels)
    assert result.image.shape == (2 * size[0], 2 * size[1], 3)
    assert math.isfinite(result.consistency) or result.consistency == math.inf


def test_views_of_larger_arrays(upscaler, photograph):
    view = photograph[200:100:-2, 100:160][:, ::-1]
    np.testing.assert_array_equal(upscaler(view).image, upscaler(view.copy()).image)
    big_endian = small(photograph, 20, 20, dtype=np.uint16).astype(">u2")
    native = big_endian.astype("=u2")
    np.testing.assert_array_equal(upscaler(big_endian).image, upscaler(native).image)


@pytest.mark.filterwarnings("error")
def test_pictures_that_may_not_be_written(upscaler, photograph):
    frozen = np.asarray(Image.fromarray(photograph[:40, :50]))
    assert not frozen.flags.writeable
    assert np.array_equal(upscaler(frozen).image, upscaler(frozen.copy()).image)


def test_alpha_is_interpolated_and_colours_are_not_touched_by_it(upscaler, photograph):
    pixels = small(photograph, 30, 26, 4)
    result = upscaler(pixels).image
    np.testing.assert_array_equal(result[..., :3], upscaler(pixels[..., :3]).image)
    alpha = torch.from_numpy(pixels[None, None, ..., 3] / 255.0)
    expected = (imresize(alpha, 2)[0, 0].clamp(0, 1) * 255).round().numpy()
    assert np.abs(result[..., 3] - expected).max() <= 1


def test_grey_stays_grey_and_equals_colour(upscaler, photograph):
    grey = small(photograph, 30, 26)
    colour = upscaler(np.stack((grey,) * 3, -1)).image.astype(float).mean(-1)
    assert np.abs(upscaler(grey).image - colour).max() <= 1


def test_restores_what_interpolation_cannot(upscaler, photograph):
    hr = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    kernel = blur.isotropic(1.3, 21)
    lr = classical(hr, kernel, 2)
    result = upscaler(lr)
    assert psnr(result.image, hr, 2) > psnr(imresize(lr, 2), hr, 2) + 1.5
    error = float((result.kernel - kernel).abs().sum())
    dirac = float((blur.dirac(21) - kernel).abs().sum())
    assert error < 0.5 * dirac
    # The result explains the input: blurred and reduced again it comes close.
    assert result.consistency > 35
    assert 0.5 < result.confidence < 1  # never wholly of one mind


def test_the_result_is_degraded_again_with_the_kernel_as_it_lies(upscaler, photograph):
    hr = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    kernel = blur.shifted(blur.isotropic(0.8, 21)[None], 1.5)[0]
    lr = classical(hr, kernel, 2)
    flipped = kernel.flip(0, 1)
    found = [consistency(hr, list(informative_crops(lr)), k, 2) for k in (kernel, flipped)]
    assert found[0] > 50 and found[1] < 40


def test_devices_agree(device, upscaler, photograph):
    lr = small(photograph, 60, 70, 3)
    kernel = blur.isotropic(1.0, 21).numpy()
    there = pysr.load("dan-lite-x2", device=str(device))
    difference = there(lr, kernel=kernel).image.astype(int) - upscaler(lr, kernel=kernel).image
    assert np.abs(difference).max() <= 1
    tensor = torch.from_numpy(lr).permute(2, 0, 1)[None].to(device) / 255
    result = there(tensor)
    assert result.image.device == result.kernel.device == tensor.device
    np.testing.assert_allclose(result.kernel.cpu(), upscaler.estimate(lr), atol=1e-3)


def test_a_known_kernel_is_used(upscaler, photograph):
    lr = small(photograph, 64, 64, 3)
    wide, narrow = (upscaler(lr, kernel=blur.isotropic(s, 15).numpy()) for s in (1.6, 0.4))
    assert wide.kernel.shape == (15, 15) and wide.confidence == 1
    assert np.abs(wide.image.astype(int) - narrow.image).max() > 5
    detail = [np.abs(np.diff(r.image.astype(float), axis=1)).mean() for r in (wide, narrow)]
    assert detail[0] > detail[1]  # a wider blur is undone more strongly


def test_small_pictures_are_restored_by_the_published_loop(upscaler, photograph):
    lr = torch.from_numpy(small(photograph, 70, 80, 3)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = upscaler.model(lr).sr.clamp(0, 1)
    torch.testing.assert_close(upscaler(lr).image, expected, atol=1e-4, rtol=0)


def test_a_scout_finds_the_blur_of_large_pictures(upscaler, photograph):
    large = np.tile(photograph[:160, :240], (2, 2, 1))
    patch = small(photograph, 48, 64, 3)
    alone = pysr.load("dan-mid-x2", device="cpu", precision="float32")
    scouted = Upscaler(
        alone.model, scout=upscaler.model, device="cpu", engine="native", precision="float32"
    )
    for asked in (scouted, pickle.loads(pickle.dumps(scouted))):
        found = asked(large)
        np.testing.assert_allclose(found.kernel, upscaler.estimate(large), atol=1e-6)
        assert np.abs(found.kernel - alone.estimate(large)).sum() > 1e-3
        np.testing.assert_array_equal(asked.estimate(large), found.kernel)
    with_its_kernel = alone(large, kernel=found.kernel).image.astype(float)
    assert np.abs(found.image - with_its_kernel).mean() < 0.5  # levels: the larger one restored
    np.testing.assert_array_equal(scouted(patch).image, alone(patch).image)
    part = large[:200, :280]
    np.testing.assert_array_equal(scouted(part, exact=True).image, alone(part, exact=True).image)
    scouted.close()
    with pytest.raises(ValueError, match="closed"):
        scouted.estimate(large)


@pytest.mark.parametrize("name", [name for name, entry in SHIPPED.items() if entry.scout])
def test_large_pictures_lose_little_by_the_shipped_scouts(name, photograph):
    scouted, alone = pysr.load(name, device="cpu"), Upscaler(load_model(name), device="cpu")
    scale = alone.scale
    hr = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    hr = torch.cat((hr, hr.flip(-1)), -1)
    hr = torch.cat((hr, hr.flip(-2)), -2)[..., : 264 * scale, : 264 * scale]
    lr = to_8bit(classical(hr, blur.isotropic(0.3 * scale), scale))
    found = {which: psnr(which(lr).image, hr, scale) for which in (scouted, alone)}
    assert found[scouted] > found[alone] - 0.1
    assert found[scouted] > psnr(imresize(lr, scale).clamp(0, 1), hr, scale) + 1


@pytest.mark.parametrize(
    "model, scout, message",
    [
        ("dan-lite-x4", "dan-lite-x2", "scale, 4, got 2"),
        ("dan-lite-x4", "rrdb-lite-x4", "a DAN for a DAN, got RRDB"),
        ("rrdb-lite-x4", "dan-lite-x4", "a DAN for a DAN, got RRDB"),
    ],
)
def test_scouts_that_do_not_fit(model, scout, message):
    with pytest.raises(ValueError, match=message):
        Upscaler(load_model(model), scout=load_model(scout), device="cpu")


def test_a_scout_of_another_code_does_not_fit(upscaler):
    other = DAN(upscaler.model.config, torch.randn(21 * 21, 16))
    with pytest.raises(ValueError, match="kernel code, got another basis"):
        Upscaler(load_model("dan-lite-x2"), scout=other, device="cpu")


def test_the_estimate_alone(upscaler, photograph):
    lr = small(photograph, 48, 48, 3)
    np.testing.assert_array_equal(upscaler.estimate(lr), upscaler(lr).kernel)
    tensor = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(upscaler.estimate(tensor).numpy(), upscaler.estimate(lr))


def test_tiles_are_exact_but_for_the_pooled_means(upscaler):
    """With the same gates, tiles with their halo equal the whole: no seam anywhere."""
    lr = torch.rand(1, 3, 90, 123)
    engine = upscaler.engine
    code = torch.randn(1, 16)
    gates = engine.gates(lr, code, (0, 0))
    whole = engine.restore(lr, code, gates)
    rounding = 1e-5 * float(whole.abs().max())  # noise and a code of no kernel: values are large
    torch.testing.assert_close(engine.restore(lr, code), whole, atol=rounding, rtol=0)
    halo = upscaler.model.Restorer.halo
    part = engine.restore(lr[..., 10:80, 20:110], code, gates)
    inner = slice(2 * halo, -2 * halo)
    torch.testing.assert_close(
        part[..., inner, inner],
        whole[..., 20:160, 40:220][..., inner, inner],
        atol=rounding,
        rtol=0,
    )


def test_where_tiles_are_cut_for_channel_attention_does_not_show(upscaler):
    """What they pool over lies far from any border, here the same stripes everywhere."""
    stripes = (0.2 + 0.6 * (torch.arange(336) % 8 < 4)).expand(1, 3, 336, 336)
    known = upscaler.given(blur.isotropic(0.9))
    tiled = upscaler(stripes, kernel=known.kernel, tile=128).image
    engine = upscaler.engine
    gates = engine.gates(stripes, known.code, (100, 104))  # 16 times 8 columns are left
    whole = engine.restore(stripes, known.code, gates)
    middle = (..., slice(300, 340), slice(300, 340))
    torch.testing.assert_close(tiled[middle], whole[middle].clamp(0, 1), atol=1e-5, rtol=0)


def test_tiled_is_within_two_levels_of_whole_on_a_photograph(upscaler, photograph):
    lr = photograph.astype(np.float32) / 255
    kernel = blur.isotropic(0.9, 21).numpy()
    whole = upscaler(lr, kernel=kernel, tile=1024).image
    tiled = upscaler(lr, kernel=kernel, tile=128).image
    apart = np.abs(whole - tiled)
    assert 0 < apart.max() < 2 / 255 and apart.mean() < 0.1 / 255


@pytest.mark.parametrize("size", [(3, 700), (140, 9), (130, 131)])
def test_tiles_of_any_picture(upscaler, size):
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    kernel = blur.dirac(21).numpy()
    whole, tiled = (upscaler(pixels, kernel=kernel, tile=t).image for t in (1024, 32))
    assert np.isfinite(tiled).all()
    assert np.abs(whole - tiled).mean() < 0.01


def test_memory_depends_on_the_tile_not_on_the_picture(upscaler, monkeypatch):
    seen = []
    restore, estimate = upscaler.engine.restore, upscaler.engine.estimate

    def watched(original):
        def call(lr, *arguments):
            seen.append(lr.numel() // 3)
            return original(lr, *arguments)

        return call

    monkeypatch.setattr(upscaler.engine, "restore", watched(restore))
    monkeypatch.setattr(upscaler.engine, "estimate", watched(estimate))
    upscaler(np.random.default_rng(0).integers(0, 255, (500, 700), np.uint8), tile=100)
    side = 100 + 2 * upscaler.model.Restorer.halo
    assert len(seen) > 30 and max(seen) <= max(side**2, 2 * 160**2)


def test_what_is_warmed_up_is_what_a_picture_takes(upscaler, monkeypatch):
    warmed, taken, restore = set(), set(), upscaler.engine.restore

    def watched(lr, *arguments):
        taken.add((len(lr), *lr.shape[-2:]))
        return restore(lr, *arguments)

    monkeypatch.setattr(upscaler.engine, "warm_up", lambda *shape: warmed.add(shape))
    monkeypatch.setattr(upscaler.engine, "restore", watched)
    upscaler.warm_up(230, 240)
    upscaler(np.random.default_rng(0).integers(0, 255, (230, 240), np.uint8))
    assert warmed == taken == {(1, 230, 240), (2, 160, 160)}


def test_a_failing_tile_size_is_refused(upscaler, photograph):
    with pytest.raises(ValueError, match="tile: expected at least 32"):
        upscaler(photograph, tile=8)
    with pytest.raises(TypeError, match="tile: expected an integer, got '64'"):
        upscaler(photograph, tile="64")


def test_crops_are_where_the_detail_is():
    lr = torch.full((1, 3, 600, 700), 0.5)
    patches = [(slice(200, 260), slice(300, 370)), (slice(500, 560), slice(20, 80))]
    for rows, columns in patches:
        lr[..., rows, columns] = torch.rand(3, rows.stop - rows.start, columns.stop - columns.start)
    crops = informative_crops(lr)
    for rows, columns in patches:
        assert any(
            r.start <= rows.start
            and rows.stop <= r.stop
            and c.start <= columns.start
            and columns.stop <= c.stop
            for r, c, _ in crops
        )
    assert sum(crop.shape[-1] * crop.shape[-2] for _, _, crop in crops) < 0.2 * 600 * 700


@pytest.mark.parametrize("size", [(319, 319), (310, 700), (1200, 100), (90, 3001), (160, 330)])
@pytest.mark.parametrize("corner", ["first", "last"])
def test_crops_reach_every_edge(size, corner):
    lr = torch.full((1, 3, *size), 0.5)
    detail = [slice(0, 30) if corner == "first" else slice(n - 30, n) for n in size]
    lr[(..., *detail)] = torch.rand(3, 30, 30)
    rows, columns, crop = informative_crops(lr)[0]
    for found, wanted, n in zip((rows, columns), detail, size, strict=True):
        assert 0 <= found.start <= wanted.start and wanted.stop <= found.stop <= n
        assert found.stop - found.start == min(160, n)
    assert torch.equal(crop, lr[..., rows, columns])


def test_the_blur_of_a_banner_is_found_where_its_detail_is(upscaler, photograph):
    banner = np.full((200, 2400, 3), 235, np.uint8)
    banner[:, :500] = photograph[100:300, :500]
    hr = torch.from_numpy(banner).permute(2, 0, 1)[None] / 255
    kernel = blur.isotropic(1.2)
    result = upscaler(to_8bit(classical(hr, kernel, 2)))
    assert (result.kernel - kernel).abs().sum() < 0.3
    assert psnr(result.image, hr, 2) > 30


@pytest.mark.parametrize("size", [(80, 120), (100, 500)])
def test_small_pictures_are_looked_at_whole(size):
    ((rows, columns, crop),) = informative_crops(torch.rand(1, 3, *size))
    assert crop.shape == (1, 3, *size)


def test_where_there_is_nothing_to_see_nothing_agrees(upscaler):
    lr = torch.full((1, 3, 600, 700), 0.5)
    assert len(informative_crops(lr)) == 1
    lr[..., 200:240, 300:340] = torch.rand(3, 40, 40)
    assert len(informative_crops(lr)) == 1
    flat = torch.full((1, 3, 300, 300), 0.5)
    assert math.isnan(upscaler(flat).confidence)
    detailed = torch.rand(1, 3, 300, 300)
    alone = upscaler(detailed).confidence
    for batch in ([flat, detailed], [detailed, flat]):
        assert upscaler(torch.cat(batch)).confidence == alone


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(H, W, 3\).*\(4, 4, 2\)"),
        (np.zeros((4, 4, 1), np.uint8), ValueError, r"grey picture has the shape \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((4, 4, 3), np.int32), TypeError, "uint8, uint16 or floating point"),
        (np.zeros((4, 4, 3), bool), TypeError, "uint8, uint16 or floating point"),
        (np.zeros((4, 4, 3), "U1"), TypeError, "uint8, uint16 or floating point"),
        (np.full((4, 4, 3), np.nan, np.float32), ValueError, "NaN"),
        (np.full((4, 4), 255.0), ValueError, r"values in \[0, 1\], got 255 to 255"),
        (-9 * torch.ones(1, 3, 4, 4).half(), ValueError, r"values in \[0, 1\], got -9 to -9"),
        (torch.zeros(3, 4, 4), ValueError, r"torch tensor \(N, 3, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError, "floating point"),
        (
            torch.zeros(1, 3, 4, 4).to_sparse(),
            TypeError,
            "dense torch tensor .*, got torch.sparse_coo",
        ),
        (
            torch.zeros(1, 3, 4, 4, device="meta"),
            TypeError,
            "with values, got one on the device meta",
        ),
        (np.ma.masked_less(np.ones((4, 4)), 2), TypeError, "without a mask, got a numpy masked"),
        ([[1, 2], [3, 4]], TypeError, "numpy, torch or an array with __dlpack__, got list"),
    ],
)
def test_bad_pictures(upscaler, image, error, message):
    with pytest.raises(error, match=message):
        upscaler(image)


@pytest.mark.parametrize("kernel", [np.full((3, 3), np.nan), np.ones((3, 3)), np.ones((3, 4)) / 12])
def test_bad_kernels(upscaler, photograph, kernel):
    with pytest.raises(ValueError, match="kernel"):
        upscaler(photograph, kernel=kernel)


@pytest.mark.parametrize("kernel", ["x", {}, [[1], [2, 3]]])
def test_what_is_no_kernel(upscaler, photograph, kernel):
    kind = type(kernel).__name__
    with pytest.raises(TypeError, match=f"^kernel: expected a .* tensor or array, got {kind}$"):
        upscaler(photograph, kernel=kernel)


def test_a_kernel_that_the_model_sees_nothing_of(upscaler, photograph):
    kernel = np.zeros((41, 41))
    kernel[0, 0] = 1
    with pytest.raises(ValueError, match="nothing of it lies in the middle 21x21 taps"):
        upscaler(photograph, kernel=kernel)


def test_a_model_can_learn_on_after_an_upscaler_had_it():
    model = load_model("dan-lite-x2")
    pysr.Upscaler(model, device="cpu", engine="native").close()
    model.train()(torch.rand(1, 3, 12, 12)).sr.sum().backward()
    assert all(p.grad is not None for p in model.Restorer.parameters())


def test_nothing_is_warmed_up_after_close():
    upscaler = pysr.load("dan-lite-x2", device="cpu")
    with pytest.raises(ValueError, match="warm_up: expected at least 1x1 whole pixels, got 0x0"):
        upscaler.warm_up(0, 0)
    with pytest.raises(ValueError, match="tile: expected at least 32 pixels, got 0"):
        upscaler.warm_up(40, 40, tile=0)
    upscaler.close()
    with pytest.raises(ValueError, match="expected an open one"):
        upscaler.warm_up(40, 40)


@pytest.mark.parametrize("engine", ["native", "torch", "onnx"])
def test_closed_by_another_thread_the_work_at_hand_is_finished(engine, photograph):
    upscaler = pysr.load("dan-lite-x2", device="cpu", engine=engine)
    expected = upscaler(photograph[:64, :64]).image
    inside, closed = threading.Event(), threading.Event()
    restore = upscaler.engine.restore

    def waiting(*arguments):
        inside.set()
        assert closed.wait(60)
        return restore(*arguments)

    upscaler.engine.restore = waiting
    with ThreadPoolExecutor(1) as pool:
        kernel = blur.isotropic(1.2)
        lr = torch.rand(1, 3, 24, 24)
        crops = informative_crops(lr)
        running = pool.submit(upscaler.estimate_on, crops)
        assert inside.wait(60)
        upscaler.close()
        closed.set()
        assert running.result().kernel.isfinite().all()
    assert expected.shape == (128, 128, 3)
    with pytest.raises(ValueError, match="expected an open one, it has been closed"):
        upscaler(lr, kernel)


def test_closed_while_it_warms_up_the_engine_goes_afterwards(monkeypatch):
    upscaler = pysr.load("dan-lite-x2", device="cpu")
    engine, done = upscaler.engine, []
    monkeypatch.setattr(engine, "close", lambda: done.append("closed"))

    def warm_up(*shape):
        upscaler.close()
        done.append("warm")

    monkeypatch.setattr(engine, "warm_up", warm_up)
    upscaler.warm_up(8, 8)
    assert done == ["warm", "closed"]


@pytest.mark.parametrize("engine", ["native", "torch", "onnx"])
def test_the_callers_autocast_changes_nothing(engine, photograph):
    with pysr.load("dan-lite-x2", device="cpu", engine=engine, precision="float32") as upscaler:
        picture, kernel = photograph[:40, :50], blur.isotropic(1.2)
        expected = [upscaler(picture).image, upscaler(picture, kernel).image]
        with torch.autocast("cpu", torch.bfloat16):
            got = [upscaler(picture).image, upscaler(picture, kernel).image]
            upscaler.warm_up(40, 50)
            assert upscaler.estimate(picture).dtype == np.float32
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_callers_default_device_changes_nothing(photograph):
    """Be it a GPU for a model on the CPU."""

    def everything() -> list:
        upscaler = pysr.load("dan-lite-x2", device="cpu", precision="float32")
        upscaler.warm_up(40, 50)
        kernel = np.full((5, 5), 1 / 25)
        results = [upscaler(picture), upscaler(picture, kernel, tile=32)]
        return [upscaler.estimate(picture), *(result.image for result in results)]

    picture = small(photograph, 40, 50, 4)
    expected = everything()
    with torch.device("meta"):
        got = everything()
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_assumed_kernel_is_not_handed_out():
    with Upscaler(load_model("dan-lite-x2"), kernel=blur.isotropic(1.2), device="cpu") as upscaler:
        lr = torch.rand(1, 3, 24, 24)
        before = upscaler(lr).image
        (found,) = upscaler.estimates(lr)
        found.kernel.zero_()
        found.code.zero_()
        assert torch.equal(upscaler(lr).image, before)
        assert float(upscaler(lr).kernel.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_close_gives_back_what_the_kernels_keep_for_every_thread(photograph):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    upscaler = pysr.load("dan-lite-x2", device="cpu", engine="native", precision="float32")
    barrier = threading.Barrier(4)
    big = np.tile(photograph, (2, 2, 1))[:760, :760]

    def restore():
        upscaler(big, blur.isotropic(1.2))
        barrier.wait(60)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(restore) for _ in range(4)]:
            done.result()
        before = resident()
        upscaler.close()
        assert resident() < before - 150 * 2**20


def test_unknown_devices_and_engines():
    for device in ("cuda:99", "meta", None):
        with pytest.raises(ValueError, match=f"^device: {device!r} is not usable here .*$"):
            pysr.load(device=device)
    with pytest.raises(ValueError, match="engine: expected auto or one of native, torch"):
        pysr.load(engine="steam")
    for name, scale in (("vdsr-lite", 1.5), (None, "2"), (None, True)):
        with pytest.raises(ModelError, match=f"scale: expected an integer, got {scale!r}"):
            pysr.load(name, scale=scale)
    with pytest.raises(ModelError, match="expected a name or a file, got a DAN"):
        pysr.load(load_model("dan-lite-x2"))


def test_a_halo_that_is_no_number_of_pixels():
    model = torch.nn.Upsample(scale_factor=2)
    model.scale, model.halo = 2, -3
    with pytest.raises(ValueError, match="a halo of whole pixels from 0 on, got -3"):
        Upscaler(model, device="cpu")


def test_what_cannot_be_made_leaves_no_engine_open(monkeypatch):
    opened, create = [], engines.create

    def counted(*arguments):
        opened.append(create(*arguments))
        return opened[-1]

    monkeypatch.setattr(engines, "create", counted)
    outside = torch.zeros(41, 41)
    outside[0, 0] = 1
    with pytest.raises(ValueError, match="nothing of it lies in the middle"):
        Upscaler(load_model("dan-lite-x2"), kernel=outside, device="cpu")
    (engine,) = opened
    with pytest.raises(Exception):  # noqa: B017 any: it is closed
        engine.restore(torch.rand(1, 3, 24, 24), torch.rand(1, 16))


def test_half_open_values_are_clipped_not_wrapped(upscaler):
    checker = np.indices((24, 24)).sum(0) % 2 * 255
    result = upscaler(checker.astype(np.uint8)).image.astype(int)
    assert result.min() >= 0 and result.max() <= 255
    unpacked = arrays.unpack(np.zeros((2, 2), np.uint8))
    assert unpacked.quantised(torch.tensor([-0.3, 1.3])).tolist() == [0, 255]


def test_upscaler_takes_a_model_of_your_own():
    from pysr.nets import DAN, DANConfig

    config = DANConfig(scale=3, features=16, blocks=1, estimator_features=16, estimator_blocks=1)
    basis = blur.pca_basis(blur.random_isotropic(50, (0.3, 3), 21, 0), 10)
    result = Upscaler(DAN(config, basis), device="cpu")(np.zeros((5, 6, 3), np.uint8))
    assert result.image.shape == (15, 18, 3)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 4096",
    ],
)
def test_memory_that_ran_out_is_known_by_its_words(words):
    assert out_of_memory(RuntimeError(words)) and not out_of_memory(RuntimeError("no kernel"))
