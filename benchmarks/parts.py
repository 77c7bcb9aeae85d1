"""The shared maths under the image detectors, measured: coreset, nearest neighbours, folded networks.

    python -m benchmarks.parts coreset --peer
    python -m benchmarks.parts nearest
    python -m benchmarks.parts folding --backbone mobilenetv2_100

Made-up features, fixed seeds, one JSON line. `--peer` times anomalib's KCenterGreedy, too, and compares covering radii
(pip install -e ".[bench]"); with `--peer-centres` only so many of its centres, each of which costs the same.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """The least of `rounds` runs, after one to warm up where there is more than one."""
    if rounds > 1:
        run()
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return min(took)


def clustered(count: int, dims: int, seed: int) -> Tensor:
    """Points `(count, dims)` like patch features: clusters of unequal size, more alike within than between."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(200, dims, generator=generator)
    which = (200 * torch.rand(count, generator=generator) ** 2).long()
    return centres[which] + 0.3 * torch.randn(count, dims, generator=generator)


def radius(points: Tensor, chosen: Tensor) -> float:
    """Largest distance of a point to its nearest centre."""
    from pipeline.parts.neighbours import Bank

    return float(Bank(points[chosen]).nearest(points)[0].max())


def coreset(chosen: argparse.Namespace) -> dict[str, Any]:
    """k-centre greedy, ours and anomalib's, from the same first point."""
    from pipeline.parts.coreset import k_centre_greedy

    points = clustered(chosen.points, chosen.dims, 0)
    centres: list[Tensor] = []
    result: dict[str, Any] = {"points": chosen.points, "dims": chosen.dims, "centres": chosen.centres}
    result["own_s"] = seconds(lambda: centres.append(k_centre_greedy(points, chosen.centres)), chosen.rounds)
    result["own_radius"] = radius(points, centres[-1])
    if chosen.peer:
        from anomalib.models.components.sampling import KCenterGreedy

        count = min(chosen.peer_centres or chosen.centres, chosen.centres)
        torch.manual_seed(0)
        sampler = KCenterGreedy(points, (count + 0.5) / chosen.points)
        found: list[list[int]] = []
        took = seconds(lambda: found.append(sampler.select_coreset_idxs()), 1)
        result["peer_s"], result["peer_centres"] = took * chosen.centres / len(found[0]), len(found[0])
        result["times_faster"] = result["peer_s"] / result["own_s"]
        if len(found[0]) == chosen.centres:
            result["peer_radius"] = radius(points, torch.tensor([int(i) for i in found[0]]))
    return result


def nearest(chosen: argparse.Namespace) -> dict[str, Any]:
    """One nearest neighbour of every query, beside the bare product of torch."""
    from pipeline.parts.neighbours import Bank

    points, queries = clustered(chosen.centres, chosen.dims, 0), clustered(chosen.queries, chosen.dims, 1)
    bank, transposed = Bank(points), points.T.contiguous()
    result: dict[str, Any] = {"bank": chosen.centres, "queries": chosen.queries, "dims": chosen.dims}
    result["product_s"] = seconds(lambda: queries @ transposed, chosen.rounds)
    result["own_s"] = seconds(lambda: bank.nearest(queries), chosen.rounds)
    result["of_product"] = result["own_s"] / result["product_s"]
    return result


def folding(chosen: argparse.Namespace) -> dict[str, Any]:
    """A network as timm runs it, and with its batch normalisations folded into its convolutions."""
    import timm

    from pipeline.parts.backbones import Backbone
    from pipeline.parts.features import load

    bare = timm.create_model(chosen.backbone, features_only=True, out_indices=(2, 3)).eval()
    x = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, images = load(Backbone(name=chosen.backbone, levels=[2, 3])), x.float()
    with torch.inference_mode():
        plain_s = seconds(lambda: bare(images), chosen.rounds)
        folded_s = seconds(lambda: ours.maps(x.numpy()), chosen.rounds)
    return {"backbone": chosen.backbone, "plain_s": plain_s, "folded_s": folded_s, "times_faster": plain_s / folded_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("coreset", "nearest", "folding"))
    parser.add_argument("--points", type=int, default=136_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--centres", type=int, default=1_363, help="of the coreset; points of the bank")
    parser.add_argument("--queries", type=int, default=12_544, help="16 images of 28 x 28 patches")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help="measure anomalib's coreset, too")
    parser.add_argument("--peer-centres", type=int, default=0, help="of anomalib's greedy that are timed; 0 for all")
    chosen = parser.parse_args()
    found = {"coreset": coreset, "nearest": nearest, "folding": folding}[chosen.what](chosen)
    print(json.dumps({"part": chosen.what, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
