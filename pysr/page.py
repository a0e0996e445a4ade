"""Self-contained HTML pages: a before/after slider, kernels, figures; nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from pysr import arrays, pictures
from pysr.inspection import Inspection

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } figure { margin: 1.5rem 0; }
figcaption { font-size: .9rem; opacity: .75; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; }
.compare { position: relative; line-height: 0; overflow: hidden; }
.compare img { width: 100%; image-rendering: pixelated; }
.compare .after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)); }
.compare::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at, 50%);
  width: 2px; background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; }
.kernels { display: flex; flex-wrap: wrap; gap: 2rem; } .kernels img { width: 12rem;
  image-rendering: pixelated; border: 1px solid #888; }
"""


def picture_uri(pixels: np.ndarray) -> str:
    """A (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16 picture as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pictures.eight_bit(pixels)).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def kernel_picture(kernel: np.ndarray, cell: int = 12) -> np.ndarray:
    """A kernel (k, k) as a grey picture, its largest tap white: uint8 (k * cell, k * cell)."""
    grey = np.asarray(kernel, np.float64) / max(float(np.max(kernel)), 1e-12)
    grey = (np.clip(grey, 0, 1) ** 0.5 * 255).round().astype(np.uint8)  # the tails stay visible
    return np.kron(grey, np.ones((cell, cell), np.uint8))


def comparison_page(
    title: str,
    before: np.ndarray,
    after: np.ndarray,
    kernels: Mapping[str, np.ndarray],
    figures: Mapping[str, str],
) -> str:
    """A page with a slider between two pictures of one size, kernels with captions, and a table."""
    body = (
        f'<figure><div class="compare"><img src="{picture_uri(before)}" alt="before">'
        f'<img class="after" src="{picture_uri(after)}" alt="after">'
        '<input type="range" min="0" max="100" value="50" step="0.1" aria-label="before and after" '
        "oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>"
        "<figcaption>Drag: left bicubic interpolation, right pysr.</figcaption></figure>"
    )
    return _page(title, body + _kernels(kernels) + _table(figures))


def inspection_page(name: str, pixels: np.ndarray, found: Inspection) -> str:
    """A page with what `pysr.inspection.inspect` found of one picture."""
    confidence = "one estimate" if math.isnan(found.confidence) else f"{found.confidence:.2f}"
    figures = {
        "blur width": found.width_in_words,
        "noise": f"{found.noise * 255:.1f} of 255",
        "confidence": confidence,
    }
    picture = f'<figure><img src="{picture_uri(pixels)}" style="max-width:100%" alt=""></figure>'
    words = f"<p>{html.escape(found.words)}</p>"
    kernels = _kernels({"estimated blur kernel": found.kernel})
    return _page(name, words + picture + kernels + _table(figures))


def side_by_side(panels: list[np.ndarray], gap: int = 8) -> np.ndarray:
    """Pictures of one height as one RGB picture, white between them."""
    height = panels[0].shape[0]
    rule = np.full((height, gap, 3), 255, np.uint8)
    parts = []
    for panel in panels:
        rgb = (arrays.unpack(panel).rgb[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        parts += [rgb, rule]
    return np.concatenate(parts[:-1], 1)


def _kernels(kernels: Mapping[str, np.ndarray]) -> str:
    figures = (
        f'<figure><img src="{picture_uri(kernel_picture(kernel))}" alt="">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, kernel in kernels.items()
    )
    return f'<div class="kernels">{"".join(figures)}</div>'


def _table(figures: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in figures.items()
    )
    return f"<table>{rows}</table>"


def _page(title: str, body: str) -> str:
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{body}</html>\n"
    )
