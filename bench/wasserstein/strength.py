"""How strong the attacks on Wasserstein balls are: accuracy left, what it took, and how far the examples really are.

    python -m bench.wasserstein.strength --data mnist:DIR --weights mnist_vanilla.pth --out bench/wasserstein

Every line of the table is written to ``strength.json`` as soon as it is there, with ``strength.md`` beside it; what is
there already is not run again. ``README.md`` says what is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verifix.attack import Attack, FlowPGD, FrankWolfe, PlanPGD, SinkhornPGD
from verifix.data.load import load
from verifix.files import write_bytes, write_json
from verifix.models import load_model
from verifix.sets import Wasserstein

VARIANTS = ("balanced", "balanced-box", "clamp-after")
RADII = (0.3, 0.5, 0.1)
LOCAL: dict[str, Attack] = {
    "PlanPGD": PlanPGD(),
    "FrankWolfe": FrankWolfe(),
    "SinkhornPGD": SinkhornPGD(),
}
FLOW: dict[str, Attack] = {"FlowPGD": FlowPGD()}
GROWING: dict[str, Attack] = {"SinkhornPGD, growing eps": SinkhornPGD(first_eps=0.3, steps=200)}


def lines() -> list[tuple[str, Attack, Wasserstein]]:
    """Every line of the table: name of the attack, attack, threat model."""
    found = []
    for eps in RADII:
        for variant in VARIANTS:
            local = Wasserstein(eps=eps, window=5, variant=variant)  # type: ignore[arg-type]
            flow = Wasserstein(eps=eps, ground="l1", window=None, transport="flow", variant=variant)  # type: ignore[arg-type]
            found += [(name, attack, local) for name, attack in LOCAL.items()]
            found += [(name, attack, flow) for name, attack in FLOW.items()]
    for eps in (0.5, 1.0):
        found += [(name, attack, Wasserstein(eps=eps, variant="clamp-after")) for name, attack in GROWING.items()]
    return found


def line(model: nn.Module, x: Tensor, y: Tensor, name: str, attack: Attack, threat: Wasserstein) -> dict[str, Any]:
    """What one attack does to all images, on one thread, in seconds of that thread."""
    begin = time.process_time()
    result = attack(model, x, y, threat)
    seconds = time.process_time() - begin
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    new = result.success & clean
    distance = result.sets.select(new.nonzero()[:, 0]).distance(result.examples[new])
    lost = 1 - result.examples.double().flatten(1).sum(1) / x.double().flatten(1).sum(1)
    return {
        "attack": name,
        "settings": attack.settings(),
        "threat": threat.settings(),
        "images": len(x),
        "clean_accuracy": float(clean.double().mean()),
        "accuracy": float((~result.success).double().mean()),
        "forwards": float(result.forwards.double().mean()),
        "backwards": float(result.backwards.double().mean()),
        "seconds": seconds,
        "distance_mean": float(distance.mean()) if len(distance) else None,
        "distance_max": float(distance.max()) if len(distance) else None,
        "mass_lost": float(lost[new].mean()) if len(distance) else None,
        "brightest": float(result.examples[new].max()) if len(distance) else None,
    }


def table(found: list[dict[str, Any]]) -> str:
    """All lines as markdown."""
    rows = [
        "| eps | set | attack | accuracy left | forwards | backwards | true distance, mean | max | mass lost "
        "| brightest pixel | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: one["threat"]["eps"]):
        threat = one["threat"]
        kind = threat["variant"] + (", flow" if threat["transport"] == "flow" else "")
        numbers = [
            "" if one[key] is None else format(round(one[key], 5) + 0.0, how)
            for key, how in (
                ("distance_mean", ".3f"),
                ("distance_max", ".3f"),
                ("mass_lost", ".2%"),
                ("brightest", ".2f"),
            )
        ]
        rows.append(
            f"| {threat['eps']:g} | {kind} | {one['attack']} | {one['accuracy']:.1%} | {one['forwards']:.1f} "
            f"| {one['backwards']:.1f} | {' | '.join(numbers)} | {one['seconds']:.1f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist:DIR")
    parser.add_argument("--weights", required=True, help="projected_sinkhorn's mnist_vanilla.pth")
    parser.add_argument("--limit", type=int, default=200, help="so many test images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load(arguments.data).first(arguments.limit)
    model = load_model("verifix.zoo:mnist_small", weights=arguments.weights)
    path = arguments.out / "strength.json"
    found = json.loads(path.read_text())["lines"] if path.exists() else []
    kept = []
    for name, attack, threat in lines():
        key = {"settings": attack.settings(), "threat": threat.settings(), "images": len(data)}
        key = json.loads(json.dumps(key))
        done = [one for one in found if {field: one[field] for field in key} == key]
        one = done[0] if done else line(model, data.images, data.labels, name, attack, threat)
        kept.append(one)
        if not done:
            print(table([one]).splitlines()[-1], flush=True)
            rest = [other for other in found if other not in kept]
            write_json(path, {"lines": kept + rest})
    write_json(path, {"lines": kept})
    write_bytes(arguments.out / "strength.md", table(kept).encode())


if __name__ == "__main__":
    main()
