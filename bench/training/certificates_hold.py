"""Attack what a comparison has certified: the inputs of smallest certified margins, by every attack on l_inf balls.

    python certificates_hold.py COMPARISON verifix.zoo:mnist_small --data mnist:DIR

``COMPARISON`` is a folder of ``verifix compare``. What was found is in ``COMPARISON/certificates.json``, network by
network, and printed as a table; networks that are there already are not attacked again. An attack breaks a certificate
where the answer changes, and where it finds a margin below the certified one by more than float32 rounds. Exit status 1
if any is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from verifix.attack import (
    APGD,
    BIM,
    FGSM,
    MIM,
    PGD,
    Attack,
    DeepFool,
    GaussianNoise,
    RandomFGSM,
    SaltAndPepper,
    Square,
    TargetedAPGD,
    UniformFGSM,
)
from verifix.certify.store import Record, read_records
from verifix.data import Dataset, load
from verifix.files import write_json
from verifix.models import load_model
from verifix.sets import Ball

ATTACKS: dict[str, Attack] = {
    "FGSM": FGSM(),
    "uniform FGSM": UniformFGSM(),
    "random FGSM": RandomFGSM(),
    "BIM": BIM(steps=100),
    "MIM": MIM(steps=100),
    "PGD, margin": PGD(steps=100, restarts=3, start_from="both", loss="margin"),
    "APGD": APGD(steps=100),
    "APGD, DLR": APGD(steps=100, loss="dlr"),
    "targeted APGD": TargetedAPGD(steps=30),
    "DeepFool": DeepFool(steps=50),
    "Square": Square(queries=1000),
    "Gaussian noise": GaussianNoise(repeats=50, searches=0),
    "salt and pepper": SaltAndPepper(repeats=50, searches=0),
}


ROUNDING = 1e-4
"""What a margin may be below the certified one in float32, of one plus its size."""


def certified(cell: Path, most: int) -> dict[int, float]:
    """Certified margins of a cell by input, the smallest ones, and at most so many."""
    margins: dict[int, float] = {}
    for name in ("certify", "own"):
        if not (cell / name).is_dir():
            continue
        for index, record in enumerate(read_records(cell / name, Record)[0]):
            if record.verdict == "verified" and record.margin is not None:
                margins[index] = max(margins.get(index, -math.inf), record.margin)
    return dict(sorted(margins.items(), key=lambda pair: pair[1])[:most])


def attack(cell: Path, model: str, data: Dataset, most: int, box: tuple[float, float]) -> dict[str, Any]:
    """How many certificates each attack broke, and how close it came to the certified margins."""
    network = load_model(model, cell / "train" / "best.safetensors")
    result = json.loads((cell / "cell.json").read_text())["result"]
    margins = certified(cell, most)
    chosen, proved = torch.tensor(list(margins), dtype=torch.int64), torch.tensor(list(margins.values()))
    x, y = data.images[chosen], data.labels[chosen]
    found: dict[str, Any] = {"eps": result["eps"], "attacked": len(chosen), "attacks": {}}
    for name, one in ATTACKS.items() if margins else ():
        began = time.process_time()
        answer = one(network, x, y, Ball("linf", result["eps"], box), seed=0, batch=250)
        inside = answer.feasible  # attacks of minimum norm end where the answer changes, mostly outside
        room = torch.where(inside, answer.margins - proved, math.inf)
        broken = answer.success | ~(room >= -ROUNDING * (1 + proved))  # NaN breaks it, too
        found["attacks"][name] = {
            "settings": one.settings(),
            "broken": int(broken.sum()),
            "indices": chosen[broken].tolist(),
            "inside": int(inside.sum()),
            "least_room": float(room.min()) if bool(inside.any()) else None,
            "processor_seconds": round(time.process_time() - began, 1),
        }
        print(f"{cell.name}: {name}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """One column for each network: how many certificates each attack broke, and the least room above a margin."""

    def entry(one: dict[str, Any] | None) -> str:
        if one is None:
            return "-"
        return str(one["broken"]) if one["least_room"] is None else f"{one['broken']} ({one['least_room']:.2g})"

    cells = list(found)
    lines = [["broken by (least room)", *cells], ["---"] * (len(cells) + 1)]
    lines += [[name, *(entry(found[cell]["attacks"].get(name)) for cell in cells)] for name in ATTACKS]
    lines.append(["certificates attacked", *(str(found[cell]["attacked"]) for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, metavar="COMPARISON")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--data", required=True, help="such as mnist:DIR")
    parser.add_argument("--most", type=int, default=1000, help="certificates of each network (default: 1000)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, path = load(args.data), args.comparison / "certificates.json"
    box = json.loads((args.comparison / "comparison.json").read_text())["settings"]["box"]
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for cell in sorted(file.parent for file in args.comparison.glob("*/cell.json")):
        done = json.loads((cell / "cell.json").read_text())["result"]["status"] == "done"
        if done and cell.name not in found:
            found[cell.name] = attack(cell, args.model, data, args.most, (box[0], box[1]))
            write_json(path, found)
    print(table(found))
    return int(any(one["broken"] for network in found.values() for one in network["attacks"].values()))


if __name__ == "__main__":
    sys.exit(main())
