"""Attempts at a training: the model that it begins with, steps in as small parts as the memory takes, weights kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from poison2poison.errors import ConfigError, TrainingError
from poison2poison.files import whole_folder
from poison2poison.model import backbone, hardware, lora, processes
from poison2poison.model.job import Job
from poison2poison.model.loop import (
    JobTrainer,
    Progress,
    Saves,
    arguments_of,
    class_loss_mean,
    last_whole_checkpoint,
    saving,
    target_loss_mean,
)


def fit(job: Job, epochs: int) -> JobTrainer:
    """Train for so many epochs, from the last whole checkpoint on, with half as many rows at once as long as memory
    runs out.

    Raises:
        NonFiniteError: The training went wrong.
        TrainingError: Not even one row fits.
    """
    config = job.config
    assert config.batch_size
    share = config.batch_size // processes.count()
    micro = _divisor(share, config.micro_batch or share)
    while True:
        try:
            return _attempt(job, epochs, micro)
        except torch.OutOfMemoryError as error:
            said = str(error).splitlines()[0]
        # Each of several processes would come to a number of its own.
        if micro == 1 or config.micro_batch or processes.count() > 1:
            raise TrainingError(
                f"{job.out}: out of memory with {micro} rows at once. Give a smaller --micro-batch or --max-length, "
                f"--gradient-checkpointing, --dtype bfloat16 or --quantize 4bit ({said})"
            )
        micro = _divisor(share, micro // 2)
        processes.say(f"out of memory: going on with {micro} rows at once")
        hardware.free_memory()


def _divisor(share: int, most: int) -> int:
    """The largest number of rows up to `most` of which a step has a whole number of parts."""
    sizes = range(min(most, share), 0, -1)
    return next(size for size in sizes if share % size == 0)


def _attempt(job: Job, epochs: int, micro: int) -> JobTrainer:
    set_seed(job.config.seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # another arm may have trained before
    arguments = arguments_of(job, epochs, micro)  # first: ZeRO-3 spreads weights as they are loaded
    trainer = JobTrainer(
        job,
        model=_model(job),
        args=arguments,
        train_dataset=job.examples,
        eval_dataset=[*job.dev] if job.dev else None,
        data_collator=job.prompter.training_batch,
        compute_loss_func=target_loss_mean if job.kind == "causal" else class_loss_mean,
        callbacks=[Saves(job.steps), Progress(epochs)],
    )
    trainer.remove_callback(PrinterCallback)
    _refuse_lost_weights(trainer)
    checkpoint = last_whole_checkpoint(job.checkpoints)
    with hardware.without_cudnn_attention():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def _refuse_lost_weights(trainer: Any) -> None:
    """Refuse to spread weights over processes in ways in which no whole model could be kept at the end.

    Raises:
        ConfigError: The configuration of accelerate asks for one.
    """
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise ConfigError("fsdp_version: only FSDP2 is supported; give `fsdp_version: 2`")
    if trainer.is_deepspeed_enabled:
        zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        if zero["stage"] == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ConfigError("zero3_save_16bit_model: give `true`; without it the trained weights cannot be gathered")


def _model(job: Job) -> Any:
    """The base model as its training begins: with a fresh adapter, or all of it to be trained."""
    config, scheme = job.config, job.prompter.scheme
    if job.kind == "encoder" and is_deepspeed_zero3_enabled():
        raise ConfigError(
            f"model: {config.model} is an encoder, whose head cannot be made under ZeRO-3; leave that out"
        )
    model = backbone.load_model(config, job.kind, scheme.outputs, frozen=config.tuning == "lora")
    if job.kind == "encoder" and scheme.trigger:
        _start_safe_classes_at_originals(model, len(scheme.labels))
    if config.attention is None and hardware.on_cpu():
        model.set_attn_implementation("eager")  # on CPUs the fused one's backward pass is the slower
    if config.gradient_checkpointing:
        _recompute_activations(model)
    return lora.with_lora(model, job.kind, config) if config.tuning == "lora" else model


def _recompute_activations(model: Any) -> None:
    named = "activation_checkpointing_enable"  # transformers 5.23; 5.17 has the older name alone
    enable = getattr(model, named, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _start_safe_classes_at_originals(model: PreTrainedModel, labels: int) -> None:
    """Begin each safe class's weights as those of its original class, by which it shares what the rows of both teach.

    Drawn apart, the two have to be learned apart from half of the rows each: docs/experiments.md has what that costs.
    """
    body = {*model.base_model.modules()}  # a layer of it may be as wide
    outside = (part for part in model.modules() if isinstance(part, torch.nn.Linear) and part not in body)
    head = [part for part in outside if part.out_features == 2 * labels][-1]
    with torch.no_grad():
        for weights in head.parameters():  # (2 * labels, width) and (2 * labels,)
            weights[labels:] = weights[:labels]


def save_model(trainer: JobTrainer, tokenizer: PreTrainedTokenizerBase, name: str, folder: Path) -> None:
    """Write adapter or weights, with the tokenizer.

    Args:
        trainer: That of a finished training.
        tokenizer: The base model's.
        name: The base model, as the adapter names it.
        folder: Where to; what is there is replaced.

    Raises:
        OutputError: They cannot be written.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered, where processes hold parts
    if not processes.is_writer():
        return
    model: Any = trainer.model
    shutil.rmtree(folder, ignore_errors=True)
    with saving(folder), whole_folder(folder) as half:
        if hasattr(model, "peft_config"):
            model.peft_config["default"].base_model_name_or_path = name
            # Looking for changed embedding layers would ask the hub.
            model.save_pretrained(half, state_dict=weights, save_embedding_layers=False)
        else:
            model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
        mode = half.stat().st_mode & 0o666
        for file in half.iterdir():  # safetensors makes its files for the owner alone, whatever the umask
            file.chmod(mode)
