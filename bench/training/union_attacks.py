"""Attack networks that were trained for a union of balls, and write the table: clean, by attack, by norm and overall.

    python bench/training/union_attacks.py --data mnist:DIR FOLDER=RUN/best.safetensors ...

Each FOLDER=WEIGHTS names a folder and the weights of a ``verifix.zoo:mnist_small``. FOLDER/attacks.json gets an entry
for each attack as soon as it is done: its settings, and for each input whether the network withstood it. Attacks that
are there with the same settings, inputs and weights are not run again, so that the command can be stopped and repeated.
FOLDER without WEIGHTS is only read. The table is printed. For a norm, and for all, what counts is the worst case of
each input: it is robust where it is classified correctly and withstands every attack.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from verifix._version import __version__
from verifix.attack import (
    DDN,
    FGSM,
    MIM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    GaussianNoise,
    MultiSteepestDescent,
    SaltAndPepper,
)
from verifix.data import Dataset, load
from verifix.files import write_json
from verifix.models import fingerprint, load_model
from verifix.sets import Ball, Union
from verifix.sets.base import Norm

RADII: dict[Norm, float] = {"linf": 0.3, "l2": 1.5, "l1": 12.0}
NAMES = {
    "linf": "l_inf attacks (0.3)",
    "l2": "l2 attacks (1.5)",
    "l1": "l1 attacks (12)",
    "union": "multi steepest descent",
}
BALLS: dict[str, Ball] = {norm: Ball(norm, eps, (0, 1)) for norm, eps in RADII.items()}
THREATS: dict[str, Ball | Union] = {**BALLS, "union": Union(*BALLS.values())}


def attacks(restarts: int) -> dict[str, dict[str, Attack]]:
    """The attacks of each norm, as in table 5.2 of the thesis, the quick ones first."""
    pgd: dict[str, Any] = {"steps": 100, "restarts": restarts, "start_from": "both", "final_step": 0.1}
    return {
        "linf": {
            "FGSM": FGSM(),
            "MIM": MIM(steps=100),
            "PGD": PGD(relative_step_size=1 / 15, **pgd),
        },
        "l2": {
            "Gaussian noise": GaussianNoise(repeats=10 * restarts),
            "DeepFool": DeepFool(),
            "DDN": DDN(),
            "PGD": PGD(relative_step_size=1 / 10, **pgd),
            "Carlini-Wagner": CarliniWagner(searches=5, steps=200, learning_rate=0.05, initial_constant=0.1),
        },
        "l1": {
            "salt and pepper": SaltAndPepper(repeats=10 * restarts),
            "PGD": PGD(relative_step_size=1 / 10, **pgd),
        },
        "union": {"MSD": MultiSteepestDescent(restarts=restarts)},
    }


def evaluate(folder: Path, weights: str, data: Dataset, restarts: int, seed: int) -> None:
    """Run what is missing in a folder."""
    model = load_model("verifix.zoo:mnist_small", weights)
    about = {"data": f"{data.name}:{data.split}", "n": len(data), "data_sha256": data.digest(), "seed": seed}
    about |= {"parameters_sha256": fingerprint(model), "radii": RADII, "box": [0, 1]}
    path = folder / "attacks.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if {name: known.get(name) for name in about} != about:
        known = {**about, "attacks": []}
    folder.mkdir(parents=True, exist_ok=True)
    for norm, named in attacks(restarts).items():
        for name, attack in named.items():
            key = {"norm": norm, "name": name, "settings": attack.settings()}
            key = json.loads(json.dumps(key))  # tuples are lists there
            done = {json.dumps({part: entry[part] for part in key}) for entry in known["attacks"]}
            if json.dumps(key) in done:
                continue
            threat = THREATS[norm]
            began = time.process_time()
            found = attack(model, data.images, data.labels, threat, seed=seed, batch=250)
            entry = {
                **key,
                "verifix": __version__,
                "accuracy": float(found.withstood.double().mean()),
                "undecided": int((~found.withstood & ~found.success).sum()),
                "forwards": float(found.forwards.double().mean()),
                "backwards": float(found.backwards.double().mean()),
                "processor_seconds": round(time.process_time() - began, 1),
                "withstood": "".join("01"[int(robust)] for robust in found.withstood),
            }
            known["attacks"] = [old for old in known["attacks"] if (old["norm"], old["name"]) != (norm, name)] + [entry]
            clean = model(data.images).argmax(1) == data.labels
            known["correct"] = "".join("01"[int(right)] for right in clean)
            write_json(path, known)
            print(f"{folder.name}: {norm} {name} {entry['accuracy']:.1%}", file=sys.stderr, flush=True)


def table(folders: list[Path]) -> str:
    """One column for each folder."""
    rows: dict[str, list[str]] = {}
    for folder in folders:
        found = json.loads((folder / "attacks.json").read_text())
        correct = [bit == "1" for bit in found["correct"]]
        rows.setdefault("clean", []).append(_share(correct))
        overall = correct
        for norm, title in NAMES.items():
            worst = correct
            for entry in (entry for entry in found["attacks"] if entry["norm"] == norm):
                withstood = [bit == "1" for bit in entry["withstood"]]
                worst = [a and b for a, b in zip(worst, withstood, strict=True)]
                if norm != "union":
                    rows.setdefault(f"{entry['name']}, {norm}", []).append(_share(withstood))
            rows.setdefault(f"**{title}**", []).append(_share(worst))
            overall = [a and b for a, b in zip(overall, worst, strict=True)]
        rows.setdefault("**all attacks**", []).append(_share(overall))
    lines = [["", *(folder.name for folder in folders)], ["---"] * (len(folders) + 1)]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [*lines, *([name, *cells] for name, cells in rows.items())]
    )


def _share(bits: list[bool]) -> str:
    return f"{sum(bits) / len(bits):.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="FOLDER[=WEIGHTS]")
    parser.add_argument("--data", required=True, help="such as mnist:DIR")
    parser.add_argument("--limit", type=int, default=1000, help="the first so many test images (default: 1000)")
    parser.add_argument("--restarts", type=int, default=10, help="of PGD and multi steepest descent (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folders = []
    for network in args.networks:
        folder, _, weights = network.partition("=")
        folders.append(Path(folder))
        if weights:
            data = load(args.data).first(args.limit)
            evaluate(folders[-1], weights, data, args.restarts, args.seed)
    print(table(folders))


if __name__ == "__main__":
    main()
