"""Attacks: what a certificate says cannot be found, looked for."""

from verifix.attack.apgd import APGD, TargetedAPGD
from verifix.attack.base import Attack
from verifix.attack.biased import BiasedAttack, attack_biased
from verifix.attack.carlini_wagner import CarliniWagner
from verifix.attack.cascade import CascadeAttack, attack_cascade
from verifix.attack.criteria import Criterion, Targeted, Untargeted, Violates
from verifix.attack.ddn import DDN
from verifix.attack.deepfool import DeepFool
from verifix.attack.evaluate import Evaluation, evaluate
from verifix.attack.fast_gradient import FGSM, RandomFGSM, UniformFGSM
from verifix.attack.noise import GaussianNoise, SaltAndPepper
from verifix.attack.projected_gradient import BIM, MIM, PGD
from verifix.attack.registry import standard
from verifix.attack.result import AttackResult
from verifix.attack.run import attack_run
from verifix.attack.square import Square
from verifix.attack.unions import MultiSteepestDescent, WorstOf, augmentation
from verifix.attack.wasserstein import FlowPGD, FrankWolfe, PlanPGD, SinkhornPGD

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "AttackResult",
    "BiasedAttack",
    "CarliniWagner",
    "CascadeAttack",
    "Criterion",
    "DeepFool",
    "Evaluation",
    "FlowPGD",
    "FrankWolfe",
    "GaussianNoise",
    "MultiSteepestDescent",
    "PlanPGD",
    "RandomFGSM",
    "SaltAndPepper",
    "SinkhornPGD",
    "Square",
    "Targeted",
    "TargetedAPGD",
    "UniformFGSM",
    "Untargeted",
    "Violates",
    "WorstOf",
    "attack_biased",
    "attack_cascade",
    "attack_run",
    "augmentation",
    "evaluate",
    "standard",
]
