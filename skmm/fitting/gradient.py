"""The gradient loop: one skorch net, whose loss each method brings.

`train` runs epochs over a `BlockData`; what surrounds an epoch (learning rate,
records, early stopping, checkpoints, scikit-learn's callbacks) is in `EpochControl`.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, GradientNormClipping
from skorch.helper import predefined_split
from torch import Tensor, nn

from skmm.fitting.checkpoint import Checkpoint
from skmm.fitting.data import Batch, BatchIterator, BlockData, batch_bounds

Loss = Callable[[nn.Module, Any, Tensor | None, Batch], Tensor]
"""``loss(network, network's output, targets, batch)`` to a scalar.

A loss that has ``begin_epoch(number)`` is told the number of each epoch from 0, and one
that has ``end_epoch()`` gives what it summed up in it as a dict of floats.
"""

# Parameters of skorch's net that the estimators set themselves.
RESERVED_NET_PARAMS = (
    "module",
    "criterion",
    "lr",
    "max_epochs",
    "batch_size",
    "device",
    "verbose",
    "warm_start",
    "train_split",
    "precision",
    "optimizer__lr",
    "optimizer__weight_decay",
)


class StopTraining(Exception):
    """Ends the epochs; unlike skorch's KeyboardInterrupt, never a user's Ctrl-C."""


class GradientNet(NeuralNet):
    """skorch net over batches of a `BlockData`, with the loss as its criterion.

    Parameters
    ----------
    module : Module
        Called with a batch's blocks, time masks and mask of observed modalities.
    criterion : Loss
    precision : {None, "bf16"}, default=None
        "bf16" runs the forward pass of training steps in bfloat16 where torch's
        autocast does.
    **kwargs
        To `skorch.NeuralNet`.
    """

    def __init__(self, module, criterion, *, precision=None, **kwargs):
        self.precision = precision
        kwargs.setdefault("iterator_train", BatchIterator)
        kwargs.setdefault("iterator_train__shuffle", True)
        kwargs.setdefault("iterator_valid", BatchIterator)
        super().__init__(module, criterion, **kwargs)

    @property
    def _default_callbacks(self):
        # Their scoring and printing cost a tenth of a small net's step.
        return []

    def initialize_criterion(self):
        """Take the loss as it is; skorch would call it to make one."""
        self.criterion_ = self.criterion
        return self

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Split parameters in two groups: offsets and norms are not decayed."""
        (groups, *args), kwargs = super().get_params_for_optimizer(
            prefix, named_parameters
        )
        split = []
        for group in groups:
            matrices = [p for p in group["params"] if p.dim() > 1]
            offsets = [p for p in group["params"] if p.dim() <= 1]
            split.append({**group, "params": matrices})
            split.append({**group, "params": offsets, "weight_decay": 0.0})
        return ([g for g in split if g["params"]], *args), kwargs

    def infer(self, x, **fit_params):
        """Outputs of the network for a batch."""
        with self._autocast():
            return self.module_(x["blocks"], x["steps"], x["observed"])

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """One pass over the batches; records the mean loss of the rows.

        The sum stays on the device: reading each step's loss would wait for a GPU.
        """
        if iterator is None:
            return
        total, n_rows = 0.0, 0
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            size = batch[0]["observed"].shape[1]
            total = total + step["loss"].detach() * size
            n_rows += size
            self.notify("on_batch_end", batch=batch, training=training, **step)
        self.history.record(prefix + "_loss", float(total) / n_rows)

    def _set_training(self, training=True):
        # skorch sets the mode each step, which walks the whole network.
        if self.module_.training != training:
            super()._set_training(training)

    def _autocast(self):
        if self.precision is None or not self.module_.training:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Value of the method's loss for a batch's outputs, in full precision."""
        return self.criterion_(self.module_, y_pred, y_true, X)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train: shared by all gradient-trained estimators.

    `weight_decay` is that of an epoch: each of its s steps gets ``weight_decay / s``,
    so that the shrinkage over a training depends neither on the number of rows nor on
    their division into batches.

    `lr_schedule` "cosine" takes the rate from `lr` to zero over `max_epochs`,
    "constant" keeps it.
    """

    lr: float
    max_epochs: int
    batch_size: int
    weight_decay: float = 0.0
    lr_schedule: str = "constant"
    clip_norm: float | None = None
    n_iter_no_change: int = 10
    precision: str | None = None
    verbose: int = 0
    net_params: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if self.lr_schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.max_epochs))


@dataclass
class TrainingRecord:
    """What training leaves beside the network's weights.

    `best_state` holds copies of the weights at the lowest validation loss; the live
    ones go on changing. `terms` are what the loss gives of each epoch.
    """

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] | None = None
    stopped: bool = False
    terms: list[dict[str, float]] = field(default_factory=list)

    def note_validation(self, loss: float, network: nn.Module) -> None:
        """Keep a copy of the weights if the validation loss is the lowest."""
        self.validation_losses.append(loss)
        if loss < self.best_loss or self.best_state is None:
            self.best_loss, self.best_epoch = loss, len(self.validation_losses)
            self.best_state = {k: v.clone() for k, v in network.state_dict().items()}


class EpochControl(Callback):
    """What happens at the borders of an epoch, in this order.

    Rate set; epoch run; losses recorded; early stopping judged; checkpoint written;
    scikit-learn's callbacks told; training ended if any of them says so.

    Parameters
    ----------
    settings : TrainingSettings
    record : TrainingRecord
        Filled as training goes on.
    hooks : EpochHooks
        To scikit-learn's callbacks.
    checkpoint : Checkpoint or None
    """

    def __init__(self, settings, record, hooks, checkpoint=None):
        self.settings, self.record = settings, record
        self.hooks, self.checkpoint = hooks, checkpoint

    def on_epoch_begin(self, net, **kwargs):
        """Set the learning rate and tell that the epoch begins."""
        number = len(self.record.losses)
        for group in net.optimizer_.param_groups:
            group["lr"] = self.settings.rate(number)
        if hasattr(net.criterion_, "begin_epoch"):
            net.criterion_.begin_epoch(number)
        self.hooks.begin()

    def on_epoch_end(self, net, **kwargs):
        """Record, judge, save, tell and perhaps stop."""
        record, settings = self.record, self.settings
        epoch = net.history[-1]
        record.losses.append(epoch["train_loss"])
        if hasattr(net.criterion_, "end_epoch"):
            record.terms.append(net.criterion_.end_epoch())
        if not math.isfinite(record.losses[-1]):
            raise ValueError(
                f"training diverged: the loss of epoch {len(record.losses)} is "
                f"{record.losses[-1]}. Use a smaller lr (it is {settings.lr}) or a "
                f"smaller clip_norm (it is {settings.clip_norm})."
            )
        if "valid_loss" in epoch:
            finite = math.isfinite(epoch["valid_loss"])
            loss = epoch["valid_loss"] if finite else math.inf
            record.note_validation(loss, net.module_)
            waited = len(record.validation_losses) - record.best_epoch
            record.stopped = waited >= settings.n_iter_no_change
        if settings.verbose:
            print(_epoch_line(record, settings.max_epochs))
        if self.checkpoint is not None:
            self.checkpoint.save(net, record)
        if self.hooks.end(net.module_) or record.stopped:
            raise StopTraining


def _epoch_line(record: TrainingRecord, max_epochs: int) -> str:
    line = f"epoch {len(record.losses)}/{max_epochs}, loss {record.losses[-1]:.4f}"
    if record.validation_losses:
        line += f", validation loss {record.validation_losses[-1]:.4f}"
    return line


class EpochHooks:
    """Tells scikit-learn's callbacks of each epoch.

    Parameters
    ----------
    context : CallbackContext
        The root context of the fit, whose subtasks are the epochs.
    estimator : estimator
    told : dict
        X, y and metadata as the estimator got them.
    fitted_attributes : callable
        From the network to the attributes of a fitted copy of the estimator; called
        only where a callback asks for one.
    """

    def __init__(self, context, estimator, told, fitted_attributes):
        self.context, self.estimator, self.told = context, estimator, told
        self.fitted_attributes = fitted_attributes
        self.epoch = None

    def begin(self) -> None:
        """Open the epoch's task."""
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.estimator, **self.told)

    def end(self, network: nn.Module) -> bool:
        """Close the epoch's task; True where a callback asks to stop."""
        return self.epoch.call_on_fit_task_end(
            estimator=self.estimator,
            **self.told,
            reconstruction_attributes=lambda: self.fitted_attributes(network),
        )


def train(
    network: nn.Module,
    loss: Loss,
    data: BlockData,
    settings: TrainingSettings,
    hooks: EpochHooks,
    *,
    validation: BlockData | None = None,
    checkpoint: Checkpoint | None = None,
    optimizer_state: dict[str, Any] | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> tuple[TrainingRecord, dict[str, Any]]:
    """Train a network in place.

    With validation data the network ends with the weights of its best epoch.

    Parameters
    ----------
    network : Module
        On the device of the data.
    loss : callable
        See `Loss`.
    data : BlockData
    settings : TrainingSettings
    hooks : EpochHooks
    validation : BlockData, default=None
        Where given, training ends after `n_iter_no_change` epochs without a lower
        loss on it.
    checkpoint : Checkpoint, default=None
        Saved after each epoch; a run found there is taken up where it ended.
    optimizer_state : dict, default=None
        To go on with an earlier training.
    callbacks : tuple of skorch Callback
        The method's own.

    Returns
    -------
    record : TrainingRecord
    optimizer_state : dict
    """
    record = TrainingRecord()
    control = EpochControl(settings, record, hooks, checkpoint)
    try:
        net = _build_net(
            network, loss, settings, data, validation, [*callbacks], control
        )
        net.initialize()
    except (TypeError, ValueError) as error:
        if not settings.net_params:
            raise
        raise type(error)(
            f"net_params: skorch does not take {dict(settings.net_params)}: {error}"
        ) from error
    if optimizer_state is not None:
        _load_moments(net.optimizer_, optimizer_state)
    if checkpoint is not None:
        checkpoint.restore(net, record)
    left = 0 if record.stopped else settings.max_epochs - len(record.losses)
    net.notify("on_train_begin", X=data, y=None)
    with suppress(StopTraining):
        net.fit_loop(data, epochs=left)
    net.notify("on_train_end", X=data, y=None)
    if record.best_state is not None:
        network.load_state_dict(record.best_state)
    return record, net.optimizer_.state_dict()


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up an optimiser's moments, with the rates and decay of this training."""
    new = [
        {k: v for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                # In the parameter's memory format, which fused kernels take for given.
                moments[name] = torch.empty_like(parameter).copy_(value)
    for group, settings in zip(optimizer.param_groups, new, strict=True):
        group.update(settings)


def _build_net(network, loss, settings, data, validation, callbacks, control):
    extra = dict(settings.net_params)
    n_steps = len(batch_bounds(len(data), settings.batch_size)) - 1
    if settings.clip_norm is not None:
        callbacks.append(GradientNormClipping(settings.clip_norm))
    callbacks += extra.pop("callbacks", None) or []
    callbacks.append(control)
    optimizer = extra.setdefault("optimizer", torch.optim.AdamW)
    if optimizer in (torch.optim.Adam, torch.optim.AdamW):
        # One kernel for all parameters: half the time of a small net's step.
        extra.setdefault("optimizer__fused", True)
    return GradientNet(
        network,
        loss,
        precision=settings.precision,
        lr=settings.lr,
        max_epochs=settings.max_epochs,
        batch_size=settings.batch_size,
        optimizer__weight_decay=settings.weight_decay / n_steps,
        train_split=None if validation is None else predefined_split(validation),
        callbacks=callbacks,
        device=str(next(network.parameters()).device),
        verbose=0,
        **extra,
    )


# The generators are the process's: a block in which another thread draws, too, would
# neither be reproducible nor put them back.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the block and leave the global generators untouched.

    Other threads wait for their turn.
    """
    if device.type == "cpu":
        devices = []
    else:
        index = device.index
        devices = [torch.cuda.current_device() if index is None else index]
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would seed every GPU's generator.
        torch.default_generator.manual_seed(seed)
        for i in devices:
            torch.cuda.default_generators[i].manual_seed(seed)
        yield
