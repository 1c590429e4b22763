r"""Lion: the sign of an interpolated momentum (arXiv:2302.06675, algorithm 2)."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra.train.optimizers.decoupled import DecoupledOptimizer, WeightDecay, check_rate


class Lion(DecoupledOptimizer):
    r"""Lion (EvoLved Sign Momentum): one accumulator per parameter, and steps of the same size for every entry.

    .. math::
        c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        \theta_t &= \theta_{t-1} - \eta_t (\operatorname{sign}(c_t) + \lambda \theta_{t-1}) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    The paper's advice: a learning rate 3 to 10 times smaller than AdamW's, a weight decay as many times larger.

    Args:
        learning_rate: rate or schedule :math:`\eta`.
        beta1: :math:`\beta_1`, in [0, 1).
        beta2: :math:`\beta_2`, in [0, 1).
        parameters: parameters or parameter groups, as for Paddle's optimizers.
        weight_decay: :math:`\lambda`, or a function from a parameter's name (``parameter.name``) to its own.
        grad_clip: gradient clipping.
        name: prefix of the accumulators.

    Raises:
        InvalidInputError: a number is out of range.
    """

    _momentum_acc_str = "momentum"

    def __init__(
        self,
        learning_rate: float | paddle.optimizer.lr.LRScheduler = 1e-4,
        beta1: float = 0.9,
        beta2: float = 0.99,
        parameters: Any = None,
        weight_decay: WeightDecay = 0.0,
        grad_clip: Any = None,
        name: str | None = None,
    ) -> None:
        self._beta1 = check_rate("beta1", beta1, is_below_one=True)
        self._beta2 = check_rate("beta2", beta2, is_below_one=True)
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        self.type = "lion"

    def _make_accumulators(self, parameter: Any) -> None:
        self._add_accumulator(self._momentum_acc_str, parameter)

    def _update(self, parameter: Any, gradient: Any, learning_rate: Any, weight_decay: float) -> None:
        momentum = self._get_accumulator(self._momentum_acc_str, parameter)
        update = paddle.sign(paddle.lerp(momentum, gradient, 1.0 - self._beta1))
        if weight_decay:
            update.add_(paddle.scale(parameter, weight_decay))
        parameter.subtract_(update.multiply_(learning_rate))
        momentum.lerp_(gradient, 1.0 - self._beta2)
