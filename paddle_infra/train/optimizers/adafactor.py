r"""Adafactor: second moments of a matrix from the means of its rows and columns (arXiv:1804.04235)."""

from __future__ import annotations

import math
from typing import Any

import paddle

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.optimizers.decoupled import DecoupledOptimizer, WeightDecay, check_rate


class Adafactor(DecoupledOptimizer):
    r"""Adafactor: memory of order *n + m* instead of *nm* for the second moments of an *n × m* matrix.

    With the gradient *G* of a matrix *X* at step *t* (from 1),

    .. math::
        \hat\beta_t &= 1 - t^{-c}, \qquad
        R_t = \hat\beta_t R_{t-1} + (1 - \hat\beta_t) \operatorname{mean}_{columns}(G^2 + \epsilon_1), \qquad
        C_t \text{ likewise over rows} \\
        U &= G \big/ \sqrt{R_t C_t / \operatorname{mean}(R_t)}, \qquad
        \hat U = U / \max(1, \operatorname{RMS}(U) / d) \\
        \alpha_t &= \rho_t \max(\epsilon_2, \operatorname{RMS}(X)) \\
        X &\leftarrow X - \alpha_t (\hat U + \lambda X)

    where :math:`\rho_t = \min(\eta_t, 1 / \sqrt{t})` with ``relative_step``, else :math:`\rho_t = \eta_t`; without
    ``scale_parameter`` :math:`\alpha_t = \rho_t`. With ``beta1`` the step follows
    :math:`M_t = \beta_1 M_{t-1} + (1 - \beta_1) \hat U` instead of :math:`\hat U`. Vectors and scalars keep their
    whole second moment.

    The paper has sums where this has means, which is the same :math:`R_t C_t / \operatorname{mean}(R_t)`. A tensor of
    more than two axes is a stack of matrices in its two largest axes, of which the paper says nothing; neither does
    it know of weight decay, nor of a schedule: the paper's :math:`\rho_t` has the constant 0.01 for :math:`\eta_t`.

    Args:
        learning_rate: rate or schedule :math:`\eta`; with ``relative_step`` the largest relative step.
        relative_step: whether the step shrinks with :math:`1 / \sqrt{t}`.
        scale_parameter: whether steps are relative to the size of the parameter.
        beta1: momentum in [0, 1), or None for none, which saves the memory for it.
        decay_exponent: *c*, above 0.
        clip_threshold: *d*, above 0: largest root mean square of an update.
        epsilon1: regularises the second moment.
        epsilon2: smallest size of a parameter that steps are relative to.
        parameters: parameters or parameter groups, as for Paddle's optimizers.
        weight_decay: :math:`\lambda`, or a function from a parameter's name (``parameter.name``) to its own.
        grad_clip: gradient clipping, before all of this.
        name: prefix of the accumulators.

    Raises:
        InvalidInputError: a number is out of range.
    """

    _row_acc_str, _column_acc_str = "row_moment", "column_moment"
    _moment_acc_str, _momentum_acc_str, _step_acc_str = "moment", "momentum", "step"

    def __init__(
        self,
        learning_rate: float | paddle.optimizer.lr.LRScheduler = 1e-2,
        *,
        relative_step: bool = True,
        scale_parameter: bool = True,
        beta1: float | None = None,
        decay_exponent: float = 0.8,
        clip_threshold: float = 1.0,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
        parameters: Any = None,
        weight_decay: WeightDecay = 0.0,
        grad_clip: Any = None,
        name: str | None = None,
    ) -> None:
        self._beta1 = None if beta1 is None else check_rate("beta1", beta1, is_below_one=True)
        for label, value in (("decay_exponent", decay_exponent), ("clip_threshold", clip_threshold)):
            if not value > 0 or not math.isfinite(value):
                raise InvalidInputError(f"{label}: expected a positive number, got {value!r}")
        self._decay_exponent, self._clip_threshold = float(decay_exponent), float(clip_threshold)
        self._epsilon1, self._epsilon2 = check_rate("epsilon1", epsilon1), check_rate("epsilon2", epsilon2)
        self._relative_step, self._scale_parameter = relative_step, scale_parameter
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        self.type = "adafactor"

    def _make_accumulators(self, parameter: Any) -> None:
        shape = list(parameter.shape)
        if len(shape) < 2:
            self._add_accumulator(self._moment_acc_str, parameter)
        else:
            row, column = factored_axes(shape)
            for name, axis in ((self._row_acc_str, column), (self._column_acc_str, row)):
                mean_shape = [1 if index == axis else size for index, size in enumerate(shape)]
                self._add_accumulator(name, parameter, shape=mean_shape)
        if self._beta1 is not None:
            self._add_accumulator(self._momentum_acc_str, parameter)
        # On the CPU, as Paddle's powers of beta: it is read at every step. float64 counts as far as needed.
        self._add_accumulator(self._step_acc_str, parameter, dtype="float64", shape=[1], device="cpu")

    def _update(self, parameter: Any, gradient: Any, learning_rate: Any, weight_decay: float) -> None:
        counter = self._get_accumulator(self._step_acc_str, parameter)
        counter.add_(paddle.ones([1], "float64").cpu())
        step = int(counter.item())
        update = self._normalised(parameter, gradient, step**-self._decay_exponent)
        update.divide_(paddle.clip(_rms(update) / self._clip_threshold, min=1.0))
        if self._beta1 is not None:
            momentum = self._get_accumulator(self._momentum_acc_str, parameter)
            update = momentum.lerp_(update, 1.0 - self._beta1)
        if self._relative_step:
            # ``learning_rate`` carries the parameter's own factor, which applies to the smaller of the two.
            factor = parameter.optimize_attr.get("learning_rate", 1.0)
            learning_rate = paddle.clip(learning_rate, max=factor / math.sqrt(step))
        if self._scale_parameter:
            learning_rate = learning_rate * paddle.clip(_rms(parameter), min=self._epsilon2)
        if weight_decay:
            update = update + paddle.scale(parameter, weight_decay)
        parameter.subtract_(update * learning_rate)

    def _normalised(self, parameter: Any, gradient: Any, weight: float) -> Any:
        """Update the second moments, which the new square enters with ``weight``; return the gradient over its root."""
        square = paddle.square(gradient).add_(paddle.full([], self._epsilon1, gradient.dtype))
        if gradient.ndim < 2:
            moment = self._get_accumulator(self._moment_acc_str, parameter).lerp_(square, weight)
            return gradient * paddle.rsqrt(moment)
        row_axis, column_axis = factored_axes(gradient.shape)
        row = self._get_accumulator(self._row_acc_str, parameter)
        column = self._get_accumulator(self._column_acc_str, parameter)
        row.lerp_(paddle.mean(square, axis=column_axis, keepdim=True), weight)
        column.lerp_(paddle.mean(square, axis=row_axis, keepdim=True), weight)
        # Two roots instead of the root of the product: squares of small gradients would underflow.
        share = row / paddle.mean(row, axis=row_axis, keepdim=True)
        return gradient * paddle.rsqrt(share) * paddle.rsqrt(column)


def factored_axes(shape: Any) -> tuple[int, int]:
    """Return the two largest axes in ascending order; of equal ones the last."""
    largest = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
    return min(largest), max(largest)


def _rms(tensor: Any) -> Any:
    return paddle.sqrt(paddle.mean(paddle.square(tensor)))
