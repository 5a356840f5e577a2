"""A miniature of the Omniglot archive: scribbles, a few of each of a few characters."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

ALPHABETS = ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"]
FULL = Path(__file__).parents[2] / "shared" / "data" / "omniglot_background_small1.zip"


def scribble(rng, points):
    """Return a PNG file of 105 x 105 black or white pixels: lines through points that are moved a little."""
    from PIL import Image, ImageDraw

    picture = Image.new("1", (105, 105), 1)
    moved = points + rng.normal(0, 2, points.shape)
    ImageDraw.Draw(picture).line([tuple(point) for point in moved], fill=0, width=3)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def write_archive(path, n_characters=3, n_drawings=6, alphabets=ALPHABETS, root="images_background_small1/"):
    """Write the archive, with the folders and the junk that real ones hold."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(root or "readme.txt", b"")
        archive.writestr(f"__MACOSX/{root}Greek/character01/._0001_01.png", b"junk")
        for alphabet in alphabets:
            archive.writestr(f"{root}{alphabet}/", b"")
            for i in range(1, n_characters + 1):
                points = rng.uniform(10, 95, (5, 2))
                for j in range(1, n_drawings + 1):
                    archive.writestr(f"{root}{alphabet}/character{i:02}/{i:04}_{j:02}.png", scribble(rng, points))
    return path
