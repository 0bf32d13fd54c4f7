"""Training networks whose robustness can be proved, or put to the test."""

from verifix.train.adversarial import evaluate_attacked
from verifix.train.cascade import CascadeTraining, StageTraining, train_cascade
from verifix.train.divergence import TrainingDiverged
from verifix.train.log import Epoch, Measures
from verifix.train.loop import train
from verifix.train.loss import robust_logits, robust_loss
from verifix.train.settings import TrainSettings
from verifix.train.trainer import Progress, Training
from verifix.train.validation import evaluate, evaluate_under_noise, hold_out

__all__ = [
    "CascadeTraining",
    "Epoch",
    "Measures",
    "Progress",
    "StageTraining",
    "TrainSettings",
    "Training",
    "TrainingDiverged",
    "evaluate",
    "evaluate_attacked",
    "evaluate_under_noise",
    "hold_out",
    "robust_logits",
    "robust_loss",
    "train",
    "train_cascade",
]
