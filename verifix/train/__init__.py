"""Training networks whose robustness can be proved."""

from verifix.train.loss import robust_logits, robust_loss

__all__ = ["robust_logits", "robust_loss"]
