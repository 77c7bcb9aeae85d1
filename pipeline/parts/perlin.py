"""Perlin noise, and the synthetic anomalies made with it.

Perlin (SIGGRAPH 1985), "An image synthesizer"; its use for anomalies after Zavrtanik, Kristan and Skocaj (ICCV 2021),
section 3.3. Where the paper takes its textures from a data set of textures, ours come from other training images,
turned, mirrored, recoloured and posterised, so nothing needs to be downloaded.
"""

import numpy as np

THRESHOLD = 0.5  # noise above it is anomalous; the paper draws its threshold anew for each mask, uniformly
ATTEMPTS = 100  # draws of noise before a region is marked whole


def noise(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Gradient noise over `cells` cells down and across, float32 `(h, w)`, scaled to about [-1, 1]."""
    (h, w), (down, across) = size, cells
    angles = rng.uniform(0, 2 * np.pi, (down + 1, across + 1))
    gradients = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # (y, x)
    y, x = (np.arange(h) + 0.5) * down / h, (np.arange(w) + 0.5) * across / w
    row, column = y.astype(int), x.astype(int)
    v, u = (y - row)[:, None], (x - column)[None, :]

    def corner(dy: int, dx: int) -> np.ndarray:
        gradient = gradients[row + dy][:, column + dx]
        return gradient[..., 0] * (v - dy) + gradient[..., 1] * (u - dx)

    fade_v, fade_u = (t * t * t * (t * (t * 6 - 15) + 10) for t in (v, u))
    top = corner(0, 0) * (1 - fade_u) + corner(0, 1) * fade_u
    bottom = corner(1, 0) * (1 - fade_u) + corner(1, 1) * fade_u
    return (np.sqrt(2) * (top * (1 - fade_v) + bottom * fade_v)).astype(np.float32)


def mask(size: tuple[int, int], finest: int, rng: np.random.Generator, inside: np.ndarray | None = None) -> np.ndarray:
    """Where an anomaly is, bool `(h, w)`, neither empty nor full, within `inside` bool `(h, w)` where that is given.

    The grid has 1 to 2**`finest` cells each way. A region too small for the noise to hit is marked whole."""
    most = [max(0, min(finest, int(np.log2(side)) - 1)) for side in size]
    for _ in range(ATTEMPTS):
        down, across = (2 ** int(rng.integers(0, m + 1)) for m in most)
        found = noise(size, (down, across), rng) > THRESHOLD
        if inside is not None:
            found &= inside
        if found.any() and not found.all():
            return found
    return np.ones(size, bool) if inside is None else inside.copy()


def foreign(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture made of uint8 `image` `(3, h, w)`: float32, same shape, 0 to 255."""
    x = image.astype(np.float32)
    if x.shape[1] == x.shape[2]:
        x = np.rot90(x, int(rng.integers(4)), axes=(1, 2))
    x = x[:, :: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    x = np.roll(x, (int(rng.integers(x.shape[1])), int(rng.integers(x.shape[2]))), axis=(1, 2))
    changes = rng.choice(4, size=2, replace=False)
    if 0 in changes:  # contrast and brightness
        middle = x.mean()
        x = (x - middle) * rng.uniform(0.5, 2.0) + middle + rng.uniform(-80, 80)
    if 1 in changes:  # colour: each channel its own gain
        x = x * rng.uniform(0.6, 1.4, (3, 1, 1))
    if 2 in changes:  # negative
        x = 255 - x
    if 3 in changes:  # few tones
        step = 256 / int(rng.integers(2, 7))
        x = np.floor(np.clip(x, 0, 255) / step) * step + step / 2
    return np.clip(x, 0, 255).astype(np.float32)


def blend(image: np.ndarray, texture: np.ndarray, where: np.ndarray, opacity: float) -> np.ndarray:
    """uint8 `image` `(3, h, w)` with `texture` laid over it inside `where` `(h, w)`, as in section 3.3."""
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * texture
    return np.where(where, np.rint(np.clip(mixed, 0, 255)), image).astype(np.uint8)


def corrupted(
    images: np.ndarray,
    i: int,
    rng: np.random.Generator,
    chance: float = 0.5,
    opacity: tuple[float, float] = (0.2, 1.0),
    finest: int = 5,
    inside: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Image i of uint8 `(n, 3, h, w)` as it is or, with `chance`, with a texture from the batch blended in; and the
    mask, bool `(h, w)`, within what counts of that image, `inside` bool `(h, w)`. `opacity` is the range of the
    paper's beta, drawn evenly (there from 0.1 to 1)."""
    image = images[i]
    if rng.random() >= chance:
        return image, np.zeros(image.shape[1:], bool)
    where = mask(image.shape[1:], finest, rng, inside)
    texture = foreign(images[rng.integers(len(images))], rng)
    return blend(image, texture, where, float(rng.uniform(*opacity))), where
